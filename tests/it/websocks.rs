//! Visitors who come by WebSocks: let in by their passwords, and connected with what they
//! ask for.

use std::fmt::Debug;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use midspan::access::PasswordDigest;
use midspan::protocol::Progress;
use midspan::protocol::socks5::{Command, Destination, Reply, ReplyCode, Request};
use midspan::protocol::websocks::{MAX_FRAME, PONG, authorization};
use midspan::runtime::clock;

use super::agents::{echo, service};
use super::jet_client::{End, dial, read_to_end};
use super::patience::until;
use super::peers::stalls::stall;
use super::relay_process::Relay;
use super::rest::read_response;

pub(crate) const PASSWORD: &str = "pasSw0rD";

/// A relay with one user, and these further lines in its file. It dials to this host, unless
/// they say where to.
pub(crate) fn relay(lines: &str) -> (tempfile::TempDir, Relay) {
    let folder = tempfile::tempdir().expect("a folder");
    let relay = relay_in(folder.path(), lines, &[]);
    (folder, relay)
}

pub(crate) fn relay_in(folder: &Path, lines: &str, options: &[&str]) -> Relay {
    let config = config_in(folder, lines);
    let config = ["--config", config.to_str().expect("text")];
    Relay::start(&[options, &config].concat())
}

/// The file of such a relay.
pub(crate) fn config_in(folder: &Path, lines: &str) -> PathBuf {
    let (path, users) = (folder.join("relay.toml"), folder.join("users"));
    write_users(&users, PASSWORD);
    let egress = match lines.contains("[egress]") {
        true => "",
        false => "[egress]\nreach = \"everything\"",
    };
    let text = format!(
        "{lines}\n{egress}\n[websocks]\nusers = {:?}\n",
        users.to_str().expect("text")
    );
    fs::write(&path, text).expect("written");
    path
}

fn write_users(path: &Path, password: &str) {
    let kept = PasswordDigest::of(password);
    let fresh = path.with_extension("new");
    fs::write(&fresh, format!("# who\nalice:{kept}\n")).expect("written");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o640)).expect("chmod");
    fs::rename(&fresh, path).expect("renamed");
}

/// What a client asks with, as the author's agent does but for `key`.
pub(crate) fn knock(user: &str, proof: &str, key: &str, protocol: &str) -> String {
    let authorization = authorization(user, proof);
    format!(
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nHost: null\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{protocol}\
         Authorization: {authorization}\r\n\r\n"
    )
}

pub(crate) const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";
const SAMPLE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const SOCKS5: &str = "Sec-WebSocket-Protocol: socks5\r\n";

fn proof(minutes_ago: u64) -> String {
    let then = clock::unix_time() - Duration::from_secs(60 * minutes_ago);
    PasswordDigest::of(PASSWORD).proof(then)
}

/// A visitor that was let in.
pub(crate) fn visit(relay: SocketAddr, key: &str) -> TcpStream {
    visit_by(relay, key, "socks5")
}

/// One whose bytes go in messages.
pub(crate) fn visit_framed(relay: SocketAddr) -> TcpStream {
    visit_by(relay, KEY, "socks5.framed")
}

fn visit_by(relay: SocketAddr, key: &str, protocol: &str) -> TcpStream {
    let mut stream = dial(relay);
    let asked = format!("Sec-WebSocket-Protocol: {protocol}\r\n");
    let request = knock("alice", &proof(0), key, &asked);
    stream.write_all(request.as_bytes()).expect("sent");
    let response = read_response(&mut stream);
    assert_eq!(response.status, 101);
    assert_eq!(response.header("Sec-WebSocket-Protocol"), Some(protocol));
    stream
}

pub(crate) fn request(command: Command, host: &str, port: u16) -> Vec<u8> {
    let mut bytes = b"\x05\x01\0".to_vec();
    let destination = Destination::named(host, port).expect("a destination");
    let request = Request {
        command,
        destination,
    };
    request.encode(&mut bytes);
    bytes
}

pub(crate) fn connect(target: SocketAddr) -> Vec<u8> {
    request(Command::Connect, &target.ip().to_string(), target.port())
}

/// Reads what the server says up to its reply.
pub(crate) fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut start = [0; 12];
    stream
        .read_exact(&mut start)
        .expect("ten bytes and a method");
    assert_eq!(start[..10], MAX_FRAME);
    assert_eq!(start[10..], [5, 0]);
    read_value(stream, Reply::decode)
}

/// Reads one value and not a byte more.
pub(crate) fn read_value<T, E: Debug>(
    stream: &mut TcpStream,
    decode: impl Fn(&[u8]) -> Result<Progress<T>, E>,
) -> T {
    let mut received = Vec::new();
    loop {
        match decode(&received).expect("a value") {
            Progress::Complete { value, consumed } => {
                assert_eq!(consumed, received.len());
                return value;
            }
            Progress::Partial { more_bytes_min } => {
                let from = received.len();
                received.resize(from + more_bytes_min, 0);
                stream
                    .read_exact(&mut received[from..])
                    .expect("more of it");
            }
        }
    }
}

#[track_caller]
pub(crate) fn check_echo(stream: &mut TcpStream, word: &[u8]) {
    stream.write_all(word).expect("sent");
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).expect("the word");
    assert_eq!(back, word);
}

#[test]
fn a_visitor_is_connected_with_what_it_asks_for() {
    let (_folder, mut relay) = relay("");
    let target = service(echo);
    // All in one piece, with what follows.
    let mut visitor = visit(relay.address, KEY);
    let wire = [&MAX_FRAME[..], &connect(target), b"early"].concat();
    visitor.write_all(&wire).expect("sent");
    let reply = read_reply(&mut visitor);
    assert_eq!(reply.code, ReplyCode::Succeeded);
    let mut early = [0; 5];
    visitor.read_exact(&mut early).expect("the early word");
    assert_eq!(&early, b"early");
    check_echo(&mut visitor, b"hello");
    visitor.shutdown(Shutdown::Write).expect("connected");
    assert_eq!(read_to_end(&mut visitor), (Vec::new(), End::Closed));

    // A byte at a time, after a while in a pool.
    let mut visitor = visit(relay.address, KEY);
    let wire = [
        &PONG[..],
        &PONG,
        b"\x8a\x80mask",
        &MAX_FRAME,
        &connect(target),
    ]
    .concat();
    for byte in wire {
        visitor.write_all(&[byte]).expect("sent");
    }
    assert_eq!(read_reply(&mut visitor).code, ReplyCode::Succeeded);
    check_echo(&mut visitor, b"again");
    drop(visitor);
    relay.wait_for_counters("the sessions to end", |counters| {
        counters.count("ended.finished_by_left") == 2
    });
    relay.stop().check_clean();
}

#[test]
fn an_address_may_have_so_many_visitors_and_what_is_dialled_for_them_is_not_counted() {
    let limit = "[limits]\nconnections_per_address_max = 3";
    let (_folder, mut relay) = relay(&format!("cores = 1\n{limit}"));
    let target = service(echo);
    let pooled = visit(relay.address, KEY);
    let mut visitor = visit(relay.address, KEY);
    let wire = [&MAX_FRAME[..], &connect(target)].concat();
    visitor.write_all(&wire).expect("sent");
    assert_eq!(read_reply(&mut visitor).code, ReplyCode::Succeeded);
    check_echo(&mut visitor, b"hello");
    // Their target has the same address as these three.
    let third = visit(relay.address, KEY);
    let mut fourth = stall(relay.address, b"G");
    assert_eq!(read_to_end(&mut fourth).0, b"");
    let refused = relay.counters().count("refused.too_many_from_address");
    assert_eq!(refused, 1);
    // They are counted no longer than they are there.
    drop((pooled, visitor, third));
    let mut next = Vec::new();
    until("room for three", || {
        let mut stream = dial(relay.address);
        let request = knock("alice", &proof(0), KEY, SOCKS5);
        // It may have been closed already.
        let _ = stream.write_all(request.as_bytes());
        if matches!(stream.peek(&mut [0]), Ok(1)) {
            next.push(stream);
        }
        (next.len() == 3).then_some(())
    });
    drop(next);
    relay.stop().check_clean();
}

#[test]
fn whoever_speaks_first_is_heard_at_once_and_apart_where_that_is_needed() {
    const BANNER: &[u8] = b"220 ready\r\n";
    fn greet(mut stream: TcpStream) -> io::Result<()> {
        stream.write_all(BANNER)?;
        stream.read_to_end(&mut Vec::new()).map(|_| ())
    }
    let (_folder, relay) = relay("");
    let target = service(greet);
    for key in [KEY, SAMPLE_KEY] {
        for _ in 0..20 {
            let mut visitor = visit(relay.address, key);
            let wire = [&MAX_FRAME[..], &connect(target)].concat();
            visitor.write_all(&wire).expect("sent");
            let mut said = [0; 64];
            // As the author's agent does, which takes more than the reply for an error.
            let mut start = [0; 12];
            visitor
                .read_exact(&mut start)
                .expect("ten bytes and a method");
            let count = visitor.read(&mut said).expect("the reply");
            if key == SAMPLE_KEY {
                assert_eq!(count, 10, "{:?}", &said[..count]);
            }
            let mut banner = said[10..count].to_vec();
            while banner.len() < BANNER.len() {
                let count = visitor.read(&mut said).expect("the banner");
                banner.extend_from_slice(&said[..count]);
            }
            assert_eq!(banner, BANNER);
        }
    }
    relay.stop().check_clean();
}

#[test]
fn strangers_are_asked_for_a_password_and_told_no_more() {
    let (_folder, mut relay) = relay("");
    let right = proof(0);
    for (user, proof, protocol, status, reason) in [
        ("alice", "wrong", SOCKS5, 401, "wrong_password"),
        ("alice", PASSWORD, SOCKS5, 401, "wrong_password"),
        ("alice", &proof(3), SOCKS5, 401, "wrong_password"),
        ("alice", &proof(24 * 60), SOCKS5, 401, "wrong_password"),
        ("mallory", &right, SOCKS5, 401, "wrong_password"),
        ("alice", &right, "", 400, "no_sub_protocol"),
        (
            "alice",
            &right,
            "Sec-WebSocket-Protocol: chat\r\n",
            400,
            "no_sub_protocol",
        ),
    ] {
        let counter = format!("refused.{reason}");
        let before = relay.counters().count(&counter);
        let mut stream = dial(relay.address);
        let request = knock(user, proof, KEY, protocol);
        stream.write_all(request.as_bytes()).expect("sent");
        let response = read_response(&mut stream);
        let challenge = (status == 401).then_some("Basic");
        assert_eq!(response.status, status, "{user} {protocol}");
        assert_eq!(response.header("WWW-Authenticate"), challenge);
        assert_eq!(relay.counters().count(&counter), before + 1);
        // Whoever knows better now may say so.
        let request = knock("alice", &right, KEY, SOCKS5);
        stream.write_all(request.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut stream).status, 101);
    }
    let mut guessing = dial(relay.address);
    for _ in 0..3 {
        let request = knock("alice", "guess", KEY, SOCKS5);
        guessing.write_all(request.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut guessing).status, 401);
    }
    assert_eq!(read_to_end(&mut guessing), (Vec::new(), End::Closed));
    let log = relay.stop().log;
    assert!(!log.contains(&right), "{log}");

    let relay = Relay::start(&[]);
    let mut stream = dial(relay.address);
    let request = knock("alice", &right, KEY, SOCKS5);
    stream.write_all(request.as_bytes()).expect("sent");
    // Without users there is nothing of the kind.
    assert_eq!(read_response(&mut stream).status, 404);
    relay.stop().check_clean();
}

#[test]
fn what_cannot_be_had_is_told_truthfully() {
    let (_folder, mut relay) =
        relay("[egress]\nreach = \"everything\"\nrules = [\"deny *:25\", \"deny localhost:26\"]");
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    let to = |host: &str, port| request(Command::Connect, host, port);
    for (wire, code, reason) in [
        (connect(closed), ReplyCode::ConnectionRefused, "dial_failed"),
        (
            to("nobody.invalid", 80),
            ReplyCode::HostUnreachable,
            "not_resolved",
        ),
        (to("127.0.0.1", 25), ReplyCode::NotAllowed, "egress_denied"),
        (to("localhost", 26), ReplyCode::NotAllowed, "egress_denied"),
        (
            request(Command::Bind, "0.0.0.0", 0),
            ReplyCode::CommandNotSupported,
            "command_not_supported",
        ),
        (
            b"\x05\x01\0\x05\x01\0\x02\0\0\0\0\0\0".to_vec(),
            ReplyCode::AddressTypeNotSupported,
            "bad_socks",
        ),
    ] {
        let counter = format!("refused.{reason}");
        let before = relay.counters().count(&counter);
        let mut visitor = visit(relay.address, KEY);
        let wire = [&MAX_FRAME[..], &wire].concat();
        visitor.write_all(&wire).expect("sent");
        assert_eq!(read_reply(&mut visitor).code, code, "{reason}");
        assert_eq!(read_to_end(&mut visitor).0, b"", "{reason}");
        assert_eq!(relay.counters().count(&counter), before + 1, "{reason}");
    }
    let mut visitor = visit(relay.address, KEY);
    visitor.write_all(b"\x8a\x01x").expect("sent");
    assert_eq!(read_to_end(&mut visitor).0, b"");
    assert_eq!(relay.counters().count("refused.bad_prelude"), 1);
    relay.stop().check_clean();
}

#[test]
fn a_relay_that_others_reach_does_not_lead_to_its_own_host() {
    let (_folder, mut relay) = relay("[egress]");
    let target = service(echo);
    let port = target.port();
    let ways = [
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "localhost",
        "::1",
        "0.0.0.0",
        "169.254.169.254",
    ];
    for host in ways {
        let mut visitor = visit(relay.address, KEY);
        let wire = [&MAX_FRAME[..], &request(Command::Connect, host, port)].concat();
        visitor.write_all(&wire).expect("sent");
        assert_eq!(
            read_reply(&mut visitor).code,
            ReplyCode::NotAllowed,
            "{host}"
        );
    }
    let denied = relay.counters().count("refused.egress_denied");
    assert_eq!(denied, ways.len() as u64);
    relay.stop().check_clean();
}

#[test]
fn visitors_that_wait_hold_up_nothing() {
    let options = [
        "--limit",
        "handshakes_max=4",
        "--limit",
        "handshake_timeout_s=1",
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let mut relay = relay_in(folder.path(), "", &options);
    let mut pool: Vec<TcpStream> = (0..40).map(|_| visit(relay.address, KEY)).collect();
    // Longer than any handshake may take.
    let mut stalled = visit(relay.address, KEY);
    stalled.write_all(&MAX_FRAME).expect("sent");
    let (said, _) = read_to_end(&mut stalled);
    assert_eq!(said, MAX_FRAME);
    assert_eq!(relay.counters().count("refused.too_slow"), 1);
    let target = service(echo);
    for visitor in &mut pool {
        let wire = [&MAX_FRAME[..], &connect(target)].concat();
        visitor.write_all(&wire).expect("sent");
        assert_eq!(read_reply(visitor).code, ReplyCode::Succeeded);
        check_echo(visitor, b"late");
    }
    drop(pool);
    let waiting = visit(relay.address, KEY);
    // Nobody waits for whoever waits in a pool.
    relay.stop().check_clean();
    drop(waiting);
}

#[test]
fn a_user_may_have_another_password() {
    let (folder, mut relay) = relay("");
    drop(visit(relay.address, KEY));
    write_users(&folder.path().join("users"), "another");
    relay.wait_for_line("the configuration is taken");
    until("the other password", || {
        let mut stream = dial(relay.address);
        let proof = PasswordDigest::of("another").proof(clock::unix_time());
        let request = knock("alice", &proof, KEY, SOCKS5);
        stream.write_all(request.as_bytes()).expect("sent");
        (read_response(&mut stream).status == 101).then_some(())
    });
    relay.stop().check_clean();
}
