//! The pair against two sockets made up from a seed.
//!
//! The sockets do what the kernel's do, and as badly as it may: bytes arrive in
//! any pieces, events are coalesced and late and told once, splices stop
//! short, pipes run out, an error is told to one call only or swallowed by a
//! splice that had moved bytes. The shadow model is a position: the bytes of a
//! stream are numbered, every piece that is read, held or written is a range
//! of numbers, and a range may only be read or written at its turn.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use midspan::relay::codec::Heard;
use midspan::relay::direction::{
    Action, CAUGHT_UP_SHARE, ChainKey, Direction, Hold, Mode, Outcome, SCRATCH_BYTES, SpillKey,
    State,
};
use midspan::relay::pair::{EndEvidence, Pair};
use midspan::relay::{CloseReason, How, Side};
use midspan::runtime::readiness::Readiness;
use rustix::io::Errno;

use super::{for_each_seed, is_full_run};

/// Steps after which a pair that is not at its end hangs.
const STEPS_MAX: usize = 400_000;
const MOVES_MAX: u8 = 3;
const CHAIN_PIPES_MAX: u8 = 4;
const PIPE_BYTES: u32 = 1 << 20;

#[test]
fn pair() {
    let mut ends: BTreeMap<&str, u32> = BTreeMap::new();
    for_each_seed("pair", |rng| {
        *ends.entry(World::new(rng).run().label()).or_default() += 1;
    });
    // The seeds reach every end there is.
    if is_full_run() {
        for label in [
            "finished_by_left",
            "finished_by_right",
            "reset_by_left",
            "reset_by_right",
        ] {
            assert!(ends.contains_key(label), "{ends:?}");
        }
    }
}

/// How a peer's stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Fin,
    Reset,
}

/// A peer, and the relay's socket that is connected to it.
#[derive(Debug)]
struct Leg {
    // What the peer does.
    total: u64,
    ending: Ending,
    /// Larger is faster.
    write_max: u64,
    read_max: u64,

    // From the peer to the relay: numbers of bytes.
    arrived: u64,
    read: u64,
    fin: bool,
    low_water: u64,

    // From the relay to the peer.
    accepted: u64,
    consumed: u64,
    buffer_bytes: u64,
    no_space: bool,
    write_shut: bool,

    /// The peer reset the connection.
    gone: bool,
    error: Option<Errno>,
    events: Readiness,
}

impl Leg {
    fn new(rng: &mut fastrand::Rng) -> Self {
        let size = |rng: &mut fastrand::Rng, bits: u32| {
            let largest = 1 << rng.u32(1..=bits);
            rng.u64(1..=largest)
        };
        Self {
            total: size(rng, 22) - 1,
            ending: if rng.u32(0..5) == 0 {
                Ending::Reset
            } else {
                Ending::Fin
            },
            write_max: size(rng, 19),
            read_max: size(rng, 19),
            arrived: 0,
            read: 0,
            fin: false,
            low_water: 1,
            accepted: 0,
            consumed: 0,
            buffer_bytes: 1 + size(rng, 20),
            no_space: false,
            write_shut: false,
            gone: false,
            error: None,
            events: Readiness::NONE,
        }
    }

    /// Makes the leg quick enough to be done within the steps of a run.
    fn keep_pace(&mut self, incoming_total: u64) {
        self.write_max = self.write_max.max(self.total / 1000);
        self.read_max = self.read_max.max(incoming_total / 1000);
        self.buffer_bytes = self.buffer_bytes.max(incoming_total / 1000);
    }

    const fn has_sent_all(&self) -> bool {
        self.fin || self.gone
    }

    fn peer_writes(&mut self, rng: &mut fastrand::Rng) {
        // A receive window: no peer is ahead of the relay without bound.
        let window = (4 << 20) - (self.arrived - self.read);
        let most = self.write_max.min(self.total - self.arrived).min(window);
        if most > 0 {
            self.arrived += rng.u64(1..=most);
            if self.arrived - self.read >= self.low_water {
                self.events |= Readiness::READABLE;
            }
        }
        if self.arrived == self.total && rng.u32(0..4) == 0 {
            match self.ending {
                Ending::Fin => self.peer_ends(),
                Ending::Reset => self.peer_resets(rng),
            }
        }
    }

    fn peer_ends(&mut self) {
        self.fin = true;
        self.events |= Readiness::READABLE | Readiness::READ_CLOSED;
        if self.write_shut {
            self.events |= Readiness::HANGUP;
        }
    }

    fn peer_resets(&mut self, rng: &mut fastrand::Rng) {
        self.gone = true;
        // Now and then a write was told the error and lost it.
        if self.write_shut || rng.u32(0..4) > 0 {
            self.error = Some(Errno::CONNRESET);
        }
        self.events |= Readiness::READABLE
            | Readiness::WRITABLE
            | Readiness::READ_CLOSED
            | Readiness::HANGUP
            | Readiness::ERROR;
    }

    fn peer_reads(&mut self, rng: &mut fastrand::Rng) {
        let most = self.read_max.min(self.accepted - self.consumed);
        if most > 0 {
            self.consumed += rng.u64(1..=most);
            // The kernel waits until a third of the buffer is free.
            let free = self.buffer_bytes - (self.accepted - self.consumed);
            if self.no_space && free * 3 >= self.buffer_bytes {
                self.no_space = false;
                self.events |= Readiness::WRITABLE;
            }
        }
    }

    fn set_low_water(&mut self, bytes: u64) {
        self.low_water = bytes;
        if self.arrived - self.read >= bytes {
            self.events |= Readiness::READABLE;
        }
    }

    /// As `recv`: a range of numbers, empty at the end.
    fn recv(&mut self, bytes_max: u64) -> Result<Range<u64>, Errno> {
        if self.arrived == self.read {
            return match self.error.take() {
                Some(error) => Err(error),
                None if self.fin || self.gone => Ok(self.read..self.read),
                None => Err(Errno::AGAIN),
            };
        }
        let from = self.read;
        self.read = self.arrived.min(from + bytes_max);
        Ok(from..self.read)
    }

    /// As `send`: how much of the range was taken.
    fn send(&mut self, range: Range<u64>) -> Result<u64, Errno> {
        assert_eq!(range.start, self.accepted, "bytes out of order");
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.gone || self.write_shut {
            return Err(Errno::PIPE);
        }
        let free = self.buffer_bytes - (self.accepted - self.consumed);
        let taken = free.min(range.end - range.start);
        self.accepted += taken;
        if taken < range.end - range.start {
            self.no_space = true;
            if taken == 0 {
                return Err(Errno::AGAIN);
            }
        }
        Ok(taken)
    }
}

/// Everything: the pair, its legs, and the pools.
struct World {
    rng: fastrand::Rng,
    pair: Pair,
    legs: [Leg; 2],
    pools: Pools,
    queue: VecDeque<Side>,
    /// Resets that may go unnoticed: both halves of that leg were over.
    excused: bool,
    first_reset: Option<Side>,
}

#[derive(Default)]
struct Pools {
    spills: BTreeMap<u32, Range<u64>>,
    /// What the pipes of each chain hold; the only one of a chain may be empty.
    chains: BTreeMap<u32, VecDeque<Range<u64>>>,
    next: u32,
    /// Of ten requests, this many find no pipe.
    shortage: u32,
    /// No byte may be held outside of a pipe.
    no_spill: bool,
}

impl World {
    fn new(mut rng: fastrand::Rng) -> Self {
        let mode = match rng.u32(0..6) {
            0 => Mode::CopyAlways,
            1 => Mode::SpliceAlways,
            _ => Mode::Small,
        };
        let mut legs = [Leg::new(&mut rng), Leg::new(&mut rng)];
        let [left, right] = &mut legs;
        left.keep_pace(right.total);
        right.keep_pace(left.total);
        let mut world = Self {
            pair: Pair::new(mode),
            legs,
            pools: Pools {
                shortage: *rng.choice(&[0, 0, 0, 3, 10]).expect("not empty"),
                no_spill: rng.u32(0..8) == 0,
                ..Pools::default()
            },
            queue: VecDeque::new(),
            excused: false,
            first_reset: None,
            rng,
        };
        for side in Side::BOTH {
            let leg = &mut world.legs[side.index()];
            if world.rng.bool() && leg.total > 0 {
                let prefix = world.rng.u64(1..=leg.total.min(10_000));
                leg.arrived = prefix;
                leg.read = prefix;
                let key = world.pools.spill(0..prefix);
                let bytes = count(prefix);
                world.pair.from_mut(side).set_prefix(key, bytes);
            }
            if world.rng.u32(0..3) == 0 {
                world.pair.from_mut(side).close_gate();
            }
        }
        world
    }

    fn run(mut self) -> CloseReason {
        for side in Side::BOTH {
            if !self.pair.from(side).is_gated()
                && let Some(end) = self.turn(side)
            {
                return self.finish(end);
            }
        }
        for _ in 0..STEPS_MAX {
            let side = if self.rng.bool() {
                Side::Left
            } else {
                Side::Right
            };
            if let Some(end) = self.step(side) {
                return self.finish(end);
            }
        }
        panic!("the pair hangs: {:?} {:?}", self.pair, self.legs);
    }

    /// One random thing happens at one leg.
    fn step(&mut self, side: Side) -> Option<CloseReason> {
        let leg = &mut self.legs[side.index()];
        match self.rng.u32(0..100) {
            0..30 if !leg.has_sent_all() => {
                leg.peer_writes(&mut self.rng);
                self.note_reset(side);
            }
            0..60 if !leg.gone => leg.peer_reads(&mut self.rng),
            // A peer that half-closed, or was half-closed, may reset still.
            60 if !leg.gone && leg.ending == Ending::Reset => {
                leg.peer_resets(&mut self.rng);
                self.note_reset(side);
            }
            61..64 => return self.tick(side),
            64 if self.pair.from_mut(side).open_gate() => return self.wake(side),
            65..80 => {
                if let Some(source) = self.queue.pop_front()
                    && self.pair.from(source).state() == State::Queued
                {
                    return self.turn(source);
                }
            }
            80.. => {
                let events = std::mem::take(&mut leg.events);
                return self.handle_event(side, events);
            }
            _ => {}
        }
        None
    }

    fn note_reset(&mut self, side: Side) {
        if self.legs[side.index()].gone && self.first_reset.is_none() {
            self.first_reset = Some(side);
            self.excused = self.pair.from(side).source_ended()
                && self.pair.from(side.other()).state() == State::Ended;
        }
    }

    fn handle_event(&mut self, side: Side, events: Readiness) -> Option<CloseReason> {
        if events.is_error()
            && let Some(error) = self.legs[side.index()].error.take()
        {
            return Some(CloseReason::from_error(side, error));
        }
        let wakes = self.pair.handle_readiness(side, events);
        if wakes.incoming
            && let Some(end) = self.wake(side)
        {
            return Some(end);
        }
        if wakes.outgoing {
            return self.wake(side.other());
        }
        None
    }

    fn wake(&mut self, source: Side) -> Option<CloseReason> {
        let direction = self.pair.from_mut(source);
        if direction.is_bulk() {
            direction.enqueue();
            self.queue.push_back(source);
            None
        } else {
            self.turn(source)
        }
    }

    /// What the streaming rule may do to a direction, at random.
    fn tick(&mut self, source: Side) -> Option<CloseReason> {
        let leg = &mut self.legs[source.index()];
        let direction = self.pair.from_mut(source);
        if direction.may_raise_low_water() && self.rng.bool() {
            let mark = 1 << self.rng.u32(16..=20);
            direction.set_low_water(mark);
            leg.set_low_water(mark.into());
            return None;
        }
        if direction.low_water_raised() {
            direction.set_low_water(1);
            leg.set_low_water(1);
            if self.rng.bool() {
                direction.demote();
            }
            if direction.wakes_on_source() {
                return self.turn(source);
            }
        }
        None
    }

    fn turn(&mut self, source: Side) -> Option<CloseReason> {
        let (legs, pools, rng) = (&mut self.legs, &mut self.pools, &mut self.rng);
        let chain_pipes = rng.u8(1..=CHAIN_PIPES_MAX);
        self.pair.from_mut(source).set_chain_pipes(chain_pipes);
        let mut moves = 0;
        let turn = self.pair.run_turn(source, MOVES_MAX, |pair, action| {
            let outcome = perform(pair, legs, pools, rng, source, action);
            let is_move = matches!(
                action,
                Action::Copy { .. }
                    | Action::Fill { .. }
                    | Action::Extend { .. }
                    | Action::Drain { .. }
            );
            moves += u8::from(is_move && outcome != Outcome::NoPipe);
            outcome
        });
        assert!(moves <= MOVES_MAX, "{moves} moves in one turn");
        if turn.is_ok() && !self.pair.from(source).may_raise_low_water() {
            let mark = self.legs[source.index()].low_water;
            assert_eq!(mark, 1, "a mark is left on a stream that is none");
        }
        match turn {
            Ok(turn) => {
                if turn.state == State::Queued {
                    self.queue.push_back(source);
                }
                if turn.wakes_opposite {
                    return self.wake(source.other());
                }
                None
            }
            Err(end) => Some(end),
        }
    }

    /// Checks the end of the pair against what its peers did.
    fn finish(mut self, end: CloseReason) -> CloseReason {
        match end {
            CloseReason::Finished(_) => {
                assert!(
                    self.first_reset.is_none() || self.excused,
                    "a reset was taken for an end"
                );
                for side in Side::BOTH {
                    let leg = &self.legs[side.index()];
                    assert!(leg.fin, "an end that nobody sent");
                    assert_eq!(self.pair.from(side).relayed_bytes(), leg.total);
                }
                let shut = self.legs.iter().filter(|leg| leg.write_shut).count();
                assert_eq!(shut, 1, "one end was passed on; closing does the other");
                assert_eq!(Side::BOTH.map(|side| end.how(side)), [How::Clean; 2]);
            }
            CloseReason::Reset(_) => {
                assert!(self.first_reset.is_some(), "nobody reset");
                assert_eq!(Side::BOTH.map(|side| end.how(side)), [How::Reset; 2]);
            }
            other => panic!("{other:?} is nothing that happened"),
        }
        for side in Side::BOTH {
            let leg = &self.legs[side.index()];
            let direction = self.pair.from_mut(side);
            let destination = side.other().index();
            assert_eq!(direction.relayed_bytes(), self.legs[destination].accepted);
            let held = u64::from(direction.held_bytes());
            // What a copy had read when its destination failed is lost.
            assert!(leg.read >= self.legs[destination].accepted + held);
            match direction.take_hold() {
                Hold::Nothing => {}
                Hold::Spill(key) => drop(self.pools.spills.remove(&key.0)),
                Hold::Chain(key) => drop(self.pools.chains.remove(&key.0)),
            }
        }
        assert!(self.pools.spills.is_empty(), "a spill is left");
        assert!(self.pools.chains.is_empty(), "a chain is left");
        end
    }
}

impl Pools {
    fn spill(&mut self, range: Range<u64>) -> SpillKey {
        self.next += 1;
        self.spills.insert(self.next, range);
        SpillKey(self.next)
    }
}

/// Does an action as the engine would.
fn perform(
    pair: &Pair,
    legs: &mut [Leg; 2],
    pools: &mut Pools,
    rng: &mut fastrand::Rng,
    source_side: Side,
    action: Action,
) -> Outcome {
    let [left, right] = legs;
    let (source, destination) = match source_side {
        Side::Left => (left, right),
        Side::Right => (right, left),
    };
    match action {
        Action::Copy { slow } => copy(pair, source, destination, pools, source_side, slow),
        Action::Say { .. } => panic!("there is no codec that has words"),
        Action::SendSpill { spill } => {
            let range = pools.spills.get_mut(&spill.0).expect("a live spill");
            match destination.send(range.clone()) {
                Ok(taken) => {
                    range.start += taken;
                    if range.is_empty() {
                        pools.spills.remove(&spill.0);
                    }
                    Outcome::Sent(count(taken))
                }
                Err(Errno::AGAIN) => Outcome::DestinationFull,
                Err(error) => Outcome::DestinationFailed(error),
            }
        }
        Action::Fill { chain } => {
            assert_nothing_held(pair.from(source_side));
            let key = match chain {
                Some(key) => key.0,
                None if rng.u32(0..10) < pools.shortage => return Outcome::NoPipe,
                None => {
                    pools.next += 1;
                    pools.chains.entry(pools.next).or_default().push_back(0..0);
                    pools.next
                }
            };
            let outcome = splice_in(pair, source, pools, rng, source_side, key);
            if chain.is_none() && !matches!(outcome, Outcome::Filled { .. }) {
                pools.chains.remove(&key);
            }
            outcome
        }
        Action::Extend {
            chain: ChainKey(key),
        } => {
            if rng.u32(0..10) < pools.shortage {
                return Outcome::NoPipe;
            }
            let pipes = pools.chains.get_mut(&key).expect("a live chain");
            assert!(pipes.iter().all(|range| !range.is_empty()));
            assert!(pipes.len() < usize::from(CHAIN_PIPES_MAX), "a long chain");
            pipes.push_back(0..0);
            let outcome = splice_in(pair, source, pools, rng, source_side, key);
            if !matches!(outcome, Outcome::Filled { .. }) {
                let pipes = pools.chains.get_mut(&key).expect("a live chain");
                pipes.pop_back();
            }
            outcome
        }
        Action::Drain { chain, bytes } => {
            let pipes = pools.chains.get_mut(&chain.0).expect("a live chain");
            let held: u64 = pipes.iter().map(|range| range.end - range.start).sum();
            assert_eq!(held, u64::from(bytes));
            let is_last = pipes.len() == 1;
            let range = pipes.front_mut().expect("a pipe");
            // A splice may stop short, and may lose the error that stopped it.
            let first = range.end - range.start;
            let outcome = if destination.error.is_some() && first > 1 && rng.bool() {
                destination.error = None;
                destination.accepted += 1;
                range.start += 1;
                Outcome::Sent(1)
            } else {
                let asked = rng.u64(1..=first);
                match destination.send(range.start..range.start + asked) {
                    Ok(taken) => {
                        range.start += taken;
                        Outcome::Sent(count(taken))
                    }
                    Err(Errno::AGAIN) => Outcome::DestinationFull,
                    Err(error) => Outcome::DestinationFailed(error),
                }
            };
            if range.is_empty() && !is_last {
                pipes.pop_front();
            }
            outcome
        }
        Action::ReleaseChain { chain } => {
            let pipes = pools.chains.remove(&chain.0).expect("a live chain");
            let is_empty = pipes.iter().all(Range::is_empty);
            assert!(is_empty, "bytes in a chain that is given back");
            Outcome::Done
        }
        Action::ResetLowWater => {
            source.set_low_water(1);
            Outcome::Done
        }
        Action::ShutdownWrite => {
            if destination.gone {
                return Outcome::DestinationFailed(Errno::NOTCONN);
            }
            assert!(!destination.write_shut, "the end was passed on twice");
            assert!(source.fin, "an end that nobody sent");
            assert_eq!(destination.accepted, source.total, "the end came early");
            destination.write_shut = true;
            Outcome::Done
        }
    }
}

/// Splices into the last pipe of a chain, which is empty.
fn splice_in(
    pair: &Pair,
    source: &mut Leg,
    pools: &mut Pools,
    rng: &mut fastrand::Rng,
    source_side: Side,
    key: u32,
) -> Outcome {
    match source.recv(rng.u64(1..=PIPE_BYTES.into())) {
        Ok(range) if range.is_empty() => judge_end(pair, source, source_side),
        Ok(range) => {
            let bytes = count(range.end - range.start);
            let pipes = pools.chains.get_mut(&key).expect("a live chain");
            *pipes.back_mut().expect("a pipe") = range;
            Outcome::Filled {
                chain: ChainKey(key),
                bytes,
                caught_up: bytes < PIPE_BYTES / CAUGHT_UP_SHARE,
                heard: Heard::Open,
            }
        }
        Err(Errno::AGAIN) => Outcome::SourceEmpty,
        Err(error) => Outcome::SourceFailed(error),
    }
}

fn copy(
    pair: &Pair,
    source: &mut Leg,
    destination: &mut Leg,
    pools: &mut Pools,
    source_side: Side,
    slow: bool,
) -> Outcome {
    assert_nothing_held(pair.from(source_side));
    let asked = if slow { 4096 } else { SCRATCH_BYTES.into() };
    let before = source.read;
    let range = match source.recv(asked) {
        Ok(range) if range.is_empty() => return judge_end(pair, source, source_side),
        Ok(range) => range,
        Err(Errno::AGAIN) => return Outcome::SourceEmpty,
        Err(error) => return Outcome::SourceFailed(error),
    };
    let seen = range.end - range.start;
    let sent = match destination.send(range.clone()) {
        Ok(taken) => taken,
        Err(Errno::AGAIN) => 0,
        Err(error) => return Outcome::DestinationFailed(error),
    };
    if pools.no_spill {
        // Only peeked: what was not sent stays.
        source.read = before + sent;
        return Outcome::Copied {
            received: count(sent),
            sent: count(sent),
            source_drained: sent == seen && seen < asked,
            destination_full: sent < seen,
            spill: None,
        };
    }
    Outcome::Copied {
        received: count(seen),
        sent: count(sent),
        source_drained: seen < asked,
        destination_full: sent < seen,
        spill: (sent < seen).then(|| pools.spill(range.start + sent..range.end)),
    }
}

fn judge_end(pair: &Pair, source: &mut Leg, side: Side) -> Outcome {
    let evidence = EndEvidence {
        error: source.error.take(),
        gone: source.gone || (source.fin && source.write_shut),
    };
    pair.judge_end(side, || evidence)
}

fn assert_nothing_held(direction: &Direction) {
    assert_eq!(direction.held_bytes(), 0, "a read before the write");
}

fn count(bytes: u64) -> u32 {
    u32::try_from(bytes).expect("pieces are small")
}
