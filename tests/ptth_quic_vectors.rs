//! What proxies and relay say to each other over QUIC, as it was written down:
//! `tests/vectors/ptth_quic/`.

use std::fmt::Debug;

use midspan::protocol::Progress;
use midspan::protocol::ptth_quic::{
    Answer, Form, Hello, Inner, LateInner, Offer, Open, Question, Refusal, Role, Who,
};

const VECTORS: &str = include_str!("vectors/ptth_quic/vectors.tsv");

/// What a vector means.
enum Meaning {
    Hello(Hello),
    Open(Open),
    Offer(Offer),
    LateInner(LateInner),
    Answer(Question, Answer),
}

const CLIENT: Question = Question::Hello(Role::ClientSide);
const SERVER: Question = Question::Hello(Role::ServerSide);
const OPEN: Question = Question::Open(Form::Layered);
const OFFER: Question = Question::Offer(Form::Layered);

fn meaning(name: &str) -> Meaning {
    let legacy_hello = |role, number| {
        Meaning::Hello(Hello {
            role,
            who: Who::Legacy { number },
        })
    };
    let hello = |role, id: &str, key: Option<&str>| {
        Meaning::Hello(Hello {
            role,
            who: Who::Layered {
                id: id.parse().expect("an id"),
                key: key.map(|key| key.parse().expect("a key")),
            },
        })
    };
    let inner = |target: &str| Inner {
        client_port: 51000,
        target: target.parse().expect("an id"),
    };
    let accepted = |question| Meaning::Answer(question, Answer::Accepted);
    let refused = |question, why| Meaning::Answer(question, Answer::Refused(why));
    let inner_refused = |question, why| Meaning::Answer(question, Answer::InnerRefused(why));
    match name {
        "legacy_client_hello" => legacy_hello(Role::ClientSide, 42),
        "legacy_client_hello_accepted" => accepted(CLIENT),
        "legacy_server_hello" => legacy_hello(Role::ServerSide, 43),
        "legacy_server_hello_accepted" => accepted(SERVER),
        "legacy_open" => Meaning::Open(Open::Legacy { server: 43 }),
        "legacy_open_accepted" => accepted(Question::Open(Form::Legacy)),
        "legacy_offer" => Meaning::Offer(Offer::Legacy { client: 42 }),
        "legacy_offer_accepted" => accepted(Question::Offer(Form::Legacy)),
        "legacy_inner" => Meaning::LateInner(LateInner::Legacy { target: 22 }),
        "legacy_inner_accepted" => accepted(Question::Inner),
        "client_hello" => hello(Role::ClientSide, "alice", None),
        "client_hello_with_key" => hello(Role::ClientSide, "alice", Some("mk_secret")),
        "server_hello_with_key" => hello(Role::ServerSide, "home", Some("mk_secret")),
        "hello_refused" => refused(CLIENT, Refusal::Unauthenticated),
        "open" => Meaning::Open(Open::Layered {
            server: "home".parse().expect("an id"),
            inner: inner("22"),
        }),
        "open_accepted" => accepted(OPEN),
        "open_forbidden" => refused(OPEN, Refusal::Forbidden),
        "open_not_connected" => refused(OPEN, Refusal::NotConnected),
        "offer" => Meaning::Offer(Offer::Layered {
            client: "alice".parse().expect("an id"),
            inner: inner("22"),
        }),
        "offer_accepted" => accepted(OFFER),
        "offer_refused" => refused(OFFER, Refusal::TargetRefused),
        "offer_inner_refused" => inner_refused(OFFER, Refusal::TargetRefused),
        "open_inner_refused" => inner_refused(OPEN, Refusal::TargetRefused),
        "inner_alone" => Meaning::LateInner(LateInner::Layered(inner("ssh"))),
        "inner_alone_timed_out" => refused(Question::Inner, Refusal::TimedOut),
        _ => panic!("{name} has no meaning"),
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.replace(' ', "");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex"))
        .collect()
}

/// These bytes are that, and are written for it.
fn check<T: Debug + PartialEq, E: Debug + PartialEq>(
    name: &str,
    wire: &[u8],
    value: T,
    encode: impl Fn(&T, &mut Vec<u8>),
    decode: impl Fn(&[u8]) -> Result<Progress<T>, E>,
) {
    let mut encoded = Vec::new();
    encode(&value, &mut encoded);
    assert_eq!(encoded, wire, "{name}");
    for cut in 0..wire.len() {
        let partial = decode(&wire[..cut]);
        let is_partial = matches!(partial, Ok(Progress::Partial { .. }));
        assert!(is_partial, "{name} cut at {cut}: {partial:?}");
    }
    let consumed = wire.len();
    let more = [wire, b"payload"].concat();
    let complete = Ok(Progress::Complete { value, consumed });
    assert_eq!(decode(&more), complete, "{name}");
}

#[test]
fn messages_are_read_and_written_as_they_were_written_down() {
    let mut count = 0;
    for line in VECTORS.lines() {
        let (name, wire) = line.split_once('\t').expect("two columns");
        let wire = hex(wire);
        match meaning(name) {
            Meaning::Hello(value) => check(name, &wire, value, Hello::encode, Hello::decode),
            Meaning::Open(value) => check(name, &wire, value, Open::encode, Open::decode),
            Meaning::Offer(value) => check(name, &wire, value, Offer::encode, Offer::decode),
            Meaning::LateInner(value) => {
                check(name, &wire, value, LateInner::encode, LateInner::decode);
            }
            Meaning::Answer(to, value) => check(
                name,
                &wire,
                value,
                |answer, out| answer.encode(to, out),
                |bytes| Answer::decode(bytes, to),
            ),
        }
        count += 1;
    }
    assert_eq!(count, 25);
}
