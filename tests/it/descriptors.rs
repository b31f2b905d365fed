//! Out of descriptors: what runs keeps running, what is new is refused, and nothing spins.

use std::fs;
use std::time::Duration;

use super::jet_client::{new_place, pair, ping_pong, read_to_end};
use super::patience::{now, until};
use super::peers::stalls::stall;
use super::relay_process::{Counters, Relay};
use super::require::{require, require_cores};

/// Dials beyond the limit, each of which the relay has to refuse.
const REFUSED_COUNT: usize = 20;

#[test]
fn running_out_of_descriptors_is_survived() {
    if require("prlimit").is_none() {
        return;
    }
    survives(1);
    if require_cores(2) {
        survives(2);
    }
}

fn survives(shards_count: usize) {
    let cores = shards_count.to_string();
    let mut options = vec!["--cores", &cores];
    for limit in [
        "handshake_timeout_s=300",
        "pipes_max=0",
        "connections_max=96",
    ] {
        options.extend(["--limit", limit]);
    }
    // Each shard has a socket and a reserve for each of them, and so the descriptors that the
    // settings leave beside connections do not last.
    for _ in 0..52 / shards_count {
        options.extend(["--listen", "127.0.0.1:0"]);
    }
    let mut relay = Relay::start_by(&["prlimit", "--nofile=160:160"], &options);
    let (mut acceptor, mut connector) = pair(relay.address, new_place());
    ping_pong(&mut acceptor, &mut connector);
    let mut silent = Vec::new();
    while relay.counters().count("descriptors_exhausted") == 0 {
        silent.push(stall(relay.address, b"J"));
        assert!(silent.len() < 96, "no limit is reached");
    }

    let (cpu_before, wall_before) = (cpu_time(&relay), now());
    for _ in 0..REFUSED_COUNT {
        let before = relay.counters();
        let mut stream = stall(relay.address, b"J");
        let is_refused = |now: &Counters| now.sum("refused.") > before.sum("refused.");
        let after = relay.wait_for_counters("a word on the new one", |now| {
            is_refused(now) || now.count("accepted") > before.count("accepted")
        });
        if is_refused(&after) {
            assert_eq!(read_to_end(&mut stream).0, b"");
        } else {
            // One shard gave its reserve up to refuse, and another one took it to accept.
            silent.push(stream);
        }
        ping_pong(&mut acceptor, &mut connector);
    }
    let cpu = cpu_time(&relay) - cpu_before;
    let wall = now() - wall_before;
    // The relay rests between its looks at the backlog. One that spun would take a whole core.
    assert!(cpu * 3 < wall, "{cpu:?} of CPU in {wall:?}");
    let counters = relay.counters();
    assert!(
        counters.count("refused.no_descriptor") >= 10,
        "{counters:?}"
    );
    assert_eq!(counters.count("accept_errors"), 0, "{counters:?}");

    // Without a signal or a new start, as soon as there are descriptors again.
    drop(silent);
    until("new pairs", || {
        let mut one = stall(relay.address, b"J");
        // Closed at once, or left in peace to say what it wants.
        one.set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a socket");
        match std::io::Read::read(&mut one, &mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(()),
            Ok(_) | Err(_) => None,
        }
    });
    let (mut one, mut other) = pair(relay.address, new_place());
    ping_pong(&mut one, &mut other);
    ping_pong(&mut acceptor, &mut connector);
    drop((acceptor, connector, one, other));
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 2);
    // Said once for each shard, not for each connection.
    let said = ended.log.matches("out of descriptors").count();
    assert!((1..=2).contains(&said), "{}", ended.log);
}

/// User and system time of all threads.
fn cpu_time(relay: &Relay) -> Duration {
    let stat = fs::read_to_string(relay.proc("stat")).expect("the relay runs");
    // The name in parentheses may hold spaces; `utime` and `stime` are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<u64>().expect("ticks"))
        .sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Duration::from_millis(ticks * 1000 / per_second)
}
