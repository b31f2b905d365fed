//! Connections with a WebSocket around their bytes, and TLS perhaps, whose peers are slow.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::*;
use crate::protocol::websocket::Role;
use crate::relay::codec::{Closing, WebSocket};
use crate::runtime::ring::RingSize;
use crate::runtime::socket::Socket;
use crate::tls::client::{Trust, client_config};
use crate::tls::identity::Identity;
use crate::tls::server::{ClientCertificates, Tickets, server_config};
use crate::tls::{SEALED_BYTES_MIN, Session, Wire};
/// Masked with zeros: "early", a ping and a pong, both empty.
const EARLY: &[u8] = b"\x82\x85\0\0\0\0early";
const PING: &[u8] = b"\x89\x80\0\0\0\0";
const PONG: &[u8] = b"\x8a\x80\0\0\0\0";

/// A connection with a WebSocket around its bytes, and its peer, which does not wait.
fn wrapped() -> (WrappedStream, UnixStream) {
    wrapped_in(None)
}

fn wrapped_in(tls: Option<Box<Session>>) -> (WrappedStream, UnixStream) {
    let (ours, peer) = UnixStream::pair().expect("a pair");
    for end in [&ours, &peer] {
        end.set_nonblocking(true).expect("a socket");
    }
    let reactor = Reactor::new(RingSize::default()).expect("a ring");
    let stream = Stream::new(reactor, Socket::from_nonblocking(OwnedFd::from(ours)));
    let codec = Codec::new(tls, Some(WebSocket::new(Role::Server, Closing::OneWay)));
    let workshop = SharedWorkshop::default();
    let wrapped = WrappedStream::new(stream, codec, Vec::new(), &workshop);
    (wrapped.expect("nothing came yet"), peer)
}

/// As many pongs as there is room for, and more than are read in a row.
fn fill_with_pongs(peer: &mut UnixStream) {
    let pongs = PONG.repeat(4096);
    let mut count = 0;
    while let Ok(more) = peer.write(&pongs) {
        count += more;
    }
    assert!(count > READS_IN_A_ROW_MAX * PIECE_BYTES, "{count}");
}

fn poll<T>(waiting: impl Future<Output = T>) -> Poll<T> {
    pin!(waiting).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn whoever_says_nothing_at_length_leaves_others_their_turn() {
    for is_departure in [true, false] {
        let (mut wrapped, mut peer) = wrapped();
        fill_with_pongs(&mut peer);
        match is_departure {
            true => assert!(poll(wrapped.departure()).is_pending()),
            false => assert!(poll(wrapped.readable()).is_pending()),
        }
        // There is more, which it has not seen.
        assert_eq!(wrapped.stream.socket().peek(&mut [0]), Ok(1));
        assert!(!wrapped.is_lost());
    }
}

#[test]
fn what_is_said_early_stays_where_a_pong_finds_no_room() {
    for is_departure in [true, false] {
        let (mut wrapped, mut peer) = wrapped();
        while wrapped.stream.socket().send(&[0; 4096]).is_ok() {}
        peer.write_all(&[EARLY, PING].concat()).expect("room");
        match is_departure {
            true => assert!(poll(wrapped.departure()).is_pending()),
            false => assert!(poll(wrapped.readable()).is_ready()),
        }
        assert_eq!(wrapped.unread, b"early");
        // It is the same when there is room again.
        while peer.read(&mut [0; 4096]).is_ok() {}
        peer.write_all(&[EARLY, PING].concat()).expect("room");
        assert!(poll(wrapped.departure()).is_pending());
        assert_eq!(wrapped.unread, b"earlyearly");
        assert_eq!(peer.read(&mut [0; 16]).ok(), Some(2), "a pong");
    }
}

/// What comes of a ping, and of data: neither is masked.
const PONG_OF_SERVER: &[u8] = b"\x8a\0";
const DATA_OF_SERVER: &[u8] = b"\x82\x04data";

/// The client's side of TLS behind its handshake, and a WebSocket's within that.
struct Client {
    tls: ClientConnection,
    peer: UnixStream,
}

impl Client {
    fn send(&mut self, frames: &[u8]) {
        self.tls.writer().write_all(frames).expect("memory");
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.peer).expect("room");
        }
    }

    /// Reads `count` bytes that are not TLS's.
    fn read_away(&mut self, count: usize) {
        self.peer.read_exact(&mut vec![0; count]).expect("as many");
    }

    /// The frames that have come.
    fn read(&mut self) -> Vec<u8> {
        let mut frames = Vec::new();
        while self.tls.read_tls(&mut self.peer).is_ok() {
            self.tls.process_new_packets().expect("records in order");
            // It ends where no more has come.
            let _ = self.tls.reader().read_to_end(&mut frames);
        }
        frames
    }
}

/// A connection with a WebSocket within TLS.
fn wrapped_in_tls() -> (WrappedStream, Client) {
    let pem = Identity::make_pem("relay.example").expect("a certificate");
    let identity = Identity::parse(pem.as_bytes(), Path::new("made")).expect("ours");
    let trust = Trust::Pinned(identity.fingerprint());
    let tickets = Tickets::new().expect("keys");
    let config = server_config(vec![identity], &ClientCertificates::NotAsked, tickets);
    let mut session = Session::server(config.expect("valid")).expect("valid");
    let config = client_config(trust).expect("valid");
    let name = ServerName::try_from("relay.example").expect("a name");
    let mut tls = ClientConnection::new(config, name).expect("valid");
    while tls.wants_write() || session.is_handshaking() || session.has_words() {
        let mut flight = Vec::new();
        tls.write_tls(&mut flight).expect("memory");
        let mut plain = vec![0; flight.len() + SEALED_BYTES_MIN];
        session.open(&mut flight, &mut plain).expect("tls");
        let mut wire = Wire::default();
        session.take_words(&mut wire);
        let mut answer = wire.as_bytes();
        while !answer.is_empty() {
            tls.read_tls(&mut answer).expect("memory");
            tls.process_new_packets().expect("tls");
        }
    }
    let (wrapped, peer) = wrapped_in(Some(Box::new(session)));
    (wrapped, Client { tls, peer })
}

/// Leaves room for nothing; gives the bytes that took it.
fn fill(wrapped: &WrappedStream) -> usize {
    let socket = wrapped.stream.socket();
    let mut count = 0;
    for bytes in [&[0; 4096][..], &[0]] {
        while let Ok(more) = socket.send(bytes) {
            count += more;
        }
    }
    count
}

#[test]
fn what_was_sealed_goes_out_before_anything_else_however_late() {
    for reads_first in [true, false] {
        let (mut wrapped, mut client) = wrapped_in_tls();
        let filled = fill(&wrapped);
        // Twice, so that there are words behind those that wait.
        for _ in 0..2 {
            client.send(PING);
            assert!(poll(wrapped.readable()).is_pending());
        }
        client.read_away(filled);
        let mut got = Vec::new();
        if reads_first {
            assert!(poll(wrapped.readable()).is_pending());
            got = client.read();
            assert_eq!(got, PONG_OF_SERVER.repeat(2));
        }
        assert!(matches!(
            poll(wrapped.send_all(b"data")),
            Poll::Ready(Ok(()))
        ));
        got.extend(client.read());
        assert_eq!(got, [&PONG_OF_SERVER.repeat(2), DATA_OF_SERVER].concat());
        client.send(PING);
        assert!(poll(wrapped.readable()).is_pending());
        assert_eq!(client.read(), PONG_OF_SERVER);
    }
}

#[test]
fn what_was_sealed_is_kept_by_the_codec() {
    let (mut wrapped, mut client) = wrapped_in_tls();
    let filled = fill(&wrapped);
    client.send(PING);
    assert!(poll(wrapped.departure()).is_pending());
    client.read_away(filled);
    let (mut stream, codec, _) = wrapped.into_parts();
    let mut codec = codec.expect("it came over tls");
    assert!(codec.has_words());
    let wire = SharedWorkshop::default().wrap(&mut codec, b"data");
    let sent = poll(stream.send_all(&wire.expect("sealed"))).map(|sent| sent.is_ok());
    assert_eq!(sent, Poll::Ready(true));
    assert_eq!(client.read(), [PONG_OF_SERVER, DATA_OF_SERVER].concat());
}

#[test]
fn whoever_asks_for_words_and_reads_none_is_given_up() {
    let (mut wrapped, mut client) = wrapped_in_tls();
    fill(&wrapped);
    let mut pings = 0;
    while poll(wrapped.readable()).is_pending() {
        client.send(PING);
        pings += 1;
        assert!(pings < 10_000, "all are answered");
    }
    assert!(matches!(poll(wrapped.recv(&mut [0])), Poll::Ready(Err(_))));
}
