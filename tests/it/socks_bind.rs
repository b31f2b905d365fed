//! BIND at the agent's port: a relay awaits somebody for a local client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use midspan::protocol::socks5::{Command, Destination, Reply, ReplyCode, Request};
use rustix::process::Signal;

use super::agent_process::Program;
use super::agents::service;
use super::jet_client::{End, dial, read_to_end};
use super::patience::until;
use super::per_address::dial_from_elsewhere;
use super::relay_process::Counters;
use super::socks::{agent, ask_for, check_each_way, connect, secret, url};
use super::websocks::{relay, relay_in};
use super::websocks_bind::{second_reply, until_closed};
use super::{admin, agents_admin};

const HERE: &str = "[websocks.bind]\naddresses = [\"127.0.0.1\"]";

/// Awaits somebody from there; gives what the agent says first.
fn bind(agent: SocketAddr, host: &str, port: u16) -> (TcpStream, Reply) {
    let destination = Destination::named(host, port).expect("a destination");
    let command = Command::Bind;
    let request = Request {
        command,
        destination,
    };
    ask_for(agent, &request, None)
}

/// As [`bind`], and where somebody is awaited.
fn awaiting(agent: SocketAddr) -> (TcpStream, SocketAddr) {
    let (client, reply) = bind(agent, "127.0.0.1", 0);
    assert_eq!(reply.code, ReplyCode::Succeeded);
    (client, reply.bound.address().expect("an address"))
}

fn check_refused(agent: SocketAddr, host: &str, code: ReplyCode) {
    let (mut client, reply) = bind(agent, host, 20);
    assert_eq!(reply, Reply::failed(code), "{host}");
    assert_eq!(read_to_end(&mut client), (Vec::new(), End::Closed));
}

/// A server that is told an address a line, and sends there what was asked for, as active FTP
/// does (RFC 959 §3.2).
fn dials_back(stream: TcpStream) -> std::io::Result<()> {
    let mut control = stream.try_clone()?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        let mut data = dial(line.trim().parse().expect("an address"));
        control.write_all(b"150 here it comes\r\n")?;
        data.write_all(&[7; 300_000])?;
        data.shutdown(Shutdown::Write)?;
        let mut said = Vec::new();
        data.read_to_end(&mut said)?;
        control.write_all(format!("226 heard {}\r\n", said.len()).as_bytes())?;
        line.clear();
    }
    Ok(())
}

#[test]
fn a_server_dials_back_raw_and_framed_with_and_without_tls() {
    let (folder, relay) = relay(HERE);
    let server = service(dials_back);
    check_each_way(folder.path(), &relay, |local| {
        let mut control = BufReader::new(connect(local, server));
        for _ in 0..3 {
            let (mut data, listening) = awaiting(local);
            let line = format!("{listening}\r\n");
            control.get_mut().write_all(line.as_bytes()).expect("sent");
            let mut answer = String::new();
            control.read_line(&mut answer).expect("an answer");
            assert_eq!(answer, "150 here it comes\r\n");
            let reply = second_reply(&mut data);
            assert_eq!(reply.code, ReplyCode::Succeeded);
            let from = reply.bound.address().expect("an address");
            assert!(from.ip().is_loopback() && from.port() != 0);
            data.write_all(b"thanks").expect("sent");
            data.shutdown(Shutdown::Write).expect("connected");
            let (received, end) = read_to_end(&mut data);
            assert_eq!((received.len(), end), (300_000, End::Closed));
            answer.clear();
            control.read_line(&mut answer).expect("an answer");
            assert_eq!(answer, "226 heard 6\r\n");
        }
    });
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 6 * 4);
}

#[test]
fn what_the_relay_says_is_passed_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut relay = relay_in(folder.path(), HERE, &["--limit", "bind_timeout_s=2"]);
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    let (mut client, listening) = awaiting(local);
    let mut stranger = dial_from_elsewhere(listening);
    assert_eq!(read_to_end(&mut stranger).0, b"");
    let reply = second_reply(&mut client);
    assert_eq!(reply, Reply::failed(ReplyCode::TtlExpired));
    assert_eq!(read_to_end(&mut client), (Vec::new(), End::Closed));
    check_refused(local, "0.0.0.0", ReplyCode::NotAllowed);
    check_refused(local, "::1", ReplyCode::AddressTypeNotSupported);
    check_refused(local, "nobody.invalid", ReplyCode::HostUnreachable);
    assert_eq!(relay.counters().count("refused.nobody_came"), 1);
    relay.stop().check_clean();
}

#[test]
fn a_client_that_goes_awaits_nobody() {
    let (folder, mut relay) = relay(HERE);
    for options in [&[][..], &["--framed"]] {
        let (_agent, local) = agent(folder.path(), &url(&relay), options);
        let (client, listening) = awaiting(local);
        drop(client);
        until_closed(listening);
        let (mut client, listening) = awaiting(local);
        client.write_all(b"early").expect("sent");
        client.shutdown(Shutdown::Write).expect("connected");
        until_closed(listening);
        let reply = second_reply(&mut client);
        assert_eq!(reply, Reply::failed(ReplyCode::GeneralFailure));
    }
    let closed = relay.counters().count("refused.closed_early");
    assert_eq!(closed, 4);
    relay.stop().check_clean();
}

#[test]
fn what_a_client_says_early_is_for_whoever_comes() {
    let (folder, relay) = relay(HERE);
    for options in [&[][..], &["--framed"]] {
        let (_agent, local) = agent(folder.path(), &url(&relay), options);
        let (mut client, listening) = awaiting(local);
        client.write_all(b"early").expect("sent");
        let mut peer = dial(listening);
        peer.write_all(b"220 ready").expect("sent");
        assert_eq!(second_reply(&mut client).code, ReplyCode::Succeeded);
        for (stream, expected) in [(&mut peer, &b"early"[..]), (&mut client, b"220 ready")] {
            let mut said = vec![0; expected.len()];
            stream.read_exact(&mut said).expect("the word");
            assert_eq!(said, expected);
        }
    }
    relay.stop().check_clean();
}

#[test]
fn rules_say_for_whom_a_relay_waits() {
    let (folder, relay) = relay(HERE);
    let text = "deny 192.0.2.1\ndirect 192.0.2.2\nrelay-or-direct 127.0.0.1\n";
    let rules = secret(folder.path(), "rules", text);
    let (agent, local) = agent(folder.path(), &url(&relay), &["--rules", &rules]);
    check_refused(local, "192.0.2.1", ReplyCode::NotAllowed);
    check_refused(local, "192.0.2.2", ReplyCode::CommandNotSupported);
    drop(awaiting(local));
    relay.stop().check_clean();
    // Nobody is awaited without a relay, whatever could be dialled without one.
    until("no relay", || {
        let (_, reply) = bind(local, "127.0.0.1", 20);
        (reply.code == ReplyCode::NetworkUnreachable).then_some(())
    });
    let counters = stop(agent);
    assert_eq!(counters.count("refused.egress_denied"), 1);
    assert_eq!(counters.count("refused.command_not_supported"), 1);
}

#[test]
fn rules_say_who_may_come() {
    let (folder, relay) = relay(HERE);
    let rules = secret(folder.path(), "rules", "deny 127.0.0.0/8\n");
    let (agent, local) = agent(folder.path(), &url(&relay), &["--rules", &rules]);
    let awaiting_by_name = || {
        let (client, reply) = bind(local, "localhost", 0);
        assert_eq!(reply.code, ReplyCode::Succeeded);
        let listening = reply.bound.address().expect("an address");
        (client, dial(listening))
    };
    let (mut client, mut peer) = awaiting_by_name();
    let reply = second_reply(&mut client);
    assert_eq!(reply, Reply::failed(ReplyCode::NotAllowed));
    assert_eq!(read_to_end(&mut client), (Vec::new(), End::Closed));
    assert_eq!(read_to_end(&mut peer).0, b"");
    // The name's rule comes first.
    secret(
        folder.path(),
        "rules",
        "relay localhost\ndeny 127.0.0.0/8\n",
    );
    agent.signal(Signal::HUP);
    agent.logged("are taken");
    let (mut client, _peer) = awaiting_by_name();
    assert_eq!(second_reply(&mut client).code, ReplyCode::Succeeded);
    drop(client);
    relay.stop().check_clean();
}

#[test]
fn operators_see_who_waits() {
    let (folder, relay) = relay(HERE);
    let options = ["--admin", "127.0.0.1:0", "--pool", "0"];
    let (agent, local) = agent(folder.path(), &url(&relay), &options);
    let operators = agents_admin::admin(&agent);
    let (client, listening) = awaiting(local);
    let seen = admin::status(operators);
    assert_eq!((&seen["binds"], &seen["pairs"]), (&1.into(), &0.into()));
    assert_eq!(seen["sessions_count"], 1);
    let session = &seen["sessions"][0];
    let (kind, target) = (&session["kind"], &session["target"]);
    assert_eq!((kind, target), (&"bind".into(), &"127.0.0.1:0".into()));
    assert_eq!(session["way"], url(&relay));
    assert_eq!(admin::metrics(operators)["midspan_binds"], 1.0);
    let told = agents_admin::told(operators);
    assert!(told.contains("1 binds that await somebody"), "{told}");
    let peer = dial(listening);
    let seen = until("they are a pair", || {
        let seen = admin::status(operators);
        (seen["pairs"] == 1).then_some(seen)
    });
    assert_eq!(
        (&seen["binds"], &seen["sessions_count"]),
        (&0.into(), &1.into())
    );
    drop((client, peer));
    relay.stop().check_clean();
}

#[test]
fn so_many_clients_of_a_shard_have_somebody_awaited() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = [
        "--limit",
        "binds_max=1000",
        "--limit",
        "binds_per_user_max=1000",
    ];
    let relay = relay_in(folder.path(), &format!("cores = 1\n{HERE}"), &limits);
    let options = ["--cores", "1", "--pool", "0"];
    let (agent, local) = agent(folder.path(), &url(&relay), &options);
    let mut waiting: Vec<_> = (0..256).map(|_| awaiting(local)).collect();
    check_refused(local, "127.0.0.1", ReplyCode::GeneralFailure);
    // Whoever goes makes room.
    let (client, listening) = waiting.pop().expect("many wait");
    drop(client);
    until_closed(listening);
    until("room for another", || {
        let (_, reply) = bind(local, "127.0.0.1", 0);
        (reply.code == ReplyCode::Succeeded).then_some(())
    });
    drop(waiting);
    let counters = stop(agent);
    assert!(counters.count("refused.too_many_binds") >= 1);
    relay.stop().check_clean();
}

/// What becomes of a wait.
enum Event {
    Comes,
    StrangerAndThenComes,
    OnlyStranger,
    Nobody,
    ClientEnds,
}

/// RFC 1928 §4 and §6, at a relay that waits for two seconds: a name, what happens, and the
/// second reply.
const CASES: [(&str, Event, ReplyCode); 5] = [
    ("whom it awaits comes", Event::Comes, ReplyCode::Succeeded),
    (
        "a stranger is kept out, and whom it awaits comes",
        Event::StrangerAndThenComes,
        ReplyCode::Succeeded,
    ),
    (
        "only a stranger comes",
        Event::OnlyStranger,
        ReplyCode::TtlExpired,
    ),
    ("nobody comes", Event::Nobody, ReplyCode::TtlExpired),
    (
        "the client's connection ends",
        Event::ClientEnds,
        ReplyCode::GeneralFailure,
    ),
];

/// Asks whole, or byte by byte.
fn check_case(agent: SocketAddr, piece: usize, (name, event, code): &(&str, Event, ReplyCode)) {
    let said = b"\x05\x01\0\x05\x02\0\x01\x7f\0\0\x01\0\x14";
    let mut client = dial(agent);
    client.set_nodelay(true).expect("a socket");
    for bytes in said.chunks(piece.min(said.len())) {
        client.write_all(bytes).expect("sent");
    }
    let mut chosen = [0; 2];
    client.read_exact(&mut chosen).expect("a method");
    assert_eq!(chosen, [5, 0], "{name}");
    let first = second_reply(&mut client);
    assert_eq!(first.code, ReplyCode::Succeeded, "{name}");
    let listening = first.bound.address().expect("an address");
    if let Event::StrangerAndThenComes | Event::OnlyStranger = event {
        let mut stranger = dial_from_elsewhere(listening);
        assert_eq!(read_to_end(&mut stranger).0, b"", "{name}");
    }
    let peer = match event {
        Event::Comes | Event::StrangerAndThenComes => Some(dial(listening)),
        Event::ClientEnds => {
            client.shutdown(Shutdown::Write).expect("connected");
            None
        }
        Event::OnlyStranger | Event::Nobody => None,
    };
    let second = second_reply(&mut client);
    assert_eq!(second.code, *code, "{name}");
    let Some(mut peer) = peer else {
        assert_eq!(
            read_to_end(&mut client),
            (Vec::new(), End::Closed),
            "{name}"
        );
        return until_closed(listening);
    };
    let from = peer.local_addr().expect("connected");
    assert_eq!(second.bound, from.into(), "{name}");
    peer.write_all(b"behind").expect("sent");
    drop(peer);
    assert_eq!(read_to_end(&mut client).0, b"behind", "{name}");
}

#[test]
fn each_case_of_bind_has_its_two_replies() {
    let folder = tempfile::tempdir().expect("a folder");
    let relay = relay_in(folder.path(), HERE, &["--limit", "bind_timeout_s=2"]);
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    thread::scope(|scope| {
        for case in &CASES {
            for piece in [usize::MAX, 1] {
                scope.spawn(move || check_case(local, piece, case));
            }
        }
    });
    relay.stop().check_clean();
}

fn stop(mut agent: Program) -> Counters {
    agent.terminate();
    assert!(agent.wait().success());
    Counters::of_log(&agent.rest_of_log())
}

#[test]
fn whoever_stops_ends_the_wait() {
    let (folder, mut relay) = relay(HERE);
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let (mut client, listening) = awaiting(local);
    let counters = stop(agent);
    let failed = Reply::failed(ReplyCode::GeneralFailure);
    assert_eq!(second_reply(&mut client), failed);
    assert_eq!(counters.count("refused.draining"), 1);
    until_closed(listening);

    let (_agent, local) = super::socks::agent(folder.path(), &url(&relay), &[]);
    let (mut client, _) = awaiting(local);
    relay.counters();
    relay.signal(Signal::TERM);
    assert_eq!(second_reply(&mut client), failed);
    assert_eq!(read_to_end(&mut client), (Vec::new(), End::Closed));
    relay.wait().check_clean();

    let (folder, relay) = super::websocks::relay(HERE);
    let (_agent, local) = super::socks::agent(folder.path(), &url(&relay), &[]);
    let (mut client, _) = awaiting(local);
    relay.signal(Signal::KILL);
    assert_eq!(second_reply(&mut client), failed);
}
