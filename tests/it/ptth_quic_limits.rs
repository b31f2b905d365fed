//! PTTH over QUIC: for how long things may last, and how many there may be.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};

use midspan::protocol::ptth_quic::Role;
use midspan::runtime::clock;

use super::agent_process::Program;
use super::agents::{assert_reset, dial, echo, service, session, try_ping};
use super::patience::until;
use super::peers::quic_peer::{Heard, QuicPeer, STREAMS_MAX, open};
use super::ptth_agents::Meeting;
use super::ptth_quic::{expose, meeting, meeting_with_admin};
use super::ptth_quic_bad_input::{expect_count, expect_refused, refused};
use super::ptth_quic_stalls::GRANTED;
use super::require::require_cores;

fn limited(limit: &str) -> Meeting {
    meeting(&["--cores", "1", "--limit", limit])
}

#[track_caller]
fn assert_expired(relay: &Program) {
    let line = relay.logged("stream ended");
    assert!(line.contains("reason=\"expired\""), "{line}");
}

#[test]
fn what_carries_nothing_ends_and_bytes_keep_it() {
    for limit in ["ptth_idle_s=1", "session_idle_s=1"] {
        let done = (0..5).any(|_| do_bytes_keep_it(limit));
        assert!(done, "{limit}: no session outlived a silent one");
    }
}

/// Whether a byte now and then keeps a session while another one ends; on a machine that is too
/// busy there may be too long between two bytes.
fn do_bytes_keep_it(limit: &str) -> bool {
    let meeting = limited(limit);
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    let (kept, mut silent) = (dial(local), session(local));
    silent.set_nonblocking(true).expect("a socket");
    let is_kept = until("the silent one's end", || {
        if try_ping(&kept).is_err() {
            return Some(false);
        }
        let error = silent.read(&mut [0]).expect_err("a reset");
        (error.kind() != ErrorKind::WouldBlock).then_some(true)
    });
    assert_expired(&meeting.relay);
    if !is_kept || try_ping(&kept).is_err() {
        return false;
    }
    // And now it is silent too.
    assert_reset(&kept);
    assert_expired(&meeting.relay);
    true
}

#[test]
fn a_half_closed_session_may_be_silent_for_its_own_time() {
    let meeting = limited("ptth_half_closed_s=1");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = listener.local_addr().expect("bound").to_string();
    let _expose = expose(&meeting, &[&target]);
    let (_forward, local) = meeting.forward("home");
    let session = || {
        let client = dial(local);
        let (service, _) = listener.accept().expect("a connection");
        (client, service)
    };
    let (mut whole, mut serving) = session();
    let (half, _service) = session();
    half.shutdown(Shutdown::Write).expect("connected");
    assert_reset(&half);
    assert_expired(&meeting.relay);
    whole.write_all(b"!").expect("taken");
    serving.read_exact(&mut [0]).expect("a byte");
}

#[test]
fn a_session_lasts_as_long_as_it_may() {
    let meeting = limited("session_ttl_s=1");
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    let stream = dial(local);
    until("its end", || try_ping(&stream).err());
    assert_expired(&meeting.relay);
}

#[test]
fn both_sides_are_told_of_an_end_wherever_they_are() {
    if !require_cores(2) {
        return;
    }
    let target = format!("echo={}", service(echo));
    // The client comes to the first core.
    for steer in [0, 1] {
        let mut meeting = meeting(&["--cores", "2", "--limit", "session_ttl_s=1"]);
        let url = meeting.url.clone();
        meeting.url = format!("{url}&steer={steer}");
        let expose = expose(&meeting, &[&target]);
        meeting.url = url;
        let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
        let stream = client.open_with(&open("home", "echo"));
        assert_eq!(client.hear(stream, GRANTED.len()), GRANTED);
        let bytes = Vec::new();
        let reset = Some(53);
        assert_eq!(client.hear_all(stream), Heard { bytes, reset });
        assert_eq!(client.stopped(stream), 53);
        assert_expired(&meeting.relay);
        expose.logged("stream ended");
    }
}

#[test]
fn a_client_has_so_many_streams() {
    let meeting = limited("quic_streams_per_client_max=1");
    let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let only = client.open();
    assert_eq!(client.try_open(), None);
    client.say(only, &open("home", "22"));
    assert_eq!(client.hear(only, 4), [44, 10, 0, 0]);
    client.finish(only);
    client.open();
}

#[test]
fn streams_are_connections_too() {
    // Those of the two proxies are the first.
    let own = ["--cores", "1", "--limit", "connections_max=4"];
    let (meeting, admin) = meeting_with_admin(&own);
    let _expose = expose(&meeting, &[&format!("22={}", service(echo))]);
    let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let [first, second] = [(); 2].map(|()| client.open_with(&open("home", "22")));
    for stream in [first, second] {
        assert_eq!(client.hear(stream, GRANTED.len()), GRANTED);
    }
    let third = client.open_with(&open("home", "22"));
    expect_refused(&mut client, third, 53, 10);
    client.finish(third);
    expect_count(admin, &refused("too_many_connections"), 1.0);
    // One that ends makes room.
    client.finish(first);
    let bytes = Vec::new();
    assert_eq!(client.hear_all(first), Heard { bytes, reset: None });
    meeting.relay.logged("stream ended");
    let fourth = client.open_with(&open("home", "22"));
    assert_eq!(client.hear(fourth, GRANTED.len()), GRANTED);
}

#[test]
fn a_server_has_so_many_streams() {
    let (meeting, admin) = meeting_with_admin(&["--cores", "1"]);
    let (_server, _) = QuicPeer::join(&meeting, Role::ServerSide, "home");
    let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    // They are offered, and wait for an answer.
    let waiting = usize::try_from(STREAMS_MAX).expect("a few");
    let _waiting = Vec::from_iter((0..waiting).map(|_| client.open_with(&open("home", "22"))));
    let last = client.open_with(&open("home", "22"));
    expect_refused(&mut client, last, 53, 10);
    expect_count(admin, &refused("port_busy"), 1.0);
}

#[test]
fn a_relay_that_stops_takes_no_streams() {
    let (meeting, admin) = meeting_with_admin(&["--cores", "1"]);
    let _expose = expose(&meeting, &[&format!("22={}", service(echo))]);
    let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let running = client.open_with(&open("home", "22"));
    assert_eq!(client.hear(running, GRANTED.len()), GRANTED);
    meeting.relay.terminate();
    meeting.relay.logged("stopping");
    let late = client.open_with(&open("home", "22"));
    expect_refused(&mut client, late, 53, 10);
    expect_count(admin, &refused("draining"), 1.0);
}

#[test]
fn sessions_wait_for_streams_that_end() {
    let meeting = limited("quic_streams_per_client_max=1");
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    let first = session(local);
    let mut second = dial(local);
    second.write_all(b"!").expect("taken");
    drop(first);
    second.read_exact(&mut [0]).expect("an echo");
}

#[test]
fn whoever_does_not_answer_is_not_waited_for() {
    let meeting = limited("quic_answer_timeout_s=1");
    let (mut server, _) = QuicPeer::join(&meeting, Role::ServerSide, "home");
    let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let stream = client.open();
    let since = clock::now();
    client.say(stream, &open("home", "22"));
    assert_eq!(client.hear(stream, 4), [48, 10, 0, 0]);
    assert!(clock::now().since(since).as_secs() >= 1);
    let offered = server.accept();
    assert_eq!(server.stopped(offered), 48);
}

#[test]
fn whoever_says_nothing_is_let_go() {
    let meeting = limited("quic_hello_timeout_s=1");
    let mut stranger = QuicPeer::connect(&meeting);
    assert_eq!(stranger.closed(), 0x12);
}
