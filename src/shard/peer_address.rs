//! A peer's address in twenty bytes, for the session that will log it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where a leg comes from. An IPv6 zone is not kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress {
    /// IPv4 as an IPv4-mapped address.
    ip: [u8; 16],
    port: u16,
    known: bool,
}

impl PeerAddress {
    /// A unix socket, a peer that was gone before it was asked, or one that was
    /// not asked, as nobody would read its address.
    pub const UNKNOWN: Self = Self {
        ip: [0; 16],
        port: 0,
        known: false,
    };

    /// The address without its port; `None` when unknown.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.known.then(|| Ipv6Addr::from(self.ip).to_canonical())
    }
}

impl From<Option<SocketAddr>> for PeerAddress {
    fn from(address: Option<SocketAddr>) -> Self {
        let Some(address) = address else {
            return Self::UNKNOWN;
        };
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self {
            ip: ip.octets(),
            port: address.port(),
            known: true,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => f.write_str("unknown"),
        }
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_was_made_of() {
        for text in [
            "127.0.0.1:80",
            "[::1]:80",
            "[2001:db8::7]:65535",
            "0.0.0.0:0",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(PeerAddress::from(Some(address)).to_string(), text);
        }
        assert_eq!(PeerAddress::from(None).to_string(), "unknown");
    }
}
