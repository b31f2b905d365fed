//! What a client sends between the upgrade and SOCKS5: `[WEBSOCKS]`, "WebSocket Maximum
//! Payload Length Frame" and "WebSocket PONG".

use thiserror::Error;

use crate::protocol::Progress;

/// The start of a binary frame of 2^63 - 1 bytes, of which both sides send one.
pub const MAX_FRAME: [u8; 10] = [0x82, 0x7f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

/// What keeps a connection in a client's pool alive.
pub const PONG: [u8; 2] = [0x8a, 0];

/// The next thing that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prelude {
    /// A sign of life, that is not answered.
    KeptAlive,
    /// The ten bytes, whatever they hold: known clients write other lengths, and some may
    /// put data of their own there.
    Begins,
}

/// Not what may stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PreludeError {
    /// A PING or PONG with a payload.
    #[error("a ping or pong holds data")]
    NotEmpty,
}

impl Prelude {
    /// Decodes what stands at the start of `bytes`. A PONG may be masked, and a PING
    /// stand in its place.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, PreludeError> {
        const PING_FRAME: u8 = 0x89;
        const PONG_FRAME: u8 = 0x8a;
        const MASKED: u8 = 0x80;
        let (value, consumed) = match bytes {
            [] | [PING_FRAME | PONG_FRAME] => {
                let more_bytes_min = 2 - bytes.len();
                return Ok(Progress::Partial { more_bytes_min });
            }
            [PING_FRAME | PONG_FRAME, 0, ..] => (Self::KeptAlive, 2),
            [PING_FRAME | PONG_FRAME, MASKED, ..] => (Self::KeptAlive, 2 + 4),
            [PING_FRAME | PONG_FRAME, ..] => return Err(PreludeError::NotEmpty),
            _ => (Self::Begins, MAX_FRAME.len()),
        };
        Ok(match consumed.checked_sub(bytes.len()) {
            None | Some(0) => Progress::Complete { value, consumed },
            Some(more_bytes_min) => Progress::Partial { more_bytes_min },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_and_ten_bytes_are_read_however_they_are_cut() {
        for (bytes, value) in [
            (&PONG[..], Prelude::KeptAlive),
            (b"\x89\0", Prelude::KeptAlive),
            (b"\x8a\x80mask", Prelude::KeptAlive),
            (&MAX_FRAME, Prelude::Begins),
            (b"\x82\x7f\0\0\0\0\0\0\0\x03", Prelude::Begins),
            (b"0123456789", Prelude::Begins),
        ] {
            for cut in 0..bytes.len() {
                match Prelude::decode(&bytes[..cut]) {
                    Ok(Progress::Partial { more_bytes_min }) => {
                        assert!(more_bytes_min > 0 && cut + more_bytes_min <= bytes.len());
                    }
                    other => panic!("{bytes:?} cut at {cut}: {other:?}"),
                }
            }
            let consumed = bytes.len();
            let more = [bytes, b"\x05\x01\0"].concat();
            let expected = Ok(Progress::Complete { value, consumed });
            assert_eq!(Prelude::decode(&more), expected);
        }
        assert_eq!(Prelude::decode(b"\x8a\x01x"), Err(PreludeError::NotEmpty));
    }
}
