//! What the engine does at its deadlines: the streaming tick, and gates.

use crate::time::Timestamp;

use super::direction::State;
use super::engine::Engine;
use super::gate::Gate;
use super::pair::{Pair, Side};
use super::streaming::{Decision, Flow, Observation, TICK};
use crate::slab::Key;

/// A direction under the streaming rule.
#[derive(Debug)]
pub(super) struct Watched {
    pair: Key,
    source: Side,
    flow: Flow,
}

impl Watched {
    pub(super) const fn new(key: Key, source: Side, pair: &Pair) -> Self {
        Self {
            pair: key,
            source,
            flow: Flow::new(
                pair.from(source).relayed_bytes(),
                pair.from(source.other()).relayed_bytes(),
            ),
        }
    }
}

/// A gate that is looked at again.
#[derive(Debug)]
pub(super) struct GateCheck {
    pub(super) due: Timestamp,
    pub(super) pair: Key,
    /// The leg whose reply is on its way.
    pub(super) side: Side,
    pub(super) gate: Gate,
}

/// Moves with which a direction is probed: one splice in, one out.
const PROBE_MOVES: u8 = 2;

impl Engine {
    /// Does what is due at `now`; harmless when nothing is.
    pub fn handle_deadline(&mut self, now: Timestamp) {
        if self.next_tick.is_some_and(|due| due <= now) {
            self.tick(now);
        }
        if self.sweep.due.is_some_and(|due| due <= now) {
            self.sweep(now);
        }
        while let Some(check) = self.gate_checks.pop_front_if(|check| check.due <= now) {
            self.check_gate(check.pair, check.side, check.gate, now);
        }
    }

    fn tick(&mut self, now: Timestamp) {
        self.means.counters.ticks += 1;
        let elapsed = now.since(self.last_tick);
        self.is_flowing = false;
        self.quiet_ticks = match std::mem::replace(&mut self.had_small, false) {
            true => 0,
            false => self.quiet_ticks.saturating_add(1),
        };
        let mut index = 0;
        while index < self.watched.len() {
            if self.tick_one(index, elapsed) {
                index += 1;
            } else {
                self.watched.swap_remove(index);
            }
        }
        self.last_tick = now;
        self.next_tick = (!self.watched.is_empty()).then(|| now + TICK);
    }

    /// Looks at one watched direction; false when it is watched no more.
    fn tick_one(&mut self, index: usize, elapsed: std::time::Duration) -> bool {
        let Watched {
            pair: key, source, ..
        } = self.watched[index];
        let Some(session) = self.pairs.get_mut(key) else {
            return false;
        };
        let reverse_bytes = session.pair.from(source.other()).relayed_bytes();
        let direction = session.pair.from_mut(source);
        // Demoted by its small splices, or ended.
        if !direction.is_bulk() || direction.state() == State::Ended {
            direction.watched = false;
            return false;
        }
        let decision = self.watched[index].flow.handle_tick(Observation {
            own_bytes: direction.relayed_bytes(),
            reverse_bytes,
            busy: matches!(direction.state(), State::AwaitDestination | State::Queued),
            may_raise: direction.may_raise_low_water(),
            raised: direction.low_water_raised(),
            elapsed,
        });
        let flow = &self.watched[index].flow;
        self.is_flowing |= flow.is_flowing();
        direction.set_chain_pipes(flow.chain_pipes());
        match decision {
            Decision::Keep => return true,
            Decision::SetLowWater(bytes) => {
                direction.set_low_water(bytes);
                let socket = &session.sockets[source.index()];
                self.means.set_low_water(socket, bytes);
                return true;
            }
            Decision::Probe => {}
            Decision::Demote => {
                direction.demote();
                direction.watched = false;
            }
        }
        if direction.low_water_raised() {
            direction.set_low_water(1);
            self.means
                .set_low_water(&session.sockets[source.index()], 1);
        }
        let is_watched = direction.watched;
        if direction.wakes_on_source() {
            self.means.counters.probes += 1;
            self.run(key, source, PROBE_MOVES);
        }
        if let Some(session) = self.pairs.get(key) {
            let own_bytes = session.pair.from(source).relayed_bytes();
            self.watched[index].flow.handle_probed(own_bytes);
        }
        is_watched
    }
}
