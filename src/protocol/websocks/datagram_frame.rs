//! Datagrams on a stream, both ways, behind the reply to SOCKS5's UDP ASSOCIATE.
//!
//! ```text
//! | length, big endian: 2 bytes | header (RFC 1928 §7) and data: so many bytes |
//! ```
//!
//! A message of WebSocket for each would do where there are messages; this does in both
//! forms of a connection. No peer but ours asks for it: `[WEBSOCKS]` has no datagrams.
//!
//! Left out: the header within, which is [`socks5::udp`](crate::protocol::socks5::udp).

use thiserror::Error;

use crate::protocol::Progress;

/// The most that the length can say, of header and data.
pub const FRAMED_BYTES_MAX: usize = u16::MAX as usize;

const LENGTH_BYTES: usize = 2;

/// The longest frame.
pub const FRAME_BYTES_MAX: usize = LENGTH_BYTES + FRAMED_BYTES_MAX;

/// What cannot be framed, or was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DatagramFrameError {
    /// Not even a header. Behind one that came so nothing is known to be a frame.
    #[error("a frame without a datagram")]
    Empty,
    /// Only of one that is to be sent: no length says so.
    #[error("a datagram of {bytes} bytes exceeds {FRAMED_BYTES_MAX}")]
    TooLong {
        /// Header and data.
        bytes: usize,
    },
}

/// Decodes the frame at the start of `bytes`: gives its datagram.
///
/// # Errors
///
/// If no continuation of `bytes` could be one.
pub fn decode(bytes: &[u8]) -> Result<Progress<&[u8]>, DatagramFrameError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        // With the least that a datagram has.
        let more_bytes_min = LENGTH_BYTES + 1 - bytes.len();
        return Ok(Progress::Partial { more_bytes_min });
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if length == 0 {
        return Err(DatagramFrameError::Empty);
    }
    Ok(match rest.get(..length) {
        Some(value) => Progress::Complete {
            value,
            consumed: LENGTH_BYTES + length,
        },
        None => Progress::Partial {
            more_bytes_min: length - rest.len(),
        },
    })
}

/// Appends the frame of a datagram that is `header` and `data`.
///
/// # Errors
///
/// When there is none; then nothing is appended.
pub fn encode(header: &[u8], data: &[u8], out: &mut Vec<u8>) -> Result<(), DatagramFrameError> {
    let bytes = header.len() + data.len();
    if bytes == 0 {
        return Err(DatagramFrameError::Empty);
    }
    let length = u16::try_from(bytes).map_err(|_| DatagramFrameError::TooLong { bytes })?;
    out.reserve(LENGTH_BYTES + bytes);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(header);
    out.extend_from_slice(data);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(header: &[u8], data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(header, data, &mut out).expect("it fits");
        out
    }

    #[test]
    fn frames_round_trip_however_they_are_cut() {
        for (header, data) in [
            (&b"\0\0\0\x01\x7f\0\0\x01\0\x35"[..], &b"query"[..]),
            (b"\0\0\0\x01\x7f\0\0\x01\0\x35", b""),
            (b"", b"x"),
            (b"", &[7; 256]),
        ] {
            let bytes = frame(header, data);
            let datagram = [header, data].concat();
            for cut in 0..bytes.len() {
                match decode(&bytes[..cut]) {
                    Ok(Progress::Partial { more_bytes_min }) => {
                        assert!(more_bytes_min > 0 && cut + more_bytes_min <= bytes.len());
                    }
                    other => panic!("cut at {cut}: {other:?}"),
                }
            }
            let consumed = bytes.len();
            let more = [&bytes[..], b"\0"].concat();
            let value = &datagram[..];
            let expected = Ok(Progress::Complete { value, consumed });
            assert_eq!(decode(&more), expected);
        }
        assert_eq!(frame(b"he", b"llo"), b"\0\x05hello");
    }

    #[test]
    fn the_longest_is_what_the_length_can_say() {
        let longest = vec![1; FRAMED_BYTES_MAX];
        let bytes = frame(&longest[..10], &longest[10..]);
        assert_eq!(bytes[..2], [0xff, 0xff]);
        let consumed = bytes.len();
        let value = &longest[..];
        let expected = Ok(Progress::Complete { value, consumed });
        assert_eq!(decode(&bytes), expected);
        let mut out = b"before".to_vec();
        let refused = encode(&longest, b"x", &mut out);
        let bytes = FRAMED_BYTES_MAX + 1;
        assert_eq!(refused, Err(DatagramFrameError::TooLong { bytes }));
        assert_eq!(out, b"before");
    }

    #[test]
    fn nothing_is_no_datagram() {
        assert_eq!(
            encode(b"", b"", &mut Vec::new()),
            Err(DatagramFrameError::Empty)
        );
        assert_eq!(decode(b"\0\0"), Err(DatagramFrameError::Empty));
        assert_eq!(decode(b"\0\0\0\x05hello"), Err(DatagramFrameError::Empty));
    }
}
