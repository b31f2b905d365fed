//! `midspan expose` and `midspan forward` through a relay.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use midspan::protocol::Progress;
use midspan::protocol::jet::{
    Connect, Gate, HostName, MASK_DEFAULT, Message, Place, Reply, Request, Status, Version,
};
use uuid::Uuid;

use super::agent_process::{Program, expose, expose_command, forward, relay};
use super::patience::PATIENCE;

const BANNER: &[u8] = b"220 the service speaks first\r\n";

/// A service on loopback: each connection on a thread of its own.
pub(crate) fn service(serve: fn(TcpStream) -> io::Result<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            // A client that goes away early is the test's affair.
            thread::spawn(move || serve(connection));
        }
    });
    address
}

/// Sends back what it gets, until the client ends its half.
pub(crate) fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = stream.try_clone()?;
    io::copy(&mut reader, &mut stream)?;
    stream.shutdown(Shutdown::Write)
}

/// Greets, then tells how many bytes came once the client has ended its half.
pub(crate) fn greet_and_count(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(BANNER)?;
    let count = io::copy(&mut stream.try_clone()?, &mut io::sink())?;
    write!(stream, "{count}")
}

pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the port is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Sends a byte to [`echo`] and has it back.
pub(crate) fn try_ping(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(b"!")?;
    stream.read_exact(&mut [0])
}

/// The same on a connection that is there.
#[track_caller]
pub(crate) fn ping(stream: &TcpStream) {
    try_ping(stream).expect("an echo");
}

/// A session with [`echo`] that runs.
#[track_caller]
pub(crate) fn session(local: SocketAddr) -> TcpStream {
    let stream = dial(local);
    ping(&stream);
    stream
}

/// Waits until the other side has broken a connection off.
#[track_caller]
pub(crate) fn assert_reset(mut stream: &TcpStream) {
    let error = stream.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

pub(crate) fn read_banner(stream: &mut TcpStream) -> io::Result<()> {
    let mut banner = [0; BANNER.len()];
    stream.read_exact(&mut banner)?;
    assert_eq!(banner, BANNER);
    Ok(())
}

/// Bytes that differ from client to client and from place to place.
pub(super) fn pattern(seed: u32, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed.into());
    let mut pattern = vec![0; bytes];
    random.fill(&mut pattern);
    pattern
}

/// Sends `bytes` and reads them back, ending the own half in between.
pub(crate) fn check_echo(address: SocketAddr, seed: u32, bytes: usize) {
    check_echo_over(dial(address), seed, bytes);
}

/// The same on a connection that leads there.
pub(crate) fn check_echo_over(mut stream: TcpStream, seed: u32, bytes: usize) {
    let sent = pattern(seed, bytes);
    let mut writer = stream.try_clone().expect("a second handle");
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).expect("taken");
            writer.shutdown(Shutdown::Write).expect("connected");
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("an orderly end");
        received
    });
    assert_eq!(received.len(), sent.len(), "client {seed}");
    assert!(received == sent, "client {seed} got other bytes");
}

/// How much of a [`Transfer`] is sent and compared at a time, in bytes.
const BLOCK_BYTES: usize = 16 << 10;

/// Bytes that go to [`echo`] and come back all the while, until it is enough.
#[derive(Debug)]
pub(crate) struct Transfer {
    is_enough: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Transfer {
    pub(crate) fn start(local: SocketAddr, seed: u32) -> Self {
        let stream = session(local);
        let is_enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_enough);
        let thread = thread::spawn(move || {
            thread::scope(|scope| {
                let sent = scope.spawn(|| send_blocks(&stream, seed, &told));
                let received = compare_blocks(&stream, seed);
                // Whoever still writes is to end as well.
                let _ = stream.shutdown(Shutdown::Both);
                let sent = sent.join().expect("no panic");
                match (sent?, received?) {
                    (sent, received) if sent == received => Ok(()),
                    _ => Err(ErrorKind::UnexpectedEof.into()),
                }
            })
        });
        Self { is_enough, thread }
    }

    /// Sends no more, and waits until everything is back.
    ///
    /// # Errors
    ///
    /// What has broken it off.
    pub(crate) fn end(self) -> io::Result<()> {
        self.is_enough.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }

    /// Sends no more; whether everything is back, as it may have been broken off.
    #[track_caller]
    pub(crate) fn ends_whole(self) -> bool {
        let ended = self.end();
        if let Err(error) = &ended {
            assert_broken_off(error);
        }
        ended.is_ok()
    }

    /// Waits until it is broken off.
    #[track_caller]
    pub(crate) fn broken_off(self) {
        let error = self.thread.join().expect("no panic").expect_err("an end");
        assert_broken_off(&error);
    }
}

/// What breaks off a transfer is a reset, of which its writer may hear first.
#[track_caller]
fn assert_broken_off(error: &io::Error) {
    let is_reset = matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    );
    assert!(is_reset, "{error}");
}

/// How many blocks it has sent when it is enough.
fn send_blocks(mut stream: &TcpStream, seed: u32, is_enough: &AtomicBool) -> io::Result<u64> {
    let mut block = pattern(seed, BLOCK_BYTES);
    let mut count = 0_u64;
    while !is_enough.load(Ordering::Relaxed) {
        block[..8].copy_from_slice(&count.to_be_bytes());
        stream.write_all(&block)?;
        count += 1;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(count)
}

/// How many of these blocks come, one after the other, until the end.
fn compare_blocks(mut stream: &TcpStream, seed: u32) -> io::Result<u64> {
    let mut expected = pattern(seed, BLOCK_BYTES);
    let mut block = vec![0; BLOCK_BYTES];
    let mut count = 0_u64;
    loop {
        match stream.read_exact(&mut block) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(count),
            read => read?,
        }
        expected[..8].copy_from_slice(&count.to_be_bytes());
        if block != expected {
            return Err(io::Error::new(ErrorKind::InvalidData, "other bytes"));
        }
        count += 1;
    }
}

#[test]
fn one_ticket_serves_many_sessions_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let target = service(echo).to_string();
    let (expose, ticket) = expose(folder.path(), address, &[&target]);
    let (forward, local) = forward(&ticket);
    thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || check_echo(local, client, 3_000_000));
        }
    });
    // And many after each other.
    for client in 8..40 {
        check_echo(local, client, 1000);
    }
    for program in [forward, expose, relay] {
        assert!(program.stop().success());
    }
}

/// Has clients wait for the greeting of [`greet_and_count`], and end what they send.
pub(super) fn check_greetings(local: SocketAddr) {
    for round in 0..5_usize {
        let mut client = dial(local);
        read_banner(&mut client).expect("a greeting");
        client.write_all(&vec![7; round * 1000]).expect("taken");
        client.shutdown(Shutdown::Write).expect("connected");
        let mut count = String::new();
        client.read_to_string(&mut count).expect("an orderly end");
        assert_eq!(count, (round * 1000).to_string());
    }
}

#[test]
fn a_client_that_waits_is_greeted_and_half_close_passes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let target = service(greet_and_count).to_string();
    let (_expose, ticket) = expose(folder.path(), address, &[&target]);
    let (_forward, local) = forward(&ticket);
    check_greetings(local);
}

#[test]
fn services_are_asked_for_by_port() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let echoing = format!("7={}", service(echo));
    let greeting = format!("25={}", service(greet_and_count));
    let (_expose, ticket) = expose(folder.path(), address, &[&echoing, &greeting]);

    let (_forward, local) = forward(&format!("{ticket}/7"));
    check_echo(local, 1, 1000);
    let (_forward, local) = forward(&format!("{ticket}/25"));
    read_banner(&mut dial(local)).expect("a greeting");

    for (wrong, reason) in [
        (ticket.clone(), "is not exposed"),
        (format!("{ticket}/80"), "is not exposed"),
        (other_secret(&ticket), "nobody waits under this ticket"),
    ] {
        let (forward, local) = forward(&wrong);
        assert_reset(&dial(local));
        assert!(forward.logged("no session").contains(reason));
    }
}

/// A ticket that nobody printed.
fn other_secret(ticket: &str) -> String {
    let (relay, secret) = ticket.rsplit_once('/').expect("a ticket");
    let other = if secret.starts_with('A') { 'B' } else { 'A' };
    format!("{relay}/{other}{}/7", &secret[1..])
}

#[test]
fn a_service_that_is_away_resets_the_client() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let (expose, ticket) = expose(folder.path(), address, &["unix:/nonexistent/socket"]);
    let (forward, local) = forward(&ticket);
    assert_reset(&dial(local));
    let line = forward.logged("no session");
    assert!(line.contains("does not answer"), "{line}");
    expose.logged("cannot reach the service");
}

#[test]
fn a_ticket_is_served_by_one_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let (first, _) = expose(folder.path(), address, &["127.0.0.1:1"]);
    let again = expose_command(folder.path(), address, &["127.0.0.1:2"]).output();
    let again = again.expect("it can be started");
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert!(
        said.contains("another process serves under the ticket"),
        "{said}"
    );
    assert!(said.contains("choose another NAME"), "{said}");
    assert!(first.stop().success());
    expose(folder.path(), address, &["127.0.0.1:2"]);
}

#[test]
fn both_find_a_relay_that_was_restarted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let target = service(echo).to_string();
    let (expose, ticket) = expose(folder.path(), address, &[&target]);
    let (_forward, local) = forward(&ticket);
    check_echo(local, 1, 1000);
    assert!(first.stop().success());
    expose.logged("cannot wait at the relay");
    let (_second, again) = relay(folder.path(), &address.to_string(), &[]);
    assert_eq!(again, address);
    expose.logged("waiting at the relay");
    check_echo(local, 2, 1000);
}

#[test]
fn a_session_may_finish_when_its_proxies_are_told_to_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let (relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let target = service(greet_and_count).to_string();
    let (mut expose, ticket) = expose(folder.path(), address, &[&target]);
    let (mut forward, local) = forward(&ticket);
    let mut client = dial(local);
    read_banner(&mut client).expect("a greeting");
    expose.terminate();
    expose.logged("stopping");
    forward.terminate();
    forward.logged("stopping");
    client.write_all(b"12345").expect("taken");
    client.shutdown(Shutdown::Write).expect("connected");
    let mut count = String::new();
    client.read_to_string(&mut count).expect("an orderly end");
    assert_eq!(count, "5");
    assert!(expose.wait().success());
    assert!(forward.wait().success());
    assert!(relay.stop().success());
}

/// Exposes one session at a relay with these options; returns its ticket.
fn expose_once(folder: &std::path::Path, options: &[&str]) -> (Program, Program, String) {
    let (relay, address) = relay(folder, "127.0.0.1:0", options);
    let target = service(greet_and_count).to_string();
    let relay_url = format!("jet+tcp://{address}");
    let expose = Program::start(&[
        "expose", "guest", "--once", "--to", &target, "--relay", &relay_url,
    ]);
    let ticket = format!("jet+tcp://{}", expose.reported("  jet+tcp://"));
    (relay, expose, ticket)
}

/// Connects as a client of another make: by the ids of a printed ticket alone.
pub(super) fn foreign_client(ticket: &str) -> TcpStream {
    let rest = ticket.strip_prefix("jet+tcp://").expect("a ticket");
    let mut parts = rest.split('/');
    let mut stream = dial(
        parts
            .next()
            .and_then(|relay| relay.parse().ok())
            .expect("a relay"),
    );
    let mut id = || parts.next().map(|id| id.parse::<Uuid>().expect("an id"));
    let place = Place {
        association: id().expect("an association"),
        candidate: id(),
    };
    let request = Request {
        message: Message::Connect(Connect {
            place,
            gate: Gate::Hold,
        }),
        version: match place.candidate {
            Some(_) => Version::V2,
            None => Version::V1,
        },
        mask: MASK_DEFAULT,
    };
    let host = HostName::new("relay.example").expect("a name");
    stream
        .write_all(request.encode(&host).as_bytes())
        .expect("taken");
    let mut received = Vec::new();
    loop {
        match Reply::decode(&received).expect("a reply") {
            Progress::Complete { value, .. } => {
                assert_eq!(value.status, Status::OK);
                return stream;
            }
            Progress::Partial { more_bytes_min } => {
                let start = received.len();
                received.resize(start + more_bytes_min, 0);
                stream
                    .read_exact(&mut received[start..])
                    .expect("more of the reply");
            }
        }
    }
}

/// Has a session with [`greet_and_count`].
pub(super) fn check_session(mut client: TcpStream) {
    read_banner(&mut client).expect("a greeting");
    client.write_all(b"123").expect("taken");
    client.shutdown(Shutdown::Write).expect("connected");
    let mut count = String::new();
    client.read_to_string(&mut count).expect("an orderly end");
    assert_eq!(count, "3");
}

fn check_once(options: &[&str], ids: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, mut expose, ticket) = expose_once(folder.path(), options);
    assert_eq!(ticket.split('/').count() - 3, ids, "{ticket}");
    check_session(foreign_client(&ticket));
    assert!(expose.wait().success());
}

#[test]
fn any_client_may_have_the_one_session() {
    check_once(&[], 2);
}

#[test]
fn the_one_session_may_have_an_id_of_the_relays() {
    check_once(&["--create-on-accept=false"], 1);
}

#[test]
fn forward_takes_a_ticket_for_one_session() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, mut expose, ticket) = expose_once(folder.path(), &[]);
    let (_forward, local) = forward(&ticket);
    let mut client = dial(local);
    read_banner(&mut client).expect("a greeting");
    client.write_all(b"bye").expect("taken");
    drop(client);
    assert!(expose.wait().success());
}

#[test]
fn one_session_to_which_nobody_came_stops_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, mut expose, _ticket) = expose_once(folder.path(), &[]);
    expose.terminate();
    assert!(expose.wait().success());
    // The pair that waited for somebody was no session.
    let log = expose.rest_of_log();
    assert!(log.contains("stopped"), "{log}");
    assert!(!log.contains("session ended"), "{log}");
}

#[test]
fn a_relay_that_will_not_serve_ends_the_proxy_with_advice() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &["--create-on-accept=false"]);
    let not_jet = service(|mut stream| stream.write_all(BANNER)).to_string();
    let state = folder.path().join("state");
    for (relay, problem, advice) in [
        (
            address.to_string(),
            "refuses to create",
            "next: start the relay with --create-on-accept",
        ),
        (
            not_jet,
            "is not a JET relay",
            "next: check the scheme, the host and the port",
        ),
    ] {
        let relay = format!("jet+tcp://{relay}");
        let mut expose = Program::start(&[
            "expose",
            "home",
            "--to",
            "127.0.0.1:9",
            "--relay",
            &relay,
            "--state-dir",
            state.to_str().expect("text"),
        ]);
        assert_eq!(expose.wait().code(), Some(1));
        expose.logged(problem);
        expose.logged(advice);
    }
}
