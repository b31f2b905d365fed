//! Connections that a load balancer passes on, with a PROXY protocol header.

use std::fs;
use std::io::Write;
use std::thread;

use super::jet_client::{
    End, accept, connect, dial, granted, new_place, packet, ping_pong, read_reply, read_to_end,
};
use super::relay_process::Relay;
use super::rest::{read_response, request};
use super::transports::{Leg, Role, Transport};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x08\xc0\0\x02\x01\x12\x67\x01\xbb";

fn relay(trusted: &str) -> (tempfile::TempDir, Relay) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("relay.toml");
    let text = format!("create_on_accept = true\nproxy_protocol_from = [\"{trusted}\"]\n");
    fs::write(&path, text).expect("written");
    let relay = Relay::start(&["--config", path.to_str().expect("text")]);
    (folder, relay)
}

#[test]
fn whose_a_connection_is_comes_first_however_it_is_cut() {
    let (_folder, relay) = relay("127.0.0.0/8");
    let place = new_place();
    let mut acceptor = dial(relay.address);
    let wire = [V1, &packet(&accept(place))].concat();
    for byte in &wire {
        acceptor.write_all(&[*byte]).expect("sent");
        thread::yield_now();
    }
    assert_eq!(read_reply(&mut acceptor).status.as_u16(), 200);
    let mut connector = dial(relay.address);
    let wire = [V2, &packet(&connect(place))].concat();
    connector.write_all(&wire).expect("sent");
    assert_eq!(read_reply(&mut connector).status.as_u16(), 200);
    ping_pong(&mut acceptor, &mut connector);

    let mut asking = dial(relay.address);
    let wire = [V1, request("GET /jet/health", "").as_bytes()].concat();
    asking.write_all(&wire).expect("sent");
    assert_eq!(read_response(&mut asking).status, 200);
    drop((acceptor, connector, asking));
    let log = relay.stop().log;
    assert!(
        log.contains("left=192.0.2.7:4711 right=192.0.2.8:4711"),
        "{log}"
    );
}

#[test]
fn it_stands_before_tls_as_well() {
    let (_folder, relay) = relay("127.0.0.1");
    let place = new_place();
    let mut acceptor = Leg::come_behind(relay.address, Transport::Wss, Role::Accept, place, V2);
    let mut connector = Leg::come_behind(relay.address, Transport::Tls, Role::Connect, place, V1);
    connector.write_all(b"hello");
    acceptor.expect(b"hello");
}

#[test]
fn whoever_is_trusted_has_to_say_it_and_nobody_else_may() {
    let (_folder, mut trusting) = relay("127.0.0.1");
    for opening in [
        packet(&accept(new_place())),
        b"PROXY TCP4 nonsense\r\n".to_vec(),
        b"PROXX".to_vec(),
    ] {
        let mut stream = dial(trusting.address);
        stream.write_all(&opening).expect("sent");
        let (said, _) = read_to_end(&mut stream);
        assert!(said.is_empty());
    }
    assert_eq!(trusting.counters().count("refused.no_proxy_header"), 3);

    let (_folder, mut wary) = relay("198.51.100.0/24");
    let mut stream = dial(wary.address);
    let wire = [V1, request("GET /jet/health", "").as_bytes()].concat();
    stream.write_all(&wire).expect("sent");
    assert_eq!(read_response(&mut stream).status, 400);
    assert_eq!(read_to_end(&mut stream), (Vec::new(), End::Closed));
    let mut stream = dial(wary.address);
    stream.write_all(V2).expect("sent");
    read_to_end(&mut stream);
    assert_eq!(wary.counters().sum("refused."), 2);
    drop(granted(wary.address, &accept(new_place())));
    wary.stop().check_clean();
}
