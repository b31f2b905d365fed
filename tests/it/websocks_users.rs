//! What single users may: where, how much, and how often somebody may guess.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use midspan::access::PasswordDigest;
use midspan::protocol::socks5::{Command, ReplyCode};
use midspan::protocol::websocks::MAX_FRAME;
use midspan::runtime::clock;
use rustix::process::Signal;

use super::agents::{echo, service};
use super::jet_client::dial;
use super::patience::until;
use super::per_address::dial_from_elsewhere;
use super::relay_process::Relay;
use super::require::require_cores;
use super::rest::read_response;
use super::socks_relays::closed_port;
use super::websocks::{KEY, PASSWORD, SOCKS5, check_echo, connect, knock, read_reply, request};

/// A relay of one shard with the users alice, bob and carol.
fn relay(rules: &str, options: &[&str]) -> (tempfile::TempDir, Relay) {
    relay_by(&[], rules, options)
}

fn relay_by(wrapper: &[&str], rules: &str, options: &[&str]) -> (tempfile::TempDir, Relay) {
    relay_on("1", wrapper, rules, options)
}

fn relay_on(
    cores: &str,
    wrapper: &[&str],
    rules: &str,
    options: &[&str],
) -> (tempfile::TempDir, Relay) {
    let folder = tempfile::tempdir().expect("a folder");
    write_users(folder.path(), &["alice", "bob", "carol"]);
    write_config(folder.path(), rules);
    let config = folder.path().join("relay.toml");
    let config = ["--cores", cores, "--config", config.to_str().expect("text")];
    let relay = Relay::start_by(wrapper, &[&config, options].concat());
    (folder, relay)
}

fn write_config(folder: &Path, rules: &str) {
    let users = folder.join("users");
    let egress = match rules.contains("[egress]") {
        true => "",
        false => "[egress]\nreach = \"everything\"",
    };
    let text = format!("[websocks]\nusers = {users:?}\n{rules}\n{egress}\n");
    fs::write(folder.join("relay.toml"), text).expect("written");
}

fn write_users(folder: &Path, names: &[&str]) {
    use std::os::unix::fs::PermissionsExt;
    let kept = PasswordDigest::of(PASSWORD);
    let lines: String = names
        .iter()
        .map(|name| format!("{name}:{kept}\n"))
        .collect();
    let fresh = folder.join("users.new");
    fs::write(&fresh, lines).expect("written");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::rename(&fresh, folder.join("users")).expect("renamed");
}

fn proof() -> String {
    PasswordDigest::of(PASSWORD).proof(clock::unix_time())
}

/// How somebody who knocks is answered.
fn status_of(stream: &mut TcpStream, user: &str, proof: &str) -> u16 {
    let request = knock(user, proof, KEY, SOCKS5);
    stream.write_all(request.as_bytes()).expect("sent");
    read_response(stream).status
}

fn visit(relay: SocketAddr, user: &str) -> TcpStream {
    let mut stream = dial(relay);
    assert_eq!(status_of(&mut stream, user, &proof()), 101);
    stream
}

/// What a visitor is told that asks for this.
fn ask(visitor: &mut TcpStream, request: &[u8]) -> ReplyCode {
    let wire = [&MAX_FRAME[..], request].concat();
    visitor.write_all(&wire).expect("sent");
    read_reply(visitor).code
}

fn to(host: &str, port: u16) -> Vec<u8> {
    request(Command::Connect, host, port)
}

const FOR_ALICE: &str = "[[websocks.rules]]\nusers = [\"alice\"]\n";

#[test]
fn a_users_own_rules_come_before_the_relays() {
    let target = service(echo);
    let port = target.port();
    let rules = format!(
        "[[websocks.rules]]\nusers = [\"alice\"]\n\
         egress = [\"deny localhost:{port}\", \"allow 127.0.0.1:{port}\"]\n\
         [[websocks.rules]]\nusers = [\"bob\"]\negress = [\"allow localhost:{port}\"]\n\
         [egress]\nreach = \"public\"\nrules = [\"deny 127.0.0.0/8:{port}\"]\n"
    );
    let (_folder, mut relay) = relay(&rules, &[]);
    let mut denied = 0;
    for (user, host, expected) in [
        ("alice", "127.0.0.1", ReplyCode::Succeeded),
        ("alice", "::ffff:127.0.0.1", ReplyCode::Succeeded),
        ("alice", "localhost", ReplyCode::NotAllowed),
        ("alice", "127.0.0.2", ReplyCode::NotAllowed),
        ("bob", "localhost", ReplyCode::Succeeded),
        ("bob", "127.0.0.1", ReplyCode::NotAllowed),
        ("bob", "::ffff:127.0.0.1", ReplyCode::NotAllowed),
        ("carol", "localhost", ReplyCode::NotAllowed),
        ("carol", "127.0.0.1", ReplyCode::NotAllowed),
    ] {
        let mut visitor = visit(relay.address, user);
        let got = ask(&mut visitor, &to(host, port));
        assert_eq!(got, expected, "{user} {host}");
        match got {
            ReplyCode::Succeeded => check_echo(&mut visitor, b"hello"),
            _ => denied += 1,
        }
    }
    assert_eq!(relay.counters().count("refused.egress_denied"), denied);
    relay.stop().check_clean();
}

#[test]
fn a_user_has_so_many_sessions_and_dials() {
    let rules = format!("{FOR_ALICE}sessions_max = 0\ndials_per_minute_max = 3\n");
    let limit = ["--limit", "sessions_per_user_max=2"];
    let (_folder, mut relay) = relay(&rules, &limit);
    let target = service(echo);
    let begin = |user: &str| {
        let mut visitor = visit(relay.address, user);
        let code = ask(&mut visitor, &connect(target));
        (code == ReplyCode::Succeeded)
            .then_some(visitor)
            .ok_or(code)
    };
    let mut held: Vec<_> = (0..2).map(|_| begin("bob").expect("room")).collect();
    assert_eq!(begin("bob").err(), Some(ReplyCode::GeneralFailure));
    // Nobody else is concerned, and who only waits in a pool has no session.
    let pooled: Vec<_> = (0..3).map(|_| visit(relay.address, "carol")).collect();
    held.push(begin("carol").expect("room"));
    // Whose own limit is none has as many as it may dial.
    held.extend((0..3).map(|_| begin("alice").expect("room")));
    assert_eq!(begin("alice").err(), Some(ReplyCode::GeneralFailure));
    for visitor in &mut held {
        check_echo(visitor, b"hello");
    }
    drop(held.remove(0));
    until("bob's session has ended", || begin("bob").ok());
    drop((held, pooled));
    let counters = relay.counters();
    assert!(counters.count("refused.too_many_of_user") >= 1);
    assert_eq!(counters.count("refused.too_many_dials"), 1);
    relay.stop().check_clean();
}

#[test]
fn a_users_limits_hold_for_all_shards_together() {
    if !require_cores(2) {
        return;
    }
    let rules = format!(
        "{FOR_ALICE}sessions_max = 3\n\
         [[websocks.rules]]\nusers = [\"bob\"]\ndials_per_minute_max = 3\n"
    );
    let (_folder, mut relay) = relay_on("2", &[], &rules, &[]);
    let target = service(echo);
    for user in ["alice", "bob"] {
        let mut held = Vec::new();
        // The kernel spreads them: each shard gets some.
        for count in 0..24 {
            let mut visitor = visit(relay.address, user);
            let expected = match count < 3 {
                true => ReplyCode::Succeeded,
                false => ReplyCode::GeneralFailure,
            };
            let code = ask(&mut visitor, &connect(target));
            assert_eq!(code, expected, "{user} {count}");
            held.push(visitor);
        }
        for visitor in &mut held[..3] {
            check_echo(visitor, b"hello");
        }
    }
    let counters = relay.counters();
    assert_eq!(counters.count("refused.too_many_of_user"), 21);
    assert_eq!(counters.count("refused.too_many_dials"), 21);
    // Alice's have ended.
    until("room for three", || {
        let three = [(); 3].map(|()| {
            let mut visitor = visit(relay.address, "alice");
            (ask(&mut visitor, &connect(target)), visitor)
        });
        let is_room = three.iter().all(|(code, _)| *code == ReplyCode::Succeeded);
        is_room.then_some(())
    });
    relay.stop().check_clean();
}

#[test]
fn whoever_guesses_is_not_listened_to_and_others_are() {
    let limit = ["--limit", "wrong_passwords_per_minute_max=20"];
    // Nobody logs addresses, so that the relay has to ask for this one.
    let quiet = ["env", "MIDSPAN_LOG=info,access=off"];
    let (_folder, mut relay) = relay_by(&quiet, "", &limit);
    let before = relay.resident_bytes();
    let right = proof();
    let (mut wrong, mut unheard) = (0_u64, 0_u64);
    while wrong + unheard < 500 {
        let mut guessing = dial(relay.address);
        for _ in 0..3 {
            match status_of(&mut guessing, "alice", "guess") {
                401 => wrong += 1,
                429 => unheard += 1,
                status => panic!("{status}"),
            }
        }
    }
    // One more for each three seconds that this took.
    assert!((20..60).contains(&wrong), "{wrong}");
    assert!(
        relay.resident_bytes() < before + (8 << 20),
        "{before} before"
    );
    // From there not even the right one is listened to, but for one chance in between.
    let mut tries = (0..3).map(|_| status_of(&mut dial(relay.address), "mallory", "guess"));
    assert!(tries.any(|status| status == 429));
    let mut elsewhere = dial_from_elsewhere(relay.address);
    assert_eq!(status_of(&mut elsewhere, "alice", &right), 101);
    let target = service(echo);
    assert_eq!(ask(&mut elsewhere, &connect(target)), ReplyCode::Succeeded);
    check_echo(&mut elsewhere, b"hello");
    drop(elsewhere);
    let counters = relay.counters();
    assert!(counters.count("refused.wrong_password") >= wrong);
    assert!(counters.count("refused.too_many_wrong") > unheard);
    relay.stop().check_clean();
}

/// A relay of one shard with the user alice, these lines first in its file, and this limit.
fn limited(lines: &str, limit: &str) -> (tempfile::TempDir, Relay) {
    let folder = tempfile::tempdir().expect("a folder");
    write_users(folder.path(), &["alice"]);
    let [path, users] = ["relay.toml", "users"].map(|name| folder.path().join(name));
    let text = format!("cores = 1\n{lines}\n[websocks]\nusers = {users:?}\n[limits]\n{limit}\n");
    fs::write(&path, text).expect("written");
    let relay = Relay::start(&["--config", path.to_str().expect("text")]);
    (folder, relay)
}

const ONE_WRONG_PASSWORD: &str = "wrong_passwords_per_minute_max = 1";

/// How somebody is answered who knocks by a gateway that says this of where from.
fn knock_from(stream: &mut TcpStream, said: &str, proof: &str) -> u16 {
    let request = knock("alice", proof, KEY, SOCKS5);
    let header = format!("\r\nX-Forwarded-For: {said}\r\n\r\n");
    let request = request.replacen("\r\n\r\n", &header, 1);
    stream.write_all(request.as_bytes()).expect("sent");
    read_response(stream).status
}

#[test]
fn whoever_guesses_behind_a_gateway_is_known_by_its_own_address() {
    let (_folder, relay) = limited("proxy_protocol_from = [\"127.0.0.1\"]", ONE_WRONG_PASSWORD);
    let knock_as = |source: &str, proof: &str| {
        let mut stream = dial(relay.address);
        let header = format!("PROXY TCP4 {source} 192.0.2.1 4711 443\r\n");
        stream.write_all(header.as_bytes()).expect("sent");
        status_of(&mut stream, "alice", proof)
    };
    assert_eq!(knock_as("192.0.2.7", "guess"), 401);
    assert_eq!(knock_as("192.0.2.7", &proof()), 429);
    assert_eq!(knock_as("192.0.2.8", &proof()), 101);
    relay.stop().check_clean();
}

#[test]
fn a_gateway_that_is_trusted_says_whose_each_request_is() {
    let (_folder, relay) = limited("forwarded_for_from = [\"127.0.0.0/8\"]", ONE_WRONG_PASSWORD);
    // One connection of a gateway's may carry the requests of many; what they claim
    // themselves stands before what the gateway knows.
    let mut shared = dial(relay.address);
    assert_eq!(knock_from(&mut shared, "192.0.2.7", "guess"), 401);
    assert_eq!(
        knock_from(&mut shared, "192.0.2.9, 192.0.2.7", &proof()),
        429
    );
    assert_eq!(knock_from(&mut shared, "192.0.2.8", &proof()), 101);
    relay.stop().check_clean();

    // Not even by way of one that passes connections on, and says whose they are.
    let both = "forwarded_for_from = [\"127.0.0.0/8\", \"192.0.2.1\"]\n\
                proxy_protocol_from = [\"127.0.0.0/8\"]";
    for (lines, header, is_believed) in [
        ("forwarded_for_from = [\"192.0.2.1\"]", "", false),
        (both, "PROXY TCP4 192.0.2.5 192.0.2.100 4711 443\r\n", false),
        (both, "PROXY TCP4 192.0.2.1 192.0.2.100 4711 443\r\n", true),
        (both, "PROXY UNKNOWN\r\n", true),
    ] {
        let (_folder, relay) = limited(lines, ONE_WRONG_PASSWORD);
        let mut stranger = dial(relay.address);
        stranger.write_all(header.as_bytes()).expect("sent");
        assert_eq!(knock_from(&mut stranger, "192.0.2.7", "guess"), 401);
        let then = knock_from(&mut stranger, "192.0.2.8", &proof());
        assert_eq!(then == 101, is_believed, "{header}");
        relay.stop().check_clean();
    }
}

#[test]
fn behind_a_gateway_connections_count_for_whose_they_are() {
    let (_folder, relay) = limited(
        "forwarded_for_from = [\"127.0.0.0/8\"]",
        "connections_per_address_max = 2",
    );
    let come = |source: &str| {
        let mut stream = dial(relay.address);
        (knock_from(&mut stream, source, &proof()), stream)
    };
    let of = |source: &str| [come(source), come(source), come(source)];
    let (one, other) = (of("192.0.2.7"), of("192.0.2.8"));
    for kept in [&one, &other] {
        assert_eq!(kept.each_ref().map(|(status, _)| *status), [101, 101, 429]);
    }
    drop(one);
    until("room", || (come("192.0.2.7").0 == 101).then_some(()));
    drop(other);
    relay.stop().check_clean();
}

#[test]
fn rules_change_for_what_is_dialled_next_and_whoever_is_gone_dials_no_more() {
    let target = service(echo);
    let port = target.port();
    let deny = format!("{FOR_ALICE}egress = [\"deny *:{port}\"]\n");
    let (folder, mut relay) = relay(&deny, &[]);
    let mut pool: Vec<_> = (0..3).map(|_| visit(relay.address, "alice")).collect();
    let mut of_bob = visit(relay.address, "bob");
    let mut before = pool.remove(0);
    assert_eq!(ask(&mut before, &connect(target)), ReplyCode::NotAllowed);
    write_config(folder.path(), "");
    relay.signal(Signal::HUP);
    relay.wait_for_line("the configuration is taken");
    // The shard hears of it at the latest when it counts for us.
    relay.counters();
    let mut running = pool.remove(0);
    assert_eq!(ask(&mut running, &connect(target)), ReplyCode::Succeeded);

    // Rules for somebody who is not there, and twice for one.
    for (rules, said) in [
        (
            "[[websocks.rules]]\nusers = [\"dave\"]\n",
            "there is no user",
        ),
        (
            "[[websocks.rules]]\nusers = [\"bob\", \"bob\"]\n",
            "has rules already",
        ),
    ] {
        write_config(folder.path(), rules);
        relay.signal(Signal::HUP);
        let line = relay.wait_for_line("the configuration is not taken, the one before stays");
        assert!(line.contains(said), "{line}");
    }

    write_users(folder.path(), &["alice", "carol"]);
    relay.wait_for_line("the configuration is taken");
    relay.counters();
    assert_eq!(ask(&mut of_bob, &connect(target)), ReplyCode::NotAllowed);
    assert_eq!(status_of(&mut dial(relay.address), "bob", &proof()), 401);
    check_echo(&mut running, b"hello");
    drop(running);
    relay.stop().check_clean();
}

#[test]
fn the_log_tells_for_whom_and_where_to_and_no_secret() {
    let target = service(echo);
    let (_folder, mut relay) = relay("", &["--log-level", "debug"]);
    let proof = proof();
    let mut visitor = dial(relay.address);
    assert_eq!(status_of(&mut visitor, "alice", &proof), 101);
    let asked = ask(&mut visitor, &to("localhost", target.port()));
    assert_eq!(asked, ReplyCode::Succeeded);
    check_echo(&mut visitor, b"hello");
    drop(visitor);
    let line = relay.wait_for_line("session ended");
    let expected = format!("user=alice target=localhost:{}", target.port());
    assert!(line.contains(&expected), "{line}");
    let log = relay.stop().log;
    let kept = PasswordDigest::of(PASSWORD).to_string();
    for secret in [&proof, &kept, PASSWORD] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn what_a_visitor_does_not_get_is_told_with_whose_it_is() {
    let (denied, closed) = (service(echo), closed_port());
    let rules = format!(
        "{FOR_ALICE}egress = [\"deny *:{}\"]\nsessions_max = 1\n",
        denied.port()
    );
    let log = ["env", "MIDSPAN_LOG=info,dial=debug"];
    let (_folder, mut relay) = relay_by(&log, &rules, &[]);
    let mut refused = |request: &[u8], code, expected: String| {
        let mut visitor = visit(relay.address, "alice");
        assert_eq!(ask(&mut visitor, request), code);
        if code == ReplyCode::ConnectionRefused {
            let line = relay.wait_for_line("not dialled");
            for part in [" dial: ", "user=alice", "error=", &closed.to_string()] {
                assert!(line.contains(part), "{part}: {line}");
            }
        }
        let line = relay.wait_for_line("visitor refused").replace('"', "");
        for part in [" access: ", "peer=127.0.0.1:", &expected] {
            assert!(line.contains(part), "{part}: {line}");
        }
        visitor
    };
    let connecting = "command=connect reason";
    let expected = format!("user=alice target={denied} {connecting}=egress_denied code=2");
    refused(&connect(denied), ReplyCode::NotAllowed, expected);
    let expected = format!("user=alice target={closed} {connecting}=dial_failed code=5");
    refused(&connect(closed), ReplyCode::ConnectionRefused, expected);
    let running = service(echo);
    let mut only = visit(relay.address, "alice");
    assert_eq!(ask(&mut only, &connect(running)), ReplyCode::Succeeded);
    let datagrams = request(Command::UdpAssociate, "0.0.0.0", 0);
    let mut visitor = visit(relay.address, "alice");
    assert_eq!(ask(&mut visitor, &datagrams), ReplyCode::GeneralFailure);
    let line = relay.wait_for_line("visitor refused").replace('"', "");
    let expected = "target=0.0.0.0:0 command=udp_associate reason=too_many_of_user code=1";
    assert!(line.contains(expected), "{line}");
    drop((visitor, only));
    relay.stop().check_clean();
}
