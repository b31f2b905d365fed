//! Replies: what a relay says before it moves bytes. `[JET-PROTO]` 2.2.2.2.
//!
//! Some relays print the status code twice (`HTTP/1.1 200 OK 200`). That is
//! read and never written.

use std::str;

use thiserror::Error;
use uuid::Uuid;

use super::message::{MaskedPacket, Packet, PacketError, PacketWriter, Scratch};
use super::request::Version;
use super::{HEAD_POLICY, HEADERS_MAX, HostName, HostNameError};
use crate::protocol::Progress;
use crate::protocol::http_head::{HeadError, HeaderSlots, Headers, ResponseHead};

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What became of the request.
    pub status: Status,
    /// The version of the request. Peers reject another one in an accept reply.
    pub version: Version,
    /// What an acceptor of version 1 is told. Peers that want it reject a
    /// reply without it, a refusal too; others do not expect it.
    pub details: Option<AcceptDetails>,
}

/// The three further headers of an accept reply of version 1. A relay sends
/// all of them, for known peers want all of them; the specification's example
/// has no `Jet-Timeout`, so an agent has to do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptDetails {
    /// `Jet-Association`: the id under which the acceptor waits. Nil in
    /// a refusal.
    pub association: Uuid,
    /// `Jet-Instance`: the relay that the other side has to connect to.
    pub instance: Option<HostName>,
    /// `Jet-Timeout`: how many seconds the acceptor may wait.
    pub timeout_s: Option<u32>,
}

/// An HTTP status code: three digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(u16);

/// Why bytes are not a reply, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// Not a packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A packet without an HTTP head in it.
    #[error("payload: {0}")]
    NotHttp(HeadError),
    /// A packet that ends before its head does.
    #[error("payload ends before its http head does")]
    HeadCutShort,
    /// `Jet-Version` is missing.
    #[error("header Jet-Version is missing in a reply with status {}", status.as_u16())]
    NoJetVersion {
        /// What the reply says.
        status: Status,
    },
    /// `Jet-Version` is neither 1 nor 2.
    #[error("header Jet-Version is neither 1 nor 2 in a reply with status {}", status.as_u16())]
    UnsupportedVersion {
        /// What the reply says.
        status: Status,
    },
    /// `Jet-Association` is not a UUID.
    #[error("header Jet-Association is not a uuid")]
    BadAssociation,
    /// `Jet-Instance` could not be a host's name.
    #[error("header Jet-Instance: {0}")]
    BadInstance(HostNameError),
    /// `Jet-Timeout` is not a number of seconds.
    #[error("header Jet-Timeout is not a number of seconds")]
    BadTimeout,
}

impl Reply {
    /// A reply that says nothing but its status.
    pub const fn new(status: Status, version: Version) -> Self {
        Self {
            status,
            version,
            details: None,
        }
    }

    /// Encodes the reply with the mask of the request, headers in the order
    /// that known relays use.
    pub fn encode(&self, mask: u8) -> Packet {
        let mut writer = PacketWriter::new();
        writer
            .text("HTTP/1.1 ")
            .number(self.status.0.into(), Status::DIGITS);
        writer.text(" ").text(self.status.phrase()).end_line();
        writer.header("Jet-Version", self.version.as_str());
        if let Some(details) = &self.details {
            if let Some(instance) = &details.instance {
                writer.header("Jet-Instance", instance.as_str());
            }
            writer
                .text("Jet-Association: ")
                .id(details.association)
                .end_line();
            if let Some(timeout_s) = details.timeout_s {
                writer.text("Jet-Timeout: ").number(timeout_s, 1).end_line();
            }
        }
        writer.finish(mask)
    }

    /// Decodes the reply at the start of `bytes`, whatever its mask. What
    /// follows it is application data: it must be kept, or not be read.
    ///
    /// # Errors
    /// If no continuation of `bytes` could be a reply that makes sense.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, ReplyError> {
        let (packet, consumed) = match MaskedPacket::decode(bytes)? {
            Progress::Partial { more_bytes_min } => {
                return Ok(Progress::Partial { more_bytes_min });
            }
            Progress::Complete { value, consumed } => (value, consumed),
        };
        let mut scratch = Scratch::new();
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        let payload = packet.unmask(&mut scratch);
        match ResponseHead::decode(payload, HEAD_POLICY, &mut slots) {
            Ok(Progress::Complete { value: head, .. }) => Ok(Progress::Complete {
                value: Self::from_head(&head)?,
                consumed,
            }),
            Ok(Progress::Partial { .. }) => Err(ReplyError::HeadCutShort),
            Err(error) => Err(ReplyError::NotHttp(error)),
        }
    }

    fn from_head(head: &ResponseHead<'_, '_>) -> Result<Self, ReplyError> {
        let status = Status(head.status);
        let version = head
            .headers
            .find("Jet-Version")
            .ok_or(ReplyError::NoJetVersion { status })?;
        let version =
            Version::from_header(version).ok_or(ReplyError::UnsupportedVersion { status })?;
        let details = AcceptDetails::from_headers(&head.headers)?;
        Ok(Self {
            status,
            version,
            details,
        })
    }
}

impl AcceptDetails {
    /// `None` without `Jet-Association`, which is the point of them.
    fn from_headers(headers: &Headers<'_, '_>) -> Result<Option<Self>, ReplyError> {
        let Some(association) = headers.find("Jet-Association") else {
            return Ok(None);
        };
        let association =
            Uuid::try_parse_ascii(association).map_err(|_| ReplyError::BadAssociation)?;
        let instance = headers
            .find("Jet-Instance")
            .map(HostName::from_bytes)
            .transpose()
            .map_err(ReplyError::BadInstance)?;
        Ok(Some(Self {
            association,
            instance,
            timeout_s: Self::timeout_s(headers)?,
        }))
    }

    /// What `Jet-Timeout` says: in a reply, or in an answer over WebSocket.
    ///
    /// # Errors
    ///
    /// When it is no number of seconds.
    pub fn timeout_s(headers: &Headers<'_, '_>) -> Result<Option<u32>, ReplyError> {
        let Some(value) = headers.find("Jet-Timeout") else {
            return Ok(None);
        };
        let text = str::from_utf8(value).map_err(|_| ReplyError::BadTimeout)?;
        text.parse().map(Some).map_err(|_| ReplyError::BadTimeout)
    }
}

impl Status {
    /// The request was granted.
    pub const OK: Self = Self(200);
    /// The request makes no sense, or not now.
    pub const BAD_REQUEST: Self = Self(400);
    /// The peer may not do this.
    pub const FORBIDDEN: Self = Self(403);
    /// No such association, or no such candidate in it.
    pub const NOT_FOUND: Self = Self(404);
    /// A limit of this peer is reached.
    pub const TOO_MANY_REQUESTS: Self = Self(429);
    /// Our own fault.
    pub const INTERNAL_SERVER_ERROR: Self = Self(500);
    /// A limit of the relay is reached, or it is about to end.
    pub const SERVICE_UNAVAILABLE: Self = Self(503);

    const DIGITS: usize = 3;

    /// The code: 0 to 999.
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    /// What stands behind the code: RFC 9110 §15. It may be empty.
    const fn phrase(self) -> &'static str {
        match self {
            Self::OK => "OK",
            Self::BAD_REQUEST => "Bad Request",
            Self::FORBIDDEN => "Forbidden",
            Self::NOT_FOUND => "Not Found",
            Self::TOO_MANY_REQUESTS => "Too Many Requests",
            Self::INTERNAL_SERVER_ERROR => "Internal Server Error",
            Self::SERVICE_UNAVAILABLE => "Service Unavailable",
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::jet::HOST_NAME_BYTES_MAX;
    use crate::protocol::jet::message::assert_fits_around_host_name;

    const A: Uuid = Uuid::from_u128(0xe6ec_698c_5793_4c63_af79_bd64_4ccf_022f);
    const ALL: [Status; 7] = [
        Status::OK,
        Status::BAD_REQUEST,
        Status::FORBIDDEN,
        Status::NOT_FOUND,
        Status::TOO_MANY_REQUESTS,
        Status::INTERNAL_SERVER_ERROR,
        Status::SERVICE_UNAVAILABLE,
    ];

    fn details(instance: &str, timeout_s: Option<u32>) -> AcceptDetails {
        let instance = Some(instance).filter(|text| !text.is_empty());
        let instance = instance.map(|text| HostName::new(text).unwrap());
        AcceptDetails {
            association: A,
            instance,
            timeout_s,
        }
    }

    #[track_caller]
    fn check_encode(reply: &Reply, expected: &str) {
        let packet = reply.encode(0);
        assert_eq!(str::from_utf8(&packet.as_bytes()[8..]).unwrap(), expected);
    }

    #[test]
    fn encodes_without_the_doubled_code() {
        let plain = Reply::new(Status::OK, Version::V2);
        check_encode(&plain, "HTTP/1.1 200 OK\r\nJet-Version: 2\r\n\r\n");
        assert_eq!(plain.encode(0x73).as_bytes().len(), 43);
        check_encode(
            &Reply::new(Status(299), Version::V1),
            "HTTP/1.1 299 \r\nJet-Version: 1\r\n\r\n",
        );
        check_encode(
            &Reply {
                details: Some(details("jet101.wayk.net", Some(300))),
                ..plain
            },
            "HTTP/1.1 200 OK\r\nJet-Version: 2\r\nJet-Instance: jet101.wayk.net\r\n\
             Jet-Association: e6ec698c-5793-4c63-af79-bd644ccf022f\r\nJet-Timeout: 300\r\n\r\n",
        );
    }

    /// `head` has its lines separated by `|`; the rest is written here.
    #[track_caller]
    fn check_decode(head: &str, expected: Result<Reply, ReplyError>) {
        for (mask, line_end) in [(0, "\r\n"), (0xff, "\n"), (0x73, "\r\n")] {
            let payload = head.replace('|', line_end) + line_end + line_end;
            let size = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
            let mut bytes = vec![b'J', b'E', b'T', 0, size[0], size[1], 1, mask];
            bytes.extend(payload.bytes().map(|byte| byte ^ mask));
            let consumed = bytes.len();
            bytes.extend(b"SSH-2.0-");
            let expected = expected
                .clone()
                .map(|value| Progress::Complete { value, consumed });
            assert_eq!(Reply::decode(&bytes), expected, "{head}");
        }
    }

    #[test]
    fn decodes_what_relays_send() {
        let ok = |details| {
            Ok(Reply {
                details,
                ..Reply::new(Status::OK, Version::V1)
            })
        };
        let head =
            "HTTP/1.1 200 OK|Jet-Version: 1|Jet-Association: e6ec698c57934c63af79bd644ccf022f";
        check_decode("HTTP/1.1 200 OK 200|Jet-Version: 1", ok(None));
        check_decode("HTTP/1.1 200|X: y|jet-version: 1", ok(None));
        check_decode("HTTP/1.1 200 OK|Jet-Version: 1|Jet-Timeout: soon", ok(None));
        check_decode(head, ok(Some(details("", None))));
        check_decode(
            &format!("{head}|Jet-Instance: relay 1:8080|Jet-Timeout: 60"),
            ok(Some(details("relay 1:8080", Some(60)))),
        );
        check_decode(
            "HTTP/1.1 404 Not Found 404|Jet-Version: 2",
            Ok(Reply::new(Status::NOT_FOUND, Version::V2)),
        );
        // What makes no sense.
        let status = Status(404);
        check_decode(
            "HTTP/1.1 404 Not Found",
            Err(ReplyError::NoJetVersion { status }),
        );
        check_decode(
            "HTTP/1.1 404 Not Found|Jet-Version: 3",
            Err(ReplyError::UnsupportedVersion { status }),
        );
        check_decode(
            "HTTP/1.1 200 OK|Jet-Version: 1|Jet-Association: x",
            Err(ReplyError::BadAssociation),
        );
        check_decode(
            &format!("{head}|Jet-Instance:"),
            Err(ReplyError::BadInstance(HostNameError::Empty)),
        );
        check_decode(
            &format!("{head}|Jet-Timeout: soon"),
            Err(ReplyError::BadTimeout),
        );
        check_decode(
            &format!("{head}|Jet-Timeout: 4294967296"),
            Err(ReplyError::BadTimeout),
        );
        check_decode(
            "SSH-2.0-OpenSSH",
            Err(ReplyError::NotHttp(HeadError::Malformed(
                httparse::Error::Version,
            ))),
        );
    }

    #[test]
    fn decodes_what_it_encodes() {
        let longest = "h".repeat(HOST_NAME_BYTES_MAX);
        for status in ALL {
            for details in [
                None,
                Some(details(&longest, Some(u32::MAX))),
                Some(details("", None)),
                Some(details("h", Some(0))),
            ] {
                let value = Reply {
                    status,
                    version: Version::V2,
                    details,
                };
                let packet = value.encode(0x73);
                assert_fits_around_host_name(&packet);
                let consumed = packet.as_bytes().len();
                let expected = Progress::Complete { value, consumed };
                assert_eq!(Reply::decode(packet.as_bytes()), Ok(expected));
            }
        }
    }
}
