//! A listener as written: an address, and perhaps the one thing that it is for.

use std::fmt;
use std::str::FromStr;

use super::{ListenAddress, ValueError};
use crate::protocol::jet::Transport;

/// How every transport's scheme begins.
const SCHEME_PREFIX: &str = "jet+";

/// Where to listen, and for what: `127.0.0.1:8080` for everything that the first bytes
/// can tell apart, `jet+tls://0.0.0.0:443` for that alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: ListenAddress,
    /// The only transport that is served there; `None`: every one. `ws` and `wss` stand
    /// for HTTP, with its requests and its upgrades.
    pub only: Option<Transport>,
}

impl Listener {
    /// One for everything.
    #[must_use]
    pub const fn any(address: ListenAddress) -> Self {
        Self {
            address,
            only: None,
        }
    }

    /// One on a socket that has a name, as `FileDescriptorName=` of a systemd unit gives
    /// it: `jet+tls` is for that alone, and any other name says nothing.
    ///
    /// # Errors
    ///
    /// A name that begins so and is that of no transport: what is meant to be pinned
    /// must not serve everything for a slip of the pen.
    pub fn named(address: ListenAddress, name: &str) -> Result<Self, ValueError> {
        let only = match name.starts_with(SCHEME_PREFIX) {
            true => Some(transport(name)?),
            false => None,
        };
        Ok(Self { address, only })
    }

    /// Whether only this host can reach it.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self.address.is_loopback()
    }
}

impl FromStr for Listener {
    type Err = ValueError;

    fn from_str(written: &str) -> Result<Self, ValueError> {
        let Some((scheme, address)) = written.split_once("://") else {
            return written.parse().map(Self::any);
        };
        let only = Some(transport(scheme)?);
        let address = address.parse()?;
        Ok(Self { address, only })
    }
}

fn transport(scheme: &str) -> Result<Transport, ValueError> {
    Transport::from_scheme(scheme).ok_or_else(|| ValueError::ListenScheme {
        scheme: scheme.to_owned(),
    })
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.only {
            Some(only) => write!(f, "{}://{}", only.scheme(), self.address),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_round_trip() {
        for (written, only) in [
            ("127.0.0.1:8080", None),
            ("[::]:443", None),
            ("jet+tcp://127.0.0.1:1", Some(Transport::Tcp)),
            ("jet+tls://[::]:443", Some(Transport::Tls)),
            ("jet+ws://0.0.0.0:80", Some(Transport::Ws)),
            ("jet+wss://0.0.0.0:0", Some(Transport::Wss)),
        ] {
            let listener: Listener = written.parse().expect(written);
            assert_eq!(listener.only, only);
            assert_eq!(listener.to_string(), written);
        }
    }

    #[test]
    fn a_name_pins_where_it_is_a_transports() {
        let address: ListenAddress = "[::]:443".parse().expect("an address");
        for (name, only) in [
            ("jet+wss", Some(Transport::Wss)),
            ("midspan.socket", None),
            ("unknown", None),
            ("wss", None),
            ("", None),
        ] {
            let listener = Listener { address, only };
            assert_eq!(Listener::named(address, name), Ok(listener), "{name}");
        }
        let slip = Listener::named(address, "jet+tsl").expect_err("no transport");
        assert!(slip.to_string().contains("\"jet+tsl\" is none of jet+tcp"));
    }

    #[test]
    fn others_say_what_is_wrong() {
        for (written, part) in [
            ("https://0.0.0.0:443", "\"https\" is none of jet+tcp"),
            ("jet+quic://0.0.0.0:443", "\"jet+quic\" is none of jet+tcp"),
            ("jet+tls://:443", "names no address"),
            ("jet+tls://relay:443", "is a name"),
            ("jet+tls://0.0.0.0:443/", "is not an address and a port"),
        ] {
            let error = written.parse::<Listener>().expect_err(written).to_string();
            assert!(error.contains(part), "{written}: {error}");
        }
    }
}
