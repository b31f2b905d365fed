//! Who we are: a certificate and its key, from files or made here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use crate::access::Fingerprint;

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

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}
