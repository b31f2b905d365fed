//! The one place that reads a clock.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::time::Timestamp;

/// The current time of `CLOCK_MONOTONIC`.
#[must_use]
pub fn now() -> Timestamp {
    let time = clock_gettime(ClockId::Monotonic);
    // A monotonic clock counts from boot: neither field is negative.
    Timestamp::from_nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

/// Time since the Unix epoch, for names and logs; never for deadlines.
#[must_use]
pub fn unix_time() -> Duration {
    let time = clock_gettime(ClockId::Realtime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(time.tv_sec.max(0).unsigned_abs(), nanos)
}

/// The same moments as [`Timestamp`] and as [`Instant`], for a library that takes these. Both
/// count `CLOCK_MONOTONIC`, which `std` promises only not to go back: so the two are read at
/// one moment, and what lies between that and another is the same for both.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    instant: Instant,
    at: Timestamp,
}

impl Epoch {
    /// This moment.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads a clock"
    )]
    pub fn read() -> Self {
        Self {
            instant: Instant::now(),
            at: now(),
        }
    }

    /// A moment since then, as the library takes it.
    #[must_use]
    pub fn instant(self, at: Timestamp) -> Instant {
        self.instant + at.since(self.at)
    }

    /// The library's moment; one before the epoch is the epoch.
    #[must_use]
    pub fn timestamp(self, at: Instant) -> Timestamp {
        self.at + at.saturating_duration_since(self.instant)
    }
}
