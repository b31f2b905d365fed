//! PTTH over QUIC where the relay is known by a name, in a network with a resolver of its own.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;

use super::agent_process::Program;
use super::agents_transports::FINGERPRINT;
use super::network_namespace::NetworkNamespace;
use super::ptth_agents::{key_file, relay};
use super::require::{require, require_root};

const RELAY: &str = "127.0.0.1:7777";

/// Answers who asks for a name of one label and `example` with these addresses, once it was
/// asked so often for the same.
fn resolver(addresses: &'static [Ipv4Addr], asked_min: usize) {
    /// RFC 1035 §4.1.1.
    const HEADER_BYTES: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    let socket = UdpSocket::bind("127.0.0.1:53").expect("root in a network of its own");
    thread::spawn(move || {
        let mut seen = HashSet::new();
        let mut space = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut space) {
            let query = &space[..length];
            let name = query[HEADER_BYTES..].iter().position(|byte| *byte == 0);
            let kind = HEADER_BYTES + name.expect("a name's end") + 1;
            let question = &query[HEADER_BYTES..kind + 4];
            let nth = (0..asked_min).find(|nth| seen.insert((question.to_vec(), *nth)));
            if nth.is_some_and(|nth| nth + 1 < asked_min) {
                continue;
            }
            let addresses = match query[kind..kind + 2] == TYPE_A {
                true => addresses,
                false => &[],
            };
            let count = u8::try_from(addresses.len()).expect("a few");
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
            answer.extend(question);
            for address in addresses {
                // The name is the question's; the class, a minute, and four bytes.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(address.octets());
            }
            socket.send_to(&answer, from).expect("sent");
        }
    });
}

/// A client-side proxy to `host`, which asks the resolver, and asks once more after 4 s.
fn forward(folder: &Path, host: &str, pin: &str) -> Program {
    let resolv = folder.join("resolv.conf");
    fs::write(&resolv, "nameserver 127.0.0.1\noptions timeout:4\n").expect("written");
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let url = format!("{host}:7777?pin={pin}");
    let key = key_file(folder, "alice");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(&resolv);
    command.arg(env!("CARGO_BIN_EXE_midspan"));
    command.args(["forward", "0", "--to", "home"]);
    command.args(["--relay", &url, "--key-file", &key]);
    command.env_remove("MIDSPAN_LOG");
    Program::start_other(command)
}

fn with_rules(rules: &str, check: fn()) {
    let programs = ["unshare", "nft", "ip", "mount"];
    if require_root() && programs.iter().all(|name| require(name).is_some()) {
        NetworkNamespace::new(rules).run(check);
    }
}

#[test]
fn a_resolver_that_takes_its_time_is_waited_for() {
    with_rules("table inet midspan { }", || {
        resolver(&[Ipv4Addr::LOCALHOST], 2);
        let folder = tempfile::tempdir().expect("a folder");
        let options = ["--cores", "1", "--quic-listen", RELAY];
        let (relay, _) = relay(folder.path(), RELAY, &options);
        let forward = forward(folder.path(), "relay.example", &relay.reported(FINGERPRINT));
        let joined = forward.logged("relay");
        assert!(joined.contains("joined the relay"), "{joined}");
    });
}

#[test]
fn addresses_that_lead_nowhere_do_not_block_udp() {
    let rules = "table inet midspan { chain input { type filter hook input priority 0; \
        ip daddr { 127.0.0.1, 127.0.0.2 } udp dport 7777 drop; }; }";
    with_rules(rules, || {
        const ALL: &[Ipv4Addr] = &[
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::new(127, 0, 0, 2),
            // The furthest from the first, so that no resolver sorts it before them.
            Ipv4Addr::new(127, 0, 0, 9),
        ];
        resolver(ALL, 1);
        let folder = tempfile::tempdir().expect("a folder");
        let options = ["--cores", "1", "--open", "--quic-listen", "0.0.0.0:7777"];
        let (relay, _) = relay(folder.path(), "0.0.0.0:7777", &options);
        let forward = forward(folder.path(), "relay.example", &relay.reported(FINGERPRINT));
        let joined = forward.logged("relay");
        assert!(joined.contains("joined the relay"), "{joined}");
    });
}
