//! Moving bytes through pipes.

use rustix::io::Errno;
use tracing::debug;

use super::codec::{Codec, Heard};
use super::direction::{CAUGHT_UP_SHARE, ChainKey, Outcome};
use super::means::{Ends, Means};
use super::passing::{self, Stopped};

/// Fills an empty pipe from the source: the chain's in hand, or a new one's. What passes
/// a `codec` is looked at.
#[inline]
pub(super) fn fill(
    means: &mut Means,
    ends: Ends<'_>,
    in_hand: Option<ChainKey>,
    codec: Option<&mut Codec>,
    judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
) -> Outcome {
    let Some(key) = in_hand.or_else(|| means.pipes.acquire()) else {
        means.counters.pipe_shortages += 1;
        return Outcome::NoPipe;
    };
    let outcome = splice_in(means, ends, key, codec, judge_end);
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
    codec: Option<&mut Codec>,
    judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
) -> Outcome {
    if !means.pipes.extend(key) {
        return Outcome::NoPipe;
    }
    let outcome = splice_in(means, ends, key, codec, judge_end);
    if !matches!(outcome, Outcome::Filled { .. }) {
        means.pipes.shorten(key);
    }
    outcome
}

#[inline]
fn splice_in(
    means: &mut Means,
    ends: Ends<'_>,
    key: ChainKey,
    codec: Option<&mut Codec>,
    judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
) -> Outcome {
    match codec {
        None => splice_unseen(means, ends, key, judge_end),
        Some(codec) => splice_passing(means, ends, key, codec, judge_end),
    }
}

#[inline]
fn splice_unseen(
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
            heard: Heard::Open,
        },
        Err(Errno::AGAIN) => Outcome::SourceEmpty,
        // A kind of socket that cannot be spliced.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Outcome::NoPipe,
        Err(error) => Outcome::SourceFailed(error),
    }
}

/// As [`splice_unseen`], and looks at what came.
fn splice_passing(
    means: &mut Means,
    ends: Ends<'_>,
    key: ChainKey,
    codec: &mut Codec,
    judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
) -> Outcome {
    // Before anything is taken from the source, which cannot be given back.
    let Some(mut second) = means.pipes.take_second(key) else {
        means.counters.pipe_shortages += 1;
        return Outcome::NoPipe;
    };
    let mut outcome = splice_unseen(means, ends, key, judge_end);
    if let Outcome::Filled { bytes, heard, .. } = &mut outcome {
        match passing::look(means, key, &mut second, codec) {
            Ok(passing) => {
                *bytes = passing;
                *heard = codec.heard();
            }
            Err(Stopped::Broken(error)) => {
                debug!(%error, "a leg broke its protocol");
                outcome = Outcome::SourceBroken;
            }
            Err(Stopped::Unseen(error)) => outcome = Outcome::SourceFailed(error),
        }
    }
    means.pipes.put_second(second);
    outcome
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
