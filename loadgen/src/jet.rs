//! The client's side of JET: requests, and replies as they come in.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use midspan::protocol::Progress;
use midspan::protocol::jet::{
    Accept, AcceptPlace, Connect, Gate, HostName, MASK_DEFAULT, Message, PACKET_BYTES_MAX, Packet,
    Place, Reply, Request, Status, Version,
};
use midspan::runtime::socket::Socket;
use rustix::io::Errno;
use uuid::Uuid;

use crate::args::{GateWord, JetVersion};

/// What both legs of a pair say to one relay.
#[derive(Clone, Debug)]
pub(crate) struct JetClient {
    pub(crate) relay: SocketAddr,
    host: HostName,
    version: Version,
    gate: Gate,
}

impl JetClient {
    pub(crate) fn new(
        relay: SocketAddr,
        version: JetVersion,
        gate: GateWord,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            relay,
            host: HostName::new(&relay.to_string())?,
            version: match version {
                JetVersion::V1 => Version::V1,
                JetVersion::V2 => Version::V2,
            },
            gate: match gate {
                GateWord::Off => Gate::Off,
                GateWord::Hold => Gate::Hold,
            },
        })
    }

    /// The acceptor's exchange, and where it waits if that is ours to choose.
    pub(crate) fn accept(&self) -> (Exchange, Option<Place>) {
        let chosen = match self.version {
            Version::V1 => None,
            Version::V2 => Some(Place {
                association: random_id(),
                candidate: Some(random_id()),
            }),
        };
        let accept = Accept {
            place: chosen.map_or(AcceptPlace::Minted, AcceptPlace::Named),
            gate: self.gate,
        };
        (self.exchange(Message::Accept(accept)), chosen)
    }

    /// The connector's exchange.
    pub(crate) fn connect(&self, place: Place) -> Exchange {
        let gate = self.gate;
        self.exchange(Message::Connect(Connect { place, gate }))
    }

    fn exchange(&self, message: Message) -> Exchange {
        let request = Request {
            message,
            version: self.version,
            mask: MASK_DEFAULT,
        };
        Exchange {
            request: Some(request.encode(&self.host)),
            reply: Vec::new(),
        }
    }
}

/// Ids of a load are not credentials: any generator will do.
fn random_id() -> Uuid {
    Uuid::from_u128(fastrand::u128(..))
}

/// One request and its reply, on a socket that may still be connecting.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// `None` once it is out.
    request: Option<Packet>,
    reply: Vec<u8>,
}

impl Exchange {
    /// Goes as far as the socket allows; the granted reply when it is there,
    /// `None` when the socket has to become ready first.
    ///
    /// # Errors
    ///
    /// When the connection fails, the reply is none, or it is a refusal.
    pub(crate) fn advance(&mut self, socket: &Socket) -> anyhow::Result<Option<Reply>> {
        if let Some(request) = &self.request {
            match socket.send(request.as_bytes()) {
                Ok(count) if count == request.as_bytes().len() => self.request = None,
                Ok(count) => bail!("only {count} bytes of a jet request went out"),
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error).context("cannot send a jet request"),
            }
        }
        let mut buffer = [0; PACKET_BYTES_MAX];
        match socket.recv(&mut buffer) {
            Ok(0) => bail!("the relay closed before its reply was complete"),
            Ok(count) => self
                .reply
                .extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error).context("cannot read a jet reply"),
        }
        match Reply::decode(&self.reply)? {
            Progress::Partial { .. } => Ok(None),
            Progress::Complete { value, consumed } if consumed == self.reply.len() => {
                if value.status != Status::OK {
                    bail!("the relay answered with status {}", value.status.as_u16());
                }
                Ok(Some(value))
            }
            // Nobody has sent anything yet on the other leg.
            Progress::Complete { consumed, .. } => {
                bail!(
                    "{} bytes came behind a jet reply",
                    self.reply.len() - consumed
                )
            }
        }
    }
}

/// Where an acceptor waits, once it was told so.
pub(crate) fn place_of(chosen: Option<Place>, reply: &Reply) -> anyhow::Result<Place> {
    let minted = reply.details.as_ref().map(|details| Place {
        association: details.association,
        candidate: None,
    });
    chosen
        .or(minted)
        .context("the relay's accept reply names no association")
}
