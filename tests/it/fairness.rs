//! A pair that sends little beside pairs that send as much as they can, on one shard.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::jet_client::{new_place, pair, ping_pong};
use super::patience::Deadline;
use super::relay_process::Relay;

const BULK_PAIRS_COUNT: usize = 16;
const ROUND_TRIPS_COUNT: usize = 50;

#[test]
fn small_messages_pass_beside_bulk_on_every_plane() {
    for plane in ["copy", "splice", "ring", "auto"] {
        let relay = Relay::start(&["--cores", "1", "--data-plane", plane]);
        let (mut one, mut other) = pair(relay.address, new_place());
        let bulk: Vec<_> = (0..BULK_PAIRS_COUNT)
            .map(|_| pair(relay.address, new_place()))
            .collect();
        let is_over = AtomicBool::new(false);
        let deadline = Deadline::new();
        thread::scope(|scope| {
            for (source, sink) in bulk {
                let is_over = &is_over;
                let sent = scope.spawn(move || send_until(source, is_over, deadline));
                scope.spawn(move || {
                    let received = count_to_end(sink);
                    assert_eq!(received, sent.join().expect("a source"), "plane {plane}");
                });
            }
            for _ in 0..ROUND_TRIPS_COUNT {
                ping_pong(&mut one, &mut other);
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(!deadline.is_over(), "plane {plane}: starved beside bulk");
        });
        drop((one, other));
        relay.stop().check_clean();
    }
}

/// Sends until told to stop, or until the test has failed; ends the stream, and tells how many
/// bytes that were.
fn send_until(mut source: TcpStream, is_over: &AtomicBool, deadline: Deadline) -> u64 {
    let bytes = vec![b'x'; 256 << 10];
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) && !deadline.is_over() {
        sent += source.write(&bytes).expect("sent") as u64;
    }
    sent
}

fn count_to_end(mut sink: TcpStream) -> u64 {
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0;
    loop {
        match sink.read(&mut buffer) {
            Ok(0) => return received,
            Ok(count) => received += count as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("behind {received} bytes: {error}"),
        }
    }
}
