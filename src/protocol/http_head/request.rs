//! The head of a request: RFC 9112 §3.

use std::fmt;

use super::{HeadError, HeadPolicy, HeaderSlots, Headers, HttpVersion, Window};
use crate::protocol::Progress;

/// A request's head, borrowed from the bytes that it was decoded from.
#[derive(Clone, Copy)]
pub struct RequestHead<'slots, 'bytes> {
    /// As it came; methods are case-sensitive in HTTP proper.
    pub method: &'bytes str,
    /// The request target as it came: RFC 9112 §3.2. Not empty, no white space.
    pub target: &'bytes str,
    /// The version in the request line.
    pub version: HttpVersion,
    /// What follows the request line.
    pub headers: Headers<'slots, 'bytes>,
}

/// Without the target's query, which may hold a key.
impl fmt::Debug for RequestHead<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("path", &path)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl<'slots, 'bytes> RequestHead<'slots, 'bytes> {
    /// Decodes the head at the start of `bytes`. Empty lines before the
    /// request line are skipped (RFC 9112 §2.2) and count as part of the head.
    ///
    /// # Errors
    /// If no continuation of `bytes` could be a head that `policy` and the
    /// number of slots allow.
    pub fn decode<const N: usize>(
        bytes: &'bytes [u8],
        policy: HeadPolicy,
        slots: &'slots mut HeaderSlots<'bytes, N>,
    ) -> Result<Progress<Self>, HeadError> {
        let window = Window::new(bytes, policy);
        let mut request = httparse::Request::new(&mut []);
        let status = request.parse_with_uninit_headers(window.bytes, &mut slots.slots);
        window.judge(status, N, move || Self {
            method: request.method.unwrap_or_default(),
            target: request.path.unwrap_or_default(),
            version: HttpVersion::from_minor(request.version),
            headers: Headers {
                headers: request.headers,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http_head::LineEnding;

    const LENIENT: HeadPolicy = HeadPolicy {
        line_ending: LineEnding::CrLfOrLf,
        ..HeadPolicy::HTTP
    };
    const SHORT: HeadPolicy = HeadPolicy {
        bytes_max: 32,
        ..HeadPolicy::HTTP
    };

    /// Decodes `input` whole and cut at every byte. `expected` is the number
    /// of bytes consumed, `None` for a head that wants more.
    fn check(input: &str, policy: HeadPolicy, expected: Result<Option<usize>, HeadError>) {
        let decode = |bytes: &[u8]| {
            let mut slots = HeaderSlots::<3>::new();
            RequestHead::decode(bytes, policy, &mut slots).map(|progress| match progress {
                Progress::Partial { .. } => None,
                Progress::Complete { consumed, .. } => Some(consumed),
            })
        };
        assert_eq!(decode(input.as_bytes()), expected, "{input:?}");
        for cut in 0..input.len() {
            let got = decode(&input.as_bytes()[..cut]);
            let complete = matches!(expected, Ok(Some(consumed)) if consumed <= cut);
            if complete {
                assert_eq!(got, expected, "{input:?} cut at {cut}");
            } else {
                assert!(
                    got == Ok(None) || got == expected,
                    "{input:?} cut at {cut}: {got:?}"
                );
            }
        }
    }

    #[test]
    fn decodes_and_refuses() {
        let malformed = |error| Err(HeadError::Malformed(error));
        check(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            HeadPolicy::HTTP,
            Ok(Some(27)),
        );
        check(
            "GET / HTTP/1.1\r\n\r\nbody\n",
            HeadPolicy::HTTP,
            Ok(Some(18)),
        );
        check("GET / HTTP/1.0\r\n\r\n", HeadPolicy::HTTP, Ok(Some(18)));
        check("\r\nGET / HTTP/1.1\r\n\r\n", HeadPolicy::HTTP, Ok(Some(20)));
        check("GET / HTTP/1.1\r\nHost: a\r\n", HeadPolicy::HTTP, Ok(None));
        check("", HeadPolicy::HTTP, Ok(None));
        // Bare line feeds: wherever they stand, and only within the head.
        check("GET / HTTP/1.1\nHost: a\n\n", LENIENT, Ok(Some(24)));
        check("GET / HTTP/1.1\r\nHost: a\n\r\n", LENIENT, Ok(Some(26)));
        for (input, line) in [
            ("GET / HTTP/1.1\nHost: a\n\n", 1),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", 2),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", 3),
            ("\nGET / HTTP/1.1\r\n\r\n", 1),
        ] {
            check(
                input,
                HeadPolicy::HTTP,
                Err(HeadError::BareLineFeed { line }),
            );
        }
        // Limits: at the limit, one above, and never reached.
        check("GET /23456789012 HTTP/1.1\r\na:\r\n\r\n", SHORT, too_long());
        check(
            "GET /2345678901 HTTP/1.1\r\na:\r\n\r\n",
            SHORT,
            Ok(Some(32)),
        );
        check("GET /234567890 HTTP/1.1\r\na:\r\n\r\n", SHORT, Ok(Some(31)));
        check("GET /2345678901234567890123456789", SHORT, too_long());
        check(
            "GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n",
            HeadPolicy::HTTP,
            Ok(Some(36)),
        );
        check(
            "GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n\r\n",
            HeadPolicy::HTTP,
            Err(HeadError::TooManyHeaders { limit: 3 }),
        );
        // Grammar.
        check(
            "GET / HTTP/2.0\r\n\r\n",
            HeadPolicy::HTTP,
            malformed(httparse::Error::Version),
        );
        check(
            "G@T / HTTP/1.1\r\n\r\n",
            HeadPolicy::HTTP,
            malformed(httparse::Error::Token),
        );
        check(
            "GET / HTTP/1.1\r\na : 1\r\n\r\n",
            HeadPolicy::HTTP,
            malformed(httparse::Error::HeaderName),
        );
        check(
            "GET / HTTP/1.1\r\na: 1\r\n folded\r\n\r\n",
            HeadPolicy::HTTP,
            malformed(httparse::Error::HeaderName),
        );
        for value in ["a\0b", "a\rb", "a\r", "\u{b}a", "\u{7f}"] {
            check(
                &format!("GET / HTTP/1.1\r\na: {value}\r\n\r\n"),
                HeadPolicy::HTTP,
                malformed(httparse::Error::HeaderValue),
            );
        }
        for name in ["a\0", "a\r", "", "\u{e9}"] {
            check(
                &format!("GET / HTTP/1.1\r\n{name}: 1\r\n\r\n"),
                HeadPolicy::HTTP,
                malformed(httparse::Error::HeaderName),
            );
        }
        for target in ["/a\0", "/a\rb", "/a b"] {
            check(
                &format!("GET {target} HTTP/1.1\r\n\r\n"),
                HeadPolicy::HTTP,
                malformed(if target == "/a b" {
                    httparse::Error::Version
                } else {
                    httparse::Error::Token
                }),
            );
        }
        check(
            "\u{16}\u{3}\u{1}",
            HeadPolicy::HTTP,
            malformed(httparse::Error::Token),
        );
    }

    fn too_long() -> Result<Option<usize>, HeadError> {
        Err(HeadError::TooLong { limit_bytes: 32 })
    }

    #[test]
    fn headers_are_found_whatever_their_case() {
        let bytes = b"PUT /x?y HTTP/1.1\r\nHOST: a \r\nx-Name: 1\r\nX-NAME: 2\r\nEmpty:\r\n\r\n";
        let mut slots = HeaderSlots::<HEADERS>::new();
        let decoded = RequestHead::decode(bytes, HeadPolicy::HTTP, &mut slots).unwrap();
        let Progress::Complete {
            value: head,
            consumed,
        } = decoded
        else {
            panic!("partial: {decoded:?}");
        };
        assert_eq!(consumed, bytes.len());
        assert_eq!((head.method, head.target), ("PUT", "/x?y"));
        assert_eq!(head.version, HttpVersion::Http11);
        assert_eq!(head.headers.find("host"), Some(&b"a"[..]));
        assert_eq!(head.headers.find("X-Name"), Some(&b"1"[..]));
        assert_eq!(head.headers.find("empty"), Some(&b""[..]));
        assert_eq!(head.headers.find("Host2"), None);
        assert_eq!(head.headers.len(), HEADERS);
        assert!(!head.headers.is_empty());
        let names: Vec<_> = head.headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["HOST", "x-Name", "X-NAME", "Empty"]);
        assert!(
            !format!("{head:?}").contains('2'),
            "a value must not reach a log"
        );
    }

    const HEADERS: usize = 4;
}
