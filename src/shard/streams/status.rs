//! What operators are told of one shard's QUIC.

use std::ops::AddAssign;
use std::time::Duration;

use super::{Inner, Streams};
use crate::protocol::ptth_quic::Role;
use crate::quic::connection::{ConnectionKey, Health};
use crate::runtime::clock;
use crate::shard::peer_address::PeerAddress;
use crate::shard::status::{Detail, SESSIONS_TOLD_MAX};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicRole {
    /// The client-side proxy.
    Client,
    /// The server-side proxy.
    Server,
    /// The relay, of a proxy's connection.
    Relay,
    /// Somebody who has not said it yet.
    Unknown,
}

impl QuicRole {
    const ALL: [Self; 4] = [Self::Client, Self::Server, Self::Relay, Self::Unknown];

    /// As operators read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Relay => "relay",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Role> for QuicRole {
    fn from(role: Role) -> Self {
        match role {
            Role::ClientSide => Self::Client,
            Role::ServerSide => Self::Server,
        }
    }
}

/// Whose a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicPeer {
    pub role: QuicRole,
    /// As the relay lists it.
    pub name: Option<Box<str>>,
}

/// One shard's QUIC, or that of all.
#[derive(Clone, Debug, Default)]
pub struct QuicStatus {
    pub census: QuicCensus,
    /// Up to [`SESSIONS_TOLD_MAX`] of a shard's, where they are asked for.
    pub connections: Vec<ConnectionStatus>,
    /// As `connections`.
    pub streams: Vec<StreamStatus>,
}

/// What there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuicCensus {
    /// In the order of [`QuicRole::ALL`].
    connections: [u64; QuicRole::ALL.len()],
    /// Users' connections that go by streams.
    pub streams: u64,
    /// The longest of those that are known.
    pub round_trip_max: Duration,
}

/// One connection that runs.
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    pub whose: QuicPeer,
    pub peer: PeerAddress,
    pub health: Health,
    pub lasted: Duration,
    /// For how long something that is to be acknowledged was sent and nothing has come.
    pub unanswered: Option<Duration>,
}

/// One connection of a user's that goes by a stream, or by two. What a proxy does not know,
/// as it is the one, is not told.
#[derive(Clone, Debug)]
pub struct StreamStatus {
    pub client: Option<Box<str>>,
    pub client_port: u16,
    pub server: Option<Box<str>>,
    pub target: Option<Box<str>>,
    /// The client's and the server's end.
    pub peers: [PeerAddress; 2],
    /// Those that came from either.
    pub bytes: [u64; 2],
    pub lasted: Duration,
}

impl QuicCensus {
    /// How many connections there are, by the role of who is there.
    pub fn connections(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.connections.into_iter();
        QuicRole::ALL.map(QuicRole::as_str).into_iter().zip(counts)
    }

    fn add(&mut self, role: QuicRole, health: &Health) {
        self.connections[role as usize] += 1;
        if !health.is_handshaking {
            self.round_trip_max = self.round_trip_max.max(health.round_trip);
        }
    }
}

impl AddAssign for QuicCensus {
    fn add_assign(&mut self, other: Self) {
        for (sum, count) in self.connections.iter_mut().zip(other.connections) {
            *sum += count;
        }
        self.streams += other.streams;
        self.round_trip_max = self.round_trip_max.max(other.round_trip_max);
    }
}

impl AddAssign for QuicStatus {
    fn add_assign(&mut self, other: Self) {
        self.census += other.census;
        self.connections.extend(other.connections);
        self.streams.extend(other.streams);
    }
}

impl Streams {
    /// What there is, where QUIC is spoken; `whose` knows connections.
    pub(in crate::shard) fn status(
        &self,
        detail: Detail,
        whose: impl Fn(ConnectionKey) -> QuicPeer,
    ) -> Option<QuicStatus> {
        let inner = self.inner.borrow();
        let inner = inner.as_ref()?;
        let mut status = QuicStatus::default();
        let whole = inner
            .sessions
            .values()
            .filter(|joined| !joined.session.is_far);
        status.census.streams = whole.count() as u64;
        let now = clock::now();
        for connection in inner.driver.connections() {
            let health = inner.driver.health(connection);
            // What is closed waits for what is still on its way, and is nobody's.
            let Some(health) = health.filter(|health| !health.is_closed) else {
                continue;
            };
            let whose = whose(connection);
            status.census.add(whose.role, &health);
            if detail == Detail::Sessions && status.connections.len() < SESSIONS_TOLD_MAX {
                status.connections.push(ConnectionStatus {
                    whose,
                    peer: inner.driver.peer_address(connection).into(),
                    lasted: now.since(health.since),
                    unanswered: health.unanswered_since.map(|since| now.since(since)),
                    health,
                });
            }
        }
        if detail == Detail::Sessions {
            status.streams = inner.stream_statuses();
        }
        Some(status)
    }
}

impl Inner {
    fn stream_statuses(&self) -> Vec<StreamStatus> {
        let now = clock::now();
        let whole = self
            .sessions
            .iter()
            .filter(|(_, joined)| !joined.session.is_far);
        let told = whole.take(SESSIONS_TOLD_MAX);
        let status = |(pair, joined): (&_, &super::Joined)| {
            let session = &joined.session;
            Some(StreamStatus {
                client: session.client.clone(),
                client_port: session.client_port,
                server: session.server.clone(),
                target: session.target.clone(),
                peers: session.peers,
                bytes: self.plane.bytes(*pair)?,
                lasted: now.since(session.joined_at),
            })
        };
        told.filter_map(status).collect()
    }
}
