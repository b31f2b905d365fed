//! A connection that is read and written both ways at once, without waiting for either, and
//! what waits to go over it.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use rustix::io::Errno;

use super::wrapped_stream::{WORDS_BYTES_MAX, WrappedStream};
use crate::protocol::websocks::datagram_frame::FRAME_BYTES_MAX;
use crate::relay::codec::Life;
use crate::relay::keepalive::PingSettings;
use crate::relay::queue::Queue;
use crate::runtime::reactor::Reactor;

/// Bytes that one read may bring: a record of TLS that was cut (RFC 8446 §5.1), and as much
/// of the next as is read at a time.
pub const READ_BYTES_MAX: usize = 20 << 10;

/// Bytes that wait for the connection to take them, from which on it is full, and nothing
/// more is to be queued. The last piece may have gone beyond.
pub const UNSENT_BYTES_MAX: usize = 64 << 10;

/// The longest such piece: a datagram, and longer than a read and a head of HTTP together.
const PIECE_BYTES_MAX: usize = FRAME_BYTES_MAX;

/// Bytes that may wait with them. The sixteenth part is what a codec puts around each piece.
pub const UNSENT_BYTES_LIMIT: usize =
    UNSENT_BYTES_MAX + PIECE_BYTES_MAX + PIECE_BYTES_MAX / 16 + WORDS_BYTES_MAX;

/// A connection, with what was read of it and what is to be sent.
#[derive(Debug)]
pub struct BufferedStream {
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
pub enum Came {
    /// Something: there may be more.
    Some,
    /// Nothing, for now.
    Nothing,
    /// The end.
    End,
}

impl BufferedStream {
    /// A connection, with nothing to be sent.
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

    /// Whether there may be something to read.
    #[must_use]
    pub const fn may_read(&self) -> bool {
        self.is_readable
    }

    /// Whether something waits, for which there may be room.
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.is_writable && !self.unsent.is_empty()
    }

    /// Sees whether anything has happened since the last look; has the task woken when it
    /// does.
    pub fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let stream = self.stream.stream_mut();
        pin!(stream.readiness()).poll(context).map(|readiness| {
            self.is_readable |= readiness.is_readable();
            self.is_writable |= readiness.is_writable();
        })
    }

    /// Reads once.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or its peer breaks the rules, as one does that asks for
    /// words and does not read them.
    pub fn receive(&mut self) -> io::Result<Came> {
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
        let read = self.stream.try_read_into(received, Some(unsent));
        if self.unsent.as_bytes().len() > UNSENT_BYTES_LIMIT {
            return Err(Errno::PROTO.into());
        }
        match read {
            Ok(true) => Ok(Came::Some),
            Ok(false) => Ok(Came::End),
            Err(Errno::AGAIN) => {
                self.is_readable = false;
                Ok(Came::Nothing)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What was read and not taken.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        self.received.as_bytes()
    }

    /// Takes so many bytes of it.
    pub fn consume(&mut self, count: usize) -> &[u8] {
        self.received.consume(count)
    }

    /// Whether so much waits that nothing more is to be queued.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unsent().len() >= UNSENT_BYTES_MAX
    }

    /// What waits, as it goes over the connection.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.unsent.as_bytes()
    }

    /// Has these sent with the next [`Self::flush`].
    ///
    /// # Errors
    ///
    /// When they cannot be sealed.
    pub fn queue(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A codec puts less than the sixteenth part around each piece.
        let wire_bytes = bytes.len() + bytes.len() / 16;
        self.stream.wrap_into(bytes, self.unsent.tail(wire_bytes))
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
        while self.may_send() {
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

    /// Closes it with a RST.
    pub fn reset(self) {
        self.stream.reset();
    }
}
