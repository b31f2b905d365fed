//! Waiting, with an end: generous, since a machine may be busy, and never what a test measures.

use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};

/// After this a test has failed: far above anything that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer, for what the kernel gives no event for.
///
/// # Panics
///
/// When [`PATIENCE`] is over; `what` names what did not come.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::new();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(!deadline.is_over(), "in vain waited for: {what}");
        let pause = Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        poll(&mut [], Some(&pause)).expect("poll waits");
    }
}

/// When a loop that waits for events gives up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn new() -> Self {
        Self(now() + PATIENCE)
    }

    pub(crate) fn is_over(self) -> bool {
        now() >= self.0
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's own end, and ratios of CPU to wall time"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
