//! Where a client wants to go: RFC 1928 §5.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::protocol::Progress;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// A host by address, or by a name for the server to resolve.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// As it is.
    Address(IpAddr),
    /// 1 to 255 bytes of UTF-8 without a zero.
    Name(Box<str>),
}

/// A host and a port, which may be 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The host.
    pub host: Host,
    /// The port, of TCP or UDP.
    pub port: u16,
}

/// Why bytes are no destination, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Neither IPv4, a name, nor IPv6.
    #[error("address type {kind} is none of 1, 3 and 4")]
    Kind {
        /// What it is.
        kind: u8,
    },
    /// An empty name, or one that no resolver could be asked for.
    #[error("not a host name")]
    Name,
}

impl Destination {
    /// The destination with this host, of which an address may be written out.
    ///
    /// # Errors
    ///
    /// When it is empty, too long, or holds a zero.
    pub fn named(name: &str, port: u16) -> Result<Self, AddressError> {
        let host = match name.parse() {
            Ok(address) => Host::Address(address),
            Err(_) if name.is_empty() || name.len() > 255 || name.contains('\0') => {
                return Err(AddressError::Name);
            }
            Err(_) => Host::Name(name.into()),
        };
        Ok(Self { host, port })
    }

    /// The address and port, where it has no name.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Address(address) => Some(SocketAddr::new(address, self.port)),
            Host::Name(_) => None,
        }
    }

    /// The name, where it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Address(_) => None,
            Host::Name(name) => Some(name),
        }
    }

    /// Whether it names no host: all zeros, or the name `0`, with which some clients say
    /// that they do not know their own address (RFC 1928 §6).
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        match &self.host {
            Host::Address(address) => address.is_unspecified(),
            Host::Name(name) => &**name == "0",
        }
    }

    /// Decodes one from the start of `bytes`: type, address, port.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub(super) fn decode(bytes: &[u8]) -> Result<Progress<Self>, AddressError> {
        let partial = |bytes_wanted: usize| Progress::Partial {
            more_bytes_min: bytes_wanted - bytes.len(),
        };
        let (kind, length) = match bytes {
            [] => return Ok(partial(1 + 1 + 1 + 2)),
            [IPV4, ..] => (IPV4, 1 + 4),
            [IPV6, ..] => (IPV6, 1 + 16),
            [NAME] => return Ok(partial(2 + 1 + 2)),
            [NAME, 0, ..] => return Err(AddressError::Name),
            [NAME, length, ..] => (NAME, 2 + usize::from(*length)),
            [kind, ..] => return Err(AddressError::Kind { kind: *kind }),
        };
        let Some((address, rest)) = bytes.split_at_checked(length) else {
            return Ok(partial(length + 2));
        };
        let Some(port) = rest.first_chunk::<2>() else {
            return Ok(partial(length + 2));
        };
        let port = u16::from_be_bytes(*port);
        let value = match (kind, address) {
            (IPV4, [_, a, b, c, d]) => Self {
                host: Host::Address(Ipv4Addr::new(*a, *b, *c, *d).into()),
                port,
            },
            (IPV6, [_, octets @ ..]) => {
                let octets = <[u8; 16]>::try_from(octets).unwrap_or_default();
                Self {
                    host: Host::Address(Ipv6Addr::from(octets).into()),
                    port,
                }
            }
            (_, name) => {
                let name = name.get(2..).unwrap_or_default();
                let name = str::from_utf8(name).map_err(|_| AddressError::Name)?;
                Self::named(name, port)?
            }
        };
        Ok(Progress::Complete {
            value,
            consumed: length + 2,
        })
    }

    /// Appends it as a message has it.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match &self.host {
            Host::Address(IpAddr::V4(address)) => {
                out.push(IPV4);
                out.extend_from_slice(&address.octets());
            }
            Host::Address(IpAddr::V6(address)) => {
                out.push(IPV6);
                out.extend_from_slice(&address.octets());
            }
            Host::Name(name) => {
                let length = u8::try_from(name.len());
                debug_assert!(length.is_ok(), "a name has at most 255 bytes");
                out.push(NAME);
                out.push(length.unwrap_or(u8::MAX));
                out.extend_from_slice(name.as_bytes());
            }
        }
        out.extend_from_slice(&self.port.to_be_bytes());
    }
}

impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: Host::Address(address.ip()),
            port: address.port(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => address.fmt(f),
            // Somebody else's bytes, which end up in logs.
            Self::Name(name) => name.escape_debug().fmt(f),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_round_trip_and_wait_for_all_their_bytes() {
        for (bytes, expected) in [
            (&b"\x01\x7f\0\0\x01\0\x50"[..], "127.0.0.1:80"),
            (b"\x03\x0bexample.com\x01\xbb", "example.com:443"),
            (b"\x03\x0cexample.com.\x01\xbb", "example.com.:443"),
            (b"\x03\x01a\0\0", "a:0"),
            (
                b"\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xff\xff",
                "[::1]:65535",
            ),
            (
                b"\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01\0\x50",
                "[::ffff:127.0.0.1]:80",
            ),
            ("\u{3}\u{6}\u{e9}\u{e9}xx\0\u{1}".as_bytes(), "ééxx:1"),
        ] {
            for cut in 0..bytes.len() {
                match Destination::decode(&bytes[..cut]) {
                    Ok(Progress::Partial { more_bytes_min }) => {
                        assert!(more_bytes_min > 0 && cut + more_bytes_min <= bytes.len());
                    }
                    other => panic!("{bytes:?} cut at {cut}: {other:?}"),
                }
            }
            let more = [bytes, b"payload"].concat();
            let Ok(Progress::Complete { value, consumed }) = Destination::decode(&more) else {
                panic!("{bytes:?}");
            };
            assert_eq!(
                (value.to_string().as_str(), consumed),
                (expected, bytes.len())
            );
            let mut encoded = Vec::new();
            value.encode(&mut encoded);
            assert_eq!(encoded, bytes);
        }
        let longest = [b"\x03\xff".to_vec(), vec![b'x'; 255], vec![0, 80]].concat();
        assert!(matches!(
            Destination::decode(&longest),
            Ok(Progress::Complete { consumed: 259, .. })
        ));
    }

    #[test]
    fn an_address_that_is_written_out_is_an_address() {
        for (name, expected) in [
            ("10.0.0.1", Host::Address([10, 0, 0, 1].into())),
            ("::1", Host::Address(Ipv6Addr::LOCALHOST.into())),
            ("10.0.0.1.", Host::Name("10.0.0.1.".into())),
            ("0x7f.1", Host::Name("0x7f.1".into())),
        ] {
            assert_eq!(Destination::named(name, 1).map(|d| d.host), Ok(expected));
        }
    }

    #[test]
    fn what_no_resolver_could_be_asked_for_is_refused() {
        let name = Err(AddressError::Name);
        for (bytes, expected) in [
            (&b"\x03\0"[..], name.clone()),
            (b"\x03\x03a\0b\0\x50", name.clone()),
            (b"\x03\x02\xff\xfe\0\x50", name),
            (b"\0", Err(AddressError::Kind { kind: 0 })),
            (b"\x02", Err(AddressError::Kind { kind: 2 })),
            (b"\x05", Err(AddressError::Kind { kind: 5 })),
        ] {
            assert_eq!(Destination::decode(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn some_say_that_they_know_no_address() {
        for (name, expected) in [
            ("0.0.0.0", true),
            ("::", true),
            ("0", true),
            ("127.0.0.1", false),
            ("zero", false),
        ] {
            let destination = Destination::named(name, 9).expect("a destination");
            assert_eq!(destination.is_unspecified(), expected, "{name}");
        }
    }
}
