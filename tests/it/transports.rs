//! Legs over every transport, by other people's TLS and WebSocket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};

use midspan::access::Fingerprint;
use midspan::protocol::Progress;
use midspan::protocol::jet::{Place, Reply};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use super::any_certificate::AnyCertificate;
use super::jet_client::{accept, connect, dial, packet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Transport {
    pub(crate) const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    pub(crate) const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Accept,
    Connect,
}

/// A leg that was let in, as a stream of bytes.
pub(crate) struct Leg {
    stream: Bytes,
    socket: TcpStream,
    /// Of a message, what was not read.
    unread: Vec<u8>,
}

enum Bytes {
    Plain(Wire),
    Messages(Box<WebSocket<Wire>>),
}

enum Wire {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Leg {
    /// Comes to `place`; `early` is sent without waiting for the answer, where the
    /// transport can.
    #[track_caller]
    pub(crate) fn come(
        relay: SocketAddr,
        transport: Transport,
        role: Role,
        place: Place,
        early: &[u8],
    ) -> Self {
        Self::come_on(dial(relay), transport, role, place, early)
    }

    /// The same behind what a load balancer says.
    pub(crate) fn come_behind(
        relay: SocketAddr,
        transport: Transport,
        role: Role,
        place: Place,
        header: &[u8],
    ) -> Self {
        let mut tcp = dial(relay);
        tcp.write_all(header).expect("sent");
        Self::come_on(tcp, transport, role, place, b"")
    }

    #[track_caller]
    fn come_on(
        tcp: TcpStream,
        transport: Transport,
        role: Role,
        place: Place,
        early: &[u8],
    ) -> Self {
        let socket = tcp.try_clone().expect("a socket");
        let mut wire = match transport.is_tls() {
            true => Wire::Tls(Box::new(tls(tcp))),
            false => Wire::Tcp(tcp),
        };
        let stream = if transport.is_websocket() {
            let uri = uri(transport, role, place);
            let (mut messages, response) =
                tungstenite::client(uri.into_client_request().expect("a uri"), wire)
                    .expect("an upgrade");
            assert_eq!(response.status(), 101);
            if !early.is_empty() {
                messages
                    .send(Message::binary(early.to_vec()))
                    .expect("sent");
            }
            Bytes::Messages(Box::new(messages))
        } else {
            let request = match role {
                Role::Accept => accept(place),
                Role::Connect => connect(place),
            };
            let mut opening = packet(&request);
            opening.extend_from_slice(early);
            wire.write_all(&opening).expect("sent");
            assert_eq!(read_reply(&mut wire).status.as_u16(), 200);
            Bytes::Plain(wire)
        };
        Self {
            stream,
            socket,
            unread: Vec::new(),
        }
    }

    /// Comes as a connector, and says all that it has to say, and that nothing
    /// follows, without waiting for an answer; its half of TCP stays open.
    pub(crate) fn come_and_end(
        relay: SocketAddr,
        transport: Transport,
        place: Place,
        early: &[u8],
    ) -> Self {
        let tcp = dial(relay);
        let socket = tcp.try_clone().expect("a socket");
        let mut stream = tls(tcp);
        let opening = opening(transport, place, early);
        while stream.conn.is_handshaking() {
            stream
                .conn
                .complete_io(&mut stream.sock)
                .expect("a handshake");
        }
        stream.conn.writer().write_all(&opening).expect("room");
        stream.conn.send_close_notify();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut stream.sock).expect("sent");
        }
        Self {
            stream: Bytes::Plain(Wire::Tls(Box::new(stream))),
            socket,
            unread: Vec::new(),
        }
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) {
        match &mut self.stream {
            Bytes::Plain(wire) => wire.write_all(bytes).expect("written"),
            Bytes::Messages(messages) => messages
                .send(Message::binary(bytes.to_vec()))
                .expect("written"),
        }
    }

    /// Reads some; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let messages = match &mut self.stream {
            Bytes::Plain(wire) => {
                return match wire.read(buffer) {
                    Ok(count) => count,
                    // Our TLS tells an end without a word of it.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
                    Err(error) => panic!("read: {error}"),
                };
            }
            Bytes::Messages(messages) => messages,
        };
        while self.unread.is_empty() {
            match messages.read() {
                Ok(Message::Binary(bytes)) => self.unread = bytes.to_vec(),
                Ok(Message::Close(_)) => {
                    // The answer to it waits for that.
                    messages.flush().expect("sent");
                    return 0;
                }
                Err(tungstenite::Error::ConnectionClosed) => return 0,
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("read: {other:?}"),
            }
        }
        let count = self.unread.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.unread[..count]);
        self.unread.drain(..count);
        count
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &[u8]) {
        let mut received = vec![0; expected.len()];
        let mut filled = 0;
        while filled < received.len() {
            let count = self.read(&mut received[filled..]);
            assert!(
                count > 0,
                "an end after {filled} bytes of {}",
                expected.len()
            );
            filled += count;
        }
        assert!(received == expected, "other bytes than were sent");
    }

    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.read(&mut [0; 16]), 0, "more than was sent");
    }

    /// Says that nothing follows: of a WebSocket, that it listens no more either.
    pub(crate) fn end(&mut self) {
        match &mut self.stream {
            Bytes::Plain(Wire::Tls(stream)) => {
                stream.conn.send_close_notify();
                stream.flush().expect("sent");
                self.socket.shutdown(Shutdown::Write).expect("a socket");
            }
            Bytes::Plain(Wire::Tcp(_)) => self.socket.shutdown(Shutdown::Write).expect("a socket"),
            Bytes::Messages(messages) => {
                messages.close(None).expect("sent");
            }
        }
    }
}

/// What a connector opens with, inside TLS if there is any.
fn opening(transport: Transport, place: Place, early: &[u8]) -> Vec<u8> {
    if !transport.is_websocket() {
        return [&packet(&connect(place)), early].concat();
    }
    let path = uri(transport, Role::Connect, place);
    let (_, path) = path.split_once("relay.example").expect("a host");
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let length = u8::try_from(early.len()).expect("short");
    let frame = [&[0x82, 0x80 | length, 0, 0, 0, 0], early].concat();
    [head.as_bytes(), &frame].concat()
}

/// Whether a connector is closed without a word, in TLS or before it.
pub(crate) fn is_closed_in_silence(relay: SocketAddr, transport: Transport, place: Place) -> bool {
    let tcp = dial(relay);
    let mut wire = match transport.is_tls() {
        true => Wire::Tls(Box::new(tls(tcp))),
        false => Wire::Tcp(tcp),
    };
    // The relay may have closed before the last of it.
    let _ = wire.write_all(&opening(transport, place, b""));
    let mut said = [0; 64];
    let ends = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
    match wire.read(&mut said) {
        Ok(count) => count == 0,
        Err(error) => ends.contains(&error.kind()),
    }
}

fn uri(transport: Transport, role: Role, place: Place) -> String {
    let scheme = if transport.is_tls() { "wss" } else { "ws" };
    let verb = match role {
        Role::Accept => "accept",
        Role::Connect => "connect",
    };
    let association = place.association;
    let candidate = place.candidate;
    let candidate = candidate.map_or(String::new(), |candidate| format!("/{candidate}"));
    format!("{scheme}://relay.example/jet/{verb}/{association}{candidate}")
}

fn read_reply(wire: &mut Wire) -> Reply {
    let mut bytes = vec![0; 8];
    wire.read_exact(&mut bytes).expect("a reply's header");
    let size = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    bytes.resize(size, 0);
    wire.read_exact(&mut bytes[8..]).expect("a reply's payload");
    match Reply::decode(&bytes) {
        Ok(Progress::Complete { value, consumed }) if consumed == size => value,
        other => panic!("no reply: {other:?}"),
    }
}

/// The certificate that a relay shows.
pub(crate) fn certificate(relay: SocketAddr) -> Fingerprint {
    let mut stream = tls(dial(relay));
    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .expect("a handshake");
    }
    let shown = stream.conn.peer_certificates().expect("certificates");
    Fingerprint::of(&shown[0])
}

/// TLS to a relay whose certificate nobody vouches for.
pub(crate) fn tls(stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        Arc::new(config)
    });
    let name = ServerName::try_from("relay.example").expect("a name");
    let connection = ClientConnection::new(Arc::clone(config), name).expect("a connection");
    StreamOwned::new(connection, stream)
}
