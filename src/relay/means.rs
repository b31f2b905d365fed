//! What the directions of a shard share, and the system calls that they ask for.

use crate::runtime::socket::Socket;

use super::codec::Workshop;
use super::direction::{Action, Outcome};
use super::engine::EngineCounters;
use super::pair::EndEvidence;
use super::pipe_pool::PipePool;
use super::spill::SpillPool;
use super::{copy, splice};

/// What the directions of a shard share.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) scratch: Box<[u8]>,
    pub(super) spills: SpillPool,
    pub(super) pipes: PipePool,
    /// The most that one splice moves now.
    pub(super) splice_bytes_max: u32,
    pub(super) workshop: Workshop,
    pub(super) counters: EngineCounters,
}

/// The sockets of one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    pub(super) source: &'a Socket,
    pub(super) destination: &'a Socket,
}

impl Means {
    #[inline]
    pub(super) fn perform(
        &mut self,
        ends: Ends<'_>,
        action: Action,
        judge_end: impl FnOnce(&Ends<'_>) -> Outcome,
    ) -> Outcome {
        match action {
            Action::Copy { slow } => copy::copy(self, ends, slow, judge_end),
            Action::SendSpill { spill } => copy::send_spill(self, ends, spill),
            Action::Fill { chain } => splice::fill(self, ends, chain, None, judge_end),
            Action::Extend { chain } => splice::extend(self, ends, chain, None, judge_end),
            Action::Drain { chain, .. } => splice::drain(self, ends, chain),
            // Only a codec has words.
            Action::Say { .. } => Outcome::Said { spill: None },
            Action::ReleaseChain { chain } => {
                self.pipes.release(chain);
                Outcome::Done
            }
            Action::ResetLowWater => {
                self.set_low_water(ends.source, 1);
                Outcome::Done
            }
            Action::ShutdownWrite => match ends.destination.shutdown_write() {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::DestinationFailed(error),
            },
        }
    }

    pub(super) fn set_low_water(&mut self, socket: &Socket, bytes: u32) {
        self.counters.low_water_sets += 1;
        let result = socket.set_receive_low_water(bytes);
        debug_assert_eq!(result, Ok(()), "the mark is a plain number of the socket");
    }
}

impl Ends<'_> {
    /// What the source looks like after a read of 0.
    pub(super) fn evidence(&self) -> EndEvidence {
        let readiness = self.source.poll_now();
        EndEvidence {
            error: readiness
                .is_error()
                .then(|| self.source.take_error())
                .flatten(),
            gone: readiness.is_hangup() && self.source.is_internet(),
        }
    }
}
