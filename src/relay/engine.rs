//! One shard's data plane.
//!
//! The shard drives it, once per turn of its loop:
//!
//! 1. [`Engine::min_wait`] says how to wait, [`Engine::next_deadline`] until
//!    when, [`Engine::has_work`] whether not to wait at all;
//! 2. every completed poll goes to [`Engine::handle_readiness`]: small
//!    directions move their bytes there and then, bulk ones are queued;
//! 3. [`Engine::handle_deadline`] when its time has come;
//! 4. [`Engine::run_quantum`], at least once while there is work, then again
//!    as long as no completion waits;
//! 5. [`Engine::poll_leaving`], then [`Engine::poll_ended`], until they have
//!    nothing to tell.
//!
//! The engine does not know the ring and closes no socket: those of an ended
//! pair are handed back, as a poll may be armed on them. It polls nothing
//! itself either: arm the polls after [`Engine::start`] (arming reports what
//! is ready), or pass on what was reported before.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::time::Duration;

use crate::config::DataPlane;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::time::Timestamp;

use super::close::{CloseReason, How};
use super::codec::Workshop;
use super::deadline::{GateCheck, Watched};
use super::direction::{Action, Hold, Mode, Outcome, SCRATCH_BYTES, State};
use super::gate::{CHECK_INTERVAL, Gate, SETTLED_BY_KERNEL};
use super::keepalive::{PingSettings, Sweep};
use super::leaving::may_leave;
use super::leg_io::{GateHold, LegIo};
use super::means::{Ends, Means};
use super::pair::{Pair, Side};
use super::pipe_pool::{PipePool, PipePoolLimits};
use super::spill::SpillPool;
use super::streaming::TICK;
use super::transform::{Route, Transforms};
use crate::slab::{Key, Slab};

/// Copies in one turn of a direction that copies.
const SMALL_MOVES_PER_TURN: u8 = 4;
/// Splices in one turn of a direction that splices: two in, two out.
const BULK_MOVES_PER_TURN: u8 = 4;
/// The same while small messages come and go, which wait for no more than that.
const BUSY_MOVES_PER_TURN: u8 = 2;
/// The most that one splice moves while small messages come and go: they wait
/// for two splices, and for no longer than these take. Half of it would halve
/// that, and cost bulk twice the CPU.
pub(super) const BUSY_SPLICE_BYTES: u32 = 256 << 10;
/// How long a shard of streams and no small messages waits for more than the
/// first completion. A message that comes now and then is late by as much.
pub(super) const BULK_MIN_WAIT: Duration = Duration::from_micros(200);
/// The same after [`QUIET_TICKS_TO_WAIT_LONG`], when only a message after such a
/// lull is delayed for longer.
pub(super) const BULK_LONG_MIN_WAIT: Duration = Duration::from_micros(500);
/// Ticks without a small message: a quarter of a second.
pub(super) const QUIET_TICKS_TO_WAIT_LONG: u8 = 64;

/// The bounds of one [`Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Preferred capacity of a pipe; 256 KiB is tried where this is refused.
    pub pipe_bytes: u32,
    /// Most pipes open at a time. Beyond, bulk directions copy.
    pub pipe_count_max: u32,
    /// Most capacity of all pipes together: this shard's share of
    /// `fs.pipe-user-pages-soft` where that binds
    /// ([`crate::runtime::pipe::PipeLimits`]).
    pub pipe_total_bytes_max: u64,
    /// Empty pipes kept open.
    pub pipe_idle_max: usize,
    /// Most memory for bytes that were read and could not be sent.
    pub spill_bytes_max: u64,
    /// How legs are kept alive that can be asked.
    pub ping: PingSettings,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            pipe_bytes: 1 << 20,
            pipe_count_max: 768,
            pipe_total_bytes_max: 768 << 20,
            pipe_idle_max: 256,
            spill_bytes_max: 64 << 20,
            ping: PingSettings::default(),
        }
    }
}

/// A pair that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its key, which names nothing any more.
    pub pair: Key,
    /// Both sockets, left and right, to be closed once no poll is armed.
    pub sockets: [Socket; 2],
    /// How to close each of them.
    pub how: [How; 2],
    /// Why it ended.
    pub reason: CloseReason,
    /// Bytes delivered: those that came from the left, from the right.
    pub bytes: [u64; 2],
}

/// What an engine holds at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Pairs that live, or whose end was not told yet.
    pub pairs: usize,
    /// Pipes that a direction holds.
    pub pipes_in_use: usize,
    /// Empty pipes kept open.
    pub pipes_idle: usize,
    /// Memory for bytes that wait for a destination.
    pub spill_bytes: u64,
    /// Directions that splice.
    pub bulk_directions: usize,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.pairs += other.pairs;
        self.pipes_in_use += other.pipes_in_use;
        self.pipes_idle += other.pipes_idle;
        self.spill_bytes += other.spill_bytes;
        self.bulk_directions += other.bulk_directions;
    }
}

/// What an engine did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Calls of `recv`.
    pub receives: u64,
    /// Calls of `send`.
    pub sends: u64,
    /// Calls of `recv` that left the bytes, for want of spill budget.
    pub peeks: u64,
    /// Splices from a socket into a pipe.
    pub fills: u64,
    /// Splices from a pipe into a socket.
    pub drains: u64,
    /// Bytes that went that way, from a pipe into a socket.
    pub spliced_bytes: u64,
    /// Splices that were copies because no pipe was to be had.
    pub pipe_shortages: u64,
    /// Directions that began to splice.
    pub promotions: u64,
    /// Ticks of the streaming rule.
    pub ticks: u64,
    /// Bytes that pairs delivered which have ended.
    pub ended_bytes: u64,
    /// Probes of directions that stood still for a tick.
    pub probes: u64,
    /// Low-water marks set.
    pub low_water_sets: u64,
    /// Times that a gate was looked at.
    pub gate_checks: u64,
}

/// The pairs of one shard and all that moves their bytes.
#[derive(Debug)]
pub struct Engine {
    pub(super) pairs: Slab<Session>,
    pub(super) means: Means,
    /// Directions whose turn is to come, by the side of their source.
    queue: VecDeque<(Key, Side)>,
    pub(super) watched: Vec<Watched>,
    pub(super) next_tick: Option<Timestamp>,
    pub(super) last_tick: Timestamp,
    /// A bulk direction moved in the last tick.
    pub(super) is_flowing: bool,
    pub(super) gate_checks: VecDeque<GateCheck>,
    ended: VecDeque<Ended>,
    /// Pairs that moved their first byte.
    begun: Vec<Key>,
    pub(super) ping: PingSettings,
    pub(super) sweep: Sweep,
    /// Pairs for the ring plane, until it takes them over.
    pub(super) leaving: VecDeque<Key>,
    /// A small message came since the last tick.
    pub(super) had_small: bool,
    /// Ticks since the last one with a small message, as far as it counts.
    pub(super) quiet_ticks: u8,
}

/// A pair and its sockets: all that an idle pair owns.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) pair: Pair,
    pub(super) sockets: [Socket; 2],
    /// The ring plane is to take the pair over.
    pub(super) is_leaving: bool,
    has_begun: bool,
    /// For a pair of which a leg has a codec.
    pub(super) transforms: Option<Box<Transforms>>,
}

const _: () = assert!(size_of::<crate::slab::Slot<Session>>() <= 104);

impl Engine {
    /// An engine without pairs.
    #[must_use]
    pub fn new(settings: EngineSettings) -> Self {
        Self {
            pairs: Slab::new(),
            means: Means {
                scratch: vec![0; SCRATCH_BYTES as usize].into(),
                spills: SpillPool::new(settings.spill_bytes_max),
                pipes: PipePool::new(PipePoolLimits {
                    pipe_bytes: settings.pipe_bytes,
                    count_max: settings.pipe_count_max,
                    total_bytes_max: settings.pipe_total_bytes_max,
                    idle_max: settings.pipe_idle_max,
                }),
                splice_bytes_max: u32::MAX,
                workshop: Workshop::new(SCRATCH_BYTES as usize),
                counters: EngineCounters::default(),
            },
            queue: VecDeque::new(),
            watched: Vec::new(),
            next_tick: None,
            last_tick: Timestamp::default(),
            is_flowing: false,
            gate_checks: VecDeque::new(),
            ended: VecDeque::new(),
            begun: Vec::new(),
            ping: settings.ping,
            sweep: Sweep::default(),
            leaving: VecDeque::new(),
            had_small: false,
            quiet_ticks: 1,
        }
    }

    /// Joins two legs. Prefixes are sent at once, unless a gate holds them;
    /// the pair may have ended when this returns, which
    /// [`Engine::poll_ended`] then tells.
    pub fn start(&mut self, left: LegIo, right: LegIo, plane: DataPlane, now: Timestamp) -> Key {
        let has_codec = [&left, &right].iter().any(|leg| leg.is_transformed());
        let codecs = [&left.codec, &right.codec];
        let can_be_asked = codecs
            .into_iter()
            .flatten()
            .any(|codec| codec.can_be_asked());
        let mode = match plane {
            _ if has_codec => Mode::Transform { has_words: false },
            DataPlane::Auto => Mode::Small,
            DataPlane::Splice => Mode::SpliceAlways,
            DataPlane::Copy | DataPlane::Ring => Mode::CopyAlways,
        };
        let mut pair = Pair::new(mode);
        let mut gates = [None, None];
        let mut kept = [None, None];
        for (side, leg) in [(Side::Left, &left), (Side::Right, &right)] {
            if !leg.prefix.is_empty() {
                let bytes = u32::try_from(leg.prefix.len())
                    .expect("a handshake bounds its prefix to far less than 4 GiB");
                let spill = self.means.spills.insert(leg.prefix.as_slice().into());
                if has_codec {
                    kept[side.index()] = Some(spill);
                } else {
                    pair.from_mut(side).set_prefix(spill, bytes);
                }
            }
            if let GateHold::Replied(at) = leg.gate
                && !is_settled(&leg.socket)
            {
                pair.from_mut(side.other()).close_gate();
                gates[side.index()] = Some(Gate::new(at));
            }
        }
        let may_splice = matches!(plane, DataPlane::Auto | DataPlane::Splice);
        let (codecs, halves) = ([left.codec, right.codec], [left.half, right.half]);
        let transforms =
            has_codec.then(|| Box::new(Transforms::new(codecs, halves, kept, may_splice)));
        let is_leaving = plane == DataPlane::Ring && !has_codec;
        let key = self.pairs.insert(Session {
            pair,
            sockets: [left.socket, right.socket],
            is_leaving,
            has_begun: false,
            transforms,
        });
        if is_leaving {
            self.leaving.push_back(key);
        }
        if can_be_asked {
            self.begin_sweep(now);
        }
        for (side, gate) in Side::BOTH.into_iter().zip(gates) {
            if let Some(gate) = gate {
                self.check_gate(key, side, gate, now);
            }
        }
        for side in Side::BOTH {
            let has_prefix = self.pairs.get(key).is_some_and(|session| {
                let direction = session.pair.from(side);
                let transforms = session.transforms.as_ref();
                let is_begun = transforms.is_some_and(|transforms| transforms.is_begun(side));
                (direction.held_bytes() > 0 || is_begun) && direction.wakes_on_source()
            });
            if has_prefix {
                self.run(key, side, SMALL_MOVES_PER_TURN);
            }
            self.say_words(key, side);
        }
        key
    }

    /// Takes what a poll reported for one leg's socket.
    pub fn handle_readiness(&mut self, key: Key, side: Side, readiness: Readiness) {
        let Some(session) = self.pairs.get_mut(key) else {
            return;
        };
        let transforms = session.transforms.as_ref();
        if readiness.is_error()
            && !transforms.is_some_and(|transforms| transforms.may_go(side))
            && let Some(error) = session.sockets[side.index()].take_error()
        {
            self.end(key, CloseReason::from_error(side, error));
            return;
        }
        let wakes = session.pair.handle_readiness(side, readiness);
        if wakes.incoming {
            self.wake(key, side);
        }
        if wakes.outgoing {
            self.wake(key, side.other());
        }
    }

    /// Whether [`Engine::run_quantum`] has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Gives the next direction in the queue its turn: at most four splices
    /// or copies.
    ///
    /// A direction that is promoted is queued, so this is where the tick of
    /// the streaming rule begins.
    pub fn run_quantum(&mut self, now: Timestamp) {
        self.arm_tick(now);
        let is_busy = self.is_busy();
        let Some((key, source)) = self.queue.pop_front() else {
            return;
        };
        let Some(session) = self.pairs.get(key) else {
            return;
        };
        let direction = session.pair.from(source);
        if direction.state() == State::Queued {
            let moves_max = match direction.has_long_moves() {
                true if is_busy => BUSY_MOVES_PER_TURN,
                true => BULK_MOVES_PER_TURN,
                false => SMALL_MOVES_PER_TURN,
            };
            self.run(key, source, moves_max);
        }
    }

    /// Ends a pair for a reason of the relay's own; false when it has ended
    /// before.
    pub fn abort(&mut self, key: Key, reason: CloseReason) -> bool {
        self.end(key, reason)
    }

    /// The next pair that ended, with its sockets.
    ///
    /// Only now is the key's index used again, so that whoever keeps something
    /// by index finds it still there.
    pub fn poll_ended(&mut self) -> Option<Ended> {
        let ended = self.ended.pop_front()?;
        self.pairs.release(ended.pair.index);
        Some(ended)
    }

    /// The next pair that has moved its first byte.
    pub fn poll_begun(&mut self) -> Option<Key> {
        self.begun.pop()
    }

    /// Whether [`Engine::poll_ended`] has something to tell.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// When [`Engine::handle_deadline`] wants to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let next_check = self.gate_checks.front().map(|check| check.due);
        [self.next_tick, next_check, self.sweep.due]
            .into_iter()
            .flatten()
            .min()
    }

    /// The time to let pass in this turn of the loop even when a completion
    /// waits, to find several at once.
    #[must_use]
    pub fn min_wait(&self) -> Option<Duration> {
        let only_streams = self.is_flowing && !self.is_busy() && !self.has_work();
        only_streams.then_some(match self.quiet_ticks {
            QUIET_TICKS_TO_WAIT_LONG.. => BULK_LONG_MIN_WAIT,
            _ => BULK_MIN_WAIT,
        })
    }

    /// Whether small messages come and go: one in the last four to eight
    /// milliseconds.
    const fn is_busy(&self) -> bool {
        self.had_small || self.quiet_ticks == 0
    }

    /// A leg's socket, to arm a poll on it.
    #[must_use]
    pub fn socket(&self, key: Key, side: Side) -> Option<&Socket> {
        let session = self.pairs.get(key)?;
        Some(&session.sockets[side.index()])
    }

    /// Bytes that a live pair has delivered: from the left, from the right.
    #[must_use]
    pub fn bytes(&self, key: Key) -> Option<[u64; 2]> {
        self.pairs.get(key).map(|session| session.pair.bytes())
    }

    /// The key of the live pair at an index, for events that carry only that.
    #[must_use]
    pub fn key_at(&self, index: u32) -> Option<Key> {
        self.pairs.key_at(index)
    }

    /// The keys of all live pairs.
    pub fn pairs(&self) -> impl Iterator<Item = Key> {
        self.pairs.keys()
    }

    /// What is held now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            // One that has ended counts until that is told, with what it carried.
            pairs: self.pairs.len() + self.ended.len(),
            pipes_in_use: self.means.pipes.in_use(),
            pipes_idle: self.means.pipes.idle(),
            spill_bytes: self.means.spills.held_bytes(),
            bulk_directions: self.watched.len(),
        }
    }

    /// What was done so far.
    #[must_use]
    pub const fn counters(&self) -> &EngineCounters {
        &self.means.counters
    }

    /// Gives a direction that waited its turn: now when it is small, through
    /// the queue when it is bulk.
    pub(super) fn wake(&mut self, key: Key, source: Side) {
        let Some(session) = self.pairs.get_mut(key) else {
            return;
        };
        let direction = session.pair.from_mut(source);
        if direction.has_long_moves() {
            direction.enqueue();
            self.queue.push_back((key, source));
        } else {
            self.had_small = true;
            self.run(key, source, SMALL_MOVES_PER_TURN);
        }
    }

    /// One turn of a direction, and what follows from it.
    pub(super) fn run(&mut self, key: Key, source: Side, moves_max: u8) {
        let is_busy = self.is_busy();
        let Some(session) = self.pairs.get_mut(key) else {
            return;
        };
        let Session {
            pair,
            sockets,
            is_leaving,
            has_begun,
            transforms,
        } = session;
        let ends = Ends {
            source: &sockets[source.index()],
            destination: &sockets[source.other().index()],
        };
        let means = &mut self.means;
        means.splice_bytes_max = if is_busy { BUSY_SPLICE_BYTES } else { u32::MAX };
        let turn = match pair.run_turn(source, moves_max, |pair, action| {
            let is_read = matches!(action, Action::Copy { .. });
            if *is_leaving && is_read && may_leave(pair) {
                // What the source holds is for the ring to read.
                return Outcome::SourceEmpty;
            }
            match transforms {
                None => means.perform(ends, action, |ends| {
                    pair.judge_end(source, || ends.evidence())
                }),
                Some(transforms) => means.transform(
                    Route {
                        pair,
                        transforms,
                        ends,
                        source,
                    },
                    action,
                ),
            }
        }) {
            Ok(turn) => turn,
            Err(reason) => {
                self.end(key, reason);
                return;
            }
        };
        if !*has_begun && pair.from(source).relayed_bytes() > 0 {
            *has_begun = true;
            self.begun.push(key);
        }
        let direction = pair.from_mut(source);
        if turn.bulk && !direction.watched {
            direction.watched = true;
            self.means.counters.promotions += 1;
            let watched = Watched::new(key, source, pair);
            self.watched.push(watched);
            self.is_flowing = true;
        }
        if turn.state == State::Queued {
            self.queue.push_back((key, source));
        }
        let has_codecs = transforms.is_some();
        if has_codecs {
            self.say_words(key, source);
        }
        let opposite = source.other();
        let waits = |session: &Session| session.pair.from(opposite).wakes_on_source();
        if turn.wakes_opposite && self.pairs.get(key).is_some_and(waits) {
            self.wake(key, opposite);
        }
    }

    /// Has what the codec of the leg at `side` wants to say go out.
    pub(super) fn say_words(&mut self, key: Key, side: Side) {
        let Some(Session {
            pair,
            transforms: Some(transforms),
            ..
        }) = self.pairs.get_mut(key)
        else {
            return;
        };
        let direction = pair.from_mut(side.other());
        if transforms.has_words(side) {
            direction.add_words();
        }
        if direction.wakes_for_words() {
            direction.enqueue();
            self.queue.push_back((key, side.other()));
        }
    }

    /// Ends a pair and hands its sockets out.
    pub(super) fn end(&mut self, key: Key, reason: CloseReason) -> bool {
        let Some(mut session) = self.pairs.take(key) else {
            return false;
        };
        let mut how = Side::BOTH.map(|side| reason.how(side));
        if let Some(transforms) = &mut session.transforms {
            if transforms.can_be_asked() {
                self.sweep.pairs -= 1;
            }
            self.means
                .part(&session.pair, transforms, &session.sockets, reason);
            transforms.discard(&mut self.means.spills);
            for side in Side::BOTH {
                if session.pair.from(side).source_is_given_up() && how[side.index()] == How::Clean {
                    how[side.index()] = How::Parting;
                }
            }
        }
        for side in Side::BOTH {
            let direction = session.pair.from_mut(side);
            match direction.take_hold() {
                Hold::Nothing => {}
                Hold::Spill(spill) => self.means.spills.discard(spill),
                Hold::Chain(chain) => self.means.pipes.release(chain),
            }
        }
        // Of a pair that finished, one end was passed on, and closing does the rest.
        if reason == CloseReason::Terminated {
            for side in Side::BOTH {
                if session.pair.from(side.other()).state() != State::Ended {
                    // A leg that is gone needs no FIN.
                    let _ = session.sockets[side.index()].shutdown_write();
                }
            }
        }
        let bytes = session.pair.bytes();
        self.means.counters.ended_bytes += bytes[0] + bytes[1];
        self.ended.push_back(Ended {
            pair: key,
            bytes,
            sockets: session.sockets,
            how,
            reason,
        });
        true
    }

    /// Looks at a leg's gate: opens it, ends the pair, or comes back later.
    pub(super) fn check_gate(&mut self, key: Key, side: Side, mut gate: Gate, now: Timestamp) {
        use super::gate::Verdict;
        let Some(session) = self.pairs.get(key) else {
            return;
        };
        if !session.pair.from(side.other()).is_gated() {
            return;
        }
        self.means.counters.gate_checks += 1;
        let acknowledged = session.sockets[side.index()].unsent_bytes() == Ok(0);
        match gate.handle_check(acknowledged, now) {
            Verdict::Hold => self.gate_checks.push_back(GateCheck {
                due: now + CHECK_INTERVAL,
                pair: key,
                side,
                gate,
            }),
            Verdict::Open => self.open_gate(key, side),
            Verdict::Expired => {
                self.end(key, CloseReason::ReplyUnacknowledged(side));
            }
        }
    }

    fn open_gate(&mut self, key: Key, side: Side) {
        let source = side.other();
        if let Some(session) = self.pairs.get_mut(key)
            && session.pair.from_mut(source).open_gate()
        {
            self.wake(key, source);
        }
    }

    /// Begins to tick, if nothing ticks yet.
    fn arm_tick(&mut self, now: Timestamp) {
        if !self.watched.is_empty() && self.next_tick.is_none() {
            self.last_tick = now;
            self.next_tick = Some(now + TICK);
        }
    }
}

/// Whether a leg's reply was certainly acknowledged long enough ago.
fn is_settled(socket: &Socket) -> bool {
    socket.unsent_bytes() == Ok(0)
        && socket
            .time_since_ack()
            .is_ok_and(|age| age >= SETTLED_BY_KERNEL)
}
