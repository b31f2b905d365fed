//! One HTTP/1.1 message head, from the start line to the empty line: RFC 9112
//! §2 to §5. The tokens are found by `httparse`; limits, the line-ending
//! policy and the lookup of headers are ours.
//!
//! Nothing is copied: a head borrows the bytes that it was decoded from, and
//! the caller lends the slots for its headers, so that decoding needs no heap.
//!
//! [`RequestHead::body`] and [`ResponseHead::body`] tell where the body ends that
//! follows, and a [`BodyReader`] follows it there. Obsolete line folding is refused.
//!
//! Left out: what is in a body.
//!
//! Decoding begins at the first byte each time. Who expects a head of many
//! kilobytes in small pieces should wait for an empty line before asking.

mod answer;
mod body_reader;
mod framing;
mod request;
mod response;

use std::fmt;
use std::mem::MaybeUninit;

use memchr::memchr_iter;
use thiserror::Error;

use crate::protocol::Progress;

pub use answer::{Answer, Persistence};
pub use body_reader::{BodyPart, BodyReader, ChunkError};
pub use framing::{Body, FramingError};
pub use request::RequestHead;
pub use response::ResponseHead;

/// The most bytes of one head, unless the caller asks for fewer.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The most headers of one head, unless the caller lends fewer slots.
pub const HEADERS_MAX: usize = 64;

/// What the caller allows a head to be. The number of headers is limited by
/// the [`HeaderSlots`] that it lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadPolicy {
    /// The most bytes from the start line to the empty line, both included.
    pub bytes_max: usize,
    /// What may end a line.
    pub line_ending: LineEnding,
}

impl HeadPolicy {
    /// HTTP proper: [`HEAD_BYTES_MAX`] and nothing but CRLF.
    pub const HTTP: Self = Self {
        bytes_max: HEAD_BYTES_MAX,
        line_ending: LineEnding::CrLf,
    };
}

/// What may end a line of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnding {
    /// CRLF alone. RFC 9112 §2.2 lets a recipient take a bare LF as well, but
    /// where a proxy in front of us disagrees that is a way to smuggle
    /// requests, so HTTP proper is decoded with this.
    CrLf,
    /// CRLF or a bare LF, line by line: for heads inside an envelope that no
    /// proxy reads, such as a JET packet.
    CrLfOrLf,
}

/// The version in the start line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// `HTTP/1.0`.
    Http10,
    /// `HTTP/1.1`.
    Http11,
}

/// Why bytes are not a head, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// The grammar of RFC 9112 is broken.
    #[error("malformed http head: {0}")]
    Malformed(httparse::Error),
    /// A line ends in LF without CR where [`LineEnding::CrLf`] holds.
    #[error("line {line} of the http head ends in a bare line feed")]
    BareLineFeed {
        /// Counted from 1.
        line: usize,
    },
    /// The empty line did not come within the limit.
    #[error("http head exceeds {limit_bytes} bytes")]
    TooLong {
        /// The limit of the caller's [`HeadPolicy`].
        limit_bytes: usize,
    },
    /// More headers than slots.
    #[error("http head exceeds {limit} headers")]
    TooManyHeaders {
        /// The number of slots that the caller lent.
        limit: usize,
    },
}

/// Room for the headers of one head, lent by the caller.
pub struct HeaderSlots<'bytes, const N: usize = HEADERS_MAX> {
    slots: [MaybeUninit<httparse::Header<'bytes>>; N],
}

impl<const N: usize> HeaderSlots<'_, N> {
    /// Room for `N` headers. Costs nothing but stack.
    pub const fn new() -> Self {
        Self {
            slots: [const { MaybeUninit::uninit() }; N],
        }
    }
}

impl<const N: usize> Default for HeaderSlots<'_, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Debug for HeaderSlots<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderSlots").field("len", &N).finish()
    }
}

/// A header that has to be the only one of its name is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a header came twice that may come once")]
pub struct CameTwice;

/// The headers of one head, in the order in which they came.
#[derive(Clone, Copy)]
pub struct Headers<'slots, 'bytes> {
    headers: &'slots [httparse::Header<'bytes>],
}

impl<'slots, 'bytes> Headers<'slots, 'bytes> {
    /// Every header as name and value, duplicates included. Names are as they
    /// came; values are without white space around them and need not be UTF-8.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'bytes str, &'bytes [u8])> + 'slots {
        self.headers
            .iter()
            .map(|header| (header.name, header.value))
    }

    /// The value of the first header of this name, in whatever case. Where
    /// a second one matters, use [`Headers::find_only`].
    pub fn find(&self, name: &str) -> Option<&'bytes [u8]> {
        self.values(name).next()
    }

    fn values<'name>(
        &self,
        name: &'name str,
    ) -> impl Iterator<Item = &'bytes [u8]> + use<'slots, 'bytes, 'name> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// The value of the one header of this name, in whatever case.
    ///
    /// # Errors
    /// If there are several: they could be read in more than one way.
    pub fn find_only(&self, name: &str) -> Result<Option<&'bytes [u8]>, CameTwice> {
        let mut found = self.values(name);
        let first = found.next();
        match found.next() {
            None => Ok(first),
            Some(_) => Err(CameTwice),
        }
    }

    /// The members of a list that may be spread over several headers of this name,
    /// without empty ones: RFC 9110 §5.6.1. A value that is not UTF-8 has none.
    pub fn tokens<'name>(
        &self,
        name: &'name str,
    ) -> impl Iterator<Item = &'bytes str> + use<'slots, 'bytes, 'name> {
        self.values(name)
            .filter_map(|value| str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(|member| member.trim_matches([' ', '\t']))
            .filter(|member| !member.is_empty())
    }

    /// Whether such a list has this member, in whatever case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name)
            .any(|member| member.eq_ignore_ascii_case(token))
    }

    /// How many headers came.
    pub fn len(&self) -> usize {
        self.headers.len()
    }

    /// True if none came.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }
}

/// Names only: values may be credentials.
impl fmt::Debug for Headers<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(name, _)| name))
            .finish()
    }
}

impl HttpVersion {
    /// From the minor version that `httparse` reports: 0 or 1.
    fn from_minor(minor: Option<u8>) -> Self {
        match minor {
            Some(0) => Self::Http10,
            _ => Self::Http11,
        }
    }
}

/// Where the policy lets the tokenizer look, and what it means if the head
/// does not end there.
struct Window<'bytes> {
    bytes: &'bytes [u8],
    beyond: Beyond,
}

enum Beyond {
    /// All that came: the rest may still arrive.
    NotArrived,
    Refused(HeadError),
}

impl<'bytes> Window<'bytes> {
    fn new(bytes: &'bytes [u8], policy: HeadPolicy) -> Self {
        let (allowed, beyond) = match bytes.get(..policy.bytes_max) {
            Some(allowed) => (
                allowed,
                Beyond::Refused(HeadError::TooLong {
                    limit_bytes: policy.bytes_max,
                }),
            ),
            None => (bytes, Beyond::NotArrived),
        };
        if policy.line_ending == LineEnding::CrLfOrLf {
            return Self {
                bytes: allowed,
                beyond,
            };
        }
        // The tokenizer takes a bare LF for a line ending, so it sees nothing
        // from the first one on. One that follows the head, in a body, is no
        // concern of ours, and is out of its sight too.
        let bare = memchr_iter(b'\n', allowed)
            .enumerate()
            .find(|&(_, at)| at == 0 || allowed[at - 1] != b'\r');
        match bare {
            Some((index, at)) => Self {
                bytes: &allowed[..at],
                beyond: Beyond::Refused(HeadError::BareLineFeed { line: index + 1 }),
            },
            None => Self {
                bytes: allowed,
                beyond,
            },
        }
    }

    /// Turns the tokenizer's answer into ours. `headers_max` is the number of
    /// slots that it had.
    fn judge<T>(
        self,
        status: httparse::Result<usize>,
        headers_max: usize,
        head: impl FnOnce() -> T,
    ) -> Result<Progress<T>, HeadError> {
        match status {
            Ok(httparse::Status::Complete(consumed)) => Ok(Progress::Complete {
                value: head(),
                consumed,
            }),
            Ok(httparse::Status::Partial) => match self.beyond {
                Beyond::NotArrived => Ok(Progress::Partial { more_bytes_min: 1 }),
                Beyond::Refused(error) => Err(error),
            },
            Err(httparse::Error::TooManyHeaders) => {
                Err(HeadError::TooManyHeaders { limit: headers_max })
            }
            Err(error) => Err(HeadError::Malformed(error)),
        }
    }
}
