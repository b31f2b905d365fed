//! The program's commands, and others beside them, as processes: started, listened to, ended.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::patience::PATIENCE;

/// A command that runs. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    report: Receiver<String>,
    log: Receiver<String>,
    /// What has come of the log until now.
    heard: RefCell<Vec<String>>,
}

impl Program {
    /// Starts `midspan` with these arguments.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_other(command(args))
    }

    /// Starts somebody else's program and reads its standard output and error streams.
    pub(crate) fn start_other(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let report = lines(child.stdout.take().expect("a pipe"));
        let log = lines(child.stderr.take().expect("a pipe"));
        Self {
            child,
            report,
            log,
            heard: RefCell::default(),
        }
    }

    /// Waits for a line of the start-up report that begins so, and gives the
    /// word behind it.
    #[track_caller]
    pub(crate) fn reported(&self, beginning: &str) -> String {
        let line = self.line(&self.report, |line| line.starts_with(beginning));
        let rest = &line[beginning.len()..];
        rest.split_whitespace().next().unwrap_or_default().into()
    }

    /// Waits for a log line with `part` in it.
    #[track_caller]
    pub(crate) fn logged(&self, part: &str) -> String {
        self.line(&self.log, |line| {
            self.heard.borrow_mut().push(line.to_owned());
            line.contains(part)
        })
    }

    #[track_caller]
    fn line(&self, lines: &Receiver<String>, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => {
                    seen.extend(self.log.try_iter());
                    panic!("{error}: what came instead:\n{}", seen.join("\n"));
                }
            }
        }
    }

    /// What it logs from now on until it ends.
    pub(crate) fn rest_of_log(&self) -> String {
        self.log.iter().collect::<Vec<_>>().join("\n")
    }

    /// All that it has logged once it has ended, which it is told to if it runs.
    pub(crate) fn whole_log(mut self) -> String {
        let ended = self.child.try_wait().expect("ours");
        if ended.is_none() {
            self.terminate();
            self.wait();
        }
        let mut heard = self.heard.take();
        heard.extend(self.log.iter());
        heard.join("\n")
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// A file below `/proc/PID/`.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        let process = Path::new("/proc").join(self.child.id().to_string());
        process.join(name)
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a child's pidfd");
        let limit = Timespec::try_from(PATIENCE).expect("in range");
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit));
        assert_eq!(ended, Ok(1), "it does not end");
        self.child.wait().expect("a child that has ended")
    }
}

impl Drop for Program {
    #[expect(clippy::print_stderr, reason = "libtest shows it where a test fails")]
    fn drop(&mut self) {
        // It may have ended, and then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log: Vec<String> = self.log.try_iter().collect();
            eprintln!("last log lines:\n{}", log.join("\n"));
        }
    }
}

/// Collects lines on a thread, so that the program never waits for a reader.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Starts a relay at `listen` and gives its address.
pub(crate) fn relay(folder: &Path, listen: &str, options: &[&str]) -> (Program, SocketAddr) {
    relay_by(&[], folder, listen, options)
}

/// Starts it by a program that in the end executes what its arguments say.
pub(crate) fn relay_by(
    wrapper: &[&str],
    folder: &Path,
    listen: &str,
    options: &[&str],
) -> (Program, SocketAddr) {
    let state = folder.join("relay");
    let state = state.to_str().expect("text");
    let args = ["relay", "--listen", listen, "--state-dir", state];
    let mut command = match wrapper {
        [] => command(&[]),
        [program, own @ ..] => {
            let mut wrapping = Command::new(program);
            wrapping.args(own).arg(env!("CARGO_BIN_EXE_midspan"));
            wrapping.env_remove("MIDSPAN_LOG");
            wrapping
        }
    };
    command.args(args).args(options);
    let relay = Program::start_other(command);
    let address = relay.reported("  listening ").parse();
    (relay, address.expect("an address"))
}

/// What starts `midspan` with these arguments.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midspan"));
    command
        .args(args)
        .env_remove("MIDSPAN_LOG")
        .env_remove("MIDSPAN_TICKET")
        .stdin(Stdio::null());
    command
}

/// What starts a server-side proxy for `targets`.
pub(crate) fn expose_command(folder: &Path, relay: SocketAddr, targets: &[&str]) -> Command {
    let state = folder.join("expose");
    let relay = format!("jet+tcp://{relay}");
    let mut args = vec!["expose", "home", "--relay", &relay];
    args.extend(["--state-dir", state.to_str().expect("text")]);
    for target in targets {
        args.extend(["--to", target]);
    }
    command(&args)
}

/// Starts a server-side proxy for `targets` and gives its ticket.
pub(crate) fn expose(folder: &Path, relay: SocketAddr, targets: &[&str]) -> (Program, String) {
    let expose = Program::start_other(expose_command(folder, relay, targets));
    let ticket = expose.reported("  jet+tcp://");
    expose.logged("waiting at the relay");
    (expose, format!("jet+tcp://{ticket}"))
}

/// Starts a client-side proxy and gives its local address.
pub(crate) fn forward(ticket: &str) -> (Program, SocketAddr) {
    let forward = Program::start(&["forward", "0", "--to", ticket]);
    let address = forward.reported("forwarding ").parse();
    (forward, address.expect("an address"))
}
