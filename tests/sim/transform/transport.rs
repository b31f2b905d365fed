//! What a leg came over, made for both of its ends without a network: handshakes are
//! over before the pair begins.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use midspan::protocol::websocket::Role;
use midspan::relay::codec::{Closing, Codec, WebSocket};
use midspan::runtime::socket::Socket;
use midspan::tls::{SEALED_BYTES_MIN, Session};
use rustls::{ClientConnection, Connection, ServerConnection};
use socket2::{Domain, Type};

use super::tls_sides::{SIDES, name, shake};

/// What a segment has at most, where buffers are small.
const SEGMENT_BYTES: u32 = 536;

/// What a leg is wrapped in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transport {
    /// The relay's part: it was dialled, or it dials.
    pub(super) role: Role,
    pub(super) tls: Option<Tls>,
    pub(super) websocket: Option<Closing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tls {
    V13,
    V12,
}

impl Transport {
    pub(super) const PLAIN: Self = Self {
        role: Role::Server,
        tls: None,
        websocket: None,
    };

    pub(super) fn wrapped(rng: &mut fastrand::Rng, role: Role) -> Self {
        let tls = *rng
            .choice(&[Tls::V13, Tls::V13, Tls::V12])
            .expect("not empty");
        let close = *rng
            .choice(&[Closing::BothWays, Closing::OneWay])
            .expect("not empty");
        let layers = rng.u32(0..3);
        Self {
            role,
            tls: (layers != 0).then_some(tls),
            websocket: (layers != 1).then_some(close),
        }
    }

    /// As it is counted.
    pub(super) const fn label(self) -> &'static str {
        match (self.role, self.tls.is_some(), self.websocket.is_some()) {
            (_, false, false) => "plain",
            (Role::Server, true, false) => "tls",
            (Role::Server, false, true) => "websocket",
            (Role::Server, true, true) => "websocket over tls",
            (Role::Client, true, false) => "dialled tls",
            (Role::Client, false, true) => "dialled websocket",
            (Role::Client, true, true) => "dialled websocket over tls",
        }
    }

    pub(super) const fn is_plain(self) -> bool {
        self.tls.is_none() && self.websocket.is_none()
    }

    /// What the peer is.
    pub(super) const fn peer_role(self) -> Role {
        match self.role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        }
    }

    /// Both ends of its TLS, which have shaken hands.
    pub(super) fn shake(self) -> Option<(Session, Connection)> {
        let (ours, theirs) = (&SIDES.ours, &SIDES.peers[self.tls? as usize]);
        let (session, peer) = match self.role {
            Role::Server => (
                Session::server(Arc::clone(&ours.server)),
                ClientConnection::new(Arc::clone(&theirs.client), name()).map(Connection::from),
            ),
            Role::Client => (
                Session::client(Arc::clone(&ours.client), name()),
                ServerConnection::new(Arc::clone(&theirs.server)).map(Connection::from),
            ),
        };
        let (mut session, mut peer) = (session.expect("a session"), peer.expect("a peer"));
        shake(&mut session, &mut peer);
        Some((session, peer))
    }

    /// The leg's codec, and its prefix: what is left of `early`, which came on the wire
    /// before there was a pair.
    pub(super) fn codec(
        self,
        session: Option<Session>,
        early: &[u8],
    ) -> (Option<Box<Codec>>, Vec<u8>) {
        let websocket = self.websocket.map(|close| WebSocket::new(self.role, close));
        let Some(mut session) = session else {
            return Codec::begin(None, websocket, early.to_vec()).expect("a beginning");
        };
        let mut plain = vec![0; early.len() + SEALED_BYTES_MIN];
        let opened = session.open(&mut early.to_vec(), &mut plain);
        plain.truncate(opened.expect("records").bytes);
        Codec::begin(Some(Box::new(session)), websocket, plain).expect("a beginning")
    }
}

/// A connection over loopback: the peer's end, which does not block, and the relay's.
/// What either of them holds is little, if `buffer_bytes` are.
pub(super) fn connection(buffer_bytes: Option<usize>) -> (TcpStream, Socket) {
    let [listener, stream] = [(); 2].map(|()| {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        if let Some(bytes) = buffer_bytes {
            // Of segments as long as those of loopback a small buffer takes none, and the
            // connection goes on with a timer.
            socket.set_tcp_mss(SEGMENT_BYTES).expect("a size");
            socket.set_send_buffer_size(bytes).expect("a size");
            socket.set_recv_buffer_size(bytes).expect("a size");
        }
        socket
    });
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    listener.bind(&any.into()).expect("a port");
    listener.listen(1).expect("a listener");
    let address = listener.local_addr().expect("an address");
    stream.connect(&address).expect("connected");
    let (accepted, _) = listener.accept().expect("accepted");
    for end in [&stream, &accepted] {
        end.set_nonblocking(true).expect("a socket");
        end.set_tcp_nodelay(true).expect("a socket");
    }
    let accepted = TcpStream::from(accepted);
    (stream.into(), Socket::from_nonblocking(accepted.into()))
}
