//! All that is no message, by name, and which of the decoders says so.

use super::*;
use crate::protocol::Progress;

/// By which decoder something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Hello,
    Open,
    Offer,
    LateInner,
}

impl Due {
    const ALL: [Self; 4] = [Self::Hello, Self::Open, Self::Offer, Self::LateInner];

    fn decode(self, bytes: &[u8]) -> Result<Progress<()>, MessageError> {
        Ok(match self {
            Self::Hello => Hello::decode(bytes)?.map(drop),
            Self::Open => Open::decode(bytes)?.map(drop),
            Self::Offer => Offer::decode(bytes)?.map(drop),
            Self::LateInner => LateInner::decode(bytes)?.map(drop),
        })
    }
}

/// A message of this kind with this body.
fn message(kind: u8, argument: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, argument], &length[..], body].concat()
}

/// An inner message for `22`, from port 51000.
fn inner() -> Vec<u8> {
    message(12, 0, b"\xc7\x38\x0222")
}

/// However it is cut, and at once when it is whole, this is refused so.
fn check(name: &str, due: Due, wire: &[u8], fault: MessageFault) {
    let kind = wire[0];
    let expected = MessageError { kind, fault };
    for cut in 0..wire.len() {
        match due.decode(&wire[..cut]) {
            Ok(Progress::Partial { more_bytes_min }) => {
                assert!(more_bytes_min > 0, "{name} cut at {cut}");
            }
            Err(error) => assert_eq!(error, expected, "{name} cut at {cut}"),
            other => panic!("{name} cut at {cut}: {other:?}"),
        }
    }
    assert_eq!(due.decode(wire), Err(expected), "{name}");
    let more = [wire, b"payload"].concat();
    assert_eq!(
        due.decode(&more),
        Err(expected),
        "{name}, with more behind it"
    );
    assert_eq!(expected.answer(), [40, kind, 0, 0], "{name}");
    assert!(!expected.to_string().is_empty());
}

/// `open` and `offer` alike.
fn check_layers(name: &str, body: &[u8], fault: MessageFault) {
    check(name, Due::Open, &message(10, 0, body), fault);
    check(name, Due::Offer, &message(11, 0, body), fault);
}

#[test]
fn headers_that_are_none() {
    use MessageFault::{ArgumentWithBody, BodyTooLong, UnknownKind};

    for due in Due::ALL {
        for kind in [0, 1, 3, 5, 9, 13, 20, 40, 255] {
            check("unknown kind", due, &[kind], UnknownKind);
        }
    }
    for (due, kind) in [
        (Due::Hello, 2),
        (Due::Hello, 4),
        (Due::Open, 10),
        (Due::Offer, 11),
        (Due::LateInner, 12),
    ] {
        for (length, body_bytes) in [([4, 1], 1025), ([255, 255], 65535)] {
            let wire = [&[kind, 0], &length[..]].concat();
            check("body too long", due, &wire, BodyTooLong { body_bytes });
            let wire = [&[kind, 7], &length[..]].concat();
            check(
                "body too long, argument",
                due,
                &wire,
                BodyTooLong { body_bytes },
            );
        }
        let longest = [kind, 0, 4, 0];
        let more_bytes_min = BODY_BYTES_MAX;
        let partial = due.decode(&longest);
        assert_eq!(partial, Ok(Progress::Partial { more_bytes_min }));
        for argument in [1, 255] {
            let wire = [kind, argument, 0, 1];
            check(
                "argument with body",
                due,
                &wire,
                ArgumentWithBody { argument },
            );
        }
    }
}

#[test]
fn messages_of_another_place() {
    for due in Due::ALL {
        for kind in [2, 4, 10, 11, 12] {
            let has_place = matches!(
                (due, kind),
                (Due::Hello, 2 | 4) | (Due::Open, 10) | (Due::Offer, 11) | (Due::LateInner, 12)
            );
            match has_place {
                true => {
                    let consumed = HEADER_BYTES;
                    let complete = Progress::Complete {
                        value: (),
                        consumed,
                    };
                    assert_eq!(due.decode(&[kind, 9, 0, 0]), Ok(complete));
                }
                false => check("not here", due, &[kind], MessageFault::NotHere),
            }
        }
    }
}

#[test]
fn hellos_that_are_none() {
    use MessageFault::{Id, Key, Overrun, TwoKeys};

    let longest_key = [b"\x01a\x01\x03\xbc".to_vec(), vec![b'k'; 956]].concat();
    for kind in [2, 4] {
        for (name, body, fault) in [
            ("empty id", &b"\0"[..], Id(WireIdError::Length(0))),
            (
                "empty id before a key",
                b"\0\x01\0\x02k1",
                Id(WireIdError::Length(0)),
            ),
            ("id goes beyond the body", b"\x05home", Overrun),
            ("id with a space", b"\x05my pc", Id(WireIdError::Letters)),
            ("id with a zero", b"\x02a\0", Id(WireIdError::Letters)),
            ("tag alone", b"\x04home\x01", Overrun),
            ("half a length", b"\x04home\x01\0", Overrun),
            (
                "value goes beyond the body",
                b"\x04home\x01\0\x03k1",
                Overrun,
            ),
            (
                "unknown value goes beyond the body",
                b"\x04home\x07\xff\xff",
                Overrun,
            ),
            ("byte behind the key", b"\x04home\x01\0\x02k1\x02", Overrun),
            ("two keys", b"\x04home\x01\0\x02k1\x01\0\x02k2", TwoKeys),
            (
                "the same key twice",
                b"\x04home\x01\0\x02k1\x09\0\0\x01\0\x02k1",
                TwoKeys,
            ),
            (
                "empty key",
                b"\x04home\x01\0\0",
                Key(ShownKeyError::Length(0)),
            ),
            (
                "key that is no text",
                b"\x04home\x01\0\x02k\xff",
                Key(ShownKeyError::NotText),
            ),
        ] {
            check(name, Due::Hello, &message(kind, 0, body), fault);
        }
        let long_id = [vec![65], vec![b'a'; 65]].concat();
        let fault = Id(WireIdError::Length(65));
        check("long id", Due::Hello, &message(kind, 0, &long_id), fault);

        let whole = message(kind, 0, &longest_key);
        assert!(Hello::decode(&whole).is_ok());
        let mut long_key = longest_key.clone();
        long_key[4] += 1;
        long_key.push(b'k');
        let fault = Key(ShownKeyError::Length(957));
        check("long key", Due::Hello, &message(kind, 0, &long_key), fault);
    }
}

#[test]
fn opens_and_offers_that_are_none() {
    use MessageFault::{ArgumentWithBody, Id, NotInner, Overrun, Target, Trailing};

    let with = |inner: &[u8]| [b"\x04home", inner].concat();
    let inner_of = |body: &[u8]| with(&message(12, 0, body));
    for (name, body, fault) in [
        (
            "empty id",
            [b"\0", &inner()[..]].concat(),
            Id(WireIdError::Length(0)),
        ),
        (
            "id with a slash",
            [b"\x03a/b", &inner()[..]].concat(),
            Id(WireIdError::Letters),
        ),
        ("id goes beyond the body", b"\x05home".to_vec(), Overrun),
        ("id alone", with(b""), Overrun),
        ("half a header", with(b"\x0c\0\0"), Overrun),
        (
            "no inner message",
            with(&message(11, 0, b"\xc7\x38\x0222")),
            NotInner,
        ),
        (
            "open within",
            with(&message(10, 0, b"\xc7\x38\x0222")),
            NotInner,
        ),
        ("legacy within", with(&[12, 22, 0, 0]), NotInner),
        ("nothing within", with(&[12, 0, 0, 0]), NotInner),
        (
            "argument within",
            with(&message(12, 1, b"\xc7\x38\x0222")),
            ArgumentWithBody { argument: 1 },
        ),
        ("inner is cut", with(&inner()[..8]), Overrun),
        (
            "inner says too much",
            with(b"\x0c\0\xff\xff\xc7\x38\x0222"),
            Overrun,
        ),
        (
            "one byte behind",
            with(&[&inner()[..], b"x"].concat()),
            Trailing { bytes: 1 },
        ),
        (
            "two inner messages",
            with(&[inner(), inner()].concat()),
            Trailing { bytes: 9 },
        ),
        ("half a port", inner_of(b"\xc7"), Overrun),
        ("port alone", inner_of(b"\xc7\x38"), Overrun),
        (
            "empty target",
            inner_of(b"\xc7\x38\0"),
            Target(WireIdError::Length(0)),
        ),
        ("target goes beyond", inner_of(b"\xc7\x38\x0322"), Overrun),
        (
            "target with a colon",
            inner_of(b"\xc7\x38\x04a:22"),
            Target(WireIdError::Letters),
        ),
        (
            "byte behind the target",
            inner_of(b"\xc7\x38\x0222x"),
            Trailing { bytes: 1 },
        ),
    ] {
        check_layers(name, &body, fault);
    }
    let long = [vec![65], vec![b'a'; 65]].concat();
    let fault = Id(WireIdError::Length(65));
    check_layers("long id", &[&long[..], &inner()].concat(), fault);
    let fault = Target(WireIdError::Length(65));
    check_layers(
        "long target",
        &inner_of(&[b"\xc7\x38", &long[..]].concat()),
        fault,
    );
}

#[test]
fn late_inner_messages_that_are_none() {
    use MessageFault::{Overrun, Target, Trailing};

    for (name, body, fault) in [
        ("half a port", &b"\xc7"[..], Overrun),
        ("port alone", b"\xc7\x38", Overrun),
        (
            "empty target",
            b"\xc7\x38\0",
            Target(WireIdError::Length(0)),
        ),
        ("target goes beyond", b"\xc7\x38\x0322", Overrun),
        (
            "target with a zero",
            b"\xc7\x38\x02a\0",
            Target(WireIdError::Letters),
        ),
        ("byte behind", b"\xc7\x38\x0222x", Trailing { bytes: 1 }),
    ] {
        check(name, Due::LateInner, &message(12, 0, body), fault);
    }
}
