//! A leg that has said what it wants, and how it is answered.

use crate::protocol::http_head::{Answer, Persistence};
use crate::protocol::jet::{
    Accept, AcceptDetails, AcceptPlace, Connect, ConnectivityTest, Gate, Message, Packet, Place,
    Reply, Request, Status, Verb,
};
use crate::protocol::websocket::{CloseCode, ControlFrame, Role};
use crate::relay::GateHold;
use crate::relay::codec::{Chunk, Codec, CodecError, MaskKeys, WebSocket};
use crate::runtime::readiness::Readiness;
use crate::time::Timestamp;

use super::refused::Refused;

/// A complete request, and what came behind it.
#[derive(Debug)]
pub struct Arrival {
    /// What is asked.
    pub message: Message,
    /// Application bytes of an eager peer: they go to the other leg first. With a
    /// codec, as [`Codec::keep`] has them.
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
    WebSocket { switching: String },
}

/// An answer's bytes.
#[derive(Debug)]
pub enum Words {
    Packet(Packet),
    Http(Vec<u8>),
}

impl Words {
    /// What goes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Packet(packet) => packet.as_bytes(),
            Self::Http(bytes) => bytes,
        }
    }
}

impl Arrival {
    /// A leg that asked with a packet.
    #[must_use]
    pub const fn packet(request: Request, prefix: Vec<u8>, was_full: bool) -> Self {
        Self {
            message: request.message,
            prefix,
            codec: None,
            dialect: Dialect::Packets(request),
            was_full,
        }
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
        switching: String,
        mut early: Vec<u8>,
    ) -> Result<Self, CodecError> {
        let mut codec = Box::new(Codec::websocket(WebSocket::new(Role::Server)));
        let mut chunks: Vec<Chunk> = Vec::new();
        let fresh = 0..early.len();
        codec.decode(&mut early, fresh, &mut chunks, &mut MaskKeys::new())?;
        let mut prefix = Vec::new();
        Codec::keep(&early, &chunks, &mut prefix);
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
            codec: Some(codec),
            dialect: Dialect::WebSocket { switching },
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
    pub fn welcome(&self, details: impl FnOnce() -> AcceptDetails) -> Words {
        match &self.dialect {
            Dialect::Packets(request) => Words::Packet(packet(request, Status::OK, details)),
            Dialect::WebSocket { switching } => Words::Http(switching.clone().into_bytes()),
        }
    }

    /// The answer to a test of what is known; the connection ends with it.
    #[must_use]
    pub fn confirm(&self) -> Words {
        match &self.dialect {
            Dialect::Packets(request) => {
                Words::Packet(Reply::new(Status::OK, request.version).encode(request.mask))
            }
            Dialect::WebSocket { switching } => {
                let close = ControlFrame::close(Some(CloseCode::NORMAL), None);
                let mut bytes = switching.clone().into_bytes();
                bytes.extend_from_slice(close.as_bytes());
                Words::Http(bytes)
            }
        }
    }

    /// The answer to a leg that is not let in; the connection ends with it.
    #[must_use]
    pub fn refuse(&self, refused: Refused, details: impl FnOnce() -> AcceptDetails) -> Words {
        match &self.dialect {
            Dialect::Packets(request) => {
                Words::Packet(packet(request, refused.jet_status(), details))
            }
            Dialect::WebSocket { .. } => {
                Words::Http(Answer::new(refused.http_status()).encode(Persistence::Close))
            }
        }
    }
}

fn packet(request: &Request, status: Status, details: impl FnOnce() -> AcceptDetails) -> Packet {
    let mut reply = Reply::new(status, request.version);
    if request.wants_accept_details() {
        reply.details = Some(details());
    }
    reply.encode(request.mask)
}
