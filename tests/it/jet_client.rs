//! A blocking JET client. It reads a reply exactly, so that what follows stays in the socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use midspan::protocol::Progress;
use midspan::protocol::jet::{
    Accept, AcceptPlace, Connect, ConnectivityTest, Gate, HostName, MASK_DEFAULT, Message, Place,
    Reply, Request, Version,
};
use rustix::io::Errno;
use uuid::Uuid;

use super::patience::PATIENCE;

/// How a stream ended, seen by its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Reset,
}

/// A fresh place with two ids.
pub(crate) fn new_place() -> Place {
    Place {
        association: new_id(),
        candidate: Some(new_id()),
    }
}

/// A fresh place with one id.
pub(crate) fn new_association() -> Place {
    implicit(new_id())
}

/// The one-id place of an association.
pub(crate) fn implicit(association: Uuid) -> Place {
    Place {
        association,
        candidate: None,
    }
}

fn new_id() -> Uuid {
    Uuid::from_u128(fastrand::u128(..))
}

pub(crate) fn accept(place: Place) -> Request {
    let place = AcceptPlace::Named(place);
    request(Message::Accept(Accept {
        place,
        gate: Gate::Hold,
    }))
}

pub(crate) fn accept_minted() -> Request {
    let message = Message::Accept(Accept {
        place: AcceptPlace::Minted,
        gate: Gate::Hold,
    });
    in_version_1(request(message))
}

pub(crate) fn connect(place: Place) -> Request {
    request(Message::Connect(Connect {
        place,
        gate: Gate::Hold,
    }))
}

pub(crate) fn test(place: Place) -> Request {
    request(Message::Test(ConnectivityTest { place }))
}

/// The same request with `Jet-Version: 1`; a connect then has its id in a header.
pub(crate) fn in_version_1(request: Request) -> Request {
    Request {
        version: Version::V1,
        ..request
    }
}

fn request(message: Message) -> Request {
    Request {
        message,
        version: Version::V2,
        mask: MASK_DEFAULT,
    }
}

/// The packet of a request.
pub(crate) fn packet(request: &Request) -> Vec<u8> {
    let host = HostName::new("relay.example").expect("a name");
    request.encode(&host).as_bytes().to_vec()
}

/// A packet around any HTTP head.
pub(crate) fn packet_of(head: &str) -> Vec<u8> {
    let size = u16::try_from(8 + head.len()).expect("short").to_be_bytes();
    let mut bytes = vec![b'J', b'E', b'T', 0, size[0], size[1], 0, MASK_DEFAULT];
    bytes.extend(head.bytes().map(|byte| byte ^ MASK_DEFAULT));
    bytes
}

/// A connection on which nothing takes forever.
pub(crate) fn dial(relay: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&relay, PATIENCE).expect("the relay listens");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// Dials, asks, and reads the reply.
#[track_caller]
pub(crate) fn ask(relay: SocketAddr, request: &Request) -> (TcpStream, Reply) {
    let mut stream = dial(relay);
    stream.write_all(&packet(request)).expect("sent");
    let reply = read_reply(&mut stream);
    (stream, reply)
}

/// Has the request granted.
#[track_caller]
pub(crate) fn granted(relay: SocketAddr, request: &Request) -> TcpStream {
    let (stream, reply) = ask(relay, request);
    assert_eq!(reply.status.as_u16(), 200, "{request:?}");
    stream
}

/// Has the request refused with `status`: the reply, then the end of the stream.
#[track_caller]
pub(crate) fn refused(relay: SocketAddr, request: &Request, status: u16) {
    let (mut stream, reply) = ask(relay, request);
    assert_eq!(reply.status.as_u16(), status, "{request:?}");
    assert_eq!(
        read_to_end(&mut stream),
        (Vec::new(), End::Closed),
        "{request:?}"
    );
}

/// An acceptor and its connector, joined.
#[track_caller]
pub(crate) fn pair(relay: SocketAddr, place: Place) -> (TcpStream, TcpStream) {
    (
        granted(relay, &accept(place)),
        granted(relay, &connect(place)),
    )
}

/// A version 1 acceptor and the id that the relay gave it.
#[track_caller]
pub(crate) fn minted(relay: SocketAddr) -> (TcpStream, Uuid) {
    let (stream, reply) = ask(relay, &accept_minted());
    assert_eq!(reply.status.as_u16(), 200);
    (
        stream,
        reply.details.expect("version 1 has details").association,
    )
}

/// Reads one reply and not a byte more.
#[track_caller]
pub(crate) fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = vec![0; 8];
    stream.read_exact(&mut bytes).expect("a reply's header");
    let size = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    bytes.resize(size, 0);
    stream
        .read_exact(&mut bytes[8..])
        .expect("a reply's payload");
    match Reply::decode(&bytes) {
        Ok(Progress::Complete { value, consumed }) if consumed == size => value,
        other => panic!("no reply: {other:?}"),
    }
}

/// Reads until the stream ends, in whichever way.
#[track_caller]
pub(crate) fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (bytes, End::Closed),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                assert_eq!(
                    Errno::from_io_error(&error),
                    Some(Errno::CONNRESET),
                    "{error}"
                );
                return (bytes, End::Reset);
            }
        }
    }
}

/// Sends `word` from one to the other and back.
#[track_caller]
pub(crate) fn ping_pong(one: &mut TcpStream, other: &mut TcpStream) {
    one_way(one, other, b"ping");
    one_way(other, one, b"pong");
}

/// Sends `word`, and nothing else arrives.
#[track_caller]
pub(crate) fn one_way(from: &mut TcpStream, to: &mut TcpStream, word: &[u8]) {
    from.write_all(word).expect("sent");
    let mut received = vec![0; word.len()];
    to.read_exact(&mut received).expect("relayed");
    assert_eq!(received, word);
}
