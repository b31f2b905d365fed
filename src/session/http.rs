//! Reads HTTP requests from a connection, one after the other.
//!
//! Left out: bodies mean nothing here, so that short ones are read away and others
//! refused.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use memchr::{memchr_iter, memmem};

use super::arrival::Switching;
use super::link::Link;
use super::refused::Refused;
use crate::access::Presented;
use crate::protocol::Progress;
use crate::protocol::http_head::{
    Body, HEAD_BYTES_MAX, HEADERS_MAX, HeadError, HeadPolicy, HeaderSlots, HttpVersion,
    Persistence, RequestHead,
};
use crate::protocol::jet::{RestError, RestRequest};
use crate::protocol::ptth_http::{self, Call, CallError};
use crate::protocol::websocket::{Upgrade, UpgradeError};
use crate::protocol::websocks::{Knock, SubProtocol};
use crate::runtime::reactor::Reactor;
use crate::time::Timestamp;
use crate::web::WebRequest;

/// The longest body that is read away.
pub const BODY_BYTES_MAX: usize = 4 << 10;

/// Bytes that are read at a time.
const READ_BYTES: usize = 4 << 10;

/// How SOCKS5 may be carried, the dearest first: raw, it is the kernel's to move.
const SPOKEN: [SubProtocol; 2] = [SubProtocol::Plain, SubProtocol::Framed];

/// Has a client that asks first send its body: RFC 9110 §10.1.1.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// What is asked; or why nothing that there is, which leaves the connection
    /// as it is.
    pub asked: Result<RestRequest, RestError>,
    /// Whose request it is, as the last of those says who passed it on. Anybody could: it
    /// holds from whoever is trusted alone.
    pub forwarded_for: Option<IpAddr>,
    /// The key that the client shows: RFC 6750 §2.1, or `token` in the query.
    pub key: Option<Presented>,
    /// What the client wants to become of the connection.
    pub persistence: Persistence,
    /// How it is answered when it becomes a WebSocket; or why it cannot.
    pub upgrade: Result<Switching, UpgradeError>,
    /// What it says of WebSocks, where it asks for nothing else and to be upgraded.
    pub knock: Option<Knock>,
    /// What it asks of forwarded ports, or why nothing that there is, where it asks for
    /// nothing else.
    pub call: Option<Result<Call, CallError>>,
    /// The body that follows and was not read, of a call that streams.
    pub stream: Option<StreamedBody>,
    /// What it says of pages, where it asks for nothing else.
    pub web: Option<WebRequest>,
}

/// A body that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamedBody {
    /// Where it ends.
    pub body: Body,
    /// The client may wait for a word before it sends it.
    pub expects_continue: bool,
}

/// Why there is no request any more on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpEnd {
    /// The client has no more to ask, or did not for too long.
    Idle,
    /// It is to be told so, and the connection is to be closed.
    Refused(Refused),
    /// The connection broke within a request.
    Broken(Refused),
}

/// A connection's requests, as far as they came.
pub struct HttpReader {
    received: Vec<u8>,
    /// Bytes of `received` in which no head ends.
    searched: usize,
    /// Bytes of the head that has come and of its body.
    wanted: usize,
    /// The client waits for a word before it sends the body.
    owes_continue: bool,
}

/// A request whose head has come.
struct Parsed {
    request: HttpRequest,
    /// Bytes of the head and of its body.
    bytes: usize,
    /// The client may wait for a word before it sends the body.
    expects_continue: bool,
}

/// How many bytes, not which: a key may be among them.
impl fmt::Debug for HttpReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpReader")
            .field("received_bytes", &self.received.len())
            .finish_non_exhaustive()
    }
}

impl HttpReader {
    /// A reader that begins with what came already.
    #[must_use]
    pub const fn new(received: Vec<u8>) -> Self {
        Self {
            received,
            searched: 0,
            wanted: 0,
            owes_continue: false,
        }
    }

    /// Whether nothing of a next request has come.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// What has come behind the last request.
    #[must_use]
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// Reads the next request, at most until `deadline`. What has come of it stays
    /// when this is dropped.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn next(
        &mut self,
        reactor: &Reactor,
        link: &mut Link,
        deadline: Timestamp,
    ) -> Result<HttpRequest, HttpEnd> {
        let read = async {
            loop {
                if let Some((request, consumed)) = self.parse()? {
                    self.take(consumed);
                    return Ok(request);
                }
                if std::mem::take(&mut self.owes_continue) {
                    let sent = link.send_all(CONTINUE).await;
                    sent.map_err(|_| HttpEnd::Broken(Refused::ReplyFailed))?;
                }
                if !self.try_read(link)? {
                    link.more().await;
                }
            }
        };
        match reactor.deadline(deadline, read).await {
            Some(outcome) => outcome,
            None if self.received.is_empty() => Err(HttpEnd::Idle),
            None => Err(HttpEnd::Broken(Refused::TooSlow)),
        }
    }

    /// Reads what is there; returns whether anything was.
    fn try_read(&mut self, link: &mut Link) -> Result<bool, HttpEnd> {
        let read = link.try_read_into::<READ_BYTES>(&mut self.received);
        read.map_err(|refused| match refused {
            Refused::ClosedEarly | Refused::ResetEarly if self.received.is_empty() => HttpEnd::Idle,
            refused => HttpEnd::Broken(refused),
        })
    }

    /// The request that has come whole with its body, and its length.
    fn parse(&mut self) -> Result<Option<(HttpRequest, usize)>, HttpEnd> {
        if self.received.len() < self.wanted || !self.may_hold_head() {
            return Ok(None);
        }
        let Some(parsed) = parse(&self.received).map_err(HttpEnd::Refused)? else {
            return Ok(None);
        };
        let is_whole = parsed.bytes <= self.received.len();
        self.owes_continue = parsed.expects_continue && !is_whole && self.wanted == 0;
        self.wanted = parsed.bytes;
        Ok(is_whole.then_some((parsed.request, parsed.bytes)))
    }

    /// A head is looked at when its empty line is there, when it is too long, or
    /// when a line ends as none may; not for each piece.
    fn may_hold_head(&mut self) -> bool {
        let bytes = &self.received;
        let from = self.searched.saturating_sub(3);
        let is_bare = |at: usize| at == 0 || bytes[at - 1] != b'\r';
        let holds_head = self.wanted > 0
            || bytes.len() > HEAD_BYTES_MAX
            || memmem::find(&bytes[from..], b"\r\n\r\n").is_some()
            || memchr_iter(b'\n', &bytes[from..]).any(|at| is_bare(from + at));
        self.searched = bytes.len();
        holds_head
    }

    fn take(&mut self, consumed: usize) {
        self.received.drain(..consumed);
        self.searched = 0;
        self.wanted = 0;
        if self.received.is_empty() {
            self.received = Vec::new();
        }
    }
}

/// The request at the start of `bytes`, of whose body all may be missing.
fn parse(bytes: &[u8]) -> Result<Option<Parsed>, Refused> {
    let mut slots = HeaderSlots::<HEADERS_MAX>::new();
    let (head, head_bytes): (RequestHead<'_, '_>, _) =
        match RequestHead::decode(bytes, HeadPolicy::HTTP, &mut slots) {
            Ok(Progress::Partial { .. }) => return Ok(None),
            Ok(Progress::Complete { value, consumed }) => (value, consumed),
            Err(HeadError::TooLong { .. }) => return Err(Refused::HeadTooLong),
            Err(HeadError::TooManyHeaders { .. }) => return Err(Refused::TooManyHeaders),
            Err(HeadError::Malformed(_) | HeadError::BareLineFeed { .. }) => {
                return Err(Refused::NotHttp);
            }
        };
    let is_current = head.version == HttpVersion::Http11;
    // RFC 9112 §3.2: one, and in HTTP/1.0 none is needed.
    match head.headers.find_only("Host") {
        Ok(Some(_)) => {}
        Ok(None) if !is_current => {}
        Ok(None) | Err(_) => return Err(Refused::NoHost),
    }
    let body = head.body().map_err(|_| Refused::AmbiguousBody)?;
    // Of an older client's it is to be ignored.
    let expects_continue = is_current && head.headers.has_token("Expect", "100-continue");
    let call = match Call::from_head(&head) {
        Err(CallError::NotOurs) => None,
        call => Some(call),
    };
    let stream = matches!(&call, Some(Ok(call)) if call.streams()).then_some(StreamedBody {
        body,
        expects_continue,
    });
    let body_bytes = match body {
        _ if stream.is_some() => 0,
        Body::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Body::Chunked | Body::UntilClose => return Err(Refused::NoLength),
    };
    if body_bytes > BODY_BYTES_MAX {
        return Err(Refused::BodyTooLong);
    }
    let asked = RestRequest::from_head(&head);
    let (knock, web) = match asked {
        Err(RestError::UnknownPath) if call.is_none() => (
            Knock::from_head(&head, &SPOKEN).ok(),
            WebRequest::from_head(&head),
        ),
        _ => (None, None),
    };
    let request = HttpRequest {
        asked,
        knock,
        call,
        stream,
        web,
        forwarded_for: forwarded_for(&head),
        key: presented_key(&head),
        persistence: Persistence::of(head.version, head.headers),
        upgrade: Upgrade::from_head(&head).map(|upgrade| Switching::to(&upgrade)),
    };
    Ok(Some(Parsed {
        request,
        bytes: head_bytes + body_bytes,
        expects_continue: expects_continue && stream.is_none(),
    }))
}

/// The last address of `X-Forwarded-For`: what comes before it is what somebody else wrote
/// whom nobody asked. With or without a port, and brackets around one of IPv6.
fn forwarded_for(head: &RequestHead<'_, '_>) -> Option<IpAddr> {
    let last = head.headers.tokens("X-Forwarded-For").last()?;
    let with_port = || last.parse().map(|address: SocketAddr| address.ip());
    let bare = last.trim_start_matches('[').trim_end_matches(']');
    bare.parse().or_else(|_| with_port()).ok()
}

fn presented_key(head: &RequestHead<'_, '_>) -> Option<Presented> {
    let header = head.headers.find("Authorization");
    let bearer = header
        .and_then(|value| std::str::from_utf8(value).ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
        .map(|(_, key)| key.trim_start_matches(' '));
    let query = head.target.split_once('?').map_or("", |(_, query)| query);
    let token = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="));
    let original = ptth_http::presented_key(head);
    bearer.or(original).or(token).map(Presented::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTH: HttpRequest = HttpRequest {
        asked: Ok(RestRequest::Health),
        forwarded_for: None,
        key: None,
        persistence: Persistence::KeepAlive,
        upgrade: Err(UpgradeError::NotAsked),
        knock: None,
        call: None,
        stream: None,
        web: None,
    };

    /// What comes of a connection's bytes, cut in pieces of this size.
    fn check(wire: &[u8], piece: usize) -> (Vec<HttpRequest>, Option<HttpEnd>) {
        let mut reader = HttpReader::new(Vec::new());
        let mut requests = Vec::new();
        for bytes in wire.chunks(piece) {
            reader.received.extend_from_slice(bytes);
            loop {
                match reader.parse() {
                    Ok(Some((request, consumed))) => {
                        requests.push(request);
                        reader.take(consumed);
                    }
                    Ok(None) => break,
                    Err(end) => return (requests, Some(end)),
                }
            }
        }
        (requests, None)
    }

    #[test]
    fn requests_come_one_after_the_other_however_they_are_cut() {
        let wire = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n\
            POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n\r\n\r\n1\
            GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let wrong = HttpRequest {
            asked: Err(RestError::WrongMethod { allow: "GET" }),
            ..HEALTH
        };
        let last = HttpRequest {
            persistence: Persistence::Close,
            ..HEALTH
        };
        for piece in 1..=wire.len() {
            let expected = vec![HEALTH, wrong.clone(), last.clone()];
            assert_eq!(check(wire, piece), (expected, None));
        }
    }

    #[test]
    fn a_client_that_asks_before_its_body_is_answered_once() {
        let head = |version: &str, expect: &str| {
            format!("POST /health HTTP/{version}\r\nHost: a\r\n{expect}Content-Length: 3\r\n\r\n")
        };
        let asks = "Expect: 100-continue\r\n";
        for (head, with, owed) in [
            (head("1.1", asks), "", true),
            (head("1.1", "expect: 100-Continue\r\n"), "", true),
            // Who has begun does not wait.
            (head("1.1", asks), "abc", false),
            (head("1.1", ""), "", false),
            (head("1.0", asks), "", false),
        ] {
            let mut reader = HttpReader::new([head.as_bytes(), with.as_bytes()].concat());
            assert_eq!(
                reader.parse().map(|parsed| parsed.is_some()),
                Ok(with == "abc")
            );
            assert_eq!(std::mem::take(&mut reader.owes_continue), owed, "{head}");
            reader.received.extend_from_slice(&b"abc"[with.len()..]);
            assert!(matches!(reader.parse(), Ok(Some(_))));
            assert!(!reader.owes_continue);
        }
    }

    #[test]
    fn whose_a_request_is_stands_last() {
        for (header, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("198.51.100.7, 192.0.2.1", Some("192.0.2.1")),
            ("x\r\nX-Forwarded-For: 192.0.2.1:4711", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:4711", Some("2001:db8::1")),
            ("192.0.2.1, unknown", None),
            ("", None),
        ] {
            let wire =
                format!("GET /health HTTP/1.1\r\nHost: a\r\nx-forwarded-for: {header}\r\n\r\n");
            let request = HttpRequest {
                forwarded_for: expected.map(|ip| ip.parse().unwrap()),
                ..HEALTH
            };
            assert_eq!(check(wire.as_bytes(), 100), (vec![request], None), "{wire}");
        }
    }

    #[test]
    fn a_key_comes_in_a_header_or_in_the_query() {
        for (target, header, expected) in [
            ("/health", "", None),
            ("/health", "Authorization: Bearer abc\r\n", Some("abc")),
            ("/health", "authorization: bearer  abc\r\n", Some("abc")),
            ("/health", "Authorization: Basic abc\r\n", None),
            ("/health?x=y&token=abc", "", Some("abc")),
            ("/health", "X-ApiKey: abc\r\n", Some("abc")),
            (
                "/health?token=other",
                "Authorization: Bearer abc\r\n",
                Some("abc"),
            ),
        ] {
            let wire = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{header}\r\n");
            let request = HttpRequest {
                key: expected.map(Presented::new),
                ..HEALTH
            };
            assert_eq!(check(wire.as_bytes(), 100), (vec![request], None), "{wire}");
        }
        let wire = b"GET /?token=abc HTTP/1.1\r\nAuthorization: Bearer abc\r\n\r\n";
        let reader = HttpReader::new(wire.to_vec());
        let mut slots = HeaderSlots::<4>::new();
        let head = RequestHead::decode(wire, HeadPolicy::HTTP, &mut slots);
        let shown = format!("{:?} {reader:?} {head:?}", Presented::new("abc"));
        assert!(!shown.contains("abc"), "{shown}");
    }

    #[test]
    fn what_is_no_request_ends_the_connection() {
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD_BYTES_MAX));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        for (wire, expected) in [
            ("GET /health HTTP/1.1\r\n\r\n", Refused::NoHost),
            (
                "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                Refused::NoHost,
            ),
            ("GET /health HTTP/1.1\nHost: a\n\n", Refused::NotHttp),
            ("GET /health HTTP/3.1\r\n\r\n", Refused::NotHttp),
            (&long, Refused::HeadTooLong),
            (&many, Refused::TooManyHeaders),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                Refused::AmbiguousBody,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4097\r\n\r\n",
                Refused::BodyTooLong,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                Refused::NoLength,
            ),
        ] {
            let end = Some(HttpEnd::Refused(expected));
            for piece in [1, 7, wire.len()] {
                assert_eq!(check(wire.as_bytes(), piece), (vec![], end), "{wire:.60}");
            }
        }
        let old = check(b"GET /health HTTP/1.0\r\n\r\n", 100);
        let closing = HttpRequest {
            persistence: Persistence::Close,
            ..HEALTH
        };
        assert_eq!(old, (vec![closing], None));
    }
}
