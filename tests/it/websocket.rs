//! What WebSocket has beside bytes: answers before the upgrade, pings, closes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use midspan::protocol::jet::Place;
use midspan::protocol::websocket::{CloseCode, ControlFrame, ControlPayload, MaskKey};
use rustix::event::{Timespec, poll};

use super::jet_client::{
    End, accept, connect, dial, granted, new_association, new_place, pair, ping_pong, read_to_end,
    refused,
};
use super::patience::now;
use super::relay_process::Relay;
use super::transports::{Leg, Role, Transport};

const MASK: Option<MaskKey> = Some(MaskKey([1, 2, 3, 4]));

/// A client that does nothing by itself.
struct Raw(TcpStream);

impl Raw {
    fn ask(relay: SocketAddr, verb: &str, place: Place, headers: &str) -> Self {
        let mut stream = dial(relay);
        let association = place.association;
        let path = match place.candidate {
            Some(candidate) => format!("/jet/{verb}/{association}/{candidate}"),
            None => format!("/jet/{verb}/{association}"),
        };
        let head = format!("GET {path} HTTP/1.1\r\nHost: relay\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        Self(stream)
    }

    fn upgrade(relay: SocketAddr, verb: &str, place: Place) -> Self {
        let mut raw = Self::ask(relay, verb, place, UPGRADE);
        assert_eq!(raw.status(), 101);
        raw
    }

    /// The status of an answer, whose head is read to its end.
    fn status(&mut self) -> u16 {
        let head = self.head();
        head[9..12].parse().expect("a status")
    }

    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        String::from_utf8(head).expect("text")
    }

    fn say(&mut self, frame: &ControlFrame) {
        self.0.write_all(frame.as_bytes()).expect("sent");
    }

    fn expect(&mut self, frame: &ControlFrame) {
        let mut bytes = vec![0; frame.as_bytes().len()];
        self.0.read_exact(&mut bytes).expect("a frame");
        assert_eq!(bytes, frame.as_bytes());
    }

    fn expect_close(mut self, code: CloseCode) {
        self.expect(&ControlFrame::close(Some(code), None));
        assert_eq!(read_to_end(&mut self.0), (Vec::new(), End::Closed));
    }
}

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn a_request_that_cannot_be_met_is_answered_before_the_upgrade() {
    let mut relay = Relay::start(&["--create-on-accept=false"]);
    let address = relay.address;
    let created = || {
        let place = new_association();
        let mut stream = dial(address);
        let line = format!("POST /jet/association/{} HTTP/1.1\r\n", place.association);
        let head = format!("{line}Host: relay\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let (answer, _) = read_to_end(&mut stream);
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        place
    };
    let check = |verb, place, headers: &str, expected| {
        let mut raw = Raw::ask(address, verb, place, headers);
        assert_eq!(raw.status(), expected, "{verb} {headers}");
        assert_eq!(read_to_end(&mut raw.0), (Vec::new(), End::Closed));
    };
    let known = created();
    check("accept", new_place(), UPGRADE, 404);
    check("connect", new_place(), UPGRADE, 404);
    check("test", new_place(), UPGRADE, 404);
    check("connect", known, UPGRADE, 428);
    check("accept", known, "", 426);
    check("accept", known, &UPGRADE.replace("13", "12"), 426);
    check("accept", known, &UPGRADE.replace("-Key", "-Lock"), 400);

    let mut asked = Raw::ask(address, "accept", known, "");
    assert!(asked.head().contains("\r\nSec-WebSocket-Version: 13\r\n"));

    Raw::upgrade(address, "test", known).expect_close(CloseCode::NORMAL);
    let acceptor = Raw::upgrade(address, "accept", known);
    let connector = Raw::upgrade(address, "connect", known);
    check("accept", known, UPGRADE, 409);
    check("connect", known, UPGRADE, 409);
    drop((acceptor, connector));

    let refused = relay.counters().refused().len();
    assert_eq!(refused, 5, "{:?}", relay.counters());
    relay.stop().check_clean();
}

#[test]
fn an_acceptor_is_told_for_how_long_it_may_wait() {
    let relay = Relay::start(&["--limit", "association_ttl_s=77"]);
    let place = new_place();
    let mut acceptor = Raw::ask(relay.address, "accept", place, UPGRADE);
    assert!(acceptor.head().contains("\r\nJet-Timeout: 77\r\n"));
    let mut connector = Raw::ask(relay.address, "connect", place, UPGRADE);
    assert!(!connector.head().contains("Jet-Timeout"));
}

#[test]
fn the_first_protocol_that_is_offered_is_chosen() {
    let relay = Relay::start(&[]);
    let offers = format!("{UPGRADE}Sec-WebSocket-Protocol: binary, base64\r\n");
    let mut offering = Raw::ask(relay.address, "accept", new_place(), &offers);
    assert!(
        offering
            .head()
            .contains("\r\nSec-WebSocket-Protocol: binary\r\n")
    );
    let mut silent = Raw::ask(relay.address, "accept", new_place(), UPGRADE);
    assert!(!silent.head().contains("Sec-WebSocket-Protocol"));
}

#[test]
fn pings_are_answered_while_one_waits_and_in_a_pair() {
    let relay = Relay::start(&[]);
    let place = new_place();
    let payload = ControlPayload::new(b"are you there");
    let mut acceptor = Raw::upgrade(relay.address, "accept", place);
    acceptor.say(&ControlFrame::ping(&payload, MASK));
    acceptor.expect(&ControlFrame::pong(&payload, None));
    let _connector = granted(relay.address, &connect(place));
    acceptor.say(&ControlFrame::ping(&payload, MASK));
    acceptor.expect(&ControlFrame::pong(&payload, None));
}

#[test]
fn the_silent_are_asked_and_then_given_up() {
    let mut relay = Relay::start(&[
        "--limit",
        "websocket_ping_s=1",
        "--limit",
        "websocket_pong_timeout_s=1",
    ]);
    let ping = ControlFrame::ping(&ControlPayload::new(&[]), None);
    let pong = ControlFrame::pong(&ControlPayload::new(&[]), MASK);
    // One that answers stays, however long it waits.
    let place = new_place();
    let mut acceptor = Raw::upgrade(relay.address, "accept", place);
    for _ in 0..3 {
        acceptor.expect(&ping);
        acceptor.say(&pong);
    }
    let mut connector = granted(relay.address, &connect(place));
    acceptor.expect(&ping);
    // One that does not takes its pair with it.
    let (rest, end) = read_to_end(&mut connector);
    assert_eq!((rest.len(), end), (0, End::Reset));
    relay.wait_for_counters("given up", |counters| {
        counters.count("ended.left_timed_out") == 1
    });
    // And none waits any more.
    let place = new_place();
    let mut acceptor = Raw::upgrade(relay.address, "accept", place);
    acceptor.expect(&ping);
    acceptor.expect_close(CloseCode::GOING_AWAY);
}

#[test]
fn an_acceptor_that_is_replaced_or_has_expired_is_told() {
    let relay = Relay::start(&[]);
    let place = new_place();
    let first = Raw::upgrade(relay.address, "accept", place);
    let second = Raw::upgrade(relay.address, "accept", place);
    first.expect_close(CloseCode::GOING_AWAY);
    let third = granted(relay.address, &accept(place));
    second.expect_close(CloseCode::GOING_AWAY);
    drop(third);

    let leaving = Raw::upgrade(relay.address, "accept", new_place());
    relay.stop();
    leaving.expect_close(CloseCode::GOING_AWAY);
}

#[test]
fn a_close_ends_both_ways_behind_what_was_sent() {
    let relay = Relay::start(&[]);
    let place = new_place();
    let mut acceptor = granted(relay.address, &accept(place));
    let mut connector = Raw::upgrade(relay.address, "connect", place);
    // What the acceptor still says is not wanted, and does it no harm.
    connector.0.write_all(b"\x82\x83\0\0\0\0bye").expect("sent");
    connector.say(&ControlFrame::close(CloseCode::from_wire(4001), MASK));
    let echo = CloseCode::from_wire(4001).expect("a code");
    connector.expect_close(echo);
    let _ = acceptor.write_all(b"is anybody there?");
    let (bytes, end) = read_to_end(&mut acceptor);
    assert_eq!((bytes, end), (b"bye".to_vec(), End::Closed));
}

#[test]
fn one_that_waits_and_closes_is_forgotten_unless_it_left_something() {
    let relay = Relay::start(&[]);
    let place = new_place();
    let mut acceptor = Raw::upgrade(relay.address, "accept", place);
    acceptor.say(&ControlFrame::close(Some(CloseCode::NORMAL), MASK));
    acceptor.expect_close(CloseCode::NORMAL);
    refused(relay.address, &connect(place), 400);

    let mut acceptor = Raw::upgrade(relay.address, "accept", place);
    acceptor
        .0
        .write_all(b"\x82\x85\0\0\0\0hello")
        .expect("sent");
    acceptor.say(&ControlFrame::close(Some(CloseCode::NORMAL), MASK));
    let mut connector = granted(relay.address, &connect(place));
    assert_eq!(
        read_to_end(&mut connector),
        (b"hello".to_vec(), End::Closed)
    );
    acceptor.expect_close(CloseCode::NORMAL);
}

#[test]
fn one_that_breaks_the_protocol_is_told_and_the_other_sees_a_cut() {
    let mut relay = Relay::start(&[]);
    let broken: [(&[u8], CloseCode); 3] = [
        (b"\x83\x80\0\0\0\0", CloseCode::PROTOCOL_ERROR),
        (b"\x82\x03abc", CloseCode::PROTOCOL_ERROR),
        (b"\x81\x82\0\0\0\0\xc0\xaf", CloseCode::INVALID_DATA),
    ];
    for (frame, code) in broken {
        let place = new_place();
        let mut acceptor = granted(relay.address, &accept(place));
        let mut connector = Raw::upgrade(relay.address, "connect", place);
        connector.0.write_all(frame).expect("sent");
        connector.expect_close(code);
        assert_eq!(read_to_end(&mut acceptor), (Vec::new(), End::Reset));
    }
    let counters = relay.counters();
    assert_eq!(counters.count("ended.right_broke_protocol"), 3);
    // One that waits is told as well.
    let mut acceptor = Raw::upgrade(relay.address, "accept", new_place());
    acceptor.0.write_all(b"\x82\x03abc").expect("sent");
    acceptor.expect_close(CloseCode::PROTOCOL_ERROR);
    relay.stop().check_clean();
}

#[test]
fn a_flood_before_there_is_a_connector_is_not_read() {
    let mut relay = Relay::start(&[]);
    let place = new_place();
    let mut acceptor = Raw::upgrade(relay.address, "accept", place);
    acceptor.0.set_nonblocking(true).expect("a socket");
    // Frames of a kilobyte, until neither kernel takes more.
    let frame = [b"\x82\xfe\x04\0\0\0\0\0".to_vec(), vec![b'x'; 1024]].concat();
    let mut flooded = 0;
    while let Ok(count) = acceptor.0.write(&frame[flooded % frame.len()..]) {
        flooded += count;
        assert!(flooded < 64 << 20, "it is read to its end");
    }
    assert_eq!(relay.counters().gauge("spill_bytes"), 0);
    // Whoever comes gets all of it.
    let mut connector = Leg::come(relay.address, Transport::Tcp, Role::Connect, place, b"");
    let whole = flooded / frame.len() * 1024;
    connector.expect(&vec![b'x'; whole]);
    drop((acceptor, connector));
    relay.stop();
}

#[test]
fn a_slow_reader_is_not_taken_for_a_dead_one() {
    let relay = Relay::start(&[
        "--limit",
        "websocket_ping_s=1",
        "--limit",
        "websocket_pong_timeout_s=1",
    ]);
    let place = new_place();
    let mut acceptor = granted(relay.address, &accept(place));
    let mut connector = Raw::upgrade(relay.address, "connect", place);
    acceptor.set_nonblocking(true).expect("a socket");
    let mut sent = 0;
    // It takes no more only once all buffers on the way are full, and then the
    // connector has not read for longer than it may be silent.
    let since = now();
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    while now().duration_since(since) < Duration::from_secs(5) {
        match acceptor.write(&[7; 64 << 10]) {
            Ok(count) => sent += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        poll(&mut [], Some(&pause)).expect("poll waits");
    }
    drop(acceptor);
    let mut received = 0;
    let mut buffer = vec![0; 64 << 10];
    while received < sent {
        let count = connector.0.read(&mut buffer).expect("it is still there");
        assert!(count > 0, "{received} of {sent}");
        received += count;
    }
}

#[test]
fn who_pings_without_end_leaves_others_their_turn() {
    let relay = Relay::start(&["--cores", "1"]);
    let mut flooding = Raw::upgrade(relay.address, "accept", new_place()).0;
    let mut answers = flooding.try_clone().expect("a second handle");
    let burst = ControlFrame::ping(&ControlPayload::new(&[]), MASK)
        .as_bytes()
        .repeat(10_000);
    let flooder = thread::spawn(move || while flooding.write_all(&burst).is_ok() {});
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(1..) = answers.read(&mut buffer) {}
    });
    for _ in 0..50 {
        let (mut acceptor, mut connector) = pair(relay.address, new_place());
        ping_pong(&mut connector, &mut acceptor);
    }
    assert!(
        !flooder.is_finished(),
        "others had to wait until it stopped"
    );
    relay.stop().check_clean();
    flooder.join().expect("it ended");
    reader.join().expect("it ended");
}
