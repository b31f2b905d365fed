//! A connection in two pairs, with a request and an answer at the other ends.

use std::io::ErrorKind;

use super::close::CloseReason;
use super::codec::{Codec, HttpBody};
use super::engine::EngineSettings;
use super::engine_rig::{Peer, Rig, connection};
use super::half::Half;
use super::leg_io::LegIo;
use super::pair::Side;
use crate::config::DataPlane;
use crate::protocol::http_head::Body;

/// The peers of a connection in two pairs, and of the legs that it is paired with.
struct Tunnel {
    rig: Rig,
    local: Peer,
    request: Peer,
    answer: Peer,
}

impl Tunnel {
    fn new() -> Self {
        let (local, source) = connection();
        let (request, sent) = connection();
        let (answer, fetched) = connection();
        let [source_half, sink_half] = Half::both();
        let sink = LegIo {
            socket: source.socket.duplicate().unwrap(),
            prefix: Vec::new(),
            gate: super::leg_io::GateHold::Open,
            codec: None,
            half: Some(sink_half),
        };
        let source = LegIo {
            half: Some(source_half),
            ..source
        };
        let with = |leg: LegIo, body| LegIo {
            codec: Some(Codec::begin_http(None, body, Vec::new()).unwrap().0),
            ..leg
        };
        let mut rig = Rig::new(EngineSettings::default());
        let sent = with(sent, HttpBody::sent());
        let fetched = with(fetched, HttpBody::fetched(Body::Chunked));
        rig.join(DataPlane::Auto, source, sent);
        rig.join(DataPlane::Auto, sink, fetched);
        Self {
            rig,
            local,
            request,
            answer,
        }
    }

    /// What comes for the local peer ends.
    fn end_answer(&mut self) {
        let Self {
            rig, local, answer, ..
        } = self;
        answer.write_all(rig, b"3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(local.read_exactly(rig, 3), b"abc");
        assert_eq!(local.read_error(rig), None);
        let reason = rig.run_until_one_ended().reason;
        assert!(matches!(reason, CloseReason::Finished(_)), "{reason:?}");
    }
}

#[test]
fn each_way_ends_by_itself_in_either_order() {
    for answer_first in [true, false] {
        let mut tunnel = Tunnel::new();
        if answer_first {
            tunnel.end_answer();
        }
        let Tunnel {
            rig,
            local,
            request,
            ..
        } = &mut tunnel;
        local.write_all(rig, b"xyz");
        let expected = b"3\r\nxyz\r\n0\r\n\r\n";
        assert_eq!(request.read_exactly(rig, 6), expected[..6]);
        local.half_close();
        assert_eq!(request.read_exactly(rig, 7), expected[6..]);
        request.write_all(rig, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(
            rig.run_until_one_ended().reason,
            CloseReason::Finished(Side::Left)
        );
        if !answer_first {
            tunnel.end_answer();
        }
    }
}

#[test]
fn a_reset_is_no_end_although_the_other_way_has_ended() {
    let mut tunnel = Tunnel::new();
    tunnel.end_answer();
    let Tunnel {
        mut rig,
        local,
        mut request,
        ..
    } = tunnel;
    local.reset();
    assert_eq!(
        rig.run_until_one_ended().reason,
        CloseReason::Reset(Side::Left)
    );
    assert_eq!(
        request.read_error(&mut rig),
        Some(ErrorKind::ConnectionReset)
    );
}

#[test]
fn a_refused_request_and_a_cut_answer_are_no_ends() {
    let refused = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let early = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for words in [&refused[..], &early[..], b"SSH-2.0-x\r\n"] {
        let mut tunnel = Tunnel::new();
        tunnel.request.write_all(&mut tunnel.rig, words);
        let reason = tunnel.rig.run_until_one_ended().reason;
        assert_eq!(reason, CloseReason::Broken(Side::Right));
    }
    for words in [&b"3\r\nab"[..], b"3\r\nabc\r\n", b"x\r\n"] {
        let mut tunnel = Tunnel::new();
        tunnel.answer.write_all(&mut tunnel.rig, words);
        tunnel.answer.half_close();
        let reason = tunnel.rig.run_until_one_ended().reason;
        assert_eq!(reason, CloseReason::Broken(Side::Right), "{words:?}");
    }
}
