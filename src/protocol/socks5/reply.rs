//! What a server answers: RFC 1928 §6.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use super::address::Destination;
use super::frame::{Frame, FrameError};
use crate::protocol::Progress;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyCode {
    /// It is done.
    Succeeded,
    /// It is not, for no reason that has a number.
    GeneralFailure,
    /// A rule forbids it.
    NotAllowed,
    /// No route to the network.
    NetworkUnreachable,
    /// No route to the host, or no such name.
    HostUnreachable,
    /// Nobody listens there.
    ConnectionRefused,
    /// It took too long.
    TtlExpired,
    /// It is not among what the server does.
    CommandNotSupported,
    /// The server has no such addresses.
    AddressTypeNotSupported,
    /// A number that RFC 1928 leaves open.
    Other(u8),
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What came of it.
    pub code: ReplyCode,
    /// Where the server's end is; in BIND's second reply, where the peer's is.
    pub bound: Destination,
}

impl ReplyCode {
    const NUMBERED: [Self; 9] = [
        Self::Succeeded,
        Self::GeneralFailure,
        Self::NotAllowed,
        Self::NetworkUnreachable,
        Self::HostUnreachable,
        Self::ConnectionRefused,
        Self::TtlExpired,
        Self::CommandNotSupported,
        Self::AddressTypeNotSupported,
    ];

    /// Its number.
    #[must_use]
    pub fn code(self) -> u8 {
        if let Self::Other(code) = self {
            return code;
        }
        let place = Self::NUMBERED.iter().position(|known| *known == self);
        place
            .and_then(|place| u8::try_from(place).ok())
            .unwrap_or(1)
    }

    /// What a client is told of a dial that failed so: RFC 1928 §6.
    #[must_use]
    pub const fn of_dial(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::TimedOut => Self::TtlExpired,
            io::ErrorKind::NetworkUnreachable => Self::NetworkUnreachable,
            io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable => {
                Self::HostUnreachable
            }
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            _ => Self::GeneralFailure,
        }
    }

    /// The code with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        let known = Self::NUMBERED.get(usize::from(code));
        known.copied().unwrap_or(Self::Other(code))
    }
}

impl Reply {
    /// That it is done, and at which end.
    #[must_use]
    pub fn succeeded(bound: SocketAddr) -> Self {
        Self {
            code: ReplyCode::Succeeded,
            bound: bound.into(),
        }
    }

    /// That it is not.
    #[must_use]
    pub fn failed(code: ReplyCode) -> Self {
        Self {
            code,
            bound: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into(),
        }
    }

    /// Decodes the reply at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, FrameError> {
        let progress = Frame::decode(bytes)?;
        Ok(progress.map(|Frame { number, address }| Self {
            code: ReplyCode::from_code(number),
            bound: address,
        }))
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        Frame::encode(self.code.code(), &self.bound, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_round_trip_however_they_are_cut() {
        let bound = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (bytes, expected) in [
            (
                &b"\x05\0\0\x01\x0a\0\0\x01\x1f\x90"[..],
                Reply::succeeded(bound("10.0.0.1:8080")),
            ),
            (
                b"\x05\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x1f\x90",
                Reply::succeeded(bound("[::1]:8080")),
            ),
            (
                b"\x05\x05\0\x01\0\0\0\0\0\0",
                Reply::failed(ReplyCode::ConnectionRefused),
            ),
            (
                b"\x05\x5b\0\x01\0\0\0\0\0\0",
                Reply::failed(ReplyCode::Other(0x5b)),
            ),
        ] {
            for cut in 0..bytes.len() {
                let got = Reply::decode(&bytes[..cut]);
                assert!(matches!(got, Ok(Progress::Partial { .. })), "cut at {cut}");
            }
            let more = [bytes, b"220 ready"].concat();
            let consumed = bytes.len();
            let value = expected.clone();
            let got = Reply::decode(&more);
            assert_eq!(got, Ok(Progress::Complete { value, consumed }));
            let mut encoded = Vec::new();
            expected.encode(&mut encoded);
            assert_eq!(encoded, bytes);
        }
        assert_eq!(
            Reply::decode(b"\x04"),
            Err(FrameError::Version { version: 4 })
        );
    }

    #[test]
    fn codes_have_their_numbers() {
        for code in 0..=255 {
            assert_eq!(ReplyCode::from_code(code).code(), code);
        }
        assert_eq!(ReplyCode::TtlExpired.code(), 6);
        assert_eq!(ReplyCode::AddressTypeNotSupported.code(), 8);
        assert_eq!(ReplyCode::from_code(9), ReplyCode::Other(9));
    }
}
