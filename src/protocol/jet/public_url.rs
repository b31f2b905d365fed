//! Where peers reach a relay: `[JET-PROTO]` 2.2.2.1.2.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// How a peer speaks JET to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Packets over TCP.
    Tcp,
    /// Packets over TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

/// The URL of one listener, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    transport: Transport,
    /// A name, or an address, one of IPv6 in brackets.
    host: String,
    port: u16,
}

/// Not the URL of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "\"{}\" is not a URL such as tcp://relay.example:8080, tls://…, ws://… or wss://relay.example",
    written.escape_default()
)]
pub struct PublicUrlError {
    /// What was written.
    pub written: String,
}

impl Transport {
    const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// The URL's scheme.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// The scheme by which programs of ours name it: `jet+tcp`.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "jet+tcp",
            Self::Tls => "jet+tls",
            Self::Ws => "jet+ws",
            Self::Wss => "jet+wss",
        }
    }

    /// The one with this scheme.
    #[must_use]
    pub fn from_scheme(scheme: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|transport| transport.scheme() == scheme)
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|transport| transport.as_str() == name)
    }

    /// Whether it is over TLS.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Whether it is WebSocket.
    #[must_use]
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// The port that a URL need not name.
    const fn default_port(self) -> Option<u16> {
        match self {
            Self::Tcp | Self::Tls => None,
            Self::Ws => Some(80),
            Self::Wss => Some(443),
        }
    }
}

impl PublicUrl {
    /// A listener that is reached at this host and port.
    ///
    /// # Errors
    /// If the host could not stand in a URL.
    pub fn new(transport: Transport, host: &str, port: u16) -> Result<Self, PublicUrlError> {
        let scheme = transport.as_str();
        format!("{scheme}://{host}:{port}").parse()
    }

    /// How it is spoken to.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// As `iceServers` lists it: `[JET-PROTO]` 2.2.2.1.1.
    #[must_use]
    pub fn ice_url(&self) -> String {
        let Self {
            transport, host, ..
        } = self;
        let scheme = transport.as_str();
        match self.written_port() {
            Some(port) => format!("jet:{host}:{port}?transport={scheme}"),
            None => format!("jet:{host}?transport={scheme}"),
        }
    }

    fn written_port(&self) -> Option<u16> {
        Some(self.port).filter(|port| self.transport.default_port() != Some(*port))
    }
}

/// Scripts put the path right behind it, so the URL of a WebSocket ends in a slash
/// and that of a socket does not.
impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport.as_str(), self.host)?;
        if let Some(port) = self.written_port() {
            write!(f, ":{port}")?;
        }
        match self.transport {
            Transport::Tcp | Transport::Tls => Ok(()),
            Transport::Ws | Transport::Wss => f.write_str("/"),
        }
    }
}

impl FromStr for PublicUrl {
    type Err = PublicUrlError;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (scheme, rest) = written.split_once("://")?;
            let transport = Transport::ALL
                .into_iter()
                .find(|transport| transport.as_str() == scheme)?;
            let authority = rest.strip_suffix('/').unwrap_or(rest);
            // A colon within brackets is the address's own.
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
                _ => (authority, None),
            };
            let port = match port {
                Some(digits) => digits.parse().ok().filter(|port| *port != 0)?,
                None => transport.default_port()?,
            };
            let is_name = !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
            let is_v6 = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
            (is_name || is_v6).then(|| Self {
                transport,
                host: host.to_owned(),
                port,
            })
        };
        parse().ok_or_else(|| PublicUrlError {
            written: written.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_written_as_scripts_need_them() {
        for (written, url, ice) in [
            (
                "tcp://jet101.wayk.net:8080",
                "tcp://jet101.wayk.net:8080",
                "jet:jet101.wayk.net:8080?transport=tcp",
            ),
            (
                "tls://jet101.wayk.net:443",
                "tls://jet101.wayk.net:443",
                "jet:jet101.wayk.net:443?transport=tls",
            ),
            (
                "ws://127.0.0.1:7171",
                "ws://127.0.0.1:7171/",
                "jet:127.0.0.1:7171?transport=ws",
            ),
            (
                "wss://jet101.wayk.net:443/",
                "wss://jet101.wayk.net/",
                "jet:jet101.wayk.net?transport=wss",
            ),
            ("wss://[::1]", "wss://[::1]/", "jet:[::1]?transport=wss"),
            (
                "tcp://[::1]:8080",
                "tcp://[::1]:8080",
                "jet:[::1]:8080?transport=tcp",
            ),
        ] {
            let parsed: PublicUrl = written.parse().unwrap();
            assert_eq!(
                (parsed.to_string().as_str(), parsed.ice_url().as_str()),
                (url, ice)
            );
            assert_eq!(url.parse(), Ok(parsed));
        }
        let url = PublicUrl::new(Transport::Ws, "relay", 80).unwrap();
        assert_eq!(url.to_string(), "ws://relay/");
    }

    #[test]
    fn what_is_no_url_of_a_listener_is_refused() {
        for written in [
            "",
            "relay:8080",
            "http://relay:8080",
            "tcp://relay",
            "tcp://relay:0",
            "tcp://relay:65536",
            "tcp://:8080",
            "tcp://re lay:8080",
            "tcp://relay:8080/path",
            "tcp://[::1",
            "tcp://[relay]:8080",
            "tcp://a@relay:8080",
            "tcp://relay:8080\r\n",
        ] {
            assert!(written.parse::<PublicUrl>().is_err(), "{written:?}");
        }
    }
}
