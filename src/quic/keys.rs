//! The keys that all shards of a relay share, and that outlive it.
//!
//! A relay that was restarted knows nothing of the connections that it had. With the same
//! keys it can still prove that a packet for one of them came to the right place, and so end
//! it at once (RFC 9000 §10.3), where the peer would otherwise wait for its idle timeout.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};
use quinn_proto::crypto::{HandshakeTokenKey, HmacKey};

/// Length of each key, in bytes.
pub const KEY_BYTES: usize = 32;

/// The secrets of a relay's QUIC endpoints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SharedKeys {
    /// Makes the tokens of stateless resets, and marks connection IDs.
    pub reset: [u8; KEY_BYTES],
    /// Seals the tokens of retries.
    pub token: [u8; KEY_BYTES],
}

impl SharedKeys {
    pub(super) fn reset_key(&self) -> Arc<dyn HmacKey> {
        Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &self.reset))
    }

    pub(super) fn token_key(&self) -> Arc<dyn HandshakeTokenKey> {
        Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&self.token))
    }

    /// The key of the marks in connection IDs. It guards no secret: who knows it can have a
    /// datagram looked at by a shard of his choice.
    pub(super) fn mark_key(&self) -> [u8; 16] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.reset);
        let tag = hmac::sign(&key, b"midspan connection ids");
        let mut mark = [0; 16];
        mark.copy_from_slice(&tag.as_ref()[..16]);
        mark
    }
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKeys(..)")
    }
}
