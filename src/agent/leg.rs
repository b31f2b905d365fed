//! One connection of a proxy: dialled, and at the relay introduced.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use uuid::Uuid;

use super::meeting::Lease;
use super::random::random_bytes;
use super::target::{Host, HostPort, Target};
use super::way::Way;
use crate::association::key::{AssociationKey, RendezvousKey};
use crate::protocol::Progress;
use crate::protocol::http_head::{HEADERS_MAX, HeadError, HeadPolicy, HeaderSlots, ResponseHead};
use crate::protocol::jet::{
    Accept, AcceptPlace, Connect, Gate, MASK_DEFAULT, Message, Place, Reply, ReplyError, Request,
    Status, Version,
};
use crate::protocol::socks5::{self, Destination, ReplyCode};
use crate::relay::GateHold;
use crate::runtime::socket::Keepalive;
use crate::runtime::stream::Stream;
use crate::session::approach::{ApproachError, Conversation};
use crate::session::introduction::{Introduced, Introduction, IntroductionError};
use crate::session::wrapped_stream::WrappedStream;
use crate::shard::errand::one_word;
use crate::shard::leg::Leg;
use crate::shard::world::World;
use crate::time::Timestamp;

/// Until a dialled connection must stand, its name resolved.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Until the relay must have answered, or the other proxy come.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that are read of an answer at a time.
const READ_BYTES: usize = 4 << 10;

/// Why there is no connection, or no leg at the relay.
#[derive(Debug, thiserror::Error)]
pub enum LegError {
    /// No address for the name.
    #[error("cannot resolve \"{host}\": {source}")]
    Resolve { host: String, source: io::Error },
    /// No connection to the last address that was tried.
    #[error("cannot connect to {target}: {source}")]
    Connect { target: String, source: io::Error },
    /// Neither a connection nor an error.
    #[error("no connection to {target} within {} s", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout { target: String },
    /// The relay is silent.
    #[error("no answer within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    AnswerTimeout,
    /// It closed instead of answering.
    #[error("the connection was closed before the answer")]
    Closed,
    /// The connection broke.
    #[error("the connection failed: {0}")]
    Broken(#[from] io::Error),
    /// Something other than a JET relay answers.
    #[error("the answer is not a JET relay's: {0}")]
    NotJet(#[from] ReplyError),
    /// It cannot be asked, or is not whom we trust.
    #[error(transparent)]
    Introduction(IntroductionError),
    /// The HTTP proxy before the relay answers with something other than HTTP.
    #[error("the proxy's answer is not HTTP: {0}")]
    NotHttp(#[from] HeadError),
    /// The HTTP proxy before the relay goes on behind its answer.
    #[error("the proxy says more than it was asked for")]
    EagerProxy,
    /// The HTTP proxy before the relay says no.
    #[error("the proxy answers with status {status}")]
    Proxy { status: u16 },
    /// The relay says no.
    #[error("the relay answers with status {}", .0.as_u16())]
    Refused(Status),
}

impl LegError {
    /// What whoever started the proxy can do about it.
    pub(super) fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Introduction(IntroductionError::Approach(error)) => approach_advice(error),
            Self::Closed => Some("see whether the relay takes this transport at this port"),
            Self::Resolve { .. } => Some("check the relay's name, and this host's resolver"),
            Self::Connect { .. } | Self::ConnectTimeout { .. } => {
                Some("see whether the relay runs, and whether something on the way blocks its port")
            }
            Self::AnswerTimeout => {
                Some("see whether it is a relay that listens there, and over the same transport")
            }
            _ => None,
        }
    }
}

/// What can be done about a relay that has another certificate.
pub(super) const NOT_PINNED: &str =
    "the relay's certificate is not the pinned one: ask for the SHA-256 that it has now";

/// The same where nobody whom we trust vouches for it.
pub(super) const NOT_VOUCHED_FOR: &str = "add ?pin=SHA256 to the relay's URL, 64 digits that it \
     tells at its start where it made its certificate, and `openssl x509 -noout -fingerprint \
     -sha256` of any other; or pass --relay-ca FILE with an authority's certificate, not with the \
     relay's own";

/// What can be done about a relay that is not trusted.
pub(super) const fn approach_advice(error: &ApproachError) -> Option<&'static str> {
    use rustls::{CertificateError, Error};
    match error {
        ApproachError::Tls(Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        )) => Some(NOT_PINNED),
        ApproachError::Tls(Error::InvalidCertificate(_)) => Some(NOT_VOUCHED_FOR),
        ApproachError::Tls(Error::InvalidMessage(_)) => {
            Some("what listens there does not speak TLS: check the port, or go without TLS")
        }
        ApproachError::Tls(_) | ApproachError::Seal(_) => None,
    }
}

impl LegError {
    /// Whether there is no connection to the relay, or nothing comes on it. Whatever else is
    /// wrong somebody is there, and says no or is not whom we trust.
    pub(super) const fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Resolve { .. }
                | Self::Connect { .. }
                | Self::ConnectTimeout { .. }
                | Self::AnswerTimeout
        )
    }

    /// What a client of SOCKS5 is told.
    pub(super) fn reply(&self) -> ReplyCode {
        match self {
            Self::Resolve { .. } => ReplyCode::HostUnreachable,
            Self::Connect { source, .. } => ReplyCode::of_dial(source.kind()),
            Self::ConnectTimeout { .. } => ReplyCode::TtlExpired,
            _ => ReplyCode::GeneralFailure,
        }
    }
}

impl From<IntroductionError> for LegError {
    fn from(error: IntroductionError) -> Self {
        match error {
            IntroductionError::Refused(status) => Self::Refused(status),
            IntroductionError::NotJet(error) => Self::NotJet(error),
            error => Self::Introduction(error),
        }
    }
}

/// An acceptor that waits at the relay.
#[derive(Debug)]
pub(super) struct WaitingLeg {
    pub(super) link: WrappedStream,
    /// Where it waits, as the relay has it.
    pub(super) key: RendezvousKey,
    pub(super) lease: Lease,
    pub(super) since: Timestamp,
}

/// Waits at the relay, at `key` or, without one, where the relay says.
///
/// The path names both ids and the version is 1, so that the reply says for
/// how long the relay lets it wait.
pub(super) async fn accept<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    relay: &Way,
    key: Option<RendezvousKey>,
) -> Result<WaitingLeg, LegError> {
    let place = match key {
        Some(key) => AcceptPlace::Named(jet_place(key)),
        None => AcceptPlace::Minted,
    };
    let message = Message::Accept(Accept {
        place,
        gate: Gate::Off,
    });
    let since = world.reactor.now();
    let granted = request(world, relay, message, Version::V1).await?;
    let details = granted.reply.and_then(|reply| reply.details);
    // A relay that does not know associations made by their acceptor may have
    // made another one.
    let made = details
        .map(|details| AssociationKey(details.association))
        .filter(|association| key.is_none_or(|key| key.association != *association));
    let key = match (made, key) {
        (Some(association), _) => RendezvousKey {
            association,
            candidate: None,
        },
        (None, Some(key)) => key,
        (None, None) => return Err(LegError::Refused(Status::OK)),
    };
    Ok(WaitingLeg {
        link: granted.link,
        key,
        lease: Lease::new(since, granted.timeout_s),
        since,
    })
}

/// Joins the acceptor that waits at `key`.
pub(super) async fn connect<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    relay: &Way,
    key: RendezvousKey,
    version: Version,
) -> Result<WrappedStream, LegError> {
    let message = Message::Connect(Connect {
        place: jet_place(key),
        gate: Gate::Off,
    });
    Ok(request(world, relay, message, version).await?.link)
}

/// The association with this id, and its implicit candidate.
pub(super) fn implicit(association: Uuid) -> RendezvousKey {
    RendezvousKey {
        association: AssociationKey(association),
        candidate: None,
    }
}

fn jet_place(key: RendezvousKey) -> Place {
    Place {
        association: key.association.0,
        candidate: key.candidate.map(|candidate| candidate.0),
    }
}

/// What a relay that agrees gives.
struct Granted {
    link: WrappedStream,
    /// `None` over WebSocket.
    reply: Option<Reply>,
    /// For how many seconds an acceptor may wait, if the relay says so.
    timeout_s: Option<u32>,
}

/// Dials the relay and asks.
async fn request<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    relay: &Way,
    message: Message,
    version: Version,
) -> Result<Granted, LegError> {
    let mut stream = reach(world, &relay.url.address, relay.via.as_ref()).await?;
    let request = Request {
        message,
        version,
        mask: MASK_DEFAULT,
    };
    let introduction = Introduction::new(&relay.speech, &request, random_bytes())?;
    let introduced: Result<_, LegError> = converse(world, &mut stream, introduction).await;
    let Introduced {
        reply,
        timeout_s,
        codec,
        early,
    } = introduced?;
    Ok(Granted {
        link: WrappedStream::new(stream, codec, early, &world.workshop)?,
        reply,
        timeout_s,
    })
}

/// Connects to a relay, by a proxy where there is one.
pub(super) async fn reach<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    relay: &HostPort,
    via: Option<&HostPort>,
) -> Result<Stream, LegError> {
    let mut stream = dial_host(world, via.unwrap_or(relay)).await?;
    // Best effort: without it a dead relay is noticed later.
    let _ = stream.socket().set_keepalive(Keepalive::DEFAULT);
    if via.is_some() {
        let until = world.reactor.now() + HANDSHAKE_TIMEOUT;
        let passing = pass_proxy(&mut stream, relay);
        let passed = world.reactor.deadline(until, passing).await;
        passed.ok_or(LegError::AnswerTimeout)??;
    }
    Ok(stream)
}

/// Says what there is to say, until something has come of it, for [`HANDSHAKE_TIMEOUT`] at
/// most.
pub(super) async fn converse<C, M, T, E>(
    world: &World<C, M>,
    stream: &mut Stream,
    mut conversation: T,
) -> Result<T::Outcome, E>
where
    C: Copy,
    M: Send + 'static,
    T: Conversation,
    E: From<T::Error> + From<LegError>,
{
    let until = world.reactor.now() + HANDSHAKE_TIMEOUT;
    let conversing = async {
        let mut buffer = [0; READ_BYTES];
        let mut count = 0;
        loop {
            let received = conversation.receive(&buffer[..count]);
            if received.is_err() {
                // An alert, if there is one: the relay need not wait for us.
                let _ = stream.socket().send(conversation.output());
            }
            let received = received?;
            let sent = stream.send_all(conversation.output()).await;
            sent.map_err(LegError::Broken)?;
            conversation.handle_sent();
            if let Some(outcome) = received {
                return Ok(outcome);
            }
            let received = stream.recv(&mut buffer).await;
            count = received.map_err(LegError::Broken)?;
            if count == 0 {
                return Err(LegError::Closed.into());
            }
        }
    };
    let outcome = world.reactor.deadline(until, conversing).await;
    outcome.unwrap_or_else(|| Err(LegError::AnswerTimeout.into()))
}

/// Has an HTTP proxy connect us with the relay: RFC 9110 §9.3.6.
async fn pass_proxy(stream: &mut Stream, relay: &HostPort) -> Result<(), LegError> {
    let head = format!("CONNECT {relay} HTTP/1.1\r\nHost: {relay}\r\n\r\n");
    stream.send_all(head.as_bytes()).await?;
    let mut received = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = stream.recv(&mut buffer).await?;
        if count == 0 {
            return Err(LegError::Closed);
        }
        received.extend_from_slice(&buffer[..count]);
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        match ResponseHead::decode(&received, HeadPolicy::HTTP, &mut slots)? {
            Progress::Partial { .. } => {}
            Progress::Complete { value, consumed } => {
                return match value.status {
                    200..300 if consumed == received.len() => Ok(()),
                    // The relay speaks when it is spoken to.
                    200..300 => Err(LegError::EagerProxy),
                    status => Err(LegError::Proxy { status }),
                };
            }
        }
    }
}

/// A connection as the world takes it, which began at `since`.
pub(super) fn into_leg(stream: WrappedStream, since: Timestamp) -> Leg {
    let peer = stream.peer_address().into();
    Leg::from_stream(stream, peer, since, GateHold::Open)
}

/// Connects to a service.
pub(super) async fn dial_target<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    target: &Target,
) -> Result<WrappedStream, LegError> {
    let stream = match target {
        Target::Tcp(address) => dial_host(world, address).await?,
        Target::Unix(path) => {
            let until = world.reactor.now() + CONNECT_TIMEOUT;
            let connecting = Stream::connect_unix(Rc::clone(&world.reactor), path);
            let connected = world.reactor.deadline(until, connecting).await;
            finish_connect(|| target.to_string(), connected)?
        }
    };
    Ok(WrappedStream::plain(stream))
}

/// Connects to where a client of SOCKS5 wants to go.
pub(super) async fn dial_destination<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    destination: &Destination,
) -> Result<Stream, LegError> {
    let host = match &destination.host {
        socks5::Host::Address(address) => Host::Address(*address),
        socks5::Host::Name(name) => Host::Name(name.to_string()),
    };
    let port = destination.port;
    dial_host(world, &HostPort { host, port }).await
}

/// Connects to the first address of a host that lets us.
async fn dial_host<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    host_port: &HostPort,
) -> Result<Stream, LegError> {
    // A client may have named it, and errors end up in lines of the log.
    let told = || one_word(&host_port.to_string());
    let until = world.reactor.now() + CONNECT_TIMEOUT;
    let (name, addresses) = match &host_port.host {
        Host::Address(ip) => (None, vec![SocketAddr::new(*ip, host_port.port)]),
        Host::Name(name) => {
            let answer = world
                .reactor
                .deadline(until, world.resolve(name, host_port.port));
            match answer.await {
                Some(Ok(addresses)) => (Some(&**name), addresses),
                Some(Err(source)) => {
                    let host = one_word(name);
                    return Err(LegError::Resolve { host, source });
                }
                None => return finish_connect(told, None),
            }
        }
    };
    let connected = world.connect(name, &addresses, until).await;
    finish_connect(told, Some(connected))
}

fn finish_connect(
    target: impl Fn() -> String,
    connected: Option<io::Result<Stream>>,
) -> Result<Stream, LegError> {
    match connected {
        Some(Ok(stream)) => Ok(stream),
        Some(Err(source)) => Err(LegError::Connect {
            target: target(),
            source,
        }),
        None => Err(LegError::ConnectTimeout { target: target() }),
    }
}
