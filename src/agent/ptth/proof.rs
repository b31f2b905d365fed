//! What says who a proxy is.

use super::asking::{Key, KeyError};
use crate::protocol::ptth_quic::ShownKey;
use crate::tls::identity::{Identity, OwnKeyError};

/// A key, or a certificate, by which only QUIC knows anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The relay is told it.
    Key(Key),
    /// The relay sees that we have the private key.
    Certificate(Identity),
}

/// Why a text is neither.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    PrivateKey(#[from] OwnKeyError),
}

impl Proof {
    /// What is in this text: a key, or a private key in PEM (RFC 7468).
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        Ok(match text.contains("-----BEGIN ") {
            true => Self::Certificate(Identity::of_key(text)?),
            false => Self::Key(Key::new(text)?),
        })
    }

    /// The key.
    pub(super) const fn key(&self) -> Option<&Key> {
        match self {
            Self::Key(key) => Some(key),
            Self::Certificate(_) => None,
        }
    }

    /// What is said of it over QUIC.
    pub(super) fn shown(&self) -> Option<ShownKey> {
        self.key().map(Key::shown)
    }

    /// What is shown of it in a handshake.
    #[must_use]
    pub const fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Key(_) => None,
            Self::Certificate(identity) => Some(identity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_a_key_or_a_private_key() {
        let pem = Identity::make_key_pem().unwrap();
        let proof = Proof::parse(&pem).unwrap();
        assert!(proof.identity().is_some() && proof.shown().is_none());
        let proof = Proof::parse("midspan_abc\n").unwrap();
        assert!(proof.identity().is_none() && proof.shown().is_some());
        assert!(matches!(Proof::parse("two words"), Err(ProofError::Key(_))));
        let cut = &pem[..pem.len() / 2];
        assert!(matches!(Proof::parse(cut), Err(ProofError::PrivateKey(_))));
    }
}
