//! Names as they stand in bodies: of clients, of servers, and of what a server offers.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::protocol::ptth_name::Name;

/// The longest, in bytes.
pub const WIRE_ID_BYTES_MAX: usize = 64;

/// 1 to 64 letters, digits, `.`, `_` and `-`. Case counts.
///
/// It is what a peer says, and means nothing until a credential bears it out. A server-side proxy
/// reads a target as it likes; as for ports over HTTP, a number is a name like another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WireId(Box<str>);

/// Why this is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireIdError {
    /// There is nothing, or too much.
    #[error("a name has 1 to {WIRE_ID_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// Something else is in it.
    #[error("a name is of letters, digits, '.', '_' and '-'")]
    Letters,
}

impl WireId {
    /// What stands for the name that goes with a proxy's credential, where it does not know it:
    /// `-`, which is nobody's name.
    #[must_use]
    pub fn of_key() -> Self {
        Self("-".into())
    }

    /// Whether it leaves the name to the credential.
    #[must_use]
    pub fn is_of_key(&self) -> bool {
        &*self.0 == "-"
    }

    /// As it was written.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }

    /// The configured name that it could be. None has 64 bytes, or begins with `.` or `-`, so
    /// that such an id is nobody's.
    #[must_use]
    pub fn to_name(&self) -> Option<Name> {
        self.0.parse().ok()
    }

    /// Appends it behind its count.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let count = u8::try_from(self.0.len());
        debug_assert!(count.is_ok(), "a name has at most 64 bytes");
        out.push(count.unwrap_or(u8::MAX));
        out.extend_from_slice(self.0.as_bytes());
    }
}

impl TryFrom<&[u8]> for WireId {
    type Error = WireIdError;

    fn try_from(bytes: &[u8]) -> Result<Self, WireIdError> {
        if bytes.is_empty() || bytes.len() > WIRE_ID_BYTES_MAX {
            return Err(WireIdError::Length(bytes.len()));
        }
        let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        match str::from_utf8(bytes) {
            Ok(text) if bytes.iter().all(is_letter) => Ok(Self(text.into())),
            _ => Err(WireIdError::Letters),
        }
    }
}

impl FromStr for WireId {
    type Err = WireIdError;

    fn from_str(text: &str) -> Result<Self, WireIdError> {
        text.as_bytes().try_into()
    }
}

/// Every name is an id.
impl From<&Name> for WireId {
    fn from(name: &Name) -> Self {
        Self(name.as_str().into())
    }
}

impl fmt::Display for WireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &[u8], expected: Result<(), WireIdError>) {
        let id = WireId::try_from(text);
        assert_eq!(id.as_ref().map(|_| ()).map_err(|error| *error), expected);
        if let Ok(id) = id {
            assert_eq!(id.as_str().as_bytes(), text);
            assert_eq!(id.as_str().parse(), Ok(id));
        }
    }

    #[test]
    fn an_id_has_1_to_64_letters() {
        check(b"a", Ok(()));
        check(b"22", Ok(()));
        check(b"Lab_7.example-a", Ok(()));
        check(b"..", Ok(()));
        check(&[b'a'; 64], Ok(()));
        check(b"", Err(WireIdError::Length(0)));
        check(&[b'a'; 65], Err(WireIdError::Length(65)));
        for wrong in [
            &b"a b"[..],
            b"a:22",
            b"a/b",
            b"a\0",
            b"a\n",
            b"\xff",
            "ü".as_bytes(),
        ] {
            check(wrong, Err(WireIdError::Letters));
        }
    }

    #[test]
    fn every_name_is_an_id_and_not_the_reverse() {
        let longest = "a".repeat(63);
        for text in ["home", "22", "_x", &longest] {
            let name: Name = text.parse().unwrap();
            assert_eq!(WireId::from(&name).to_name(), Some(name));
        }
        let too_long = "a".repeat(64);
        for text in [".", "-x", &too_long] {
            assert_eq!(text.parse::<WireId>().unwrap().to_name(), None, "{text}");
        }
    }
}
