//! PTTH over QUIC by a path of two seconds, there and back.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::agents::{check_echo, echo, service};
use super::patience::{Deadline, now};
use super::ptth_quic::{expose, meeting};

/// One way.
const DELAY: Duration = Duration::from_secs(1);
/// The longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Where one client finds what is at `far`, a while later.
fn slow_path(far: SocketAddr) -> SocketAddr {
    let near = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let back = UdpSocket::bind("127.0.0.1:0").expect("a port");
    back.connect(far).expect("an address");
    let address = near.local_addr().expect("bound");
    let client = Arc::new(OnceLock::new());
    let [near_too, back_too] = [&near, &back].map(|socket| socket.try_clone().expect("another"));
    let own = Arc::clone(&client);
    thread::spawn(move || {
        delay(&near, |peer, bytes| {
            let _ = own.set(peer);
            let _ = back_too.send(bytes);
        });
    });
    thread::spawn(move || {
        delay(&back, |_, bytes| {
            if let Some(client) = client.get() {
                let _ = near_too.send_to(bytes, client);
            }
        });
    });
    address
}

/// Passes on what comes, each datagram [`DELAY`] after it has come.
fn delay(socket: &UdpSocket, mut pass_on: impl FnMut(SocketAddr, &[u8])) {
    let deadline = Deadline::new();
    let mut on_its_way: VecDeque<(Instant, SocketAddr, Vec<u8>)> = VecDeque::new();
    let mut space = vec![0; DATAGRAM_BYTES_MAX];
    while !deadline.is_over() {
        let pause = match on_its_way.front() {
            Some((due, ..)) => due.saturating_duration_since(now()),
            None => DELAY,
        };
        // None is no limit.
        let pause = pause.max(Duration::from_micros(1));
        socket.set_read_timeout(Some(pause)).expect("a timeout");
        if let Ok((count, peer)) = socket.recv_from(&mut space) {
            on_its_way.push_back((now() + DELAY, peer, space[..count].to_vec()));
        }
        while on_its_way.front().is_some_and(|(due, ..)| *due <= now()) {
            if let Some((_, peer, bytes)) = on_its_way.pop_front() {
                pass_on(peer, &bytes);
            }
        }
    }
}

#[test]
fn a_slow_path_is_not_taken_for_a_dead_one() {
    let mut meeting = meeting(&["--cores", "1"]);
    let direct = meeting.url.clone();
    let (at, pin) = direct.split_once('?').expect("a pin");
    let far = at.trim_start_matches("ptth+quic://").parse();
    let near = slow_path(far.expect("an address"));
    meeting.url = format!("ptth+quic://{near}?{pin}");
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    meeting.url = direct;
    let (_forward, local) = meeting.forward("home");
    // Each takes some round trips, and in between nothing comes for one.
    for client in 0..2 {
        check_echo(local, client, 100_000);
    }
    let said = expose.log_so_far();
    for told in ["does not answer", "is away", "is lost", "joined the relay"] {
        assert!(!said.contains(told), "{said}");
    }
}
