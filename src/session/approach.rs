//! A connection that we dialled, up to the answer to what it asks: TLS, if it comes so,
//! and one request, or what follows from its answer. No I/O happens here.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;

use crate::tls::{SealError, Session, Wire};

/// Whom to trust, and as whom.
pub type Trusted = (Arc<ClientConfig>, ServerName<'static>);

/// What is said on a connection that we dialled, until something has come of it.
pub trait Conversation {
    /// What comes of it.
    type Outcome;
    /// Why nothing does.
    type Error;

    /// What is to be sent now, in one piece. Call again with what is left of it, or
    /// when more has come.
    fn output(&self) -> &[u8];

    /// All of [`Self::output`] is on its way.
    fn handle_sent(&mut self);

    /// Takes what came. `None`: more has to come. There may be output either way, of an error
    /// as well.
    ///
    /// # Errors
    ///
    /// When nothing more can come.
    fn receive(&mut self, bytes: &[u8]) -> Result<Option<Self::Outcome>, Self::Error>;
}

/// A request that is said, and whose answer is left to others.
#[derive(Debug)]
pub struct Asking(Approach);

/// One such connection.
pub struct Approach {
    tls: Option<Box<Session>>,
    request: Vec<u8>,
    is_asked: bool,
    received: Vec<u8>,
    output: Wire,
}

/// Why nothing could be asked.
#[derive(Debug, Error)]
pub enum ApproachError {
    /// No TLS with whom we trust.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    /// TLS was over before we could ask.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl Approach {
    /// Begins, over TLS where somebody is trusted; `request` is said as soon as possible.
    ///
    /// # Errors
    ///
    /// When TLS cannot begin.
    pub fn new(trusted: Option<&Trusted>, request: Vec<u8>) -> Result<Self, ApproachError> {
        let tls = match trusted {
            Some((config, name)) => {
                let session = Session::client(Arc::clone(config), name.clone())?;
                Some(Box::new(session))
            }
            None => None,
        };
        let mut approach = Self {
            tls,
            request,
            is_asked: false,
            received: Vec::new(),
            output: Wire::default(),
        };
        approach.receive(&[])?;
        Ok(approach)
    }

    /// What is to be sent now, in one piece. Call again with what is left of it, or
    /// when more has come.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.output.as_bytes()
    }

    /// All of [`Self::output`] is on its way.
    pub const fn handle_sent(&mut self) {
        self.output.clear();
    }

    /// Takes what came; gives all that was answered so far.
    ///
    /// # Errors
    ///
    /// When nothing more can come. There may be output that says so.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<&[u8], ApproachError> {
        if let Some(tls) = &mut self.tls {
            let mut sealed = tls.take_begun();
            sealed.extend_from_slice(bytes);
            let mut plain = vec![0; sealed.len()];
            let opened = tls.open(&mut sealed, &mut plain);
            // An alert goes out even when it failed.
            tls.take_words(&mut self.output);
            let opened = opened?;
            self.received.extend_from_slice(&plain[..opened.bytes]);
            if tls.is_handshaking() {
                return Ok(&self.received);
            }
        } else {
            self.received.extend_from_slice(bytes);
        }
        if !std::mem::replace(&mut self.is_asked, true) {
            let request = std::mem::take(&mut self.request);
            self.say(&request)?;
        }
        Ok(&self.received)
    }

    /// Says more, of who was asked and has answered.
    ///
    /// # Errors
    ///
    /// When TLS takes no more.
    pub fn say(&mut self, words: &[u8]) -> Result<(), ApproachError> {
        match &mut self.tls {
            Some(tls) => tls.seal(words, &mut self.output)?,
            None => self.output.push(words),
        }
        Ok(())
    }

    /// What is left behind an answer of this length: TLS, and what came after it.
    pub fn take_rest(&mut self, answer_bytes: usize) -> (Option<Box<Session>>, Vec<u8>) {
        (self.tls.take(), self.received.split_off(answer_bytes))
    }
}

impl Asking {
    /// Begins, see [`Approach::new`].
    ///
    /// # Errors
    ///
    /// When TLS cannot begin.
    pub fn new(trusted: Option<&Trusted>, request: Vec<u8>) -> Result<Self, ApproachError> {
        Ok(Self(Approach::new(trusted, request)?))
    }
}

impl Conversation for Asking {
    /// TLS, and what of the answer has come.
    type Outcome = (Option<Box<Session>>, Vec<u8>);
    type Error = ApproachError;

    fn output(&self) -> &[u8] {
        self.0.output()
    }

    fn handle_sent(&mut self) {
        self.0.handle_sent();
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<Option<Self::Outcome>, ApproachError> {
        self.0.receive(bytes)?;
        Ok(self.0.is_asked.then(|| self.0.take_rest(0)))
    }
}

/// How far it is; the rest are ids and passwords.
impl fmt::Debug for Approach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Approach")
            .field("is_asked", &self.is_asked)
            .finish_non_exhaustive()
    }
}
