//! Connections on their way from the shard that accepted them to the one where what they ask
//! for is: each goes over once.

use std::rc::Rc;

use super::peer_address::PeerAddress;
use super::rendezvous::{Message, Newcomer, RelayService};
use crate::association::key::ShardId;
use crate::metrics::counters::Count;
use crate::runtime::executor::spawn;
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::arrival::Arrival;
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// A leg on its way to its association's owner.
#[derive(Debug)]
pub struct Handoff {
    socket: InTransit,
    arrival: Arrival,
    peer: PeerAddress,
    since: Timestamp,
}

/// A connection between two shards. One that arrives nowhere, as the other shard has ended in that
/// moment, is reset: its peer has asked something, and must not take our end for an answer.
#[derive(Debug)]
pub(super) struct InTransit(Option<Socket>);

impl InTransit {
    const fn new(socket: Socket) -> Self {
        Self(Some(socket))
    }

    /// It has arrived.
    pub(super) fn arrive(mut self) -> Socket {
        self.0.take().expect("INVARIANT: it arrives once")
    }
}

impl Drop for InTransit {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            // One that has no peer any more needs none.
            let _ = socket.set_linger_reset();
        }
    }
}

impl RelayService {
    pub(super) async fn hand_off(&self, newcomer: Newcomer, shard: ShardId) {
        let Newcomer {
            stream,
            arrival,
            peer,
            since,
        } = newcomer;
        let message = |socket| {
            Message::Handoff(Box::new(Handoff {
                socket,
                arrival,
                peer,
                since,
            }))
        };
        self.send_over(stream, peer, shard, message).await;
    }

    /// Hands a connection over to another shard.
    pub(super) async fn send_over(
        &self,
        stream: Stream,
        peer: PeerAddress,
        shard: ShardId,
        message: impl FnOnce(InTransit) -> Message,
    ) {
        let socket = stream.detach().await;
        self.world.counters.counts.increment(Count::HandedOut);
        if self
            .world
            .send(shard, message(InTransit::new(socket)))
            .is_err()
        {
            // That shard has drained already.
            self.count_refused(peer, Refused::Draining);
        }
    }

    /// Counts a connection that another shard handed over. If there is no room for it, it is to
    /// be closed with the message, so that none stays to be told.
    pub(super) fn takes_over(&self, peer: PeerAddress) -> bool {
        self.world.counters.counts.increment(Count::HandedIn);
        let refused = if self.connections() >= self.settings().connections_max {
            Refused::TooManyConnections
        } else if !self.admits(peer) {
            Refused::TooManyFromAddress
        } else {
            return true;
        };
        self.count_refused(peer, refused);
        false
    }

    /// A leg came from another shard.
    pub(super) fn take_in(self: &Rc<Self>, handoff: Handoff) {
        let Handoff {
            socket,
            arrival,
            peer,
            since,
        } = handoff;
        let socket = socket.arrive();
        if !self.takes_over(peer) {
            return;
        }
        let (stream, permit) = self.begin(socket);
        let newcomer = Newcomer {
            stream,
            arrival,
            peer,
            since,
        };
        let service = Rc::clone(self);
        spawn(async move {
            let _counted = service.connections_per_address.enter(newcomer.peer);
            if service.world.is_draining() {
                service.turn_away(newcomer, Refused::Draining).await;
            } else {
                service.settle(newcomer).await;
            }
            drop(permit);
        });
    }
}
