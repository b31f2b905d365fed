//! What the log says of what clients of jProxy do not get.

use std::net::TcpListener;

use midspan::protocol::jproxy::{Dialect, FromClient, FromServer};
use midspan::protocol::socks5::Destination;

use super::agents::{echo, service};
use super::jproxy::{relay, stopped};
use super::peers::jproxy_client::TunnelClient;

#[test]
fn what_cannot_be_had_is_told_truthfully() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    let closed = closed.expect("an address");
    let open = service(echo);
    let denied = open.port();
    let lines =
        format!("[egress]\nreach = \"everything\"\nrules = [\"deny 127.0.0.2:{denied}\"]\n");
    let (_folder, mut relay) = relay(&lines);
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    let named = |host: &str, port| Destination::named(host, port).expect("a destination");
    for (target, status) in [
        (Destination::from(closed), 1),
        (named("there.is.no.such.host.invalid", 80), 5),
        (named("127.0.0.2", denied), 7),
        (Destination::from(open), 0),
    ] {
        assert_eq!(tunnel.try_connect(7, &target), status, "{target:?}");
    }
    for (target, reason, status) in [
        (closed.to_string(), "dial_failed", "refused"),
        (
            "there.is.no.such.host.invalid:80".to_owned(),
            "not_resolved",
            "unknown_host",
        ),
        (format!("127.0.0.2:{denied}"), "egress_denied", "denied"),
    ] {
        let line = relay.wait_for_line(&format!("target={target}"));
        let line = line.replace('"', "");
        let expected = format!("command=connect reason={reason} status={status}");
        for part in ["channel refused", "user=alice", &expected] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    // No address: three bytes of IPv4.
    tunnel.say_payload(b"\x01\x09\0\x50\0\x01\x03\x7f\0\0");
    assert_eq!(tunnel.next().expect("an answer"), b"\x01\x09\0\x03\xff\xff");
    drop(tunnel);
    let counters = stopped(relay);
    for reason in ["dial_failed", "not_resolved", "egress_denied"] {
        assert_eq!(counters.count(&format!("refused.{reason}")), 1, "{reason}");
    }
}

#[test]
fn whoever_speaks_the_other_dialect_is_told_which_one_to_set() {
    let (_folder, relay) = relay("cores = 1\n");
    for _ in 0..2 {
        let mut tunnel = TunnelClient::connect(relay.address, Dialect::Original);
        tunnel.say(&FromClient::Data(7, b"hello"));
        tunnel.heard(|packet| assert!(matches!(packet, FromServer::Connected { id: 7, .. })));
        assert_eq!(tunnel.next(), None);
    }
    let ended = relay.stop();
    ended.check_clean();
    let lines = ended.log.lines();
    let mut told = lines.filter(|line| line.contains("speaks the other dialect"));
    let line = told.next().expect("a warning").replace('\\', "");
    for part in [
        "set dialect = \"original\"",
        "user=alice",
        "[jproxy] says \"spec\"",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // Whoever tries again at once is not told so again.
    assert_eq!(told.next(), None);
}

#[test]
fn who_has_another_key_is_told_apart_from_who_breaks_off() {
    let ended = |begin: fn(&mut TunnelClient, &Destination)| {
        let (_folder, relay) = relay("cores = 1\n");
        let origin = Destination::from(service(echo));
        for _ in 0..2 {
            let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
            begin(&mut tunnel, &origin);
            tunnel.say_no_packet();
            assert_eq!(tunnel.next(), None);
        }
        let ended = relay.stop();
        ended.check_clean();
        let tunnels = ended
            .log
            .lines()
            .filter(|line| line.contains("tunnel ended"));
        let broken = tunnels.filter(|line| line.contains("left_broke_protocol"));
        assert_eq!(broken.count(), 2);
        ended.log
    };
    let said = "the first packet of a tunnel cannot be read";
    let log = ended(|_, _| {});
    let mut told = log.lines().filter(|line| line.contains(said));
    let line = told.next().expect("a warning");
    for part in ["another private key", "user=alice", "midspan key jproxy"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(told.next(), None);
    let log = ended(|tunnel, origin| assert_eq!(tunnel.try_connect(7, origin), 0));
    assert!(!log.contains(said), "{log}");
}

#[test]
fn a_port_that_comes_the_wrong_way_round_is_doubted_once() {
    let rules = "[egress]\nreach = \"everything\"\nrules = [\"deny 127.0.0.2\"]\n";
    let (_folder, mut relay) = relay(rules);
    let (origin, address) = (Destination::from(service(echo)), relay.address);
    let mut tunnel = TunnelClient::connect(address, Dialect::Spec);
    let http = |port| Destination::named("127.0.0.2", port).expect("a destination");
    let hint = "port 20480 is 80 in the other dialect";
    let mut refused = |tunnel: &mut TunnelClient, port, is_hinted| {
        assert_eq!(tunnel.try_connect(7, &http(port)), 7);
        let line = relay.wait_for_line("channel refused");
        assert_eq!(line.contains(hint), is_hinted, "{line}");
    };
    refused(&mut tunnel, 443, false);
    refused(&mut tunnel, 20_480, true);
    refused(&mut tunnel, 20_480, false);
    // Where something else was read as it was meant, so was this.
    let mut tunnel = TunnelClient::connect(address, Dialect::Spec);
    assert_eq!(tunnel.try_connect(7, &origin), 0);
    refused(&mut tunnel, 20_480, false);
}
