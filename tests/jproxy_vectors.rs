//! jProxy as the original programs speak it: `tests/vectors/jproxy/`.

use midspan::access::jproxy::{ClientKey, ClientKeyError, TunnelUser, UserFileError};
use midspan::protocol::Progress;
use midspan::protocol::jproxy::{
    ConnectStatus, Dialect, EndReason, FromClient, FromServer, Greeting, LoginAnswer, Opener,
    PacketError, Sealer, SessionKey, decode_acceptance, decode_hash, encode_acceptance,
};
use serde_json::Value;

const GOLDEN: &str = include_str!("vectors/jproxy/jproxy_golden.json");

const CLIENT_KEY: &[u8] = include_bytes!("vectors/jproxy/jproxy_key.dat");

const USER_FILE_NAME: &str = "FE2B4AD50CCB8261A64F9017E487026D7A4FE6F2A1AC7D416BED71679B71715D.dat";
const USER_FILE: &[u8] = include_bytes!(
    "vectors/jproxy/FE2B4AD50CCB8261A64F9017E487026D7A4FE6F2A1AC7D416BED71679B71715D.dat"
);

fn golden() -> Value {
    serde_json::from_str(GOLDEN).expect("JSON")
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("text");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

fn key(value: &Value) -> SessionKey {
    SessionKey(hex(value).try_into().expect("16 bytes"))
}

/// Each packet, on the wire and as it was meant.
fn packets(list: &Value) -> Vec<(Vec<u8>, Vec<u8>)> {
    let list = list.as_array().expect("a list").iter();
    list.map(|packet| (hex(&packet["wire"]), hex(&packet["plain"])))
        .collect()
}

/// Has all packets of a direction opened in two pieces, whichever they are, and sealed.
#[track_caller]
fn check_cipher(key: &SessionKey, packets: &[(Vec<u8>, Vec<u8>)]) {
    let wire: Vec<u8> = packets.iter().flat_map(|(wire, _)| wire.clone()).collect();
    let plain: Vec<_> = packets.iter().map(|(_, plain)| plain.clone()).collect();
    for cut in 0..=wire.len() {
        let mut opener = Opener::new(key);
        let mut got = Vec::new();
        let first = opener.open(&wire[..cut]);
        got.extend(opener.payloads().map(|it| it.expect("a packet").to_vec()));
        let second = opener.open(&wire[first..]);
        got.extend(opener.payloads().map(|it| it.expect("a packet").to_vec()));
        assert_eq!((first + second, &got), (wire.len(), &plain), "cut at {cut}");
    }
    let mut sealer = Sealer::new(key);
    let mut out = Vec::new();
    plain
        .iter()
        .for_each(|plain| sealer.seal(&[plain], &mut out));
    assert!(out == wire, "other bytes");
}

/// The same of lists that have so many packets each, of one key.
#[track_caller]
fn check_lists(of_key: &str, lists: [(&str, usize); 2]) {
    let golden = golden();
    let key = key(&golden[of_key]);
    for (list, count) in lists {
        let packets = packets(&golden[list]);
        assert_eq!(packets.len(), count);
        check_cipher(&key, &packets);
    }
}

#[test]
fn the_recorded_session_is_opened_and_sealed_as_theirs() {
    check_lists("aes_key", [("c2s", 6), ("s2c", 7)]);
}

#[test]
fn packets_of_a_fixed_key_are_sealed_as_theirs() {
    check_lists("fixed_key", [("fixed", 9), ("fixed_literal_le", 6)]);
}

#[test]
fn both_sides_begin_as_theirs() {
    let golden = golden();
    let mut out = Vec::new();
    Greeting::OURS.encode(&mut out);
    assert_eq!(out, hex(&golden["client_hello"]));
    let mut out = Vec::new();
    encode_acceptance(true, &mut out);
    let server = hex(&golden["server_hello"]);
    assert_eq!(out, server);
    let accepted = Progress::Complete {
        value: true,
        consumed: server.len(),
    };
    assert_eq!(decode_acceptance(&server), Ok(accepted));
    let hash = hex(&golden["login_hash"]);
    assert!(matches!(
        decode_hash(&hash),
        Progress::Complete { value, consumed: 32 } if value[..] == hash
    ));
    let encrypted = hex(&golden["rsa_pkcs1_aes_key"]);
    let answer = [hex(&golden["login_status"]), encrypted.clone()].concat();
    assert!(matches!(
        LoginAnswer::decode(&answer),
        Ok(Progress::Complete { value: LoginAnswer::Accepted(key), consumed: 257 })
            if key[..] == encrypted
    ));
}

#[test]
fn keys_are_read_from_their_files() {
    let golden = golden();
    let client = ClientKey::decode(CLIENT_KEY).expect("a client's key");
    let user = TunnelUser::decode(USER_FILE_NAME, USER_FILE).expect("a user");
    assert_eq!(&**user.name(), "alice");
    assert_eq!(client.hash()[..], hex(&golden["login_hash"]));
    assert_eq!(client.hash(), user.hash());
    let encrypted = hex(&golden["rsa_pkcs1_aes_key"]);
    let encrypted = encrypted.try_into().expect("256 bytes");
    let expected = key(&golden["aes_key"]);
    assert_eq!(client.decrypt(&encrypted), expected);
    let ours = user.encrypt(&expected).expect("encrypted");
    assert_ne!(ours, encrypted);
    assert_eq!(client.decrypt(&ours), expected);
}

#[test]
fn files_that_are_cut_off_hold_no_key() {
    for cut in 0..CLIENT_KEY.len() {
        let error = ClientKey::decode(&CLIENT_KEY[..cut]).expect_err("cut off");
        assert!(matches!(error, ClientKeyError::Short { .. }), "{cut}");
    }
    for cut in 0..USER_FILE.len() {
        let error = TunnelUser::decode(USER_FILE_NAME, &USER_FILE[..cut]).expect_err("cut off");
        let expected = match cut {
            0..7 => UserFileError::Short { what: "name" },
            7..263 => UserFileError::Short { what: "salt" },
            _ => UserFileError::Key,
        };
        assert_eq!(error, expected, "{cut}");
    }
}

/// What is meant, of one side.
fn meanings<'a, T>(
    packets: &'a [(Vec<u8>, Vec<u8>)],
    decode: impl Fn(&'a [u8]) -> Result<T, PacketError>,
) -> Vec<T> {
    let packets = packets.iter();
    packets
        .map(|(_, plain)| decode(plain).expect("a packet"))
        .collect()
}

#[test]
fn the_recorded_session_is_understood() {
    let golden = golden();
    let dialect = Dialect::Original;
    let sent = packets(&golden["c2s"]);
    let sent = meanings(&sent, |plain| FromClient::decode(plain, dialect));
    let expected = ["localhost:29000", "127.0.0.1:29000", "127.0.0.1:1"];
    let asked: Vec<_> = sent
        .iter()
        .filter_map(|packet| match packet {
            FromClient::Connect(0, destination) => Some(destination.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(asked, expected);
    assert!(sent.contains(&FromClient::End(0, EndReason::Finished)));
    let got = packets(&golden["s2c"]);
    let got = meanings(&got, |plain| FromServer::decode(plain, dialect));
    let statuses: Vec<_> = got
        .iter()
        .filter_map(|packet| match packet {
            FromServer::Connected { id: 0, status, .. } => Some(*status),
            _ => None,
        })
        .collect();
    let connected = ConnectStatus::Connected;
    assert_eq!(statuses, [connected, connected, ConnectStatus::Refused]);
    let answers = got.iter().filter(
        |packet| matches!(packet, FromServer::Data(0, data) if data.starts_with(b"HTTP/1.0 200")),
    );
    assert_eq!(answers.count(), 2);
}

#[test]
fn packets_of_either_dialect_are_written_as_they_are_read() {
    let golden = golden();
    let mut checked = 0;
    for (list, dialect) in [
        ("fixed", Dialect::Original),
        ("fixed_literal_le", Dialect::Spec),
    ] {
        for (_, plain) in packets(&golden[list]) {
            let mut out = Vec::new();
            let client = FromClient::decode(&plain, dialect);
            if let Ok(packet) = &client {
                let data = packet.encode_head(dialect, &mut out);
                out.extend_from_slice(data);
                // The Java client's end has a byte behind it.
                assert!(plain.starts_with(&out), "{packet:?}");
                checked += 1;
            }
            let mut out = Vec::new();
            if let Ok(packet) = FromServer::decode(&plain, dialect) {
                let data = packet.encode_head(dialect, &mut out);
                out.extend_from_slice(data);
                checked += usize::from(plain.starts_with(&out));
            }
        }
    }
    assert!(checked >= 15, "{checked}");
}
