//! `jet::Reply`: what decodes is decoded again from its own encoding.

use midspan::protocol::Progress;
use midspan::protocol::jet::Reply;

use super::{jet_request, prefixes};

pub(crate) fn run(data: &[u8]) {
    check(data);
    check(&jet_request::packet(data));
}

fn check(bytes: &[u8]) {
    if let Ok(Progress::Complete { value, .. }) = prefixes::check(bytes, Reply::decode) {
        let packet = value.encode(bytes[7]);
        let consumed = packet.as_bytes().len();
        let again = Reply::decode(packet.as_bytes());
        assert_eq!(again, Ok(Progress::Complete { value, consumed }));
    }
}
