//! Our way into a jProxy server, up to the first packet: `[JPROXY]`, "Handshake" and "Login". No
//! I/O happens here.
//!
//! ```text
//! Greeted ── accepted ──▶ LoggingIn ── accepted, with a key ──▶ Entered
//!    └──── another version     └──── the hash is nobody's
//! ```
//!
//! Left out: what the tunnel's key is. It comes encrypted for whoever has the private key.

use std::fmt;

use thiserror::Error;

use super::approach::{Approach, ApproachError, Conversation, Trusted};
use crate::protocol::Progress;
use crate::protocol::jproxy::{
    ENCRYPTED_KEY_BYTES, Greeting, HASH_BYTES, HandshakeError, LoginAnswer, decode_acceptance,
};
use crate::relay::codec::{Codec, CodecError};

/// Bytes that are shown of what somebody else answers.
const SHOWN_BYTES_MAX: usize = 40;

/// One connection on its way in.
pub struct TunnelEntry {
    approach: Approach,
    hash: [u8; HASH_BYTES],
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeted,
    /// The hash is said, behind so many bytes of the server's.
    LoggingIn {
        consumed: usize,
    },
}

/// A connection that was let in.
pub struct TunnelEntered {
    /// What all packets are wrapped in.
    pub codec: Option<Box<Codec>>,
    /// What came behind the answer, as the codec keeps it.
    pub early: Vec<u8>,
    /// The tunnel's key, for whoever has the private key.
    pub encrypted_key: [u8; ENCRYPTED_KEY_BYTES],
}

/// Why it was not.
#[derive(Debug, Error)]
pub enum TunnelEntryError {
    /// Nothing could be asked.
    #[error(transparent)]
    Approach(#[from] ApproachError),
    /// Something else answers.
    #[error("the answer is not jProxy's: {0}")]
    NotJproxy(#[from] HandshakeError),
    /// The same, from its beginning.
    #[error("the answer is not jProxy's: it begins with \"{}\"", .begins.escape_ascii())]
    OtherProtocol { begins: Vec<u8> },
    /// It says so, and no more.
    #[error("the relay speaks another version of jProxy")]
    OtherVersion,
    /// Nobody has the hash, or whoever has it may have no further tunnel: one word says both.
    #[error("the relay knows no such key, or lets its user have no further tunnel")]
    UnknownKey,
    /// What came behind the answer is nothing of the kind.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl TunnelEntry {
    /// Begins, for whose key this is the hash.
    ///
    /// # Errors
    ///
    /// When TLS cannot begin.
    pub fn new(
        trusted: Option<&Trusted>,
        hash: [u8; HASH_BYTES],
    ) -> Result<Self, TunnelEntryError> {
        let mut greeting = Vec::new();
        Greeting::OURS.encode(&mut greeting);
        Ok(Self {
            approach: Approach::new(trusted, greeting)?,
            hash,
            state: State::Greeted,
        })
    }
}

impl Conversation for TunnelEntry {
    type Outcome = TunnelEntered;
    type Error = TunnelEntryError;

    fn output(&self) -> &[u8] {
        self.approach.output()
    }

    fn handle_sent(&mut self) {
        self.approach.handle_sent();
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<Option<TunnelEntered>, TunnelEntryError> {
        let received = self.approach.receive(bytes)?;
        let behind = match self.state {
            State::LoggingIn { consumed } => consumed,
            State::Greeted => {
                match decode_acceptance(received).map_err(|error| misread(error, received))? {
                    Progress::Partial { .. } => return Ok(None),
                    Progress::Complete { value: false, .. } => {
                        return Err(TunnelEntryError::OtherVersion);
                    }
                    Progress::Complete {
                        value: true,
                        consumed,
                    } => {
                        self.approach.say(&self.hash)?;
                        self.state = State::LoggingIn { consumed };
                        return Ok(None);
                    }
                }
            }
        };
        let (encrypted_key, consumed) = match LoginAnswer::decode(&received[behind..])? {
            Progress::Partial { .. } => return Ok(None),
            Progress::Complete { value, consumed } => match value {
                LoginAnswer::Accepted(key) => (*key, behind + consumed),
                LoginAnswer::Refused => return Err(TunnelEntryError::UnknownKey),
            },
        };
        let (tls, early) = self.approach.take_rest(consumed);
        let (codec, early) = Codec::begin(tls, None, early)?;
        Ok(Some(TunnelEntered {
            codec,
            early,
            encrypted_key,
        }))
    }
}

/// What else it may be that answers so.
fn misread(error: HandshakeError, received: &[u8]) -> TunnelEntryError {
    match error {
        HandshakeError::Magic => {
            let is_shown = |byte: &&u8| !matches!(byte, b'\r' | b'\n');
            let begins = received.iter().take_while(is_shown).take(SHOWN_BYTES_MAX);
            TunnelEntryError::OtherProtocol {
                begins: begins.copied().collect(),
            }
        }
        error => error.into(),
    }
}

/// Without the hash, which logs in.
impl fmt::Debug for TunnelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelEntry")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// How many bytes, not which.
impl fmt::Debug for TunnelEntered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelEntered")
            .field("early_bytes", &self.early.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::jproxy::encode_acceptance;

    const HASH: [u8; HASH_BYTES] = [0xa5; HASH_BYTES];
    const KEY: [u8; ENCRYPTED_KEY_BYTES] = [9; ENCRYPTED_KEY_BYTES];

    fn entry() -> TunnelEntry {
        let mut entry = TunnelEntry::new(None, HASH).expect("no tls");
        assert_eq!(entry.output(), b"jProxy\x03\0");
        entry.handle_sent();
        entry
    }

    fn acceptance() -> Vec<u8> {
        let mut wire = Vec::new();
        encode_acceptance(true, &mut wire);
        wire
    }

    /// As the server says it, with the first packet behind it.
    fn login_answer() -> Vec<u8> {
        let mut wire = Vec::new();
        LoginAnswer::Accepted(&KEY).encode(&mut wire);
        wire.extend_from_slice(b"packet");
        wire
    }

    #[test]
    fn it_is_let_in_however_the_answers_are_cut() {
        let (acceptance, answer) = (acceptance(), login_answer());
        for first in 0..=acceptance.len() {
            for second in 0..answer.len() {
                let mut entry = entry();
                let (start, rest) = acceptance.split_at(first);
                assert!(matches!(entry.receive(start), Ok(None)));
                assert!(matches!(entry.receive(rest), Ok(None)));
                assert_eq!(entry.output(), HASH, "cut at {first}");
                entry.handle_sent();
                let (start, rest) = answer.split_at(second);
                let early = match entry.receive(start).expect("no error") {
                    None => entry.receive(rest).expect("let in"),
                    Some(entered) => Some(entered).inspect(|_| assert!(second > 256)),
                };
                let entered = early.expect("whole");
                assert!(entered.codec.is_none() && entered.encrypted_key == KEY);
                assert!(b"packet".starts_with(&entered.early[..]));
                assert!(entry.output().is_empty(), "the hash is said once");
            }
        }
    }

    #[test]
    fn the_hash_is_said_to_whom_speaks_jproxy_alone() {
        let refused = |wire: &[u8]| {
            let mut entry = entry();
            let error = entry.receive(wire).expect_err("refused").to_string();
            assert!(entry.output().is_empty(), "{error}");
            error
        };
        assert_eq!(
            refused(b"jProxy\x01"),
            "the relay speaks another version of jProxy"
        );
        let long = [b'x'; 100];
        for (other, told) in [
            (
                &b"HTTP/1.1 400 Bad Request\r\nServer"[..],
                "it begins with \"HTTP/1.1 400 Bad Request\"",
            ),
            (b"\xff\"\n", "it begins with \"\\xff\\\"\""),
            (&long, &format!("it begins with \"{}\"", "x".repeat(40))),
            (b"jProxy\x02", "status 2 is neither 0 nor 1"),
        ] {
            assert_eq!(
                refused(other),
                format!("the answer is not jProxy's: {told}")
            );
        }
    }

    #[test]
    fn a_key_that_is_nobodys_is_known_to_be() {
        let mut entry = entry();
        assert!(matches!(entry.receive(&acceptance()), Ok(None)));
        let error = entry.receive(&[1]).expect_err("refused");
        assert!(matches!(error, TunnelEntryError::UnknownKey), "{error}");
        let shown = format!("{entry:?}");
        assert!(!shown.contains("165") && !shown.contains("a5"), "{shown}");
    }
}
