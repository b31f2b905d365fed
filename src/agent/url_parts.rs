//! What stands behind the scheme of a relay's URL: `[USER@]HOST[:PORT][/][?NAME=VALUE[&…]]`.
//!
//! Left out: schemes, and which of the parts a relay has, as they are of its kind; and the URLs of
//! tickets, which have paths.

use super::pin::{PIN, PinError, parse_pin};
use super::target::{HostPort, TargetError};
use crate::access::Fingerprint;

/// The parts of one URL.
#[derive(Clone, Copy, Debug)]
pub(super) struct UrlParts<'a> {
    /// What stands before the last `@`.
    pub(super) user: Option<&'a str>,
    address: &'a str,
    parameters: Option<&'a str>,
    kind: &'a RelayKind,
}

/// Whose URLs they are, for what is said of a wrong one.
#[derive(Debug)]
pub(super) struct RelayKind {
    pub(super) name: &'static str,
    /// What may stand behind the port.
    pub(super) parameters: &'static str,
    /// The schemes with which a pin may.
    pub(super) tls_schemes: &'static str,
}

/// Why there is no relay in the parts of a URL.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlPartsError {
    /// No such host or port.
    #[error(transparent)]
    Relay(#[from] TargetError),
    /// Something behind the port.
    #[error("behind the port a {name} relay's URL has {parameters}")]
    Rest {
        name: &'static str,
        parameters: &'static str,
    },
    /// A pin that is wrong, or where none belongs.
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl<'a> UrlParts<'a> {
    /// Of what follows `://` in the URL of a relay of this kind.
    pub(super) fn new(rest: &'a str, kind: &'a RelayKind) -> Self {
        let (before, parameters) = match rest.split_once('?') {
            Some((before, parameters)) => (before, Some(parameters)),
            None => (rest, None),
        };
        let (user, address) = match before.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, before),
        };
        Self {
            user,
            address: address.strip_suffix('/').unwrap_or(address),
            parameters,
            kind,
        }
    }

    /// Host and port; without a default the port has to be there.
    pub(super) fn address(&self, default_port: Option<u16>) -> Result<HostPort, UrlPartsError> {
        if self.address.contains('/') {
            return Err(self.rest());
        }
        match (self.address.parse(), default_port) {
            (Err(TargetError::NoPort { written }), Some(port)) => Ok(HostPort {
                host: written.parse()?,
                port,
            }),
            (address, _) => Ok(address?),
        }
    }

    /// The pin, if there is one. `take` is given the name and value of each other parameter, and
    /// tells whether it is one of this kind of relay.
    pub(super) fn pin<E: From<UrlPartsError>>(
        &self,
        is_tls: bool,
        mut take: impl FnMut(&str, &str) -> Result<bool, E>,
    ) -> Result<Option<Fingerprint>, E> {
        let mut pin = None;
        for parameter in self.parameters.into_iter().flat_map(|all| all.split('&')) {
            match parameter.split_once('=') {
                Some((PIN, value)) if pin.is_none() => {
                    let parsed = parse_pin(value, is_tls, self.kind.tls_schemes);
                    pin = Some(parsed.map_err(UrlPartsError::from)?);
                }
                Some((name, value)) if name != PIN && take(name, value)? => {}
                _ => return Err(self.rest().into()),
            }
        }
        Ok(pin)
    }

    fn rest(&self) -> UrlPartsError {
        UrlPartsError::Rest {
            name: self.kind.name,
            parameters: self.kind.parameters,
        }
    }
}
