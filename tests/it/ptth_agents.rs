//! `midspan expose` and `midspan forward` by PTTH over HTTP, through a relay.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use midspan::access::ApiKey;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::admin::{metrics, status};
use super::agent_process::{Program, relay as relay_at};
use super::agents::{
    assert_reset, check_echo, check_greetings, dial, echo, greet_and_count, read_banner, service,
};
use super::agents_admin::{admin, told};
use super::agents_ssh::check_ssh_and_scp;
use super::agents_transports::{FINGERPRINT, connect_proxy};
use super::patience::{PATIENCE, until};

/// What a test has running, and where the relay is.
pub(super) struct Meeting {
    pub(super) folder: tempfile::TempDir,
    pub(super) relay: Program,
    pub(super) address: SocketAddr,
    /// By which the proxies come.
    pub(super) url: String,
}

pub(super) fn key(name: &str) -> ApiKey {
    let mut bytes = [b'-'; 24];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    ApiKey::from_random(bytes)
}

/// Writes the key of `name`, which the relay lists or not.
pub(super) fn key_file(folder: &Path, name: &str) -> String {
    let path = folder.join(format!("{name}.key"));
    fs::write(&path, key(name).to_string()).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    path.to_str().expect("text").to_owned()
}

/// Starts a relay of [`relay_config`].
pub(super) fn relay(folder: &Path, listen: &str, options: &[&str]) -> (Program, SocketAddr) {
    let config = relay_config(folder, "");
    relay_at(folder, listen, &[&["--config", &config], options].concat())
}

/// Writes what a relay is to read which knows the servers home and lab, alice, who reaches home
/// alone, and bob, who reaches lab alone; and `more`.
pub(super) fn relay_config(folder: &Path, more: &str) -> String {
    let listed = |kind: &str, name: &str, more: &str| {
        let hash = key(name).hash();
        format!("[[ptth.{kind}]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{more}\n")
    };
    let text = [
        listed("servers", "home", ""),
        listed("servers", "lab", ""),
        listed("clients", "alice", "may = [\"home\"]"),
        listed("clients", "bob", "may = [\"lab\"]"),
        more.to_owned(),
    ];
    let path = folder.join("relay.toml");
    fs::write(&path, text.concat()).expect("written");
    path.to_str().expect("text").to_owned()
}

impl Meeting {
    pub(super) fn new(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (relay, address) = relay(folder.path(), "127.0.0.1:0", options);
        Self {
            folder,
            relay,
            address,
            url: format!("ptth+http://{address}"),
        }
    }

    pub(super) fn expose_with(&self, name: &str, options: &[&str]) -> Program {
        let key = key_file(self.folder.path(), name);
        let args = ["expose", name, "--relay", &self.url, "--key-file", &key];
        Program::start(&[&args, options].concat())
    }

    /// Exposes these targets as home.
    pub(super) fn expose(&self, targets: &[&str]) -> Program {
        let options: Vec<&str> = targets.iter().flat_map(|target| ["--to", target]).collect();
        let expose = self.expose_with("home", &options);
        expose.logged("listening at the relay");
        expose
    }

    pub(super) fn forward_with(&self, name: &str, options: &[&str]) -> (Program, SocketAddr) {
        let key = key_file(self.folder.path(), name);
        let args = ["forward", "0", "--relay", &self.url, "--key-file", &key];
        let forward = Program::start(&[&args, options].concat());
        let local = forward.reported("forwarding ").parse();
        (forward, local.expect("an address"))
    }

    pub(super) fn forward(&self, to: &str) -> (Program, SocketAddr) {
        self.forward_with("alice", &["--to", to])
    }
}

#[test]
fn many_sessions_at_once_and_after_each_other() {
    let meeting = Meeting::new(&["--cores", "2"]);
    let expose = meeting.expose(&[&service(echo).to_string()]);
    let (forward, local) = meeting.forward("home");
    thread::scope(|scope| {
        for client in 0..100 {
            scope.spawn(move || check_echo(local, client, 50_000));
        }
    });
    for client in 100..104 {
        check_echo(local, client, 3_000_000);
    }
    check_echo(local, 104, 0);
    for program in [forward, expose, meeting.relay] {
        assert!(program.stop().success());
    }
}

#[test]
fn a_client_that_waits_is_greeted_and_half_close_passes() {
    let meeting = Meeting::new(&[]);
    let _expose = meeting.expose(&[&service(greet_and_count).to_string()]);
    let (_forward, local) = meeting.forward("home");
    check_greetings(local);
}

#[test]
fn a_service_may_end_first_and_hear_the_rest() {
    let meeting = Meeting::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = listener.local_addr().expect("bound").to_string();
    let _expose = meeting.expose(&[&target]);
    let (_forward, local) = meeting.forward("home");
    let mut client = dial(local);
    let (mut service, _) = listener.accept().expect("a connection");
    service.write_all(b"all that there is").expect("taken");
    service.shutdown(Shutdown::Write).expect("connected");
    let mut said = String::new();
    client.read_to_string(&mut said).expect("an orderly end");
    assert_eq!(said, "all that there is");
    client.write_all(&vec![7; 1_000_000]).expect("taken");
    drop(client);
    let mut heard = Vec::new();
    service.read_to_end(&mut heard).expect("an orderly end");
    assert_eq!(heard.len(), 1_000_000);
}

#[test]
fn services_are_asked_for_by_port() {
    let meeting = Meeting::new(&[]);
    let echoing = format!("7={}", service(echo));
    let greeting = format!("mail={}", service(greet_and_count));
    let _expose = meeting.expose(&[&echoing, &greeting]);
    let (_forward, local) = meeting.forward("home:7");
    check_echo(local, 1, 1000);
    let (_forward, local) = meeting.forward("home:mail");
    read_banner(&mut dial(local)).expect("a greeting");
}

#[test]
fn who_may_not_is_told_why() {
    let meeting = Meeting::new(&[]);
    for (name, to, reason) in [
        ("alice", "lab:22", "this key may not reach this port"),
        ("alice", "nowhere:22", "there is no such server"),
        ("mallory", "home:22", "the relay does not know this key"),
    ] {
        let (forward, local) = meeting.forward_with(name, &["--to", to]);
        assert_reset(&dial(local));
        let line = forward.logged("no session");
        assert!(line.contains(reason), "{line}");
    }
    let mut expose = meeting.expose_with("mallory", &["--to", "127.0.0.1:9"]);
    assert_eq!(expose.wait().code(), Some(1));
    expose.logged("does not let this proxy listen (status 401)");
    expose.logged("next: check the key");
}

#[test]
fn a_port_that_is_not_exposed_is_told_from_a_server_that_is_away() {
    let meeting = Meeting::new(&["--limit", "ptth_connect_timeout_s=1"]);
    let _expose = meeting.expose(&["7=127.0.0.1:9", "8=127.0.0.1:9"]);
    for (to, reason) in [
        ("home:80", "and does it expose 80? (status 504)"),
        ("home", "it is asked for each by home:PORT (status 504)"),
    ] {
        let (forward, local) = meeting.forward(to);
        assert_reset(&dial(local));
        let line = forward.logged("no session");
        assert!(line.contains(reason), "{line}");
    }
}

#[test]
fn a_server_is_exposed_by_the_name_of_its_key() {
    let meeting = Meeting::new(&[]);
    let key = key_file(meeting.folder.path(), "home");
    let options = ["--relay", &meeting.url, "--key-file", &key];
    let options = [&["expose", "hoem", "--to", "127.0.0.1:9"], &options[..]].concat();
    let mut expose = Program::start(&options);
    assert_eq!(expose.wait().code(), Some(1));
    expose.logged("knows this key as \"home\", and not as \"hoem\"");
    expose.logged("next: expose it by the NAME that the relay knows");
}

#[test]
fn a_service_that_is_away_resets_the_client() {
    let meeting = Meeting::new(&[]);
    let expose = meeting.expose(&["unix:/nonexistent/socket"]);
    let (forward, local) = meeting.forward("home");
    assert_reset(&dial(local));
    let line = forward.logged("no session");
    assert!(line.contains("the server rejects it"), "{line}");
    expose.logged("cannot reach the service");
}

#[test]
fn both_find_a_relay_that_was_restarted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let mut meeting = Meeting {
        folder,
        relay: first,
        address,
        url: format!("ptth+http://{address}"),
    };
    let expose = meeting.expose(&[&service(greet_and_count).to_string()]);
    let (_forward, local) = meeting.forward("home");
    check_greetings(local);
    let mut open = dial(local);
    read_banner(&mut open).expect("a greeting");
    meeting.relay.signal(Signal::KILL);
    meeting.relay.wait();
    assert_reset(&open);
    expose.logged("cannot listen at the relay");
    // One that comes while the relay is away waits for it.
    let waiting = thread::spawn(move || read_banner(&mut dial(local)));
    let (second, _) = relay(meeting.folder.path(), &address.to_string(), &[]);
    waiting.join().expect("no panic").expect("a greeting");
    check_greetings(local);
    assert!(second.stop().success());
}

#[test]
fn whoever_is_killed_the_other_end_is_reset() {
    let meeting = Meeting::new(&[]);
    let target = service(greet_and_count).to_string();
    let mut expose = meeting.expose(&[&target]);
    let (_forward, local) = meeting.forward("home");
    let mut client = dial(local);
    read_banner(&mut client).expect("a greeting");
    expose.signal(Signal::KILL);
    expose.wait();
    assert_reset(&client);

    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = listener.local_addr().expect("bound").to_string();
    let _expose = meeting.expose(&[&target]);
    let (mut forward, local) = meeting.forward("home");
    let mut client = dial(local);
    let (mut service, _) = listener.accept().expect("a connection");
    service.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    service.write_all(b"!").expect("taken");
    client.read_exact(&mut [0]).expect("a greeting");
    forward.signal(Signal::KILL);
    forward.wait();
    assert_reset(&service);
}

#[test]
fn a_session_may_finish_when_its_proxies_are_told_to_stop() {
    let meeting = Meeting::new(&[]);
    let mut expose = meeting.expose(&[&service(greet_and_count).to_string()]);
    let (mut forward, local) = meeting.forward("home");
    let mut client = dial(local);
    read_banner(&mut client).expect("a greeting");
    for program in [&expose, &forward, &meeting.relay] {
        program.terminate();
        program.logged("stopping");
    }
    client.write_all(b"12345").expect("taken");
    client.shutdown(Shutdown::Write).expect("connected");
    let mut count = String::new();
    client.read_to_string(&mut count).expect("an orderly end");
    assert_eq!(count, "5");
    assert!(expose.wait().success());
    assert!(forward.wait().success());
    assert!(meeting.relay.stop().success());
}

#[test]
fn ssh_and_scp_go_through() {
    let meeting = Meeting::new(&["--cores", "2"]);
    check_ssh_and_scp(meeting.folder.path(), |target| {
        let expose = meeting.expose(&[target]);
        let (forward, local) = meeting.forward("home");
        (vec![expose, forward], local)
    });
}

#[test]
fn tls_with_a_pin_and_by_an_http_proxy() {
    let mut meeting = Meeting::new(&["--cores", "2"]);
    let pin = meeting.relay.reported(FINGERPRINT);
    meeting.url = format!("ptth+https://{}?pin={pin}", meeting.address);
    let proxy = service(connect_proxy).to_string();
    let via = ["--via", &proxy];
    let target = service(echo).to_string();
    let expose = meeting.expose_with("home", &[&["--to", &target], &via[..]].concat());
    expose.logged("listening at the relay");
    let (forward, local) = meeting.forward_with("alice", &[&["--to", "home"], &via[..]].concat());
    thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || check_echo(local, client, 300_000));
        }
    });
    meeting.url = format!("ptth+https://{}?pin={}", meeting.address, "0".repeat(64));
    let (stranger, local) = meeting.forward("home");
    assert_reset(&dial(local));
    stranger.logged("ask for the SHA-256 that it has now");
    for program in [forward, expose, meeting.relay] {
        assert!(program.stop().success());
    }
}

#[test]
fn operators_see_whether_the_relay_is_there() {
    let mut meeting = Meeting::new(&[]);
    let operators = ["--admin", "127.0.0.1:0"];
    let target = service(greet_and_count).to_string();
    let expose = meeting.expose_with("home", &[&["--to", &target], &operators[..]].concat());
    let of_expose = admin(&expose);
    expose.logged("listening at the relay");
    let options = [&["--to", "home"], &operators[..]].concat();
    let (forward, local) = meeting.forward_with("alice", &options);
    let of_forward = admin(&forward);
    check_greetings(local);
    let is_seen = |at: SocketAddr, is_down: bool| {
        until("whether the relay is there", || {
            let seen = status(at)["relays"][0].clone();
            assert_eq!(seen["relay"], meeting.url);
            assert_eq!(seen.get("entrances_ready"), None, "{seen}");
            (seen["shards_down"] == u64::from(is_down)).then_some(seen)
        })
    };
    for at in [of_expose, of_forward] {
        assert_eq!(is_seen(at, false).get("last_failure"), None);
    }
    meeting.relay.signal(Signal::KILL);
    meeting.relay.wait();
    // The kernel may close its sockets a little later.
    until("nobody listens there", || {
        TcpStream::connect(meeting.address).err()
    });
    let waiting = thread::spawn(move || read_banner(&mut dial(local)));
    for at in [of_expose, of_forward] {
        assert_eq!(is_seen(at, true)["last_failure"]["why"], "unreachable");
        let relay = &meeting.url;
        let counted = metrics(at);
        let failures =
            format!("midspan_relay_failures_total{{relay=\"{relay}\",reason=\"unreachable\"}}");
        assert!(counted[&failures] >= 1.0, "{counted:?}");
        let said = told(at);
        let line = format!("  relay        {relay}: down for 1 core; last failure");
        assert!(said.contains(&line), "{said}");
    }
    let (_second, _) = relay(meeting.folder.path(), &meeting.address.to_string(), &[]);
    waiting.join().expect("no panic").expect("a greeting");
    for at in [of_expose, of_forward] {
        is_seen(at, false);
    }
}

#[test]
fn operators_see_where_tunnels_lead() {
    let meeting = Meeting::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = listener.local_addr().expect("bound").to_string();
    let operators = ["--admin", "127.0.0.1:0"];
    let options = [&["--to", &target], &operators[..]].concat();
    let expose = meeting.expose_with("home", &options);
    let of_expose = admin(&expose);
    expose.logged("listening at the relay");
    let options = [&["--to", "home"], &operators[..]].concat();
    let (forward, local) = meeting.forward_with("alice", &options);
    let of_forward = admin(&forward);

    let mut client = dial(local);
    let (mut service, _) = listener.accept().expect("a connection");
    client.write_all(b"hello").expect("taken");
    let peer = client.local_addr().expect("connected").to_string();
    let relay = meeting.address.to_string();
    let seen_at = |operators: SocketAddr, pairs: u64, bytes: [u64; 2]| {
        let seen = until("so many pairs and bytes", || {
            let seen = status(operators);
            let session = &seen["sessions"][0];
            let carried = [&session["left_bytes"], &session["right_bytes"]];
            let is_there = carried == bytes.map(Value::from).each_ref() && seen["pairs"] == pairs;
            is_there.then_some(seen)
        });
        assert_eq!(seen["sessions_count"], 1);
        seen["sessions"].clone()
    };
    let check = |pairs: u64, bytes: [u64; 2]| {
        for (operators, peer, target) in [
            (of_forward, &peer, "home:default"),
            (of_expose, &relay, &*target),
        ] {
            let sessions = seen_at(operators, pairs, bytes);
            let lasted_s = &sessions[0]["lasted_s"];
            let [left_bytes, right_bytes] = bytes;
            let expected = json!([{
                "kind": "tunnel", "peer": peer, "target": target, "way": meeting.url,
                "left_bytes": left_bytes, "right_bytes": right_bytes, "lasted_s": lasted_s,
            }]);
            assert_eq!(sessions, expected);
        }
    };
    check(2, [5, 0]);
    service.write_all(b"welcome").expect("taken");
    check(2, [5, 7]);
    let line = format!("{peer} to home:default by {}, 5 and 7 bytes", meeting.url);
    let said = told(of_forward);
    assert!(said.contains(&line), "{line:?} is missing: {said}");
    // What a way carried that has ended is told until the other has.
    client.shutdown(Shutdown::Write).expect("connected");
    check(1, [5, 7]);
    drop((client, service));
    for operators in [of_forward, of_expose] {
        let seen = until("its end", || {
            let seen = status(operators);
            (seen["sessions_count"] == 0).then_some(seen)
        });
        assert_eq!((&seen["sessions"], &seen["pairs"]), (&json!([]), &0.into()));
    }
}
