//! Who we are to those who come, and what we ask of them. One configuration for all
//! shards: a session that began at one is resumed at any other.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::identity::Identity;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("tls cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("the certificates that clients have to show one of cannot be used")]
    ClientRoots(#[from] rustls::server::VerifierBuilderError),
}

/// What clients have to show.
#[derive(Clone, Debug)]
pub enum ClientCertificates {
    /// Nothing.
    NotAsked,
    /// A certificate by one of these.
    Required(Arc<RootCertStore>),
}

/// Our identities, of which the client's SNI chooses: RFC 6066 §3. They may be
/// replaced while connections come.
#[derive(Debug)]
pub struct Identities(RwLock<Arc<[Identity]>>);

impl Identities {
    /// At least one, of which the first is for clients that name none of them.
    #[must_use]
    pub fn new(identities: Vec<Identity>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(identities.into())))
    }

    /// From now on these. What runs goes on with what it began with.
    pub fn replace(&self, identities: Vec<Identity>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = identities.into();
    }

    /// The identities as they are now.
    #[must_use]
    pub fn current(&self) -> Arc<[Identity]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let identities = self.current();
        let named = hello
            .server_name()
            .filter(|_| identities.len() > 1)
            .and_then(|name| identities.iter().find(|identity| identity.is_for(name)));
        named.or(identities.first()).map(Identity::certified)
    }
}

/// The configuration for all that listens.
///
/// # Errors
///
/// When the system has no randomness, or clients' roots are none.
pub fn server_config(
    identities: Arc<Identities>,
    clients: &ClientCertificates,
) -> Result<Arc<ServerConfig>, ServerError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match clients {
        ClientCertificates::NotAsked => builder.with_no_client_auth(),
        ClientCertificates::Required(roots) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider).build()?,
        ),
    };
    let mut config = builder.with_cert_resolver(identities);
    // Tickets alone: they hold the session, so that no shard has to keep it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
