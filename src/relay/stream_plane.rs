//! Pairs of which one end, or both, is a stream of QUIC.
//!
//! What comes on such a stream is in memory already, and there is nothing to splice: bytes
//! are read only when there is a place for them at the other end, and what that does not take
//! is held, at most `STEP_BYTES` in each direction. Whoever is not read waits: a stream by
//! flow control, a socket by its window.
//!
//! ```text
//!   source ── read ──▶ pending ── write ──▶ sink
//!               ▲         │ rest: until the sink has room
//!               └─────────┘ all out: at most STEPS_MAX times, then the others' turn
//! ```
//!
//! The end of one is passed on behind its last byte, and each direction ends for itself. What
//! is broken off is broken off both ways, with the code that came: a stream by `RESET_STREAM`
//! and `STOP_SENDING`, a socket by a reset.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;

use super::close::{CloseReason, How};
use super::pair::Side;
use crate::protocol::ptth_quic::StreamCode;
use crate::quic::calls::{Read, Write};
use crate::quic::connection::{ConnectionKey, StreamKey};
use crate::quic::driver::Driver;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::slab::{Key, Slab};

/// Bytes that a direction moves at once, and the most that it holds.
const STEP_BYTES: usize = 64 << 10;
/// Steps of a direction before the others have their turn.
const STEPS_MAX: usize = 4;
/// Pieces that one call sends into a socket.
const PIECES_MAX: usize = 64;

/// One end of a pair.
#[derive(Debug)]
pub enum End {
    Stream(StreamKey),
    Socket(Socket),
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
    by_stream: HashMap<StreamKey, (Key, Side), ahash::RandomState>,
    /// Directions that may have something to do, by their source.
    ready: VecDeque<(Key, Side)>,
    ended: VecDeque<StreamsEnded>,
    scratch: Box<[u8]>,
    chunks: Vec<Bytes>,
    /// By pairs that have ended.
    bytes_relayed: u64,
}

#[derive(Debug)]
struct Pair {
    ends: [End; 2],
    /// By their source.
    ways: [Way; 2],
    first_ended: Option<Side>,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    pending: VecDeque<Bytes>,
    bytes: u64,
    source_ended: bool,
    is_over: bool,
    is_queued: bool,
}

/// Where a step stopped.
enum Step {
    /// There may be more.
    More,
    /// An event of the source or of the sink goes on with it.
    Wait,
    /// Everything was passed on, to the end.
    Over,
    Broken(Break),
}

struct Break {
    reason: CloseReason,
    code: StreamCode,
}

impl Default for StreamPlane {
    fn default() -> Self {
        Self {
            pairs: Slab::new(),
            by_stream: HashMap::default(),
            ready: VecDeque::new(),
            ended: VecDeque::new(),
            scratch: vec![0; STEP_BYTES].into(),
            chunks: Vec::new(),
            bytes_relayed: 0,
        }
    }
}

impl StreamPlane {
    /// Joins two ends. What each has brought before everything else is its prefix.
    pub fn start(&mut self, ends: [End; 2], prefixes: [Bytes; 2]) -> Key {
        let streams = [&ends[0], &ends[1]].map(|end| match end {
            End::Stream(stream) => Some(*stream),
            End::Socket(_) => None,
        });
        let ways = prefixes.map(|prefix| Way {
            pending: Some(prefix)
                .filter(|it| !it.is_empty())
                .into_iter()
                .collect(),
            ..Way::default()
        });
        let key = self.pairs.insert(Pair {
            ends,
            ways,
            first_ended: None,
        });
        for (stream, side) in streams.into_iter().zip(Side::BOTH) {
            self.by_stream
                .extend(stream.map(|stream| (stream, (key, side))));
            self.enqueue(key, side);
        }
        key
    }

    /// Whether a stream is an end of a pair.
    #[must_use]
    pub fn has(&self, stream: StreamKey) -> bool {
        self.by_stream.contains_key(&stream)
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
        !self.ready.is_empty() || !self.ended.is_empty()
    }

    /// Bytes that all pairs have delivered.
    #[must_use]
    pub fn bytes_relayed(&self) -> u64 {
        let pairs = self.pairs.keys().filter_map(|key| self.bytes(key));
        self.bytes_relayed + pairs.flatten().sum::<u64>()
    }

    /// Bytes that came from the left, from the right, so far.
    #[must_use]
    pub fn bytes(&self, pair: Key) -> Option<[u64; 2]> {
        let [left, right] = &self.pairs.get(pair)?.ways;
        Some([left.bytes, right.bytes])
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

    /// A connection is gone, and its streams with it; the other ends are told `code`.
    pub fn handle_lost(
        &mut self,
        driver: &mut Driver,
        connection: ConnectionKey,
        code: StreamCode,
    ) {
        let of_it = |(stream, place): (&StreamKey, &(Key, Side))| {
            (stream.connection == connection).then_some(*place)
        };
        let lost: Vec<_> = self.by_stream.iter().filter_map(of_it).collect();
        for (key, side) in lost {
            self.break_off(driver, key, CloseReason::Reset(side), code);
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
            match pair.step(driver, side, &mut self.scratch, &mut self.chunks) {
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
            if let End::Stream(stream) = end {
                driver.reset(*stream, code.value());
                driver.stop(*stream, code.value());
            }
        }
        self.end(key, reason);
    }

    /// Ends those pairs in the middle that are meant; how many.
    pub fn break_off_if(
        &mut self,
        driver: &mut Driver,
        reason: CloseReason,
        code: StreamCode,
        is_meant: impl Fn(Key) -> bool,
    ) -> usize {
        let meant: Vec<Key> = self.pairs.keys().filter(|key| is_meant(*key)).collect();
        for key in &meant {
            self.break_off(driver, *key, reason, code);
        }
        meant.len()
    }

    fn end(&mut self, key: Key, reason: CloseReason) {
        let Some(pair) = self.pairs.remove(key) else {
            return;
        };
        let bytes = pair.ways.map(|way| way.bytes);
        self.bytes_relayed += bytes.iter().sum::<u64>();
        let sockets = pair.ends.map(|end| match end {
            End::Stream(stream) => {
                self.by_stream.remove(&stream);
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

    /// Takes a pair that has ended; call until `None`. Its key may name another one by then.
    pub fn poll_ended(&mut self) -> Option<StreamsEnded> {
        self.ended.pop_front()
    }
}

impl Pair {
    fn step(
        &mut self,
        driver: &mut Driver,
        side: Side,
        scratch: &mut [u8],
        chunks: &mut Vec<Bytes>,
    ) -> Step {
        let way = &mut self.ways[side.index()];
        let (source, sink) = match (side, &self.ends) {
            (Side::Left, [left, right]) => (left, right),
            (Side::Right, [left, right]) => (right, left),
        };
        if way.pending.is_empty() && !way.source_ended {
            let read = match source {
                End::Stream(stream) => way.read_stream(driver, *stream, side, sink, chunks),
                End::Socket(socket) => way.read_socket(socket, side, scratch),
            };
            if let Err(step) = read {
                return step;
            }
        }
        match sink {
            End::Stream(stream) => way.write_stream(driver, *stream, side.other()),
            End::Socket(socket) => way.write_socket(socket, side.other()),
        }
    }
}

impl Way {
    fn read_stream(
        &mut self,
        driver: &mut Driver,
        stream: StreamKey,
        side: Side,
        sink: &End,
        chunks: &mut Vec<Bytes>,
    ) -> Result<(), Step> {
        let read = driver.read(stream, STEP_BYTES, chunks);
        match sink {
            // A stream keeps each piece that it was given until it is acknowledged, and looks
            // through all of them for each packet.
            End::Stream(_) if chunks.len() > 1 => {
                let bytes = chunks.iter().map(Bytes::len).sum();
                let mut together = BytesMut::with_capacity(bytes);
                chunks
                    .drain(..)
                    .for_each(|piece| together.extend_from_slice(&piece));
                self.pending.push_back(together.freeze());
            }
            _ => self.pending.extend(chunks.drain(..)),
        }
        match read {
            Read::More | Read::Blocked if !self.pending.is_empty() => Ok(()),
            Read::More | Read::Blocked => Err(Step::Wait),
            Read::Ended => {
                self.source_ended = true;
                Ok(())
            }
            Read::Reset(code) => Err(broken(
                CloseReason::Reset(side),
                StreamCode::from_wire(code),
            )),
            Read::Gone => Err(broken(CloseReason::Reset(side), StreamCode::PEER_LOST)),
        }
    }

    fn read_socket(&mut self, socket: &Socket, side: Side, scratch: &mut [u8]) -> Result<(), Step> {
        match socket.recv(scratch) {
            Ok(0) => match socket.take_error() {
                Some(error) => Err(broken(
                    CloseReason::from_error(side, error),
                    StreamCode::RESET,
                )),
                None => {
                    self.source_ended = true;
                    Ok(())
                }
            },
            Ok(bytes) => {
                let bytes = Bytes::copy_from_slice(&scratch[..bytes]);
                self.pending.push_back(bytes);
                Ok(())
            }
            Err(Errno::AGAIN) => Err(Step::Wait),
            Err(error) => Err(broken(
                CloseReason::from_error(side, error),
                StreamCode::RESET,
            )),
        }
    }

    fn write_stream(&mut self, driver: &mut Driver, stream: StreamKey, side: Side) -> Step {
        while let Some(bytes) = self.pending.front_mut() {
            let before = bytes.len();
            let written = driver.write(stream, bytes);
            self.bytes += (before - bytes.len()) as u64;
            match written {
                Write::Done => drop(self.pending.pop_front()),
                Write::Blocked => return Step::Wait,
                Write::Stopped(code) => {
                    return broken(CloseReason::Reset(side), StreamCode::from_wire(code));
                }
                Write::Gone => return broken(CloseReason::Reset(side), StreamCode::PEER_LOST),
            }
        }
        if !self.source_ended {
            return Step::More;
        }
        driver.finish(stream);
        Step::Over
    }

    fn write_socket(&mut self, socket: &Socket, side: Side) -> Step {
        while !self.pending.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let held = self.pending.iter().zip(&mut pieces);
            let count = held
                .map(|(piece, place)| *place = IoSlice::new(piece))
                .count();
            match socket.send_gathered(&pieces[..count]) {
                Ok(sent) => {
                    self.bytes += sent as u64;
                    self.advance(sent);
                }
                Err(Errno::AGAIN) => {
                    self.gather();
                    return Step::Wait;
                }
                Err(error) => {
                    return broken(CloseReason::from_error(side, error), StreamCode::RESET);
                }
            }
        }
        if !self.source_ended {
            return Step::More;
        }
        match socket.shutdown_write() {
            Ok(()) => Step::Over,
            Err(error) => broken(CloseReason::from_error(side, error), StreamCode::RESET),
        }
    }

    fn advance(&mut self, mut sent: usize) {
        while sent > 0
            && let Some(piece) = self.pending.front_mut()
        {
            let taken = sent.min(piece.len());
            // Advances within the piece; at its end it is dropped.
            drop(piece.split_to(taken));
            sent -= taken;
            if piece.is_empty() {
                self.pending.pop_front();
            }
        }
    }

    /// Puts what has to wait together: each piece holds the whole batch of datagrams in which
    /// it came.
    fn gather(&mut self) {
        let bytes = self.pending.iter().map(Bytes::len).sum();
        let mut together = BytesMut::with_capacity(bytes);
        self.pending
            .drain(..)
            .for_each(|piece| together.extend_from_slice(&piece));
        self.pending.push_back(together.freeze());
    }
}

const fn broken(reason: CloseReason, code: StreamCode) -> Step {
    Step::Broken(Break { reason, code })
}
