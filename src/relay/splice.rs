//! Moving bytes through a pipe, without looking at them.

use rustix::io::Errno;

use super::direction::{CAUGHT_UP_SHARE, Outcome, PipeKey};
use super::engine::{Ends, Means};

/// Fills an empty pipe from the source: the one in hand, or one of the pool.
#[inline]
pub(super) fn fill(
    means: &mut Means,
    ends: Ends<'_>,
    in_hand: Option<PipeKey>,
    judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
) -> Outcome {
    let Some(key) = in_hand.or_else(|| means.pipes.acquire()) else {
        means.counters.pipe_shortages += 1;
        return Outcome::NoPipe;
    };
    means.counters.fills += 1;
    let pipe = means.pipes.pipe(key);
    let outcome = match pipe.splice_from(ends.source, pipe.capacity_bytes()) {
        Ok(0) => judge_end(&ends),
        Ok(bytes) => {
            return Outcome::Filled {
                pipe: key,
                bytes,
                caught_up: bytes < pipe.capacity_bytes() / CAUGHT_UP_SHARE,
            };
        }
        Err(Errno::AGAIN) => Outcome::SourceEmpty,
        // A kind of socket that cannot be spliced.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Outcome::NoPipe,
        Err(error) => Outcome::SourceFailed(error),
    };
    if in_hand.is_none() {
        means.pipes.release(key);
    }
    outcome
}

/// Drains a pipe that holds `held_bytes` into the destination.
#[inline]
pub(super) fn drain(means: &mut Means, ends: Ends<'_>, key: PipeKey, held_bytes: u32) -> Outcome {
    means.counters.drains += 1;
    match means
        .pipes
        .pipe(key)
        .splice_to(ends.destination, held_bytes)
    {
        // Bytes that we counted in are not in the pipe.
        Ok(0) => Outcome::DestinationFailed(Errno::IO),
        Ok(bytes) => Outcome::Sent(bytes),
        Err(Errno::AGAIN) => Outcome::DestinationFull,
        Err(error) => Outcome::DestinationFailed(error),
    }
}
