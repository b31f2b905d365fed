//! The way to the relay: its URL, whom to trust there, and a proxy to ask for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, IpAddr, ServerName};

use super::target::{Host, HostPort};
use super::ticket::RelayUrl;
use crate::access::Fingerprint;
use crate::session::approach::Trusted;
use crate::session::introduction::Speech;
use crate::tls::client::{Trust, client_config};

/// How to get to the relay, the same for all shards.
#[derive(Clone, Debug)]
pub struct Way {
    /// The relay.
    pub url: RelayUrl,
    /// An HTTP proxy that is asked to connect us with it: RFC 9110 §9.3.6.
    pub via: Option<HostPort>,
    pub(super) speech: Speech,
}

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum WayError {
    #[error("cannot read the certificates in {}", .path.display())]
    Authorities { path: PathBuf, source: pem::Error },
    #[error("{} holds a certificate that is no authority's", .path.display())]
    NoAuthority {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("this system has no certificates of authorities")]
    NoAuthorities,
    #[error("no certificate can be for \"{host}\"")]
    Name {
        host: String,
        source: InvalidDnsNameError,
    },
    #[error("tls cannot be set up")]
    Tls(#[from] rustls::Error),
}

impl Way {
    /// Finds it. `authorities` is a file of certificates, instead of the system's.
    ///
    /// # Errors
    ///
    /// When it is over TLS and there is nobody to trust.
    pub fn new(
        url: RelayUrl,
        authorities: Option<&Path>,
        via: Option<HostPort>,
    ) -> Result<Self, WayError> {
        let tls = match url.transport.is_tls() {
            false => None,
            true => Some(trusted(url.pin, &url.address.host, authorities)?),
        };
        Ok(Self {
            speech: Speech {
                transport: url.transport,
                authority: url.address.to_string(),
                tls,
            },
            url,
            via,
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.via {
            Some(via) => write!(f, "{} via {via}", self.url),
            None => self.url.fmt(f),
        }
    }
}

/// Whom to trust to be the relay at `host`: who has the pinned certificate, or whom the
/// authorities in a file, or the system's, vouch for.
pub(super) fn trusted(
    pin: Option<Fingerprint>,
    host: &Host,
    authorities: Option<&Path>,
) -> Result<Trusted, WayError> {
    let (trust, name) = trust(pin, host, authorities)?;
    Ok((client_config(trust)?, name))
}

/// Whom to trust, and by which name; see [`trusted`].
pub(super) fn trust(
    pin: Option<Fingerprint>,
    host: &Host,
    authorities: Option<&Path>,
) -> Result<(Trust, ServerName<'static>), WayError> {
    let trust = match pin {
        Some(pin) => Trust::Pinned(pin),
        None => Trust::Roots(Arc::new(roots(authorities)?)),
    };
    Ok((trust, server_name(host)?))
}

fn roots(authorities: Option<&Path>) -> Result<RootCertStore, WayError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = authorities else {
        let native = rustls_native_certs::load_native_certs();
        // Systems have some that nobody can read any more.
        roots.add_parsable_certificates(native.certs);
        return match roots.is_empty() {
            true => Err(WayError::NoAuthorities),
            false => Ok(roots),
        };
    };
    let unreadable = |source| WayError::Authorities {
        path: path.to_owned(),
        source,
    };
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        roots
            .add(certificate)
            .map_err(|source| WayError::NoAuthority {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(roots)
}

fn server_name(host: &Host) -> Result<ServerName<'static>, WayError> {
    match host {
        Host::Address(address) => Ok(ServerName::IpAddress(IpAddr::from(*address))),
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|source| WayError::Name {
            host: name.clone(),
            source,
        }),
    }
}
