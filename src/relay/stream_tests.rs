//! Streams beside each other and beside small messages, over real sockets.

use std::time::Duration;

use crate::config::DataPlane;

use super::engine::{
    BULK_LONG_MIN_WAIT, BULK_MIN_WAIT, BUSY_SPLICE_BYTES, EngineSettings, QUIET_TICKS_TO_WAIT_LONG,
    Usage,
};
use super::engine_rig::{Peer, Rig, connection, joined};
use super::streaming::TICK;
use crate::slab::Key;

#[test]
fn a_quantum_is_bounded_and_pairs_take_turns() {
    let mut rig = Rig::new(EngineSettings::default());
    let mut pairs = Vec::new();
    for _ in 0..3 {
        let (left, left_leg) = connection();
        let (right, right_leg) = connection();
        let key = rig.join(DataPlane::Auto, left_leg, right_leg);
        pairs.push((key, left, right, 0_u64));
    }
    let bytes = vec![0; 1 << 20];
    let mut sink = vec![0; 4 << 20];
    let mut quanta = 0;
    while quanta < 500 {
        for (_, left, right, _) in &mut pairs {
            while left.write(&bytes) > 0 {}
            while right.read(&mut sink).is_some() {}
        }
        rig.turn();
        let busy: Vec<u64> = pairs
            .iter()
            .map(|(key, ..)| rig.planes.engine.bytes(*key).unwrap()[0])
            .collect();
        for (before, pair) in busy.iter().zip(&mut pairs) {
            assert!(before - pair.3 <= 2 << 20, "{}", before - pair.3);
            pair.3 = *before;
        }
        quanta += 1;
    }
    let moved: Vec<u64> = pairs.iter().map(|pair| pair.3).collect();
    let (least, most) = (moved.iter().min().unwrap(), moved.iter().max().unwrap());
    assert!(*least * 4 > *most, "{moved:?}");
}

/// A pair for bulk, from the first of its peers to the second, and one for
/// messages.
fn bulk_beside_messages() -> (Rig, Key, [Peer; 2], [Peer; 2]) {
    let (mut rig, bulk, source, drain) = joined(EngineSettings::default(), DataPlane::Auto);
    let (left, left_leg) = connection();
    let (right, right_leg) = connection();
    rig.join(DataPlane::Auto, left_leg, right_leg);
    (rig, bulk, [source, drain], [left, right])
}

#[test]
fn splices_are_short_while_small_messages_come_and_go() {
    let (mut rig, bulk, [mut source, mut drain], [mut left, mut right]) = bulk_beside_messages();
    let bytes = vec![0; 1 << 20];
    let mut sink = vec![0; 4 << 20];
    let mut most_moved = |rig: &mut Rig, turns: u32, message: &[u8]| {
        let mut most = 0;
        for _ in 0..turns {
            while source.write(&bytes) > 0 {}
            while drain.read(&mut sink).is_some() {}
            if !message.is_empty() {
                left.write_all(rig, message);
                right.read_exactly(rig, message.len());
            }
            rig.now = rig.now + TICK / 4;
            let before = rig.planes.engine.bytes(bulk).expect("it lives")[0];
            rig.turn();
            most = most.max(rig.planes.engine.bytes(bulk).expect("it lives")[0] - before);
        }
        most
    };
    most_moved(&mut rig, 60, b"");
    assert!(most_moved(&mut rig, 60, b"") > BUSY_SPLICE_BYTES.into());
    most_moved(&mut rig, 60, b"ping");
    assert!(most_moved(&mut rig, 60, b"ping") <= BUSY_SPLICE_BYTES.into());
}

#[test]
fn the_longer_no_message_came_the_longer_streams_gather() {
    let (mut rig, _, [mut source, mut drain], [mut left, mut right]) = bulk_beside_messages();
    let bytes = vec![0; 1 << 20];
    let mut sink = vec![0; 4 << 20];
    // What was waited for in so many ticks of streaming, longest last.
    let mut waits = |rig: &mut Rig, ticks: u32| {
        let mut waits = Vec::new();
        for _ in 0..ticks {
            while source.write(&bytes) > 0 {}
            while drain.read(&mut sink).is_some() {}
            rig.now = rig.now + TICK;
            while rig.turn() {}
            waits.extend(rig.planes.engine.min_wait());
        }
        waits.sort();
        waits.dedup();
        waits
    };
    let (short, long) = (BULK_MIN_WAIT, BULK_LONG_MIN_WAIT);
    waits(&mut rig, 2 * u32::from(QUIET_TICKS_TO_WAIT_LONG));
    assert_eq!(waits(&mut rig, 10), [long]);
    left.write_all(&mut rig, b"ping");
    assert_eq!(right.read_exactly(&mut rig, 4), b"ping");
    assert_eq!(
        rig.planes.engine.min_wait(),
        None,
        "one that comes and goes"
    );
    assert_eq!(
        waits(&mut rig, u32::from(QUIET_TICKS_TO_WAIT_LONG)),
        [short]
    );
    assert_eq!(waits(&mut rig, 10).last(), Some(&long));
}

#[test]
fn small_becomes_bulk_and_small_again() {
    let (mut rig, key, mut left, mut right) = joined(EngineSettings::default(), DataPlane::Auto);
    let ping_pong = |rig: &mut Rig, left: &mut Peer, right: &mut Peer| {
        left.write_all(rig, b"ping");
        assert_eq!(right.read_exactly(rig, 4), b"ping");
        right.write_all(rig, b"pong");
        assert_eq!(left.read_exactly(rig, 4), b"pong");
    };
    ping_pong(&mut rig, &mut left, &mut right);
    assert_eq!(rig.planes.engine.usage().bulk_directions, 0);
    assert_eq!(rig.planes.engine.min_wait(), None);

    let bytes = vec![3; 64 << 20];
    let (mut written, mut read) = (0, 0);
    let mut sink = vec![0; 4 << 20];
    rig.run_until("bulk", |rig| {
        rig.now = rig.now + Duration::from_millis(1);
        written += left.write(&bytes[written..]);
        read += right.read(&mut sink).unwrap_or(0);
        read == bytes.len()
    });
    let counters = *rig.planes.engine.counters();
    assert!(counters.promotions >= 1, "{counters:?}");
    assert!(counters.fills > 0 && counters.ticks > 0, "{counters:?}");

    // A message far below any low-water mark: it waits for two ticks at most.
    left.write(b"tail");
    let begun = rig.now;
    let mut tail = 0;
    rig.run_until("the tail", |rig| {
        tail += right.read(&mut sink).unwrap_or(0);
        if tail < 4 {
            rig.now = rig.now + Duration::from_millis(1);
        }
        tail == 4
    });
    assert!(
        rig.now.since(begun) <= TICK * 3,
        "{}",
        rig.now.since(begun).as_millis()
    );

    rig.run_until("a small pair", |rig| {
        rig.now = rig.now + TICK;
        rig.planes.engine.usage().bulk_directions == 0
    });
    assert_eq!(rig.planes.engine.next_deadline(), None);
    let usage = rig.planes.engine.usage();
    // As many as the longest chain had.
    let pipes_idle = usage.pipes_idle;
    assert!(pipes_idle >= 1);
    assert_eq!(
        usage,
        Usage {
            pairs: 1,
            pipes_idle,
            ..Usage::default()
        }
    );
    let fills = rig.planes.engine.counters().fills;
    ping_pong(&mut rig, &mut left, &mut right);
    assert_eq!(rig.planes.engine.counters().fills, fills);
    assert_eq!(
        rig.planes.engine.bytes(key),
        Some([bytes.len() as u64 + 4 + 8, 8])
    );
}
