//! `jproxy`: both sides' handshakes, packets of either dialect, and the cipher around them.

use midspan::protocol::Progress;
use midspan::protocol::jproxy::{
    Dialect, FromClient, FromServer, Greeting, LoginAnswer, Opener, PAYLOAD_BYTES_MAX, Sealer,
    SessionKey, decode_acceptance, decode_hash,
};

use super::prefixes;

const KEY: SessionKey = SessionKey([7; 16]);

pub(crate) fn run(data: &[u8]) {
    let _ = prefixes::check(data, Greeting::decode);
    let _ = prefixes::check(data, decode_acceptance);
    let _ = prefixes::check(data, |bytes| Ok::<_, ()>(decode_hash(bytes)));
    let _ = prefixes::check(data, |bytes| {
        let is_accepted = |answer| matches!(answer, LoginAnswer::Accepted(_));
        LoginAnswer::decode(bytes).map(|answer: Progress<_>| answer.map(is_accepted))
    });
    for dialect in [Dialect::Spec, Dialect::Original] {
        check_packets(data, dialect);
    }
    check_garbage(data);
    check_sealed(&data[..data.len().min(PAYLOAD_BYTES_MAX)]);
}

/// What is read is written, and read again, as it was.
fn check_packets(data: &[u8], dialect: Dialect) {
    if let Ok(packet) = FromClient::decode(data, dialect) {
        let mut encoded = Vec::new();
        let behind = packet.encode_head(dialect, &mut encoded);
        encoded.extend_from_slice(behind);
        assert!(encoded.len() <= data.len());
        let again = FromClient::decode(&encoded, dialect);
        assert!(is_same(&again, &Ok(packet)), "{again:?}");
    }
    if let Ok(packet) = FromServer::decode(data, dialect) {
        let mut encoded = Vec::new();
        let behind = packet.encode_head(dialect, &mut encoded);
        encoded.extend_from_slice(behind);
        assert!(encoded.len() <= data.len());
        assert!(FromServer::decode(&encoded, dialect).is_ok());
    }
}

/// But for reasons, of which `original` has one number for several.
fn is_same<E: PartialEq>(
    one: &Result<FromClient<'_>, E>,
    other: &Result<FromClient<'_>, E>,
) -> bool {
    match (one, other) {
        (Ok(FromClient::End(one, _)), Ok(FromClient::End(other, _))) => one == other,
        _ => one == other,
    }
}

/// Whatever comes, no more is taken than there is, and as much in pieces as at once.
fn check_garbage(data: &[u8]) {
    let mut opener = Opener::new(&KEY);
    let whole = opener.open(data);
    assert!(whole <= data.len());
    let payloads = |opener: &Opener| -> Vec<_> {
        let owned = opener.payloads().map(|it| it.map(<[u8]>::to_vec));
        owned.collect()
    };
    let expected = payloads(&opener);
    let cut = data.len() / 2;
    let first = opener.open(&data[..cut]);
    let mut got = payloads(&opener);
    let second = opener.open(&data[first..]);
    got.extend(payloads(&opener));
    assert_eq!((first + second, got), (whole, expected));
}

fn check_sealed(payload: &[u8]) {
    let mut wire = Vec::new();
    let (head, rest) = payload.split_at(payload.len() / 3);
    Sealer::new(&KEY).seal(&[head, rest], &mut wire);
    let mut opener = Opener::new(&KEY);
    assert_eq!(opener.open(&wire), wire.len());
    let opened: Vec<_> = opener.payloads().collect();
    assert_eq!(opened, [Ok(payload)]);
}
