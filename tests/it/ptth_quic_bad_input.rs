//! Peers of PTTH over QUIC that do not keep to it: what each is answered, what is counted, and
//! that the relay serves others all the while.

use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use midspan::protocol::ptth_quic::Role;
use quinn_proto::StreamId;

use super::admin::metrics;
use super::agents::{check_echo, echo, service};
use super::patience::{PATIENCE, now, until};
use super::peers::quic_initial::initial;
use super::peers::quic_peer::{Heard, QuicPeer, hello, open};
use super::ptth_agents::Meeting;
use super::ptth_quic::{expose, meeting_with_admin};

/// Below this a datagram may not begin a connection (RFC 9000 §14.1), in bytes.
const INITIAL_BYTES_MIN: usize = 1200;
/// How much more may go to an address than came from it (RFC 9000 §8.1).
const AMPLIFICATION_MAX: usize = 3;

const ON_ONE_CORE: &[&str] = &["--cores", "1"];

/// Expects a refusal, and nothing behind it.
#[track_caller]
pub(super) fn expect_refused(peer: &mut QuicPeer, stream: StreamId, status: u8, kind: u8) {
    let heard = peer.hear_all(stream);
    let bytes = vec![status, kind, 0, 0];
    assert_eq!(heard, Heard { bytes, reset: None });
    assert_eq!(peer.stopped(stream), u64::from(status));
}

pub(super) fn refused(reason: &str) -> String {
    format!("midspan_refused_total{{reason=\"{reason}\"}}")
}

/// Waits until it was counted so often.
#[track_caller]
pub(super) fn expect_count(admin: SocketAddr, name: &str, count: f64) {
    until(name, || (metrics(admin)[name] == count).then_some(()));
}

/// Whether the relay serves as it should.
pub(super) fn check_serving(meeting: &Meeting) {
    let _expose = expose(meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    check_echo(local, 1, 100_000);
}

#[test]
fn what_is_no_packet_is_counted_and_dropped() {
    const ROUNDS: usize = 400;
    let (meeting, admin) = meeting_with_admin(ON_ONE_CORE);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let mut random = fastrand::Rng::with_seed(7);
    let mut short = 0.0;
    for round in 0..ROUNDS {
        let mut datagram = vec![0; round * 7 % 1500];
        random.fill(&mut datagram);
        if round % 2 == 0
            && let Some(first) = datagram.first_mut()
        {
            // Of a connection that there is not, as far as it can be told.
            *first = *first & 0x3f | 0x40;
        }
        short += f64::from(u8::from(
            datagram.first().is_some_and(|first| first & 0x80 == 0),
        ));
        let sent = socket.send_to(&datagram, meeting.quic_address());
        assert_eq!(sent.expect("loopback takes it"), datagram.len());
        // No faster than it is read.
        if round % 50 == 49 {
            let least = short / 2.0;
            until("datagrams that are nobody's", || {
                (metrics(admin)["midspan_quic_unroutable_total"] >= least).then_some(())
            });
        }
    }
    check_serving(&meeting);
}

/// Something of a version that nobody speaks, of so many bytes.
fn other_version(ids: [[u8; 8]; 2], datagram_bytes: usize) -> Vec<u8> {
    let [destination, source] = ids;
    let mut datagram = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    datagram.extend_from_slice(&destination);
    datagram.push(8);
    datagram.extend_from_slice(&source);
    datagram.resize(datagram_bytes, 0);
    datagram
}

/// What is answered to something of another version: RFC 8999 §6.
#[track_caller]
fn expect_versions(socket: &UdpSocket, to: SocketAddr, ids: [[u8; 8]; 2]) {
    let sent = other_version(ids, INITIAL_BYTES_MIN);
    socket.send_to(&sent, to).expect("loopback takes it");
    let mut space = [0; 2048];
    let (length, _) = socket.recv_from(&mut space).expect("an answer");
    let answer = &space[..length];
    let [destination, source] = ids;
    assert!(answer[0] & 0x80 != 0, "{answer:?}");
    let beginning = [&[0, 0, 0, 0, 8][..], &source, &[8], &destination].concat();
    let (begins, versions) = answer[1..].split_at(beginning.len());
    assert_eq!(begins, beginning);
    let (versions, rest) = versions.as_chunks::<4>();
    assert!(versions.contains(&[0, 0, 0, 1]) && rest.is_empty());
}

#[test]
fn other_versions_are_told_of_ours_and_short_ones_nothing() {
    let (meeting, _) = meeting_with_admin(ON_ONE_CORE);
    let to = meeting.quic_address();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("ours");
    for length in [30, 600, INITIAL_BYTES_MIN - 1] {
        let short = other_version([[1; 8], [2; 8]], length);
        socket.send_to(&short, to).expect("loopback takes it");
    }
    // The answer is to this one.
    expect_versions(&socket, to, [[3; 8], [4; 8]]);
    check_serving(&meeting);
}

#[test]
fn a_short_initial_packet_is_not_answered() {
    let (meeting, _) = meeting_with_admin(ON_ONE_CORE);
    let to = meeting.quic_address();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("ours");
    let short = initial(meeting.pin(), [[1; 8], [2; 8]], INITIAL_BYTES_MIN - 1);
    socket.send_to(&short, to).expect("loopback takes it");
    // Two turns of the relay's loop, in which an answer would have left.
    for turn in 0..2 {
        expect_versions(&socket, to, [[3; 8], [turn; 8]]);
    }
    // One byte more, and the same is.
    let long = initial(meeting.pin(), [[5; 8], [6; 8]], INITIAL_BYTES_MIN);
    socket.send_to(&long, to).expect("loopback takes it");
    let mut space = [0; 2048];
    let (length, _) = socket.recv_from(&mut space).expect("an answer");
    assert_eq!(
        space[..15],
        [&space[..1], &[0, 0, 0, 1, 8], &[6; 8], &[8]].concat()
    );
    assert!(length >= INITIAL_BYTES_MIN);
}

#[test]
fn an_address_that_is_not_proven_gets_little() {
    /// The relay repeats itself after 1 s, then after 2.
    const OBSERVED: Duration = Duration::from_secs(4);
    let (meeting, _) = meeting_with_admin(ON_ONE_CORE);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let sent = initial(meeting.pin(), [[1; 8], [2; 8]], INITIAL_BYTES_MIN);
    socket
        .send_to(&sent, meeting.quic_address())
        .expect("loopback takes it");
    let since = now();
    let (mut space, mut lengths) = ([0; 2048], Vec::new());
    while since.elapsed() < OBSERVED {
        let left = OBSERVED.saturating_sub(since.elapsed());
        let left = left.max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left)).expect("ours");
        lengths.extend(socket.recv_from(&mut space).map(|(length, _)| length));
    }
    let bytes: usize = lengths.iter().sum();
    assert!(lengths.len() > 1, "{lengths:?}");
    assert!(bytes <= AMPLIFICATION_MAX * sent.len(), "{lengths:?}");
    check_serving(&meeting);
}

#[test]
fn whoever_says_no_hello_is_sent_away() {
    let (meeting, admin) = meeting_with_admin(ON_ONE_CORE);
    let mut silent = QuicPeer::connect(&meeting);
    let mut slow = QuicPeer::connect(&meeting);
    let _ = slow.open_with(&hello(Role::ClientSide, "alice")[..7]);
    for peer in [&mut silent, &mut slow] {
        assert_eq!(peer.closed(), 0x12);
    }
    expect_count(admin, &refused("silent"), 2.0);
    check_serving(&meeting);
}

#[test]
fn what_is_no_hello_is_answered_and_the_connection_closed() {
    let (meeting, admin) = meeting_with_admin(ON_ONE_CORE);
    let long = [&[2, 0, 4, 1][..], &[b'a'; 1025]].concat();
    let two_keys = b"\x02\0\0\x0a\x01a\x01\0\x01k\x01\0\x01k";
    let cases: [(&str, &[u8]); 9] = [
        ("a body of 1025 bytes", &long),
        ("a kind that is none", &[99, 0, 0, 0]),
        ("an argument beside a body", &[2, 1, 0, 2, 1, b'a']),
        ("a name without letters", &[2, 0, 0, 1, 0]),
        ("a name of other letters", &[2, 0, 0, 2, 1, b':']),
        ("a name beyond the body", &[2, 0, 0, 2, 2, b'a']),
        ("a key beyond the body", b"\x02\0\0\x06\x01a\x01\0\x02k"),
        ("two keys", two_keys),
        ("an open", &open("home", "22")),
    ];
    for (refusals, (what, bytes)) in cases.into_iter().enumerate() {
        println!("{what}");
        let mut peer = QuicPeer::connect(&meeting);
        let stream = peer.open_with(bytes);
        expect_refused(&mut peer, stream, 40, bytes[0]);
        assert_eq!(peer.closed(), 0x12);
        expect_count(admin, &refused("not_a_message"), refusals as f64 + 1.0);
    }
    check_serving(&meeting);
}

#[test]
fn whoever_is_not_known_is_told_so_and_the_connection_closed() {
    let (meeting, admin) = meeting_with_admin(ON_ONE_CORE);
    let without_a_key = [2, 0, 0, 6, 5, b'a', b'l', b'i', b'c', b'e'];
    let cases: [(&str, Vec<u8>); 6] = [
        (
            "a key that is not listed",
            hello(Role::ClientSide, "mallory"),
        ),
        ("a server's key", hello(Role::ClientSide, "home")),
        ("a client's key", hello(Role::ServerSide, "alice")),
        ("no key", without_a_key.to_vec()),
        ("a number", vec![2, 1, 0, 0]),
        ("another's name", {
            let mut own = hello(Role::ClientSide, "alice");
            own[5..10].copy_from_slice(b"carol");
            own
        }),
    ];
    for (refusals, (what, bytes)) in cases.into_iter().enumerate() {
        println!("{what}");
        let mut peer = QuicPeer::connect(&meeting);
        let stream = peer.open_with(&bytes);
        expect_refused(&mut peer, stream, 41, bytes[0]);
        assert_eq!(peer.closed(), 0x11);
        expect_count(admin, &refused("unknown_key"), refusals as f64 + 1.0);
    }
    check_serving(&meeting);
}

#[test]
fn opens_that_are_wrong_leave_the_connection() {
    let (meeting, admin) = meeting_with_admin(ON_ONE_CORE);
    let (mut peer, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let long = [&[10, 0, 4, 1][..], &[b'a'; 1025]].concat();
    let with_more = {
        let mut open = open("home", "22");
        open[3] += 1;
        open.push(0);
        open
    };
    let cases: [(&str, &[u8], u8, &str); 9] = [
        ("a body of 1025 bytes", &long, 40, "not_a_message"),
        ("a kind that is none", &[99, 0, 0, 0], 40, "not_a_message"),
        (
            "an argument beside a body",
            &[10, 1, 0, 1, 0],
            40,
            "not_a_message",
        ),
        (
            "no inner message",
            b"\x0a\0\0\x05\x04home",
            40,
            "not_a_message",
        ),
        ("something behind it", &with_more, 40, "not_a_message"),
        (
            "a server that is none",
            &open("moon", "22"),
            43,
            "out_of_scope",
        ),
        ("another's server", &open("lab", "22"), 43, "out_of_scope"),
        ("a server by number", &[10, 1, 0, 0], 43, "out_of_scope"),
        (
            "a server that is away",
            &open("home", "22"),
            44,
            "server_absent",
        ),
    ];
    for (what, bytes, status, reason) in cases {
        println!("{what}");
        let name = refused(reason);
        let before = metrics(admin)[&name];
        let stream = peer.open_with(bytes);
        expect_refused(&mut peer, stream, status, bytes[0]);
        peer.finish(stream);
        expect_count(admin, &name, before + 1.0);
    }
    check_serving(&meeting);
}

#[test]
fn streams_of_refused_opens_are_given_back() {
    const OPENS: u32 = 5000;
    let (meeting, admin) = meeting_with_admin(ON_ONE_CORE);
    let (mut peer, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    for _ in 0..OPENS {
        let stream = peer.open_with(&open("lab", "22"));
        expect_refused(&mut peer, stream, 43, 10);
        peer.finish(stream);
    }
    expect_count(admin, &refused("out_of_scope"), OPENS.into());
    let target = format!("22={}", service(echo));
    let _expose = expose(&meeting, &[&target]);
    let stream = peer.open_with(&open("home", "22"));
    assert_eq!(peer.hear(stream, 8), [20, 10, 0, 4, 20, 12, 0, 0]);
    peer.say(stream, b"still here");
    peer.finish(stream);
    let bytes = b"still here".to_vec();
    assert_eq!(peer.hear_all(stream), Heard { bytes, reset: None });
}

#[test]
fn opens_that_never_become_whole_time_out() {
    let (meeting, admin) = meeting_with_admin(ON_ONE_CORE);
    let (mut peer, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let opened = |peer: &mut QuicPeer| {
        let stream = peer.try_open()?;
        peer.say(stream, &[10]);
        Some(stream)
    };
    let streams: Vec<_> = std::iter::from_fn(|| opened(&mut peer)).collect();
    writeln!(io::stderr(), "{} streams without an open", streams.len()).expect("told");
    for stream in &streams {
        let Heard { bytes, reset } = peer.hear_all(*stream);
        assert_eq!((bytes, reset), (Vec::new(), Some(48)));
        peer.finish(*stream);
    }
    expect_count(admin, &refused("too_slow"), streams.len() as f64);
    // All of them may be opened again.
    for _ in &streams {
        let stream = peer.open_with(&open("lab", "22"));
        expect_refused(&mut peer, stream, 43, 10);
        peer.finish(stream);
    }
    check_serving(&meeting);
}
