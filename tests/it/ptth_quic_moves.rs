//! Proxies whose addresses change while bytes pass (RFC 9000 §9.3), as behind a router that
//! forgets: real processes, with a link before those that move.

use rustix::process::Signal;

use super::admin::metrics;
use super::agent_process::Program;
use super::agents::{Transfer, echo, service};
use super::peers::udp_link::{UdpLink, Way};
use super::ptth_agents::Meeting;
use super::ptth_quic::{expose, meeting, meeting_by};
use super::relay_process::Counters;
use super::require::{require, require_cores};

/// Servers, and who may reach them. A relay of two shards has one of them on each.
const BOTH: [(&str, &str); 2] = [("home", "alice"), ("lab", "bob")];

/// After how many datagrams a transfer goes on by another address.
const DATAGRAMS: u64 = 1500;
const MOVES: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Servers,
    Clients,
}

/// Has the proxies of one side move a few times in mid-transfer.
#[track_caller]
fn check(cores: usize, moving: Side) {
    let done = (0..5).any(|_| are_kept(cores, moving));
    assert!(done, "each time somebody had to dial anew");
}

/// Whether all connections are kept; on a machine that is too busy proxies may have their doubts
/// about a relay that has no turn, and dial anew. None is lost, and what goes by them comes back
/// whole, or is broken off where somebody had to dial anew.
fn are_kept(cores: usize, moving: Side) -> bool {
    let mut meeting = meeting(&["--cores", &cores.to_string()]);
    let relay = meeting.quic_address();
    let mut link = UdpLink::new(relay, Way::default(), 7);
    let by = |side| if side == moving { link.address } else { relay };
    meeting.lead_by(by(Side::Servers));
    let target = service(echo).to_string();
    let exposes = BOTH.map(|(server, _)| meeting.expose_with(server, &["--to", &target]));
    for expose in &exposes {
        expose.logged("joined the relay");
    }
    meeting.lead_by(by(Side::Clients));
    let forwards = BOTH.map(|(server, client)| meeting.forward_with(client, &["--to", server]));
    // Nobody can move before its connection has come about.
    for (forward, _) in &forwards {
        forward.logged("joined the relay");
    }
    let transfers = [1, 2].map(|seed| {
        let (_, local) = forwards[seed as usize - 1];
        Transfer::start(local, seed)
    });
    for _ in 0..MOVES {
        link.wait_for_more(DATAGRAMS);
        link.rebind();
    }
    // What is left passes from there.
    link.wait_for_more(DATAGRAMS);
    let are_whole = transfers.map(Transfer::ends_whole);
    for shard in received(&meeting, cores) {
        assert!(shard > DATAGRAMS, "a shard has received {shard} datagrams");
    }
    let forwards = forwards.map(|(forward, _)| forward);
    let logs = exposes.into_iter().chain(forwards).map(Program::whole_log);
    let logs = logs.collect::<String>();
    assert!(!logs.contains("connection is lost"), "{logs}");
    if logs.contains("does not answer") {
        return false;
    }
    assert_eq!(are_whole, [true; 2], "all of it");
    true
}

/// What each shard of the relay has received, in datagrams.
fn received(meeting: &Meeting, shards: usize) -> Vec<u64> {
    meeting.relay.signal(Signal::USR1);
    let counters = (0..shards).map(|_| {
        let line = meeting.relay.logged(": counters shard=");
        Counters::of_log(&line).count("quic_received")
    });
    counters.collect()
}

#[test]
fn client_side_proxies_move() {
    check(1, Side::Clients);
}

#[test]
fn server_side_proxies_move() {
    check(1, Side::Servers);
}

#[test]
fn client_side_proxies_of_both_shards_move() {
    if require_cores(2) {
        check(2, Side::Clients);
    }
}

#[test]
fn server_side_proxies_of_both_shards_move() {
    if require_cores(2) {
        check(2, Side::Servers);
    }
}

#[test]
fn shards_that_the_kernel_does_not_choose_among_pass_on_what_is_not_theirs() {
    /// A datagram from a new address comes to any of two shards.
    const MOVES: usize = 20;
    const DATAGRAMS: u64 = 400;
    const SCRIPT: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/it/scripts/no_steering.py"
    );
    let (true, Some(python)) = (require_cores(2), require("python3")) else {
        return;
    };
    let wrapper = [python.to_str().expect("text"), SCRIPT];
    let (mut meeting, admin) = meeting_by(&wrapper, "", &["--cores", "2"]);
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let mut link = UdpLink::new(meeting.quic_address(), Way::default(), 7);
    meeting.lead_by(link.address);
    let (forward, local) = meeting.forward("home");
    forward.logged("joined the relay");
    let transfer = Transfer::start(local, 1);
    for _ in 0..MOVES {
        link.wait_for_more(DATAGRAMS);
        link.rebind();
    }
    transfer.end().expect("all of it");
    let seen = metrics(admin);
    let [strays, dropped] = ["strays", "strays_dropped"].map(|name| {
        let name = format!("midspan_quic_{name}_total");
        seen[&name]
    });
    assert!(strays > dropped, "{strays} strays, {dropped} dropped");
}
