//! The relay's service: JET legs meet at their association's owner shard.
//!
//! A leg moves at most once, before its first relayed byte, when its request
//! is known and no operation holds its socket. An acceptor is stored before
//! its reply is written, in one go on the shard's thread, so that no connector
//! can come in between and be told that nobody waits.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tracing::debug;
use uuid::Uuid;

use super::call_handoff::CallHandoff;
use super::ear::Ear;
use super::errand::Errand;
use super::forwarding::Forwards;
use super::handoff::Handoff;
use super::host_addresses::HostAddresses;
use super::jproxy::GuestTunnels;
use super::peer_address::PeerAddress;
use super::per_address::PerAddress;
use super::quic_far::{FarAnswer, Reach};
use super::quic_guests::QuicGuests;
use super::quic_servers::{Presence, QuicServers, ServerPlace};
use super::rendezvous_settings::RendezvousSettings;
use super::rest::{Ask, Told};
use super::server_listens::Listen;
use super::session_log::Session;
use super::sessions::Origin;
use super::status::{Detail, ShardStatus};
use super::streams::{QuicPeer, StreamSession};
use super::tally::Tally;
use super::user_sessions::SessionId;
use super::users::ShardUsers;
use super::waiting::WaitingLeg;
use super::world::{Service, TAG_SERVICE, World};
use crate::access::{Rates, SpentTokens, TokenId};
use crate::association::idle::Idleness;
use crate::association::key::{AssociationKey, CandidateKey, RendezvousKey, ShardId};
use crate::association::rendezvous::{Rendezvous, Route};
use crate::association::session_ends::SessionEnds;
use crate::metrics::counters::Label;
use crate::protocol::jet::{self, Accept, AcceptDetails, AcceptPlace, Connect, Place};
use crate::protocol::ptth_name::Name;
use crate::quic::connection::ConnectionKey;
use crate::quic::driver::QuicEvent;
use crate::quic::intake::Admission;
use crate::relay::CloseReason;
use crate::relay::codec::CodecError;
use crate::relay::mux::MuxEvent;
use crate::runtime::Owner;
use crate::runtime::executor::run_or_spawn;
use crate::runtime::flag::Flag;
use crate::runtime::question::Pending;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::arrival::Arrival;
use crate::session::handshake::{ReadBuffer, refuse};
use crate::session::refused::Refused;
use crate::slab::{Key, Slab};
use crate::time::Timestamp;

/// Owner tag of acceptors that wait; the token is their index.
pub(super) const TAG_WAITING: u8 = TAG_SERVICE;

/// What the shards of a relay tell each other, and what they are told.
#[derive(Debug)]
pub enum Message {
    /// A leg comes home.
    Handoff(Box<Handoff>),
    /// A request about a forwarded port does.
    Call(Box<CallHandoff>),
    /// Something is asked of a shard, which answers `asker`.
    Ask {
        asker: ShardId,
        question: u64,
        ask: Ask,
    },
    /// The answer.
    Told { question: u64, told: Told },
    /// A session that the shard was asked to count is over, or came to nothing.
    SessionOver { user: Arc<str>, session: SessionId },
    /// Whom one of them has awaited has come.
    BindOver { user: Arc<str>, session: SessionId },
    /// A request that the shard was asked to count listens no more, or never did.
    ListenOver(Listen),
    /// A server's proxy has joined by QUIC, or left.
    Server {
        server: Name,
        place: ServerPlace,
        presence: Presence,
    },
    /// A client is to be led to a server by way of this shard.
    Reach(Box<Reach>),
    /// What came of that.
    Reached { question: u64, reached: FarAnswer },
    /// From now on the settings are these.
    Reload(Box<RendezvousSettings>),
}

/// One shard's part of the relay.
#[derive(Debug)]
pub struct RelayService {
    pub(super) world: Rc<World<Origin, Message>>,
    settings: RefCell<Rc<RendezvousSettings>>,
    pub(super) rendezvous: RefCell<Rendezvous<Key>>,
    pub(super) questions: Pending<Told>,
    /// For the tasks that would wait for more.
    pub(super) draining: Flag,
    pub(super) waiting: RefCell<Slab<WaitingLeg>>,
    pub(super) waiting_per_address: PerAddress,
    /// Connections, whatever they are at; not those that the relay dialled.
    pub(super) connections_per_address: PerAddress,
    pub(super) spent_tokens: RefCell<SpentTokens>,
    pub(super) creation_rates: RefCell<Rates<TokenId>>,
    /// Of sessions that may last only so long.
    pub(super) session_ends: RefCell<SessionEnds<Origin>>,
    pub(super) idleness: RefCell<Idleness<Origin>>,
    /// Of those that the relay dialled for.
    pub(super) last_dialled: Cell<u32>,
    pub(super) users: ShardUsers,
    pub(super) guest_tunnels: GuestTunnels,
    pub(super) host_addresses: HostAddresses,
    pub(super) forwards: Forwards,
    pub(super) quic: QuicGuests,
    pub(super) quic_servers: QuicServers,
    /// What other shards were asked for.
    pub(super) far_answers: Pending<FarAnswer>,
    /// Connections with a request about a forwarded port.
    pub(super) callers: Tally,
    /// Connections for which the relay is to dial, or does.
    pub(super) visitors: Tally,
    /// Those of them that have begun to ask: they are told what comes of it before a shard
    /// ends.
    pub(super) asking_visitors: Tally,
    /// Those for which it passes datagrams on.
    pub(super) datagram_visits: Tally,
    /// Those that await somebody.
    pub(super) binds: Tally,
    pub(super) random: Random,
    /// For acceptors with a codec.
    pub(super) ear: RefCell<Ear>,
    /// Those of them that had more to say than was listened to at once.
    pub(super) unheard: RefCell<Vec<Key>>,
    /// When these are looked at next.
    pub(super) next_look: Cell<Option<Timestamp>>,
    pub(super) read_buffer: ReadBuffer,
    handshakes: Cell<usize>,
}

/// Fills 16 bytes with randomness fit for a credential.
pub type Random = fn() -> [u8; 16];

/// A leg whose request has been read, on the shard that it came to.
pub(super) struct Newcomer {
    pub(super) stream: Stream,
    pub(super) arrival: Arrival,
    pub(super) peer: PeerAddress,
    pub(super) since: Timestamp,
}

/// Counts one handshake for as long as it lives.
pub(super) struct HandshakePermit(Rc<RelayService>);

impl RelayService {
    #[must_use]
    pub fn new(
        world: Rc<World<Origin, Message>>,
        settings: RendezvousSettings,
        rendezvous: Rendezvous<Key>,
        random: Random,
    ) -> Rc<Self> {
        let service = Rc::new(Self {
            world,
            rendezvous: RefCell::new(rendezvous),
            questions: Pending::default(),
            draining: Flag::default(),
            waiting: RefCell::new(Slab::new()),
            waiting_per_address: PerAddress::default(),
            connections_per_address: PerAddress::default(),
            spent_tokens: RefCell::default(),
            creation_rates: RefCell::default(),
            session_ends: RefCell::default(),
            idleness: RefCell::default(),
            last_dialled: Cell::new(0),
            users: ShardUsers::default(),
            guest_tunnels: GuestTunnels::default(),
            host_addresses: HostAddresses::default(),
            forwards: Forwards::new(&settings.forwarding_limits),
            quic: QuicGuests::default(),
            quic_servers: QuicServers::default(),
            far_answers: Pending::default(),
            callers: Tally::default(),
            visitors: Tally::default(),
            asking_visitors: Tally::default(),
            datagram_visits: Tally::default(),
            binds: Tally::default(),
            random,
            ear: RefCell::default(),
            unheard: RefCell::default(),
            next_look: Cell::new(None),
            handshakes: Cell::new(0),
            read_buffer: ReadBuffer::default(),
            settings: RefCell::new(Rc::new(settings)),
        });
        service.set_up_quic();
        service.set_up_tunnels();
        service
    }

    /// The settings as they are now.
    pub(super) fn settings(&self) -> Rc<RendezvousSettings> {
        Rc::clone(&self.settings.borrow())
    }

    /// A connection has said what it wants, and ended already if `arrival` failed.
    pub(super) async fn arrive(
        self: &Rc<Self>,
        stream: Stream,
        arrival: Result<Arrival, CodecError>,
        peer: PeerAddress,
        since: Timestamp,
    ) {
        let Ok(arrival) = arrival else {
            return self.count_refused(peer, Refused::ClosedEarly);
        };
        let newcomer = Newcomer {
            stream,
            arrival,
            peer,
            since,
        };
        self.place(newcomer).await;
    }

    /// Brings a leg to its association, here or on another shard.
    async fn place(self: &Rc<Self>, newcomer: Newcomer) {
        if self.world.is_draining() {
            return self.turn_away(newcomer, Refused::Draining).await;
        }
        let Some(key) = message_key(&newcomer.arrival.message) else {
            if !self.settings().v1_allowed {
                return self.turn_away(newcomer, Refused::V1Denied).await;
            }
            // The relay names this association, so that it lives here.
            return self.settle(newcomer).await;
        };
        let route = self.rendezvous.borrow().route(&key);
        match route {
            Route::Here => self.settle(newcomer).await,
            Route::Handoff(shard) => self.hand_off(newcomer, shard).await,
        }
    }

    /// Counts and logs why a peer is turned away.
    pub(super) fn count_refused(&self, peer: PeerAddress, refused: Refused) {
        self.world.count_refused(refused);
        debug!(%peer, reason = refused.as_str(), "refused");
    }

    /// Answers a well-formed request with a refusal.
    pub(super) async fn turn_away(&self, mut newcomer: Newcomer, refused: Refused) {
        self.count_refused(newcomer.peer, refused);
        let arrival = &mut newcomer.arrival;
        let words = arrival.refuse(refused, || self.accept_details(Uuid::nil()));
        refuse(&self.world.reactor, newcomer.stream, words.as_bytes()).await;
    }

    pub(super) fn accept_details(&self, association: Uuid) -> AcceptDetails {
        AcceptDetails {
            association,
            instance: Some(self.settings().instance.clone()),
            timeout_s: u32::try_from(self.settings().association_ttl.as_secs()).ok(),
        }
    }

    pub(super) fn begin(self: &Rc<Self>, socket: Socket) -> (Stream, HandshakePermit) {
        let stream = Stream::new(Rc::clone(&self.world.reactor), socket);
        (stream, self.permit())
    }

    /// One handshake more.
    pub(super) fn permit(self: &Rc<Self>) -> HandshakePermit {
        self.handshakes.set(self.handshakes.get() + 1);
        HandshakePermit(Rc::clone(self))
    }

    /// Whether the relay dials for anybody.
    pub(super) fn has_users(&self) -> bool {
        !self.settings().users.is_empty()
    }

    /// Connections that have not said what they want.
    pub(super) fn handshakes(&self) -> usize {
        self.handshakes.get()
    }

    /// Connections that live on this shard, whatever they are at.
    pub(super) fn connections(&self) -> usize {
        let leaving = self.world.leaving();
        // Each visitor may have two: its own, and what is dialled, or listens, for it; or
        // three, its own and two for datagrams.
        let visitors = 2 * self.visitors.count() + self.datagram_visits.count();
        let unpaired = self.handshakes.get() + self.callers.count();
        let paired = 2 * self.world.pairs() + self.world.streams.pairs();
        let tunnelled = self.world.muxes.tunnels() + self.world.muxes.channels();
        let in_quic = self.quic.count();
        let waiting = self.waiting.borrow().len();
        unpaired + visitors + waiting + paired + tunnelled + in_quic + leaving
    }
}

impl Service for RelayService {
    type Context = Origin;
    type Message = Message;

    fn world(&self) -> &Rc<World<Origin, Message>> {
        &self.world
    }

    fn handle_accepted(self: &Rc<Self>, listener: usize, socket: Socket) {
        let settings = self.settings();
        let peer = || PeerAddress::from(socket.peer_address());
        if self.connections() >= settings.connections_max {
            return self.count_refused(peer(), Refused::TooManyConnections);
        }
        if self.handshakes.get() >= settings.handshakes_max {
            return self.count_refused(peer(), Refused::TooManyHandshakes);
        }
        if !self.has_memory() {
            return self.count_refused(peer(), Refused::OverMemory);
        }
        let only = settings.only.get(listener).copied().flatten();
        let (stream, permit) = self.begin(socket);
        run_or_spawn(Rc::clone(self).handshake(stream, only, permit));
    }

    fn handle_ready(self: &Rc<Self>, owner: Owner, readiness: Readiness) {
        debug_assert_eq!(owner.tag, TAG_WAITING);
        let leg = self.waiting.borrow().key_at(owner.token);
        if let Some(leg) = leg
            && let Some(waiting) = self.waiting.borrow_mut().get_mut(leg)
        {
            waiting.readiness |= readiness;
        }
        if let Some(leg) = leg
            && self.has_gone(leg, readiness)
        {
            self.lose_waiting(leg);
        }
    }

    fn handle_message(self: &Rc<Self>, message: Message) {
        match message {
            Message::Handoff(handoff) => self.take_in(*handoff),
            Message::Call(handoff) => self.take_call(*handoff),
            Message::Ask {
                asker,
                question,
                ask,
            } => {
                let told = self.tell(ask);
                // A shard that has ended asks no more.
                let _ = self.world.send(asker, Message::Told { question, told });
            }
            Message::Told { question, told } => self.questions.deliver(question, told),
            Message::SessionOver { user, session } => {
                self.users.sessions.borrow_mut().end(&user, session);
            }
            Message::BindOver { user, session } => {
                self.users.sessions.borrow_mut().end_bind(&user, session);
            }
            Message::ListenOver(listen) => self.forwards.listens.end(&listen),
            Message::Server {
                server,
                place,
                presence,
            } => self.hear_of_server(server, place, presence),
            Message::Reach(reach) => self.take_reach(*reach),
            Message::Reached { question, reached } => {
                self.far_answers.deliver(question, reached);
            }
            Message::Reload(settings) => {
                self.forwards.set_limits(&settings.forwarding_limits);
                self.settings.replace(Rc::new(*settings));
                self.set_up_quic();
                self.set_up_tunnels();
                self.leave_gone_users();
                self.forget_users();
            }
        }
    }

    fn errand(&self, session: Origin) -> Option<Rc<Errand>> {
        match session {
            Origin::Met(_) | Origin::Forwarded(_) => None,
            Origin::Dialled(number) => self.errand_of(number),
        }
    }

    fn is_session(&self, session: Origin, _reason: CloseReason, _bytes: [u64; 2]) -> bool {
        // Both of a tunnel have one line.
        !matches!(session, Origin::Forwarded(_))
    }

    fn add_status(&self, status: &mut ShardStatus, detail: Detail) {
        self.add_relay_status(status, detail);
    }

    fn handle_session_ended(
        self: &Rc<Self>,
        session: &Session<Origin>,
        reason: CloseReason,
        bytes: [u64; 2],
    ) {
        self.forget_session(session);
        if let Origin::Forwarded(number) = session.context {
            self.end_way(number, reason, bytes);
        }
        if let Origin::Met(candidate) = session.context {
            // Never stale: a connected candidate stays until its session ends.
            let ended = self.rendezvous.borrow_mut().session_ended(candidate);
            debug_assert!(ended.is_ok(), "a session ends once");
            self.close_expired();
        }
    }

    fn admit(&self, peer: SocketAddr, is_validated: bool, connections: usize) -> Admission {
        self.admit_quic(peer, is_validated, connections)
    }

    fn whose_quic(&self, connection: ConnectionKey) -> QuicPeer {
        self.quic.whose(connection)
    }

    fn handle_quic(self: &Rc<Self>, event: QuicEvent) {
        self.take_quic_event(event);
    }

    fn handle_turn(self: &Rc<Self>, now: Timestamp) {
        if self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.close_expired();
            self.forwards.end_late(now);
            self.end_overdue(now);
            self.end_idle(now);
            self.end_silent_tunnels(now);
            self.look_for_life();
            self.listen_on();
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let expiry = self.rendezvous.borrow().next_deadline();
        let unheard = (!self.unheard.borrow().is_empty()).then(Timestamp::default);
        let session_end = self.session_ends.borrow().next_deadline();
        let idle = self.idleness.borrow().next_look();
        let late = self.forwards.next_deadline();
        [
            expiry,
            self.next_look.get(),
            unheard,
            session_end,
            idle,
            late,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn handle_streams_ended(self: &Rc<Self>, session: &StreamSession, reason: CloseReason) {
        self.end_seam(session, reason);
    }

    fn handle_mux(self: &Rc<Self>, event: MuxEvent) {
        self.handle_channel(event);
    }

    fn handle_mux_lost(self: &Rc<Self>, tunnel: Key, reason: CloseReason) {
        self.forget_tunnel(tunnel, reason);
    }

    fn handle_drain(self: &Rc<Self>) {
        self.draining.raise();
        self.dismiss_tunnels();
        self.dismiss_quic();
        let legs: Vec<Key> = self.waiting.borrow().keys().collect();
        for leg in legs {
            self.lose_waiting(leg);
        }
    }

    fn is_busy(&self) -> bool {
        self.handshakes.get() > 0
            || self.callers.count() > 0
            || self.asking_visitors.count() > 0
            || self.quic.opens.count() > 0
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
    }
}

/// The association that a leg names; `None` when the relay is to name it.
fn message_key(message: &jet::Message) -> Option<RendezvousKey> {
    match *message {
        jet::Message::Accept(Accept {
            place: AcceptPlace::Minted,
            ..
        }) => None,
        jet::Message::Accept(Accept {
            place: AcceptPlace::Named(place),
            ..
        })
        | jet::Message::Connect(Connect { place, .. }) => Some(rendezvous_key(place)),
        jet::Message::Test(test) => Some(rendezvous_key(test.place)),
    }
}

pub(super) fn rendezvous_key(place: Place) -> RendezvousKey {
    RendezvousKey {
        association: AssociationKey(place.association),
        candidate: place.candidate.map(CandidateKey),
    }
}
