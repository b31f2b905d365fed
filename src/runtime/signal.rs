//! Signals as readiness: blocked everywhere, read from a signalfd.

#![expect(unsafe_code, reason = "signal masks have no safe interface")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// What an operator tells the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM` or `SIGINT`: drain; a second one ends at once.
    Terminate,
    /// `SIGUSR1`: log the counters.
    Report,
    /// `SIGHUP`: read the configuration again.
    Reload,
}

const HANDLED: [(libc::c_int, Signal); 4] = [
    (libc::SIGTERM, Signal::Terminate),
    (libc::SIGINT, Signal::Terminate),
    (libc::SIGUSR1, Signal::Report),
    (libc::SIGHUP, Signal::Reload),
];

/// The process's handled signals, as a descriptor that becomes readable.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks the handled signals for this thread and every thread that it
    /// starts from now on, so call it before the first one.
    ///
    /// # Errors
    ///
    /// Whatever `pthread_sigmask(3)` or `signalfd(2)` says.
    pub fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // JUSTIFICATION: libc's signal sets are filled in place.
        // SAFETY: `sigemptyset` asks for a valid pointer, which it initialises.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for (number, signal) in HANDLED {
            // Whoever starts us with it ignored, as nohup(1) does, wants it so.
            if signal == Signal::Reload && is_ignored(number) {
                continue;
            }
            // JUSTIFICATION: as above.
            // SAFETY: `sigaddset` asks for an initialised set, which
            // `sigemptyset` made, and a valid signal number.
            unsafe { libc::sigaddset(set.as_mut_ptr(), number) };
        }
        // JUSTIFICATION: a signal must reach the ring, not a handler.
        // SAFETY: `pthread_sigmask` asks for an initialised set; a null old set
        // is allowed.
        let failed =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        // JUSTIFICATION: rustix has no signalfd.
        // SAFETY: `signalfd` asks for an initialised set; -1 makes a new
        // descriptor.
        let fd =
            unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // JUSTIFICATION: the descriptor came as a number.
        // SAFETY: `from_raw_fd` asks for an open descriptor without another
        // owner: signalfd just made it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// The next signal that came, if any.
    pub fn poll(&mut self) -> Option<Signal> {
        loop {
            let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
            if rustix::io::read(&self.fd, &mut info) != Ok(info.len()) {
                return None;
            }
            // `ssi_signo` is the structure's first field, in native order.
            let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            let known = HANDLED.iter().find(|(one, _)| one.unsigned_abs() == number);
            if let Some((_, signal)) = known {
                return Some(*signal);
            }
        }
    }
}

/// Whether a signal is ignored, as this process was started.
fn is_ignored(number: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // JUSTIFICATION: rustix has no sigaction.
    // SAFETY: `sigaction` asks for a valid signal number, allows a null new action,
    // and writes the old one through a pointer that is valid for that.
    let failed = unsafe { libc::sigaction(number, std::ptr::null(), action.as_mut_ptr()) };
    if failed != 0 {
        return false;
    }
    // JUSTIFICATION: as above.
    // SAFETY: `assume_init` asks for an initialised value: the call succeeded.
    let action = unsafe { action.assume_init() };
    action.sa_sigaction == libc::SIG_IGN
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
