//! A local connection and the two requests that stand for the other one: two pairs, each of
//! which goes one way.
//!
//! ```text
//!   local ──────> request's body          the connection is in both pairs, as two
//!   local <────── answer's body           descriptors of the same
//! ```
//!
//! What breaks one pair breaks the other, as at the relay.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::rc::Rc;

use ahash::RandomState;
use tracing::debug;

use super::relay_health::RelayHealth;
use crate::protocol::http_head::Body;
use crate::relay::codec::HttpBody;
use crate::relay::{CloseReason, Half};
use crate::runtime::clock;
use crate::runtime::stream::Stream;
use crate::session::link::Link;
use crate::shard::errand::one_word;
use crate::shard::leg::Leg;
use crate::shard::peer_address::PeerAddress;
use crate::shard::sever::sever;
use crate::shard::status::{
    Detail, SESSIONS_TOLD_MAX, SessionStatus, SessionStatuses, ShardStatus,
};
use crate::shard::world::World;
use crate::time::Timestamp;

/// The lowest bit of a way's number: whether it leads to the local connection, and not from it.
const TO_LOCAL: u64 = 1;

/// One of the two ways of a tunnel, each of which is a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way(u64);

/// One shard of a proxy.
pub(super) type TunnelWorld<M> = World<Way, M>;

/// Those of one shard that run.
#[derive(Debug)]
pub(super) struct Tunnels {
    client: Client,
    /// The relay, as operators see it.
    relay: Box<str>,
    /// By the number of the way from the local connection.
    running: RefCell<HashMap<u64, Tunnel, RandomState>>,
    last: Cell<u64>,
}

/// Whom a shard's tunnels serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// Whoever connected here.
    Local,
    /// Whoever is behind the relay.
    Remote,
}

#[derive(Debug)]
struct Tunnel {
    /// Where its client comes from.
    peer: PeerAddress,
    target: Box<str>,
    joined_at: Timestamp,
    /// Bytes that went from the local connection, and to it, by ways that have ended.
    ended: [Option<u64>; 2],
}

/// What a tunnel is made of.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) local: Stream,
    /// Its body is what the local connection sends.
    pub(super) request: Link,
    /// The body behind it is what the local connection gets.
    pub(super) answer: (Link, Body),
}

impl Tunnels {
    /// None; those to come go by `relay`.
    pub(super) fn new(client: Client, relay: &impl Display) -> Self {
        Self {
            client,
            relay: one_word(&relay.to_string()).into(),
            running: RefCell::default(),
            last: Cell::default(),
        }
    }

    /// Joins the ends of a tunnel to `target` that began to come together at `since`.
    pub(super) fn join<M: Send + 'static>(
        &self,
        world: &Rc<TunnelWorld<M>>,
        ends: Ends,
        target: &impl Display,
        since: Timestamp,
    ) {
        let number = self.last.get() + 2;
        self.last.set(number);
        let local = PeerAddress::from(ends.local.socket().peer_address());
        let peer = match self.client {
            Client::Local => local,
            Client::Remote => ends.request.peer_address().into(),
        };
        if let Err(error) = join(world, ends, local, since, Way(number)) {
            return debug!(%error, "a tunnel did not begin");
        }
        let tunnel = Tunnel {
            peer,
            target: one_word(&target.to_string()).into(),
            joined_at: clock::now(),
            ended: [None; 2],
        };
        self.running.borrow_mut().insert(number, tunnel);
    }

    /// One way has ended: so does the other, unless it was as it should.
    pub(super) fn end_way<M: Send + 'static>(
        &self,
        world: &Rc<TunnelWorld<M>>,
        way: Way,
        reason: CloseReason,
        bytes: [u64; 2],
    ) {
        let mut running = self.running.borrow_mut();
        if let Some(tunnel) = running.get_mut(&way.tunnel()) {
            tunnel.ended[way.index()] = Some(way.carried(bytes));
            if tunnel.ended.iter().all(Option::is_some) {
                running.remove(&way.tunnel());
            }
        }
        if !matches!(reason, CloseReason::Finished(_)) {
            sever(world, way.other());
        }
    }

    /// Adds the relay by which they go, and those that run if they are asked for.
    pub(super) fn add_status<M: Send + 'static>(
        &self,
        world: &TunnelWorld<M>,
        health: &RelayHealth,
        status: &mut ShardStatus,
        detail: Detail,
    ) {
        status.relays.push(health.status(&self.relay));
        if detail == Detail::Sessions {
            status.sessions = Some(self.statuses(world));
        }
    }

    /// Those that run, as far as they are told.
    fn statuses<M: Send + 'static>(&self, world: &TunnelWorld<M>) -> SessionStatuses {
        let now = clock::now();
        let running = self.running.borrow();
        let told = running.iter().take(SESSIONS_TOLD_MAX);
        let mut carried: HashMap<_, _, RandomState> = told
            .map(|(number, tunnel)| (*number, tunnel.ended.map(Option::unwrap_or_default)))
            .collect();
        for (session, bytes) in world.sessions(|way| carried.contains_key(&way.tunnel())) {
            let way = session.context;
            if let Some(carried) = carried.get_mut(&way.tunnel()) {
                carried[way.index()] = way.carried(bytes);
            }
        }
        let status = |(number, [from_local, to_local]): (u64, [u64; 2])| {
            let tunnel = running.get(&number)?;
            Some(SessionStatus {
                kind: "tunnel",
                peer: tunnel.peer,
                target: Some(tunnel.target.clone()),
                way: Some(self.relay.clone()),
                bytes: match self.client {
                    Client::Local => [from_local, to_local],
                    Client::Remote => [to_local, from_local],
                },
                lasted: now.since(tunnel.joined_at),
            })
        };
        SessionStatuses {
            told: carried.into_iter().filter_map(status).collect(),
            count: running.len() as u64,
        }
    }
}

fn join<M: Send + 'static>(
    world: &Rc<TunnelWorld<M>>,
    ends: Ends,
    peer: PeerAddress,
    since: Timestamp,
    way: Way,
) -> io::Result<()> {
    let Ends {
        local,
        request,
        answer: (answer, body),
    } = ends;
    let reactor = &world.reactor;
    let remote = |link: Link, body| {
        let peer = link.peer_address().into();
        Leg::with_body(link, body, &world.workshop, peer, since)
    };
    let legs = local.socket().duplicate().map_err(io::Error::from);
    let legs = legs.and_then(|sink| {
        let request = remote(request, HttpBody::sent())?;
        match remote(answer, HttpBody::fetched(body)) {
            Ok(answer) => Ok((Stream::new(Rc::clone(reactor), sink), request, answer)),
            Err(error) => {
                request.give_up(reactor);
                Err(error)
            }
        }
    });
    let (sink, request, answer) = match legs {
        Ok(legs) => legs,
        Err(error) => {
            local.reset();
            return Err(error);
        }
    };
    let [source_half, sink_half] = Half::both();
    let source = Leg::of_half(local, source_half, peer, since);
    let sink = Leg::of_half(sink, sink_half, peer, since);
    world.join(source, request, way);
    world.join(sink, answer, way.other());
    Ok(())
}

impl Way {
    const fn other(self) -> Self {
        Self(self.0 ^ TO_LOCAL)
    }

    /// The number of its tunnel.
    const fn tunnel(self) -> u64 {
        self.0 & !TO_LOCAL
    }

    const fn index(self) -> usize {
        (self.0 & TO_LOCAL) as usize
    }

    /// Bytes that its pair carried: its left leg is the local connection.
    const fn carried(self, bytes: [u64; 2]) -> u64 {
        bytes[self.index()]
    }
}
