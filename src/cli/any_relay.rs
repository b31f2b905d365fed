//! What `--relay` names: which protocol is spoken follows from the URL's scheme. Without one it
//! is PTTH over QUIC, where servers have names; whoever has a ticket has a URL.

use std::str::FromStr;

use crate::agent::ptth::url::{PtthUrl, PtthUrlError};
use crate::agent::ticket::{RelayUrl, TicketError};

/// A relay by which a proxy meets another.
#[derive(Clone, Debug)]
pub(super) enum AnyRelay {
    /// By a ticket.
    Jet(RelayUrl),
    /// By a server's name and a key.
    Ptth(PtthUrl),
}

/// Why a URL is no relay's.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnyRelayError {
    #[error(
        "scheme \"{0}\" is none of jet+tcp, jet+tls, jet+ws, jet+wss, ptth+quic (as without \
         any), ptth+https and ptth+http"
    )]
    Scheme(String),
    #[error(transparent)]
    Jet(TicketError),
    #[error(transparent)]
    Ptth(#[from] PtthUrlError),
}

impl FromStr for AnyRelay {
    type Err = AnyRelayError;

    fn from_str(written: &str) -> Result<Self, AnyRelayError> {
        let begins_with = |scheme: &str| {
            let start = written.get(..scheme.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        };
        if begins_with(PtthUrl::SCHEMES) || !written.contains("://") {
            return Ok(Self::Ptth(written.parse()?));
        }
        match written.parse() {
            Ok(relay) => Ok(Self::Jet(relay)),
            Err(TicketError::Scheme { scheme }) => Err(AnyRelayError::Scheme(scheme)),
            Err(error) => Err(AnyRelayError::Jet(error)),
        }
    }
}
