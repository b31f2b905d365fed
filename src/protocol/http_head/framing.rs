//! What follows a head, and where it ends: RFC 9112 §6.
//!
//! Two programs that disagree about where a message ends can be made to disagree
//! about what the next one says. So whatever could be read in two ways is refused,
//! also where the RFC lets a recipient choose one.

use thiserror::Error;

use super::{Headers, HttpVersion, RequestHead, ResponseHead};

/// Where a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes; 0 where there is none.
    Length(u64),
    /// With the last chunk: RFC 9112 §7.1.
    Chunked,
    /// With the connection: responses only.
    UntilClose,
}

/// Why it is not certain where a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FramingError {
    /// `Content-Length` is not a number, or too large for one.
    #[error("header Content-Length is not a number of bytes")]
    BadLength,
    /// It came twice, whether alike or not.
    #[error("header Content-Length came twice")]
    TwoLengths,
    /// A length and chunks: §6.1.
    #[error("headers Content-Length and Transfer-Encoding exclude each other")]
    LengthAndCoding,
    /// Chunks in HTTP/1.0, which has none: §6.1.
    #[error("header Transfer-Encoding in HTTP/1.0")]
    CodingInHttp10,
    /// Anything but `chunked`, once.
    #[error("header Transfer-Encoding is not chunked alone")]
    UnknownCoding,
}

impl RequestHead<'_, '_> {
    /// Where the request's body ends.
    ///
    /// # Errors
    /// If that is not certain: answer, and close the connection.
    pub fn body(&self) -> Result<Body, FramingError> {
        Ok(declared(self.headers, self.version)?.unwrap_or(Body::Length(0)))
    }
}

impl ResponseHead<'_, '_> {
    /// Where the response's body ends. `method` is what was asked with. After a
    /// CONNECT that was granted, what follows is the tunnel's.
    ///
    /// # Errors
    /// If that is not certain: close the connection.
    pub fn body(&self, method: &str) -> Result<Body, FramingError> {
        let has_none = method == "HEAD"
            || matches!(self.status, 100..=199 | 204 | 304)
            || (method == "CONNECT" && matches!(self.status, 200..=299));
        if has_none {
            return Ok(Body::Length(0));
        }
        Ok(declared(self.headers, self.version)?.unwrap_or(Body::UntilClose))
    }
}

fn declared(headers: Headers<'_, '_>, version: HttpVersion) -> Result<Option<Body>, FramingError> {
    let length = headers
        .find_only("Content-Length")
        .map_err(|_| FramingError::TwoLengths)?;
    let coding = headers
        .find_only("Transfer-Encoding")
        .map_err(|_| FramingError::UnknownCoding)?;
    match (length, coding) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(FramingError::LengthAndCoding),
        (Some(digits), None) => {
            let length = decimal(digits).ok_or(FramingError::BadLength)?;
            Ok(Some(Body::Length(length)))
        }
        (None, Some(_)) if version == HttpVersion::Http10 => Err(FramingError::CodingInHttp10),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Body::Chunked)),
        (None, Some(_)) => Err(FramingError::UnknownCoding),
    }
}

/// One or more digits, and nothing else: no sign, no list.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let value = digit.checked_sub(b'0').filter(|value| *value <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Progress;
    use crate::protocol::http_head::{HeadPolicy, HeaderSlots};

    fn request(version: &str, headers: &str) -> Result<Body, FramingError> {
        let text = format!("POST / HTTP/{version}\r\n{headers}\r\n");
        let mut slots = HeaderSlots::<8>::new();
        match RequestHead::decode(text.as_bytes(), HeadPolicy::HTTP, &mut slots) {
            Ok(Progress::Complete { value, .. }) => value.body(),
            other => panic!("{other:?}"),
        }
    }

    fn response(status: u16, headers: &str, method: &str) -> Result<Body, FramingError> {
        let text = format!("HTTP/1.1 {status} x\r\n{headers}\r\n");
        let mut slots = HeaderSlots::<8>::new();
        match ResponseHead::decode(text.as_bytes(), HeadPolicy::HTTP, &mut slots) {
            Ok(Progress::Complete { value, .. }) => value.body(method),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_ends_where_its_head_says() {
        assert_eq!(request("1.1", ""), Ok(Body::Length(0)));
        assert_eq!(
            request("1.1", "content-length: 0042\r\n"),
            Ok(Body::Length(42))
        );
        assert_eq!(
            request("1.1", "Content-Length: 18446744073709551615\r\n"),
            Ok(Body::Length(u64::MAX))
        );
        assert_eq!(
            request("1.1", "Transfer-Encoding: Chunked\r\n"),
            Ok(Body::Chunked)
        );
        assert_eq!(response(200, "", "GET"), Ok(Body::UntilClose));
        let five = "Content-Length: 5\r\n";
        assert_eq!(response(200, five, "GET"), Ok(Body::Length(5)));
        for (status, method) in [
            (200, "HEAD"),
            (101, "GET"),
            (204, "GET"),
            (304, "GET"),
            (200, "CONNECT"),
        ] {
            assert_eq!(response(status, five, method), Ok(Body::Length(0)));
        }
        assert_eq!(response(407, five, "CONNECT"), Ok(Body::Length(5)));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        use FramingError::{BadLength, CodingInHttp10, LengthAndCoding, TwoLengths, UnknownCoding};
        for (headers, expected) in [
            ("Content-Length: 5\r\nContent-Length: 5\r\n", TwoLengths),
            ("Content-Length: 5\r\ncontent-length: 6\r\n", TwoLengths),
            ("Content-Length: 5, 5\r\n", BadLength),
            ("Content-Length: +5\r\n", BadLength),
            ("Content-Length: -5\r\n", BadLength),
            ("Content-Length: 0x5\r\n", BadLength),
            ("Content-Length: 5 5\r\n", BadLength),
            ("Content-Length:\r\n", BadLength),
            ("Content-Length: 18446744073709551616\r\n", BadLength),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                LengthAndCoding,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
                LengthAndCoding,
            ),
            ("Transfer-Encoding: gzip, chunked\r\n", UnknownCoding),
            ("Transfer-Encoding: chunked, chunked\r\n", UnknownCoding),
            ("Transfer-Encoding: xchunked\r\n", UnknownCoding),
            ("Transfer-Encoding: identity\r\n", UnknownCoding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                UnknownCoding,
            ),
        ] {
            assert_eq!(request("1.1", headers), Err(expected), "{headers:?}");
        }
        assert_eq!(
            request("1.0", "Transfer-Encoding: chunked\r\n"),
            Err(CodingInHttp10)
        );
    }
}
