//! PTTH over HTTP: ports forwarded by ordinary requests, with whole bytes and clear ends.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use midspan::access::ApiKey;

use super::jet_client::dial;
use super::patience::until;
use super::peers::resets::reset;
use super::relay_process::Relay;
use super::require::require;
use super::rest::{exchange, read_response};

fn key(byte: u8) -> ApiKey {
    ApiKey::from_random([byte; 24])
}

pub(super) const HOME: u8 = 1;
pub(super) const LAB: u8 = 2;
pub(super) const ALICE: u8 = 3;

/// A relay with the servers home and lab, and the client alice, who reaches home alone.
pub(super) fn relay() -> (tempfile::TempDir, Relay) {
    relay_with("", &[])
}

/// The same, with something besides in its file, and options.
pub(super) fn relay_with(besides: &str, options: &[&str]) -> (tempfile::TempDir, Relay) {
    let folder = tempfile::tempdir().expect("a folder");
    let server = |name: &str, byte| {
        let hash = key(byte).hash();
        format!("[[ptth.servers]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n")
    };
    let client = key(ALICE).hash();
    let text = format!(
        "{}{}[[ptth.clients]]\nname = \"alice\"\nsha256 = \"{client}\"\nmay = [\"home\"]\n{besides}",
        server("home", HOME),
        server("lab", LAB),
    );
    let path = folder.path().join("relay.toml");
    fs::write(&path, text).expect("written");
    let file = ["--config", path.to_str().expect("text")];
    let relay = Relay::start(&[&file, options].concat());
    (folder, relay)
}

/// Sends the head of a call.
pub(super) fn call(relay: SocketAddr, who: u8, what: &str, headers: &str) -> TcpStream {
    let mut stream = dial(relay);
    let head = format!(
        "POST /ptth/v1/{what} HTTP/1.1\r\nHost: relay\r\nX-ApiKey: {}\r\n{headers}\r\n",
        key(who)
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

pub(super) fn status(relay: SocketAddr, who: u8, what: &str) -> u16 {
    read_response(&mut call(relay, who, what, "")).status
}

/// The head of an answer whose body streams.
pub(super) fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    head
}

/// The four connections of a tunnel.
pub(super) struct Tunnel {
    pub(super) connect: TcpStream,
    pub(super) upstream: TcpStream,
    pub(super) accept: TcpStream,
    pub(super) downstream: TcpStream,
}

pub(super) const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

impl Tunnel {
    /// In the order of the document.
    pub(super) fn open(relay: SocketAddr, port: &str) -> Self {
        let mut listen = call(relay, HOME, &format!("listen/{port}"), "");
        let mut connect = call(relay, ALICE, &format!("connect/home/{port}"), "");
        let offer = read_response(&mut listen);
        assert_eq!(offer.status, 200);
        let id = offer.body.clone();
        assert_eq!(offer.header("X-PTTH-Connection-Id"), Some(&*id));
        let mut accept = call(relay, HOME, &format!("accept/{id}"), "");
        let head = read_head(&mut connect);
        assert!(head.contains(&id), "{head}");
        read_head(&mut accept);
        Self {
            connect,
            upstream: call(relay, ALICE, &format!("upstream/{id}"), CHUNKED),
            accept,
            downstream: call(relay, HOME, &format!("downstream/{id}"), CHUNKED),
        }
    }
}

/// Chunks of these sizes, again and again, as they go over the wire, with the last one.
fn chunks_of(data: &[u8], sizes: &[usize], trailer: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = data;
    for (index, size) in sizes.iter().cycle().enumerate() {
        let (piece, behind) = rest.split_at(rest.len().min(*size));
        if piece.is_empty() {
            break;
        }
        wire.extend_from_slice(format!("{:x};i={index}\r\n", piece.len()).as_bytes());
        wire.extend_from_slice(piece);
        wire.extend_from_slice(b"\r\n");
        rest = behind;
    }
    wire.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
    wire
}

fn chunks(data: &[u8]) -> Vec<u8> {
    chunks_of(data, &[16_000], "")
}

fn data(seed: u8) -> Vec<u8> {
    (0..3_000_000_u32)
        .map(|at| (at.wrapping_mul(31) >> 3).to_le_bytes()[0] ^ seed)
        .collect()
}

#[test]
fn bytes_pass_whole_both_ways_at_once_and_each_way_ends_for_itself() {
    let (_folder, relay) = relay();
    thread::scope(|scope| {
        // Several ports, so that other shards have some of them.
        for port in ["22", "80", "443", "5432", "a.b-c_d"] {
            let address = relay.address;
            scope.spawn(move || {
                let tunnel = Tunnel::open(address, port);
                let ways = [
                    (tunnel.upstream, tunnel.accept, 1),
                    (tunnel.downstream, tunnel.connect, 2),
                ];
                thread::scope(|scope| {
                    for (request, answer, seed) in ways {
                        scope.spawn(move || {
                            let wire = chunks(&data(seed));
                            let got = pass(request, answer, &wire);
                            assert!(got == wire, "{} bytes", got.len());
                        });
                    }
                });
            });
        }
    });
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 10);
    assert_eq!(ended.counters.count("ended.finished_by_left"), 10);
}

/// Sends a body on one connection of a tunnel, and returns what came out of the other.
fn pass(mut request: TcpStream, mut answer: TcpStream, wire: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut got = Vec::new();
            answer.read_to_end(&mut got).expect("a clean end");
            got
        });
        request.write_all(wire).expect("sent");
        assert_eq!(read_response(&mut request).status, 200);
        reader.join().expect("read")
    })
}

#[test]
fn long_bodies_pass_as_they_came_on_every_plane() {
    let data: Vec<u8> = data(7).into_iter().cycle().take(20_000_000).collect();
    let upwards = chunks_of(&data, &[16 << 10, 65_537, 1_000_003], "A: b\r\nC: d\r\n");
    let downwards = chunks_of(&data, &[300_001, 1, 100_000, 49, 70_000, 16 << 10], "");
    for (plane, is_spliced) in [
        ("auto", true),
        ("splice", true),
        ("copy", false),
        ("ring", false),
    ] {
        let (_folder, relay) = relay_with("", &["--data-plane", plane]);
        let tunnel = Tunnel::open(relay.address, "22");
        let (up, down) = thread::scope(|scope| {
            let up = scope.spawn(|| pass(tunnel.upstream, tunnel.accept, &upwards));
            let down = pass(tunnel.downstream, tunnel.connect, &downwards);
            (up.join().expect("passed"), down)
        });
        assert!(up == upwards && down == downwards, "{plane}");
        let ended = relay.stop();
        ended.check_clean();
        let relayed = ended.counters.count("bytes_relayed");
        assert_eq!(relayed, (up.len() + down.len()) as u64, "{plane}");
        let spliced = ended.counters.count("bytes_spliced");
        assert_eq!(spliced > 0, is_spliced, "{plane}: {spliced}");
    }
}

#[test]
fn a_long_body_that_breaks_off_or_goes_wrong_is_no_end() {
    let (_folder, relay) = relay();
    let whole = chunks_of(&data(3), &[100_000], "");
    let cut = &whole[..whole.len() - 1];
    let wrong = [&whole[..whole.len() - 5], b"zz\r\n"].concat();
    let again = [&whole[..], b"5\r\nhello\r\n0\r\n\r\n"].concat();
    for (wire, is_whole) in [(cut, false), (&wrong, false), (&again, true)] {
        let mut tunnel = Tunnel::open(relay.address, "22");
        let mut got = Vec::new();
        let ended = thread::scope(|scope| {
            let reader = scope.spawn(|| tunnel.accept.read_to_end(&mut got).is_ok());
            // What is wrong ends the connection before all of it is out.
            let _ = tunnel.upstream.write_all(wire);
            let _ = tunnel.upstream.shutdown(Shutdown::Write);
            reader.join().expect("read")
        });
        assert_eq!(ended, is_whole);
        assert!(whole.starts_with(&got));
        assert_eq!(got == whole, is_whole);
    }
    assert!(relay.stop().status.success());
}

#[test]
fn a_server_may_speak_first_and_the_client_last() {
    let (_folder, relay) = relay();
    let mut tunnel = Tunnel::open(relay.address, "22");
    tunnel
        .downstream
        .write_all(b"6\r\nbanner\r\n")
        .expect("sent");
    let mut banner = [0; 11];
    tunnel
        .connect
        .read_exact(&mut banner)
        .expect("it comes at once");
    assert_eq!(&banner, b"6\r\nbanner\r\n");
    // The server's half is over, and the client's is not.
    tunnel.downstream.write_all(b"0\r\n\r\n").expect("sent");
    let mut end = Vec::new();
    tunnel.connect.read_to_end(&mut end).expect("a clean end");
    assert_eq!(end, b"0\r\n\r\n");
    drop(tunnel.connect);
    assert_eq!(read_response(&mut tunnel.downstream).status, 200);
    tunnel
        .upstream
        .write_all(b"3\r\nbye\r\n0\r\n\r\n")
        .expect("sent");
    let mut bye = Vec::new();
    tunnel.accept.read_to_end(&mut bye).expect("a clean end");
    assert_eq!(bye, b"3\r\nbye\r\n0\r\n\r\n");
    drop(tunnel.accept);
    assert_eq!(read_response(&mut tunnel.upstream).status, 200);
    relay.stop().check_clean();
}

/// Whether the connection was reset, or ended without a last chunk or a status of success.
pub(super) fn is_cut(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {
            let done = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n";
            !rest.ends_with(b"0\r\n\r\n") && !rest.starts_with(done)
        }
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn whichever_connection_goes_the_other_three_are_cut() {
    let (_folder, relay) = relay();
    for gone in 0..4 {
        for by_reset in [true, false] {
            let Tunnel {
                connect,
                upstream,
                accept,
                downstream,
            } = Tunnel::open(relay.address, "22");
            let mut all = vec![connect, upstream, accept, downstream];
            for (at, other) in [(1, 2), (3, 0)] {
                all[at].write_all(b"2\r\nhi\r\n").expect("sent");
                all[other].read_exact(&mut [0; 7]).expect("they flow");
            }
            let one = all.remove(gone);
            match by_reset {
                true => reset(one),
                false => drop(one),
            }
            for (index, other) in all.iter_mut().enumerate() {
                assert!(is_cut(other), "{gone} {by_reset} {index}");
            }
        }
    }
    let ended = relay.stop();
    assert!(ended.status.success());
    assert_eq!(ended.counters.count("paired"), 16);
}

#[test]
fn what_is_not_to_be_is_refused_with_its_status() {
    let (_folder, relay) = relay();
    let address = relay.address;
    let mut listen = call(address, HOME, "listen/22", "");
    let mut connect = call(address, ALICE, "connect/home/22", "");
    let id = read_response(&mut listen).body;
    for (who, what, expected) in [
        (9, "listen/22", 401),
        (ALICE, "listen/22", 401),
        (HOME, "connect/home/22", 401),
        (ALICE, "connect/lab/22", 404),
        (ALICE, "connect/moon/22", 404),
        (HOME, "listen/..", 400),
        (HOME, "speak/22", 404),
        (HOME, "accept/GAYTEMZUGU3DOOBZMFRGGZDFMY", 404),
        (LAB, &format!("accept/{id}"), 404),
        (LAB, &format!("reject/{id}"), 404),
        (ALICE, &format!("upstream/{id}"), 404),
        (HOME, &format!("reject/{id}"), 204),
        (HOME, &format!("reject/{id}"), 404),
    ] {
        assert_eq!(status(address, who, what), expected, "{what}");
    }
    assert_eq!(read_response(&mut connect).status, 502);
    let other_method = format!("GET /ptth/v1/accept/{id}");
    let by_get = exchange(address, &other_method, "");
    assert_eq!((by_get.status, by_get.header("Allow")), (405, Some("POST")));
    let by_get = exchange(address, "GET /ptth/v1/accept/x", "");
    assert_eq!(by_get.status, 404);
    assert_eq!(exchange(address, "POST /ptth/v1/listen/22", "").status, 401);
    relay.stop().check_clean();
}

#[test]
fn what_a_dead_listen_is_told_of_is_offered_to_one_that_lives() {
    let limits = "[limits]\nptth_accept_timeout_s = 1\n";
    let (_folder, relay) = relay_with(limits, &[]);
    let address = relay.address;
    // Of several ports, so that each shard has some.
    for port in 20..24 {
        let mut dead = call(address, HOME, &format!("listen/{port}"), "");
        let mut connect = call(address, ALICE, &format!("connect/home/{port}"), "");
        let lost = read_response(&mut dead).body;
        let mut downstream = next_call(address, "downstream", &lost);
        let mut listen = call(address, HOME, &format!("listen/{port}"), "");
        let id = read_response(&mut listen).body;
        assert_ne!(id, lost);
        // Whoever accepts the first offer after all has nothing of the second's tunnel.
        assert_eq!(read_response(&mut downstream).status, 502);
        assert_eq!(status(address, HOME, &format!("accept/{lost}")), 404);
        let mut accept = next_call(address, "accept", &id);
        let head = read_head(&mut connect);
        assert!(head.contains(&id), "{head}");
        read_head(&mut accept);
        let mut upstream = next_call(address, "upstream", &id);
        let _downstream = next_call(address, "downstream", &id);
        upstream.write_all(b"2\r\nhi\r\n").expect("sent");
        accept.read_exact(&mut [0; 7]).expect("it flows");
    }
    // A client that goes meanwhile is waited for by nobody.
    let mut dead = call(address, HOME, "listen/22", "");
    let connect = call(address, ALICE, "connect/home/22", "");
    assert_eq!(read_response(&mut dead).status, 200);
    drop(connect);
    assert!(relay.stop().status.success());
}

#[test]
fn a_server_that_takes_itself_for_another_is_told_who_it_is() {
    let (_folder, relay) = relay();
    let claim = "X-PTTH-Server: home\r\n";
    let mut stream = call(relay.address, LAB, "listen/22", claim);
    let told = read_response(&mut stream);
    let known = told.header("X-PTTH-Server");
    assert_eq!((told.status, known), (403, Some("lab")));
    // Whoever has nobody's key hears of nobody.
    let told = read_response(&mut call(relay.address, 9, "listen/22", claim));
    assert_eq!((told.status, told.header("X-PTTH-Server")), (401, None));
    let mut listen = call(relay.address, HOME, "listen/22", claim);
    let connect = call(relay.address, ALICE, "connect/home/22", "");
    assert_eq!(read_response(&mut listen).status, 200);
    drop(connect);
    let wrong = call(relay.address, HOME, "listen/22", "X-PTTH-Server: a b\r\n");
    assert_eq!(read_response(&mut { wrong }).status, 400);
    let ended = relay.stop();
    assert!(ended.status.success());
    assert_eq!(ended.counters.count("refused.other_server"), 1);
}

#[test]
fn a_second_use_of_a_leg_and_one_connection_too_many_are_refused() {
    let (_folder, relay) = relay();
    let address = relay.address;
    let mut listen = call(address, HOME, "listen/22", "");
    let _connect = call(address, ALICE, "connect/home/22", "");
    let id = read_response(&mut listen).body;
    let mut accept = call(address, HOME, &format!("accept/{id}"), "");
    read_head(&mut accept);
    let asks = format!("{CHUNKED}Expect: 100-continue\r\n");
    let mut upstream = call(address, ALICE, &format!("upstream/{id}"), &asks);
    // It is told so once it is taken.
    let mut go_on = [0; 25];
    upstream.read_exact(&mut go_on).expect("a word");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    for (who, what) in [(ALICE, "upstream"), (HOME, "accept")] {
        assert_eq!(status(address, who, &format!("{what}/{id}")), 409, "{what}");
    }
    let mut backlog: Vec<_> = (0..65)
        .map(|_| call(address, ALICE, "connect/home/80", ""))
        .collect();
    let is_answered = |stream: &TcpStream| {
        stream.set_nonblocking(true).expect("a socket");
        stream.peek(&mut [0]).is_ok()
    };
    let told = until("one is too many", || backlog.iter().position(is_answered));
    backlog[told].set_nonblocking(false).expect("a socket");
    assert_eq!(read_response(&mut backlog[told]).status, 503);
    drop(backlog);
    assert!(relay.stop().status.success());
}

#[test]
fn chunks_that_are_none_and_bodies_that_break_off_are_no_end() {
    let (_folder, relay) = relay();
    for wrong in [
        &b"zz\r\n"[..],
        b"ffffffffffffffff1\r\n",
        b"5\r\nhelloXX",
        b"5\r\nhel",
    ] {
        let mut tunnel = Tunnel::open(relay.address, "22");
        tunnel.upstream.write_all(wrong).expect("sent");
        tunnel
            .upstream
            .shutdown(Shutdown::Write)
            .expect("connected");
        assert!(is_cut(&mut tunnel.accept), "{wrong:?}");
        assert!(is_cut(&mut tunnel.connect), "{wrong:?}");
    }
    assert!(relay.stop().status.success());
}

/// What the documentation has both sides do by hand.
fn by_hand() -> [&'static str; 2] {
    let text = include_str!("../../docs/protocols/ptth-http.md");
    let (_, text) = text.split_once("\nBy hand").expect("the text");
    let mut blocks = text.split("```\n").skip(1).step_by(2);
    [(); 2].map(|()| blocks.next().expect("a block"))
}

/// Starts a script of a shell that asks this relay with these keys.
fn start_shell(folder: &Path, relay: SocketAddr, [server, client]: [u8; 2], script: &str) -> Child {
    Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .env("RELAY", format!("http://{relay}/ptth/v1"))
        .env("SERVER", key(server).to_string())
        .env("CLIENT", key(client).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell runs")
}

#[test]
fn curl_plays_every_part() {
    let Some(_) = require("curl") else {
        return;
    };
    let (folder, relay) = relay();
    let [server_script, client_script] = by_hand();
    // Twice in the same folder.
    for seed in [1, 2] {
        let start = |script| start_shell(folder.path(), relay.address, [HOME, ALICE], script);
        let (server, mut client) = (start(server_script), start(client_script));
        let mut input = client.stdin.take().expect("a pipe");
        let output = thread::scope(|scope| {
            scope.spawn(move || input.write_all(&data(seed)).expect("taken"));
            client.wait_with_output().expect("it ends")
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.stdout == data(seed),
            "{} {said}",
            output.stdout.len()
        );
        for ended in [output, server.wait_with_output().expect("it ends")] {
            assert!(
                ended.status.success() && ended.stderr.is_empty(),
                "{ended:?}"
            );
        }
    }
    relay.stop().check_clean();
}

#[test]
fn curl_ends_where_the_relay_says_no() {
    let Some(_) = require("curl") else {
        return;
    };
    let (folder, relay) = relay_with("", &["--limit", "ptth_connect_timeout_s=1"]);
    let [server_script, client_script] = by_hand();
    let elsewhere = client_script.replace("home", "lab");
    for (keys, script, status) in [
        ([9, ALICE], server_script, "401"),
        ([HOME, 9], client_script, "401"),
        ([HOME, ALICE], &elsewhere, "404"),
        ([HOME, ALICE], client_script, "504"),
    ] {
        let child = start_shell(folder.path(), relay.address, keys, script);
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        let expected = format!("curl: (22) The requested URL returned error: {status}");
        assert!(said.starts_with(&expected), "{said}");
        assert!(!output.status.success() && output.stdout.is_empty());
    }
    relay.stop().check_clean();
}

/// Asks on a connection that is open, and gives the answer's status and body.
fn ask(stream: &mut TcpStream, who: u8, what: &str, headers: &str) -> (u16, String) {
    let head = format!(
        "POST /ptth/v1/{what} HTTP/1.1\r\nHost: relay\r\nX-ApiKey: {}\r\n{headers}\r\n",
        key(who)
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let answer = read_response(stream);
    (answer.status, answer.body)
}

#[test]
fn a_connection_may_ask_again_behind_an_answer_that_has_ended() {
    let (_folder, relay) = relay();
    let mut server = dial(relay.address);
    let mut client = dial(relay.address);
    // Ports of either shard, so that the connections move, and move back.
    for port in 20..36 {
        let connect = format!(
            "POST /ptth/v1/connect/home/{port} HTTP/1.1\r\nHost: relay\r\nX-ApiKey: {}\r\n\r\n",
            key(ALICE)
        );
        client.write_all(connect.as_bytes()).expect("sent");
        let (status, id) = ask(&mut server, HOME, &format!("listen/{port}"), "");
        assert_eq!((status, id.len()), (200, 26));
        let (status, _) = ask(&mut server, HOME, &format!("reject/{id}"), "");
        assert_eq!(status, 204);
        assert_eq!(read_response(&mut client).status, 502);
        let (status, _) = ask(&mut server, HOME, &format!("accept/{id}"), "");
        assert_eq!(status, 404);
        let (status, _) = ask(&mut client, ALICE, "connect/lab/22", "");
        assert_eq!(status, 404);
    }
    for (stream, who, what, headers) in [
        (
            server,
            HOME,
            "reject/GAYTEMZUGU3DOOBZMFRGGZDFMY",
            "Connection: close\r\n",
        ),
        // What follows is a body, and no request.
        (
            client,
            ALICE,
            "upstream/GAYTEMZUGU3DOOBZMFRGGZDFMY",
            "Transfer-Encoding: chunked\r\n",
        ),
    ] {
        let mut stream = stream;
        assert_eq!(ask(&mut stream, who, what, headers).0, 404);
        assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
    }
    let ended = relay.stop();
    ended.check_clean();
    assert!(
        ended.counters.count("handed_in") > 0,
        "{:?}",
        ended.counters
    );
}

#[test]
fn what_comes_while_a_request_waits_is_the_next_one() {
    let (_folder, relay) = relay();
    let mut server = dial(relay.address);
    let listen = format!(
        "POST /ptth/v1/listen/22 HTTP/1.1\r\nHost: relay\r\nX-ApiKey: {}\r\n\r\n",
        key(HOME)
    );
    server.write_all(listen.repeat(2).as_bytes()).expect("sent");
    for _ in 0..2 {
        let mut client = call(relay.address, ALICE, "connect/home/22", "");
        let id = read_response(&mut server).body;
        assert_eq!(status(relay.address, HOME, &format!("reject/{id}")), 204);
        assert_eq!(read_response(&mut client).status, 502);
    }
    // More than is kept of it.
    let flood = listen.clone() + &"x".repeat(8 << 10);
    server.write_all(flood.as_bytes()).expect("sent");
    let mut rest = Vec::new();
    // What was not read makes a reset of the end.
    let ended = server.read_to_end(&mut rest);
    assert!(
        rest.is_empty() && !matches!(ended, Err(error) if error.kind() == ErrorKind::WouldBlock)
    );
    relay.stop().check_clean();
}

#[test]
fn whoever_has_all_of_an_answer_may_go_by_a_reset() {
    let (_folder, relay) = relay();
    let mut tunnel = Tunnel::open(relay.address, "22");
    tunnel
        .downstream
        .write_all(b"2\r\nhi\r\n0\r\n\r\n")
        .expect("sent");
    let mut end = Vec::new();
    tunnel.connect.read_to_end(&mut end).expect("a clean end");
    reset(tunnel.connect);
    assert_eq!(read_response(&mut tunnel.downstream).status, 200);
    // The other way goes on.
    tunnel
        .upstream
        .write_all(b"2\r\nho\r\n0\r\n\r\n")
        .expect("sent");
    let mut end = Vec::new();
    tunnel.accept.read_to_end(&mut end).expect("a clean end");
    assert_eq!(end, b"2\r\nho\r\n0\r\n\r\n");
    drop(tunnel.accept);
    assert_eq!(read_response(&mut tunnel.upstream).status, 200);
    relay.stop().check_clean();
}

/// The next call of a tunnel.
pub(super) fn next_call(relay: SocketAddr, what: &str, id: &str) -> TcpStream {
    let (who, headers) = match what {
        "accept" => (HOME, ""),
        "downstream" => (HOME, "Transfer-Encoding: chunked\r\n"),
        _ => (ALICE, "Transfer-Encoding: chunked\r\n"),
    };
    call(relay, who, &format!("{what}/{id}"), headers)
}

#[test]
fn calls_without_a_stream_have_no_body_of_any_length() {
    let (_folder, relay) = relay();
    let address = relay.address;
    for (what, headers, body, expected) in [
        ("connect/home/22", "Content-Length: 4097\r\n", 0, 413),
        ("connect/home/22", "Transfer-Encoding: chunked\r\n", 0, 411),
        ("connect/lab/22", "Content-Length: 4096\r\n", 4096, 404),
    ] {
        let mut stream = call(address, ALICE, what, headers);
        stream.write_all(&vec![b'x'; body]).expect("sent");
        assert_eq!(read_response(&mut stream).status, expected, "{headers}");
    }
    for (what, expected) in [("connect/home/22", 505), ("connect/nowhere/22", 505)] {
        let old = format!(
            "POST /ptth/v1/{what} HTTP/1.0\r\nX-ApiKey: {}\r\n\r\n",
            key(ALICE)
        );
        let mut stream = dial(address);
        stream.write_all(old.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut stream).status, expected);
    }
    let endless = format!("X: {}", "y".repeat(17 << 10));
    let mut stream = call(address, ALICE, "connect/home/22", &endless);
    assert_eq!(read_response(&mut stream).status, 431);
    relay.stop().check_clean();
}
