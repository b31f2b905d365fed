//! `http_head::ResponseHead`, see [`super::http_head`].

use midspan::protocol::Progress;
use midspan::protocol::http_head::{HeadError, HeadPolicy, HeaderSlots, HttpVersion, ResponseHead};

use super::http_head::{self, Head, StartLine, version_text};

pub(crate) fn run(data: &[u8]) {
    http_head::check::<StatusLine>(data);
}

#[derive(Debug, PartialEq)]
struct StatusLine {
    status: u16,
    reason: String,
    version: HttpVersion,
}

impl StartLine for StatusLine {
    fn decode<const N: usize>(
        bytes: &[u8],
        policy: HeadPolicy,
    ) -> Result<Progress<Head<Self>>, HeadError> {
        let mut slots = HeaderSlots::<N>::new();
        let progress = ResponseHead::decode(bytes, policy, &mut slots)?;
        Ok(progress.map(|head| {
            let start = Self {
                status: head.status,
                reason: head.reason.into(),
                version: head.version,
            };
            Head::new(start, head.headers)
        }))
    }

    fn text(&self) -> String {
        let Self {
            status,
            reason,
            version,
        } = self;
        let version = version_text(*version);
        format!("{version} {status:03} {reason}")
    }
}
