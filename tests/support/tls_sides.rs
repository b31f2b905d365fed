//! Both sides of TLS as the relay has them, and peers for each that are `rustls`' own
//! and speak one version.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use midspan::tls::client::{Trust, client_config};
use midspan::tls::identity::Identity;
use midspan::tls::server::{ClientCertificates, Tickets, server_config};
use midspan::tls::{SEALED_BYTES_MIN, Session, Wire};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Connection, ServerConfig, SupportedProtocolVersion};

use self::any_certificate::AnyCertificate;

#[path = "any_certificate.rs"]
mod any_certificate;

/// The relay's sides, and its peers of TLS 1.3 and of TLS 1.2.
pub(crate) struct Sides {
    pub(crate) ours: Ends,
    pub(crate) peers: [Ends; 2],
}

/// One that is dialled, and one that dials.
pub(crate) struct Ends {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

/// Made once: all of them have one certificate.
pub(crate) static SIDES: LazyLock<Sides> = LazyLock::new(|| {
    let pem = Identity::make_pem("relay.example").expect("an identity");
    Sides {
        ours: Ends::of_relay(&pem),
        peers: [&TLS13, &TLS12].map(|version| Ends::of_peer(&pem, version)),
    }
});

/// What clients ask for.
pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from("relay.example").expect("a name")
}

/// Has a session of ours and a peer of rustls' go through the handshake. What the
/// session has to say behind it, such as a ticket, stays with its words.
pub(crate) fn shake(session: &mut Session, peer: &mut Connection) {
    let mut opened = [0; SEALED_BYTES_MIN];
    session.open(&mut [], &mut []).expect("a beginning");
    while session.is_handshaking() || peer.is_handshaking() || peer.wants_write() {
        let mut wire = Wire::default();
        session.take_words(&mut wire);
        peer.read_tls(&mut wire.as_bytes()).expect("room");
        peer.process_new_packets().expect("a handshake");
        let mut flight = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut flight).expect("room");
        }
        session.open(&mut flight, &mut opened).expect("a handshake");
    }
}

impl Ends {
    fn of_relay(pem: &str) -> Self {
        let identity = Identity::parse(pem.as_bytes(), Path::new("made")).expect("an identity");
        let trust = Trust::Pinned(identity.fingerprint());
        let tickets = Tickets::new().expect("randomness");
        let server = server_config(vec![identity], &ClientCertificates::NotAsked, tickets);
        Self {
            server: server.expect("a configuration"),
            client: client_config(trust).expect("a configuration"),
        }
    }

    /// They resume nothing, so that no handshake depends on one before, agree on keys in
    /// the cheapest way, and give them out.
    fn of_peer(pem: &str, version: &'static SupportedProtocolVersion) -> Self {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![X25519],
            ..default_provider()
        });
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate and its key");
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        Self {
            server: Arc::new(server),
            client: Arc::new(client),
        }
    }
}
