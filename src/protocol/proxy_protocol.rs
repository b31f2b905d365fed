//! The PROXY protocol, versions 1 and 2: the header with which a load balancer
//! tells whose connection it passes on. `[PROXY]` is HAProxy's
//! `doc/proxy-protocol.txt`, section 2.
//!
//! Whoever may send one may choose the address that others see, so it is read from
//! trusted sources only, and there it is required (`[PROXY]` 2).
//!
//! Left out: the type-length-values of version 2, which are skipped; its checksum
//! is one of them. Addresses other than TCP over IPv4 and IPv6 are told as unknown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str;

use thiserror::Error;

use crate::protocol::Progress;

/// The most bytes of a version 1 header: `[PROXY]` 2.1.
pub const V1_BYTES_MAX: usize = 107;

/// The most bytes that we take of a version 2 header. The format goes up to 64 KiB;
/// known senders stay below a tenth of this.
pub const V2_BYTES_MAX: usize = 4096;

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// One that the sender passes on.
    Proxied {
        /// Who dialled the sender.
        source: SocketAddr,
        /// What was dialled.
        destination: SocketAddr,
    },
    /// The sender's own, such as a health check, or one of which it does not know
    /// the addresses: those of the connection hold.
    Unknown,
}

/// Why bytes are not a header, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProxyHeaderError {
    /// Neither signature.
    #[error("no PROXY protocol header")]
    NoHeader,
    /// A line that is not one of version 1, or longer than [`V1_BYTES_MAX`].
    #[error("malformed PROXY protocol header, version 1")]
    MalformedV1,
    /// Not version 2, no known command, or too few bytes for its addresses.
    #[error("malformed PROXY protocol header, version 2")]
    MalformedV2,
    /// A length beyond [`V2_BYTES_MAX`].
    #[error("PROXY protocol header exceeds {V2_BYTES_MAX} bytes")]
    TooLong,
}

impl ProxyHeader {
    /// Whether `bytes` begin like a header, as far as they came.
    #[must_use]
    pub fn may_begin(bytes: &[u8]) -> bool {
        begins_like(bytes, V1_SIGNATURE) || begins_like(bytes, V2_SIGNATURE)
    }

    /// Decodes the header at the start of `bytes`. What follows it is the
    /// connection's own.
    ///
    /// # Errors
    /// If no continuation of `bytes` could be a header.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, ProxyHeaderError> {
        if begins_like(bytes, V1_SIGNATURE) {
            Self::decode_v1(bytes)
        } else if begins_like(bytes, V2_SIGNATURE) {
            Self::decode_v2(bytes)
        } else {
            Err(ProxyHeaderError::NoHeader)
        }
    }

    fn decode_v1(bytes: &[u8]) -> Result<Progress<Self>, ProxyHeaderError> {
        let allowed = &bytes[..bytes.len().min(V1_BYTES_MAX)];
        let Some(end) = allowed.windows(2).position(|pair| pair == b"\r\n") else {
            return match allowed.len() {
                V1_BYTES_MAX => Err(ProxyHeaderError::MalformedV1),
                _ => Ok(Progress::Partial { more_bytes_min: 1 }),
            };
        };
        let line = str::from_utf8(&allowed[..end]).map_err(|_| ProxyHeaderError::MalformedV1)?;
        let value = Self::parse_v1(line).ok_or(ProxyHeaderError::MalformedV1)?;
        Ok(Progress::Complete {
            value,
            consumed: end + 2,
        })
    }

    fn parse_v1(line: &str) -> Option<Self> {
        let mut words = line.split(' ').skip(1);
        let family = words.next()?;
        if family == "UNKNOWN" {
            // What follows is to be ignored: `[PROXY]` 2.1.
            return Some(Self::Unknown);
        }
        let mut address = || match family {
            "TCP4" => words.next()?.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => words.next()?.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        };
        let (source, destination) = (address()?, address()?);
        let mut port = || {
            let digits = words.next()?;
            // `parse` takes a sign, which is none of the format's.
            let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|_| is_plain)
        };
        let (source_port, destination_port) = (port()?, port()?);
        words.next().is_none().then_some(Self::Proxied {
            source: (source, source_port).into(),
            destination: (destination, destination_port).into(),
        })
    }

    fn decode_v2(bytes: &[u8]) -> Result<Progress<Self>, ProxyHeaderError> {
        let Some(&[version_and_command, family, high, low]) = bytes
            .get(V2_SIGNATURE.len()..V2_FIXED_BYTES)
            .and_then(<[u8]>::as_array)
        else {
            return Ok(Progress::Partial {
                more_bytes_min: V2_FIXED_BYTES - bytes.len(),
            });
        };
        let consumed = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
        if consumed > V2_BYTES_MAX {
            return Err(ProxyHeaderError::TooLong);
        }
        let is_proxied = match version_and_command {
            0x20 => false,
            0x21 => true,
            _ => return Err(ProxyHeaderError::MalformedV2),
        };
        let Some(body) = bytes.get(V2_FIXED_BYTES..consumed) else {
            return Ok(Progress::Partial {
                more_bytes_min: consumed - bytes.len(),
            });
        };
        let value = match (is_proxied, family) {
            (true, 0x11) => Self::addresses_v2::<4>(body)?,
            (true, 0x21) => Self::addresses_v2::<16>(body)?,
            _ => Self::Unknown,
        };
        Ok(Progress::Complete { value, consumed })
    }

    /// Two addresses of `N` bytes, two ports.
    fn addresses_v2<const N: usize>(body: &[u8]) -> Result<Self, ProxyHeaderError>
    where
        IpAddr: From<[u8; N]>,
    {
        let malformed = ProxyHeaderError::MalformedV2;
        let (source, rest) = body.split_first_chunk::<N>().ok_or(malformed)?;
        let (destination, rest) = rest.split_first_chunk::<N>().ok_or(malformed)?;
        let &[a, b, c, d, ..] = rest else {
            return Err(malformed);
        };
        Ok(Self::Proxied {
            source: (IpAddr::from(*source), u16::from_be_bytes([a, b])).into(),
            destination: (IpAddr::from(*destination), u16::from_be_bytes([c, d])).into(),
        })
    }
}

fn begins_like(bytes: &[u8], signature: &[u8]) -> bool {
    bytes
        .iter()
        .zip(signature)
        .all(|(came, wanted)| came == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(source: &str, destination: &str) -> ProxyHeader {
        ProxyHeader::Proxied {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// Whole with bytes behind it, and cut at every byte.
    fn check(header: &[u8], expected: ProxyHeader) {
        let whole = [header, b"GET /"].concat();
        let complete = Progress::Complete {
            value: expected,
            consumed: header.len(),
        };
        assert_eq!(ProxyHeader::decode(&whole), Ok(complete));
        for cut in 0..header.len() {
            let bytes = &header[..cut];
            assert!(ProxyHeader::may_begin(bytes));
            match ProxyHeader::decode(bytes) {
                Ok(Progress::Partial { more_bytes_min }) => {
                    assert!((1..=header.len() - cut).contains(&more_bytes_min));
                }
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
    }

    fn v2(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([version_and_command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    #[test]
    fn both_versions_are_read() {
        check(
            b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n",
            proxied("192.0.2.1:56324", "198.51.100.7:443"),
        );
        check(
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
            proxied("[2001:db8::1]:1", "[2001:db8::2]:65535"),
        );
        check(b"PROXY UNKNOWN\r\n", ProxyHeader::Unknown);
        check(b"PROXY UNKNOWN whatever it says\r\n", ProxyHeader::Unknown);
        let v4 = [192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 4, 1, 0xbb];
        check(
            &v2(0x21, 0x11, &v4),
            proxied("192.0.2.1:56324", "198.51.100.7:443"),
        );
        check(
            &v2(0x21, 0x11, &[&v4[..], &[3, 0, 4, 1, 2, 3, 4]].concat()),
            proxied("192.0.2.1:56324", "198.51.100.7:443"),
        );
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
        check(&v2(0x21, 0x21, &v6), proxied("[::1]:3", "[::2]:4"));
        check(&v2(0x20, 0, &[]), ProxyHeader::Unknown);
        check(&v2(0x20, 0x11, &v4), ProxyHeader::Unknown);
        check(&v2(0x21, 0x31, &[0; 216]), ProxyHeader::Unknown);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        use ProxyHeaderError::{MalformedV1, MalformedV2, NoHeader, TooLong};
        let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 100]].concat();
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], NoHeader),
            (b"PROXX", NoHeader),
            (b"\r\n\r\nG", NoHeader),
            (b"PROXY \r\n", MalformedV1),
            (b"PROXY TCP4\r\n", MalformedV1),
            (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", MalformedV1),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", MalformedV1),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", MalformedV1),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", MalformedV1),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", MalformedV1),
            (b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n", MalformedV1),
            (b"PROXY TCP4 ::1 ::2 1 2\r\n", MalformedV1),
            (b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", MalformedV1),
            (b"PROXY \xff\r\n", MalformedV1),
            (&endless, MalformedV1),
            (&v2(0x11, 0x11, &[0; 12]), MalformedV2),
            (&v2(0x22, 0x11, &[0; 12]), MalformedV2),
            (&v2(0x21, 0x11, &[0; 11]), MalformedV2),
            (&v2(0x21, 0x21, &[0; 35]), MalformedV2),
            (&v2(0x21, 0x11, &[0; V2_BYTES_MAX]), TooLong),
        ] {
            assert_eq!(ProxyHeader::decode(bytes), Err(expected), "{bytes:?}");
        }
        assert!(!ProxyHeader::may_begin(b"PUT"));
        assert!(!ProxyHeader::may_begin(b"\r\nGET"));
    }
}
