//! The four bytes at the start of every message: `[kind, argument, length, length]` of what is
//! asked, `[status, kind that is answered, length, length]` of an answer. Numbers are big-endian.
//!
//! Without a body this is to the bit what `[PTTH-QUIC]`, "Network protocol", has as a table.

use super::fault::{MessageError, MessageFault};
use crate::protocol::Progress;

/// What every message begins with.
pub const HEADER_BYTES: usize = 4;

/// The longest body. A hello needs most: the longest name, and a key, which this leaves some 950
/// bytes; all else is below 140.
pub const BODY_BYTES_MAX: usize = 1024;

/// The longest message, and all that is ever remembered of a stream that says nothing useful.
pub const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + BODY_BYTES_MAX;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ClientHello,
    ServerHello,
    Open,
    Offer,
    Inner,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::ClientHello,
        Self::ServerHello,
        Self::Open,
        Self::Offer,
        Self::Inner,
    ];

    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::ClientHello => 2,
            Self::ServerHello => 4,
            Self::Open => 10,
            Self::Offer => 11,
            Self::Inner => 12,
        }
    }
}

/// The header, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) first: u8,
    pub(super) second: u8,
    pub(super) body_bytes: u16,
}

impl Header {
    pub(super) fn decode(bytes: &[u8]) -> Progress<Self> {
        match *bytes {
            [first, second, high, low, ..] => Progress::Complete {
                value: Self {
                    first,
                    second,
                    body_bytes: u16::from_be_bytes([high, low]),
                },
                consumed: HEADER_BYTES,
            },
            _ => Progress::Partial {
                more_bytes_min: HEADER_BYTES - bytes.len(),
            },
        }
    }
}

/// What is asked, before its body was looked into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'bytes> {
    pub(super) kind: Kind,
    pub(super) argument: u8,
    /// Empty: the legacy form.
    pub(super) body: &'bytes [u8],
}

/// Decodes one of the kinds that are `due` from the start of `bytes`.
pub(super) fn decode<T>(
    bytes: &[u8],
    due: &[Kind],
    parse: impl FnOnce(Message<'_>) -> Result<T, MessageFault>,
) -> Result<Progress<T>, MessageError> {
    let Some(&first) = bytes.first() else {
        return Ok(Progress::Partial {
            more_bytes_min: HEADER_BYTES,
        });
    };
    let refuse = |fault| MessageError { kind: first, fault };
    let known = Kind::ALL.into_iter().find(|kind| kind.byte() == first);
    let kind = known.ok_or_else(|| refuse(MessageFault::UnknownKind))?;
    if !due.contains(&kind) {
        return Err(refuse(MessageFault::NotHere));
    }
    let header = match Header::decode(bytes) {
        Progress::Complete { value, .. } => value,
        Progress::Partial { more_bytes_min } => return Ok(Progress::Partial { more_bytes_min }),
    };
    let body_bytes = usize::from(header.body_bytes);
    if body_bytes > BODY_BYTES_MAX {
        return Err(refuse(MessageFault::BodyTooLong { body_bytes }));
    }
    if body_bytes > 0 && header.second != 0 {
        return Err(refuse(MessageFault::ArgumentWithBody {
            argument: header.second,
        }));
    }
    let consumed = HEADER_BYTES + body_bytes;
    let Some(message) = bytes.get(..consumed) else {
        return Ok(Progress::Partial {
            more_bytes_min: consumed - bytes.len(),
        });
    };
    let value = parse(Message {
        kind,
        argument: header.second,
        body: &message[HEADER_BYTES..],
    });
    let value = value.map_err(refuse)?;
    Ok(Progress::Complete { value, consumed })
}

/// Appends a message of the layered form, whose body `write` appends.
pub(super) fn encode(first: u8, second: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[first, second, 0, 0]);
    write(out);
    let body_bytes = out.len() - start - HEADER_BYTES;
    debug_assert!(body_bytes <= BODY_BYTES_MAX, "{body_bytes}");
    let length = u16::try_from(body_bytes).unwrap_or(u16::MAX);
    out[start + 2..start + HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// Appends a message without a body.
pub(super) fn encode_bare(first: u8, second: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[first, second, 0, 0]);
}
