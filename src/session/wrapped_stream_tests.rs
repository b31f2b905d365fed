//! Connections with a WebSocket around their bytes, whose peers are slow.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::protocol::websocket::Role;
use crate::relay::codec::{Closing, WebSocket};
use crate::runtime::ring::RingSize;
use crate::runtime::socket::Socket;

/// Masked with zeros: "early", a ping and a pong, both empty.
const EARLY: &[u8] = b"\x82\x85\0\0\0\0early";
const PING: &[u8] = b"\x89\x80\0\0\0\0";
const PONG: &[u8] = b"\x8a\x80\0\0\0\0";

/// A connection with a WebSocket around its bytes, and its peer, which does not wait.
fn wrapped() -> (WrappedStream, UnixStream) {
    let (ours, peer) = UnixStream::pair().expect("a pair");
    for end in [&ours, &peer] {
        end.set_nonblocking(true).expect("a socket");
    }
    let reactor = Reactor::new(RingSize::default()).expect("a ring");
    let stream = Stream::new(reactor, Socket::from_nonblocking(OwnedFd::from(ours)));
    let codec = Codec::new(None, Some(WebSocket::new(Role::Server, Closing::OneWay)));
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
