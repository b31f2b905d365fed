//! Two shards: a leg goes over to its association's owner once, or never.

use super::jet_client::{
    accept, connect, granted, implicit, in_version_1, minted, new_place, ping_pong,
};
use super::relay_process::Relay;
use super::require::require_cores;

const PAIRS_COUNT: u64 = 100;

#[test]
fn legs_that_name_their_association_move_at_most_once() {
    if !require_cores(2) {
        return;
    }
    let mut relay = Relay::start(&["--cores", "2"]);
    let mut moved_before = 0;
    let mut check_move = |relay: &mut Relay| {
        let counters = relay.counters();
        let moved = counters.count("handed_out");
        assert_eq!(moved, counters.count("handed_in"), "{counters:?}");
        assert!(
            moved <= moved_before + 1,
            "one leg moved {} times",
            moved - moved_before
        );
        moved_before = moved;
    };
    let mut pairs = Vec::new();
    for _ in 0..PAIRS_COUNT {
        let place = new_place();
        let mut acceptor = granted(relay.address, &accept(place));
        check_move(&mut relay);
        let mut connector = granted(relay.address, &connect(place));
        check_move(&mut relay);
        ping_pong(&mut connector, &mut acceptor);
        pairs.push((acceptor, connector));
    }
    for (acceptor, connector) in &mut pairs {
        ping_pong(acceptor, connector);
    }
    drop(pairs);
    let ended = relay.stop();
    ended.check_clean();
    let counters = ended.counters;
    assert_eq!(counters.count("accepted"), 2 * PAIRS_COUNT, "{counters:?}");
    assert_eq!(counters.count("paired"), PAIRS_COUNT, "{counters:?}");
    // Each leg had an even chance: none or all of 200 would mean that the owner function or the
    // kernel's choice of a shard is stuck.
    assert!(
        (1..2 * PAIRS_COUNT).contains(&counters.count("handed_out")),
        "{counters:?}"
    );
}

#[test]
fn acceptors_whose_id_the_relay_makes_stay_where_they_are() {
    if !require_cores(2) {
        return;
    }
    let mut relay = Relay::start(&["--cores", "2"]);
    let mut acceptors: Vec<_> = (0..PAIRS_COUNT).map(|_| minted(relay.address)).collect();
    assert_eq!(relay.counters().count("handed_out"), 0);
    for (acceptor, association) in &mut acceptors {
        let request = in_version_1(connect(implicit(*association)));
        let mut connector = granted(relay.address, &request);
        ping_pong(acceptor, &mut connector);
    }
    let counters = relay.counters();
    assert!(counters.count("handed_out") <= PAIRS_COUNT, "{counters:?}");
    assert_eq!(
        counters.count("handed_out"),
        counters.count("handed_in"),
        "{counters:?}"
    );
    drop(acceptors);
    relay.stop().check_clean();
}

#[test]
fn one_shard_hands_nothing_off() {
    let relay = Relay::start(&["--cores", "1"]);
    for _ in 0..10 {
        let place = new_place();
        let mut acceptor = granted(relay.address, &accept(place));
        let mut connector = granted(relay.address, &connect(place));
        ping_pong(&mut connector, &mut acceptor);
    }
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("handed_out"), 0);
}
