//! How far a decoder came with the bytes that it was given.

/// The answer of every decoder that found nothing wrong so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// All bytes are well-formed and the value is not complete: read on, and
    /// offer the same bytes again with what follows them.
    Partial {
        /// At least this many bytes are missing; always 1 or more. A reader
        /// that takes no more than this never reads past the value.
        more_bytes_min: usize,
    },
    /// The value, and where it ends.
    Complete {
        /// What was decoded.
        value: T,
        /// Bytes that belong to the value. What follows them is not ours.
        consumed: usize,
    },
}

impl<T> Progress<T> {
    /// Replaces the value and keeps everything else.
    pub fn map<U>(self, replace: impl FnOnce(T) -> U) -> Progress<U> {
        match self {
            Self::Partial { more_bytes_min } => Progress::Partial { more_bytes_min },
            Self::Complete { value, consumed } => Progress::Complete {
                value: replace(value),
                consumed,
            },
        }
    }
}
