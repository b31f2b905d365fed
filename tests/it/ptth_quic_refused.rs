//! PTTH over QUIC: what operators see of whoever is refused, and what he is told.

use std::net::SocketAddr;

use midspan::protocol::ptth_quic::Role;

use super::admin::metrics;
use super::agent_process::Program;
use super::agents::{assert_reset, dial};
use super::patience::until;
use super::peers::quic_peer::{QuicPeer, hello, open};
use super::ptth_agents::{Meeting, key_file};
use super::ptth_quic::meeting_with_admin;

const AT_DEBUG: &[&str] = &["--cores", "1", "--log-level", "debug"];

#[track_caller]
fn check(line: &str, fields: &[&str]) {
    for field in fields {
        assert!(line.contains(&format!(" {field}")), "no {field} in: {line}");
    }
}

#[test]
fn who_is_refused_what_stands_in_the_log() {
    let (meeting, _) = meeting_with_admin(AT_DEBUG);
    for (role, field) in [
        (Role::ServerSide, "server=mallory"),
        (Role::ClientSide, "client=mallory"),
    ] {
        let mut peer = QuicPeer::connect(&meeting);
        let peer_field = format!("peer={}", peer.address());
        peer.open_with(&hello(role, "mallory"));
        let line = meeting.relay.logged("call refused");
        let reason = "reason=\"unknown_key\"";
        check(&line, &[&peer_field, "call=\"hello\"", field, reason]);
        check(&meeting.relay.logged("refused"), &[&peer_field, reason]);
    }
    let (mut alice, _hello) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let peer_field = format!("peer={}", alice.address());
    let line = meeting.relay.logged("a proxy has joined");
    check(&line, &["name=alice", "role=\"client\"", &peer_field]);
    for (server, reason) in [("lab", "out_of_scope"), ("home", "server_absent")] {
        let stream = alice.open_with(&open(server, "22"));
        alice.hear_all(stream);
        let line = meeting.relay.logged("call refused");
        let [server, reason] = [format!("server={server}"), format!("reason=\"{reason}\"")];
        let call = "call=\"open\"";
        check(
            &line,
            &[
                &peer_field,
                call,
                "client=alice",
                &server,
                "port=22",
                &reason,
            ],
        );
    }
}

/// What the relay finds of a handshake that came to nothing.
#[track_caller]
fn check_no_tls(meeting: &Meeting, admin: SocketAddr) {
    let line = meeting.relay.logged("reason=\"tls_failed\"");
    check(&line, &["peer=127.0.0.1:"]);
    until("the count", || {
        let counted = metrics(admin)["midspan_refused_total{reason=\"tls_failed\"}"];
        (counted >= 1.0).then_some(())
    });
}

#[test]
fn a_proxy_that_has_another_pin_says_so_and_the_relay_counts_it() {
    let (mut meeting, admin) = meeting_with_admin(AT_DEBUG);
    let key = key_file(meeting.folder.path(), "home");
    let at = meeting.quic_address();
    meeting.url = format!("ptth+quic://{at}?pin={}", "0".repeat(64));
    let expose = ["expose", "home", "--to", "127.0.0.1:9", "--key-file", &key];
    let expose = Program::start(&[&expose[..], &["--relay", &meeting.url]].concat());
    let (forward, local) = meeting.forward("home");
    for program in [&expose, &forward] {
        let line = program.logged("cannot join the relay");
        assert!(line.contains("not the pinned one"), "{line}");
    }
    assert_reset(&dial(local));
    let line = forward.logged("cannot connect");
    assert!(line.contains("is not whom it trusts"), "{line}");
    check_no_tls(&meeting, admin);
}

#[test]
fn who_speaks_something_else_is_counted() {
    let (meeting, admin) = meeting_with_admin(AT_DEBUG);
    let mut peer = QuicPeer::dial_for(b"h3", &meeting);
    assert!(!peer.comes_about());
    check_no_tls(&meeting, admin);
}
