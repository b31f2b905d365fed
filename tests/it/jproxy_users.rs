//! Who is a user of jProxy's, by which files, and who is none.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use midspan::access::jproxy::KeyPair;
use midspan::protocol::jproxy::{ConnectStatus, Dialect, EndReason, FromClient, FromServer};
use midspan::protocol::socks5::{Destination, ReplyCode};
use midspan::protocol::websocks::MAX_FRAME;

use super::admin::{metrics, status};
use super::agents::{echo, service};
use super::drain::{full_listener, is_dialled};
use super::jet_client::{End, read_to_end};
use super::jproxy::{USER, config_in, relay, stopped};
use super::jproxy_socks::write_secret;
use super::patience::until;
use super::peers::jproxy_client::{TunnelClient, greeting, key, raw};
use super::reload::write_certificate;
use super::transports::{certificate, tls};
use super::websocks;

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

/// Until whoever has the key is let in no more; each core hears of it for itself.
fn until_a_stranger(relay: SocketAddr) {
    let words = [greeting(), key().hash().to_vec()].concat();
    until("nobody is let in", || {
        let told = read_to_end(&mut raw(relay, &words)).0;
        (told == b"jProxy\0\x01").then_some(())
    });
}

#[test]
fn whoever_is_a_user_no_more_connects_no_more_and_is_left_with_what_runs() {
    let (folder, mut relay) = relay("");
    let origin = Destination::from(service(echo));
    let mut idle = TunnelClient::connect(relay.address, Dialect::Spec);
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    assert_eq!(tunnel.try_connect(0, &origin), 0);
    fs::remove_file(folder.path().join("users").join(USER)).expect("removed");
    relay.signal(rustix::process::Signal::HUP);
    assert_eq!(idle.next(), None);
    let status = until("denied", || {
        let status = tunnel.try_connect(1, &origin);
        (status != 0).then_some(status)
    });
    assert_eq!(status, 7);
    until_a_stranger(relay.address);
    tunnel.say(&FromClient::Data(0, b"it runs"));
    assert_eq!(tunnel.data(0, 7), b"it runs");
    tunnel.say(&FromClient::End(0, EndReason::Finished));
    tunnel.heard(|packet| assert_eq!(packet, FromServer::End(0, EndReason::Finished)));
    assert_eq!(tunnel.next(), None);
    for _ in [idle, tunnel] {
        let line = relay.wait_for_line("channels' tunnel ended");
        assert!(line.contains("reason=\"terminated\""), "{line}");
    }
    relay.stop().check_clean();
}

/// What is asked for last is refused, so that no channel ends which was there.
#[test]
fn a_tunnel_of_nobody_ends_behind_what_it_was_refused() {
    let (folder, relay) = relay("cores = 1\n");
    let (listener, only, full) = full_listener();
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    tunnel.say(&FromClient::Connect(7, Destination::from(full)));
    until("a dial", || is_dialled(full).then_some(()));
    fs::remove_file(folder.path().join("users").join(USER)).expect("removed");
    relay.signal(rustix::process::Signal::HUP);
    until_a_stranger(relay.address);
    drop((listener, only));
    tunnel.heard(|packet| {
        let status = ConnectStatus::Refused;
        assert!(matches!(packet, FromServer::Connected { status: of, .. } if of == status));
    });
    assert_eq!(tunnel.next(), None);
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
    let (folder, mut relay) = relay("admin = \"127.0.0.1:0\"\n");
    let admin = relay.admin.expect("operators are let in");
    let told = || {
        let wrong = &status(admin)["jproxy_files_wrong"];
        let gauge = metrics(admin)["midspan_jproxy_files_wrong"];
        assert_eq!(wrong.as_f64(), Some(gauge));
        gauge
    };
    assert_eq!(told(), 0.0);
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
    assert_eq!(told(), 1.0);
    let origin = Destination::from(service(echo));
    let mut tunnel = TunnelClient::connect(relay.address, Dialect::Spec);
    assert_eq!(tunnel.try_connect(0, &origin), 0);

    fs::set_permissions(&user, mode).expect("chmod");
    let line = relay.wait_for_line("the configuration is taken");
    assert!(line.contains("jproxy_users=2"), "{line}");
    assert_eq!(told(), 0.0);
    fs::remove_file(&user).expect("removed");
    let line = relay.wait_for_line("the users of [jproxy] have changed");
    assert!(line.contains("users=1 went=\"alice\""), "{line}");
    assert_eq!(tunnel.try_connect(1, &origin), 7);
    let line = relay.wait_for_line("channel refused");
    assert!(line.contains("it is no user any more"), "{line}");
}

#[test]
fn what_is_wrong_with_one_systems_files_keeps_no_others_changes_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    config_in(&folder.join("jproxy"), "");
    let users = folder.join("jproxy/users");
    let pem = folder.join("relay.pem");
    write_certificate(&pem);
    let pem = pem.to_str().expect("text");
    let options = ["--tls-certificate", pem, "--tls-key", pem];
    let lines = format!("[jproxy]\nusers = {users:?}\n");
    let mut relay = websocks::relay_in(folder, &lines, &options);
    let not_taken = "a file that has changed is not taken, what it held before stays";

    let of_websocks = folder.join("users");
    let good = fs::read(&of_websocks).expect("a file");
    fs::write(&of_websocks, "no colon").expect("written");
    let line = relay.wait_for_line(not_taken);
    assert!(
        line.contains("no colon between name and password"),
        "{line}"
    );
    let alice = fs::read(users.join(USER)).expect("a file");
    fs::remove_file(users.join(USER)).expect("removed");
    let line = relay.wait_for_line("the users of [jproxy] have changed");
    assert!(line.contains("went=\"alice\""), "{line}");
    fs::write(&of_websocks, &good).expect("written");
    relay.wait_for_line("the configuration is taken");

    fs::rename(&users, folder.join("away")).expect("renamed");
    let line = relay.wait_for_line(not_taken);
    assert!(line.contains("No such file"), "{line}");
    let good = String::from_utf8(good)
        .expect("text")
        .replace("alice", "carol");
    fs::write(&of_websocks, good).expect("written");
    let line = relay.wait_for_line("the users of [websocks] have changed");
    assert!(line.contains("came=\"carol\" went=\"alice\""), "{line}");
    fs::rename(folder.join("away"), &users).expect("renamed");
    relay.wait_for_line("the configuration is taken");

    fs::write(pem, "half").expect("written");
    relay.wait_for_line(not_taken);
    write_secret(&users.join(USER), &alice);
    let line = relay.wait_for_line("the users of [jproxy] have changed");
    assert!(line.contains("came=\"alice\""), "{line}");
    let renewed = write_certificate(Path::new(pem));
    relay.wait_for_line("the configuration is taken");
    until("the certificate", || {
        (certificate(relay.address) == renewed).then_some(())
    });
    // Each was said once, though it was looked at again.
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.log.matches(not_taken).count(), 3, "{}", ended.log);
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
    let file = folder.path().join("relay.toml");
    let place = format!("bob at {}:7:10; ", file.display());
    assert!(line.replace(['\\', '"'], "").contains(&place), "{line}");
    relay.stop().check_clean();
}

#[test]
fn a_relay_that_starts_warns_of_rules_for_nobody() {
    let rules = "[jproxy]\n[[jproxy.rules]]\nusers = [\"alcie\"]\nsessions_max = 4\n";
    let (_folder, relay) = relay(rules);
    let ended = relay.stop();
    ended.check_clean();
    let mut lines = ended.log.lines();
    let line = lines.find(|line| line.contains("[[jproxy.rules]] has rules for users"));
    let line = line.unwrap_or_else(|| panic!("no warning: {}", ended.log));
    for part in ["WARN", "alcie", "whoever was meant is not restricted"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}
