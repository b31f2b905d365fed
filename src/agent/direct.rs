//! Clients that ask a server-side proxy without the relay: JET over TCP, at an address
//! of its own, for its own association and no other.
//!
//! Left out: TLS and WebSocket. What runs inside brings its own security, as it does
//! through a relay.

use std::convert::Infallible;
use std::rc::Rc;

use tracing::debug;
use uuid::Uuid;

use super::leg::HANDSHAKE_TIMEOUT;
use crate::metrics::counters::Label;
use crate::protocol::jet::{AcceptDetails, Connect, Message, Place};
use crate::relay::GateHold;
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::arrival::Arrival;
use crate::session::handshake::{Failure, Opening, ReadBuffer, read_opening, refuse};
use crate::session::link::Link as Incoming;
use crate::session::refused::Refused;
use crate::shard::world::World;
use crate::time::Timestamp;

/// Clients of one shard that have not said what they want, or proved that they may.
pub(super) const CALLERS_MAX: usize = 64;

/// A client that has said what it wants.
pub(super) struct Caller {
    stream: Stream,
    arrival: Arrival,
    since: Timestamp,
}

/// A client that was let in.
pub(super) struct Admitted {
    pub(super) stream: Stream,
    /// What came behind its request.
    pub(super) early: Vec<u8>,
    /// Whether it may lose what comes right behind the reply.
    pub(super) gate: GateHold,
    pub(super) since: Timestamp,
}

impl Caller {
    /// Reads what a client opens with; `None` if it was refused.
    pub(super) async fn receive<C: Copy>(
        world: &World<C, Infallible>,
        buffer: &ReadBuffer,
        socket: Socket,
    ) -> Option<Self> {
        let since = world.reactor.now();
        let stream = Stream::new(Rc::clone(&world.reactor), socket);
        let mut incoming = Incoming::new(stream);
        let until = since + HANDSHAKE_TIMEOUT;
        let opening = read_opening(&world.reactor, &mut incoming, buffer, until).await;
        let failure = match opening {
            Ok(Opening::Jet(jet)) => {
                let (stream, _, _) = incoming.into_parts();
                let arrival = Arrival::packet(jet.request, jet.prefix, None, jet.was_full).ok()?;
                return Some(Self {
                    stream,
                    arrival,
                    since,
                });
            }
            Ok(Opening::Http(_) | Opening::Jproxy(_) | Opening::Tls(_)) => {
                Failure::silent(Refused::OtherListener)
            }
            Err(failure) => failure,
        };
        count(world, failure.refused);
        if let Some(reply) = failure.reply {
            incoming.refuse(&world.reactor, reply.as_bytes()).await;
        }
        None
    }

    /// Where it wants to connect, if `is_ours`; all else is answered here.
    pub(super) async fn wants<C: Copy>(
        self,
        world: &World<C, Infallible>,
        is_ours: impl Fn(Place) -> bool,
    ) -> Option<(Self, Place)> {
        match self.arrival.message {
            Message::Connect(Connect { place, .. }) if is_ours(place) => Some((self, place)),
            Message::Test(test) if is_ours(test.place) => {
                let Self {
                    stream,
                    mut arrival,
                    ..
                } = self;
                refuse(&world.reactor, stream, arrival.confirm().as_bytes()).await;
                None
            }
            Message::Connect(_) | Message::Test(_) | Message::Accept(_) => {
                self.turn_away(world, Refused::NotFound).await;
                None
            }
        }
    }

    /// Says why it is not let in.
    pub(super) async fn turn_away<C: Copy>(
        mut self,
        world: &World<C, Infallible>,
        refused: Refused,
    ) {
        count(world, refused);
        let words = self.arrival.refuse(refused, || AcceptDetails {
            association: Uuid::nil(),
            instance: None,
            timeout_s: None,
        });
        refuse(&world.reactor, self.stream, words.as_bytes()).await;
    }

    /// Lets it in; `None` when it has gone.
    pub(super) fn admit<C: Copy>(mut self, world: &World<C, Infallible>) -> Option<Admitted> {
        let gate = self.arrival.gate_hold(world.reactor.now());
        let reply = self
            .arrival
            .welcome(|| unreachable!("details are for acceptors"));
        let words = reply.as_bytes();
        // In one piece, as clients read it so.
        if self.stream.socket().send(words) != Ok(words.len()) {
            count(world, Refused::ReplyFailed);
            return None;
        }
        Some(Admitted {
            stream: self.stream,
            early: self.arrival.prefix,
            gate,
            since: self.since,
        })
    }
}

fn count<C: Copy>(world: &World<C, Infallible>, refused: Refused) {
    world.count_refused(refused);
    debug!(reason = refused.as_str(), "direct client refused");
}
