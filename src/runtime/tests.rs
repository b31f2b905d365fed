//! The facts that the reactor stands on, each shown on a real kernel.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::net::sockopt;

use super::dial::connect_first;
use super::inbox::inbox;
use super::inherited::InheritedSocket;
use super::listener::{Backlog, HandOut, Listener, claim_address};
use super::provided::{BufferSize, Segment};
use super::reactor::{Closing, Event, Reactor};
use super::ring::{BATCH_SLEEP_MAX, RingSize, Sleep};
use super::socket::{Keepalive, Socket};
use super::stream::Stream;
use super::transfer::Step;
use super::{Owner, PollKey, clock};

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn reactor() -> Rc<Reactor> {
    Reactor::new(RingSize::default()).unwrap()
}

/// A connected pair: ours, non-blocking, and the peer's, blocking.
fn tcp_pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    // A test that would wait for ever fails instead.
    peer.set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Socket::from_nonblocking(OwnedFd::from(ours)), peer)
}

/// Turns until `done` has what it wants from the events.
fn turn_until<T>(reactor: &Reactor, mut done: impl FnMut(Event) -> Option<T>) -> T {
    let limit = clock::now() + Duration::from_secs(30);
    loop {
        while let Some(event) = reactor.poll_event() {
            if let Some(value) = done(event) {
                return value;
            }
        }
        assert!(clock::now() < limit, "nothing came");
        reactor.turn(Sleep::UntilOne, Some(limit));
    }
}

/// Drives a future by turns of the reactor, as the executor would.
fn block_on<T>(reactor: &Reactor, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let limit = clock::now() + Duration::from_secs(30);
    loop {
        if let Poll::Ready(value) = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            return value;
        }
        assert!(clock::now() < limit, "the future never became ready");
        reactor.turn(Sleep::UntilOne, Some(limit));
        while reactor.poll_event().is_some() {}
    }
}

fn turn_until_ready(reactor: &Reactor) {
    turn_until(reactor, |event| {
        matches!(event, Event::Ready { .. }).then_some(())
    });
}

fn turn_until_caught_up(reactor: &Reactor) {
    let limit = clock::now() + Duration::from_secs(30);
    while !reactor.is_caught_up() {
        assert!(clock::now() < limit, "there is always more");
        reactor.turn(Sleep::No, None);
        while reactor.poll_event().is_some() {}
    }
}

const OWNER: Owner = Owner { tag: 1, token: 7 };

#[test]
fn a_tiny_completion_queue_loses_more_but_no_readiness() {
    const SOCKETS: u32 = 200;
    let reactor = Reactor::new(RingSize {
        submissions: 16,
        completions: 16,
    })
    .unwrap();
    let pairs: Vec<_> = (0..SOCKETS)
        .map(|token| {
            let (socket, peer) = tcp_pair();
            let key = reactor.watch(&socket, Owner { tag: 1, token });
            (socket, peer, key)
        })
        .collect();
    // Every poll reports writable first, then three rounds of bytes: each
    // round triggers all 200 polls against 16 completions.
    for round in 0..3_u8 {
        for (_, peer, _) in &pairs {
            let mut peer = peer;
            peer.write_all(&[round]).unwrap();
        }
        let mut seen = vec![false; SOCKETS as usize];
        let mut missing = SOCKETS;
        turn_until(&reactor, |event| {
            let Event::Ready { owner, readiness } = event else {
                panic!("{event:?}")
            };
            let index = owner.token as usize;
            if readiness.is_readable() && pairs[index].0.recv(&mut [0; 8]) == Ok(1) {
                assert!(!std::mem::replace(&mut seen[index], true));
                missing -= 1;
            }
            (missing == 0).then_some(())
        });
    }
}

#[test]
fn a_retired_socket_ends_before_the_reactor_sleeps() {
    for closing in [Closing::Clean, Closing::Reset] {
        for is_armed in [true, false] {
            let reactor = reactor();
            let (mailbox, inbox) = inbox::<std::io::Result<usize>>().unwrap();
            inbox.attach(&reactor);
            let (socket, mut peer) = tcp_pair();
            let key = reactor.watch(&socket, OWNER);
            if is_armed {
                turn_until_ready(&reactor);
            }
            reactor.retire(key, socket, closing);
            assert_eq!(reactor.watched(), 0);
            let reader = std::thread::spawn(move || {
                let end = peer.read(&mut [0; 1]);
                mailbox.send(end).unwrap();
            });
            // Only the peer, once it saw the end, ends this sleep.
            turn_until(&reactor, |event| {
                matches!(event, Event::Doorbell).then_some(())
            });
            reader.join().unwrap();
            let end = inbox.drain().next().expect("a message");
            match (closing, end) {
                (Closing::Clean, Ok(0)) => {}
                (Closing::Reset, Err(error)) if error.kind() == ErrorKind::ConnectionReset => {}
                (_, other) => panic!("{closing:?} gave {other:?}"),
            }
        }
    }
}

#[test]
fn no_event_reaches_the_next_tenant_of_a_slot() {
    let reactor = reactor();
    let (first, mut first_peer) = tcp_pair();
    let key = reactor.watch(&first, OWNER);
    turn_until(&reactor, |_| Some(()));
    first_peer.write_all(b"late").unwrap();
    reactor.retire(key, first, Closing::Clean);
    turn_until_caught_up(&reactor);
    let (second, _second_peer) = tcp_pair();
    let other = Owner { tag: 2, token: 8 };
    let next_key = reactor.watch(&second, other);
    assert_ne!(key, next_key);
    assert_eq!(key.index, next_key.index, "the slot was free");
    let owner = turn_until(&reactor, |event| match event {
        Event::Ready { owner, readiness } => {
            assert!(!readiness.is_readable(), "bytes of the former tenant");
            Some(owner)
        }
        _ => None,
    });
    assert_eq!(owner, other);
    reactor.retire(next_key, second, Closing::Clean);
    turn_until_caught_up(&reactor);
}

#[test]
fn a_reactor_knows_when_there_may_be_news() {
    let reactor = reactor();
    let (socket, peer) = tcp_pair();
    let poll = reactor.watch(&socket, OWNER);
    assert!(!reactor.is_caught_up(), "the poll is not armed");
    turn_until_ready(&reactor);
    assert!(reactor.is_caught_up());
    drop(peer);
    let limit = clock::now() + Duration::from_secs(30);
    while reactor.is_caught_up() {
        assert!(clock::now() < limit, "the peer went away");
    }
    while !reactor.is_caught_up() {
        assert!(clock::now() < limit, "all was taken");
        reactor.turn(Sleep::No, None);
        while reactor.poll_event().is_some() {}
    }
    reactor.retire(poll, socket, Closing::Clean);
    assert!(!reactor.is_caught_up(), "the cancel is not submitted");
    turn_until_caught_up(&reactor);
}

#[test]
fn neither_a_fin_nor_a_hand_off_waits_for_a_batch() {
    let reactor = reactor();
    let (socket, mut peer) = tcp_pair();
    let min_wait = BATCH_SLEEP_MAX;

    let poll = reactor.watch(&socket, OWNER);
    turn_until_ready(&reactor);
    let begun = clock::now();
    let mut detached = pin!(reactor.detach(poll, socket));
    let mut context = Context::from_waker(Waker::noop());
    let socket = loop {
        if let Poll::Ready(socket) = detached.as_mut().poll(&mut context) {
            break socket;
        }
        reactor.turn(Sleep::Batch { min_wait }, None);
        while reactor.poll_event().is_some() {}
    };
    assert!(clock::now().since(begun) < min_wait);

    let poll = reactor.watch(&socket, OWNER);
    turn_until_ready(&reactor);
    let begun = clock::now();
    reactor.retire(poll, socket, Closing::Clean);
    let peer = std::thread::spawn(move || {
        let count = peer.read(&mut [0]).unwrap();
        (count, clock::now().since(begun))
    });
    reactor.turn(Sleep::Batch { min_wait }, None);
    let (count, after) = peer.join().unwrap();
    assert_eq!(count, 0);
    assert!(after < min_wait, "the FIN waited for the batch");
}

#[test]
fn a_detached_socket_is_whole_and_alone() {
    let reactor = reactor();
    let (socket, mut peer) = tcp_pair();
    let mut stream = Stream::new(Rc::clone(&reactor), socket);
    peer.write_all(b"ab").unwrap();
    let mut buffer = [0; 1];
    block_on(&reactor, async {
        stream.readiness().await;
        assert_eq!(stream.recv(&mut buffer).await.unwrap(), 1);
    });
    let socket = block_on(&reactor, stream.detach());
    assert_eq!(reactor.watched(), 0);
    let mut rest = [0; 8];
    assert_eq!(socket.recv(&mut rest), Ok(1));
    assert_eq!((buffer[0], rest[0]), (b'a', b'b'));
    // Nothing holds the file: closing it here, on its own, sends the FIN.
    drop(socket);
    assert_eq!(peer.read(&mut rest).unwrap(), 0);
}

#[test]
fn a_detach_that_is_dropped_leaves_nothing_behind() {
    let reactor = reactor();
    let (socket, mut peer) = tcp_pair();
    let key = reactor.watch(&socket, OWNER);
    turn_until(&reactor, |_| Some(()));
    {
        let mut detach = Box::pin(reactor.detach(key, socket));
        assert!(
            detach
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
    }
    assert_eq!(reactor.watched(), 0);
    turn_until_caught_up(&reactor);
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_dropped_stream_closes_cleanly() {
    let reactor = reactor();
    let (socket, mut peer) = tcp_pair();
    let mut stream = Stream::new(Rc::clone(&reactor), socket);
    block_on(&reactor, async { stream.readiness().await });
    drop(stream);
    turn_until_caught_up(&reactor);
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn connecting_succeeds_or_says_why_not() {
    let reactor = reactor();
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    let stream = block_on(&reactor, Stream::connect(Rc::clone(&reactor), address)).unwrap();
    drop(stream);
    drop(listener);
    let error = block_on(&reactor, Stream::connect(Rc::clone(&reactor), address)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// An address at which nobody answers: what waits there has filled its queue.
fn silent() -> (socket2::Socket, Vec<socket2::Socket>, SocketAddr) {
    let new_socket = || {
        socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::STREAM.nonblocking(),
            None,
        )
    };
    let listener = new_socket().unwrap();
    listener.bind(&LOOPBACK.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = (0..4).map(|_| {
        let socket = new_socket().unwrap();
        // Under way, and that is all it will be.
        let _ = socket.connect(&address);
        socket
    });
    let waiting = waiting.collect();
    (listener, waiting, address.as_socket().unwrap())
}

#[test]
fn the_first_address_that_answers_is_taken() {
    let reactor = reactor();
    let live = TcpListener::bind(LOOPBACK).unwrap();
    let live = live.local_addr().map(|address| (live, address)).unwrap();
    let closed = {
        let listener = TcpListener::bind(LOOPBACK).unwrap();
        listener.local_addr().unwrap()
    };
    let (_listener, _waiting, silent) = silent();
    let connect = |addresses: &[SocketAddr], limit: Duration| {
        let until = reactor.now() + limit;
        block_on(&reactor, connect_first(&reactor, addresses, until))
    };
    let long = Duration::from_secs(20);
    for addresses in [
        &[live.1][..],
        &[closed, live.1],
        &[silent, live.1],
        &[silent, closed, silent, live.1, closed],
    ] {
        let stream = connect(addresses, long).unwrap();
        assert_eq!(stream.socket().peer_address(), Some(live.1));
    }
    let error = |addresses: &[SocketAddr], limit| connect(addresses, limit).unwrap_err().kind();
    assert_eq!(error(&[], long), ErrorKind::AddrNotAvailable);
    assert_eq!(error(&[closed, closed], long), ErrorKind::ConnectionRefused);
    let short = Duration::from_millis(20);
    assert_eq!(error(&[silent, silent], short), ErrorKind::TimedOut);
    assert_eq!(error(&[silent, closed], short), ErrorKind::TimedOut);
}

#[test]
fn a_deadline_ends_what_takes_too_long() {
    let reactor = reactor();
    let (socket, mut peer) = tcp_pair();
    let mut stream = Stream::new(Rc::clone(&reactor), socket);
    let soon = reactor.now() + Duration::from_millis(20);
    let silent = block_on(&reactor, reactor.deadline(soon, stream.recv(&mut [0; 1])));
    assert!(silent.is_none());
    assert!(clock::now() >= soon);
    peer.write_all(b"x").unwrap();
    let later = clock::now() + Duration::from_secs(30);
    let spoken = block_on(
        &reactor,
        reactor.deadline(later, async { stream.recv(&mut [0; 1]).await }),
    );
    assert!(matches!(spoken, Some(Ok(1))));
}

#[test]
fn accepted_sockets_do_not_block_and_are_kept_alive() {
    let reactor = reactor();
    let listener = Listener::bind(LOOPBACK, HandOut::Established).unwrap();
    let address = listener.address();
    let index = reactor.listen(listener);
    let _peer = TcpStream::connect(address).unwrap();
    let socket = turn_until(&reactor, |event| match event {
        Event::Accepted { listener, socket } => {
            assert_eq!(listener, index);
            Some(socket)
        }
        _ => None,
    });
    assert_eq!(socket.recv(&mut [0; 1]), Err(rustix::io::Errno::AGAIN));
    let Keepalive {
        idle,
        interval,
        count,
    } = Keepalive::DEFAULT;
    assert_eq!(sockopt::socket_keepalive(&socket), Ok(true));
    assert_eq!(sockopt::tcp_keepidle(&socket), Ok(idle));
    assert_eq!(sockopt::tcp_keepintvl(&socket), Ok(interval));
    assert_eq!(sockopt::tcp_keepcnt(&socket), Ok(count));
}

#[test]
fn a_spin_submits_what_was_queued_before() {
    let reactor = reactor();
    let (socket, mut peer) = tcp_pair();
    peer.write_all(b"x").unwrap();
    // Nothing but the poll that waits in the queue can end the spin.
    reactor.watch(&socket, OWNER);
    assert!(reactor.spin(Duration::from_secs(30)));
}

#[test]
fn a_stopped_listener_gives_up_its_backlog_first() {
    let reactor = reactor();
    let listener = Listener::bind(LOOPBACK, HandOut::Established).unwrap();
    let address = listener.address();
    reactor.listen(listener);
    let peers: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    reactor.stop_listening();
    let mut accepted = Vec::new();
    while reactor.is_listening() {
        reactor.turn(Sleep::UntilOne, None);
        while let Some(event) = reactor.poll_event() {
            match event {
                Event::Accepted { socket, .. } => accepted.push(socket),
                other => panic!("{other:?}"),
            }
        }
    }
    while let Some(Event::Accepted { socket, .. }) = reactor.poll_event() {
        accepted.push(socket);
    }
    assert_eq!(accepted.len(), peers.len());
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_listener_that_somebody_keeps_leaves_its_backlog() {
    let keeper = TcpListener::bind(LOOPBACK).unwrap();
    let inherited = InheritedSocket::from_listener_for_test(keeper.try_clone().unwrap());
    let mut listener = Listener::adopt(inherited, HandOut::Established).unwrap();
    assert_eq!(listener.address(), keeper.local_addr().unwrap());
    let peer = TcpStream::connect(listener.address()).unwrap();
    assert!(matches!(listener.accept_queued(), Backlog::Empty));
    listener.close();
    let (served, from) = keeper.accept().unwrap();
    assert_eq!(from, peer.local_addr().unwrap());
    // What was set holds for the socket, whoever accepts.
    assert!(served.nodelay().unwrap());
    assert_eq!(keeper.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn an_address_with_a_listener_cannot_be_claimed() {
    let listener = Listener::bind(LOOPBACK, HandOut::Established).unwrap();
    let error = claim_address(listener.address()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let again = Listener::bind(listener.address(), HandOut::Established);
    assert!(
        again.is_ok(),
        "the group itself admits another: hence the claim"
    );
    drop((listener, again));
    let free = claim_address(LOOPBACK).unwrap();
    assert_ne!(free.port(), 0);
}

#[test]
fn messages_arrive_from_threads_and_from_rings() {
    let reactor = reactor();
    let (mailbox, inbox) = inbox::<u32>().unwrap();
    inbox.attach(&reactor);
    let from_ring = mailbox.clone();
    let sender = std::thread::spawn(move || {
        for value in 0..1000 {
            mailbox.send(value).unwrap();
        }
        let neighbour = Reactor::new(RingSize::default()).unwrap();
        for value in 1000..2000 {
            from_ring.send_from(&neighbour, value).unwrap();
            neighbour.turn(Sleep::No, None);
        }
    });
    let mut received = Vec::new();
    turn_until(&reactor, |event| {
        if matches!(event, Event::Doorbell) {
            received.extend(inbox.drain());
        }
        (received.len() == 2000).then_some(())
    });
    sender.join().unwrap();
    assert_eq!(received, (0..2000).collect::<Vec<_>>());
}

#[test]
fn a_neighbour_whose_ring_takes_nothing_is_reached_by_its_eventfd() {
    let (mailbox, inbox) = inbox::<u32>().unwrap();
    let reactor = reactor();
    inbox.attach(&reactor);
    // A descriptor that is no ring: every message to it fails.
    let not_a_ring = std::fs::File::open("/dev/null").unwrap();
    inbox.publish_ring_for_test(not_a_ring.as_raw_fd());
    let neighbour = self::reactor();
    mailbox.send_from(&neighbour, 5).unwrap();
    neighbour.turn(Sleep::UntilOne, None);
    while neighbour.poll_event().is_some() {}
    let received = turn_until(&reactor, |event| {
        matches!(event, Event::Doorbell).then(|| inbox.drain().collect::<Vec<_>>())
    });
    assert_eq!(received, [5]);
}

#[test]
fn deadlines_of_the_loop_come_in_order() {
    let reactor = reactor();
    let start = reactor.now();
    let owner = |token| Owner { tag: 3, token };
    reactor.set_deadline(start + Duration::from_millis(30), owner(2));
    reactor.set_deadline(start + Duration::from_millis(10), owner(1));
    let cancelled = reactor.set_deadline(start + Duration::from_millis(20), owner(9));
    reactor.cancel_deadline(cancelled);
    let mut seen = Vec::new();
    turn_until(&reactor, |event| {
        if let Event::Deadline { owner } = event {
            seen.push(owner.token);
        }
        (seen.len() == 2).then_some(())
    });
    assert_eq!(seen, [1, 2]);
    assert!(clock::now() >= start + Duration::from_millis(30));
}

#[test]
fn a_key_that_outlived_its_socket_is_not_the_next_ones() {
    let reactor = reactor();
    let mut keys: Vec<PollKey> = Vec::new();
    for _ in 0..4 {
        let (socket, _peer) = tcp_pair();
        let key = reactor.watch(&socket, OWNER);
        assert!(!keys.contains(&key));
        keys.push(key);
        reactor.retire(key, socket, Closing::Clean);
        turn_until_caught_up(&reactor);
    }
}

#[test]
fn a_stream_that_takes_all_its_buffers_leaves_those_of_messages() {
    let reactor = reactor();
    reactor.enable_transfers().unwrap();
    let (stream, mut sender) = tcp_pair();
    let (messages, mut other) = tcp_pair();
    reactor.start_receive(&stream, OWNER, BufferSize::Large);
    sender.set_nonblocking(true).unwrap();
    let bytes = vec![1; 1 << 20];
    let mut held: Vec<Segment> = Vec::new();
    // Nothing is given back, so the stream starves.
    loop {
        while matches!(sender.write(&bytes), Ok(1..)) {}
        let progress = turn_until(&reactor, |event| match event {
            Event::Transfer { progress, .. } => Some(progress),
            _ => None,
        });
        match progress.what {
            Step::Received => reactor.take_received(|segment| held.push(segment)),
            what => {
                assert_eq!(what, Step::Starved);
                break;
            }
        }
        if progress.is_final {
            reactor.start_receive(&stream, OWNER, BufferSize::Large);
        }
    }
    assert!(!reactor.has_room(BufferSize::Large));
    assert!(reactor.has_room(BufferSize::Small));

    reactor.start_receive(&messages, OWNER, BufferSize::Small);
    other.write_all(b"message").unwrap();
    turn_until(&reactor, |event| match event {
        Event::Transfer { progress, .. } => {
            assert_eq!(progress.what, Step::Received);
            Some(())
        }
        _ => None,
    });
    reactor.take_received(|segment| held.push(segment));
    let message = held.pop().map(|segment| {
        assert_eq!(segment.len(), 7);
        reactor.consume_segment(segment, <[u8]>::to_vec)
    });
    assert_eq!(message.as_deref(), Some(&b"message"[..]));

    for segment in held {
        reactor.consume_segment(segment, |bytes| {
            assert!(bytes.iter().all(|byte| *byte == 1));
        });
    }
    assert!(reactor.has_room(BufferSize::Large));
}

#[test]
fn a_receive_of_one_buffer_leaves_the_rest() {
    let reactor = reactor();
    reactor.enable_transfers().unwrap();
    let (socket, mut sender) = tcp_pair();
    let size = BufferSize::Small;
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(10_000).collect();
    sender.write_all(&bytes).unwrap();
    drop(sender);
    let next = || {
        let key = reactor.start_receive_once(&socket, OWNER, size);
        let progress = turn_until(&reactor, |event| match event {
            Event::Transfer { progress, .. } => Some(progress),
            _ => None,
        });
        assert_eq!((progress.key, progress.is_final), (key, true));
        progress.what
    };
    let mut received = Vec::new();
    loop {
        match next() {
            Step::Received => {}
            what => {
                assert_eq!(what, Step::ReceiveEnded);
                break;
            }
        }
        let mut segments = Vec::new();
        reactor.take_received(|segment| segments.push(segment));
        assert_eq!(segments.len(), 1);
        for segment in segments {
            assert!(segment.len() <= size.bytes() as usize);
            reactor.consume_segment(segment, |bytes| received.extend_from_slice(bytes));
        }
    }
    assert!(received == bytes);
}

#[test]
fn a_receive_of_one_buffer_can_be_cancelled() {
    let reactor = reactor();
    reactor.enable_transfers().unwrap();
    let (socket, _sender) = tcp_pair();
    let key = reactor.start_receive_once(&socket, OWNER, BufferSize::Small);
    reactor.cancel_transfer(key);
    let what = turn_until(&reactor, |event| match event {
        Event::Transfer { progress, .. } => Some(progress.what),
        _ => None,
    });
    assert_eq!(what, Step::Cancelled);
}
