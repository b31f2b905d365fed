//! Why bytes are no message.

use thiserror::Error;

use super::code::Refusal;
use super::header::{BODY_BYTES_MAX, HEADER_BYTES};
use super::hello::ShownKeyError;
use super::id::WireIdError;

/// Why what stands at the start of a stream is no message that is due there, whatever may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("message {kind}: {fault}")]
pub struct MessageError {
    /// Its first byte.
    pub kind: u8,
    /// What is wrong with it.
    pub fault: MessageFault,
}

/// What is wrong with a message. Each of them is answered 40, and the stream is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageFault {
    /// Nobody knows this kind.
    #[error("there is no such kind")]
    UnknownKind,
    /// A message of another stream, or of somebody else: whoever sends it is broken, and its
    /// connection is to be closed with [`super::CloseCode::Protocol`].
    #[error("it has no place here")]
    NotHere,
    /// More than any message needs.
    #[error("body of {body_bytes} bytes exceeds {BODY_BYTES_MAX}")]
    BodyTooLong {
        /// What it says that follows.
        body_bytes: usize,
    },
    /// A number of the legacy form, and a body.
    #[error("argument {argument} beside a body")]
    ArgumentWithBody {
        /// The number.
        argument: u8,
    },
    /// A field says that it has more bytes than there are.
    #[error("a field goes beyond the end of the body")]
    Overrun,
    /// The name of the one who joins, is asked for, or asks.
    #[error("id: {0}")]
    Id(WireIdError),
    /// The name of what is asked for at the server-side proxy.
    #[error("target: {0}")]
    Target(WireIdError),
    /// What stands in the body is no inner message, or one of the legacy form.
    #[error("no layered inner message in the body")]
    NotInner,
    /// There is more than one inner message.
    #[error("{bytes} bytes behind the inner message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A key that nobody can have.
    #[error(transparent)]
    Key(ShownKeyError),
    /// Which of them is meant?
    #[error("two keys")]
    TwoKeys,
}

impl MessageError {
    /// What is sent before the stream is finished.
    #[must_use]
    pub const fn answer(&self) -> [u8; HEADER_BYTES] {
        [Refusal::Malformed.status(), self.kind, 0, 0]
    }
}
