//! What systemd is told of this process, see sd_notify(3), where a unit of `Type=notify`
//! started it:
//!
//! ```text
//! start ── every shard serves ── READY=1 ─┬─ SIGHUP ── RELOADING=1 ── READY=1 ─┐
//!                                         │ ^─────────────────────────────────┘
//!                                         └─ SIGTERM ── STOPPING=1
//! ```
//!
//! and `WATCHDOG=1` from `READY=1` on, twice in the unit's `WatchdogSec=`, as long as
//! every shard answers. One that hangs has systemd restart the process.
//!
//! The variables stay set: midspan starts no program that would inherit them.

use std::convert::Infallible;
use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use tracing::{error, warn};

use crate::runtime::clock;
use crate::shard::pulse::{Pulse, Wake};

/// The variable that says where systemd listens.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// How long counting pairs may hold up the word that the process stops.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

/// A longer status is cut: systemd reads no message of over 4 KiB.
const STATUS_CHARS_MAX: usize = 500;

/// How long systemd may keep a process from its end that has to tell it something yet.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What tells systemd how the process is.
#[derive(Debug, Default)]
pub(super) struct Watching(Option<Receiver<Infallible>>);

impl Watching {
    /// Waits until all is told, once the shards have ended: a process that ends at once would take
    /// its last word with it.
    pub(super) fn finish(self) {
        if let Some(told) = self.0
            && told.recv_timeout(END_TIMEOUT) == Err(RecvTimeoutError::Timeout)
        {
            warn!("systemd does not take what it is told");
        }
    }
}

/// The way to systemd, or to nobody.
#[derive(Clone, Debug)]
pub(super) struct Notifier {
    systemd: Option<SocketAddr>,
    /// Without a word for so long, the process is taken to hang.
    watchdog: Option<Duration>,
    /// What the process does, in a few words.
    status: String,
}

impl Notifier {
    /// Whom the environment names. Call it where the log works.
    pub(super) fn from_env(status: String) -> Self {
        let named = env::var(SOCKET_VARIABLE).ok();
        let systemd = named.and_then(|name| {
            address(&name)
                .inspect_err(|error| warn!(%error, "systemd listens where it cannot be told"))
                .ok()
        });
        Self {
            systemd,
            watchdog: watchdog(|name| env::var(name).ok(), process::id()),
            status,
        }
    }

    /// Tells that the process serves, that it lives and that it stops, on a thread of
    /// its own until the shards have ended.
    pub(super) fn watch<M: Send + 'static>(self, pulse: Pulse<M>) -> Watching {
        if self.systemd.is_none() {
            return Watching::default();
        }
        let (telling, told) = channel();
        let spawned = thread::Builder::new()
            .name("notify".to_owned())
            .spawn(move || {
                self.run(&pulse);
                drop(telling);
            });
        if let Err(error) = spawned {
            warn!(%error, "systemd will not be told how this process is");
        }
        Watching(Some(told))
    }

    fn run<M>(&self, pulse: &Pulse<M>) {
        // A shard that answers is in its loop, and listens. For how long that may take,
        // systemd has a limit of its own.
        if pulse.ask(Duration::MAX).answered == pulse.shards() {
            self.tell(&["READY=1"], &self.status);
        }
        let interval = self.watchdog.map(|watchdog| watchdog / 2);
        loop {
            match (pulse.wait(interval), interval) {
                (Wake::Idle, Some(interval)) => {
                    let silent = pulse.ask(interval).silent;
                    match silent.is_empty() {
                        true => self.send("WATCHDOG=1"),
                        false => error!(?silent, "shards hang: the watchdog hears nothing"),
                    }
                }
                (Wake::Stopping, _) => {
                    let pairs = pulse.ask(COUNT_TIMEOUT).pairs;
                    self.tell(
                        &["STOPPING=1"],
                        &format!("drains; {pairs} pairs may finish"),
                    );
                }
                (Wake::Idle, None) | (Wake::Over, _) => return,
            }
        }
    }

    /// Tells that the configuration is being read again.
    pub(super) fn reloading(&self) {
        // systemd compares it with when it asked.
        let now_us = clock::now().as_nanos() / 1_000;
        let since = format!("MONOTONIC_USEC={now_us}");
        self.tell(&["RELOADING=1", &since], "reads its configuration again");
    }

    /// Tells that it was read, and taken unless there is a `refusal`.
    pub(super) fn reloaded(&self, refusal: Option<&str>) {
        let refused = refusal.map(|refusal| format!("the new configuration is refused: {refusal}"));
        self.tell(&["READY=1"], refused.as_ref().unwrap_or(&self.status));
    }

    fn tell(&self, assignments: &[&str], status: &str) {
        let status: String = status
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(STATUS_CHARS_MAX)
            .collect();
        self.send(&format!("{}\nSTATUS={status}", assignments.join("\n")));
    }

    /// Sends a message; waits while systemd is behind, so never call it on a shard.
    fn send(&self, message: &str) {
        let Some(systemd) = &self.systemd else {
            return;
        };
        let sent = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to_addr(message.as_bytes(), systemd));
        if let Err(error) = sent {
            warn!(%error, "cannot tell systemd how this process is");
        }
    }
}

/// A path, or with `@` a name in the abstract namespace.
fn address(name: &str) -> io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if name.starts_with('/') => SocketAddr::from_pathname(name),
        None => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "{SOCKET_VARIABLE} \"{}\" is neither a path nor @NAME",
                name.escape_default()
            ),
        )),
    }
}

/// The watchdog's patience, if it watches this process.
fn watchdog(variable: impl Fn(&str) -> Option<String>, own_id: u32) -> Option<Duration> {
    let is_other = |id: String| id != own_id.to_string();
    if variable("WATCHDOG_PID").is_some_and(is_other) {
        return None;
    }
    let patience = variable("WATCHDOG_USEC")?.parse().ok()?;
    Some(Duration::from_micros(patience)).filter(|patience| !patience.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_or_abstract_names() {
        let path = address("/run/systemd/notify").expect("a path");
        assert_eq!(path.as_pathname(), Some("/run/systemd/notify".as_ref()));
        let name = address("@/org/notify").expect("a name");
        assert_eq!(name.as_abstract_name(), Some(b"/org/notify".as_slice()));
        for wrong in ["", "notify", "vsock:2:1"] {
            let error = address(wrong).expect_err(wrong).to_string();
            assert!(error.contains("neither a path nor @NAME"), "{error}");
        }
    }

    #[test]
    fn the_watchdog_watches_one_process() {
        let check = |usec: Option<&str>, pid: Option<&str>, expected: Option<u64>| {
            let variable = |name: &str| match name {
                "WATCHDOG_USEC" => usec.map(str::to_owned),
                "WATCHDOG_PID" => pid.map(str::to_owned),
                _ => None,
            };
            let expected = expected.map(Duration::from_micros);
            assert_eq!(watchdog(variable, 7), expected, "{usec:?} {pid:?}");
        };
        check(Some("30000000"), Some("7"), Some(30_000_000));
        check(Some("30000000"), None, Some(30_000_000));
        check(Some("30000000"), Some("8"), None);
        check(Some("0"), Some("7"), None);
        check(Some("soon"), None, None);
        check(None, Some("7"), None);
    }
}
