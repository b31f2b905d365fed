//! What holds for both kinds of HTTP head: what decodes is decoded again when it
//! is written down, and what strict line endings allow, lenient ones do as well.

use std::fmt::Debug;

use midspan::protocol::Progress;
use midspan::protocol::http_head::{HeadError, HeadPolicy, Headers, HttpVersion, LineEnding};

use super::prefixes;

const LENIENT: HeadPolicy = HeadPolicy {
    line_ending: LineEnding::CrLfOrLf,
    ..HeadPolicy::HTTP
};
const SHORT: HeadPolicy = HeadPolicy {
    bytes_max: 64,
    ..HeadPolicy::HTTP
};

/// The line that tells one kind of head from the other, borrowing nothing.
pub(crate) trait StartLine: Debug + PartialEq + Sized {
    /// Decodes a head with at most `N` headers.
    fn decode<const N: usize>(
        bytes: &[u8],
        policy: HeadPolicy,
    ) -> Result<Progress<Head<Self>>, HeadError>;

    /// The line without its end.
    fn text(&self) -> String;
}

/// A head that borrows nothing.
#[derive(Debug, PartialEq)]
pub(crate) struct Head<S> {
    start: S,
    headers: Vec<(String, Vec<u8>)>,
}

pub(crate) fn check<S: StartLine>(data: &[u8]) {
    let lenient = prefixes::check(data, |bytes| S::decode::<64>(bytes, LENIENT));
    let strict = prefixes::check(data, |bytes| S::decode::<64>(bytes, HeadPolicy::HTTP));
    let short = prefixes::check(data, |bytes| S::decode::<2>(bytes, SHORT));
    for narrow in [strict, short] {
        if let Ok(Progress::Complete { consumed, .. }) = narrow {
            let head = &data[..consumed];
            let line_feeds = head.iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(
                line_feeds,
                head.windows(2).filter(|pair| pair == b"\r\n").count()
            );
            assert_eq!(narrow, lenient);
        }
    }
    if let Ok(Progress::Complete { value, .. }) = lenient {
        let bytes = value.encode();
        let unlimited = HeadPolicy {
            bytes_max: usize::MAX,
            ..HeadPolicy::HTTP
        };
        let consumed = bytes.len();
        let again = S::decode::<64>(&bytes, unlimited);
        assert_eq!(again, Ok(Progress::Complete { value, consumed }));
    }
}

impl<S: StartLine> Head<S> {
    pub(crate) fn new(start: S, headers: Headers<'_, '_>) -> Self {
        let headers = headers.iter();
        Self {
            start,
            headers: headers
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = format!("{}\r\n", self.start.text()).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }
}

pub(crate) fn version_text(version: HttpVersion) -> &'static str {
    match version {
        HttpVersion::Http10 => "HTTP/1.0",
        HttpVersion::Http11 => "HTTP/1.1",
    }
}
