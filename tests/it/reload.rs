//! A configuration that changes under load.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use midspan::access::Fingerprint;
use midspan::tls::identity::Identity;
use rustix::process::Signal;

use super::jet_client::new_place;
use super::patience::until;
use super::relay_process::Relay;
use super::rest::exchange;
use super::transports::{Leg, Role, Transport, certificate};

/// Writes a fresh certificate with its key, and tells its fingerprint.
pub(super) fn write_certificate(path: &Path) -> Fingerprint {
    let pem = Identity::make_pem("relay.example").expect("a certificate");
    // As a whole, as those do who renew certificates.
    let fresh = path.with_extension("new");
    fs::write(&fresh, &pem).expect("written");
    fs::set_permissions(&fresh, Permissions::from_mode(0o600)).expect("chmod");
    fs::rename(&fresh, path).expect("renamed");
    Identity::parse(pem.as_bytes(), path)
        .expect("a certificate")
        .fingerprint()
}

/// A key's entry in the file, and the key.
fn make_key() -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args(["key", "signalling"])
        .output()
        .expect("it runs");
    let said = String::from_utf8(output.stderr).expect("text");
    let key = said.lines().last().expect("a key").to_owned();
    (String::from_utf8(output.stdout).expect("text"), key)
}

fn creates(relay: SocketAddr, key: &str) -> u16 {
    let bearer = format!("Authorization: Bearer {key}\r\n");
    exchange(relay, "GET /jet/create", &bearer).status
}

/// Sessions that carry messages until they are stopped, and count them.
fn run_sessions(relay: SocketAddr, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<u64>> {
    let run = |(accepting, connecting)| {
        let place = new_place();
        let mut acceptor = Leg::come(relay, accepting, Role::Accept, place, b"");
        let mut connector = Leg::come(relay, connecting, Role::Connect, place, b"");
        let stop = Arc::clone(stop);
        thread::spawn(move || {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                connector.write_all(b"ping");
                acceptor.expect(b"ping");
                acceptor.write_all(b"pong");
                connector.expect(b"pong");
                rounds += 1;
            }
            connector.end();
            acceptor.expect_end();
            rounds
        })
    };
    [
        (Transport::Tcp, Transport::Tls),
        (Transport::Wss, Transport::Ws),
        (Transport::Tls, Transport::Wss),
    ]
    .map(run)
    .into()
}

#[test]
fn a_reload_is_noticed_by_no_session_and_a_broken_file_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("relay.toml");
    let pem = folder.path().join("both.pem");
    let first = write_certificate(&pem);
    let (entry, key) = make_key();
    let write = |entry: &str, more: &str| {
        let pem = pem.display();
        let text = format!(
            "create_on_accept = true\n{more}\n\
             [[tls.certificates]]\nchain = \"{pem}\"\nkey = \"{pem}\"\n{entry}"
        );
        fs::write(&config, text).expect("written");
    };
    write(&entry, "");
    let mut relay = Relay::start(&["--config", config.to_str().expect("text")]);
    let address = relay.address;
    let stop = Arc::new(AtomicBool::new(false));
    let sessions = run_sessions(address, &stop);
    assert_eq!(certificate(address), first);
    assert_eq!(creates(address, &key), 200);

    // Another key, another certificate, and something that takes a restart.
    let second = write_certificate(&pem);
    let (entry, other_key) = make_key();
    write(&entry, "spin_us = 10");
    relay.signal(Signal::HUP);
    relay.wait_for_line("spin_us has changed, which takes a restart");
    relay.wait_for_line("the configuration is taken");
    until("the new key", || {
        (creates(address, &other_key) == 200).then_some(())
    });
    assert_eq!(creates(address, &key), 401);
    assert_eq!(certificate(address), second);

    // A file that is none.
    write(&entry, "listen = 5");
    relay.signal(Signal::HUP);
    let said = relay.wait_for_line("the configuration is not taken, the one before stays");
    assert!(said.contains("relay.toml:2:10: listen: "), "{said}");
    assert_eq!(creates(address, &other_key), 200);
    // A key that belongs to another certificate.
    write(&entry, "");
    let whole = fs::read(&pem).expect("readable");
    fs::write(&pem, &whole[..whole.len() / 2]).expect("written");
    relay.signal(Signal::HUP);
    relay.wait_for_line("the configuration is not taken, the one before stays");
    assert_eq!(certificate(address), second);

    // A certificate that is renewed is found without being told of.
    let third = write_certificate(&pem);
    until("the renewed certificate", || {
        (certificate(address) == third).then_some(())
    });

    stop.store(true, Ordering::Relaxed);
    for session in sessions {
        let rounds = session.join().expect("it was whole to its end");
        assert!(rounds > 0);
    }
    let ended = relay.stop();
    ended.check_clean();
    let clean = ["finished_by_left", "finished_by_right"];
    let clean: u64 = clean
        .map(|how| ended.counters.count(&format!("ended.{how}")))
        .iter()
        .sum();
    assert_eq!(clean, 3);
    assert!(!ended.log.contains(&key) && !ended.log.contains(&other_key));
}

#[test]
fn a_relay_that_asks_for_certificates_serves_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("relay.toml");
    let pem = folder.path().join("both.pem");
    write_certificate(&pem);
    let shown = pem.display();
    let text = format!(
        "create_on_accept = true\n[tls]\nclient_ca = \"{shown}\"\n\
         [[tls.certificates]]\nchain = \"{shown}\"\nkey = \"{shown}\"\n"
    );
    fs::write(&config, text).expect("written");
    let mut relay = Relay::start(&["--config", config.to_str().expect("text")]);
    for opening in [
        b"GET /jet/health HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        super::jet_client::packet(&super::jet_client::accept(new_place())),
    ] {
        let mut stream: TcpStream = super::jet_client::dial(relay.address);
        stream.write_all(&opening).expect("sent");
        let mut said = Vec::new();
        stream.read_to_end(&mut said).expect("an end");
        assert!(said.is_empty(), "{said:?}");
    }
    let counters = relay.counters();
    assert_eq!(counters.count("refused.tls_required"), 2);
    relay.stop().check_clean();
}
