//! PTTH over QUIC: for how long things may last, and how many there may be.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use midspan::protocol::ptth_quic::Role;
use midspan::runtime::clock;

use super::agent_process::Program;
use super::agents::{dial, echo, service};
use super::patience::until;
use super::peers::quic_peer::{QuicPeer, open};
use super::ptth_agents::Meeting;
use super::ptth_quic::{expose, meeting};

fn limited(limit: &str) -> Meeting {
    meeting(&["--cores", "1", "--limit", limit])
}

/// Sends a byte to and fro, if that goes.
fn ping(stream: &mut TcpStream) -> Option<()> {
    stream.write_all(b"!").ok()?;
    stream.read_exact(&mut [0]).ok()
}

#[track_caller]
fn assert_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[track_caller]
fn assert_expired(relay: &Program) {
    let line = relay.logged("stream ended");
    assert!(line.contains("reason=\"expired\""), "{line}");
}

#[test]
fn what_carries_nothing_ends_and_bytes_keep_it() {
    for limit in ["ptth_idle_s=1", "session_idle_s=1"] {
        let meeting = limited(limit);
        let _expose = expose(&meeting, &[&service(echo).to_string()]);
        let (_forward, local) = meeting.forward("home");
        let (mut kept, mut silent) = (dial(local), dial(local));
        ping(&mut silent).expect("an echo");
        silent.set_nonblocking(true).expect("a socket");
        until("the silent one's end", || {
            ping(&mut kept).expect("an echo");
            match silent.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                ended => Some(ended.expect_err("a reset")),
            }
        });
        assert_expired(&meeting.relay);
        ping(&mut kept).expect("an echo");
        // And now it is silent too.
        assert_reset(&mut kept);
        assert_expired(&meeting.relay);
    }
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
    let (mut half, _service) = session();
    half.shutdown(Shutdown::Write).expect("connected");
    assert_reset(&mut half);
    assert_expired(&meeting.relay);
    whole.write_all(b"!").expect("taken");
    serving.read_exact(&mut [0]).expect("a byte");
}

#[test]
fn a_session_lasts_as_long_as_it_may() {
    let meeting = limited("session_ttl_s=1");
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    let mut stream = dial(local);
    ping(&mut stream).expect("an echo");
    until("its end", || ping(&mut stream).is_none().then_some(()));
    assert_expired(&meeting.relay);
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
fn sessions_wait_for_streams_that_end() {
    let meeting = limited("quic_streams_per_client_max=1");
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    let mut first = dial(local);
    ping(&mut first).expect("an echo");
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
