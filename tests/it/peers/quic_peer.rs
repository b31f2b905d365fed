//! A peer that speaks QUIC, and on its streams whatever it is told to.
//!
//! It does something only while a test waits for it: whoever does not ask for a stream's bytes
//! does not read them, and gives no credit for more.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use midspan::config::quic_settings::PathSettings;
use midspan::protocol::ptth_quic::{ALPN, Hello, Inner, Open, Role, Who};
use midspan::quic::transport::Transport;
use midspan::tls::client::{Trust, quic_client_config};
use midspan::tls::identity::Identity;
use quinn_proto::{
    ApplicationClose, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint,
    EndpointConfig, Event, ReadError, StreamEvent, StreamId, VarInt, WriteError,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use crate::patience::{Deadline, now};
use crate::ptth_agents::{Meeting, key};

/// Streams that the other side may have opened at once.
pub(crate) const STREAMS_MAX: u32 = 100;

const TRANSPORT: Transport = Transport {
    stream_window: 64 << 10,
    connection_window: 4 << 20,
    send_window: 4 << 20,
    streams_max: STREAMS_MAX,
    idle_timeout: Duration::from_secs(20),
    keep_alive: Some(Duration::from_secs(2)),
    path: PathSettings::DEFAULT,
};

/// After how long without a datagram it is looked whether a test has waited for too long.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// One connection.
#[derive(Debug)]
pub(crate) struct QuicPeer {
    socket: UdpSocket,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    is_connected: bool,
    /// Why it is no more.
    lost: Option<ConnectionError>,
    /// Streams of which the other side reads no more, with its codes.
    stopped: Vec<(StreamId, u64)>,
}

/// All that came on a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) bytes: Vec<u8>,
    /// Its code, if it was broken off.
    pub(crate) reset: Option<u64>,
}

impl QuicPeer {
    /// Begins to connect with the relay.
    pub(crate) fn dial(meeting: &Meeting) -> Self {
        Self::dial_as(None, meeting, 0)
    }

    /// The same, to speak something else. What it says first is in one datagram, as without the
    /// long keys of X25519MLKEM768.
    pub(crate) fn dial_for(protocol: &[u8], meeting: &Meeting) -> Self {
        let mut provider = default_provider();
        provider.kx_groups = vec![X25519];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let mut tls = builder
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        tls.alpn_protocols = vec![protocol.to_vec()];
        Self::dial_by(Arc::new(tls), meeting, 0)
    }

    /// `steer` is the relay's core to which it comes.
    fn dial_as(identity: Option<&Identity>, meeting: &Meeting, steer: u8) -> Self {
        let pin = meeting.pin().parse().expect("a fingerprint");
        let tls = quic_client_config(Trust::Pinned(pin), ALPN, identity).expect("TLS 1.3");
        Self::dial_by(tls, meeting, steer)
    }

    fn dial_by(tls: Arc<ClientConfig>, meeting: &Meeting, steer: u8) -> Self {
        let to = meeting.quic_address();
        let client = TRANSPORT.client(tls, steer).expect("a cipher suite");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let (handle, connection) = endpoint
            .connect(now(), client, to, "relay")
            .expect("a name and an address");
        Self {
            socket,
            endpoint,
            handle,
            connection,
            is_connected: false,
            lost: None,
            stopped: Vec::new(),
        }
    }

    /// From where it comes.
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("bound")
    }

    /// Connects, and says nothing.
    #[track_caller]
    pub(crate) fn connect(meeting: &Meeting) -> Self {
        Self::connect_as(None, meeting)
    }

    /// The same, and shows a certificate.
    #[track_caller]
    pub(crate) fn connect_as(identity: Option<&Identity>, meeting: &Meeting) -> Self {
        Self::connect_to(identity, meeting, 0)
    }

    #[track_caller]
    fn connect_to(identity: Option<&Identity>, meeting: &Meeting, steer: u8) -> Self {
        let mut peer = Self::dial_as(identity, meeting, steer);
        assert!(peer.comes_about(), "{:?}", peer.lost);
        peer
    }

    /// Connects, and is let in as `name`; gives the stream of its hello as well.
    #[track_caller]
    pub(crate) fn join(meeting: &Meeting, role: Role, name: &str) -> (Self, StreamId) {
        Self::join_at(0, meeting, role, name)
    }

    /// The same at this core of the relay.
    #[track_caller]
    pub(crate) fn join_at(
        steer: u8,
        meeting: &Meeting,
        role: Role,
        name: &str,
    ) -> (Self, StreamId) {
        let mut peer = Self::connect_to(None, meeting, steer);
        let hello = hello(role, name);
        let stream = peer.open_with(&hello);
        assert_eq!(peer.hear(stream, 4), [20, hello[0], 0, 0]);
        (peer, stream)
    }

    /// Whether the relay lets it connect.
    #[track_caller]
    pub(crate) fn comes_about(&mut self) -> bool {
        self.until("a connection, or its end", |peer| {
            let is_lost = peer.lost.is_some();
            (peer.is_connected || is_lost).then_some(!is_lost)
        })
    }

    /// Opens a stream, as soon as the other side allows it.
    #[track_caller]
    pub(crate) fn open(&mut self) -> StreamId {
        self.until("a stream to open", Self::try_open)
    }

    /// Opens a stream, if the other side allows it.
    pub(crate) fn try_open(&mut self) -> Option<StreamId> {
        self.connection.streams().open(Dir::Bi)
    }

    /// Opens a stream and says something on it.
    #[track_caller]
    pub(crate) fn open_with(&mut self, bytes: &[u8]) -> StreamId {
        let stream = self.open();
        self.say(stream, bytes);
        stream
    }

    /// Takes a stream that the other side has opened.
    #[track_caller]
    pub(crate) fn accept(&mut self) -> StreamId {
        self.until("a stream of the other side", |peer| {
            peer.connection.streams().accept(Dir::Bi)
        })
    }

    /// Writes all of it.
    #[track_caller]
    pub(crate) fn say(&mut self, stream: StreamId, mut bytes: &[u8]) {
        self.until("room to write", |peer| {
            while !bytes.is_empty() {
                match peer.connection.send_stream(stream).write(bytes) {
                    Ok(count) => bytes = &bytes[count..],
                    Err(WriteError::Blocked) => return None,
                    Err(error) => panic!("{stream}: {error}"),
                }
            }
            Some(())
        });
        self.flush();
    }

    /// Writes zeros, at most so many; how many there was room for.
    pub(crate) fn fill(&mut self, stream: StreamId, bytes_max: usize) -> usize {
        let zeros = vec![0; bytes_max];
        let mut written = 0;
        while written < bytes_max
            && let Ok(count) = self.connection.send_stream(stream).write(&zeros[written..])
        {
            written += count;
        }
        written
    }

    /// Breaks off its half of a stream.
    pub(crate) fn reset(&mut self, stream: StreamId, code: u32) {
        let mut half = self.connection.send_stream(stream);
        half.reset(code.into()).expect("it is not at its end");
        self.flush();
    }

    /// Reads no more of a stream.
    pub(crate) fn stop(&mut self, stream: StreamId, code: u32) {
        let mut half = self.connection.recv_stream(stream);
        half.stop(code.into()).expect("it is not at its end");
        self.flush();
    }

    /// Ends its half of a stream, unless the other side has stopped it.
    pub(crate) fn finish(&mut self, stream: StreamId) {
        // Whoever was told to stop breaks off, which ends it as well.
        let mut half = self.connection.send_stream(stream);
        if half.finish().is_err() {
            let _ = half.reset(VarInt::from_u32(0));
        }
        self.flush();
    }

    /// Waits for so many bytes.
    #[track_caller]
    pub(crate) fn hear(&mut self, stream: StreamId, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until("bytes of a stream", |peer| {
            let ended = peer.read(stream, count - bytes.len(), &mut bytes);
            assert!(
                ended.is_none() || bytes.len() == count,
                "{bytes:?} {ended:?}"
            );
            (bytes.len() == count).then_some(())
        });
        bytes
    }

    /// Waits for a stream's end.
    #[track_caller]
    pub(crate) fn hear_all(&mut self, stream: StreamId) -> Heard {
        let mut bytes = Vec::new();
        let reset = self.until("a stream's end", |peer| {
            peer.read(stream, usize::MAX, &mut bytes)
        });
        Heard { bytes, reset }
    }

    /// Reads what there is; `Some` at the stream's end, with the code if it was broken off.
    fn read(
        &mut self,
        stream: StreamId,
        bytes_max: usize,
        bytes: &mut Vec<u8>,
    ) -> Option<Option<u64>> {
        let mut half = self.connection.recv_stream(stream);
        let mut chunks = half.read(true).expect("a stream that is not at its end");
        let mut left = bytes_max;
        let ended = loop {
            if left == 0 {
                break None;
            }
            match chunks.next(left) {
                Ok(Some(chunk)) => {
                    left -= chunk.bytes.len();
                    bytes.extend_from_slice(&chunk.bytes);
                }
                Ok(None) => break Some(None),
                Err(ReadError::Reset(code)) => break Some(Some(code.into_inner())),
                Err(ReadError::Blocked) => break None,
            }
        };
        let _ = chunks.finalize();
        ended
    }

    /// Waits until the other side says that it reads no more of a stream, and gives its code.
    #[track_caller]
    pub(crate) fn stopped(&mut self, stream: StreamId) -> u64 {
        self.until("a stream that is stopped", |peer| {
            let stopped = peer.stopped.iter().find(|(other, _)| *other == stream);
            stopped.map(|(_, code)| *code)
        })
    }

    /// Waits for the connection's end, and gives the relay's code.
    #[track_caller]
    pub(crate) fn closed(&mut self) -> u64 {
        match self.lost() {
            ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. }) => {
                error_code.into_inner()
            }
            lost => panic!("{lost}"),
        }
    }

    /// Waits for the connection's end, and says why.
    #[track_caller]
    pub(crate) fn lost(&mut self) -> ConnectionError {
        self.until("the connection's end", |peer| peer.lost.clone())
    }

    /// Says that there is nothing more to do.
    pub(crate) fn close(mut self) {
        let code = VarInt::from_u32(0);
        self.connection.close(now(), code, Bytes::new());
        self.flush();
    }

    /// Goes on until `ask` has an answer.
    #[track_caller]
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut ask: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let deadline = Deadline::new();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            let lost = &self.lost;
            assert!(lost.is_none(), "{lost:?} instead of {what}");
            assert!(!deadline.is_over(), "in vain waited for {what}");
            self.turn();
        }
    }

    /// Sends what there is to send, and takes in a datagram, or a deadline.
    fn turn(&mut self) {
        self.flush();
        let due = self.connection.poll_timeout();
        let left = due.map_or(LOOK_INTERVAL, |due| due.saturating_duration_since(now()));
        // A timeout of zero would be none.
        let left = left.clamp(Duration::from_micros(1), LOOK_INTERVAL);
        self.socket.set_read_timeout(Some(left)).expect("ours");
        let mut space = [0; 2048];
        match self.socket.recv_from(&mut space) {
            Ok((length, from)) => self.take(from, &space[..length]),
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                "{error}"
            ),
        }
        if due.is_some_and(|due| due <= now()) {
            self.connection.handle_timeout(now());
        }
        self.settle();
    }

    fn take(&mut self, from: SocketAddr, datagram: &[u8]) {
        let bytes = BytesMut::from(datagram);
        let event = self
            .endpoint
            .handle(now(), from, None, None, bytes, &mut Vec::new());
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
    }

    fn settle(&mut self) {
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.is_connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    self.stopped.push((id, error_code.into_inner()));
                }
                _ => {}
            }
        }
    }

    /// Sends what there is to send.
    pub(crate) fn flush(&mut self) {
        let mut burst = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit(now(), 1, &mut burst) {
            let sent = self
                .socket
                .send_to(&burst[..transmit.size], transmit.destination);
            assert_eq!(sent.expect("loopback takes it"), transmit.size);
            burst.clear();
        }
    }
}

/// What somebody says who has the key that belongs to `name`.
pub(crate) fn hello(role: Role, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let key = key(name).to_string();
    let hello = Hello {
        role,
        who: Who::Layered {
            id: name.parse().expect("a name"),
            key: Some(key.parse().expect("a key")),
        },
    };
    hello.encode(&mut bytes);
    bytes
}

/// What a client says who wants this port of a server.
pub(crate) fn open(server: &str, target: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let open = Open::Layered {
        server: server.parse().expect("a name"),
        inner: Inner {
            client_port: 51_000,
            target: target.parse().expect("a name"),
        },
    };
    open.encode(&mut bytes);
    bytes
}
