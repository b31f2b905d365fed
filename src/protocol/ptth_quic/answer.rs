//! What messages are answered: `[status, kind that is answered, length, length]`.
//!
//! The answer to a layered `open` or `offer` has the answer to the inner message as its body, so
//! that one says all. Every other answer has no body.

use thiserror::Error;

use super::code::{OK, Refusal};
use super::header::{self, HEADER_BYTES, Header, Kind};
use super::hello::Role;
use crate::protocol::Progress;

/// The longest answer: one within another.
pub const ANSWER_BYTES_MAX: usize = 2 * HEADER_BYTES;

/// What an answer answers, which decides how it looks: of a decoded or encoded message its
/// `question`, and [`Question::Inner`] of a [`super::LateInner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A hello.
    Hello(Role),
    /// An `open`.
    Open(Form),
    /// An `offer`.
    Offer(Form),
    /// An inner message that stood alone.
    Inner,
}

/// In which form something was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With names, and the inner message within.
    Layered,
    /// With a number.
    Legacy,
}

/// An answer. What came from the server-side proxy is encoded as it is for the client-side proxy,
/// to the other question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done; the inner message, if one was within, has been accepted too.
    Accepted,
    /// It is not: finish the stream behind this, and stop its other direction with the same code.
    Refused(Refusal),
    /// The message would have been, the inner one was not. To whoever asks it is all the same.
    InnerRefused(Refusal),
}

/// Why bytes are no answer to what was asked, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// It answers something else.
    #[error("an answer to message {answered}, not to {asked}")]
    OtherQuestion {
        /// To what.
        answered: u8,
        /// What was asked.
        asked: u8,
    },
    /// Its body is not one that this answer can have.
    #[error("a body of {body_bytes} bytes is no answer's")]
    Body {
        /// What it says that follows.
        body_bytes: u16,
    },
    /// The body is no answer to an inner message.
    #[error("the body is no answer to the inner message")]
    NotInner,
    /// All was granted except what was asked for.
    #[error("no answer to the inner message")]
    NoInner,
}

impl Question {
    const fn kind(self) -> Kind {
        match self {
            Self::Hello(role) => role.kind(),
            Self::Open(_) => Kind::Open,
            Self::Offer(_) => Kind::Offer,
            Self::Inner => Kind::Inner,
        }
    }

    const fn is_layered(self) -> bool {
        matches!(self, Self::Open(Form::Layered) | Self::Offer(Form::Layered))
    }
}

impl Answer {
    /// Whether it is granted, and if not, why.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub const fn verdict(self) -> Result<(), Refusal> {
        match self {
            Self::Accepted => Ok(()),
            Self::Refused(refusal) | Self::InnerRefused(refusal) => Err(refusal),
        }
    }

    /// Decodes the answer to this question at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8], to: Question) -> Result<Progress<Self>, AnswerError> {
        let header = match Header::decode(bytes) {
            Progress::Complete { value, .. } => value,
            Progress::Partial { more_bytes_min } => {
                return Ok(Progress::Partial { more_bytes_min });
            }
        };
        let (answered, asked) = (header.second, to.kind().byte());
        if answered != asked {
            return Err(AnswerError::OtherQuestion { answered, asked });
        }
        let body_bytes = header.body_bytes;
        let consumed = HEADER_BYTES + usize::from(body_bytes);
        let inner = match usize::from(body_bytes) {
            0 => None,
            HEADER_BYTES if to.is_layered() => match Header::decode(&bytes[HEADER_BYTES..]) {
                Progress::Complete { value, .. } => Some(value),
                Progress::Partial { more_bytes_min } => {
                    return Ok(Progress::Partial { more_bytes_min });
                }
            },
            _ => return Err(AnswerError::Body { body_bytes }),
        };
        if let Some(inner) = inner
            && (inner.second != Kind::Inner.byte() || inner.body_bytes != 0)
        {
            return Err(AnswerError::NotInner);
        }
        let value = match (header.first, inner.map(|inner| inner.first)) {
            (OK, None) if to.is_layered() => return Err(AnswerError::NoInner),
            (OK, None | Some(OK)) => Self::Accepted,
            (status, None | Some(OK)) => Self::Refused(Refusal::from_status(status)),
            (_, Some(status)) => Self::InnerRefused(Refusal::from_status(status)),
        };
        Ok(Progress::Complete { value, consumed })
    }

    /// Appends it as the answer to this question.
    pub fn encode(self, to: Question, out: &mut Vec<u8>) {
        let status = match self {
            Self::Accepted => OK,
            Self::Refused(refusal) | Self::InnerRefused(refusal) => refusal.status(),
        };
        let answered = to.kind().byte();
        match to.is_layered() && !matches!(self, Self::Refused(_)) {
            true => header::encode(status, answered, out, |out| {
                header::encode_bare(status, Kind::Inner.byte(), out);
            }),
            false => header::encode_bare(status, answered, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERED: Question = Question::Open(Form::Layered);
    const QUESTIONS: [Question; 7] = [
        Question::Hello(Role::ClientSide),
        Question::Hello(Role::ServerSide),
        Question::Open(Form::Legacy),
        Question::Offer(Form::Legacy),
        Question::Inner,
        LAYERED,
        Question::Offer(Form::Layered),
    ];

    /// However they are cut, these bytes with others behind them are that.
    fn check(wire: &[u8], to: Question, expected: Result<Answer, AnswerError>) {
        for cut in 0..wire.len() {
            match (Answer::decode(&wire[..cut], to), expected) {
                (Ok(Progress::Partial { more_bytes_min }), _) => {
                    assert!(more_bytes_min > 0 && cut + more_bytes_min <= wire.len());
                }
                (Err(early), Err(error)) => assert_eq!(early, error),
                (other, _) => panic!("{wire:?} cut at {cut}: {other:?}"),
            }
        }
        let consumed = wire.len();
        let more = [wire, b"payload"].concat();
        let decoded = Answer::decode(&more, to);
        let expected = expected.map(|value| Progress::Complete { value, consumed });
        assert_eq!(decoded, expected, "{wire:?}");
    }

    #[test]
    fn answers_round_trip_however_they_are_cut() {
        let refused = Refusal::ALL.into_iter();
        let refused = refused.flat_map(|one| [Answer::Refused(one), Answer::InnerRefused(one)]);
        for answer in refused.chain([Answer::Accepted]) {
            for to in QUESTIONS {
                let mut wire = Vec::new();
                answer.encode(to, &mut wire);
                assert!(wire.len() <= ANSWER_BYTES_MAX);
                let expected = match answer {
                    Answer::InnerRefused(refusal) if !to.is_layered() => Answer::Refused(refusal),
                    answer => answer,
                };
                check(&wire, to, Ok(expected));
                assert_eq!(expected.verdict(), answer.verdict());
            }
        }
    }

    #[test]
    fn whoever_refuses_it_is_refused() {
        let forbidden = Refusal::Forbidden;
        for (wire, expected) in [
            (
                [20, 10, 0, 4, 52, 12, 0, 0],
                Answer::InnerRefused(Refusal::TargetRefused),
            ),
            (
                [43, 10, 0, 4, 52, 12, 0, 0],
                Answer::InnerRefused(Refusal::TargetRefused),
            ),
            ([43, 10, 0, 4, 20, 12, 0, 0], Answer::Refused(forbidden)),
            (
                [20, 10, 0, 4, 99, 12, 0, 0],
                Answer::InnerRefused(Refusal::Internal),
            ),
        ] {
            check(&wire, LAYERED, Ok(expected));
        }
        check(&[43, 10, 0, 0], LAYERED, Ok(Answer::Refused(forbidden)));
        check(
            &[0, 10, 0, 0],
            LAYERED,
            Ok(Answer::Refused(Refusal::Internal)),
        );
    }

    #[test]
    fn what_answers_something_else_is_no_answer() {
        let other = |answered, asked| AnswerError::OtherQuestion { answered, asked };
        let body = |body_bytes| AnswerError::Body { body_bytes };
        let (hello, legacy) = (QUESTIONS[0], Question::Open(Form::Legacy));
        for (name, wire, to, expected) in [
            ("other hello", &[20, 4, 0, 0][..], hello, other(4, 2)),
            ("offer", &[20, 11, 0, 0], LAYERED, other(11, 10)),
            ("inner alone", &[20, 12, 0, 0], LAYERED, other(12, 10)),
            ("no kind", &[20, 0, 0, 0], LAYERED, other(0, 10)),
            (
                "hello with a body",
                &[20, 2, 0, 4, 20, 12, 0, 0],
                hello,
                body(4),
            ),
            (
                "legacy with a body",
                &[20, 10, 0, 4, 20, 12, 0, 0],
                legacy,
                body(4),
            ),
            ("short body", &[20, 10, 0, 3, 20, 12, 0], LAYERED, body(3)),
            (
                "long body",
                &[20, 10, 0, 5, 20, 12, 0, 0, 0],
                LAYERED,
                body(5),
            ),
            ("longest body", &[20, 10, 255, 255], LAYERED, body(u16::MAX)),
            (
                "body of another",
                &[20, 10, 0, 4, 20, 11, 0, 0],
                LAYERED,
                AnswerError::NotInner,
            ),
            (
                "body in the body",
                &[20, 10, 0, 4, 20, 12, 0, 1],
                LAYERED,
                AnswerError::NotInner,
            ),
            ("no body", &[20, 10, 0, 0], LAYERED, AnswerError::NoInner),
        ] {
            println!("{name}");
            check(wire, to, Err(expected));
        }
    }
}
