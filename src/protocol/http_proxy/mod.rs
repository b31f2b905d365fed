//! What a client asks of an HTTP proxy: to be connected (RFC 9110 §9.3.6), or to have one
//! request passed on (RFC 9112 §3.2.2).
//!
//! A request that is passed on has its connection to itself: its head is written anew, as
//! the server is to have it, with `Connection: close`, and an [`Exchange`] says how much of
//! what is behind the head goes through.
//!
//! Left out: a second request on a connection, upgrades of one that is passed on, and caches.

mod exchange;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::Progress;
use super::http_head::{
    Answer, FramingError, HEADERS_MAX, HeadError, HeadPolicy, HeaderSlots, Headers, HttpVersion,
    Persistence, RequestHead,
};
use super::socks5::{AddressError, Credentials, Destination};
pub use exchange::{Exchange, ExchangeError};

/// What a client asks for, and who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRequest {
    /// What.
    pub asked: ProxyAsked,
    /// Who, where it says so: RFC 9110 §11.7.2, RFC 7617.
    pub credentials: Option<Credentials>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyAsked {
    /// To be connected.
    Connect(Destination),
    /// To have a request passed on.
    Pass {
        /// Where to.
        destination: Destination,
        /// Its head, as the server is to have it.
        head: Vec<u8>,
        /// What follows.
        exchange: Exchange,
    },
    /// Something of the proxy itself.
    Own {
        /// Its path.
        path: String,
        /// By which name the client has the proxy: `Host`.
        host: Option<String>,
    },
}

/// Why nothing is done at such a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// Not HTTP.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// No host and port to connect to.
    #[error("the target of CONNECT is not HOST:PORT")]
    Target,
    /// A request of another scheme than `http`, or without a host.
    #[error("the target is not http://HOST/PATH")]
    Url,
    /// It is not certain where a request ends that is to be passed on.
    #[error(transparent)]
    Framing(#[from] FramingError),
}

/// The answer to a client that is connected.
pub const CONNECTED: &[u8] = b"HTTP/1.1 200 Connected\r\n\r\n";

/// Headers that are between two ends of a connection, beside those that `Connection` lists:
/// RFC 9110 §7.6.1.
const HOP_BY_HOP: [&str; 7] = [
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "TE",
    "Upgrade",
];

/// Headers that tell where a body ends. It is passed on as it is, and so are they.
const FRAMING: [&str; 2] = ["Content-Length", "Transfer-Encoding"];

/// Whose headers are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HopByHop {
    /// `Host` is written anew: RFC 9112 §3.2.2.
    Request,
    Response,
}

impl ProxyRequest {
    /// Decodes the request at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, ProxyError> {
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        let (head, consumed) = match RequestHead::decode(bytes, HeadPolicy::HTTP, &mut slots)? {
            Progress::Partial { more_bytes_min } => {
                return Ok(Progress::Partial { more_bytes_min });
            }
            Progress::Complete { value, consumed } => (value, consumed),
        };
        let asked = match (head.method, head.target) {
            ("CONNECT", target) => {
                let destination = authority(target, None).ok_or(ProxyError::Target)?;
                ProxyAsked::Connect(destination)
            }
            (_, path) if path.starts_with('/') => {
                let host = head.headers.find_only("Host").ok().flatten();
                let host = host.and_then(|host| str::from_utf8(host).ok());
                ProxyAsked::Own {
                    path: path.to_owned(),
                    host: host.map(str::to_owned),
                }
            }
            (_, url) => {
                let (host, path) = split_url(url).ok_or(ProxyError::Url)?;
                let destination = authority(host, Some(80)).ok_or(ProxyError::Url)?;
                let exchange = Exchange::new(head.method, head.body()?);
                let head = rewritten(&head, host, path);
                ProxyAsked::Pass {
                    destination,
                    head,
                    exchange,
                }
            }
        };
        let credentials = credentials(&head);
        let value = Self { asked, credentials };
        Ok(Progress::Complete { value, consumed })
    }
}

impl ProxyError {
    /// What the client is told.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        let (status, text) = match self {
            Self::Head(HeadError::TooLong { .. } | HeadError::TooManyHeaders { .. }) => {
                (431, "the head is too long\n")
            }
            Self::Head(_) => (400, "this is not HTTP\n"),
            Self::Target => (400, "CONNECT takes HOST:PORT\n"),
            Self::Url => (
                400,
                "a proxy takes http://HOST/PATH, and CONNECT for all else\n",
            ),
            Self::Framing(_) => (400, "it is not certain where the request ends\n"),
        };
        refusal(status, text)
    }
}

/// The answer to a client that gets nothing.
#[must_use]
pub fn refusal(status: u16, text: &str) -> Vec<u8> {
    let mut answer = Answer::with_body(status, "text/plain; charset=utf-8", text);
    if status == 407 {
        answer = answer.with_header("Proxy-Authenticate", "Basic realm=\"midspan\"");
    }
    answer.encode(Persistence::Close)
}

/// Host and path of an absolute URL: RFC 9112 §3.2.2.
fn split_url(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// A host, and a port that may be left out only where there is a usual one.
fn authority(written: &str, usual_port: Option<u16>) -> Option<Destination> {
    let (host, port) = match written.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            (host, port.parse::<u16>().ok().filter(|_| is_number)?)
        }
        _ => (written, usual_port?),
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_bare = bracketed.is_some() || !host.contains([':', '[', ']', '/', '@']);
    let named: Result<_, AddressError> = Destination::named(bracketed.unwrap_or(host), port);
    named.ok().filter(|_| is_bare)
}

/// A head as a server is to have it.
fn rewritten(head: &RequestHead<'_, '_>, host: &str, path: &str) -> Vec<u8> {
    let version = match head.version {
        HttpVersion::Http10 => "1.0",
        HttpVersion::Http11 => "1.1",
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let method = head.method;
    let mut bytes =
        format!("{method} {slash}{path} HTTP/{version}\r\nHost: {host}\r\n").into_bytes();
    push_headers(head.headers, HopByHop::Request, &mut bytes);
    bytes.extend_from_slice(b"Connection: close\r\n\r\n");
    bytes
}

/// Appends the headers that are for whoever is behind us.
fn push_headers(headers: Headers<'_, '_>, whose: HopByHop, bytes: &mut Vec<u8>) {
    for (name, value) in headers.iter() {
        let is_own = |own: &&str| name.eq_ignore_ascii_case(own);
        let is_between = HOP_BY_HOP.iter().any(is_own)
            || whose == HopByHop::Request && is_own(&"Host")
            || headers.has_token("Connection", name);
        if is_between && !FRAMING.iter().any(is_own) {
            continue;
        }
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
}

fn credentials(head: &RequestHead<'_, '_>) -> Option<Credentials> {
    let value = head
        .headers
        .find_only("Proxy-Authorization")
        .ok()
        .flatten()?;
    let (scheme, encoded) = str::from_utf8(value).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim_matches(' ')).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Credentials::new(&decoded[..colon], &decoded[colon + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Progress<ProxyRequest>, ProxyError> {
        ProxyRequest::decode(text.as_bytes())
    }

    #[track_caller]
    fn asked(text: &str) -> ProxyAsked {
        match decode(text) {
            Ok(Progress::Complete { value, .. }) => value.asked,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_read_however_it_is_cut() {
        for (target, expected) in [
            ("example.com:443", "example.com:443"),
            ("192.0.2.7:80", "192.0.2.7:80"),
            ("[2001:db8::7]:22", "[2001:db8::7]:22"),
        ] {
            let text = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
            for cut in 0..text.len() {
                let got = decode(&text[..cut]);
                assert!(matches!(got, Ok(Progress::Partial { .. })), "cut at {cut}");
            }
            let Ok(Progress::Complete { value, consumed }) = decode(&format!("{text}early")) else {
                panic!("{text}");
            };
            assert_eq!((value.credentials, consumed), (None, text.len()));
            let ProxyAsked::Connect(destination) = value.asked else {
                panic!("{text}");
            };
            assert_eq!(destination.to_string(), expected);
        }
    }

    #[test]
    fn a_request_is_passed_on_as_the_server_is_to_have_it() {
        let check = |request: &str, destination: &str, head: &str| {
            let ProxyAsked::Pass {
                destination: got,
                head: rewritten,
                ..
            } = asked(request)
            else {
                panic!("{request}");
            };
            assert_eq!(got.to_string(), destination);
            assert_eq!(String::from_utf8_lossy(&rewritten), head);
        };
        check(
            "POST http://example.com:8080/a?b=c HTTP/1.1\r\nHost: other\r\nContent-Length: 3\r\n\
             Proxy-Authorization: Basic YTpi\r\nProxy-Connection: keep-alive\r\n\
             Connection: keep-alive, X-Own\r\nX-Own: 1\r\nAccept: */*\r\n\r\n",
            "example.com:8080",
            "POST /a?b=c HTTP/1.1\r\nHost: example.com:8080\r\nContent-Length: 3\r\n\
             Accept: */*\r\nConnection: close\r\n\r\n",
        );
        // What tells where a body ends stays, whatever `Connection` says.
        check(
            "PUT http://a/ HTTP/1.1\r\nConnection: content-length, host, TE\r\nTE: trailers\r\n\
             Content-Length: 3\r\nHost: a\r\nUpgrade: x\r\n\r\n",
            "a:80",
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\n",
        );
        check(
            "GET HTTP://[::1] HTTP/1.0\r\n\r\n",
            "[::1]:80",
            "GET / HTTP/1.0\r\nHost: [::1]\r\nConnection: close\r\n\r\n",
        );
        check(
            "GET http://a?q HTTP/1.1\r\n\r\n",
            "a:80",
            "GET /?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        );
    }

    #[test]
    fn something_of_the_proxys_own_is_a_path() {
        let own = asked("GET /proxy.pac HTTP/1.1\r\nHost: localhost:1080\r\n\r\n");
        let path = "/proxy.pac".to_owned();
        let host = Some("localhost:1080".to_owned());
        assert_eq!(own, ProxyAsked::Own { path, host });
    }

    #[test]
    fn who_it_is_may_be_said() {
        let check = |value: &str, expected: Option<(&str, &str)>| {
            let text = format!("CONNECT a:1 HTTP/1.1\r\n{value}\r\n");
            let Ok(Progress::Complete { value: got, .. }) = decode(&text) else {
                panic!("{text}");
            };
            let expected = expected.and_then(|(user, password)| Credentials::new(user, password));
            assert!(got.credentials == expected, "{value}");
        };
        check("Proxy-Authorization: Basic YTpi\r\n", Some(("a", "b")));
        check(
            "proxy-authorization: basic YTpiOmM=\r\n",
            Some(("a", "b:c")),
        );
        check("Proxy-Authorization: Basic YWI=\r\n", None);
        check("Proxy-Authorization: Bearer YTpi\r\n", None);
        check("Authorization: Basic YTpi\r\n", None);
        check("", None);
    }

    #[test]
    fn a_request_is_refused_whose_end_is_not_certain() {
        use FramingError::{BadLength, LengthAndCoding, TwoLengths, UnknownCoding};
        for (headers, expected) in [
            (
                "Content-Length: 3\r\nTransfer-Encoding: chunked",
                LengthAndCoding,
            ),
            ("Content-Length: 3\r\nContent-Length: 3", TwoLengths),
            ("Content-Length: 3, 3", BadLength),
            ("Connection: Content-Length\r\nContent-Length: x", BadLength),
            ("Transfer-Encoding: gzip, chunked", UnknownCoding),
        ] {
            let text = format!("POST http://a/ HTTP/1.1\r\n{headers}\r\n\r\n");
            let error = decode(&text).expect_err(headers);
            assert_eq!(error, ProxyError::Framing(expected), "{headers}");
            assert!(error.answer().starts_with(b"HTTP/1.1 400 "), "{headers}");
        }
    }

    #[test]
    fn all_else_is_refused_in_words() {
        for (text, expected, status) in [
            ("CONNECT a HTTP/1.1\r\n\r\n", ProxyError::Target, 400),
            ("CONNECT a: HTTP/1.1\r\n\r\n", ProxyError::Target, 400),
            ("CONNECT a:+1 HTTP/1.1\r\n\r\n", ProxyError::Target, 400),
            ("CONNECT a:65536 HTTP/1.1\r\n\r\n", ProxyError::Target, 400),
            ("CONNECT ::1:80 HTTP/1.1\r\n\r\n", ProxyError::Target, 400),
            ("CONNECT :80 HTTP/1.1\r\n\r\n", ProxyError::Target, 400),
            ("CONNECT u@a:80 HTTP/1.1\r\n\r\n", ProxyError::Target, 400),
            ("GET https://a/ HTTP/1.1\r\n\r\n", ProxyError::Url, 400),
            ("GET http:///x HTTP/1.1\r\n\r\n", ProxyError::Url, 400),
            ("GET http://u:p@a/ HTTP/1.1\r\n\r\n", ProxyError::Url, 400),
            ("OPTIONS * HTTP/1.1\r\n\r\n", ProxyError::Url, 400),
        ] {
            let error = decode(text).expect_err(text);
            assert_eq!(error, expected, "{text}");
            let answer = String::from_utf8(error.answer()).expect("text");
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
        }
        assert!(matches!(decode("\u{1}\r\n\r\n"), Err(ProxyError::Head(_))));
        let asks = String::from_utf8(refusal(407, "who are you?\n")).expect("text");
        assert!(asks.contains("Proxy-Authenticate: Basic"), "{asks}");
    }
}
