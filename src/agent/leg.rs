//! One connection of a proxy: dialled, and at the relay introduced.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use uuid::Uuid;

use super::meeting::Lease;
use super::target::{Host, HostPort, Target};
use super::ticket::RelayUrl;
use crate::association::key::{AssociationKey, RendezvousKey};
use crate::protocol::Progress;
use crate::protocol::jet::{
    Accept, AcceptPlace, Connect, Gate, HostName, MASK_DEFAULT, Message, Place, Reply, ReplyError,
    Request, Status, Version,
};
use crate::relay::{GateHold, LegIo};
use crate::runtime::Owner;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Keepalive;
use crate::runtime::stream::{Stream, Watched};
use crate::shard::session_log::Party;
use crate::shard::world::{Leg, World};
use crate::time::Timestamp;

/// Until a dialled connection must stand, its name resolved.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Until the relay must have answered, or the other proxy come.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// The relay says no.
    #[error("the relay answers with status {}", .0.as_u16())]
    Refused(Status),
}

/// An acceptor that waits at the relay.
#[derive(Debug)]
pub(super) struct WaitingLeg {
    pub(super) stream: Stream,
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
    relay: &RelayUrl,
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
    let (stream, reply) = request(world, relay, message, Version::V1).await?;
    let details = reply.details;
    let timeout_s = details.as_ref().and_then(|details| details.timeout_s);
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
        (None, None) => return Err(LegError::Refused(reply.status)),
    };
    Ok(WaitingLeg {
        stream,
        key,
        lease: Lease::new(since, timeout_s),
        since,
    })
}

/// Joins the acceptor that waits at `key`.
pub(super) async fn connect<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    relay: &RelayUrl,
    key: RendezvousKey,
    version: Version,
) -> Result<Stream, LegError> {
    let message = Message::Connect(Connect {
        place: jet_place(key),
        gate: Gate::Off,
    });
    let (stream, _) = request(world, relay, message, version).await?;
    Ok(stream)
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

/// Sends a request and reads its reply, and not one byte more.
async fn request<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    relay: &RelayUrl,
    message: Message,
    version: Version,
) -> Result<(Stream, Reply), LegError> {
    let mut stream = dial_host(world, &relay.0).await?;
    // Best effort: without it a dead relay is noticed later.
    let _ = stream.socket().set_keepalive(Keepalive::DEFAULT);
    let Ok(host) = HostName::new(&relay.0.to_string()) else {
        unreachable!("a host and a port are a header's value");
    };
    let request = Request {
        message,
        version,
        mask: MASK_DEFAULT,
    };
    let until = world.reactor.now() + HANDSHAKE_TIMEOUT;
    let exchange = async {
        stream.send_all(request.encode(&host).as_bytes()).await?;
        read_reply(&mut stream).await
    };
    let reply = world
        .reactor
        .deadline(until, exchange)
        .await
        .ok_or(LegError::AnswerTimeout)??;
    if reply.status == Status::OK {
        Ok((stream, reply))
    } else {
        Err(LegError::Refused(reply.status))
    }
}

async fn read_reply(stream: &mut Stream) -> Result<Reply, LegError> {
    let mut received = Vec::new();
    loop {
        match Reply::decode(&received)? {
            Progress::Complete { value, consumed } => {
                debug_assert_eq!(consumed, received.len(), "nothing is read behind the reply");
                return Ok(value);
            }
            Progress::Partial { more_bytes_min } => {
                let start = received.len();
                received.resize(start + more_bytes_min, 0);
                let count = stream.recv(&mut received[start..]).await?;
                if count == 0 {
                    return Err(LegError::Closed);
                }
                received.truncate(start + count);
            }
        }
    }
}

/// Connects to a service.
pub(super) async fn dial_target<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    target: &Target,
) -> Result<Stream, LegError> {
    match target {
        Target::Tcp(address) => dial_host(world, address).await,
        Target::Unix(path) => {
            let until = world.reactor.now() + CONNECT_TIMEOUT;
            let connecting = Stream::connect_unix(Rc::clone(&world.reactor), path);
            let connected = world.reactor.deadline(until, connecting).await;
            finish_connect(target, connected)
        }
    }
}

/// Connects to the first address of a host that lets us.
async fn dial_host<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    host_port: &HostPort,
) -> Result<Stream, LegError> {
    let until = world.reactor.now() + CONNECT_TIMEOUT;
    let addresses = match &host_port.host {
        Host::Address(ip) => vec![SocketAddr::new(*ip, host_port.port)],
        Host::Name(name) => {
            let answer = world
                .reactor
                .deadline(until, world.resolve(name, host_port.port));
            match answer.await {
                Some(Ok(addresses)) => addresses,
                Some(Err(source)) => {
                    let host = name.clone();
                    return Err(LegError::Resolve { host, source });
                }
                None => return finish_connect(host_port, None),
            }
        }
    };
    let mut connected = Some(Err(io::ErrorKind::AddrNotAvailable.into()));
    for (index, address) in (0_u32..).zip(&addresses) {
        // A silent address must leave time for those behind it.
        let left = u32::try_from(addresses.len()).unwrap_or(u32::MAX) - index;
        let now = world.reactor.now();
        let turn = now + until.since(now) / left;
        let connecting = Stream::connect(Rc::clone(&world.reactor), *address);
        connected = world.reactor.deadline(turn, connecting).await;
        if matches!(connected, Some(Ok(_))) {
            break;
        }
    }
    finish_connect(host_port, connected)
}

fn finish_connect(
    target: &dyn ToString,
    connected: Option<io::Result<Stream>>,
) -> Result<Stream, LegError> {
    let target = || target.to_string();
    match connected {
        Some(Ok(stream)) => Ok(stream),
        Some(Err(source)) => Err(LegError::Connect {
            target: target(),
            source,
        }),
        None => Err(LegError::ConnectTimeout { target: target() }),
    }
}

/// A stream as the world takes it.
pub(super) fn into_leg(stream: Stream) -> Leg {
    let peer = stream.socket().peer_address().into();
    let Watched {
        socket,
        poll,
        readiness,
    } = stream.into_watched(Owner::TASK);
    Leg {
        io: LegIo {
            codec: None,
            socket,
            prefix: Vec::new(),
            gate: GateHold::Open,
        },
        party: Party { poll, peer },
        // A reply is read to its last byte and no further.
        readiness: readiness | Readiness::READABLE,
    }
}
