//! A request that is passed on, and the response to it, each followed to its end.
//!
//! ```text
//! client ── head, written anew ── body ──┐ nothing behind it ── server
//!        ── heads, written anew ── body ─┘ nothing behind it ──
//! ```
//!
//! What stands behind a request on its connection is another one, which may be for another
//! server, and holds what that one alone may know. Behind the response nothing is passed on
//! either, and the client is told so: `Connection: close`.

use std::fmt;

use thiserror::Error;

use super::{HopByHop, push_headers, refusal};
use crate::protocol::Progress;
use crate::protocol::http_head::{
    Body, BodyReader, ChunkError, HeadError, HeadPolicy, HeaderSlots, HttpVersion, LineEnding,
    ResponseHead,
};

/// A response's head is written anew, so what ends its lines is nobody's concern behind us.
const RESPONSE_POLICY: HeadPolicy = HeadPolicy {
    line_ending: LineEnding::CrLfOrLf,
    ..HeadPolicy::HTTP
};

/// Headers of a response: policies and cookies come in more of them than requests have.
const RESPONSE_HEADERS_MAX: usize = 128;

/// One request and its response.
#[derive(Clone, PartialEq, Eq)]
pub struct Exchange {
    method: String,
    request: BodyReader,
    response: Response,
}

#[derive(Clone, PartialEq, Eq)]
enum Response {
    /// What came of a head.
    Head(Vec<u8>),
    Body(BodyReader),
}

/// Why an exchange goes on no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExchangeError {
    /// What is behind a request's head is not what that says.
    #[error("the request: {0}")]
    Request(ChunkError),
    /// What answers does not speak HTTP.
    #[error("the response: {0}")]
    NotHttp(#[from] HeadError),
    /// The server goes over to something that it was not asked for.
    #[error("the response switches protocols")]
    Switched,
    /// The server went before it had answered.
    #[error("the connection ended before the response")]
    NoResponse,
    /// What is behind a response's head is not what that says.
    #[error("the response: {0}")]
    Response(ChunkError),
}

impl Exchange {
    /// Of a request with this method and body, whose head is passed on.
    #[must_use]
    pub fn new(method: &str, body: Body) -> Self {
        Self {
            method: method.to_owned(),
            request: BodyReader::new(body),
            response: Response::Head(Vec::new()),
        }
    }

    /// Takes what came from the client; gives how much of it is for the server.
    ///
    /// # Errors
    ///
    /// If the rest of the request cannot be told from what is behind it.
    pub fn handle_request(&mut self, bytes: &[u8]) -> Result<usize, ExchangeError> {
        self.request.receive(bytes).map_err(ExchangeError::Request)
    }

    /// Whether all of the request has come.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.request.has_ended()
    }

    /// Takes what came from the server; appends to `client` what is for the client.
    ///
    /// # Errors
    ///
    /// If that is no response, or no more of it.
    pub fn handle_response(
        &mut self,
        bytes: &[u8],
        client: &mut Vec<u8>,
    ) -> Result<(), ExchangeError> {
        let mut bytes = bytes;
        let mut received;
        if let Response::Head(before) = &mut self.response {
            // Without a line feed nothing can have ended.
            let may_end = bytes.contains(&b'\n');
            before.extend_from_slice(bytes);
            if !may_end && before.len() < RESPONSE_POLICY.bytes_max {
                return Ok(());
            }
            received = std::mem::take(before);
            while let Some((consumed, body)) = self.read_head(&received, client)? {
                received.drain(..consumed);
                if let Some(body) = body {
                    self.response = Response::Body(BodyReader::new(body));
                    break;
                }
            }
            bytes = &received;
        }
        match &mut self.response {
            Response::Head(rest) => *rest = bytes.to_vec(),
            Response::Body(body) => {
                let count = body.receive(bytes).map_err(ExchangeError::Response)?;
                client.extend_from_slice(&bytes[..count]);
            }
        }
        Ok(())
    }

    /// Reads a head, if all of it is there, and writes it anew: how long it is, and the body
    /// behind it, which an interim response has none of.
    fn read_head(
        &self,
        bytes: &[u8],
        client: &mut Vec<u8>,
    ) -> Result<Option<(usize, Option<Body>)>, ExchangeError> {
        let mut slots = HeaderSlots::<RESPONSE_HEADERS_MAX>::new();
        let (head, consumed) = match ResponseHead::decode(bytes, RESPONSE_POLICY, &mut slots)? {
            Progress::Partial { .. } => return Ok(None),
            Progress::Complete { value, consumed } => (value, consumed),
        };
        let is_interim = match head.status {
            101 => return Err(ExchangeError::Switched),
            status => matches!(status, 100..=199),
        };
        write_anew(&head, is_interim, client);
        // Where it is not certain, the connection's end is one for everybody: nothing else
        // comes on it.
        let body = || head.body(&self.method).unwrap_or(Body::UntilClose);
        Ok(Some((consumed, (!is_interim).then(body))))
    }

    /// Whether the client has the start of a response.
    #[must_use]
    pub const fn has_answer(&self) -> bool {
        matches!(self.response, Response::Body(_))
    }

    /// Whether the response is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match &self.response {
            Response::Head(_) => false,
            Response::Body(body) => body.has_ended(),
        }
    }
}

impl ExchangeError {
    /// What a client is told that has no start of a response.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        match self {
            Self::Request(_) => refusal(400, "the chunks of the body are none\n"),
            Self::NoResponse => refusal(502, "no answer from there\n"),
            Self::NotHttp(_) | Self::Switched | Self::Response(_) => {
                refusal(502, "what answers there is not HTTP\n")
            }
        }
    }
}

/// A head as the client is to have it.
fn write_anew(head: &ResponseHead<'_, '_>, is_interim: bool, client: &mut Vec<u8>) {
    let version = match head.version {
        HttpVersion::Http10 => "1.0",
        HttpVersion::Http11 => "1.1",
    };
    let line = format!("HTTP/{version} {:03} {}\r\n", head.status, head.reason);
    client.extend_from_slice(line.as_bytes());
    push_headers(head.headers, HopByHop::Response, client);
    if !is_interim {
        client.extend_from_slice(b"Connection: close\r\n");
    }
    client.extend_from_slice(b"\r\n");
}

/// How far it is, not what was said.
impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("has_request", &self.has_request())
            .field("has_answer", &self.has_answer())
            .field("has_ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the client has of a response that comes whole, and cut at every byte.
    #[track_caller]
    fn check(method: &str, response: &str, client: &str, is_over: bool) {
        for cut in 0..=response.len() {
            let mut exchange = Exchange::new(method, Body::Length(0));
            let mut got = Vec::new();
            let (one, other) = response.as_bytes().split_at(cut);
            for piece in [one, other] {
                let handled = exchange.handle_response(piece, &mut got);
                handled.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
            }
            assert_eq!(String::from_utf8_lossy(&got), client, "cut at {cut}");
            assert_eq!(exchange.has_ended(), is_over, "cut at {cut}");
        }
    }

    #[test]
    fn nothing_behind_a_request_is_for_the_server() {
        let check = |body, bytes: &str, expected: usize, has_request| {
            let mut exchange = Exchange::new("POST", body);
            let count = exchange.handle_request(bytes.as_bytes());
            assert_eq!(count, Ok(expected), "{bytes}");
            assert_eq!(exchange.has_request(), has_request, "{bytes}");
        };
        check(Body::Length(0), "GET http://b/ HTTP/1.1", 0, true);
        check(Body::Length(3), "abcGET http://b/", 3, true);
        check(Body::Length(3), "ab", 2, false);
        check(Body::Chunked, "1\r\na\r\n0\r\n\r\nGET", 11, true);
        let mut exchange = Exchange::new("POST", Body::Chunked);
        let refused = exchange.handle_request(b"1\r\nGET").expect_err("no chunk");
        assert!(refused.answer().starts_with(b"HTTP/1.1 400 "));
    }

    #[test]
    fn a_response_ends_its_connection() {
        check(
            "GET",
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Own\r\nKeep-Alive: timeout=5\r\n\
             X-Own: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nokHTTP/1.1",
            "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\
             Connection: close\r\n\r\nok",
            true,
        );
        check(
            "GET",
            "HTTP/1.0 404 \nServer: a\n\nto the end",
            "HTTP/1.0 404 \r\nServer: a\r\nConnection: close\r\n\r\nto the end",
            false,
        );
        check(
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
            true,
        );
        // What tells where a body ends stays, whatever `Connection` says.
        check(
            "GET",
            "HTTP/1.1 200 OK\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\
             \r\n1\r\na\r\n0\r\n\r\nHTTP/1.1",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             1\r\na\r\n0\r\n\r\n",
            true,
        );
        check(
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\nConnection: close\r\n\
             \r\nab",
            false,
        );
    }

    #[test]
    fn interim_responses_go_before_it() {
        check(
            "POST",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\
             Connection: close\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n\
             HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
            true,
        );
    }

    #[test]
    fn what_is_no_response_is_told_in_words() {
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(20_000));
        for response in [
            "SSH-2.0-x\r\n",
            "HTTP/1.1 101 x\r\nUpgrade: y\r\n\r\n",
            &endless,
        ] {
            let mut exchange = Exchange::new("GET", Body::Length(0));
            let mut client = Vec::new();
            let handled = exchange.handle_response(response.as_bytes(), &mut client);
            let error = handled.expect_err(response);
            assert!(!exchange.has_answer() && client.is_empty(), "{response}");
            assert!(error.answer().starts_with(b"HTTP/1.1 502 "), "{response}");
        }
        let mut exchange = Exchange::new("GET", Body::Length(0));
        let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnone";
        let handled = exchange.handle_response(response, &mut Vec::new());
        let expected = ExchangeError::Response(ChunkError::BadSize);
        assert_eq!((handled, exchange.has_answer()), (Err(expected), true));
    }
}
