//! The other side of an arrival: a leg that we dialled says what it wants of a
//! relay, over any transport. No I/O happens here.
//!
//! ```text
//!   tls, wss:   hello ─ ... ─ finished ─┐
//!   tcp, tls:                           ├─ packet ── reply ──┐
//!   ws, wss:                            └─ upgrade ── 101 ───┴─> the leg's codec
//! ```

use thiserror::Error;

use super::approach::{Approach, ApproachError, Conversation, Trusted};
use crate::protocol::Progress;
use crate::protocol::http_head::{HEADERS_MAX, HeadError, HeadPolicy, HeaderSlots, ResponseHead};
use crate::protocol::jet::{
    Accept, AcceptDetails, AcceptPlace, Connect, ConnectivityTest, HostName, HostNameError,
    Message, Place, Reply, ReplyError, Request, Status, Transport, Verb,
};
use crate::protocol::websocket::{AnswerError, ClientHandshake, Role};
use crate::relay::codec::{Closing, Codec, CodecError, HALF_CLOSE_PROTOCOL, WebSocket};

/// How a relay is spoken to.
#[derive(Clone, Debug)]
pub struct Speech {
    /// By what.
    pub transport: Transport,
    /// Its host and port, as requests name it.
    pub authority: String,
    /// Whom to trust, and as whom: for TLS.
    pub tls: Option<Trusted>,
}

/// One leg that is being introduced.
#[derive(Debug)]
pub struct Introduction {
    approach: Approach,
    /// `None`: by a packet.
    upgrade: Option<ClientHandshake>,
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
    /// Nothing could be asked.
    #[error(transparent)]
    Approach(#[from] ApproachError),
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
        let (request, upgrade) = match speech.transport {
            Transport::Tcp | Transport::Tls => {
                let host = HostName::new(&speech.authority)?;
                (request.encode(&host).as_bytes().to_vec(), None)
            }
            Transport::Ws | Transport::Wss => {
                let handshake = ClientHandshake::new(random, &[HALF_CLOSE_PROTOCOL]);
                let target = target(&request.message)?;
                let request = handshake.request(&speech.authority, &target, &[]);
                (request.into_bytes(), Some(handshake))
            }
        };
        let trusted = match (&speech.tls, speech.transport.is_tls()) {
            (Some(trusted), true) => Some(trusted),
            (None, true) => return Err(IntroductionError::NoTrust),
            (_, false) => None,
        };
        let approach = Approach::new(trusted, request)?;
        Ok(Self { approach, upgrade })
    }
}

impl Conversation for Introduction {
    type Outcome = Introduced;
    type Error = IntroductionError;

    fn output(&self) -> &[u8] {
        self.approach.output()
    }

    fn handle_sent(&mut self) {
        self.approach.handle_sent();
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<Option<Introduced>, IntroductionError> {
        let received = self.approach.receive(bytes)?;
        match &self.upgrade {
            None => {
                let Progress::Complete { value, consumed } = Reply::decode(received)? else {
                    return Ok(None);
                };
                if value.status != Status::OK {
                    return Err(IntroductionError::Refused(value.status));
                }
                let (tls, early) = self.approach.take_rest(consumed);
                let (codec, early) = Codec::begin(tls, None, early)?;
                Ok(Some(Introduced {
                    timeout_s: value.details.as_ref().and_then(|it| it.timeout_s),
                    reply: Some(value),
                    codec,
                    early,
                }))
            }
            Some(handshake) => {
                let mut slots = HeaderSlots::<HEADERS_MAX>::new();
                let decoded = ResponseHead::decode(received, HeadPolicy::HTTP, &mut slots)?;
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
                let (tls, early) = self.approach.take_rest(consumed);
                let (codec, early) = Codec::begin(tls, Some(websocket), early)?;
                Ok(Some(Introduced {
                    reply: None,
                    timeout_s,
                    codec,
                    early,
                }))
            }
        }
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
