//! PTTH over QUIC where UDP does not pass: both proxies go by HTTPS meanwhile.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use midspan::runtime::clock;
use rustix::process::Signal;
use serde_json::Value;

use super::admin::status;
use super::agent_process::Program;
use super::agents::{assert_reset, check_echo, dial, echo, ping, service, session};
use super::agents_admin::admin;
use super::agents_transports::FINGERPRINT;
use super::network_namespace::NetworkNamespace;
use super::patience::until;
use super::ptth_agents::{Meeting, relay};
use super::ptth_quic_certificates::Holder;
use super::require::{require, require_root};

const RELAY: &str = "127.0.0.1:7777";
const BLOCKED: &str = "no answer over UDP: going by ptth+https";

/// Loses what proxies send to the relay over UDP, on its way.
const LOSE_UDP: &str = "
table inet midspan {
    chain input {
        type filter hook input priority 0;
        udp dport 7777 drop
    }
}
";

/// Loses what goes to the relay and comes from it.
const LOSE_ALL: &str = "
table inet midspan {
    chain input {
        type filter hook input priority 0;
        udp dport 7777 drop
        tcp dport 7777 drop
    }
}
";

/// Tells whoever sends to the relay over UDP that nobody listens there.
const REJECT_UDP: &str = "
table inet midspan {
    chain input {
        type filter hook input priority 0;
        udp dport 7777 reject
    }
}
";

/// The same as the first for those alone who know the relay by another address.
const LOSE_UDP_OF_ONE: &str = "
table inet midspan {
    chain input {
        type filter hook input priority 0;
        ip daddr 127.0.0.2 udp dport 7777 drop
    }
}
";

/// Loses as well what they are answered.
const LOSE_UDP_OF_ONE_BOTH_WAYS: &str = "
table inet midspan {
    chain input {
        type filter hook input priority 0;
        ip daddr 127.0.0.2 udp dport 7777 drop
        ip saddr 127.0.0.2 udp sport 7777 drop
    }
}
";

/// Lets nothing out to the relay: whoever sends a datagram is told so, as by a firewall of its
/// own host.
const LET_NOTHING_OUT: &str = "
table inet midspan {
    chain output {
        type filter hook output priority 0;
        udp dport 7777 drop
        tcp dport 7777 drop
    }
}
";

/// Has `check` run in a namespace with these rules.
fn with_rules(ruleset: &str, check: fn()) {
    if !require_root()
        || ["unshare", "nft", "ip"]
            .iter()
            .any(|name| require(name).is_none())
    {
        return;
    }
    NetworkNamespace::new(ruleset).run(check);
}

fn nft(words: &[&str]) {
    let changed = Command::new("nft").args(words).status();
    assert!(changed.expect("nft runs").success(), "{words:?}");
}

/// Has a relay at one port for both, whose URL has no scheme.
fn meeting(listen: &str, options: &[&str]) -> Meeting {
    let folder = tempfile::tempdir().expect("a folder");
    let own = ["--cores", "1", "--quic-listen", listen];
    let (relay, address) = relay(folder.path(), listen, &[&own, options].concat());
    let pin = relay.reported(FINGERPRINT);
    let url = format!("{RELAY}?pin={pin}");
    Meeting {
        folder,
        relay,
        address,
        url,
    }
}

fn proxies(meeting: &Meeting) -> (Program, Program, SocketAddr) {
    let target = service(echo).to_string();
    let operators = ["--admin", "127.0.0.1:0"];
    let expose = meeting.expose_with("home", &[&["--to", &target], &operators[..]].concat());
    let options = [&["--to", "home"], &operators[..]].concat();
    let (forward, local) = meeting.forward_with("alice", &options);
    (expose, forward, local)
}

/// The relay, as operators of a proxy see it: by each way that it is asked by.
fn ways(of: SocketAddr) -> Vec<(String, u64)> {
    let status = status(of);
    let relays = status["relays"].as_array().expect("relays");
    let way = |relay: &Value| {
        let url = relay["relay"].as_str().expect("a URL").to_owned();
        (url, relay["shards_down"].as_u64().expect("a number"))
    };
    relays.iter().map(way).collect()
}

#[test]
fn where_udp_is_lost_both_go_by_https_until_it_passes() {
    with_rules(LOSE_UDP, || {
        let meeting = meeting(RELAY, &[]);
        let (expose, forward, local) = proxies(&meeting);
        let [of_expose, of_forward] = [&expose, &forward].map(admin);
        // Whoever comes before UDP is known to be blocked waits for that.
        let running = session(local);
        for program in [&expose, &forward] {
            program.logged(BLOCKED);
        }
        expose.logged("listening at the relay");
        for client in 0..4 {
            check_echo(local, client, 1_000_000);
        }
        let quic = format!("ptth+quic://{RELAY}");
        let https = format!("ptth+https://{RELAY}");
        for of in [of_expose, of_forward] {
            assert_eq!(ways(of), [(quic.clone(), 1), (https.clone(), 0)]);
        }
        let failure = &status(of_forward)["relays"][0]["last_failure"];
        assert_eq!(failure["error"], "no answer over UDP");

        nft(&["flush", "ruleset"]);
        for program in [&expose, &forward] {
            program.logged("UDP passes again");
            program.logged("joined the relay");
        }
        for of in [of_expose, of_forward] {
            assert_eq!(ways(of), [(quic.clone(), 0)]);
        }
        check_echo(local, 4, 1_000_000);
        meeting.relay.logged("stream ended");
        // What runs by HTTPS stays there.
        ping(&running);
        drop(running);
        meeting.relay.logged("tunnel ended");
        for program in [forward, expose, meeting.relay] {
            assert!(program.stop().success());
        }
    });
}

#[test]
fn where_udp_stops_passing_both_go_by_https() {
    with_rules("table inet midspan { }", || {
        let meeting = meeting(RELAY, &[]);
        let (expose, forward, local) = proxies(&meeting);
        for program in [&expose, &forward] {
            program.logged("joined the relay");
        }
        let running = dial(local);
        ping(&running);
        nft(&[LOSE_UDP]);
        for program in [&expose, &forward] {
            program.logged(BLOCKED);
        }
        // Until then the relay leads clients to where the server was.
        expose.logged("listening at the relay");
        check_echo(local, 1, 1_000_000);
        meeting.relay.logged("tunnel ended");
        // What ran is still at its connection by QUIC, which was not given up meanwhile: its bytes
        // pass again.
        nft(&["flush", "ruleset"]);
        ping(&running);
    });
}

#[test]
fn whoever_comes_before_udp_is_known_to_have_stopped_goes_by_https() {
    with_rules("table inet midspan { }", || {
        let mut meeting = meeting("0.0.0.0:7777", &["--open"]);
        let expose = meeting.expose_with("home", &["--to", &service(echo).to_string()]);
        expose.logged("joined the relay");
        meeting.url = meeting.url.replace(RELAY, "127.0.0.2:7777");
        let (forward, local) = meeting.forward("home");
        forward.logged("joined the relay");
        nft(&[LOSE_UDP_OF_ONE]);
        // Its stream waits for an answer by then.
        drop(session(local));
        forward.logged(BLOCKED);
        meeting.relay.logged("tunnel ended");
    });
}

#[test]
fn an_outage_of_a_few_seconds_ends_no_session() {
    with_rules("table inet midspan { }", || {
        let meeting = meeting(RELAY, &[]);
        let (expose, forward, local) = proxies(&meeting);
        for program in [&expose, &forward] {
            program.logged("joined the relay");
        }
        let running = dial(local);
        ping(&running);
        // All of it, so that nobody goes by HTTPS.
        nft(&[LOSE_ALL]);
        for program in [&expose, &forward] {
            program.logged("the relay does not answer");
        }
        nft(&["flush", "ruleset"]);
        for _ in 0..2 {
            check_echo(local, 1, 10_000);
            ping(&running);
        }
    });
}

#[test]
fn one_may_be_blocked_and_the_other_not() {
    with_rules(LOSE_UDP_OF_ONE, || {
        let mut meeting = meeting("0.0.0.0:7777", &["--open"]);
        let near = meeting.url.clone();
        let far = near.replace(RELAY, "127.0.0.2:7777");
        let target = service(echo).to_string();
        for [of_expose, of_forward] in [[&near, &far], [&far, &near]] {
            meeting.url.clone_from(of_expose);
            let expose = meeting.expose_with("home", &["--to", &target]);
            meeting.url.clone_from(of_forward);
            let (forward, local) = meeting.forward("home");
            if *of_expose == far {
                expose.logged(BLOCKED);
                expose.logged("listening at the relay");
                forward.logged("joined the relay");
            } else {
                expose.logged("joined the relay");
                forward.logged(BLOCKED);
            }
            check_echo(local, 1, 1_000_000);
            for program in [forward, expose] {
                assert!(program.stop().success());
            }
        }
    });
}

#[test]
fn clients_are_led_to_where_a_server_went() {
    /// What a client waits for that is led to where the server was: an answer.
    const ANSWER_TIME: Duration = Duration::from_secs(10);
    with_rules("table inet midspan { }", || {
        let mut meeting = meeting("0.0.0.0:7777", &["--open"]);
        let near = meeting.url.clone();
        let https = format!("ptth+https://{near}");
        let target = service(echo).to_string();
        meeting.url = near.replace(RELAY, "127.0.0.2:7777");
        let expose = meeting.expose_with("home", &["--to", &target]);
        expose.logged("joined the relay");
        meeting.url = near;
        let (forward, by_quic) = meeting.forward("home");
        forward.logged("joined the relay");
        meeting.url = https;
        let (_forward, by_https) = meeting.forward("home");
        for local in [by_quic, by_https] {
            ping(&dial(local));
        }
        nft(&[LOSE_UDP_OF_ONE_BOTH_WAYS]);
        thread::scope(|scope| {
            // By HTTP whoever asks waits for a server that may come.
            scope.spawn(|| check_echo(by_https, 1, 1000));
            expose.logged(BLOCKED);
            expose.logged("listening at the relay");
            let since = clock::now();
            check_echo(by_quic, 2, 1000);
            let served_after = clock::now().since(since);
            assert!(served_after < ANSWER_TIME / 2, "{served_after:?}");
        });
    });
}

#[test]
fn a_relay_that_is_not_there_by_https_either_is_away() {
    with_rules(LET_NOTHING_OUT, || {
        let meeting = meeting(RELAY, &[]);
        let (expose, forward, local) = proxies(&meeting);
        for program in [&expose, &forward] {
            let line = program.logged("the relay is away");
            assert!(line.contains("none over HTTPS"), "{line}");
        }
        assert_reset(&dial(local));
        forward.logged("cannot connect");
        // UDP stays as it is.
        nft(&["flush", "ruleset"]);
        nft(&["add table inet midspan; add chain inet midspan output \
               { type filter hook output priority 0; }; \
               add rule inet midspan output udp dport 7777 drop"]);
        for program in [&expose, &forward] {
            program.logged(BLOCKED);
        }
        check_echo(local, 1, 1_000_000);
    });
}

#[test]
fn operators_see_by_https_what_becomes_of_the_relay_though_nobody_connects() {
    with_rules(LOSE_UDP, || {
        let mut meeting = meeting(RELAY, &[]);
        let options = ["--to", "home", "--admin", "127.0.0.1:0"];
        let (forward, _) = meeting.forward_with("alice", &options);
        let admin = admin(&forward);
        forward.logged(BLOCKED);
        let is_seen = |is_down| {
            let quic = (format!("ptth+quic://{RELAY}"), 1);
            let https = (format!("ptth+https://{RELAY}"), u64::from(is_down));
            let expected = [quic, https];
            until("how the relay is", || {
                (ways(admin) == expected).then_some(())
            });
        };
        is_seen(false);
        meeting.relay.signal(Signal::KILL);
        meeting.relay.wait();
        is_seen(true);
        let options = ["--cores", "1", "--quic-listen", RELAY];
        let (_restarted, _) = relay(meeting.folder.path(), RELAY, &options);
        is_seen(false);
    });
}

#[test]
fn a_firewall_that_rejects_udp_blocks_it_as_one_that_drops_it() {
    with_rules(REJECT_UDP, || {
        let meeting = meeting(RELAY, &[]);
        let (expose, forward, local) = proxies(&meeting);
        for program in [&expose, &forward] {
            let line = program.logged(BLOCKED);
            assert!(line.contains("takes no UDP at this port"), "{line}");
            assert!(line.contains("with quic.listen at this port"), "{line}");
        }
        check_echo(local, 1, 1_000_000);
        nft(&["flush", "ruleset"]);
        for program in [&expose, &forward] {
            program.logged("UDP passes again");
        }
        check_echo(local, 2, 1_000_000);
    });
}

#[test]
fn a_relay_that_speaks_no_quic_is_reached_by_https() {
    let mut meeting = Meeting::new(&["--cores", "1"]);
    let pin = meeting.relay.reported(FINGERPRINT);
    meeting.url = format!("{}?pin={pin}", meeting.address);
    let (expose, forward, local) = proxies(&meeting);
    for program in [&expose, &forward] {
        let line = program.logged(BLOCKED);
        assert!(line.contains("takes no UDP at this port"), "{line}");
    }
    check_echo(local, 1, 1_000_000);
}

#[test]
fn a_certificate_does_not_get_past() {
    with_rules(LOSE_UDP, || {
        let meeting = meeting(RELAY, &[]);
        let file = Holder::new().file(meeting.folder.path(), "client");
        let args = ["forward", "0", "--relay", &meeting.url, "--key-file", &file];
        let forward = Program::start(&[&args[..], &["--to", "home"]].concat());
        forward.logged("by HTTPS the relay would need a key");
    });
}
