//! What a client asks for: RFC 1928 §4.

use thiserror::Error;

use super::address::{AddressError, Destination};
use super::frame::{Frame, FrameError};
use super::reply::ReplyCode;
use crate::protocol::Progress;

/// What is to be done for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// To connect it with its destination.
    Connect,
    /// To have its destination connect to it.
    Bind,
    /// To pass datagrams on: see [`super::udp`].
    UdpAssociate,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Where to; of datagrams, from where the client will send them, if it knows.
    pub destination: Destination,
}

/// Why bytes are no request, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Another version, or no destination.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A command that nobody knows.
    #[error("command {command} is none of 1, 2 and 3")]
    Command {
        /// What came.
        command: u8,
    },
}

impl RequestError {
    /// What the client is told.
    #[must_use]
    pub const fn reply(&self) -> ReplyCode {
        match self {
            Self::Command { .. } => ReplyCode::CommandNotSupported,
            Self::Frame(FrameError::Address(AddressError::Kind { .. })) => {
                ReplyCode::AddressTypeNotSupported
            }
            Self::Frame(_) => ReplyCode::GeneralFailure,
        }
    }
}

impl Command {
    /// Its name in a log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Bind => "bind",
            Self::UdpAssociate => "udp_associate",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Connect => 1,
            Self::Bind => 2,
            Self::UdpAssociate => 3,
        }
    }
}

impl Request {
    /// Decodes the request at the start of `bytes`. What the reserved byte holds means
    /// nothing.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, RequestError> {
        // A client that asks for what nobody knows is told so when all of it is there: a
        // reply that comes while it still writes could be lost with a reset.
        let (frame, consumed) = match Frame::decode(bytes)? {
            Progress::Partial { more_bytes_min } => {
                return Ok(Progress::Partial { more_bytes_min });
            }
            Progress::Complete { value, consumed } => (value, consumed),
        };
        let all = [Command::Connect, Command::Bind, Command::UdpAssociate];
        let known = all.into_iter().find(|one| one.code() == frame.number);
        let command = known.ok_or(RequestError::Command {
            command: frame.number,
        })?;
        let value = Self {
            command,
            destination: frame.address,
        };
        Ok(Progress::Complete { value, consumed })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        Frame::encode(self.command.code(), &self.destination, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: Command, host: &str, port: u16) -> Request {
        Request {
            command,
            destination: Destination::named(host, port).expect("a destination"),
        }
    }

    /// As real clients send them.
    #[test]
    fn requests_round_trip_however_they_are_cut() {
        for (bytes, expected) in [
            (
                &b"\x05\x01\0\x01\x7f\0\0\x01\0\x50"[..],
                request(Command::Connect, "127.0.0.1", 80),
            ),
            (
                b"\x05\x01\0\x03\x0bexample.com\0\x50",
                request(Command::Connect, "example.com", 80),
            ),
            (
                b"\x05\x01\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50",
                request(Command::Connect, "::1", 80),
            ),
            (
                b"\x05\x03\0\x03\x01\x30\x13\x88",
                request(Command::UdpAssociate, "0", 5000),
            ),
            (
                b"\x05\x02\0\x01\0\0\0\0\0\0",
                request(Command::Bind, "0.0.0.0", 0),
            ),
        ] {
            for cut in 0..bytes.len() {
                match Request::decode(&bytes[..cut]) {
                    Ok(Progress::Partial { more_bytes_min }) => {
                        assert!(more_bytes_min > 0 && cut + more_bytes_min <= bytes.len());
                    }
                    other => panic!("cut at {cut}: {other:?}"),
                }
            }
            let more = [bytes, b"payload"].concat();
            let consumed = bytes.len();
            let value = expected.clone();
            let got = Request::decode(&more);
            assert_eq!(got, Ok(Progress::Complete { value, consumed }));
            let mut encoded = Vec::new();
            expected.encode(&mut encoded);
            assert_eq!(encoded, bytes);
        }
        let reserved = b"\x05\x01\xff\x01\x7f\0\0\x01\0\x50";
        assert!(matches!(
            Request::decode(reserved),
            Ok(Progress::Complete { .. })
        ));
    }

    #[test]
    fn what_cannot_be_done_is_told_truthfully() {
        let address = b"\x01\x7f\0\0\x01\0\x50";
        let with = |start: &[u8]| [start, address].concat();
        for (bytes, expected) in [
            (with(b"\x05\0\0"), ReplyCode::CommandNotSupported),
            (with(b"\x05\x04\0"), ReplyCode::CommandNotSupported),
            (with(b"\x05\xff\0"), ReplyCode::CommandNotSupported),
            (with(b"\x04\x01\0"), ReplyCode::GeneralFailure),
            (b"\x05\x01\0\0".to_vec(), ReplyCode::AddressTypeNotSupported),
            (
                b"\x05\x01\0\x02".to_vec(),
                ReplyCode::AddressTypeNotSupported,
            ),
            (
                b"\x05\x01\0\x05".to_vec(),
                ReplyCode::AddressTypeNotSupported,
            ),
            (b"\x05\x01\0\x03\0".to_vec(), ReplyCode::GeneralFailure),
            (
                b"\x05\x01\0\x03\x01\0\0\x50".to_vec(),
                ReplyCode::GeneralFailure,
            ),
        ] {
            let error = Request::decode(&bytes).expect_err("refused");
            assert_eq!(error.reply(), expected, "{bytes:?}");
        }
    }
}
