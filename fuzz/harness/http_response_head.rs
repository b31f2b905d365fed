//! `http_head::ResponseHead`: what decodes is decoded again when it is written
//! down, and what strict line endings allow, lenient ones do as well.

use midspan::protocol::Progress;
use midspan::protocol::http_head::{
    HeadError, HeadPolicy, HeaderSlots, HttpVersion, LineEnding, ResponseHead,
};

use super::prefixes;

const LENIENT: HeadPolicy = HeadPolicy {
    line_ending: LineEnding::CrLfOrLf,
    ..HeadPolicy::HTTP
};
const SHORT: HeadPolicy = HeadPolicy {
    bytes_max: 64,
    ..HeadPolicy::HTTP
};

/// A head that borrows nothing.
#[derive(Debug, PartialEq)]
struct Head {
    start: (u16, String, HttpVersion),
    headers: Vec<(String, Vec<u8>)>,
}

pub(crate) fn run(data: &[u8]) {
    let lenient = prefixes::check(data, |bytes| decode::<64>(bytes, LENIENT));
    let strict = prefixes::check(data, |bytes| decode::<64>(bytes, HeadPolicy::HTTP));
    let short = prefixes::check(data, |bytes| decode::<2>(bytes, SHORT));
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
        let again = decode::<64>(&bytes, unlimited);
        assert_eq!(again, Ok(Progress::Complete { value, consumed }));
    }
}

fn decode<const N: usize>(bytes: &[u8], policy: HeadPolicy) -> Result<Progress<Head>, HeadError> {
    let mut slots = HeaderSlots::<N>::new();
    let progress = ResponseHead::decode(bytes, policy, &mut slots)?;
    Ok(progress.map(|head| Head {
        start: (head.status, head.reason.into(), head.version),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    }))
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let (status, reason, version) = &self.start;
        let mut bytes = format!("{} {status:03} {reason}\r\n", version_text(*version)).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }
}

fn version_text(version: HttpVersion) -> &'static str {
    match version {
        HttpVersion::Http10 => "HTTP/1.0",
        HttpVersion::Http11 => "HTTP/1.1",
    }
}
