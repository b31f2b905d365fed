//! `midspan socks`: local programs go out by a relay.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use midspan::access::Fingerprint;
use midspan::protocol::socks5::{
    Client, Command, Credentials, Destination, Pace, Reply, ReplyCode, Request,
};

use super::agent_process::Program;
use super::agents::{check_echo_over, dial, echo, greet_and_count, read_banner, service};
use super::patience::until;
use super::relay_process::{Counters, Relay};
use super::websocks::{PASSWORD, relay};

/// A file that nobody else reads.
pub(crate) fn secret(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
    path.display().to_string()
}

/// An agent of alice's and its local address.
pub(crate) fn agent(folder: &Path, relay: &str, options: &[&str]) -> (Program, SocketAddr) {
    agent_by(folder, PASSWORD, relay, options)
}

/// One that begins with this password.
pub(crate) fn agent_by(
    folder: &Path,
    password: &str,
    relay: &str,
    options: &[&str],
) -> (Program, SocketAddr) {
    let password = secret(folder, "password", password);
    let args = ["socks", "0", "--relay", relay, "--password-file", &password];
    let agent = Program::start(&[&args, options].concat());
    let local = agent.reported("SOCKS5 and HTTP proxy at ").parse();
    (agent, local.expect("an address"))
}

pub(crate) fn url(relay: &Relay) -> String {
    format!("websocks+ws://alice@{}", relay.address)
}

/// Asks for a connection; gives what the agent says.
pub(crate) fn ask(
    agent: SocketAddr,
    destination: &Destination,
    credentials: Option<Credentials>,
) -> (TcpStream, Reply) {
    let request = Request {
        command: Command::Connect,
        destination: destination.clone(),
    };
    ask_for(agent, &request, credentials)
}

/// Asks for something; gives what the agent says.
pub(crate) fn ask_for(
    agent: SocketAddr,
    request: &Request,
    credentials: Option<Credentials>,
) -> (TcpStream, Reply) {
    let mut stream = dial(agent);
    let mut client = Client::new(request, credentials, Pace::StepByStep);
    loop {
        stream.write_all(&client.take_output()).expect("sent");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        if let Some(reply) = client.receive(&byte).expect("SOCKS5") {
            return (stream, reply);
        }
    }
}

pub(crate) fn connect(agent: SocketAddr, target: SocketAddr) -> TcpStream {
    let (stream, reply) = ask(agent, &target.into(), None);
    assert_eq!(reply.code, ReplyCode::Succeeded);
    stream
}

pub(crate) fn refused(agent: SocketAddr, host: &str, port: u16) -> ReplyCode {
    let destination = Destination::named(host, port).expect("a destination");
    let (mut stream, reply) = ask(agent, &destination, None);
    assert_eq!(stream.read(&mut [0]).expect("its end"), 0);
    reply.code
}

/// A relay that stops may close a connection before its port is closed.
fn until_unreachable(agent: SocketAddr, port: u16) {
    until("no relay", || {
        (refused(agent, "127.0.0.1", port) == ReplyCode::NetworkUnreachable).then_some(())
    });
}

/// Bytes both ways, a greeting of the other side's, and half-closes.
pub(crate) fn check_sessions(agent: SocketAddr) {
    let (echoing, greeting) = (service(echo), service(greet_and_count));
    thread::scope(|scope| {
        for client in 0..4 {
            scope.spawn(move || check_echo_over(connect(agent, echoing), client, 3_000_000));
        }
    });
    let mut stream = connect(agent, greeting);
    read_banner(&mut stream).expect("a greeting");
    stream.write_all(&[7; 5000]).expect("sent");
    stream.shutdown(Shutdown::Write).expect("connected");
    let mut count = String::new();
    stream.read_to_string(&mut count).expect("the count");
    assert_eq!(count, "5000");
}

/// Looks at an agent of each kind: raw and framed, with and without TLS.
pub(crate) fn check_each_way(folder: &Path, relay: &Relay, check: impl Fn(SocketAddr)) {
    let pin: Fingerprint = super::transports::certificate(relay.address);
    for url in [
        url(relay),
        format!("websocks+wss://alice@{}?pin={pin}", relay.address),
    ] {
        for options in [&[][..], &["--framed"], &["--pool", "0"]] {
            let (agent, local) = agent(folder, &url, options);
            check(local);
            assert!(agent.stop().success());
        }
    }
}

#[test]
fn sessions_are_whole_raw_and_framed_with_and_without_tls() {
    let (folder, relay) = relay("");
    check_each_way(folder.path(), &relay, check_sessions);
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 6 * 5);
    // Who only looked at the certificate, and what was on its way when an agent stopped; no
    // way that was ready is counted.
    let gone = ["closed_early", "reset_early", "reply_failed"];
    let refused = ended.counters.refused();
    assert!(refused.keys().all(|why| gone.contains(why)), "{refused:?}");
}

/// Behind the ten bytes the relay, and the agent all along, leave bulk to the kernel.
#[test]
fn what_is_not_framed_is_spliced_by_agent_and_relay() {
    const BYTES: u64 = 64 << 20;
    let source = service(|mut stream| {
        let block = [7; 1 << 16];
        for _ in 0..BYTES / block.len() as u64 {
            stream.write_all(&block)?;
        }
        Ok(())
    });
    for (options, is_spliced) in [(&[][..], true), (&["--framed"], false)] {
        let (folder, relay) = relay("");
        let (mut agent, local) = agent(folder.path(), &url(&relay), options);
        let mut client = connect(local, source);
        let received = std::io::copy(&mut client, &mut std::io::sink()).expect("bytes");
        assert_eq!(received, BYTES);
        drop(client);
        agent.terminate();
        assert!(agent.wait().success());
        let of_agent = Counters::of_log(&agent.rest_of_log());
        for counters in [of_agent, relay.stop().counters] {
            assert_eq!(counters.count("bytes_relayed"), BYTES, "{options:?}");
            let spliced = counters.count("bytes_spliced");
            match is_spliced {
                true => assert!(spliced > BYTES / 10 * 9, "{spliced}"),
                false => assert_eq!(spliced, 0),
            }
        }
    }
}

#[test]
fn who_is_connected_where_is_told_truthfully() {
    let (folder, relay) = relay("[egress]\nreach = \"everything\"\nrules = [\"deny *:25\"]");
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (_stream, reply) = ask(local, &listener.local_addr().expect("bound").into(), None);
    let (_, from) = listener.accept().expect("connected");
    assert_eq!(reply.bound, from.into());
    let closed = listener.local_addr().expect("bound");
    drop(listener);
    assert_eq!(
        refused(local, "127.0.0.1", closed.port()),
        ReplyCode::ConnectionRefused
    );
    assert_eq!(
        refused(local, "nobody.invalid", 80),
        ReplyCode::HostUnreachable
    );
    assert_eq!(refused(local, "127.0.0.1", 25), ReplyCode::NotAllowed);
    assert_eq!(
        refused(local, "::ffff:127.0.0.1", 25),
        ReplyCode::NotAllowed
    );
}

#[test]
fn a_relay_that_was_restarted_is_found_again_and_dead_ways_are_replaced() {
    let (folder, relay) = relay("");
    let echoing = service(echo);
    let address = relay.address.to_string();
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    check_echo_over(connect(local, echoing), 1, 1000);
    relay.stop().check_clean();
    until_unreachable(local, echoing.port());
    let options = ["--listen", &address];
    let relay = super::websocks::relay_in(folder.path(), "", &options);
    // Those that were kept ready died with the first relay.
    until("a way out", || {
        let (stream, reply) = ask(local, &echoing.into(), None);
        (reply.code == ReplyCode::Succeeded).then(|| check_echo_over(stream, 2, 1000))
    });
    agent.logged("the relay lets us in");
    relay.stop().check_clean();
}

#[test]
fn the_first_relay_that_can_be_had_is_taken() {
    let (folder, first) = relay("");
    let (other_folder, second) = relay("");
    let echoing = service(echo);
    let (_agent, local) = agent(folder.path(), &url(&first), &["--relay", &url(&second)]);
    check_echo_over(connect(local, echoing), 1, 1000);
    let ended = first.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 1);
    // The second one is asked in the same breath.
    check_echo_over(connect(local, echoing), 2, 1000);
    let ended = second.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 1);
    drop(other_folder);
}

#[test]
fn a_wrong_password_is_said_once_with_what_to_do() {
    let (folder, relay) = relay("");
    let url = format!("websocks+ws://bob@{}", relay.address);
    let (agent, local) = agent(folder.path(), &url, &[]);
    let said = agent.logged("the relay lets nobody in");
    assert!(said.contains("refuses user and password"), "{said}");
    assert!(said.contains("this machine's clock"), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
    assert_eq!(refused(local, "127.0.0.1", 9), ReplyCode::GeneralFailure);
}

#[test]
fn a_local_user_is_asked_for_by_both_protocols() {
    let (folder, relay) = relay("");
    let user = secret(folder.path(), "user", "me:right\n");
    let options = ["--local-user-file", &user, "--cores", "1"];
    let (_agent, local) = agent(folder.path(), &url(&relay), &options);
    let echoing = service(echo);
    let right = Credentials::new("me", "right");
    let (stream, reply) = ask(local, &echoing.into(), right);
    assert_eq!(reply.code, ReplyCode::Succeeded);
    check_echo_over(stream, 1, 1000);
    // RFC 1928 §3, RFC 1929 §2.
    for (said, answer) in [
        (&b"\x05\x01\0"[..], &b"\x05\xff"[..]),
        (b"\x05\x01\x02\x01\x02me\x05wrong", b"\x05\x02\x01\x01"),
    ] {
        let mut stream = dial(local);
        stream.write_all(said).expect("sent");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("its end");
        assert_eq!(got, answer);
    }
    let http = |header: &str| {
        let mut stream = dial(local);
        let request = format!("CONNECT {echoing} HTTP/1.1\r\nHost: {echoing}\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut start = [0; 12];
        stream.read_exact(&mut start).expect("an answer");
        String::from_utf8(start.to_vec()).expect("text")
    };
    assert_eq!(http(""), "HTTP/1.1 407");
    assert_eq!(
        http("Proxy-Authorization: Basic bWU6d3Jvbmc=\r\n"),
        "HTTP/1.1 407"
    );
    assert_eq!(
        http("Proxy-Authorization: Basic bWU6cmlnaHQ=\r\n"),
        "HTTP/1.1 200"
    );
    // Those that are wrong count, by whichever protocol; then the right one is not heard.
    let (wrong, right) = (
        "Proxy-Authorization: Basic bWU6d3Jvbmc=\r\n",
        "Proxy-Authorization: Basic bWU6cmlnaHQ=\r\n",
    );
    let guess_on = || {
        until("too many guesses", || {
            (http(wrong) == "HTTP/1.1 429").then_some(())
        });
    };
    // One more may be looked at each second, and that may be the right one.
    let is_shut_out = |is_refused: &dyn Fn() -> bool| {
        (0..3).any(|_| {
            guess_on();
            is_refused()
        })
    };
    assert!(is_shut_out(&|| http(right) == "HTTP/1.1 429"));
    assert!(is_shut_out(&|| {
        let (mut stream, mut got) = (dial(local), Vec::new());
        // Where it is heard, the agent waits for a command.
        let said = b"\x05\x01\x02\x01\x02me\x05right";
        stream.write_all(said).expect("sent");
        stream.shutdown(Shutdown::Write).expect("connected");
        stream.read_to_end(&mut got).expect("its end");
        got == b"\x05\x02\x01\x01"
    }));
    // Whoever shows none guesses nothing.
    assert_eq!(http(""), "HTTP/1.1 407");
}

#[test]
fn what_speaks_neither_is_closed_and_costs_nobody_else_anything() {
    let (folder, relay) = relay("");
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    for said in [&b"\x04\x01\0\x50\x7f\0\0\x01\0"[..], b"\x16\x03\x01", b"\0"] {
        let mut stream = dial(local);
        stream.write_all(said).expect("sent");
        assert_eq!(stream.read(&mut [0]).expect("its end"), 0);
    }
    let answered = |said: &[u8], answer: &[u8]| {
        let mut stream = dial(local);
        stream.write_all(said).expect("sent");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("its end");
        assert!(got.starts_with(answer), "{got:?}");
    };
    answered(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 404 ");
    answered(b"GET https://a/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 ");
    answered(b"CONNECT a HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 ");
    answered(
        b"POST http://a/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 400 ",
    );
    // BIND, and a command that nobody knows.
    for command in [2, 9] {
        let said = [
            b"\x05\x01\0\x05",
            &[command, 0][..],
            b"\x01\x7f\0\0\x01\0\x50",
        ]
        .concat();
        answered(&said, b"\x05\0\x05\x07\0\x01");
    }
    check_echo_over(connect(local, service(echo)), 1, 1000);
    assert!(agent.stop().success());
}

#[test]
fn rules_say_what_is_led_dialled_and_refused() {
    let (folder, relay) = relay("");
    let (echoing, greeting) = (service(echo), service(greet_and_count));
    let text = format!(
        "deny :25\ndeny nobody.example\ndirect 127.0.0.1:{}\nrelay-or-direct 127.0.0.1:{}\n",
        echoing.port(),
        greeting.port(),
    );
    let rules = secret(folder.path(), "rules", &text);
    let (agent, local) = agent(folder.path(), &url(&relay), &["--rules", &rules]);
    assert_eq!(refused(local, "127.0.0.1", 25), ReplyCode::NotAllowed);
    assert_eq!(
        refused(local, "www.nobody.example", 80),
        ReplyCode::NotAllowed
    );
    check_echo_over(connect(local, echoing), 1, 1000);
    read_banner(&mut connect(local, greeting)).expect("a greeting");
    let ended = relay.stop();
    ended.check_clean();
    // The echo was dialled by the agent itself.
    assert_eq!(ended.counters.count("paired"), 1);
    // Without the relay: only where a rule says so.
    until_unreachable(local, service(echo).port());
    read_banner(&mut connect(local, greeting)).expect("a greeting");
    assert!(agent.stop().success());
}

/// What an HTTP client is told that asks to be connected.
fn told(agent: SocketAddr, destination: &str) -> String {
    answered(agent, &format!("CONNECT {destination} HTTP/1.1\r\n\r\n"))
}

/// What is said to a request until the connection ends.
fn answered(agent: SocketAddr, request: &str) -> String {
    let mut stream = dial(agent);
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn whoever_is_refused_is_told_by_whom() {
    let (folder, relay) = relay("[egress]\nreach = \"everything\"\nrules = [\"deny :25\"]");
    let rules = "# ours\ndeny :26\nrelay-or-direct 127.0.0.1:2\ndirect 127.0.0.1\n";
    let rules = secret(
        folder.path(),
        "rules",
        &format!("relay :25\nrelay :9\n{rules}"),
    );
    let (agent, local) = agent(folder.path(), &url(&relay), &["--rules", &rules]);
    let at = format!("the relay at {}", relay.address);
    let check = |destination: &str, status: &str, words: &str| {
        let answer = told(local, destination);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{answer}"
        );
        assert!(answer.contains(words), "{destination}: {answer}");
        assert!(!answer.contains("alice"), "{answer}");
    };
    let (forbidden, bad) = ("403 Forbidden", "502 Bad Gateway");
    let by_rule = format!("\r\n\r\nthis proxy's rule {rules}:4 (deny *:26) denies it\n");
    check("127.0.0.1:26", forbidden, &by_rule);
    check(
        "127.0.0.1:25",
        forbidden,
        &format!("{at} does not allow it, by its [egress]"),
    );
    check(
        "127.0.0.1:9",
        bad,
        &format!("{at} finds nobody who listens there"),
    );
    check(
        "nobody.invalid:80",
        bad,
        &format!("{at} finds no such host"),
    );
    let direct = format!("by this proxy's rule {rules}:6 (direct 127.0.0.1/32): cannot connect");
    check("127.0.0.1:1", bad, &direct);
    relay.stop().check_clean();
    until_unreachable(local, 9);
    check("nobody.invalid:80", bad, "no relay can be reached");
    let direct = format!("by this proxy's rule {rules}:5 (relay-or-direct 127.0.0.1/32:2): ");
    check("127.0.0.1:2", bad, &direct);
    assert!(agent.stop().success());
}

#[test]
fn a_refusal_is_logged_with_whose_it_was() {
    let (folder, relay) = relay("[egress]\nreach = \"everything\"\nrules = [\"deny :25\"]");
    let rules = secret(folder.path(), "rules", "deny :26\n");
    let options = ["--rules", &rules, "--log-level", "debug"];
    let (agent, local) = agent(folder.path(), &url(&relay), &options);
    for (port, said) in [
        (26, format!("why=this proxy's rule {rules}:1")),
        (
            25,
            format!("why=the relay at {} does not allow it", relay.address),
        ),
    ] {
        assert_eq!(refused(local, "127.0.0.1", port), ReplyCode::NotAllowed);
        let line = agent.logged(&format!("target=127.0.0.1:{port}"));
        assert!(line.contains(&said), "{line}");
    }
}

#[test]
fn a_name_is_one_word_of_a_line_whatever_is_in_it() {
    let (folder, relay) = relay("");
    let rules = secret(folder.path(), "rules", "direct *\n");
    let options = ["--rules", &rules, "--log-level", "debug"];
    let (agent, local) = agent(folder.path(), &url(&relay), &options);
    let code = refused(local, "a.invalid\nforged reason=x", 80);
    assert_eq!(code, ReplyCode::HostUnreachable);
    let line = agent.logged(": refused peer=");
    let name = "a.invalid\\u{a}forged\\u{20}reason=x";
    assert!(line.contains(&format!("target={name}:80")), "{line}");
    let why = format!("cannot resolve \"{name}\": ");
    assert!(line.contains(&why), "{line}");
    relay.stop().check_clean();
}

/// The script for browsers that have this name for the port.
fn script(agent: SocketAddr, host: &str) -> String {
    answered(
        agent,
        &format!("GET /proxy.pac HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    )
}

#[test]
fn a_browser_that_has_to_show_a_password_is_led_to_the_http_proxy() {
    let (folder, relay) = relay("");
    let user = secret(folder.path(), "user", "me:right\n");
    let (agent, local) = agent(folder.path(), &url(&relay), &["--local-user-file", &user]);
    let host = local.to_string();
    let answer = script(local, &host);
    let proxies = format!("\"PROXY {host}; SOCKS5 {host}\"");
    assert_eq!(answer.matches(&proxies).count(), 2, "{answer}");
    assert!(agent.stop().success());
}

#[test]
fn a_browser_is_given_a_script_by_the_name_that_it_has_for_the_port() {
    let (folder, relay) = relay("");
    let rules = secret(folder.path(), "rules", "direct home.example\n");
    let (_agent, local) = agent(folder.path(), &url(&relay), &["--rules", &rules]);
    let host = format!("localhost:{}", local.port());
    let answer = script(local, &host);
    for part in [
        "HTTP/1.1 200 ",
        "application/x-ns-proxy-autoconfig",
        "function FindProxyForURL",
        &format!("SOCKS5 {host}"),
        "home.example",
    ] {
        assert!(answer.contains(part), "{answer}");
    }
}
