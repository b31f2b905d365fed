//! What an agent and its relay make of destinations that do not answer, in a network of their
//! own.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use midspan::protocol::socks5::{Destination, ReplyCode};

use super::agent_process::Program;
use super::agents::{check_echo_over, echo, service};
use super::network_namespace::NetworkNamespace;
use super::patience::until;
use super::relay_process::Relay;
use super::socks::{agent, ask, connect, url};
use super::websocks::{config_in, relay_in};

/// What is sent to the lost address is never answered.
const LOST: &str = "198.51.100.1";
const RULES: &str = "table inet lost { chain input { type filter hook input priority 0; \
    ip daddr 198.51.100.1 drop; }; }";
/// The kernel knows that nobody has it.
const UNREACHABLE: &str = "192.0.2.1";
/// The kernel knows no way there.
const ELSEWHERE: &str = "203.0.113.1";

fn namespace() -> NetworkNamespace {
    let namespace = NetworkNamespace::new(RULES);
    namespace.run(|| {
        for line in [
            format!("address add {LOST}/32 dev lo"),
            format!("route add unreachable {UNREACHABLE}/32"),
        ] {
            let status = Command::new("ip").args(line.split(' ')).status();
            assert!(status.expect("ip runs").success(), "{line}");
        }
    });
    namespace
}

/// The code for a destination, behind which the agent closes.
fn code(agent: SocketAddr, host: &str) -> ReplyCode {
    let (mut stream, reply) = ask(agent, &destination(host), None);
    assert_eq!(stream.read(&mut [0]).expect("its end"), 0);
    reply.code
}

fn destination(host: &str) -> Destination {
    match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, 80).into(),
        Err(_) => Destination::named(host, 80).expect("a name"),
    }
}

#[test]
fn each_way_to_fail_has_its_code() {
    namespace().run(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut relay = relay_in(folder.path(), "", &[]);
        let (agent, local) = agent(folder.path(), &url(&relay), &[]);
        thread::scope(|scope| {
            for (host, expected) in [
                (ELSEWHERE, ReplyCode::NetworkUnreachable),
                (UNREACHABLE, ReplyCode::HostUnreachable),
                (LOST, ReplyCode::TtlExpired),
            ] {
                scope.spawn(move || assert_eq!(code(local, host), expected, "{host}"));
            }
        });
        assert_eq!(relay.counters().count("refused.dial_failed"), 3);
        assert!(agent.stop().success());
        relay.stop().check_clean();
    });
}

#[test]
fn a_resolver_that_never_answers_costs_whoever_asks_it() {
    namespace().run(|| {
        let folder = tempfile::tempdir().expect("a folder");
        // It takes what is asked, and says nothing. The system's resolver asks it twice, for
        // longer than the relay waits.
        let silent = UdpSocket::bind("127.0.0.1:53").expect("root in a network of its own");
        let resolv = folder.path().join("resolv.conf");
        fs::write(&resolv, "nameserver 127.0.0.1\noptions timeout:6\n").expect("written");
        let lines = "cores = 1\n[limits]\nnames_per_user_max = 3\n";
        let config = config_in(folder.path(), lines);
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let resolv = resolv.to_str().expect("text");
        let wrapper = ["unshare", "--mount", "sh", "-c", script, resolv];
        let config = ["--config", config.to_str().expect("text")];
        let mut relay = Relay::start_by(&wrapper, &config);
        let (agent, local) = agent(folder.path(), &url(&relay), &[]);
        let echoing = service(echo);
        check_echo_over(connect(local, echoing), 0, 1000);
        let before = relay.resident_bytes();

        thread::scope(|scope| {
            let asking: Vec<_> = ["a.example", "b.example", "c.example"]
                .map(|host| scope.spawn(move || code(local, host)))
                .into();
            silent
                .set_read_timeout(Some(Duration::from_secs(60)))
                .expect("a socket");
            // All three are being resolved once the resolver was asked for each.
            let mut asked = BTreeSet::new();
            while asked.len() < asking.len() {
                let mut query = [0; 512];
                let length = silent.recv(&mut query).expect("a query");
                // Behind the header and the length of the first label: RFC 1035 §4.1.
                assert!(length > 13, "{length}");
                asked.insert(query[13]);
            }
            for _ in 0..100 {
                assert_eq!(code(local, "d.example"), ReplyCode::GeneralFailure);
            }
            check_echo_over(connect(local, echoing), 0, 1000);
            for one in asking {
                assert_eq!(one.join().expect("an answer"), ReplyCode::TtlExpired);
            }
        });
        let counters = relay.counters();
        assert_eq!(counters.count("refused.too_many_names"), 100);
        assert_eq!(counters.count("refused.not_resolved"), 3);
        let after = relay.resident_bytes();
        assert!(after < before + (8 << 20), "{before} to {after}");
        // Once the system's resolver has given up, the user may ask again.
        until("names are resolved again", || {
            (code(local, "localhost") == ReplyCode::ConnectionRefused).then_some(())
        });
        assert!(agent.stop().success());
        relay.stop().check_clean();
    });
}

#[test]
fn an_origin_that_accepts_and_stays_silent_is_left_in_time() {
    const SESSIONS: usize = 20;
    let folder = tempfile::tempdir().expect("a folder");
    let mut relay = relay_in(folder.path(), "[limits]\nsession_idle_s = 1\n", &[]);
    // A pool would have descriptors of its own.
    let (agent, local) = agent(folder.path(), &url(&relay), &["--pool", "0"]);
    let origin = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = origin.local_addr().expect("bound");
    let descriptors = |agent: &Program| fs::read_dir(agent.proc("fd")).expect("it runs").count();
    let before = descriptors(&agent);
    let mut clients: Vec<_> = (0..SESSIONS).map(|_| connect(local, address)).collect();
    for client in &mut clients {
        let mut rest = Vec::new();
        // However the session is ended, nothing came before.
        let _ = client.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    relay.wait_for_counters("all have ended", |now| now.gauge("pairs") == 0);
    drop(clients);
    // Each had two; what the agent has for itself may have been made since.
    until("the agent lets go", || {
        (descriptors(&agent) < before + SESSIONS).then_some(())
    });
    assert!(agent.stop().success());
    relay.stop();
}
