//! A listener as written: an address, and perhaps the one thing that it is for.

use std::fmt;
use std::str::FromStr;

use super::pinned::{Pinned, Query};
use super::{ListenAddress, ValueError};

/// Where to listen, and for what: `127.0.0.1:8080` for everything that the first bytes
/// can tell apart, `jet+tls://0.0.0.0:443` for that alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: ListenAddress,
    /// The only thing that is served there; `None`: everything, but jProxy without TLS.
    pub only: Option<Pinned>,
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
    /// A name that begins so and is none of what can be pinned: what is meant to be must not
    /// serve everything for a slip of the pen.
    pub fn named(address: ListenAddress, name: &str) -> Result<Self, ValueError> {
        let only = Pinned::named(name)?;
        Ok(Self { address, only })
    }

    /// Whether only this host can reach it.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self.address.is_loopback()
    }

    /// Whether other hosts reach it who show nothing. Of tunnels each needs a user's key.
    #[must_use]
    pub fn is_for_anybody(self) -> bool {
        let needs_key = matches!(self.only, Some(Pinned::Jproxy { .. }));
        !self.is_loopback() && !needs_key
    }
}

impl FromStr for Listener {
    type Err = ValueError;

    fn from_str(written: &str) -> Result<Self, ValueError> {
        let Some((scheme, rest)) = written.split_once("://") else {
            return written.parse().map(Self::any);
        };
        let (only, address) = Pinned::parse(scheme, rest)?;
        Ok(Self {
            address: address.parse()?,
            only: Some(only),
        })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.only {
            Some(only) => write!(f, "{}://{}{}", only.scheme(), self.address, Query(only)),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::jet::Transport;
    use crate::protocol::jproxy::Dialect;

    const fn jet(transport: Transport) -> Option<Pinned> {
        Some(Pinned::Jet(transport))
    }

    const fn jproxy(is_tls: bool, dialect: Option<Dialect>) -> Option<Pinned> {
        Some(Pinned::Jproxy { is_tls, dialect })
    }

    #[test]
    fn listeners_round_trip() {
        for (written, only) in [
            ("127.0.0.1:8080", None),
            ("[::]:443", None),
            ("jet+tcp://127.0.0.1:1", jet(Transport::Tcp)),
            ("jet+tls://[::]:443", jet(Transport::Tls)),
            ("jet+ws://0.0.0.0:80", jet(Transport::Ws)),
            ("jet+wss://0.0.0.0:0", jet(Transport::Wss)),
            ("jproxy+tls://[::]:16384", jproxy(true, None)),
            ("jproxy://127.0.0.1:16384", jproxy(false, None)),
            (
                "jproxy://127.0.0.1:16384?dialect=original",
                jproxy(false, Some(Dialect::Original)),
            ),
            (
                "jproxy+tls://0.0.0.0:1?dialect=spec",
                jproxy(true, Some(Dialect::Spec)),
            ),
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
            ("jet+wss", jet(Transport::Wss)),
            ("jproxy+tls", jproxy(true, None)),
            ("jproxy", jproxy(false, None)),
            ("jproxy.socket", None),
            ("midspan.socket", None),
            ("unknown", None),
            ("wss", None),
            ("", None),
        ] {
            let listener = Listener { address, only };
            assert_eq!(Listener::named(address, name), Ok(listener), "{name}");
        }
        for name in ["jet+tsl", "jproxy+tsl"] {
            let slip = Listener::named(address, name).expect_err("no scheme");
            let text = format!("\"{name}\" is none of jet+tcp");
            assert!(slip.to_string().contains(&text), "{slip}");
        }
    }

    #[test]
    fn others_say_what_is_wrong() {
        for (written, part) in [
            ("https://0.0.0.0:443", "\"https\" is none of jet+tcp"),
            ("jet+quic://0.0.0.0:443", "\"jet+quic\" is none of jet+tcp"),
            ("jproxy+wss://0.0.0.0:443", "\"jproxy+wss\" is none of jet"),
            (
                "jproxy://0.0.0.0:1?dialect=java",
                "\"dialect=java\" is neither",
            ),
            ("jproxy://0.0.0.0:1?dialect=Spec", "is neither"),
            ("jproxy://0.0.0.0:1?", "\"\" is neither"),
            ("jet+tls://0.0.0.0:1?dialect=spec", "is not an address and"),
            ("jet+tls://:443", "names no address"),
            ("jet+tls://relay:443", "is a name"),
            ("jet+tls://0.0.0.0:443/", "is not an address and a port"),
        ] {
            let error = written.parse::<Listener>().expect_err(written).to_string();
            assert!(error.contains(part), "{written}: {error}");
        }
    }
}
