//! Peers that talk nonsense: refused as written down, counted by reason, and no trouble to anybody.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use super::jet_client::{
    End, accept, accept_minted, ask, connect, dial, granted, implicit, minted, new_place, packet,
    packet_of, pair, ping_pong, read_reply, read_to_end, refused,
};
use super::peers::dribbles::dribble_slowly;
use super::peers::floods::flood;
use super::peers::half_closes::half_close;
use super::peers::resets::reset;
use super::peers::stalls::stall;
use super::relay_process::Relay;

/// What is refused for its bytes: the bytes, the counter, and the reply's status if there is one.
fn cases() -> Vec<(Vec<u8>, &'static str, Option<u16>)> {
    let place = new_place();
    let (a, c) = (place.association, place.candidate.expect("two ids"));
    let head =
        |target: &str, rest: &str| packet_of(&format!("GET {target} HTTP/1.1\r\n{rest}\r\n"));
    let good = format!("/jet/accept/{a}/{c}");
    let long = [b"JET\0\x10\x01\0\0".to_vec(), vec![b'x'; 4089]].concat();
    let many = "X: y\r\n".repeat(40);
    let version_2 = "Host: h\r\nJet-Version: 2\r\n";
    vec![
        (b"JEX\0\0\x20\0\x73".to_vec(), "bad_signature", None),
        (b"\x16\x04\x01\x02\0\x01".to_vec(), "bad_signature", None),
        (b"JET\0\0\0\0\0".to_vec(), "packet_too_short", None),
        (b"JET\0\0\x07\0\0".to_vec(), "packet_too_short", None),
        (b"JET\0\xff\xff\0\0".to_vec(), "packet_too_long", None),
        (long, "packet_too_long", None),
        (packet_of("\u{1}\u{2}\u{3}"), "not_http", None),
        (packet_of(""), "not_http", None),
        (packet_of("GET / HTTP/1.1\r\nHost: h\r\n"), "not_http", None),
        (
            head(&good, &format!("{many}{version_2}")),
            "too_many_headers",
            None,
        ),
        (
            packet_of(&format!("POST {good} HTTP/1.1\r\n{version_2}\r\n")),
            "bad_method",
            None,
        ),
        (head(&good, "Jet-Version: 2\r\n"), "no_host", None),
        (head(&good, "Host: h\r\n"), "no_jet_version", None),
        (
            head(&good, "Host: h\r\nJet-Version: 3\r\n"),
            "unsupported_version",
            Some(400),
        ),
        (head("/jet/listen/x", version_2), "bad_path", Some(400)),
        (head("/", version_2), "no_jet_method", Some(400)),
        (
            head("/jet/accept/x/y", version_2),
            "bad_association",
            Some(400),
        ),
        (
            head(&format!("/jet/accept/{a}/y"), version_2),
            "bad_candidate",
            Some(400),
        ),
    ]
}

#[test]
fn nonsense_is_refused_and_counted_and_disturbs_nobody() {
    let mut relay = Relay::start(&[]);
    let (mut acceptor, mut connector) = pair(relay.address, new_place());
    for (bytes, reason, status) in cases() {
        let before = relay.counters();
        let mut stream = dial(relay.address);
        stream.write_all(&bytes).expect("sent");
        if let Some(status) = status {
            assert_eq!(read_reply(&mut stream).status.as_u16(), status, "{reason}");
        }
        // Whether it ends in a RST depends on what was unread: either way nothing is said.
        let (words, _) = read_to_end(&mut stream);
        assert!(words.is_empty(), "{reason}: {words:?}");
        let counter = format!("refused.{reason}");
        let after = relay.counters();
        assert_eq!(
            after.count(&counter),
            before.count(&counter) + 1,
            "{reason}: {after:?}"
        );
        assert_eq!(
            after.sum("refused."),
            before.sum("refused.") + 1,
            "{reason}: {after:?}"
        );
        ping_pong(&mut acceptor, &mut connector);
    }
    drop((acceptor, connector));
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("paired"), 1);
}

#[test]
fn what_is_no_tls_is_refused_and_counted() {
    let mut relay = Relay::start(&[]);
    // A handshake of an unknown type; a hello that is none; a record too long.
    let hello = [
        b"\x16\x03\x01\0\x30\x01\0\0\x2c\x03\x03".to_vec(),
        vec![0; 42],
    ]
    .concat();
    for (index, bytes) in [
        b"\x16\x03\x01\0\x05hello".to_vec(),
        hello,
        b"\x16\x03\x01\xff\xff".to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = dial(relay.address);
        stream.write_all(&bytes).expect("sent");
        let (words, _) = read_to_end(&mut stream);
        // RFC 8446 §6: a fatal alert, or nothing.
        let is_alert = words.starts_with(&[0x15, 3, 3, 0, 2, 2]);
        assert!(is_alert || words.is_empty(), "{words:?}");
        let refused = relay.counters().count("refused.tls_failed");
        assert_eq!(refused, index as u64 + 1);
    }
    relay.stop().check_clean();
}

#[test]
fn tls_that_begins_and_stops_is_closed_like_anything_else() {
    // Nobody waits so long.
    let mut relay = Relay::start(&["--limit", "handshake_timeout_s=240"]);
    let begun = b"\x16\x03\x01\x02\0\x01";
    let mut at_once = dial(relay.address);
    half_close(&mut at_once, begun);
    drop(at_once);
    // The relay has read all of it, and waits for the rest.
    for index in 2..=3 {
        let stalled = stall(relay.address, begun);
        relay.wait_for_counters("the handshake", |counters| {
            counters.count("accepted") == index
        });
        drop(stalled);
    }
    let counters = relay.wait_for_counters("three to be counted", |counters| {
        counters.count("refused.closed_early") == 3
    });
    assert_eq!(counters.refused(), [("closed_early", 3)].into());
    relay.stop().check_clean();
}

#[test]
fn a_refused_peer_that_floods_is_cut_off() {
    let relay = Relay::start(&["--cores", "1"]);
    let (mut acceptor, mut connector) = pair(relay.address, new_place());
    let flooder = stall(relay.address, &packet(&connect(new_place())));
    // What both kernels buffer, at the most.
    let error = flood(flooder, 64 << 20);
    assert!(
        matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
        "{error}"
    );
    ping_pong(&mut acceptor, &mut connector);
    drop((acceptor, connector));
    relay.stop().check_clean();
}

#[test]
fn a_request_has_to_come_in_time() {
    let mut relay = Relay::start(&["--limit", "handshake_timeout_s=2"]);
    let (mut acceptor, mut connector) = pair(relay.address, new_place());
    let request = packet(&accept(new_place()));

    let mut silent = stall(relay.address, b"");
    let mut halfway = stall(relay.address, &request[..request.len() - 1]);
    // One byte a second: each of them is no reason to wait longer.
    let mut slow = dial(relay.address);
    let sent = dribble_slowly(&mut slow, &request, Duration::from_secs(1));
    assert!(sent < request.len(), "nobody minded {sent} bytes");
    for stream in [&mut silent, &mut halfway, &mut slow] {
        assert_eq!(read_to_end(stream).0, b"");
    }
    let counters = relay.counters();
    let expected = [("silent", 1), ("too_slow", 2)].into();
    assert_eq!(counters.refused(), expected);
    ping_pong(&mut acceptor, &mut connector);
    drop((acceptor, connector));
    relay.stop().check_clean();
}

#[test]
fn peers_that_go_before_they_said_what_they_want_are_counted() {
    let mut relay = Relay::start(&[]);
    let request = packet(&accept(new_place()));
    for bytes in [&b"J"[..], &request[..20]] {
        let mut stream = dial(relay.address);
        half_close(&mut stream, bytes);
        assert_eq!(read_to_end(&mut stream).0, b"");
        reset(stall(relay.address, bytes));
    }
    let counters = relay.wait_for_counters("four to be counted", |counters| {
        counters.sum("refused.") == 4
    });
    assert_eq!(
        counters.refused(),
        [("closed_early", 2), ("reset_early", 2)].into()
    );
    relay.stop().check_clean();
}

#[test]
fn too_many_at_a_time_are_closed_at_once() {
    // One shard, so that the limits are not shared out.
    let mut relay = Relay::start(&[
        "--cores",
        "1",
        "--limit",
        "handshakes_max=3",
        "--limit",
        "waiting_per_address_max=2",
    ]);
    let (mut acceptor, mut connector) = pair(relay.address, new_place());
    let halfway: Vec<_> = (0..3).map(|_| stall(relay.address, b"J")).collect();
    relay.wait_for_counters("three handshakes", |counters| {
        counters.count("accepted") == 5
    });
    let mut fourth = stall(relay.address, b"J");
    assert_eq!(read_to_end(&mut fourth).0, b"");
    drop(halfway);
    relay.wait_for_counters("their end", |counters| {
        counters.count("refused.closed_early") == 3
    });

    let waiting: Vec<_> = (0..2)
        .map(|_| granted(relay.address, &accept(new_place())))
        .collect();
    refused(relay.address, &accept(new_place()), 429);
    drop(waiting);
    ping_pong(&mut acceptor, &mut connector);
    drop((acceptor, connector));
    let ended = relay.stop();
    ended.check_clean();
    let expected = [
        ("closed_early", 3),
        ("too_many_handshakes", 1),
        ("too_many_waiting", 1),
    ];
    assert_eq!(ended.counters.refused(), expected.into());
}

#[test]
fn acceptors_that_come_and_go_keep_nobody_out() {
    // One shard, so that the limit is not shared out.
    let relay = Relay::start(&["--cores", "1", "--limit", "associations_max=3"]);
    let address = relay.address;
    let leave = |mut acceptor| {
        half_close(&mut acceptor, b"");
        assert_eq!(read_to_end(&mut acceptor), (Vec::new(), End::Closed));
    };
    let place = new_place();
    let mut staying = granted(address, &accept(place));
    for request in [accept_minted(), accept(new_place())].repeat(4) {
        let (acceptor, reply) = ask(address, &request);
        assert_eq!(reply.status.as_u16(), 200, "{request:?}");
        leave(acceptor);
    }
    // The last one to leave may still come back.
    let (acceptor, association) = minted(address);
    leave(acceptor);
    let _back = granted(address, &accept(implicit(association)));
    // Those that stay fill the table, and then there is no room.
    let _third = granted(address, &accept(new_place()));
    refused(address, &accept(new_place()), 503);
    let mut connector = granted(address, &connect(place));
    ping_pong(&mut connector, &mut staying);
    drop((connector, staying));
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.refused(), [("table_full", 1)].into());
}

#[test]
fn a_refused_peer_is_named_in_the_log_at_debug_only() {
    let secret = new_place();
    for (level, lines_count) in [("debug", 1), ("info", 0)] {
        let relay = Relay::start(&["--log-level", level]);
        let (mut stream, reply) = ask(relay.address, &connect(secret));
        assert_eq!(reply.status.as_u16(), 404);
        assert_eq!(read_to_end(&mut stream), (Vec::new(), End::Closed));
        let peer = stream.local_addr().expect("a socket");
        let line = format!("refused peer={peer} reason=\"not_found\"");
        let ended = relay.stop();
        ended.check_clean();
        assert_eq!(ended.log.matches(&line).count(), lines_count, "{level}");
        let id = secret.association.to_string();
        assert!(!ended.log.contains(&id), "{level}: {}", ended.log);
    }
}
