//! Relays that are there and let nobody in, or do not reply, and what `midspan socks` makes of it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use midspan::protocol::socks5::ReplyCode;

use super::agents::{check_echo_over, echo, read_banner, service};
use super::patience::until;
use super::relay_process::Relay;
use super::socks::{agent, ask, connect, refused, secret, url};
use super::websocks::relay;

/// A port at which nobody listens.
pub(crate) fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

fn bob(relay: &Relay) -> String {
    format!("websocks+ws://bob@{}", relay.address)
}

/// What becomes of a connection that goes on behind its upgrade.
#[derive(Clone, Debug)]
enum Fate {
    Closes,
    Passes,
    /// Until somebody else waits for this.
    Waits(Arc<Barrier>),
}

/// A gateway that lets the relay answer an upgrade and then, for the first `mute_count`
/// connections that go on, closes. Gives how many have gone on.
fn mute_gateway(relay: SocketAddr, mute_count: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    fateful_gateway(relay, vec![Fate::Closes; mute_count])
}

/// A gateway that lets the relay answer an upgrade; these are the fates of the first
/// connections that go on, and all others pass. Gives how many have gone on.
fn fateful_gateway(relay: SocketAddr, fates: Vec<Fate>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let gone_on = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&gone_on);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (counted, fates) = (Arc::clone(&counted), fates.clone());
            // A side that goes ends it.
            thread::spawn(move || pass(stream, relay, &fates, &counted));
        }
    });
    (address, gone_on)
}

fn pass(
    mut client: TcpStream,
    relay: SocketAddr,
    fates: &[Fate],
    gone_on: &AtomicUsize,
) -> io::Result<()> {
    let mut server = TcpStream::connect(relay)?;
    copy_head(&mut client, &mut server)?;
    copy_head(&mut server, &mut client)?;
    let mut first = [0];
    client.read_exact(&mut first)?;
    let index = gone_on.fetch_add(1, Ordering::SeqCst);
    match fates.get(index).unwrap_or(&Fate::Passes) {
        Fate::Closes => return Ok(()),
        Fate::Passes => {}
        Fate::Waits(until) => {
            until.wait();
        }
    }
    server.write_all(&first)?;
    pass_rest(client, server)
}

pub(crate) fn pass_rest(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        to_client.shutdown(Shutdown::Write)
    });
    io::copy(&mut client, &mut server)?;
    server.shutdown(Shutdown::Write)
}

/// A gateway that is gone for good once it has let two connections in. It closes the first
/// when somebody else waits for that as well, and still serves the other. Gives how many it
/// has let in.
fn closing_gateway(relay: SocketAddr, closes: Arc<Barrier>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let let_in = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&let_in);
    thread::spawn(move || {
        let coming = listener.incoming().map_while(Result::ok);
        for (index, mut client) in coming.take(2).enumerate() {
            let (counted, closes) = (Arc::clone(&counted), Arc::clone(&closes));
            thread::spawn(move || {
                let mut server = TcpStream::connect(relay)?;
                copy_head(&mut client, &mut server)?;
                copy_head(&mut server, &mut client)?;
                counted.fetch_add(1, Ordering::SeqCst);
                if index > 0 {
                    return pass_rest(client, server);
                }
                closes.wait();
                Ok(())
            });
        }
    });
    (address, let_in)
}

pub(crate) fn copy_head(from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    to.write_all(&head)
}

#[test]
fn what_may_go_directly_does_so_only_where_no_relay_is_there() {
    let (folder, relay) = relay("");
    let greeting = service(super::agents::greet_and_count);
    let rules = secret(folder.path(), "rules", "relay-or-direct *\n");
    let closed = format!("websocks+ws://alice@{}", closed_port());
    let pin = "ab".repeat(32);
    let other_pin = format!("websocks+wss://alice@{}?pin={pin}", relay.address);
    let no_relay = format!("websocks+ws://alice@{greeting}");
    for (first, second, next_step) in [
        (&other_pin, None, "not the pinned one"),
        (&bob(&relay), None, "check user and password"),
        (&no_relay, None, ""),
        (&closed, Some(&other_pin), "not the pinned one"),
        (&other_pin, Some(&closed), "not the pinned one"),
    ] {
        let mut options = vec!["--rules", &rules];
        options.extend(second.iter().flat_map(|url| ["--relay", url]));
        let (agent, local) = agent(folder.path(), first, &options);
        for _ in 0..3 {
            let code = refused(local, "127.0.0.1", greeting.port());
            assert_eq!(code, ReplyCode::GeneralFailure, "{first} {second:?}");
        }
        until("the next step", || {
            agent
                .logged("the relay lets nobody in")
                .contains(next_step)
                .then_some(())
        });
    }
    let options = ["--rules", &rules, "--relay", &closed];
    let (_agent, local) = agent(folder.path(), &closed, &options);
    read_banner(&mut connect(local, greeting)).expect("a greeting");
}

#[test]
fn a_relay_that_refuses_is_not_asked_for_every_client() {
    let (folder, relay) = relay("");
    let (agent, local) = agent(folder.path(), &bob(&relay), &[]);
    agent.logged("the relay lets nobody in");
    for _ in 0..200 {
        assert_eq!(refused(local, "127.0.0.1", 9), ReplyCode::GeneralFailure);
    }
    assert!(agent.stop().success());
    let ended = relay.stop();
    ended.check_clean();
    let refusals = ended.counters.refused();
    let tries = refusals.get("wrong_password").copied().unwrap_or_default();
    // One for each pause, which doubles from 100 ms.
    assert!((1..40).contains(&tries), "{refusals:?}");
}

#[test]
fn a_relay_that_does_not_reply_is_left_out_and_tried_again() {
    let (folder, relay) = relay("");
    let (other_folder, other) = super::websocks::relay("");
    let echoing = service(echo);
    let (gateway, asked) = mute_gateway(relay.address, 3);
    let mute = format!("websocks+ws://alice@{gateway}");
    let (agent, local) = agent(
        folder.path(),
        &mute,
        &["--pool", "0", "--relay", &url(&other)],
    );
    check_echo_over(connect(local, echoing), 1, 1000);
    let said = agent.logged("the relay does not reply");
    assert!(said.contains("closed the connection"), "{said}");
    // Asked by one client after each pause, the first relay is preferred again.
    until("the first relay", || {
        check_echo_over(connect(local, echoing), 2, 1000);
        (asked.load(Ordering::SeqCst) > 4).then_some(())
    });
    agent.logged("the relay replies");
    assert!(agent.stop().success());
    let ended = relay.stop();
    ended.check_clean();
    assert!(ended.counters.count("paired") > 0);
    let ended = other.stop();
    ended.check_clean();
    // All those of the pauses, besides the three that found the first relay mute.
    assert!(ended.counters.count("paired") > 3);
    drop(other_folder);
}

#[test]
fn a_client_that_waits_for_its_reply_keeps_nobody_from_a_relay_that_is_well() {
    let (folder, relay) = relay("");
    let echoing = service(echo);
    let waits = Arc::new(Barrier::new(2));
    let fates = vec![Fate::Closes, Fate::Waits(Arc::clone(&waits))];
    let (gateway, gone_on) = fateful_gateway(relay.address, fates);
    let by = format!("websocks+ws://alice@{gateway}");
    let options = ["--pool", "0", "--cores", "1"];
    let (agent, local) = agent(folder.path(), &by, &options);
    let ask_on = || {
        until("a way out", || {
            let (stream, reply) = ask(local, &echoing.into(), None);
            (reply.code != ReplyCode::GeneralFailure).then_some((stream, reply.code))
        })
    };
    thread::scope(|scope| {
        // It finds the relay mute, and then tries it.
        let trying = scope.spawn(ask_on);
        until("the trial", || {
            (gone_on.load(Ordering::SeqCst) == 2).then_some(())
        });
        let (stream, code) = ask_on();
        assert_eq!(code, ReplyCode::Succeeded);
        check_echo_over(stream, 1, 1000);
        waits.wait();
        let (stream, code) = trying.join().expect("an answer");
        // It has waited all the time.
        assert_eq!(code, ReplyCode::Succeeded);
        check_echo_over(stream, 2, 1000);
    });
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

#[test]
fn what_may_go_directly_goes_by_the_ways_that_are_left() {
    let (folder, mut relay) = relay("");
    let echoing = service(echo);
    let rules = secret(folder.path(), "rules", "relay-or-direct *\n");
    let closes = Arc::new(Barrier::new(2));
    let (gateway, let_in) = closing_gateway(relay.address, Arc::clone(&closes));
    let by = format!("websocks+ws://alice@{gateway}");
    let options = ["--rules", &rules, "--pool", "2", "--cores", "1"];
    let (agent, local) = agent(folder.path(), &by, &options);
    until("two ways", || {
        (let_in.load(Ordering::SeqCst) == 2).then_some(())
    });
    // Lost, the first one cannot be replaced.
    closes.wait();
    agent.logged("the relay is not reached");
    check_echo_over(connect(local, echoing), 1, 1000);
    relay.wait_for_counters("the other way", |counters| counters.count("paired") == 1);
    // And none is left.
    check_echo_over(connect(local, echoing), 2, 1000);
    assert!(agent.stop().success());
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 1);
}
