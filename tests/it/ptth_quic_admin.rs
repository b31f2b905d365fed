//! PTTH over QUIC as operators have it: connections and streams in `/status`, in metrics and in
//! the terminal, and how connections use their path.

use std::io::{Read, Write};
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::admin::{browse, metrics, status};
use super::agent_process::{Program, command};
use super::agents::{check_echo, dial, echo, service};
use super::agents_admin::{admin, told};
use super::patience::until;
use super::ptth_agents::{self, key_file};
use super::ptth_quic::{expose, meeting, meeting_with_admin, meeting_with_file};
use super::require::require;

const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

const ON_ONE_CORE: &[&str] = &["--cores", "1"];

/// The only one of a list.
#[track_caller]
fn only<'a>(list: &'a Value, what: &str) -> &'a Value {
    match list.as_array().map(Vec::as_slice) {
        Some([one]) => one,
        _ => panic!("not one {what}: {list}"),
    }
}

#[track_caller]
fn check(one: &Value, fields: Value) {
    for (name, expected) in fields.as_object().expect("fields") {
        assert_eq!(&one[name], expected, "{name} of {one}");
    }
}

/// One whose figures are those of a connection on loopback.
#[track_caller]
fn check_figures(connection: &Value) {
    let figure = |name: &str| connection[name].as_u64().expect("a number");
    assert!(
        (1..1_000_000).contains(&figure("round_trip_us")),
        "{connection}"
    );
    assert!(figure("congestion_window_bytes") >= 2400, "{connection}");
    assert!(figure("packets_sent") > 1, "{connection}");
    assert!((1200..=1452).contains(&figure("mtu_bytes")), "{connection}");
    assert_eq!(connection["handshaking"], false, "{connection}");
}

/// A proxy's one connection, and its one stream, which has carried five bytes each way.
#[track_caller]
fn seen_by_proxy(admin: SocketAddr) -> (Value, Value) {
    let seen = status(admin)["quic"].clone();
    let connection = only(&seen["connections"], "connection");
    check(connection, json!({"role": "relay", "name": null}));
    check_figures(connection);
    let stream = only(&seen["streams"], "stream");
    check(stream, json!({"left_bytes": 5, "right_bytes": 5}));
    (connection.clone(), stream.clone())
}

#[test]
fn who_is_connected_and_what_goes_by_it_is_seen_at_all_three() {
    let (meeting, relay) = meeting_with_admin(ON_ONE_CORE);
    let target = service(echo).to_string();
    let expose = meeting.expose_with("home", &[&["--to", &target], &ADMIN[..]].concat());
    let exposing = admin(&expose);
    expose.logged("joined the relay");
    let (forward, local) = meeting.forward_with("alice", &[&["--to", "home"], &ADMIN[..]].concat());
    let forwarding = admin(&forward);

    let mut client = dial(local);
    client.write_all(b"hello").expect("sent");
    client.read_exact(&mut [0; 5]).expect("it comes back");
    let own = client.local_addr().expect("connected");

    let seen = status(relay)["quic"].clone();
    let counts = json!([
        {"name": "client", "count": 1}, {"name": "server", "count": 1},
        {"name": "relay", "count": 0}, {"name": "unknown", "count": 0},
    ]);
    check(
        &seen,
        json!({"connections_count": counts, "streams_count": 1}),
    );
    let connections = seen["connections"].as_array().expect("a list");
    assert_eq!(connections.len(), 2, "{seen}");
    for (role, name) in [("client", "alice"), ("server", "home")] {
        let connection = connections.iter().find(|one| one["role"] == role);
        let connection = connection.unwrap_or_else(|| panic!("no {role}: {seen}"));
        check(connection, json!({"name": name}));
        check_figures(connection);
    }
    let longest = connections
        .iter()
        .map(|one| one["round_trip_us"].as_u64())
        .max();
    assert_eq!(longest, Some(seen["round_trip_max_us"].as_u64()), "{seen}");
    let stream = only(&seen["streams"], "stream");
    check(
        stream,
        json!({
            "client": "alice", "client_port": own.port(), "server": "home", "port": "default",
            "left_bytes": 5, "right_bytes": 5,
        }),
    );

    for (proxy, local) in [(forwarding, 1), (exposing, 1)] {
        // By QUIC to the relay; and the local program's, or that to the service.
        assert_eq!(status(proxy)["connections"], 1 + local);
    }

    let (connection, stream) = seen_by_proxy(forwarding);
    check(
        &stream,
        json!({
            "client": null, "client_port": own.port(), "server": "home", "port": "default",
            "left": own.to_string(), "right": connection["peer"],
        }),
    );
    let (connection, stream) = seen_by_proxy(exposing);
    check(
        &stream,
        json!({
            "client": "alice", "client_port": own.port(), "server": null, "port": "default",
            "left": connection["peer"], "right": target,
        }),
    );

    let gauges = metrics(relay);
    for (name, expected) in [
        ("midspan_quic_connections{role=\"client\"}", 1.0),
        ("midspan_quic_connections{role=\"server\"}", 1.0),
        ("midspan_quic_connections{role=\"unknown\"}", 0.0),
        ("midspan_quic_streams", 1.0),
        ("midspan_join_seconds_count", 1.0),
        ("midspan_first_byte_seconds_count", 1.0),
        ("midspan_session_seconds_count", 0.0),
    ] {
        assert_eq!(gauges.get(name), Some(&expected), "{name}");
    }
    let longest = gauges["midspan_quic_round_trip_max_seconds"];
    assert!(longest > 0.0 && longest < 1.0, "{longest}");
    assert!(gauges.contains_key("midspan_quic_congestion_events_total"));
    let port = own.port();
    for (whom, part) in [
        (
            relay,
            "1 client, 1 server at the other end, 1 streams".to_owned(),
        ),
        (relay, format!("stream       alice from port {port} at ")),
        (
            forwarding,
            format!("stream       here from port {port} at {own} to home:default"),
        ),
        (exposing, "1 relay at the other end".to_owned()),
    ] {
        let told = told(whom);
        assert!(told.contains(&part), "{part}: {told}");
    }

    drop(client);
    until("the stream to end", || {
        (metrics(relay)["midspan_quic_streams"] == 0.0).then_some(())
    });
    assert_eq!(metrics(relay)["midspan_session_seconds_count"], 1.0);
    // Proxies that do nothing ask now and then whether the relay is there, and it answers.
    until("nobody to be waited for", || {
        let seen = status(relay);
        let connections = seen["quic"]["connections"].as_array().expect("a list");
        let is_awaited = |one: &Value| !one["unanswered_ms"].is_null();
        (connections.len() == 2 && !connections.iter().any(is_awaited)).then_some(())
    });
    assert!(forward.stop().success());
    until("the client to go", || {
        let gauges = metrics(relay);
        (gauges["midspan_quic_connections{role=\"client\"}"] == 0.0
            && gauges["midspan_quic_connections{role=\"unknown\"}"] == 0.0)
            .then_some(())
    });
    let seen = status(relay)["quic"].clone();
    check(
        only(&seen["connections"], "connection"),
        json!({"name": "home"}),
    );
}

#[test]
fn what_goes_by_quic_and_http_is_told_once_as_its_client_came() {
    let (mut meeting, relay) = meeting_with_admin(&["--cores", "2"]);
    let quic = meeting.url.clone();
    let http = format!("ptth+http://{}", meeting.address);
    let target = service(echo).to_string();
    let [by_quic, by_http] = ["joined the relay", "listening at the relay"];
    for (client, server, has_come, is_stream) in [
        (&quic, &http, by_http, true),
        (&http, &quic, by_quic, false),
    ] {
        meeting.url.clone_from(server);
        let expose = meeting.expose_with("home", &["--to", &target]);
        expose.logged(has_come);
        meeting.url.clone_from(client);
        let (forward, local) = meeting.forward("home");
        let mut program = dial(local);
        program.write_all(b"hello").expect("sent");
        program.read_exact(&mut [0; 5]).expect("it comes back");
        let seen = status(relay);
        let (streams, tunnels) = (&seen["quic"]["streams"], &seen["forwarded"]["running"]);
        let (told, not_told) = match is_stream {
            true => (streams, tunnels),
            false => (tunnels, streams),
        };
        check(
            only(told, "connection of a user"),
            json!({"client": "alice", "server": "home", "port": "default"}),
        );
        assert_eq!(*not_told, json!([]), "{client} to {server}");
        check(&seen["quic"], json!({"streams_count": u8::from(is_stream)}));
        let seen = metrics(relay);
        let joins = seen["midspan_join_seconds_count"];
        assert_eq!(joins, seen["midspan_paired_total"], "each once");
        drop(program);
        assert!(forward.stop().success());
        assert!(expose.stop().success());
    }
}

#[test]
fn who_speaks_no_quic_tells_of_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let (relay, _) = ptth_agents::relay(folder.path(), "127.0.0.1:0", &ADMIN);
    let at = relay.reported("  operators    http://");
    let relay: SocketAddr = at.trim_end_matches('/').parse().expect("an address");
    assert!(status(relay).get("quic").is_none());
    assert!(!metrics(relay).contains_key("midspan_quic_streams"));
}

#[test]
fn datagrams_are_as_long_as_both_ends_and_the_path_allow() {
    let quic = "[quic]\nmtu_max = 8952\ncongestion = \"newreno\"\n";
    let (meeting, relay) = meeting_with_file(quic, ON_ONE_CORE);
    let target = service(echo).to_string();
    let path = ["--mtu-max", "8952", "--congestion", "bbr"];
    let expose = [&["--to", &target], &path[..], &ADMIN[..]].concat();
    let expose = meeting.expose_with("home", &expose);
    let exposing = admin(&expose);
    expose.logged("joined the relay");
    let forward = [&["--to", "home"], &path[..2], &ADMIN[..]].concat();
    let (forward, local) = meeting.forward_with("alice", &forward);
    let forwarding = admin(&forward);
    until("datagrams to become as long as they may", || {
        check_echo(local, 1, 1_000_000);
        let all = [relay, exposing, forwarding].map(|admin| status(admin)["quic"].clone());
        let of_one = |quic: &Value| quic["connections"].as_array().cloned().expect("a list");
        let connections: Vec<_> = all.iter().flat_map(of_one).collect();
        assert_eq!(connections.len(), 4);
        let is_long = |one: &Value| one["mtu_bytes"] == 8952;
        connections.iter().all(is_long).then_some(())
    });
    check_echo(local, 2, 5_000_000);
    for admin in [relay, exposing, forwarding] {
        assert_eq!(metrics(admin)["midspan_quic_socket_errors_total"], 0.0);
    }
}

#[test]
fn no_keys_of_sessions_are_written() {
    let meeting = meeting(&["--cores", "1"]);
    let target = service(echo).to_string();
    let _expose = expose(&meeting, &[&target]);
    let (keys, key) = (
        meeting.folder.path().join("keys"),
        key_file(meeting.folder.path(), "alice"),
    );
    let args = [
        "forward",
        "0",
        "--to",
        "home",
        "--relay",
        &meeting.url,
        "--key-file",
        &key,
    ];
    let mut forward = command(&args);
    forward.env("SSLKEYLOGFILE", &keys);
    let forward = Program::start_other(forward);
    let local = forward.reported("forwarding ").parse().expect("an address");
    check_echo(local, 1, 1000);
    assert!(!keys.exists(), "whoever has them reads what was said");
}

#[test]
fn a_browser_shows_who_is_connected() {
    let Some(chromium) = require("chromium") else {
        return;
    };
    let (meeting, relay) = meeting_with_admin(ON_ONE_CORE);
    assert!(browse(&chromium, relay).contains("<div id=\"quic\" hidden=\"\">"));
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    let mut client = dial(local);
    client.write_all(&[7; 3 << 10]).expect("sent");
    client.read_exact(&mut [0; 3 << 10]).expect("it comes back");
    let page = browse(&chromium, relay);
    for part in [
        "<div id=\"quic\">",
        "<b>1</b><span>streams</span>",
        "<td>server</td><td>home</td>",
        "<td>client</td><td>alice</td>",
        "<td>home</td><td>default</td>",
        "<td>3.00 KiB</td><td>3.00 KiB</td>",
    ] {
        assert!(page.contains(part), "{part:?} is missing: {page}");
    }
}
