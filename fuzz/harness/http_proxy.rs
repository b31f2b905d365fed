//! `http_proxy`: what is passed on is one head for one host, whatever the client's held.

use midspan::protocol::Progress;
use midspan::protocol::http_head::{HEADERS_MAX, HeadPolicy, HeaderSlots, RequestHead};
use midspan::protocol::http_proxy::{ProxyAsked, ProxyRequest};

pub(crate) fn run(data: &[u8]) {
    let decoded = match ProxyRequest::decode(data) {
        Ok(Progress::Complete { value, consumed }) => {
            assert!(consumed <= data.len());
            value
        }
        Ok(Progress::Partial { more_bytes_min }) => return assert!(more_bytes_min > 0),
        Err(error) => return assert!(error.answer().starts_with(b"HTTP/1.1 4")),
    };
    let ProxyAsked::Pass { head, .. } = decoded.asked else {
        return;
    };
    // Two headers more than the client may have, and longer than it may be.
    let mut slots = HeaderSlots::<{ HEADERS_MAX + 2 }>::new();
    let policy = HeadPolicy {
        bytes_max: head.len(),
        ..HeadPolicy::HTTP
    };
    let Ok(Progress::Complete { value, consumed }) = RequestHead::decode(&head, policy, &mut slots)
    else {
        panic!("no head: {:?}", String::from_utf8_lossy(&head));
    };
    assert_eq!(consumed, head.len(), "the head was ended too early");
    assert!(value.target.starts_with('/'), "{:?}", value.target);
    assert!(matches!(value.headers.find_only("Host"), Ok(Some(_))));
    assert_eq!(
        value.headers.find_only("Connection"),
        Ok(Some(&b"close"[..]))
    );
    assert_eq!(value.headers.find("Proxy-Authorization"), None);
}
