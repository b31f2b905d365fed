//! The body of a request that we sent, for whoever has it to come from a connection of its
//! own.

use super::http_body::AnswerBody;
use super::{CodecError, Heard};
use crate::protocol::Progress;
use crate::protocol::http_head::{HEADERS_MAX, HeadPolicy, HeaderSlots, ResponseHead};

/// The statuses of a request that was done: RFC 9110 §15.3.
const SUCCESS_STATUSES: std::ops::RangeInclusive<u16> = 200..=299;

/// Such a body, and what has come of the answer to it.
#[derive(Debug)]
pub struct SentBody {
    pub(super) chunks: AnswerBody,
    answer: Vec<u8>,
    is_answered: bool,
}

impl SentBody {
    pub(super) const fn new() -> Self {
        Self {
            chunks: AnswerBody::in_chunks(),
            answer: Vec::new(),
            is_answered: false,
        }
    }

    pub(super) const fn heard(&self) -> Heard {
        match self.is_answered {
            true => Heard::Ended,
            false => Heard::Open,
        }
    }

    /// Takes what came of the answer. Nothing but its head matters, and the connection ends
    /// with it.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), CodecError> {
        if self.is_answered {
            return Ok(());
        }
        self.answer.extend_from_slice(bytes);
        let interim = ResponseHead::interim_bytes(&self.answer, HeadPolicy::HTTP)?;
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        let rest = &self.answer[interim..];
        let head = ResponseHead::decode(rest, HeadPolicy::HTTP, &mut slots)?;
        let Progress::Complete { value, .. } = head else {
            return Ok(());
        };
        match value.status {
            status if !SUCCESS_STATUSES.contains(&status) => Err(CodecError::Refused { status }),
            // Whoever has read all of a body knows where it ends.
            _ if !self.chunks.is_over => Err(CodecError::Unasked),
            _ => {
                self.is_answered = true;
                self.answer = Vec::new();
                Ok(())
            }
        }
    }
}
