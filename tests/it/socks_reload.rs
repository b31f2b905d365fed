//! `midspan socks` reads its files again while it serves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;

use midspan::protocol::socks5::{Credentials, ReplyCode};
use rustix::process::Signal;

use super::agents::{check_echo_over, dial, echo, service};
use super::socks::{agent, agent_by, ask, connect, refused, secret, url};
use super::socks_relays::{copy_head, pass_rest};
use super::websocks::{PASSWORD, relay};

const TAKEN: &str = "rules, password, key and local user are taken";
const NOT_TAKEN: &str = "are not taken, those before stay";

#[test]
fn new_rules_hold_for_the_next_connection_and_broken_ones_change_nothing() {
    let (folder, relay) = relay("");
    let echoing = service(echo);
    let rules = |text: &str| secret(folder.path(), "rules", text);
    let path = rules("");
    let (agent, local) = agent(folder.path(), &url(&relay), &["--rules", &path]);
    let before = connect(local, echoing);
    rules("deny *\n");
    agent.signal(Signal::HUP);
    agent.logged(TAKEN);
    let is_denied = || {
        let code = refused(local, "127.0.0.1", echoing.port());
        assert_eq!(code, ReplyCode::NotAllowed);
    };
    is_denied();
    rules("relay *\nnonsense\n");
    agent.signal(Signal::HUP);
    let said = agent.logged(NOT_TAKEN);
    assert!(said.contains("line 2"), "{said}");
    is_denied();
    rules("relay *\n");
    agent.signal(Signal::HUP);
    agent.logged(TAKEN);
    check_echo_over(connect(local, echoing), 1, 1000);
    // The first has noticed nothing.
    check_echo_over(before, 2, 1000);
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

#[test]
fn a_new_password_is_shown_to_a_relay_that_refused_the_one_before() {
    let (folder, relay) = relay("");
    let echoing = service(echo);
    let (agent, local) = agent(folder.path(), &url(&relay), &["--pool", "0"]);
    check_echo_over(connect(local, echoing), 1, 1000);
    for (password, code) in [
        ("other", ReplyCode::GeneralFailure),
        (PASSWORD, ReplyCode::Succeeded),
    ] {
        secret(folder.path(), "password", password);
        agent.signal(Signal::HUP);
        agent.logged(TAKEN);
        for _ in 0..5 {
            let (_stream, reply) = ask(local, &echoing.into(), None);
            assert_eq!(reply.code, code);
        }
    }
}

/// A gateway that has the first answer to an upgrade wait for somebody at the barrier, and at
/// last again, for the agent to go.
fn slow_gateway(relay: SocketAddr) -> (SocketAddr, Arc<Barrier>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let barrier = Arc::new(Barrier::new(2));
    let waits = Arc::clone(&barrier);
    thread::spawn(move || {
        for (index, mut client) in listener.incoming().map_while(Result::ok).enumerate() {
            let waits = Arc::clone(&waits);
            thread::spawn(move || {
                let mut server = TcpStream::connect(relay)?;
                copy_head(&mut client, &mut server)?;
                if index > 0 {
                    return pass_rest(client, server);
                }
                // It was asked, and has its answer when the other says so.
                waits.wait();
                waits.wait();
                copy_head(&mut server, &mut client)?;
                let _ = client.read(&mut [0]);
                waits.wait();
                Ok(())
            });
        }
    });
    (address, barrier)
}

#[test]
fn a_late_answer_to_the_password_before_says_nothing_of_the_new_one() {
    let (folder, relay) = relay("");
    let echoing = service(echo);
    let (gateway, barrier) = slow_gateway(relay.address);
    let by = format!("websocks+ws://alice@{gateway}");
    let (agent, local) = agent_by(
        folder.path(),
        "other",
        &by,
        &["--pool", "1", "--cores", "1"],
    );
    barrier.wait();
    secret(folder.path(), "password", PASSWORD);
    agent.signal(Signal::HUP);
    agent.logged(TAKEN);
    check_echo_over(connect(local, echoing), 1, 1000);
    // The relay has refused the other one, and the agent has heard of it.
    barrier.wait();
    barrier.wait();
    for seed in 0..5 {
        check_echo_over(connect(local, echoing), seed, 1000);
    }
    let mut agent = agent;
    agent.terminate();
    assert!(agent.wait().success());
    let log = agent.rest_of_log();
    assert!(!log.contains("lets nobody in"), "{log}");
}

#[test]
fn another_local_user_is_let_in_and_the_one_before_no_more() {
    let (folder, relay) = relay("");
    let echoing = service(echo);
    let user = secret(folder.path(), "user", "me:right");
    let options = ["--local-user-file", &user];
    let (agent, local) = agent(folder.path(), &url(&relay), &options);
    let (stream, reply) = ask(local, &echoing.into(), Credentials::new("me", "right"));
    assert_eq!(reply.code, ReplyCode::Succeeded);
    secret(folder.path(), "user", "you:left");
    agent.signal(Signal::HUP);
    agent.logged(TAKEN);
    let (_other, reply) = ask(local, &echoing.into(), Credentials::new("you", "left"));
    assert_eq!(reply.code, ReplyCode::Succeeded);
    let (mut stranger, mut answer) = (dial(local), Vec::new());
    let said = b"\x05\x01\x02\x01\x02me\x05right";
    stranger.write_all(said).expect("sent");
    stranger.read_to_end(&mut answer).expect("its end");
    assert_eq!(answer, b"\x05\x02\x01\x01");
    check_echo_over(stream, 1, 1000);
}
