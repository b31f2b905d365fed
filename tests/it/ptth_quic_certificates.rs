//! PTTH over QUIC: proxies that the relay knows by their certificates.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use midspan::access::Fingerprint;
use midspan::protocol::ptth_quic::{Hello, Role, Who};
use midspan::tls::identity::Identity;

use super::agent_process::Program;
use super::agents::{check_echo, dial, echo, ping, service, session};
use super::peers::quic_peer::QuicPeer;
use super::ptth_agents::{Meeting, key};
use super::ptth_quic::{expose, meeting_with_file};
use super::ptth_quic_bad_input::expect_refused;
use super::ptth_quic_reload::reload;
use super::require::require;

/// Who has a private key.
pub(super) struct Holder {
    pem: String,
    pub(super) identity: Identity,
}

impl Holder {
    pub(super) fn new() -> Self {
        let pem = Identity::make_key_pem().expect("a key");
        let identity = Identity::of_key(&pem).expect("a certificate");
        Self { pem, identity }
    }

    /// How the relay lists it.
    pub(super) fn listed(&self, role: &str, name: &str, more: &str) -> String {
        let hash = self.identity.public_key();
        format!("[[ptth.{role}]]\nname = \"{name}\"\ncertificate_sha256 = \"{hash}\"\n{more}\n")
    }

    /// Writes it for a proxy.
    pub(super) fn file(&self, folder: &Path, name: &str) -> String {
        let path = folder.join(format!("{name}.pem"));
        fs::write(&path, &self.pem).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        path.to_str().expect("text").to_owned()
    }

    fn expose(&self, meeting: &Meeting, name: &str) -> Program {
        let target = service(echo).to_string();
        self.expose_by(meeting, &meeting.url, name, &["--to", &target])
    }

    /// Exposes as `name` by a way to the relay.
    pub(super) fn expose_by(
        &self,
        meeting: &Meeting,
        url: &str,
        name: &str,
        options: &[&str],
    ) -> Program {
        let file = self.file(meeting.folder.path(), name);
        let args = ["expose", name, "--relay", url, "--key-file", &file];
        Program::start(&[&args[..], options].concat())
    }

    fn forward(&self, meeting: &Meeting, to: &str) -> (Program, SocketAddr) {
        let file = self.file(meeting.folder.path(), "client");
        let args = ["forward", "0", "--relay", &meeting.url, "--key-file", &file];
        let forward = Program::start(&[&args[..], &["--to", to]].concat());
        let local = forward.reported("forwarding ").parse();
        (forward, local.expect("an address"))
    }

    /// Connects without a word.
    pub(super) fn connect(&self, meeting: &Meeting) -> QuicPeer {
        QuicPeer::connect_as(Some(&self.identity), meeting)
    }
}

/// A relay that knows a server `vault` and a client `carol` by their certificates, and a client
/// `erin` by her key.
fn with_certificates() -> (Meeting, [Holder; 2]) {
    let [vault, carol] = [(); 2].map(|()| Holder::new());
    let hash = key("erin").hash();
    let more = [
        vault.listed("servers", "vault", ""),
        carol.listed("clients", "carol", "may = [\"home\", \"vault\"]"),
        format!("[[ptth.clients]]\nname = \"erin\"\nsha256 = \"{hash}\"\nmay = [\"vault\"]\n"),
    ];
    let (meeting, _) = meeting_with_file(&more.concat(), &["--cores", "2"]);
    (meeting, [vault, carol])
}

#[test]
fn a_certificate_is_as_good_as_a_key() {
    let (meeting, [vault, carol]) = with_certificates();
    let of_vault = vault.expose(&meeting, "vault");
    of_vault.logged("a certificate is good over QUIC alone");
    of_vault.logged("joined the relay");
    let _home = expose(&meeting, &[&service(echo).to_string()]);
    let (_both, local) = carol.forward(&meeting, "vault");
    check_echo(local, 1, 100_000);
    let (_server_by_key, local) = carol.forward(&meeting, "home");
    check_echo(local, 2, 100_000);
    let (_client_by_key, local) = meeting.forward_with("erin", &["--to", "vault"]);
    check_echo(local, 3, 100_000);
}

#[test]
fn a_certificate_is_good_for_its_own_proxy_alone() {
    let (meeting, [vault, carol]) = with_certificates();
    let unknown = Holder::new();
    // Nobody's, another one's, and one of the other role.
    for (holder, name) in [(&unknown, "vault"), (&vault, "home"), (&carol, "vault")] {
        let mut expose = holder.expose(&meeting, name);
        expose.logged("certificate_sha256 for a certificate");
        assert!(!expose.wait().success());
    }
}

fn hello(role: Role, name: &str, key: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let hello = Hello {
        role,
        who: Who::Layered {
            id: name.parse().expect("a name"),
            key: key.map(|key| key.parse().expect("a key")),
        },
    };
    hello.encode(&mut bytes);
    bytes
}

/// Says hello, and expects to be let in or not.
#[track_caller]
fn check_hello(mut peer: QuicPeer, hello: &[u8], is_let_in: bool) {
    let stream = peer.open_with(hello);
    if is_let_in {
        assert_eq!(peer.hear(stream, 4), [20, hello[0], 0, 0]);
    } else {
        expect_refused(&mut peer, stream, 41, hello[0]);
        assert_eq!(peer.closed(), 0x11);
    }
}

#[test]
fn who_shows_both_is_one_of_whom_the_relay_lists_both() {
    let both = Holder::new();
    let ownkey = key("frank").to_string();
    let hash = key("frank").hash();
    let more = both.listed("servers", "frank", &format!("sha256 = \"{hash}\""));
    let (meeting, _) = meeting_with_file(&more, &["--cores", "1"]);
    let say = |key: Option<&str>| hello(Role::ServerSide, "frank", key);
    let others = key("home").to_string();
    check_hello(both.connect(&meeting), &say(Some(&ownkey)), true);
    check_hello(both.connect(&meeting), &say(None), true);
    check_hello(both.connect(&meeting), &say(Some(&others)), false);
    check_hello(both.connect(&meeting), &say(Some("nobody's")), false);
    // A key beside a certificate that nobody knows.
    let stranger = Holder::new();
    check_hello(stranger.connect(&meeting), &say(Some(&ownkey)), false);
    // No certificate.
    let without = || QuicPeer::connect(&meeting);
    check_hello(without(), &say(Some(&ownkey)), true);
    check_hello(without(), &say(None), false);
}

#[test]
fn a_client_whose_certificate_is_listed_no_more_may_end_what_it_has_begun() {
    let (meeting, [vault, carol]) = with_certificates();
    let of_vault = vault.expose(&meeting, "vault");
    of_vault.logged("joined the relay");
    let (forward, local) = carol.forward(&meeting, "vault");
    let running = session(local);
    let path = meeting.folder.path().join("relay.toml");
    let text = fs::read_to_string(&path).expect("text");
    let hash = |holder: &Holder| holder.identity.public_key().to_string();
    let changed = text.replace(&hash(&carol), &hash(&Holder::new()));
    assert_ne!(text, changed);
    fs::write(&path, changed).expect("written");
    reload(&meeting.relay);
    drop(dial(local));
    forward.logged("the relay does not know this client any more");
    ping(&running);
    drop(running);
    forward.logged("its key is not listed any more");
    // Others stay.
    let (_client_by_key, local) = meeting.forward_with("erin", &["--to", "vault"]);
    check_echo(local, 1, 1000);
}

/// What the documentation has operators run.
#[test]
fn openssl_says_of_a_key_of_ours_what_it_is_listed_by() {
    let Some(openssl) = require("openssl") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("home.pem");
    let made = Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args(["key", "home", "--for", "ptth-server", "--certificate"])
        .arg(&file)
        .output()
        .expect("it runs");
    assert!(made.status.success(), "{made:?}");
    let listed = String::from_utf8(made.stdout).expect("text");
    let said = Command::new(openssl)
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(&file)
        .output()
        .expect("it runs");
    assert!(said.status.success(), "{said:?}");
    let known_by = Fingerprint::of(&said.stdout);
    let line = format!("\ncertificate_sha256 = \"{known_by}\"\n");
    assert!(listed.contains(&line), "{listed}");
}
