//! The pin in a relay's URL, `?pin=…`: the fingerprint of the certificate by which it is known,
//! whoever vouches for it.

use crate::access::Fingerprint;

/// The parameter's name.
pub(super) const PIN: &str = "pin";

/// Why there is no pin.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Something other than a certificate's fingerprint.
    #[error(
        "a pin is the SHA-256 of the relay's certificate, 64 hexadecimal digits, with or without \
         colons: as the relay tells it at its start, or openssl x509 -noout -fingerprint -sha256 \
         behind its ="
    )]
    NoFingerprint,
    /// A pin where there is no certificate.
    #[error("a pin is for relays over TLS: {tls_schemes}")]
    WithoutTls { tls_schemes: &'static str },
}

/// Reads a pin; `tls_schemes` are those of URLs that may have one.
pub(super) fn parse_pin(
    written: &str,
    is_tls: bool,
    tls_schemes: &'static str,
) -> Result<Fingerprint, PinError> {
    let pin = written.parse().map_err(|_| PinError::NoFingerprint)?;
    match is_tls {
        true => Ok(pin),
        false => Err(PinError::WithoutTls { tls_schemes }),
    }
}
