//! What every shard has, and the loop that drives it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tracing::{info, warn};

use super::control::{Control, Envelope, Operator};
use super::errand::Errand;
use super::leg::Leg;
use super::names::Names;
use super::session_log::Session;
use super::status::{self, Detail, Legacies, ShardStatus};
use super::stretch::Stretch;
use super::tally::Tally;
use crate::association::key::ShardId;
use crate::config::DataPlane;
use crate::metrics::counters::{Count, Counters, Snapshot};
use crate::metrics::latency::{Latencies, record};
use crate::relay::{CloseReason, EngineSettings, How, PairKey, Planes, PlanesCounts, Side, Usage};
use crate::runtime::Owner;
use crate::runtime::clock;
use crate::runtime::datagram::DATAGRAM_BYTES_MAX;
use crate::runtime::executor::{run_or_spawn, run_woken_tasks};
use crate::runtime::flag::Flag;
use crate::runtime::inbox::{Inbox, Mailbox};
use crate::runtime::question::Pending;
use crate::runtime::reactor::{Closing, Event, Reactor};
use crate::runtime::readiness::Readiness;
use crate::runtime::resolver::Resolver;
use crate::runtime::ring::{RingSize, Sleep};
use crate::runtime::signal::Signal;
use crate::runtime::socket::Socket;
use crate::runtime::stream::{Stream, Watched};
use crate::session::handshake::part_with;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::SharedWorkshop;
use crate::time::Timestamp;

/// Owner tag of the sockets of pairs; the token is the pair's index and side.
const TAG_PAIR: u8 = 0;
/// Owner tag of the signals' descriptor.
const TAG_SIGNALS: u8 = 1;
/// Owner tag of the drain's deadline.
const TAG_DRAIN: u8 = 2;
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
    planes: RefCell<Planes>,
    /// By the index of the pair's key.
    sessions: RefCell<Vec<Option<Session<C>>>>,
    phase: Cell<Phase>,
    /// The first signal to stop was passed on; the phase follows when the
    /// message comes round, which may be after a second signal.
    told_to_stop: Cell<bool>,
    /// Shards other than this one that have not said that they ended.
    others_running: Cell<usize>,
    /// No descriptor was left for a new connection.
    out_of_descriptors: Stretch,
    latencies: RefCell<Latencies>,
    /// Legs of ended pairs that may still say something that nobody wants.
    leaving: Tally,
    /// Raised when the drain is over, and what has not finished is to break off.
    pub ending: Flag,
    /// Tasks that look at it, for which the shard waits: their peers have to see that they
    /// broke off.
    pub breakable: Tally,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
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
        counts.set(Count::BytesRelayed, bytes_relayed);
        counts.set(Count::BytesSpliced, bytes_spliced);
        self.counters.snapshot()
    }

    /// Has every shard stop as after a first signal.
    pub fn drain(&self) {
        self.broadcast(Control::Drain);
    }

    /// Tells every shard, this one included.
    fn broadcast(&self, control: Control) {
        for mailbox in &self.shards {
            // A shard that has ended needs telling no more.
            let _ = mailbox.send_from(&self.reactor, Envelope::Control(control));
        }
    }

    /// The drain is over: abandons every pair, and has tasks break off.
    fn end(&self) {
        self.phase.set(Phase::Ending);
        self.ending.raise();
        let pairs = self
            .planes
            .borrow_mut()
            .abort_if(CloseReason::Drained, |_| true);
        if pairs > 0 {
            warn!(
                shard = self.shard.0,
                pairs, "ending pairs that did not finish"
            );
        }
    }

    /// Whether another shard may still have to hear of a second signal.
    fn has_others_to_stop(&self) -> bool {
        self.phase.get() != Phase::Ending && self.others_running.get() > 0
    }

    /// Pairs that live on this shard.
    pub fn pairs(&self) -> usize {
        self.planes.borrow().pairs()
    }

    fn has_pairs(&self) -> bool {
        self.pairs() > 0
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

/// Runs a shard until it has ended, and returns what it counted, which `legacies` keep as
/// well. One shard hears the operator, and tells the others.
pub async fn drive<S: Service>(
    service: Rc<S>,
    inbox: Inbox<Envelope<S::Message>>,
    mut operator: Option<Operator>,
    legacies: &Legacies,
) -> ShardSnapshot {
    let world = Rc::clone(service.world());
    let reactor = &world.reactor;
    inbox.attach(reactor);
    if let Some(Operator { signals, .. }) = &operator {
        use std::os::fd::AsFd;
        reactor.watch_fd(
            signals.as_fd(),
            Owner {
                tag: TAG_SIGNALS,
                token: 0,
            },
        );
    }
    let mut runnable = run_woken_tasks().await;
    loop {
        let (mut sleep, planes_deadline) = {
            let planes = world.planes.borrow();
            (planes.sleep(), planes.next_deadline())
        };
        if runnable
            || (sleep != Sleep::No
                && !world.settings.spin.is_zero()
                && reactor.spin(world.settings.spin))
        {
            sleep = Sleep::No;
        }
        let deadline = match (planes_deadline, service.next_deadline()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        reactor.turn(sleep, deadline);
        while let Some(event) = reactor.poll_event() {
            handle_event(&service, &world, &inbox, &mut operator, event);
        }
        run_pairs(&service, &world);
        service.handle_turn(reactor.now());
        runnable = run_woken_tasks().await;
        let is_needed = operator.is_some() && world.has_others_to_stop();
        if world.is_draining() && !is_needed && is_over(&*service, &world) {
            break;
        }
    }
    // Bells that the last turn rang are still in the queue, and the ends of the last
    // pairs: one turn submits them, the next runs what comes of it.
    for _ in 0..2 {
        reactor.turn(Sleep::No, None);
    }
    for mailbox in &world.shards {
        // This ring submits no more; and one that has ended needs no telling.
        let _ = mailbox.send(Envelope::Control(Control::Ended));
    }
    legacies.take(&*service);
    world.snapshot()
}

fn handle_event<S: Service>(
    service: &Rc<S>,
    world: &Rc<World<S::Context, S::Message>>,
    inbox: &Inbox<Envelope<S::Message>>,
    operator: &mut Option<Operator>,
    event: Event,
) {
    let counts = &world.counters.counts;
    match event {
        Event::Ready {
            owner: Owner {
                tag: TAG_PAIR,
                token,
            },
            readiness,
        } => {
            let side = if token & 1 == 0 {
                Side::Left
            } else {
                Side::Right
            };
            let mut planes = world.planes.borrow_mut();
            planes.handle_readiness(token >> 1, side, readiness);
        }
        Event::Ready {
            owner: Owner {
                tag: TAG_SIGNALS, ..
            },
            ..
        } => {
            if let Some(operator) = operator {
                while let Some(signal) = operator.signals.poll() {
                    handle_signal(world, operator, signal);
                }
            }
        }
        Event::Ready { owner, readiness } => service.handle_ready(owner, readiness),
        Event::Accepted { listener, socket } => {
            counts.increment(Count::Accepted);
            service.handle_accepted(listener, socket);
        }
        Event::Refused { count, .. } => {
            world.note_no_descriptor();
            counts.increment(Count::DescriptorsExhausted);
            world
                .counters
                .refused
                .add(Refused::NoDescriptor, u64::from(count));
        }
        Event::AcceptFailed { error, .. } => {
            counts.increment(Count::AcceptErrors);
            warn!(shard = world.shard.0, %error, "accept failed");
        }
        Event::Doorbell => {
            for envelope in inbox.drain() {
                match envelope {
                    Envelope::Service(message) => service.handle_message(message),
                    Envelope::Control(control) => handle_control(service, world, control),
                    Envelope::Pulse(asker) => world.beat(&asker),
                    Envelope::Status(question) => status::tell(&**service, &question),
                    Envelope::Resolved { question, answer } => {
                        world.questions.deliver(question, answer);
                    }
                }
            }
        }
        Event::Transfer { owner, progress } => {
            let mut planes = world.planes.borrow_mut();
            planes.handle_progress(owner.token, progress);
        }
        Event::Deadline { .. } => {
            if world.phase.get() == Phase::Draining {
                world.end();
            }
        }
    }
}

fn handle_signal<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    operator: &Operator,
    signal: Signal,
) {
    if let (Signal::Reload, Some(reload)) = (signal, &operator.reload) {
        // Nobody reads again when the process ends.
        let _ = reload.send(());
        return;
    }
    match signal {
        Signal::Report => world.broadcast(Control::Report),
        Signal::Terminate | Signal::Reload if world.told_to_stop.replace(true) => {
            world.broadcast(Control::End)
        }
        Signal::Terminate | Signal::Reload => {
            info!(
                drain_timeout_s = world.settings.drain_timeout.as_secs(),
                "stopping: no new sessions, those that run may finish; a second signal ends at once"
            );
            // There may be nobody whom it concerns.
            let _ = operator.stopping.send(());
            world.broadcast(Control::Drain);
        }
    }
}

fn handle_control<S: Service>(
    service: &Rc<S>,
    world: &Rc<World<S::Context, S::Message>>,
    control: Control,
) {
    match control {
        Control::Report => {
            let Usage {
                pairs,
                pipes_in_use,
                pipes_idle,
                spill_bytes,
                bulk_directions,
            } = world.planes.borrow().usage();
            info!(
                shard = world.shard.0,
                pairs,
                bulk_directions,
                pipes_in_use,
                pipes_idle,
                spill_bytes,
                counters = %world.snapshot(),
                "counters"
            );
        }
        Control::Drain if world.phase.get() == Phase::Running => {
            world.phase.set(Phase::Draining);
            let until = world.reactor.now() + world.settings.drain_timeout;
            world.reactor.set_deadline(
                until,
                Owner {
                    tag: TAG_DRAIN,
                    token: 0,
                },
            );
            world.reactor.stop_listening();
            service.handle_drain();
        }
        Control::Drain => {}
        Control::Ended => {
            let others = world.others_running.get().saturating_sub(1);
            world.others_running.set(others);
        }
        Control::End => {
            world.reactor.stop_listening();
            service.handle_drain();
            world.end();
        }
    }
}

/// Lets the planes work until the ring has something newer, then takes care of
/// the pairs that ended.
fn run_pairs<S: Service>(service: &Rc<S>, world: &Rc<World<S::Context, S::Message>>) {
    let now = world.reactor.now();
    let mut planes = world.planes.borrow_mut();
    planes.run(now);
    while let Some(key) = planes.poll_begun() {
        let sessions = world.sessions.borrow();
        if let Some(Some(session)) = sessions.get(key.index as usize) {
            let mut latencies = world.latencies.borrow_mut();
            let waited = clock::now().since(session.joined_at);
            record(&mut latencies.first_byte, waited);
        }
    }
    while let Some(ended) = planes.poll_ended() {
        let session = world.sessions.borrow_mut()[ended.pair.index as usize].take();
        let Some(session) = session else {
            unreachable!("every pair has its session");
        };
        if service.is_session(session.context, ended.reason, ended.bytes) {
            let errand = service.errand(session.context);
            session.log(&ended, now, errand.as_deref());
        }
        let lasted = clock::now().since(session.joined_at);
        record(&mut world.latencies.borrow_mut().session, lasted);
        world.counters.ended.increment(ended.reason);
        for ((party, socket), how) in session.parties.iter().zip(ended.sockets).zip(ended.how) {
            let closing = match how {
                How::Clean => Closing::Clean,
                How::Reset => Closing::Reset,
                How::Parting => {
                    let watched = Watched {
                        socket,
                        poll: party.poll,
                        readiness: Readiness::NONE,
                    };
                    let stream = Stream::from_watched(Rc::clone(&world.reactor), watched);
                    let reactor = Rc::clone(&world.reactor);
                    let leaving = world.leaving.enter();
                    run_or_spawn(async move {
                        part_with(&reactor, stream).await;
                        drop(leaving);
                    });
                    continue;
                }
            };
            world.reactor.retire(party.poll, socket, closing);
        }
        service.handle_session_ended(&session, ended.reason, ended.bytes);
    }
}

/// Whether a draining shard has nothing left to wait for.
fn is_over<S: Service>(service: &S, world: &World<S::Context, S::Message>) -> bool {
    if world.has_pairs() || world.breakable.count() > 0 {
        return false;
    }
    world.phase.get() == Phase::Ending || !service.is_busy() && !world.reactor.is_listening()
}
