//! SIGTERM: nothing new begins, what runs may finish, and the second one ends at once.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};

use midspan::protocol::socks5::{Command, ReplyCode};
use midspan::protocol::websocks::MAX_FRAME;
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use super::jet_client::{
    End, accept, connect, granted, new_place, packet, pair, ping_pong, read_reply, read_to_end,
};
use super::patience::until;
use super::peers::half_closes::half_close;
use super::peers::stalls::stall;
use super::relay_process::Relay;
use super::websocks::{self, KEY, visit};

/// Waits until nobody listens any more.
fn wait_until_closed(relay: &Relay) {
    until("the listener to be closed", || {
        match TcpStream::connect(relay.address) {
            Ok(_) => None,
            // Accepted by the backlog of a listener that was then closed.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                Some(())
            }
        }
    });
}

#[test]
fn pairs_finish_and_nothing_new_begins() {
    // One shard: its waiting acceptor's end shows that all of it drains.
    let relay = Relay::start(&["--cores", "1", "--drain-timeout", "1h"]);
    let mut pairs: Vec<_> = (0..10).map(|_| pair(relay.address, new_place())).collect();
    let place = new_place();
    let mut waiting = granted(relay.address, &accept(place));
    let request = packet(&connect(place));
    let (early, late) = request.split_at(request.len() - 1);
    let mut halfway: Vec<_> = (0..3).map(|_| stall(relay.address, early)).collect();
    // Answered by the same loop, so the relay has those above.
    let (mut acceptor, mut connector) = pair(relay.address, new_place());

    relay.signal(Signal::TERM);
    assert_eq!(read_to_end(&mut waiting), (Vec::new(), End::Closed));
    for stream in &mut halfway {
        stream.write_all(late).expect("sent");
        assert_eq!(read_reply(stream).status.as_u16(), 503);
        assert_eq!(read_to_end(stream), (Vec::new(), End::Closed));
    }
    wait_until_closed(&relay);

    ping_pong(&mut acceptor, &mut connector);
    half_close(&mut connector, b"last words");
    assert_eq!(
        read_to_end(&mut acceptor),
        (b"last words".to_vec(), End::Closed)
    );
    half_close(&mut acceptor, b"answer");
    assert_eq!(
        read_to_end(&mut connector),
        (b"answer".to_vec(), End::Closed)
    );
    for (acceptor, connector) in &mut pairs {
        ping_pong(acceptor, connector);
    }
    drop(pairs);
    let ended = relay.wait();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 11);
    assert_eq!(ended.counters.count("refused.draining"), 3);
    assert_eq!(ended.counters.count("ended.drained"), 0);
}

#[test]
fn the_backlog_is_answered() {
    let relay = Relay::start(&["--drain-timeout", "1h"]);
    let (mut acceptor, mut connector) = pair(relay.address, new_place());
    // While the relay is stopped, the kernel queues what dials; then it finds them and the signal
    // at once.
    relay.signal(Signal::STOP);
    let queued: Vec<_> = (0..200)
        .map(|_| stall(relay.address, &packet(&connect(new_place()))))
        .collect();
    relay.signal(Signal::TERM);
    relay.signal(Signal::CONT);
    let mut statuses = Vec::new();
    for mut stream in queued {
        statuses.push(read_reply(&mut stream).status.as_u16());
        assert_eq!(read_to_end(&mut stream), (Vec::new(), End::Closed));
    }
    // Those that were looked at before the signal were told that nobody waits there.
    assert!(
        statuses.iter().all(|status| [404, 503].contains(status)),
        "{statuses:?}"
    );
    wait_until_closed(&relay);
    ping_pong(&mut acceptor, &mut connector);
    drop((acceptor, connector));
    let ended = relay.wait();
    ended.check_clean();
    let refused = ended.counters.refused();
    let answered: u64 =
        refused.get("draining").unwrap_or(&0) + refused.get("not_found").unwrap_or(&0);
    assert!(answered >= 200, "{refused:?}");
}

#[test]
fn who_dials_while_it_drains_is_not_left_hanging() {
    let relay = Relay::start(&["--drain-timeout", "1h"]);
    let running = pair(relay.address, new_place());
    relay.signal(Signal::TERM);
    // Races with the drain on purpose: an answer, or no connection.
    until("the listener to be closed", || {
        let Ok(mut stream) = TcpStream::connect(relay.address) else {
            return Some(());
        };
        stream
            .set_read_timeout(Some(super::patience::PATIENCE))
            .expect("a socket");
        // What was queued in the moment in which the listener closed is reset by the kernel.
        let _ = stream.write_all(&packet(&connect(new_place())));
        let (words, end) = read_to_end(&mut stream);
        assert!(
            end == End::Reset || !words.is_empty(),
            "closed without a word"
        );
        None
    });
    drop(running);
    relay.wait().check_clean();
}

#[test]
fn pairs_that_do_not_finish_are_reset_at_the_timeout() {
    let relay = Relay::start(&["--drain-timeout", "1s"]);
    let mut pairs: Vec<_> = (0..10).map(|_| pair(relay.address, new_place())).collect();
    for (acceptor, connector) in &mut pairs {
        ping_pong(acceptor, connector);
    }
    relay.signal(Signal::TERM);
    for (acceptor, connector) in &mut pairs {
        assert_eq!(read_to_end(acceptor), (Vec::new(), End::Reset));
        assert_eq!(read_to_end(connector), (Vec::new(), End::Reset));
    }
    let ended = relay.wait();
    ended.check_clean();
    assert_eq!(ended.counters.count("ended.drained"), 10);
}

#[test]
fn a_second_signal_ends_at_once() {
    // Several times, so that the pair is not always on the shard that reads the signals.
    for second in [Signal::TERM, Signal::INT].repeat(4) {
        let mut relay = Relay::start(&["--drain-timeout", "1h"]);
        let (mut acceptor, mut connector) = pair(relay.address, new_place());
        ping_pong(&mut acceptor, &mut connector);
        // A handshake in progress does not hold it up either.
        let mut halfway = stall(relay.address, b"J");
        relay.wait_for_counters("the handshake to begin", |now| now.count("accepted") == 3);
        relay.signal(Signal::TERM);
        relay.wait_for_line("a second signal ends at once");
        relay.signal(second);
        assert_eq!(read_to_end(&mut acceptor), (Vec::new(), End::Reset));
        assert_eq!(read_to_end(&mut connector), (Vec::new(), End::Reset));
        assert_eq!(read_to_end(&mut halfway).0, b"");
        let ended = relay.wait();
        ended.check_clean();
        assert_eq!(ended.counters.count("ended.drained"), 1);
    }
}

/// A listener that has all connections that it takes: whoever dials it is not answered.
pub(crate) fn full_listener() -> (Socket, TcpStream, SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&anywhere.into()).expect("a free port");
    listener.listen(0).expect("a listener");
    let address = listener.local_addr().expect("bound").as_socket();
    let address = address.expect("of IPv4");
    // With a backlog of none one is taken.
    let only = TcpStream::connect(address).expect("the first");
    (listener, only, address)
}

/// Whether somebody dials there and has no answer: its connection is in the state SYN-SENT.
pub(crate) fn is_dialled(address: SocketAddr) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let remote = format!(":{:04X}", address.port());
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(2);
        words.next().is_some_and(|to| to.ends_with(&remote)) && words.next() == Some("02")
    })
}

#[test]
fn visitors_who_are_being_connected_are_told() {
    let (_listener, _only, address) = full_listener();
    let (_folder, relay) = websocks::relay("cores = 1\ndrain_timeout = \"1h\"");
    let ask = |request: &[u8]| {
        let mut visitor = visit(relay.address, KEY);
        visitor.write_all(&MAX_FRAME).expect("sent");
        visitor.write_all(request).expect("sent");
        visitor
    };
    let dialled = ask(&websocks::connect(address));
    until("the relay to dial", || is_dialled(address).then_some(()));
    // Who has not asked for all of it yet.
    let request = websocks::request(Command::UdpAssociate, "0.0.0.0", 0);
    let (early, late) = request.split_at(request.len() - 1);
    let halfway = ask(early);
    // The relay has taken the ten bytes, as it says as many.
    halfway.peek(&mut [0]).expect("a greeting");
    relay.signal(Signal::TERM);
    for (mut visitor, rest) in [(dialled, &[][..]), (halfway, late)] {
        visitor.write_all(rest).expect("sent");
        let reply = websocks::read_reply(&mut visitor);
        assert_eq!(reply.code, ReplyCode::GeneralFailure);
        assert_eq!(read_to_end(&mut visitor), (Vec::new(), End::Closed));
    }
    let ended = relay.wait();
    ended.check_clean();
    assert_eq!(ended.counters.count("refused.draining"), 2);
}
