//! A response that is written whole, with a body that is there: RFC 9112 §4.

use std::fmt::{self, Write as _};

/// One response. No cache may keep it: what we answer is of this moment, and an id in
/// it is a credential. There is no `Date`, since a core reads no clock.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// Its status: the rest may hold ids.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// What becomes of the connection behind a response: RFC 9112 §9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It takes the next request.
    KeepAlive,
    /// It ends.
    Close,
}

impl Answer {
    /// A response without a body.
    #[must_use]
    pub const fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A response with a body of this media type.
    #[must_use]
    pub fn with_body(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut answer = Self::new(status).with_header("Content-Type", media_type);
        answer.body = body.into();
        answer
    }

    /// The same with a header more.
    ///
    /// # Panics
    /// If the value could end the line: what a peer sends has no place in one.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        assert!(is_plain, "the value of {name} is not plain");
        self.headers.push((name, value));
        self
    }

    /// The status code.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Head and body, in one piece.
    #[must_use]
    pub fn encode(&self, persistence: Persistence) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        let connection = match persistence {
            Persistence::KeepAlive => "keep-alive",
            Persistence::Close => "close",
        };
        let length = self.body.len();
        // Writing to a string does not fail.
        let _ = write!(
            head,
            "Content-Length: {length}\r\nConnection: {connection}\r\nCache-Control: no-store\r\n"
        );
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The words behind a status code: RFC 9110 §15. They mean nothing to a program.
const fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Progress;
    use crate::protocol::http_head::{Body, HeadPolicy, HeaderSlots, ResponseHead};

    #[test]
    fn an_answer_is_one_response_with_its_body_behind_it() {
        let answer = Answer::with_body(200, "text/plain", "hello").with_header("X-Name", "a value");
        let bytes = answer.encode(Persistence::KeepAlive);
        let mut slots = HeaderSlots::<8>::new();
        let Ok(Progress::Complete { value, consumed }) =
            ResponseHead::decode(&bytes, HeadPolicy::HTTP, &mut slots)
        else {
            panic!("no response");
        };
        assert_eq!((value.status, value.reason), (200, "OK"));
        assert_eq!(value.headers.find("Content-Type"), Some(&b"text/plain"[..]));
        assert_eq!(value.headers.find("X-Name"), Some(&b"a value"[..]));
        assert_eq!(value.headers.find("Connection"), Some(&b"keep-alive"[..]));
        assert_eq!(value.body("GET"), Ok(Body::Length(5)));
        assert_eq!(&bytes[consumed..], b"hello");
        let closing = Answer::new(404).encode(Persistence::Close);
        assert_eq!(
            closing,
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\
              Cache-Control: no-store\r\n\r\n"
        );
    }

    #[test]
    #[should_panic(expected = "is not plain")]
    fn no_value_ends_its_line() {
        let _ = Answer::new(200).with_header("X-Name", "a\r\nSet-Cookie: b");
    }
}
