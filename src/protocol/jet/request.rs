//! Requests: what a peer asks of a relay. `[JET-PROTO]` 2.2.2.2.
//!
//! Two dialects share one packet: on `/` the headers say what is asked
//! (version 1), on `/jet/<verb>/…` the path does (version 2). The path decides
//! which one it is, never the version in the head, which only says what the
//! reply has to look like.
//!
//! Left out: the authorisation of `POST /jet/association` (knowing the ids is
//! the credential here), and bytes that follow the head inside the packet,
//! which are ignored.

use super::accept::{Accept, AcceptPlace};
use super::connect::Connect;
use super::connectivity_test::ConnectivityTest;
use super::message::{MaskedPacket, Packet, PacketWriter, Scratch};
use super::place::{Target, Verb};
use super::refusal::{RequestError, RequestFault};
use super::{HEAD_POLICY, HEADERS_MAX, HostName};
use crate::protocol::Progress;
use crate::protocol::http_head::{HeaderSlots, Headers, RequestHead};

/// The mask that every known peer uses.
pub const MASK_DEFAULT: u8 = 0x73;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub message: Message,
    /// What the reply has to say in `Jet-Version`.
    pub version: Version,
    /// The mask of the packet. The reply uses the same.
    pub mask: u8,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// To wait for a connector.
    Accept(Accept),
    /// To be joined with an acceptor that waits.
    Connect(Connect),
    /// Whether a place exists.
    Test(ConnectivityTest),
}

/// `Jet-Version`. Peers reject a reply that says anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// 1.
    V1,
    /// 2.
    V2,
}

/// `Jet-Gate`, a header of our own: whether application bytes right behind the
/// reply would be lost. Relays that do not know it ignore it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// They might be: known clients read the reply with one `read` and throw
    /// away what follows it there. Without the header this is meant.
    #[default]
    Hold,
    /// They are not: the peer reads exactly the `size` bytes of the reply.
    Off,
}

impl Request {
    /// Decodes the request at the start of `bytes`. What follows it is
    /// application data and must be kept.
    ///
    /// Headers of the same name: the first one counts.
    ///
    /// # Errors
    /// If no continuation of `bytes` could be a request that a relay serves.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, RequestError> {
        let (packet, consumed) = match MaskedPacket::decode(bytes)? {
            Progress::Partial { more_bytes_min } => {
                return Ok(Progress::Partial { more_bytes_min });
            }
            Progress::Complete { value, consumed } => (value, consumed),
        };
        let mut scratch = Scratch::new();
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        let payload = packet.unmask(&mut scratch);
        match RequestHead::decode(payload, HEAD_POLICY, &mut slots) {
            Ok(Progress::Complete { value: head, .. }) => {
                let value = Self::from_head(&head, packet.mask)?;
                Ok(Progress::Complete { value, consumed })
            }
            Ok(Progress::Partial { .. }) => Err(RequestError::HeadCutShort),
            Err(error) => Err(RequestError::NotHttp(error)),
        }
    }

    /// Encodes the request, byte for byte as known peers do: `[JET-PROTO]`
    /// 2.2.2.2.1 and 2.2.2.2.2. `host` is the relay that it is sent to.
    pub fn encode(&self, host: &HostName) -> Packet {
        let mut writer = PacketWriter::new();
        match &self.message {
            Message::Accept(accept) => accept.encode_request_line(&mut writer),
            Message::Connect(connect) => connect.encode_request_line(self.version, &mut writer),
            Message::Test(test) => test.encode_request_line(&mut writer),
        }
        writer.header("Host", host.as_str());
        let (connection, gate) = match self.message {
            Message::Accept(Accept { gate, .. }) | Message::Connect(Connect { gate, .. }) => {
                ("Keep-Alive", gate)
            }
            Message::Test(_) => ("Close", Gate::Hold),
        };
        writer.header("Connection", connection);
        match &self.message {
            Message::Accept(accept) => accept.encode_headers(&mut writer),
            Message::Connect(connect) => connect.encode_headers(self.version, &mut writer),
            Message::Test(_) => {}
        }
        writer.header("Jet-Version", self.version.as_str());
        if gate == Gate::Off {
            writer.header("Jet-Gate", "off");
        }
        writer.finish(self.mask)
    }

    /// True if the reply has to carry [`AcceptDetails`](super::AcceptDetails):
    /// the peer is an acceptor that waits for an id, or one of version 1, and
    /// those reject an accept reply without them.
    pub fn wants_accept_details(&self) -> bool {
        match self.message {
            Message::Accept(accept) => {
                accept.place == AcceptPlace::Minted || self.version == Version::V1
            }
            Message::Connect(_) | Message::Test(_) => false,
        }
    }

    fn from_head(head: &RequestHead<'_, '_>, mask: u8) -> Result<Self, RequestError> {
        if !head.method.eq_ignore_ascii_case("GET") {
            return Err(RequestError::BadMethod);
        }
        head.headers.find("Host").ok_or(RequestError::NoHost)?;
        let version = head
            .headers
            .find("Jet-Version")
            .ok_or(RequestError::NoJetVersion)?;
        let refused = |version| {
            move |fault| RequestError::Refused {
                fault,
                version,
                mask,
            }
        };
        let version = Version::from_header(version)
            .ok_or(RequestFault::UnsupportedVersion)
            .map_err(refused(Version::V2))?;
        let message = Message::from_head(head).map_err(refused(version))?;
        Ok(Self {
            message,
            version,
            mask,
        })
    }
}

impl Message {
    fn from_head(head: &RequestHead<'_, '_>) -> Result<Self, RequestFault> {
        let gate = Gate::from_headers(&head.headers);
        let (verb, place) = match Target::parse(head.target)? {
            Target::Root => {
                let method = head
                    .headers
                    .find("Jet-Method")
                    .ok_or(RequestFault::NoJetMethod)?;
                return if method.eq_ignore_ascii_case(b"accept") {
                    Ok(Self::Accept(Accept {
                        place: AcceptPlace::Minted,
                        gate,
                    }))
                } else {
                    Connect::from_headers(&head.headers, gate).map(Self::Connect)
                };
            }
            Target::Verb { verb, ids } => (verb, ids.parse()?),
        };
        Ok(match verb {
            Verb::Accept => Self::Accept(Accept {
                place: AcceptPlace::Named(place),
                gate,
            }),
            Verb::Connect => Self::Connect(Connect { place, gate }),
            Verb::Test => Self::Test(ConnectivityTest { place }),
        })
    }
}

impl Version {
    pub(super) fn from_header(value: &[u8]) -> Option<Self> {
        match value {
            b"1" => Some(Self::V1),
            b"2" => Some(Self::V2),
            _ => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
        }
    }
}

impl Gate {
    fn from_headers(headers: &Headers<'_, '_>) -> Self {
        match headers.find("Jet-Gate") {
            Some(value) if value.eq_ignore_ascii_case(b"off") => Self::Off,
            _ => Self::Hold,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::protocol::jet::message::assert_fits_around_host_name;
    use crate::protocol::jet::{HOST_NAME_BYTES_MAX, Place, Reply, Status};

    const A: Uuid = Uuid::from_u128(0x300f_1c82_d33b_11e9_bb65_2a2a_e2db_cce5);
    const C: Uuid = Uuid::from_u128(0x4c8f_409a_c1a2_4cae_bda2_84c5_90fe_d618);
    const MASK: u8 = 0x5a;

    fn packet(head: &str) -> Vec<u8> {
        let size = u16::try_from(8 + head.len()).unwrap().to_be_bytes();
        let mut bytes = vec![b'J', b'E', b'T', 0, size[0], size[1], 0, MASK];
        bytes.extend(head.bytes().map(|byte| byte ^ MASK));
        bytes
    }

    /// `head` has its lines separated by `|`; the rest is written here.
    #[track_caller]
    fn check(head: &str, expected: Result<(Version, Message), RequestError>) {
        for line_end in ["\r\n", "\n"] {
            let head = head.replace('|', line_end) + line_end + line_end;
            let expected = expected
                .map(|(version, message)| Request {
                    message,
                    version,
                    mask: MASK,
                })
                .map(|value| Progress::Complete {
                    value,
                    consumed: 8 + head.len(),
                });
            assert_eq!(Request::decode(&packet(&head)), expected, "{head}");
        }
    }

    fn accept(place: AcceptPlace) -> Message {
        Message::Accept(Accept {
            place,
            gate: Gate::Hold,
        })
    }

    fn connect(candidate: Option<Uuid>) -> Message {
        let place = Place {
            association: A,
            candidate,
        };
        Message::Connect(Connect {
            place,
            gate: Gate::Hold,
        })
    }

    fn refused(version: Version, fault: RequestFault) -> Result<(Version, Message), RequestError> {
        Err(RequestError::Refused {
            fault,
            version,
            mask: MASK,
        })
    }

    #[test]
    fn the_headers_say_what_is_asked_on_the_root() {
        use Version::{V1, V2};
        let minted = accept(AcceptPlace::Minted);
        check(
            "GET / HTTP/1.1|Host: h|Jet-Method: Accept|Jet-Version: 1",
            Ok((V1, minted)),
        );
        check(
            "get /?a=b HTTP/1.0|hOST:|jet-version:  1 |JET-METHOD: aCCEPT",
            Ok((V1, minted)),
        );
        check(
            "GET / HTTP/1.1|Host: h|Jet-Method: accept|Jet-Version: 2",
            Ok((V2, minted)),
        );
        for method in ["Connect", "connect", "Listen", "Test", ""] {
            check(
                &format!(
                    "GET / HTTP/1.1|Host: h|Jet-Method: {method}|Jet-Association: {A}|Jet-Version: 1"
                ),
                Ok((V1, connect(None))),
            );
        }
        check(
            &format!(
                "GET / HTTP/1.1|X: y|Host: h:1|Jet-Method: Connect|Jet-Version: 1|Jet-Association: {}",
                A.braced()
            ),
            Ok((V1, connect(None))),
        );
        for association in ["", "|Jet-Association:", "|Jet-Association: 300f1c82"] {
            check(
                &format!("GET / HTTP/1.1|Host: h|Jet-Method: Connect|Jet-Version: 1{association}"),
                refused(V1, RequestFault::BadAssociation),
            );
        }
        check(
            &format!("GET / HTTP/1.1|Host: h|Jet-Association: {A}|Jet-Version: 2"),
            refused(V2, RequestFault::NoJetMethod),
        );
    }

    #[test]
    fn the_path_says_what_is_asked_elsewhere() {
        use Version::{V1, V2};
        let place = Place {
            association: A,
            candidate: Some(C),
        };
        let one = Place {
            association: A,
            candidate: None,
        };
        let named = accept(AcceptPlace::Named(place));
        let head = |target: &str, version: &str| {
            format!("GET {target} HTTP/1.1|Host: h|Jet-Method: Accept|Jet-Version: {version}")
        };
        check(&head(&format!("/jet/accept/{A}/{C}"), "2"), Ok((V2, named)));
        check(&head(&format!("/jet/accept/{A}/{C}"), "1"), Ok((V1, named)));
        check(
            &head(&format!("/jet/accept/{A}"), "2"),
            Ok((V2, accept(AcceptPlace::Named(one)))),
        );
        check(
            &head(&format!("/JET/CONNECT/{A}/{C}/?x"), "2"),
            Ok((V2, connect(Some(C)))),
        );
        check(
            &head(&format!("/jet/connect/{A}"), "2"),
            Ok((V2, connect(None))),
        );
        let test = Message::Test(ConnectivityTest { place });
        check(&head(&format!("/jet/test/{A}/{C}"), "2"), Ok((V2, test)));
        check(&head("/jet", "1"), refused(V1, RequestFault::BadPath));
        check(
            &head("/jet/test/x/y", "2"),
            refused(V2, RequestFault::BadAssociation),
        );
        check(
            &head(&format!("/jet/test/{A}/y"), "2"),
            refused(V2, RequestFault::BadCandidate),
        );
    }

    #[test]
    fn other_versions_are_told_ours() {
        for version in ["3", "0", "", "two", "02", "+2", "2 2", "4294967298"] {
            let head = format!("GET /jet/accept/{A}/{C} HTTP/1.1|Host: h|Jet-Version: {version}");
            check(
                &head,
                refused(Version::V2, RequestFault::UnsupportedVersion),
            );
        }
    }

    #[test]
    fn what_is_not_a_request_is_not_answered() {
        check(
            "POST / HTTP/1.1|Host: h|Jet-Version: 2",
            Err(RequestError::BadMethod),
        );
        check(
            "GET / HTTP/1.1|Jet-Method: Accept|Jet-Version: 1",
            Err(RequestError::NoHost),
        );
        check(
            "GET / HTTP/1.1|Host: h|Jet-Method: Accept",
            Err(RequestError::NoJetVersion),
        );
        let not_http = |error| {
            Err(RequestError::NotHttp(
                crate::protocol::http_head::HeadError::Malformed(error),
            ))
        };
        check("GET / SPDY/3|Host: h", not_http(httparse::Error::Version));
        check("\u{3}\0\0\u{13}", not_http(httparse::Error::Token));
        let many = "|a: b".repeat(HEADERS_MAX + 1);
        check(
            &format!("GET / HTTP/1.1{many}"),
            Err(RequestError::NotHttp(
                crate::protocol::http_head::HeadError::TooManyHeaders { limit: HEADERS_MAX },
            )),
        );
        for head in ["", "GET / HTTP/1.1\r\nHost: h\r\n"] {
            assert_eq!(
                Request::decode(&packet(head)),
                Err(RequestError::HeadCutShort)
            );
        }
        for error in [
            RequestError::BadMethod,
            RequestError::NoHost,
            RequestError::HeadCutShort,
        ] {
            assert!(error.reply().is_none(), "{error}");
        }
    }

    #[test]
    fn a_refusal_is_answered_with_the_mask_and_version_of_the_request() {
        let error = RequestError::Refused {
            fault: RequestFault::BadPath,
            version: Version::V1,
            mask: 9,
        };
        let expected = Reply::new(Status::BAD_REQUEST, Version::V1).encode(9);
        assert_eq!(error.reply().unwrap().as_bytes(), expected.as_bytes());
    }

    #[test]
    fn what_follows_the_head_inside_the_packet_is_ignored() {
        let head =
            format!("GET /jet/connect/{A} HTTP/1.1\r\nHost: h\r\nJet-Version: 2\r\n\r\n{{}}");
        let value = Request {
            message: connect(None),
            version: Version::V2,
            mask: MASK,
        };
        let consumed = 8 + head.len();
        assert_eq!(
            Request::decode(&packet(&head)),
            Ok(Progress::Complete { value, consumed })
        );
    }

    #[test]
    fn decodes_what_it_encodes() {
        let host = HostName::new(&"h".repeat(HOST_NAME_BYTES_MAX)).unwrap();
        for version in [Version::V1, Version::V2] {
            for gate in [Gate::Hold, Gate::Off] {
                for candidate in [None, Some(C)] {
                    let place = Place {
                        association: A,
                        candidate,
                    };
                    for message in [
                        Message::Accept(Accept {
                            place: AcceptPlace::Minted,
                            gate,
                        }),
                        Message::Accept(Accept {
                            place: AcceptPlace::Named(place),
                            gate,
                        }),
                        Message::Connect(Connect { place, gate }),
                        Message::Test(ConnectivityTest { place }),
                    ] {
                        let value = Request {
                            message,
                            version,
                            mask: 0x73,
                        };
                        let packet = value.encode(&host);
                        assert_fits_around_host_name(&packet);
                        let consumed = packet.as_bytes().len();
                        let expected = Progress::Complete { value, consumed };
                        assert_eq!(Request::decode(packet.as_bytes()), Ok(expected));
                    }
                }
            }
        }
    }

    #[test]
    fn minted_and_version_1_acceptors_want_details() {
        let place = Place {
            association: A,
            candidate: None,
        };
        let wants = |message, version| {
            Request {
                message,
                version,
                mask: 0,
            }
            .wants_accept_details()
        };
        let named = accept(AcceptPlace::Named(place));
        assert!(wants(accept(AcceptPlace::Minted), Version::V1));
        assert!(wants(accept(AcceptPlace::Minted), Version::V2));
        assert!(wants(named, Version::V1));
        assert!(!wants(named, Version::V2));
        assert!(!wants(connect(None), Version::V1));
    }
}
