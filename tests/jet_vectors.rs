//! JET packets as other implementations write them: `tests/vectors/jet/`.

use midspan::protocol::Progress;
use midspan::protocol::jet::{
    Accept, AcceptDetails, AcceptPlace, Connect, ConnectivityTest, Gate, HostName, MASK_DEFAULT,
    Message, PACKET_HEADER_BYTES, Place, Reply, Request, Status, Version,
};
use uuid::{Uuid, uuid};

const VECTORS: &str = include_str!("vectors/jet/vectors.tsv");
const VECTORS_COUNT: usize = 17;

/// The association of the vectors of version 1.
const V1_ASSOCIATION: Uuid = uuid!("e6ec698c-5793-4c63-af79-bd644ccf022f");
/// The place of the vectors of version 2.
const V2_PLACE: Place = Place {
    association: uuid!("300f1c82-d33b-11e9-bb65-2a2ae2dbcce5"),
    candidate: Some(uuid!("4c8f409a-c1a2-4cae-bda2-84c590fed618")),
};

struct Vector {
    name: &'static str,
    packet: Vec<u8>,
    payload: String,
}

/// What a vector means.
enum Meaning {
    /// A request, and the `Host` that it names.
    Request(Request, &'static str),
    Reply(Reply),
}

fn vectors() -> Vec<Vector> {
    VECTORS.lines().map(Vector::parse).collect()
}

impl Vector {
    fn parse(line: &'static str) -> Self {
        let columns: Vec<_> = line.split('\t').collect();
        let [name, len, hex, payload] = columns[..] else {
            panic!("four columns in {line:?}");
        };
        let packet: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect();
        assert_eq!(
            packet.len(),
            len.parse::<usize>().expect("length"),
            "{name}"
        );
        let payload = serde_json::from_str(payload).expect("quoted payload");
        Self {
            name,
            packet,
            payload,
        }
    }

    fn meaning(&self) -> Meaning {
        let request = |version, message, host| {
            Meaning::Request(
                Request {
                    message,
                    version,
                    mask: MASK_DEFAULT,
                },
                host,
            )
        };
        let accept = |place| {
            Message::Accept(Accept {
                place,
                gate: Gate::Hold,
            })
        };
        let connect = |place| {
            Message::Connect(Connect {
                place,
                gate: Gate::Hold,
            })
        };
        match self.name {
            "v1_accept_req" => request(Version::V1, accept(AcceptPlace::Minted), "jet.wayk.net"),
            "v1_connect_req" => {
                let place = Place {
                    association: V1_ASSOCIATION,
                    candidate: None,
                };
                request(Version::V1, connect(place), "jet101.wayk.net")
            }
            "v2_accept_req" => request(
                Version::V2,
                accept(AcceptPlace::Named(V2_PLACE)),
                "jetsocat",
            ),
            "v2_connect_req" => request(Version::V2, connect(V2_PLACE), "jetsocat"),
            "v2_test_req" => {
                let test = ConnectivityTest { place: V2_PLACE };
                request(Version::V2, Message::Test(test), "jetsocat")
            }
            "v1_accept_rsp_200" => accept_reply(Status::OK, V1_ASSOCIATION),
            "v1_accept_rsp_400" => accept_reply(Status::BAD_REQUEST, Uuid::nil()),
            name => {
                let version = if name.starts_with("v1") {
                    Version::V1
                } else {
                    Version::V2
                };
                let status = match name.rsplit('_').next() {
                    Some("200") => Status::OK,
                    Some("400") => Status::BAD_REQUEST,
                    Some("404") => Status::NOT_FOUND,
                    _ => panic!("a vector of unknown meaning: {name}"),
                };
                Meaning::Reply(Reply::new(status, version))
            }
        }
    }
}

fn accept_reply(status: Status, association: Uuid) -> Meaning {
    let details = AcceptDetails {
        association,
        instance: Some(HostName::new("jet101.wayk.net").expect("host name")),
        timeout_s: Some(300),
    };
    Meaning::Reply(Reply {
        details: Some(details),
        ..Reply::new(status, Version::V1)
    })
}

/// Checks a decoder with `packet` whole, cut at every byte, and with bytes
/// behind it.
#[track_caller]
fn check_decode<T, E>(
    name: &str,
    packet: &[u8],
    expected: &T,
    decode: impl Fn(&[u8]) -> Result<Progress<T>, E>,
) where
    T: std::fmt::Debug + PartialEq,
    E: std::fmt::Debug,
{
    let mut at = 0;
    for cut in 0..packet.len() {
        let Progress::Partial { more_bytes_min } = decode(&packet[..cut]).expect(name) else {
            panic!("{name}: complete after {cut} bytes");
        };
        assert!(
            (1..=packet.len() - cut).contains(&more_bytes_min),
            "{name} cut at {cut}"
        );
        // A reader that takes no more than it is told to reads twice.
        if cut == at {
            at += more_bytes_min;
        }
    }
    assert_eq!(at, packet.len(), "{name}");
    for rest in [&b""[..], b"SSH-2.0-OpenSSH\r\n", packet] {
        let bytes = [packet, rest].concat();
        let Progress::Complete { value, consumed } = decode(&bytes).expect(name) else {
            panic!("{name}: partial");
        };
        assert_eq!(&value, expected, "{name}");
        assert_eq!(
            &bytes[consumed..],
            rest,
            "{name}: what follows the packet is not its own"
        );
    }
}

fn payload(packet: &[u8]) -> String {
    let (header, masked) = packet.split_at(PACKET_HEADER_BYTES);
    let plain = masked.iter().map(|byte| byte ^ header[7]).collect();
    String::from_utf8(plain).expect("payload is text")
}

#[test]
fn all_vectors_decode_at_every_cut() {
    let vectors = vectors();
    assert_eq!(vectors.len(), VECTORS_COUNT);
    for vector in &vectors {
        let Vector { name, packet, .. } = vector;
        match vector.meaning() {
            Meaning::Request(request, _) => check_decode(name, packet, &request, Request::decode),
            Meaning::Reply(reply) => check_decode(name, packet, &reply, Reply::decode),
        }
    }
}

#[test]
fn all_vectors_are_what_we_encode() {
    for vector in vectors() {
        match vector.meaning() {
            Meaning::Request(request, host) => {
                let packet = request.encode(&HostName::new(host).expect("host name"));
                assert_eq!(
                    payload(packet.as_bytes()),
                    vector.payload,
                    "{}",
                    vector.name
                );
                assert_eq!(packet.as_bytes(), vector.packet, "{}", vector.name);
            }
            Meaning::Reply(reply) => {
                let packet = reply.encode(MASK_DEFAULT);
                // Theirs has the code twice, ours once.
                let code = format!(" {}\r\n", reply.status.as_u16());
                let theirs = vector.payload.replacen(&code, "\r\n", 1);
                assert_ne!(theirs, vector.payload, "{}", vector.name);
                assert_eq!(payload(packet.as_bytes()), theirs, "{}", vector.name);
                assert_eq!(
                    packet.as_bytes().len(),
                    vector.packet.len() - 4,
                    "{}",
                    vector.name
                );
            }
        }
    }
}

#[test]
fn a_packet_with_bare_line_feeds_decodes_at_every_cut() {
    let mut packet = b"JET\0\x00\xa8\0\0".to_vec();
    packet.extend(
        b"GET /jet/accept/300f1c82-d33b-11e9-bb65-2a2ae2dbcce5/4c8f409a-c1a2-4cae-bda2-84c590fed618 \
          HTTP/1.1\nHost: jet101.wayk.net\nConnection: Keep-Alive\nJet-Version: 2\n\n",
    );
    let accept = Accept {
        place: AcceptPlace::Named(V2_PLACE),
        gate: Gate::Hold,
    };
    let request = Request {
        message: Message::Accept(accept),
        version: Version::V2,
        mask: 0,
    };
    check_decode("bare line feeds", &packet, &request, Request::decode);
}

#[test]
fn our_own_reply_of_version_2_has_43_bytes() {
    let packet = Reply::new(Status::OK, Version::V2).encode(MASK_DEFAULT);
    assert_eq!(
        packet.as_bytes()[..8],
        [0x4a, 0x45, 0x54, 0x00, 0x00, 43, 0x00, 0x73]
    );
    assert_eq!(
        payload(packet.as_bytes()),
        "HTTP/1.1 200 OK\r\nJet-Version: 2\r\n\r\n"
    );
}
