//! 200 pairs at once on two shards: every byte arrives once and in order, an end arrives as an end
//! and a reset as a reset, and afterwards nothing is left in the relay.
//!
//! One thread drives all sockets through `poll`. Each direction's bytes are a stretch of one
//! pattern, so a receiver knows every byte that it must get without keeping what was sent.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use fastrand::Rng;
use midspan::relay::EngineSettings;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use socket2::SockRef;

use super::jet_client::{accept, connect, granted, implicit, in_version_1, minted, new_place};
use super::patience::{Deadline, until};
use super::peers::resets::reset;
use super::relay_process::{Relay, note};
use super::require::{require, require_cores, require_root};

const PAIRS_COUNT: usize = 200;
/// A prime, so that a lost or doubled block of any usual size shows.
const PATTERN_BYTES: usize = 65_521;

/// One end of a pair, as a program that sends, reads and ends in its own way.
struct Peer {
    stream: Option<TcpStream>,
    sending: Stretch,
    receiving: Stretch,
    /// Bytes after which it ends with a RST instead of going on.
    resets_after: Option<u64>,
    /// Bytes in one read at most.
    read_bytes_max: usize,
    /// It reads in one turn of so many.
    reads_each: u32,
    /// It sends a FIN when it has sent all, instead of when it has also received all.
    half_closes: bool,
    has_shut: bool,
    saw: Option<Saw>,
}

/// How a peer's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saw {
    End,
    Reset,
    /// It went itself.
    OwnReset,
}

/// The bytes of one direction.
#[derive(Clone, Copy)]
struct Stretch {
    start: usize,
    length: u64,
    done: u64,
}

#[test]
fn copying_keeps_every_byte() {
    check_plane("copy");
}

#[test]
fn splicing_keeps_every_byte() {
    check_plane("splice");
}

#[test]
fn the_ring_keeps_every_byte() {
    check_plane("ring");
}

#[test]
fn the_automatic_choice_keeps_every_byte() {
    check_plane("auto");
}

fn check_plane(plane: &str) {
    if !require_cores(2) {
        return;
    }
    let options = ["--cores", "2", "--data-plane", plane];
    check_relay(Relay::start(&options), plane);
    // Whose pipes together are limited.
    if require_root() && require("setpriv").is_some() {
        check_relay(Relay::start_as_ordinary_user(&options), plane);
    }
}

fn check_relay(mut relay: Relay, plane: &str) {
    let seed = fastrand::u64(..);
    note(&format!("plane {plane}, seed {seed}"));
    let mut rng = Rng::with_seed(seed);
    let pattern: Vec<u8> = std::iter::repeat_with(|| rng.u8(..))
        .take(PATTERN_BYTES)
        .collect();
    let before = Held::by(&relay);
    let mut pairs: Vec<[Peer; 2]> = (0..PAIRS_COUNT)
        .map(|index| new_pair(&relay, index, &mut rng))
        .collect();
    run(&mut pairs, &pattern);
    let mut received = 0;
    for (index, pair) in pairs.iter().enumerate() {
        check_end(pair, index);
        received += pair.iter().map(|peer| peer.receiving.done).sum::<u64>();
    }
    drop(pairs);

    let counters = relay.wait_for_counters("all pairs to end", |counters| {
        counters.sum("ended.") == counters.count("paired")
    });
    let held = ["pairs", "bulk_directions", "pipes_in_use", "spill_bytes"];
    relay.wait_for_counters("nothing to be held", |counters| {
        held.iter().all(|name| counters.gauge(name) == 0)
    });
    assert_eq!(counters.count("paired"), PAIRS_COUNT as u64, "{counters:?}");
    assert_eq!(
        counters.count("handed_out"),
        counters.count("handed_in"),
        "{counters:?}"
    );
    // What a reset overtook was relayed and never read.
    assert!(counters.count("bytes_relayed") >= received, "{counters:?}");
    let resets = counters.count("ended.reset_by_left") + counters.count("ended.reset_by_right");
    let finished =
        counters.count("ended.finished_by_left") + counters.count("ended.finished_by_right");
    assert_eq!(
        (resets, resets + finished),
        (resets_count(), PAIRS_COUNT as u64),
        "{counters:?}"
    );

    // Two shards keep empty pipes, of two ends each, for the next bulk transfer.
    let ends_max = 2 * 2 * EngineSettings::default().pipe_idle_max;
    until("all descriptors to be closed", || {
        let after = Held::by(&relay);
        (after.others == before.others && after.pipe_ends <= ends_max).then_some(())
    });
    assert_eq!(Held::by(&relay).bytes_in_pipes, 0);
    relay.stop().check_clean();
}

/// Every tenth pair is reset by its acceptor, and every tenth by its connector.
fn resets(index: usize) -> [bool; 2] {
    [index % 10 == 3, index % 10 == 7]
}

fn resets_count() -> u64 {
    let count = (0..PAIRS_COUNT)
        .filter(|index| resets(*index).contains(&true))
        .count();
    u64::try_from(count).expect("few")
}

fn new_pair(relay: &Relay, index: usize, rng: &mut Rng) -> [Peer; 2] {
    let (acceptor, request) = if rng.bool() {
        let place = new_place();
        (granted(relay.address, &accept(place)), connect(place))
    } else {
        let (acceptor, association) = minted(relay.address);
        (acceptor, in_version_1(connect(implicit(association))))
    };
    let connector = granted(relay.address, &request);
    let stretch = |rng: &mut Rng| Stretch {
        start: rng.usize(..PATTERN_BYTES),
        length: match rng.u8(..10) {
            0 => 0,
            1..5 => rng.u64(1..4 << 10),
            5..9 => rng.u64(1..512 << 10),
            _ => rng.u64(1 << 20..4 << 20),
        },
        done: 0,
    };
    let directions = [stretch(rng), stretch(rng)];
    let [left_resets, right_resets] = resets(index);
    let mut peer = |stream, sending: Stretch, receiving, resets| {
        let mut sending = sending;
        let resets_after = if resets {
            sending.length += 1 << 16;
            Some(rng.u64(..sending.length))
        } else {
            None
        };
        Peer::new(stream, sending, receiving, resets_after, rng)
    };
    let left = peer(acceptor, directions[0], directions[1], left_resets);
    let mut right = peer(connector, directions[1], left.sending, right_resets);
    right.receiving = left.sending;
    let left = Peer {
        receiving: right.sending,
        ..left
    };
    [left, right]
}

impl Peer {
    fn new(
        stream: TcpStream,
        sending: Stretch,
        receiving: Stretch,
        resets_after: Option<u64>,
        rng: &mut Rng,
    ) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        let is_slow = rng.u8(..4) == 0;
        if is_slow {
            // Little room, so that the relay feels it, yet more than a segment of the loopback
            // device: a window below that waits for timers.
            SockRef::from(&stream)
                .set_recv_buffer_size(128 << 10)
                .expect("a socket");
        }
        Self {
            stream: Some(stream),
            sending,
            receiving,
            resets_after,
            read_bytes_max: if is_slow { 4 << 10 } else { 256 << 10 },
            reads_each: if is_slow { rng.u32(2..8) } else { 1 },
            half_closes: rng.bool(),
            has_shut: false,
            saw: None,
        }
    }

    /// What to wait for; nothing once it has ended.
    fn interest(&self, turn: u32) -> PollFlags {
        let mut interest = PollFlags::empty();
        if self.saw.is_none() && turn.is_multiple_of(self.reads_each) {
            interest |= PollFlags::IN;
        }
        if !self.has_shut && (!self.sending.is_over() || self.resets_after.is_some()) {
            interest |= PollFlags::OUT;
        }
        interest
    }

    /// Does what its socket is ready for.
    fn turn(&mut self, ready: PollFlags, pattern: &[u8], rng: &mut Rng) {
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.receive(pattern, rng);
        }
        if ready.intersects(PollFlags::OUT) && !self.has_shut {
            self.send(pattern, rng);
        }
        let may_shut = self.half_closes || self.saw == Some(Saw::End);
        if self.sending.is_over() && !self.has_shut && self.resets_after.is_none() && may_shut
            || self.receiving.is_over() && self.sending.is_over() && !self.has_shut
        {
            self.shut();
        }
        if self.has_shut && self.saw.is_some() {
            self.stream = None;
        }
    }

    fn receive(&mut self, pattern: &[u8], rng: &mut Rng) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut buffer = vec![0; rng.usize(1..=self.read_bytes_max)];
        match stream.read(&mut buffer) {
            Ok(0) => self.saw = Some(Saw::End),
            Ok(count) => self.receiving.check(pattern, &buffer[..count]),
            Err(error) => self.fail(&error),
        }
    }

    fn send(&mut self, pattern: &[u8], rng: &mut Rng) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let chunk_max = *rng
            .choice(&[1, 100, 1460, 8 << 10, 64 << 10])
            .expect("some");
        let mut chunk = self.sending.next(pattern, rng.usize(1..=chunk_max));
        if let Some(resets_after) = self.resets_after {
            let left = usize::try_from(resets_after - self.sending.done).expect("short");
            chunk = &chunk[..chunk.len().min(left)];
            if left == 0 {
                self.saw = Some(Saw::OwnReset);
                self.has_shut = true;
                return self.stream.take().map_or((), reset);
            }
        }
        match stream.write(chunk) {
            Ok(count) => self.sending.done += count as u64,
            Err(error) => self.fail(&error),
        }
    }

    fn shut(&mut self) {
        self.has_shut = true;
        if let Some(stream) = &self.stream
            && let Err(error) = stream.shutdown(Shutdown::Write)
        {
            // The connection is gone already; reading tells how.
            assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
        }
    }

    /// How far it came.
    fn progress(&self) -> String {
        let (sent, got) = (self.sending, self.receiving);
        format!(
            "sent {}/{} got {}/{} shut {} resets after {:?} saw {:?}",
            sent.done,
            sent.length,
            got.done,
            got.length,
            self.has_shut,
            self.resets_after,
            self.saw
        )
    }

    fn fail(&mut self, error: &std::io::Error) {
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            let errno = Errno::from_io_error(error);
            assert_eq!(errno, Some(Errno::CONNRESET), "{}", self.progress());
            self.saw = Some(Saw::Reset);
            self.has_shut = true;
        }
    }
}

impl Stretch {
    fn is_over(&self) -> bool {
        self.done == self.length
    }

    /// The next bytes, up to `bytes_max` and the pattern's end.
    fn next<'pattern>(&self, pattern: &'pattern [u8], bytes_max: usize) -> &'pattern [u8] {
        let from = self.position();
        let left = usize::try_from(self.length - self.done).expect("short");
        &pattern[from..pattern.len().min(from + left.min(bytes_max))]
    }

    /// Takes note of received bytes, which must be the next ones.
    #[track_caller]
    fn check(&mut self, pattern: &[u8], mut received: &[u8]) {
        while !received.is_empty() {
            let expected = self.next(pattern, received.len());
            assert!(!expected.is_empty(), "more than {} bytes", self.length);
            let (now, rest) = received.split_at(expected.len());
            assert!(
                now == expected,
                "wrong bytes behind {} of {}",
                self.done,
                self.length
            );
            self.done += now.len() as u64;
            received = rest;
        }
    }

    fn position(&self) -> usize {
        let done = usize::try_from(self.done).expect("short");
        (self.start + done) % PATTERN_BYTES
    }
}

/// Drives all peers until each has ended.
fn run(pairs: &mut [[Peer; 2]], pattern: &[u8]) {
    let deadline = Deadline::new();
    let mut rng = Rng::with_seed(1);
    // Slow readers skip turns, so a turn must come although no socket has anything to tell.
    let pause = Timespec::try_from(Duration::from_millis(1)).expect("in range");
    for turn in 0.. {
        let mut indices = Vec::new();
        let mut events = Vec::new();
        for (index, peer) in pairs.iter().flatten().enumerate() {
            if let Some(stream) = &peer.stream {
                indices.push(index);
                events.push(PollFd::new(stream, peer.interest(turn)));
            }
        }
        if events.is_empty() {
            return;
        }
        poll(&mut events, Some(&pause)).expect("poll waits");
        let ready: Vec<PollFlags> = events.iter().map(PollFd::revents).collect();
        for (index, ready) in indices.into_iter().zip(ready) {
            pairs[index / 2][index % 2].turn(ready, pattern, &mut rng);
        }
        assert!(!deadline.is_over(), "stuck: {:?}", stuck(pairs));
    }
}

/// What did not end: bytes sent and received, and how far it came.
fn stuck(pairs: &[[Peer; 2]]) -> Vec<String> {
    let open = pairs
        .iter()
        .filter(|pair| pair.iter().any(|peer| peer.stream.is_some()));
    open.map(|[left, right]| format!("{} | {}", left.progress(), right.progress()))
        .collect()
}

fn check_end(pair: &[Peer; 2], index: usize) {
    let saw = [pair[0].saw, pair[1].saw];
    match resets(index) {
        [true, false] => assert_eq!(saw, [Some(Saw::OwnReset), Some(Saw::Reset)], "pair {index}"),
        [false, true] => assert_eq!(saw, [Some(Saw::Reset), Some(Saw::OwnReset)], "pair {index}"),
        _ => {
            assert_eq!(saw, [Some(Saw::End), Some(Saw::End)], "pair {index}");
            for peer in pair {
                assert!(
                    peer.sending.is_over() && peer.receiving.is_over(),
                    "pair {index}"
                );
            }
        }
    }
}

/// What a relay holds open.
#[derive(Debug)]
struct Held {
    pipe_ends: usize,
    bytes_in_pipes: u64,
    /// Everything but pipes, by kind.
    others: BTreeMap<String, usize>,
}

impl Held {
    fn by(relay: &Relay) -> Self {
        let mut held = Self {
            pipe_ends: 0,
            bytes_in_pipes: 0,
            others: BTreeMap::new(),
        };
        for entry in fs::read_dir(relay.proc("fd")).expect("the relay runs") {
            let path = entry.expect("an entry").path();
            // It may be closed by now.
            let Ok(target) = fs::read_link(&path) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            let kind = target.split(":[").next().unwrap_or_default();
            // Its standard streams are pipes of this test.
            let number: u32 = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok())
                .expect("a number");
            if kind == "pipe" && number > 2 {
                held.pipe_ends += 1;
                let bytes = File::open(&path).and_then(|pipe| Ok(ioctl_fionread(pipe)?));
                held.bytes_in_pipes += bytes.unwrap_or(0);
            } else {
                *held.others.entry(kind.to_owned()).or_default() += 1;
            }
        }
        held
    }
}
