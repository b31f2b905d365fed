//! One connection of a driver's, and the names of connections and streams.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::{
    ConnectionHandle, Dir, ReadError, ReadableError, Side, StreamId, Transmit, VarInt, WriteError,
};

use super::calls::{Read, Write};
use super::counts::Counts;
use crate::slab::Key;
use crate::time::Timestamp;

/// RFC 9000 §2.1: two of the 62 bits of a stream's number say whose it is, and of which kind.
const STREAM_INDEX_MAX: u64 = (1 << 60) - 1;

/// What a connection may keep until it is acknowledged grows with the round trip, so that what
/// it sent is still in a cache where the way is short: bytes for each millisecond, twice what
/// 1 Gbit/s are, and the least.
const SEND_WINDOW_PER_MS: u64 = 2 * 125_000;
const SEND_WINDOW_MIN: u64 = 1 << 20;

/// How long something may go unanswered at least, however short the round trip is.
const PATIENCE_MIN: Duration = Duration::from_millis(1500);

/// Names a connection for as long as it is there.
pub type ConnectionKey = Key;

/// Names a stream of a connection. Those of one connection stand together in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    pub connection: ConnectionKey,
    /// The number by which the peer knows it.
    pub id: StreamId,
}

impl StreamKey {
    /// All that a connection may have: a range of whatever is kept in order.
    #[must_use]
    pub fn all_of(connection: ConnectionKey) -> RangeInclusive<Self> {
        let stream = |id| Self { connection, id };
        let first = StreamId::new(Side::Client, Dir::Bi, 0);
        let last = StreamId::new(Side::Server, Dir::Uni, STREAM_INDEX_MAX);
        stream(first)..=stream(last)
    }

    /// Whether it is the first that the client of its connection has opened.
    #[must_use]
    pub fn is_first_of_client(self) -> bool {
        self.id == StreamId::new(Side::Client, Dir::Bi, 0)
    }
}

/// How a connection fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The estimate of the round trip.
    pub round_trip: Duration,
    /// Bytes that may be on their way.
    pub congestion_window: u64,
    /// How often it was made smaller, as packets were lost or marked.
    pub congestion_events: u64,
    /// Packets that were declared lost.
    pub packets_lost: u64,
    /// Packets that were sent.
    pub packets_sent: u64,
    /// The longest datagram that is sent, in bytes.
    pub mtu: u16,
    /// Since when something was sent, if only what acknowledges, and nothing has come.
    pub silent_since: Option<Timestamp>,
    /// Since when something was sent that is to be acknowledged, and nothing has come.
    pub unanswered_since: Option<Timestamp>,
    /// When something came last; `None` until the first.
    pub heard_at: Option<Timestamp>,
    /// The handshake is not over.
    pub is_handshaking: bool,
    /// Either side has closed it.
    pub is_closed: bool,
    /// When it was begun.
    pub since: Timestamp,
}

impl Health {
    /// How long something may go unanswered until the peer is in doubt.
    #[must_use]
    pub fn patience(&self) -> Duration {
        patience(self.round_trip)
    }
}

/// A connection, and what the driver notes of it.
pub(super) struct Connection {
    pub(super) proto: quinn_proto::Connection,
    pub(super) handle: ConnectionHandle,
    pub(super) port: usize,
    /// It stands in the driver's queue.
    pub(super) is_dirty: bool,
    /// Its endpoint knows it no more; it is here until its last event was told.
    pub(super) is_forgotten: bool,
    /// As it stands in the driver's list.
    pub(super) deadline: Option<Instant>,
    /// Until then its handshake has to be over, if it is not.
    pub(super) handshake_until: Option<Instant>,
    silent_since: Option<Timestamp>,
    unanswered_since: Option<Timestamp>,
    heard_at: Option<Timestamp>,
    since: Timestamp,
    /// What the peer may send that was not read, once that was widened.
    window: u64,
}

impl Connection {
    pub(super) const fn new(
        proto: quinn_proto::Connection,
        handle: ConnectionHandle,
        port: usize,
        since: Timestamp,
    ) -> Self {
        Self {
            proto,
            handle,
            port,
            is_dirty: false,
            is_forgotten: false,
            deadline: None,
            handshake_until: None,
            silent_since: None,
            unanswered_since: None,
            heard_at: None,
            since,
            window: 0,
        }
    }

    /// Has it keep no more than its round trip asks for, and at most so many bytes.
    pub(super) fn adapt_send_window(&mut self, bytes_max: u64) {
        let window = send_window(self.proto.rtt(), bytes_max);
        self.proto.set_send_window(window);
    }

    /// Lets the peer send so many bytes before they are read, where it was allowed less. What it
    /// may send is never taken back: a window that shrinks does so as it is read, and one that
    /// grows does so at once, so that each time to and fro would let it send that much more.
    pub(super) fn widen(&mut self, window: u64) {
        if window > self.window {
            self.window = window;
            let window = VarInt::from_u64(window).unwrap_or(VarInt::MAX);
            self.proto.set_receive_window(window);
        }
    }

    /// When it wants to be asked again.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        let deadlines = [self.proto.poll_timeout(), self.handshake_until];
        deadlines.into_iter().flatten().min()
    }

    /// Whether it has had the time that its handshake may take; told once.
    pub(super) fn is_too_slow(&mut self, now: Instant) -> bool {
        self.handshake_until
            .take_if(|until| *until <= now)
            .is_some()
    }

    /// Something came.
    pub(super) const fn heard(&mut self, now: Timestamp) {
        self.silent_since = None;
        self.unanswered_since = None;
        self.heard_at = Some(now);
    }

    /// Puts what it has to send into `burst`, in so many datagrams at most.
    pub(super) fn poll_transmit(
        &mut self,
        (instant, now): (Instant, Timestamp),
        datagrams_max: usize,
        burst: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let is_answered = self.unanswered_since.is_none();
        let former = is_answered.then(|| self.frames_to_acknowledge());
        let transmit = self.proto.poll_transmit(instant, datagrams_max, burst)?;
        self.silent_since.get_or_insert(now);
        if former.is_some_and(|former| self.frames_to_acknowledge() > former) {
            self.unanswered_since = Some(now);
        }
        Some(transmit)
    }

    /// Frames that were sent and that the peer acknowledges: all but ACK, PADDING and
    /// CONNECTION_CLOSE (RFC 9000 §13.2.1).
    fn frames_to_acknowledge(&self) -> u64 {
        let sent = self.proto.stats().frame_tx;
        let counts = [
            sent.ack_frequency,
            sent.crypto,
            sent.data_blocked,
            sent.datagram,
            sent.handshake_done.into(),
            sent.immediate_ack,
            sent.max_data,
            sent.max_stream_data,
            sent.max_streams_bidi,
            sent.max_streams_uni,
            sent.new_connection_id,
            sent.new_token,
            sent.path_challenge,
            sent.path_response,
            sent.ping,
            sent.reset_stream,
            sent.retire_connection_id,
            sent.stream_data_blocked,
            sent.streams_blocked_bidi,
            sent.streams_blocked_uni,
            sent.stop_sending,
            sent.stream,
        ];
        counts.into_iter().sum()
    }

    /// Reads into `chunks`; and whether the peer is to be told of the room.
    pub(super) fn read(
        &mut self,
        id: StreamId,
        bytes_max: usize,
        chunks: &mut Vec<Bytes>,
    ) -> (Read, bool) {
        // What has come before is read all the same.
        let is_closed = self.proto.is_closed();
        let mut stream = self.proto.recv_stream(id);
        let mut source = match stream.read(true) {
            Ok(source) => source,
            Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => {
                return (Read::Gone, false);
            }
        };
        let mut left = bytes_max;
        let read = loop {
            if left == 0 {
                break Read::More;
            }
            match source.next(left) {
                Ok(Some(chunk)) => {
                    left -= chunk.bytes.len();
                    chunks.push(chunk.bytes);
                }
                Ok(None) => break Read::Ended,
                Err(ReadError::Blocked) if is_closed => break Read::Gone,
                Err(ReadError::Blocked) => break Read::Blocked,
                Err(ReadError::Reset(code)) => break Read::Reset(code.into_inner()),
            }
        };
        (read, source.finalize().should_transmit())
    }

    pub(super) fn write(&mut self, id: StreamId, bytes: &mut Bytes) -> Write {
        if self.proto.is_closed() {
            return Write::Gone;
        }
        while !bytes.is_empty() {
            let mut chunks = [std::mem::take(bytes)];
            let written = self.proto.send_stream(id).write_chunks(&mut chunks);
            let [rest] = chunks;
            *bytes = rest;
            match written {
                Ok(_) => {}
                Err(WriteError::Blocked) => return Write::Blocked,
                Err(WriteError::Stopped(code)) => return Write::Stopped(code.into_inner()),
                Err(WriteError::ClosedStream) => return Write::Gone,
            }
        }
        Write::Done
    }

    /// Adds what became of its packets to what is counted.
    pub(super) fn add_to(&self, counts: &mut Counts) {
        let path = self.proto.stats().path;
        counts.packets_lost += path.lost_packets;
        counts.congestion_events += path.congestion_events;
    }

    pub(super) fn health(&self) -> Health {
        let stats = self.proto.stats();
        Health {
            round_trip: self.proto.rtt(),
            congestion_window: stats.path.cwnd,
            congestion_events: stats.path.congestion_events,
            packets_lost: stats.path.lost_packets,
            packets_sent: stats.path.sent_packets,
            mtu: self.proto.current_mtu(),
            silent_since: self.silent_since,
            unanswered_since: self.unanswered_since,
            heard_at: self.heard_at,
            is_handshaking: self.proto.is_handshaking(),
            is_closed: self.proto.is_closed(),
            since: self.since,
        }
    }
}

fn send_window(round_trip: Duration, bytes_max: u64) -> u64 {
    let ms = u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX);
    let asked_for = ms.saturating_mul(SEND_WINDOW_PER_MS);
    asked_for.max(SEND_WINDOW_MIN).min(bytes_max)
}

/// Three times what QUIC waits until it asks once more (RFC 9002 §6.2.1), which on a steady path
/// is little more than the round trip.
fn patience(round_trip: Duration) -> Duration {
    PATIENCE_MIN.max(round_trip * 9 / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_the_path_the_later_the_doubt() {
        let check = |round_trip_ms, expected_ms| {
            let patience = patience(Duration::from_millis(round_trip_ms));
            assert_eq!(patience, Duration::from_millis(expected_ms));
        };
        check(0, 1500);
        check(300, 1500);
        check(2000, 9000);
    }

    #[test]
    fn streams_of_one_connection_are_found_among_others() {
        let connection = |index| ConnectionKey {
            index,
            generation: 7,
        };
        let all = StreamKey::all_of(connection(2));
        for (side, dir) in [(Side::Client, Dir::Bi), (Side::Server, Dir::Uni)] {
            for index in [0, 1, STREAM_INDEX_MAX] {
                let id = StreamId::new(side, dir, index);
                let is_among = |connection| all.contains(&StreamKey { connection, id });
                let found = [1, 2, 3].map(|index| is_among(connection(index)));
                assert_eq!(found, [false, true, false], "{id}");
                let later = ConnectionKey {
                    index: 2,
                    generation: 8,
                };
                assert!(!is_among(later));
            }
        }
    }

    #[test]
    fn a_long_way_has_a_large_window() {
        const MAX: u64 = 8 << 20;
        for (round_trip_us, bytes_max, window) in [
            (0, MAX, SEND_WINDOW_MIN),
            (4_999, MAX, SEND_WINDOW_MIN),
            (20_000, MAX, 5_000_000),
            (40_000, MAX, MAX),
            (20_000, 64 << 10, 64 << 10),
            (u64::MAX, MAX, MAX),
        ] {
            let round_trip = Duration::from_micros(round_trip_us);
            assert_eq!(send_window(round_trip, bytes_max), window, "{round_trip:?}");
        }
    }
}
