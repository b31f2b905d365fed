//! A long way of UDP, between proxies and a relay that are near: it loses datagrams, takes its
//! time, lets some overtake others, and gives those who send by it another address.
//!
//! ```text
//!              outer socket        a socket for each proxy
//!  proxies  ──────────▶ │ ─ way there ─▶ │ ──────────▶  relay
//!           ◀────────── │ ◀─ way back ── │ ◀──────────
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use crate::patience::{now, until};

/// Datagrams on their way at a time. More are dropped, as by a router whose queue is full.
const QUEUE_MAX: usize = 4096;
/// What the kernel keeps for a socket until it is read, in bytes, so that nothing is lost but what
/// the link loses.
const SOCKET_BYTES: usize = 4 << 20;
/// Datagrams of one socket in a row.
const BATCH_MAX: usize = 64;
const LOCALHOST: &str = "127.0.0.1:0";

/// What happens on the way, there and back alike.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    /// How many of 100 are lost.
    pub(crate) loss_percent: f64,
    /// How long all others take.
    pub(crate) delay: Duration,
    /// How many of 100 take longer, and by how much.
    pub(crate) late_percent: f64,
    pub(crate) late_by: Duration,
}

/// What has happened, both ways together, in datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    pub(crate) passed: u64,
    pub(crate) lost: u64,
    /// They arrived behind one that was sent after them.
    pub(crate) overtaken: u64,
    pub(crate) too_many: u64,
}

/// A link. Its thread ends when it is dropped.
#[derive(Debug)]
pub(crate) struct UdpLink {
    /// Where the relay seems to be.
    pub(crate) address: SocketAddr,
    orders: PipeWriter,
    answers: Receiver<Passed>,
}

impl UdpLink {
    /// A link to a relay. What happens by chance is the same for the same seed.
    pub(crate) fn new(relay: SocketAddr, way: Way, seed: u64) -> Self {
        let (orders_read, orders) = io::pipe().expect("a pipe");
        let (answer, answers) = channel();
        let outer = socket();
        let address = outer.local_addr().expect("bound");
        let link = Link {
            relay,
            way,
            outer,
            clients: Vec::new(),
            chance: Rng::with_seed(seed),
            queue: BinaryHeap::new(),
            entered: 0,
            last_left: [0; 2],
            passed: Passed::default(),
        };
        thread::spawn(move || link.run(orders_read, &answer));
        Self {
            address,
            orders,
            answers,
        }
    }

    /// What has happened so far.
    pub(crate) fn passed(&mut self) -> Passed {
        self.order(b'?')
    }

    /// From now on the relay sees everybody at other addresses, and what it sends to the former
    /// ones is gone.
    pub(crate) fn rebind(&mut self) -> Passed {
        self.order(b'!')
    }

    /// Waits until so many datagrams more have passed.
    #[track_caller]
    pub(crate) fn wait_for_more(&mut self, datagrams: u64) {
        let before = self.passed().passed;
        until("more datagrams", || {
            (self.passed().passed >= before + datagrams).then_some(())
        });
    }

    fn order(&mut self, order: u8) -> Passed {
        self.orders.write_all(&[order]).expect("the link is there");
        self.answers.recv().expect("the link is there")
    }
}

/// The link's thread.
struct Link {
    relay: SocketAddr,
    way: Way,
    outer: UdpSocket,
    clients: Vec<Client>,
    chance: Rng,
    queue: BinaryHeap<Reverse<Datagram>>,
    /// All that ever entered.
    entered: u64,
    /// The number of the youngest that has arrived, by its heading.
    last_left: [u64; 2],
    passed: Passed,
}

struct Client {
    address: SocketAddr,
    /// Connected to the relay.
    inner: UdpSocket,
}

/// Sorted by when it arrives, then by which came first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Datagram {
    due: Instant,
    number: u64,
    client: usize,
    heading: Heading,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Heading {
    There,
    Back,
}

impl Link {
    fn run(mut self, mut orders: PipeReader, answers: &Sender<Passed>) {
        let mut space = vec![0; 64 << 10];
        loop {
            if self.wait(orders.as_fd()) {
                let mut order = [0];
                match orders.read(&mut order) {
                    Ok(1) if order == *b"!" => self.rebind(),
                    Ok(1) => {}
                    // Whoever has made it has dropped it.
                    Ok(_) | Err(_) => return,
                }
                if answers.send(self.passed).is_err() {
                    return;
                }
            }
            self.take_in(&mut space);
            self.send_due();
        }
    }

    /// Waits until something comes, or is due; whether there is an order.
    fn wait(&self, orders: BorrowedFd<'_>) -> bool {
        let sockets = self.clients.iter().map(|client| client.inner.as_fd());
        let all = [orders, self.outer.as_fd()].into_iter().chain(sockets);
        let mut polled: Vec<_> = all
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let due = self.queue.peek().map(|Reverse(first)| first.due);
        let timeout = due.map(|due| {
            let left = due.saturating_duration_since(now());
            Timespec::try_from(left).expect("in range")
        });
        poll(&mut polled, timeout.as_ref()).expect("poll waits");
        !polled[0].revents().is_empty()
    }

    fn take_in(&mut self, space: &mut [u8]) {
        for _ in 0..BATCH_MAX {
            let Ok((length, from)) = self.outer.recv_from(space) else {
                break;
            };
            let known = self
                .clients
                .iter()
                .position(|client| client.address == from);
            let client = known.unwrap_or_else(|| {
                let inner = connected(self.relay);
                self.clients.push(Client {
                    address: from,
                    inner,
                });
                self.clients.len() - 1
            });
            self.enter(client, Heading::There, &space[..length]);
        }
        for client in 0..self.clients.len() {
            for _ in 0..BATCH_MAX {
                // An error may tell of a relay that is away, once.
                let Ok(length) = self.clients[client].inner.recv(space) else {
                    break;
                };
                self.enter(client, Heading::Back, &space[..length]);
            }
        }
    }

    fn enter(&mut self, client: usize, heading: Heading, bytes: &[u8]) {
        self.entered += 1;
        // Drawn for each, so that one that is lost does not change what the others meet.
        let [is_lost, is_late] = [self.way.loss_percent, self.way.late_percent]
            .map(|percent| self.chance.f64() * 100.0 < percent);
        if is_lost {
            self.passed.lost += 1;
        } else if self.queue.len() == QUEUE_MAX {
            self.passed.too_many += 1;
        } else {
            let late_by = if is_late {
                self.way.late_by
            } else {
                Duration::ZERO
            };
            self.queue.push(Reverse(Datagram {
                due: now() + self.way.delay + late_by,
                number: self.entered,
                client,
                heading,
                bytes: bytes.to_vec(),
            }));
        }
    }

    fn send_due(&mut self) {
        let now = now();
        while let Some(Reverse(first)) = self.queue.peek()
            && first.due <= now
            && let Some(Reverse(datagram)) = self.queue.pop()
        {
            let client = &self.clients[datagram.client];
            // What finds no room, or nobody, is gone, as anywhere.
            let _ = match datagram.heading {
                Heading::There => client.inner.send(&datagram.bytes),
                Heading::Back => self.outer.send_to(&datagram.bytes, client.address),
            };
            self.passed.passed += 1;
            let last = &mut self.last_left[datagram.heading as usize];
            if datagram.number < *last {
                self.passed.overtaken += 1;
            }
            *last = datagram.number.max(*last);
        }
    }

    fn rebind(&mut self) {
        for client in &mut self.clients {
            client.inner = connected(self.relay);
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(LOCALHOST).expect("a free port");
    socket.set_nonblocking(true).expect("ours");
    let options = SockRef::from(&socket);
    options.set_recv_buffer_size(SOCKET_BYTES).expect("ours");
    options.set_send_buffer_size(SOCKET_BYTES).expect("ours");
    socket
}

fn connected(relay: SocketAddr) -> UdpSocket {
    let socket = socket();
    socket.connect(relay).expect("an address");
    socket
}
