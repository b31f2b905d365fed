//! A connection before it is a leg: its bytes are read and written as if there were
//! no TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustix::io::Errno;
use rustls::ServerConfig;
use tracing::debug;

use super::handshake::refuse;
use super::refused::Refused;
use crate::runtime::executor::yield_now;
use crate::runtime::reactor::Reactor;
use crate::runtime::stream::Stream;
use crate::time::Timestamp;
use crate::tls::{Session, Wire};

/// Sealed bytes that are read at a time.
const READ_BYTES: usize = 4 << 10;

/// A connection, and TLS on it if it came so.
pub struct Link {
    stream: Stream,
    tls: Option<Box<Session>>,
    /// Bytes that were opened and not read.
    opened: Vec<u8>,
    has_ended: bool,
    /// What was read last was nobody's data, with more behind it perhaps.
    has_more: bool,
}

/// How many bytes, not which: a key may be among them.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("is_tls", &self.is_tls())
            .field("opened_bytes", &self.opened.len())
            .finish_non_exhaustive()
    }
}

/// Why nothing was read.
#[derive(Clone, Copy, Debug)]
pub enum NotRead {
    /// Nothing is there yet.
    Again,
    /// What was there is nobody's data. There may be more: see [`Link::more`].
    NoData,
    /// The peer says no more.
    Ended,
    /// The connection broke.
    Broken,
    /// What came is not TLS, or not for us.
    Tls,
}

impl Link {
    /// A connection as it came.
    #[must_use]
    pub const fn new(stream: Stream) -> Self {
        Self {
            stream,
            tls: None,
            opened: Vec::new(),
            has_ended: false,
            has_more: false,
        }
    }

    /// What [`Self::into_parts`] gave, on another shard.
    #[must_use]
    pub fn from_parts(stream: Stream, tls: Option<Box<Session>>, opened: Vec<u8>) -> Self {
        Self {
            tls,
            opened,
            ..Self::new(stream)
        }
    }

    /// Closes it with a RST.
    pub fn reset(self) {
        self.stream.reset();
    }

    /// Whether it came over TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Has TLS begin, of which `first` has come already; returns when the handshake
    /// is over.
    ///
    /// # Errors
    ///
    /// Why there is no TLS. The peer was told.
    pub async fn begin_tls(
        &mut self,
        reactor: &Reactor,
        config: Arc<ServerConfig>,
        first: Vec<u8>,
        deadline: Timestamp,
    ) -> Result<(), Refused> {
        let session = Session::server(config).map_err(|_| Refused::TlsFailed)?;
        self.tls = Some(Box::new(session));
        let shake = async {
            let mut result = self.open(&first, first.len());
            loop {
                self.send_words().await.map_err(|_| Refused::ResetEarly)?;
                if let Some(refused) = result.err().and_then(NotRead::refusal) {
                    return Err(refused);
                }
                if self.tls.as_ref().is_some_and(|tls| !tls.is_handshaking()) {
                    return Ok(());
                }
                result = self.read_sealed();
                self.has_more = result.is_ok();
                if result.err().and_then(NotRead::refusal).is_none() {
                    self.more().await;
                }
            }
        };
        reactor
            .deadline(deadline, shake)
            .await
            .unwrap_or(Err(Refused::TooSlow))
    }

    /// Reads what is there.
    ///
    /// # Errors
    ///
    /// Why nothing was read.
    pub fn try_recv(&mut self, buffer: &mut [u8]) -> Result<usize, NotRead> {
        if self.tls.is_none() && self.opened.is_empty() {
            return match self.stream.socket().recv(buffer) {
                Ok(0) => Err(NotRead::Ended),
                Ok(count) => Ok(count),
                Err(error) => Err(error.into()),
            };
        }
        if self.opened.is_empty() {
            if self.has_ended {
                return Err(NotRead::Ended);
            }
            self.read_sealed()?;
            if self.opened.is_empty() && self.has_ended {
                return Err(NotRead::Ended);
            }
            if self.opened.is_empty() {
                self.has_more = true;
                return Err(NotRead::NoData);
            }
        }
        let count = self.opened.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.opened[..count]);
        self.opened.drain(..count);
        Ok(count)
    }

    /// Appends what is there, at most `N` bytes; returns whether anything was.
    ///
    /// # Errors
    ///
    /// Why nothing will come any more.
    pub fn try_read_into<const N: usize>(
        &mut self,
        received: &mut Vec<u8>,
    ) -> Result<bool, Refused> {
        // Not a part of the task, which would carry it while it waits.
        let mut buffer = [0; N];
        match self.try_recv(&mut buffer) {
            Ok(count) => {
                received.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(not_read) => not_read.refusal().map_or(Ok(false), Err),
        }
    }

    /// Waits for bytes and appends them, at most `N`.
    ///
    /// # Errors
    ///
    /// Why none will come.
    pub async fn read_into<const N: usize>(
        &mut self,
        received: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        while !self.try_read_into::<N>(received)? {
            self.more().await;
        }
        Ok(())
    }

    /// Has these be read before anything else, again.
    pub fn put_back(&mut self, mut bytes: Vec<u8>) {
        bytes.append(&mut self.opened);
        self.opened = bytes;
    }

    /// Waits until it makes sense to read again.
    pub async fn more(&mut self) {
        if std::mem::take(&mut self.has_more) {
            // A peer that never lets us wait would keep the shard to itself.
            yield_now().await;
        } else {
            self.stream.readiness().await;
        }
    }

    /// Waits until the connection has broken, and reads nothing.
    pub async fn broken(&mut self) {
        self.stream.broken().await;
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return self.stream.send_all(bytes).await;
        };
        let mut wire = Wire::default();
        tls.seal(bytes, &mut wire).map_err(io::Error::other)?;
        self.stream.send_all(wire.as_bytes()).await
    }

    /// Tells the peer in a few words why it is refused, and parts with it.
    pub async fn refuse(self, reactor: &Reactor, words: &[u8]) {
        let Some(mut tls) = self.tls else {
            return refuse(reactor, self.stream, words).await;
        };
        let mut wire = Wire::default();
        // What cannot be sealed any more is not said.
        let _ = tls
            .seal(words, &mut wire)
            .and_then(|()| tls.close(&mut wire));
        refuse(reactor, self.stream, wire.as_bytes()).await;
    }

    /// Parts with a peer that is told nothing but what TLS has to say.
    pub async fn give_up(mut self, reactor: &Reactor) {
        let mut wire = Wire::default();
        if let Some(tls) = &mut self.tls {
            tls.take_words(&mut wire);
        }
        if !wire.as_bytes().is_empty() {
            refuse(reactor, self.stream, wire.as_bytes()).await;
        }
    }

    /// Who is at the other end of the connection itself.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.stream.socket().peer_address()
    }

    /// What was opened and not read.
    pub fn take_opened(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.opened)
    }

    /// The connection, its TLS, and what was opened and not read.
    #[must_use]
    pub fn into_parts(self) -> (Stream, Option<Box<Session>>, Vec<u8>) {
        (self.stream, self.tls, self.opened)
    }

    /// Reads once and opens what came.
    fn read_sealed(&mut self) -> Result<(), NotRead> {
        let mut fresh = [0; READ_BYTES];
        let count = match self.stream.socket().recv(&mut fresh) {
            Ok(0) => return Err(NotRead::Ended),
            Ok(count) => count,
            Err(error) => return Err(error.into()),
        };
        let result = self.open(&fresh, count);
        if let Some(tls) = &mut self.tls
            && tls.has_words()
            && !tls.is_handshaking()
            && result.is_ok()
        {
            let mut wire = Wire::default();
            tls.take_words(&mut wire);
            let words = wire.as_bytes();
            if self.stream.socket().send(words) != Ok(words.len()) {
                return Err(NotRead::Broken);
            }
        }
        result
    }

    fn open(&mut self, fresh: &[u8], count: usize) -> Result<(), NotRead> {
        let Some(tls) = &mut self.tls else {
            unreachable!("only called with tls");
        };
        let mut sealed = tls.take_begun();
        sealed.extend_from_slice(&fresh[..count]);
        let mut plain = vec![0; sealed.len()];
        let opened = tls.open(&mut sealed, &mut plain).map_err(|error| {
            debug!(%error, "tls failed");
            NotRead::Tls
        })?;
        self.has_ended = opened.is_end;
        self.opened.extend_from_slice(&plain[..opened.bytes]);
        Ok(())
    }

    async fn send_words(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        if !tls.has_words() {
            return Ok(());
        }
        let mut wire = Wire::default();
        tls.take_words(&mut wire);
        self.stream.send_all(wire.as_bytes()).await
    }
}

impl NotRead {
    /// Why the connection is given up; `None` when there may be more.
    #[must_use]
    pub const fn refusal(self) -> Option<Refused> {
        match self {
            Self::Again | Self::NoData => None,
            Self::Ended => Some(Refused::ClosedEarly),
            Self::Broken => Some(Refused::ResetEarly),
            Self::Tls => Some(Refused::TlsFailed),
        }
    }
}

impl From<Errno> for NotRead {
    fn from(error: Errno) -> Self {
        match error {
            Errno::AGAIN => Self::Again,
            _ => Self::Broken,
        }
    }
}
