//! Datagrams of local programs by a tunnel: an association for each destination.

use midspan::protocol::jproxy::DATA_BYTES_MAX;
use midspan::protocol::socks5::Destination;

use super::jproxy::relay_at;
use super::jproxy_socks::{ANY, agent, url};
use super::relay_process::Counters;
use super::socks_udp::{Client, bind};

#[test]
fn datagrams_go_to_many_and_come_back_from_each() {
    let (folder, relay) = relay_at(ANY, "");
    let (mut agent, local) = agent(folder.path(), &url(&relay), &[]);
    let clients = [Client::new(local), Client::new(local)];
    let servers: Vec<_> = (0..5).map(|_| bind("127.0.0.1:0")).collect();
    for round in 0..3_u8 {
        for (server, address) in &servers {
            for client in &clients {
                let longest = vec![round; DATA_BYTES_MAX];
                for data in [&b""[..], b"hello", &longest] {
                    client.check_echo(&(*address).into(), server, data);
                }
            }
        }
    }
    // What fits no packet is lost; what comes behind it is not.
    let (server, address) = &servers[0];
    let [client, other] = clients;
    client.send(&(*address).into(), &vec![7; DATA_BYTES_MAX + 1]);
    client.check_echo(&(*address).into(), server, b"after");
    client.check_gone();
    other.check_echo(&(*address).into(), server, b"still there");
    other.check_gone();
    agent.terminate();
    assert!(agent.wait().success());
    let log = agent.rest_of_log();
    let counters = Counters::of_log(&log);
    // There and back.
    assert_eq!(counters.count("datagrams_relayed"), 2 * (3 * 5 * 2 * 3 + 2));
    assert_eq!(counters.count("datagrams_dropped"), 1);
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("datagrams_dropped"), 0);
}

#[test]
fn what_a_relay_refuses_is_dropped_and_names_are_the_relays_to_resolve() {
    let (server, address) = bind("127.0.0.1:0");
    let (denied, denied_address) = bind("127.0.0.2:0");
    let lines = "[egress]\nreach = \"everything\"\nrules = [\"deny 127.0.0.2\"]\n";
    let (folder, relay) = relay_at(ANY, lines);
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let client = Client::new(local);
    client.send(&denied_address.into(), b"denied");
    let named = Destination::named("localhost", address.port()).expect("a destination");
    client.send(&named, b"by name");
    let mut buffer = [0; 16];
    let (count, from) = server.recv_from(&mut buffer).expect("a datagram");
    assert_eq!(&buffer[..count], b"by name");
    server.send_to(b"answer", from).expect("sent");
    assert_eq!(client.receive(), (named, b"answer".to_vec()));
    super::socks_udp::check_nothing(&denied);
    client.check_gone();
    assert!(agent.stop().success());
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("refused.egress_denied"), 1);
}
