//! What operators see, and what they and clients' servers may list and end.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use midspan::protocol::jet::Place;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::Value;

use super::jet_client::{
    End, accept, connect, dial, granted, implicit, new_association, one_way, pair, read_to_end,
    refused,
};
use super::patience::until;
use super::relay_process::Relay;
use super::require::{require, require_cores};
use super::rest::{exchange, read_response, request};

/// One answer of the operators' listener: the status, and the body.
pub(crate) fn ask(admin: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(admin).expect("operators are let in");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(head.expect("a head") + 4);
    let status = String::from_utf8_lossy(&answer)[9..12].parse();
    (status.expect("a status"), body)
}

fn text(admin: SocketAddr, path: &str) -> String {
    let (status, body) = ask(admin, path);
    assert_eq!(status, 200, "{path}");
    String::from_utf8(body).expect("text")
}

pub(crate) fn status(admin: SocketAddr) -> Value {
    serde_json::from_str(&text(admin, "/status")).expect("json")
}

/// The samples of `/metrics`, by name and labels.
pub(crate) fn metrics(admin: SocketAddr) -> BTreeMap<String, f64> {
    let samples = text(admin, "/metrics");
    let samples = samples.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a sample");
        (name.to_owned(), value.parse().expect("a number"))
    };
    samples.map(sample).collect()
}

pub(crate) fn relay_with_admin(options: &[&str]) -> (Relay, SocketAddr) {
    let relay = Relay::start(&[&["--admin", "127.0.0.1:0"], options].concat());
    let admin = relay.admin.expect("operators are let in");
    (relay, admin)
}

#[test]
fn operators_see_what_was_counted() {
    let (mut relay, admin) = relay_with_admin(&[]);
    let place = new_association();
    let (mut acceptor, mut connector) = pair(relay.address, place);
    one_way(&mut connector, &mut acceptor, &[7; 1000]);
    refused(relay.address, &connect(new_association()), 404);

    let seen = status(admin);
    assert_eq!(
        (&seen["pairs"], &seen["draining"]),
        (&1.into(), &false.into())
    );
    assert_eq!(seen["associations"]["connected"], 1);
    let seen = metrics(admin);
    assert_eq!(seen["midspan_paired_total"], 1.0);
    assert_eq!(seen["midspan_refused_total{reason=\"not_found\"}"], 1.0);
    assert_eq!(seen["midspan_join_seconds_count"], 1.0);
    assert_eq!(seen["midspan_join_seconds_bucket{le=\"86400\"}"], 1.0);
    assert_eq!(seen["midspan_first_byte_seconds_count"], 1.0);
    assert_eq!(seen["midspan_session_seconds_count"], 0.0);
    // What takes less than a turn of the shard takes its time all the same.
    assert!(seen["midspan_join_seconds_sum"] > 0.0);
    // The session goes on.
    assert_eq!(seen["midspan_bytes_relayed_total"], 1000.0);

    drop((acceptor, connector));
    until("the session's end", || {
        (metrics(admin)["midspan_session_seconds_count"] == 1.0).then_some(())
    });
    // The same as in the log.
    let seen = metrics(admin);
    let counters = relay.counters();
    for name in ["accepted", "paired", "bytes_relayed"] {
        let count = counters.count(name) as f64;
        assert_eq!(seen[&format!("midspan_{name}_total")], count, "{name}");
    }
    assert_eq!(seen["midspan_bytes_relayed_total"], 1000.0);

    assert!(text(admin, "/").contains("<title>midspan</title>"));
    let distribution = text(admin, "/latency/session.hgrm");
    assert!(distribution.contains("Total count    =            1"));
    let (_, log) = ask(admin, "/latency/session.hlog");
    let intervals =
        IntervalLogIterator::new(&log).filter(|entry| matches!(entry, Ok(LogEntry::Interval(_))));
    assert_eq!(intervals.count(), 1);
    for path in ["/nothing", "/latency/nothing.hgrm", "/latency/session.txt"] {
        assert_eq!(ask(admin, path).0, 404, "{path}");
    }

    let said = Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args(["status", "--admin", &admin.to_string()])
        .output()
        .expect("it runs");
    let said = String::from_utf8(said.stdout).expect("text");
    assert!(
        said.contains("  counted      1000 bytes_relayed\n"),
        "{said}"
    );
    relay.stop().check_clean();
}

/// The page for people, as a browser shows it.
pub(crate) fn browse(chromium: &Path, admin: SocketAddr) -> String {
    let profile = tempfile::tempdir().expect("a folder");
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args(["--no-first-run", "--dump-dom", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{admin}/"))
        .output()
        .expect("chromium runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_browser_shows_what_runs() {
    let Some(chromium) = require("chromium") else {
        return;
    };
    let (relay, admin) = relay_with_admin(&["--cores", "1"]);
    let (mut acceptor, mut connector) = pair(relay.address, new_association());
    one_way(&mut connector, &mut acceptor, &[7; 3 << 10]);
    let page = browse(&chromium, admin);
    for part in [
        "<b>1</b><span>pairs</span>",
        "<b>2</b><span>connections</span>",
        "<b>3.00 KiB</b><span>relayed</span>",
        "1 of 1 cores answer",
        "href=\"latency/join.hgrm\"",
        "<div id=\"outward\" hidden=\"\">",
        // A rate over time, and a distribution.
        "<polyline points=\"0,",
        "first byte",
    ] {
        assert!(page.contains(part), "{part:?} is missing: {page}");
    }
    drop((acceptor, connector));
    relay.stop().check_clean();
}

#[test]
fn a_relay_that_stops_is_not_ready() {
    let (relay, admin) = relay_with_admin(&["--drain-timeout", "1h"]);
    let (acceptor, connector) = pair(relay.address, new_association());
    assert_eq!(ask(admin, "/healthz").0, 200);
    assert_eq!(ask(admin, "/readyz").0, 200);
    relay.signal(Signal::TERM);
    until("the drain", || {
        (ask(admin, "/readyz").0 == 503).then_some(())
    });
    assert_eq!(ask(admin, "/healthz").0, 200);
    assert_eq!(status(admin)["draining"], true);
    drop((acceptor, connector));
    relay.wait().check_clean();
}

#[test]
fn what_was_counted_stays_so_while_shards_drain() {
    if !require_cores(2) {
        return;
    }
    let (mut relay, admin) = relay_with_admin(&["--cores", "2"]);
    // Connections enough that both shards have accepted some, and one pair that stays.
    for _ in 0..40 {
        refused(relay.address, &connect(new_association()), 404);
    }
    // On the first shard, which stays until the other one has ended.
    let (acceptor, connector) = loop {
        let pair = pair(relay.address, new_association());
        relay.signal(Signal::USR1);
        let lines = [(); 2].map(|()| relay.wait_for_line(": counters shard="));
        if lines.iter().any(|line| line.contains("shard=0 pairs=1")) {
            break pair;
        }
        drop(pair);
        relay.wait_for_counters("the pair to end", |counters| counters.gauge("pairs") == 0);
    };
    let before = metrics(admin);
    relay.signal(Signal::TERM);
    until("a shard to drain", || {
        (status(admin)["shards_ended"] == 1).then_some(())
    });
    let after = metrics(admin);
    for (name, value) in before.iter().filter(|(name, _)| name.contains("_total")) {
        assert!(
            after[name] >= *value,
            "{name}: {} after {value}",
            after[name]
        );
    }
    assert_eq!(after["midspan_shards_answering"], 1.0);
    drop((acceptor, connector));
    relay.wait().check_clean();
}

#[test]
fn an_operator_who_says_nothing_holds_up_no_other() {
    let (_relay, admin) = relay_with_admin(&[]);
    let silent: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(admin).expect("let in"))
        .collect();
    assert_eq!(ask(admin, "/readyz").0, 200);
    drop(silent);
}

const MADE: usize = 5_000;

/// Makes associations over one connection after the other.
fn create_many(relay: SocketAddr) -> Vec<Place> {
    let mut places = Vec::new();
    for _ in 0..10 {
        let mut stream = dial(relay);
        let batch: Vec<_> = (0..MADE / 10).map(|_| new_association()).collect();
        let lines = batch.iter().map(|place| {
            let line = format!("POST /jet/association/{}", place.association);
            request(&line, "Content-Length: 0\r\n")
        });
        stream
            .write_all(lines.collect::<String>().as_bytes())
            .expect("sent");
        for _ in &batch {
            assert_eq!(read_response(&mut stream).status, 200);
        }
        places.extend(batch);
    }
    places
}

#[test]
fn thousands_of_associations_are_counted_exactly_and_forgotten() {
    let hard = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: hard,
        maximum: hard,
    };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
    let (relay, admin) = relay_with_admin(&[
        "--create-on-accept=false",
        "--limit",
        "association_ttl_s=15",
        "--limit",
        "handshake_timeout_s=10",
    ]);
    let memory = || -> u64 {
        let text = fs::read_to_string(relay.proc("smaps_rollup")).expect("it runs");
        let line = text.lines().find(|line| line.starts_with("Anonymous:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse().ok()).expect("a number")
    };
    let mut memory_after = Vec::new();
    for round in 1..=2_u64 {
        let made = MADE as u64;
        let before = status(admin)["associations"].clone();
        let before = |name: &str| before[name].as_u64().expect("a count");
        let places = create_many(relay.address);
        let half = MADE / 2;
        let mut acceptors: Vec<_> = places[..half]
            .iter()
            .map(|place| granted(relay.address, &accept(*place)))
            .collect();
        let connectors: Vec<_> = places[..half / 2]
            .iter()
            .map(|place| granted(relay.address, &connect(*place)))
            .collect();
        let seen = status(admin)["associations"].clone();
        let seen = |name: &str| seen[name].as_u64().expect("a count");
        assert_eq!(seen("created"), round * made);
        assert_eq!(seen("live"), made, "nothing has expired so fast");
        assert_eq!((seen("waiting"), seen("connected")), (1_250, 1_250));

        // All that is not connected expires, acceptors with it.
        let gone = until("what expires", || {
            let seen = status(admin)["associations"].clone();
            (seen["live"] == 1_250).then_some(seen)
        });
        assert_eq!(gone["expired"], before("expired") + 3_750);
        for acceptor in acceptors.drain(half / 2..).collect::<Vec<_>>().iter_mut() {
            assert_eq!(read_to_end(acceptor), (Vec::new(), End::Closed));
        }
        drop((acceptors, connectors));
        let gone = until("what ends", || {
            let seen = status(admin);
            (seen["connections"] == 0).then_some(seen)
        });
        assert_eq!(gone["associations"]["live"], 0);
        assert_eq!(gone["associations"]["ended"], before("ended") + 1_250);
        memory_after.push(memory());
    }
    let (first, second) = (memory_after[0], memory_after[1]);
    // Of the 5,000 of a round none could stay unseen that takes more than 210 bytes.
    assert!(second < first + 1024, "{first} KiB, then {second} KiB");
    relay.stop().check_clean();
}

#[test]
fn those_with_a_key_list_and_end_what_there_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("relay.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args([
            "key",
            "operator",
            "--scope",
            "create",
            "--scope",
            "read",
            "--scope",
            "terminate",
        ])
        .output()
        .expect("it runs");
    let said = String::from_utf8(output.stderr).expect("text");
    let key = said.lines().last().expect("a key");
    let entry = String::from_utf8(output.stdout).expect("text");
    fs::write(&path, format!("create_on_accept = true\n{entry}")).expect("written");
    let relay = Relay::start(&["--config", path.to_str().expect("text")]);
    let address = relay.address;
    let bearer = format!("Authorization: Bearer {key}\r\n");
    let ask = |line: &str| exchange(address, line, &bearer);

    // On both shards, most likely.
    let mut pairs = Vec::new();
    for _ in 0..6 {
        let place = new_association();
        let line = format!("POST /jet/association/{}/candidates", place.association);
        assert_eq!(ask(&line).status, 200);
        let (mut acceptor, mut connector) = pair(address, implicit(place.association));
        one_way(&mut acceptor, &mut connector, b"hello");
        pairs.push((place.association, acceptor, connector));
    }
    let waiting = new_association();
    let mut waits = granted(address, &accept(waiting));

    let listed = ask("GET /jet/association?detail=true").json();
    let listed = listed.as_array().expect("a list");
    assert_eq!(listed.len(), 7);
    let (first, ..) = &pairs[0];
    let one = listed.iter().find(|one| one["id"] == first.to_string());
    let one = one.expect("listed");
    assert_eq!(
        (&one["bytes_sent"], &one["bytes_recv"]),
        (&5.into(), &0.into())
    );
    // Those of the routes first, and then the one that was accepted.
    assert_eq!(one["candidates"][0]["state"], "Initial");
    assert_eq!(one["candidates"][2]["state"], "Connected");
    let url = format!("tcp://{}:{}", hostname(), address.port());
    assert_eq!(one["candidates"][0]["url"], url);
    assert_eq!(one["candidates"][0]["transport_type"], "Tcp");
    let bare = ask("GET /jet/association").json();
    assert!(bare[0].get("candidates").is_none(), "{bare}");

    assert_eq!(ask("GET /jet/sessions/count").body, "6");
    let sessions = ask("GET /jet/sessions").json();
    assert_eq!(sessions.as_array().expect("a list").len(), 6);
    let started = sessions[0]["start_timestamp"].as_str().expect("a time");
    assert!(
        started.starts_with("20") && started.ends_with('Z'),
        "{started}"
    );
    assert_eq!(ask("GET /jet/heartbeat").json()["running_session_count"], 6);

    // Both peers see an end, and not a cut.
    let (association, mut acceptor, mut connector) = pairs.remove(0);
    let terminate = format!("POST /jet/session/{association}/terminate");
    assert_eq!(ask(&terminate).status, 200);
    for stream in [&mut acceptor, &mut connector] {
        assert_eq!(read_to_end(stream), (Vec::new(), End::Closed));
    }
    assert_eq!(ask(&terminate).status, 404);

    let delete = format!("DELETE /jet/association/{}", waiting.association);
    assert_eq!(ask(&delete).status, 200);
    assert_eq!(read_to_end(&mut waits), (Vec::new(), End::Closed));
    assert_eq!(ask(&delete).status, 404);
    let (association, mut acceptor, _connector) = pairs.remove(0);
    let delete = format!("DELETE /jet/association/{association}");
    assert_eq!(ask(&delete).status, 200);
    assert_eq!(read_to_end(&mut acceptor), (Vec::new(), End::Closed));
    until("the session's end", || {
        (ask(&format!("GET /jet/association/{association}")).status == 404).then_some(())
    });
    assert_eq!(ask("GET /jet/sessions/count").body, "4");

    // Nobody else sees or ends anything.
    for line in [
        "GET /jet/association",
        "GET /jet/sessions",
        "GET /jet/heartbeat",
        &terminate,
        &delete,
    ] {
        assert_eq!(exchange(address, line, "").status, 401, "{line}");
    }
    drop(pairs);
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("ended.terminated"), 2);
}

fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    name.trim().to_owned()
}
