//! `http_proxy`: what is passed on is one request for one host, whatever the client's held, and
//! what comes back is told apart alike however it is cut.

use midspan::protocol::Progress;
use midspan::protocol::http_head::{HEADERS_MAX, HeadPolicy, HeaderSlots, RequestHead};
use midspan::protocol::http_proxy::{Exchange, ProxyAsked, ProxyRequest};

pub(crate) fn run(data: &[u8]) {
    let (decoded, rest) = match ProxyRequest::decode(data) {
        Ok(Progress::Complete { value, consumed }) => (value, &data[consumed..]),
        Ok(Progress::Partial { more_bytes_min }) => return assert!(more_bytes_min > 0),
        Err(error) => return assert!(error.answer().starts_with(b"HTTP/1.1 4")),
    };
    let ProxyAsked::Pass { head, exchange, .. } = decoded.asked else {
        return;
    };
    exchange_is_told_apart_however_it_is_cut(&exchange, rest);
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

/// Takes `rest` for what follows the request, and for its response.
fn exchange_is_told_apart_however_it_is_cut(exchange: &Exchange, rest: &[u8]) {
    let read = |pieces: [&[u8]; 2]| {
        let (mut exchange, mut client, mut count) = (exchange.clone(), Vec::new(), 0);
        let (mut request, mut response) = (Ok(()), Ok(()));
        for piece in pieces {
            request = request.and_then(|()| exchange.handle_request(piece).map(|n| count += n));
            response = response.and_then(|()| exchange.handle_response(piece, &mut client));
        }
        let (has_request, has_ended) = (exchange.has_request(), exchange.has_ended());
        // Where it goes wrong, more or less has gone through before that is seen.
        (
            request.map(|()| (count, has_request)),
            response.map(|()| (client, has_ended)),
        )
    };
    let whole = read([rest, &[]]);
    assert!(!matches!(whole.0, Ok((count, _)) if count > rest.len()));
    let cut = read(rest.split_at(rest.len() / 2).into());
    assert_eq!(cut.0, whole.0);
    // Of a head nothing is read before the end of a line.
    assert!(whole.1.is_err() || cut.1 == whole.1);
}
