//! How a pair gets from the engine to the ring plane, and its end back.
//!
//! The engine sees a pair's prefixes and gates off and then leaves its sources
//! unread, so that both directions come to rest however busy they are. A pair
//! of which a stream ends before that is not worth the move and stays.

use super::close::CloseReason;
use super::direction::Direction;
use super::engine::{Engine, Session};
use super::pair::{Pair, Side};
use crate::slab::Key;

impl Engine {
    /// The next pair that the ring plane is to take over: its prefixes and
    /// gates are seen off. Call until `None`, once per turn.
    pub fn poll_leaving(&mut self) -> Option<Key> {
        for _ in 0..self.leaving.len() {
            let key = self.leaving.pop_front()?;
            let Some(session) = self.pairs.get_mut(key) else {
                continue;
            };
            let pair = &mut session.pair;
            let directions = Side::BOTH.map(|side| pair.from(side));
            if !directions.into_iter().all(Direction::source_is_open) {
                session.is_leaving = false;
                self.read_on(key);
            } else if directions.into_iter().all(Direction::is_at_rest) {
                for side in Side::BOTH {
                    pair.from_mut(side).leave();
                }
                return Some(key);
            } else {
                self.leaving.push_back(key);
            }
        }
        None
    }

    /// Ends a pair that another plane moved, with the bytes that it delivered.
    pub fn finish(&mut self, key: Key, reason: CloseReason, bytes: [u64; 2]) {
        if let Some(session) = self.pairs.get_mut(key) {
            for (side, bytes) in Side::BOTH.into_iter().zip(bytes) {
                session.pair.from_mut(side).add_relayed_bytes(bytes);
            }
        }
        self.end(key, reason);
    }

    /// Reads what was left to the ring: its events were told once.
    fn read_on(&mut self, key: Key) {
        for side in Side::BOTH {
            let waits = |session: &Session| session.pair.from(side).wakes_on_source();
            if self.pairs.get(key).is_some_and(waits) {
                self.wake(key, side);
            }
        }
    }
}

/// Whether a pair that is to leave has no reason to read on: no gate that a
/// first byte would open, and no end to pass on.
pub(super) fn may_leave(pair: &Pair) -> bool {
    let directions = Side::BOTH.map(|side| pair.from(side));
    let leaves = |direction: &Direction| direction.source_is_open() && !direction.is_gated();
    directions.into_iter().all(leaves)
}

#[cfg(test)]
mod tests {
    use super::super::engine::EngineSettings;
    use super::super::engine_rig::{Peer, Rig, connection, joined};
    use super::super::leg_io::GateHold;
    use crate::config::DataPlane;

    /// Writes all that fits on its way to the engine.
    fn fill(peer: &mut Peer) {
        while peer.write(&[7; 64 << 10]) > 0 {}
    }

    /// Reads all that there is.
    fn drain(peer: &mut Peer) {
        while peer.read(&mut [0; 64 << 10]).is_some() {}
    }

    fn usual() -> EngineSettings {
        EngineSettings::default()
    }

    #[test]
    fn a_pair_leaves_however_busy_it_is() {
        let (mut rig, key, mut left, mut right) = joined(usual(), DataPlane::Ring);
        for _ in 0..16 {
            for peer in [&mut left, &mut right] {
                drain(peer);
                fill(peer);
            }
            rig.turn();
            if rig.planes.ring.has(key) {
                let bytes = rig.planes.engine.bytes(key);
                assert_eq!(bytes, Some([0, 0]), "left to the ring");
                return;
            }
        }
        panic!("it never leaves");
    }

    #[test]
    fn a_prefix_is_sent_before_its_pair_leaves() {
        let (mut left, mut left_leg) = connection();
        let (mut right, right_leg) = connection();
        let bytes = vec![1; 8 << 20];
        left_leg.prefix.clone_from(&bytes);
        let mut rig = Rig::new(usual());
        let key = rig.join(DataPlane::Ring, left_leg, right_leg);
        fill(&mut left);
        fill(&mut right);
        rig.turn();
        assert!(!rig.planes.ring.has(key), "the prefix is held");
        assert_eq!(right.read_exactly(&mut rig, bytes.len()), bytes);
        assert!(rig.planes.ring.has(key));
        assert_eq!(rig.planes.engine.bytes(key), Some([8 << 20, 0]));
    }

    #[test]
    fn a_first_byte_is_read_for_the_gate_that_it_opens() {
        let (mut left, left_leg) = connection();
        let (mut right, mut right_leg) = connection();
        let mut rig = Rig::new(usual());
        right_leg.socket.send(b"reply").unwrap();
        right_leg.gate = GateHold::Replied(rig.now);
        fill(&mut left);
        let key = rig.join(DataPlane::Ring, left_leg, right_leg);
        rig.turn();
        assert!(!rig.planes.ring.has(key), "the gate is closed");
        right.write(b"!");
        assert_eq!(left.read_exactly(&mut rig, 1), b"!");
        assert!(rig.planes.ring.has(key));
        assert_eq!(rig.planes.engine.bytes(key), Some([0, 1]));
    }

    #[test]
    fn a_pair_that_ends_already_stays_and_reads_on() {
        let (mut left, left_leg) = connection();
        let (mut right, right_leg) = connection();
        left.write(b"left to the ring");
        right.half_close();
        let mut rig = Rig::new(usual());
        let key = rig.join(DataPlane::Ring, left_leg, right_leg);
        assert_eq!(left.read_error(&mut rig), None);
        assert!(!rig.planes.ring.has(key));
        assert_eq!(right.read_exactly(&mut rig, 16), b"left to the ring");
        left.half_close();
        assert_eq!(rig.run_until_ended().bytes, [16, 0]);
    }
}
