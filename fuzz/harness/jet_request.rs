//! `jet::Request`: what decodes is decoded again from its own encoding, and
//! what is answered is answered with a reply that decodes.

use midspan::protocol::Progress;
use midspan::protocol::jet::{
    HOST_NAME_BYTES_MAX, HostName, PACKET_BYTES_MAX, PACKET_HEADER_BYTES, RefusalReason, Reply,
    Request, Status,
};

use super::prefixes;

pub(crate) fn run(data: &[u8]) {
    check(data);
    check(&packet(data));
}

/// The packet that has this mask (first byte) and this payload, so that the
/// fuzzer need not find sizes and masks by itself.
pub(crate) fn packet(data: &[u8]) -> Vec<u8> {
    let (&mask, payload) = data.split_first().unwrap_or((&0, &[]));
    let payload = &payload[..payload.len().min(PACKET_BYTES_MAX - PACKET_HEADER_BYTES)];
    let size = u16::try_from(PACKET_HEADER_BYTES + payload.len()).expect("below the limit");
    let [size_high, size_low] = size.to_be_bytes();
    let mut packet = vec![b'J', b'E', b'T', 0, size_high, size_low, 0, mask];
    packet.extend(payload.iter().map(|byte| byte ^ mask));
    packet
}

fn check(bytes: &[u8]) {
    match prefixes::check(bytes, Request::decode) {
        Ok(Progress::Complete { value, .. }) => {
            for host in ["h", &"h".repeat(HOST_NAME_BYTES_MAX)] {
                let packet = value.encode(&HostName::new(host).expect("host name"));
                let consumed = packet.as_bytes().len();
                let again = Request::decode(packet.as_bytes());
                assert_eq!(again, Ok(Progress::Complete { value, consumed }));
            }
        }
        Ok(Progress::Partial { .. }) => {}
        Err(error) => {
            assert_eq!(RefusalReason::ALL[error.reason().index()], error.reason());
            if let Some(packet) = error.reply() {
                assert_eq!(packet.as_bytes()[7], bytes[7], "the mask of the request");
                let reply = Reply::decode(packet.as_bytes());
                let Ok(Progress::Complete { value, consumed }) = reply else {
                    panic!("{reply:?}");
                };
                assert_eq!((value.status, value.details), (Status::BAD_REQUEST, None));
                assert_eq!(consumed, packet.as_bytes().len());
            }
        }
    }
}
