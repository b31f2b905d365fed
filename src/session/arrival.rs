//! A leg that has said what it wants, and how it is answered.

use crate::protocol::http_head::{Answer, Persistence};
use crate::protocol::jet::{
    Accept, AcceptDetails, AcceptPlace, Connect, ConnectivityTest, Gate, Message, Packet, Place,
    Reply, Request, Status, Verb,
};
use crate::protocol::websocket::{CloseCode, ControlFrame, Role, Upgrade};
use crate::relay::GateHold;
use crate::relay::codec::{Closing, Codec, CodecError, WebSocket};
use crate::runtime::readiness::Readiness;
use crate::time::Timestamp;
use crate::tls::{SealError, Session, Wire};

use super::refused::Refused;

/// A complete request, and what came behind it.
#[derive(Debug)]
pub struct Arrival {
    /// What is asked.
    pub message: Message,
    /// Application bytes of an eager peer: they go to the other leg first. With a
    /// codec, as `Codec::keep` has them.
    pub prefix: Vec<u8>,
    /// What everything behind the reply is wrapped in.
    pub codec: Option<Box<Codec>>,
    dialect: Dialect,
    /// The last read filled its buffer, so more may be there unannounced.
    was_full: bool,
}

/// How a leg is answered.
#[derive(Debug)]
enum Dialect {
    /// With a packet.
    Packets(Request),
    /// With an HTTP response, which for a leg that is let in is this.
    WebSocket(Switching),
}

/// How an upgrade to WebSocket is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switching {
    response: String,
    close: Closing,
}

impl Switching {
    /// The first sub-protocol that is offered is taken: a relay passes on what any of
    /// them means.
    #[must_use]
    pub fn to(upgrade: &Upgrade<'_>) -> Self {
        Self {
            response: upgrade.response(upgrade.protocol),
            close: Closing::agreed_on(upgrade.protocol),
        }
    }

    /// The response to an acceptor, which is told for how long it may wait.
    fn to_acceptor(&self, details: &AcceptDetails) -> String {
        let mut response = self.response.clone();
        if let Some(timeout_s) = details.timeout_s {
            let empty_line = response.len() - "\r\n".len();
            response.insert_str(empty_line, &format!("Jet-Timeout: {timeout_s}\r\n"));
        }
        response
    }
}

/// An answer's bytes.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives on the stack, for one call, and a packet is the usual case"
)]
#[derive(Debug)]
pub enum Words {
    Packet(Packet),
    Bytes(Vec<u8>),
}

impl Words {
    /// What goes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Packet(packet) => packet.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Arrival {
    /// A leg that asked with a packet.
    ///
    /// # Errors
    ///
    /// When its connection ended already, and not as one does.
    pub fn packet(
        request: Request,
        prefix: Vec<u8>,
        tls: Option<Box<Session>>,
        was_full: bool,
    ) -> Result<Self, CodecError> {
        let (codec, prefix) = Codec::begin(tls, None, prefix)?;
        Ok(Self {
            message: request.message,
            prefix,
            // What TLS has read says nothing about the socket.
            was_full: was_full || codec.is_some(),
            codec,
            dialect: Dialect::Packets(request),
        })
    }

    /// A leg that asked for an upgrade to WebSocket, which is answered with
    /// `switching`. `early` came behind its request.
    ///
    /// # Errors
    ///
    /// When that is no WebSocket.
    pub fn websocket(
        verb: Verb,
        place: Place,
        switching: Switching,
        early: Vec<u8>,
        tls: Option<Box<Session>>,
    ) -> Result<Self, CodecError> {
        let websocket = WebSocket::new(Role::Server, switching.close);
        let (codec, prefix) = Codec::begin(tls, Some(websocket), early)?;
        // What is framed cannot be taken for a part of the answer.
        let gate = Gate::Off;
        let message = match verb {
            Verb::Accept => Message::Accept(Accept {
                place: AcceptPlace::Named(place),
                gate,
            }),
            Verb::Connect => Message::Connect(Connect { place, gate }),
            Verb::Test => Message::Test(ConnectivityTest { place }),
        };
        Ok(Self {
            message,
            prefix,
            codec,
            dialect: Dialect::WebSocket(switching),
            // The bytes of a head are read before it is known how many they are.
            was_full: true,
        })
    }

    /// What the socket may have ready without saying so again.
    #[must_use]
    pub fn left_unread(&self) -> Readiness {
        if self.was_full {
            Readiness::READABLE
        } else {
            Readiness::NONE
        }
    }

    /// Whether the peer may lose what comes right behind the reply that is written
    /// now.
    #[must_use]
    pub const fn gate_hold(&self, now: Timestamp) -> GateHold {
        match self.message {
            Message::Accept(Accept {
                gate: Gate::Hold, ..
            })
            | Message::Connect(Connect {
                gate: Gate::Hold, ..
            }) => GateHold::Replied(now),
            Message::Accept(_) | Message::Connect(_) | Message::Test(_) => GateHold::Open,
        }
    }

    /// The answer to a leg that is let in. `details` are for acceptors that need
    /// them.
    #[must_use]
    pub fn welcome(&mut self, details: impl FnOnce() -> AcceptDetails) -> Words {
        let words = match (&self.dialect, self.message) {
            (Dialect::Packets(request), _) => Words::Packet(packet(request, Status::OK, details)),
            (Dialect::WebSocket(switching), Message::Accept(_)) => {
                Words::Bytes(switching.to_acceptor(&details()).into_bytes())
            }
            (Dialect::WebSocket(switching), Message::Connect(_) | Message::Test(_)) => {
                Words::Bytes(switching.response.clone().into_bytes())
            }
        };
        self.wrapped(words, Codec::wrap)
    }

    /// Words as the leg's codec has them.
    fn wrapped(
        &mut self,
        words: Words,
        wrap: fn(&mut Codec, &[u8], &mut Wire) -> Result<(), SealError>,
    ) -> Words {
        let Some(codec) = &mut self.codec else {
            return words;
        };
        let mut wire = Wire::default();
        // A connection that cannot seal any more has said its last before.
        let _ = wrap(codec, words.as_bytes(), &mut wire);
        Words::Bytes(wire.as_bytes().to_vec())
    }

    /// The answer to a test of what is known; the connection ends with it.
    #[must_use]
    pub fn confirm(&mut self) -> Words {
        let words = match &self.dialect {
            Dialect::Packets(request) => {
                Words::Packet(Reply::new(Status::OK, request.version).encode(request.mask))
            }
            Dialect::WebSocket(switching) => {
                let close = ControlFrame::close(Some(CloseCode::NORMAL), None);
                let mut bytes = switching.response.clone().into_bytes();
                bytes.extend_from_slice(close.as_bytes());
                Words::Bytes(bytes)
            }
        };
        self.wrapped(words, Codec::wrap_last)
    }

    /// The answer to a leg that is not let in; the connection ends with it.
    #[must_use]
    pub fn refuse(&mut self, refused: Refused, details: impl FnOnce() -> AcceptDetails) -> Words {
        let words = match &self.dialect {
            Dialect::Packets(request) => {
                Words::Packet(packet(request, refused.jet_status(), details))
            }
            Dialect::WebSocket(_) => {
                Words::Bytes(Answer::new(refused.http_status()).encode(Persistence::Close))
            }
        };
        self.wrapped(words, Codec::wrap_last)
    }
}

fn packet(request: &Request, status: Status, details: impl FnOnce() -> AcceptDetails) -> Packet {
    let mut reply = Reply::new(status, request.version);
    if request.wants_accept_details() {
        reply.details = Some(details());
    }
    reply.encode(request.mask)
}
