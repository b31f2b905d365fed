//! The relay's own host, under an address that everybody could reach.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command as Process;

use midspan::protocol::socks5::ReplyCode;
use midspan::protocol::websocks::MAX_FRAME;

use super::network_namespace::NetworkNamespace;
use super::patience::PATIENCE;
use super::relay_process::Relay;
use super::require::{require, require_root};
use super::socks_udp::{ask_for_datagrams, frame};
use super::websocks::{KEY, connect, read_reply, relay, visit};

const OWN: [&str; 2] = ["9.9.9.9", "2620:fe::9"];

/// What a visitor is told that asks for this.
fn dial(relay: &Relay, target: SocketAddr) -> ReplyCode {
    let mut visitor = visit(relay.address, KEY);
    let wire = [&MAX_FRAME[..], &connect(target)].concat();
    visitor.write_all(&wire).expect("sent");
    read_reply(&mut visitor).code
}

fn check(own: &str) {
    let own: IpAddr = own.parse().expect("an address");
    let listener = TcpListener::bind((own, 0)).expect("a port");
    let target = listener.local_addr().expect("bound");
    let server = UdpSocket::bind(target).expect("a port");
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");

    let (_folder, mut public) = relay("cores = 1\n[egress]\nreach = \"public\"");
    assert_eq!(dial(&public, target), ReplyCode::NotAllowed);
    let mut visitor = visit(public.address, KEY);
    ask_for_datagrams(&mut visitor);
    visitor
        .write_all(&frame(&target.into(), b"never"))
        .expect("sent");
    public.wait_for_counters("one that may not", |counters| {
        counters.count("datagrams_denied") == 1
    });
    // Others are public, and this host has no way there.
    let others = match own {
        IpAddr::V4(_) => "9.9.9.10:53",
        IpAddr::V6(_) => "[2620:fe::10]:53",
    };
    let code = dial(&public, others.parse().expect("an address"));
    assert_eq!(code, ReplyCode::NetworkUnreachable);
    let denied = public.counters().count("refused.egress_denied");
    assert_eq!(denied, 1);

    let rule = format!("cores = 1\n[egress]\nreach = \"public\"\nrules = [\"allow {own}\"]");
    let (_folder, allowing) = relay(&rule);
    assert_eq!(dial(&allowing, target), ReplyCode::Succeeded);
    let mut visitor = visit(allowing.address, KEY);
    ask_for_datagrams(&mut visitor);
    visitor
        .write_all(&frame(&target.into(), b"this one may"))
        .expect("sent");
    let mut buffer = [0; 64];
    let (count, _) = server.recv_from(&mut buffer).expect("a datagram");
    assert_eq!(&buffer[..count], b"this one may");
}

#[test]
fn public_leaves_out_the_hosts_own_public_addresses() {
    if !require_root()
        || ["unshare", "nft", "ip"]
            .iter()
            .any(|name| require(name).is_none())
    {
        return;
    }
    let namespace = NetworkNamespace::new("flush ruleset");
    namespace.run(|| {
        for own in OWN {
            // Else it is for a while only on probation.
            let added = Process::new("ip")
                .args(["address", "add", own, "dev", "lo", "nodad"])
                .status();
            assert!(added.expect("ip runs").success(), "{own}");
            check(own);
        }
    });
}
