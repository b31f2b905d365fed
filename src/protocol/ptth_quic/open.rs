//! What a connection of the user's begins with: `open` to the relay, `offer` to the server-side
//! proxy, and in both of them the inner message, which the one proxy has for the other.
//!
//! Layered: `u8 n, id[n]`, then one whole inner message, whose body is `u16 port, u8 n,
//! target[n]`. There is one way to write each, so that what the relay has read and writes again is
//! the same, byte for byte.

use super::answer::{Form, Question};
use super::fault::{MessageError, MessageFault};
use super::fields::Fields;
use super::header::{self, HEADER_BYTES, Header, Kind};
use super::id::WireId;
use crate::protocol::Progress;
use crate::protocol::ptth_name::Name;

/// What the client-side proxy asks of the relay, on a stream that it has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Open {
    /// By names.
    Layered {
        /// To be connected with whom.
        server: WireId,
        /// What to tell it.
        inner: Inner,
    },
    /// By a number; [`LateInner`] follows for the server-side proxy.
    Legacy {
        /// To be connected with whom.
        server: u8,
    },
}

/// What the relay tells the server-side proxy, on a stream that the relay has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// By names.
    Layered {
        /// Who asks: the relay vouches for it.
        client: WireId,
        /// What it asks for.
        inner: Inner,
    },
    /// By a number; [`LateInner`] follows from the client-side proxy.
    Legacy {
        /// Who asks; 0 for a client without a number.
        client: u8,
    },
}

/// What the client-side proxy asks of the server-side proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// The TCP port from which the user's program (P1) has connected, for logs: with the client's
    /// name it tells one connection from another.
    pub client_port: u16,
    /// What to connect it with, by the name that the server-side proxy has for it.
    pub target: WireId,
}

/// The inner message where it stands alone: behind a legacy [`Offer`] that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LateInner {
    /// By names.
    Layered(Inner),
    /// By a number.
    Legacy {
        /// What to connect it with, by the server-side proxy's own count.
        target: u8,
    },
}

impl Open {
    /// Decodes the `open` at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, MessageError> {
        header::decode(bytes, &[Kind::Open], |message| match message.body {
            [] => Ok(Self::Legacy {
                server: message.argument,
            }),
            body => {
                let (server, inner) = decode_layers(body)?;
                Ok(Self::Layered { server, inner })
            }
        })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Layered { server, inner } => encode_layers(Kind::Open, server, inner, out),
            Self::Legacy { server } => header::encode_bare(Kind::Open.byte(), *server, out),
        }
    }

    /// What an answer to it answers.
    #[must_use]
    pub const fn question(&self) -> Question {
        Question::Open(match self {
            Self::Layered { .. } => Form::Layered,
            Self::Legacy { .. } => Form::Legacy,
        })
    }

    /// What to tell the server-side proxy, in the same form, of the client that asks.
    #[must_use]
    pub fn to_offer(&self, client: &Name, legacy_id: Option<u8>) -> Offer {
        match self {
            Self::Layered { inner, .. } => Offer::Layered {
                client: client.into(),
                inner: inner.clone(),
            },
            Self::Legacy { .. } => Offer::Legacy {
                client: legacy_id.unwrap_or(0),
            },
        }
    }
}

impl Offer {
    /// Decodes the `offer` at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, MessageError> {
        header::decode(bytes, &[Kind::Offer], |message| match message.body {
            [] => Ok(Self::Legacy {
                client: message.argument,
            }),
            body => {
                let (client, inner) = decode_layers(body)?;
                Ok(Self::Layered { client, inner })
            }
        })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Layered { client, inner } => encode_layers(Kind::Offer, client, inner, out),
            Self::Legacy { client } => header::encode_bare(Kind::Offer.byte(), *client, out),
        }
    }

    /// What an answer to it answers.
    #[must_use]
    pub const fn question(&self) -> Question {
        Question::Offer(match self {
            Self::Layered { .. } => Form::Layered,
            Self::Legacy { .. } => Form::Legacy,
        })
    }
}

impl LateInner {
    /// Decodes the inner message at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, MessageError> {
        header::decode(bytes, &[Kind::Inner], |message| match message.body {
            [] => Ok(Self::Legacy {
                target: message.argument,
            }),
            body => Inner::decode_body(body).map(Self::Layered),
        })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Layered(inner) => inner.encode(out),
            Self::Legacy { target } => header::encode_bare(Kind::Inner.byte(), *target, out),
        }
    }
}

impl Inner {
    /// `message` is one, and nothing else.
    fn decode_whole(message: &[u8]) -> Result<Self, MessageFault> {
        let Progress::Complete { value: header, .. } = Header::decode(message) else {
            return Err(MessageFault::Overrun);
        };
        if header.first != Kind::Inner.byte() || header.body_bytes == 0 {
            return Err(MessageFault::NotInner);
        }
        if header.second != 0 {
            return Err(MessageFault::ArgumentWithBody {
                argument: header.second,
            });
        }
        let behind = &message[HEADER_BYTES..];
        let body_bytes = usize::from(header.body_bytes);
        let (body, rest) = behind
            .split_at_checked(body_bytes)
            .ok_or(MessageFault::Overrun)?;
        match rest.len() {
            0 => Self::decode_body(body),
            bytes => Err(MessageFault::Trailing { bytes }),
        }
    }

    fn decode_body(body: &[u8]) -> Result<Self, MessageFault> {
        let mut fields = Fields::new(body);
        let inner = Self {
            client_port: fields.u16()?,
            target: fields.id(MessageFault::Target)?,
        };
        match fields.rest().len() {
            0 => Ok(inner),
            bytes => Err(MessageFault::Trailing { bytes }),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        header::encode(Kind::Inner.byte(), 0, out, |out| {
            out.extend_from_slice(&self.client_port.to_be_bytes());
            self.target.encode(out);
        });
    }
}

/// Whom it concerns, and the inner message.
fn decode_layers(body: &[u8]) -> Result<(WireId, Inner), MessageFault> {
    let mut fields = Fields::new(body);
    let id = fields.id(MessageFault::Id)?;
    let inner = Inner::decode_whole(fields.rest())?;
    Ok((id, inner))
}

fn encode_layers(kind: Kind, id: &WireId, inner: &Inner, out: &mut Vec<u8>) {
    header::encode(kind.byte(), 0, out, |out| {
        id.encode(out);
        inner.encode(out);
    });
}
