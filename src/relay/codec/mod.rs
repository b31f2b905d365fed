//! What a leg's bytes are wrapped in, taken off and put on without a system call.
//!
//! A [`Codec`] is one leg's: TLS, WebSocket or an HTTP body, or one of these within TLS. The
//! bytes themselves are in a [`Workshop`], which a whole shard shares. What came
//! from a leg is opened and decoded where it lies, into `Chunk`s of application
//! bytes; what goes to a leg is encoded where it lies, its headers written into the
//! gaps that decoding left between the chunks:
//!
//! ```text
//!   as it came   │ room │ header │ payload │ header │ payload │ ...
//!   decode                       └─ chunk ─┘        └─ chunk ─┘
//!   encode           └─ header ──┴─ chunk ─┘└ header┴─ chunk ─┘
//! ```
//!
//! Of some bytes a codec knows before they come that they go on as they are, whatever they
//! are: the data of a chunk of HTTP. Between two legs that have nothing else around them
//! these *pass*, without being copied into a workshop, and the codec looks at the rest alone.
//!
//! What the codec itself has to say (a pong, a close, a handshake's last part) are
//! its *words*. They are sent between two frames, by the direction that leads to the
//! leg.

mod chunk;
mod gather;
mod http_body;
mod http_client;
mod masks;
mod websocket;
mod workshop;

use chunk::Chunk;
pub use http_body::HttpBody;
use masks::MaskKeys;
pub use websocket::{Closing, HALF_CLOSE_PROTOCOL, WebSocket};
pub(crate) use workshop::Outgoing;
pub use workshop::Workshop;

use std::ops::Range;

use thiserror::Error;

use super::keepalive::PingSettings;
use crate::protocol::http_head::{ChunkError, HeadError};
use crate::protocol::websocket::{CloseCode, Role, Violation};
use crate::tls::{SealError, Session, Wire};

/// One leg's wrapping.
#[derive(Debug)]
pub struct Codec {
    tls: Option<Box<Session>>,
    websocket: Option<WebSocket>,
    http: Option<HttpBody>,
    /// How the leg's stream stood last.
    heard: Heard,
    /// Looks in a row that found that nothing had come.
    silent_looks: u16,
}

/// How a leg's stream stands after what was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// More may come.
    Open,
    /// The leg says no more.
    Ended,
    /// The leg says no more, and takes no more than what is on its way: a
    /// WebSocket has no half-close.
    Closed,
}

/// What a look at a leg found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Something has come lately.
    Seen,
    /// Nothing has; there may be words that ask for it.
    Asked,
    /// It has not answered.
    Gone,
}

/// Why what a leg sends cannot be decoded.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum CodecError {
    /// What it sends is not TLS, or not for us.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    /// The peer broke WebSocket's rules.
    #[error(transparent)]
    WebSocket(#[from] Violation),
    /// The body of an HTTP request is not what its head says.
    #[error("http: {0}")]
    Chunks(#[from] ChunkError),
    /// What answers is not HTTP.
    #[error(transparent)]
    NotHttp(#[from] HeadError),
    /// The answer to a request of ours is that it is not done.
    #[error("the answer has status {status}")]
    Refused {
        /// RFC 9110 §15.
        status: u16,
    },
    /// Whoever is answered over HTTP says something in between.
    #[error("http: a request before the last one was answered")]
    Unasked,
    /// The connection ended within a frame, a record or a body.
    #[error("the connection ended within a frame, a record or a body")]
    Cut,
}

impl Codec {
    /// The codec of a leg that came over these; `None` when it came over neither.
    #[must_use]
    pub fn new(tls: Option<Box<Session>>, websocket: Option<WebSocket>) -> Option<Box<Self>> {
        let is_any = tls.is_some() || websocket.is_some();
        is_any.then(|| {
            Box::new(Self {
                tls,
                websocket,
                http: None,
                heard: Heard::Open,
                silent_looks: 0,
            })
        })
    }

    /// As [`Self::new`], for a leg from which `early` has come already, opened. Gives
    /// that in the form that [`Workshop::keep`] has.
    ///
    /// # Errors
    ///
    /// When nothing that the leg sends counts any more, or when TLS, whose end may have
    /// come with it, ended where no stream does.
    pub fn begin(
        tls: Option<Box<Session>>,
        websocket: Option<WebSocket>,
        early: Vec<u8>,
    ) -> Result<(Option<Box<Self>>, Vec<u8>), CodecError> {
        let Some(mut codec) = Self::new(tls, websocket) else {
            return Ok((None, early));
        };
        let kept = codec.begin_with(early)?;
        Ok((Some(codec), kept))
    }

    /// As [`Self::begin`], for a leg with an HTTP body, behind its head.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn begin_http(
        tls: Option<Box<Session>>,
        body: HttpBody,
        early: Vec<u8>,
    ) -> Result<(Box<Self>, Vec<u8>), CodecError> {
        let mut codec = Box::new(Self {
            tls,
            websocket: None,
            heard: body.heard(),
            http: Some(body),
            silent_looks: 0,
        });
        let kept = codec.begin_with(early)?;
        Ok((codec, kept))
    }

    /// Takes what came before there was a codec, and sees whether it was all.
    fn begin_with(&mut self, early: Vec<u8>) -> Result<Vec<u8>, CodecError> {
        let kept = self.keep_early(early)?;
        if self.heard == Heard::Open && self.tls.as_ref().is_some_and(|tls| tls.has_ended()) {
            self.end_of_input()?;
        }
        Ok(kept)
    }

    /// Decodes what came from the leg, opened, and now lies at `fresh` in `buffer`;
    /// appends what was found to `chunks`.
    fn decode(
        &mut self,
        buffer: &mut [u8],
        fresh: Range<usize>,
        chunks: &mut Vec<Chunk>,
        masks: &mut MaskKeys,
    ) -> Result<(), CodecError> {
        if let Some(http) = &mut self.http {
            self.heard = http.decode(buffer, fresh, chunks)?;
            return Ok(());
        }
        let Some(websocket) = &mut self.websocket else {
            if !fresh.is_empty() {
                chunks.push(Chunk::plain(fresh));
            }
            return Ok(());
        };
        let heard = websocket.decode(buffer, fresh, chunks, masks)?;
        if heard != Heard::Open {
            self.heard = heard;
        }
        Ok(())
    }

    /// Whether this, which came before an upgrade was granted, is how a WebSocket's
    /// client may begin.
    #[must_use]
    pub fn takes_early(early: &[u8]) -> bool {
        let websocket = WebSocket::new(Role::Server, Closing::BothWays);
        Self::begin(None, Some(websocket), early.to_vec()).is_ok()
    }

    fn keep_early(&mut self, mut early: Vec<u8>) -> Result<Vec<u8>, CodecError> {
        let (mut chunks, mut kept) = (Vec::new(), Vec::new());
        let fresh = 0..early.len();
        self.decode(&mut early, fresh, &mut chunks, &mut MaskKeys::new())?;
        self.keep(&early, &chunks, &mut kept);
        Ok(kept)
    }

    /// Application bytes, in the form that [`Workshop::keep`] has.
    #[must_use]
    pub fn keep_plain(&self, bytes: Vec<u8>) -> Vec<u8> {
        if bytes.is_empty() || self.websocket.is_none() {
            return bytes;
        }
        let mut kept = Vec::new();
        let chunk = Chunk::plain(0..bytes.len());
        self.keep(&bytes, &[chunk], &mut kept);
        kept
    }

    /// As [`Self::decode`], for what was kept, before anything else is decoded.
    fn decode_kept(
        &mut self,
        buffer: &mut [u8],
        kept: Range<usize>,
        chunks: &mut Vec<Chunk>,
    ) -> Result<(), CodecError> {
        match &mut self.websocket {
            Some(websocket) => websocket.decode_kept(buffer, kept, chunks)?,
            None => chunks.push(Chunk::plain(kept)),
        }
        Ok(())
    }

    /// Whether a leg can be asked for a sign of life.
    #[must_use]
    pub const fn can_be_asked(&self) -> bool {
        self.websocket.is_some()
    }

    /// Whether what comes from this leg may go to one with that codec as it is, most of it
    /// unseen.
    #[must_use]
    pub fn passes_to(&self, other: &Self) -> bool {
        let is_plain = self.tls.is_none() && other.tls.is_none();
        let goes = other.http.as_ref().is_some_and(HttpBody::goes_as_it_is);
        is_plain && goes && self.comes_in_long_chunks()
    }

    /// Whether what comes from the leg is worth being skipped.
    #[must_use]
    pub fn comes_in_long_chunks(&self) -> bool {
        let http = self.http.as_ref();
        http.is_some_and(HttpBody::comes_in_long_chunks)
    }

    /// How many of the bytes that come next may pass unseen; what is behind them is to be
    /// looked at.
    #[must_use]
    pub fn unseen_bytes(&self) -> u64 {
        self.http.as_ref().map_or(0, HttpBody::unseen_bytes)
    }

    /// Has so many of them pass.
    pub fn skip(&mut self, bytes: u64) {
        if let Some(http) = &mut self.http {
            http.skip(bytes);
        }
    }

    /// Looks at what passes as it is; gives how much of it belongs to the leg's stream.
    ///
    /// # Errors
    ///
    /// When nothing that the leg sends counts any more.
    pub fn look_at(&mut self, bytes: &[u8]) -> Result<usize, CodecError> {
        let Some(http) = &mut self.http else {
            return Ok(bytes.len());
        };
        let count = http.receive(bytes)?;
        self.heard = http.heard();
        Ok(count)
    }

    /// All that was kept is decoded.
    pub fn end_kept(&mut self) {
        if let Some(websocket) = &mut self.websocket {
            websocket.end_kept();
        }
    }

    /// Appends decoded chunks to `kept`, in a form of its own.
    fn keep(&self, buffer: &[u8], chunks: &[Chunk], kept: &mut Vec<u8>) {
        if self.websocket.is_some() {
            return WebSocket::keep(buffer, chunks, kept);
        }
        for chunk in chunks {
            kept.extend_from_slice(&buffer[chunk.range.clone()]);
        }
    }

    /// Encodes one chunk in place and returns what is to be sent, or sealed.
    ///
    /// # Panics
    ///
    /// When there is no room for a header before the chunk: decoding, and
    /// room before what is not decoded, leave enough for a leg that came
    /// to us. A leg that we dialled masks, and needs more than another codec's gaps:
    /// its pair's other leg has no codec.
    fn encode(&mut self, buffer: &mut [u8], chunk: &Chunk, masks: &mut MaskKeys) -> Range<usize> {
        match (&mut self.websocket, &mut self.http) {
            (Some(websocket), _) => websocket.encode(buffer, chunk, masks),
            (None, Some(http)) => http.encode(buffer, chunk),
            (None, None) => chunk.range.clone(),
        }
    }

    /// The leg's connection came to its end.
    ///
    /// # Errors
    ///
    /// When it ended where no stream does.
    pub fn end_of_input(&mut self) -> Result<Heard, CodecError> {
        if !self.may_go() && self.tls.as_ref().is_some_and(|tls| !tls.may_end_here()) {
            return Err(CodecError::Cut);
        }
        self.heard = match (&mut self.websocket, &self.http) {
            (Some(websocket), _) => websocket.end_of_input()?,
            (None, Some(http)) => http.end_of_input()?,
            // Many end a connection without a word; what they sent counts.
            (None, None) => Heard::Ended,
        };
        Ok(self.heard)
    }

    /// Whether the leg has all that there is for it, and may go as it likes.
    #[must_use]
    pub fn may_go(&self) -> bool {
        self.http.as_ref().is_some_and(HttpBody::may_go)
    }

    /// How the leg's stream stands.
    #[must_use]
    pub const fn heard(&self) -> Heard {
        self.heard
    }

    /// Whether there are words for the leg.
    #[must_use]
    pub fn has_words(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_words())
            || self.websocket.as_ref().is_some_and(WebSocket::has_words)
    }

    /// Has words that were taken and sealed go before anything that is sealed later; false
    /// without TLS, where no record would be missing.
    pub fn put_back_sealed(&mut self, words: &[u8]) -> bool {
        match &mut self.tls {
            Some(tls) => tls.put_back_words(words),
            None => return false,
        }
        true
    }

    /// Takes the words for the leg, and behind them that nothing follows, if
    /// `is_end`.
    ///
    /// # Errors
    ///
    /// When they cannot be sealed.
    fn take_words(
        &mut self,
        is_end: bool,
        masks: &mut MaskKeys,
        wire: &mut Wire,
    ) -> Result<(), SealError> {
        let mut words = Vec::new();
        if let Some(websocket) = &mut self.websocket {
            websocket.take_words(is_end, masks, &mut words);
        }
        if is_end && let Some(http) = &mut self.http {
            http.take_end(&mut words);
        }
        self.wrap(&words, wire)?;
        let is_left = self.leaves_end_to_peer();
        match &mut self.tls {
            // The leg is still to answer that end.
            Some(tls) if is_end && !is_left => tls.close(wire),
            _ => Ok(()),
        }
    }

    /// The last words to a leg that is given up. Those before them are lost.
    fn take_farewell(&mut self, code: CloseCode, masks: &mut MaskKeys, wire: &mut Wire) {
        let mut words = Vec::new();
        if let Some(websocket) = &mut self.websocket {
            websocket.take_farewell(code, masks, &mut words);
        }
        if let Some(http) = &self.http {
            http.take_farewell(&mut words);
        }
        // A connection that failed has its alert among its own words.
        let wrapped = self.wrap(&words, wire);
        if let Some(tls) = &mut self.tls
            && wrapped.is_ok()
        {
            let _ = tls.close(wire);
        }
    }

    /// Wraps bytes that are no application's: an answer, or words.
    ///
    /// # Errors
    ///
    /// When they cannot be sealed.
    pub fn wrap(&mut self, bytes: &[u8], wire: &mut Wire) -> Result<(), SealError> {
        match &mut self.tls {
            Some(tls) if bytes.is_empty() => tls.take_words(wire),
            Some(tls) => return tls.seal(bytes, wire),
            None => wire.push(bytes),
        }
        Ok(())
    }

    /// As [`Self::wrap`], and nothing follows.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn wrap_last(&mut self, bytes: &[u8], wire: &mut Wire) -> Result<(), SealError> {
        self.wrap(bytes, wire)?;
        self.tls.as_mut().map_or(Ok(()), |tls| tls.close(wire))
    }

    /// Something came from the leg.
    const fn note_life(&mut self) {
        self.silent_looks = 0;
    }

    /// Looks whether anything came since the last look, and if not, has words that
    /// ask for it; after some such looks in a row the leg is dead. A leg that cannot
    /// be asked is left alone.
    fn look_for_life(&mut self, ping: PingSettings, masks: &mut MaskKeys) -> Life {
        let Some(websocket) = &mut self.websocket else {
            return Life::Seen;
        };
        let may_ask = ping.is_on && websocket.may_be_asked();
        if !may_ask && !websocket.is_owed_close() {
            return Life::Seen;
        }
        self.silent_looks = self.silent_looks.saturating_add(1);
        match self.silent_looks {
            // It may have come just before the last look.
            1 => Life::Seen,
            2 => {
                websocket.ping(masks);
                Life::Asked
            }
            looks if looks - 2 >= ping.silent_max => Life::Gone,
            _ => Life::Seen,
        }
    }

    /// Whether the leg's connection stays open for writing behind the last words:
    /// the leg, having heard them, ends it.
    #[must_use]
    pub const fn leaves_end_to_peer(&self) -> bool {
        match &self.http {
            Some(http) => http.leaves_end_to_peer(),
            None => self.websocket.is_some(),
        }
    }
}

impl CodecError {
    /// What the leg is told.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::WebSocket(violation) => violation.close_code(),
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}
