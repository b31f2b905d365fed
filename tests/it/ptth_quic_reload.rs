//! PTTH over QUIC: a configuration that changes while proxies are there.

use std::fs;
use std::net::SocketAddr;

use rustix::process::Signal;

use super::agent_process::Program;
use super::agents::{check_echo, dial, echo, ping, service, session};
use super::peers::quic_peer::QuicPeer;
use super::ptth_agents::{Meeting, key, relay};
use super::ptth_quic::{QUIC, expose, meeting};
use super::reload::write_certificate;

pub(super) fn reload(relay: &Program) {
    relay.signal(Signal::HUP);
    relay.logged("the configuration is taken");
}

/// Has a key be listed no more, of `role`: its proxy may end what it has begun.
#[track_caller]
fn check_unlisted(role: &str, refusal: &str) {
    let meeting = meeting(&["--cores", "1"]);
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    let (forward, local) = meeting.forward("home");
    let running = session(local);
    let path = meeting.folder.path().join("relay.toml");
    let text = fs::read_to_string(&path).expect("text");
    let hash = text.split(role).nth(1).expect("a table");
    let hash = hash.split("sha256 = \"").nth(1).expect("a key");
    let (hash, _) = hash.split_once('"').expect("its end");
    let other = key("mallory").hash().to_string();
    fs::write(&path, text.replace(hash, &other)).expect("written");
    reload(&meeting.relay);
    drop(dial(local));
    forward.logged(refusal);
    ping(&running);
    drop(running);
    let gone = match role {
        "[[ptth.servers]]" => &expose,
        _ => &forward,
    };
    gone.logged("its key is not listed any more");
}

#[test]
fn a_client_whose_key_is_listed_no_more_may_end_what_it_has_begun() {
    check_unlisted(
        "[[ptth.clients]]",
        "the relay does not know this client any more",
    );
}

#[test]
fn a_server_whose_key_is_listed_no_more_may_end_what_it_has_begun() {
    check_unlisted("[[ptth.servers]]", "the server is not there");
}

#[test]
fn a_certificate_that_is_renewed_is_shown_to_who_comes_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let pem = folder.path().join("both.pem");
    let first = write_certificate(&pem);
    let shown = pem.to_str().expect("text");
    let tls = ["--tls-certificate", shown, "--tls-key", shown];
    let own = ["--cores", "1", "--quic-listen", "127.0.0.1:0"];
    let (relay, address) = relay(folder.path(), "127.0.0.1:0", &[&own[..], &tls].concat());
    let at: SocketAddr = relay.reported(QUIC).parse().expect("an address");
    let url = |pin| format!("ptth+quic://{at}?pin={pin}");
    let mut meeting = Meeting {
        folder,
        relay,
        address,
        url: url(first),
    };
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    let running = session(local);
    let second = write_certificate(&pem);
    reload(&meeting.relay);
    // Connections that there are go on.
    ping(&running);
    check_echo(local, 1, 1000);
    super::patience::until("the new certificate at every shard", || {
        (!QuicPeer::dial(&meeting).comes_about()).then_some(())
    });
    meeting.url = url(second);
    assert!(QuicPeer::dial(&meeting).comes_about());
}
