//! WebSocket as a leg's wrapping: RFC 6455.
//!
//! A message that comes in pieces goes on in pieces, each a frame, and keeps its
//! kind and its end where the other leg has messages too. Pings are answered here;
//! a Close ends the stream both ways.

use std::ops::Range;

use super::chunk::Chunk;
use super::masks::MaskKeys;
use super::{CodecError, Heard};
use crate::protocol::websocket::{
    CloseCode, ControlFrame, ControlPayload, FrameHeader, Item, Kind, MaskKey, Opcode, Receiver,
    Role, Violation,
};

/// Words that wait for their turn, at most. Of pings beyond that only the latest is
/// answered, as RFC 6455 §5.5.3 allows.
const WORDS_BYTES_MAX: usize = 4 << 10;

/// One leg's frames, both ways.
#[derive(Debug)]
pub struct WebSocket {
    role: Role,
    receiver: Receiver,
    /// Reads again what was kept, which is not masked.
    kept: Option<Box<Receiver>>,
    /// Control frames for the peer.
    words: Vec<u8>,
    /// What the peer closed with; to be echoed.
    close_heard: Option<CloseCode>,
    /// The peer hears nothing any more, or was told that nothing follows.
    is_mute: bool,
    close: Closing,
}

/// What a Close means. The answer to it may wait until all that was on its way is
/// sent (§5.5.1), so that both are WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The end of both streams, as for every other peer.
    BothWays,
    /// The end of the one that it comes in: between two of us.
    OneWay,
}

/// The sub-protocol by which two of us agree that a Close is the end of one stream.
pub const HALF_CLOSE_PROTOCOL: &str = "half-close.midspan";

impl Closing {
    /// What was agreed on with this sub-protocol.
    #[must_use]
    pub fn agreed_on(protocol: Option<&str>) -> Self {
        match protocol {
            Some(HALF_CLOSE_PROTOCOL) => Self::OneWay,
            _ => Self::BothWays,
        }
    }
}

impl WebSocket {
    /// A connection whose opening handshake is over.
    #[must_use]
    pub const fn new(role: Role, close: Closing) -> Self {
        Self {
            role,
            receiver: Receiver::new(role),
            kept: None,
            words: Vec::new(),
            close_heard: None,
            is_mute: false,
            close,
        }
    }

    pub(super) fn decode(
        &mut self,
        buffer: &mut [u8],
        fresh: Range<usize>,
        chunks: &mut Vec<Chunk>,
        masks: &mut MaskKeys,
    ) -> Result<Heard, Violation> {
        let mut start = fresh.start;
        loop {
            let received = self.receiver.receive(&mut buffer[start..fresh.end])?;
            let end = start + received.consumed;
            match received.item {
                Some(Item::Data(piece)) => chunks.push(Chunk {
                    range: end - piece.payload.len()..end,
                    kind: piece.kind,
                    is_first: piece.is_first,
                    is_last: piece.is_last,
                }),
                Some(Item::Ping(payload)) => {
                    let pong = ControlFrame::pong(&payload, self.mask(masks));
                    self.say(&pong);
                }
                Some(Item::Pong(_)) => {}
                Some(Item::Close(code)) => {
                    self.close_heard = code;
                    return Ok(match self.close {
                        Closing::BothWays => Heard::Closed,
                        Closing::OneWay => Heard::Ended,
                    });
                }
                None => return Ok(Heard::Open),
            }
            start = end;
        }
    }

    pub(super) fn decode_kept(
        &mut self,
        buffer: &mut [u8],
        kept: Range<usize>,
        chunks: &mut Vec<Chunk>,
    ) -> Result<(), Violation> {
        let mut start = kept.start;
        let receiver = self
            .kept
            .get_or_insert_with(|| Box::new(Receiver::new(Role::Client)));
        loop {
            let received = receiver.receive(&mut buffer[start..kept.end])?;
            let end = start + received.consumed;
            let Some(Item::Data(piece)) = received.item else {
                return Ok(());
            };
            chunks.push(Chunk {
                range: end - piece.payload.len()..end,
                kind: piece.kind,
                is_first: piece.is_first,
                is_last: piece.is_last,
            });
            start = end;
        }
    }

    /// All that was kept is decoded.
    pub(super) fn end_kept(&mut self) {
        self.kept = None;
    }

    /// As frames without masks, which is half the work to read again.
    pub(super) fn keep(buffer: &[u8], chunks: &[Chunk], kept: &mut Vec<u8>) {
        for chunk in chunks {
            kept.extend_from_slice(header(chunk, None).encode().as_bytes());
            kept.extend_from_slice(&buffer[chunk.range.clone()]);
        }
    }

    pub(super) fn encode(
        &mut self,
        buffer: &mut [u8],
        chunk: &Chunk,
        masks: &mut MaskKeys,
    ) -> Range<usize> {
        let mask = self.mask(masks);
        if let Some(key) = mask {
            key.apply(&mut buffer[chunk.range.clone()]);
        }
        let encoded = header(chunk, mask).encode();
        let header = encoded.as_bytes();
        let start = chunk.range.start - header.len();
        buffer[start..chunk.range.start].copy_from_slice(header);
        start..chunk.range.end
    }

    pub(super) fn end_of_input(&mut self) -> Result<Heard, CodecError> {
        self.is_mute = true;
        match self.receiver.may_end_here() {
            true => Ok(Heard::Closed),
            false => Err(CodecError::Cut),
        }
    }

    pub(super) const fn has_words(&self) -> bool {
        !self.words.is_empty() && !self.is_mute
    }

    pub(super) fn take_words(&mut self, is_end: bool, masks: &mut MaskKeys, wire: &mut Vec<u8>) {
        let words = std::mem::take(&mut self.words);
        if self.is_mute {
            return;
        }
        wire.extend_from_slice(&words);
        if is_end {
            let code = self.close_heard.unwrap_or(CloseCode::NORMAL);
            self.take_farewell(code, masks, wire);
        }
    }

    pub(super) fn take_farewell(
        &mut self,
        code: CloseCode,
        masks: &mut MaskKeys,
        wire: &mut Vec<u8>,
    ) {
        if !self.is_mute {
            let close = ControlFrame::close(Some(code), self.mask(masks));
            wire.extend_from_slice(close.as_bytes());
            self.is_mute = true;
        }
    }

    pub(super) fn ping(&mut self, masks: &mut MaskKeys) {
        if !self.is_mute {
            let ping = ControlFrame::ping(&ControlPayload::new(&[]), self.mask(masks));
            self.say(&ping);
        }
    }

    /// Whether the peer was told that nothing follows, and owes us its end.
    pub(super) const fn is_owed_close(&self) -> bool {
        self.is_mute && matches!(self.close, Closing::BothWays)
    }

    /// Whether the peer may be asked for a sign of life.
    pub(super) const fn may_be_asked(&self) -> bool {
        !self.is_mute
    }

    fn say(&mut self, frame: &ControlFrame) {
        if self.words.len() + frame.as_bytes().len() > WORDS_BYTES_MAX {
            self.words.clear();
        }
        self.words.extend_from_slice(frame.as_bytes());
    }

    /// Clients mask: §5.1.
    fn mask(&self, masks: &mut MaskKeys) -> Option<MaskKey> {
        (self.role == Role::Client).then(|| masks.next_key())
    }
}

fn header(chunk: &Chunk, mask: Option<MaskKey>) -> FrameHeader {
    let opcode = match (chunk.is_first, chunk.kind) {
        (true, Kind::Text) => Opcode::Text,
        (true, Kind::Binary) => Opcode::Binary,
        (false, _) => Opcode::Continuation,
    };
    FrameHeader {
        opcode,
        is_final: chunk.is_last,
        mask,
        payload_bytes: chunk.range.len() as u64,
    }
}
