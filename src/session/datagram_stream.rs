//! A connection that carries datagrams, both ways at once, and holds few of them.
//!
//! Nothing here waits but [`DatagramStream::poll_ready`]: a datagram that does not fit now
//! is not taken, and is lost, as on any network.

use std::io;
use std::task::{Context, Poll};

use super::buffered_stream::{BufferedStream, Came, READ_BYTES_MAX, UNSENT_BYTES_LIMIT};
use super::wrapped_stream::WrappedStream;
use crate::protocol::Progress;
use crate::protocol::websocks::datagram_frame::{self, DatagramFrameError, FRAME_BYTES_MAX};
use crate::relay::codec::Life;
use crate::relay::keepalive::PingSettings;
use crate::relay::queue::ROOM_BYTES;
use crate::runtime::reactor::Reactor;

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
pub struct DatagramStream(BufferedStream);

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

impl DatagramStream {
    /// A connection behind its reply.
    #[must_use]
    pub fn new(stream: WrappedStream) -> Self {
        Self(BufferedStream::new(stream))
    }

    /// Whether there may be something to read, or room for what waits; has the task woken
    /// when there is.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !(self.0.may_read() || self.0.may_send()) {
            if self.0.poll_event(context).is_pending() {
                return Poll::Pending;
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
            match self.0.receive()? {
                Came::Some => {}
                Came::Nothing => return Ok(Left::Nothing),
                Came::End => return Ok(Left::End),
            }
        }
        Ok(Left::More)
    }

    /// The next datagram of what was read.
    fn take(&mut self) -> Result<Option<&[u8]>, DatagramFrameError> {
        match datagram_frame::decode(self.0.received())? {
            Progress::Partial { .. } => Ok(None),
            Progress::Complete { value, consumed } => {
                let length = value.len();
                Ok(Some(&self.0.consume(consumed)[consumed - length..]))
            }
        }
    }

    /// Has a datagram of these two parts sent with the next [`Self::flush`].
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn queue(&mut self, header: &[u8], data: &[u8]) -> Result<(), NotQueued> {
        if self.0.is_full() {
            self.flush()?;
        }
        if self.0.is_full() {
            return Err(NotQueued::Full);
        }
        let mut frame = Vec::new();
        datagram_frame::encode(header, data, &mut frame)?;
        self.0.queue(&frame)?;
        Ok(())
    }

    /// Looks whether the peer is still there, if it can be asked, and asks it with the next
    /// [`Self::flush`].
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub fn look_for_life(&mut self, ping: PingSettings) -> io::Result<Life> {
        self.0.look_for_life(ping)
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    /// Parts with the peer.
    pub async fn part(self, reactor: &Reactor) {
        self.0.part(reactor).await;
    }
}
