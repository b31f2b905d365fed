//! `link`: a slow link from this host to itself, for hosts without netem.
//!
//! A TUN device has a near address; everything that is sent to the far one goes
//! into it. Some time later it comes out again with its two addresses exchanged:
//! it arrives at the near address as if the far one had sent it, and the answer
//! goes the same way. So a program that dials the far address meets one on the
//! same host that listens at the near one, with whatever a long way does between
//! them. Both checksums of a packet are sums over both addresses (RFC 1071), so
//! they stay right.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use anyhow::Context;
use fastrand::Rng;
use midspan::runtime::clock;
use midspan::time::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::args::LinkArgs;

/// What most ways through the Internet carry.
const MTU: u16 = 1500;

/// Packets taken in a row before those that are due go out.
const BATCH_MAX: u32 = 64;

/// Where an IPv4 header has its two addresses (RFC 791 §3.1).
const SOURCE_AT: usize = 12;
const DESTINATION_AT: usize = 16;
const ADDRESSES_END: usize = 20;

/// Is the link until its time is over, and tells what it did.
pub(crate) fn run(args: &LinkArgs) -> anyhow::Result<()> {
    let device = open(args).with_context(|| {
        format!(
            "cannot make network device {}: it takes root or CAP_NET_ADMIN, and a name \
             and addresses that nobody has; try it under `unshare --net`",
            args.device
        )
    })?;
    writeln!(
        io::stdout(),
        "what is sent to {} arrives at {}",
        args.far,
        args.near
    )?;
    let end = clock::now() + args.seconds;
    let mut way = Way::new(args);
    let mut buffer = vec![0; usize::from(MTU)];
    while clock::now() < end {
        for _ in 0..BATCH_MAX {
            match device.recv(&mut buffer) {
                Ok(length) => way.enter(clock::now(), &buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot read from the device"),
            }
        }
        while let Some(packet) = way.leave(clock::now()) {
            device.send(&packet).context("cannot write to the device")?;
        }
        let next = way.next_due().map_or(end, |due| due.min(end));
        wait(&device, next.since(clock::now()))?;
    }
    writeln!(io::stdout(), "{}", way.counts)?;
    Ok(())
}

fn open(args: &LinkArgs) -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new()
        .name(&args.device)
        .ipv4(args.near, 32, Some(args.far))
        .mtu(MTU)
        .build_sync()?;
    device.set_nonblocking(true)?;
    Ok(device)
}

/// Returns when there is a packet to read, or after `timeout`.
fn wait(device: &SyncDevice, timeout: Duration) -> anyhow::Result<()> {
    let timeout = Timespec::try_from(timeout)?;
    let mut polled = [PollFd::new(device, PollFlags::IN)];
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("cannot wait for the device"),
    }
}

/// What happened to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    lost: u64,
    too_many: u64,
    foreign: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            lost,
            too_many,
            foreign,
        } = self;
        write!(
            f,
            "{passed} packets passed, {lost} lost by chance, {too_many} as too many were on \
             their way, {foreign} as they were not IPv4"
        )
    }
}

/// Packets that are on their way.
#[derive(Debug)]
struct Way {
    delay: Duration,
    jitter: Duration,
    /// Of 1.
    loss: f64,
    packets_max: usize,
    chance: Rng,
    /// The first to leave on top.
    packets: BinaryHeap<Reverse<Packet>>,
    counts: Counts,
}

#[derive(Debug)]
struct Packet {
    due: Timestamp,
    /// Which one came first, of those that are due at the same time.
    number: u64,
    bytes: Vec<u8>,
}

impl Way {
    fn new(args: &LinkArgs) -> Self {
        Self {
            delay: args.delay,
            jitter: args.jitter,
            loss: args.loss / 100.0,
            packets_max: usize::try_from(args.packets_max).unwrap_or(usize::MAX),
            chance: Rng::with_seed(args.seed),
            packets: BinaryHeap::new(),
            counts: Counts::default(),
        }
    }

    fn enter(&mut self, now: Timestamp, packet: &[u8]) {
        let Some(bytes) = turned_round(packet) else {
            self.counts.foreign += 1;
            return;
        };
        // Drawn for every packet, so that one that is lost does not change what the others meet.
        let (is_lost, later) = (self.chance.f64() < self.loss, self.chance.f64());
        if is_lost {
            self.counts.lost += 1;
        } else if self.packets.len() == self.packets_max {
            self.counts.too_many += 1;
        } else {
            let due = now + self.delay + self.jitter.mul_f64(later);
            let number = self.counts.passed;
            self.counts.passed += 1;
            self.packets.push(Reverse(Packet { due, number, bytes }));
        }
    }

    /// A packet that has arrived by `now`; call until `None`.
    fn leave(&mut self, now: Timestamp) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        self.packets.pop().map(|Reverse(packet)| packet.bytes)
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.packets.peek().map(|Reverse(packet)| packet.due)
    }
}

/// The packet with its addresses exchanged, if it is one of IPv4.
fn turned_round(packet: &[u8]) -> Option<Vec<u8>> {
    const VERSION: u8 = 4;
    if packet.len() < ADDRESSES_END || packet[0] >> 4 != VERSION {
        return None;
    }
    let mut packet = packet.to_vec();
    let (before, destination) = packet[..ADDRESSES_END].split_at_mut(DESTINATION_AT);
    before[SOURCE_AT..].swap_with_slice(destination);
    Some(packet)
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Packet {}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_nanos(0);

    fn way(delay_ms: u64, jitter_ms: u64, loss: f64, packets_max: usize) -> Way {
        Way {
            delay: Duration::from_millis(delay_ms),
            jitter: Duration::from_millis(jitter_ms),
            loss,
            packets_max,
            chance: Rng::with_seed(7),
            packets: BinaryHeap::new(),
            counts: Counts::default(),
        }
    }

    fn packet(mark: u8) -> Vec<u8> {
        let mut packet = vec![0x45; ADDRESSES_END];
        packet[SOURCE_AT..DESTINATION_AT].copy_from_slice(&[10, 99, 0, 1]);
        packet[DESTINATION_AT..].copy_from_slice(&[10, 99, 0, 2]);
        packet.push(mark);
        packet
    }

    fn marks(way: &mut Way, now: Timestamp) -> Vec<u8> {
        let arrived = std::iter::from_fn(|| way.leave(now));
        arrived.map(|packet| packet[ADDRESSES_END]).collect()
    }

    #[test]
    fn a_packet_comes_back_with_its_addresses_exchanged() {
        let turned = turned_round(&packet(9)).unwrap();
        assert_eq!(
            turned[SOURCE_AT..],
            [10, 99, 0, 2, 10, 99, 0, 1, 9],
            "{turned:?}"
        );
        for foreign in [&[0x60; 40][..], &[0x45; 19], &[]] {
            assert_eq!(turned_round(foreign), None);
        }
    }

    #[test]
    fn packets_arrive_in_order_after_the_delay() {
        let mut way = way(20, 0, 0.0, 10);
        for mark in 0..3 {
            way.enter(START, &packet(mark));
        }
        way.enter(START + Duration::from_millis(5), &packet(3));
        assert!(marks(&mut way, START + Duration::from_millis(19)).is_empty());
        assert_eq!(
            marks(&mut way, START + Duration::from_millis(20)),
            [0, 1, 2]
        );
        assert_eq!(
            way.next_due(),
            Some(START + Duration::from_millis(25)),
            "the last one"
        );
        assert_eq!(marks(&mut way, START + Duration::from_millis(25)), [3]);
    }

    #[test]
    fn with_jitter_they_overtake_and_none_is_gone() {
        let mut way = way(20, 10, 0.0, 1000);
        for mark in 0..100 {
            way.enter(START, &packet(mark));
        }
        assert!(marks(&mut way, START + Duration::from_millis(19)).is_empty());
        let mut arrived = marks(&mut way, START + Duration::from_millis(30));
        assert!(!arrived.is_sorted(), "{arrived:?}");
        arrived.sort_unstable();
        assert_eq!(arrived, Vec::from_iter(0..100));
    }

    #[test]
    fn the_lost_and_the_many_are_counted() {
        let mut way = way(20, 0, 0.1, 1000);
        for _ in 0..1_500 {
            way.enter(START, &packet(0));
        }
        way.enter(START, &[]);
        let counts = way.counts;
        assert_eq!((counts.passed, counts.foreign), (1000, 1));
        assert!((100..200).contains(&counts.lost), "{counts}");
        assert_eq!(counts.passed + counts.lost + counts.too_many, 1_500);
    }
}
