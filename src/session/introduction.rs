//! The other side of an arrival: a leg that we dialled says what it wants of a
//! relay, over any transport. No I/O happens here.
//!
//! ```text
//!   tls, wss:   hello ─ ... ─ finished ─┐
//!   tcp, tls:                           ├─ packet ── reply ──┐
//!   ws, wss:                            └─ upgrade ── 101 ───┴─> the leg's codec
//! ```

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;

use crate::protocol::Progress;
use crate::protocol::http_head::{HEADERS_MAX, HeadError, HeadPolicy, HeaderSlots, ResponseHead};
use crate::protocol::jet::{
    Accept, AcceptDetails, AcceptPlace, Connect, ConnectivityTest, HostName, HostNameError,
    Message, Packet, Place, Reply, ReplyError, Request, Status, Transport, Verb,
};
use crate::protocol::websocket::{AnswerError, ClientHandshake, Role};
use crate::relay::codec::{Closing, Codec, CodecError, HALF_CLOSE_PROTOCOL, WebSocket};
use crate::tls::{SealError, Session, Wire};

/// How a relay is spoken to.
#[derive(Clone, Debug)]
pub struct Speech {
    /// By what.
    pub transport: Transport,
    /// Its host and port, as requests name it.
    pub authority: String,
    /// Whom to trust, and as whom: for TLS.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// One leg that is being introduced.
pub struct Introduction {
    tls: Option<Box<Session>>,
    asking: Asking,
    is_asked: bool,
    received: Vec<u8>,
    output: Wire,
}

/// How far it is; the rest is ids.
impl fmt::Debug for Introduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introduction")
            .field("is_asked", &self.is_asked)
            .finish_non_exhaustive()
    }
}

enum Asking {
    Packet(Box<Packet>),
    Upgrade {
        handshake: ClientHandshake,
        request: String,
    },
}

/// A leg that was let in.
#[derive(Debug)]
pub struct Introduced {
    /// What the relay said; of an upgrade nothing but that it went well.
    pub reply: Option<Reply>,
    /// For how many seconds an acceptor may wait, if the relay says so.
    pub timeout_s: Option<u32>,
    /// What everything from now on is wrapped in.
    pub codec: Option<Box<Codec>>,
    /// What came behind the answer, as the codec keeps it.
    pub early: Vec<u8>,
}

/// Why a leg was not let in.
#[derive(Debug, Error)]
pub enum IntroductionError {
    /// The transport is over TLS, and nobody said whom to trust.
    #[error("nobody is trusted to be the relay")]
    NoTrust,
    /// Its host and port could not stand in a request.
    #[error("the relay's address: {0}")]
    Authority(#[from] HostNameError),
    /// An acceptor whose place the relay is to name, which packets can ask for
    /// alone.
    #[error("a relay names no place over websocket")]
    NoPlace,
    /// No TLS with whom we trust.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    /// TLS was over before we could ask.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Something other than a JET relay answers.
    #[error("the answer is not a JET relay's: {0}")]
    NotJet(#[from] ReplyError),
    /// Something other than HTTP answers.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(#[from] HeadError),
    /// What answers does not speak WebSocket as it should.
    #[error(transparent)]
    NotWebSocket(AnswerError),
    /// What came behind the answer is not WebSocket.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The relay says no.
    #[error("the relay answers with status {}", .0.as_u16())]
    Refused(Status),
}

impl Introduction {
    /// Begins. `random` is fresh, for the upgrade's key.
    ///
    /// # Errors
    ///
    /// What cannot be asked in this way.
    pub fn new(
        speech: &Speech,
        request: &Request,
        random: [u8; 16],
    ) -> Result<Self, IntroductionError> {
        let asking = match speech.transport {
            Transport::Tcp | Transport::Tls => {
                let host = HostName::new(&speech.authority)?;
                Asking::Packet(Box::new(request.encode(&host)))
            }
            Transport::Ws | Transport::Wss => {
                let handshake = ClientHandshake::new(random, &[HALF_CLOSE_PROTOCOL]);
                let target = target(&request.message)?;
                let request = handshake.request(&speech.authority, &target, &[]);
                Asking::Upgrade { handshake, request }
            }
        };
        let is_tls = matches!(speech.transport, Transport::Tls | Transport::Wss);
        let tls = match (&speech.tls, is_tls) {
            (Some((config, name)), true) => {
                let session = Session::client(Arc::clone(config), name.clone())?;
                Some(Box::new(session))
            }
            (None, true) => return Err(IntroductionError::NoTrust),
            (_, false) => None,
        };
        let mut introduction = Self {
            tls,
            asking,
            is_asked: false,
            received: Vec::new(),
            output: Wire::default(),
        };
        introduction.advance(&[])?;
        Ok(introduction)
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

    /// Takes what came from the relay. `None`: more has to come.
    ///
    /// # Errors
    ///
    /// Why the leg was not let in.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<Introduced>, IntroductionError> {
        self.advance(bytes)?;
        match &self.asking {
            Asking::Packet(_) => {
                let Progress::Complete { value, consumed } = Reply::decode(&self.received)? else {
                    return Ok(None);
                };
                if value.status != Status::OK {
                    return Err(IntroductionError::Refused(value.status));
                }
                let early = self.received.split_off(consumed);
                let (codec, early) = Codec::begin(self.tls.take(), None, early)?;
                Ok(Some(Introduced {
                    timeout_s: value.details.as_ref().and_then(|it| it.timeout_s),
                    reply: Some(value),
                    codec,
                    early,
                }))
            }
            Asking::Upgrade { handshake, .. } => {
                let mut slots = HeaderSlots::<HEADERS_MAX>::new();
                let decoded = ResponseHead::decode(&self.received, HeadPolicy::HTTP, &mut slots)?;
                let Progress::Complete { value, consumed } = decoded else {
                    return Ok(None);
                };
                handshake.check(&value).map_err(|error| match error {
                    AnswerError::Refused { status } => match jet_status(status) {
                        Some(status) => IntroductionError::Refused(status),
                        None => IntroductionError::NotWebSocket(error),
                    },
                    error => IntroductionError::NotWebSocket(error),
                })?;
                let timeout_s = AcceptDetails::timeout_s(&value.headers)?;
                let chosen = value.headers.find("Sec-WebSocket-Protocol");
                let close = match chosen {
                    Some(_) => Closing::agreed_on(Some(HALF_CLOSE_PROTOCOL)),
                    None => Closing::BothWays,
                };
                let websocket = WebSocket::new(Role::Client, close);
                let early = self.received.split_off(consumed);
                let (codec, early) = Codec::begin(self.tls.take(), Some(websocket), early)?;
                Ok(Some(Introduced {
                    reply: None,
                    timeout_s,
                    codec,
                    early,
                }))
            }
        }
    }

    /// Opens what came, and asks as soon as that is possible.
    fn advance(&mut self, bytes: &[u8]) -> Result<(), IntroductionError> {
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
                return Ok(());
            }
        } else {
            self.received.extend_from_slice(bytes);
        }
        if std::mem::replace(&mut self.is_asked, true) {
            return Ok(());
        }
        let request = match &self.asking {
            Asking::Packet(packet) => packet.as_bytes(),
            Asking::Upgrade { request, .. } => request.as_bytes(),
        };
        match &mut self.tls {
            Some(tls) => tls.seal(request, &mut self.output)?,
            None => self.output.push(request),
        }
        Ok(())
    }
}

/// The path of an upgrade.
fn target(message: &Message) -> Result<String, IntroductionError> {
    let (verb, place) = match *message {
        Message::Accept(Accept {
            place: AcceptPlace::Named(place),
            ..
        }) => (Verb::Accept, place),
        Message::Accept(Accept {
            place: AcceptPlace::Minted,
            ..
        }) => return Err(IntroductionError::NoPlace),
        Message::Connect(Connect { place, .. }) => (Verb::Connect, place),
        Message::Test(ConnectivityTest { place }) => (Verb::Test, place),
    };
    let Place {
        association,
        candidate,
    } = place;
    let verb = verb.as_str();
    Ok(match candidate {
        Some(candidate) => format!("/jet/{verb}/{association}/{candidate}"),
        None => format!("/jet/{verb}/{association}"),
    })
}

/// What a relay would have said to a packet: over HTTP it says more. `None`: it is
/// no relay's word, but perhaps a proxy's that stands before one.
fn jet_status(status: u16) -> Option<Status> {
    Some(match status {
        400 | 409 | 410 | 426 | 428 => Status::BAD_REQUEST,
        403 => Status::FORBIDDEN,
        404 => Status::NOT_FOUND,
        429 => Status::TOO_MANY_REQUESTS,
        503 => Status::SERVICE_UNAVAILABLE,
        _ => return None,
    })
}
