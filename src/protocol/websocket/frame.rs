//! The header of a frame, and control frames: RFC 6455 §5.2 and §5.5.

use thiserror::Error;

use super::close::CloseCode;
use super::mask::MaskKey;
use crate::protocol::Progress;

/// The most bytes of a frame's header: two, the longest length, a mask.
pub const HEADER_BYTES_MAX: usize = 14;

/// The most bytes of a control frame's payload: §5.5.
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message that an earlier frame began.
    Continuation,
    /// The first of a message of UTF-8.
    Text,
    /// The first of a message of bytes.
    Binary,
    /// The last that this side says.
    Close,
    /// To be answered with a pong.
    Ping,
    /// Answers a ping, or comes unasked.
    Pong,
}

/// What stands before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub opcode: Opcode,
    /// The message ends with this frame.
    pub is_final: bool,
    /// What the payload is masked with. Clients mask, servers do not: §5.1.
    pub mask: Option<MaskKey>,
    /// At most 2^63 - 1.
    pub payload_bytes: u64,
}

/// Why bytes are not a frame, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A reserved bit is set, and no extension was agreed on.
    #[error("a reserved bit of a websocket frame is set")]
    ReservedBit,
    /// An opcode without a meaning.
    #[error("websocket opcode {opcode} is reserved")]
    ReservedOpcode {
        /// Four bits.
        opcode: u8,
    },
    /// A control frame that is not the only one of its message.
    #[error("a websocket control frame is fragmented")]
    FragmentedControl,
    /// A control frame with a length beyond [`CONTROL_PAYLOAD_BYTES_MAX`].
    #[error("a websocket control frame exceeds {CONTROL_PAYLOAD_BYTES_MAX} bytes")]
    ControlTooLong,
    /// A length that fits in fewer bytes, or has its highest bit set.
    #[error("the length of a websocket frame is not written as it has to be")]
    BadLength,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    /// Control frames may stand between the fragments of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// The seven bits of a length that stands in two bytes more, and in eight.
const LENGTH_IN_TWO: u8 = 126;
const LENGTH_IN_EIGHT: u8 = 127;

impl FrameHeader {
    /// Decodes the header at the start of `bytes`. The payload follows it.
    ///
    /// # Errors
    /// If no continuation of `bytes` could be a frame.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, FrameError> {
        let Some(&first) = bytes.first() else {
            return Ok(Progress::Partial { more_bytes_min: 2 });
        };
        if first & RESERVED != 0 {
            return Err(FrameError::ReservedBit);
        }
        let bits = first & 0x0f;
        let opcode = Opcode::from_bits(bits).ok_or(FrameError::ReservedOpcode { opcode: bits })?;
        let is_final = first & FINAL != 0;
        if opcode.is_control() && !is_final {
            return Err(FrameError::FragmentedControl);
        }
        let Some(&second) = bytes.get(1) else {
            return Ok(Progress::Partial { more_bytes_min: 1 });
        };
        let short = second & !MASKED;
        if opcode.is_control() && short >= LENGTH_IN_TWO {
            return Err(FrameError::ControlTooLong);
        }
        let length_bytes = match short {
            LENGTH_IN_EIGHT => 8,
            LENGTH_IN_TWO => 2,
            _ => 0,
        };
        let is_masked = second & MASKED != 0;
        let consumed = 2 + length_bytes + if is_masked { 4 } else { 0 };
        let Some(fields) = bytes.get(2..consumed) else {
            return Ok(Progress::Partial {
                more_bytes_min: consumed - bytes.len(),
            });
        };
        let (length, mask) = fields.split_at(length_bytes);
        let payload_bytes = match *length {
            [high, low] => Self::length(u16::from_be_bytes([high, low]).into(), 126)?,
            [a, b, c, d, e, f, g, h] => {
                Self::length(u64::from_be_bytes([a, b, c, d, e, f, g, h]), 1 << 16)?
            }
            _ => u64::from(short),
        };
        Ok(Progress::Complete {
            value: Self {
                opcode,
                is_final,
                mask: mask.try_into().ok().map(MaskKey),
                payload_bytes,
            },
            consumed,
        })
    }

    /// §5.2: the fewest bytes that hold a length, and 63 bits of it.
    fn length(length: u64, shortest: u64) -> Result<u64, FrameError> {
        if length < shortest || i64::try_from(length).is_err() {
            return Err(FrameError::BadLength);
        }
        Ok(length)
    }

    /// Encodes the header.
    #[must_use]
    pub fn encode(&self) -> EncodedHeader {
        let mut encoded = EncodedHeader {
            bytes: [0; HEADER_BYTES_MAX],
            len: 0,
        };
        let first = self.opcode.bits() | if self.is_final { FINAL } else { 0 };
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        if let Ok(short @ ..LENGTH_IN_TWO) = u8::try_from(self.payload_bytes) {
            encoded.push(&[first, masked | short]);
        } else if let Ok(length) = u16::try_from(self.payload_bytes) {
            encoded.push(&[first, masked | LENGTH_IN_TWO]);
            encoded.push(&length.to_be_bytes());
        } else {
            encoded.push(&[first, masked | LENGTH_IN_EIGHT]);
            encoded.push(&self.payload_bytes.to_be_bytes());
        }
        if let Some(MaskKey(key)) = self.mask {
            encoded.push(&key);
        }
        encoded
    }
}

/// The bytes of a frame's header.
#[derive(Clone, Copy, Debug)]
pub struct EncodedHeader {
    bytes: [u8; HEADER_BYTES_MAX],
    len: usize,
}

impl EncodedHeader {
    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    /// What goes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What a control frame carries.
#[derive(Clone, Copy)]
pub struct ControlPayload {
    bytes: [u8; CONTROL_PAYLOAD_BYTES_MAX],
    len: usize,
}

impl ControlPayload {
    /// As much of `bytes` as fits.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut payload = Self {
            bytes: [0; CONTROL_PAYLOAD_BYTES_MAX],
            len: bytes.len().min(CONTROL_PAYLOAD_BYTES_MAX),
        };
        payload.bytes[..payload.len].copy_from_slice(&bytes[..payload.len]);
        payload
    }

    /// What was carried.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl PartialEq for ControlPayload {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for ControlPayload {}

/// How many bytes, not which: they are a peer's.
impl std::fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPayload")
            .field("bytes", &self.len)
            .finish()
    }
}

/// A whole control frame, ready for the wire.
#[derive(Clone, Copy, Debug)]
pub struct ControlFrame {
    bytes: [u8; CONTROL_FRAME_BYTES_MAX],
    len: usize,
}

/// Two bytes, a mask and a payload.
const CONTROL_FRAME_BYTES_MAX: usize = 6 + CONTROL_PAYLOAD_BYTES_MAX;

impl ControlFrame {
    /// Asks whether the peer is still there.
    #[must_use]
    pub fn ping(payload: &ControlPayload, mask: Option<MaskKey>) -> Self {
        Self::new(Opcode::Ping, payload.as_bytes(), mask)
    }

    /// Answers a ping with what it carried.
    #[must_use]
    pub fn pong(payload: &ControlPayload, mask: Option<MaskKey>) -> Self {
        Self::new(Opcode::Pong, payload.as_bytes(), mask)
    }

    /// Ends what this side says. Reasons in words are for people, and left out.
    #[must_use]
    pub fn close(code: Option<CloseCode>, mask: Option<MaskKey>) -> Self {
        let code = code.map(|code| code.as_u16().to_be_bytes());
        Self::new(
            Opcode::Close,
            code.as_ref().map_or(&[], |code| &code[..]),
            mask,
        )
    }

    fn new(opcode: Opcode, payload: &[u8], mask: Option<MaskKey>) -> Self {
        let header = FrameHeader {
            opcode,
            is_final: true,
            mask,
            payload_bytes: payload.len() as u64,
        }
        .encode();
        let header = header.as_bytes();
        let mut bytes = [0; CONTROL_FRAME_BYTES_MAX];
        let len = header.len() + payload.len();
        bytes[..header.len()].copy_from_slice(header);
        let body = &mut bytes[header.len()..len];
        body.copy_from_slice(payload);
        if let Some(key) = mask {
            key.apply(body);
        }
        Self { bytes, len }
    }

    /// What goes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: MaskKey = MaskKey([0x37, 0xfa, 0x21, 0x3d]);

    fn header(opcode: Opcode, is_final: bool, mask: bool, payload_bytes: u64) -> FrameHeader {
        FrameHeader {
            opcode,
            is_final,
            mask: mask.then_some(KEY),
            payload_bytes,
        }
    }

    /// Both ways, and cut at every byte.
    fn check(wire: &[u8], expected: FrameHeader) {
        assert_eq!(expected.encode().as_bytes(), wire);
        for cut in 0..wire.len() {
            match FrameHeader::decode(&wire[..cut]) {
                Ok(Progress::Partial { more_bytes_min }) => {
                    assert!((1..=wire.len() - cut).contains(&more_bytes_min));
                }
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
        let mut bytes = wire.to_vec();
        bytes.extend_from_slice(b"payload");
        let complete = Progress::Complete {
            value: expected,
            consumed: wire.len(),
        };
        assert_eq!(FrameHeader::decode(&bytes), Ok(complete));
    }

    #[test]
    fn headers_are_written_as_the_specification_shows_them() {
        // RFC 6455 §5.7.
        check(&[0x81, 0x05], header(Opcode::Text, true, false, 5));
        check(
            &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d],
            header(Opcode::Text, true, true, 5),
        );
        check(&[0x01, 0x03], header(Opcode::Text, false, false, 3));
        check(&[0x80, 0x02], header(Opcode::Continuation, true, false, 2));
        check(
            &[0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d],
            header(Opcode::Pong, true, true, 5),
        );
        check(
            &[0x82, 0x7e, 0x01, 0x00],
            header(Opcode::Binary, true, false, 256),
        );
        check(
            &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0],
            header(Opcode::Binary, true, false, 65536),
        );
        // The edges between the three lengths.
        check(&[0x82, 0x7d], header(Opcode::Binary, true, false, 125));
        check(
            &[0x82, 0x7e, 0x00, 0x7e],
            header(Opcode::Binary, true, false, 126),
        );
        check(
            &[0x82, 0xfe, 0xff, 0xff, 0x37, 0xfa, 0x21, 0x3d],
            header(Opcode::Binary, true, true, 65535),
        );
        check(
            &[0x02, 0x7f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            header(Opcode::Binary, false, false, (1 << 63) - 1),
        );
    }

    #[test]
    fn what_is_no_frame_is_refused_as_soon_as_it_shows() {
        for (wire, expected) in [
            (&[0xc1][..], FrameError::ReservedBit),
            (&[0xa1], FrameError::ReservedBit),
            (&[0x91], FrameError::ReservedBit),
            (&[0x83], FrameError::ReservedOpcode { opcode: 3 }),
            (&[0x8f], FrameError::ReservedOpcode { opcode: 15 }),
            (&[0x09], FrameError::FragmentedControl),
            (&[0x89, 0x7e], FrameError::ControlTooLong),
            (&[0x88, 0xff], FrameError::ControlTooLong),
            (&[0x82, 0x7e, 0, 125], FrameError::BadLength),
            (
                &[0x82, 0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
                FrameError::BadLength,
            ),
            (
                &[0x82, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0],
                FrameError::BadLength,
            ),
        ] {
            assert_eq!(FrameHeader::decode(wire), Err(expected), "{wire:x?}");
            let cut = FrameHeader::decode(&wire[..wire.len() - 1]);
            assert!(matches!(cut, Ok(Progress::Partial { .. })), "{wire:x?}");
        }
    }

    #[test]
    fn control_frames_are_written_whole() {
        // RFC 6455 §5.7: an unmasked ping and its masked pong.
        let hello = ControlPayload::new(b"Hello");
        assert_eq!(
            ControlFrame::ping(&hello, None).as_bytes(),
            b"\x89\x05Hello"
        );
        assert_eq!(
            ControlFrame::pong(&hello, Some(KEY)).as_bytes(),
            b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
        );
        let close = ControlFrame::close(Some(CloseCode::GOING_AWAY), None);
        assert_eq!(close.as_bytes(), b"\x88\x02\x03\xe9");
        assert_eq!(ControlFrame::close(None, None).as_bytes(), b"\x88\x00");
        let longest = ControlPayload::new(&[7; 200]);
        let ping = ControlFrame::ping(&longest, Some(KEY));
        assert_eq!(ping.as_bytes().len(), CONTROL_FRAME_BYTES_MAX);
    }
}
