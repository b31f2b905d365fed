//! Moving bytes through the shard's scratch buffer.

use rustix::io::Errno;

use super::direction::{Outcome, SCRATCH_BYTES, SpillKey};
use super::means::{Ends, Means};

/// Reads once and sends on what came; what the destination does not take is
/// spilled.
#[inline]
pub(super) fn copy(
    means: &mut Means,
    ends: Ends<'_>,
    slow: bool,
    judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
) -> Outcome {
    let asked = means.spills.read_max(slow, SCRATCH_BYTES) as usize;
    if asked == 0 {
        return copy_without_spill(means, ends, judge_end);
    }
    means.counters.receives += 1;
    let received = match ends.source.recv(&mut means.scratch[..asked]) {
        Ok(0) => return judge_end(&ends),
        Ok(count) => count,
        Err(Errno::AGAIN) => return Outcome::SourceEmpty,
        Err(error) => return Outcome::SourceFailed(error),
    };
    means.counters.sends += 1;
    let sent = match ends.destination.send(&means.scratch[..received]) {
        Ok(count) => count,
        Err(Errno::AGAIN) => 0,
        Err(error) => return Outcome::DestinationFailed(error),
    };
    let rest = &means.scratch[sent..received];
    Outcome::Copied {
        received: bytes(received),
        sent: bytes(sent),
        source_drained: received < asked,
        destination_full: !rest.is_empty(),
        spill: (!rest.is_empty()).then(|| means.spills.insert(rest.into())),
    }
}

/// Sends the rest of a spill.
pub(super) fn send_spill(means: &mut Means, ends: Ends<'_>, spill: SpillKey) -> Outcome {
    means.counters.sends += 1;
    match ends.destination.send(means.spills.bytes(spill)) {
        Ok(count) => {
            means.spills.consume(spill, count);
            Outcome::Sent(bytes(count))
        }
        Err(Errno::AGAIN) => Outcome::DestinationFull,
        Err(error) => Outcome::DestinationFailed(error),
    }
}

/// Copies when nothing may be held any more: looks at the bytes, sends them,
/// and takes from the source only those that were sent.
fn copy_without_spill(
    means: &mut Means,
    ends: Ends<'_>,
    judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
) -> Outcome {
    means.counters.peeks += 1;
    let seen = match ends.source.peek(&mut means.scratch) {
        Ok(0) => return judge_end(&ends),
        Ok(count) => count,
        Err(Errno::AGAIN) => return Outcome::SourceEmpty,
        Err(error) => return Outcome::SourceFailed(error),
    };
    let sent = match ends.destination.send(&means.scratch[..seen]) {
        Ok(count) => count,
        Err(Errno::AGAIN) => 0,
        Err(error) => return Outcome::DestinationFailed(error),
    };
    let mut taken = 0;
    while taken < sent {
        match ends.source.recv(&mut means.scratch[taken..sent]) {
            Ok(0) => return Outcome::SourceFailed(Errno::CONNRESET),
            Ok(count) => taken += count,
            Err(error) => return Outcome::SourceFailed(error),
        }
    }
    Outcome::Copied {
        received: bytes(sent),
        sent: bytes(sent),
        source_drained: sent == seen && seen < means.scratch.len(),
        destination_full: sent < seen,
        spill: None,
    }
}

/// A count of bytes within the scratch buffer or a spill.
fn bytes(count: usize) -> u32 {
    u32::try_from(count).expect("bounded by a buffer of less than 4 GiB")
}
