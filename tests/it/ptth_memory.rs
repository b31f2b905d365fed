//! PTTH over HTTP and memory: whoever pours, waits, or never comes to an end costs the relay no
//! more than its limits say, and gives it back.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::admin::status as overview;
use super::jet_client::dial;
use super::patience::until;
use super::peers::floods::flood;
use super::peers::stalls::stall;
use super::ptth_admin::waits_until;
use super::ptth_http::{
    ALICE, HOME, Tunnel, call, is_cut, next_call, read_head, relay_with, status,
};
use super::relay_process::Relay;
use super::rest::read_response;

/// What an allocator keeps for itself, work buffers that nobody has touched before, and pages
/// of the program, which RSS counts and no limit.
const RESIDENT_SLACK_BYTES: u64 = 4 << 20;

/// What a shard may have allocated before it tells of it: `runtime/allocator.rs`.
const UNTOLD_BYTES: u64 = 64 << 10;

/// One shard, so that no limit is shared out, and operators who see its memory.
fn relay(limits: &str, options: &[&str]) -> (tempfile::TempDir, Relay, SocketAddr) {
    let always = ["--cores", "1", "--admin", "127.0.0.1:0"];
    let limits = format!("[limits]\n{limits}\n");
    let (folder, relay) = relay_with(&limits, &[&always, options].concat());
    let admin = relay.admin.expect("operators are let in");
    (folder, relay, admin)
}

fn allocated(admin: SocketAddr) -> u64 {
    overview(admin)["memory_bytes"].as_u64().expect("a number")
}

/// Waits until what was taken beyond `before` has come back.
fn comes_back(admin: SocketAddr, before: u64) {
    until("memory to come back", || {
        (allocated(admin) <= before + 2 * UNTOLD_BYTES).then_some(())
    });
}

/// Has what the first tunnel needs once be there before anything is measured.
fn open_and_end(relay: &mut Relay) {
    let mut tunnel = Tunnel::open(relay.address, "first");
    tunnel.pass_up(b"2\r\nhi\r\n");
    tunnel.pass_down(b"2\r\nhi\r\n");
    drop(tunnel);
    relay.wait_for_line("tunnel ended");
}

/// The least that may be set.
const SPILL_BYTES_MAX: u64 = 1 << 20;

/// So many that a read of 64 KiB for each way is several times what may be spilled.
const TUNNELS: usize = 32;

/// More than the kernel holds for so many tunnels, and far less than would pass if somebody
/// took it.
const POURED_BYTES_MAX: u64 = 1 << 30;

/// Turns of the shard in which nobody could write, after which nobody will.
const STUCK_ROUNDS: usize = 20;

/// Somebody who sends chunks without an end.
struct Pourer<'a> {
    stream: &'a mut TcpStream,
    wire: &'a [u8],
    taken: usize,
}

impl Pourer<'_> {
    /// Writes once, as much as is taken at once.
    fn pour(&mut self) -> usize {
        let start = self.taken % self.wire.len();
        match self.stream.write(&self.wire[start..]) {
            Ok(count) => {
                self.taken += count;
                count
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                0
            }
        }
    }
}

/// Pours until nobody takes any more.
fn pour_until_stuck(relay: &mut Relay, pourers: &mut [Pourer<'_>]) {
    let mut taken = 0;
    let mut stuck_rounds = 0;
    while stuck_rounds < STUCK_ROUNDS {
        let more: usize = pourers.iter_mut().map(Pourer::pour).sum();
        taken += more as u64;
        assert!(taken < POURED_BYTES_MAX, "somebody takes all of it");
        if more > 0 {
            stuck_rounds = 0;
        } else {
            stuck_rounds += 1;
            // It has had a turn when it has answered.
            relay.counters();
        }
    }
}

/// Chunks of this size, as they go over the wire.
fn chunks(bytes: usize) -> Vec<u8> {
    let mut chunk = format!("{bytes:x}\r\n").into_bytes();
    chunk.resize(chunk.len() + bytes, b'x');
    chunk.extend_from_slice(b"\r\n");
    chunk.repeat((256 << 10) / bytes)
}

#[test]
fn whoever_pours_where_nobody_reads_costs_what_may_be_spilled() {
    for (plane, chunk_bytes) in [("auto", 100_000), ("copy", 1000), ("ring", 1000)] {
        let limit = format!("spill_bytes_max = {SPILL_BYTES_MAX}");
        let (_folder, mut relay, admin) = relay(&limit, &["--data-plane", plane]);
        let mut read = Tunnel::open(relay.address, "read");
        read.pass_up(b"2\r\nhi\r\n");
        read.pass_down(b"2\r\nhi\r\n");
        let (before, peak_before) = (allocated(admin), relay.resident_bytes_peak());

        let mut tunnels: Vec<_> = (0..TUNNELS)
            .map(|port| Tunnel::open(relay.address, &port.to_string()))
            .collect();
        let open = allocated(admin);
        let wire = chunks(chunk_bytes);
        let mut pourers = Vec::new();
        for tunnel in &mut tunnels {
            for silent in [&tunnel.accept, &tunnel.connect] {
                set_socket_recv_buffer_size(silent, 4096).expect("set");
            }
            for stream in [&mut tunnel.upstream, &mut tunnel.downstream] {
                set_socket_send_buffer_size(&*stream, 4096).expect("set");
                stream.set_nonblocking(true).expect("a socket");
                pourers.push(Pourer {
                    stream,
                    wire: &wire,
                    taken: 0,
                });
            }
        }
        pour_until_stuck(&mut relay, &mut pourers);
        let held = allocated(admin).saturating_sub(open);
        let grown = relay.resident_bytes_peak() - peak_before;
        // What is spliced waits in pipes.
        let is_pressed = plane == "auto" || held > SPILL_BYTES_MAX / 8;
        assert!(is_pressed, "{plane}: {held}");
        assert!(
            held <= SPILL_BYTES_MAX + 2 * UNTOLD_BYTES,
            "{plane}: {held}"
        );
        assert!(
            grown <= SPILL_BYTES_MAX + RESIDENT_SLACK_BYTES,
            "{plane}: {grown}"
        );
        // They slow down nobody who is read.
        read.pass_up(b"2\r\nhi\r\n");
        read.pass_down(b"2\r\nhi\r\n");
        drop(tunnels);
        comes_back(admin, before);
        drop(read);
        assert!(relay.stop().status.success());
    }
}

/// What one request that waits may cost: its task, and what it says meanwhile, of which some
/// 4 KiB are kept, in room that grew by doubling.
const WAITER_BYTES_MAX: u64 = 24 << 10;

const CONNECTIONS_MAX: usize = 1000;

/// Connections that are on their way out.
const LEAVING_MAX: usize = 32;

/// Tables keep the size that so many connections gave them.
const TABLES_BYTES_MAX: u64 = 512 * CONNECTIONS_MAX as u64;

/// Nobody is gone before all others have come, however busy the machine is.
const PATIENT: &str = "ptth_listen_timeout_s = 3600\nptth_connect_timeout_s = 3600\n\
    ptth_accept_timeout_s = 3600\nptth_join_timeout_s = 3600";

/// As many requests as may listen, and as many as may wait at two ports.
fn fill_places(address: SocketAddr, admin: SocketAddr) -> Vec<TcpStream> {
    let listens = (0..256).map(|count| call(address, HOME, &format!("listen/{}", count % 8), ""));
    let mut waiting: Vec<_> = listens.collect();
    waits_until(admin, "midspan_listens_waiting", 256.0);
    for port in ["80", "443"] {
        let connect = format!("connect/home/{port}");
        waiting.extend((0..64).map(|_| call(address, ALICE, &connect, "")));
    }
    waits_until(admin, "midspan_connects_waiting", 128.0);
    for port in ["0", "other"] {
        assert_eq!(status(address, HOME, &format!("listen/{port}")), 503);
    }
    for port in ["80", "443"] {
        assert_eq!(status(address, ALICE, &format!("connect/home/{port}")), 503);
    }
    waiting
}

/// Three requests of a tunnel, one of which has begun its body.
fn half_a_tunnel(address: SocketAddr, number: usize) -> [TcpStream; 3] {
    let port = format!("half{number}");
    let mut connect = call(address, ALICE, &format!("connect/home/{port}"), "");
    let mut listen = call(address, HOME, &format!("listen/{port}"), "");
    let id = read_response(&mut listen).body;
    let mut accept = next_call(address, "accept", &id);
    read_head(&mut connect);
    read_head(&mut accept);
    let body = ["upstream", "downstream"][number % 2];
    let mut body = next_call(address, body, &id);
    // It waits in its socket.
    body.write_all(&chunks(1000)[..64 << 10]).expect("sent");
    [connect, accept, body]
}

#[test]
fn those_who_wait_cost_little_each_and_are_no_more_than_the_limits_let() {
    let limits = format!("connections_max = {CONNECTIONS_MAX}\n{PATIENT}");
    let (_folder, mut relay, admin) = relay(&limits, &[]);
    let address = relay.address;
    open_and_end(&mut relay);
    let (before, peak_before) = (allocated(admin), relay.resident_bytes_peak());
    // Once more: what was given back serves again.
    for round in 1..=2 {
        let mut waiting = fill_places(address, admin);
        for stream in &mut waiting {
            stream.write_all(&[b'x'; 4000]).expect("sent");
        }
        let refused = relay.counters();
        assert_eq!(refused.count("refused.too_many_listens"), 2 * round);
        assert_eq!(refused.count("refused.port_busy"), 2 * round);
        // Room for those who are told of a connection.
        waiting.remove(0);
        waits_until(admin, "midspan_listens_waiting", 255.0);

        // Of tunnels of which a request is missing there are as many as connections.
        for number in 0.. {
            if waiting.len() + LEAVING_MAX > CONNECTIONS_MAX {
                break;
            }
            waiting.extend(half_a_tunnel(address, number));
        }
        let room = CONNECTIONS_MAX - waiting.len();
        let too_many: Vec<_> = (0..=room).map(|_| dial(address)).collect();
        relay.wait_for_counters("one connection too many", |counters| {
            counters.count("refused.too_many_connections") >= round
        });
        let held = allocated(admin).saturating_sub(before);
        let held_max = WAITER_BYTES_MAX * waiting.len() as u64;
        assert!(held <= held_max, "{held} bytes for {}", waiting.len());
        let grown = relay.resident_bytes_peak() - peak_before;
        assert!(grown <= held_max + RESIDENT_SLACK_BYTES, "{grown} bytes");

        drop((waiting, too_many));
        waits_until(admin, "midspan_listens_waiting", 0.0);
        waits_until(admin, "midspan_connects_waiting", 0.0);
        comes_back(admin, before + TABLES_BYTES_MAX);
    }
    let mut tunnel = Tunnel::open(address, "80");
    tunnel.pass_up(b"2\r\nhi\r\n");
    drop(tunnel);
    assert!(relay.stop().status.success());
}

/// What is longer than this has no end: above all that both kernels buffer.
const ENDLESS_BYTES: u64 = 32 << 20;

/// So many do the same at once.
const FLOODERS: usize = 16;

/// Has many send and send at once, each a connection of its own.
fn flood_by(dial: impl Fn(usize) -> TcpStream + Sync) {
    thread::scope(|scope| {
        for number in 0..FLOODERS {
            let dial = &dial;
            scope.spawn(move || {
                flood(dial(number), ENDLESS_BYTES);
            });
        }
    });
}

/// A body that never comes to an end from here on: nobody takes what it leads to for one.
fn flood_tunnel(address: SocketAddr, number: usize, begun: &str) {
    let mut tunnel = Tunnel::open(address, &number.to_string());
    let (from, to) = match number % 2 {
        0 => (&mut tunnel.upstream, &mut tunnel.accept),
        _ => (&mut tunnel.downstream, &mut tunnel.connect),
    };
    from.write_all(begun.as_bytes()).expect("sent");
    thread::scope(|scope| {
        let reader = scope.spawn(|| io::copy(&mut to.take(ENDLESS_BYTES), &mut io::sink()));
        flood(from.try_clone().expect("a socket"), ENDLESS_BYTES);
        let read = reader.join().expect("no panic");
        assert!(read.is_err(), "{begun:?}: {read:?}");
    });
}

#[test]
fn heads_and_framing_without_an_end_are_refused_at_their_limits() {
    let (_folder, mut relay, admin) = relay("", &[]);
    let address = relay.address;
    open_and_end(&mut relay);
    let (before, peak_before) = (allocated(admin), relay.resident_bytes_peak());

    flood_by(|_| stall(address, b"POST /ptth/v1/connect/home/22 HTTP/1.1\r\nX: "));
    let counters = relay.counters();
    assert_eq!(counters.count("refused.head_too_long"), FLOODERS as u64);
    // What is said while a request waits.
    flood_by(|number| call(address, ALICE, &format!("connect/home/{number}"), ""));
    flood_by(|number| call(address, HOME, &format!("listen/a{number}"), ""));
    for begun in ["5;", "0\r\n", "0\r\nX: ", "3\r\nabc\r\n0\r\nA: b\r\nX: "] {
        thread::scope(|scope| {
            for number in 0..FLOODERS {
                scope.spawn(move || flood_tunnel(address, number, begun));
            }
        });
    }
    // Digits of a size, too.
    let mut tunnel = Tunnel::open(address, "22");
    tunnel.upstream.write_all(&[b'0'; 1025]).expect("sent");
    assert!(is_cut(&mut tunnel.accept) && is_cut(&mut tunnel.connect));
    drop(tunnel);

    let grown = relay.resident_bytes_peak() - peak_before;
    assert!(grown <= RESIDENT_SLACK_BYTES, "{grown} bytes");
    comes_back(admin, before);
    assert!(relay.stop().status.success());
}
