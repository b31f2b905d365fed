//! PTTH over QUIC: what was taken arrives, whoever is told to stop meanwhile.

use std::io::{Read, Write};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use super::admin::status;
use super::agent_process::Program;
use super::agents::pattern;
use super::patience::{PATIENCE, until};
use super::ptth_agents::Meeting;
use super::ptth_quic::{expose, meeting_with_admin};
use super::require::require_cores;

/// Where bytes of a session pass, by the way that they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// A session of which one way has ended.
struct HalfClosed {
    meeting: Meeting,
    /// Where the relay tells how it is.
    admin: SocketAddr,
    expose: Program,
    forward: Program,
    source: TcpStream,
    sink: TcpStream,
}

/// Takes little before it is read.
fn narrow_socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    socket
}

impl HalfClosed {
    /// Each of its connections is at a core of its own, if the relay has so many.
    fn new(way: Way, cores: usize) -> Self {
        Self::within(way, cores, "quic_idle_timeout_s=20")
    }

    fn within(way: Way, cores: usize, limit: &str) -> Self {
        let cores = cores.to_string();
        let options = ["--cores", &cores, "--drain-timeout", "1h", "--limit", limit];
        let (mut meeting, admin) = meeting_with_admin(&options);
        let own = narrow_socket();
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        own.bind(&anywhere.into()).expect("a free port");
        own.listen(1).expect("a listener");
        let listener = TcpListener::from(own);
        let target = listener.local_addr().expect("bound").to_string();
        let url = meeting.url.clone();
        meeting.url = format!("{url}&steer=1");
        let expose = expose(&meeting, &[&target]);
        meeting.url = format!("{url}&steer=0");
        let (forward, local): (_, SocketAddr) = meeting.forward("home");
        let client = narrow_socket();
        client.connect(&local.into()).expect("the port is open");
        let client = TcpStream::from(client);
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (service, _) = listener.accept().expect("a connection");
        service.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (mut source, sink) = match way {
            Way::Up => (client, service),
            Way::Down => (service, client),
        };
        sink.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(source.read(&mut [0]).expect("an end"), 0);
        Self {
            meeting,
            admin,
            expose,
            forward,
            source,
            sink,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.source.write_all(bytes).expect("taken");
        self.source.shutdown(Shutdown::Write).expect("connected");
    }
}

/// Has a program stop that has taken everything, while nobody acknowledges what it passed on.
#[track_caller]
fn check(way: Way, cores: usize, programs: Programs) {
    let done = (0..5).any(|_| is_delivered(way, cores, programs));
    assert!(done, "the machine is too busy");
}

/// Of those that run, the one that is to stop, and the next one on the way.
type Programs = fn(&mut HalfClosed) -> [&mut Program; 2];

/// Whether all arrives, to its end; not where a proxy had its doubts about a relay that stood
/// still, and dialled once more.
#[track_caller]
fn is_delivered(way: Way, cores: usize, programs: Programs) -> bool {
    let mut session = HalfClosed::new(way, cores);
    let [_, next] = programs(&mut session);
    next.signal(Signal::STOP);
    // It fits into the window of a stream.
    let sent = pattern(7, 1 << 20);
    session.send(&sent);
    let [stopping, next] = programs(&mut session);
    stopping.logged("stream ended");
    stopping.terminate();
    stopping.logged("stopping");
    next.signal(Signal::CONT);
    let mut got = Vec::new();
    let ended = session.sink.read_to_end(&mut got);
    let [stopping, _] = programs(&mut session);
    assert!(stopping.wait().success());
    let said = session.expose.whole_log() + &session.forward.whole_log();
    if said.contains("the relay does not answer") {
        return false;
    }
    ended.expect("an orderly end");
    assert_eq!(got.len(), sent.len());
    assert!(got == sent, "other bytes");
    true
}

#[test]
fn a_client_that_stops_waits_until_the_relay_has_everything() {
    check(Way::Up, 1, |it| [&mut it.forward, &mut it.meeting.relay]);
}

#[test]
fn a_server_that_stops_waits_until_the_relay_has_everything() {
    check(Way::Down, 1, |it| [&mut it.expose, &mut it.meeting.relay]);
}

/// Each way through a relay that stops.
#[track_caller]
fn check_relay(cores: usize) {
    check(Way::Up, cores, |it| [&mut it.meeting.relay, &mut it.expose]);
    check(Way::Down, cores, |it| {
        [&mut it.meeting.relay, &mut it.forward]
    });
}

#[test]
fn a_relay_that_stops_waits_until_both_proxies_have_everything() {
    check_relay(1);
}

#[test]
fn a_relay_that_stops_waits_for_what_crosses_its_cores() {
    if require_cores(2) {
        check_relay(2);
    }
}

/// Waits until the proxies have acknowledged all that the relay has sent, and it sends nothing
/// more.
fn wait_until_acknowledged(relay: SocketAddr) {
    /// In a row; between two of them pacing may hold a datagram back.
    const LOOKS: usize = 10;
    let (mut sent, mut looks) = (Vec::new(), 0);
    until("all to be acknowledged", || {
        let connections = status(relay)["quic"]["connections"].take();
        let connections = connections.as_array().expect("a list");
        let counts: Vec<_> = connections
            .iter()
            .map(|connection| connection["packets_sent"].as_u64())
            .collect();
        let is_acknowledged = connections
            .iter()
            .all(|connection| connection.get("unanswered_ms").is_none());
        let before = mem::replace(&mut sent, counts);
        looks = match is_acknowledged && before == sent {
            true => looks + 1,
            false => 0,
        };
        (looks == LOOKS).then_some(())
    });
}

/// Whether all arrives of what a relay has passed on that is killed, and so closes nothing; not
/// where it was killed before its last datagram was out, as pacing may hold one back.
fn is_passed_on(way: Way) -> bool {
    let mut session = HalfClosed::within(way, 1, "quic_idle_timeout_s=6");
    let sent = pattern(8, 3 << 20);
    session.send(&sent);
    session.meeting.relay.logged("stream ended");
    wait_until_acknowledged(session.admin);
    session.meeting.relay.signal(Signal::KILL);
    let holder = match way {
        Way::Up => &session.expose,
        Way::Down => &session.forward,
    };
    // Which it says when the one before has been silent for longer than it may.
    holder.logged("the relay is away");
    let mut got = Vec::new();
    let ended = session.sink.read_to_end(&mut got);
    assert!(sent.starts_with(&got), "other bytes");
    ended.is_ok_and(|_| got.len() == sent.len())
}

#[test]
fn what_has_come_of_a_connection_that_is_silent_is_passed_on() {
    for way in [Way::Up, Way::Down] {
        let done = (0..5).any(|_| is_passed_on(way));
        assert!(done, "{way:?}: nothing of it arrived whole");
    }
}

/// Has a relay go that has passed on everything.
#[track_caller]
fn check_passed_on(cores: usize) {
    for way in [Way::Up, Way::Down] {
        let mut session = HalfClosed::new(way, cores);
        // More than such sockets take, and no more than a stream's window.
        let sent = pattern(8, 3 << 20);
        session.send(&sent);
        let relay = &mut session.meeting.relay;
        relay.logged("stream ended");
        relay.terminate();
        assert!(relay.wait().success());
        let mut got = Vec::new();
        session.sink.read_to_end(&mut got).expect("an orderly end");
        assert!(got == sent, "other bytes");
    }
}

#[test]
fn what_has_come_of_a_closed_connection_is_passed_on() {
    check_passed_on(1);
}

#[test]
fn what_has_come_across_cores_of_a_closed_connection_is_passed_on() {
    if require_cores(2) {
        check_passed_on(2);
    }
}
