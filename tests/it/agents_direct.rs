//! `expose --direct`: clients that can reach it need no relay, and all others have one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use midspan::agent::meeting::{HELLO_BYTES, WELCOME_BYTES, direct_id};
use midspan::agent::ticket::Ticket;
use midspan::protocol::Progress;
use midspan::protocol::jet::{MASK_DEFAULT, Reply, Request, Status, Version};
use uuid::Uuid;

use super::agent_process::{Program, expose_command, forward, relay};
use super::agents::{
    check_echo, check_greetings, check_session, dial, echo, foreign_client, greet_and_count,
    read_banner, service,
};
use super::jet_client::{
    End, accept, connect, granted, implicit, new_association, read_to_end, refused, test,
};
use super::patience::PATIENCE;

/// Exposes `target` at an address of its own as well; gives the ticket.
fn expose_directly(folder: &Path, relay: SocketAddr, target: SocketAddr) -> (Program, String) {
    let mut command = expose_command(folder, relay, &[&target.to_string()]);
    command.args(["--direct", "127.0.0.1:0"]);
    let expose = Program::start_other(command);
    let ticket = format!("jet+tcp://{}", expose.reported("  jet+tcp://"));
    expose.logged("waiting at the relay");
    (expose, ticket)
}

fn direct_address(ticket: &str) -> SocketAddr {
    let (_, direct) = ticket.split_once("?direct=").expect("a direct route");
    direct.parse().expect("an address")
}

#[test]
fn who_can_reach_the_proxy_needs_no_relay() {
    let folder = tempfile::tempdir().expect("a folder");
    let (relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let (expose, ticket) = expose_directly(folder.path(), address, service(greet_and_count));
    let (forward, local) = forward(&ticket);
    check_greetings(local);
    assert!(relay.stop().success());
    expose.logged("cannot wait at the relay");
    check_greetings(local);
    assert!(expose.stop().success());
    assert!(forward.stop().success());
}

/// A ticket whose direct route leads to `direct` instead.
fn led_to(ticket: &str, direct: SocketAddr) -> String {
    let (rest, _) = ticket.split_once('?').expect("parameters");
    format!("{rest}?direct={direct}")
}

#[test]
fn who_cannot_reach_it_or_finds_another_there_comes_by_the_relay() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let (_expose, ticket) = expose_directly(folder.path(), address, service(echo));

    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = nobody.local_addr().expect("bound");
    drop(nobody);
    // Connects, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (impostor, heard) = impostor();
    let silent_address = silent.local_addr().expect("bound");
    // The relay stands for somebody else's who has the address now.
    for direct in [closed, silent_address, address, impostor] {
        let (_forward, local) = forward(&led_to(&ticket, direct));
        for seed in 0..3 {
            check_echo(local, seed, 1000);
        }
    }
    let first = heard.recv_timeout(PATIENCE).expect("somebody came");
    for said in std::iter::once(first).chain(heard.try_iter()) {
        match Request::decode(&said) {
            // And no hello, which would prove the ticket to whoever relays it.
            Ok(Progress::Complete { consumed, .. }) => assert_eq!(consumed, said.len()),
            other => panic!("no request: {other:?}"),
        }
    }
}

/// Whoever lets everybody in and has no ticket; tells what each client said.
fn impostor() -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (sender, heard) = channel();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut said = vec![0; 4096];
            let count = client.read(&mut said).expect("a request");
            said.truncate(count);
            let reply = Reply::new(Status::OK, Version::V2).encode(MASK_DEFAULT);
            let welcome = [reply.as_bytes(), &[7; WELCOME_BYTES]].concat();
            client.write_all(&welcome).expect("taken");
            client.read_to_end(&mut said).expect("its end");
            sender.send(said).expect("the test listens");
        }
    });
    (address, heard)
}

#[test]
fn a_way_that_was_silent_is_taken_when_it_alone_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let (relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let (_expose, ticket) = expose_directly(folder.path(), address, service(echo));
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_address = silent.local_addr().expect("bound");
    let (_forward, local) = forward(&led_to(&ticket, silent_address));
    check_echo(local, 1, 1000);
    assert!(relay.stop().success());
    let direct = direct_address(&ticket);
    thread::spawn(move || {
        for connection in silent.incoming().map_while(Result::ok) {
            thread::spawn(move || carry(connection, direct));
        }
    });
    for seed in 2..5 {
        check_echo(local, seed, 1000);
    }
}

/// Carries a connection on to `target`, both ways.
fn carry(near: TcpStream, target: SocketAddr) {
    let far = TcpStream::connect(target).expect("the proxy listens");
    let mut ways = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
    thread::scope(|scope| {
        for (from, to) in &mut ways {
            let (from, to) = (from.as_mut().expect("a handle"), to.as_mut().expect("one"));
            scope.spawn(|| {
                // Either end may reset it.
                let _ = std::io::copy(from, to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    });
}

#[test]
fn strangers_are_told_nothing_at_the_proxy() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let (expose, ticket) = expose_directly(folder.path(), address, service(echo));
    let direct = direct_address(&ticket);
    for request in [
        connect(new_association()),
        accept(new_association()),
        test(new_association()),
    ] {
        refused(direct, &request, 404);
    }
    for opening in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x02\0",
        b"SSH-",
    ] {
        let mut stream = dial(direct);
        stream.write_all(opening).expect("sent");
        assert_eq!(read_to_end(&mut stream).0, b"", "{opening:?}");
    }
    // The id alone opens nothing.
    let Ok(Ticket::Reusable(known)) = ticket.parse::<Ticket>() else {
        panic!("a reusable ticket: {ticket}");
    };
    let mut place = implicit(direct_id(&known.secret));
    place.candidate = Some(Uuid::from_u128(5));
    let mut stream = granted(direct, &connect(place));
    stream.write_all(&[1; HELLO_BYTES]).expect("sent");
    let (welcome, end) = read_to_end(&mut stream);
    assert_eq!((welcome.len(), end), (WELCOME_BYTES, End::Reset));
    expose.logged("session refused");
    let (_forward, local) = forward(&ticket);
    check_echo(local, 1, 1000);
}

/// Exposes one session, at an address of its own as well; gives the ticket and the
/// candidates.
fn expose_once_directly(relay: SocketAddr) -> (Program, String, [String; 2]) {
    let target = service(greet_and_count).to_string();
    let relay = format!("jet+tcp://{relay}");
    let expose = Program::start(&[
        "expose",
        "guest",
        "--once",
        "--to",
        &target,
        "--relay",
        &relay,
        "--direct",
        "127.0.0.1:0",
    ]);
    let reported = || format!("jet+tcp://{}", expose.reported("  jet+tcp://"));
    let ticket = reported();
    let candidates = [reported(), reported()];
    (expose, ticket, candidates)
}

#[test]
fn any_client_may_have_the_one_session_directly() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    for by_relay in [false, true] {
        let (mut expose, ticket, candidates) = expose_once_directly(address);
        assert!(candidates[0].contains(&direct_address(&ticket).to_string()));
        check_session(foreign_client(&candidates[usize::from(by_relay)]));
        assert!(expose.wait().success());
    }
    let (mut expose, ticket, _) = expose_once_directly(address);
    let (_forward, local) = forward(&ticket);
    check_session(dial(local));
    assert!(expose.wait().success());
}

#[test]
fn the_one_session_may_be_had_when_the_relay_is_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let (relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let (mut expose, _ticket, [directly, _]) = expose_once_directly(address);
    assert!(relay.stop().success());
    expose.logged("cannot wait at the relay");
    check_session(foreign_client(&directly));
    assert!(expose.wait().success());
}

#[test]
fn whoever_has_the_one_session_keeps_it_when_the_relay_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let (mut expose, ticket, [directly, by_relay]) = expose_once_directly(address);
    let mut first = foreign_client(&by_relay);
    read_banner(&mut first).expect("a greeting");
    first.write_all(b"12").expect("taken");
    relay.terminate();
    relay.logged("stopping");
    let mut place = implicit(Uuid::nil());
    let mut ids = directly.rsplit('/').map(|id| id.parse().expect("an id"));
    place.candidate = ids.next();
    place.association = ids.next().expect("two ids");
    refused(direct_address(&ticket), &connect(place), 400);
    first.write_all(b"3").expect("taken");
    first.shutdown(Shutdown::Write).expect("connected");
    let mut count = String::new();
    first.read_to_string(&mut count).expect("an orderly end");
    assert_eq!(count, "3");
    assert!(expose.wait().success());
    assert!(relay.wait().success());
}

#[test]
fn the_one_session_is_had_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let (mut expose, ticket, [directly, by_relay]) = expose_once_directly(address);
    let place = |candidate: &str| {
        let mut ids = candidate
            .rsplit('/')
            .map(|id| id.parse::<Uuid>().expect("an id"));
        let mut place = implicit(Uuid::nil());
        place.candidate = ids.next();
        place.association = ids.next().expect("two ids");
        place
    };
    let mut first = foreign_client(&by_relay);
    read_banner(&mut first).expect("a greeting");
    refused(direct_address(&ticket), &connect(place(&directly)), 400);
    first.write_all(b"123").expect("taken");
    drop(first);
    assert!(expose.wait().success());

    let (mut expose, ticket, [directly, by_relay]) = expose_once_directly(address);
    let mut first = foreign_client(&directly);
    read_banner(&mut first).expect("a greeting");
    refused(direct_address(&ticket), &connect(place(&directly)), 400);
    refused(address, &connect(place(&by_relay)), 400);
    first.write_all(b"123").expect("taken");
    drop(first);
    assert!(expose.wait().success());
    assert!(relay.stop().success());
}
