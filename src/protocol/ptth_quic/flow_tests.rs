//! Two proxies and a relay in one place: what each writes the next one reads, however it is cut.

use std::fmt::Debug;

use super::*;
use crate::protocol::Progress;
use crate::protocol::ptth_name::Name;

const PAYLOAD: &[u8] = b"\x14\x0a\0\0payload";

/// Reads the message at the start of `wire`, which has `PAYLOAD` behind it, in each way in which
/// it can come: in pieces of each size, in two at each split, and as a reader that never asks for
/// more than is missing.
fn read<T, E>(wire: &[u8], decode: impl Fn(&[u8]) -> Result<Progress<T>, E>) -> T
where
    T: Debug + PartialEq,
    E: Debug,
{
    let stream = [wire, PAYLOAD].concat();
    let mut whole = pieces(&[&stream], &decode);
    for size in 1..stream.len() {
        let sized: Vec<_> = stream.chunks(size).collect();
        whole = same(whole, pieces(&sized, &decode));
    }
    for split in 0..=stream.len() {
        let (first, second) = stream.split_at(split);
        whole = same(whole, pieces(&[first, second], &decode));
    }
    same(whole, sparingly(&stream, &decode))
}

fn same<T: Debug + PartialEq>(left: T, right: T) -> T {
    assert_eq!(left, right);
    left
}

/// The message in these pieces; what is behind it has to be the payload.
fn pieces<T, E: Debug>(pieces: &[&[u8]], decode: impl Fn(&[u8]) -> Result<Progress<T>, E>) -> T {
    let mut reader = TipReader::new();
    let mut found = None;
    let mut prefix = Vec::new();
    for piece in pieces {
        if found.is_some() {
            prefix.extend_from_slice(piece);
            continue;
        }
        match reader.receive(piece, &decode).unwrap() {
            Progress::Complete { value, consumed } => {
                found = Some(value);
                prefix.extend_from_slice(&piece[consumed..]);
            }
            Progress::Partial { more_bytes_min } => assert_ne!(more_bytes_min, 0),
        }
    }
    assert_eq!(prefix, PAYLOAD);
    found.expect("a message")
}

/// The message, of which no more is read than is missing; the payload is then still there.
fn sparingly<T, E: Debug>(stream: &[u8], decode: impl Fn(&[u8]) -> Result<Progress<T>, E>) -> T {
    let mut reader = TipReader::new();
    let (mut at, mut wanted) = (0, 0);
    loop {
        let piece = &stream[at..at + wanted];
        at += wanted;
        match reader.receive(piece, &decode).unwrap() {
            Progress::Complete { value, consumed } => {
                assert_eq!((consumed, &stream[at..]), (piece.len(), PAYLOAD));
                return value;
            }
            Progress::Partial { more_bytes_min } => wanted = more_bytes_min,
        }
    }
}

fn written(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"before".to_vec();
    encode(&mut out);
    out.split_off(b"before".len())
}

/// What `answer` becomes on its way.
fn answered(answer: Answer, to: Question) -> Answer {
    let wire = written(|out| answer.encode(to, out));
    read(&wire, |bytes| Answer::decode(bytes, to))
}

fn id(text: &str) -> WireId {
    text.parse().unwrap()
}

#[test]
fn both_proxies_join() {
    for role in [Role::ClientSide, Role::ServerSide] {
        for who in [
            Who::Legacy { number: 42 },
            Who::Layered {
                id: id("alice"),
                key: None,
            },
            Who::Layered {
                id: id("alice"),
                key: Some("mk_secret".parse().unwrap()),
            },
        ] {
            let hello = Hello { role, who };
            let heard = read(&written(|out| hello.encode(out)), Hello::decode);
            assert_eq!(heard, hello);
            for answer in [Answer::Accepted, Answer::Refused(Refusal::Unauthenticated)] {
                assert_eq!(answered(answer, heard.question()), answer);
            }
        }
    }
}

#[test]
fn one_round_trip_opens_a_layered_connection() {
    let open = Open::Layered {
        server: id("home"),
        inner: Inner {
            client_port: 51000,
            target: id("22"),
        },
    };
    let opened = written(|out| open.encode(out));
    let asked = read(&opened, Open::decode);
    assert_eq!(asked, open);

    let alice: Name = "alice".parse().unwrap();
    let offer = asked.to_offer(&alice, Some(42));
    let offered = written(|out| offer.encode(out));
    assert_eq!(
        offered[4 + 6..],
        opened[4 + 5..],
        "the inner message, byte for byte"
    );
    let heard = read(&offered, Offer::decode);
    assert_eq!(heard, offer);
    let Offer::Layered { client, inner } = &heard else {
        panic!("{heard:?}");
    };
    assert_eq!(client.to_name(), Some(alice));
    assert_eq!((inner.client_port, inner.target.as_str()), (51000, "22"));

    for answer in [
        Answer::Accepted,
        Answer::Refused(Refusal::Forbidden),
        Answer::InnerRefused(Refusal::TargetRefused),
    ] {
        let at_relay = answered(answer, heard.question());
        assert_eq!(answered(at_relay, asked.question()), answer);
    }
}

#[test]
fn a_legacy_connection_is_opened_step_by_step() {
    let open = Open::Legacy { server: 43 };
    let asked = read(&written(|out| open.encode(out)), Open::decode);
    assert_eq!(asked, open);
    assert_eq!(
        answered(Answer::Accepted, asked.question()),
        Answer::Accepted
    );

    let alice: Name = "alice".parse().unwrap();
    for (legacy_id, client) in [(Some(42), 42), (None, 0)] {
        let offer = asked.to_offer(&alice, legacy_id);
        assert_eq!(offer, Offer::Legacy { client });
        let heard = read(&written(|out| offer.encode(out)), Offer::decode);
        assert_eq!(heard, offer);
        assert_eq!(
            answered(Answer::Accepted, heard.question()),
            Answer::Accepted
        );
    }

    for inner in [
        LateInner::Legacy { target: 0 },
        LateInner::Legacy { target: 22 },
        LateInner::Layered(Inner {
            client_port: 51000,
            target: id("ssh"),
        }),
    ] {
        let heard = read(&written(|out| inner.encode(out)), LateInner::decode);
        assert_eq!(heard, inner);
    }
    for answer in [Answer::Accepted, Answer::Refused(Refusal::TimedOut)] {
        assert_eq!(answered(answer, Question::Inner), answer);
    }
}

/// Behind a legacy offer the same stream has an inner message, which may have come with it.
#[test]
fn one_reader_reads_one_message_after_another() {
    let mut stream = Vec::new();
    Offer::Legacy { client: 42 }.encode(&mut stream);
    LateInner::Legacy { target: 22 }.encode(&mut stream);
    for split in 0..stream.len() {
        let mut reader = TipReader::new();
        let (mut offers, mut inners, mut rest) = (0, 0, Vec::new());
        for piece in [&stream[..split], &stream[split..]] {
            let mut piece = piece;
            if offers == 0 {
                match reader.receive(piece, Offer::decode).unwrap() {
                    Progress::Complete { consumed, .. } => {
                        offers += 1;
                        piece = &piece[consumed..];
                    }
                    Progress::Partial { .. } => continue,
                }
            }
            if let Progress::Complete { consumed, .. } =
                reader.receive(piece, LateInner::decode).unwrap()
            {
                inners += 1;
                rest.extend_from_slice(&piece[consumed..]);
            }
        }
        assert_eq!(
            (offers, inners, rest.as_slice()),
            (1, 1, &b""[..]),
            "split at {split}"
        );
    }
}

/// Whoever says nothing useful costs no more than the longest message, and is told so as soon as
/// the header is there.
#[test]
fn a_reader_remembers_no_more_than_the_longest_message() {
    let body = [&b"\x01a\x02\x03\xfc"[..], &[b'x'; 1020][..]].concat();
    let hello = [&[2, 0, 4, 0], &body[..BODY_BYTES_MAX]].concat();
    assert_eq!(hello.len(), MESSAGE_BYTES_MAX);
    let mut reader = TipReader::new();
    for (at, byte) in hello.iter().enumerate() {
        let progress = reader.receive(&[*byte], Hello::decode);
        match at + 1 == hello.len() {
            true => assert!(matches!(progress, Err(error) if error.fault == MessageFault::Overrun)),
            false => assert!(matches!(progress, Ok(Progress::Partial { .. })), "at {at}"),
        }
    }
}
