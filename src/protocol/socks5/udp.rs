//! The header in front of each datagram that a client sends or is sent: RFC 1928 §7.
//!
//! ```text
//! | 0 0 | fragment | type, address, port | data ...
//! ```
//!
//! Left out: fragments. A datagram that is one is dropped, as the section allows.

use thiserror::Error;

use super::address::{AddressError, Destination};
use crate::protocol::Progress;

/// The longest header: with a name of 255 bytes.
pub const HEADER_BYTES_MAX: usize = 3 + 1 + 1 + 255 + 2;

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DatagramError {
    /// It is a fragment of a larger one.
    #[error("fragments are not taken")]
    Fragment,
    /// It ends within its header.
    #[error("it ends within its header")]
    Short,
    /// It goes nowhere.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// Where a datagram goes or comes from, and its data. What the reserved bytes hold means
/// nothing.
///
/// # Errors
///
/// Why it is to be dropped.
pub fn decode(datagram: &[u8]) -> Result<(Destination, &[u8]), DatagramError> {
    let [_, _, fragment, address @ ..] = datagram else {
        return Err(DatagramError::Short);
    };
    if *fragment != 0 {
        return Err(DatagramError::Fragment);
    }
    match Destination::decode(address)? {
        Progress::Partial { .. } => Err(DatagramError::Short),
        Progress::Complete { value, consumed } => Ok((value, &address[consumed..])),
    }
}

/// Appends the header of a datagram that goes to, or comes from, `peer`.
pub fn encode_header(peer: &Destination, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0, 0]);
    peer.encode(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_round_trip() {
        for (bytes, peer, data) in [
            (
                &b"\0\0\0\x01\x7f\0\0\x01\0\x35query"[..],
                "127.0.0.1:53",
                &b"query"[..],
            ),
            (b"\0\0\0\x01\x7f\0\0\x01\0\x35", "127.0.0.1:53", b""),
            (b"\0\0\0\x03\x01a\0\x35x", "a:53", b"x"),
            (
                b"\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x35x",
                "[::1]:53",
                b"x",
            ),
        ] {
            let (got, rest) = decode(bytes).expect("a datagram");
            assert_eq!((got.to_string().as_str(), rest), (peer, data));
            let mut encoded = Vec::new();
            encode_header(&got, &mut encoded);
            encoded.extend_from_slice(data);
            assert_eq!(encoded, bytes);
        }
        assert!(decode(b"\xff\xff\0\x01\x7f\0\0\x01\0\x35").is_ok());
    }

    #[test]
    fn others_are_dropped() {
        for (bytes, expected) in [
            (&b""[..], DatagramError::Short),
            (b"\0\0\0", DatagramError::Short),
            (b"\0\0\0\x01\x7f\0\0\x01\0", DatagramError::Short),
            (b"\0\0\x01\x01\x7f\0\0\x01\0\x35x", DatagramError::Fragment),
            (b"\0\0\x81\x01\x7f\0\0\x01\0\x35x", DatagramError::Fragment),
            (
                b"\0\0\0\x02\x7f\0\0\x01\0\x35x",
                DatagramError::Address(AddressError::Kind { kind: 2 }),
            ),
        ] {
            assert_eq!(decode(bytes), Err(expected), "{bytes:?}");
        }
    }
}
