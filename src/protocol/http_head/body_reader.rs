//! Follows a message's body to its end, byte by byte: RFC 9112 §6 and §7.1.
//!
//! Whoever passes a body on as it came asks how much of what came is the body's
//! ([`BodyReader::receive`]), and whoever wants what is in it asks for its parts
//! ([`BodyReader::next_part`]). Only CRLF ends a line, for the reason that
//! [`LineEnding::CrLf`](super::LineEnding::CrLf) gives.

use thiserror::Error;

use super::{Body, HEAD_BYTES_MAX};

/// The most bytes of the line before a chunk: its size, and extensions, which nobody uses.
const SIZE_LINE_BYTES_MAX: usize = 1024;

/// Knows how much of a body is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyReader {
    state: State,
    /// The size of the chunk that began last.
    chunk_bytes: u64,
}

/// What some bytes at the front are to a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPart {
    /// So many of what is in it.
    Content(usize),
    /// So many of what is around that.
    Framing(usize),
}

/// Why bytes are not chunks, whatever may follow them: RFC 9112 §7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// A size is not a hexadecimal number, or too large for one.
    #[error("the size of a chunk is not a number")]
    BadSize,
    /// A line does not end in CRLF, or a chunk not where its size says.
    #[error("a chunk does not end in CRLF")]
    BadEnd,
    /// The line before a chunk is too long.
    #[error("the line before a chunk exceeds {SIZE_LINE_BYTES_MAX} bytes")]
    SizeLineTooLong,
    /// The trailers are too long.
    #[error("the trailers exceed {HEAD_BYTES_MAX} bytes")]
    TrailersTooLong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ended,
    UntilClose,
    /// So many bytes are to come.
    Length(u64),
    Chunked(Chunked),
}

/// Where in the chunks the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunked {
    /// The line before a chunk; `size` is `None` before its first digit.
    Size {
        size: Option<u64>,
        bytes: usize,
    },
    /// Behind the digits of that line.
    Extension {
        size: u64,
        bytes: usize,
    },
    SizeLineFeed {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataLineFeed,
    /// The lines behind the last chunk; `is_start` where the next byte begins one.
    Trailers {
        is_start: bool,
        bytes: usize,
    },
    /// The LF of such a line, or of the empty one that ends them.
    TrailerLineFeed {
        is_last: bool,
        bytes: usize,
    },
    Ended,
}

impl BodyReader {
    /// A body of which nothing has come.
    #[must_use]
    pub const fn new(body: Body) -> Self {
        let state = match body {
            Body::Length(0) => State::Ended,
            Body::Length(left) => State::Length(left),
            Body::UntilClose => State::UntilClose,
            Body::Chunked => State::Chunked(Chunked::Size {
                size: None,
                bytes: 0,
            }),
        };
        Self {
            state,
            chunk_bytes: 0,
        }
    }

    /// Takes what came next; gives how much of it is the body's. What is behind that is
    /// another message's.
    ///
    /// # Errors
    ///
    /// If these are no chunks.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<usize, ChunkError> {
        let mut taken = 0;
        loop {
            match self.next_part(&bytes[taken..])? {
                BodyPart::Content(0) | BodyPart::Framing(0) => return Ok(taken),
                BodyPart::Content(count) | BodyPart::Framing(count) => taken += count,
            }
        }
    }

    /// Takes the front of what came next, up to where content begins or ends; none is taken
    /// of what is another message's.
    ///
    /// # Errors
    ///
    /// If these are no chunks.
    pub fn next_part(&mut self, bytes: &[u8]) -> Result<BodyPart, ChunkError> {
        match &mut self.state {
            State::Ended => Ok(BodyPart::Framing(0)),
            State::UntilClose => Ok(BodyPart::Content(bytes.len())),
            State::Length(left) => {
                let taken = up_to(*left, bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.state = State::Ended;
                }
                Ok(BodyPart::Content(taken))
            }
            State::Chunked(chunked) => {
                if let Chunked::Data { left } = *chunked {
                    let taken = up_to(left, bytes.len());
                    chunked.skip(taken as u64);
                    return Ok(BodyPart::Content(taken));
                }
                let mut taken = 0;
                while let Some(byte) = bytes.get(taken)
                    && chunked.is_framing()
                {
                    chunked.receive(*byte)?;
                    taken += 1;
                }
                match *chunked {
                    Chunked::Data { left } => self.chunk_bytes = left,
                    Chunked::Ended => self.state = State::Ended,
                    _ => {}
                }
                Ok(BodyPart::Framing(taken))
            }
        }
    }

    /// How many bytes belong to the chunk that is under way, whatever they are.
    #[must_use]
    pub const fn data_left(&self) -> u64 {
        match self.state {
            State::Chunked(Chunked::Data { left }) => left,
            _ => 0,
        }
    }

    /// The size of the chunk that began last; 0 before there was one.
    #[must_use]
    pub const fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// As [`Self::receive`], for some of [`Self::data_left`], which nobody has looked at.
    pub const fn skip(&mut self, bytes: u64) {
        if let State::Chunked(chunked) = &mut self.state {
            chunked.skip(bytes);
        }
    }

    /// Whether all of it has come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }
}

impl Chunked {
    /// Whether the next byte is of what is around the data.
    const fn is_framing(self) -> bool {
        !matches!(self, Self::Data { .. } | Self::Ended)
    }

    /// Takes a byte of what is around the data.
    fn receive(&mut self, byte: u8) -> Result<(), ChunkError> {
        *self = match *self {
            Self::Size { size, bytes } => read_size(size, bytes, byte)?,
            Self::Extension { size, .. } if byte == b'\r' => Self::SizeLineFeed { size },
            Self::Extension { .. } if byte == b'\n' => return Err(ChunkError::BadEnd),
            Self::Extension { size, bytes } => Self::Extension {
                size,
                bytes: one_more(bytes, SIZE_LINE_BYTES_MAX, ChunkError::SizeLineTooLong)?,
            },
            Self::SizeLineFeed { size } => match (expect(byte, b'\n')?, size) {
                ((), 0) => Self::Trailers {
                    is_start: true,
                    bytes: 0,
                },
                ((), left) => Self::Data { left },
            },
            Self::DataReturn => {
                expect(byte, b'\r')?;
                Self::DataLineFeed
            }
            Self::DataLineFeed => {
                expect(byte, b'\n')?;
                Self::Size {
                    size: None,
                    bytes: 0,
                }
            }
            Self::Trailers { is_start, bytes } => {
                let bytes = one_more(bytes, HEAD_BYTES_MAX, ChunkError::TrailersTooLong)?;
                match byte {
                    b'\r' => Self::TrailerLineFeed {
                        is_last: is_start,
                        bytes,
                    },
                    b'\n' => return Err(ChunkError::BadEnd),
                    _ => Self::Trailers {
                        is_start: false,
                        bytes,
                    },
                }
            }
            Self::TrailerLineFeed { is_last, bytes } => match (expect(byte, b'\n')?, is_last) {
                ((), true) => Self::Ended,
                ((), false) => Self::Trailers {
                    is_start: true,
                    bytes,
                },
            },
            Self::Data { .. } | Self::Ended => unreachable!("these are not framing"),
        };
        Ok(())
    }

    /// Takes some bytes of a chunk.
    const fn skip(&mut self, bytes: u64) {
        if let Self::Data { left } = *self {
            debug_assert!(bytes <= left);
            *self = match left.saturating_sub(bytes) {
                0 => Self::DataReturn,
                left => Self::Data { left },
            };
        }
    }
}

/// One byte of a size, or the first behind it.
fn read_size(size: Option<u64>, bytes: usize, byte: u8) -> Result<Chunked, ChunkError> {
    let bytes = one_more(bytes, SIZE_LINE_BYTES_MAX, ChunkError::SizeLineTooLong)?;
    let digit = char::from(byte).to_digit(16).map(u64::from);
    match (digit, size, byte) {
        (Some(digit), size, _) => {
            let size = size.unwrap_or(0).checked_mul(16);
            let size = size.ok_or(ChunkError::BadSize)?;
            Ok(Chunked::Size {
                size: Some(size + digit),
                bytes,
            })
        }
        (None, Some(size), b'\r') => Ok(Chunked::SizeLineFeed { size }),
        (None, Some(size), b';' | b' ' | b'\t') => Ok(Chunked::Extension { size, bytes }),
        (None, ..) => Err(ChunkError::BadSize),
    }
}

fn expect(byte: u8, expected: u8) -> Result<(), ChunkError> {
    match byte == expected {
        true => Ok(()),
        false => Err(ChunkError::BadEnd),
    }
}

fn one_more(bytes: usize, max: usize, error: ChunkError) -> Result<usize, ChunkError> {
    match bytes < max {
        true => Ok(bytes + 1),
        false => Err(error),
    }
}

/// The lesser of both.
fn up_to(left: u64, count: usize) -> usize {
    usize::try_from(left).map_or(count, |left| left.min(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `bytes` come to whole, and cut at every byte: how much is the body's, and
    /// whether it has ended.
    #[track_caller]
    fn check(body: Body, bytes: &[u8], expected: Result<(usize, bool), ChunkError>) {
        let receive = |pieces: [&[u8]; 2]| {
            let mut reader = BodyReader::new(body);
            let mut taken = 0;
            for piece in pieces {
                taken += reader.receive(piece)?;
            }
            Ok((taken, reader.has_ended()))
        };
        for cut in 0..=bytes.len() {
            let (one, other) = bytes.split_at(cut);
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(receive([one, other]), expected, "{shown:?} cut at {cut}");
        }
        let mut reader = BodyReader::new(body);
        let mut taken = Ok(0);
        for byte in bytes {
            let more = reader.receive(&[*byte]);
            taken = taken.and_then(|taken| more.map(|more| taken + more));
        }
        assert_eq!(taken.map(|taken| (taken, reader.has_ended())), expected);
    }

    #[test]
    fn a_body_ends_where_its_head_says() {
        check(Body::Length(0), b"GET", Ok((0, true)));
        check(Body::Length(3), b"ab", Ok((2, false)));
        check(Body::Length(3), b"abcGET", Ok((3, true)));
        check(Body::UntilClose, b"abc", Ok((3, false)));
    }

    #[test]
    fn chunks_end_with_the_empty_line_behind_the_last() {
        let check = |text: &str, rest: &str| {
            let whole = format!("{text}{rest}");
            check(Body::Chunked, whole.as_bytes(), Ok((text.len(), true)));
            let cut = &text.as_bytes()[..text.len() - 1];
            check(Body::Chunked, cut, Ok((cut.len(), false)));
        };
        check("0\r\n\r\n", "");
        check("0\r\n\r\n", "GET / HTTP/1.1\r\n");
        check("3\r\nabc\r\n0\r\n\r\n", "\r\n");
        check("3;a=\"b\" \r\nabc\r\n00 \r\n\r\n", "x");
        check(
            "000000000000000000A\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
            "x",
        );
        check("0\r\nA: b\r\nC:\r\n\r\n", "x");
    }

    #[test]
    fn content_is_told_from_what_is_around_it() {
        let content_of = |body: Body, bytes: &[u8], piece: usize| {
            let mut reader = BodyReader::new(body);
            let mut content = Vec::new();
            let mut taken = 0;
            for piece in bytes.chunks(piece) {
                let mut rest = piece;
                while let Ok(BodyPart::Content(count @ 1..) | BodyPart::Framing(count @ 1..)) =
                    reader.clone().next_part(rest)
                {
                    let part = reader.next_part(rest);
                    if part == Ok(BodyPart::Content(count)) {
                        content.extend_from_slice(&rest[..count]);
                    }
                    rest = &rest[count..];
                    taken += count;
                }
            }
            (content, taken)
        };
        let chunks = b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\n\r\n";
        let followed = [&chunks[..], b"POST"].concat();
        for (body, bytes, content, taken) in [
            (
                Body::Chunked,
                &followed[..],
                &b"hello world"[..],
                chunks.len(),
            ),
            (Body::Length(5), b"hello world", b"hello", 5),
            (Body::UntilClose, b"hello", b"hello", 5),
            (Body::Length(0), b"hello", b"", 0),
        ] {
            for piece in 1..=bytes.len() {
                let expected = (content.to_vec(), taken);
                assert_eq!(content_of(body, bytes, piece), expected, "by {piece}");
            }
        }
    }

    #[test]
    fn the_data_of_a_chunk_need_not_be_looked_at() {
        let mut reader = BodyReader::new(Body::Chunked);
        assert_eq!(reader.data_left(), 0);
        assert_eq!(reader.receive(b"1000;a\r\nab"), Ok(10));
        assert_eq!((reader.data_left(), reader.chunk_bytes()), (4094, 4096));
        reader.skip(4000);
        assert_eq!(reader.data_left(), 94);
        reader.skip(94);
        assert_eq!((reader.data_left(), reader.chunk_bytes()), (0, 4096));
        assert_eq!(reader.receive(b"\r\n3\r\nabc\r\n0\r\n\r\nx"), Ok(15));
        assert_eq!((reader.has_ended(), reader.chunk_bytes()), (true, 3));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        use ChunkError::{BadEnd, BadSize, SizeLineTooLong, TrailersTooLong};
        for (text, expected) in [
            ("\r\n", BadSize),
            ("x\r\n", BadSize),
            ("-1\r\n", BadSize),
            ("+1\r\n", BadSize),
            ("0x1\r\n", BadSize),
            (";a\r\n", BadSize),
            ("10000000000000000\r\n", BadSize),
            ("1\n", BadSize),
            ("1\rx", BadEnd),
            ("1;a\n", BadEnd),
            ("1\r\nab", BadEnd),
            ("1\r\na\n", BadEnd),
            ("1\r\na\rb", BadEnd),
            ("0\r\n\n", BadEnd),
            ("0\r\nA: b\n", BadEnd),
            ("0\r\n\rx", BadEnd),
            (&"0".repeat(SIZE_LINE_BYTES_MAX + 1), SizeLineTooLong),
            (
                &format!("0;{}", "a".repeat(SIZE_LINE_BYTES_MAX)),
                SizeLineTooLong,
            ),
            (
                &format!("0\r\n{}", "a".repeat(HEAD_BYTES_MAX + 1)),
                TrailersTooLong,
            ),
        ] {
            let mut reader = BodyReader::new(Body::Chunked);
            assert_eq!(reader.receive(text.as_bytes()), Err(expected), "{text:?}");
        }
    }
}
