//! Requests with an absolute URL, which `midspan socks` passes on: each to its own server, and
//! nothing else on the same connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::agents::dial;
use super::patience::PATIENCE;
use super::peers::resets::reset;
use super::require::require;
use super::socks::{agent, url};
use super::websocks::relay;

/// Answers a request's head, keeps the connection, and tells in the end what came on it.
fn keeps_open(answer: &'static str) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let mut received = read_head(&mut stream);
            stream.write_all(answer.as_bytes()).expect("sent");
            // A client that leaves may do so by a reset.
            let _ = stream.read_to_end(&mut received);
            let text = String::from_utf8(received).expect("text");
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

/// What comes up to the end of a head, byte by byte, so that what is behind stays.
pub(crate) fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a head") > 0 {
        head.push(byte[0]);
    }
    head
}

fn received(receiver: &Receiver<String>) -> String {
    receiver.recv_timeout(PATIENCE).expect("a connection")
}

#[test]
fn a_second_request_on_a_connection_reaches_no_server() {
    let (folder, relay) = relay("");
    let (bank, bank_received) = keeps_open("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let (first, first_received) = keeps_open(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=60\r\n\
         Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    );
    let second = format!("GET http://{bank}/ HTTP/1.1\r\nHost: {bank}\r\nCookie: secret\r\n\r\n");
    for options in [&[][..], &["--framed"]] {
        let (agent, local) = agent(folder.path(), &url(&relay), options);
        for (method, framing, body) in [
            ("GET", "", ""),
            ("POST", "Content-Length: 3\r\n", "abc"),
            (
                "POST",
                "Connection: Content-Length\r\nContent-Length: 3\r\n",
                "abc",
            ),
            (
                "POST",
                "Transfer-Encoding: chunked\r\n",
                "3;x\r\nabc\r\n0\r\nA: b\r\n\r\n",
            ),
        ] {
            let mut stream = dial(local);
            let request = format!("{method} http://{first}/ HTTP/1.1\r\n{framing}\r\n{body}");
            stream
                .write_all((request + &second).as_bytes())
                .expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            let expected = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            assert_eq!(answer, expected, "{framing}");
            let got = received(&first_received);
            assert!(got.ends_with(&format!("\r\n\r\n{body}")), "{got}");
            assert!(!got.contains("secret"), "{got}");
            let has_length = framing.contains("Content-Length: 3");
            assert_eq!(got.contains("Content-Length: 3"), has_length, "{got}");
        }
        assert!(agent.stop().success());
    }
    assert!(bank_received.try_recv().is_err());
    relay.stop().check_clean();
}

#[test]
fn curl_has_each_of_two_urls_from_its_own_server() {
    let Some(curl) = require("curl") else {
        return;
    };
    let (folder, relay) = relay("");
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    let (one, at_one) = keeps_open("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    let (two, at_two) = keeps_open("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo");
    let output = Command::new(curl)
        .args(["--disable", "--silent", "--show-error", "--max-time", "60"])
        .args(["--noproxy", "", "-x", &format!("http://{local}")])
        .args([format!("http://{one}/a"), format!("http://{two}/b")])
        .output()
        .expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "onetwo");
    for (at, path) in [(at_one, "/a"), (at_two, "/b")] {
        let got = received(&at);
        assert!(
            got.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
            "{got}"
        );
        assert_eq!(got.matches("HTTP/1.1").count(), 1, "{got}");
    }
}

#[test]
fn a_body_waits_for_100_and_goes_both_ways_at_once() {
    const BYTES: usize = 8 << 20;
    let (folder, relay) = relay("");
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = listener.local_addr().expect("bound");
    // Echoes while it reads: whoever sends all before it reads anything is never done.
    let echoing = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("connected");
        read_head(&mut stream);
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        stream.write_all(interim).expect("sent");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut rest = stream.try_clone().expect("a descriptor");
        std::io::copy(&mut (&mut rest).take(BYTES as u64), &mut stream).expect("an echo")
    });
    let mut stream = dial(local);
    let head = format!(
        "POST http://{server}/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {BYTES}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    assert_eq!(read_head(&mut stream), b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut content = vec![0; BYTES];
    fastrand::Rng::with_seed(5).fill(&mut content);
    let mut sending = stream.try_clone().expect("a descriptor");
    let mut got = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            sending.write_all(&content).expect("sent");
            sending.shutdown(Shutdown::Write).expect("connected");
        });
        assert!(read_head(&mut stream).starts_with(b"HTTP/1.1 200 OK\r\n"));
        stream.read_to_end(&mut got).expect("the echo");
    });
    assert!(got == content, "{} bytes", got.len());
    assert_eq!(echoing.join().expect("it ends"), BYTES as u64);
}

/// A client of the agent's, and the server that it has asked, which has said `answer`.
pub(crate) fn answered(agent: SocketAddr, answer: &[u8]) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = listener.local_addr().expect("bound");
    let mut client = dial(agent);
    let request = format!("GET http://{server}/ HTTP/1.1\r\n\r\n");
    client.write_all(request.as_bytes()).expect("sent");
    let (mut stream, _) = listener.accept().expect("connected");
    read_head(&mut stream);
    stream.write_all(answer).expect("sent");
    (client, stream)
}

#[test]
fn a_response_that_breaks_off_does_not_look_whole() {
    let (folder, relay) = relay("");
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let answered = |answer| answered(local, answer);
    let (mut client, stream) = answered(b"HTTP/1.1 200 OK\r\n\r\nhalf of");
    assert!(read_head(&mut client).starts_with(b"HTTP/1.1 200 OK\r\n"));
    client.read_exact(&mut [0; 7]).expect("half of it");
    reset(stream);
    let error = client.read(&mut [0]).expect_err("no end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let line = agent.logged("exchange ended");
    assert!(line.contains("reason=\"broken\""), "{line}");
    // Before there is anything of it, there are words for it.
    for answer in [&b"SSH-2.0-x\r\n"[..], b"HTTP/1.1 200 O", b""] {
        let (mut client, stream) = answered(answer);
        stream.shutdown(Shutdown::Write).expect("connected");
        let mut words = String::new();
        client.read_to_string(&mut words).expect("its end");
        assert!(words.starts_with("HTTP/1.1 502 "), "{answer:?}: {words}");
        let line = agent.logged("exchange ended");
        assert!(line.contains("reason=\"failed\""), "{line}");
    }
}

#[test]
fn a_response_that_the_end_of_the_agent_cuts_off_does_not_look_whole() {
    let (folder, relay) = relay("");
    for (options, has_second_signal) in [(&[][..], true), (&["--drain-timeout", "0s"], false)] {
        let (mut agent, local) = agent(folder.path(), &url(&relay), options);
        let (mut client, _server) = answered(local, b"HTTP/1.1 200 OK\r\n\r\nhalf of");
        read_head(&mut client);
        client.read_exact(&mut [0; 7]).expect("half of it");
        agent.terminate();
        if has_second_signal {
            agent.logged("stopping: no new sessions");
            agent.terminate();
        }
        let error = client.read(&mut [0]).expect_err("no end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{options:?}");
        let line = agent.logged("exchange ended");
        assert!(line.contains("reason=\"drained\""), "{line}");
        assert!(agent.wait().success());
    }
}

/// A gateway that reads what goes to the relay until `is_deaf`. Gives its address and the
/// connections that come to it.
fn deaf_gateway(relay: SocketAddr, is_deaf: Arc<AtomicBool>) -> (SocketAddr, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (came, coming) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut server = TcpStream::connect(relay).expect("connected");
            let (mut from_server, mut to_client) = (
                server.try_clone().expect("a descriptor"),
                stream.try_clone().expect("a descriptor"),
            );
            thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
            // So that little waits in it once it is deaf.
            set_socket_recv_buffer_size(&stream, 4096).expect("a socket");
            let mut client = stream.try_clone().expect("a descriptor");
            let is_deaf = Arc::clone(&is_deaf);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = client.read(&mut buffer)
                    && !is_deaf.load(Ordering::SeqCst)
                {
                    server.write_all(&buffer[..count])?;
                }
                Ok::<_, std::io::Error>(())
            });
            if came.send(stream).is_err() {
                return;
            }
        }
    });
    (address, coming)
}

#[test]
fn a_relay_that_asks_for_words_and_reads_none_is_given_up() {
    /// Twice what the kernel's buffers may take of answers half as long.
    const PING_BYTES: usize = 16 << 20;
    let (folder, relay) = relay("");
    let is_deaf = Arc::new(AtomicBool::new(false));
    let (gateway, coming) = deaf_gateway(relay.address, Arc::clone(&is_deaf));
    let by = format!("websocks+ws://alice@{gateway}");
    let options = ["--framed", "--pool", "0", "--cores", "1"];
    let (agent, local) = agent(folder.path(), &by, &options);
    let (mut client, _server) = answered(local, b"HTTP/1.1 200 OK\r\n\r\nhalf of");
    read_head(&mut client);
    client.read_exact(&mut [0; 7]).expect("half of it");
    let mut way = coming.recv_timeout(PATIENCE).expect("a way");
    is_deaf.store(true, Ordering::SeqCst);
    // Of more pings than these in one read, not all would be answered.
    let ping = [b"\x89\x7d", &[b'x'; 125][..]].concat();
    let pings = [ping, b"\x82\0".repeat(60)].concat().repeat(16);
    let given_up = (0..PING_BYTES / pings.len()).find_map(|_| way.write_all(&pings).err());
    assert!(given_up.is_some(), "it keeps all answers");
    let error = client.read(&mut [0]).expect_err("no end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(agent.stop().success());
}
