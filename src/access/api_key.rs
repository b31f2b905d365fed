//! API keys, and what is kept of them.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What every key begins with, so that people and scanners for leaked secrets know
/// it.
pub const KEY_PREFIX: &str = "midspan_";

/// Randomness in a key.
const KEY_BYTES: usize = 24;

/// A key as its bearer has it. Shown whole by `Display`, for the one person that it
/// is made for, and never by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// What a peer says is its key. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Presented(String);

/// What a relay keeps of a key.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; digest::SHA256_OUTPUT_LEN]);

/// Not the hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key's hash is 43 characters of base64url, as `midspan key` prints it")]
pub struct KeyHashError;

impl ApiKey {
    /// The key that these random bytes make.
    #[must_use]
    pub fn from_random(bytes: [u8; KEY_BYTES]) -> Self {
        Self(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// What to keep of it.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

impl Presented {
    /// Takes what a peer sent.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What to look for among the hashes that are kept.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented(…)")
    }
}

impl KeyHash {
    pub(super) fn of(presented: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, presented.as_bytes());
        let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(hash.as_ref());
        Self(bytes)
    }
}

/// In constant time.
impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for KeyHash {}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({self})")
    }
}

impl FromStr for KeyHash {
    type Err = KeyHashError;

    fn from_str(written: &str) -> Result<Self, KeyHashError> {
        let bytes = URL_SAFE_NO_PAD.decode(written).map_err(|_| KeyHashError)?;
        bytes.try_into().map(Self).map_err(|_| KeyHashError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_hash() {
        let key = ApiKey::from_random([7; KEY_BYTES]);
        assert_eq!(key.to_string(), "midspan_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH");
        let hash = key.hash();
        assert_eq!(KeyHash::of(&key.to_string()), hash);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_ne!(ApiKey::from_random([8; KEY_BYTES]).hash(), hash);
        // sha256("abc"), FIPS 180-4's example.
        assert_eq!(
            KeyHash::of("abc").to_string(),
            "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"
        );
        assert!(!format!("{key:?}").contains("Bwc"));
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for written in [
            "",
            "midspan_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH",
            "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa",
            "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0=",
            "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0",
        ] {
            assert_eq!(written.parse::<KeyHash>(), Err(KeyHashError), "{written}");
        }
    }
}
