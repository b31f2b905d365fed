//! A leg whose bytes are the bodies of HTTP messages: each message is a chunk.
//!
//! Chunks are read here anew and the simplest way: relay and generator would agree on a fault
//! that they share. Whoever relays may cut them differently.

use std::io::IoSlice;
use std::mem;

use midspan::runtime::PollKey;
use midspan::runtime::reactor::{Closing, Reactor};
use midspan::runtime::socket::Socket;
use rustix::io::Errno;

use crate::wrapped::send_unsent;

/// What says that nothing follows.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The longest line before a chunk: more than a size needs.
const LINE_BYTES_MAX: usize = 64;

/// Both bodies of a leg.
#[derive(Debug)]
pub(crate) struct Bodies {
    /// Where the leg is answered, if not on the connection that it sends on.
    answer: Option<(Socket, PollKey)>,
    /// Of what is said, that which the socket did not take.
    unsent: Vec<u8>,
    has_said_end: bool,
    chunks: ChunkReader,
}

impl Bodies {
    /// `unsent` stands before the leg's own body.
    pub(crate) const fn new(answer: Option<(Socket, PollKey)>, unsent: Vec<u8>) -> Self {
        Self {
            answer,
            unsent,
            has_said_end: false,
            chunks: ChunkReader::Line(Vec::new()),
        }
    }

    /// Sends all of `bytes` as one chunk, once what was said before is out.
    pub(crate) fn send(&mut self, socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
        self.flush(socket)?;
        let line = format!("{:x}\r\n", bytes.len());
        let places = [line.as_bytes(), bytes, b"\r\n"];
        let mut sent = socket.send_gathered(&places.map(IoSlice::new))?;
        for place in places {
            let of_place = sent.min(place.len());
            self.unsent
                .extend_from_slice(place.get(of_place..).unwrap_or_default());
            sent -= of_place;
        }
        Ok(bytes.len())
    }

    /// Says that nothing follows. Call again after `EAGAIN`.
    pub(crate) fn end(&mut self, socket: &Socket) -> Result<(), Errno> {
        if !mem::replace(&mut self.has_said_end, true) {
            self.unsent.extend_from_slice(LAST_CHUNK);
        }
        self.flush(socket)
    }

    /// Sends what the socket did not take.
    pub(crate) fn flush(&mut self, socket: &Socket) -> Result<(), Errno> {
        send_unsent(socket, &mut self.unsent)
    }

    /// Reads what chunks hold; 0 is the end of the body.
    pub(crate) fn recv(&mut self, socket: &Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
        let socket = self.answer.as_ref().map_or(socket, |(answer, _)| answer);
        while self.chunks != ChunkReader::Ended {
            let count = socket.recv(buffer)?;
            if count == 0 {
                // A body does not end with its connection.
                return Err(Errno::CONNRESET);
            }
            let data_bytes = self.chunks.take(&mut buffer[..count])?;
            if data_bytes > 0 {
                return Ok(data_bytes);
            }
        }
        Ok(0)
    }

    /// Closes what the leg is answered on.
    pub(crate) fn close(self, reactor: &Reactor, closing: Closing) {
        if let Some((socket, poll)) = self.answer {
            reactor.retire(poll, socket, closing);
        }
    }
}

/// Where in a body its next byte belongs.
#[derive(Debug, PartialEq, Eq)]
enum ChunkReader {
    /// The line before a chunk, as far as it came.
    Line(Vec<u8>),
    Data {
        left: usize,
    },
    /// Behind a chunk, or behind the last line.
    LineEnd {
        left: usize,
        is_last: bool,
    },
    Ended,
}

impl ChunkReader {
    /// Moves the data in `bytes` to their beginning; tells how much that is.
    fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let (mut at, mut data_bytes) = (0, 0);
        while at < bytes.len() {
            match self {
                Self::Line(line) => {
                    line.push(bytes[at]);
                    at += 1;
                    if line.len() > LINE_BYTES_MAX {
                        return Err(Errno::PROTO);
                    }
                    if line.ends_with(b"\r\n") {
                        *self = match size_of_chunk(line)? {
                            0 => Self::LineEnd {
                                left: 2,
                                is_last: true,
                            },
                            left => Self::Data { left },
                        };
                    }
                }
                Self::Data { left } => {
                    let count = (*left).min(bytes.len() - at);
                    bytes.copy_within(at..at + count, data_bytes);
                    at += count;
                    data_bytes += count;
                    *left -= count;
                    if *left == 0 {
                        *self = Self::LineEnd {
                            left: 2,
                            is_last: false,
                        };
                    }
                }
                Self::LineEnd { left, is_last } => {
                    if bytes[at] != [b'\n', b'\r'][*left - 1] {
                        return Err(Errno::PROTO);
                    }
                    at += 1;
                    *left -= 1;
                    if *left == 0 {
                        *self = match is_last {
                            true => Self::Ended,
                            false => Self::Line(Vec::new()),
                        };
                    }
                }
                Self::Ended => return Err(Errno::PROTO),
            }
        }
        Ok(data_bytes)
    }
}

fn size_of_chunk(line: &[u8]) -> Result<usize, Errno> {
    let digits = line.strip_suffix(b"\r\n").unwrap_or_default();
    let digits = str::from_utf8(digits).map_err(|_| Errno::PROTO)?;
    usize::from_str_radix(digits, 16).map_err(|_| Errno::PROTO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_found_however_it_is_cut() {
        let wire = b"5\r\nhello\r\n10\r\n 0123456789abcde\r\n0\r\n\r\n";
        for cut in 0..=wire.len() {
            let mut chunks = ChunkReader::Line(Vec::new());
            let mut data = Vec::new();
            for piece in [&wire[..cut], &wire[cut..]] {
                let mut piece = piece.to_vec();
                let count = chunks.take(&mut piece).unwrap();
                data.extend_from_slice(&piece[..count]);
            }
            assert_eq!(data, b"hello 0123456789abcde", "{cut}");
            assert_eq!(chunks, ChunkReader::Ended);
        }
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for wire in ["x\r\n", "5\r\nhello!!", "0\r\n\r\nx", "0\r\nx"] {
            let mut chunks = ChunkReader::Line(Vec::new());
            let taken = chunks.take(&mut wire.as_bytes().to_vec());
            assert_eq!(taken, Err(Errno::PROTO), "{wire}");
        }
    }
}
