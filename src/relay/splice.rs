//! Moving bytes through pipes, without looking at them.

use rustix::io::Errno;

use super::direction::{CAUGHT_UP_SHARE, ChainKey, Outcome};
use super::means::{Ends, Means};

/// Fills an empty pipe from the source: the chain's in hand, or a new one's.
#[inline]
pub(super) fn fill(
    means: &mut Means,
    ends: Ends<'_>,
    in_hand: Option<ChainKey>,
    judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
) -> Outcome {
    let Some(key) = in_hand.or_else(|| means.pipes.acquire()) else {
        means.counters.pipe_shortages += 1;
        return Outcome::NoPipe;
    };
    let outcome = splice_in(means, ends, key, judge_end);
    if in_hand.is_none() && !matches!(outcome, Outcome::Filled { .. }) {
        means.pipes.release(key);
    }
    outcome
}

/// Fills one more pipe from the source, behind those that hold bytes.
#[inline]
pub(super) fn extend(
    means: &mut Means,
    ends: Ends<'_>,
    key: ChainKey,
    judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
) -> Outcome {
    if !means.pipes.extend(key) {
        return Outcome::NoPipe;
    }
    let outcome = splice_in(means, ends, key, judge_end);
    if !matches!(outcome, Outcome::Filled { .. }) {
        means.pipes.shorten(key);
    }
    outcome
}

fn splice_in(
    means: &mut Means,
    ends: Ends<'_>,
    key: ChainKey,
    judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
) -> Outcome {
    means.counters.fills += 1;
    match means.pipes.fill(key, ends.source, means.splice_bytes_max) {
        Ok(filled) if filled.bytes == 0 => judge_end(&ends),
        Ok(filled) => Outcome::Filled {
            chain: key,
            bytes: filled.bytes,
            caught_up: filled.bytes < filled.asked_bytes / CAUGHT_UP_SHARE,
        },
        Err(Errno::AGAIN) => Outcome::SourceEmpty,
        // A kind of socket that cannot be spliced.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Outcome::NoPipe,
        Err(error) => Outcome::SourceFailed(error),
    }
}

/// Drains the first pipe of a chain that holds bytes into the destination.
#[inline]
pub(super) fn drain(means: &mut Means, ends: Ends<'_>, key: ChainKey) -> Outcome {
    means.counters.drains += 1;
    match means
        .pipes
        .drain(key, ends.destination, means.splice_bytes_max)
    {
        // Bytes that we counted in are not in the pipe.
        Ok(0) => Outcome::DestinationFailed(Errno::IO),
        Ok(bytes) => {
            means.counters.spliced_bytes += u64::from(bytes);
            Outcome::Sent(bytes)
        }
        Err(Errno::AGAIN) => Outcome::DestinationFull,
        Err(error) => Outcome::DestinationFailed(error),
    }
}
