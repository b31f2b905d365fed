//! Who we are: a certificate and its key, from files or made here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::signature::Ed25519KeyPair;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::client_identity::public_key;
use crate::access::Fingerprint;

/// Why a private key is none by which others could know us.
#[derive(Debug, thiserror::Error)]
pub enum OwnKeyError {
    #[error("no private key in PEM")]
    Pem(#[source] pem::Error),
    #[error("a private key that is neither of Ed25519 nor of ECDSA with P-256")]
    Kind,
    #[error("the system makes no private key")]
    Generate(#[source] Unspecified),
    #[error("no certificate can be made of the private key")]
    Make(#[source] rcgen::Error),
    #[error("the private key cannot be used")]
    Use(#[source] rustls::Error),
}

/// A certificate with what proves that it is ours.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
}

/// Why files are no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: pem::Error },
    #[error("{} holds no certificate", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("the key of {} cannot be used", .path.display())]
    Key {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("the key in {} is not that of the certificate", .path.display())]
    OtherKey { path: PathBuf },
    #[error("cannot make a certificate for {name}")]
    Make { name: String, source: rcgen::Error },
}

impl Identity {
    /// Reads a chain, its own certificate first, and the key of that one, each in
    /// PEM: RFC 7468.
    ///
    /// # Errors
    ///
    /// When they cannot be read or do not belong together.
    pub fn read(certificates: &Path, key: &Path) -> Result<Self, IdentityError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Read { path, source }
        };
        let chain = CertificateDer::pem_file_iter(certificates)
            .map_err(unreadable(certificates))?
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable(certificates))?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
        Self::new(chain, &secret, certificates, key)
    }

    /// The same from one text with both.
    ///
    /// # Errors
    ///
    /// As [`Self::read`]; `path` is where the text is from.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, IdentityError> {
        let unreadable = |source| IdentityError::Read {
            path: path.to_owned(),
            source,
        };
        let chain = CertificateDer::pem_slice_iter(text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        let secret = PrivateKeyDer::from_pem_slice(text).map_err(unreadable)?;
        Self::new(chain, &secret, path, path)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        secret: &PrivateKeyDer<'static>,
        certificates: &Path,
        key: &Path,
    ) -> Result<Self, IdentityError> {
        if chain.is_empty() {
            return Err(IdentityError::NoCertificate {
                path: certificates.to_owned(),
            });
        }
        let signer = any_supported_type(secret).map_err(|source| IdentityError::Key {
            path: key.to_owned(),
            source,
        })?;
        let certified = CertifiedKey::new(chain, signer);
        certified
            .keys_match()
            .map_err(|_| IdentityError::OtherKey {
                path: key.to_owned(),
            })?;
        Ok(Self {
            certified: Arc::new(certified),
        })
    }

    /// A certificate that vouches for itself, with its key, in PEM: for those who
    /// pin it. It is valid as long as a certificate can be.
    ///
    /// # Errors
    ///
    /// When `name` is none that a certificate can have.
    pub fn make_pem(name: &str) -> Result<String, IdentityError> {
        let made = |source| IdentityError::Make {
            name: name.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(made)?;
        let names = vec![name.to_owned(), "localhost".to_owned()];
        let params = CertificateParams::new(names).map_err(made)?;
        let certificate = params.self_signed(&key).map_err(made)?;
        Ok(certificate.pem() + &key.serialize_pem())
    }

    /// A private key of Ed25519 (RFC 8410), in PEM, for [`Self::of_key`]: of the first version of
    /// PKCS #8, as openssl reads no other.
    ///
    /// # Errors
    ///
    /// When the system has no randomness.
    pub fn make_key_pem() -> Result<String, OwnKeyError> {
        let key = Ed25519KeyPair::generate().map_err(OwnKeyError::Generate)?;
        let secret = key.to_pkcs8v1().map_err(OwnKeyError::Generate)?;
        let secret = PrivatePkcs8KeyDer::from(secret.as_ref());
        let key = KeyPair::try_from(&secret).map_err(OwnKeyError::Make)?;
        Ok(key.serialize_pem())
    }

    /// Who has this private key, in PEM: a certificate that vouches for itself is made of it, for
    /// those who know the key.
    ///
    /// # Errors
    ///
    /// When it is none, or of another kind than is asked for: see [`super::client_identity`].
    pub fn of_key(pem: &str) -> Result<Self, OwnKeyError> {
        let secret = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(OwnKeyError::Pem)?;
        let key = KeyPair::try_from(&secret).map_err(|_| OwnKeyError::Kind)?;
        let kinds = [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256];
        if !kinds.iter().any(|kind| key.is_compatible(kind)) {
            return Err(OwnKeyError::Kind);
        }
        let params = CertificateParams::default();
        let certificate = params.self_signed(&key).map_err(OwnKeyError::Make)?;
        let signer = any_supported_type(&secret).map_err(OwnKeyError::Use)?;
        let chain = vec![certificate.der().clone()];
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(chain, signer)),
        })
    }

    /// What the public key in its own certificate is known by.
    ///
    /// # Panics
    ///
    /// Never: there is a certificate.
    #[must_use]
    pub fn public_key(&self) -> Fingerprint {
        public_key(&self.certified.cert[0]).expect("its key was compared with it, or made it")
    }

    /// Its own certificate's fingerprint.
    ///
    /// # Panics
    ///
    /// Never: there is a certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certified.cert[0])
    }

    /// Whether its certificate is for this name: RFC 6125.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        let Ok(name) = ServerName::try_from(name) else {
            return false;
        };
        ParsedCertificate::try_from(&self.certified.cert[0])
            .is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, &name).is_ok())
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

/// By what is shown of it.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

impl Eq for Identity {}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{PKCS_ECDSA_P384_SHA384, SignatureAlgorithm};

    use super::*;

    fn pem(kind: &'static SignatureAlgorithm) -> String {
        KeyPair::generate_for(kind).unwrap().serialize_pem()
    }

    #[test]
    fn a_key_is_known_by_itself_whenever_a_certificate_is_made_of_it() {
        for pem in [
            Identity::make_key_pem().unwrap(),
            // With the public key in it: RFC 5958.
            pem(&PKCS_ED25519),
            pem(&PKCS_ECDSA_P256_SHA256),
        ] {
            let [one, other] = [(); 2].map(|()| Identity::of_key(&pem).unwrap());
            assert_eq!(one.public_key(), other.public_key());
        }
    }

    #[test]
    fn a_public_key_is_known_by_what_openssl_says_of_it() {
        // openssl genpkey -algorithm ed25519; openssl pkey -pubout -outform DER | sha256sum
        let pem = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEIOWHAF5OT+NwKdm9yX/8EMW77Dphp2iNv7blJ0MXJmh4\n\
                   -----END PRIVATE KEY-----\n";
        let identity = Identity::of_key(pem).unwrap();
        let expected = "13f15cc69518929b46d0f30db9220c2cbe23a56e5c1fe9018c444b743553f766";
        assert_eq!(identity.public_key().to_string(), expected);
    }

    #[test]
    fn what_is_no_key_of_ours_is_told() {
        let of_key = |pem: &str| Identity::of_key(pem);
        assert!(matches!(of_key("secret"), Err(OwnKeyError::Pem(_))));
        let other_kind = of_key(&pem(&PKCS_ECDSA_P384_SHA384));
        assert!(matches!(other_kind, Err(OwnKeyError::Kind)));
    }
}
