//! PTTH over HTTP as operators have it: limits, what ends that is silent, metrics, status and
//! the access log.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use super::admin::{metrics, status as overview};
use super::patience::until;
use super::peers::resets::reset;
use super::ptth_http::{
    ALICE, HOME, LAB, Tunnel, call, is_cut, next_call, read_head, relay_with, status,
};
use super::relay_process::Relay;
use super::rest::read_response;

/// One chunk goes from a request with a body to an answer with one.
fn pass(from: &mut TcpStream, to: &mut TcpStream, chunk: &[u8]) {
    from.write_all(chunk).expect("sent");
    let mut got = vec![0; chunk.len()];
    to.read_exact(&mut got).expect("it comes");
    assert_eq!(got, chunk);
}

impl Tunnel {
    pub(super) fn pass_up(&mut self, chunk: &[u8]) {
        pass(&mut self.upstream, &mut self.accept, chunk);
    }

    pub(super) fn pass_down(&mut self, chunk: &[u8]) {
        pass(&mut self.downstream, &mut self.connect, chunk);
    }

    /// The client's half ends as it should.
    fn end_up(&mut self) {
        end(&mut self.upstream, &mut self.accept);
    }

    fn end_down(&mut self) {
        end(&mut self.downstream, &mut self.connect);
    }

    fn all(self) -> [TcpStream; 4] {
        let Self {
            connect,
            upstream,
            accept,
            downstream,
        } = self;
        [connect, upstream, accept, downstream]
    }
}

fn end(from: &mut TcpStream, to: &mut TcpStream) {
    pass(from, to, b"0\r\n\r\n");
    let mut rest = Vec::new();
    to.read_to_end(&mut rest).expect("a clean end");
    assert!(rest.is_empty());
    to.shutdown(Shutdown::Write).expect("connected");
    assert_eq!(read_response(from).status, 200);
}

/// Whether a socket that does not block has nothing to tell.
fn is_open(stream: &TcpStream) -> bool {
    let told = stream.peek(&mut [0]);
    told.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

pub(super) fn waits_until(admin: SocketAddr, name: &str, count: f64) {
    until(name, || (metrics(admin)[name] == count).then_some(()));
}

fn events(admin: SocketAddr) -> Vec<(String, f64)> {
    let samples = metrics(admin).into_iter();
    let events = samples.filter_map(|(name, count)| {
        let event = name.strip_prefix("midspan_tunnels_total{event=\"")?;
        Some((event.strip_suffix("\"}")?.to_owned(), count))
    });
    events.filter(|(_, count)| *count > 0.0).collect()
}

fn expect_events(admin: SocketAddr, expected: &[(&str, f64)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, n)| ((*name).to_owned(), *n))
        .collect();
    let mut seen = Vec::new();
    until("what became of them", || {
        seen = events(admin);
        (seen == expected).then_some(())
    });
}

/// A server is told of a connection and does not want it.
fn reject(relay: SocketAddr, port: &str) {
    let mut listen = call(relay, HOME, &format!("listen/{port}"), "");
    let mut connect = call(relay, ALICE, &format!("connect/home/{port}"), "");
    let id = read_response(&mut listen).body;
    assert_eq!(status(relay, HOME, &format!("reject/{id}")), 204);
    assert_eq!(read_response(&mut connect).status, 502);
}

/// Whether a line of the log has these fields, whichever of them the form quotes.
fn check_line(line: &str, fields: &[String]) {
    let line = line.replace('"', "");
    for field in fields {
        let field = format!(" {field}");
        assert!(
            line.ends_with(&field) || line.contains(&format!("{field} ")),
            "{field}: {line}"
        );
    }
}

#[test]
fn a_tunnel_is_seen_while_it_runs_and_has_one_line_when_it_has_ended() {
    let (_folder, mut relay) = relay_with("", &["--admin", "127.0.0.1:0"]);
    let (address, admin) = (relay.address, relay.admin.expect("operators are let in"));
    reject(address, "5432");
    let _listen = call(address, HOME, "listen/80", "");
    waits_until(admin, "midspan_listens_waiting", 1.0);
    let _connect = call(address, ALICE, "connect/home/443", "");
    waits_until(admin, "midspan_connects_waiting", 1.0);
    let mut tunnel = Tunnel::open(address, "22");
    tunnel.pass_up(b"2\r\nhi\r\n");
    tunnel.pass_down(b"3\r\nyou\r\n");

    let [left, right] = [&tunnel.connect, &tunnel.accept]
        .map(|stream| stream.local_addr().expect("connected").to_string());
    let seen = &overview(admin)["forwarded"];
    assert_eq!(seen["tunnels"], 1, "{seen}");
    let running = &seen["running"];
    assert_eq!(running.as_array().map(Vec::len), Some(1), "{running}");
    for (name, expected) in [
        ("client", "alice"),
        ("server", "home"),
        ("port", "22"),
        ("left", &*left),
        ("right", &*right),
    ] {
        assert_eq!(running[0][name], expected, "{running}");
    }
    assert_eq!(running[0]["left_bytes"], 7, "{running}");
    assert_eq!(running[0]["right_bytes"], 8, "{running}");
    let ports = json!([
        {"server": "home", "port": "443", "listens_waiting": 0, "connects_waiting": 1},
        {"server": "home", "port": "80", "listens_waiting": 1, "connects_waiting": 0},
    ]);
    assert_eq!(seen["ports"], ports);
    let seen = metrics(admin);
    assert_eq!(seen["midspan_tunnels"], 1.0);
    assert_eq!(seen["midspan_listens_waiting"], 1.0);
    assert_eq!(seen["midspan_connects_waiting"], 1.0);
    let said = Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args(["status", "--admin", &admin.to_string()])
        .output()
        .expect("it runs");
    let said = String::from_utf8(said.stdout).expect("text");
    let expected = format!("alice at {left} to home:22 at {right}, 7 and 8 bytes");
    assert!(said.contains(&expected), "{said}");
    let expected = "home:80, 1 listens waiting, 0 connects waiting";
    assert!(said.contains(expected), "{said}");

    tunnel.end_down();
    tunnel.end_up();
    let line = relay.wait_for_line("tunnel ended");
    let mut fields = vec![format!("left={left}"), format!("right={right}")];
    let others = [
        "client=alice",
        "server=home",
        "port=22",
        "left_bytes=12",
        "right_bytes=13",
        "reason=finished_by_right",
        "ended_by=right",
    ];
    fields.extend(others.map(str::to_owned));
    check_line(&line, &fields);
    assert!(
        line.contains(" waited_ms=") && line.contains(" lasted_ms="),
        "{line}"
    );
    waits_until(admin, "midspan_tunnels", 0.0);
    expect_events(
        admin,
        &[
            ("accepted", 1.0),
            ("asked", 3.0),
            ("rejected", 1.0),
            ("whole", 1.0),
        ],
    );
    // Whoever goes is told of by one line as well, of who it was.
    let mut tunnel = Tunnel::open(address, "22");
    tunnel.pass_up(b"2\r\nhi\r\n");
    reset(tunnel.accept);
    let line = relay.wait_for_line("tunnel ended");
    check_line(
        &line,
        &["reason=reset_by_right", "ended_by=right"].map(str::to_owned),
    );
    let ended = relay.stop();
    assert!(!ended.log.contains("session ended"), "{}", ended.log);
    assert_eq!(
        ended.log.matches("tunnel ended").count(),
        2,
        "{}",
        ended.log
    );
}

#[test]
fn who_is_refused_what_stands_in_the_log() {
    let (_folder, mut relay) = relay_with("", &["--log-level", "debug"]);
    let address = relay.address;
    for (who, what, expected, fields) in [
        (
            9,
            "listen/22",
            401,
            "call=listen port=22 reason=unknown_key",
        ),
        (
            ALICE,
            "connect/lab/80",
            404,
            "call=connect client=alice server=lab port=80 reason=not_found",
        ),
        (
            HOME,
            "accept/GAYTEMZUGU3DOOBZMFRGGZDFMY",
            404,
            "call=accept server=home reason=not_found",
        ),
    ] {
        assert_eq!(status(address, who, what), expected);
        let line = relay.wait_for_line("call refused");
        let fields: Vec<_> = fields.split(' ').map(str::to_owned).collect();
        check_line(&line, &fields);
        assert!(!line.contains("GAYTEM"), "an id is a credential: {line}");
    }
    assert!(relay.stop().status.success());
}

#[test]
fn a_tunnel_that_carries_nothing_ends_and_bytes_either_way_keep_it() {
    // A session's limit is no more than the tunnel's: ways that are silent do not end alone.
    for limits in ["ptth_idle_s = 1", "session_idle_s = 1"] {
        let (_folder, mut relay) = relay_with(&format!("[limits]\n{limits}\n"), &[]);
        let mut kept = Tunnel::open(relay.address, "22");
        let silent = Tunnel::open(relay.address, "22");
        let mut silent = silent.all();
        silent[0].set_nonblocking(true).expect("a socket");
        until("the silent one's end", || {
            kept.pass_down(b"1\r\nx\r\n");
            (!is_open(&silent[0])).then_some(())
        });
        silent[0].set_nonblocking(false).expect("a socket");
        for stream in &mut silent {
            assert!(is_cut(stream));
        }
        let line = relay.wait_for_line("tunnel ended");
        check_line(
            &line,
            &["reason=expired", "ended_by=relay"].map(str::to_owned),
        );
        kept.pass_up(b"2\r\nhi\r\n");
        kept.pass_down(b"2\r\nhi\r\n");
        // And now it is silent too.
        for stream in &mut kept.all() {
            assert!(is_cut(stream));
        }
        relay.wait_for_line("tunnel ended");
        let ended = relay.stop();
        assert_eq!(ended.counters.count("ended.expired"), 4, "{limits}");
    }
}

#[test]
fn a_half_closed_tunnel_may_be_silent_for_its_own_time() {
    let limits = "[limits]\nptth_half_closed_s = 1\n";
    let (_folder, mut relay) = relay_with(limits, &[]);
    let mut open = Tunnel::open(relay.address, "22");
    let mut kept = Tunnel::open(relay.address, "22");
    let mut silent = Tunnel::open(relay.address, "22");
    kept.end_down();
    silent.end_down();
    silent.accept.set_nonblocking(true).expect("a socket");
    until("the silent one's end", || {
        kept.pass_up(b"1\r\nx\r\n");
        (!is_open(&silent.accept)).then_some(())
    });
    silent.accept.set_nonblocking(false).expect("a socket");
    assert!(is_cut(&mut silent.accept) && is_cut(&mut silent.upstream));
    let line = relay.wait_for_line("tunnel ended");
    check_line(
        &line,
        &["reason=expired", "ended_by=relay"].map(str::to_owned),
    );
    kept.end_up();
    let line = relay.wait_for_line("tunnel ended");
    check_line(&line, &["reason=finished_by_right".to_owned()]);
    open.pass_up(b"2\r\nhi\r\n");
    drop(open);
    relay.wait_for_line("tunnel ended");
    let ended = relay.stop();
    assert_eq!(ended.counters.count("ended.expired"), 1);
}

/// Has the relay read its file again, with these limits.
fn reload(folder: &tempfile::TempDir, relay: &mut Relay, before: &str, after: &str) {
    let path = folder.path().join("relay.toml");
    let text = fs::read_to_string(&path).expect("text");
    assert!(text.contains(before), "{text}");
    fs::write(&path, text.replace(before, after)).expect("written");
    relay.signal(Signal::HUP);
    relay.wait_for_line("the configuration is taken");
}

#[test]
fn so_many_wait_as_the_limits_let() {
    let limits = "[limits]\nptth_connects_per_port_max = 1\nptth_listens_per_server_max = 2\n";
    let (folder, mut relay) = relay_with(limits, &["--admin", "127.0.0.1:0"]);
    let (address, admin) = (relay.address, relay.admin.expect("operators are let in"));
    // Of several ports, so that they wait on more than one shard.
    let first = call(address, HOME, "listen/1", "");
    let _second = call(address, HOME, "listen/2", "");
    waits_until(admin, "midspan_listens_waiting", 2.0);
    for port in 1..8 {
        assert_eq!(status(address, HOME, &format!("listen/{port}")), 503);
    }
    let refused = metrics(admin)["midspan_refused_total{reason=\"too_many_listens\"}"];
    assert_eq!(refused, 7.0);
    let _other = call(address, LAB, "listen/1", "");
    waits_until(admin, "midspan_listens_waiting", 3.0);
    // Whoever goes makes room.
    drop(first);
    waits_until(admin, "midspan_listens_waiting", 2.0);
    let _third = call(address, HOME, "listen/3", "");
    waits_until(admin, "midspan_listens_waiting", 3.0);
    assert_eq!(status(address, HOME, "listen/1"), 503);

    let _connect = call(address, ALICE, "connect/home/22", "");
    waits_until(admin, "midspan_connects_waiting", 1.0);
    assert_eq!(status(address, ALICE, "connect/home/22"), 503);
    reload(&folder, &mut relay, "port_max = 1", "port_max = 2");
    let _connect = call(address, ALICE, "connect/home/22", "");
    waits_until(admin, "midspan_connects_waiting", 2.0);
    assert_eq!(status(address, ALICE, "connect/home/22"), 503);
    reload(&folder, &mut relay, "server_max = 2", "server_max = 3");
    let _fourth = call(address, HOME, "listen/4", "");
    waits_until(admin, "midspan_listens_waiting", 4.0);
    assert!(relay.stop().status.success());
}

#[test]
fn whoever_waits_for_as_long_as_the_limits_let_is_told() {
    let limits = "[limits]\nptth_listen_timeout_s = 1\nptth_connect_timeout_s = 2\n\
                  ptth_accept_timeout_s = 1\nptth_join_timeout_s = 1\n";
    let (_folder, relay) = relay_with(limits, &["--admin", "127.0.0.1:0"]);
    let (address, admin) = (relay.address, relay.admin.expect("operators are let in"));
    assert_eq!(status(address, HOME, "listen/22"), 204);
    assert_eq!(status(address, ALICE, "connect/home/22"), 504);
    expect_events(admin, &[("asked", 1.0), ("not_offered", 1.0)]);

    let offer = || {
        let connect = call(address, ALICE, "connect/home/22", "");
        let mut listen = call(address, HOME, "listen/22", "");
        (connect, read_response(&mut listen).body)
    };
    let (mut connect, _) = offer();
    assert_eq!(read_response(&mut connect).status, 504);
    expect_events(
        admin,
        &[
            ("asked", 2.0),
            ("not_accepted", 1.0),
            ("not_offered", 1.0),
            ("offered_again", 1.0),
        ],
    );

    let (mut connect, id) = offer();
    let mut accept = call(address, HOME, &format!("accept/{id}"), "");
    read_head(&mut connect);
    read_head(&mut accept);
    assert!(is_cut(&mut connect) && is_cut(&mut accept));
    expect_events(
        admin,
        &[
            ("accepted", 1.0),
            ("asked", 3.0),
            ("broken", 1.0),
            ("not_accepted", 1.0),
            ("not_offered", 1.0),
            ("offered_again", 1.0),
        ],
    );
    relay.stop().check_clean();
}

#[test]
fn what_was_counted_does_not_fall_while_the_relay_drains() {
    let (_folder, mut relay) = relay_with("", &["--admin", "127.0.0.1:0"]);
    let (address, admin) = (relay.address, relay.admin.expect("operators are let in"));
    // Of several ports, so that each shard has counted some of it.
    for port in 0..16 {
        reject(address, &port.to_string());
    }
    // One on the shard that hears the signal, which stays until all others have ended.
    let shards = overview(admin)["shards"].as_u64().expect("a number");
    let mut tunnels = 0.0;
    let mut tunnel = loop {
        tunnels += 1.0;
        let tunnel = Tunnel::open(address, &format!("{tunnels}"));
        let line = until("a pair for each way", || {
            relay.signal(Signal::USR1);
            let lines = (0..shards).map(|_| relay.wait_for_line(": counters shard="));
            let lines: Vec<_> = lines.collect();
            lines.into_iter().find(|line| line.contains(" pairs=2 "))
        });
        if line.contains(" shard=0 ") {
            break tunnel;
        }
        drop(tunnel);
        relay.wait_for_line("tunnel ended");
    };
    tunnel.pass_up(b"2\r\nhi\r\n");
    let all = [
        ("accepted", tunnels),
        ("asked", 16.0 + tunnels),
        ("rejected", 16.0),
        ("whole", tunnels),
    ];
    expect_events(admin, &all);
    relay.signal(Signal::TERM);
    until("the other shards' end", || {
        (overview(admin)["shards_ended"] == shards - 1).then_some(())
    });
    expect_events(admin, &all);
    assert_eq!(metrics(admin)["midspan_tunnels"], 1.0);
    tunnel.end_up();
    tunnel.end_down();
    relay.wait().check_clean();
}

#[test]
fn whatever_waits_is_answered_when_the_relay_stops() {
    let (_folder, relay) = relay_with("", &["--admin", "127.0.0.1:0"]);
    let (address, admin) = (relay.address, relay.admin.expect("operators are let in"));
    // A tunnel of which a request is missing, and one of each that waits.
    let mut offer = call(address, HOME, "listen/22", "");
    let mut client = call(address, ALICE, "connect/home/22", "");
    let id = read_response(&mut offer).body;
    let mut downstream = next_call(address, "downstream", &id);
    let mut accept = next_call(address, "accept", &id);
    read_head(&mut client);
    read_head(&mut accept);
    let mut listen = call(address, HOME, "listen/80", "");
    waits_until(admin, "midspan_listens_waiting", 1.0);
    let mut connect = call(address, ALICE, "connect/home/81", "");
    waits_until(admin, "midspan_connects_waiting", 1.0);
    relay.signal(Signal::TERM);
    assert_eq!(read_response(&mut listen).status, 204);
    assert_eq!(read_response(&mut connect).status, 503);
    assert!(is_cut(&mut client) && is_cut(&mut accept));
    assert!(matches!(read_response(&mut downstream).status, 502 | 503));
    relay.wait().check_clean();
}
