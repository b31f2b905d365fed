//! Where a WebSocks relay is, and as whom it is asked: `websocks+wss://USER@HOST:PORT`.

use std::fmt;
use std::str::FromStr;

use crate::access::Fingerprint;
use crate::agent::target::HostPort;
use crate::agent::url_parts::{RelayKind, UrlParts, UrlPartsError};

const KIND: RelayKind = RelayKind {
    name: "WebSocks",
    parameters: "?pin=… or nothing",
    tls_schemes: "websocks+wss",
};

/// A WebSocks relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebsocksUrl {
    /// Its host and port.
    pub address: HostPort,
    /// Whether it is reached over TLS.
    pub is_tls: bool,
    /// As whom it is asked.
    pub user: String,
    /// The certificate by which it is known, whoever vouches for it: `?pin=…`.
    pub pin: Option<Fingerprint>,
}

/// Why a URL is none of a WebSocks relay.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebsocksUrlError {
    /// No scheme, or another one.
    #[error("a WebSocks relay is written websocks+wss://USER@HOST:PORT, or websocks+ws://…")]
    Scheme,
    /// Nobody.
    #[error("the URL names no user; write websocks+wss://USER@HOST:PORT")]
    NoUser,
    /// A password, which others would see among a program's arguments.
    #[error("a password has no place in the URL; pass --password-file FILE")]
    Password,
    /// No such relay, or something behind it.
    #[error(transparent)]
    Parts(#[from] UrlPartsError),
}

impl FromStr for WebsocksUrl {
    type Err = WebsocksUrlError;

    fn from_str(written: &str) -> Result<Self, WebsocksUrlError> {
        let (scheme, rest) = written.split_once("://").ok_or(WebsocksUrlError::Scheme)?;
        let is_tls = match &*scheme.to_ascii_lowercase() {
            "websocks+ws" => false,
            "websocks+wss" => true,
            _ => return Err(WebsocksUrlError::Scheme),
        };
        let parts = UrlParts::new(rest, &KIND);
        let user = parts.user.ok_or(WebsocksUrlError::NoUser)?;
        if user.is_empty() {
            return Err(WebsocksUrlError::NoUser);
        }
        if user.contains(':') {
            return Err(WebsocksUrlError::Password);
        }
        let pin = parts.pin::<WebsocksUrlError>(is_tls, |_, _| Ok(false))?;
        Ok(Self {
            address: parts.address(None)?,
            is_tls,
            user: user.to_owned(),
            pin,
        })
    }
}

/// Without the pin, which says nothing to a person.
impl fmt::Display for WebsocksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.is_tls {
            true => "websocks+wss",
            false => "websocks+ws",
        };
        write!(f, "{scheme}://{}@{}", self.user, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_a_user_a_host_and_a_port() {
        let pin = "ab".repeat(32);
        let check = |written: &str, expected: Result<&str, &str>| match (
            written.parse::<WebsocksUrl>(),
            expected,
        ) {
            (Ok(url), Ok(expected)) => assert_eq!(url.to_string(), expected),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{written}: {error}");
            }
            (got, _) => panic!("{written}: {got:?}"),
        };
        check(
            "websocks+ws://alice@relay:80",
            Ok("websocks+ws://alice@relay:80"),
        );
        check(
            "WebSocks+WSS://a@[::1]:443/",
            Ok("websocks+wss://a@[::1]:443"),
        );
        check(
            "websocks+ws://a@b@relay:80",
            Ok("websocks+ws://a@b@relay:80"),
        );
        let pinned = format!("websocks+wss://a@relay:443?pin={pin}");
        check(&pinned, Ok("websocks+wss://a@relay:443"));
        let colons = ["AB"; 32].join(":");
        let pinned = format!("websocks+wss://a@relay:443?pin={colons}");
        check(&pinned, Ok("websocks+wss://a@relay:443"));
        for wrong in [&colons[3..], &format!("sha256 Fingerprint={colons}")] {
            let pinned = format!("websocks+wss://a@relay:443?pin={wrong}");
            check(&pinned, Err("with or without colons"));
        }
        check("wss://a@relay:443", Err("is written websocks+wss://"));
        check("relay:443", Err("is written websocks+wss://"));
        check("websocks+wss://relay:443", Err("names no user"));
        check("websocks+wss://@relay:443", Err("names no user"));
        check("websocks+wss://a:b@relay:443", Err("--password-file"));
        check("websocks+wss://a@relay", Err("has no port"));
        check("websocks+wss://a@relay:443/path", Err("behind the port"));
        check("websocks+wss://a@relay:443?x=y", Err("behind the port"));
        check("websocks+wss://a@relay:443?pin=x", Err("64 hexadecimal"));
        let plain = format!("websocks+ws://a@relay:80?pin={pin}");
        check(&plain, Err("over TLS"));
    }
}
