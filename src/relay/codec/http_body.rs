//! An HTTP body as a leg's wrapping: what comes in the body of one request goes out in the
//! answer to another one.
//!
//! ```text
//!   request's leg   head │ body ─────────────> body │ head   answer's leg
//!                   200 <─ once the answer's leg has ended ─┘
//! ```
//!
//! Chunks pass as they came, the last one too: the reader knows where they end, and nothing is
//! taken apart (RFC 9112 §7.1). So long ones may pass unseen, and only what is between them
//! has to be looked at. A body of known length gets chunks around it.

use std::io::Write as _;
use std::ops::Range;

use super::chunk::Chunk;
use super::http_client::SentBody;
use super::{CodecError, Heard};
use crate::protocol::http_head::{Body, BodyPart, BodyReader};

/// What a request is answered whose body has arrived: RFC 9110 §15.3.1.
const BODY_ARRIVED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: no-store\r\n\
    Connection: close\r\n\r\n";

/// The shortest chunks that pass unseen: to skip one costs a few system calls, which for less
/// is more than copying.
const UNSEEN_CHUNK_BYTES_MIN: u64 = 8 << 10;

/// What whoever is answered may say in between.
const UNASKED_BYTES_MAX: usize = 4 << 10;

/// The last chunk, and no trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// One leg's body: it comes, or it goes.
#[derive(Debug)]
pub enum HttpBody {
    /// Behind the head of a request, which is answered once all is over.
    Request(BodyReader),
    /// The same, taken out of its chunks.
    Unpacked(BodyReader),
    /// Behind the head of an answer. Its leg says nothing more.
    Answer(AnswerBody),
    /// Behind the head of a request of ours: the answer to it ends all.
    Sent(SentBody),
    /// Behind the head of an answer to us, and taken out of its chunks.
    Fetched(BodyReader),
}

/// How a body goes out.
#[derive(Debug)]
pub struct AnswerBody {
    /// What comes has no chunks yet.
    makes_chunks: bool,
    has_begun: bool,
    /// The leg was told that nothing follows.
    pub(super) is_over: bool,
    /// What the leg has said meanwhile.
    unasked_bytes: usize,
}

impl HttpBody {
    /// Both bodies of one stream, whose request says how its own ends.
    #[must_use]
    pub const fn both(body: Body) -> [Self; 2] {
        let answer = AnswerBody {
            makes_chunks: !matches!(body, Body::Chunked),
            ..AnswerBody::in_chunks()
        };
        [Self::Request(BodyReader::new(body)), Self::Answer(answer)]
    }

    /// Behind the head of a request, whose bytes go to no body. It is answered once all is over.
    #[must_use]
    pub const fn unpacked(body: Body) -> Self {
        Self::Unpacked(BodyReader::new(body))
    }

    /// Behind the head of an answer of ours, whose bytes come from no body.
    #[must_use]
    pub const fn packed() -> Self {
        Self::Answer(AnswerBody::in_chunks())
    }

    /// Behind the head of a request of ours, in chunks.
    #[must_use]
    pub const fn sent() -> Self {
        Self::Sent(SentBody::new())
    }

    /// Behind the head of an answer to us, which says how it ends.
    #[must_use]
    pub const fn fetched(body: Body) -> Self {
        Self::Fetched(BodyReader::new(body))
    }

    /// How the leg's stream stands before anything has come.
    pub(super) fn heard(&self) -> Heard {
        match self {
            Self::Request(reader) | Self::Unpacked(reader) | Self::Fetched(reader)
                if reader.has_ended() =>
            {
                Heard::Ended
            }
            Self::Sent(sent) => sent.heard(),
            _ => Heard::Open,
        }
    }

    /// Whether what comes has long chunks.
    pub(super) fn comes_in_long_chunks(&self) -> bool {
        match self {
            Self::Request(reader) => {
                reader.chunk_bytes() >= UNSEEN_CHUNK_BYTES_MIN && !reader.has_ended()
            }
            _ => false,
        }
    }

    /// Whether what goes has its chunks.
    pub(super) const fn goes_as_it_is(&self) -> bool {
        match self {
            Self::Answer(answer) => !answer.makes_chunks,
            _ => false,
        }
    }

    /// How many of the next bytes may pass unseen.
    pub(super) const fn unseen_bytes(&self) -> u64 {
        match self {
            Self::Request(reader) => reader.data_left(),
            _ => 0,
        }
    }

    /// Has so many of them pass.
    pub(super) const fn skip(&mut self, bytes: u64) {
        if let Self::Request(reader) = self {
            reader.skip(bytes);
        }
    }

    pub(super) fn decode(
        &mut self,
        buffer: &[u8],
        fresh: Range<usize>,
        chunks: &mut Vec<Chunk>,
    ) -> Result<Heard, CodecError> {
        if let Self::Unpacked(reader) | Self::Fetched(reader) = self {
            take_content(reader, buffer, fresh, chunks)?;
            return Ok(self.heard());
        }
        let count = self.receive(&buffer[fresh.clone()])?;
        if count > 0 {
            chunks.push(Chunk::plain(fresh.start..fresh.start + count));
        }
        Ok(self.heard())
    }

    /// Takes what came next; gives how much of it is the body's.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<usize, CodecError> {
        match self {
            // What is behind the body is another request, which a connection that is to end
            // has no answer for.
            Self::Request(reader) | Self::Unpacked(reader) | Self::Fetched(reader) => {
                Ok(reader.receive(bytes)?)
            }
            Self::Sent(sent) => sent.receive(bytes).map(|()| 0),
            Self::Answer(answer) => answer.discard(bytes.len()).map(|()| 0),
        }
    }

    pub(super) fn encode(&mut self, buffer: &mut [u8], chunk: &Chunk) -> Range<usize> {
        let answer = match self {
            Self::Answer(answer) => answer,
            Self::Sent(sent) => &mut sent.chunks,
            _ => return chunk.range.clone(),
        };
        if !answer.makes_chunks || chunk.range.is_empty() {
            return chunk.range.clone();
        }
        let mut line = [0; LINE_BYTES_MAX];
        let line = answer.line_before(chunk.range.len(), &mut line);
        let start = chunk.range.start - line.len();
        buffer[start..chunk.range.start].copy_from_slice(line);
        start..chunk.range.end
    }

    pub(super) fn end_of_input(&self) -> Result<Heard, CodecError> {
        match self {
            Self::Answer(answer) if answer.is_over => Ok(Heard::Ended),
            // A body in chunks never ends with its connection: RFC 9112 §6.3.
            _ if self.heard() == Heard::Ended => Ok(Heard::Ended),
            _ => Err(CodecError::Cut),
        }
    }

    /// Says that nothing follows.
    pub(super) fn take_end(&mut self, wire: &mut Vec<u8>) {
        match self {
            Self::Request(_) => wire.extend_from_slice(BODY_ARRIVED),
            Self::Answer(answer) => answer.take_end(wire),
            Self::Sent(sent) => sent.chunks.take_end(wire),
            Self::Unpacked(_) | Self::Fetched(_) => {}
        }
    }

    /// What is left to say once the pair has finished.
    pub(super) fn take_farewell(&self, wire: &mut Vec<u8>) {
        // Whoever gets the body says nothing, and so has said from the first that it is done.
        if let Self::Unpacked(reader) = self
            && reader.has_ended()
        {
            wire.extend_from_slice(BODY_ARRIVED);
        }
    }

    /// Whether the leg has all that there is for it. Some reset what they are done with.
    pub(super) const fn may_go(&self) -> bool {
        matches!(self, Self::Answer(answer) if answer.is_over)
    }

    /// Whether the leg's connection is not to say by its own end that nothing follows.
    pub(super) const fn leaves_end_to_peer(&self) -> bool {
        // Some take that for an end of everything: whoever answers has the last word.
        matches!(self, Self::Sent(_) | Self::Fetched(_) | Self::Unpacked(_))
    }
}

/// Appends to `chunks` what is in a body, of which `fresh` has come.
fn take_content(
    reader: &mut BodyReader,
    buffer: &[u8],
    fresh: Range<usize>,
    chunks: &mut Vec<Chunk>,
) -> Result<(), CodecError> {
    let mut start = fresh.start;
    loop {
        match reader.next_part(&buffer[start..fresh.end])? {
            BodyPart::Content(0) | BodyPart::Framing(0) => return Ok(()),
            BodyPart::Framing(count) => start += count,
            BodyPart::Content(count) => {
                chunks.push(Chunk::plain(start..start + count));
                start += count;
            }
        }
    }
}

/// The end of the chunk before, a size of 32 bits, and the end of the line.
const LINE_BYTES_MAX: usize = 2 + 8 + 2;

const _: () = assert!(LINE_BYTES_MAX <= super::chunk::ROOM_BYTES);

impl AnswerBody {
    /// A body of which nothing has come, and that gets chunks around it.
    pub(super) const fn in_chunks() -> Self {
        Self {
            makes_chunks: true,
            has_begun: false,
            is_over: false,
            unasked_bytes: 0,
        }
    }

    /// Drops what a leg says that is answered: a next request, which has no answer.
    fn discard(&mut self, bytes: usize) -> Result<(), CodecError> {
        self.unasked_bytes += bytes;
        match self.unasked_bytes <= UNASKED_BYTES_MAX {
            true => Ok(()),
            false => Err(CodecError::Unasked),
        }
    }

    fn take_end(&mut self, wire: &mut Vec<u8>) {
        self.is_over = true;
        if self.makes_chunks {
            wire.extend_from_slice(if self.has_begun { b"\r\n" } else { b"" });
            wire.extend_from_slice(LAST_CHUNK);
        }
    }

    /// What stands before a chunk, with the end of the one before.
    fn line_before<'line>(&mut self, bytes: usize, line: &'line mut [u8]) -> &'line [u8] {
        let end_before = match std::mem::replace(&mut self.has_begun, true) {
            true => "\r\n",
            false => "",
        };
        let room = line.len();
        let mut rest = &mut *line;
        write!(rest, "{end_before}{bytes:x}\r\n").expect("a work buffer has less than 4 GiB");
        let written = room - rest.len();
        &line[..written]
    }
}

#[cfg(test)]
mod tests {
    use super::super::Codec;
    use super::super::workshop::Workshop;
    use super::*;

    /// What an answer's leg gets of these pieces of a request's body, and how that stood last.
    fn relay(body: Body, pieces: &[&[u8]]) -> Result<(Vec<u8>, Heard), CodecError> {
        let [request, answer] = HttpBody::both(body);
        let mut workshop = Workshop::new(1 << 12);
        let (source, _) = Codec::begin_http(None, request, Vec::new())?;
        let (destination, _) = Codec::begin_http(None, answer, Vec::new())?;
        let (mut source, mut destination) = (source, destination);
        let mut sent = Vec::new();
        for piece in pieces {
            workshop
                .landing(Some(&source), piece.len())
                .copy_from_slice(piece);
            workshop.decode(Some(&mut source), piece.len())?;
            workshop.encode(Some(&mut destination)).unwrap();
            let (gather, bytes) = workshop.gathered();
            for place in gather.places() {
                sent.extend_from_slice(&bytes[place.clone()]);
            }
        }
        if source.heard() != Heard::Open {
            workshop.take_words(&mut destination, true).unwrap();
            sent.extend_from_slice(workshop.wire());
        }
        Ok((sent, source.heard()))
    }

    #[test]
    fn chunks_pass_as_they_came_however_they_are_cut() {
        let wire = b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n";
        for cut in 0..=wire.len() {
            let relayed = relay(Body::Chunked, &[&wire[..cut], &wire[cut..]]);
            assert_eq!(relayed, Ok((wire.to_vec(), Heard::Ended)), "{cut}");
        }
        let (sent, heard) = relay(Body::Chunked, &[&wire[..9]]).unwrap();
        assert_eq!((&sent[..], heard), (&wire[..9], Heard::Open));
        let behind = [&wire[..], b"POST / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(
            relay(Body::Chunked, &[&behind]),
            Ok((wire.to_vec(), Heard::Ended))
        );
        assert!(matches!(
            relay(Body::Chunked, &[b"x"]),
            Err(CodecError::Chunks(_))
        ));
    }

    #[test]
    fn a_body_of_known_length_gets_chunks() {
        let long = vec![b'x'; 0x123];
        for (pieces, length, expected) in [
            (vec![&b"hello"[..]], 5, "5\r\nhello\r\n0\r\n\r\n".to_owned()),
            (
                vec![b"he", b"llo", b"!"],
                5,
                "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n".to_owned(),
            ),
            (vec![], 0, "0\r\n\r\n".to_owned()),
            (
                vec![&long[..]],
                0x123,
                format!("123\r\n{}\r\n0\r\n\r\n", "x".repeat(0x123)),
            ),
        ] {
            let relayed = relay(Body::Length(length), &pieces);
            assert_eq!(relayed, Ok((expected.into_bytes(), Heard::Ended)));
        }
    }

    #[test]
    fn an_end_within_a_body_is_none() {
        let [mut request, mut answer] = HttpBody::both(Body::Chunked);
        let mut chunks = Vec::new();
        assert_eq!(request.end_of_input(), Err(CodecError::Cut));
        assert_eq!(answer.end_of_input(), Err(CodecError::Cut));
        let unasked = [b'x'; UNASKED_BYTES_MAX];
        assert_eq!(
            answer.decode(&unasked, 0..unasked.len(), &mut chunks),
            Ok(Heard::Open)
        );
        assert_eq!(
            answer.decode(b"GET", 0..3, &mut chunks),
            Err(CodecError::Unasked)
        );
        assert_eq!(
            request.decode(LAST_CHUNK, 0..5, &mut chunks),
            Ok(Heard::Ended)
        );
        assert_eq!(request.end_of_input(), Ok(Heard::Ended));
        let mut wire = Vec::new();
        answer.take_end(&mut wire);
        assert!(wire.is_empty(), "the last chunk has passed");
        assert_eq!(answer.end_of_input(), Ok(Heard::Ended));
        request.take_end(&mut wire);
        assert!(wire.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
}
