//! A server whose client is the test: what it makes of packets, one by one.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::tests::{KEY, STUCK, socket, start};
use super::*;
use crate::protocol::jproxy::{Opener, Sealer};

/// A server whose client is this test.
pub(super) struct Spoken {
    pub(super) server: MuxPlane,
    tunnel: Key,
    pub(super) stream: UnixStream,
    sealer: Sealer,
}

impl Spoken {
    pub(super) fn new(dialect: Dialect) -> Self {
        let (stream, there) = UnixStream::pair().expect("sockets");
        stream.set_nonblocking(true).expect("set");
        let mut server = MuxPlane::new(STUCK);
        let tunnel = start(&mut server, there, Role::Server, dialect);
        if let Some((tunnel, _)) = server.tunnels.get_mut(tunnel) {
            tunnel.channels_max = 4;
        }
        Self {
            server,
            tunnel,
            stream,
            sealer: Sealer::new(&KEY),
        }
    }

    pub(super) fn say(&mut self, payload: &[u8]) -> Vec<MuxEvent> {
        let mut wire = Vec::new();
        self.sealer.seal(&[payload], &mut wire);
        self.say_raw(&wire)
    }

    /// Asks for a channel.
    pub(super) fn asked(&mut self, connect: &[u8]) -> Key {
        let asked = self.say(connect);
        let [MuxEvent::Asked { channel, .. }] = asked[..] else {
            panic!("{asked:?}");
        };
        channel
    }

    /// Asks for a channel, and is granted it; gives it, and whom it leads to.
    pub(super) fn join(&mut self, connect: &[u8]) -> (Key, UnixStream) {
        let channel = self.asked(connect);
        let (origin, end) = UnixStream::pair().expect("sockets");
        let end = LocalEnd::Stream(socket(end));
        let opened = self.server.open(channel, end, None, Timestamp::default());
        opened.expect("it is there");
        (channel, origin)
    }

    pub(super) fn say_raw(&mut self, wire: &[u8]) -> Vec<MuxEvent> {
        self.stream.write_all(wire).expect("sent");
        self.server.handle_tunnel(0, Readiness::READABLE);
        self.server.run(Timestamp::default());
        std::iter::from_fn(|| self.server.poll_event()).collect()
    }

    /// What it has answered, and whether that was its last.
    pub(super) fn heard(&mut self) -> (Vec<Vec<u8>>, bool) {
        let mut bytes = Vec::new();
        let is_end = self.stream.read_to_end(&mut bytes).is_ok();
        let mut opener = Opener::new(&KEY);
        opener.open(&bytes);
        let packets = opener.payloads();
        let packets = packets.map(|packet| packet.expect("a packet").to_vec());
        (packets.collect(), is_end)
    }
}

pub(super) const CONNECT_7: &[u8] = b"\x01\x07\0\x50\0\x01\x04\x7f\0\0\x01";
/// No address: three bytes of IPv4.
const NOWHERE_7: &[u8] = b"\x01\x07\0\x50\0\x01\x03\x7f\0\0";
const ASSOCIATE_7: &[u8] = b"\x02\x07\0\0\0\x35\0\x01\x04\x7f\0\0\x01";

#[test]
fn what_means_nothing_is_passed_over_and_counted() {
    let mut spoken = Spoken::new(Dialect::Spec);
    assert!(spoken.say_raw(&[0]).is_empty());
    assert!(spoken.say(b"").is_empty());
    assert!(spoken.say(b"\x77\x07\0").is_empty());
    // Data, an end and a datagram of nobody's.
    for nobodys in [
        &b"\x15\x07\0\x01\0x"[..],
        b"\x29\x07\0\x02",
        b"\x16\x07\0\x01\0x",
    ] {
        assert!(spoken.say(nobodys).is_empty());
    }
    assert_eq!(spoken.heard(), (vec![], false));
    assert_eq!(spoken.server.counts().packets_ignored, 3);
    assert_eq!(spoken.server.counts().datagrams_dropped, 1);
    assert_eq!(spoken.say(CONNECT_7).len(), 1);
}

#[test]
fn a_number_that_is_used_again_means_the_new_channel() {
    let mut spoken = Spoken::new(Dialect::Spec);
    let first = spoken.asked(CONNECT_7);
    let both = spoken.say(CONNECT_7);
    let [MuxEvent::Ended(ended), MuxEvent::Asked { channel, .. }] = &both[..] else {
        panic!("{both:?}");
    };
    assert_eq!(ended.channel, first);
    assert_ne!(*channel, first);
    let (_, end) = UnixStream::pair().expect("sockets");
    let late = spoken.server.open(
        first,
        LocalEnd::Stream(socket(end)),
        None,
        Timestamp::default(),
    );
    assert!(late.is_err());
    // It is told nothing of the old one.
    assert_eq!(spoken.heard(), (vec![], false));
}

#[test]
fn there_are_so_many_channels_and_no_more() {
    let mut spoken = Spoken::new(Dialect::Spec);
    for id in 0..4 {
        let mut connect = CONNECT_7.to_vec();
        connect[1] = id;
        assert_eq!(spoken.say(&connect).len(), 1);
    }
    // Whoever counts them hears of it.
    for (asked, kind) in [
        (CONNECT_7, ChannelKind::Tcp),
        (ASSOCIATE_7, ChannelKind::Udp),
    ] {
        let events = spoken.say(asked);
        let [MuxEvent::TurnedAway { asked, answer, .. }] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!((asked.kind(), *answer), (kind, Answer::limit(kind)));
    }
    let (answers, _) = spoken.heard();
    assert_eq!(
        answers,
        [&b"\x01\x07\0\x06\xff\xff"[..], b"\x02\x07\0\x03\0\0"]
    );
}

/// What a client is told that reads nothing waits for it, but not for ever.
#[test]
fn a_tunnel_that_is_to_end_does_so_whether_or_not_its_client_reads() {
    for reads in [true, false] {
        let mut spoken = Spoken::new(Dialect::Spec);
        let has_room = |spoken: &Spoken| {
            let tunnel = spoken.server.tunnels.get(spoken.tunnel);
            tunnel.is_some_and(|(tunnel, _)| tunnel.link.outlet.has_room())
        };
        let mut answers = 0;
        while has_room(&spoken) {
            assert!(answers < 100_000, "all of it finds room");
            assert!(spoken.say(NOWHERE_7).is_empty());
            answers += 1;
        }
        spoken.server.leave(spoken.tunnel, CloseReason::Terminated);
        spoken.server.run(Timestamp::default());
        spoken
            .server
            .run(Timestamp::default() + (REST_TIMEOUT - STUCK));
        assert!(spoken.server.poll_event().is_none());
        spoken.server.check_invariants();
        let due = spoken.server.next_deadline();
        let due = due.expect("it is looked at again");
        let mut came = 0;
        if reads {
            came = spoken.heard().0.len();
            spoken.server.handle_tunnel(0, Readiness::WRITABLE);
        }
        let end = due.max(Timestamp::default() + REST_TIMEOUT);
        spoken.server.run(end);
        let left = spoken.server.poll_event();
        let Some(MuxEvent::Lost(lost)) = &left else {
            panic!("{left:?}");
        };
        let how = match reads {
            true => How::Parting,
            false => How::Reset,
        };
        assert_eq!((lost.reason, lost.how), (CloseReason::Terminated, how));
        drop(left);
        if reads {
            let (packets, is_end) = spoken.heard();
            assert_eq!((came + packets.len(), is_end), (answers, true));
        }
        assert_eq!(spoken.server.tunnels(), 0);
        spoken.server.run(end);
        assert_eq!(spoken.server.next_deadline(), None);
    }
}

/// What was in the socket before the tunnel was to end.
#[test]
fn of_a_tunnel_that_is_to_end_nothing_can_be_had_and_why_is_told() {
    let connect = (CONNECT_7, ChannelKind::Tcp);
    let associate = (ASSOCIATE_7, ChannelKind::Udp);
    let echoes = (&b"\x03\x07\0\x01\x04\x7f\0\0\x01"[..], ChannelKind::Icmp);
    let (ended, drained) = (CloseReason::Terminated, CloseReason::Drained);
    for (reason, (payload, kind), told) in [
        (ended, connect, &b"\x01\x07\0\x07\xff\xff"[..]),
        (ended, associate, b"\x02\x07\0\x02\0\0"),
        (ended, echoes, b"\x03\x07\0\x02"),
        (drained, connect, b"\x01\x07\0\x06\xff\xff"),
        (drained, associate, b"\x02\x07\0\x03\0\0"),
    ] {
        let mut spoken = Spoken::new(Dialect::Spec);
        spoken.server.leave(spoken.tunnel, reason);
        let events = spoken.say(payload);
        let [
            MuxEvent::TurnedAway { asked, answer, .. },
            MuxEvent::Lost(lost),
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        let expected = match reason {
            CloseReason::Terminated => Answer::denied(kind),
            _ => Answer::limit(kind),
        };
        assert_eq!((asked.kind(), *answer), (kind, expected), "{reason:?}");
        assert_eq!(lost.reason, reason);
        drop(events);
        assert_eq!(spoken.heard(), (vec![told.to_vec()], true), "{reason:?}");
    }
}

#[test]
fn what_cannot_be_an_address_is_answered() {
    let mut spoken = Spoken::new(Dialect::Original);
    let connect = b"\x01\0\x07\0\x50\x01\x03\x7f\0\0";
    assert!(spoken.say(connect).is_empty());
    assert_eq!(
        spoken.heard(),
        (vec![b"\x01\0\x07\x01\xff\xff".to_vec()], false)
    );
}

#[test]
fn whoever_speaks_the_other_dialect_is_told_so_in_it_and_let_go() {
    let mut spoken = Spoken::new(Dialect::Spec);
    spoken.say(CONNECT_7);
    let events = spoken.say(b"\x21\0\x07\0\x01x");
    let broken = CloseReason::Broken(Side::Left);
    let is_broken =
        |event: &MuxEvent| matches!(event, MuxEvent::Lost(lost) if lost.reason == broken);
    assert!(events.iter().any(is_broken), "{events:?}");
    drop(events);
    assert_eq!(
        spoken.heard(),
        (vec![b"\x01\0\x07\x01\xff\xff".to_vec()], true)
    );
    assert_eq!((spoken.server.tunnels(), spoken.server.channels()), (0, 0));
}

#[test]
fn what_cannot_be_decrypted_ends_the_tunnel_without_a_word() {
    for wire in [&[1; 17][..], &[2; 33]] {
        let mut spoken = Spoken::new(Dialect::Spec);
        spoken.say(CONNECT_7);
        let events = spoken.say_raw(wire);
        let [MuxEvent::Ended(ended), MuxEvent::Lost(lost)] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(ended.reason, CloseReason::Broken(Side::Left));
        assert_eq!((lost.reason, lost.how), (ended.reason, How::Reset));
        drop(events);
        assert_eq!(spoken.heard(), (vec![], true));
    }
}

/// Whoever has shown that it has the key is not said to have another.
#[test]
fn only_of_a_first_packet_that_cannot_be_decrypted_the_key_is_doubted() {
    let (nothing, short, unknown) = (&b""[..], &b"\x01\x07"[..], &b"\x77\x07\0"[..]);
    let (foreign, garbage) = (&b"\x21\0\x07\0\x01x"[..], None);
    for (packets, is_doubted) in [
        (&[garbage][..], true),
        (&[Some(nothing), garbage], true),
        (&[Some(short)], false),
        (&[Some(foreign)], false),
        (&[Some(unknown), garbage], false),
        (&[Some(NOWHERE_7), garbage], false),
        (&[Some(CONNECT_7), garbage], false),
        (&[Some(CONNECT_7), Some(short)], false),
    ] {
        let mut spoken = Spoken::new(Dialect::Spec);
        // What is asked for is turned away.
        if let Some((tunnel, _)) = spoken.server.tunnels.get_mut(spoken.tunnel) {
            tunnel.channels_max = 0;
        }
        let mut events = Vec::new();
        for packet in packets {
            events.extend(match *packet {
                None => spoken.say_raw(&[1; 17]),
                Some([]) => spoken.say_raw(&[0]),
                Some(payload) => spoken.say(payload),
            });
        }
        let is_doubt = |event: &MuxEvent| matches!(event, MuxEvent::Undecrypted { .. });
        assert_eq!(events.iter().any(is_doubt), is_doubted, "{packets:?}");
        assert!(
            matches!(events.last(), Some(MuxEvent::Lost(_))),
            "{packets:?}"
        );
    }
}

#[test]
fn who_goes_once_all_is_said_breaks_nothing_off() {
    for (dialect, said) in [
        (
            Dialect::Spec,
            [&b"\x15\x07\0\x04\0last"[..], b"\x29\x07\0\x02"],
        ),
        (
            Dialect::Original,
            [b"\x21\0\x07\0\x04last", b"\x41\0\x07\x04"],
        ),
    ] {
        let mut spoken = Spoken::new(dialect);
        let connect = match dialect {
            Dialect::Spec => CONNECT_7,
            Dialect::Original => b"\x01\0\x07\0\x50\x01\x04\x7f\0\0\x01",
        };
        let (_, mut origin) = spoken.join(connect);
        let mut wire = Vec::new();
        for payload in said {
            spoken.sealer.seal(&[payload], &mut wire);
        }
        spoken.stream.write_all(&wire).expect("sent");
        let gone = spoken.stream.shutdown(std::net::Shutdown::Write);
        gone.expect("shut");
        let end = Readiness::READABLE | Readiness::READ_CLOSED;
        spoken.server.handle_tunnel(0, end);
        spoken.server.run(Timestamp::default());
        let events: Vec<_> = std::iter::from_fn(|| spoken.server.poll_event()).collect();
        let reasons = events.iter().filter_map(|event| match event {
            MuxEvent::Ended(ended) => Some((ended.reason, ended.socket.as_ref()?.1)),
            _ => None,
        });
        let clean = (CloseReason::Finished(Side::Left), How::Parting);
        assert_eq!(reasons.collect::<Vec<_>>(), [clean], "{dialect:?}");
        drop(events);
        let mut heard = Vec::new();
        origin.read_to_end(&mut heard).expect("an end");
        assert_eq!(heard, b"last");
    }
}

#[test]
fn a_tunnel_that_is_to_leave_waits_for_its_channels() {
    let mut spoken = Spoken::new(Dialect::Spec);
    let channel = spoken.asked(CONNECT_7);
    spoken.server.leave(spoken.tunnel, CloseReason::Drained);
    spoken.server.run(Timestamp::default());
    assert!(spoken.server.poll_event().is_none());
    let limit = Answer::limit(ChannelKind::Tcp);
    spoken.server.refuse(channel, limit);
    spoken.server.run(Timestamp::default());
    let left = spoken.server.poll_event();
    let is_left = matches!(&left, Some(MuxEvent::Lost(lost)) if lost.how == How::Parting);
    assert!(is_left, "{left:?}");
    drop(left);
    assert_eq!(
        spoken.heard(),
        (vec![b"\x01\x07\0\x06\xff\xff".to_vec()], true)
    );
}

#[test]
fn what_comes_behind_the_handshake_is_not_waited_for_again() {
    let (_stream, there) = UnixStream::pair().expect("sockets");
    let mut server = MuxPlane::new(STUCK);
    let mut early = Vec::new();
    Sealer::new(&KEY).seal(&[CONNECT_7], &mut early);
    server.start(TunnelStart {
        socket: socket(there),
        codec: None,
        early,
        key: KEY,
        role: Role::Server,
        dialect: Dialect::Spec,
        channels_max: 4,
    });
    server.run(Timestamp::default());
    assert!(matches!(server.poll_event(), Some(MuxEvent::Asked { .. })));
}

#[test]
fn what_is_refused_holds_up_nobody() {
    let mut spoken = Spoken::new(Dialect::Spec);
    let channel = spoken.asked(CONNECT_7);
    let data = [&b"\x15\x07\0\xe8\x03"[..], &[7; 1000]].concat();
    for _ in 0..QUEUE_BYTES_MAX / 1000 + 1 {
        spoken.say(&data);
    }
    let state = |spoken: &Spoken| {
        let (tunnel, _) = spoken
            .server
            .tunnels
            .get(spoken.tunnel)
            .expect("it is there");
        (tunnel.held.is_some(), tunnel.queued_bytes > 0)
    };
    assert_eq!(state(&spoken), (true, true));
    spoken
        .server
        .refuse(channel, Answer::limit(ChannelKind::Tcp));
    assert_eq!(state(&spoken), (false, false));
    assert_eq!(spoken.server.next_deadline(), None);
    assert_eq!(spoken.say(CONNECT_7).len(), 1);
}

#[test]
fn a_number_that_is_used_again_behind_its_end_breaks_nothing_off() {
    let mut spoken = Spoken::new(Dialect::Original);
    let connect = b"\x01\0\x07\0\x50\x01\x04\x7f\0\0\x01";
    let (_, mut origin) = spoken.join(connect);
    let mut wire = Vec::new();
    for payload in [&b"\x21\0\x07\0\x04last"[..], b"\x41\0\x07\x04", connect] {
        spoken.sealer.seal(&[payload], &mut wire);
    }
    let events = spoken.say_raw(&wire);
    let [MuxEvent::Ended(ended), MuxEvent::Asked { .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(ended.reason, CloseReason::Finished(Side::Left));
    drop(events);
    let mut heard = Vec::new();
    origin.read_to_end(&mut heard).expect("an end");
    assert_eq!(heard, b"last");
}
