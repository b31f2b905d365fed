//! What a leg's bytes are wrapped in, taken off and put on without a system call.
//!
//! A [`Codec`] is one leg's. What came from the leg is decoded where it lies, into
//! [`Chunk`]s of application bytes; what goes to the leg is encoded where it lies,
//! its headers written into the gaps that decoding left between the chunks. So
//! between a read and a write no byte is copied but to close a gap:
//!
//! ```text
//!   work buffer  │ room │ header │ payload │ header │ payload │ ...   as it came
//!   decode                       └─ chunk ─┘        └─ chunk ─┘
//!   encode           └─ header ──┴─ chunk ─┘└ header┴─ chunk ─┘       what is sent
//! ```
//!
//! What the codec itself has to say (a pong, a close) are its *words*. They are
//! sent between two frames, by the direction that leads to the leg.

mod chunk;
mod gather;
mod masks;
mod websocket;

pub use chunk::{Chunk, ROOM_BYTES};
pub(crate) use gather::Gather;
pub use masks::MaskKeys;
pub use websocket::WebSocket;

use std::ops::Range;

use thiserror::Error;

use crate::protocol::websocket::{CloseCode, Violation};

/// One leg's wrapping.
#[derive(Debug)]
pub struct Codec {
    websocket: WebSocket,
    /// How the leg's stream stood last.
    heard: Heard,
    /// Looks in a row that found that nothing had come.
    silent_looks: u8,
}

/// How a leg's stream stands after what was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// More may come.
    Open,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The peer broke WebSocket's rules.
    #[error(transparent)]
    WebSocket(#[from] Violation),
    /// The connection ended within a frame.
    #[error("the connection ended within a frame")]
    Cut,
}

impl Codec {
    /// A leg that was upgraded to WebSocket.
    #[must_use]
    pub const fn websocket(websocket: WebSocket) -> Self {
        Self {
            websocket,
            heard: Heard::Open,
            silent_looks: 0,
        }
    }

    /// Decodes what came from the leg and now lies at `fresh` in `buffer`; appends
    /// what was found to `chunks`.
    ///
    /// # Errors
    ///
    /// When nothing that the leg sends counts any more. What was found before is
    /// in `chunks`.
    pub fn decode(
        &mut self,
        buffer: &mut [u8],
        fresh: Range<usize>,
        chunks: &mut Vec<Chunk>,
        masks: &mut MaskKeys,
    ) -> Result<Heard, CodecError> {
        if self.heard == Heard::Open {
            self.heard = self.websocket.decode(buffer, fresh, chunks, masks)?;
        }
        Ok(self.heard)
    }

    /// The same for what [`Self::keep`] has kept, before anything else is decoded.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`].
    pub fn decode_kept(
        &mut self,
        buffer: &mut [u8],
        kept: Range<usize>,
        chunks: &mut Vec<Chunk>,
    ) -> Result<(), CodecError> {
        Ok(self.websocket.decode_kept(buffer, kept, chunks)?)
    }

    /// All that was kept is decoded.
    pub fn end_kept(&mut self) {
        self.websocket.end_kept();
    }

    /// Appends decoded chunks to `kept`, in a form of its own, for a leg that is
    /// read before there is anybody to send it to.
    pub fn keep(buffer: &[u8], chunks: &[Chunk], kept: &mut Vec<u8>) {
        WebSocket::keep(buffer, chunks, kept);
    }

    /// Encodes one chunk in place and returns what is to be sent.
    ///
    /// # Panics
    ///
    /// When there is no room for a header before the chunk: decoding, and
    /// [`ROOM_BYTES`] before what is not decoded, leave enough for a leg that came
    /// to us. A leg that we dialled masks, and needs more than another codec's gaps:
    /// its pair's other leg has no codec.
    pub fn encode(
        &mut self,
        buffer: &mut [u8],
        chunk: &Chunk,
        masks: &mut MaskKeys,
    ) -> Range<usize> {
        self.websocket.encode(buffer, chunk, masks)
    }

    /// The leg's connection came to its end.
    ///
    /// # Errors
    ///
    /// When it ended where no stream does.
    pub fn end_of_input(&mut self) -> Result<Heard, CodecError> {
        self.heard = self.websocket.end_of_input()?;
        Ok(self.heard)
    }

    /// How the leg's stream stands.
    #[must_use]
    pub const fn heard(&self) -> Heard {
        self.heard
    }

    /// Whether there are words for the leg.
    #[must_use]
    pub fn has_words(&self) -> bool {
        self.websocket.has_words()
    }

    /// Takes the words for the leg, into `wire`, and behind them that nothing
    /// follows, if `is_end`.
    pub fn take_words(&mut self, is_end: bool, masks: &mut MaskKeys, wire: &mut Vec<u8>) {
        self.websocket.take_words(is_end, masks, wire);
    }

    /// The last words to a leg that is given up, into `wire`.
    pub fn take_farewell(&mut self, code: CloseCode, masks: &mut MaskKeys, wire: &mut Vec<u8>) {
        self.websocket.take_farewell(code, masks, wire);
    }

    /// Something came from the leg.
    pub const fn note_life(&mut self) {
        self.silent_looks = 0;
    }

    /// Looks whether anything came since the last look, and if not, has words that
    /// ask for it. After `silent_max` of such looks in a row it says that the leg is
    /// dead.
    pub fn look_for_life(&mut self, silent_max: u8, masks: &mut MaskKeys) -> Life {
        self.silent_looks = self.silent_looks.saturating_add(1);
        match self.silent_looks {
            1 => Life::Seen,
            looks if looks > silent_max.saturating_add(1) => Life::Gone,
            _ => {
                self.websocket.ping(masks);
                Life::Asked
            }
        }
    }

    /// Whether the leg's connection stays open for writing behind the last words:
    /// the leg, having heard them, ends it.
    #[must_use]
    pub const fn leaves_end_to_peer(&self) -> bool {
        true
    }
}

impl CodecError {
    /// What the leg is told.
    #[must_use]
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::WebSocket(violation) => violation.close_code(),
            Self::Cut => CloseCode::PROTOCOL_ERROR,
        }
    }
}
