//! Whom we trust when we dial.

use std::sync::Arc;

use rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, SupportedCipherSuite, WantsVerifier,
};

use super::identity::Identity;
use crate::access::Fingerprint;

/// Whom we trust.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Whoever one of these vouches for, by the name that we dial.
    Roots(Arc<RootCertStore>),
    /// The one who has this certificate, whatever it says.
    Pinned(Fingerprint),
}

/// The configuration for all that is dialled.
///
/// # Errors
///
/// When this build has no version of TLS.
pub fn client_config(trust: Trust) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    Ok(Arc::new(trusting(
        builder.with_safe_default_protocol_versions()?,
        trust,
    )))
}

/// The configuration for QUIC, to speak `protocol`, with what is shown of us if we are asked; see
/// [`super::server::quic_server_config`].
///
/// # Errors
///
/// When this build has no TLS 1.3.
pub fn quic_client_config(
    trust: Trust,
    protocol: &[u8],
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, Error> {
    let mut provider = default_provider();
    // What every QUIC packet can be sealed with; 256 bits cost 3 % of a proxy's CPU more.
    let is_longer = |suite: &SupportedCipherSuite| suite.suite() != TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(is_longer);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let mut config = trusting(builder.with_protocol_versions(&[&TLS13])?, trust);
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    if let Some(identity) = identity {
        let shown = SingleCertAndKey::from(identity.certified());
        config.client_auth_cert_resolver = Arc::new(shown);
    }
    Ok(Arc::new(config))
}

fn trusting(builder: ConfigBuilder<ClientConfig, WantsVerifier>, trust: Trust) -> ClientConfig {
    match trust {
        Trust::Roots(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
        Trust::Pinned(fingerprint) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned {
                fingerprint,
                algorithms: default_provider().signature_verification_algorithms,
            }))
            .with_no_client_auth(),
    }
}

/// Knows one certificate. That its owner has the key is checked as always.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if Fingerprint::of(certificate) == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
