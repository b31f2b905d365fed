//! PTTH over QUIC: peers that do not keep to it, or give up, or are too many.

use bytes::Bytes;
use midspan::protocol::ptth_quic::Role;
use midspan::quic::calls::Write;
use midspan::quic::connection::StreamKey;
use midspan::quic::driver::QuicEvent;
use midspan::runtime::clock;
use quinn_proto::ConnectionError;

use super::peers::says_anything::{Proxy, hello, open};
use super::ptth_agents::Meeting;
use super::ptth_quic::meeting;

const PROTOCOL: u64 = 0x12;

fn on_one_core() -> Meeting {
    meeting(&["--cores", "1"])
}

/// Has a proxy say something on a new stream, and be told that it has no place there.
#[track_caller]
fn check_out_of_place(mut proxy: Proxy, said: &[u8]) {
    let stream = proxy.open();
    proxy.say(stream, said);
    assert_eq!(proxy.hear(stream, 4), [40, said[0], 0, 0]);
    assert_eq!(proxy.close_code(), PROTOCOL);
}

#[test]
fn what_has_no_place_is_answered_and_ends_the_connection() {
    let meeting = on_one_core();
    let client = || Proxy::join(&meeting, Role::ClientSide, "alice").0;
    let server = || Proxy::join(&meeting, Role::ServerSide, "home").0;
    let stranger = || Proxy::connect(&meeting);
    // Something else than a hello on the first stream, and what is none.
    check_out_of_place(stranger(), &open("home"));
    check_out_of_place(stranger(), &[99, 0, 0, 0]);
    check_out_of_place(stranger(), &[2, 0, 8, 0]);
    check_out_of_place(stranger(), &[2, 0, 0, 1, 9]);
    // A hello on another one, and what the relay says itself, or proxies to each other.
    check_out_of_place(client(), &hello(Role::ClientSide, "alice"));
    check_out_of_place(client(), &[11, 0, 0, 0]);
    check_out_of_place(client(), &[12, 0, 0, 0]);
    // Servers have nothing to ask for.
    check_out_of_place(server(), &open("home"));
}

#[test]
fn nothing_follows_a_hello() {
    let meeting = on_one_core();
    let (mut client, first) = Proxy::join(&meeting, Role::ClientSide, "alice");
    client.say(first, &hello(Role::ClientSide, "alice"));
    assert_eq!(client.hear(first, 4), [40, 2, 0, 0]);
    assert_eq!(client.close_code(), PROTOCOL);
}

#[test]
fn what_is_merely_malformed_ends_its_stream_alone() {
    let meeting = on_one_core();
    let (mut client, _) = Proxy::join(&meeting, Role::ClientSide, "alice");
    let stream = client.open();
    client.say(stream, &[99, 0, 0, 0]);
    assert_eq!(client.hear(stream, 4), [40, 99, 0, 0]);
    let stream = client.open();
    client.say(stream, &open("home"));
    assert_eq!(client.hear(stream, 4), [44, 10, 0, 0]);
}

/// Has a client ask for a server, and give up before that has answered.
#[track_caller]
fn check_given_up(give_up: impl FnOnce(&mut Proxy, StreamKey)) -> u64 {
    let meeting = on_one_core();
    let (mut server, _) = Proxy::join(&meeting, Role::ServerSide, "home");
    let (mut client, _) = Proxy::join(&meeting, Role::ClientSide, "alice");
    let stream = client.open();
    client.say(stream, &open("home"));
    let offered = server.event(|event| match event {
        QuicEvent::Opened(stream) => Some(*stream),
        _ => None,
    });
    give_up(&mut client, stream);
    server.event(|event| match event {
        QuicEvent::Stopped(stream, code) if *stream == offered => Some(*code),
        _ => None,
    })
}

#[test]
fn who_gives_up_has_its_offer_broken_off() {
    let reset = check_given_up(|client, stream| client.act(|driver| driver.reset(stream, 1)));
    assert_eq!(reset, 1);
    let stopped = check_given_up(|client, stream| client.act(|driver| driver.stop(stream, 7)));
    assert_eq!(stopped, 7);
    let gone = check_given_up(|client, _| {
        let connection = client.connection;
        client.act(|driver| driver.close(connection, 0, "", clock::now()));
    });
    assert_eq!(gone, 2);
}

#[test]
fn a_stranger_has_one_stream_and_little_room() {
    let meeting = on_one_core();
    let mut stranger = Proxy::connect(&meeting);
    let connection = stranger.connection;
    let stream = stranger.open();
    assert_eq!(stranger.driver.open(connection), None);
    let mut noise = Bytes::from(vec![0; 1 << 20]);
    assert_eq!(stranger.driver.write(stream, &mut noise), Write::Blocked);
    assert_eq!((1 << 20) - noise.len(), 64 << 10);
    // Who is known has more of both.
    let (mut alice, _) = Proxy::join(&meeting, Role::ClientSide, "alice");
    let [stream, _] = [alice.open(), alice.open()];
    let mut noise = Bytes::from(vec![0; 1 << 20]);
    assert_eq!(alice.driver.write(stream, &mut noise), Write::Done);
}

#[test]
fn an_address_has_so_many_connections() {
    let limit = ["--limit", "connections_per_address_max=2"];
    let meeting = meeting(&[&["--cores", "1"], &limit[..]].concat());
    let _first = Proxy::join(&meeting, Role::ClientSide, "alice");
    let (mut second, _) = Proxy::join(&meeting, Role::ServerSide, "home");
    let mut third = Proxy::dial(&meeting);
    assert!(matches!(
        third.closed(),
        ConnectionError::ConnectionClosed(_)
    ));
    // One that goes makes room.
    let connection = second.connection;
    second.act(|driver| driver.close(connection, 0, "", clock::now()));
    super::patience::until("room for another one", || {
        let mut fourth = Proxy::dial(&meeting);
        fourth.comes_about().then_some(())
    });
}
