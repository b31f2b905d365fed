//! The head of a response: RFC 9112 §4.

use super::{HEADERS_MAX, HeadError, HeadPolicy, HeaderSlots, Headers, HttpVersion, Window};
use crate::protocol::Progress;

/// A response's head, borrowed from the bytes that it was decoded from.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'slots, 'bytes> {
    /// The three digits of the status code: 0 to 999, whatever they mean.
    pub status: u16,
    /// The text after the status code. Empty if there was none or if it was
    /// not ASCII; it means nothing to a program.
    pub reason: &'bytes str,
    /// The version in the status line.
    pub version: HttpVersion,
    /// What follows the status line.
    pub headers: Headers<'slots, 'bytes>,
}

impl<'slots, 'bytes> ResponseHead<'slots, 'bytes> {
    /// Decodes the head at the start of `bytes`.
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
        let mut response = httparse::Response::new(&mut []);
        let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            window.bytes,
            &mut slots.slots,
        );
        window.judge(status, N, move || Self {
            status: response.code.unwrap_or_default(),
            reason: response.reason.unwrap_or_default(),
            version: HttpVersion::from_minor(response.version),
            headers: Headers {
                headers: response.headers,
            },
        })
    }

    /// The bytes of the heads before the final one, which say nothing of it: RFC 9110 §15.2.
    ///
    /// # Errors
    /// As [`Self::decode`], or if there are more of them than the policy lets one be long.
    pub fn interim_bytes(bytes: &[u8], policy: HeadPolicy) -> Result<usize, HeadError> {
        let mut interim = 0;
        loop {
            let mut slots = HeaderSlots::<HEADERS_MAX>::new();
            let head = ResponseHead::decode(&bytes[interim..], policy, &mut slots)?;
            let Progress::Complete { value, consumed } = head else {
                return Ok(interim);
            };
            if !matches!(value.status, 100..=199) {
                return Ok(interim);
            }
            interim += consumed;
            let limit_bytes = policy.bytes_max;
            if interim > limit_bytes {
                return Err(HeadError::TooLong { limit_bytes });
            }
        }
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

    /// `expected` is status, reason and bytes consumed, `None` for a head that
    /// wants more.
    fn check(
        input: &str,
        policy: HeadPolicy,
        expected: Result<Option<(u16, &str, usize)>, HeadError>,
    ) {
        let mut slots = HeaderSlots::<2>::new();
        let decoded = ResponseHead::decode(input.as_bytes(), policy, &mut slots);
        let got = decoded.map(|progress| match progress {
            Progress::Partial { .. } => None,
            Progress::Complete { value, consumed } => Some((value.status, value.reason, consumed)),
        });
        assert_eq!(got, expected, "{input:?}");
    }

    #[test]
    fn heads_before_the_final_one_are_skipped() {
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        for (wire, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n".to_owned(), Ok(0)),
            (format!("{interim}HTTP/1.1 200"), Ok(interim.len())),
            (format!("{interim}{interim}"), Ok(2 * interim.len())),
            (
                interim.repeat(HeadPolicy::HTTP.bytes_max / interim.len() + 1),
                Err(HeadError::TooLong {
                    limit_bytes: HeadPolicy::HTTP.bytes_max,
                }),
            ),
        ] {
            let skipped = ResponseHead::interim_bytes(wire.as_bytes(), HeadPolicy::HTTP);
            assert_eq!(skipped, expected);
        }
    }

    #[test]
    fn decodes_and_refuses() {
        let bare = |line| Err(HeadError::BareLineFeed { line });
        check(
            "HTTP/1.1 200 OK\r\n\r\nrest",
            HeadPolicy::HTTP,
            Ok(Some((200, "OK", 19))),
        );
        check(
            "HTTP/1.1 200 OK 200\r\n\r\n",
            HeadPolicy::HTTP,
            Ok(Some((200, "OK 200", 23))),
        );
        check(
            "HTTP/1.0 404\r\n\r\n",
            HeadPolicy::HTTP,
            Ok(Some((404, "", 16))),
        );
        check("HTTP/1.1 200 OK\r\nA: b\r\n", HeadPolicy::HTTP, Ok(None));
        check("HTTP/1.1 200 OK\nA: b\n\n", HeadPolicy::HTTP, bare(1));
        check(
            "HTTP/1.1 200 OK\nA: b\n\n",
            LENIENT,
            Ok(Some((200, "OK", 22))),
        );
        check(
            "HTTP/1.1 2x0 OK\r\n\r\n",
            HeadPolicy::HTTP,
            Err(HeadError::Malformed(httparse::Error::Status)),
        );
        check(
            "HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n",
            HeadPolicy::HTTP,
            Err(HeadError::TooManyHeaders { limit: 2 }),
        );
        check(
            "HTTP/1.1 200 OK\r\n\r\n",
            HeadPolicy {
                bytes_max: 18,
                ..HeadPolicy::HTTP
            },
            Err(HeadError::TooLong { limit_bytes: 18 }),
        );
    }
}
