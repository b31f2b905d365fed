//! The one place that reads a clock.

use std::time::Duration;

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
