//! A connection behind its handshake, read and written as if nothing were around its
//! bytes.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use rustix::io::Errno;

use super::handshake::refuse;
use crate::protocol::websocket::CloseCode;
use crate::relay::codec::{Codec, Heard, Life, Workshop};
use crate::relay::keepalive::PingSettings;
use crate::runtime::executor::yield_now;
use crate::runtime::reactor::Reactor;
use crate::runtime::stream::Stream;

/// Bytes that are read, or written, at a time through a codec.
const PIECE_BYTES: usize = 4 << 10;

/// Words that the peer asked for and does not read, such as pongs.
pub(super) const WORDS_BYTES_MAX: usize = 16 << 10;

/// Bytes that a peer may say while it is to wait.
const EARLY_BYTES_MAX: usize = 4 << 10;

/// Reads of what may be nobody's data, such as pongs, after which others have their turn.
const READS_IN_A_ROW_MAX: usize = 16;

/// Where a shard's wrapped streams have their bytes while codecs work on them.
#[derive(Clone, Debug)]
pub struct SharedWorkshop(Rc<RefCell<Workshop>>);

impl Default for SharedWorkshop {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Workshop::new(PIECE_BYTES))))
    }
}

/// A connection, and perhaps TLS, WebSocket or both around its bytes.
pub struct WrappedStream {
    stream: Stream,
    wrapping: Option<Wrapping>,
    /// Application bytes that were read and not taken.
    unread: Vec<u8>,
    has_failed: bool,
    /// Something was read since somebody asked.
    has_come: bool,
}

/// How many bytes, not which.
impl fmt::Debug for WrappedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappedStream")
            .field("unread_bytes", &self.unread.len())
            .finish_non_exhaustive()
    }
}

/// Why a peer that was to wait waits no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It has closed the connection, or ended its direction of it, or broken it.
    Gone,
    /// It says more than is kept for it.
    SaysTooMuch,
}

/// What a look at a connection finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// Bytes, or the end.
    Something,
    Nothing,
    /// Nothing in as much as was read, and there may be more.
    NothingYet,
}

/// What is around a connection's bytes.
#[derive(Debug)]
struct Wrapping {
    codec: Box<Codec>,
    workshop: SharedWorkshop,
}

impl SharedWorkshop {
    fn wrap(&self, codec: &mut Codec, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut workshop = self.0.borrow_mut();
        let wire = workshop.wrap(codec, bytes).map_err(io::Error::other)?;
        Ok(wire.to_vec())
    }
}

impl WrappedStream {
    /// A connection with nothing around its bytes.
    #[must_use]
    pub const fn plain(stream: Stream) -> Self {
        Self {
            stream,
            wrapping: None,
            unread: Vec::new(),
            has_failed: false,
            has_come: false,
        }
    }

    /// A connection as its handshake left it; `early` is as the codec keeps it.
    ///
    /// # Errors
    ///
    /// When nothing that came counts.
    pub fn new(
        stream: Stream,
        codec: Option<Box<Codec>>,
        early: Vec<u8>,
        workshop: &SharedWorkshop,
    ) -> io::Result<Self> {
        let mut wrapped = Self::plain(stream);
        wrapped.wrapping = codec.map(|codec| Wrapping {
            codec,
            workshop: workshop.clone(),
        });
        match &mut wrapped.wrapping {
            Some(Wrapping { codec, workshop }) if !early.is_empty() => {
                let mut workshop = workshop.0.borrow_mut();
                for piece in early.chunks(PIECE_BYTES) {
                    let decoded = workshop.decode_kept(Some(codec), piece);
                    decoded.map_err(io::Error::other)?;
                    workshop.copy_decoded(&mut wrapped.unread);
                }
                codec.end_kept();
            }
            Some(_) => {}
            None => wrapped.unread = early,
        }
        Ok(wrapped)
    }

    /// Reads what comes next; 0 is the end.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or its peer breaks the rules.
    pub async fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.wrapping.is_none() && self.unread.is_empty() {
            return self.stream.recv(buffer).await;
        }
        self.readable().await;
        if self.unread.is_empty() {
            return match self.try_read(None) {
                Ok(()) | Err(Errno::AGAIN) => Ok(0),
                Err(error) => Err(error.into()),
            };
        }
        let count = self.unread.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Ok(count)
    }

    /// Waits for what comes next and appends it, a few KiB at most; 0 bytes are the end.
    ///
    /// # Errors
    ///
    /// As [`Self::recv`].
    pub async fn read_into(&mut self, received: &mut Vec<u8>) -> io::Result<usize> {
        self.readable().await;
        let before = received.len();
        self.try_read_into(received, None)?;
        Ok(received.len() - before)
    }

    /// Reads once without waiting and appends what came, a few KiB at most; false is the
    /// end. What the codec has to say is said, or appended to `words`, to be sent as it is.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when nothing is there; else as [`Self::recv`].
    pub(super) fn try_read_into(
        &mut self,
        received: &mut Vec<u8>,
        words: Option<&mut Vec<u8>>,
    ) -> Result<bool, Errno> {
        if self.unread.is_empty() {
            if self.wrapping.is_none() {
                // Not a part of the task, which would carry it while it waits.
                let mut buffer = [0; PIECE_BYTES];
                let count = self.stream.socket().recv(&mut buffer)?;
                received.extend_from_slice(&buffer[..count]);
                return Ok(count > 0);
            }
            self.try_read(words)?;
        }
        let is_end = self.unread.is_empty() && self.has_ended();
        received.append(&mut self.unread);
        Ok(!is_end)
    }

    /// Appends `bytes` to `wire` as they go over the connection.
    ///
    /// # Errors
    ///
    /// When they cannot be sealed.
    pub(super) fn wrap_into(&mut self, bytes: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
        let Some(Wrapping { codec, workshop }) = &mut self.wrapping else {
            wire.extend_from_slice(bytes);
            return Ok(());
        };
        let mut workshop = workshop.0.borrow_mut();
        for piece in bytes.chunks(PIECE_BYTES) {
            let wrapped = workshop.wrap(codec, piece).map_err(io::Error::other)?;
            wire.extend_from_slice(wrapped);
        }
        Ok(())
    }

    /// The connection itself.
    pub(super) const fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Whether anything has come since this was asked last, be it nobody's data.
    pub const fn take_sign_of_life(&mut self) -> bool {
        std::mem::replace(&mut self.has_come, false)
    }

    /// Fills the whole buffer.
    ///
    /// # Errors
    ///
    /// As [`Self::recv`]; `UnexpectedEof` when it ends before.
    pub async fn recv_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.recv(&mut buffer[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.wrapping {
            None => self.stream.send_all(bytes).await,
            Some(Wrapping { codec, workshop }) => {
                for piece in bytes.chunks(PIECE_BYTES) {
                    let wire = workshop.wrap(codec, piece)?;
                    self.stream.send_all(&wire).await?;
                }
                Ok(())
            }
        }
    }

    /// Asks the peer of a WebSocket for a sign of life.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn ping(&mut self) -> io::Result<()> {
        let Some(Wrapping { codec, workshop }) = &mut self.wrapping else {
            return Ok(());
        };
        let wire = {
            let mut workshop = workshop.0.borrow_mut();
            workshop.ping(codec).map_err(io::Error::other)?;
            workshop.wire().to_vec()
        };
        self.stream.send_all(&wire).await
    }

    /// Looks whether anything has come from the peer of a WebSocket since the last look, and if
    /// not, appends to `wire` what asks it.
    ///
    /// # Errors
    ///
    /// When that cannot be sealed.
    pub(super) fn look_for_life(
        &mut self,
        ping: PingSettings,
        wire: &mut Vec<u8>,
    ) -> io::Result<Life> {
        let Some(Wrapping { codec, workshop }) = &mut self.wrapping else {
            return Ok(Life::Seen);
        };
        let mut workshop = workshop.0.borrow_mut();
        let life = workshop.look_for_life(codec, ping);
        if life == Life::Asked {
            let taken = workshop.take_words(codec, false);
            taken.map_err(io::Error::other)?;
            wire.extend_from_slice(workshop.wire());
        }
        Ok(life)
    }

    /// Has these be read before anything else, again.
    pub fn put_back(&mut self, bytes: Vec<u8>) {
        let later = std::mem::replace(&mut self.unread, bytes);
        self.unread.extend_from_slice(&later);
    }

    /// Waits until something happens: bytes, or the end.
    pub async fn readable(&mut self) {
        loop {
            match self.look() {
                Sight::Something => return,
                Sight::Nothing => {
                    self.stream.readiness().await;
                }
                Sight::NothingYet => yield_now().await,
            }
        }
    }

    /// Waits until the peer waits no more. What it says meanwhile is kept, and read before
    /// anything else.
    pub async fn departure(&mut self) -> Departure {
        for count in 1_usize.. {
            let mut early = std::mem::take(&mut self.unread);
            let read = self.try_read_into(&mut early, None);
            // What was decoded before a word of ours could not be sent.
            early.append(&mut self.unread);
            self.unread = early;
            match read {
                Ok(true) | Err(Errno::AGAIN) if self.unread.len() > EARLY_BYTES_MAX => {
                    return Departure::SaysTooMuch;
                }
                Ok(true) if count.is_multiple_of(READS_IN_A_ROW_MAX) => yield_now().await,
                Ok(true) => {}
                Err(Errno::AGAIN) => {
                    self.stream.readiness().await;
                }
                Ok(false) | Err(_) => break,
            }
        }
        Departure::Gone
    }

    /// Whether the peer is gone, and left nothing to be read.
    pub fn is_lost(&mut self) -> bool {
        self.look() == Sight::Something && self.unread.is_empty() && {
            let is_plain = self.wrapping.is_none();
            !is_plain || !matches!(self.stream.socket().peek(&mut [0]), Ok(1..))
        }
    }

    fn look(&mut self) -> Sight {
        if !self.unread.is_empty() {
            return Sight::Something;
        }
        if self.wrapping.is_none() {
            return match self.stream.socket().peek(&mut [0]) {
                Err(Errno::AGAIN) => Sight::Nothing,
                _ => Sight::Something,
            };
        }
        for _ in 0..READS_IN_A_ROW_MAX {
            match self.try_read(None) {
                Err(Errno::AGAIN) => return Sight::Nothing,
                // What came may be nobody's data.
                Ok(()) if self.unread.is_empty() && !self.has_ended() => {}
                _ => return Sight::Something,
            }
        }
        Sight::NothingYet
    }

    fn has_ended(&self) -> bool {
        let codec = self.wrapping.as_ref().map(|wrapping| &wrapping.codec);
        codec.is_some_and(|codec| codec.heard() != Heard::Open)
    }

    /// Reads once through the codec, and says what it has to say, or has it in `words`. A
    /// failure is final.
    fn try_read(&mut self, words: Option<&mut Vec<u8>>) -> Result<(), Errno> {
        if self.has_failed {
            return Err(Errno::PROTO);
        }
        let result = self.read_once(words);
        self.has_failed = !matches!(result, Ok(()) | Err(Errno::AGAIN));
        result
    }

    fn read_once(&mut self, mut kept_words: Option<&mut Vec<u8>>) -> Result<(), Errno> {
        if self.has_ended() {
            return Ok(());
        }
        // There may be room now for what found none.
        self.say(kept_words.as_deref_mut())?;
        let Some(Wrapping { codec, workshop }) = &mut self.wrapping else {
            return Ok(());
        };
        {
            let mut workshop = workshop.0.borrow_mut();
            let landing = workshop.landing(Some(codec), PIECE_BYTES);
            let heard = match self.stream.socket().recv(landing)? {
                0 => codec.end_of_input(),
                count => {
                    self.has_come = true;
                    let heard = workshop.decode(Some(codec), count);
                    workshop.copy_decoded(&mut self.unread);
                    heard
                }
            };
            heard.map_err(|_| Errno::PROTO)?;
        }
        self.say(kept_words)
    }

    /// Says what the codec has to say, as far as there is room, or appends it to `kept`. What
    /// was sealed and finds no room goes out later, as the peer counts records.
    fn say(&mut self, kept: Option<&mut Vec<u8>>) -> Result<(), Errno> {
        let Some(Wrapping { codec, workshop }) = &mut self.wrapping else {
            return Ok(());
        };
        if !codec.has_words() {
            return Ok(());
        }
        let mut workshop = workshop.0.borrow_mut();
        let taken = workshop.take_words(codec, false);
        taken.map_err(|_| Errno::PROTO)?;
        let words = workshop.wire();
        if let Some(kept) = kept {
            kept.extend_from_slice(words);
            return Ok(());
        }
        let sent = match self.stream.socket().send(words) {
            Err(Errno::AGAIN) => 0,
            sent => sent?,
        };
        let left = &words[sent..];
        if left.len() > WORDS_BYTES_MAX {
            return Err(Errno::PROTO);
        }
        match left.is_empty() || codec.put_back_sealed(left) || sent == 0 {
            true => Ok(()),
            // A frame that is cut, and nowhere to keep the rest.
            false => Err(Errno::PROTO),
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.stream.socket().peer_address()
    }

    /// Where our end is.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.stream.socket().local_address()
    }

    /// Says the last words, and parts with the peer.
    pub async fn part(self, reactor: &Reactor, words: &[u8]) {
        let Some(Wrapping {
            mut codec,
            workshop,
        }) = self.wrapping
        else {
            return refuse(reactor, self.stream, words).await;
        };
        let mut wire = Vec::new();
        // What cannot be sealed any more is not said.
        if !words.is_empty()
            && let Ok(wrapped) = workshop.wrap(&mut codec, words)
        {
            wire = wrapped;
        }
        {
            let mut workshop = workshop.0.borrow_mut();
            workshop.take_farewell(&mut codec, CloseCode::NORMAL);
            wire.extend_from_slice(workshop.wire());
        }
        refuse(reactor, self.stream, &wire).await;
    }

    /// Closes it with a RST.
    pub fn reset(self) {
        self.stream.reset();
    }

    /// What is left of it, its early bytes without what was around them.
    #[must_use]
    pub fn into_opened_parts(self) -> (Stream, Option<Box<Codec>>, Vec<u8>) {
        let codec = self.wrapping.map(|wrapping| wrapping.codec);
        (self.stream, codec, self.unread)
    }

    /// What is left of it, its early bytes as the codec keeps them.
    #[must_use]
    pub fn into_parts(self) -> (Stream, Option<Box<Codec>>, Vec<u8>) {
        let codec = self.wrapping.map(|wrapping| wrapping.codec);
        let early = match &codec {
            Some(codec) => codec.keep_plain(self.unread),
            None => self.unread,
        };
        (self.stream, codec, early)
    }
}

#[cfg(test)]
#[path = "wrapped_stream_tests.rs"]
mod tests;
