//! How a relay starts, and what it says when it cannot.

use std::fs;

use super::jet_client::{new_place, pair, ping_pong};
use super::relay_process::{Relay, failure_after_report, start_failure};
use super::require::{require, require_cores, require_root};

/// The relay refuses to start and says these things.
#[track_caller]
fn check_refused(wrapper: &[&str], options: &[&str], code: i32, parts: &[&str]) {
    let (got, text) = start_failure(wrapper, options);
    assert_eq!(got, Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
}

#[test]
fn one_port_has_one_relay() {
    let first = Relay::start(&[]);
    let address = first.address.to_string();
    let options = ["--listen", &address];
    check_refused(
        &[],
        &options,
        1,
        &["cannot listen on ", &address, "next: stop what"],
    );
    // The first one did not lose a connection to it.
    for _ in 0..20 {
        let (mut acceptor, mut connector) = pair(first.address, new_place());
        ping_pong(&mut acceptor, &mut connector);
    }
    // A port that was left is free again at once, whatever is in TIME_WAIT there.
    first.stop().check_clean();
    let second = Relay::start(&options);
    let (mut acceptor, mut connector) = pair(second.address, new_place());
    ping_pong(&mut acceptor, &mut connector);
}

#[test]
fn one_listener_may_be_within_another() {
    let free = Relay::start(&[]);
    let port = free.address.port();
    free.stop().check_clean();
    let (all, one) = (format!("0.0.0.0:{port}"), format!("127.0.0.1:{port}"));
    let relay = Relay::start(&[
        "--open",
        "--create-on-accept",
        "--listen",
        &all,
        "--listen",
        &one,
    ]);
    let (mut acceptor, mut connector) = pair(([127, 0, 0, 1], port).into(), new_place());
    ping_pong(&mut acceptor, &mut connector);
    drop((acceptor, connector));
    relay.stop().check_clean();
}

#[test]
fn other_hosts_are_served_only_when_that_was_said() {
    let parts = ["--listen: 0.0.0.0:0 can be reached", "next: pass --open"];
    check_refused(&[], &["--listen", "0.0.0.0:0"], 2, &parts);
    let relay = Relay::start(&["--listen", "0.0.0.0:0", "--open", "--create-on-accept"]);
    let address = ([127, 0, 0, 1], relay.address.port()).into();
    let (mut acceptor, mut connector) = pair(address, new_place());
    ping_pong(&mut acceptor, &mut connector);
}

#[test]
fn a_configuration_is_refused_by_file_line_and_key() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("midspan.toml");
    fs::write(&file, "open = false\n\n[limits]\npipe_max = 3\n").expect("written");
    let file = file.to_str().expect("text");
    let place = format!("{file}:4:1: unknown key");
    check_refused(
        &[],
        &["--config", file],
        1,
        &[&place, "pipe_max", "pipes_max"],
    );
}

#[test]
fn any_number_of_cores_up_to_all() {
    let all = std::thread::available_parallelism().expect("known").get();
    for count in 1..=all.min(4) {
        let relay = Relay::start(&["--cores", &count.to_string()]);
        let (mut acceptor, mut connector) = pair(relay.address, new_place());
        ping_pong(&mut acceptor, &mut connector);
    }
    let (code, text) = start_failure(&[], &["--cores", "4096"]);
    assert_ne!(code, Some(0), "{text}");
    assert!(text.contains("4096") && text.contains("core"), "{text}");
}

#[test]
fn cores_may_be_named() {
    if !require_cores(2) {
        return;
    }
    let relay = Relay::start(&["--cores", "1"]);
    drop(relay);
    let relay = Relay::start(&["--cores", "0,1"]);
    let (mut acceptor, mut connector) = pair(relay.address, new_place());
    ping_pong(&mut acceptor, &mut connector);
}

#[test]
fn what_the_host_does_not_give_is_named_with_the_next_step() {
    if require("prlimit").is_none() {
        return;
    }
    let memlock = ["prlimit", "--memlock=65536:65536"];
    let parts = [
        "lockable memory is limited to 65536 bytes",
        "next step",
        "LimitMEMLOCK",
    ];
    check_refused(&memlock, &[], 1, &parts);
    let descriptors = ["prlimit", "--nofile=32:32"];
    let parts = [
        "only 32 descriptors are allowed",
        "next step",
        "LimitNOFILE",
    ];
    check_refused(&descriptors, &[], 1, &parts);
}

#[test]
fn where_one_shard_cannot_start_none_does() {
    /// Enough for a first shard, and for no second one.
    const MEMLOCK: &str = "--memlock=524288:524288";
    /// Whose other programs would have locked memory as well.
    const NOBODY_ELSE: &str = "65533";
    if !require_root() || !require_cores(2) {
        return;
    }
    if ["setpriv", "prlimit", "timeout"]
        .iter()
        .any(|name| require(name).is_none())
    {
        return;
    }
    let wrapper = [
        &["setpriv", "--reuid", NOBODY_ELSE, "--clear-groups"][..],
        &["timeout", "60", "prlimit", MEMLOCK],
    ]
    .concat();
    let (code, said) = failure_after_report(&wrapper, &["--cores", "2"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("next: raise the memlock limit"), "{said}");
}
