//! The heads of what a proxy is answered.
//!
//! A body that streams has chunks and no length, and nothing between relay and proxy is to
//! collect it: `X-Accel-Buffering` tells nginx so.

use super::call::SERVER_HEADER;
use super::connection_id::ConnectionId;
use crate::protocol::http_head::Answer;
use crate::protocol::ptth_name::Name;

/// In which header an id stands.
pub(super) const ID_HEADER: &str = "X-PTTH-Connection-Id";

/// What begins each answer whose body streams; the connection ends with it.
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
    Content-Type: application/octet-stream\r\nCache-Control: no-store\r\n\
    X-Accel-Buffering: no\r\nConnection: close\r\n";

/// What `listen` is answered when somebody wants to connect: the id, twice.
#[must_use]
pub fn offered(id: ConnectionId) -> Answer {
    let text = id.to_string();
    Answer::with_body(200, "text/plain", text.clone()).with_header(ID_HEADER, text)
}

/// What `listen` is answered by a server that takes itself for another: who it is.
#[must_use]
pub fn other_server(server: &Name) -> Answer {
    Answer::new(403).with_header(SERVER_HEADER, server.to_string())
}

/// The head of what `connect` is answered once the server has accepted.
#[must_use]
pub fn connected(id: ConnectionId) -> Vec<u8> {
    format!("{STREAM_HEAD}{ID_HEADER}: {id}\r\n\r\n").into_bytes()
}

/// The head of what `accept` is answered.
#[must_use]
pub fn accepted() -> Vec<u8> {
    format!("{STREAM_HEAD}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Progress;
    use crate::protocol::http_head::{Body, HeadPolicy, HeaderSlots, Persistence, ResponseHead};

    #[test]
    fn a_stream_has_chunks_and_an_offer_its_id_twice() {
        let id = ConnectionId(*b"0123456789abcdef");
        let text = id.to_string();
        for (wire, expected_id) in [(connected(id), Some(text.as_bytes())), (accepted(), None)] {
            let mut slots = HeaderSlots::<8>::new();
            let head = ResponseHead::decode(&wire, HeadPolicy::HTTP, &mut slots);
            let Ok(Progress::Complete { value, consumed }) = head else {
                panic!("{wire:?}");
            };
            assert_eq!((value.status, consumed), (200, wire.len()));
            assert_eq!(value.body("POST"), Ok(Body::Chunked));
            assert_eq!(value.headers.find(ID_HEADER), expected_id);
        }
        let wire = offered(id).encode(Persistence::KeepAlive);
        let wire = String::from_utf8(wire).unwrap();
        assert_eq!(wire.matches(&text).count(), 2, "{wire}");
    }
}
