//! What a proxy asks a relay, and what it reads in the answer: the other side of
//! [`Call::from_head`] and of the heads in `answer`.

use thiserror::Error;

use super::answer::ID_HEADER;
use super::call::{Call, SERVER_HEADER};
use super::connection_id::{ConnectionId, ConnectionIdError};
use crate::protocol::Progress;
use crate::protocol::http_head::{
    Body, FramingError, HEADERS_MAX, HeadError, HeadPolicy, HeaderSlots, Persistence, ResponseHead,
};
use crate::protocol::ptth_name::Name;

/// The head of a relay's answer, as far as a proxy cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// RFC 9110 §15.
    pub status: u16,
    /// The id of a connection, if it tells one.
    pub id: Option<ConnectionId>,
    /// The server whose key the relay was shown, if it tells one.
    pub server: Option<Name>,
    /// Where the body ends that follows.
    pub body: Body,
    /// What becomes of the connection behind it.
    pub persistence: Persistence,
}

/// Why an answer is none of a relay's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// Something other than HTTP.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(#[from] HeadError),
    /// It is not certain where it ends.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The header is there, and holds something else.
    #[error(transparent)]
    Id(#[from] ConnectionIdError),
}

impl Call {
    /// The request, up to its empty line. `authority` is the relay's host and port, `key` the
    /// proxy's. A body that streams is to follow in chunks; the others have none.
    #[must_use]
    pub fn encode(&self, authority: &str, key: &str) -> Vec<u8> {
        let name = self.name();
        let place = match self {
            Self::Listen { port, .. } => port.to_string(),
            Self::Connect { server, port } => format!("{server}/{port}"),
            Self::Accept(id) | Self::Reject(id) | Self::Upstream(id) | Self::Downstream(id) => {
                id.to_string()
            }
        };
        let claim = match self {
            Self::Listen {
                server: Some(server),
                ..
            } => format!("{SERVER_HEADER}: {server}\r\n"),
            _ => String::new(),
        };
        let body = match self.streams() {
            true => "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked",
            false => "Content-Length: 0",
        };
        format!(
            "POST /ptth/v1/{name}/{place} HTTP/1.1\r\nHost: {authority}\r\n\
             Authorization: Bearer {key}\r\n{claim}{body}\r\n\r\n"
        )
        .into_bytes()
    }
}

impl Answered {
    /// Reads the head of an answer; those before the final one (RFC 9110 §15.2) count for
    /// nothing.
    ///
    /// # Errors
    ///
    /// When no relay answers so, whatever may follow.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, AnswerError> {
        let interim = ResponseHead::interim_bytes(bytes, HeadPolicy::HTTP)?;
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        let head = ResponseHead::decode(&bytes[interim..], HeadPolicy::HTTP, &mut slots)?;
        let (head, consumed) = match head {
            Progress::Complete { value, consumed } => (value, interim + consumed),
            Progress::Partial { more_bytes_min } => {
                return Ok(Progress::Partial { more_bytes_min });
            }
        };
        let id = head.headers.find(ID_HEADER);
        let id = id.map(|id| str::from_utf8(id).map_err(|_| ConnectionIdError)?.parse());
        let server = head.headers.find(SERVER_HEADER);
        let value = Self {
            status: head.status,
            id: id.transpose()?,
            server: server.and_then(|name| str::from_utf8(name).ok()?.parse().ok()),
            body: head.body("POST")?,
            persistence: Persistence::of(head.version, head.headers),
        };
        Ok(Progress::Complete { value, consumed })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{accepted, connected, offered, other_server};
    use super::*;
    use crate::protocol::http_head::{Answer, RequestHead};

    const ID: ConnectionId = ConnectionId(*b"0123456789abcdef");

    #[test]
    fn a_relay_reads_what_is_asked() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        for call in [
            Call::Listen {
                port: name("22"),
                server: None,
            },
            Call::Listen {
                port: name("22"),
                server: Some(name("home")),
            },
            Call::Connect {
                server: name("home"),
                port: name("22"),
            },
            Call::Accept(ID),
            Call::Reject(ID),
            Call::Upstream(ID),
            Call::Downstream(ID),
        ] {
            let wire = call.encode("relay.example:443", "secret");
            let mut slots = HeaderSlots::<8>::new();
            let head = RequestHead::decode(&wire, HeadPolicy::HTTP, &mut slots);
            let Ok(Progress::Complete { value, consumed }) = head else {
                panic!("{call:?}");
            };
            assert_eq!(consumed, wire.len());
            assert_eq!(Call::from_head(&value), Ok(call.clone()));
            let find = |name| value.headers.find(name);
            assert_eq!(find("Host"), Some(&b"relay.example:443"[..]));
            assert_eq!(find("Authorization"), Some(&b"Bearer secret"[..]));
            let body = match call.streams() {
                true => Body::Chunked,
                false => Body::Length(0),
            };
            assert_eq!(value.body(), Ok(body));
        }
    }

    /// However they are cut, of these bytes the answer is `consumed` long.
    fn check(wire: &[u8], expected: &Result<(Answered, usize), AnswerError>) {
        for cut in 0..wire.len() {
            let decoded = Answered::decode(&wire[..cut]);
            match (&decoded, expected) {
                (Ok(Progress::Partial { .. }), _) => {}
                (Ok(Progress::Complete { .. }), Ok((_, consumed))) if cut >= *consumed => {}
                (Err(_), Err(_)) => {}
                _ => panic!("{decoded:?} at {cut}"),
            }
        }
        let decoded = Answered::decode(wire).map(|decoded| match decoded {
            Progress::Complete { value, consumed } => (value, consumed),
            Progress::Partial { .. } => panic!("{wire:?}"),
        });
        assert_eq!(decoded, *expected);
    }

    #[test]
    fn a_proxy_reads_what_is_answered() {
        let answered = |status, id, body, persistence| Answered {
            status,
            id,
            server: None,
            body,
            persistence,
        };
        let whole = |wire: Vec<u8>, expected: Answered| {
            let bytes = wire.len();
            let continued = [b"HTTP/1.1 100 Continue\r\n\r\n", &wire[..], b"5\r\n"].concat();
            let behind = continued.len() - 3;
            check(&wire, &Ok((expected.clone(), bytes)));
            check(&continued, &Ok((expected, behind)));
        };
        let (close, keep) = (Persistence::Close, Persistence::KeepAlive);
        whole(connected(ID), answered(200, Some(ID), Body::Chunked, close));
        whole(accepted(), answered(200, None, Body::Chunked, close));
        let told = offered(ID);
        let length = Body::Length(told.body().len() as u64);
        let head = told.encode_head(keep);
        whole(head, answered(200, Some(ID), length, keep));
        let empty = Answer::new(204).encode(keep);
        whole(empty, answered(204, None, Body::Length(0), keep));
        let lab: Name = "lab".parse().unwrap();
        let other = other_server(&lab).encode(keep);
        let other_expected = Answered {
            server: Some(lab),
            ..answered(403, None, Body::Length(0), keep)
        };
        whole(other, other_expected);
        let strange =
            b"HTTP/1.1 403 No\r\nX-PTTH-Server: a b\r\nContent-Length: 0\r\n\r\n".to_vec();
        whole(strange, answered(403, None, Body::Length(0), keep));
        let old = b"HTTP/1.0 502 Bad Gateway\r\n\r\n".to_vec();
        whole(old, answered(502, None, Body::UntilClose, close));
        check(
            b"HTTP/1.1 200 OK\r\nX-PTTH-Connection-Id: x\r\n\r\n",
            &Err(ConnectionIdError.into()),
        );
        check(
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            &Err(FramingError::BadLength.into()),
        );
    }
}
