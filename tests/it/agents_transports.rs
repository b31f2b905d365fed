//! Both proxies over every transport, and by an HTTP proxy.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::admin::{metrics, relay_with_admin};
use super::agent_process::{Program, forward, relay};
use super::agents::{check_echo, check_greetings, echo, greet_and_count, service};
use super::patience::until;

pub(crate) const FINGERPRINT: &str = "  certificate  made here, SHA-256 ";

/// Starts a server-side proxy that dials `url` and gives its ticket.
fn expose(folder: &Path, url: &str, target: &str, options: &[&str]) -> (Program, String) {
    let expose = start_expose(folder, url, target, options);
    let ticket = expose.reported("  jet+");
    expose.logged("waiting at the relay");
    (expose, format!("jet+{ticket}"))
}

fn start_expose(folder: &Path, url: &str, target: &str, options: &[&str]) -> Program {
    let state = folder.join("expose");
    let state = state.to_str().expect("text");
    let args = [
        &[
            "expose",
            "home",
            "--relay",
            url,
            "--to",
            target,
            "--state-dir",
            state,
        ],
        options,
    ];
    Program::start(&args.concat())
}

fn check(relay: &str, options: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = service(echo).to_string();
    let (exposing, ticket) = expose(folder.path(), relay, &target, options);
    let forward_args = [&["forward", "0", "--to", &ticket], options].concat();
    let forwarding = Program::start(&forward_args);
    let local: SocketAddr = forwarding
        .reported("forwarding ")
        .parse()
        .expect("an address");
    thread::scope(|scope| {
        for client in 0..4 {
            scope.spawn(move || check_echo(local, client, 3_000_000));
        }
    });
    for program in [forwarding, exposing] {
        assert!(program.stop().success());
    }
}

#[test]
fn sessions_are_whole_over_every_transport() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let pin = running.reported(FINGERPRINT);
    for url in [
        format!("jet+tcp://{address}"),
        format!("jet+ws://{address}"),
        format!("jet+tls://{address}?pin={pin}"),
        format!("jet+wss://{address}?pin={pin}"),
    ] {
        check(&url, &[]);
    }
}

#[test]
fn a_greeting_comes_first_and_half_close_passes_over_websocket() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let target = service(greet_and_count).to_string();
    let url = format!("jet+ws://{address}");
    let (_expose, ticket) = expose(folder.path(), &url, &target, &[]);
    let (_forward, local) = forward(&ticket);
    check_greetings(local);
}

#[test]
fn one_session_is_served_over_websocket() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let target = service(echo).to_string();
    let url = format!("jet+ws://{address}");
    let (mut once, ticket) = expose(folder.path(), &url, &target, &["--once"]);
    let (_forward, local) = forward(&ticket);
    check_echo(local, 1, 100_000);
    assert!(once.wait().success());
}

#[test]
fn doors_are_renewed_in_the_time_that_the_relay_gives() {
    let folder = tempfile::tempdir().expect("a folder");
    let (relay, admin) = relay_with_admin(&["--limit", "association_ttl_s=10"]);
    let url = format!("jet+ws://{}", relay.address);
    let (_expose, _) = expose(folder.path(), &url, "127.0.0.1:9", &[]);
    // A session and a door, each of them twice.
    let seen = until("the renewal", || {
        let seen = metrics(admin);
        (seen["midspan_accepted_total"] >= 4.0).then_some(seen)
    });
    assert_eq!(seen["midspan_associations_total{event=\"expired\"}"], 0.0);
}

#[test]
fn an_authority_vouches_for_the_relay_and_a_wrong_pin_for_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, authority_key).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|params| params.signed_by(&key, &authority))
        .expect("a certificate");
    fs::write(path("ca.pem"), authority.pem()).expect("written");
    fs::write(path("leaf.pem"), leaf.pem()).expect("written");
    fs::write(path("key.pem"), key.serialize_pem()).expect("written");
    fs::set_permissions(path("key.pem"), Permissions::from_mode(0o600)).expect("chmod");

    let (chain, key, ca) = (path("leaf.pem"), path("key.pem"), path("ca.pem"));
    let options = ["--tls-certificate", &chain, "--tls-key", &key];
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &options);
    check(&format!("jet+tls://{address}"), &["--relay-ca", &ca]);
    check(&format!("jet+wss://{address}"), &["--relay-ca", &ca]);

    let pin = "00".repeat(32);
    for url in [
        format!("jet+tls://{address}?pin={pin}"),
        format!("jet+tls://{address}"),
    ] {
        let refused = start_expose(folder.path(), &url, "127.0.0.1:1", &[]);
        let said = refused.logged("cannot wait at the relay");
        assert!(said.contains("tls: invalid peer certificate"), "{said}");
    }
}

#[test]
fn a_relay_is_reached_by_an_http_proxy() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let pin = running.reported(FINGERPRINT);
    let proxy = service(connect_proxy).to_string();
    check(&format!("jet+tcp://{address}"), &["--via", &proxy]);
    check(
        &format!("jet+wss://{address}?pin={pin}"),
        &["--via", &proxy],
    );

    let denying = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let proxy = denying.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for stream in denying.incoming().map_while(Result::ok) {
            let _ = deny(stream);
        }
    });
    let url = format!("jet+tcp://{address}");
    let denied = start_expose(folder.path(), &url, "127.0.0.1:1", &["--via", &proxy]);
    denied.logged("the proxy answers with status 403");
}

/// Reads a head to its end, and returns its first line.
fn read_head(stream: &TcpStream) -> io::Result<String> {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line)?;
    }
    Ok(first)
}

fn deny(mut stream: TcpStream) -> io::Result<()> {
    read_head(&stream)?;
    stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
}

/// One connection of an HTTP proxy that knows CONNECT alone.
pub(crate) fn connect_proxy(mut client: TcpStream) -> io::Result<()> {
    let first = read_head(&client)?;
    let mut words = first.split(' ');
    assert_eq!(words.next(), Some("CONNECT"));
    let mut server = TcpStream::connect(words.next().expect("a target"))?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let forth = thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Write);
    let _ = forth.join();
    Ok(())
}
