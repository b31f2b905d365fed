//! What goes wrong with PTTH over QUIC, and how it comes right again: the document's list, with
//! real processes. Each recovery's time is printed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use midspan::runtime::clock;
use rustix::process::Signal;

use super::agent_process::Program;
use super::agents::{assert_reset, check_echo, dial, echo, ping, service, session, try_ping};
use super::patience::{PATIENCE, until};
use super::ptth_agents::{Meeting, relay};
use super::ptth_quic::{expose, meeting};

/// Dials until somebody answers, and prints how long that took.
fn recovers(what: &str, local: SocketAddr) {
    let since = clock::now();
    until("an echo", || {
        let stream = TcpStream::connect(local).ok()?;
        try_ping(&stream).ok()
    });
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

/// Sends and receives as fast as it goes, until the session is broken off.
fn flood(local: SocketAddr) -> thread::JoinHandle<()> {
    let mut stream = session(local);
    let mut writer = stream.try_clone().expect("a second handle");
    thread::spawn(move || {
        thread::scope(|scope| {
            scope.spawn(move || while writer.write_all(&[7; 16 << 10]).is_ok() {});
            let mut space = vec![0; 64 << 10];
            while stream.read(&mut space).is_ok_and(|bytes| bytes > 0) {}
            // Whoever still writes is to end as well.
            let _ = stream.shutdown(Shutdown::Both);
        });
    })
}

#[test]
fn busy_proxies_find_a_relay_that_was_killed_at_once() {
    let mut meeting = meeting(&["--cores", "1"]);
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    let (forward, local) = meeting.forward("home");
    forward.logged("joined the relay");
    let running = flood(local);
    meeting.relay.signal(Signal::KILL);
    meeting.relay.wait();
    (meeting.relay, _) = restarted(&meeting);
    recovers("relay killed and restarted, both busy", local);
    running.join().expect("no panic");
    for program in [&expose, &forward] {
        program.logged("joined the relay");
    }
}

#[test]
fn idle_proxies_find_a_relay_that_was_killed_by_their_next_question() {
    let mut meeting = meeting(&["--cores", "1"]);
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (forward, local) = meeting.forward("home");
    forward.logged("joined the relay");
    meeting.relay.signal(Signal::KILL);
    meeting.relay.wait();
    (meeting.relay, _) = restarted(&meeting);
    recovers("relay killed and restarted, both idle", local);
}

#[test]
fn proxies_find_a_relay_that_was_away_for_a_while() {
    let mut meeting = meeting(&["--cores", "1"]);
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    let (forward, local) = meeting.forward("home");
    let running = flood(local);
    meeting.relay.signal(Signal::KILL);
    meeting.relay.wait();
    // Until both have their doubts, and dial beside what they have.
    for program in [&expose, &forward] {
        program.logged("the relay does not answer");
    }
    (meeting.relay, _) = restarted(&meeting);
    recovers("relay away until it was missed", local);
    running.join().expect("no panic");
}

#[test]
fn a_relay_that_stood_still_is_joined_once_more_and_by_nobody_else() {
    let meeting = meeting(&["--cores", "1"]);
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    let (forward, local) = meeting.forward("home");
    let running = flood(local);
    meeting.relay.signal(Signal::STOP);
    for program in [&expose, &forward] {
        program.logged("the relay does not answer");
    }
    meeting.relay.signal(Signal::CONT);
    recovers("relay stood still until it was missed", local);
    drop(running);
    // Whoever takes its own new connection for somebody else's rests for a while.
    let said = expose.log_so_far() + &forward.log_so_far();
    assert!(!said.contains("another proxy"), "{said}");
}

#[test]
fn a_busy_client_stays_when_others_of_its_name_come() {
    /// After this whoever gives no sign of life has gone.
    const OBSERVED: Duration = Duration::from_secs(2);
    let meeting = meeting(&["--cores", "1"]);
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_first, local) = meeting.forward("home");
    let busy: Vec<_> = (0..4).map(|_| flood(local)).collect();
    // Each has the relay look at the one before.
    let others: Vec<_> = (0..4).map(|_| meeting.forward("home")).collect();
    let mut busy_too = Vec::new();
    for (other, local) in &others {
        other.logged("joined the relay");
        busy_too.push(flood(*local));
    }
    let since = clock::now();
    until("the relay to have looked", || {
        (clock::now().since(since) > OBSERVED).then_some(())
    });
    for session in busy.iter().chain(&busy_too) {
        assert!(!session.is_finished());
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
