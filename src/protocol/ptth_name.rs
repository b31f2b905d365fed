//! Names in paths: a server's, and those of its ports, which mean something to it alone.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The longest name, in bytes: that of a label in a host's name (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 63;

/// A name of letters, digits, `.`, `_` and `-`, as it stands in a path without escapes.
/// Case counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why this is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// There is nothing, or too much.
    #[error("a name has 1 to {NAME_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// Something in it would need an escape, or looks like a step up.
    #[error("a name is of letters, digits, '.', '_' and '-', and begins with none of '.' and '-'")]
    Letters,
}

impl Name {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(NameError::Length(text.len()));
        }
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins_well = !text.starts_with(['.', '-']);
        match begins_well && text.bytes().all(is_letter) {
            true => Ok(Self(text.into())),
            false => Err(NameError::Letters),
        }
    }
}

/// A port's number is its name.
impl From<u16> for Name {
    fn from(number: u16) -> Self {
        Self(number.to_string().into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_in_a_path_as_it_is() {
        for (text, expected) in [
            ("home", Ok(())),
            ("22", Ok(())),
            ("Lab_7.example-a", Ok(())),
            ("", Err(NameError::Length(0))),
            (&"a".repeat(63), Ok(())),
            (&"a".repeat(64), Err(NameError::Length(64))),
            ("..", Err(NameError::Letters)),
            ("-x", Err(NameError::Letters)),
            ("a/b", Err(NameError::Letters)),
            ("a%20b", Err(NameError::Letters)),
            ("ü", Err(NameError::Letters)),
        ] {
            let name = text.parse::<Name>();
            assert_eq!(
                name.as_ref().map(|_| ()).map_err(|error| *error),
                expected,
                "{text}"
            );
            if let Ok(name) = name {
                assert_eq!((name.as_str(), name.to_string()), (text, text.to_owned()));
            }
        }
    }
}
