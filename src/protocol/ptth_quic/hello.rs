//! Who joins: the one message of a connection's first stream.
//!
//! Layered: `u8 n, id[n]`, then any number of `u8 tag, u16 l, value[l]`. Tag 1 is the proxy's
//! key; unknown ones are for whoever knows them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::answer::Question;
use super::fault::{MessageError, MessageFault};
use super::fields::Fields;
use super::header::{self, BODY_BYTES_MAX, Kind, Message};
use super::id::{WIRE_ID_BYTES_MAX, WireId};
use crate::protocol::Progress;

const KEY_TAG: u8 = 1;

/// The longest key, in bytes: what a body has room for beside the longest id.
pub const KEY_BYTES_MAX: usize = BODY_BYTES_MAX - (1 + WIRE_ID_BYTES_MAX) - (1 + 2);

/// A hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// On which side it stands.
    pub role: Role,
    /// Who it says that it is.
    pub who: Who,
}

/// The two sides of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The client-side proxy, P2.
    ClientSide,
    /// The server-side proxy, P4.
    ServerSide,
}

/// Who joins, of which nothing is proven yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// By its name.
    Layered {
        /// The name.
        id: WireId,
        /// What proves it, unless a certificate does.
        key: Option<ShownKey>,
    },
    /// By the number that the relay's configuration gives it. Only a certificate proves it.
    Legacy {
        /// The number.
        number: u8,
    },
}

/// A key as a proxy shows it: up to [`KEY_BYTES_MAX`] bytes of UTF-8.
#[derive(Clone, PartialEq, Eq)]
pub struct ShownKey(Box<str>);

/// Why this can be nobody's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ShownKeyError {
    /// There is nothing, or too much.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// It is no text.
    #[error("a key is text in utf-8")]
    NotText,
}

impl Hello {
    /// Decodes the hello at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one. Whatever is wrong with it, a connection
    /// without a hello is good for nothing, and is to be closed with
    /// [`super::CloseCode::Protocol`].
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, MessageError> {
        header::decode(bytes, &[Kind::ClientHello, Kind::ServerHello], Self::parse)
    }

    fn parse(message: Message<'_>) -> Result<Self, MessageFault> {
        let role = match message.kind {
            Kind::ClientHello => Role::ClientSide,
            _ => Role::ServerSide,
        };
        let who = match message.body {
            [] => Who::Legacy {
                number: message.argument,
            },
            body => {
                let mut fields = Fields::new(body);
                Who::Layered {
                    id: fields.id(MessageFault::Id)?,
                    key: key(fields)?,
                }
            }
        };
        Ok(Self { role, who })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = self.role.kind().byte();
        match &self.who {
            Who::Legacy { number } => header::encode_bare(kind, *number, out),
            Who::Layered { id, key } => header::encode(kind, 0, out, |out| {
                id.encode(out);
                if let Some(key) = key {
                    let length = u16::try_from(key.0.len());
                    debug_assert!(length.is_ok(), "a key is shorter than a body");
                    out.push(KEY_TAG);
                    out.extend_from_slice(&length.unwrap_or(u16::MAX).to_be_bytes());
                    out.extend_from_slice(key.0.as_bytes());
                }
            }),
        }
    }

    /// What an answer to it answers.
    #[must_use]
    pub const fn question(&self) -> Question {
        Question::Hello(self.role)
    }
}

/// The key among what follows the id.
fn key(mut fields: Fields<'_>) -> Result<Option<ShownKey>, MessageFault> {
    let mut key = None;
    while !fields.is_empty() {
        let tag = fields.u8()?;
        let length = fields.u16()?;
        let value = fields.bytes(length.into())?;
        if tag == KEY_TAG {
            let value = ShownKey::try_from(value).map_err(MessageFault::Key)?;
            if key.replace(value).is_some() {
                return Err(MessageFault::TwoKeys);
            }
        }
    }
    Ok(key)
}

impl Role {
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::ClientSide => Kind::ClientHello,
            Self::ServerSide => Kind::ServerHello,
        }
    }
}

impl ShownKey {
    /// As it was shown.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&[u8]> for ShownKey {
    type Error = ShownKeyError;

    fn try_from(bytes: &[u8]) -> Result<Self, ShownKeyError> {
        if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX {
            return Err(ShownKeyError::Length(bytes.len()));
        }
        let text = str::from_utf8(bytes).map_err(|_| ShownKeyError::NotText)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for ShownKey {
    type Err = ShownKeyError;

    fn from_str(text: &str) -> Result<Self, ShownKeyError> {
        text.as_bytes().try_into()
    }
}

impl fmt::Debug for ShownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShownKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_hello_fits() {
        let hello = Hello {
            role: Role::ServerSide,
            who: Who::Layered {
                id: "i".repeat(WIRE_ID_BYTES_MAX).parse().unwrap(),
                key: Some("k".repeat(KEY_BYTES_MAX).parse().unwrap()),
            },
        };
        let mut wire = Vec::new();
        hello.encode(&mut wire);
        assert_eq!(wire.len(), header::MESSAGE_BYTES_MAX);
        let consumed = wire.len();
        let value = hello;
        let decoded = Hello::decode(&wire);
        assert_eq!(decoded, Ok(Progress::Complete { value, consumed }));
    }

    #[test]
    fn what_follows_the_id_may_be_for_others() {
        let id: WireId = "home".parse().unwrap();
        for (tags, key) in [
            (&b""[..], None),
            (b"\x02\0\0", None),
            (b"\x02\0\x03abc\x01\0\x02k1\xff\0\x01\xff", Some("k1")),
            (b"\x01\0\x02k1\0\0\0\0\0\0", Some("k1")),
        ] {
            let length = u8::try_from(5 + tags.len()).unwrap();
            let wire = [&[4, 0, 0, length, 4], &b"home"[..], tags].concat();
            let value = Hello {
                role: Role::ServerSide,
                who: Who::Layered {
                    id: id.clone(),
                    key: key.map(|key| key.parse().unwrap()),
                },
            };
            let consumed = wire.len();
            let decoded = Hello::decode(&wire);
            assert_eq!(
                decoded,
                Ok(Progress::Complete { value, consumed }),
                "{tags:?}"
            );
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let key: ShownKey = "secret".parse().unwrap();
        assert_eq!(key.as_str(), "secret");
        let who = Who::Layered {
            id: "home".parse().unwrap(),
            key: Some(key),
        };
        assert!(!format!("{who:?}").contains("secret"));
    }
}
