//! `midspan socks` reads its files again while it serves.

use std::io::{Read, Write};

use midspan::protocol::socks5::{Credentials, ReplyCode};
use rustix::process::Signal;

use super::agents::{check_echo_over, dial, echo, service};
use super::socks::{agent, ask, connect, refused, secret, url};
use super::websocks::{PASSWORD, relay};

const TAKEN: &str = "rules, password and local user are taken";
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
