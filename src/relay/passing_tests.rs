//! Bodies of HTTP through the engine, over real sockets.

use crate::config::DataPlane;
use crate::protocol::http_head::Body;

use super::close::CloseReason;
use super::codec::{Codec, HttpBody};
use super::engine::EngineSettings;
use super::engine_rig::{Peer, Rig, connection};
use super::pair::Side;

/// A pair of a request with a body and an answer with one.
fn join(rig: &mut Rig, plane: DataPlane) -> (Peer, Peer) {
    let [request, answer] = HttpBody::both(Body::Chunked);
    let [(left, mut left_leg), (right, mut right_leg)] = [connection(), connection()];
    for (leg, body) in [(&mut left_leg, request), (&mut right_leg, answer)] {
        leg.codec = Some(Codec::begin_http(None, body, Vec::new()).unwrap().0);
    }
    rig.join(plane, left_leg, right_leg);
    (left, right)
}

/// So many chunks of so many bytes, without the last one.
fn chunks(count: usize, bytes: usize) -> Vec<u8> {
    let chunk = format!("{bytes:x}\r\n{}\r\n", "x".repeat(bytes));
    chunk.repeat(count).into_bytes()
}

/// Has `wire` pass, of which the first bytes are to arrive.
fn pass(rig: &mut Rig, left: &mut Peer, right: &mut Peer, wire: &[u8], expected_bytes: usize) {
    let (mut written, mut received) = (0, Vec::new());
    let mut buffer = vec![0; 1 << 20];
    rig.run_until("the body", |_| {
        written += left.write(&wire[written..]);
        let count = right.read(&mut buffer).unwrap_or_default();
        received.extend_from_slice(&buffer[..count]);
        received.len() >= expected_bytes && written == wire.len()
    });
    assert!(received == wire[..expected_bytes], "{}", received.len());
}

#[test]
fn long_chunks_are_spliced_and_short_ones_are_not() {
    for (plane, bytes, is_spliced) in [
        (DataPlane::Auto, 16 << 10, true),
        (DataPlane::Splice, 1 << 20, true),
        (DataPlane::Copy, 1 << 20, false),
        (DataPlane::Auto, 50, false),
    ] {
        let mut rig = Rig::new(EngineSettings::default());
        let (mut left, mut right) = join(&mut rig, plane);
        let wire = [chunks((8 << 20) / bytes, bytes), b"0\r\n\r\n".to_vec()].concat();
        pass(&mut rig, &mut left, &mut right, &wire, wire.len());
        drop(right);
        let ended = rig.run_until_ended();
        assert_eq!(ended.reason, CloseReason::Finished(Side::Left));
        assert_eq!(ended.bytes, [wire.len() as u64, 0]);
        let spliced = rig.planes.counts().bytes_spliced;
        assert_eq!(spliced > 0, is_spliced, "{bytes}");
    }
}

#[test]
fn what_is_behind_a_body_reaches_nobody_else() {
    let mut rig = Rig::new(EngineSettings::default());
    let body = [chunks(80, 100_000), b"0\r\n\r\n".to_vec()].concat();
    let wire = [&body[..], &b"secret".repeat(10_000)].concat();
    for _ in 0..4 {
        let (mut left, mut right) = join(&mut rig, DataPlane::Auto);
        pass(&mut rig, &mut left, &mut right, &wire, body.len());
        rig.run_until("its end", |_| match right.read(&mut [0]) {
            Some(count) => {
                assert_eq!(count, 0, "it is no part of the body");
                true
            }
            None => false,
        });
        drop(right);
        assert!(matches!(
            rig.run_until_ended().reason,
            CloseReason::Finished(_)
        ));
    }
    assert!(rig.planes.counts().bytes_spliced > 0);
}

#[test]
fn what_is_no_chunk_breaks_the_pair_however_late_it_comes() {
    for (rest, reason) in [
        (&b"zz\r\n"[..], CloseReason::Broken(Side::Left)),
        (b"5\r\nhelloXX", CloseReason::Broken(Side::Left)),
        (b"100000\r\ncut", CloseReason::Broken(Side::Left)),
    ] {
        let mut rig = Rig::new(EngineSettings::default());
        let (mut left, mut right) = join(&mut rig, DataPlane::Auto);
        let body = chunks(80, 100_000);
        pass(&mut rig, &mut left, &mut right, &body, body.len());
        left.write(rest);
        left.half_close();
        assert!(right.read_error(&mut rig).is_some(), "a reset");
        assert_eq!(rig.run_until_ended().reason, reason);
        assert!(rig.planes.counts().bytes_spliced > 0);
    }
}
