//! What the relay calls one connection: whoever knows it, and has one of its two keys, may
//! use it.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use thiserror::Error;

/// 128 bits, as random as an association's id, written as 26 letters of base32 (RFC 4648 §6)
/// without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub [u8; 16]);

/// What stands there is no id that a relay has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a connection id is 26 letters and digits of base32")]
pub struct ConnectionIdError;

impl FromStr for ConnectionId {
    type Err = ConnectionIdError;

    fn from_str(text: &str) -> Result<Self, ConnectionIdError> {
        let bytes = BASE32_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| ConnectionIdError)?;
        bytes.try_into().map(Self).map_err(|_| ConnectionIdError)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        BASE32_NOPAD.encode_display(&self.0).fmt(f)
    }
}

/// Its first letters: it is half of a credential.
impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        write!(f, "{}…", &text[..4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = ConnectionId(*b"0123456789abcdef");
        let text = id.to_string();
        assert_eq!(text, "GAYTEMZUGU3DOOBZMFRGGZDFMY");
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(format!("{id:?}"), "GAYT…");
        for wrong in [
            "",
            "GAYTEMZUGU3DOOBZMFRGGZDFM",
            "gaytemzugu3doobzmfrggzdfmy",
            "GAYTEMZUGU3DOOBZMFRGGZDFMZ",
        ] {
            assert_eq!(
                wrong.parse::<ConnectionId>(),
                Err(ConnectionIdError),
                "{wrong}"
            );
        }
    }
}
