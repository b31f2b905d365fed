//! The tip of a stream, read in pieces: one message, and nothing behind it.

use std::fmt;

use super::header::MESSAGE_BYTES_MAX;
use crate::protocol::Progress;

/// Gathers the pieces of one message, or of several in a row.
///
/// It remembers [`MESSAGE_BYTES_MAX`] bytes at most: all that decoders of this protocol ever ask
/// for. Whoever reads no more from a stream than the last [`Progress::Partial`] says is missing
/// never reads beyond the message; whoever reads more has the rest, the leg's prefix, in its
/// hands.
#[derive(Clone, Default)]
pub struct TipReader {
    /// INVARIANT: the start of one message, and at most [`MESSAGE_BYTES_MAX`] bytes.
    kept: Vec<u8>,
}

impl TipReader {
    /// A reader that has read nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { kept: Vec::new() }
    }

    /// Bytes have come, for a message that `decode` decodes, such as [`super::Hello::decode`].
    ///
    /// Of a partial one all bytes were taken. Of a complete one `consumed` were, and what follows
    /// them among `bytes` is not ours; the reader is new again.
    ///
    /// # Errors
    ///
    /// Those of `decode`: the stream is at its end.
    pub fn receive<T, E>(
        &mut self,
        bytes: &[u8],
        decode: impl Fn(&[u8]) -> Result<Progress<T>, E>,
    ) -> Result<Progress<T>, E> {
        if self.kept.is_empty() {
            let progress = decode(bytes)?;
            if matches!(progress, Progress::Partial { .. }) {
                self.keep(bytes);
            }
            return Ok(progress);
        }
        let mut consumed = 0;
        loop {
            let more_bytes_min = match decode(&self.kept)? {
                Progress::Complete { value, .. } => {
                    self.kept.clear();
                    return Ok(Progress::Complete { value, consumed });
                }
                Progress::Partial { more_bytes_min } => more_bytes_min,
            };
            let rest = &bytes[consumed..];
            if rest.is_empty() {
                return Ok(Progress::Partial { more_bytes_min });
            }
            // No more than is missing: so what is kept never goes beyond the message.
            let taken = &rest[..rest.len().min(more_bytes_min)];
            self.keep(taken);
            consumed += taken.len();
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        debug_assert!(self.kept.len() <= MESSAGE_BYTES_MAX, "{}", self.kept.len());
    }
}

/// What is kept may be a part of a key.
impl fmt::Debug for TipReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TipReader")
            .field("kept_bytes", &self.kept.len())
            .finish()
    }
}
