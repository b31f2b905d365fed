//! Application bytes in a work buffer.

use std::ops::Range;

use crate::protocol::websocket::{HEADER_BYTES_MAX, Kind};

/// Room to leave in a work buffer before bytes that are not decoded, so that a
/// header fits.
pub(super) const ROOM_BYTES: usize = 16;

const _: () = assert!(ROOM_BYTES >= HEADER_BYTES_MAX);

/// A piece of a message, by its place in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Where it lies.
    pub(super) range: Range<usize>,
    /// Of the whole message.
    pub(super) kind: Kind,
    /// Nothing of the message came before.
    pub(super) is_first: bool,
    /// The message ends with it.
    pub(super) is_last: bool,
}

impl Chunk {
    /// Bytes of a leg that has no messages: a message by themselves.
    #[must_use]
    pub(super) const fn plain(range: Range<usize>) -> Self {
        Self {
            range,
            kind: Kind::Binary,
            is_first: true,
            is_last: true,
        }
    }
}
