//! Where a jProxy relay is: `jproxy+tls://HOST[:PORT]`, or `jproxy://HOST[:PORT]`.

use std::fmt;
use std::str::FromStr;

use crate::access::Fingerprint;
use crate::agent::target::{Host, HostPort};
use crate::agent::url_parts::{RelayKind, UrlParts, UrlPartsError};

/// Where the programs that exist listen.
const PLAIN_PORT: u16 = 16384;

const TLS_PORT: u16 = 443;

const KIND: RelayKind = RelayKind {
    name: "jProxy",
    parameters: "?pin=… or nothing",
    tls_schemes: "jproxy+tls",
};

/// A jProxy relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JproxyUrl {
    /// Its host and port.
    pub address: HostPort,
    /// Whether it is reached over TLS.
    pub is_tls: bool,
    /// The certificate by which it is known, whoever vouches for it: `?pin=…`.
    pub pin: Option<Fingerprint>,
}

/// Why a URL is none of a jProxy relay.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JproxyUrlError {
    /// No scheme, or another one.
    #[error("a jProxy relay is written jproxy+tls://HOST:PORT, or jproxy://…")]
    Scheme,
    /// Somebody, where a key says who asks.
    #[error("a jProxy relay's URL names nobody: the key in --key-file says who you are")]
    User,
    /// No such relay, or something behind it.
    #[error(transparent)]
    Parts(#[from] UrlPartsError),
    /// A dialect, which is of all relays of a command.
    #[error("a jProxy relay's URL has no dialect; pass --dialect spec or --dialect original")]
    Dialect,
}

impl JproxyUrl {
    /// What all URLs of such relays begin with.
    pub const SCHEMES: &str = "jproxy";

    /// What it begins with, before `://`.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        match self.is_tls {
            true => "jproxy+tls",
            false => "jproxy",
        }
    }

    /// As it is written where it is to be gone to.
    #[must_use]
    pub fn with_pin(&self) -> String {
        match self.pin {
            Some(pin) => format!("{self}?pin={pin}"),
            None => self.to_string(),
        }
    }

    /// Whether others could read what is said on the way: neither TLS is around it, nor does
    /// it stay on this host for certain.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let is_loopback = match self.address.host {
            Host::Address(ip) => ip.to_canonical().is_loopback(),
            Host::Name(_) => false,
        };
        !self.is_tls && !is_loopback
    }
}

impl FromStr for JproxyUrl {
    type Err = JproxyUrlError;

    fn from_str(written: &str) -> Result<Self, JproxyUrlError> {
        let (scheme, rest) = written.split_once("://").ok_or(JproxyUrlError::Scheme)?;
        let is_tls = match &*scheme.to_ascii_lowercase() {
            "jproxy" => false,
            "jproxy+tls" => true,
            _ => return Err(JproxyUrlError::Scheme),
        };
        let parts = UrlParts::new(rest, &KIND);
        let pin = parts.pin::<JproxyUrlError>(is_tls, |name, _| match name {
            "dialect" => Err(JproxyUrlError::Dialect),
            _ => Ok(false),
        })?;
        if parts.user.is_some() {
            return Err(JproxyUrlError::User);
        }
        let default_port = if is_tls { TLS_PORT } else { PLAIN_PORT };
        Ok(Self {
            address: parts.address(Some(default_port))?,
            is_tls,
            pin,
        })
    }
}

/// Without the pin, which says nothing to a person.
impl fmt::Display for JproxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_a_host_and_perhaps_a_port() {
        let pin = "ab".repeat(32);
        let check = |written: &str, expected: Result<&str, &str>| match (
            written.parse::<JproxyUrl>(),
            expected,
        ) {
            (Ok(url), Ok(expected)) => assert_eq!(url.to_string(), expected),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{written}: {error}");
            }
            (got, _) => panic!("{written}: {got:?}"),
        };
        check("jproxy+tls://relay:8443", Ok("jproxy+tls://relay:8443"));
        check("JProxy+TLS://[::1]:1/", Ok("jproxy+tls://[::1]:1"));
        check("jproxy+tls://relay", Ok("jproxy+tls://relay:443"));
        check("jproxy://127.0.0.1", Ok("jproxy://127.0.0.1:16384"));
        let pinned = format!("jproxy+tls://relay:1?pin={pin}");
        check(&pinned, Ok("jproxy+tls://relay:1"));
        check("relay:443", Err("is written jproxy+tls://"));
        check("jproxy+wss://relay", Err("is written jproxy+tls://"));
        check("jproxy+tls://a@relay:1", Err("--key-file"));
        check("jproxy+tls://", Err("is not a host name"));
        check("jproxy+tls://relay:0", Err("is not a number from 1"));
        check("jproxy+tls://relay:1/path", Err("behind the port"));
        check("jproxy+tls://relay:1?x=y", Err("behind the port"));
        check("jproxy://relay?dialect=spec", Err("pass --dialect spec or"));
        check("jproxy+tls://relay:1?pin=x", Err("64 hexadecimal"));
        check(&format!("jproxy://relay:1?pin={pin}"), Err("over TLS"));
    }

    #[test]
    fn what_others_could_read_is_known() {
        for (written, is_exposed) in [
            ("jproxy+tls://relay", false),
            ("jproxy://127.0.0.2", false),
            ("jproxy://[::1]", false),
            ("jproxy://[::ffff:127.0.0.1]", false),
            ("jproxy://192.0.2.1", true),
            // Who says where that leads?
            ("jproxy://localhost", true),
        ] {
            let url: JproxyUrl = written.parse().expect(written);
            assert_eq!(url.is_exposed(), is_exposed, "{written}");
        }
    }
}
