//! A network namespace for each cell of the table.
//!
//! A short connection leaves one end in TIME_WAIT for a minute. In a namespace
//! that all cells share these would add up to tens of thousands, which slow the
//! kernel's lookups down and so make one cell pay for what ran before it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use anyhow::{Context, ensure};

/// Ports of relay and backend stay out of the range that connections draw
/// from, and the range is large enough for 18,000 connections to one port. The
/// namespace lives until the pipe of the last process ends.
const SETUP: &str = "ip link set lo up && \
    sysctl -q -w net.ipv4.tcp_congestion_control=reno && \
    sysctl -q -w net.ipv4.ip_local_port_range='20000 65000' && \
    echo ready && exec cat";

/// Becomes the same program as root of a user namespace, unless it is root
/// already: an ordinary user may make network namespaces only there.
pub(crate) fn become_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut command = Command::new("unshare");
    command
        .arg("--map-root-user")
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1));
    // Comes back only when it fails.
    Err(command.exec()).context("cannot make a user namespace with unshare")
}

/// A namespace with a loopback of its own, until it is dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// The process that keeps it.
    keeper: Child,
}

impl Namespace {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", SETUP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run unshare")?;
        let mut namespace = Self { keeper };
        let stdout = namespace.keeper.stdout.take().context("no pipe")?;
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said)?;
        ensure!(said.trim() == "ready", "cannot set up a network namespace");
        Ok(namespace)
    }

    /// A command that runs a program in here. The process keeps its id, and is
    /// killed with us, however we end.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.keeper.id()))
            .args(["setpriv", "--pdeathsig", "KILL"]);
        command
    }

    /// The TCP sockets in here, as the kernel lists them.
    pub(crate) fn tcp_table(&self) -> anyhow::Result<String> {
        let path = format!("/proc/{}/net/tcp", self.keeper.id());
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
