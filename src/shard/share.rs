//! One shard's share of the limits that hold for the whole process.

use std::num::NonZeroU16;
use std::time::Duration;

use crate::config::limits::Limits;
use crate::relay::EngineSettings;
use crate::relay::keepalive::PingSettings;
use crate::runtime::pipe::PipeLimits;

/// One shard's share of a limit of the process, rounded up.
#[must_use]
pub fn share(limit: u64, shards: NonZeroU16) -> u64 {
    limit.div_ceil(u64::from(shards.get()))
}

/// The bounds of one shard's engine, within what the kernel allows this user.
#[must_use]
pub fn engine_share(limits: &Limits, shards: NonZeroU16) -> EngineSettings {
    let kernel = PipeLimits::read();
    let defaults = EngineSettings::default();
    let pipe_count_max = to_u32(share(limits.pipes_max, shards));
    let pipe_bytes = defaults.pipe_bytes.min(to_u32(kernel.pipe_bytes_max));
    let pipe_total_bytes_max = match kernel.total_bytes_max {
        // Rounded down: above it the kernel refuses.
        Some(total) => total / u64::from(shards.get()),
        None => u64::from(pipe_count_max) * u64::from(pipe_bytes),
    };
    EngineSettings {
        pipe_bytes,
        pipe_count_max,
        pipe_total_bytes_max,
        spill_bytes_max: share(limits.spill_bytes_max, shards),
        ping: PingSettings::new(
            Duration::from_secs(limits.websocket_ping_s),
            Duration::from_secs(limits.websocket_pong_timeout_s),
        ),
        ..defaults
    }
}

pub(super) fn to_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// As much of `value` as an index can be.
#[must_use]
pub fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
