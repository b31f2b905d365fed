//! What a peer sends, piece by piece and in place: RFC 6455 §5 and §6.2.
//!
//! ```text
//!            header                    payload, cut anywhere
//!   Header ─────────> Data or Control ───────────────────────> Header
//!                                  └── a Close ──> Closed (what follows is ignored)
//! ```
//!
//! Messages are not gathered: their pieces are handed out as they come, unmasked
//! where they lie, each told whether it is the first or the last of its message.
//! So memory per connection does not depend on what a peer sends.

use thiserror::Error;

use super::close::CloseCode;
use super::frame::{ControlPayload, FrameError, FrameHeader, Opcode};
use super::mask::MaskKey;
use super::utf8::{NotUtf8, Utf8Check};
use crate::protocol::Progress;

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that was dialled: its peer masks.
    Server,
    /// The one that dialled: its peer does not.
    Client,
}

/// What a message consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8, checked.
    Text,
    /// Any bytes.
    Binary,
}

/// A piece of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'bytes> {
    /// Of the whole message.
    pub kind: Kind,
    /// Nothing of the message came before.
    pub is_first: bool,
    /// The message ends with it.
    pub is_last: bool,
    /// Unmasked. Empty only where a frame is.
    pub payload: &'bytes mut [u8],
}

/// Something that the peer said.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'bytes> {
    /// Application data.
    Data(Piece<'bytes>),
    /// To be answered with a pong that carries the same.
    Ping(ControlPayload),
    /// The answer to a ping, or none.
    Pong(ControlPayload),
    /// The peer says no more. To be answered with a Close.
    Close(Option<CloseCode>),
}

/// How far [`Receiver::receive`] came.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<'bytes> {
    /// `None`: all bytes were taken, and more are needed.
    pub item: Option<Item<'bytes>>,
    /// Bytes that were taken. Without an item: all of them.
    pub consumed: usize,
}

/// How the peer broke the protocol. Nothing that it sends counts any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A client that does not mask: §5.1.
    #[error("a websocket client sent a frame without a mask")]
    Unmasked,
    /// A server that masks: §5.1.
    #[error("a websocket server sent a masked frame")]
    Masked,
    /// A continuation of no message: §5.4.
    #[error("a websocket continuation frame continues nothing")]
    NothingToContinue,
    /// A message that begins before the last one ended: §5.4.
    #[error("a websocket message begins within another")]
    MessageWithinMessage,
    /// Text, or the reason of a Close, that is not UTF-8: §8.1.
    #[error("websocket text is not utf-8")]
    NotUtf8,
    /// A Close with one byte, or with a code that no frame may carry: §7.4.
    #[error("the code of a websocket close frame is not one that may be sent")]
    BadCloseCode,
}

impl Violation {
    /// What to close the connection with.
    #[must_use]
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::NotUtf8 => CloseCode::INVALID_DATA,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}

impl From<NotUtf8> for Violation {
    fn from(_: NotUtf8) -> Self {
        Self::NotUtf8
    }
}

/// Where a peer's stream of frames stands.
#[derive(Debug)]
pub struct Receiver {
    role: Role,
    stage: Stage,
    /// The message that is under way, whose frames others may stand between.
    message: Option<Message>,
    /// What came of a header, or of a control frame's payload, that is cut.
    begun: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    kind: Kind,
    text: Utf8Check,
    is_begun: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Header,
    Data {
        bytes_left: u64,
        mask: Option<MaskKey>,
        is_final: bool,
    },
    Control {
        opcode: Opcode,
        payload_bytes: usize,
        mask: Option<MaskKey>,
    },
    Closed,
}

impl Receiver {
    /// Nothing came yet.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self {
            role,
            stage: Stage::Header,
            message: None,
            begun: Vec::new(),
        }
    }

    /// Whether nothing has begun that did not end: no message and no frame.
    #[must_use]
    pub const fn may_end_here(&self) -> bool {
        match self.stage {
            Stage::Header => self.message.is_none() && self.begun.is_empty(),
            Stage::Data { .. } | Stage::Control { .. } => false,
            Stage::Closed => true,
        }
    }

    /// Takes the next item from `bytes`; call again with the rest until there is
    /// none.
    ///
    /// # Errors
    /// If the peer broke the protocol. It is told with a Close.
    pub fn receive<'bytes>(
        &mut self,
        bytes: &'bytes mut [u8],
    ) -> Result<Received<'bytes>, Violation> {
        let mut consumed = 0;
        loop {
            let rest = &bytes[consumed..];
            match self.stage {
                Stage::Header => {
                    let (header, taken) = self.take_header(rest)?;
                    consumed += taken;
                    let Some(header) = header else { break };
                    self.begin_frame(header)?;
                }
                Stage::Data { bytes_left, .. } => {
                    if rest.is_empty() && bytes_left > 0 {
                        break;
                    }
                    let (_, payload) = bytes.split_at_mut(consumed);
                    let piece = self.take_piece(payload)?;
                    consumed += piece.payload.len();
                    return Ok(Received {
                        item: Some(Item::Data(piece)),
                        consumed,
                    });
                }
                Stage::Control {
                    opcode,
                    payload_bytes,
                    mask,
                } => {
                    let wanted = payload_bytes - self.begun.len();
                    let came = &rest[..wanted.min(rest.len())];
                    self.begun.extend_from_slice(came);
                    consumed += came.len();
                    if came.len() < wanted {
                        break;
                    }
                    let mut payload = std::mem::take(&mut self.begun);
                    if let Some(mask) = mask {
                        mask.apply(&mut payload);
                    }
                    let item = self.end_control(opcode, &payload)?;
                    return Ok(Received {
                        item: Some(item),
                        consumed,
                    });
                }
                Stage::Closed => {
                    consumed = bytes.len();
                    break;
                }
            }
        }
        Ok(Received {
            item: None,
            consumed,
        })
    }

    /// The header that stands at the start of what has begun and `bytes`, and how
    /// many of these it takes.
    fn take_header(&mut self, bytes: &[u8]) -> Result<(Option<FrameHeader>, usize), Violation> {
        let mut taken = 0;
        if self.begun.is_empty() {
            match FrameHeader::decode(bytes)? {
                Progress::Complete { value, consumed } => return Ok((Some(value), consumed)),
                Progress::Partial { .. } => {
                    self.begun.extend_from_slice(bytes);
                    return Ok((None, bytes.len()));
                }
            }
        }
        loop {
            match FrameHeader::decode(&self.begun)? {
                Progress::Complete { value, .. } => {
                    self.begun = Vec::new();
                    return Ok((Some(value), taken));
                }
                Progress::Partial { more_bytes_min } => {
                    let rest = &bytes[taken..];
                    let came = &rest[..more_bytes_min.min(rest.len())];
                    if came.is_empty() {
                        return Ok((None, taken));
                    }
                    self.begun.extend_from_slice(came);
                    taken += came.len();
                }
            }
        }
    }

    fn begin_frame(&mut self, header: FrameHeader) -> Result<(), Violation> {
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(Violation::Unmasked),
            (Role::Client, Some(_)) => return Err(Violation::Masked),
            (Role::Server, Some(_)) | (Role::Client, None) => {}
        }
        let kind = match header.opcode {
            Opcode::Text => Some(Kind::Text),
            Opcode::Binary => Some(Kind::Binary),
            Opcode::Continuation => None,
            opcode @ (Opcode::Close | Opcode::Ping | Opcode::Pong) => {
                self.stage = Stage::Control {
                    opcode,
                    payload_bytes: usize::try_from(header.payload_bytes)
                        .map_err(|_| FrameError::ControlTooLong)?,
                    mask: header.mask,
                };
                return Ok(());
            }
        };
        match (kind, self.message.is_some()) {
            (Some(_), true) => return Err(Violation::MessageWithinMessage),
            (None, false) => return Err(Violation::NothingToContinue),
            (Some(kind), false) => {
                self.message = Some(Message {
                    kind,
                    text: Utf8Check::default(),
                    is_begun: false,
                });
            }
            (None, true) => {}
        }
        self.stage = Stage::Data {
            bytes_left: header.payload_bytes,
            mask: header.mask,
            is_final: header.is_final,
        };
        Ok(())
    }

    /// The payload at the start of `bytes`, as far as it came.
    fn take_piece<'bytes>(&mut self, bytes: &'bytes mut [u8]) -> Result<Piece<'bytes>, Violation> {
        let (
            Stage::Data {
                bytes_left,
                mask,
                is_final,
            },
            Some(message),
        ) = (&mut self.stage, &mut self.message)
        else {
            unreachable!("only called within the payload of a message");
        };
        let count = usize::try_from(*bytes_left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (payload, _) = bytes.split_at_mut(count);
        if let Some(key) = mask {
            key.apply(payload);
            *key = key.advance(count);
        }
        if message.kind == Kind::Text {
            message.text.push(payload)?;
        }
        *bytes_left -= count as u64;
        let ends_frame = *bytes_left == 0;
        let is_last = ends_frame && *is_final;
        let piece = Piece {
            kind: message.kind,
            is_first: !std::mem::replace(&mut message.is_begun, true),
            is_last,
            payload,
        };
        if is_last {
            message.text.end()?;
            self.message = None;
        }
        if ends_frame {
            self.stage = Stage::Header;
        }
        Ok(piece)
    }

    fn end_control<'bytes>(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
    ) -> Result<Item<'bytes>, Violation> {
        self.stage = Stage::Header;
        Ok(match opcode {
            Opcode::Ping => Item::Ping(ControlPayload::new(payload)),
            Opcode::Pong => Item::Pong(ControlPayload::new(payload)),
            _ => {
                let code = close_code(payload)?;
                self.stage = Stage::Closed;
                Item::Close(code)
            }
        })
    }
}

fn close_code(payload: &[u8]) -> Result<Option<CloseCode>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::BadCloseCode),
        &[high, low, ref reason @ ..] => {
            let code = CloseCode::from_wire(u16::from_be_bytes([high, low]))
                .ok_or(Violation::BadCloseCode)?;
            std::str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok(Some(code))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: MaskKey = MaskKey([9, 8, 7, 6]);

    fn frame(opcode: Opcode, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            opcode,
            is_final,
            mask: Some(KEY),
            payload_bytes: payload.len() as u64,
        };
        let mut wire = header.encode().as_bytes().to_vec();
        let start = wire.len();
        wire.extend_from_slice(payload);
        KEY.apply(&mut wire[start..]);
        wire
    }

    fn whole(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        frame(opcode, true, payload)
    }

    /// What was said, with the pieces of a message put together.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Said {
        Message(Kind, Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<u16>),
        Broken(Violation),
    }

    fn listen(pieces: &[&[u8]]) -> Vec<Said> {
        let mut receiver = Receiver::new(Role::Server);
        let mut said = Vec::new();
        let mut message = Vec::new();
        let mut is_within = false;
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let mut rest = &mut bytes[..];
            loop {
                let length = rest.len();
                let Received { item, consumed } = match receiver.receive(rest) {
                    Ok(received) => received,
                    Err(violation) => {
                        said.push(Said::Broken(violation));
                        return said;
                    }
                };
                match item {
                    None => {
                        assert_eq!(consumed, length, "all is taken");
                        break;
                    }
                    Some(Item::Data(piece)) => {
                        assert_eq!(piece.is_first, !is_within);
                        is_within = !piece.is_last;
                        message.extend_from_slice(piece.payload);
                        if piece.is_last {
                            said.push(Said::Message(piece.kind, std::mem::take(&mut message)));
                        }
                    }
                    Some(Item::Ping(payload)) => said.push(Said::Ping(payload.as_bytes().into())),
                    Some(Item::Pong(payload)) => said.push(Said::Pong(payload.as_bytes().into())),
                    Some(Item::Close(code)) => {
                        said.push(Said::Close(code.map(CloseCode::as_u16)));
                    }
                }
                rest = &mut std::mem::take(&mut rest)[consumed..];
            }
        }
        said
    }

    /// Whole, cut at every byte, and byte by byte.
    fn check(wire: &[u8], expected: &[Said]) {
        assert_eq!(listen(&[wire]), expected);
        for cut in 0..=wire.len() {
            let (first, second) = wire.split_at(cut);
            assert_eq!(listen(&[first, second]), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(listen(&bytes), expected, "byte by byte");
    }

    #[test]
    fn messages_arrive_however_they_are_cut() {
        let text = |text: &str| Said::Message(Kind::Text, text.as_bytes().to_vec());
        check(&whole(Opcode::Text, "κόσμε".as_bytes()), &[text("κόσμε")]);
        check(
            &[
                whole(Opcode::Text, b"one"),
                whole(Opcode::Binary, b"\xff\0"),
            ]
            .concat(),
            &[text("one"), Said::Message(Kind::Binary, b"\xff\0".to_vec())],
        );
        check(&whole(Opcode::Text, b""), &[text("")]);
        check(
            &whole(Opcode::Binary, &[5; 300]),
            &[Said::Message(Kind::Binary, vec![5; 300])],
        );
        // A character may be cut by the frames as well; a ping may stand between.
        let (start, end) = "aκz".as_bytes().split_at(2);
        check(
            &[
                frame(Opcode::Text, false, start),
                whole(Opcode::Ping, b"there?"),
                frame(Opcode::Continuation, true, end),
                whole(Opcode::Pong, b""),
            ]
            .concat(),
            &[
                Said::Ping(b"there?".to_vec()),
                text("aκz"),
                Said::Pong(Vec::new()),
            ],
        );
    }

    #[test]
    fn what_follows_a_close_is_ignored() {
        check(
            &[
                whole(Opcode::Close, &[0x03, 0xe8, b'b', b'y', b'e']),
                b"\xff\xff\xffgarbage".to_vec(),
            ]
            .concat(),
            &[Said::Close(Some(1000))],
        );
        check(&whole(Opcode::Close, b""), &[Said::Close(None)]);
    }

    #[test]
    fn a_broken_protocol_is_told_by_its_name() {
        let broken = |violation| [Said::Broken(violation)];
        check(b"\x82\x01a", &broken(Violation::Unmasked));
        check(
            &whole(Opcode::Continuation, b"a"),
            &broken(Violation::NothingToContinue),
        );
        check(
            &[frame(Opcode::Text, false, b""), whole(Opcode::Binary, b"a")].concat(),
            &broken(Violation::MessageWithinMessage),
        );
        check(&whole(Opcode::Text, b"\xff"), &broken(Violation::NotUtf8));
        check(&whole(Opcode::Text, b"\xce"), &broken(Violation::NotUtf8));
        for (payload, violation) in [
            (&b"\x03"[..], Violation::BadCloseCode),
            (b"\x03\xed", Violation::BadCloseCode),
            (b"\x03\xe8\xff", Violation::NotUtf8),
        ] {
            check(&whole(Opcode::Close, payload), &broken(violation));
        }
        check(
            b"\xf2\x80",
            &broken(Violation::Frame(FrameError::ReservedBit)),
        );
        let mut receiver = Receiver::new(Role::Client);
        let masked = receiver.receive(&mut whole(Opcode::Text, b"a")).map(|_| ());
        assert_eq!(masked, Err(Violation::Masked));
        assert_eq!(Violation::NotUtf8.close_code(), CloseCode::INVALID_DATA);
        assert_eq!(Violation::Masked.close_code(), CloseCode::PROTOCOL_ERROR);
    }

    #[test]
    fn a_connection_at_rest_holds_no_memory_beside_its_own() {
        let mut receiver = Receiver::new(Role::Server);
        let wire = [
            whole(Opcode::Ping, &[1; 125]),
            whole(Opcode::Binary, &[2; 4096]),
        ]
        .concat();
        for byte in wire {
            receiver.receive(&mut [byte]).unwrap();
        }
        assert!(receiver.may_end_here());
        assert_eq!(receiver.begun.capacity(), 0);
    }
}
