//! Our way into a WebSocks server, up to its 101: `[WEBSOCKS]`, "Handshake". No I/O
//! happens here.

use std::fmt;

use thiserror::Error;

use super::approach::{Approach, ApproachError, Conversation, Trusted};
use crate::protocol::Progress;
use crate::protocol::http_head::{HEADERS_MAX, HeadError, HeadPolicy, HeaderSlots, ResponseHead};
use crate::protocol::websocket::{AnswerError, ClientHandshake, Role};
use crate::protocol::websocks::{FRAMED_PROTOCOL, PLAIN_PROTOCOL, SubProtocol, authorization};
use crate::relay::codec::{Closing, Codec, CodecError, WebSocket};

/// One connection on its way in.
pub struct Entry {
    approach: Approach,
    handshake: ClientHandshake,
    protocol: SubProtocol,
}

/// Who asks, and how.
#[derive(Clone, Copy)]
pub struct Visitor<'a> {
    /// The server's host and port, as the request names them.
    pub authority: &'a str,
    /// The name.
    pub user: &'a str,
    /// What shows that it knows the password, in this minute.
    pub proof: &'a str,
    /// What it wants to speak.
    pub protocol: SubProtocol,
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Entered {
    /// What everything from now on is wrapped in.
    pub codec: Option<Box<Codec>>,
    /// What came behind the answer, as the codec keeps it.
    pub early: Vec<u8>,
}

/// Why it was not.
#[derive(Debug, Error)]
pub enum EntryError {
    /// Nothing could be asked.
    #[error(transparent)]
    Approach(#[from] ApproachError),
    /// Something other than HTTP answers.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(#[from] HeadError),
    /// The server knows no such user, or not with this password.
    #[error("the server refuses user and password")]
    WrongPassword,
    /// It says no, or something else.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// It has not said that it speaks what was asked for.
    #[error("the server does not speak {}", .0.as_str())]
    OtherProtocol(SubProtocol),
    /// What came behind the answer is nothing of the kind.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl Entry {
    /// Begins. `random` is fresh, for the upgrade's key.
    ///
    /// # Errors
    ///
    /// When TLS cannot begin.
    pub fn new(
        trusted: Option<&Trusted>,
        visitor: Visitor<'_>,
        random: [u8; 16],
    ) -> Result<Self, EntryError> {
        let protocols: &[&str] = match visitor.protocol {
            SubProtocol::Plain => &[PLAIN_PROTOCOL],
            SubProtocol::Framed => &[FRAMED_PROTOCOL],
        };
        let handshake = ClientHandshake::new(random, protocols);
        let authorization = authorization(visitor.user, visitor.proof);
        let headers = [("Authorization", &*authorization)];
        let request = handshake.request(visitor.authority, "/", &headers);
        Ok(Self {
            approach: Approach::new(trusted, request.into_bytes())?,
            handshake,
            protocol: visitor.protocol,
        })
    }
}

impl Conversation for Entry {
    type Outcome = Entered;
    type Error = EntryError;

    fn output(&self) -> &[u8] {
        self.approach.output()
    }

    fn handle_sent(&mut self) {
        self.approach.handle_sent();
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<Option<Entered>, EntryError> {
        let received = self.approach.receive(bytes)?;
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        let decoded = ResponseHead::decode(received, HeadPolicy::HTTP, &mut slots)?;
        let Progress::Complete { value, consumed } = decoded else {
            return Ok(None);
        };
        let chosen = match self.handshake.check(&value) {
            Err(AnswerError::Refused { status: 401 }) => return Err(EntryError::WrongPassword),
            chosen => chosen?,
        };
        if chosen != Some(self.protocol.as_str()) {
            return Err(EntryError::OtherProtocol(self.protocol));
        }
        let (tls, early) = self.approach.take_rest(consumed);
        let websocket = match self.protocol {
            SubProtocol::Plain => None,
            SubProtocol::Framed => Some(WebSocket::new(Role::Client, Closing::OneWay)),
        };
        let (codec, early) = Codec::begin(tls, websocket, early)?;
        Ok(Some(Entered { codec, early }))
    }
}

/// Without the proof.
impl fmt::Debug for Visitor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor")
            .field("authority", &self.authority)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// Without the proof.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(protocol: SubProtocol) -> Entry {
        let visitor = Visitor {
            authority: "relay.example",
            user: "alice",
            proof: "cHJvb2Y=",
            protocol,
        };
        Entry::new(None, visitor, *b"the sample nonce").expect("no tls")
    }

    /// The answer to the key of RFC 6455 §1.3.
    fn answer(protocol: &str) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nServer: other\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-Websocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             {protocol}\r\n"
        )
    }

    #[test]
    fn it_asks_as_known_servers_want_it_and_is_let_in_however_the_answer_is_cut() {
        let said = entry(SubProtocol::Plain).output().to_vec();
        let said = String::from_utf8(said).expect("text");
        for part in [
            "GET / HTTP/1.1\r\n",
            "Upgrade: websocket\r\n",
            "Connection: Upgrade\r\n",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "Sec-WebSocket-Protocol: socks5\r\n",
            "Authorization: Basic YWxpY2U6Y0hKdmIyWT0=\r\n",
        ] {
            assert!(said.contains(part), "{said}");
        }
        for (protocol, is_framed) in [(SubProtocol::Plain, false), (SubProtocol::Framed, true)] {
            let name = protocol.as_str();
            let wire = answer(&format!("Sec-WebSocket-Protocol: {name}\r\n"));
            for cut in 0..wire.len() {
                let mut entry = entry(protocol);
                let (start, rest) = wire.as_bytes().split_at(cut);
                assert!(matches!(entry.receive(start), Ok(None)));
                let entered = entry.receive(rest).expect("let in").expect("whole");
                assert_eq!(entered.codec.is_some(), is_framed);
                assert!(entered.early.is_empty());
            }
        }
    }

    #[test]
    fn a_server_that_says_something_else_is_named() {
        let refused = |wire: &str| {
            let mut entry = entry(SubProtocol::Plain);
            let error = entry.receive(wire.as_bytes()).expect_err(wire);
            error.to_string()
        };
        assert_eq!(
            refused("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"),
            "the server refuses user and password"
        );
        assert_eq!(
            refused("HTTP/1.1 404 Not Found\r\n\r\n"),
            "the server answers 404 instead of 101"
        );
        assert_eq!(refused(&answer("")), "the server does not speak socks5");
        let other = answer("Sec-WebSocket-Protocol: socks5.framed\r\n");
        assert!(refused(&other).contains("not offered"));
        assert!(refused("SSH-2.0-x\r\n\r\n").contains("not HTTP"));
    }

    #[test]
    fn no_proof_is_shown() {
        let shown = format!("{:?}", entry(SubProtocol::Plain));
        assert!(!shown.contains("cHJ") && !shown.contains("YWxp"), "{shown}");
    }
}
