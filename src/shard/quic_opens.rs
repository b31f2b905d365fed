//! What the proxies' connections are for: a client-side proxy opens a stream to a server, and
//! the relay one to that server's proxy; once both have agreed, they are joined.

use std::fmt::Display;
use std::num::NonZeroU8;
use std::rc::Rc;
use std::time::Duration;

use tracing::debug;

use super::caller::RefusedCall;
use super::memory::STREAM_BYTES_MIN;
use super::not_reached::NotReached;
use super::peer_address::PeerAddress;
use super::quic_far::{Far, HttpConnect};
use super::quic_guests::{Guest, RelayStream};
use super::quic_servers::ServerPlace;
use super::rendezvous::{Message, RelayService};
use super::sessions::Origin;
use super::streams::{NoMessage, StreamEnd, StreamSession};
use crate::protocol::ptth_http::Place;
use crate::protocol::ptth_name::Name;
use crate::protocol::ptth_quic::{Answer, MessageFault, Offer, Open, Refusal, Role};
use crate::quic::connection::ConnectionKey;
use crate::runtime::clock;
use crate::runtime::flag::{Either, either};
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// How long a message may take until it is whole.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take, once there is an answer for it, until it has room for that.
const ROOM_TIMEOUT: Duration = Duration::from_secs(2);

/// What a client asks for, and may.
struct Granted {
    client: Rc<Guest>,
    server: Name,
    /// `None` where it is asked by numbers: which port, the client says behind the relay's back.
    port: Option<Name>,
    /// What the server is told.
    offer: Offer,
}

/// A server's end of what a client wants.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) end: StreamEnd<Origin, Message>,
    /// Where the server is.
    pub(super) peer: PeerAddress,
}

impl RelayService {
    /// A stream that is to become somebody's connection.
    pub(super) async fn serve_open(self: Rc<Self>, stream: RelayStream) {
        let since = self.world.reactor.now();
        let reading = stream.read_message(Open::decode);
        let open = match self.within(since, MESSAGE_TIMEOUT, reading).await {
            Some(Ok(open)) if !self.is_of_server(&stream) => open,
            Some(Ok(open)) => {
                let mut answer = Vec::new();
                Answer::Refused(Refusal::Malformed).encode(open.question(), &mut answer);
                return self.refuse_place(stream, &answer).await;
            }
            Some(Err(NoMessage::Wrong(error))) if error.fault == MessageFault::NotHere => {
                return self.refuse_place(stream, &error.answer()).await;
            }
            Some(Err(NoMessage::Wrong(error))) => {
                self.count_refused_by(stream.key().connection, Refused::NotAMessage);
                debug!(%error, "a stream begins with something else");
                self.last_words(&stream, &error.answer()).await;
                return stream.finish(Refusal::Malformed.into());
            }
            Some(Err(_)) => return,
            None => {
                self.count_refused_by(stream.key().connection, Refused::TooSlow);
                return stream.break_off(Refusal::TimedOut.into());
            }
        };
        let answered = match self.grant_open(&stream, &open).await {
            Ok(granted) if granted.port.is_none() => {
                return self.serve_by_number(stream, granted, &open).await;
            }
            Ok(granted) => {
                match either(self.reach(&granted, since), stream.given_up()).await {
                    Either::First(reached) => reached.map(|reached| (granted, reached)),
                    // What was begun is broken off.
                    Either::Second(()) => {
                        return self.count_refused_open(&stream, &open, Refused::ClosedEarly);
                    }
                }
            }
            Err(error) => Err(error),
        };
        let question = open.question();
        match answered {
            Ok((granted, reached)) => {
                let saying = stream.say(|words| Answer::Accepted.encode(question, words));
                let written = self.within(self.world.reactor.now(), ROOM_TIMEOUT, saying);
                if written.await == Some(true) {
                    self.join_quic(granted, stream, reached, since);
                }
            }
            Err(error) => {
                let mut answer = Vec::new();
                error.answer().encode(question, &mut answer);
                self.last_words(&stream, &answer).await;
                self.count_refused_open(&stream, &open, error.counted());
                stream.finish(error.refusal().into());
            }
        }
    }

    /// Joins whoever asks by a number with its server. The client is answered before the server
    /// is asked, and can be told no more by then: what the client says next is for the server.
    async fn serve_by_number(self: Rc<Self>, stream: RelayStream, granted: Granted, open: &Open) {
        let since = self.world.reactor.now();
        let saying = stream.say(|words| Answer::Accepted.encode(open.question(), words));
        if self.within(since, ROOM_TIMEOUT, saying).await != Some(true) {
            return;
        }
        match either(self.reach(&granted, since), stream.given_up()).await {
            Either::First(Ok(reached)) => self.join_quic(granted, stream, reached, since),
            Either::First(Err(error)) => {
                self.count_refused_open(&stream, open, error.counted());
                stream.break_off(error.refusal().into());
            }
            Either::Second(_) => self.count_refused_open(&stream, open, Refused::ClosedEarly),
        }
    }

    fn count_refused_open(&self, stream: &RelayStream, open: &Open, refused: Refused) {
        let connection = stream.key().connection;
        let peer = self.world.streams.peer_address(connection).into();
        let client = self.quic.guest(connection);
        let (server, port): (&dyn Display, Option<&dyn Display>) = match open {
            Open::Layered { server, inner } => (server, Some(&inner.target)),
            Open::Legacy { server } => (server, None),
        };
        RefusedCall {
            peer,
            call: "open",
            client: client.as_ref().map(|guest| &guest.name as &dyn Display),
            server: Some(server),
            port,
            refused,
        }
        .log();
        self.count_refused(peer, refused);
    }

    /// Whether it is a server's proxy that has opened a stream: it is opened streams, and has
    /// nothing to open itself.
    fn is_of_server(&self, stream: &RelayStream) -> bool {
        let guest = self.quic.guest(stream.key().connection);
        guest.is_some_and(|guest| guest.role == Role::ServerSide)
    }

    /// Says something to a peer that may have no room for it, and finds the stream ended then.
    pub(super) async fn last_words(&self, stream: &RelayStream, words: &[u8]) {
        let saying = stream.write(words);
        self.within(self.world.reactor.now(), ROOM_TIMEOUT, saying)
            .await;
    }

    async fn within<T>(
        &self,
        since: Timestamp,
        timeout: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        self.world.reactor.deadline(since + timeout, future).await
    }

    /// Whether somebody may have what he asks for, and whether it is there.
    async fn grant_open(&self, stream: &RelayStream, open: &Open) -> Result<Granted, NotReached> {
        let guest = self.quic.guest(stream.key().connection);
        let client = guest
            .filter(|guest| guest.role == Role::ClientSide)
            .ok_or(Refusal::Unauthenticated)?;
        let granted = self.may_have(client, open)?;
        // This one is among those that are not joined yet.
        let connections = self.connections() + self.quic.opens.count();
        if connections > self.settings().connections_max {
            return Err(NotReached::limited(Refused::TooManyConnections));
        }
        if self.world.is_draining() {
            return Err(NotReached::limited(Refused::Draining));
        }
        if !self.has_memory_for(STREAM_BYTES_MIN) {
            return Err(NotReached::limited(Refused::OverMemory));
        }
        // One that listens by HTTP does so at a port.
        if granted.port.is_none() && self.find_server(&granted.server, None).await.is_none() {
            return Err(Refusal::NotConnected.into());
        }
        Ok(granted)
    }

    fn may_have(&self, guest: Rc<Guest>, open: &Open) -> Result<Granted, Refusal> {
        let settings = self.settings();
        let forwarding = &settings.forwarding;
        let mut clients = forwarding.clients().iter();
        let client = clients
            .find(|known| known.name == guest.name)
            .ok_or(Refusal::Unauthenticated)?;
        let granted = match open {
            Open::Layered { server, inner } => {
                let names = server.to_name().zip(inner.target.to_name());
                let (server, port) = names.ok_or(Refusal::Forbidden)?;
                let checked = forwarding.check(client, &server, &port);
                checked.map(|()| (server, Some(port)))
            }
            Open::Legacy { server } => {
                let checked = forwarding.check_number(client, *server);
                checked.map(|server| (server.clone(), None))
            }
        };
        let (server, port) = granted.map_err(|_| Refusal::Forbidden)?;
        Ok(Granted {
            offer: open.to_offer(&client.name, client.legacy_id.map(NonZeroU8::get)),
            client: guest,
            server,
            port,
        })
    }

    /// Has the server connect, wherever it is.
    async fn reach(
        self: &Rc<Self>,
        granted: &Granted,
        since: Timestamp,
    ) -> Result<Reached, NotReached> {
        let peer = self.world.streams.peer_address(granted.client.connection);
        let peer = PeerAddress::from(peer);
        let mut former = None;
        // It may have come back by another connection meanwhile.
        while let Some(place) = self.find_server(&granted.server, former).await {
            let offer = granted.offer.clone();
            match self.offer(place, offer, peer, since).await {
                Err(error) if error.refusal() == Refusal::NotConnected => former = Some(place),
                reached => return reached,
            }
        }
        self.reach_by_http(granted, peer, since).await
    }

    /// Has a server connect that may listen by HTTP, as one does to which UDP passes no more.
    async fn reach_by_http(
        self: &Rc<Self>,
        granted: &Granted,
        peer: PeerAddress,
        since: Timestamp,
    ) -> Result<Reached, NotReached> {
        let Some(port) = &granted.port else {
            return Err(Refusal::NotConnected.into());
        };
        let connect = HttpConnect {
            place: Place {
                server: granted.server.clone(),
                port: port.clone(),
            },
            client: granted.client.name.clone(),
        };
        let owner = self.owner_of(&connect.place.key());
        self.reach_by_bridge(owner, Far::Http(connect), peer, since)
            .await
    }

    /// Has a server's proxy connect that has joined by QUIC.
    pub(super) async fn offer(
        self: &Rc<Self>,
        server: ServerPlace,
        offer: Offer,
        client: PeerAddress,
        since: Timestamp,
    ) -> Result<Reached, NotReached> {
        let connection = server.connection;
        if server.shard != self.world.shard {
            let far = Far::Offer { connection, offer };
            return self.reach_by_bridge(server.shard, far, client, since).await;
        }
        let stream = self.offer_here(connection, &offer, since).await?;
        Ok(Reached {
            peer: self.world.streams.peer_address(connection).into(),
            end: StreamEnd::Stream(stream),
        })
    }

    /// The same by a connection of this shard's.
    pub(super) async fn offer_here(
        &self,
        connection: ConnectionKey,
        offer: &Offer,
        since: Timestamp,
    ) -> Result<RelayStream, NotReached> {
        let guest = self.quic.guest(connection);
        if guest.is_none_or(|guest| guest.role != Role::ServerSide) {
            return Err(Refusal::NotConnected.into());
        }
        let stream = RelayStream::open(&self.world, connection)
            .ok_or(NotReached::limited(Refused::PortBusy))?;
        let asking = async {
            stream.say(|words| offer.encode(words)).await;
            let decode = |bytes: &[u8]| Answer::decode(bytes, offer.question());
            stream.read_message(decode).await
        };
        // Whoever is there acknowledges the offer at once, however late it answers.
        let silent = async { while self.answers(connection).await {} };
        let timeout = self.settings().quic.answer_timeout;
        let answered = self.within(since, timeout, either(asking, silent)).await;
        let refusal = match answered {
            Some(Either::First(Ok(answer))) => match NotReached::check(answer) {
                Ok(()) => return Ok(stream),
                Err(error) => {
                    stream.finish(error.refusal().into());
                    return Err(error);
                }
            },
            Some(Either::First(Err(NoMessage::Wrong(error)))) => {
                debug!(%error, "no answer to an offer");
                stream.break_off(Refusal::Malformed.into());
                Refusal::Internal
            }
            Some(Either::First(Err(NoMessage::Lost))) => Refusal::NotConnected,
            // It broke the stream off, or ended it: what it was asked for it cannot do.
            Some(Either::First(Err(NoMessage::Ended | NoMessage::Reset(_)))) => Refusal::Internal,
            Some(Either::Second(())) => {
                stream.break_off(Refusal::NotConnected.into());
                Refusal::NotConnected
            }
            None => {
                stream.break_off(Refusal::TimedOut.into());
                Refusal::TimedOut
            }
        };
        Err(refusal.into())
    }

    fn join_quic(&self, granted: Granted, here: RelayStream, there: Reached, since: Timestamp) {
        let connection = here.key().connection;
        let client_port = match &granted.offer {
            Offer::Layered { inner, .. } => inner.client_port,
            Offer::Legacy { .. } => 0,
        };
        let session = StreamSession {
            peers: [
                self.world.streams.peer_address(connection).into(),
                there.peer,
            ],
            client: Some(granted.client.name.as_str().into()),
            client_port,
            server: Some(granted.server.as_str().into()),
            target: granted.port.map(|port| port.as_str().into()),
            waiting_since: since,
            joined_at: clock::now(),
            is_far: false,
            tunnel: None,
        };
        self.world
            .join_streams([StreamEnd::Stream(here), there.end], session);
    }
}
