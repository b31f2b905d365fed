//! A client of jProxy that says one packet after the other.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use midspan::access::jproxy::ClientKey;
use midspan::protocol::Progress;
use midspan::protocol::jproxy::{
    ChannelId, Dialect, FromClient, FromServer, Greeting, LoginAnswer, Opener, Sealer, SessionKey,
    decode_acceptance,
};
use midspan::protocol::socks5::Destination;

use crate::jet_client::dial;

/// The key of alice, whose user's file stands beside it.
const KEY: &[u8] = include_bytes!("../../vectors/jproxy/jproxy_key.dat");

/// What a server answers to a connect: a status as it is on the wire.
pub(crate) type Status = u8;

pub(crate) trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// A tunnel.
pub(crate) struct TunnelClient {
    packets: Packets,
    dialect: Dialect,
}

/// The packets of a tunnel, of either side.
pub(crate) struct Packets {
    stream: Box<dyn ReadWrite>,
    sealer: Sealer,
    opener: Opener,
    received: Vec<u8>,
    packets: VecDeque<Vec<u8>>,
}

pub(crate) fn key() -> ClientKey {
    ClientKey::decode(KEY).expect("a key")
}

/// What a client begins with.
pub(crate) fn greeting() -> Vec<u8> {
    let mut words = Vec::new();
    Greeting::OURS.encode(&mut words);
    words
}

impl TunnelClient {
    /// alice's, without TLS.
    pub(crate) fn connect(address: SocketAddr, dialect: Dialect) -> Self {
        Self::over(dial(address), dialect)
    }

    pub(crate) fn over(mut stream: impl ReadWrite + 'static, dialect: Dialect) -> Self {
        let key = key();
        stream.write_all(&greeting()).expect("sent");
        let mut accepted = [0; 7];
        stream.read_exact(&mut accepted).expect("an acceptance");
        let accepted = decode_acceptance(&accepted).expect("an acceptance");
        assert!(matches!(accepted, Progress::Complete { value: true, .. }));
        stream.write_all(key.hash()).expect("sent");
        let mut answer = [0; 257];
        stream.read_exact(&mut answer).expect("an answer");
        let answer = LoginAnswer::decode(&answer).expect("an answer");
        let Progress::Complete {
            value: LoginAnswer::Accepted(encrypted),
            ..
        } = answer
        else {
            panic!("{answer:?}");
        };
        let session = key.decrypt(encrypted);
        Self {
            packets: Packets::new(stream, &session),
            dialect,
        }
    }

    pub(crate) fn say(&mut self, packet: &FromClient<'_>) {
        let mut head = Vec::new();
        let data = packet.encode_head(self.dialect, &mut head);
        self.say_payload(&[&head, data].concat());
    }

    pub(crate) fn say_payload(&mut self, payload: &[u8]) {
        self.packets.say(payload);
    }

    pub(crate) fn say_raw(&mut self, wire: &[u8]) {
        self.packets.say_raw(wire);
    }

    /// Says what decrypts, by the tunnel's key, to no padding.
    pub(crate) fn say_no_packet(&mut self) {
        self.packets.say_no_packet();
    }

    /// The next packet; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        self.packets.next()
    }

    /// The same, decoded.
    #[track_caller]
    pub(crate) fn heard<T>(&mut self, take: impl FnOnce(FromServer<'_>) -> T) -> T {
        let packet = self.next().expect("a packet");
        take(FromServer::decode(&packet, self.dialect).expect("a packet of a server's"))
    }

    /// Asks to be connected, and is told what became of it.
    #[track_caller]
    pub(crate) fn try_connect(&mut self, id: ChannelId, target: &Destination) -> Status {
        self.say(&FromClient::Connect(id, target.clone()));
        let packet = self.next().expect("an answer");
        let answer = FromServer::decode(&packet, self.dialect);
        assert!(
            matches!(answer, Ok(FromServer::Connected { id: of, .. }) if of == id),
            "{answer:?}"
        );
        packet[3]
    }

    /// A channel that is there.
    #[track_caller]
    pub(crate) fn channel(&mut self, id: ChannelId, target: SocketAddr) {
        assert_eq!(self.try_connect(id, &Destination::from(target)), 0);
    }

    /// So many bytes of a channel.
    #[track_caller]
    pub(crate) fn data(&mut self, id: ChannelId, bytes: usize) -> Vec<u8> {
        let mut came = Vec::new();
        while came.len() < bytes {
            self.heard(|packet| match packet {
                FromServer::Data(of, data) if of == id => came.extend_from_slice(data),
                other => panic!("{other:?}"),
            });
        }
        came
    }

    pub(crate) fn into_stream(self) -> Box<dyn ReadWrite> {
        self.packets.stream
    }
}

impl Packets {
    pub(crate) fn new(stream: impl ReadWrite + 'static, session: &SessionKey) -> Self {
        Self {
            stream: Box::new(stream),
            sealer: Sealer::new(session),
            opener: Opener::new(session),
            received: Vec::new(),
            packets: VecDeque::new(),
        }
    }

    pub(crate) fn say(&mut self, payload: &[u8]) {
        let mut wire = Vec::new();
        self.sealer.seal(&[payload], &mut wire);
        self.say_raw(&wire);
    }

    pub(crate) fn say_raw(&mut self, wire: &[u8]) {
        self.stream.write_all(wire).expect("sent");
    }

    fn say_no_packet(&mut self) {
        // A block of zeros, which no padding ends with, and one of padding, which is left out: each
        // is encrypted by itself.
        let mut wire = Vec::new();
        self.sealer.seal(&[&[0; 16]], &mut wire);
        assert_eq!((wire[0], wire.len()), (2, 1 + 2 * 16));
        self.say_raw(&[&[1], &wire[1..17]].concat());
    }

    /// The next packet; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let mut buffer = [0; 16 << 10];
        while self.packets.is_empty() {
            match self.stream.read(&mut buffer) {
                Ok(count @ 1..) => {
                    self.received.extend_from_slice(&buffer[..count]);
                    let consumed = self.opener.open(&self.received);
                    self.received.drain(..consumed);
                    let packets = self.opener.payloads();
                    let packets = packets.map(|packet| packet.expect("a packet").to_vec());
                    self.packets.extend(packets);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("the peer says nothing")
                }
                Ok(0) | Err(_) => return None,
            }
        }
        self.packets.pop_front()
    }
}

/// For those who want to see what TCP does.
pub(crate) fn raw(address: SocketAddr, words: &[u8]) -> TcpStream {
    let mut stream = dial(address);
    stream.write_all(words).expect("sent");
    stream
}
