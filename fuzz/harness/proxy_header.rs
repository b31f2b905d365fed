//! `proxy_protocol::ProxyHeader`, and `detect`: both see only first bytes.

use midspan::protocol::Progress;
use midspan::protocol::detect::{Detection, detect};
use midspan::protocol::proxy_protocol::ProxyHeader;

use super::prefixes;

pub(crate) fn run(data: &[u8]) {
    let decoded = prefixes::check(data, ProxyHeader::decode);
    if let Ok(Progress::Complete { .. } | Progress::Partial { .. }) = decoded {
        assert!(ProxyHeader::may_begin(data));
    }
    let whole = detect(data);
    for cut in 0..data.len().min(64) {
        let part = detect(&data[..cut]);
        assert!(
            part == Detection::Undecided || part == whole,
            "cut at {cut}"
        );
    }
}
