//! `websocks`: the request that asks to come in, and what stands before SOCKS5.

use midspan::protocol::Progress;
use midspan::protocol::http_head::{HEADERS_MAX, HeadPolicy, HeaderSlots, RequestHead};
use midspan::protocol::websocks::{Knock, Prelude, SubProtocol, authorization};

use super::prefixes;

const SPOKEN: [SubProtocol; 2] = [SubProtocol::Framed, SubProtocol::Plain];

pub(crate) fn run(data: &[u8]) {
    let _ = prefixes::check(data, Prelude::decode);
    let mut slots = HeaderSlots::<HEADERS_MAX>::new();
    let head = RequestHead::decode(data, HeadPolicy::HTTP, &mut slots);
    let Ok(Progress::Complete { value: head, .. }) = head else {
        return;
    };
    if let Ok(knock) = Knock::from_head(&head, &SPOKEN) {
        assert!(knock.response().ends_with("\r\n\r\n"));
        assert_eq!(knock.response().matches("\r\n\r\n").count(), 1);
        if let Some((user, hash)) = &knock.credentials {
            let header = authorization(user, hash);
            let text = format!(
                "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: a\r\nAuthorization: {header}\r\n\r\n"
            );
            let mut slots = HeaderSlots::<HEADERS_MAX>::new();
            let head = RequestHead::decode(text.as_bytes(), HeadPolicy::HTTP, &mut slots);
            let Ok(Progress::Complete { value: head, .. }) = head else {
                panic!("{text}");
            };
            let again = Knock::from_head(&head, &SPOKEN).map(|knock| knock.credentials);
            assert_eq!(again, Ok(knock.credentials));
        }
    }
}
