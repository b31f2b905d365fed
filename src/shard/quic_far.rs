//! Clients that are led to a server by way of another shard, or of another protocol.
//!
//! ```text
//!   client        server
//!   QUIC          QUIC, another shard's    its shard is asked, over a bridge
//!   QUIC          HTTP                     the shard of its port is asked, over a bridge
//!   HTTP          QUIC                     a connect that waits is led, here
//! ```
//!
//! The shard that owns a server's port has all that is asked for it by HTTP. Whoever speaks QUIC
//! takes part there as a listener, or as a client, that sends no requests.

use std::rc::Rc;

use tracing::debug;

use super::forwarding::News;
use super::gathering::{Party, Role, Streamed};
use super::not_reached::NotReached;
use super::peer_address::PeerAddress;
use super::quic_opens::Reached;
use super::quic_servers::ServerPlace;
use super::rendezvous::{Message, RelayService};
use super::sessions::Origin;
use super::streams::{BridgeEnd, StreamEnd, StreamSession};
use crate::association::key::ShardId;
use crate::metrics::counters::Label;
use crate::protocol::ptth_http::{ConnectionId, Name, Place};
use crate::protocol::ptth_quic::{Answer, Inner, Offer, Refusal};
use crate::quic::connection::ConnectionKey;
use crate::relay::bridge::BridgeEndId;
use crate::runtime::clock;
use crate::runtime::executor::spawn;
use crate::runtime::flag::{Either, either};
use crate::runtime::question::Question;
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// A shard is to lead a client to a server.
#[derive(Debug)]
pub struct Reach {
    asker: ShardId,
    question: u64,
    /// The end of it there.
    bridge: BridgeEndId,
    far: Far,
    /// Where the client is.
    peer: PeerAddress,
    since: Timestamp,
}

/// To which one.
#[derive(Debug)]
pub(super) enum Far {
    /// One that has joined there.
    Offer {
        connection: ConnectionKey,
        offer: Offer,
    },
    /// One that may listen there by HTTP.
    Http(HttpConnect),
}

/// A connection of a client that speaks QUIC.
#[derive(Debug)]
pub(super) struct HttpConnect {
    pub(super) place: Place,
    pub(super) client: Name,
}

/// Where the server is, or why it was not reached.
pub(super) type FarAnswer = Result<PeerAddress, NotReached>;

type RelayBridge = BridgeEnd<Origin, Message>;

impl RelayService {
    /// Has another shard lead a client to a server.
    pub(super) async fn reach_by_bridge(
        self: &Rc<Self>,
        shard: ShardId,
        far: Far,
        peer: PeerAddress,
        since: Timestamp,
    ) -> Result<Reached, NotReached> {
        let bridge = RelayBridge::begin(&self.world, shard);
        let question = self.far_answers.open();
        let reach = Message::Reach(Box::new(Reach {
            asker: self.world.shard,
            question: question.id(),
            bridge: bridge.other(),
            far,
            peer,
            since,
        }));
        if self.world.send(shard, reach).is_err() {
            return Err(Refusal::NotConnected.into());
        }
        let until = since + self.settings().quic.answer_timeout;
        // A shard that ends meanwhile does not answer.
        let answered = self.world.reactor.deadline(until, question.answer()).await;
        match answered {
            Some(Ok(peer)) => Ok(Reached {
                end: StreamEnd::Bridge(bridge),
                peer,
            }),
            Some(Err(error)) => Err(error),
            None => {
                bridge.break_off(Refusal::TimedOut.into());
                Err(Refusal::TimedOut.into())
            }
        }
    }

    /// Another shard's client is to be led to a server of this one's.
    pub(super) fn take_reach(self: &Rc<Self>, reach: Reach) {
        let service = Rc::clone(self);
        // Before the next message, by which it may be broken off.
        let bridge = RelayBridge::take_up(&self.world, reach.bridge);
        spawn(async move { service.serve_reach(reach, bridge).await });
    }

    async fn serve_reach(self: Rc<Self>, reach: Reach, bridge: RelayBridge) {
        // False where the shard has ended that has asked.
        let tell = |reached: FarAnswer| {
            let message = Message::Reached {
                question: reach.question,
                reached,
            };
            self.world.send(reach.asker, message).is_ok()
        };
        let since = reach.since;
        match reach.far {
            Far::Offer { connection, offer } => {
                let offering = self.offer_here(connection, &offer, since);
                match either(offering, bridge.aborted()).await {
                    Either::First(Ok(stream)) => {
                        let peer = self.world.streams.peer_address(connection).into();
                        if !tell(Ok(peer)) {
                            return;
                        }
                        let session = StreamSession::far([reach.peer, peer], since, clock::now());
                        let ends = [StreamEnd::Bridge(bridge), StreamEnd::Stream(stream)];
                        self.world.join_streams(ends, session);
                    }
                    Either::First(Err(error)) => {
                        tell(Err(error));
                    }
                    // Whoever wanted it has gone.
                    Either::Second(()) => {}
                }
            }
            Far::Http(connect) => {
                let streamed = Streamed {
                    end: StreamEnd::Bridge(bridge),
                    peer: reach.peer,
                    since,
                };
                self.connect_by_http(connect, streamed, tell).await;
            }
        }
    }

    /// Has a server that listens by HTTP accept a client that speaks QUIC.
    async fn connect_by_http(
        self: &Rc<Self>,
        connect: HttpConnect,
        client: Streamed,
        tell: impl Fn(FarAnswer) -> bool,
    ) {
        let refuse = |error| {
            tell(Err(error));
        };
        let HttpConnect {
            place,
            client: name,
        } = connect;
        let board = &self.forwards.board;
        let is_served = board.borrow().is_served(&place, self.world.reactor.now());
        if !is_served {
            return refuse(Refusal::NotConnected.into());
        }
        let waiting = self.forwards.waiting.open();
        let mut again = None;
        let (id, news) = loop {
            let id = match self.place_connect(&place, name.clone(), waiting.id(), again) {
                Ok(id) => id,
                Err(refused) => {
                    debug!(reason = refused.as_str(), "no place to wait for a server");
                    return refuse(NotReached::limited(refused));
                }
            };
            match self.hear(&waiting, &client).await {
                Some(News::NotTaken(until)) => again = Some(until),
                news => break (id, news),
            }
        };
        let peer = match news {
            Some(News::Accepted(peer)) => peer,
            Some(News::Rejected) => return refuse(NotReached::REJECTED),
            Some(News::Refused(error)) => return refuse(error),
            Some(News::NotAccepted) => return refuse(Refusal::TimedOut.into()),
            _ => {
                self.withdraw(id, waiting.id());
                return refuse(match self.world.is_draining() {
                    true => NotReached::limited(Refused::Draining),
                    false => Refusal::NotConnected.into(),
                });
            }
        };
        let taken = board.borrow_mut().upstream(id, &name, waiting.id());
        debug_assert!(taken.is_ok(), "nobody else knows the id");
        if !tell(Ok(peer)) {
            return self.withdraw(id, waiting.id());
        }
        self.join_when_whole(id, &waiting, client).await;
    }

    /// Leads a connection that waits to its server, if that has joined by QUIC.
    pub(super) fn lead_by_quic(self: &Rc<Self>, place: &Place) {
        if let Some(server) = self.quic_servers.find(&place.server) {
            let (service, place) = (Rc::clone(self), place.clone());
            spawn(async move { service.lead(server, place).await });
        }
    }

    /// Those that wait for a server which has just joined.
    pub(super) fn lead_all_by_quic(self: &Rc<Self>, server: &Name) {
        let waiting: Vec<_> = {
            let board = self.forwards.board.borrow();
            let places = board.places();
            let of_it = places.filter(|(place, _)| place.server == *server);
            of_it
                .map(|(place, [_, connects])| (place.clone(), connects))
                .collect()
        };
        for (place, connects) in waiting {
            for _ in 0..connects {
                self.lead_by_quic(&place);
            }
        }
    }

    async fn lead(self: &Rc<Self>, server: ServerPlace, place: Place) {
        let waiting = self.forwards.waiting.open();
        let board = &self.forwards.board;
        let (id, client) = {
            let mut board = board.borrow_mut();
            let Some(id) = board.listen(&place, waiting.id()) else {
                // Somebody was faster, or whoever waited has gone.
                return board.stop_listening(&place, waiting.id());
            };
            let client = board.client_of(id).cloned();
            (id, client.expect("whoever waits has a name"))
        };
        let since = self.world.reactor.now();
        let offer = Offer::Layered {
            client: (&client).into(),
            inner: Inner {
                // Over HTTP nobody says it.
                client_port: 0,
                target: (&place.port).into(),
            },
        };
        let reached = match self.offer(server, offer, PeerAddress::UNKNOWN, since).await {
            Ok(reached) => reached,
            Err(error) => {
                // It may come back by another connection, or listen by HTTP before long.
                let is_away = match error.answer() {
                    Answer::Refused(Refusal::NotConnected) => true,
                    Answer::Refused(Refusal::TimedOut) => {
                        let now = self.world.reactor.now();
                        self.quic_servers.find(&place.server) != Some(server)
                            || board.borrow().is_served(&place, now)
                    }
                    _ => false,
                };
                let put_off = |(connect, until)| (connect, News::NotTaken(until));
                let told = match is_away {
                    true => board.borrow_mut().put_off(id).map(put_off),
                    false => {
                        let given_up = board.borrow_mut().give_up(id);
                        given_up.map(|connect| (connect, News::Refused(error)))
                    }
                };
                // Unless the client has gone.
                if let Some((connect, news)) = told {
                    self.forwards.waiting.deliver(connect, news);
                }
                return;
            }
        };
        let now = self.world.reactor.now();
        let accepted = {
            let mut board = board.borrow_mut();
            let accepted = board.accept(id, &place.server, waiting.id(), now);
            accepted.and_then(|connect| {
                board.downstream(id, &place.server, waiting.id())?;
                Ok(connect)
            })
        };
        let Ok(connect) = accepted else {
            // The client has gone, and the stream is broken off.
            return;
        };
        let news = News::Accepted(reached.peer);
        self.forwards.waiting.deliver(connect, news);
        let server = Streamed {
            end: reached.end,
            peer: reached.peer,
            since,
        };
        self.join_when_whole(id, &waiting, server).await;
    }

    /// Takes part in a tunnel, once it is whole.
    async fn join_when_whole(
        self: &Rc<Self>,
        id: ConnectionId,
        waiting: &Question<News>,
        streamed: Streamed,
    ) {
        self.begin_if_whole(id);
        match self.hear(waiting, &streamed).await {
            Some(News::Whole(gathering, role)) => {
                debug_assert!(matches!(role, Role::Client | Role::Server));
                self.come_together(&gathering, role, Party::Streamed(streamed));
            }
            _ => self.withdraw(id, waiting.id()),
        }
    }

    /// Waits for news; `None` when the other side has gone, or the relay stops.
    async fn hear(&self, waiting: &Question<News>, streamed: &Streamed) -> Option<News> {
        let gone = async {
            match &streamed.end {
                StreamEnd::Bridge(bridge) => bridge.aborted().await,
                StreamEnd::Stream(stream) => stream.given_up().await,
                StreamEnd::Socket(_) | StreamEnd::Seam(_) => std::future::pending().await,
            }
        };
        let heard = self.draining.or_raised(either(waiting.answer(), gone));
        match heard.await {
            Some(Either::First(news)) => Some(news),
            Some(Either::Second(())) | None => None,
        }
    }
}
