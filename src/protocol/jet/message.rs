//! JET_PACKET, the envelope of requests and replies: `[JET-PROTO]` 2.2.1.1.
//! The diagram is in the doc of [`super`].
//!
//! Left out: a meaning for `flags`. It is sent as 0 and ignored, as peers do.

use std::fmt;

use thiserror::Error;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::HOST_NAME_BYTES_MAX;
use crate::protocol::Progress;

/// The first bytes of every packet.
pub const SIGNATURE: [u8; 4] = *b"JET\0";

/// Bytes before the payload; the smallest value of the size field.
pub const PACKET_HEADER_BYTES: usize = 8;

/// The most bytes of a packet that is decoded, its header included. The size
/// field could say 65535, but what peers send is under 170.
pub const PACKET_BYTES_MAX: usize = 4096;

const PAYLOAD_BYTES_MAX: usize = PACKET_BYTES_MAX - PACKET_HEADER_BYTES;

/// The most bytes of a packet that is encoded.
const ENCODED_BYTES_MAX: usize = 512;

/// What an encoder writes around a host name: header, start line, every
/// header's name, both ids. The tests of the encoders hold this figure.
const AROUND_HOST_NAME_BYTES_MAX: usize = 176;

const _: () = assert!(AROUND_HOST_NAME_BYTES_MAX + HOST_NAME_BYTES_MAX <= ENCODED_BYTES_MAX);
const _: () = assert!(ENCODED_BYTES_MAX <= PACKET_BYTES_MAX);

/// Why bytes are not a packet, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// The first bytes are not [`SIGNATURE`].
    #[error("packet does not begin with the jet signature")]
    BadSignature,
    /// The size does not even cover the header.
    #[error("packet size is below {PACKET_HEADER_BYTES} bytes: {size}")]
    TooShort {
        /// The size field.
        size: u16,
    },
    /// The size is above our limit.
    #[error("packet size exceeds {PACKET_BYTES_MAX} bytes: {size}")]
    TooLong {
        /// The size field.
        size: u16,
    },
}

/// One encoded packet: write it with one write.
#[derive(Clone)]
pub struct Packet {
    bytes: [u8; ENCODED_BYTES_MAX],
    len: usize,
}

impl Packet {
    /// The whole packet, header included.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Packet {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// The length alone: ids in a packet are credentials.
impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// A packet that arrived, its payload still masked.
#[derive(Clone, Copy)]
pub(super) struct MaskedPacket<'bytes> {
    pub(super) mask: u8,
    masked: &'bytes [u8],
}

impl<'bytes> MaskedPacket<'bytes> {
    /// Decodes the packet at the start of `bytes`. A wrong signature is told
    /// from its first wrong byte on, a wrong size as soon as it is there.
    pub(super) fn decode(bytes: &'bytes [u8]) -> Result<Progress<Self>, PacketError> {
        if bytes
            .iter()
            .zip(SIGNATURE)
            .any(|(&came, wanted)| came != wanted)
        {
            return Err(PacketError::BadSignature);
        }
        let &[_, _, _, _, size_high, size_low, ..] = bytes else {
            return Ok(Progress::Partial {
                more_bytes_min: PACKET_HEADER_BYTES - bytes.len(),
            });
        };
        let size = u16::from_be_bytes([size_high, size_low]);
        let consumed = usize::from(size);
        if consumed < PACKET_HEADER_BYTES {
            return Err(PacketError::TooShort { size });
        }
        if consumed > PACKET_BYTES_MAX {
            return Err(PacketError::TooLong { size });
        }
        let Some(&[_, _, _, _, _, _, _flags, mask, ref masked @ ..]) = bytes.get(..consumed) else {
            return Ok(Progress::Partial {
                more_bytes_min: consumed - bytes.len(),
            });
        };
        Ok(Progress::Complete {
            value: Self { mask, masked },
            consumed,
        })
    }

    /// Writes the payload into `scratch` and returns it.
    pub(super) fn unmask<'scratch>(&self, scratch: &'scratch mut Scratch) -> &'scratch [u8] {
        let payload = &mut scratch.0[..self.masked.len()];
        for (plain, masked) in payload.iter_mut().zip(self.masked) {
            *plain = masked ^ self.mask;
        }
        payload
    }
}

/// Room for the longest payload, on the stack of the decoder.
pub(super) struct Scratch([u8; PAYLOAD_BYTES_MAX]);

impl Scratch {
    pub(super) const fn new() -> Self {
        Self([0; PAYLOAD_BYTES_MAX])
    }
}

/// Builds a packet's payload line by line. A payload that does not fit is our
/// own fault and panics; every text that a peer or an operator chooses is
/// limited by its type.
pub(super) struct PacketWriter {
    packet: Packet,
}

impl PacketWriter {
    pub(super) const fn new() -> Self {
        Self {
            packet: Packet {
                bytes: [0; ENCODED_BYTES_MAX],
                len: PACKET_HEADER_BYTES,
            },
        }
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        let end = self.packet.len + text.len();
        self.packet.bytes[self.packet.len..end].copy_from_slice(text.as_bytes());
        self.packet.len = end;
        self
    }

    /// Lower case, with hyphens: `[JET-PROTO]` 2.2.2.2.1.
    pub(super) fn id(&mut self, id: Uuid) -> &mut Self {
        self.text(id.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]))
    }

    /// Decimal, with leading zeros up to `width` digits.
    pub(super) fn number(&mut self, number: u32, width: usize) -> &mut Self {
        let mut digits = [b'0'; 10];
        let mut first = digits.len();
        let mut rest = number;
        while rest > 0 {
            first -= 1;
            digits[first] += u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        let first = first.min(digits.len() - width);
        for &digit in &digits[first..] {
            self.packet.bytes[self.packet.len] = digit;
            self.packet.len += 1;
        }
        self
    }

    pub(super) fn header(&mut self, name: &str, value: &str) -> &mut Self {
        self.text(name).text(": ").text(value).end_line()
    }

    pub(super) fn end_line(&mut self) -> &mut Self {
        self.text("\r\n")
    }

    /// Ends the head, writes the packet's header and masks the payload.
    pub(super) fn finish(mut self, mask: u8) -> Packet {
        self.end_line();
        let Packet { bytes, len } = &mut self.packet;
        let (header, payload) = bytes[..*len].split_at_mut(PACKET_HEADER_BYTES);
        let [size_high, size_low] = u16::try_from(*len).unwrap_or(u16::MAX).to_be_bytes();
        let flags = 0;
        header[..4].copy_from_slice(&SIGNATURE);
        header[4..].copy_from_slice(&[size_high, size_low, flags, mask]);
        for byte in payload {
            *byte ^= mask;
        }
        self.packet
    }
}

/// What fits around a host name of full length, for the tests of encoders.
#[cfg(test)]
pub(super) fn assert_fits_around_host_name(packet: &Packet) {
    assert!(
        packet.len <= AROUND_HOST_NAME_BYTES_MAX + HOST_NAME_BYTES_MAX,
        "{packet:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` is payload and bytes consumed, or the bytes still missing.
    #[track_caller]
    fn check(bytes: &[u8], expected: Result<Result<(&str, usize), usize>, PacketError>) {
        let mut scratch = Scratch::new();
        let got = MaskedPacket::decode(bytes).map(|progress| match progress {
            Progress::Partial { more_bytes_min } => Err(more_bytes_min),
            Progress::Complete { value, consumed } => Ok((
                std::str::from_utf8(value.unmask(&mut scratch)).unwrap(),
                consumed,
            )),
        });
        assert_eq!(got, expected, "{bytes:02x?}");
    }

    #[test]
    fn decodes_and_refuses() {
        check(b"JET\0\0\x0a\0\x00hi", Ok(Ok(("hi", 10))));
        check(b"JET\0\0\x0a\0\x01ih", Ok(Ok(("hi", 10))));
        check(b"JET\0\0\x0a\xff\x01ihpipelined", Ok(Ok(("hi", 10))));
        check(b"JET\0\0\x08\0\0", Ok(Ok(("", 8))));
        // The least that is missing: the header first, then all of it.
        check(b"", Ok(Err(8)));
        check(b"J", Ok(Err(7)));
        check(b"JE", Ok(Err(6)));
        check(b"JET\0\0", Ok(Err(3)));
        check(b"JET\0\0\x0a", Ok(Err(4)));
        check(b"JET\0\0\x0a\0\0h", Ok(Err(1)));
        check(b"JET\0\x10\x00\0\0", Ok(Err(4088)));
        // The first wrong byte is enough.
        for bytes in [
            &b"\x16"[..],
            b"GET / HTTP/1.1",
            b"JX",
            b"JET ",
            b"JMUX",
            b"jet\0",
        ] {
            check(bytes, Err(PacketError::BadSignature));
        }
        check(b"JET\0\0\0", Err(PacketError::TooShort { size: 0 }));
        check(b"JET\0\0\x07", Err(PacketError::TooShort { size: 7 }));
        check(b"JET\0\x10\x01", Err(PacketError::TooLong { size: 4097 }));
        check(
            b"JET\0\xff\xff\0\0",
            Err(PacketError::TooLong { size: 65535 }),
        );
    }

    #[test]
    fn writes_what_it_reads() {
        let mut writer = PacketWriter::new();
        writer
            .header("a", "b")
            .number(0, 3)
            .number(70, 3)
            .number(u32::MAX, 1)
            .id(Uuid::nil());
        let packet = writer.finish(0x73);
        let mut scratch = Scratch::new();
        let decoded = MaskedPacket::decode(packet.as_ref()).unwrap();
        let Progress::Complete { value, consumed } = decoded.map(|p| p.unmask(&mut scratch)) else {
            panic!("partial");
        };
        assert_eq!(consumed, packet.as_bytes().len());
        assert_eq!(
            std::str::from_utf8(value).unwrap(),
            "a: b\r\n0000704294967295\
             00000000-0000-0000-0000-000000000000\r\n"
        );
    }
}
