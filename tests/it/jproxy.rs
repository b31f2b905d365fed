//! Clients of jProxy: let in by their keys, and what they ask for is done.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use midspan::access::jproxy::KeyPair;
use midspan::protocol::jproxy::{
    BindStatus, ConnectStatus, Dialect, EndReason, FromClient, FromServer,
};
use midspan::protocol::socks5::{Destination, Host, ReplyCode};
use midspan::protocol::websocks::MAX_FRAME;

use super::agents::{echo, greet_and_count, service};
use super::drain::{full_listener, is_dialled};
use super::jet_client::{End, read_to_end};
use super::network_namespace::NetworkNamespace;
use super::patience::{PATIENCE, now, until};
use super::peers::jproxy_client::{TunnelClient, greeting, key, raw};
use super::relay_process::{Counters, Relay};
use super::transports::tls;
use super::websocks;

/// alice, as the relay knows her.
pub(crate) const USER: &str =
    "FE2B4AD50CCB8261A64F9017E487026D7A4FE6F2A1AC7D416BED71679B71715D.dat";

pub(crate) const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/jproxy");

/// A relay that serves alice's tunnels without TLS, with these further lines in its file.
fn relay(lines: &str) -> (tempfile::TempDir, Relay) {
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
fn stopped(relay: Relay) -> Counters {
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
fn strangers_are_turned_away_and_counted() {
    let (_folder, mut relay) = relay("[limits]\nhandshake_timeout_s = 1\n");
    let refused = b"jProxy\x01";
    for words in [&b"jProxy\x04\0"[..], b"jProxz\x03\0"] {
        let mut stream = raw(relay.address, words);
        assert_eq!(read_to_end(&mut stream), (refused.to_vec(), End::Closed));
    }
    let mut stream = raw(relay.address, &greeting());
    stream.write_all(&[7; 32]).expect("sent");
    let told = read_to_end(&mut stream);
    assert_eq!(told, (b"jProxy\0\x01".to_vec(), End::Closed));
    let line = relay.wait_for_line("channels' tunnel refused");
    for part in ["0707070707070707", "unknown_key", "peer=127.0.0.1:"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // One that says no hash, and one that says nothing.
    let mut late = raw(relay.address, &greeting());
    assert_eq!(read_to_end(&mut late).0, b"jProxy\0");
    let mut silent = raw(relay.address, b"");
    assert_eq!(read_to_end(&mut silent).0, b"");
    let counters = stopped(relay);
    for (reason, count) in [
        ("unsupported_version", 1),
        ("bad_signature", 1),
        ("unknown_key", 1),
        ("too_slow", 1),
        ("silent", 1),
    ] {
        assert_eq!(
            counters.count(&format!("refused.{reason}")),
            count,
            "{reason}"
        );
    }
}

#[test]
fn whoever_guesses_is_not_listened_to() {
    let (_folder, relay) = relay("cores = 1\n[limits]\nwrong_passwords_per_minute_max = 2\n");
    for _ in 0..2 {
        let mut stream = raw(relay.address, &[greeting(), vec![7; 32]].concat());
        assert_eq!(read_to_end(&mut stream).0, b"jProxy\0\x01");
    }
    let right = [greeting(), key().hash().to_vec()].concat();
    let mut stream = raw(relay.address, &right);
    assert_eq!(read_to_end(&mut stream).0, b"jProxy\0\x01");
    let counters = stopped(relay);
    assert_eq!(counters.count("refused.too_many_wrong"), 1);
}

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
    tunnel.say_raw(&[1; 17]);
    assert_eq!(tunnel.next(), None);
    relay.wait_for_line("left_broke_protocol");
    let counters = stopped(relay);
    assert_eq!(counters.count("packets_ignored"), 3);
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

#[test]
fn datagrams_are_exchanged_with_one_peer() {
    let (_folder, mut relay) = relay("");
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
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("written");
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

#[test]
fn whoever_is_a_user_no_more_connects_no_more() {
    let (folder, relay) = relay("");
    let origin = Destination::from(service(echo));
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    assert_eq!(tunnel.try_connect(0, &origin), 0);
    fs::remove_file(folder.path().join("users").join(USER)).expect("removed");
    relay.signal(rustix::process::Signal::HUP);
    let status = until("denied", || {
        let status = tunnel.try_connect(1, &origin);
        (status != 0).then_some(status)
    });
    assert_eq!(status, 7);
    let known = |address: SocketAddr| {
        let words = [greeting(), key().hash().to_vec()].concat();
        read_to_end(&mut raw(address, &words)).0
    };
    assert_eq!(known(relay.address), b"jProxy\0\x01");
    drop(tunnel);
    relay.stop().check_clean();
}

#[test]
fn a_name_in_both_systems_is_counted_in_each() {
    let folder = tempfile::tempdir().expect("a folder");
    config_in(&folder.path().join("jproxy"), "");
    let users = folder.path().join("jproxy/users");
    let lines =
        format!("cores = 1\n[jproxy]\nusers = {users:?}\n[limits]\nsessions_per_user_max = 1\n");
    let relay = websocks::relay_in(folder.path(), &lines, &[]);
    let origin = service(echo);
    let mut visitor = websocks::visit(relay.address, websocks::KEY);
    let words = [&MAX_FRAME[..], &websocks::connect(origin)].concat();
    visitor.write_all(&words).expect("sent");
    assert_eq!(
        websocks::read_reply(&mut visitor).code,
        ReplyCode::Succeeded
    );
    let mut tunnel = TunnelClient::over(tls(super::jet_client::dial(relay.address)), Dialect::Spec);
    let origin = Destination::from(origin);
    assert_eq!(tunnel.try_connect(7, &origin), 0);
    assert_eq!(tunnel.try_connect(8, &origin), 6);
    drop((visitor, tunnel));
    relay.stop().check_clean();
}

#[test]
fn a_file_that_is_wrong_costs_no_other_user() {
    let (folder, mut relay) = relay("");
    let users = folder.path().join("users");
    let user = users.join(USER);
    // Nobody tells the relay to look, and neither time nor size of the file change.
    fs::set_permissions(&user, fs::Permissions::from_mode(0o644)).expect("chmod");
    let bob = KeyPair::generate("bob").expect("a key");
    let of_bob = users.join(&bob.user_file_name);
    fs::write(users.join(".bob"), &bob.user_file).expect("written");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(users.join(".bob"), mode.clone()).expect("chmod");
    fs::rename(users.join(".bob"), &of_bob).expect("renamed");
    let line = relay.wait_for_line("the users of [jproxy] have changed");
    assert!(line.contains("users=2 came=\"bob\""), "{line}");
    let line = relay.wait_for_line("a user's file is not taken");
    for part in [
        "can be read by anybody (mode 0644)",
        "next=\"if nobody else has read it: chmod 640",
        "keeps=\"alice\"",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let origin = Destination::from(service(echo));
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    assert_eq!(tunnel.try_connect(0, &origin), 0);

    fs::set_permissions(&user, mode).expect("chmod");
    let line = relay.wait_for_line("the configuration is taken");
    assert!(line.contains("jproxy_users=2"), "{line}");
    fs::remove_file(&user).expect("removed");
    let line = relay.wait_for_line("the users of [jproxy] have changed");
    assert!(line.contains("users=1 went=\"alice\""), "{line}");
    assert_eq!(tunnel.try_connect(1, &origin), 7);
    let line = relay.wait_for_line("channel refused");
    assert!(line.contains("it is no user any more"), "{line}");
}

#[test]
fn a_new_users_file_that_is_wrong_refuses_no_reload() {
    let (folder, mut relay) = relay("");
    let bob = KeyPair::generate("bob").expect("a key");
    let of_bob = folder.path().join("users").join(&bob.user_file_name);
    fs::write(&of_bob, &bob.user_file).expect("written");
    fs::set_permissions(&of_bob, fs::Permissions::from_mode(0o644)).expect("chmod");
    let rules = "[jproxy]\n[[jproxy.rules]]\nusers = [\"bob\"]\nsessions_max = 4\n";
    config_in(folder.path(), rules);
    relay.signal(rustix::process::Signal::HUP);
    let line = relay.wait_for_line("[[jproxy.rules]] has rules for users");
    assert!(line.contains("bob"), "{line}");
    relay.stop().check_clean();
}
