//! Visitors who await somebody, by SOCKS5's BIND: two replies, and nobody else is let in.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use midspan::protocol::socks5::{self, Reply, ReplyCode};
use midspan::protocol::websocks::MAX_FRAME;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};

use super::admin;
use super::jet_client::{End, dial, read_to_end};
use super::network_namespace::NetworkNamespace;
use super::patience::until;
use super::peers::half_closes::half_close;
use super::peers::resets::reset;
use super::per_address::{dial_from_elsewhere, try_from_elsewhere};
use super::relay_process::Relay;
use super::require::require_cores;
use super::websocks::{KEY, config_in, read_reply, read_value, relay, relay_in, request, visit};

/// One shard that awaits somebody at this address of the host.
const HERE: &str = "cores = 1\n[websocks.bind]\naddresses = [\"127.0.0.1\"]";

/// What a visitor is told that awaits somebody from there.
fn bind(visitor: &mut TcpStream, host: &str, port: u16) -> Reply {
    let wire = [&MAX_FRAME[..], &request(socks5::Command::Bind, host, port)].concat();
    visitor.write_all(&wire).expect("sent");
    read_reply(visitor)
}

/// A visitor that awaits somebody from there, and where that one is to come.
pub(crate) fn awaiting(relay: &Relay, host: &str) -> (TcpStream, SocketAddr) {
    let mut visitor = visit(relay.address, KEY);
    let reply = bind(&mut visitor, host, 20);
    assert_eq!(reply.code, ReplyCode::Succeeded);
    (visitor, reply.bound.address().expect("an address"))
}

/// What a visitor is told that may await nobody.
fn refused(relay: &Relay, host: &str, port: u16) -> ReplyCode {
    let mut visitor = visit(relay.address, KEY);
    let code = bind(&mut visitor, host, port).code;
    assert_ne!(code, ReplyCode::Succeeded);
    assert_eq!(read_to_end(&mut visitor).0, b"");
    code
}

pub(crate) fn second_reply(visitor: &mut TcpStream) -> Reply {
    read_value(visitor, Reply::decode)
}

/// Waits until nobody listens there any more, as seen by somebody who is not awaited.
#[track_caller]
pub(crate) fn until_closed(address: SocketAddr) {
    until("nobody listens", || match try_from_elsewhere(address) {
        Ok(_) => None,
        Err(error) => {
            // It was in the queue when the listener was closed.
            let is_over = error != Errno::CONNRESET;
            assert!(!is_over || error == Errno::CONNREFUSED, "{error}");
            is_over.then_some(())
        }
    });
}

/// Whom a visitor awaits comes; gives it, once the visitor knows.
fn come(visitor: &mut TcpStream, listening: SocketAddr) -> TcpStream {
    let peer = dial(listening);
    let reply = second_reply(visitor);
    assert_eq!(reply.code, ReplyCode::Succeeded);
    assert_eq!(reply.bound, peer.local_addr().expect("connected").into());
    peer
}

/// Bytes both ways, and the end of each direction.
fn check_pair(visitor: &mut TcpStream, peer: &mut TcpStream) {
    check_direction(visitor, peer);
    check_direction(peer, visitor);
}

fn check_direction(from: &mut TcpStream, to: &mut TcpStream) {
    half_close(from, b"last words");
    assert_eq!(read_to_end(to), (b"last words".to_vec(), End::Closed));
}

fn descriptors(relay: &Relay) -> usize {
    let open = fs::read_dir(relay.proc("fd")).expect("the relay runs");
    open.count()
}

#[test]
fn whom_a_visitor_awaits_is_told_and_joined_with_it() {
    let (_folder, mut relay) = relay(HERE);
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1"] {
        let (mut visitor, listening) = awaiting(&relay, host);
        assert!(listening.ip().is_loopback() && listening.port() != 0);
        // What it says early is for whoever comes.
        visitor.write_all(b"early").expect("sent");
        let mut peer = come(&mut visitor, listening);
        let mut early = [0; 5];
        peer.read_exact(&mut early).expect("the early word");
        assert_eq!(&early, b"early");
        // One is all.
        until_closed(listening);
        check_pair(&mut visitor, &mut peer);
        let line = relay.wait_for_line("session ended");
        let target = match host.contains(':') {
            true => format!("[{host}]:20"),
            false => format!("{host}:20"),
        };
        let right = format!("right={} ", peer.local_addr().expect("an address"));
        let errand = format!("user=alice target={target} command=\"bind\"");
        assert!(line.contains(&right) && line.contains(&errand), "{line}");
    }
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 3);
    assert!(ended.counters.refused().is_empty());
}

#[test]
fn others_are_turned_away_and_the_wait_goes_on() {
    let (_folder, mut relay) = relay(HERE);
    let (mut visitor, listening) = awaiting(&relay, "127.0.0.1");
    for _ in 0..20 {
        let mut stranger = dial_from_elsewhere(listening);
        assert_eq!(read_to_end(&mut stranger).0, b"");
    }
    let mut peer = come(&mut visitor, listening);
    check_pair(&mut visitor, &mut peer);
    assert_eq!(relay.counters().count("refused.not_awaited"), 20);
    relay.stop().check_clean();
}

#[test]
fn nobody_is_awaited_for_longer_than_that() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut relay = relay_in(folder.path(), HERE, &["--limit", "bind_timeout_s=1"]);
    let (mut visitor, listening) = awaiting(&relay, "127.0.0.1");
    let reply = second_reply(&mut visitor);
    assert_eq!(reply, Reply::failed(ReplyCode::TtlExpired));
    assert_eq!(read_to_end(&mut visitor), (Vec::new(), End::Closed));
    until_closed(listening);
    assert_eq!(relay.counters().count("refused.nobody_came"), 1);
    relay.stop().check_clean();
}

#[test]
fn a_visitor_that_goes_awaits_nobody() {
    let (_folder, mut relay) = relay(HERE);
    let (visitor, listening) = awaiting(&relay, "127.0.0.1");
    drop(visitor);
    until_closed(listening);
    let (visitor, listening) = awaiting(&relay, "127.0.0.1");
    reset(visitor);
    until_closed(listening);
    // What it has said before does not hide its end.
    for early in [&b""[..], b"early"] {
        let (mut visitor, listening) = awaiting(&relay, "127.0.0.1");
        half_close(&mut visitor, early);
        until_closed(listening);
        let reply = second_reply(&mut visitor);
        assert_eq!(reply, Reply::failed(ReplyCode::GeneralFailure));
    }
    assert_eq!(relay.counters().count("refused.closed_early"), 4);
    // One that says too much before anybody listens to it is as good as gone.
    let (mut visitor, listening) = awaiting(&relay, "127.0.0.1");
    visitor.write_all(&[7; 10_000]).expect("sent");
    until_closed(listening);
    drop(visitor);
    assert_eq!(relay.counters().count("refused.bad_socks"), 1);
    relay.stop().check_clean();
}

#[test]
fn without_an_address_nobody_is_awaited() {
    let disabled = "cores = 1\n[websocks.bind]\nanybody = true";
    let of_none = format!("{HERE}\n[[websocks.rules]]\nusers = [\"alice\"]\nbinds_max = 0");
    for lines in ["cores = 1", disabled, &of_none] {
        let (_folder, mut relay) = relay(lines);
        let code = refused(&relay, "127.0.0.1", 20);
        assert_eq!(code, ReplyCode::CommandNotSupported, "{lines}");
        let counted = relay.counters().count("refused.command_not_supported");
        assert_eq!(counted, 1, "{lines}");
        relay.stop().check_clean();
    }
    let (_folder, mut relay) = relay(HERE);
    // It has no address of that family.
    let code = refused(&relay, "::1", 20);
    assert_eq!(code, ReplyCode::AddressTypeNotSupported);
    let counted = relay.counters();
    assert_eq!(counted.count("refused.address_type_not_supported"), 1);
    relay.stop().check_clean();
}

#[test]
fn only_who_may_be_dialled_is_awaited() {
    let rules = format!(
        "{HERE}\n[egress]\nreach = \"everything\"\nrules = [\"deny 127.0.0.2\", \"deny *:25\"]"
    );
    let (_folder, mut closed) = relay(&rules);
    for (host, port, code) in [
        ("127.0.0.2", 20, ReplyCode::NotAllowed),
        ("127.0.0.1", 25, ReplyCode::NotAllowed),
        ("localhost", 25, ReplyCode::NotAllowed),
        // The operator does not let it be left open who comes.
        ("0.0.0.0", 20, ReplyCode::NotAllowed),
        ("::", 20, ReplyCode::NotAllowed),
        ("0", 20, ReplyCode::NotAllowed),
        ("nobody.invalid", 20, ReplyCode::HostUnreachable),
    ] {
        assert_eq!(refused(&closed, host, port), code, "{host}:{port}");
    }
    assert_eq!(closed.counters().count("refused.egress_denied"), 6);
    closed.stop().check_clean();

    let anybody = rules.replace("[egress]", "anybody = true\n[egress]");
    let (_folder, mut open) = relay(&anybody);
    for host in ["0.0.0.0", "0"] {
        let (mut visitor, listening) = awaiting(&open, host);
        // Whoever may not be dialled does not come either.
        let mut stranger = dial_from_elsewhere(listening);
        assert_eq!(read_to_end(&mut stranger).0, b"");
        let mut peer = come(&mut visitor, listening);
        check_pair(&mut visitor, &mut peer);
    }
    assert_eq!(open.counters().count("refused.egress_denied"), 2);
    open.stop().check_clean();
}

#[test]
fn so_many_are_awaited_of_one_user_and_in_all() {
    for limit in ["binds_per_user_max=2", "binds_max=2"] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut relay = relay_in(folder.path(), HERE, &["--limit", limit]);
        let (mut first, listening) = awaiting(&relay, "127.0.0.1");
        let (second, _) = awaiting(&relay, "127.0.0.1");
        let code = refused(&relay, "127.0.0.1", 20);
        assert_eq!(code, ReplyCode::GeneralFailure, "{limit}");
        assert_eq!(relay.counters().count("refused.too_many_binds"), 1);
        let another = || {
            until("room for another", || {
                let mut visitor = visit(relay.address, KEY);
                let code = bind(&mut visitor, "127.0.0.1", 20).code;
                (code == ReplyCode::Succeeded).then_some(visitor)
            })
        };
        // Somebody has come, and whoever has gone awaits nobody.
        let mut peer = come(&mut first, listening);
        let third = another();
        drop(second);
        let fourth = another();
        check_pair(&mut first, &mut peer);
        drop((third, fourth));
        relay.stop().check_clean();
    }
}

#[test]
fn a_users_limit_holds_for_all_shards_together() {
    if !require_cores(2) {
        return;
    }
    let lines = HERE.replace("cores = 1", "cores = 2");
    let lines = format!("{lines}\n[[websocks.rules]]\nusers = [\"alice\"]\nbinds_max = 3");
    let (_folder, mut relay) = relay(&lines);
    let mut held = Vec::new();
    // The kernel spreads them: each shard gets some.
    for count in 0..24 {
        let mut visitor = visit(relay.address, KEY);
        let reply = bind(&mut visitor, "127.0.0.1", 20);
        let is_served = reply.code == ReplyCode::Succeeded;
        assert_eq!(is_served, count < 3, "{count}");
        held.push((visitor, reply.bound.address().expect("an address")));
    }
    assert_eq!(relay.counters().count("refused.too_many_binds"), 21);
    for (visitor, listening) in &mut held[..3] {
        let mut peer = come(visitor, *listening);
        check_pair(visitor, &mut peer);
    }
    relay.stop().check_clean();
}

#[test]
fn a_drain_ends_the_wait() {
    let (_folder, mut relay) = relay(HERE);
    let (mut joined, listening) = awaiting(&relay, "127.0.0.1");
    let mut peer = come(&mut joined, listening);
    let (mut visitor, listening) = awaiting(&relay, "127.0.0.1");
    relay.signal(Signal::TERM);
    let reply = second_reply(&mut visitor);
    assert_eq!(reply, Reply::failed(ReplyCode::GeneralFailure));
    assert_eq!(read_to_end(&mut visitor), (Vec::new(), End::Closed));
    until_closed(listening);
    // Those who have met go on.
    check_pair(&mut joined, &mut peer);
    relay.wait_for_line("session ended");
    let ended = relay.wait();
    ended.check_clean();
    assert_eq!(ended.counters.count("refused.draining"), 1);
}

#[test]
fn operators_see_who_waits_and_no_descriptor_is_left_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let relay = relay_in(folder.path(), HERE, &["--admin", "127.0.0.1:0"]);
    let admin = relay.admin.expect("operators are let in");
    let binds = || admin::metrics(admin)["midspan_binds"];
    let until_binds = |count: f64| until("so many binds", || (binds() == count).then_some(()));
    let before = descriptors(&relay);
    for round in 0..20 {
        let (mut visitor, listening) = awaiting(&relay, "127.0.0.1");
        until_binds(1.0);
        drop(dial_from_elsewhere(listening));
        if round % 2 == 0 {
            let mut peer = come(&mut visitor, listening);
            check_pair(&mut visitor, &mut peer);
        }
        drop(visitor);
        until_binds(0.0);
    }
    until("no descriptor more than before", || {
        (descriptors(&relay) <= before).then_some(())
    });
    relay.stop().check_clean();
}

#[test]
fn an_address_that_is_not_the_hosts_is_said_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = HERE.replace("127.0.0.1", "192.0.2.1");
    let config = config_in(folder.path(), &lines);
    let started = Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args(["relay", "--listen", "127.0.0.1:0", "--config"])
        .arg(config)
        .arg("--state-dir")
        .arg(folder.path())
        .output()
        .expect("the relay can be started");
    assert!(!started.status.success());
    let said = String::from_utf8_lossy(&started.stderr);
    for part in [
        "websocks.bind.addresses: cannot listen at 192.0.2.1: ",
        "no interface has",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn whoever_comes_over_ipv6_is_awaited_there() {
    let lines = HERE.replace("[\"", "[\"::1\", \"");
    let (_folder, relay) = relay(&lines);
    for (host, ip) in [("::1", "::1"), ("127.0.0.1", "127.0.0.1")] {
        let (mut visitor, listening) = awaiting(&relay, host);
        assert_eq!(listening.ip().to_string(), ip);
        let mut peer = come(&mut visitor, listening);
        check_pair(&mut visitor, &mut peer);
    }
    relay.stop().check_clean();
}

/// Has the relay read its files again; gives what it says to that.
fn reload(relay: &mut Relay) -> String {
    relay.signal(Signal::HUP);
    relay.wait_for_line("the configuration is ")
}

/// Has the file list nobody.
fn remove_users(folder: &Path) {
    fs::write(folder.join("users"), "# nobody\n").expect("written");
}

#[test]
fn whoever_is_a_user_no_more_is_joined_with_nobody() {
    let (folder, mut relay) = relay(HERE);
    let (mut visitor, listening) = awaiting(&relay, "127.0.0.1");
    remove_users(folder.path());
    let said = reload(&mut relay);
    assert!(said.contains("is taken"), "{said}");
    let mut peer = dial(listening);
    assert_eq!(read_to_end(&mut peer).0, b"");
    assert_eq!(relay.counters().count("refused.egress_denied"), 1);
    half_close(&mut visitor, b"");
    let reply = second_reply(&mut visitor);
    assert_eq!(reply, Reply::failed(ReplyCode::GeneralFailure));
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 0);
}

#[test]
fn a_reload_to_an_address_that_is_not_the_hosts_is_refused() {
    let (folder, mut relay) = relay(HERE);
    config_in(folder.path(), &HERE.replace("127.0.0.1", "192.0.2.1"));
    let said = reload(&mut relay);
    for part in ["is not taken", "websocks.bind.addresses", "192.0.2.1"] {
        assert!(said.contains(part), "{said}");
    }
    // The one before stays.
    drop(awaiting(&relay, "127.0.0.1"));
    relay.stop().check_clean();
}

#[test]
fn an_address_that_is_gone_is_told_and_keeps_nobody_in() {
    let ip = |words: &str| {
        let status = Command::new("ip").args(words.split(' ')).status();
        assert!(status.expect("ip runs").success(), "{words}");
    };
    NetworkNamespace::new("").run(|| {
        ip("address add 198.51.100.7/32 dev lo");
        let (folder, mut relay) = relay(&HERE.replace("127.0.0.1", "198.51.100.7"));
        drop(awaiting(&relay, "127.0.0.1"));
        ip("address del 198.51.100.7/32 dev lo");
        let code = refused(&relay, "127.0.0.1", 20);
        assert_eq!(code, ReplyCode::GeneralFailure);
        let line = relay.wait_for_line("nobody can be awaited");
        assert!(line.contains("198.51.100.7"), "{line}");
        assert_eq!(relay.counters().count("refused.listen_failed"), 1);
        let mut visitor = visit(relay.address, KEY);
        remove_users(folder.path());
        let said = reload(&mut relay);
        assert!(said.contains("is taken"), "{said}");
        let code = bind(&mut visitor, "127.0.0.1", 20).code;
        assert_eq!(code, ReplyCode::NotAllowed);
        relay.stop().check_clean();
    });
}

#[test]
fn a_relay_without_descriptors_says_so() {
    let (_folder, mut relay) = relay(HERE);
    let mut visitor = visit(relay.address, KEY);
    // It has what it needs by now.
    drop(awaiting(&relay, "127.0.0.1"));
    relay.wait_for_counters("a visitor alone", |counted| {
        counted.count("refused.closed_early") == 1
    });
    let nofile = |soft| {
        let limit = Rlimit {
            current: Some(soft),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        prlimit(Some(relay.pid()), Resource::Nofile, limit).expect("it runs")
    };
    // However many are closed meanwhile, none is opened.
    let before = nofile(0);
    let code = bind(&mut visitor, "127.0.0.1", 20).code;
    assert_eq!(code, ReplyCode::GeneralFailure);
    let before = before.current.expect("a limit");
    nofile(before);
    relay.wait_for_line("out of descriptors");
    let counted = relay.counters();
    assert_eq!(counted.count("refused.no_descriptor"), 1);
    assert_eq!(counted.count("refused.listen_failed"), 0);
    drop(awaiting(&relay, "127.0.0.1"));
    relay.stop().check_clean();
}

#[test]
fn what_comes_behind_the_second_reply_waits_for_clients_that_read_replies_alone() {
    let (_folder, relay) = relay(HERE);
    let mut visitor = visit(relay.address, "dGhlIHNhbXBsZSBub25jZQ==");
    let listening = bind(&mut visitor, "127.0.0.1", 20).bound;
    let mut peer = dial(listening.address().expect("an address"));
    peer.write_all(b"220 ready").expect("sent");
    let mut said = [0; 64];
    let count = visitor.read(&mut said).expect("the second reply");
    assert_eq!(count, 10, "{:?}", &said[..count]);
    let mut banner = [0; 9];
    visitor.read_exact(&mut banner).expect("the banner");
    assert_eq!(&banner, b"220 ready");
    drop((visitor, peer));
    relay.stop().check_clean();
}
