//! Datagrams of local programs: by `midspan socks` and a relay to anybody, and back.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command as Process;
use std::thread;

use midspan::protocol::socks5::{Command, Destination, Reply, ReplyCode, Request, udp};
use midspan::protocol::websocks::{MAX_FRAME, datagram_frame};
use rustix::process::Signal;

use super::agent_process::Program;
use super::jet_client::read_to_end;
use super::patience::{PATIENCE, until};
use super::relay_process::{Relay, check_is_counter};
use super::socks::{agent, ask_for, secret, url};
use super::transports::certificate;
use super::websocket_clients::{require_python, script};
use super::websocks::{KEY, read_reply, read_value, relay, request, visit, visit_framed};

const LOOPBACK: &str = "127.0.0.1:0";

/// A client whose datagrams are passed on.
pub(crate) struct Client {
    /// The connection on which it asked.
    control: TcpStream,
    socket: UdpSocket,
    /// Where its datagrams go first.
    agent: SocketAddr,
}

pub(crate) fn bind(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

/// What is received next, and from whom.
#[track_caller]
fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (count, from) = socket.recv_from(&mut buffer).expect("a datagram");
    buffer.truncate(count);
    (buffer, from)
}

/// That nothing was received until now.
#[track_caller]
pub(crate) fn check_nothing(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("a socket");
    let received = socket.recv_from(&mut [0]);
    socket.set_nonblocking(false).expect("a socket");
    assert!(received.is_err(), "{received:?}");
}

fn named(host: &str, port: u16) -> Destination {
    Destination::named(host, port).expect("a destination")
}

fn datagram(to: &Destination, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    udp::encode_header(to, &mut bytes);
    bytes.extend_from_slice(data);
    bytes
}

impl Client {
    /// One that says that it sends from `declared`, or does not.
    fn ask(agent: SocketAddr, declared: &Destination, socket: UdpSocket) -> Self {
        let request = Request {
            command: Command::UdpAssociate,
            destination: declared.clone(),
        };
        let (control, reply) = ask_for(agent, &request, None);
        assert_eq!(reply.code, ReplyCode::Succeeded);
        let bound = reply.bound.address().expect("an address");
        assert_eq!(bound.ip(), agent.ip());
        assert_ne!(bound.port(), 0);
        Self {
            control,
            socket,
            agent: bound,
        }
    }

    pub(crate) fn new(agent: SocketAddr) -> Self {
        Self::ask(agent, &named("0.0.0.0", 0), bind(LOOPBACK).0)
    }

    pub(crate) fn send(&self, to: &Destination, data: &[u8]) {
        let sent = self.socket.send_to(&datagram(to, data), self.agent);
        sent.expect("sent");
    }

    #[track_caller]
    pub(crate) fn receive(&self) -> (Destination, Vec<u8>) {
        let (bytes, from) = receive(&self.socket);
        assert_eq!(from, self.agent);
        let (peer, data) = udp::decode(&bytes).expect("a header");
        (peer, data.to_vec())
    }

    /// There by `name`, and back from `server`; tells where the server sees it.
    #[track_caller]
    pub(crate) fn check_echo(
        &self,
        name: &Destination,
        server: &UdpSocket,
        data: &[u8],
    ) -> SocketAddr {
        self.send(name, data);
        let (received, relay) = receive(server);
        assert_eq!(received, data);
        server.send_to(&received, relay).expect("sent");
        let address = server.local_addr().expect("bound");
        let expected = (address.into(), data.to_vec());
        assert!(self.receive() == expected, "other than what was sent");
        relay
    }

    /// Goes, and sees that the agent does.
    pub(crate) fn check_gone(self) {
        let agent = self.agent;
        drop(self);
        until("the socket is gone", || UdpSocket::bind(agent).ok());
    }

    /// That the agent has ended it.
    fn check_over(mut self) {
        let mut rest = Vec::new();
        // What the agent has not read of what a client says makes its end a reset.
        let _ = self.control.read_to_end(&mut rest);
        assert_eq!(rest, b"");
        until("the socket is gone", || UdpSocket::bind(self.agent).ok());
    }
}

/// What an agent has counted in the end.
#[track_caller]
fn count(agent: &Program, name: &str) -> u64 {
    check_is_counter(name);
    agent.terminate();
    let line = agent.logged("stopped counters=");
    let (_, counters) = line.split_once("counters=").expect("it was asked for");
    let mut words = counters.split_whitespace();
    let count = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    // What was never counted is not told.
    count.unwrap_or(0)
}

#[test]
fn datagrams_come_whole_raw_and_framed_with_and_without_tls() {
    let (folder, relay) = relay("");
    let pin = certificate(relay.address);
    let (v4, v4_address) = bind(LOOPBACK);
    let (v6, v6_address) = bind("[::1]:0");
    let large: Vec<u8> = (0..60_000_u32)
        .map(|index| index.to_le_bytes()[1])
        .collect();
    let mut passed = 0;
    for url in [
        url(&relay),
        format!("websocks+wss://alice@{}?pin={pin}", relay.address),
    ] {
        for options in [&[][..], &["--framed"]] {
            let (agent, local) = agent(folder.path(), &url, options);
            let client = Client::new(local);
            for data in [&b"hello"[..], b"", &large, b"again"] {
                client.check_echo(&v4_address.into(), &v4, data);
                client.check_echo(&v6_address.into(), &v6, data);
                client.check_echo(&named("localhost", v4_address.port()), &v4, data);
                passed += 6;
            }
            // What the reserved bytes hold means nothing.
            let mut reserved = datagram(&v4_address.into(), b"reserved");
            reserved[..2].copy_from_slice(&[0xff, 7]);
            client
                .socket
                .send_to(&reserved, client.agent)
                .expect("sent");
            assert_eq!(receive(&v4).0, b"reserved");
            passed += 1;
            drop(client);
            assert_eq!(count(&agent, "datagrams_dropped"), 0);
        }
    }
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("datagrams_relayed"), passed);
    assert_eq!(ended.counters.count("datagrams_dropped"), 0);
    let lines = ended.log.matches("datagrams ended").count();
    assert_eq!(lines, 4, "{}", ended.log);
}

#[test]
fn none_of_a_thousand_is_lost_and_clients_do_not_get_each_others() {
    let (folder, relay) = relay("");
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    thread::scope(|scope| {
        for client in 0..4_u32 {
            scope.spawn(move || {
                let (server, address) = bind(LOOPBACK);
                let one = Client::new(local);
                for round in 0..1000_u32 {
                    let data = [client.to_le_bytes(), round.to_le_bytes()].concat();
                    one.check_echo(&address.into(), &server, &data);
                }
            });
        }
    });
    let ended = relay.stop();
    assert_eq!(ended.counters.count("datagrams_relayed"), 4 * 2000);
    assert_eq!(ended.counters.count("datagrams_dropped"), 0);
}

#[test]
fn where_nobody_may_go_nothing_is_sent_and_new_rules_hold_at_once() {
    let (denied, denied_address) = bind(LOOPBACK);
    let (server, address) = bind(LOOPBACK);
    let rules = |more: &str| {
        format!(
            "cores = 1\n[egress]\nreach = \"everything\"\nrules = [\"deny *:{}\"{more}]",
            denied_address.port()
        )
    };
    let (folder, mut relay) = relay(&rules(""));
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    let client = Client::new(local);
    for host in ["127.0.0.1", "::ffff:127.0.0.1", "localhost", "0.0.0.0"] {
        client.send(&named(host, denied_address.port()), b"never");
    }
    client.check_echo(&address.into(), &server, b"this one may");
    // A name takes longer.
    relay.wait_for_counters("four that may not", |counters| {
        counters.count("datagrams_denied") == 4
    });
    check_nothing(&denied);

    let path = folder.path().join("relay.toml");
    let text = fs::read_to_string(&path).expect("it was written");
    let more = format!(", \"deny 127.0.0.1:{}\"", address.port());
    fs::write(&path, text.replace(&rules(""), &rules(&more))).expect("written");
    relay.signal(Signal::HUP);
    relay.wait_for_line("the configuration is taken");
    until("the new rule", || {
        client.send(&address.into(), b"this one?");
        let counters = relay.counters();
        (counters.count("datagrams_denied") > 4).then_some(())
    });
    assert_eq!(relay.counters().count("datagrams_dropped"), 0);
}

#[test]
fn users_rules_and_limits_hold_for_datagrams() {
    let (denied, denied_address) = bind(LOOPBACK);
    let (server, address) = bind(LOOPBACK);
    let port = denied_address.port();
    let (folder, mut relay) = relay(&format!(
        "cores = 1\n[[websocks.rules]]\nusers = [\"alice\"]\nsessions_max = 1\n\
         egress = [\"deny *:{port}\"]\n"
    ));
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    let client = Client::new(local);
    client.send(&denied_address.into(), b"never");
    client.check_echo(&address.into(), &server, b"this one may");
    check_nothing(&denied);
    assert_eq!(relay.counters().count("datagrams_denied"), 1);
    let request = Request {
        command: Command::UdpAssociate,
        destination: named("0", 7),
    };
    let (_, reply) = ask_for(local, &request, None);
    assert_eq!(reply.code, ReplyCode::GeneralFailure);
    assert_eq!(relay.counters().count("refused.too_many_of_user"), 1);
    client.check_gone();
    let line = relay.wait_for_line("datagrams ended");
    assert!(line.contains("user=alice"), "{line}");
    // It was one session as long as it lasted.
    until("another", || {
        let (_control, reply) = ask_for(local, &request, None);
        (reply.code == ReplyCode::Succeeded).then_some(())
    });
}

#[test]
fn what_rules_keep_from_relays_is_not_sent() {
    let (folder, mut relay) = relay("");
    let (server, address) = bind(LOOPBACK);
    let (denied, denied_address) = bind(LOOPBACK);
    let (direct, direct_address) = bind(LOOPBACK);
    let text = format!("deny {denied_address}\ndirect localhost\nrelay-or-direct {address}\n");
    let rules = secret(folder.path(), "rules", &text);
    let (agent, local) = agent(folder.path(), &url(&relay), &["--rules", &rules]);
    let client = Client::new(local);
    client.send(&denied_address.into(), b"never");
    client.send(&named("localhost", direct_address.port()), b"never");
    client.check_echo(&address.into(), &server, b"this one may");
    check_nothing(&denied);
    check_nothing(&direct);
    assert_eq!(count(&agent, "datagrams_denied"), 2);
    assert_eq!(relay.counters().count("datagrams_relayed"), 2);
}

#[test]
fn strangers_are_heard_at_neither_end() {
    let (folder, mut relay) = relay("");
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let (server, address) = bind(LOOPBACK);
    let (stranger, stranger_address) = bind(LOOPBACK);
    let client = Client::new(local);
    let seen = client.check_echo(&address.into(), &server, b"hello");

    // Nobody whom the client has written to.
    stranger.send_to(b"psst", seen).expect("sent");
    client.check_echo(&address.into(), &server, b"nothing else comes");
    assert_eq!(relay.counters().count("datagrams_dropped"), 1);
    // Once it has, it is.
    client.check_echo(&stranger_address.into(), &stranger, b"who is there?");
    stranger.send_to(b"me", seen).expect("sent");
    assert_eq!(client.receive(), (stranger_address.into(), b"me".to_vec()));

    // Somebody else at the client's own address, and at another.
    let forged = datagram(&address.into(), b"forged");
    for other in [LOOPBACK, "127.0.0.2:0"] {
        let (other, _) = bind(other);
        other.send_to(&forged, client.agent).expect("sent");
    }
    client.check_echo(&address.into(), &server, b"nothing else came");
    check_nothing(&server);
    assert_eq!(count(&agent, "datagrams_dropped"), 2);
    assert_eq!(relay.counters().count("datagrams_dropped"), 1);
}

#[test]
fn a_client_is_where_it_says_and_fragments_are_nobodys() {
    let (folder, relay) = relay("");
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let (server, address) = bind(LOOPBACK);
    let good = datagram(&address.into(), b"good");
    let (first, _) = bind(LOOPBACK);
    for declared in ["127.0.0.1", "127.0.0.2"] {
        let (socket, from) = bind(&format!("{declared}:0"));
        let client = Client::ask(local, &from.into(), socket);
        // It was there first, and is not who was announced.
        first.send_to(&good, client.agent).expect("sent");
        client.check_echo(&address.into(), &server, b"announced");
        first.send_to(&good, client.agent).expect("sent");
        client.check_echo(&address.into(), &server, b"still");
    }
    // As PySocks says that it does not know.
    let client = Client::ask(local, &named("0", 9), bind(LOOPBACK).0);
    let mut fragment = datagram(&address.into(), b"a part");
    fragment[2] = 1;
    for bad in [&fragment[..], b"", b"\0\0\0\x01\x7f\0\0", b"\0\0\0\x07a"] {
        client.socket.send_to(bad, client.agent).expect("sent");
    }
    client.check_echo(&address.into(), &server, b"whole");
    // Nobody is there, which is no error of anybody's.
    let gone = bind(LOOPBACK).1;
    client.send(&gone.into(), b"anybody?");
    client.send(&named("nobody.invalid", 53), b"anybody?");
    client.send(&named("127.0.0.1", 0), b"no port");
    client.check_echo(&address.into(), &server, b"still here");
    check_nothing(&server);
    assert_eq!(count(&agent, "datagrams_dropped"), 4 + 4);
}

fn descriptors(folder: &Path) -> usize {
    fs::read_dir(folder).expect("it runs").count()
}

#[test]
fn whose_connection_ends_has_no_sockets_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut relay = super::websocks::relay_in(folder.path(), "cores = 1", &[]);
    let (agent, local) = agent(folder.path(), &url(&relay), &["--pool", "0"]);
    let places = [relay.proc("fd"), agent.proc("fd")];
    let (server, address) = bind(LOOPBACK);
    let (v6, v6_address) = bind("[::1]:0");
    let come = || {
        let client = Client::new(local);
        client.check_echo(&address.into(), &server, b"hello");
        client.check_echo(&v6_address.into(), &v6, b"hello");
        client
    };
    let at_rest = |before: Option<[usize; 2]>| {
        let mut last = [0; 2];
        until("nobody's sockets", || {
            let now = places.each_ref().map(|place| descriptors(place));
            let is_at_rest = before.map_or(now == last, |before| now == before);
            last = now;
            is_at_rest.then_some(now)
        })
    };
    come().check_gone();
    relay.wait_for_line("datagrams ended");
    let before = at_rest(None);
    let clients: Vec<Client> = (0..20).map(|_| come()).collect();
    let [at_relay, at_agent] = places.each_ref().map(|place| descriptors(place));
    // A connection and two sockets; two connections and one.
    assert!(at_relay >= before[0] + 60 && at_agent >= before[1] + 60);
    for (index, client) in clients.into_iter().enumerate() {
        match index % 3 {
            0 => client.check_gone(),
            1 => {
                // What it says first means nothing.
                (&client.control).write_all(b"bye").expect("sent");
                client.check_gone();
            }
            _ => {
                let linger = socket2::SockRef::from(&client.control);
                linger
                    .set_linger(Some(std::time::Duration::ZERO))
                    .expect("set");
                client.check_gone();
            }
        }
    }
    at_rest(Some(before));
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

#[test]
fn who_passes_nothing_on_or_whose_relay_stops_is_told_by_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = "[limits]\nsession_idle_s = 1";
    let mut relay = super::websocks::relay_in(folder.path(), limits, &[]);
    let (first, local) = agent(folder.path(), &url(&relay), &[]);
    Client::new(local).check_over();
    let line = relay.wait_for_line("datagrams ended");
    assert!(line.contains("reason=\"expired\""), "{line}");
    let line = first.logged("datagrams ended");
    assert!(line.contains("reason=\"ended_by_relay\""), "{line}");
    drop(relay);

    let (folder, relay) = super::websocks::relay("");
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let (server, address) = bind(LOOPBACK);
    let client = Client::new(local);
    client.check_echo(&address.into(), &server, b"hello");
    let ended = relay.stop();
    ended.check_clean();
    assert!(ended.log.contains("reason=\"drained\""), "{}", ended.log);
    client.check_over();

    let again = ["--listen", LOOPBACK];
    let relay = super::websocks::relay_in(folder.path(), "", &again);
    drop(agent);
    let (mut agent, local) = super::socks::agent(folder.path(), &url(&relay), &[]);
    let client = Client::new(local);
    client.check_echo(&address.into(), &server, b"hello");
    // Nobody waits for a client that may never go.
    agent.terminate();
    assert!(agent.wait().success());
    let line = agent.logged("datagrams ended");
    assert!(line.contains("reason=\"drained\""), "{line}");
    client.check_over();
}

/// Asks the relay itself for datagrams.
pub(crate) fn ask_for_datagrams(visitor: &mut TcpStream) -> Reply {
    let asking = request(Command::UdpAssociate, "0.0.0.0", 0);
    visitor
        .write_all(&[&MAX_FRAME[..], &asking].concat())
        .expect("sent");
    read_reply(visitor)
}

fn visit_for_datagrams(relay: &Relay) -> TcpStream {
    let mut visitor = visit(relay.address, KEY);
    let reply = ask_for_datagrams(&mut visitor);
    assert_eq!(reply.code, ReplyCode::Succeeded);
    assert_ne!(reply.bound.port, 0);
    visitor
}

pub(crate) fn frame(to: &Destination, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    datagram_frame::encode(&datagram(to, data), &[], &mut frame).expect("it fits");
    frame
}

fn read_frame(stream: &mut TcpStream) -> (Destination, Vec<u8>) {
    let frame = read_value(stream, |bytes| {
        let decoded = datagram_frame::decode(bytes);
        decoded.map(|progress| progress.map(<[u8]>::to_vec))
    });
    let (peer, data) = udp::decode(&frame).expect("a header");
    (peer, data.to_vec())
}

#[test]
fn what_is_no_frame_ends_it_and_frames_may_be_cut_anywhere() {
    let (_folder, mut relay) = relay("");
    let (server, address) = bind(LOOPBACK);
    let mut visitor = visit_for_datagrams(&relay);
    for byte in frame(&address.into(), b"a byte at a time") {
        visitor.write_all(&[byte]).expect("sent");
    }
    let (data, seen) = receive(&server);
    assert_eq!(data, b"a byte at a time");
    server.send_to(b"and back", seen).expect("sent");
    let expected = (address.into(), b"and back".to_vec());
    assert_eq!(read_frame(&mut visitor), expected);
    let many = [
        frame(&address.into(), b"one"),
        frame(&address.into(), b"two"),
    ];
    // A frame that holds no whole header is dropped alone.
    let wire = [&many[0][..], b"\0\x03\0\0\0", &many[1]].concat();
    visitor.write_all(&wire).expect("sent");
    assert_eq!(receive(&server).0, b"one");
    assert_eq!(receive(&server).0, b"two");
    visitor.write_all(b"\0\0").expect("sent");
    assert_eq!(read_to_end(&mut visitor).0, b"");
    let line = relay.wait_for_line("datagrams ended");
    assert!(line.contains("reason=\"failed\""), "{line}");
    assert_eq!(relay.counters().count("datagrams_dropped"), 1);
    relay.stop().check_clean();
}

#[test]
fn who_does_not_read_loses_datagrams_and_costs_little_memory() {
    let (_folder, mut relay) = relay("cores = 1");
    let (server, address) = bind(LOOPBACK);
    let mut visitor = visit_for_datagrams(&relay);
    visitor
        .write_all(&frame(&address.into(), b"hello"))
        .expect("sent");
    let (_, seen) = receive(&server);
    let large = vec![7; 60_000];
    let memory = relay.resident_bytes();
    // Some 24 MB for which there is no room.
    relay.wait_for_counters("no room any more", |counters| {
        for _ in 0..50 {
            server.send_to(&large, seen).expect("sent");
        }
        counters.count("datagrams_dropped") > 400
    });
    let after = relay.resident_bytes();
    assert!(after < memory + (8 << 20), "{memory} bytes, then {after}");
    let before = relay.counters();
    // Who begins to read gets whole ones, and others have been served all the while.
    let mut other = visit_for_datagrams(&relay);
    other
        .write_all(&frame(&address.into(), b"another"))
        .expect("sent");
    assert_eq!(receive(&server).0, b"another");
    for _ in 0..before.count("datagrams_relayed") - 1 {
        assert!(read_frame(&mut visitor) == (address.into(), large.clone()));
    }
    relay.stop().check_clean();
}

/// A frame of WebSocket, masked with zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// The first byte of the next frame, and what it holds.
fn read_message(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a frame");
    let mut payload = vec![0; head[1].into()];
    stream.read_exact(&mut payload).expect("all of it");
    (head[0], payload)
}

#[test]
fn a_silent_framed_client_is_pinged_and_given_up_without_an_answer() {
    const BINARY: u8 = 0x82;
    const PING: (u8, Vec<u8>) = (0x89, Vec::new());
    const PONG: u8 = 0x8a;
    let (_folder, mut relay) =
        relay("[limits]\nwebsocket_ping_s = 1\nwebsocket_pong_timeout_s = 1");
    let raw = visit_for_datagrams(&relay);
    let mut visitor = visit_framed(relay.address);
    let asking = request(Command::UdpAssociate, "0.0.0.0", 0);
    visitor.write_all(&masked(BINARY, &asking)).expect("sent");
    let mut said = Vec::new();
    while said.len() < b"\x05\0\x05\0\0\x01ADDRPO".len() {
        let (first, payload) = read_message(&mut visitor);
        assert_eq!(first, BINARY);
        said.extend(payload);
    }
    assert_eq!(said[..4], [5, 0, 5, 0]);
    for _ in 0..2 {
        assert_eq!(read_message(&mut visitor), PING);
        visitor.write_all(&masked(PONG, b"")).expect("sent");
    }
    // As before.
    let (server, address) = bind(LOOPBACK);
    let wire = frame(&address.into(), b"hello");
    visitor.write_all(&masked(BINARY, &wire)).expect("sent");
    assert_eq!(receive(&server).0, b"hello");
    assert_eq!(read_message(&mut visitor), PING);
    let line = relay.wait_for_line("datagrams ended");
    assert!(line.contains("reason=\"timed_out\""), "{line}");
    // Without messages there is nothing to ask with.
    check_silent(&raw);
    relay.stop().check_clean();
}

/// That nothing was said until now.
#[track_caller]
fn check_silent(stream: &TcpStream) {
    stream.set_nonblocking(true).expect("a socket");
    let peeked = stream.peek(&mut [0]);
    let is_silent = peeked
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    assert!(is_silent, "{peeked:?}");
}

#[test]
fn pysocks_sends_datagrams() {
    let Some(python) = require_python() else {
        return;
    };
    let (folder, relay) = relay("");
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let (server, address) = bind(LOOPBACK);
    thread::spawn(move || {
        loop {
            let (data, from) = receive(&server);
            server.send_to(&data, from).expect("sent");
        }
    });
    for host in ["127.0.0.1", "localhost"] {
        let output = Process::new(&python)
            .arg(script("pysocks_udp.py"))
            .args([&local.port().to_string(), host, &address.port().to_string()])
            .output()
            .expect("python runs");
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(count(&agent, "datagrams_relayed"), 2 * 2 * 4);
}
