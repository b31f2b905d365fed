//! The budget of memory: it is kept, whoever asks for more is refused, and what was
//! taken comes back.

use std::io::Write;

use midspan::protocol::socks5::ReplyCode;
use serde_json::Value;

use super::jet_client::{dial, new_place, pair, ping_pong};
use super::patience::until;
use super::relay_process::Relay;
use super::rest::{exchange, request};
use super::socks_udp::ask_for_datagrams;
use super::websocks::{self, KEY, visit};

/// What is kept for a visitor whose datagrams are passed on, at the least: one that cannot be
/// sent, 64 KiB that wait for that, and as much that waits for a name.
const VISIT_BYTES_MIN: u64 = 192 << 10;

const BUDGET_BYTES: u64 = 24 << 20;

/// More than the budget is good for.
const CONNECTIONS: usize = 600;

fn allocated(relay: &Relay) -> u64 {
    let admin = relay.admin.expect("it was asked for");
    let status: Value = exchange(admin, "GET /status", "").json();
    status["memory_bytes"].as_u64().expect("a number")
}

#[test]
fn the_budget_is_kept_and_what_was_taken_comes_back() {
    let budget = format!("memory_bytes_max={BUDGET_BYTES}");
    let options = ["--admin", "127.0.0.1:0", "--limit", &budget];
    let mut relay = Relay::start(&options);
    let (mut acceptor, mut connector) = pair(relay.address, new_place());
    let before = allocated(&relay);
    assert!(before > 0 && before < BUDGET_BYTES, "{before}");

    // Heads that do not end.
    let long = request("GET /jet/health", &format!("X: {}\r\n", "x".repeat(15_000)));
    let (unfinished, _) = long.split_at(long.len() - 2);
    let mut flood: Vec<_> = (0..CONNECTIONS).map(|_| dial(relay.address)).collect();
    for stream in &mut flood {
        // Who was refused may have learnt of it.
        let _ = stream.write_all(unfinished.as_bytes());
    }
    let counters = relay.wait_for_counters("refusals", |counters| {
        counters.count("refused.over_memory") > 0
            && counters.count("accepted") == CONNECTIONS as u64 + 2
    });
    let refused = counters.count("refused.over_memory");
    assert!(refused < CONNECTIONS as u64, "some were let in");
    assert!(allocated(&relay) <= BUDGET_BYTES);
    ping_pong(&mut connector, &mut acceptor);

    drop(flood);
    until("memory to come back", || {
        (allocated(&relay) < before + (1 << 20)).then_some(())
    });
    assert_eq!(exchange(relay.address, "GET /jet/health", "").status, 200);
    drop((acceptor, connector));
    relay.stop().check_clean();
}

#[test]
fn nobody_has_datagrams_passed_on_beyond_the_budget() {
    let limits = format!("cores = 1\n[limits]\nmemory_bytes_max = {BUDGET_BYTES}");
    let (_folder, mut relay) = websocks::relay(&limits);
    let most = BUDGET_BYTES / VISIT_BYTES_MIN;
    // Connected before, as later there may be no room for that either.
    let mut pool: Vec<_> = (0..2 * most).map(|_| visit(relay.address, KEY)).collect();
    let mut ask = || {
        let mut visitor = pool.pop().expect("as many as that");
        match ask_for_datagrams(&mut visitor).code {
            ReplyCode::Succeeded => Ok(visitor),
            code => Err(code),
        }
    };
    let mut let_in = Vec::new();
    let code = loop {
        match ask() {
            Ok(visitor) => let_in.push(visitor),
            Err(code) => break code,
        }
        assert!(let_in.len() as u64 <= most, "all are let in");
    };
    assert_eq!(code, ReplyCode::GeneralFailure);
    assert!(let_in.len() > 10, "{}", let_in.len());
    assert_eq!(relay.counters().count("refused.over_memory"), 1);
    // What was kept for one is there for the next.
    drop(let_in.pop());
    relay.wait_for_line("datagrams ended");
    until("room for one", || ask().ok());
    relay.stop().check_clean();
}
