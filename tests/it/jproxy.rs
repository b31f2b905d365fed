//! Channels of jProxy's clients: what they ask for is done.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use midspan::protocol::jproxy::{
    BindStatus, ConnectStatus, Dialect, EndReason, FromClient, FromServer,
};
use midspan::protocol::socks5::{Destination, Host};

use super::admin::status;
use super::agent_process::Program;
use super::agents::{echo, greet_and_count, service};
use super::drain::{full_listener, is_dialled};
use super::jet_client::read_to_end;
use super::network_namespace::NetworkNamespace;
use super::patience::{PATIENCE, now, until};
use super::peers::jproxy_client::{TunnelClient, greeting, raw};
use super::relay_process::{Counters, Relay};
use super::transports::tls;

/// alice, as the relay knows her.
pub(crate) const USER: &str =
    "FE2B4AD50CCB8261A64F9017E487026D7A4FE6F2A1AC7D416BED71679B71715D.dat";

pub(crate) const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/jproxy");

/// A relay that serves alice's tunnels without TLS, with these further lines in its file.
pub(crate) fn relay(lines: &str) -> (tempfile::TempDir, Relay) {
    relay_at("jproxy://127.0.0.1:0", lines)
}

pub(crate) fn relay_at(listen: &str, lines: &str) -> (tempfile::TempDir, Relay) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path(), lines);
    let config = config.to_str().expect("text");
    let relay = Relay::start(&["--config", config, "--listen", listen]);
    (folder, relay)
}

/// The file of such a relay.
pub(crate) fn config_in(folder: &Path, lines: &str) -> PathBuf {
    let (path, users) = (folder.join("relay.toml"), folder.join("users"));
    fs::create_dir_all(&users).expect("a folder");
    let user = users.join(USER);
    fs::copy(Path::new(VECTORS).join(USER), &user).expect("copied");
    fs::set_permissions(&user, fs::Permissions::from_mode(0o600)).expect("chmod");
    let (before, after) = lines.split_once("[jproxy]\n").unwrap_or((lines, ""));
    let egress = match lines.contains("[egress]") {
        true => "",
        false => "[egress]\nreach = \"everything\"\n",
    };
    let users = users.to_str().expect("text");
    let text = format!("{before}\n{egress}[jproxy]\nusers = {users:?}\n{after}");
    fs::write(&path, text).expect("written");
    path
}

/// What a relay has counted that stops as it should.
pub(crate) fn stopped(relay: Relay) -> Counters {
    let ended = relay.stop();
    ended.check_clean();
    ended.counters
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes)
        .map(|n| u8::try_from((n * 31 + seed + n / 251) % 256).expect("a byte"))
        .collect()
}

#[test]
fn bytes_go_both_ways_in_either_dialect() {
    let origin = service(echo);
    for (dialect, line) in [
        (Dialect::Spec, ""),
        (Dialect::Original, "dialect = \"original\"\n"),
    ] {
        let (_folder, mut relay) = relay(&format!("[jproxy]\n{line}"));
        let mut tunnel = TunnelClient::connect(relay.address, dialect);
        tunnel.channel(7, origin);
        let said = pattern(50_000, 1);
        for piece in said.chunks(4074) {
            tunnel.say(&FromClient::Data(7, piece));
        }
        assert!(tunnel.data(7, said.len()) == said);
        tunnel.say(&FromClient::End(7, EndReason::Finished));
        if dialect == Dialect::Spec {
            let end = tunnel.heard(|packet| packet == FromServer::End(7, EndReason::Finished));
            assert!(end);
        }
        let line = relay.wait_for_line("session ended");
        let errand = format!("user=alice target={origin} command=\"connect\"");
        for part in [
            "left_bytes=50000",
            "right_bytes=50000",
            "reason=\"finished_by_left\"",
            &errand,
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        drop(tunnel);
        let line = relay.wait_for_line("channels' tunnel ended");
        assert!(line.contains("user=alice"), "{line}");
        relay.stop().check_clean();
    }
}

#[test]
fn a_listener_for_everything_serves_tunnels_over_tls_alone() {
    let (_folder, relay) = relay_at("127.0.0.1:0", "");
    let mut plain = raw(relay.address, &greeting());
    assert_eq!(read_to_end(&mut plain).0, b"");
    let mut tunnel = TunnelClient::over(tls(super::jet_client::dial(relay.address)), Dialect::Spec);
    tunnel.channel(7, service(echo));
    let said = pattern(100_000, 1);
    for piece in said.chunks(4074) {
        tunnel.say(&FromClient::Data(7, piece));
    }
    assert!(tunnel.data(7, said.len()) == said);
    drop(tunnel);
    let counters = stopped(relay);
    assert_eq!(counters.count("refused.other_listener"), 1);
}

#[test]
fn half_closes_pass_where_the_document_speaks() {
    let (_folder, relay) = relay("");
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    tunnel.channel(7, service(greet_and_count));
    assert_eq!(tunnel.data(7, 30), b"220 the service speaks first\r\n");
    tunnel.say(&FromClient::Data(7, &[0; 1000]));
    tunnel.say(&FromClient::End(7, EndReason::Finished));
    assert_eq!(tunnel.data(7, 4), b"1000");
    tunnel.heard(|packet| assert_eq!(packet, FromServer::End(7, EndReason::Finished)));
    drop(tunnel);
    relay.stop().check_clean();
}

#[test]
fn what_means_nothing_is_passed_over_and_what_cannot_be_read_ends_the_tunnel() {
    let (_folder, mut relay) = relay("");
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    tunnel.say_raw(&[0]);
    tunnel.say_payload(b"");
    tunnel.say_payload(b"\x77\x07\0");
    tunnel.channel(7, service(echo));
    // Again under its number: the old one is closed, and nothing of it comes any more.
    tunnel.channel(7, service(greet_and_count));
    assert_eq!(tunnel.data(7, 30), b"220 the service speaks first\r\n");
    tunnel.say_no_packet();
    assert_eq!(tunnel.next(), None);
    relay.wait_for_line("left_broke_protocol");
    let counters = stopped(relay);
    assert_eq!(counters.count("packets_ignored"), 3);
}

#[test]
fn datagrams_are_exchanged_with_one_peer() {
    let (_folder, mut relay) = relay("admin = \"127.0.0.1:0\"\n");
    let admin = relay.admin.expect("operators are let in");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    let associate = |id, local_port, with| FromClient::Associate {
        id,
        local_port,
        with,
    };
    let there = Destination::from(peer.local_addr().expect("an address"));
    tunnel.say(&associate(7, 0, there.clone()));
    let bound = tunnel.heard(|packet| match packet {
        FromServer::Associated {
            id: 7,
            status: BindStatus::Bound,
            local_port,
        } => local_port,
        other => panic!("{other:?}"),
    });
    // The tunnel, and what it has dialled.
    assert_eq!(status(admin)["connections"], 2);
    tunnel.say(&FromClient::Datagram(7, b"hello"));
    let mut buffer = [0; 9000];
    let (count, from) = peer.recv_from(&mut buffer).expect("it comes");
    assert_eq!((&buffer[..count], from.port()), (&b"hello"[..], bound));
    // Whoever else writes to it is not heard; nor what does not fit a packet.
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("bound");
    stranger.send_to(b"stranger", from).expect("sent");
    peer.send_to(&[7; 4075], from).expect("sent");
    peer.send_to(&[7; 4074], from).expect("sent");
    peer.send_to(b"", from).expect("sent");
    for expected in [&[7; 4074][..], b""] {
        tunnel.heard(|packet| assert!(packet == FromServer::Datagram(7, expected)));
    }
    // The port is taken now, and those below 1024 are the host's own, whatever the relay may do.
    for (port, status) in [
        (bound, BindStatus::PortTaken),
        (1, BindStatus::Denied),
        (1023, BindStatus::Denied),
    ] {
        tunnel.say(&associate(8, port, there.clone()));
        tunnel.heard(|packet| {
            let refused = FromServer::Associated {
                id: 8,
                status,
                local_port: 0,
            };
            assert_eq!(packet, refused);
        });
    }
    tunnel.say(&FromClient::EndDatagrams(7));
    let line = relay.wait_for_line("session ended");
    for part in [
        "command=\"udp_associate\"",
        "left_bytes=5 ",
        "right_bytes=4074 ",
    ] {
        assert!(line.contains(part), "{line}");
    }
    drop(tunnel);
    let counters = stopped(relay);
    assert_eq!(counters.count("datagrams_dropped"), 1);
    assert_eq!(counters.count("datagrams_relayed"), 3);
}

#[test]
fn echo_requests_are_sent_where_that_is_allowed() {
    let asked = FromClient::AssociateEchoes(7, Host::Address([127, 0, 0, 1].into()));
    let (_folder, relay) = relay("");
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    tunnel.say(&asked);
    let denied = FromServer::AssociatedEchoes(7, BindStatus::Denied);
    tunnel.heard(|packet| assert_eq!(packet, denied));
    drop(tunnel);
    relay.stop().check_clean();
    NetworkNamespace::new("").run(|| {
        const RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";
        fs::write(RANGE, "1 0").expect("written");
        let folder = tempfile::tempdir().expect("a folder");
        let config = config_in(folder.path(), "[jproxy]\nicmp = true\n");
        let state = folder.path().join("state");
        let [config, state] = [&config, &state].map(|path| path.to_str().expect("text"));
        let listen = ["--listen", "127.0.0.1:0"];
        let files = ["--config", config, "--state-dir", state];
        let denied = Program::start(&[&["relay"][..], &listen, &files].concat());
        denied.reported("  note         no echo requests can be sent: net.ipv4.ping_group_range ");
        assert!(denied.stop().success());
        fs::write(RANGE, "0 0").expect("written");
        let (_folder, relay) = self::relay("[jproxy]\nicmp = true\n");
        let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
        tunnel.say(&asked);
        let bound = FromServer::AssociatedEchoes(7, BindStatus::Bound);
        tunnel.heard(|packet| assert_eq!(packet, bound));
        for sequence in [1, 2, 0x0102] {
            let data = &pattern(56, usize::from(sequence))[..];
            tunnel.say(&FromClient::Echo {
                id: 7,
                sequence,
                data,
            });
            let reply = FromServer::Echo {
                id: 7,
                sequence,
                data,
            };
            tunnel.heard(|packet| assert_eq!(packet, reply));
        }
        tunnel.say(&FromClient::EndEchoes(7));
        drop(tunnel);
        relay.stop().check_clean();
    });
}

#[test]
fn two_hundred_channels_at_once_mix_up_nothing() {
    const CHANNELS: u16 = 200;
    const PIECES: usize = 20;
    let (_folder, relay) = relay("");
    let origin = service(echo);
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    for id in 0..CHANNELS {
        tunnel.channel(id, origin);
    }
    let piece = |id: u16, n: usize| pattern(2000 + n, usize::from(id) * 7 + n);
    let mut came: HashMap<u16, Vec<u8>> = HashMap::new();
    for n in 0..PIECES {
        for id in 0..CHANNELS {
            tunnel.say(&FromClient::Data(id, &piece(id, n)));
        }
        // So that neither side waits for the other.
        let due = (0..=n).map(|n| 2000 + n).sum::<usize>();
        while came.len() < usize::from(CHANNELS) || came.values().any(|came| came.len() < due) {
            tunnel.heard(|packet| match packet {
                FromServer::Data(id, data) => came.entry(id).or_default().extend_from_slice(data),
                other => panic!("{other:?}"),
            });
        }
    }
    for (id, came) in came {
        let expected: Vec<u8> = (0..PIECES).flat_map(|n| piece(id, n)).collect();
        assert!(came == expected, "channel {id}");
    }
    drop(tunnel);
    relay.stop().check_clean();
}

#[test]
fn a_channel_that_nobody_reads_slows_the_others_down_for_a_moment() {
    const SECONDS: f64 = 10.0;
    let (_folder, mut relay) = relay("[jproxy]\nstuck_s = 1\n");
    let sink = service(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop));
    let mute = TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    tunnel.channel(1, sink);
    tunnel.channel(3, sink);
    let pour = |tunnel: &mut TunnelClient, ids: &[u16], seconds: f64| {
        let started = now();
        let mut poured = 0;
        while started.elapsed().as_secs_f64() < seconds {
            for id in ids {
                tunnel.say(&FromClient::Data(*id, &[7; 4074]));
            }
            poured += 1;
        }
        f64::from(poured) / started.elapsed().as_secs_f64()
    };
    // The machine may have something else to do in either of two measurements.
    let mut tries = 0;
    let is_kept = (0..3).any(|_| {
        tries += 1;
        let before = pour(&mut tunnel, &[1, 3], 2.0);
        tunnel.channel(2, mute.local_addr().expect("an address"));
        let (_stuck, _) = mute.accept().expect("it comes");
        let beside = pour(&mut tunnel, &[1, 2], SECONDS);
        let ended = tunnel.heard(|packet| packet == FromServer::End(2, EndReason::TimedOut));
        assert!(ended);
        println!("packets/s beside one that is read {before:.0}, one that is not {beside:.0}");
        beside > 0.8 * before
    });
    assert!(is_kept, "it was held up too much, {tries} times");
    drop(tunnel);
    relay.wait_for_line("right_timed_out");
    assert_eq!(stopped(relay).count("channels_stuck"), tries);
}

#[test]
fn the_channel_beyond_the_last_is_told_so() {
    let (_folder, relay) = relay("");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let with = Destination::from(peer.local_addr().expect("an address"));
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    for id in 0..1024 {
        tunnel.say(&FromClient::Associate {
            id,
            local_port: 0,
            with: with.clone(),
        });
        tunnel.heard(|packet| match packet {
            FromServer::Associated {
                status: BindStatus::Bound,
                ..
            } => {}
            other => panic!("{id}: {other:?}"),
        });
    }
    let target = Destination::from(service(echo));
    assert_eq!(tunnel.try_connect(0, &target), 6);
    tunnel.say(&FromClient::EndDatagrams(0));
    assert_eq!(tunnel.try_connect(0, &target), 0);
    drop(tunnel);
    assert_eq!(stopped(relay).count("refused.too_many_channels"), 1);
}

#[test]
fn a_relay_that_stops_lets_channels_finish_and_begins_none() {
    let (_folder, relay) = relay("");
    let origin = service(echo);
    let mut idle = TunnelClient::connect(relay.address, Dialect::Spec);
    let mut busy = TunnelClient::connect(relay.address, Dialect::Spec);
    busy.channel(7, origin);
    let (_listener, _only, mute) = full_listener();
    busy.say(&FromClient::Connect(9, mute.into()));
    until("the relay to dial", || is_dialled(mute).then_some(()));
    let stopping = thread::spawn(move || relay.stop());
    assert_eq!(idle.next(), None);
    busy.heard(|packet| {
        let is_limit = matches!(
            packet,
            FromServer::Connected {
                id: 9,
                status: ConnectStatus::Limit,
                ..
            }
        );
        assert!(is_limit, "{packet:?}");
    });
    assert_eq!(busy.try_connect(8, &Destination::from(origin)), 6);
    busy.say(&FromClient::Data(7, b"still there"));
    assert_eq!(busy.data(7, 11), b"still there");
    busy.say(&FromClient::End(7, EndReason::Finished));
    busy.heard(|packet| assert_eq!(packet, FromServer::End(7, EndReason::Finished)));
    assert_eq!(busy.next(), None);
    stopping.join().expect("it stops").check_clean();
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let (_folder, mut relay) = relay("");
    let open = |relay: &Relay| fs::read_dir(relay.proc("fd")).expect("it runs").count();
    let origin = TcpListener::bind("127.0.0.1:0").expect("bound");
    let there = origin.local_addr().expect("an address");
    drop(TunnelClient::connect(relay.address, Dialect::Spec));
    relay.wait_for_line("channels' tunnel ended");
    let before = open(&relay);
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    let mut dialled = Vec::new();
    for id in 0..20 {
        tunnel.channel(id, there);
        dialled.push(origin.accept().expect("it comes").0);
    }
    drop(tunnel.into_stream());
    for mut stream in dialled {
        // An end that is no end of what was said is a reset.
        let ended = stream.read(&mut [0]).expect_err("reset");
        assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    }
    until("nothing is open", || (open(&relay) <= before).then_some(()));
    relay.counters();
    relay.stop().check_clean();
}
