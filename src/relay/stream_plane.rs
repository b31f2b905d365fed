//! Pairs of which one end, or both, is a stream of QUIC.
//!
//! What comes on such a stream is in memory already, and there is nothing to splice: bytes
//! are read only when there is a place for them at the other end, and what that does not take
//! is held, at most one step in each direction. Whoever is not read waits: a stream by
//! flow control, a socket by its window.
//!
//! ```text
//!   source ── read ──▶ pending ── write ──▶ sink
//!               ▲         │ rest: until the sink has room
//!               └─────────┘ all out: at most STEPS_MAX times, then the others' turn
//! ```
//!
//! The end of one is passed on behind its last byte, and each direction ends for itself. Of a
//! connection that is closed what came before is passed on, if nothing of it is missing: until
//! then it is held. What is broken off is broken off both ways, with the code that came: a stream
//! by `RESET_STREAM` and `STOP_SENDING`, a socket by a reset.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use super::bridge::{BridgeEndId, BridgeMessage, Bridges};
use super::close::{CloseReason, How};
use super::pair::Side;
use super::stream_way::{Break, STEP_BYTES, Step, Way};
use crate::protocol::ptth_quic::StreamCode;
use crate::quic::connection::{ConnectionKey, StreamKey};
use crate::quic::driver::Driver;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::slab::{Key, Slab};

/// Steps of a direction before the others have their turn.
const STEPS_MAX: usize = 4;

/// One end of a pair.
#[derive(Debug)]
pub enum End {
    Stream(StreamKey),
    Socket(Socket),
    /// The pair goes on at the bridge's other end.
    Bridge(BridgeEndId),
}

/// A pair that has ended.
#[derive(Debug)]
pub struct StreamsEnded {
    pub pair: Key,
    pub reason: CloseReason,
    /// Bytes that came from the left, from the right, and were delivered.
    pub bytes: [u64; 2],
    /// Those ends that are sockets, and how each is to be closed.
    pub sockets: [Option<(Socket, How)>; 2],
}

/// One shard's pairs.
#[derive(Debug)]
pub struct StreamPlane {
    pairs: Slab<Pair>,
    /// In order, as a connection that is lost takes all of its streams along.
    by_stream: BTreeMap<StreamKey, (Key, Side)>,
    bridges: Bridges,
    by_bridge: HashMap<BridgeEndId, (Key, Side), ahash::RandomState>,
    /// Directions that may have something to do, by their source.
    ready: VecDeque<(Key, Side)>,
    /// Those that have moved their first byte since this was asked last.
    begun: Vec<Key>,
    ended: VecDeque<StreamsEnded>,
    /// Empty between two steps.
    scratch: Vec<u8>,
    chunks: Vec<Bytes>,
    stalled: Stalled,
    /// By pairs that have ended.
    bytes_relayed: u64,
    /// A way has ended, and the other one of its pair has not.
    has_half_closed: bool,
}

#[derive(Debug)]
struct Pair {
    ends: [End; 2],
    /// By their source.
    ways: [Way; 2],
    /// A byte has gone through, either way.
    has_begun: bool,
    first_ended: Option<Side>,
    /// One of its ends is a socket whose other side is this shard's too.
    has_seam: bool,
}

/// How many streams of each connection are not read.
#[derive(Debug, Default)]
struct Stalled {
    streams: HashMap<ConnectionKey, usize, ahash::RandomState>,
    changed: Vec<ConnectionKey>,
}

impl Stalled {
    fn note(&mut self, connection: ConnectionKey, is_stalled: bool) {
        let streams = self.streams.entry(connection).or_default();
        match is_stalled {
            true => *streams += 1,
            false => *streams -= 1,
        }
        self.changed.push(connection);
    }

    /// Those of which others are, with how many.
    fn take_changed(&mut self) -> Vec<(ConnectionKey, usize)> {
        let changed = std::mem::take(&mut self.changed);
        let count = |connection| {
            let streams = *self.streams.get(&connection)?;
            if streams == 0 {
                self.streams.remove(&connection);
            }
            Some((connection, streams))
        };
        changed.into_iter().filter_map(count).collect()
    }
}

/// What a step works with.
struct Means<'a> {
    driver: &'a mut Driver,
    bridges: &'a mut Bridges,
    scratch: &'a mut Vec<u8>,
    chunks: &'a mut Vec<Bytes>,
}

impl Default for StreamPlane {
    fn default() -> Self {
        Self {
            pairs: Slab::new(),
            by_stream: BTreeMap::new(),
            bridges: Bridges::default(),
            by_bridge: HashMap::default(),
            ready: VecDeque::new(),
            begun: Vec::new(),
            ended: VecDeque::new(),
            scratch: Vec::with_capacity(STEP_BYTES),
            chunks: Vec::new(),
            stalled: Stalled::default(),
            bytes_relayed: 0,
            has_half_closed: false,
        }
    }
}

impl StreamPlane {
    /// Joins two ends.
    pub fn start(&mut self, ends: [End; 2]) -> Key {
        let pair = Pair {
            ends,
            ways: Default::default(),
            has_begun: false,
            first_ended: None,
            has_seam: false,
        };
        let key = self.pairs.insert(pair);
        for side in Side::BOTH {
            let place = (key, side);
            match self.pairs.get(key).map(|pair| &pair.ends[side.index()]) {
                Some(End::Stream(stream)) => drop(self.by_stream.insert(*stream, place)),
                Some(End::Bridge(bridge)) => drop(self.by_bridge.insert(*bridge, place)),
                Some(End::Socket(_)) | None => {}
            }
            self.enqueue(key, side);
        }
        key
    }

    /// Whether a stream is an end of a pair.
    #[must_use]
    pub fn has(&self, stream: StreamKey) -> bool {
        self.by_stream.contains_key(&stream)
    }

    /// Whether any of a connection's is.
    #[must_use]
    pub fn has_any_of(&self, connection: ConnectionKey) -> bool {
        let of_it = StreamKey::all_of(connection);
        self.by_stream.range(of_it).next().is_some()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pairs.len() == 0
    }

    /// Whether there is something to do before the next sleep.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.ended.is_empty() || self.bridges.has_messages()
    }

    /// Whether bridges have something to say.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.bridges.has_messages()
    }

    /// Bytes that all pairs have delivered; those that cross a bridge on its other side.
    #[must_use]
    pub fn bytes_relayed(&self) -> u64 {
        let pairs = self.pairs.keys().filter_map(|key| self.pairs.get(key));
        self.bytes_relayed + pairs.map(Pair::bytes_relayed).sum::<u64>()
    }

    /// Bytes that came from the left, from the right, so far.
    #[must_use]
    pub fn bytes(&self, pair: Key) -> Option<[u64; 2]> {
        let [left, right] = &self.pairs.get(pair)?.ways;
        Some([left.bytes, right.bytes])
    }

    /// What each pair has delivered so far, both ways together, and whether one way has ended.
    pub fn carried(&self) -> impl Iterator<Item = (Key, u64, bool)> {
        self.pairs.keys().filter_map(|key| {
            let pair = self.pairs.get(key)?;
            let bytes = pair.ways.iter().map(|way| way.bytes).sum();
            Some((key, bytes, pair.first_ended.is_some()))
        })
    }

    /// Whether one way of a pair has ended since this was asked last.
    pub const fn take_half_closed(&mut self) -> bool {
        std::mem::replace(&mut self.has_half_closed, false)
    }

    /// A stream may be read, or has room.
    pub fn handle_stream(&mut self, driver: &mut Driver, stream: StreamKey) {
        let Some((key, side)) = self.by_stream.get(&stream).copied() else {
            return;
        };
        // Also where nothing is read now, as its other end has no room.
        if let Some(code) = driver.received_reset(stream) {
            return self.break_off(
                driver,
                key,
                CloseReason::Reset(side),
                StreamCode::from_wire(code),
            );
        }
        self.enqueue(key, side);
        self.enqueue(key, side.other());
    }

    /// A stream's peer reads no more.
    pub fn handle_stopped(&mut self, driver: &mut Driver, stream: StreamKey, code: StreamCode) {
        if let Some((key, side)) = self.by_stream.get(&stream).copied() {
            self.break_off(driver, key, CloseReason::Reset(side), code);
        }
    }

    /// A connection is gone, and its streams with it; the other ends are told `code`, unless
    /// all that is still due to them has come.
    pub fn handle_lost(
        &mut self,
        driver: &mut Driver,
        connection: ConnectionKey,
        code: StreamCode,
    ) {
        let of_it = self.by_stream.range(StreamKey::all_of(connection));
        let lost: Vec<_> = of_it.map(|(stream, place)| (*stream, *place)).collect();
        for (stream, (key, side)) in lost {
            let pair = self.pairs.get_mut(key);
            if pair.is_some_and(|pair| pair.keep_rest(driver, stream, side, &mut self.chunks)) {
                self.by_stream.remove(&stream);
                self.enqueue(key, side);
            } else {
                self.break_off(driver, key, CloseReason::Reset(side), code);
            }
        }
    }

    /// The socket at a side of the pair in a slot triggered.
    pub fn handle_readiness(
        &mut self,
        driver: &mut Driver,
        index: u32,
        side: Side,
        readiness: Readiness,
    ) {
        let Some(key) = self.pairs.key_at(index) else {
            return;
        };
        if readiness.is_error() {
            let Some(pair) = self.pairs.get(key) else {
                return;
            };
            if let End::Socket(socket) = &pair.ends[side.index()]
                && let Some(error) = socket.take_error()
            {
                let reason = CloseReason::from_error(side, error);
                return self.break_off(driver, key, reason, StreamCode::RESET);
            }
        }
        if readiness.is_readable() {
            self.enqueue(key, side);
        }
        if readiness.is_writable() {
            self.enqueue(key, side.other());
        }
    }

    /// From now on there is an end of a bridge here, whose other one is on `shard`.
    pub fn open_bridge(&mut self, id: BridgeEndId, shard: u16) {
        self.bridges.open(id, shard);
    }

    /// Breaks off a bridge that is no end of a pair.
    pub fn abort_bridge(&mut self, id: BridgeEndId, code: StreamCode) {
        self.bridges.abort(id, code, CloseReason::Severed);
    }

    /// Whether a bridge was broken off at its other end.
    #[must_use]
    pub fn is_bridge_aborted(&self, id: BridgeEndId) -> bool {
        self.bridges.aborted(id).is_some()
    }

    /// Takes what the other end of a bridge has said.
    pub fn handle_bridge(&mut self, driver: &mut Driver, message: BridgeMessage) {
        let id = message.to;
        if !self.bridges.handle(message) {
            return;
        }
        let Some((key, side)) = self.by_bridge.get(&id).copied() else {
            return;
        };
        match self.bridges.aborted(id) {
            Some((code, reason)) => self.break_off(driver, key, reason, code),
            None => {
                self.enqueue(key, side);
                self.enqueue(key, side.other());
            }
        }
    }

    /// What is to be sent to other ends of bridges, each with its shard.
    pub fn take_messages(&mut self) -> Vec<(u16, BridgeMessage)> {
        self.bridges.take_messages()
    }

    /// The end of a socket is the end of nothing until its other side's word has come: its
    /// bytes may be those of something that was broken off.
    pub fn await_word(&mut self, key: Key, side: Side) {
        if let Some(pair) = self.pairs.get_mut(key) {
            pair.ways[side.index()].awaits_word = true;
            pair.has_seam = true;
        }
    }

    /// What came from a socket ends where the socket does.
    pub fn handle_word(&mut self, key: Key, side: Side) {
        if let Some(pair) = self.pairs.get_mut(key) {
            pair.ways[side.index()].awaits_word = false;
            self.enqueue(key, side);
        }
    }

    fn enqueue(&mut self, key: Key, side: Side) {
        if let Some(pair) = self.pairs.get_mut(key) {
            let way = &mut pair.ways[side.index()];
            if !way.is_over && !std::mem::replace(&mut way.is_queued, true) {
                self.ready.push_back((key, side));
            }
        }
    }

    /// Does what there is to do now; what a direction leaves for the next time stands behind
    /// the others.
    pub fn run(&mut self, driver: &mut Driver) {
        for _ in 0..self.ready.len() {
            let Some((key, side)) = self.ready.pop_front() else {
                break;
            };
            let Some(pair) = self.pairs.get_mut(key) else {
                continue;
            };
            pair.ways[side.index()].is_queued = false;
            self.run_way(driver, key, side);
            self.note_stalled(key, side);
        }
        for (connection, streams) in self.stalled.take_changed() {
            driver.set_stalled(connection, streams);
        }
    }

    /// Notes whether a stream is not read, as its other end has no room.
    fn note_stalled(&mut self, key: Key, side: Side) {
        if let Some(pair) = self.pairs.get_mut(key)
            && let End::Stream(stream) = pair.ends[side.index()]
        {
            let way = &mut pair.ways[side.index()];
            let is_stalled = !way.pending.is_empty() && !way.is_queued;
            if std::mem::replace(&mut way.is_stalled, is_stalled) != is_stalled {
                self.stalled.note(stream.connection, is_stalled);
            }
        }
    }

    fn run_way(&mut self, driver: &mut Driver, key: Key, side: Side) {
        for _ in 0..STEPS_MAX {
            let Some(pair) = self.pairs.get_mut(key) else {
                return;
            };
            if pair.ways[side.index()].is_over {
                return;
            }
            let means = Means {
                driver: &mut *driver,
                bridges: &mut self.bridges,
                scratch: &mut self.scratch,
                chunks: &mut self.chunks,
            };
            let step = pair.step(side, means);
            if !pair.has_begun && pair.ways[side.index()].bytes > 0 {
                pair.has_begun = true;
                self.begun.push(key);
            }
            match step {
                Step::More => {}
                Step::Wait => return,
                Step::Over => return self.end_way(key, side),
                Step::Broken(Break { reason, code }) => {
                    return self.break_off(driver, key, reason, code);
                }
            }
        }
        self.enqueue(key, side);
    }

    fn end_way(&mut self, key: Key, side: Side) {
        let Some(pair) = self.pairs.get_mut(key) else {
            return;
        };
        pair.ways[side.index()].is_over = true;
        let first = *pair.first_ended.get_or_insert(side);
        if pair.ways.iter().all(|way| way.is_over) {
            self.end(key, CloseReason::Finished(first));
        } else {
            self.has_half_closed = true;
        }
    }

    /// Ends a pair in the middle: streams are told `code`, sockets are reset.
    pub fn break_off(
        &mut self,
        driver: &mut Driver,
        key: Key,
        reason: CloseReason,
        code: StreamCode,
    ) {
        let Some(pair) = self.pairs.get(key) else {
            return;
        };
        for end in &pair.ends {
            match end {
                End::Stream(stream) => {
                    driver.reset(*stream, code.value());
                    driver.stop(*stream, code.value());
                }
                End::Bridge(bridge) => self.bridges.abort(*bridge, code, reason),
                End::Socket(_) => {}
            }
        }
        self.end(key, reason);
    }

    /// Ends all pairs in the middle; how many.
    pub fn break_all_off(
        &mut self,
        driver: &mut Driver,
        reason: CloseReason,
        code: StreamCode,
    ) -> usize {
        let all: Vec<Key> = self.pairs.keys().collect();
        for key in &all {
            self.break_off(driver, *key, reason, code);
        }
        all.len()
    }

    fn end(&mut self, key: Key, reason: CloseReason) {
        let Some(pair) = self.pairs.remove(key) else {
            return;
        };
        self.bytes_relayed += pair.bytes_relayed();
        for (end, way) in pair.ends.iter().zip(&pair.ways) {
            if let End::Stream(stream) = end
                && way.is_stalled
            {
                self.stalled.note(stream.connection, false);
            }
        }
        let bytes = pair.ways.map(|way| way.bytes);
        let sockets = pair.ends.map(|end| match end {
            End::Stream(stream) => {
                self.by_stream.remove(&stream);
                None
            }
            End::Bridge(bridge) => {
                self.by_bridge.remove(&bridge);
                self.bridges.close(bridge);
                None
            }
            End::Socket(socket) => Some((
                socket,
                match reason {
                    CloseReason::Finished(_) => How::Clean,
                    _ => How::Reset,
                },
            )),
        });
        self.ended.push_back(StreamsEnded {
            pair: key,
            reason,
            bytes,
            sockets,
        });
    }

    /// The next pair that has moved its first byte.
    pub fn poll_begun(&mut self) -> Option<Key> {
        self.begun.pop()
    }

    /// Takes a pair that has ended; call until `None`. Its key may name another one by then.
    pub fn poll_ended(&mut self) -> Option<StreamsEnded> {
        self.ended.pop_front()
    }
}

impl Pair {
    /// Whether nothing is missing of what a stream at `side`, whose connection is gone, was
    /// there for; what was not passed on yet is held from now on.
    fn keep_rest(
        &mut self,
        driver: &mut Driver,
        stream: StreamKey,
        side: Side,
        chunks: &mut Vec<Bytes>,
    ) -> bool {
        self.ways[side.other().index()].is_over
            && self.ways[side.index()].read_rest(driver, stream, chunks)
    }

    /// Bytes that its ends have got, and did not pass on to another shard, or over a seam, at
    /// whose other side they are counted.
    fn bytes_relayed(&self) -> u64 {
        if self.has_seam {
            return 0;
        }
        let ways = self.ways.iter().zip(self.ends.iter().rev());
        let delivered = ways.filter(|(_, sink)| !matches!(sink, End::Bridge(_)));
        delivered.map(|(way, _)| way.bytes).sum()
    }

    fn step(&mut self, side: Side, means: Means<'_>) -> Step {
        let Means {
            driver,
            bridges,
            scratch,
            chunks,
        } = means;
        let way = &mut self.ways[side.index()];
        let (source, sink) = match (side, &self.ends) {
            (Side::Left, [left, right]) => (left, right),
            (Side::Right, [left, right]) => (right, left),
        };
        if way.pending.is_empty() && !way.source_ended {
            let read = match source {
                End::Stream(stream) => way.read_stream(driver, *stream, side, sink, chunks),
                End::Socket(socket) => way.read_socket(socket, side, scratch),
                End::Bridge(bridge) => way.read_bridge(bridges, *bridge, side),
            };
            if let Err(step) = read {
                return step;
            }
        }
        match sink {
            End::Stream(stream) => way.write_stream(driver, *stream, side.other()),
            End::Socket(socket) => way.write_socket(socket, side.other()),
            End::Bridge(bridge) => way.write_bridge(bridges, *bridge),
        }
    }
}
