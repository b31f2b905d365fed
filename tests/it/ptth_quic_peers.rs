//! PTTH over QUIC: peers that do not keep to it, or give up, or are too many.

use std::io::Write;
use std::net::SocketAddr;
use std::thread;

use midspan::protocol::ptth_quic::Role;
use quinn_proto::{ConnectionError, StreamId};

use super::jet_client::dial;
use super::peers::quic_peer::{QuicPeer, hello, open};
use super::ptth_admin::waits_until;
use super::ptth_agents::{Meeting, key};
use super::ptth_quic::{meeting, meeting_with_admin};
use super::require::require_cores;
use super::rest::{exchange, read_response, request};

const PROTOCOL: u64 = 0x12;

fn on_one_core() -> Meeting {
    meeting(&["--cores", "1"])
}

/// Has a proxy say something on a new stream, and be told that it has no place there.
#[track_caller]
fn check_out_of_place(mut proxy: QuicPeer, said: &[u8]) {
    let stream = proxy.open_with(said);
    assert_eq!(proxy.hear(stream, 4), [40, said[0], 0, 0]);
    assert_eq!(proxy.closed(), PROTOCOL);
}

#[test]
fn what_has_no_place_is_answered_and_ends_the_connection() {
    let meeting = on_one_core();
    let client = || QuicPeer::join(&meeting, Role::ClientSide, "alice").0;
    let server = || QuicPeer::join(&meeting, Role::ServerSide, "home").0;
    let stranger = || QuicPeer::connect(&meeting);
    // Something else than a hello on the first stream, and what is none.
    check_out_of_place(stranger(), &open("home", "22"));
    check_out_of_place(stranger(), &[99, 0, 0, 0]);
    check_out_of_place(stranger(), &[2, 0, 8, 0]);
    check_out_of_place(stranger(), &[2, 0, 0, 1, 9]);
    // A hello on another one, and what the relay says itself, or proxies to each other.
    check_out_of_place(client(), &hello(Role::ClientSide, "alice"));
    check_out_of_place(client(), &[11, 0, 0, 0]);
    check_out_of_place(client(), &[12, 0, 0, 0]);
    // Servers have nothing to ask for.
    check_out_of_place(server(), &open("home", "22"));
}

#[test]
fn nothing_follows_a_hello() {
    let meeting = on_one_core();
    let (mut client, first) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    client.say(first, &hello(Role::ClientSide, "alice"));
    assert_eq!(client.hear(first, 4), [40, 2, 0, 0]);
    assert_eq!(client.closed(), PROTOCOL);
}

#[test]
fn what_is_merely_malformed_ends_its_stream_alone() {
    let meeting = on_one_core();
    let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let stream = client.open_with(&[99, 0, 0, 0]);
    assert_eq!(client.hear(stream, 4), [40, 99, 0, 0]);
    let stream = client.open_with(&open("home", "22"));
    assert_eq!(client.hear(stream, 4), [44, 10, 0, 0]);
}

/// Has a server and a client join a relay, at one core and at two.
#[track_caller]
pub(super) fn wherever_they_are(check: impl Fn(&Meeting, SocketAddr, [QuicPeer; 2])) {
    for [of_server, of_client] in [[0, 0], [0, 1], [1, 0]] {
        let cores = 1 + of_server + of_client;
        if !require_cores(cores.into()) {
            return;
        }
        let (meeting, admin) = meeting_with_admin(&["--cores", &cores.to_string()]);
        let (server, _) = QuicPeer::join_at(of_server, &meeting, Role::ServerSide, "home");
        let (client, _) = QuicPeer::join_at(of_client, &meeting, Role::ClientSide, "alice");
        check(&meeting, admin, [server, client]);
    }
}

/// How a client gives up.
const WAYS: [fn(QuicPeer, StreamId) -> Option<QuicPeer>; 3] = [
    |mut client, stream| {
        client.reset(stream, 7);
        Some(client)
    },
    |mut client, stream| {
        client.stop(stream, 7);
        Some(client)
    },
    |client, _| {
        client.close();
        None
    },
];

#[test]
fn who_gives_up_has_its_offer_broken_off() {
    for give_up in WAYS {
        wherever_they_are(|_, _, [mut server, mut client]| {
            let stream = client.open_with(&open("home", "22"));
            let offered = server.accept();
            let _client = give_up(client, stream);
            // Once the time for an answer is over it would be 48.
            assert_eq!(server.stopped(offered), 1);
        });
    }
}

#[test]
fn who_gives_up_is_not_offered_by_http_any_more() {
    // Nothing else ends before the test has failed.
    let patient = [
        "--limit",
        "quic_answer_timeout_s=300",
        "--limit",
        "ptth_connect_timeout_s=300",
        "--limit",
        "ptth_accept_timeout_s=300",
    ];
    let (meeting, admin) = meeting_with_admin(&[&["--cores", "1"], &patient[..]].concat());
    let headers = format!("X-ApiKey: {}\r\n", key("home"));
    for give_up in WAYS {
        let mut listen = dial(meeting.address);
        let head = request("POST /ptth/v1/listen/22", &headers);
        listen.write_all(head.as_bytes()).expect("sent");
        waits_until(admin, "midspan_listens_waiting", 1.0);
        let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
        let stream = client.open_with(&open("home", "22"));
        let offer = read_response(&mut listen);
        assert_eq!(offer.status, 200);
        let _client = give_up(client, stream);
        waits_until(admin, "midspan_connects_waiting", 0.0);
        let accept = format!("POST /ptth/v1/accept/{}", offer.body);
        assert_eq!(exchange(meeting.address, &accept, &headers).status, 404);
    }
}

#[test]
fn a_stranger_has_one_stream_and_little_room() {
    let meeting = on_one_core();
    let mut stranger = QuicPeer::connect(&meeting);
    let stream = stranger.open();
    assert_eq!(stranger.try_open(), None);
    assert_eq!(stranger.fill(stream, 1 << 20), 64 << 10);
    // Who is known has more of both.
    let (mut alice, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let [stream, _] = [alice.open(), alice.open()];
    assert_eq!(alice.fill(stream, 1 << 20), 1 << 20);
}

#[test]
fn an_address_has_so_many_connections() {
    let limit = ["--limit", "connections_per_address_max=2"];
    let meeting = meeting(&[&["--cores", "1"], &limit[..]].concat());
    let _first = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let (second, _) = QuicPeer::join(&meeting, Role::ServerSide, "home");
    let mut third = QuicPeer::dial(&meeting);
    assert!(matches!(third.lost(), ConnectionError::ConnectionClosed(_)));
    // One that goes makes room.
    second.close();
    super::patience::until("room for another one", || {
        let mut fourth = QuicPeer::dial(&meeting);
        fourth.comes_about().then_some(())
    });
}

#[test]
fn a_server_that_was_let_in_is_there_for_whoever_asks_at_another_core() {
    const ROUNDS: usize = 100;
    if !require_cores(2) {
        return;
    }
    let meeting = meeting(&["--cores", "2"]);
    let (mut client, _) = QuicPeer::join_at(0, &meeting, Role::ClientSide, "alice");
    for round in 0..ROUNDS {
        let (mut server, _) = QuicPeer::join_at(1, &meeting, Role::ServerSide, "home");
        let asked = client.open_with(&open("home", "22"));
        let server = thread::spawn(move || {
            let offered = server.accept();
            server.say(offered, &[53, 11, 0, 0]);
            server.close();
        });
        let answer = client.hear_all(asked).bytes;
        assert_eq!(answer, [53, 10, 0, 0], "in round {round}");
        server.join().expect("it was asked");
    }
}
