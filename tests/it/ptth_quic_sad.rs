//! What goes wrong with PTTH over QUIC, and how it comes right again: the document's list, with
//! real processes. Each recovery's time is printed.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};

use midspan::protocol::ptth_quic::{CloseCode, Role};
use midspan::runtime::clock;
use rustix::process::Signal;

use super::admin::status;
use super::agent_process::Program;
use super::agents::{
    Transfer, assert_reset, check_echo, dial, echo, ping, service, session, try_ping,
};
use super::patience::{PATIENCE, until};
use super::peers::quic_peer::QuicPeer;
use super::ptth_agents::{Meeting, relay};
use super::ptth_quic::{expose, meeting, meeting_with_admin};

/// Dials until somebody answers, and prints how long that took.
fn recovers(what: &str, local: SocketAddr) {
    let since = clock::now();
    until("an echo", || try_ping(&dial(local)).ok());
    let back_ms = clock::now().since(since).as_millis();
    writeln!(io::stderr(), "{what}: back after {back_ms} ms").expect("told");
}

/// The relay once more, at the same addresses.
fn restarted(meeting: &Meeting) -> (Program, SocketAddr) {
    let [at, listen] = [meeting.quic_address(), meeting.address].map(|at| at.to_string());
    let options = ["--cores", "1", "--quic-listen", &at];
    relay(meeting.folder.path(), &listen, &options)
}

#[test]
fn a_server_that_is_killed_is_replaced_by_its_successor() {
    let meeting = meeting(&["--cores", "1"]);
    let target = service(echo).to_string();
    let first = expose(&meeting, &[&target]);
    let (_forward, local) = meeting.forward("home");
    let running = session(local);
    first.signal(Signal::KILL);
    let _second = expose(&meeting, &[&target]);
    // Whose connection is dead is noticed by the name.
    assert_reset(&running);
    recovers("server killed and restarted", local);
}

#[test]
fn a_client_that_is_killed_takes_its_sessions_along() {
    let meeting = meeting(&["--cores", "1"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = listener.local_addr().expect("bound").to_string();
    let _expose = expose(&meeting, &[&target]);
    let accept = || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(b"!").expect("room");
        stream
    };
    let (forward, local) = meeting.forward("home");
    let mut first = dial(local);
    let served = accept();
    first.read_exact(&mut [0]).expect("a greeting");
    forward.signal(Signal::KILL);
    let (_forward, local) = meeting.forward("home");
    // The new one has the name now, and the server's proxy is as it was.
    let mut second = dial(local);
    let _served = accept();
    second.read_exact(&mut [0]).expect("a greeting");
    assert_reset(&served);
}

#[test]
fn a_client_program_that_goes_ends_its_session_alone() {
    let meeting = meeting(&["--cores", "1"]);
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    let stays = session(local);
    drop(session(local));
    meeting.relay.logged("stream ended");
    ping(&stays);
    check_echo(local, 1, 10_000);
}

/// Has a relay be killed and started once more, and the proxies learn by a stateless reset
/// ([RFC 9000 §10.3]) that it knows nothing of them, instead of missing it after a while.
///
/// [RFC 9000 §10.3]: https://www.rfc-editor.org/rfc/rfc9000#section-10.3
#[track_caller]
fn check_told(transfers: usize) {
    let done = (0..5).any(|_| are_told(transfers));
    assert!(done, "each time somebody missed the relay first");
}

/// Whether both are told before they have their doubts, which on a machine that is too busy come
/// while the relay starts.
fn are_told(transfers: usize) -> bool {
    let mut meeting = meeting(&["--cores", "1"]);
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    let (forward, local) = meeting.forward("home");
    forward.logged("joined the relay");
    let seeds = 0..u32::try_from(transfers).expect("a few");
    let running: Vec<_> = seeds.map(|seed| Transfer::start(local, seed)).collect();
    meeting.relay.signal(Signal::KILL);
    meeting.relay.wait();
    (meeting.relay, _) = restarted(&meeting);
    recovers("relay killed and restarted", local);
    running.into_iter().for_each(Transfer::broken_off);
    for program in [&expose, &forward] {
        program.logged("joined the relay");
    }
    [expose, forward].map(Program::whole_log).iter().all(|log| {
        let lost = log.find("the relay's connection is lost");
        let (before, after) = log.split_at(lost.unwrap_or(log.len()));
        if before.contains("the relay does not answer") {
            return false;
        }
        let line = after.lines().next().unwrap_or_default();
        assert!(line.contains("reset by peer"), "{log}");
        true
    })
}

#[test]
fn busy_proxies_are_told_of_a_relay_that_was_killed() {
    check_told(1);
}

#[test]
fn idle_proxies_are_told_of_a_relay_that_was_killed_when_they_ask() {
    check_told(0);
}

#[test]
fn proxies_find_a_relay_that_was_away_for_a_while() {
    let mut meeting = meeting(&["--cores", "1"]);
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    let (forward, local) = meeting.forward("home");
    let running = Transfer::start(local, 1);
    meeting.relay.signal(Signal::KILL);
    meeting.relay.wait();
    // Until both have their doubts, and dial beside what they have.
    for program in [&expose, &forward] {
        program.logged("the relay does not answer");
    }
    (meeting.relay, _) = restarted(&meeting);
    recovers("relay away until it was missed", local);
    running.broken_off();
}

#[test]
fn whoever_comes_while_a_connection_is_dead_goes_by_its_successor() {
    let mut meeting = meeting(&["--cores", "1"]);
    let target = service(echo).to_string();
    let first = expose(&meeting, &[&target]);
    let (forward, local) = meeting.forward("home");
    forward.logged("joined the relay");
    drop(first);
    meeting.relay.signal(Signal::KILL);
    meeting.relay.wait();
    // The next one cannot tell anybody that it knows nothing of him.
    let reset_key = meeting.folder.path().join("relay/quic-reset.key");
    fs::remove_file(reset_key).expect("it has one");
    (meeting.relay, _) = restarted(&meeting);
    let _second = expose(&meeting, &[&target]);
    ping(&dial(local));
    forward.logged("the relay does not answer");
}

#[test]
fn a_relay_that_stood_still_is_joined_once_more_and_by_nobody_else() {
    let done = (0..5).any(|_| is_outlived());
    assert!(done, "each time the transfer was broken off");
}

/// Whether a transfer outlives that its relay stands still until both proxies have dialled once
/// more. On a machine that is too busy the relay may find that their former connections do not
/// answer, and end them.
fn is_outlived() -> bool {
    let meeting = meeting(&["--cores", "1"]);
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    let (forward, local) = meeting.forward("home");
    let running = Transfer::start(local, 1);
    meeting.relay.signal(Signal::STOP);
    for program in [&expose, &forward] {
        program.logged("the relay does not answer");
    }
    meeting.relay.signal(Signal::CONT);
    recovers("relay stood still until it was missed", local);
    let is_whole = running.ends_whole();
    // Whoever takes its own new connection for somebody else's rests for a while.
    let said = expose.whole_log() + &forward.whole_log();
    assert!(!said.contains("another proxy"), "{said}");
    is_whole
}

#[test]
fn a_busy_client_stays_when_others_of_its_name_come() {
    let (meeting, admin) = meeting_with_admin(&["--cores", "1"]);
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let clients = [1, 2, 3].map(|seed| {
        let (forward, local) = meeting.forward("home");
        forward.logged("joined the relay");
        (forward, Transfer::start(local, seed))
    });
    // Whoever comes has the relay look at the one before. This one does nothing until it is
    // waited for, so that it has to go, and by then the relay has looked at all before it.
    let (mut dead, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let (last, local) = meeting.forward("home");
    last.logged("joined the relay");
    until("the dead one's end", || {
        let seen = &status(admin)["quic"]["connections_count"][0];
        assert_eq!(seen["name"], "client", "{seen}");
        (seen["count"] == clients.len() + 1).then_some(())
    });
    assert_eq!(dead.closed(), u64::from(CloseCode::Replaced.value()));
    for (_forward, transfer) in clients {
        transfer.end().expect("all of it");
    }
    check_echo(local, 1, 10_000);
}

#[test]
fn a_relay_that_stops_says_so_and_what_runs_may_end() {
    let mut meeting = meeting(&["--cores", "1"]);
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    let running = session(local);
    meeting.relay.terminate();
    meeting.relay.logged("stopping");
    ping(&running);
    drop(running);
    meeting.relay.wait();
    expose.logged("the relay stops");
    (meeting.relay, _) = restarted(&meeting);
    recovers("relay stopped and started", local);
}

#[test]
fn what_is_not_allowed_is_refused() {
    let meeting = meeting(&["--cores", "1"]);
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").to_string()
    };
    let expose = expose(&meeting, &[&service(echo).to_string(), &gone]);
    let check = |to: &str, said: &str| {
        let (forward, local) = meeting.forward(to);
        let mut stream = dial(local);
        assert!(stream.read(&mut [0]).is_err(), "{to}");
        forward.logged(said);
    };
    // Alice reaches home alone; whether there is a moon is not for her to know.
    check("lab:22", "may not reach it");
    check("moon:22", "may not reach it");
    // The server has no such port.
    check("home:1", "may not reach it");
    expose.logged("a port that is not exposed");
    let port = gone.rsplit(':').next().expect("a port");
    check(&format!("home:{port}"), "cannot reach its service");
    expose.logged("cannot reach the service");
}

#[test]
fn who_has_another_key_is_told_at_once() {
    let meeting = meeting(&["--cores", "1"]);
    let target = service(echo).to_string();
    let stranger = meeting.expose_with("moon", &["--to", &target]);
    stranger.logged("does not let this proxy in");
    let (forward, _) = meeting.forward_with("moon", &["--to", "home"]);
    forward.logged("does not let this proxy in");
}
