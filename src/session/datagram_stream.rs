//! A connection that carries datagrams, both ways at once, and holds few of them.
//!
//! Nothing here waits but [`DatagramStream::poll_ready`]: a datagram that does not fit now
//! is not taken, and is lost, as on any network.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll};

use rustix::io::Errno;

use super::wrapped_stream::WrappedStream;
use crate::protocol::Progress;
use crate::protocol::websocks::datagram_frame::{self, DatagramFrameError, FRAME_BYTES_MAX};
use crate::relay::codec::Life;
use crate::relay::keepalive::PingSettings;
use crate::runtime::reactor::Reactor;

/// Bytes that wait for the connection to take them, from which on it is full. One more
/// datagram may have gone beyond.
const UNSENT_BYTES_MAX: usize = 64 << 10;

/// Words that the peer asked for and does not read, such as pongs.
const WORDS_BYTES_MAX: usize = 16 << 10;

/// Bytes that may wait with them. The sixteenth part is what a codec puts around each piece.
const UNSENT_BYTES_LIMIT: usize =
    UNSENT_BYTES_MAX + FRAME_BYTES_MAX + FRAME_BYTES_MAX / 16 + WORDS_BYTES_MAX;

/// Bytes that one read may bring: a record of TLS that was cut (RFC 8446 §5.1), and as much
/// of the next as is read at a time.
const READ_BYTES_MAX: usize = 20 << 10;

/// Room that is kept while nothing is in it, and by which it grows.
const ROOM_BYTES: usize = READ_BYTES_MAX;

/// Bytes that a connection may have allocated for what waits in it: what cannot be sent yet,
/// a frame that is not whole, and what the last read brought, in room that was doubled.
pub const HELD_BYTES_MAX: usize = (UNSENT_BYTES_LIMIT + READ_BYTES_MAX + ROOM_BYTES)
    + (FRAME_BYTES_MAX + READ_BYTES_MAX + ROOM_BYTES)
    + 2 * READ_BYTES_MAX;

/// Datagrams that pass in one direction before others have their turn.
pub const TURN_DATAGRAMS: usize = 64;

/// Reads of a connection meanwhile, a few KiB each.
const TURN_READS: usize = 32;

/// A connection, and the datagrams on it.
#[derive(Debug)]
pub struct DatagramStream {
    stream: WrappedStream,
    received: Queue,
    /// As it goes over the connection.
    unsent: Queue,
    /// There may be something to read: each thing is reported once.
    is_readable: bool,
    /// There may be room to write.
    is_writable: bool,
}

/// What one look at the connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// Something: there may be more.
    Some,
    /// Nothing, for now.
    Nothing,
    /// The end.
    End,
}

/// What is left of a connection behind a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing, for now.
    Nothing,
    /// There may be more.
    More,
    /// The peer says no more.
    End,
}

/// Why a datagram was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotQueued {
    /// The connection is full.
    #[error("the connection takes no more for now")]
    Full,
    /// It has no frame.
    #[error(transparent)]
    Frame(#[from] DatagramFrameError),
    /// The connection is broken.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// Bytes that are appended, and taken from the front.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    taken: usize,
}

impl DatagramStream {
    /// A connection behind its reply.
    #[must_use]
    pub fn new(stream: WrappedStream) -> Self {
        Self {
            stream,
            received: Queue::default(),
            unsent: Queue::default(),
            is_readable: true,
            is_writable: true,
        }
    }

    /// Whether there may be something to read, or room for what waits; has the task woken
    /// when there is.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !(self.is_readable || self.is_writable && !self.unsent.is_empty()) {
            let stream = self.stream.stream_mut();
            match pin!(stream.readiness()).poll(context) {
                Poll::Ready(readiness) => {
                    self.is_readable |= readiness.is_readable();
                    self.is_writable |= readiness.is_writable();
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// Has what is there handled, datagram by datagram, but not too much of it.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or its peer breaks the rules.
    pub fn take_turn(&mut self, mut handle: impl FnMut(&[u8])) -> io::Result<Left> {
        let mut left = TURN_DATAGRAMS;
        for _ in 0..TURN_READS {
            while left > 0
                && let Some(datagram) = self.take().map_err(io::Error::other)?
            {
                left -= 1;
                handle(datagram);
            }
            if left == 0 {
                break;
            }
            match self.receive()? {
                Came::Some => {}
                Came::Nothing => return Ok(Left::Nothing),
                Came::End => return Ok(Left::End),
            }
        }
        Ok(Left::More)
    }

    /// Reads once.
    fn receive(&mut self) -> io::Result<Came> {
        if !self.is_readable {
            return Ok(Came::Nothing);
        }
        let received = self.received.tail(READ_BYTES_MAX);
        // Words are few, and nobody may have any.
        let words_bytes = if self.unsent.is_empty() {
            0
        } else {
            READ_BYTES_MAX
        };
        let unsent = self.unsent.tail(words_bytes);
        let came = match self.stream.try_read_into(received, Some(unsent)) {
            Ok(true) => Came::Some,
            Ok(false) => Came::End,
            Err(Errno::AGAIN) => {
                self.is_readable = false;
                Came::Nothing
            }
            Err(error) => return Err(error.into()),
        };
        if self.unsent.as_bytes().len() > UNSENT_BYTES_LIMIT {
            return Err(Errno::PROTO.into());
        }
        Ok(came)
    }

    /// The next datagram of what was read.
    fn take(&mut self) -> Result<Option<&[u8]>, DatagramFrameError> {
        match datagram_frame::decode(self.received.as_bytes())? {
            Progress::Partial { .. } => Ok(None),
            Progress::Complete { value, consumed } => {
                let length = value.len();
                let frame = self.received.consume(consumed);
                Ok(Some(&self.received.bytes[frame.end - length..frame.end]))
            }
        }
    }

    fn is_full(&self) -> bool {
        self.unsent.as_bytes().len() >= UNSENT_BYTES_MAX
    }

    /// Has a datagram of these two parts sent with the next [`Self::flush`].
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn queue(&mut self, header: &[u8], data: &[u8]) -> Result<(), NotQueued> {
        if self.is_full() {
            self.flush()?;
        }
        if self.is_full() {
            return Err(NotQueued::Full);
        }
        let mut frame = Vec::new();
        datagram_frame::encode(header, data, &mut frame)?;
        let wire_bytes = frame.len() + frame.len() / 16;
        self.stream
            .wrap_into(&frame, self.unsent.tail(wire_bytes))?;
        Ok(())
    }

    /// Looks whether the peer is still there, if it can be asked, and asks it with the next
    /// [`Self::flush`].
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub fn look_for_life(&mut self, ping: PingSettings) -> io::Result<Life> {
        // One that has much to read comes to a ping late.
        if !self.unsent.is_empty() {
            return Ok(Life::Seen);
        }
        self.stream.look_for_life(ping, self.unsent.tail(0))
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.is_writable && !self.unsent.is_empty() {
            let socket = self.stream.stream_mut().socket();
            match socket.send(self.unsent.as_bytes()) {
                Ok(count) => {
                    self.unsent.consume(count);
                }
                Err(Errno::AGAIN) => self.is_writable = false,
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent.give_room_back();
        Ok(())
    }

    /// Parts with the peer.
    pub async fn part(self, reactor: &Reactor) {
        // Words within a frame that is cut off would say nothing.
        if self.unsent.is_empty() {
            self.stream.part(reactor, &[]).await;
        }
    }
}

impl Queue {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Takes so many bytes, which stay where they are until more is appended.
    fn consume(&mut self, count: usize) -> Range<usize> {
        let consumed = self.taken..self.taken + count;
        debug_assert!(consumed.end <= self.bytes.len(), "no more than there is");
        self.taken = consumed.end;
        consumed
    }

    /// Where to append so many bytes, in room that is not doubled for them.
    fn tail(&mut self, count: usize) -> &mut Vec<u8> {
        self.give_room_back();
        self.bytes.drain(..self.taken);
        self.taken = 0;
        let needed = self.bytes.len() + count;
        if needed > self.bytes.capacity() {
            let room = needed.next_multiple_of(ROOM_BYTES);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        &mut self.bytes
    }

    fn give_room_back(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(ROOM_BYTES);
            self.taken = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_gives_what_it_was_given_and_keeps_little_room() {
        let mut queue = Queue::default();
        assert!(queue.is_empty());
        queue.tail(7).extend_from_slice(b"one two");
        assert_eq!(queue.consume(4), 0..4);
        assert_eq!(queue.as_bytes(), b"two");
        queue.tail(6).extend_from_slice(b" three");
        assert_eq!(queue.as_bytes(), b"two three");
        queue.consume(9);
        assert!(queue.is_empty());
        queue.tail(1 << 20).extend_from_slice(&vec![0; 1 << 20]);
        queue.consume(1 << 20);
        assert!(queue.tail(0).capacity() <= ROOM_BYTES);
    }

    #[test]
    fn room_grows_by_steps() {
        let mut queue = Queue::default();
        for count in 1..200 {
            queue.tail(1000).extend_from_slice(&[0; 1000]);
            assert!(queue.bytes.capacity() < 1000 * count + ROOM_BYTES);
        }
    }
}
