//! The planes over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use crate::config::DataPlane;
use crate::runtime::socket::Socket;

use super::close::{CloseReason, How};
use super::engine::EngineSettings;
use super::engine_rig::{Peer, Rig, connection, joined};
use super::gate::UNACKNOWLEDGED_MAX;
use super::leg_io::{GateHold, LegIo};
use super::pair::Side;
use super::planes::PlanesCounts;
use crate::slab::Key;

const PLANES: [DataPlane; 4] = [
    DataPlane::Auto,
    DataPlane::Copy,
    DataPlane::Splice,
    DataPlane::Ring,
];

/// The byte at one place of the stream with this seed.
fn pattern(seed: u64, place: usize) -> u8 {
    let mixed = (place as u64 / 8 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_le_bytes()[place % 8]
}

fn fill_pattern(buffer: &mut [u8], seed: u64, place: usize) {
    for (offset, byte) in buffer.iter_mut().enumerate() {
        *byte = pattern(seed, place + offset);
    }
}

/// Writes one stream into one peer and expects it at the other.
struct Flow {
    seed: u64,
    total: usize,
    written: usize,
    read: usize,
    ended: bool,
    chunk: Vec<u8>,
}

impl Flow {
    fn new(seed: u64, total: usize) -> Self {
        Self {
            seed,
            total,
            written: 0,
            read: 0,
            ended: false,
            chunk: vec![0; 256 << 10],
        }
    }

    fn write_some(&mut self, rng: &mut fastrand::Rng, from: &mut Peer) {
        if self.written == self.total {
            return;
        }
        let largest = 1 << rng.u32(0..=18);
        let length = rng.usize(1..=largest).min(self.total - self.written);
        fill_pattern(&mut self.chunk[..length], self.seed, self.written);
        self.written += from.write(&self.chunk[..length]);
        if self.written == self.total {
            from.half_close();
        }
    }

    fn read_some(&mut self, rng: &mut fastrand::Rng, to: &mut Peer) {
        if self.ended {
            return;
        }
        let largest = 1 << rng.u32(0..=18);
        let length = rng.usize(1..=largest);
        let Some(count) = to.read(&mut self.chunk[..length]) else {
            return;
        };
        for (offset, byte) in self.chunk[..count].iter().enumerate() {
            let place = self.read + offset;
            assert_eq!(*byte, pattern(self.seed, place), "at {place}");
        }
        self.read += count;
        if count == 0 {
            assert_eq!(self.read, self.total, "the end came early");
            self.ended = true;
        }
    }
}

/// Runs pairs with streams of random lengths, written and read in random
/// pieces, to their ends; tells what they had to do without.
fn check_integrity(settings: EngineSettings, plane: DataPlane, pair_count: u64) -> PlanesCounts {
    let mut rng = fastrand::Rng::with_seed(42);
    let mut rig = Rig::new(settings);
    let mut pairs = Vec::new();
    let mut expected = Vec::new();
    for n in 0..pair_count {
        let (left, left_leg) = connection();
        let (right, right_leg) = connection();
        rig.join(plane, left_leg, right_leg);
        let length = |rng: &mut fastrand::Rng| {
            let largest = 1 << rng.u32(1..=23);
            rng.usize(1..=largest)
        };
        let flows = [
            Flow::new(2 * n, length(&mut rng)),
            Flow::new(2 * n + 1, length(&mut rng)),
        ];
        expected.push([flows[0].total as u64, flows[1].total as u64]);
        pairs.push((left, right, flows));
    }
    rig.run_until("all streams", |rig| {
        rig.now = rig.now + Duration::from_micros(100);
        for (left, right, [forth, back]) in &mut pairs {
            // Now and then a peer does nothing for a while.
            if rng.u32(0..8) > 0 {
                forth.write_some(&mut rng, left);
            }
            if rng.u32(0..4) > 0 {
                forth.read_some(&mut rng, right);
            }
            if rng.u32(0..8) > 0 {
                back.write_some(&mut rng, right);
            }
            if rng.u32(0..4) > 0 {
                back.read_some(&mut rng, left);
            }
        }
        pairs
            .iter()
            .all(|(_, _, flows)| flows.iter().all(|f| f.ended))
    });
    rig.run_until("all ends", |rig| rig.ended.len() == pairs.len());
    rig.ended.sort_by_key(|ended| ended.pair.index);
    for (ended, expected) in rig.ended.iter().zip(expected) {
        assert!(
            matches!(ended.reason, CloseReason::Finished(_)),
            "{ended:?}"
        );
        assert_eq!(ended.bytes, expected);
    }
    rig.assert_nothing_held();
    rig.planes.counts()
}

#[test]
fn every_byte_arrives_in_order() {
    for plane in PLANES {
        let counts = check_integrity(EngineSettings::default(), plane, 8);
        let shortages = (counts.pipe_shortages, counts.spill_shortages);
        assert_eq!(shortages, (0, 0), "{plane:?}");
    }
}

#[test]
fn every_byte_arrives_without_pipes() {
    let settings = EngineSettings {
        pipe_count_max: 0,
        ..EngineSettings::default()
    };
    for plane in PLANES {
        let counts = check_integrity(settings, plane, 4);
        let splices = matches!(plane, DataPlane::Auto | DataPlane::Splice);
        assert_eq!(counts.pipe_shortages > 0, splices, "{plane:?}");
    }
}

#[test]
fn every_byte_arrives_with_too_few_pipes_and_little_spill() {
    let settings = EngineSettings {
        pipe_count_max: 2,
        spill_bytes_max: 100 << 10,
        ..EngineSettings::default()
    };
    for plane in PLANES {
        check_integrity(settings, plane, 6);
    }
}

#[test]
fn every_byte_arrives_without_any_spill() {
    let settings = EngineSettings {
        pipe_count_max: 0,
        spill_bytes_max: 0,
        ..EngineSettings::default()
    };
    let counts = check_integrity(settings, DataPlane::Copy, 4);
    assert!(counts.spill_shortages > 0);
}

#[test]
fn a_reader_that_stands_still_stops_the_writer() {
    for plane in PLANES {
        let (mut rig, _, mut left, mut right) = joined(EngineSettings::default(), plane);
        let mut flow = Flow::new(7, usize::MAX);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut quiet = 0;
        rig.run_until("a full path", |_| {
            let before = flow.written;
            flow.write_some(&mut rng, &mut left);
            quiet = if flow.written == before { quiet + 1 } else { 0 };
            quiet == 10_000
        });
        let usage = rig.planes.engine.usage();
        assert!(usage.spill_bytes <= 64 << 10, "{plane:?} {usage:?}");
        assert!(usage.pipes_in_use <= 1, "{plane:?} {usage:?}");
        assert!(
            !rig.turn(),
            "{plane:?}: a blocked pair gives the loop nothing to do"
        );
        flow.total = flow.written;
        left.half_close();
        rig.run_until("the rest", |rig| {
            flow.read_some(&mut rng, &mut right);
            rig.now = rig.now + Duration::from_micros(100);
            flow.ended
        });
    }
}

#[test]
fn each_half_closes_for_itself() {
    for plane in PLANES {
        for side in Side::BOTH {
            let (mut rig, _, left, right) = joined(EngineSettings::default(), plane);
            let mut peers = [left, right];
            let (first, second) = (side.index(), side.other().index());
            peers[first].write_all(&mut rig, b"question");
            peers[first].half_close();
            assert_eq!(peers[second].read_exactly(&mut rig, 8), b"question");
            assert_eq!(peers[second].read_error(&mut rig), None);
            // The other half is open for as long as it likes.
            for _ in 0..3 {
                peers[second].write_all(&mut rig, b"late answer");
                assert_eq!(peers[first].read_exactly(&mut rig, 11), b"late answer");
            }
            assert!(rig.ended.is_empty());
            peers[second].half_close();
            assert_eq!(peers[first].read_error(&mut rig), None);
            let ended = rig.run_until_ended();
            assert_eq!(ended.reason, CloseReason::Finished(side));
            assert_eq!(ended.how, [How::Clean; 2]);
        }
    }
}

#[test]
fn a_reset_arrives_as_a_reset() {
    for plane in PLANES {
        for side in Side::BOTH {
            // Before any byte, within small messages, within bulk, behind a
            // half-close of the other side.
            for case in 0..4 {
                let (mut rig, _, left, right) = joined(EngineSettings::default(), plane);
                let mut peers = vec![left, right];
                match case {
                    0 => {}
                    1 => {
                        peers[side.index()].write_all(&mut rig, b"hello");
                        peers[side.other().index()].read_exactly(&mut rig, 5);
                    }
                    2 => {
                        let bytes = vec![1; 1 << 20];
                        let from = &mut peers[side.index()];
                        let mut sent = 0;
                        rig.run_until("some bytes", |_| {
                            sent += from.write(&bytes);
                            sent > 1 << 20
                        });
                    }
                    _ => {
                        peers[side.other().index()].half_close();
                        assert_eq!(peers[side.index()].read_error(&mut rig), None);
                    }
                }
                peers.remove(side.index()).reset();
                let ended = rig.run_until_ended();
                assert_eq!(ended.reason, CloseReason::Reset(side), "{plane:?} {case}");
                assert_eq!(ended.how, [How::Reset; 2]);
                assert_eq!(
                    peers[0].read_error(&mut rig),
                    Some(ErrorKind::ConnectionReset),
                    "{plane:?} {case}"
                );
            }
        }
    }
}

#[test]
fn a_reset_that_a_write_finds_is_not_an_end() {
    // The peer resets while bytes for it are on their way: `send` or a splice
    // meets the error first, and the next `recv` says 0.
    for plane in PLANES {
        let (mut rig, _, mut left, right) = joined(EngineSettings::default(), plane);
        let bytes = vec![1; 4 << 20];
        let mut written = 0;
        rig.run_until("a full path", |_| {
            let count = left.write(&bytes);
            written += count;
            count == 0 && written > 1 << 20
        });
        right.reset();
        let ended = rig.run_until_ended();
        assert_eq!(ended.reason, CloseReason::Reset(Side::Right), "{plane:?}");
        assert_eq!(left.read_error(&mut rig), Some(ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_reset_whose_error_was_swallowed_is_not_an_end() {
    for plane in PLANES {
        let (mut rig, key, mut left, right) = joined(EngineSettings::default(), plane);
        rig.turn();
        right.reset();
        let socket = rig.planes.engine.socket(key, Side::Right).unwrap();
        while socket.take_error().is_none() {}
        let ended = rig.run_until_ended();
        assert_eq!(ended.reason, CloseReason::Reset(Side::Right), "{plane:?}");
        assert_eq!(left.read_error(&mut rig), Some(ErrorKind::ConnectionReset));
    }
}

#[test]
fn prefixes_go_first() {
    for plane in PLANES {
        let (mut left, mut left_leg) = connection();
        let (mut right, mut right_leg) = connection();
        left_leg.prefix = b"left prefix, ".to_vec();
        right_leg.prefix = b"right prefix, ".to_vec();
        left.write(b"left stream");
        right.write(b"right stream");
        let mut rig = Rig::new(EngineSettings::default());
        rig.join(plane, left_leg, right_leg);
        let text = left.read_exactly(&mut rig, 26);
        assert_eq!(text, b"right prefix, right stream");
        let text = right.read_exactly(&mut rig, 24);
        assert_eq!(text, b"left prefix, left stream");
        rig.planes.abort_if(CloseReason::Terminated, |_| true);
        assert_eq!(rig.run_until_ended().bytes, [24, 26]);
    }
}

/// A pair whose right leg's reply was just written, with a banner from the
/// left that must wait for it.
fn gated() -> (Rig, Key, Peer, Peer) {
    let (mut left, left_leg) = connection();
    let (right, mut right_leg) = connection();
    let mut rig = Rig::new(EngineSettings::default());
    right_leg.socket.send(b"reply").unwrap();
    right_leg.gate = GateHold::Replied(rig.now);
    left.write(b"banner");
    let key = rig.join(DataPlane::Auto, left_leg, right_leg);
    (rig, key, left, right)
}

#[test]
fn a_gate_holds_until_the_reply_has_settled() {
    let (mut rig, _, _left, mut right) = gated();
    let start = rig.now;
    let mut held_until = rig.now;
    rig.run_until("the banner", |rig| {
        let mut buffer = [0; 64];
        match right.read(&mut buffer) {
            Some(5) => {
                assert_eq!(&buffer[..5], b"reply");
                false
            }
            Some(count) => {
                assert_eq!(&buffer[..count], b"banner");
                true
            }
            None => {
                held_until = rig.now;
                rig.now = rig.planes.engine.next_deadline().unwrap();
                false
            }
        }
    });
    assert!(held_until.since(start) >= Duration::from_millis(5));
    assert!(rig.now.since(start) >= Duration::from_millis(10));
    assert_eq!(rig.planes.engine.next_deadline(), None);
}

#[test]
fn a_gate_opens_with_the_first_byte() {
    let (mut rig, key, mut left, mut right) = gated();
    assert_eq!(right.read_exactly(&mut rig, 5), b"reply");
    for _ in 0..100 {
        rig.turn();
    }
    assert_eq!(rig.planes.engine.bytes(key), Some([0, 0]));
    right.write(b"!");
    assert_eq!(right.read_exactly(&mut rig, 6), b"banner");
    assert_eq!(left.read_exactly(&mut rig, 1), b"!");
}

#[test]
fn a_gate_holds_the_prefix_too() {
    let (_left, mut left_leg) = connection();
    let (mut right, mut right_leg) = connection();
    let mut rig = Rig::new(EngineSettings::default());
    right_leg.socket.send(b"reply").unwrap();
    right_leg.gate = GateHold::Replied(rig.now);
    left_leg.prefix = b"prefix".to_vec();
    let key = rig.join(DataPlane::Auto, left_leg, right_leg);
    for _ in 0..100 {
        rig.turn();
    }
    assert_eq!(rig.planes.engine.bytes(key), Some([0, 0]));
    rig.run_until("an open gate", |rig| {
        if let Some(due) = rig.planes.engine.next_deadline() {
            rig.now = due;
        }
        rig.planes.engine.bytes(key) == Some([6, 0])
    });
    assert_eq!(right.read_exactly(&mut rig, 11), b"replyprefix");
}

#[test]
fn a_reply_that_is_never_acknowledged_ends_the_pair() {
    let (_left, left_leg) = connection();
    let (right, mut right_leg) = connection();
    let mut rig = Rig::new(EngineSettings::default());
    // What cannot be acknowledged: more than the peer's window takes.
    let bytes = vec![0; 1 << 20];
    while right_leg.socket.send(&bytes).is_ok() {}
    right_leg.gate = GateHold::Replied(rig.now);
    rig.join(DataPlane::Auto, left_leg, right_leg);
    let start = rig.now;
    rig.run_until("an expired gate", |rig| {
        if let Some(due) = rig.planes.engine.next_deadline() {
            rig.now = due;
        }
        !rig.ended.is_empty()
    });
    assert!(rig.now.since(start) >= UNACKNOWLEDGED_MAX);
    assert_eq!(
        rig.ended[0].reason,
        CloseReason::ReplyUnacknowledged(Side::Right)
    );
    drop(right);
}

#[test]
fn a_stream_waits_for_larger_pieces_and_its_end_does_not() {
    let (mut rig, _, mut left, mut right) = joined(EngineSettings::default(), DataPlane::Auto);
    let mut flow = Flow::new(1, usize::MAX);
    let mut rng = fastrand::Rng::with_seed(1);
    rig.run_until("a low-water mark", |rig| {
        rig.now = rig.now + Duration::from_micros(200);
        flow.write_some(&mut rng, &mut left);
        flow.read_some(&mut rng, &mut right);
        rig.planes.engine.counters().low_water_sets > 0
    });
    // The end comes below the mark and is passed on without any tick.
    flow.total = flow.written;
    left.half_close();
    rig.run_until("the end", |_| {
        flow.read_some(&mut rng, &mut right);
        flow.ended
    });
}

#[test]
fn an_aborted_pair_gives_everything_back() {
    let check = |reason: CloseReason, expected: Option<ErrorKind>| {
        for plane in PLANES {
            let (mut rig, _, mut left, mut right) = joined(EngineSettings::default(), plane);
            left.write_all(&mut rig, b"ping");
            assert_eq!(right.read_exactly(&mut rig, 4), b"ping");
            assert_eq!(rig.planes.abort_if(reason, |_| true), 1);
            // The first reason holds.
            rig.planes
                .abort_if(CloseReason::Reset(Side::Left), |_| true);
            let ended = rig.run_until_ended();
            assert_eq!((ended.reason, ended.bytes), (reason, [4, 0]));
            assert_eq!(left.read_error(&mut rig), expected);
            assert_eq!(right.read_error(&mut rig), expected);
        }
    };
    check(CloseReason::Drained, Some(ErrorKind::ConnectionReset));
    check(CloseReason::Terminated, None);
}

#[test]
fn unix_sockets_are_relayed_too() {
    use std::os::unix::net::UnixStream;
    for plane in PLANES {
        let (mut left, left_leg) = connection();
        let (mut right, ours) = UnixStream::pair().unwrap();
        let right_leg = LegIo {
            codec: None,
            socket: Socket::adopt(ours.into()).unwrap(),
            prefix: Vec::new(),
            gate: GateHold::Open,
            half: None,
        };
        let mut rig = Rig::new(EngineSettings::default());
        rig.join(plane, left_leg, right_leg);
        let bytes: Vec<u8> = (0..3 << 20).map(|place| pattern(5, place)).collect();
        right.set_nonblocking(true).unwrap();
        let (mut written, mut echoed) = (0, Vec::new());
        let mut queue = Vec::new();
        let mut buffer = vec![0; 100_000];
        rig.run_until("an echo", |rig| {
            rig.now = rig.now + Duration::from_micros(100);
            written += left.write(&bytes[written..]);
            if let Ok(count) = right.read(&mut buffer) {
                queue.extend_from_slice(&buffer[..count]);
            }
            if let Ok(count) = right.write(&queue) {
                queue.drain(..count);
            }
            if let Some(count) = left.read(&mut buffer) {
                echoed.extend_from_slice(&buffer[..count]);
            }
            echoed.len() == bytes.len()
        });
        assert!(echoed == bytes, "{plane:?}: the echo differs");
        // A unix peer that closes altogether has ended cleanly.
        drop(right);
        assert_eq!(left.read_error(&mut rig), None);
        left.half_close();
        let ended = rig.run_until_ended();
        assert_eq!(ended.reason, CloseReason::Finished(Side::Right));
    }
}
