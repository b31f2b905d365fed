//! `ptth_quic`: each message and each answer, and the reader of the start of a stream.

use std::fmt::Debug;

use midspan::protocol::Progress;
use midspan::protocol::ptth_quic::{
    ANSWER_BYTES_MAX, Answer, BODY_BYTES_MAX, Form, Hello, LateInner, MESSAGE_BYTES_MAX,
    MessageError, Offer, Open, Question, Role, TipReader, WireId,
};

use super::prefixes;

const QUESTIONS: [Question; 7] = [
    Question::Hello(Role::ClientSide),
    Question::Hello(Role::ServerSide),
    Question::Open(Form::Layered),
    Question::Open(Form::Legacy),
    Question::Offer(Form::Layered),
    Question::Offer(Form::Legacy),
    Question::Inner,
];

pub(crate) fn run(data: &[u8]) {
    check(data);
    for kind in [2, 4, 10, 11, 12] {
        check(&message(kind, data));
    }
}

/// The message of this kind with this body, so that the fuzzer need not find its length.
fn message(kind: u8, data: &[u8]) -> Vec<u8> {
    let body = &data[..data.len().min(BODY_BYTES_MAX)];
    let length = u16::try_from(body.len()).expect("below the limit");
    [&[kind, 0], &length.to_be_bytes()[..], body].concat()
}

fn check(data: &[u8]) {
    if let Some((hello, consumed)) = check_message(data, Hello::decode) {
        let mut encoded = Vec::new();
        hello.encode(&mut encoded);
        // What is not for us is not passed on.
        assert!(encoded.len() <= consumed);
        let consumed = encoded.len();
        let value = hello;
        let again = Hello::decode(&encoded);
        assert_eq!(again, Ok(Progress::Complete { value, consumed }));
    }
    if let Some((open, consumed)) = check_message(data, Open::decode) {
        let mut encoded = Vec::new();
        open.encode(&mut encoded);
        assert_eq!(encoded, data[..consumed]);
        check_offer_of(&open);
    }
    if let Some((offer, consumed)) = check_message(data, Offer::decode) {
        let mut encoded = Vec::new();
        offer.encode(&mut encoded);
        assert_eq!(encoded, data[..consumed]);
    }
    if let Some((inner, consumed)) = check_message(data, LateInner::decode) {
        let mut encoded = Vec::new();
        inner.encode(&mut encoded);
        assert_eq!(encoded, data[..consumed]);
    }
    for question in QUESTIONS {
        let decode = |bytes: &[u8]| Answer::decode(bytes, question);
        let decoded = prefixes::check(data, decode);
        assert_eq!(in_pieces(data, decode), decoded);
        if let Ok(Progress::Complete { value, consumed }) = decoded {
            assert!(consumed <= ANSWER_BYTES_MAX);
            let mut encoded = Vec::new();
            value.encode(question, &mut encoded);
            let consumed = encoded.len();
            let complete = Ok(Progress::Complete { value, consumed });
            assert_eq!(decode(&encoded), complete);
        }
    }
}

/// The value and its length, if these bytes are one; and if not, the answer to them is one.
fn check_message<T: Debug + PartialEq>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<Progress<T>, MessageError>,
) -> Option<(T, usize)> {
    let decoded = prefixes::check(data, &decode);
    assert_eq!(in_pieces(data, &decode), decoded);
    match decoded {
        Ok(Progress::Complete { value, consumed }) => {
            assert!(consumed <= MESSAGE_BYTES_MAX);
            Some((value, consumed))
        }
        Ok(Progress::Partial { .. }) => None,
        Err(error) => {
            assert_eq!(error.kind, data[0]);
            let answer = error.answer();
            for question in QUESTIONS {
                if let Ok(progress) = Answer::decode(&answer, question) {
                    let refused = matches!(progress, Progress::Complete { value, consumed: 4 }
                        if value.verdict().is_err());
                    assert!(refused, "{progress:?}");
                }
            }
            None
        }
    }
}

/// What a reader makes of them that gets one byte at a time.
fn in_pieces<T, E>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<Progress<T>, E>,
) -> Result<Progress<T>, E> {
    let mut reader = TipReader::new();
    let mut progress = reader.receive(&[], &decode)?;
    for (at, byte) in data.iter().enumerate() {
        progress = match reader.receive(&[*byte], &decode)? {
            Progress::Complete { value, consumed } => {
                let consumed = at + consumed;
                return Ok(Progress::Complete { value, consumed });
            }
            partial => partial,
        };
    }
    Ok(progress)
}

/// The server-side proxy is told what the client-side proxy has said.
fn check_offer_of(open: &Open) {
    let client = "alice".parse().expect("a name");
    let offer = open.to_offer(&client, Some(42));
    match (open, &offer) {
        (
            Open::Layered { inner, .. },
            Offer::Layered {
                client: told,
                inner: passed_on,
            },
        ) => {
            assert_eq!((told, passed_on), (&WireId::from(&client), inner));
        }
        (Open::Legacy { .. }, Offer::Legacy { client: 42 }) => {}
        other => panic!("{other:?}"),
    }
}
