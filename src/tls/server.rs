//! Who we are to those who come, and what we ask of them. One configuration for all
//! shards: a session that began at one is resumed at any other.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};

use super::client_identity::Anybodys;
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

/// What sessions are resumed with, as long as the process lives: RFC 8446 §4.6.1.
#[derive(Clone)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    /// Fresh keys, which change by themselves.
    ///
    /// # Errors
    ///
    /// When the system has no randomness.
    pub fn new() -> Result<Self, ServerError> {
        Ok(Self(aws_lc_rs::Ticketer::new()?))
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

/// Our identities, of which the client's SNI chooses: RFC 6066 §3. The first is for
/// clients that name none of them.
#[derive(Debug)]
struct Identities(Vec<Identity>);

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello
            .server_name()
            .filter(|_| self.0.len() > 1)
            .and_then(|name| self.0.iter().find(|identity| identity.is_for(name)));
        named.or(self.0.first()).map(Identity::certified)
    }
}

/// The configuration for QUIC, for those who speak `protocol`: of TLS 1.3, as RFC 9001 has it,
/// and each handshake whole, as what comes early could be replayed. Whoever has a certificate may
/// show it, whatever it says: see [`super::client_identity`].
///
/// # Errors
///
/// When this build has no TLS 1.3.
pub fn quic_server_config(
    identities: Vec<Identity>,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, ServerError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Anybodys::new()))
        .with_cert_resolver(Arc::new(Identities(identities)));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The configuration for all that listens. `identities` are one at least, of which
/// the first is for clients that name none of them.
///
/// # Errors
///
/// When clients' certificates are none.
pub fn server_config(
    identities: Vec<Identity>,
    clients: &ClientCertificates,
    tickets: Tickets,
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
    let mut config = builder.with_cert_resolver(Arc::new(Identities(identities)));
    // Tickets alone: they hold the session, so that no shard has to keep it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets.0;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
