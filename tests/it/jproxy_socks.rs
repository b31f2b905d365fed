//! `midspan socks` and `midspan forward` by a relay of jProxy.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use midspan::access::jproxy::{KeyPair, TunnelUser};
use midspan::protocol::socks5::{Command, Destination, ReplyCode, Request};
use rustix::process::Signal;

use super::admin::status;
use super::agent_process::Program;
use super::agents::{assert_reset, check_echo_over, dial, echo, ping, read_banner, service};
use super::agents_admin::admin;
use super::jproxy::{USER, VECTORS, config_in, relay_at};
use super::patience::until;
use super::peers::jproxy_server::TunnelServer;
use super::peers::resets::reset;
use super::relay_process::{Counters, Relay};
use super::socks::{ask, ask_for, check_sessions, connect, refused};
use super::socks_http::{answered, read_head};
use super::socks_relays::closed_port;
use super::socks_udp::{Client, bind};
use super::transports::certificate;

/// Where it serves everything, tunnels over TLS among it.
pub(crate) const ANY: &str = "127.0.0.1:0";

/// The file of alice's key.
pub(crate) fn key(folder: &Path) -> String {
    let path = folder.join("key.dat");
    let key = fs::read(Path::new(VECTORS).join("jproxy_key.dat"));
    write_secret(&path, &key.expect("a file"));
    path.display().to_string()
}

/// A file that nobody else reads.
pub(crate) fn write_secret(path: &Path, secret: &[u8]) {
    fs::write(path, secret).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
}

pub(crate) fn url(relay: &Relay) -> String {
    let pin = certificate(relay.address);
    format!("jproxy+tls://{}?pin={pin}", relay.address)
}

/// An agent of alice's and its local address.
pub(crate) fn agent(folder: &Path, relay: &str, options: &[&str]) -> (Program, SocketAddr) {
    agent_by(&key(folder), relay, options)
}

/// An agent with the key in this file.
fn agent_by(key: &str, relay: &str, options: &[&str]) -> (Program, SocketAddr) {
    let args = ["socks", "0", "--relay", relay, "--key-file", key];
    let agent = Program::start(&[&args, options].concat());
    let local = agent.reported("SOCKS5 and HTTP proxy at ").parse();
    (agent, local.expect("an address"))
}

/// Says a greeting and is gone.
fn greet(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(&[b'x'; 100_000])
}

#[test]
fn sessions_are_whole_and_one_tunnel_has_them_all() {
    let (folder, mut relay) = relay_at(ANY, "");
    let (mut agent, local) = agent(folder.path(), &url(&relay), &[]);
    check_sessions(local);
    let line = agent.logged("session ended");
    for part in [
        "target=127.0.0.1:",
        "way=jproxy+tls://",
        "command=\"connect\"",
    ] {
        assert!(line.contains(part), "{line}");
    }
    agent.terminate();
    assert!(agent.wait().success());
    let counters = Counters::of_log(&agent.rest_of_log());
    assert_eq!(counters.count("paired"), 5);
    relay.wait_for_line("channels' tunnel ended");
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 5);
}

#[test]
fn the_other_dialect_is_spoken_where_it_is_said() {
    let (folder, relay) = relay_at(ANY, "[jproxy]\ndialect = \"original\"\n");
    let options = ["--dialect", "original"];
    let (agent, local) = agent(folder.path(), &url(&relay), &options);
    let echoing = service(echo);
    for _ in 0..3 {
        ping(&connect(local, echoing));
    }
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

/// Whoever speaks first and goes at once: all of it may be there before its client has the reply.
#[test]
fn what_is_said_before_the_reply_is_lost_in_neither_direction() {
    let (folder, relay) = relay_at(ANY, "");
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let (greeting, echoing) = (service(greet), service(echo));
    for _ in 0..20 {
        let mut came = Vec::new();
        let read = connect(local, greeting).read_to_end(&mut came);
        read.expect("an orderly end");
        assert_eq!(came.len(), 100_000);
    }
    let mut client = dial(local);
    let said = format!("CONNECT {echoing} HTTP/1.1\r\nHost: {echoing}\r\n\r\nearly");
    client.write_all(said.as_bytes()).expect("sent");
    assert!(read_head(&mut client).starts_with(b"HTTP/1.1 200 "));
    let mut back = [0; 5];
    client.read_exact(&mut back).expect("the echo");
    assert_eq!(&back, b"early");
    drop(client);
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

#[test]
fn a_request_with_a_url_is_passed_on() {
    let (folder, relay) = relay_at(ANY, "");
    let (mut agent, local) = agent(folder.path(), &url(&relay), &[]);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (mut client, _server) = answered(local, answer);
    let mut got = String::new();
    client.read_to_string(&mut got).expect("its end");
    assert!(got.ends_with("\r\n\r\nok"), "{got}");
    let line = agent.logged("exchange ended");
    assert!(line.contains(&format!("right={}", relay.address)), "{line}");
    agent.terminate();
    assert!(agent.wait().success());
    // The channel by which it went is no session of its own.
    let log = agent.rest_of_log();
    assert!(!log.contains("session ended"), "{log}");
    let counters = Counters::of_log(&log);
    for (name, count) in [("requests_passed", 1), ("paired", 0), ("bytes_relayed", 0)] {
        assert_eq!(counters.count(name), count, "{name}");
    }
    assert_ne!(counters.count("bytes_passed"), 0);
    relay.stop().check_clean();
}

/// How the bytes end of a response that has no length.
#[test]
fn a_response_that_breaks_off_by_a_tunnel_does_not_look_whole() {
    const HALF: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nhalf of";
    for dialect in ["spec", "original"] {
        let lines = format!("[jproxy]\ndialect = \"{dialect}\"\n");
        let (folder, relay) = relay_at(ANY, &lines);
        let options = ["--dialect", dialect];
        let (agent, local) = agent(folder.path(), &url(&relay), &options);
        let half = || {
            let (mut client, server) = answered(local, HALF);
            let mut came = Vec::new();
            while !came.ends_with(b"half of") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("half of it");
                came.push(byte[0]);
            }
            (client, server)
        };
        let check = |client: TcpStream| {
            assert_reset(&client);
            let line = agent.logged("exchange ended");
            assert!(line.contains("reason=\"broken\""), "{line}");
        };
        let (mut client, server) = half();
        server.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(client.read(&mut [0]).expect("an end in order"), 0);
        agent.logged("reason=\"finished\"");

        // The other dialect has one reason for an end and a reset.
        if dialect == "spec" {
            let (client, server) = half();
            reset(server);
            check(client);
            let (client, server) = half();
            reset(client);
            assert_reset(&server);
            agent.logged("reason=\"client_gone\"");
        }
        let (client, _server) = half();
        relay.signal(Signal::KILL);
        check(client);
    }
}

/// That dialect has one status for what fails and for what is denied.
#[test]
fn what_the_other_dialect_cannot_tell_is_not_guessed() {
    let lines = "[jproxy]\ndialect = \"original\"\n[egress]\nreach = \"everything\"\n\
                 rules = [\"deny *:25\"]\n";
    let (folder, relay) = relay_at(ANY, lines);
    let options = ["--dialect", "original"];
    let (agent, local) = agent(folder.path(), &url(&relay), &options);
    let mut client = dial(local);
    let asked = b"CONNECT 127.0.0.1:25 HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(asked).expect("sent");
    let mut got = String::new();
    client.read_to_string(&mut got).expect("its end");
    assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
    assert!(got.contains("or does not allow it"), "{got}");
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

#[test]
fn operators_see_channels_and_how_the_relay_is() {
    let (folder, relay) = relay_at(ANY, "");
    let options = ["--admin", "127.0.0.1:0"];
    let (agent, local) = agent(folder.path(), &url(&relay), &options);
    let admin = admin(&agent);
    // Descriptors that have a shard woken, and sockets for datagrams, are no connections.
    let connections = |count: u64, what| {
        until(what, || {
            (status(admin)["connections"] == count).then_some(())
        });
    };
    connections(1, "the tunnel");
    let (udp, udp_address) = bind("127.0.0.1:0");
    let datagrams = Client::new(local);
    datagrams.check_echo(&udp_address.into(), &udp, b"datagram");
    connections(2, "and the client's of SOCKS5");
    datagrams.check_gone();
    connections(1, "the tunnel alone");
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha";
    let (mut browsing, server) = answered(local, answer);
    read_head(&mut browsing);
    connections(2, "and a client's of HTTP");
    drop((browsing, server));
    connections(1, "the tunnel alone");
    let echoing = service(echo);
    let running = connect(local, echoing);
    ping(&running);
    connections(2, "and a client's");
    let way = format!("jproxy+tls://{}", relay.address);
    let seen = status(admin);
    assert_eq!(seen["sessions_count"], 1, "{seen}");
    let session = &seen["sessions"][0];
    for (field, expected) in [
        ("kind", "channel".to_owned()),
        ("target", echoing.to_string()),
        ("way", way.clone()),
    ] {
        assert_eq!(session[field], expected, "{seen}");
    }
    let record = &seen["relays"][0];
    assert_eq!(record["relay"], way, "{seen}");
    assert_eq!(record["shards_down"], 0, "{seen}");
    assert_eq!(record.get("entrances_opened"), None, "{seen}");
    drop(running);
    until("its end", || {
        (status(admin)["sessions_count"] == 0).then_some(())
    });
    connections(1, "the tunnel alone");
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

#[test]
fn what_cannot_be_had_is_told_truthfully() {
    let (folder, relay) = relay_at(
        ANY,
        "[egress]\nreach = \"everything\"\nrules = [\"deny *:25\"]\n",
    );
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    let closed = closed_port().port();
    for (host, port, code) in [
        ("127.0.0.1", closed, ReplyCode::ConnectionRefused),
        ("nobody.invalid", 80, ReplyCode::HostUnreachable),
        ("127.0.0.1", 25, ReplyCode::NotAllowed),
    ] {
        assert_eq!(refused(local, host, port), code, "{host}:{port}");
    }
    let bind = Request {
        command: Command::Bind,
        destination: Destination::named("127.0.0.1", 9).expect("a destination"),
    };
    let (_, reply) = ask_for(local, &bind, None);
    assert_eq!(reply.code, ReplyCode::CommandNotSupported);
    relay.stop().check_clean();
}

#[test]
fn a_relay_that_was_restarted_is_found_again_and_its_sessions_are_reset() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path(), "");
    let config = ["--config", config.to_str().expect("text")];
    let any = ["--listen", "jproxy://127.0.0.1:0"];
    let relay = Relay::start(&[config, any].concat());
    let echoing = service(echo);
    let plain = format!("jproxy://{}", relay.address);
    let (agent, local) = agent(folder.path(), &plain, &[]);
    let datagrams = Client::new(local);
    let (server, address) = bind("127.0.0.1:0");
    datagrams.check_echo(&address.into(), &server, b"before");
    let running = connect(local, echoing);
    ping(&running);
    relay.signal(Signal::KILL);
    relay.wait();
    assert_reset(&running);
    let lost = agent.logged("the tunnel is lost");
    assert!(lost.contains("_by_right\" next_try_ms="), "{lost}");
    until("no relay", || {
        let code = refused(local, "127.0.0.1", echoing.port());
        (code == ReplyCode::NetworkUnreachable).then_some(())
    });
    agent.logged("the relay is not reached");
    let relay = Relay::start(&[config, ["--listen", &plain]].concat());
    until("a way out", || {
        let (stream, reply) = ask(local, &echoing.into(), None);
        (reply.code == ReplyCode::Succeeded).then(|| check_echo_over(stream, 2, 1000))
    });
    agent.logged("the tunnel is open");
    // The client need not ask anew.
    datagrams.check_echo(&address.into(), &server, b"after");
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

#[test]
fn the_first_relay_that_can_be_had_is_taken() {
    let (folder, second) = relay_at(ANY, "");
    let nobody = format!("jproxy+tls://{}", closed_port());
    let (agent, local) = agent(folder.path(), &nobody, &["--relay", &url(&second)]);
    check_echo_over(connect(local, service(echo)), 1, 1000);
    let said = agent.logged("the relay is not reached");
    assert!(said.contains("see whether the relay runs"), "{said}");
    assert!(agent.stop().success());
    second.stop().check_clean();
}

#[test]
fn what_is_no_relay_is_named_by_what_it_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("jproxy://{}", listener.local_addr().expect("bound"));
    let (agent, _) = agent(folder.path(), &url, &[]);
    let (mut client, _) = listener.accept().expect("the agent");
    // It keeps the connection.
    let answer = b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n";
    client.write_all(answer).expect("sent");
    let said = agent.logged("the relay lets nobody in");
    for part in [
        "error=the answer is not jProxy's: it begins with \"HTTP/1.1 400 Bad Request\" next=",
        "a web server answers there: check the port",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(agent.stop().success());
}

#[test]
fn a_key_that_nobody_knows_is_said_once_with_what_to_do() {
    let (folder, relay) = relay_at(ANY, "");
    let bob = KeyPair::generate("bob").expect("a key");
    let path = folder.path().join("bob.dat");
    write_secret(&path, &bob.client_file);
    let key = path.to_str().expect("text");
    let (url, echoing) = (url(&relay), service(echo));
    let agent_of_bob = || {
        let (agent, local) = agent_by(key, &url, &[]);
        let said = agent.logged("the relay lets nobody in");
        assert!(said.contains("the relay knows no such key"), "{said}");
        assert!(said.contains("under [jproxy] users"), "{said}");
        let code = refused(local, "127.0.0.1", echoing.port());
        assert_eq!(code, ReplyCode::GeneralFailure);
        (agent, local)
    };
    // Either the agent has another key from now on, or the relay knows the one that it has.
    let (agent, local) = agent_of_bob();
    let alices = fs::read(Path::new(VECTORS).join("jproxy_key.dat"));
    write_secret(&path, &alices.expect("a file"));
    agent.signal(Signal::HUP);
    agent.logged("the tunnel is open");
    check_echo_over(connect(local, echoing), 1, 1000);
    assert!(agent.stop().success());
    write_secret(&path, &bob.client_file);
    let (agent, local) = agent_of_bob();
    let users = folder.path().join("users");
    write_secret(&users.join(&bob.user_file_name), &bob.user_file);
    relay.signal(Signal::HUP);
    agent.logged("the tunnel is open");
    check_echo_over(connect(local, echoing), 2, 1000);
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

#[test]
fn whose_key_is_taken_back_hears_so_though_its_tunnel_is_open() {
    let (folder, relay) = relay_at(ANY, "");
    let (agent, _local) = agent(folder.path(), &url(&relay), &[]);
    agent.logged("the tunnel is open");
    fs::remove_file(folder.path().join("users").join(USER)).expect("removed");
    relay.signal(Signal::HUP);
    let said = agent.logged("the relay lets nobody in");
    assert!(said.contains("the relay knows no such key"), "{said}");
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

/// What is under way goes on by the tunnel that it is in.
#[test]
fn by_another_key_there_is_another_tunnel_and_nothing_that_runs_notices() {
    let (folder, mut relay) = relay_at(ANY, "");
    let bob = KeyPair::generate("bob").expect("a key");
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let echoing = service(echo);
    let running = connect(local, echoing);
    ping(&running);
    // One that no relay knows takes nothing away.
    let key = folder.path().join("key.dat");
    write_secret(&key, &bob.client_file);
    agent.signal(Signal::HUP);
    agent.logged("the relay lets nobody in");
    check_echo_over(connect(local, echoing), 1, 1000);
    let users = folder.path().join("users");
    write_secret(&users.join(&bob.user_file_name), &bob.user_file);
    relay.signal(Signal::HUP);
    agent.logged("the tunnel by the key before ends once nothing runs in it");
    check_echo_over(connect(local, echoing), 2, 1000);
    let line = relay.wait_for_line("user=bob");
    assert!(line.contains("session ended"), "{line}");
    check_echo_over(running, 3, 100_000);
    let line = relay.wait_for_line("channels' tunnel ended");
    assert!(line.contains("user=alice"), "{line}");
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

/// The first relay takes connections, and says nothing to whom it takes.
#[test]
fn another_key_does_not_wait_for_what_the_one_before_waits_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("jproxy://{}", listener.local_addr().expect("bound"));
    let (agent, _) = agent(folder.path(), &url, &["--cores", "1"]);
    let (_mute, _) = listener.accept().expect("it comes");
    let bob = KeyPair::generate("bob").expect("a key");
    write_secret(&folder.path().join("key.dat"), &bob.client_file);
    agent.signal(Signal::HUP);
    let user = TunnelUser::decode(&bob.user_file_name, &bob.user_file).expect("a user");
    let _tunnel = TunnelServer::accept(&listener, &user);
    agent.logged("the tunnel is open");
    let log = agent.whole_log();
    assert!(!log.contains("the relay is not reached"), "{log}");
}

/// The relay knows the hash, and the key behind it is another.
#[test]
fn a_private_key_of_another_pair_is_named_and_replaced_at_once() {
    let (folder, relay) = relay_at(ANY, "");
    let mut mixed = KeyPair::generate("bob").expect("a key").client_file;
    let alices = fs::read(Path::new(VECTORS).join("jproxy_key.dat")).expect("a file");
    let hash_at = mixed.len() - 32;
    mixed.splice(hash_at.., alices[alices.len() - 32..].iter().copied());
    let path = folder.path().join("mixed.dat");
    write_secret(&path, &mixed);
    let key = path.to_str().expect("text");
    let (agent, local) = agent_by(key, &url(&relay), &[]);
    let echoing = service(echo);
    let code = refused(local, "127.0.0.1", echoing.port());
    assert_eq!(code, ReplyCode::GeneralFailure);
    let said = agent.logged("the relay does not reply");
    for part in [
        "ended at its first packet",
        "is not that of the user's file",
    ] {
        assert!(said.contains(part), "{said}");
    }
    write_secret(&path, &alices);
    agent.signal(Signal::HUP);
    agent.logged("the tunnel is open");
    check_echo_over(connect(local, echoing), 1, 1000);
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

#[test]
fn where_nothing_can_be_reached_the_dialect_is_named() {
    let (folder, relay) = relay_at(ANY, "[jproxy]\ndialect = \"original\"\n");
    let doubted = "nothing that was asked for could be reached";
    for (dialect, is_doubted) in [("spec", true), ("original", false)] {
        let (agent, local) = agent(folder.path(), &url(&relay), &["--dialect", dialect]);
        if !is_doubted {
            ping(&connect(local, service(echo)));
        }
        for _ in 0..3 {
            // 20480 with its bytes in the other order, and nobody is at either.
            refused(local, "127.0.0.1", 80);
        }
        if is_doubted {
            let said = agent.logged(doubted);
            assert!(said.contains("dialect=spec"), "{said}");
            let url = url(&relay);
            let advice = format!("go there with --relay '{url}' --dialect original; or have it");
            assert!(said.contains(&advice), "{said}");
            let listen = "listen at jproxy+tls://ADDR:PORT?dialect=spec";
            assert!(said.contains(listen), "{said}");
        }
        let log = agent.whole_log();
        assert_eq!(
            log.matches(doubted).count(),
            usize::from(is_doubted),
            "{log}"
        );
    }
    relay.stop().check_clean();
}

#[test]
fn an_agent_that_stops_lets_its_channels_finish() {
    let (folder, relay) = relay_at(ANY, "");
    let (mut agent, local) = agent(folder.path(), &url(&relay), &[]);
    let running = connect(local, service(echo));
    ping(&running);
    agent.terminate();
    until("the port is closed", || {
        TcpStream::connect(local).is_err().then_some(())
    });
    check_echo_over(running, 1, 100_000);
    assert!(agent.wait().success());
    relay.stop().check_clean();
}

#[test]
fn a_port_is_forwarded_to_where_the_relay_can_go() {
    let (folder, relay) = relay_at(ANY, "");
    let (key, url) = (key(folder.path()), url(&relay));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let to = listener.local_addr().expect("bound").to_string();
    let args = ["forward", "0", "--to", &to, "--relay", &url];
    let options = ["--key-file", &key, "--admin", "127.0.0.1:0"];
    let forward = Program::start(&[&args[..], &options].concat());
    let local = forward.reported("forwarding ").parse().expect("an address");
    let seen = status(admin(&forward));
    for (gauge, is_there) in [
        ("jproxy_tunnels", true),
        ("jproxy_channels", true),
        ("exchanges", false),
        ("datagram_associations", false),
        ("binds", false),
    ] {
        assert_eq!(seen.get(gauge).is_some(), is_there, "{gauge}: {seen}");
    }
    let mut client = dial(local);
    let (mut server, _) = listener.accept().expect("connected");
    server
        .write_all(b"220 the service speaks first\r\n")
        .expect("sent");
    read_banner(&mut client).expect("a banner");
    drop(server);
    assert_eq!(client.read(&mut [0]).expect("an end"), 0);
    drop((client, listener));
    assert_reset(&dial(local));
    let said = forward.logged("no session: connection reset");
    assert!(said.contains("finds nobody who listens there"), "{said}");
    assert!(forward.stop().success());
    relay.stop().check_clean();
}
