//! What systemd is told: the tests listen where it would.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use super::agent_process::{Program, expose_command};
use super::jet_client::{new_place, pair, ping_pong};
use super::patience::{Deadline, PATIENCE};
use super::relay_process::{Relay, start_failure};
use super::require::{require, skip};

/// systemd, as far as a service can tell.
struct Systemd {
    socket: UnixDatagram,
    /// What `NOTIFY_SOCKET` says.
    name: String,
    _folder: TempDir,
}

impl Systemd {
    /// Listens at a path.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let address = UnixAddress::from_pathname(&path).expect("a path");
        let name = path.to_str().expect("text").to_owned();
        Self::at(&address, name, folder)
    }

    /// Listens under a name that is in no file system.
    fn abstract_name() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().to_str().expect("text");
        let address = UnixAddress::from_abstract_name(name).expect("a name");
        Self::at(&address, format!("@{name}"), folder)
    }

    fn at(address: &UnixAddress, name: String, folder: TempDir) -> Self {
        let socket = UnixDatagram::bind_addr(address).expect("nobody else has it");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self {
            socket,
            name,
            _folder: folder,
        }
    }

    /// What the environment of a service says, `env` being the program that sets it.
    fn environment(&self, more: &[&str]) -> Vec<String> {
        let named = format!("NOTIFY_SOCKET={}", self.name);
        let words = ["env".to_owned(), named].into_iter();
        words
            .chain(more.iter().copied().map(str::to_owned))
            .collect()
    }

    fn start_relay(&self, variables: &[&str], options: &[&str]) -> Relay {
        let environment = self.environment(variables);
        let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
        Relay::start_by(&environment, options)
    }

    fn start(&self, mut command: Command) -> Program {
        command.env("NOTIFY_SOCKET", &self.name);
        Program::start_other(command)
    }

    /// The next message.
    #[track_caller]
    fn message(&self) -> String {
        let mut message = vec![0; 4096];
        let bytes = self.socket.recv(&mut message).expect("a message");
        message.truncate(bytes);
        String::from_utf8(message).expect("text")
    }

    /// The next message begins so; its status.
    #[track_caller]
    fn expect(&self, beginning: &str) -> String {
        let message = self.message();
        let rest = message.strip_prefix(beginning);
        let status = rest.and_then(|rest| rest.strip_prefix("\nSTATUS="));
        status
            .unwrap_or_else(|| panic!("not {beginning}: {message:?}"))
            .to_owned()
    }

    /// The messages that are there.
    fn pending(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).expect("a socket");
        let mut messages = Vec::new();
        let mut message = [0; 4096];
        while let Ok(bytes) = self.socket.recv(&mut message) {
            messages.push(String::from_utf8_lossy(&message[..bytes]).into_owned());
        }
        self.socket.set_nonblocking(false).expect("a socket");
        messages
    }
}

fn midspan(args: &[&str], state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midspan"));
    command.args(args).arg("--state-dir").arg(state);
    command
}

#[test]
fn a_relay_that_is_ready_can_be_dialled_and_one_that_stops_says_so() {
    for systemd in [Systemd::new(), Systemd::abstract_name()] {
        let folder = tempfile::tempdir().expect("a folder");
        let args = ["relay", "--listen", "127.0.0.1:0", "--drain-timeout", "1h"];
        let mut relay = systemd.start(midspan(&args, folder.path()));
        let status = systemd.expect("READY=1");
        let address = status.split_whitespace().nth(2);
        let address: SocketAddr = address.and_then(|text| text.parse().ok()).expect(&status);
        assert!(status.starts_with("relays on 127.0.0.1:"), "{status}");
        let (mut acceptor, mut connector) = pair(address, new_place());
        ping_pong(&mut acceptor, &mut connector);

        relay.terminate();
        assert_eq!(systemd.expect("STOPPING=1"), "drains; 1 pairs may finish");
        ping_pong(&mut acceptor, &mut connector);
        drop((acceptor, connector));
        assert!(relay.wait().success());
        // Nobody asked for a watchdog.
        assert_eq!(systemd.pending(), [""; 0]);
    }
}

#[test]
fn a_relay_that_does_not_start_was_never_ready() {
    let systemd = Systemd::new();
    let first = systemd.start_relay(&[], &[]);
    systemd.expect("READY=1");
    let environment = systemd.environment(&[]);
    let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
    let taken = first.address.to_string();
    let (code, text) = start_failure(&environment, &["--listen", &taken]);
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(systemd.pending(), [""; 0]);
}

#[test]
fn nobody_is_told_where_nobody_listens() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = midspan(&["relay", "--listen", "127.0.0.1:0"], folder.path());
    command.env("NOTIFY_SOCKET", folder.path().join("nobody"));
    let relay = Program::start_other(command);
    relay.logged("cannot tell systemd how this process is");
    assert!(relay.stop().success());
}

#[test]
fn a_reload_is_told_with_what_came_of_it() {
    let systemd = Systemd::new();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("relay.toml");
    fs::write(&config, "").expect("written");
    let relay = systemd.start_relay(&[], &["--config", config.to_str().expect("text")]);
    let serving = systemd.expect("READY=1");
    let reload = || {
        relay.signal(Signal::HUP);
        let began = systemd.message();
        let since = began
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .and_then(|rest| rest.split('\n').next()?.parse::<u64>().ok());
        assert!(since.is_some_and(|since| since > 0), "{began:?}");
        systemd.expect("READY=1")
    };
    fs::write(&config, "open = true").expect("written");
    assert_eq!(reload(), serving);
    fs::write(&config, "open = 1").expect("written");
    let refused = reload();
    assert!(
        refused.contains("refused: ") && refused.contains("relay.toml:1:8: open: "),
        "{refused}"
    );
    fs::write(&config, "open = false").expect("written");
    assert_eq!(reload(), serving);
    relay.stop().check_clean();
}

#[test]
fn proxies_are_ready_when_they_run_and_say_that_they_stop() {
    let relay = Relay::start(&[]);
    let nobody = Relay::start(&[]).address;
    for address in [relay.address, nobody] {
        let systemd = Systemd::new();
        let folder = tempfile::tempdir().expect("a folder");
        let expose = systemd.start(expose_command(folder.path(), address, &["127.0.0.1:9"]));
        let status = systemd.expect("READY=1");
        assert_eq!(
            status,
            format!("exposes \"home\" through jet+tcp://{address}")
        );
        let ticket = format!("jet+tcp://{}", expose.reported("  jet+tcp://"));

        let mut forward = Command::new(env!("CARGO_BIN_EXE_midspan"));
        forward.args(["forward", "0", "--to", &ticket]);
        let forward = systemd.start(forward);
        let local = forward.reported("forwarding ");
        let status = systemd.expect("READY=1");
        assert_eq!(
            status,
            format!("forwards {local} through jet+tcp://{address}")
        );
        for proxy in [forward, expose] {
            assert!(proxy.stop().success());
            assert_eq!(systemd.expect("STOPPING=1"), "drains; 0 pairs may finish");
        }
    }
}

/// A program that has stopped threads of another one, until it is dropped.
struct Stopped(Child);

impl Stopped {
    /// Stops the threads of `relay` that are called so. `None` where this process may not.
    fn threads(relay: &Relay, name: &str) -> Option<Self> {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/scripts/stop_threads.py"
        );
        let mut command = Command::new(require("python3")?);
        command
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        for task in fs::read_dir(relay.proc("task")).expect("it runs") {
            let task = task.expect("it runs").path();
            let called = fs::read_to_string(task.join("comm")).expect("it runs");
            if called.trim_end() == name {
                command.arg(task.file_name().expect("a number"));
            }
        }
        let mut tracer = Self(command.spawn().expect("python runs"));
        let mut said = String::new();
        let stdout = tracer.0.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut said).expect("text");
        if said.is_empty() {
            skip("ptrace is not allowed");
            return None;
        }
        Some(tracer)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It may have been killed, which lets the threads go on as well.
        let _ = self.0.wait();
    }
}

#[test]
fn the_watchdog_hears_as_long_as_every_shard_turns() {
    let systemd = Systemd::new();
    let mut relay = systemd.start_relay(&["WATCHDOG_USEC=200000"], &[]);
    systemd.expect("READY=1");
    for _ in 0..3 {
        assert_eq!(systemd.message(), "WATCHDOG=1");
    }
    let Some(stopped) = Stopped::threads(&relay, "shard-0") else {
        return;
    };
    // A round of questions was perhaps under way; those after it are in vain.
    let deadline = Deadline::new();
    let mut missed = 0;
    while missed < 3 {
        assert!(!deadline.is_over(), "the watchdog goes on hearing");
        relay.wait_for_line("shards hang: the watchdog hears nothing");
        missed = match systemd.pending().is_empty() {
            true => missed + 1,
            false => 0,
        };
    }
    drop(stopped);
    assert_eq!(systemd.message(), "WATCHDOG=1");
    relay.signal(Signal::TERM);
    let last = std::iter::repeat_with(|| systemd.message()).find(|message| message != "WATCHDOG=1");
    assert!(last.is_some_and(|last| last.starts_with("STOPPING=1\n")));
    relay.wait().check_clean();
}
