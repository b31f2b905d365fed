//! What `--relay` names: which protocol is spoken follows from the URL's scheme. Without one it
//! is PTTH over QUIC, where servers have names; whoever has a ticket has a URL. Those by which
//! all goes out have a scheme always.

use std::str::FromStr;

use crate::agent::ptth::url::{PtthUrl, PtthUrlError};
use crate::agent::socks::tunnel::url::{JproxyUrl, JproxyUrlError};
use crate::agent::socks::url::{WebsocksUrl, WebsocksUrlError};
use crate::agent::ticket::{RelayUrl, TicketError};

/// A relay by which a proxy meets another.
#[derive(Clone, Debug)]
pub(super) enum AnyRelay {
    /// By a ticket.
    Jet(RelayUrl),
    /// By a server's name and a key.
    Ptth(PtthUrl),
    /// It connects with whom it is told to.
    Jproxy(JproxyUrl),
}

/// A relay by which connections go out.
#[derive(Clone, Debug)]
pub(super) enum SocksRelay {
    Websocks(WebsocksUrl),
    Jproxy(JproxyUrl),
}

/// Why a URL is no relay's.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnyRelayError {
    #[error(
        "scheme \"{0}\" is none of jet+tcp, jet+tls, jet+ws, jet+wss, ptth+quic (as without \
         any), ptth+https, ptth+http, jproxy+tls and jproxy"
    )]
    Scheme(String),
    #[error(transparent)]
    Jet(TicketError),
    #[error(transparent)]
    Ptth(#[from] PtthUrlError),
    #[error(transparent)]
    Jproxy(#[from] JproxyUrlError),
}

/// Why a URL is of no relay by which connections go out.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocksRelayError {
    #[error(
        "a relay is written websocks+wss://USER@HOST:PORT or websocks+ws://…, or \
         jproxy+tls://HOST:PORT or jproxy://…"
    )]
    Scheme,
    #[error(transparent)]
    Websocks(WebsocksUrlError),
    #[error(transparent)]
    Jproxy(#[from] JproxyUrlError),
}

fn begins_with(written: &str, scheme: &str) -> bool {
    let start = written.get(..scheme.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

impl FromStr for AnyRelay {
    type Err = AnyRelayError;

    fn from_str(written: &str) -> Result<Self, AnyRelayError> {
        if begins_with(written, PtthUrl::SCHEMES) || !written.contains("://") {
            return Ok(Self::Ptth(written.parse()?));
        }
        if begins_with(written, JproxyUrl::SCHEMES) {
            return Ok(Self::Jproxy(written.parse()?));
        }
        match written.parse() {
            Ok(relay) => Ok(Self::Jet(relay)),
            Err(TicketError::Scheme { scheme }) => Err(AnyRelayError::Scheme(scheme)),
            Err(error) => Err(AnyRelayError::Jet(error)),
        }
    }
}

impl FromStr for SocksRelay {
    type Err = SocksRelayError;

    fn from_str(written: &str) -> Result<Self, SocksRelayError> {
        if begins_with(written, JproxyUrl::SCHEMES) {
            return Ok(Self::Jproxy(written.parse()?));
        }
        match written.parse() {
            Ok(relay) => Ok(Self::Websocks(relay)),
            Err(WebsocksUrlError::Scheme) => Err(SocksRelayError::Scheme),
            Err(error) => Err(SocksRelayError::Websocks(error)),
        }
    }
}
