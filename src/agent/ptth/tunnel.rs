//! A local connection and the two requests that stand for the other one: two pairs, each of
//! which goes one way.
//!
//! ```text
//!   local ──────> request's body          the connection is in both pairs, as two
//!   local <────── answer's body           descriptors of the same
//! ```
//!
//! What breaks one pair breaks the other, as at the relay.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use tracing::debug;

use crate::protocol::http_head::Body;
use crate::relay::codec::HttpBody;
use crate::relay::{CloseReason, Half};
use crate::runtime::stream::Stream;
use crate::session::link::Link;
use crate::shard::leg::Leg;
use crate::shard::peer_address::PeerAddress;
use crate::shard::sever::sever;
use crate::shard::world::World;
use crate::time::Timestamp;

/// One of the two ways of a tunnel; the other one's number differs in the lowest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way(u64);

/// Descriptors of one tunnel: two of the local connection, and one of each request.
const TUNNEL_CONNECTIONS: usize = 4;

/// One shard of a proxy.
pub(super) type TunnelWorld<M> = World<Way, M>;

/// Numbers a shard's tunnels.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    last: Cell<u64>,
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
    /// Joins the ends of a tunnel that began to come together at `since`.
    pub(super) fn join<M: Send + 'static>(
        &self,
        world: &Rc<TunnelWorld<M>>,
        ends: Ends,
        since: Timestamp,
    ) {
        let number = self.last.get() + 2;
        self.last.set(number);
        if let Err(error) = join(world, ends, since, Way(number)) {
            debug!(%error, "a tunnel did not begin");
        }
    }
}

fn join<M: Send + 'static>(
    world: &Rc<TunnelWorld<M>>,
    ends: Ends,
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
    let peer = PeerAddress::from(local.socket().peer_address());
    let [source_half, sink_half] = Half::both();
    let source = Leg::of_half(local, source_half, peer, since);
    let sink = Leg::of_half(sink, sink_half, peer, since);
    world.join(source, request, way);
    world.join(sink, answer, way.other());
    Ok(())
}

/// One way has ended: so does the other, unless it was as it should.
pub(super) fn handle_ended<M: Send + 'static>(
    world: &Rc<TunnelWorld<M>>,
    way: Way,
    reason: CloseReason,
) {
    if !matches!(reason, CloseReason::Finished(_)) {
        sever(world, way.other());
    }
}

/// Whether there are descriptors for one tunnel more, beside `coming` that are not whole yet.
pub(super) fn has_room<M: Send + 'static>(
    world: &TunnelWorld<M>,
    coming: usize,
    connections_max: usize,
) -> bool {
    let open = world.reactor.watched() + TUNNEL_CONNECTIONS * coming;
    open + TUNNEL_CONNECTIONS <= connections_max
}

impl Way {
    const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }
}
