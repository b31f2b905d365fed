//! What every shard has, and the loop that drives it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tracing::warn;

use super::control::{Control, Envelope};
use super::errand::Errand;
use super::leg::Leg;
use super::mux::Muxes;
use super::names::Names;
use super::session_log::Session;
use super::status::{Detail, ShardStatus};
use super::streams::{QuicPeer, QuicRole, StreamSession, Streams};
use super::stretch::Stretch;
use super::tally::Tally;
use crate::association::key::ShardId;
use crate::config::DataPlane;
use crate::metrics::counters::{Count, Counters, Snapshot};
use crate::metrics::latency::{Latencies, record};
use crate::protocol::ptth_quic::StreamCode;
use crate::quic::connection::ConnectionKey;
use crate::quic::driver::QuicEvent;
use crate::quic::intake::Admission;
use crate::relay::mux::MuxEvent;
use crate::relay::{CloseReason, EngineSettings, How, PairKey, Planes, PlanesCounts, Side, Usage};
use crate::runtime::clock;
use crate::runtime::datagram::DATAGRAM_BYTES_MAX;
use crate::runtime::executor::run_or_spawn;
use crate::runtime::flag::Flag;
use crate::runtime::inbox::Mailbox;
use crate::runtime::question::Pending;
use crate::runtime::reactor::{Closing, Reactor};
use crate::runtime::readiness::Readiness;
use crate::runtime::resolver::Resolver;
use crate::runtime::ring::RingSize;
use crate::runtime::socket::Socket;
use crate::runtime::stream::{Stream, Watched};
use crate::runtime::{Owner, PollKey};
use crate::session::handshake::part_with;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::SharedWorkshop;
use crate::slab::Key;
use crate::time::Timestamp;

/// Owner tag of the sockets of pairs; the token is the pair's index and side.
pub(super) const TAG_PAIR: u8 = 0;
/// Owner tag of the signals' descriptor.
pub(super) const TAG_SIGNALS: u8 = 1;
/// Owner tag of the drain's deadline.
pub(super) const TAG_DRAIN: u8 = 2;
/// Owner tag of the ring plane's transfers.
const TAG_RING: u8 = 3;
/// The first owner tag that a service may use.
pub const TAG_SERVICE: u8 = 16;

/// How a shard's counters are labelled.
pub type ShardCounters = Counters<CloseReason, Refused>;

/// A shard's counts at one moment.
pub type ShardSnapshot = Snapshot<CloseReason, Refused>;

/// What a shard runs with, the same for all shards of a process.
#[derive(Clone, Copy, Debug)]
pub struct WorldSettings {
    pub data_plane: DataPlane,
    pub engine: EngineSettings,
    pub drain_timeout: Duration,
    /// How long to spin before sleeping; zero does not spin.
    pub spin: Duration,
}

/// What a shard does with its connections.
pub trait Service: 'static {
    /// What it remembers of a session.
    type Context: Copy + 'static;
    /// What its shards tell each other.
    type Message: Send + 'static;

    fn world(&self) -> &Rc<World<Self::Context, Self::Message>>;

    /// A connection came in.
    fn handle_accepted(self: &Rc<Self>, listener: usize, socket: Socket);

    /// A socket that the service watches under an own tag triggered.
    fn handle_ready(self: &Rc<Self>, owner: Owner, readiness: Readiness);

    /// Another shard sent a message.
    fn handle_message(self: &Rc<Self>, message: Self::Message);

    /// Whether a pair that ended so has a line of the access log. A proxy that dials in
    /// advance has pairs to which nobody came.
    fn is_session(&self, _context: Self::Context, _reason: CloseReason, _bytes: [u64; 2]) -> bool {
        true
    }

    /// What a session was dialled for, where it was.
    fn errand(&self, _context: Self::Context) -> Option<Rc<Errand>> {
        None
    }

    /// Adds what it alone knows to what its shard says of itself.
    fn add_status(&self, _status: &mut ShardStatus, _detail: Detail) {}

    /// A session ended; its sockets are taken care of. `bytes` were delivered:
    /// those that came from the left, from the right.
    fn handle_session_ended(
        self: &Rc<Self>,
        session: &Session<Self::Context>,
        reason: CloseReason,
        bytes: [u64; 2],
    );

    /// What is to become of somebody who wants to connect by QUIC, beside so many connections
    /// of any kind. Nothing is to be done with
    /// the world's streams here.
    fn admit(&self, _peer: SocketAddr, _is_validated: bool, _connections: usize) -> Admission {
        Admission::Refuse
    }

    /// A connection of QUIC has come about, or is gone, or its peer has opened a stream.
    fn handle_quic(self: &Rc<Self>, _event: QuicEvent) {}

    /// Whose a connection of QUIC is. Nothing is to be done with the world's streams here.
    fn whose_quic(&self, _connection: ConnectionKey) -> QuicPeer {
        QuicPeer {
            role: QuicRole::Relay,
            name: None,
        }
    }

    /// Something is to be seen to of a tunnel's channels. The sockets of those that have ended are
    /// taken care of.
    fn handle_mux(self: &Rc<Self>, _event: MuxEvent) {}

    /// A tunnel is over; its channels have ended before.
    fn handle_mux_lost(self: &Rc<Self>, _tunnel: Key, _reason: CloseReason) {}

    /// What was joined with a stream has ended, and its socket is about to be closed.
    fn handle_streams_ended(self: &Rc<Self>, _session: &StreamSession, _reason: CloseReason) {}

    /// Called once a turn, and when [`Self::next_deadline`] has come.
    fn handle_turn(self: &Rc<Self>, now: Timestamp);

    /// When the service wants its next turn at the latest.
    fn next_deadline(&self) -> Option<Timestamp>;

    /// The drain has begun: start nothing new, give up what only waits.
    fn handle_drain(self: &Rc<Self>);

    /// Whether anything other than a pair still keeps a draining shard alive.
    fn is_busy(&self) -> bool;
}

/// One core's world.
pub struct World<C, M> {
    pub shard: ShardId,
    pub reactor: Rc<Reactor>,
    pub counters: ShardCounters,
    pub settings: WorldSettings,
    /// The inboxes of all shards, this one's among them, by shard.
    pub shards: Vec<Mailbox<Envelope<M>>>,
    pub(super) resolver: Option<Resolver>,
    pub(super) questions: Pending<io::Result<Vec<SocketAddr>>>,
    pub names: RefCell<Names>,
    /// For connections that are no pairs yet.
    pub workshop: SharedWorkshop,
    /// Room for one datagram, in use only within one call.
    pub datagram_space: RefCell<Box<[u8]>>,
    pub streams: Streams,
    pub muxes: Muxes,
    pub(super) planes: RefCell<Planes>,
    /// By the index of the pair's key.
    pub(super) sessions: RefCell<Vec<Option<Session<C>>>>,
    pub(super) phase: Cell<Phase>,
    /// The first signal to stop was passed on; the phase follows when the
    /// message comes round, which may be after a second signal.
    pub(super) told_to_stop: Cell<bool>,
    /// Shards other than this one that have not said that they ended.
    pub(super) others_running: Cell<usize>,
    /// No descriptor was left for a new connection.
    out_of_descriptors: Stretch,
    pub(super) latencies: RefCell<Latencies>,
    /// Legs of ended pairs that may still say something that nobody wants.
    pub(super) leaving: Tally,
    /// Raised when the drain is over, and what has not finished is to break off.
    pub ending: Flag,
    /// Tasks that look at it, for which the shard waits: their peers have to see that they
    /// broke off.
    pub breakable: Tally,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Draining,
    Ending,
}

impl<C: Copy, M: Send + 'static> World<C, M> {
    /// Makes the calling thread's world.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a ring.
    pub fn new(
        shard: ShardId,
        settings: WorldSettings,
        shards: Vec<Mailbox<Envelope<M>>>,
        resolver: Option<Resolver>,
    ) -> io::Result<Rc<Self>> {
        let reactor = Reactor::new(RingSize::default())?;
        let planes = Planes::new(
            Rc::clone(&reactor),
            TAG_RING,
            settings.data_plane,
            settings.engine,
        )?;
        let others_running = shards.len().saturating_sub(1);
        Ok(Rc::new(Self {
            shard,
            reactor,
            counters: Counters::new(),
            settings,
            shards,
            resolver,
            questions: Pending::default(),
            names: RefCell::default(),
            workshop: SharedWorkshop::default(),
            datagram_space: RefCell::new(vec![0; DATAGRAM_BYTES_MAX].into()),
            streams: Streams::default(),
            muxes: Muxes::default(),
            planes: RefCell::new(planes),
            sessions: RefCell::new(Vec::new()),
            phase: Cell::new(Phase::Running),
            told_to_stop: Cell::new(false),
            others_running: Cell::new(others_running),
            out_of_descriptors: Stretch::default(),
            latencies: RefCell::new(Latencies::new()),
            leaving: Tally::default(),
            ending: Flag::default(),
            breakable: Tally::default(),
        }))
    }

    /// Whether the shard has been told to stop.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase.get() != Phase::Running
    }

    /// Joins two legs: from now on their bytes are the planes' business. The
    /// left one is that which came first.
    pub fn join(&self, left: Leg, right: Leg, context: C) {
        // The reactor's time is that of the turn, in which all of this may happen.
        let now = clock::now();
        record(
            &mut self.latencies.borrow_mut().join,
            now.since(right.since),
        );
        let session = Session {
            parties: [left.party, right.party],
            waiting_since: left.since,
            joined_at: now,
            context,
        };
        let sides = [
            (Side::Left, left.party, left.readiness),
            (Side::Right, right.party, right.readiness),
        ];
        let mut planes = self.planes.borrow_mut();
        let key = planes.start(left.io, right.io, self.reactor.now());
        let mut sessions = self.sessions.borrow_mut();
        let index = key.index as usize;
        if sessions.len() <= index {
            sessions.resize_with(index + 1, || None);
        }
        assert!(
            sessions[index].is_none(),
            "an index is used again once its end was told"
        );
        sessions[index] = Some(session);
        self.counters.counts.increment(Count::Paired);
        for (side, party, readiness) in sides {
            let missed = self.reactor.set_owner(party.poll, pair_owner(key, side));
            let readiness = readiness | missed;
            if !readiness.is_empty() {
                planes.handle_readiness(key.index, side, readiness);
            }
        }
    }

    /// Sends a message to another shard's service; gives it back when that
    /// shard has ended.
    ///
    /// # Errors
    ///
    /// Gives the message back.
    pub fn send(&self, shard: ShardId, message: M) -> Result<(), M> {
        let mailbox = &self.shards[usize::from(shard.0)];
        mailbox
            .send_from(&self.reactor, Envelope::Service(message))
            .map_err(|envelope| match envelope {
                Envelope::Service(message) => message,
                _ => unreachable!("the inbox gives back what it was given"),
            })
    }

    /// Counts why a peer was turned away.
    pub fn count_refused(&self, refused: Refused) {
        self.counters.refused.increment(refused);
    }

    /// Closes a socket that was watched.
    pub(super) fn close_socket(&self, poll: PollKey, socket: Socket, how: How) {
        let closing = match how {
            How::Clean => Closing::Clean,
            How::Reset => Closing::Reset,
            How::Parting => {
                let watched = Watched {
                    socket,
                    poll,
                    readiness: Readiness::NONE,
                };
                let stream = Stream::from_watched(Rc::clone(&self.reactor), watched);
                let reactor = Rc::clone(&self.reactor);
                let leaving = self.leaving.enter();
                run_or_spawn(async move {
                    part_with(&reactor, stream).await;
                    drop(leaving);
                });
                return;
            }
        };
        self.reactor.retire(poll, socket, closing);
    }

    /// Tells operators that no descriptor is left, once for each stretch of it.
    pub(super) fn note_no_descriptor(&self) {
        if self.out_of_descriptors.meet(self.reactor.now()) {
            warn!(
                shard = self.shard.0,
                "out of descriptors: new connections are refused until some are closed; \
                 raise the limit (ulimit -n, LimitNOFILE) or lower connections_max"
            );
        }
    }

    /// What is held now.
    pub fn usage(&self) -> Usage {
        self.planes.borrow().usage()
    }

    /// Connections of pairs that have ended, and that are not closed yet.
    pub fn leaving(&self) -> usize {
        self.leaving.count()
    }

    /// How long things took so far.
    pub fn latencies(&self) -> Latencies {
        self.latencies.borrow().clone()
    }

    /// Every session that runs and is meant, with the bytes that came from the left and from
    /// the right.
    pub fn sessions(&self, is_meant: impl Fn(&C) -> bool) -> Vec<(Session<C>, [u64; 2])> {
        self.sessions_up_to(usize::MAX, is_meant)
    }

    /// As [`Self::sessions`], so many at most.
    pub fn sessions_up_to(
        &self,
        max: usize,
        is_meant: impl Fn(&C) -> bool,
    ) -> Vec<(Session<C>, [u64; 2])> {
        let sessions = self.sessions.borrow();
        let planes = self.planes.borrow();
        let pairs = planes.pairs_with_bytes();
        let session = |(key, bytes): (PairKey, [u64; 2])| {
            let session = sessions.get(key.index as usize)?.as_ref()?;
            is_meant(&session.context).then_some((*session, bytes))
        };
        pairs.filter_map(session).take(max).collect()
    }

    /// Ends every session that is meant; `reason` says what both its peers see. Tells how
    /// many.
    pub fn end_sessions(&self, reason: CloseReason, is_meant: impl Fn(&C) -> bool) -> usize {
        let sessions = self.sessions.borrow();
        let is_meant = |key: PairKey| {
            let session = sessions.get(key.index as usize).and_then(Option::as_ref);
            session.is_some_and(|session| is_meant(&session.context))
        };
        let mut planes = self.planes.borrow_mut();
        planes.abort_if(reason, is_meant)
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> ShardSnapshot {
        let PlanesCounts {
            moved_to_ring,
            pipe_shortages,
            spill_shortages,
            bytes_relayed,
            bytes_spliced,
        } = self.planes.borrow().counts();
        let counts = &self.counters.counts;
        counts.set(Count::MovedToRing, moved_to_ring);
        counts.set(Count::PipeShortages, pipe_shortages);
        counts.set(Count::SpillShortages, spill_shortages);
        let bytes_relayed =
            bytes_relayed + self.streams.bytes_relayed() + self.muxes.bytes_relayed();
        counts.set(Count::BytesRelayed, bytes_relayed);
        counts.set(Count::BytesSpliced, bytes_spliced);
        self.streams.count(counts);
        self.muxes.count(counts);
        self.counters.snapshot()
    }

    /// Has every shard stop as after a first signal.
    pub fn drain(&self) {
        self.broadcast(Control::Drain);
    }

    /// Tells every shard, this one included.
    pub(super) fn broadcast(&self, control: Control) {
        for mailbox in &self.shards {
            // A shard that has ended needs telling no more.
            let _ = mailbox.send_from(&self.reactor, Envelope::Control(control));
        }
    }

    /// The drain is over: abandons every pair, and has tasks break off.
    pub(super) fn end(&self) {
        self.phase.set(Phase::Ending);
        self.ending.raise();
        let joined = self.streams.end(CloseReason::Drained, StreamCode::SHUTDOWN);
        let pairs = self
            .planes
            .borrow_mut()
            .abort_if(CloseReason::Drained, |_| true);
        let pairs = pairs + joined + self.muxes.end(CloseReason::Drained);
        if pairs > 0 {
            warn!(
                shard = self.shard.0,
                pairs, "ending pairs that did not finish"
            );
        }
    }

    /// Whether another shard may still have to hear of a second signal.
    pub(super) fn has_others_to_stop(&self) -> bool {
        self.phase.get() != Phase::Ending && self.others_running.get() > 0
    }

    /// Pairs that live on this shard.
    pub fn pairs(&self) -> usize {
        self.planes.borrow().pairs()
    }

    pub(super) fn has_pairs(&self) -> bool {
        self.pairs() > 0 || self.streams.pairs() > 0
    }
}

impl<C, M> fmt::Debug for World<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("shard", &self.shard)
            .field("phase", &self.phase.get())
            .finish_non_exhaustive()
    }
}

fn pair_owner(key: PairKey, side: Side) -> Owner {
    let side = match side {
        Side::Left => 0,
        Side::Right => 1,
    };
    Owner {
        tag: TAG_PAIR,
        token: key.index << 1 | side,
    }
}
