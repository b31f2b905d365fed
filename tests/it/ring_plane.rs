//! What holds for pairs of the ring plane only.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::jet_client::{new_place, pair};
use super::patience::Deadline;
use super::relay_process::Relay;

#[test]
fn a_pair_that_is_busy_from_its_first_byte_moves_to_the_ring() {
    let mut relay = Relay::start(&["--cores", "1", "--data-plane", "ring"]);
    let (one, other) = pair(relay.address, new_place());
    let is_over = AtomicBool::new(false);
    let deadline = Deadline::new();
    thread::scope(|scope| {
        for peer in [&one, &other] {
            scope.spawn(|| send_until(peer, &is_over, deadline));
            scope.spawn(|| read_to_end(peer));
        }
        let counters = relay.wait_for_counters("the move", |counters| {
            deadline.is_over() || counters.count("moved_to_ring") == 1
        });
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(counters.count("moved_to_ring"), 1, "{counters:?}");
    });
    drop((one, other));
    relay.stop().check_clean();
}

/// Sends until told to stop, or until the test has failed, and ends the stream.
fn send_until(mut peer: &TcpStream, is_over: &AtomicBool, deadline: Deadline) {
    let bytes = vec![b'x'; 256 << 10];
    while !is_over.load(Ordering::Relaxed) && !deadline.is_over() {
        peer.write_all(&bytes).expect("sent");
    }
    peer.shutdown(Shutdown::Write).expect("an open stream");
}

fn read_to_end(mut peer: &TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    while peer.read(&mut buffer).expect("a clean stream") > 0 {}
}
