//! `http_head::RequestHead`, see [`super::http_head`].

use midspan::protocol::Progress;
use midspan::protocol::http_head::{HeadError, HeadPolicy, HeaderSlots, HttpVersion, RequestHead};

use super::http_head::{self, Head, StartLine, version_text};

pub(crate) fn run(data: &[u8]) {
    http_head::check::<RequestLine>(data);
}

#[derive(Debug, PartialEq)]
struct RequestLine {
    method: String,
    target: String,
    version: HttpVersion,
}

impl StartLine for RequestLine {
    fn decode<const N: usize>(
        bytes: &[u8],
        policy: HeadPolicy,
    ) -> Result<Progress<Head<Self>>, HeadError> {
        let mut slots = HeaderSlots::<N>::new();
        let progress = RequestHead::decode(bytes, policy, &mut slots)?;
        Ok(progress.map(|head| {
            let start = Self {
                method: head.method.into(),
                target: head.target.into(),
                version: head.version,
            };
            Head::new(start, head.headers)
        }))
    }

    fn text(&self) -> String {
        let Self {
            method,
            target,
            version,
        } = self;
        let version = version_text(*version);
        format!("{method} {target} {version}")
    }
}
