//! A response that is written whole, with a body that is there: RFC 9112 §4.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use super::{Headers, HttpVersion};

/// One response. No cache may keep it unless it says so: what we answer is of this moment,
/// and an id in it is a credential. There is no `Date`, since a core reads no clock.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    cache_control: &'static str,
    body: Content,
}

/// What stands behind a head.
#[derive(Clone, PartialEq, Eq)]
enum Content {
    /// Nobody else has it.
    Own(Vec<u8>),
    /// Others have it as well.
    Shared(Arc<[u8]>),
    /// Nothing but what it would be long: RFC 9110 §9.3.2.
    Left { bytes: usize },
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

impl Persistence {
    /// What whoever sent this head wants: RFC 9112 §9.3. An older one has to ask for more
    /// than this, which nobody needs.
    #[must_use]
    pub fn of(version: HttpVersion, headers: Headers<'_, '_>) -> Self {
        match version {
            HttpVersion::Http11 if !headers.has_token("Connection", "close") => Self::KeepAlive,
            _ => Self::Close,
        }
    }
}

impl Answer {
    /// A response without a body.
    #[must_use]
    pub const fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            cache_control: "no-store",
            body: Content::Own(Vec::new()),
        }
    }

    /// A response with a body of this media type.
    #[must_use]
    pub fn with_body(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut answer = Self::new(status).with_header("Content-Type", media_type);
        answer.body = Content::Own(body.into());
        answer
    }

    /// The same with a body that is not copied.
    #[must_use]
    pub fn with_shared_body(status: u16, media_type: &str, body: Arc<[u8]>) -> Self {
        let mut answer = Self::new(status).with_header("Content-Type", media_type);
        answer.body = Content::Shared(body);
        answer
    }

    /// The same for who asks for the head alone, which tells how long the body would be.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        let bytes = self.body().len();
        self.body = Content::Left { bytes };
        self
    }

    /// The same with something else for caches: RFC 9111 §5.2.2.
    #[must_use]
    pub const fn with_cache_control(mut self, directives: &'static str) -> Self {
        self.cache_control = directives;
        self
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

    /// The body, as it is sent.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match &self.body {
            Content::Own(bytes) => bytes,
            Content::Shared(bytes) => bytes,
            Content::Left { .. } => &[],
        }
    }

    /// Head and body, in one piece.
    #[must_use]
    pub fn encode(&self, persistence: Persistence) -> Vec<u8> {
        let mut bytes = self.encode_head(persistence);
        bytes.extend_from_slice(self.body());
        bytes
    }

    /// The head, up to the empty line.
    #[must_use]
    pub fn encode_head(&self, persistence: Persistence) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        // Of 304 it would be what 200 has: RFC 9110 §8.6.
        if self.status != 304 {
            let length = match &self.body {
                Content::Left { bytes } => *bytes,
                Content::Own(_) | Content::Shared(_) => self.body().len(),
            };
            // Writing to a string does not fail.
            let _ = write!(head, "Content-Length: {length}\r\n");
        }
        let connection = match persistence {
            Persistence::KeepAlive => "keep-alive",
            Persistence::Close => "close",
        };
        let caching = self.cache_control;
        let _ = write!(
            head,
            "Connection: {connection}\r\nCache-Control: {caching}\r\n"
        );
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// The words behind a status code: RFC 9110 §15. They mean nothing to a program.
const fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        304 => "Not Modified",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
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
