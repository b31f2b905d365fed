//! A network namespace of a test's own, with nothing but a loopback device.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A namespace that lives as long as the process that was started in it.
#[derive(Debug)]
pub(crate) struct NetworkNamespace {
    holder: Child,
    namespace: File,
}

impl NetworkNamespace {
    /// Makes one, with `ruleset` loaded into nftables.
    pub(crate) fn new(ruleset: &str) -> Self {
        // `cat` ends when this process does, and with it the namespace.
        let script = "ip link set lo up && nft \"$0\" && echo ready && exec cat";
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", script, ruleset])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        assert_eq!(line, "ready\n", "no namespace with these rules");
        let path = format!("/proc/{}/ns/net", holder.id());
        let namespace = File::open(path).expect("the holder runs");
        Self { holder, namespace }
    }

    /// Runs `inside` on a thread in the namespace; processes that it starts are there too.
    pub(crate) fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                self.enter();
                inside()
            });
            match entered.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread into the namespace for good.
    pub(crate) fn enter(&self) {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.namespace.as_fd(), kind).expect("root may");
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
