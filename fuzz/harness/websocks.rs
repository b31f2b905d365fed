//! `websocks`: the request that asks to come in, what stands before SOCKS5, and datagrams
//! behind it.

use midspan::protocol::Progress;
use midspan::protocol::http_head::{HEADERS_MAX, HeadPolicy, HeaderSlots, RequestHead};
use midspan::protocol::websocks::datagram_frame::{self, DatagramFrameError};
use midspan::protocol::websocks::{Knock, Prelude, SubProtocol, authorization};

use super::prefixes;

const SPOKEN: [SubProtocol; 2] = [SubProtocol::Framed, SubProtocol::Plain];

pub(crate) fn run(data: &[u8]) {
    let _ = prefixes::check(data, Prelude::decode);
    let decode = |bytes: &[u8]| {
        let progress = datagram_frame::decode(bytes)?;
        Ok::<_, DatagramFrameError>(progress.map(<[u8]>::to_vec))
    };
    if let Ok(Progress::Complete { value, consumed }) = prefixes::check(data, decode) {
        let mut encoded = Vec::new();
        let is_framed = datagram_frame::encode(&value, &[], &mut encoded).is_ok();
        assert!(is_framed && encoded == data[..consumed]);
    }
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
