//! What a client has of its key: the private one, and the hash by which it logs in.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{Pkcs1PrivateDecryptingKey, PrivateDecryptingKey};

use super::{RSA_BITS, UserHash};
use crate::protocol::jproxy::{ENCRYPTED_KEY_BYTES, SESSION_KEY_BYTES, SessionKey};

/// A client's key.
pub struct ClientKey {
    key: Pkcs1PrivateDecryptingKey,
    hash: UserHash,
    /// SHA-256 of the file, which tells two keys apart that log in by the same hash.
    file_digest: [u8; 32],
}

/// Why a file is none of a client's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientKeyError {
    /// It is cut off, or something else.
    #[error("it ends within the {what}")]
    Short { what: &'static str },
    /// Something follows.
    #[error("{bytes} bytes follow the key and its hash")]
    Long { bytes: usize },
    /// No key, or one of another kind.
    #[error("it holds no private key of RSA (PKCS #8, DER)")]
    Key,
    /// RSA of another size.
    #[error("the key has {bits} bits; jProxy needs {RSA_BITS}")]
    Bits { bits: usize },
}

impl ClientKey {
    /// Reads what a key's file holds.
    ///
    /// # Errors
    ///
    /// When it is no such file.
    pub fn decode(bytes: &[u8]) -> Result<Self, ClientKeyError> {
        let short = |what| ClientKeyError::Short { what };
        let (length, rest) = bytes.split_first_chunk().ok_or(short("key"))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (key, rest) = rest.split_at_checked(length).ok_or(short("key"))?;
        let (hash, rest) = rest.split_first_chunk().ok_or(short("hash"))?;
        if !rest.is_empty() {
            return Err(ClientKeyError::Long { bytes: rest.len() });
        }
        let key = PrivateDecryptingKey::from_pkcs8(key).map_err(|_| ClientKeyError::Key)?;
        match key.key_size_bits() {
            RSA_BITS => {}
            bits => return Err(ClientKeyError::Bits { bits }),
        }
        let mut file_digest = [0; 32];
        file_digest.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Ok(Self {
            key: Pkcs1PrivateDecryptingKey::new(key).map_err(|_| ClientKeyError::Key)?,
            hash: *hash,
            file_digest,
        })
    }

    /// By which the client logs in.
    #[must_use]
    pub const fn hash(&self) -> &UserHash {
        &self.hash
    }

    /// The tunnel's key. What was encrypted for somebody else, or by nobody, gives a key that
    /// nobody knows, so that no server can find out by the difference what it decrypts to
    /// (RFC 8017 §7.2, and RFC 3218 for what follows where it can): the first packet is none.
    ///
    /// # Panics
    ///
    /// When the system has no randomness.
    #[must_use]
    pub fn decrypt(&self, encrypted: &[u8; ENCRYPTED_KEY_BYTES]) -> SessionKey {
        let mut unknown = [0; SESSION_KEY_BYTES];
        // Whatever comes, as its time tells as much.
        assert!(
            rand::fill(&mut unknown).is_ok(),
            "the system gives no random bytes"
        );
        let mut decrypted = [0; ENCRYPTED_KEY_BYTES];
        let key = match self.key.decrypt(encrypted, &mut decrypted) {
            Ok(key) => <[u8; SESSION_KEY_BYTES]>::try_from(&*key).unwrap_or(unknown),
            Err(_) => unknown,
        };
        SessionKey(key)
    }
}

impl PartialEq for ClientKey {
    fn eq(&self, other: &Self) -> bool {
        self.file_digest == other.file_digest
    }
}

impl Eq for ClientKey {}

/// What a key's file holds.
pub(super) fn encode(pkcs8: &[u8], hash: &UserHash) -> Vec<u8> {
    let length = u32::try_from(pkcs8.len()).expect("a key is short");
    [&length.to_be_bytes(), pkcs8, hash].concat()
}

/// Without the key.
impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(…)")
    }
}
