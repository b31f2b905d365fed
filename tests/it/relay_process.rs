//! A relay as a process of its own: started, asked what it counted, ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use midspan::metrics::counters::{Count, Label as _};
use midspan::relay::close::CloseReason;
use midspan::session::refused::Refused;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

use super::patience::{PATIENCE, until};

/// Starts a relay with sockets, of which it is not told otherwise.
pub(crate) const PASS_SOCKETS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/scripts/pass_sockets.py"
);

/// A relay that runs. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Relay {
    child: Child,
    /// Its first address, with the port that the kernel chose.
    pub address: SocketAddr,
    /// All of them, in order.
    pub addresses: Vec<SocketAddr>,
    /// Where operators look, if they may.
    pub admin: Option<SocketAddr>,
    shards_count: usize,
    /// Held open so that a relay that prints more does not fail.
    _stdout: BufReader<ChildStdout>,
    incoming: Receiver<String>,
    log: Vec<String>,
    _folder: TempDir,
}

/// A relay that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub status: ExitStatus,
    pub counters: Counters,
    pub log: String,
}

/// What a relay counted, summed over its shards.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(BTreeMap<String, u64>);

impl Relay {
    /// Starts `midspan relay` on loopback with these further options.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_by(&[], options)
    }

    /// Starts it as a user without privileges, for which this process must be root. Each has one of
    /// its own: what a user may lock, or have in pipes, all relays of that user share.
    pub(crate) fn start_as_ordinary_user(options: &[&str]) -> Self {
        static USERS: AtomicU32 = AtomicU32::new(100_000);
        let id = USERS.fetch_add(1, Ordering::Relaxed).to_string();
        let wrapper = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"];
        Self::start_by(&wrapper, options)
    }

    /// Starts it by a program that in the end executes what its arguments say.
    pub(crate) fn start_by(wrapper: &[&str], options: &[&str]) -> Self {
        let folder = relay_folder();
        let mut child = command(wrapper, folder.path(), options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the relay can be started");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let incoming = lines(child.stderr.take().expect("a pipe"));
        let mut addresses = Vec::new();
        let mut admin = None;
        let mut shards_count = 0;
        let mut line = String::new();
        // The line about the state directory is the last of the report's first part.
        while !line.starts_with("  state ") {
            line.clear();
            if stdout.read_line(&mut line).expect("the report is text") == 0 {
                let said: Vec<String> = incoming.iter().collect();
                panic!("the relay did not start: {}", said.join("\n"));
            }
            if let Some(rest) = line.strip_prefix("  listening ") {
                let address = rest
                    .split_whitespace()
                    .next()
                    .and_then(|text| text.parse().ok());
                addresses.push(address.expect("an address"));
            } else if let Some(rest) = line.strip_prefix("  operators    http://") {
                admin = rest.split('/').next().and_then(|text| text.parse().ok());
            } else if let Some(rest) = line.strip_prefix("  cores ") {
                shards_count = rest.split(',').count();
            }
        }
        let mut relay = Self {
            child,
            address: *addresses
                .first()
                .expect("the report says where the relay listens"),
            addresses,
            admin,
            shards_count,
            _stdout: stdout,
            incoming,
            log: Vec::new(),
            _folder: folder,
        };
        // Each shard answers, so each has started.
        relay.counters();
        relay
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// A file below `/proc/PID/`.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join(name)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the relay runs");
    }

    /// Memory that it has in use.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that it ever had in use.
    pub(crate) fn resident_bytes_peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// A line of proc_pid_status(5), in bytes.
    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        1024 * kib.expect("a number")
    }

    /// What all shards have counted until now.
    pub(crate) fn counters(&mut self) -> Counters {
        self.signal(Signal::USR1);
        let mut sum = Counters::default();
        for _ in 0..self.shards_count {
            sum.add(&self.wait_for_line(": counters shard="));
        }
        sum
    }

    /// Asks for counters until they are as wanted.
    #[track_caller]
    pub(crate) fn wait_for_counters(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Counters) -> bool,
    ) -> Counters {
        let mut last = Counters::default();
        until(what, || {
            last = self.counters();
            wanted(&last).then(|| last.clone())
        })
    }

    /// Waits for a log line with `part` in it.
    #[track_caller]
    pub(crate) fn wait_for_line(&mut self, part: &str) -> String {
        loop {
            match self.incoming.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.log.push(line);
                    if let Some(line) = self.log.last().filter(|line| line.contains(part)) {
                        return line.clone();
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("the relay never said {part:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the relay ended without {part:?}"),
            }
        }
    }

    /// Tells the relay to stop, as an operator would, and waits until it has.
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until the relay has ended by itself.
    pub(crate) fn wait(mut self) -> Ended {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty()).expect("a child's pidfd");
        let limit = Timespec::try_from(PATIENCE).expect("in range");
        let mut events = [PollFd::new(&pidfd, PollFlags::IN)];
        let count = poll(&mut events, Some(&limit)).expect("poll waits");
        assert_eq!(count, 1, "the relay does not end");
        let status = self.child.wait().expect("a child that has ended");
        let rest: Vec<String> = self.incoming.iter().collect();
        self.log.extend(rest);
        let mut counters = Counters::default();
        if let Some(line) = self
            .log
            .iter()
            .find(|line| line.contains(": stopped counters="))
        {
            counters.add(line);
        }
        Ended {
            status,
            counters,
            log: self.log.join("\n"),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended, and then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.log.extend(self.incoming.iter());
            let tail = self.log.len().saturating_sub(40);
            note(&format!(
                "the relay's last lines:\n{}",
                self.log[tail..].join("\n")
            ));
        }
    }
}

impl Ended {
    /// What must hold after every orderly stop.
    #[track_caller]
    pub(crate) fn check_clean(&self) {
        assert!(self.status.success(), "{:?}\n{}", self.status, self.log);
        let counters = &self.counters;
        assert_eq!(
            counters.count("paired"),
            counters.sum("ended."),
            "{counters:?}"
        );
        let dropped = counters.0.get("log_lines_dropped");
        assert_eq!(dropped, Some(&0), "{counters:?}");
    }
}

/// A counter has this name: one that has another is never counted.
#[track_caller]
pub(crate) fn check_is_counter(name: &str) {
    let is_there = match name.split_once('.') {
        Some(("ended", how)) => CloseReason::all().any(|reason| reason.as_str() == how),
        Some(("refused", why)) => Refused::all().any(|refused| refused.as_str() == why),
        _ => Count::all().any(|count| count.as_str() == name),
    };
    assert!(is_there, "no counter is called {name:?}");
}

impl Counters {
    /// One counter; those that were never counted are not told, and are 0.
    #[track_caller]
    pub(crate) fn count(&self, name: &str) -> u64 {
        check_is_counter(name);
        self.0.get(name).copied().unwrap_or(0)
    }

    /// What all shards hold of something; they always tell.
    pub(crate) fn gauge(&self, name: &str) -> u64 {
        self.0[name]
    }

    /// All counters whose names begin so.
    pub(crate) fn sum(&self, prefix: &str) -> u64 {
        let of_prefix = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        of_prefix.map(|(_, value)| value).sum()
    }

    /// The refusals by reason, those that happened.
    pub(crate) fn refused(&self) -> BTreeMap<&str, u64> {
        let named = self
            .0
            .iter()
            .map(|(name, value)| (name.strip_prefix("refused."), *value));
        named
            .filter_map(|(name, value)| Some((name?, value)))
            .collect()
    }

    /// Those of a program's log, all shards together.
    pub(crate) fn of_log(log: &str) -> Self {
        let mut sum = Self::default();
        for line in log.lines().filter(|line| line.contains("counters=")) {
            sum.add(line);
        }
        sum
    }

    /// Adds a log line's `pairs=1 … counters=accepted=3 … refused.silent=1`.
    fn add(&mut self, line: &str) {
        let Some((before, counters)) = line.split_once("counters=") else {
            panic!("no counters in {line:?}");
        };
        let gauges = before.split_whitespace().filter(|word| word.contains('='));
        for word in gauges.chain(counters.split_whitespace()) {
            let (name, value) = word.split_once('=').expect("NAME=VALUE");
            let value: u64 = value.parse().expect("a number");
            *self.0.entry(name.to_owned()).or_default() += value;
        }
    }
}

/// Tells the reader of a failed test; libtest keeps it to itself when the test passes.
#[expect(
    clippy::print_stderr,
    reason = "libtest captures only what the macros print"
)]
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// What a relay says that is expected not to start.
pub(crate) fn start_failure(wrapper: &[&str], options: &[&str]) -> (Option<i32>, String) {
    let folder = relay_folder();
    let output = command(wrapper, folder.path(), options)
        .output()
        .expect("the relay runs");
    assert!(output.stdout.is_empty(), "it reports a start");
    ended(output)
}

/// What a relay says that is expected to end by itself as soon as it has reported its start.
pub(crate) fn failure_after_report(wrapper: &[&str], options: &[&str]) -> (Option<i32>, String) {
    let folder = relay_folder();
    let output = command(wrapper, folder.path(), options).output();
    ended(output.expect("the relay runs"))
}

fn ended(output: Output) -> (Option<i32>, String) {
    (
        output.status.code(),
        String::from_utf8(output.stderr).expect("text"),
    )
}

/// A folder for the program and a state directory, which an ordinary user can reach too.
fn relay_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    folder
}

/// The program in another folder: the build's own may be closed to ordinary users.
///
/// Another process copies it. What this one has open for writing, the children that other tests
/// start meanwhile have open until they exec, and a file that somebody may write to cannot be run
/// (`ETXTBSY`).
pub(crate) fn copy_of_program(folder: &Path) -> PathBuf {
    let copy = folder.join("midspan");
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_midspan"))
        .arg(&copy)
        .status();
    assert!(copied.expect("cp runs").success(), "room for a copy");
    copy
}

fn command(wrapper: &[&str], folder: &Path, options: &[&str]) -> Command {
    let mut program = PathBuf::from(env!("CARGO_BIN_EXE_midspan"));
    let state = folder.join("state");
    fs::create_dir(&state).expect("a new folder");
    if let ["setpriv", "--reuid", user, ..] = wrapper {
        let user = Some(user.parse().expect("a number"));
        chown(&state, user, user).expect("root gives away");
        program = copy_of_program(folder);
    }
    let mut words: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
    words.push(program.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg("relay");
    if !options.contains(&"--listen") && !wrapper.contains(&PASS_SOCKETS) {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command
        .arg("--state-dir")
        .arg(state)
        .args(options)
        .env_remove("MIDSPAN_LOG");
    command
}

/// Collects lines on a thread of its own, so that the relay never waits for its log to be read.
fn lines(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
