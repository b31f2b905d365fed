//! Mask keys for the legs that we dialled.

use aws_lc_rs::rand;

use crate::protocol::websocket::MaskKey;

/// Keys drawn at a time.
const KEYS: usize = 256;

/// Keys that nobody can predict: RFC 6455 §10.3.
#[derive(Debug)]
pub(super) struct MaskKeys {
    drawn: Vec<[u8; 4]>,
}

impl MaskKeys {
    /// None is drawn before one is needed.
    #[must_use]
    pub(super) const fn new() -> Self {
        Self { drawn: Vec::new() }
    }

    /// The next key.
    ///
    /// # Panics
    ///
    /// When the system has no randomness.
    pub(super) fn next_key(&mut self) -> MaskKey {
        if self.drawn.is_empty() {
            let mut bytes = [[0; 4]; KEYS];
            assert!(
                rand::fill(bytes.as_flattened_mut()).is_ok(),
                "the system gives no random bytes"
            );
            self.drawn.extend_from_slice(&bytes);
        }
        MaskKey(self.drawn.pop().unwrap_or_default())
    }
}

impl Default for MaskKeys {
    fn default() -> Self {
        Self::new()
    }
}
