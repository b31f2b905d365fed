//! Where a PTTH relay is: `[ptth+quic://]HOST[:PORT]`, `ptth+https://…`, or `ptth+http://…`.

use std::fmt;
use std::str::FromStr;

use crate::access::Fingerprint;
use crate::agent::target::HostPort;
use crate::agent::url_parts::{RelayKind, UrlParts, UrlPartsError};

/// The parameter that chooses a core.
const STEER: &str = "steer";

const KIND: RelayKind = RelayKind {
    name: "PTTH",
    parameters: "?pin=…, ?steer=…, or nothing",
    tls_schemes: "ptth+quic and ptth+https",
};

/// A PTTH relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtthUrl {
    /// Its host and port.
    pub address: HostPort,
    /// How it is reached.
    pub way: PtthWay,
    /// The certificate by which it is known, whoever vouches for it: `?pin=…`.
    pub pin: Option<Fingerprint>,
    /// To which of the relay's cores to come by QUIC, modulo how many it has: `?steer=…`.
    /// Otherwise the server's name says it, so that its clients come to where it does.
    pub steer: Option<u8>,
}

/// How a relay is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PtthWay {
    Http,
    Https,
    Quic,
}

impl PtthWay {
    /// Whether it is over TLS.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        !matches!(self, Self::Http)
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https | Self::Quic => 443,
        }
    }
}

/// Why a URL is none of a PTTH relay.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PtthUrlError {
    /// Another scheme.
    #[error(
        "a PTTH relay is written HOST:PORT, or ptth+quic://HOST:PORT, ptth+https://…, \
         ptth+http://…"
    )]
    Scheme,
    /// No such relay, or something behind it.
    #[error(transparent)]
    Parts(#[from] UrlPartsError),
    /// Somebody, where a key says who asks.
    #[error("a PTTH relay's URL names nobody: the key in --key-file says who you are")]
    User,
    /// No core, or where none is chosen.
    #[error("?steer={0}: a number from 0 to 255 belongs there, and only with ptth+quic")]
    Steer(String),
}

impl PtthUrl {
    /// What all URLs of such relays begin with that have a scheme.
    pub const SCHEMES: &str = "ptth+";

    /// The same relay at the same port, by HTTPS.
    #[must_use]
    pub fn by_https(&self) -> Self {
        Self {
            way: PtthWay::Https,
            steer: None,
            ..self.clone()
        }
    }
}

impl FromStr for PtthUrl {
    type Err = PtthUrlError;

    fn from_str(written: &str) -> Result<Self, PtthUrlError> {
        let (way, rest) = match written.split_once("://") {
            None => (PtthWay::Quic, written),
            Some((scheme, rest)) => match &*scheme.to_ascii_lowercase() {
                "ptth+http" => (PtthWay::Http, rest),
                "ptth+https" => (PtthWay::Https, rest),
                "ptth+quic" => (PtthWay::Quic, rest),
                _ => return Err(PtthUrlError::Scheme),
            },
        };
        let parts = UrlParts::new(rest, &KIND);
        if parts.user.is_some() {
            return Err(PtthUrlError::User);
        }
        let mut steer = None;
        let pin = parts.pin::<PtthUrlError>(way.is_tls(), |name, value| {
            if name != STEER || steer.is_some() {
                return Ok(false);
            }
            let number = value.parse().ok().filter(|_| way == PtthWay::Quic);
            let wrong = || PtthUrlError::Steer(value.to_owned());
            steer = Some(number.ok_or_else(wrong)?);
            Ok(true)
        })?;
        Ok(Self {
            address: parts.address(Some(way.default_port()))?,
            way,
            pin,
            steer,
        })
    }
}

/// Without the pin, which says nothing to a person.
impl fmt::Display for PtthUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.way {
            PtthWay::Http => "ptth+http",
            PtthWay::Https => "ptth+https",
            PtthWay::Quic => "ptth+quic",
        };
        write!(f, "{scheme}://{}", self.address)?;
        match self.steer {
            Some(steer) => write!(f, "?{STEER}={steer}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_a_host_and_perhaps_a_port() {
        let pin = "ab".repeat(32);
        let check = |written: &str, expected: Result<&str, &str>| match (
            written.parse::<PtthUrl>(),
            expected,
        ) {
            (Ok(url), Ok(expected)) => assert_eq!(url.to_string(), expected),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{written}: {error}");
            }
            (got, _) => panic!("{written}: {got:?}"),
        };
        check("ptth+http://relay:8080", Ok("ptth+http://relay:8080"));
        check("PTTH+https://[::1]:8443/", Ok("ptth+https://[::1]:8443"));
        check("ptth+https://relay", Ok("ptth+https://relay:443"));
        check("ptth+http://[::1]", Ok("ptth+http://[::1]:80"));
        check("ptth+quic://relay", Ok("ptth+quic://relay:443"));
        let pinned = format!("ptth+https://relay:443?pin={pin}");
        check(&pinned, Ok("ptth+https://relay:443"));
        check("relay", Ok("ptth+quic://relay:443"));
        check("[::1]:4433", Ok("ptth+quic://[::1]:4433"));
        check(&format!("relay?pin={pin}"), Ok("ptth+quic://relay:443"));
        check(
            "https://relay",
            Err("is written HOST:PORT, or ptth+quic://"),
        );
        check("relay/ticket/x", Err("behind the port"));
        check("jet+tcp:relay", Err("\"jet+tcp\" is not a host name"));
        check("ptth+https://", Err("is not a host name"));
        check("ptth+https://key@relay", Err("--key-file"));
        check("relay?steer=255", Ok("ptth+quic://relay:443?steer=255"));
        check(
            &format!("relay?pin={pin}&steer=1"),
            Ok("ptth+quic://relay:443?steer=1"),
        );
        check("relay?steer=256", Err("a number from 0 to 255"));
        check("ptth+https://relay?steer=1", Err("only with ptth+quic"));
        check("relay?steer=1&steer=1", Err("behind the port"));
        check("ptth+https://relay:443/path", Err("behind the port"));
        check("ptth+https://relay:443?x=y", Err("behind the port"));
        check("ptth+https://relay:443?pin=x", Err("64 hexadecimal"));
        let plain = format!("ptth+http://relay:80?pin={pin}");
        check(&plain, Err("over TLS"));
    }
}
