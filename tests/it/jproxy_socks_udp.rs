//! Datagrams of local programs by a tunnel: an association for each destination.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use midspan::access::jproxy::{KeyPair, TunnelUser};
use midspan::protocol::jproxy::{BindStatus, ChannelId, DATA_BYTES_MAX, FromClient, FromServer};
use midspan::protocol::socks5::Destination;
use rustix::process::Signal;
use tempfile::TempDir;

use super::admin::metrics;
use super::agent_process::Program;
use super::agents_admin::admin;
use super::jproxy::{USER, VECTORS, relay_at};
use super::jproxy_socks::{ANY, agent, url, write_secret};
use super::patience::until;
use super::peers::jproxy_server::TunnelServer;
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
    let (mut agent, local) = agent(folder.path(), &url(&relay), &["--log-level", "debug"]);
    let client = Client::new(local);
    client.send(&denied_address.into(), b"denied");
    let said = agent.logged(": refused peer=");
    for part in [
        "reason=\"dial_failed\" code=2 ",
        &format!("target={denied_address} "),
        "does not allow it, by its [egress] or its rules",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // Until it is asked again.
    for _ in 0..3 {
        client.send(&denied_address.into(), b"denied");
    }
    let named = Destination::named("localhost", address.port()).expect("a destination");
    client.send(&named, b"by name");
    let mut buffer = [0; 16];
    let (count, from) = server.recv_from(&mut buffer).expect("a datagram");
    assert_eq!(&buffer[..count], b"by name");
    server.send_to(b"answer", from).expect("sent");
    assert_eq!(client.receive(), (named, b"answer".to_vec()));
    super::socks_udp::check_nothing(&denied);
    client.check_gone();
    let ended = agent.logged("datagrams ended");
    for part in [" sent=1 sent_bytes=7 ", " passed_back=1 "] {
        assert!(ended.contains(part), "{ended}");
    }
    agent.terminate();
    assert!(agent.wait().success());
    let log = agent.rest_of_log();
    assert!(!log.contains(": refused peer="), "{log}");
    let counters = Counters::of_log(&log);
    for (name, count) in [
        ("datagrams_denied", 4),
        ("datagrams_dropped", 0),
        ("datagrams_relayed", 2),
        ("refused.dial_failed", 1),
    ] {
        assert_eq!(counters.count(name), count, "{name}: {log}");
    }
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("refused.egress_denied"), 1);
}

fn alice() -> TunnelUser {
    let file = fs::read(Path::new(VECTORS).join(USER)).expect("a file");
    TunnelUser::decode(USER, &file).expect("a user")
}

/// Who lets agents in as the test says, and its URL.
fn server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("jproxy://{}", listener.local_addr().expect("bound"));
    (listener, url)
}

/// The association that is asked for.
#[track_caller]
fn asked(server: &mut TunnelServer) -> ChannelId {
    server.heard(|packet| match packet {
        FromClient::Associate { id, .. } => id,
        other => panic!("{other:?}"),
    })
}

fn grant(server: &mut TunnelServer, id: ChannelId) {
    server.say(&FromServer::Associated {
        id,
        status: BindStatus::Bound,
        local_port: 9,
    });
}

/// Has the agent do nothing until it is told to go on.
fn halt(agent: &Program) {
    agent.signal(Signal::STOP);
    until("all of its threads have stopped", || {
        let threads = fs::read_dir(agent.proc("task")).expect("it is there");
        let has_stopped = |thread: &Path| {
            let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
            // Behind the name, which may be anything.
            stat.rsplit_once(") ")
                .is_some_and(|(_, it)| it.starts_with('T'))
        };
        let mut threads = threads.map(|thread| thread.expect("it is there").path());
        threads.all(|thread| has_stopped(&thread)).then_some(())
    });
}

/// An agent with two tunnels.
struct Renewed {
    _folder: TempDir,
    agent: Program,
    client: Client,
    /// That by the key before, to the first relay.
    before: TunnelServer,
    first: String,
    /// Of the client's datagram, which waits in that.
    id: ChannelId,
    _now: TunnelServer,
}

/// By another key the agent has another tunnel, to a relay that knows it.
fn renewed() -> Renewed {
    let folder = tempfile::tempdir().expect("a folder");
    let (listener, first) = server();
    let (other_listener, second) = server();
    let (agent, local) = agent(folder.path(), &first, &["--cores", "1", "--relay", &second]);
    let mut before = TunnelServer::accept(&listener, &alice());
    agent.logged("the tunnel is open");
    let client = Client::new(local);
    let (_, address) = bind("127.0.0.1:0");
    client.send(&address.into(), b"early");
    let id = asked(&mut before);
    drop(listener);
    let bob = KeyPair::generate("bob").expect("a key");
    write_secret(&folder.path().join("key.dat"), &bob.client_file);
    agent.signal(Signal::HUP);
    let user = TunnelUser::decode(&bob.user_file_name, &bob.user_file).expect("a user");
    let now = TunnelServer::accept(&other_listener, &user);
    agent.logged("the tunnel by the key before ends once nothing runs in it");
    Renewed {
        _folder: folder,
        agent,
        client,
        before,
        first,
        id,
        _now: now,
    }
}

#[test]
fn an_association_is_its_own_tunnels_whichever_is_there_when_it_is_granted() {
    let Renewed {
        mut agent,
        client,
        mut before,
        first,
        id,
        _folder,
        _now,
    } = renewed();
    grant(&mut before, id);
    before.heard(|packet| assert_eq!(packet, FromClient::Datagram(id, b"early")));
    client.check_gone();
    let line = agent.logged("command=\"udp_associate\"");
    let relay = &first["jproxy://".len()..];
    for part in [format!("right={relay} "), format!("way={first} ")] {
        assert!(line.contains(&part), "{part}: {line}");
    }
    agent.terminate();
    assert!(agent.wait().success());
}

#[test]
fn whose_tunnel_it_is_is_told_of_the_other_dialect_whichever_is_there() {
    let mut renewed = renewed();
    let Renewed {
        agent,
        before,
        first,
        ..
    } = &mut renewed;
    // Data of that dialect.
    before.say_payload(b"\x21\0\x07\0\x01x");
    let line = agent.logged("the relay speaks the other dialect");
    for part in [
        format!("relay={first} "),
        format!("--relay {first} --dialect original"),
    ] {
        assert!(line.contains(&part), "{part}: {line}");
    }
    agent.terminate();
    assert!(agent.wait().success());
}

/// The relay does not read, so that at last there is no room in the tunnel.
#[test]
fn what_finds_no_room_in_the_tunnel_is_not_counted_as_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let (listener, url) = server();
    let options = ["--cores", "1", "--admin", "127.0.0.1:0"];
    let (mut agent, local) = agent(folder.path(), &url, &options);
    let admin = admin(&agent);
    let mut tunnel = TunnelServer::accept(&listener, &alice());
    agent.logged("the tunnel is open");
    let (client, (_, address)) = (Client::new(local), bind("127.0.0.1:0"));
    let to = address.into();
    client.send(&to, b"first");
    let id = asked(&mut tunnel);
    grant(&mut tunnel, id);
    tunnel.heard(|packet| assert_eq!(packet, FromClient::Datagram(id, b"first")));
    let counted = |name| metrics(admin).get(name).copied().unwrap_or_default();
    let data = vec![7; DATA_BYTES_MAX];
    until("no room", || {
        for _ in 0..64 {
            client.send(&to, &data);
        }
        (counted("midspan_datagrams_dropped_total") > 0.0).then_some(())
    });
    client.check_gone();
    let line = agent.logged("datagrams ended");
    agent.terminate();
    drop(tunnel);
    assert!(agent.wait().success());
    let counters = Counters::of_log(&agent.rest_of_log());
    let sent = format!(" sent={} ", counters.count("datagrams_relayed"));
    assert!(line.contains(&sent), "{sent}: {line}");
    assert!(counters.count("datagrams_dropped") > 0);
}

/// All of it is there when the agent looks, as while it is stopped.
#[test]
fn what_a_lost_tunnel_takes_with_it_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (listener, url) = server();
    let (mut agent, local) = agent(folder.path(), &url, &["--cores", "1"]);
    // What waited when the association came, and was gone.
    let mut tunnel = TunnelServer::accept(&listener, &alice());
    agent.logged("the tunnel is open");
    let (client, (_, address)) = (Client::new(local), bind("127.0.0.1:0"));
    client.send(&address.into(), b"waits");
    let id = asked(&mut tunnel);
    halt(&agent);
    client.send(&address.into(), b"waits too");
    grant(&mut tunnel, id);
    drop(tunnel);
    agent.signal(Signal::CONT);
    agent.logged("the tunnel is lost");
    // What goes by one that was there.
    let mut tunnel = TunnelServer::accept(&listener, &alice());
    agent.logged("the tunnel is open");
    client.send(&address.into(), b"hello");
    let id = asked(&mut tunnel);
    grant(&mut tunnel, id);
    tunnel.heard(|packet| assert_eq!(packet, FromClient::Datagram(id, b"hello")));
    halt(&agent);
    client.send(&address.into(), b"goes nowhere");
    drop(tunnel);
    agent.signal(Signal::CONT);
    agent.logged("the tunnel is lost");
    // What waits for an answer when its client goes.
    let mut tunnel = TunnelServer::accept(&listener, &alice());
    agent.logged("the tunnel is open");
    client.send(&address.into(), b"waits in vain");
    asked(&mut tunnel);
    client.check_gone();
    agent.terminate();
    assert!(agent.wait().success());
    let counters = Counters::of_log(&agent.rest_of_log());
    let names = ["datagrams_dropped", "datagrams_relayed"];
    let [dropped, relayed] = names.map(|name| counters.count(name));
    // Whether the agent hears first of the end or of a datagram is not ours to say.
    assert_eq!(dropped + relayed, 5, "{dropped} dropped");
    assert!(dropped >= 1 && relayed >= 1, "{dropped} dropped");
}
