//! `ptth_http`: what a request asks of forwarded ports, and the body behind its head.

use midspan::protocol::Progress;
use midspan::protocol::http_head::{
    Body, BodyReader, ChunkError, HEADERS_MAX, HeadPolicy, HeaderSlots, RequestHead,
};
use midspan::protocol::ptth_http::{Call, presented_key};

pub(crate) fn run(data: &[u8]) {
    let mut slots = HeaderSlots::<HEADERS_MAX>::new();
    let head = RequestHead::decode(data, HeadPolicy::HTTP, &mut slots);
    let Ok(Progress::Complete { value, consumed }) = head else {
        return check_body(data);
    };
    let _ = presented_key(&value);
    if let Ok(call) = Call::from_head(&value) {
        assert_eq!(
            read(&path(&call), claim(&call)),
            call,
            "its path and claim ask for something else"
        );
    }
    check_body(&data[consumed..]);
}

/// The path by which a call is asked for.
fn path(call: &Call) -> String {
    match call {
        Call::Listen { port, .. } => format!("listen/{}", port.as_str()),
        Call::Connect { server, port } => {
            format!("connect/{}/{}", server.as_str(), port.as_str())
        }
        Call::Accept(id) => format!("accept/{id}"),
        Call::Reject(id) => format!("reject/{id}"),
        Call::Upstream(id) => format!("upstream/{id}"),
        Call::Downstream(id) => format!("downstream/{id}"),
    }
}

/// Whom a call says that it comes from.
fn claim(call: &Call) -> Option<&str> {
    match call {
        Call::Listen { server, .. } => Some(server.as_ref()?.as_str()),
        _ => None,
    }
}

fn read(path: &str, claim: Option<&str>) -> Call {
    let claim = claim.map(|server| format!("X-PTTH-Server: {server}\r\n"));
    let claim = claim.unwrap_or_default();
    let text = format!("POST /ptth/v1/{path} HTTP/1.1\r\nHost: a\r\n{claim}\r\n");
    let mut slots = HeaderSlots::<HEADERS_MAX>::new();
    match RequestHead::decode(text.as_bytes(), HeadPolicy::HTTP, &mut slots) {
        Ok(Progress::Complete { value, .. }) => Call::from_head(&value).expect("a call"),
        other => panic!("{other:?}: {text}"),
    }
}

/// A body is the same whole, in pieces, and with its chunks' data unseen.
fn check_body(bytes: &[u8]) {
    let mut reader = BodyReader::new(Body::Chunked);
    let whole = reader.receive(bytes).map(|taken| (taken, reader.clone()));
    assert_eq!(in_steps(bytes, Step::Byte), whole);
    assert_eq!(in_steps(bytes, Step::Unseen), whole);
}

#[derive(Clone, Copy)]
enum Step {
    Byte,
    Unseen,
}

fn in_steps(bytes: &[u8], step: Step) -> Result<(usize, BodyReader), ChunkError> {
    let mut reader = BodyReader::new(Body::Chunked);
    let mut at = 0;
    while at < bytes.len() && !reader.has_ended() {
        let left = usize::try_from(reader.data_left()).unwrap_or(usize::MAX);
        let unseen = left.min(bytes.len() - at);
        match step {
            Step::Unseen if unseen > 0 => {
                reader.skip(unseen as u64);
                at += unseen;
            }
            _ => at += reader.receive(&bytes[at..=at])?,
        }
    }
    Ok((at, reader))
}
