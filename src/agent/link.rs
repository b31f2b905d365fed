//! A connection of a proxy, read and written as if nothing were around its bytes.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::relay::GateHold;
use crate::relay::codec::{Codec, Heard, Workshop};
use crate::runtime::Owner;
use crate::runtime::readiness::Readiness;
use crate::runtime::stream::Stream;
use crate::shard::leg::{Leg, Remains};
use crate::time::Timestamp;

/// Bytes that are read at a time through a codec.
const READ_BYTES: usize = 4 << 10;

/// A connection that is introduced, or to a service.
pub(super) struct Link {
    stream: Stream,
    wrapping: Option<Wrapping>,
    /// Application bytes that were read and not taken.
    unread: Vec<u8>,
    has_failed: bool,
}

/// How many bytes, not which.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("unread_bytes", &self.unread.len())
            .finish_non_exhaustive()
    }
}

/// What is around a connection's bytes.
#[derive(Debug)]
struct Wrapping {
    codec: Box<Codec>,
    workshop: Workshop,
}

impl Link {
    /// A connection with nothing around its bytes.
    pub(super) const fn plain(stream: Stream) -> Self {
        Self {
            stream,
            wrapping: None,
            unread: Vec::new(),
            has_failed: false,
        }
    }

    /// A connection as its introduction left it; `early` is as the codec keeps it.
    pub(super) fn new(
        stream: Stream,
        codec: Option<Box<Codec>>,
        early: Vec<u8>,
    ) -> io::Result<Self> {
        let mut link = Self::plain(stream);
        link.wrapping = codec.map(|codec| Wrapping {
            codec,
            workshop: Workshop::new(READ_BYTES),
        });
        match &mut link.wrapping {
            Some(Wrapping { codec, workshop }) if !early.is_empty() => {
                workshop
                    .decode_kept(Some(codec), &early)
                    .map_err(io::Error::other)?;
                codec.end_kept();
                workshop.copy_decoded(&mut link.unread);
            }
            Some(_) => {}
            None => link.unread = early,
        }
        Ok(link)
    }

    /// Reads what comes next; 0 is the end.
    pub(super) async fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.wrapping.is_none() && self.unread.is_empty() {
            return self.stream.recv(buffer).await;
        }
        self.readable().await;
        if self.unread.is_empty() {
            return match self.try_read() {
                Ok(()) | Err(Errno::AGAIN) => Ok(0),
                Err(error) => Err(error.into()),
            };
        }
        let count = self.unread.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Ok(count)
    }

    /// Fills the whole buffer.
    pub(super) async fn recv_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.recv(&mut buffer[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Writes all of a few bytes.
    pub(super) async fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.wrapping {
            None => self.stream.send_all(bytes).await,
            Some(Wrapping { codec, workshop }) => {
                let wrapped = workshop.wrap(codec, bytes).map_err(io::Error::other)?;
                self.stream.send_all(wrapped).await
            }
        }
    }

    /// Waits until something happens: bytes, or the end.
    pub(super) async fn readable(&mut self) {
        while !self.is_readable() {
            self.stream.readiness().await;
        }
    }

    /// Whether the peer is gone, and left nothing to be read.
    pub(super) fn is_lost(&mut self) -> bool {
        self.is_readable() && self.unread.is_empty() && {
            let is_plain = self.wrapping.is_none();
            !is_plain || !matches!(self.stream.socket().peek(&mut [0]), Ok(1..))
        }
    }

    fn is_readable(&mut self) -> bool {
        if !self.unread.is_empty() {
            return true;
        }
        if self.wrapping.is_none() {
            return self.stream.socket().peek(&mut [0]) != Err(Errno::AGAIN);
        }
        loop {
            match self.try_read() {
                Err(Errno::AGAIN) => return false,
                Err(_) => return true,
                // What came may be nobody's data.
                Ok(()) if self.unread.is_empty() && !self.has_ended() => {}
                Ok(()) => return true,
            }
        }
    }

    fn has_ended(&self) -> bool {
        let codec = self.wrapping.as_ref().map(|wrapping| &wrapping.codec);
        codec.is_some_and(|codec| codec.heard() != Heard::Open)
    }

    /// Reads once through the codec, and says what it has to say. A failure is
    /// final.
    fn try_read(&mut self) -> Result<(), Errno> {
        if self.has_failed {
            return Err(Errno::PROTO);
        }
        let result = self.read_once();
        self.has_failed = !matches!(result, Ok(()) | Err(Errno::AGAIN));
        result
    }

    fn read_once(&mut self) -> Result<(), Errno> {
        if self.has_ended() {
            return Ok(());
        }
        let Some(Wrapping { codec, workshop }) = &mut self.wrapping else {
            return Ok(());
        };
        let socket = self.stream.socket();
        let landing = workshop.landing(Some(codec), READ_BYTES);
        let heard = match socket.recv(landing)? {
            0 => codec.end_of_input(),
            count => {
                let heard = workshop.decode(Some(codec), count);
                workshop.copy_decoded(&mut self.unread);
                heard
            }
        };
        if heard.is_err() || workshop.take_words(codec, false).is_err() {
            return Err(Errno::PROTO);
        }
        let words = workshop.wire();
        if !words.is_empty() && socket.send(words)? != words.len() {
            return Err(Errno::PROTO);
        }
        Ok(())
    }

    /// Closes it with a RST.
    pub(super) fn reset(self) {
        self.stream.reset();
    }

    /// A connection as the world takes it, which began at `since`.
    pub(super) fn into_leg(self, since: Timestamp) -> Leg {
        let Self {
            stream,
            wrapping,
            unread,
            has_failed: _,
        } = self;
        let peer = stream.socket().peer_address().into();
        let watched = stream.into_watched(Owner::TASK);
        let codec = wrapping.map(|wrapping| wrapping.codec);
        let prefix = match &codec {
            Some(codec) => codec.keep_plain(unread),
            None => unread,
        };
        let remains = Remains {
            codec,
            prefix,
            gate: GateHold::Open,
            // What was read may not have been all.
            left_unread: Readiness::READABLE,
        };
        Leg::new(watched, peer, since, remains)
    }
}
