//! All that moves a shard's pairs, whichever plane a pair is on.
//!
//! The engine copies and splices; a pair that is for the ring begins there and
//! is taken over by the [`RingPlane`]. The shard does not see which of them has
//! a pair: it passes on what the reactor reports, and is told of ends. It
//! drives the planes once per turn of its loop:
//!
//! 1. [`Planes::sleep`] says how to wait, [`Planes::next_deadline`] until when;
//! 2. every completed poll goes to [`Planes::handle_readiness`], every progress
//!    of a transfer to [`Planes::handle_progress`];
//! 3. [`Planes::run`], and then [`Planes::poll_ended`] until it has nothing to
//!    tell.

use std::io;
use std::rc::Rc;

use super::close::CloseReason;
use super::engine::{Ended, Engine, EngineSettings, Usage};
use super::leg_io::LegIo;
use super::pair::Side;
use super::ring_plane::RingPlane;
use crate::config::DataPlane;
use crate::runtime::reactor::Reactor;
use crate::runtime::readiness::Readiness;
use crate::runtime::ring::Sleep;
use crate::runtime::transfer::Progress;
use crate::slab::Key;
use crate::time::Timestamp;

/// The pairs of one shard.
#[derive(Debug)]
pub struct Planes {
    reactor: Rc<Reactor>,
    /// Of new pairs.
    plane: DataPlane,
    pub(super) engine: Engine,
    pub(super) ring: RingPlane,
}

/// What the planes counted so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanesCounts {
    /// Pairs that the ring took over.
    pub moved_to_ring: u64,
    /// Turns of a bulk direction that copied, for want of a pipe.
    pub pipe_shortages: u64,
    /// Reads that were small, or left the bytes, for want of spill memory.
    pub spill_shortages: u64,
    /// Bytes that were delivered, those of pairs that live among them.
    pub bytes_relayed: u64,
    /// Those of them that went through a pipe, never copied into the program.
    pub bytes_spliced: u64,
}

impl Planes {
    /// Planes without pairs; `plane` is that of pairs to come. Events of the
    /// ring's transfers carry the owner tag `transfer_tag`.
    ///
    /// # Errors
    ///
    /// When the ring is to move bytes and there is no memory for its buffers.
    pub fn new(
        reactor: Rc<Reactor>,
        transfer_tag: u8,
        plane: DataPlane,
        settings: EngineSettings,
    ) -> io::Result<Self> {
        let mut settings = settings;
        if plane == DataPlane::Ring {
            reactor.enable_transfers()?;
            // Half for the pairs that end before the ring could take them over.
            settings.spill_bytes_max /= 2;
        }
        Ok(Self {
            reactor,
            plane,
            engine: Engine::new(settings),
            ring: RingPlane::new(transfer_tag, settings.spill_bytes_max),
        })
    }

    /// Joins two legs, see [`Engine::start`].
    pub fn start(&mut self, left: LegIo, right: LegIo, now: Timestamp) -> Key {
        self.engine.start(left, right, self.plane, now)
    }

    /// Takes what a poll reported for a leg's socket of the pair at `index`.
    pub fn handle_readiness(&mut self, index: u32, side: Side, readiness: Readiness) {
        let Some(key) = self.engine.key_at(index) else {
            return;
        };
        if self.ring.has(key) {
            self.ring
                .handle_readiness(&self.reactor, &mut self.engine, key, side, readiness);
        } else {
            self.engine.handle_readiness(key, side, readiness);
        }
    }

    /// Takes what a transfer told to the owner with `token`.
    pub fn handle_progress(&mut self, token: u32, progress: Progress) {
        self.ring
            .handle_progress(&self.reactor, &mut self.engine, token, progress);
    }

    /// Ends every pair that is meant, for a reason of the relay's own; tells how
    /// many.
    pub fn abort_if(&mut self, reason: CloseReason, is_meant: impl Fn(Key) -> bool) -> usize {
        let keys: Vec<Key> = self.engine.pairs().filter(|key| is_meant(*key)).collect();
        for key in &keys {
            if self.ring.has(*key) {
                self.ring
                    .abort(&self.reactor, &mut self.engine, *key, reason);
            } else {
                self.engine.abort(*key, reason);
            }
        }
        keys.len()
    }

    /// The pairs that live, and the bytes that each has delivered: from the left,
    /// from the right.
    pub fn pairs_with_bytes(&self) -> impl Iterator<Item = (Key, [u64; 2])> {
        self.engine.pairs().map(|key| {
            // What the ring delivers is added to the engine's in the end.
            let [a, b] = self.engine.bytes(key).unwrap_or_default();
            let [c, d] = self.ring.bytes(key).unwrap_or_default();
            (key, [a + c, b + d])
        })
    }

    /// The next pair that has moved its first byte. Those that the ring moves are
    /// not told.
    pub fn poll_begun(&mut self) -> Option<Key> {
        self.engine.poll_begun()
    }

    /// What is held now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut usage = self.engine.usage();
        usage.spill_bytes += self.ring.spill_bytes as u64;
        usage
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> PlanesCounts {
        let counters = self.engine.counters();
        let live = self.pairs_with_bytes().map(|(_, [a, b])| a + b);
        PlanesCounts {
            moved_to_ring: self.ring.taken_over,
            pipe_shortages: counters.pipe_shortages,
            spill_shortages: counters.peeks + self.ring.small_receives,
            bytes_relayed: counters.ended_bytes + live.sum::<u64>(),
            bytes_spliced: counters.spliced_bytes,
        }
    }

    /// Does what is due and what is queued, until the reactor has something
    /// newer.
    pub fn run(&mut self, now: Timestamp) {
        let due = self.engine.next_deadline();
        if due.is_some_and(|deadline| deadline <= now) {
            self.engine.handle_deadline(now);
        }
        while self.engine.has_work() {
            self.engine.run_quantum(now);
            if self.reactor.has_completions() {
                break;
            }
        }
        self.move_leaving();
    }

    /// Has the ring take over what the engine lets go.
    pub(super) fn move_leaving(&mut self) {
        while let Some(key) = self.engine.poll_leaving() {
            self.ring.start(&self.reactor, &mut self.engine, key);
        }
    }

    /// How to wait in this turn of the loop.
    #[must_use]
    pub fn sleep(&self) -> Sleep {
        if self.engine.has_work() || self.engine.has_ended() {
            return Sleep::No;
        }
        match self.engine.min_wait() {
            Some(min_wait) if self.reactor.has_min_wait() => Sleep::Batch { min_wait },
            _ => Sleep::UntilOne,
        }
    }

    /// When [`Self::run`] has something to do at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.engine.next_deadline()
    }

    /// The next pair that ended, see [`Engine::poll_ended`].
    pub fn poll_ended(&mut self) -> Option<Ended> {
        self.engine.poll_ended()
    }

    /// Pairs that live.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.engine.usage().pairs
    }
}
