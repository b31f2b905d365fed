//! Every transport joined with every other.

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::jet_client::new_place;
use super::relay_process::Relay;
use super::require::require_cores;
use super::transports::{Leg, Role, Transport};

/// What goes each way; without optimisation TLS takes its time.
const STREAM_BYTES: usize = if cfg!(debug_assertions) {
    4 << 20
} else {
    64 << 20
};

/// What is written at a time.
const WRITE_BYTES: usize = 48 << 10;

const BANNER: &[u8] = b"220 ready\r\n";
const EARLY: &[u8] = b"what comes behind the request";

/// The byte at one place of a stream.
fn pattern(seed: u64, place: usize) -> u8 {
    let mixed = (place as u64 / 8 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_le_bytes()[place % 8]
}

fn send(leg: &mut Leg, seed: u64) {
    let mut sent = 0;
    while sent < STREAM_BYTES {
        let end = STREAM_BYTES.min(sent + WRITE_BYTES);
        let bytes: Vec<u8> = (sent..end).map(|place| pattern(seed, place)).collect();
        leg.write_all(&bytes);
        sent = end;
    }
}

fn receive(leg: &mut Leg, seed: u64) {
    let mut received = 0;
    let mut buffer = vec![0; 64 << 10];
    while received < STREAM_BYTES {
        let wanted = buffer.len().min(STREAM_BYTES - received);
        let count = leg.read(&mut buffer[..wanted]);
        assert!(count > 0, "an end after {received} bytes");
        for (offset, byte) in buffer[..count].iter().enumerate() {
            let place = received + offset;
            assert_eq!(*byte, pattern(seed, place), "at {place}");
        }
        received += count;
    }
}

/// Joins two legs and has them say all that a session may.
fn check(relay: SocketAddr, accepting: Transport, connecting: Transport) {
    let place = new_place();
    let mut acceptor = Leg::come(relay, accepting, Role::Accept, place, BANNER);
    let mut connector = Leg::come(relay, connecting, Role::Connect, place, EARLY);
    connector.expect(BANNER);
    acceptor.expect(EARLY);

    // A reader who begins when nothing more can be written.
    let (sent, is_sent) = channel();
    let sending = thread::spawn(move || {
        send(&mut connector, 1);
        sent.send(()).expect("somebody waits");
        connector
    });
    let stalls = is_sent.recv_timeout(Duration::from_millis(100)).is_err();
    receive(&mut acceptor, 1);
    let mut connector = sending.join().expect("sent");
    assert!(
        stalls || cfg!(debug_assertions),
        "the relay takes more than it may hold"
    );

    let sending = thread::spawn(move || {
        send(&mut acceptor, 2);
        acceptor
    });
    receive(&mut connector, 2);
    let mut acceptor = sending.join().expect("sent");

    connector.end();
    acceptor.expect_end();
    if !accepting.is_websocket() && !connecting.is_websocket() {
        acceptor.write_all(b"an answer behind the end of the question");
        connector.expect(b"an answer behind the end of the question");
        acceptor.end();
    }
    connector.expect_end();
}

#[test]
fn any_transport_is_joined_with_any_other() {
    if !require_cores(2) {
        return;
    }
    let relay = Relay::start(&["--create-on-accept=true"]);
    for accepting in Transport::ALL {
        for connecting in Transport::ALL {
            check(relay.address, accepting, connecting);
        }
    }
    let ended = relay.stop();
    let streams = 2 * STREAM_BYTES + BANNER.len() + EARLY.len();
    let answers = 4 * b"an answer behind the end of the question".len();
    let bytes = u64::try_from(16 * streams + answers).expect("small");
    assert_eq!(ended.counters.count("paired"), 16);
    assert_eq!(ended.counters.count("bytes_relayed"), bytes);
    // Half of the legs, but for chance.
    assert!(
        ended.counters.count("handed_in") > 0,
        "all came home by chance"
    );
}

#[test]
fn an_end_that_comes_with_the_request_is_passed_on() {
    let relay = Relay::start(&["--create-on-accept=true"]);
    for connecting in [Transport::Tls, Transport::Wss] {
        let place = new_place();
        let mut acceptor = Leg::come(relay.address, Transport::Tcp, Role::Accept, place, b"");
        let _connector = Leg::come_and_end(relay.address, connecting, place, EARLY);
        acceptor.expect(EARLY);
        acceptor.expect_end();
    }
}
