//! A client that asks a proxy to connect it: RFC 9110 §9.3.6.
//!
//! Left out: requests that a proxy would pass on itself. They are refused, since what
//! serves here knows connections and no requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::Progress;
use super::http_head::{
    Answer, HEADERS_MAX, HeadError, HeadPolicy, HeaderSlots, Persistence, RequestHead,
};
use super::socks5::{AddressError, Credentials, Destination};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Where to.
    pub destination: Destination,
    /// Who it is, where it says so: RFC 9110 §11.7.2, RFC 7617.
    pub credentials: Option<Credentials>,
}

/// Why nobody is connected at such a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// Not HTTP.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Something other than to be connected.
    #[error("the method is not CONNECT")]
    Method,
    /// No host and port.
    #[error("the target is not HOST:PORT")]
    Target,
}

impl ConnectRequest {
    /// Decodes the request at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, ConnectError> {
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        let (head, consumed) = match RequestHead::decode(bytes, HeadPolicy::HTTP, &mut slots)? {
            Progress::Partial { more_bytes_min } => {
                return Ok(Progress::Partial { more_bytes_min });
            }
            Progress::Complete { value, consumed } => (value, consumed),
        };
        if head.method != "CONNECT" {
            return Err(ConnectError::Method);
        }
        let value = Self {
            destination: destination(head.target).ok_or(ConnectError::Target)?,
            credentials: credentials(&head),
        };
        Ok(Progress::Complete { value, consumed })
    }
}

impl ConnectError {
    /// What the client is told.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        let (status, text) = match self {
            Self::Head(HeadError::TooLong { .. } | HeadError::TooManyHeaders { .. }) => {
                (431, "the head is too long\n")
            }
            Self::Head(_) => (400, "this is not HTTP\n"),
            Self::Method => (
                405,
                "this proxy connects, and passes no requests on: use CONNECT, or SOCKS5 on the \
                 same port\n",
            ),
            Self::Target => (400, "CONNECT takes HOST:PORT\n"),
        };
        refusal(status, text)
    }
}

/// The answer to a client that is connected.
pub const CONNECTED: &[u8] = b"HTTP/1.1 200 Connected\r\n\r\n";

/// The answer to one that is not.
#[must_use]
pub fn refusal(status: u16, text: &str) -> Vec<u8> {
    let mut answer = Answer::with_body(status, "text/plain; charset=utf-8", text);
    if status == 405 {
        answer = answer.with_header("Allow", "CONNECT");
    }
    if status == 407 {
        answer = answer.with_header("Proxy-Authenticate", "Basic realm=\"midspan\"");
    }
    answer.encode(Persistence::Close)
}

/// RFC 9112 §3.2.3: a host, and a port that is there.
fn destination(target: &str) -> Option<Destination> {
    let (host, port) = target.rsplit_once(':')?;
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|_| is_number)?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_bare = bracketed.is_some() || !host.contains([':', '[', ']', '/', '@']);
    let named: Result<_, AddressError> = Destination::named(bracketed.unwrap_or(host), port);
    named.ok().filter(|_| is_bare)
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

    fn decode(text: &str) -> Result<Progress<ConnectRequest>, ConnectError> {
        ConnectRequest::decode(text.as_bytes())
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
            assert_eq!(value.destination.to_string(), expected);
            assert_eq!((value.credentials, consumed), (None, text.len()));
        }
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
    fn all_else_is_refused_in_words() {
        for (text, expected, status) in [
            ("GET http://a/ HTTP/1.1\r\n\r\n", ConnectError::Method, 405),
            ("CONNECT a HTTP/1.1\r\n\r\n", ConnectError::Target, 400),
            ("CONNECT a: HTTP/1.1\r\n\r\n", ConnectError::Target, 400),
            ("CONNECT a:+1 HTTP/1.1\r\n\r\n", ConnectError::Target, 400),
            (
                "CONNECT a:65536 HTTP/1.1\r\n\r\n",
                ConnectError::Target,
                400,
            ),
            ("CONNECT ::1:80 HTTP/1.1\r\n\r\n", ConnectError::Target, 400),
            ("CONNECT :80 HTTP/1.1\r\n\r\n", ConnectError::Target, 400),
            ("CONNECT u@a:80 HTTP/1.1\r\n\r\n", ConnectError::Target, 400),
        ] {
            let error = decode(text).expect_err(text);
            assert_eq!(error, expected, "{text}");
            let answer = String::from_utf8(error.answer()).expect("text");
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
        }
        assert!(matches!(
            decode("\u{1}\r\n\r\n"),
            Err(ConnectError::Head(_))
        ));
        let asks = String::from_utf8(refusal(407, "who are you?\n")).expect("text");
        assert!(asks.contains("Proxy-Authenticate: Basic"), "{asks}");
    }
}
