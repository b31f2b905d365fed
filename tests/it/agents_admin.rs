//! What operators see of agents: the same as of a relay, as far as it makes sense.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use midspan::agent::meeting::DOORS;
use midspan::protocol::socks5::ReplyCode;
use serde_json::Value;

use super::admin::{ask, browse, metrics, status};
use super::agent_process::{Program, expose_command, relay};
use super::agents::{check_echo, echo, service};
use super::patience::until;
use super::relay_process::Counters;
use super::require::require;
use super::socks::{agent, connect, refused, secret, url};
use super::socks_http::{answered, read_head};
use super::socks_relays::closed_port;
use super::socks_udp::{Client, bind};
use super::websocks::{PASSWORD, relay as websocks_relay};

/// Where an agent says that operators are let in.
pub(crate) fn admin(agent: &Program) -> SocketAddr {
    let url = agent.reported("for operators: http://");
    let address = url.trim_end_matches('/').parse();
    address.expect("an address")
}

/// What `midspan status` tells of it.
pub(crate) fn told(admin: SocketAddr) -> String {
    let said = Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args(["status", "--admin", &admin.to_string()])
        .output()
        .expect("it runs");
    assert!(said.status.success(), "{said:?}");
    String::from_utf8(said.stdout).expect("text")
}

#[test]
fn operators_see_both_ends_of_a_ticket() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let target = service(echo).to_string();
    let mut exposing = expose_command(folder.path(), address, &[&target]);
    exposing.args(["--admin", "127.0.0.1:0"]);
    let expose = Program::start_other(exposing);
    let ticket = format!("jet+tcp://{}", expose.reported("  jet+tcp://"));
    let of_expose = admin(&expose);
    expose.logged("waiting at the relay");
    let forward = ["forward", "0", "--to", &ticket, "--admin", "127.0.0.1:0"];
    let forward = Program::start(&forward);
    let local = forward.reported("forwarding ").parse();
    let of_forward = admin(&forward);
    check_echo(local.expect("an address"), 1, 1000);
    // Who exposes waits at the relay again: at each door, and for the session to which it leads.
    for (admin, connections) in [(of_expose, 2 * DOORS), (of_forward, 0)] {
        // The end of a session is counted once both its connections are closed.
        until("the session's end", || {
            let seen = status(admin);
            (seen["pairs"] == 0 && seen["connections"] == connections).then_some(())
        });
        let seen = metrics(admin);
        assert_eq!(seen["midspan_paired_total"], 1.0);
        assert_eq!(seen["midspan_bytes_relayed_total"], 2000.0);
        assert_eq!(seen["midspan_ready"], 1.0);
        // Nobody meets at an agent.
        assert!(!seen.contains_key("midspan_associations"), "{seen:?}");
        assert_eq!(status(admin).get("associations"), None);
        assert_eq!(ask(admin, "/readyz").0, 200);
        let told = told(admin);
        assert!(told.contains("  counted      1 paired\n"), "{told}");
        assert!(!told.contains("associations"), "{told}");
    }
    assert!(forward.stop().success());
    assert!(expose.stop().success());
}

/// The value of a field of a log line.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let named = format!(" {name}=");
    let (_, rest) = line.split_once(&named).unwrap_or_else(|| {
        panic!("{name} is missing: {line}");
    });
    rest.split(' ').next().unwrap_or_default().trim_matches('"')
}

fn check_fields(line: &str, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(field(line, name), *value, "{name}: {line}");
    }
}

/// Says five bytes and hears them again.
fn greet(stream: &mut TcpStream) {
    stream.write_all(b"hello").expect("sent");
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed).expect("an echo");
    assert_eq!(&echoed, b"hello");
}

/// Waits until so many entrances are ready.
fn until_ready(admin: SocketAddr, count: u64) -> Value {
    until("entrances that are ready", || {
        let relay = status(admin)["relays"][0].clone();
        (relay["entrances_ready"] == count).then_some(relay)
    })
}

#[test]
fn operators_see_where_local_programs_go_and_by_which_way() {
    let (folder, relay) = websocks_relay("");
    let (by_relay, directly) = (service(echo), service(echo));
    let rules = format!("deny 127.0.0.1:25\ndirect {directly}\n");
    let rules = secret(folder.path(), "rules", &rules);
    let way = url(&relay);
    let options = ["--pool", "2", "--rules", &rules, "--log-level", "debug"];
    let options = [&options[..], &["--admin", "127.0.0.1:0"]].concat();
    let (mut agent, local) = agent(folder.path(), &way, &options);
    let admin = admin(&agent);

    until_ready(admin, 2);
    let mut first = connect(local, by_relay);
    greet(&mut first);
    let mut second = connect(local, directly);
    greet(&mut second);
    until_ready(admin, 2);
    let (mut third, mut server) =
        answered(local, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
    let server_address = server.local_addr().expect("connected").to_string();
    let head_bytes = read_head(&mut third).len() + 2;
    third.read_exact(&mut [0; 2]).expect("half of it");
    until_ready(admin, 2);
    let datagrams = Client::new(local);
    let (udp, udp_address) = bind("127.0.0.1:0");
    datagrams.check_echo(&udp_address.into(), &udp, b"datagram");
    assert_eq!(refused(local, "127.0.0.1", 25), ReplyCode::NotAllowed);
    let line = agent.logged(": refused peer=");
    check_fields(
        &line,
        &[("reason", "egress_denied"), ("target", "127.0.0.1:25")],
    );
    let why = format!("why=this proxy's rule {rules}:1 (deny 127.0.0.1/32:25) denies it");
    assert!(line.contains(&why), "{line}");

    let of_relay = until_ready(admin, 2);
    for (name, expected) in [
        ("entrances_opened", 5),
        ("entrances_used_ready", 3),
        ("entrances_used_fresh", 0),
        ("shards_down", 0),
    ] {
        assert_eq!(of_relay[name], expected, "{name}");
    }
    assert_eq!(of_relay["relay"], *way);
    assert_eq!(of_relay.get("last_failure"), None);
    let seen = status(admin);
    let sessions = seen["sessions"].as_array().expect("a list");
    assert_eq!(sessions.len(), 4, "{seen}");
    // Each session's local one, that by which it goes, and the two that are ready.
    assert_eq!(seen["connections"], 2 * 4 + 2, "{seen}");
    let exchanged = |seen: &Value| seen["left_bytes"].as_u64().expect("a count");
    for (target, kind, by, bytes) in [
        (by_relay.to_string().into(), "pair", &*way, Some([5, 5])),
        (directly.to_string().into(), "pair", "direct", Some([5, 5])),
        (server_address.clone().into(), "exchange", &*way, None),
        (Value::Null, "datagrams", &*way, Some([8, 8])),
    ] {
        let session = sessions.iter().find(|one| one["target"] == target);
        let session = session.unwrap_or_else(|| panic!("{target} is missing: {seen}"));
        assert_eq!(
            (&session["kind"], &session["way"]),
            (&kind.into(), &by.into())
        );
        match bytes {
            Some(bytes) => {
                let seen = [&session["left_bytes"], &session["right_bytes"]];
                assert_eq!(seen, bytes.map(Value::from).each_ref());
            }
            None => {
                assert!(exchanged(session) > 0, "{session}");
                assert_eq!(session["right_bytes"], head_bytes);
            }
        }
    }
    let counted = metrics(admin);
    let at_relay = |name: &str, more: &str| {
        let name = format!("midspan_relay_{name}{{relay=\"{way}\"{more}}}");
        counted[&name]
    };
    for (value, expected) in [
        (counted["midspan_pairs"], 2.0),
        (counted["midspan_exchanges"], 1.0),
        (counted["midspan_datagram_associations"], 1.0),
        (counted["midspan_requests_passed_total"], 1.0),
        (counted["midspan_bytes_relayed_total"], 20.0),
        (counted["midspan_datagrams_relayed_total"], 2.0),
        (
            counted["midspan_refused_total{reason=\"egress_denied\"}"],
            1.0,
        ),
        (at_relay("entrances_ready", ""), 2.0),
        (at_relay("entrances_opened_total", ""), 5.0),
        (at_relay("entrances_used_total", ",was=\"ready\""), 3.0),
        (at_relay("entrances_used_total", ",was=\"fresh\""), 0.0),
        (at_relay("failures_total", ",reason=\"mute\""), 0.0),
        (at_relay("down", ""), 0.0),
    ] {
        assert_eq!(value, expected, "{counted:?}");
    }
    let said = told(admin);
    for part in [
        format!(" to {directly} by direct, 5 and 5 bytes"),
        format!(" to {by_relay} by {way}, 5 and 5 bytes"),
        "1 http exchanges, 1 datagram associations".to_owned(),
        format!("  relay        {way}: 2 entrances ready, 5 opened, 3 used that were ready"),
    ] {
        assert!(said.contains(&part), "{part:?} is missing: {said}");
    }
    if let Some(chromium) = require("chromium") {
        let page = browse(&chromium, admin);
        for part in [
            &*format!("<td>{by_relay}</td><td>{way}</td>"),
            "<td>direct</td>",
        ] {
            assert!(page.contains(part), "{part:?} is missing: {page}");
        }
    }

    drop(first);
    let target = by_relay.to_string();
    let fields = [("target", &*target), ("way", &way), ("left_bytes", "5")];
    check_fields(&agent.logged("session ended"), &fields);
    drop(second);
    let target = directly.to_string();
    let fields = [
        ("target", &*target),
        ("way", "direct"),
        ("right_bytes", "5"),
    ];
    check_fields(&agent.logged("session ended"), &fields);
    server.write_all(b"ha").expect("sent");
    third.read_to_end(&mut Vec::new()).expect("the rest");
    let right_bytes = (head_bytes + 2).to_string();
    let fields = [
        ("target", &*server_address),
        ("way", &way),
        ("right_bytes", &right_bytes),
        ("reason", "finished"),
    ];
    let line = agent.logged("exchange ended");
    check_fields(&line, &fields);
    let passed: u64 = field(&line, "left_bytes").parse().expect("a count");
    drop(datagrams);
    let fields = [
        ("way", &*way),
        ("sent", "1"),
        ("sent_bytes", "8"),
        ("passed_back", "1"),
        ("passed_back_bytes", "8"),
        ("reason", "finished"),
    ];
    check_fields(&agent.logged("datagrams ended"), &fields);
    let seen = until("all has ended", || {
        let seen = status(admin);
        (seen["sessions"] == Value::Array(Vec::new())).then_some(seen)
    });
    assert_eq!((&seen["pairs"], &seen["exchanges"]), (&0.into(), &0.into()));
    let of_admin = metrics(admin);
    agent.terminate();
    assert!(agent.wait().success());
    let of_log = Counters::of_log(&agent.rest_of_log());
    for name in [
        "accepted",
        "paired",
        "bytes_relayed",
        "bytes_passed",
        "refused.egress_denied",
    ] {
        let metric = match name.strip_prefix("refused.") {
            Some(reason) => format!("midspan_refused_total{{reason=\"{reason}\"}}"),
            None => format!("midspan_{name}_total"),
        };
        assert_eq!(of_admin[&metric], of_log.count(name) as f64, "{name}");
    }
    assert_eq!(of_log.count("bytes_passed"), passed + head_bytes as u64 + 2);
    relay.stop().check_clean();
}

#[test]
fn operators_see_why_a_relay_cannot_be_had() {
    let (folder, relay) = websocks_relay("");
    let nobody = format!("websocks+ws://alice@{}", closed_port());
    let bob = format!("websocks+ws://bob@{}", relay.address);
    for (way, why, reason) in [
        (&nobody, "unreachable", "no_relay"),
        (&bob, "refuses", "relay_refuses"),
    ] {
        let options = ["--admin", "127.0.0.1:0", "--log-level", "debug"];
        let (agent, local) = agent(folder.path(), way, &options);
        let admin = admin(&agent);
        let seen = until("a failure", || {
            let seen = status(admin)["relays"][0].clone();
            (seen["shards_down"] == 1).then_some(seen)
        });
        assert_eq!(seen["last_failure"]["why"], why);
        let error = seen["last_failure"]["error"].as_str().expect("words");
        assert!(!error.is_empty() && !error.contains(PASSWORD), "{error}");
        refused(local, "127.0.0.1", 9);
        let line = agent.logged(": refused peer=");
        check_fields(&line, &[("reason", reason), ("target", "127.0.0.1:9")]);
        assert!(!line.contains("this proxy's rule"), "{line}");
        let counted = metrics(admin);
        let failures = format!("midspan_relay_failures_total{{relay=\"{way}\",reason=\"{why}\"}}");
        assert!(counted[&failures] >= 1.0, "{counted:?}");
        assert_eq!(
            counted[&format!("midspan_relay_down{{relay=\"{way}\"}}")],
            1.0
        );
        assert!(told(admin).contains(&format!("s ago: {why} (")));
        assert!(agent.stop().success());
    }
}
