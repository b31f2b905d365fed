//! What stands in `Host` of a request and in `Jet-Instance` of a reply.

use std::fmt;
use std::str;
use std::sync::Arc;

use thiserror::Error;

/// A DNS name of full length (RFC 1035 §2.3.4) and `:65535`.
pub const HOST_NAME_BYTES_MAX: usize = 253 + 6;

/// A host, with or without a port, that can be written into a header: 1 to
/// [`HOST_NAME_BYTES_MAX`] bytes of UTF-8 without control characters, and no
/// white space around it. It need not resolve: relays may call themselves
/// anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName(Arc<str>);

/// Why a text cannot be a [`HostName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostNameError {
    /// It has no bytes.
    #[error("host name is empty")]
    Empty,
    /// It has too many.
    #[error("host name exceeds {HOST_NAME_BYTES_MAX} bytes: {len_bytes}")]
    TooLong {
        /// Bytes that came.
        len_bytes: usize,
    },
    /// Not UTF-8, a control character, or white space around it.
    #[error("host name has a byte that does not belong into a header")]
    BadByte,
}

impl HostName {
    /// Checks and copies `text`.
    ///
    /// # Errors
    /// If it could not be written into a header and read back unchanged.
    pub fn new(text: &str) -> Result<Self, HostNameError> {
        if text.is_empty() {
            return Err(HostNameError::Empty);
        }
        if text.len() > HOST_NAME_BYTES_MAX {
            return Err(HostNameError::TooLong {
                len_bytes: text.len(),
            });
        }
        if text.chars().any(char::is_control) || text.trim_matches(' ').len() != text.len() {
            return Err(HostNameError::BadByte);
        }
        Ok(Self(text.into()))
    }

    /// From a header's value.
    pub(super) fn from_bytes(value: &[u8]) -> Result<Self, HostNameError> {
        str::from_utf8(value)
            .map_err(|_| HostNameError::BadByte)
            .and_then(Self::new)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(), HostNameError>) {
        assert_eq!(HostName::new(text).map(|_| ()), expected, "{text:?}");
    }

    #[test]
    fn checks_what_a_header_can_carry() {
        check("jet101.wayk.net:8080", Ok(()));
        check("[2001:db8::1]:8080", Ok(()));
        check("my gateway ü", Ok(()));
        check(&"h".repeat(HOST_NAME_BYTES_MAX), Ok(()));
        check("", Err(HostNameError::Empty));
        check(
            &"h".repeat(300),
            Err(HostNameError::TooLong { len_bytes: 300 }),
        );
        for text in ["a\r\nJet-Version: 2", "a\tb", "a\0", " a", "a ", "a\u{85}"] {
            check(text, Err(HostNameError::BadByte));
        }
        assert_eq!(HostName::from_bytes(b"a\xff"), Err(HostNameError::BadByte));
    }
}
