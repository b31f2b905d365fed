//! QUIC in a shard's world: its connections, their streams, and what streams are joined with.
//!
//! A stream is a task's until it is joined: the task reads and writes messages
//! ([`QuicStream`]). From then on its bytes are the plane's
//! ([`crate::relay::stream_plane`]). What concerns connections is the service's.

mod bridge;
mod leaving;
mod lifetimes;
mod session;
mod status;
mod strays;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use quinn_proto::ServerConfig;

pub use bridge::BridgeEnd;
use leaving::Leaving;
pub use lifetimes::Lifetime;
use lifetimes::Lifetimes;
pub use session::StreamSession;
pub use status::{ConnectionStatus, QuicCensus, QuicPeer, QuicRole, QuicStatus, StreamStatus};
use strays::Outstanding;
pub use stream::{NoMessage, QuicStream};

use super::world::{Service, World};
use crate::metrics::counters::{Count, Labelled};
use crate::metrics::latency::record;
use crate::protocol::ptth_quic::StreamCode;
use crate::quic::connection::{ConnectionKey, StreamKey};
use crate::quic::counts::Counts;
use crate::quic::driver::{Driver, QuicEvent};
use crate::quic::keys::SharedKeys;
use crate::quic::transport::Windows;
use crate::relay::bridge::BridgeEndId;
use crate::relay::stream_plane::{End, StreamPlane, StreamsEnded};
use crate::relay::{CloseReason, How, Side};
use crate::runtime::clock;
use crate::runtime::executor::wake;
use crate::runtime::reactor::Closing;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::runtime::{Owner, PollKey};
use crate::slab::Key;
use crate::time::Timestamp;

/// Owner tag of the sockets of QUIC; the token is the driver's.
pub(super) const TAG_QUIC: u8 = 4;
/// Owner tag of sockets that are joined with a stream; the token is the pair's index and side.
pub(super) const TAG_STREAM: u8 = 5;

/// A world's part of QUIC; empty where nothing speaks it.
#[derive(Debug, Default)]
pub struct Streams {
    inner: RefCell<Option<Inner>>,
    /// Those that are joined; to be asked for while something comes in, too.
    pairs: Cell<usize>,
}

#[derive(Debug)]
struct Inner {
    driver: Driver,
    plane: StreamPlane,
    sessions: HashMap<Key, Joined, ahash::RandomState>,
    /// Tasks that wait for a stream. In order, as a connection that is lost wakes all of its.
    waiting: BTreeMap<StreamKey, Waker>,
    /// Tasks that have an end of a bridge, and are to know when it is broken off.
    waiting_for_abort: HashMap<BridgeEndId, Waker, ahash::RandomState>,
    bridges_begun: u64,
    /// Tasks that wait until another stream may be opened, in the order in which they came.
    openers: BTreeMap<u64, (ConnectionKey, Waker)>,
    openers_begun: u64,
    /// What the service is to hear.
    events: VecDeque<QuicEvent>,
    outstanding: Outstanding,
    leaving: Vec<Leaving>,
    lifetimes: Lifetimes,
}

#[derive(Debug)]
struct Joined {
    session: Rc<StreamSession>,
    polls: [Option<PollKey>; 2],
}

/// What is joined.
#[derive(Debug)]
pub enum StreamEnd<C: Copy, M: Send + 'static> {
    Stream(QuicStream<C, M>),
    Socket(Stream),
    /// A socket whose other side is this shard's too, and says how it ends: see
    /// [`StreamPlane::await_word`].
    Seam(Stream),
    /// The other shard has the pair's other half.
    Bridge(BridgeEnd<C, M>),
}

impl Streams {
    fn enable(&self, driver: Driver) {
        self.inner.replace(Some(Inner {
            driver,
            plane: StreamPlane::default(),
            sessions: HashMap::default(),
            waiting: BTreeMap::new(),
            waiting_for_abort: HashMap::default(),
            bridges_begun: 0,
            openers: BTreeMap::new(),
            openers_begun: 0,
            events: VecDeque::new(),
            outstanding: Outstanding::default(),
            leaving: Vec::new(),
            lifetimes: Lifetimes::default(),
        }));
    }

    /// Something with the driver, which is there.
    pub fn with_driver<R>(&self, act: impl FnOnce(&mut Driver) -> R) -> R {
        self.with_inner(|inner| act(&mut inner.driver))
    }

    fn with_inner<R>(&self, act: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.inner.borrow_mut();
        match &mut *inner {
            Some(inner) => act(inner),
            None => unreachable!("whoever has a connection has enabled it"),
        }
    }

    /// Whether other shards have something to hear.
    pub(super) fn have_messages(&self) -> bool {
        let inner = self.inner.borrow();
        inner
            .as_ref()
            .is_some_and(|inner| inner.plane.has_messages())
    }

    fn number_bridge(&self) -> u64 {
        self.with_inner(|inner| {
            inner.bridges_begun += 1;
            inner.bridges_begun
        })
    }

    /// What came from a pair's socket ends where the socket does.
    pub(in crate::shard) fn handle_word(&self, pair: Key, side: Side) {
        self.with_inner(|inner| inner.plane.handle_word(pair, side));
    }

    /// Breaks off a pair, as its socket's other side was.
    pub(in crate::shard) fn break_off(&self, pair: Key, reason: CloseReason, code: StreamCode) {
        self.with_inner(|inner| inner.plane.break_off(&mut inner.driver, pair, reason, code));
    }

    /// Closes a connection; what its streams are joined with is broken off with `code`.
    pub fn close(
        &self,
        connection: ConnectionKey,
        why: u32,
        reason: &'static str,
        code: StreamCode,
    ) {
        let mut inner = self.inner.borrow_mut();
        let Some(inner) = &mut *inner else {
            return;
        };
        inner.plane.handle_lost(&mut inner.driver, connection, code);
        inner.driver.close(connection, why, reason, clock::now());
        inner.wake_all_of(connection);
    }

    /// From now on connections hold at most this.
    pub fn set_windows(&self, windows: Windows) {
        if let Some(inner) = &mut *self.inner.borrow_mut() {
            inner.driver.set_windows(windows);
        }
    }

    /// How long the handshake of whoever connects from now on may take.
    pub fn set_handshake_timeout(&self, timeout: Duration) {
        if let Some(inner) = &mut *self.inner.borrow_mut() {
            inner.driver.set_handshake_timeout(timeout);
        }
    }

    /// Those who connect from now on are served so.
    pub fn set_server_config(&self, server: &Arc<ServerConfig>) {
        if let Some(inner) = &mut *self.inner.borrow_mut() {
            inner.driver.set_server_config(server);
        }
    }

    /// Where a connection's peer is.
    pub fn peer_address(&self, connection: ConnectionKey) -> Option<SocketAddr> {
        self.inner
            .borrow()
            .as_ref()?
            .driver
            .peer_address(connection)
    }

    /// Streams that are joined.
    pub fn pairs(&self) -> usize {
        self.pairs.get()
    }

    /// Bytes that streams and what they are joined with have taken.
    pub(super) fn bytes_relayed(&self) -> u64 {
        let inner = self.inner.borrow();
        inner
            .as_ref()
            .map_or(0, |inner| inner.plane.bytes_relayed())
    }

    /// Puts what was counted by the driver among a shard's counts.
    pub(super) fn count(&self, counts: &Labelled<Count>) {
        let inner = self.inner.borrow();
        let Some(inner) = &*inner else {
            return;
        };
        let Counts {
            datagrams_received,
            batches_received: _,
            datagrams_sent,
            batches_sent: _,
            sends_blocked,
            socket_errors,
            unroutable,
            retries,
            strays_taken: _,
            packets_lost,
            congestion_events,
        } = inner.driver.counts();
        for (count, value) in [
            (Count::QuicReceived, datagrams_received),
            (Count::QuicSent, datagrams_sent),
            (Count::QuicSendsBlocked, sends_blocked),
            (Count::QuicSocketErrors, socket_errors),
            (Count::QuicUnroutable, unroutable),
            (Count::QuicRetries, retries),
            (Count::QuicPacketsLost, packets_lost),
            (Count::QuicCongestionEvents, congestion_events),
        ] {
            counts.set(count, value);
        }
    }

    /// Breaks off all that are joined, and closes the connections that wait for that.
    pub(super) fn end(&self, reason: CloseReason, code: StreamCode) -> usize {
        let mut inner = self.inner.borrow_mut();
        let Some(inner) = &mut *inner else {
            return 0;
        };
        let Inner { driver, plane, .. } = inner;
        let ended = plane.break_all_off(driver, reason, code);
        inner.close_at_once();
        ended
    }

    /// Whether there is something to do before the next sleep.
    pub(super) fn has_work(&self) -> bool {
        let inner = self.inner.borrow();
        inner.as_ref().is_some_and(|inner| {
            inner.driver.has_work() || inner.plane.has_work() || !inner.events.is_empty()
        })
    }

    /// Whether a connection is there, whose timers and datagrams are to be seen at once.
    pub(super) fn wants_promptness(&self) -> bool {
        let inner = self.inner.borrow();
        inner.as_ref().is_some_and(|inner| !inner.driver.is_empty())
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let inner = self.inner.borrow();
        let inner = inner.as_ref()?;
        let deadlines = [inner.driver.next_deadline(), inner.lifetimes.next_look()];
        deadlines.into_iter().flatten().min()
    }

    /// Sends what there is to send.
    pub(super) fn flush(&self) {
        if let Some(inner) = &mut *self.inner.borrow_mut() {
            inner.driver.flush(clock::now());
        }
    }

    pub(super) fn handle_port(&self, token: u32) {
        if let Some(inner) = &mut *self.inner.borrow_mut() {
            inner.driver.handle_ready(token);
        }
    }

    pub(super) fn handle_socket(&self, token: u32, readiness: Readiness) {
        if let Some(Inner { driver, plane, .. }) = &mut *self.inner.borrow_mut() {
            let side = match token & 1 {
                0 => Side::Left,
                _ => Side::Right,
            };
            plane.handle_readiness(driver, token >> 1, side, readiness);
        }
    }
}

impl Inner {
    /// Gives what concerns streams to whoever has them, and keeps the rest.
    fn sort_events(&mut self) {
        while let Some(event) = self.driver.poll_event() {
            match event {
                QuicEvent::Readable(stream)
                | QuicEvent::Writable(stream)
                | QuicEvent::Finished(stream) => {
                    self.plane.handle_stream(&mut self.driver, stream);
                    self.wake(stream);
                }
                QuicEvent::Stopped(stream, code) => {
                    let code = StreamCode::from_wire(code);
                    self.plane.handle_stopped(&mut self.driver, stream, code);
                    self.wake(stream);
                }
                QuicEvent::Lost(connection, _) => {
                    let code = StreamCode::PEER_LOST;
                    self.plane.handle_lost(&mut self.driver, connection, code);
                    self.wake_all_of(connection);
                    self.events.push_back(event);
                }
                QuicEvent::Available(connection) => self.wake_openers(connection),
                QuicEvent::Connected(_) | QuicEvent::NotBegun(..) | QuicEvent::Opened(_) => {
                    self.events.push_back(event);
                }
            }
        }
    }

    fn wake_all_of(&mut self, connection: ConnectionKey) {
        let of_it = self.waiting.range(StreamKey::all_of(connection));
        let waiting: Vec<_> = of_it.map(|(stream, _)| *stream).collect();
        waiting.into_iter().for_each(|stream| self.wake(stream));
        self.wake_openers(connection);
    }

    fn wake_openers(&mut self, connection: ConnectionKey) {
        let of_it = |_: &u64, opener: &mut (ConnectionKey, Waker)| opener.0 == connection;
        for (_, (_, waker)) in self.openers.extract_if(.., of_it) {
            wake(waker);
        }
    }

    fn wake(&mut self, stream: StreamKey) {
        if let Some(waker) = self.waiting.remove(&stream) {
            wake(waker);
        }
    }
}

impl<C: Copy + 'static, M: Send + 'static> World<C, M> {
    /// Begins to speak QUIC by these sockets, of which there is one at least, and serves those
    /// who connect to them, if there is a configuration for that.
    ///
    /// # Errors
    ///
    /// When a socket cannot be set up.
    pub fn speak_quic(
        &self,
        keys: SharedKeys,
        sockets: impl IntoIterator<Item = Socket>,
        server: Option<&Arc<ServerConfig>>,
    ) -> io::Result<()> {
        let reactor = Rc::clone(&self.reactor);
        let shards = u16::try_from(self.shards.len()).unwrap_or(u16::MAX);
        let mut driver = Driver::new(reactor, TAG_QUIC, self.shard.0, shards, keys);
        for socket in sockets {
            driver.add_port(socket, server.cloned())?;
        }
        self.streams.enable(driver);
        Ok(())
    }

    /// Joins two ends: from now on their bytes are the plane's business.
    pub fn join_streams(&self, ends: [StreamEnd<C, M>; 2], session: StreamSession) -> Key {
        let mut polls = [None; 2];
        let seams = [&ends[0], &ends[1]].map(|end| matches!(end, StreamEnd::Seam(_)));
        let ends = {
            let mut polls = polls.iter_mut();
            ends.map(|end| match (end, polls.next()) {
                (StreamEnd::Socket(stream) | StreamEnd::Seam(stream), Some(poll)) => {
                    let watched = stream.into_watched(Owner::TASK);
                    *poll = Some(watched.poll);
                    // What was reported is found out by the first read and the first write.
                    End::Socket(watched.socket)
                }
                (StreamEnd::Stream(stream), _) => End::Stream(stream.give_up()),
                (StreamEnd::Bridge(bridge), _) => End::Bridge(bridge.give_up()),
                (StreamEnd::Socket(_) | StreamEnd::Seam(_), None) => {
                    unreachable!("there are two of each")
                }
            })
        };
        let is_whole = !session.is_far;
        let waited = session.joined_at.since(session.waiting_since);
        let key = self.streams.with_inner(|inner| {
            let key = inner.plane.start(ends);
            for (is_seam, side) in seams.into_iter().zip(Side::BOTH) {
                if is_seam {
                    inner.plane.await_word(key, side);
                }
            }
            let session = Rc::new(session);
            inner.sessions.insert(key, Joined { session, polls });
            if is_whole {
                inner.lifetimes.begin(key, clock::now());
            }
            self.streams.pairs.set(inner.plane.len());
            key
        });
        for (poll, side) in polls.into_iter().zip([0, 1]) {
            let owner = Owner {
                tag: TAG_STREAM,
                token: key.index << 1 | side,
            };
            if let Some(poll) = poll {
                self.reactor.set_owner(poll, owner);
            }
        }
        if is_whole {
            self.counters.counts.increment(Count::Paired);
            record(&mut self.latencies.borrow_mut().join, waited);
        }
        key
    }
}

/// Takes in what has come by QUIC, and does what there is to do about it.
pub(super) fn run_streams<S: Service>(service: &Rc<S>, world: &Rc<World<S::Context, S::Message>>) {
    let now = clock::now();
    {
        let mut inner = world.streams.inner.borrow_mut();
        let Some(inner) = &mut *inner else {
            return;
        };
        inner
            .driver
            .receive(now, |peer, is_validated, connections| {
                service.admit(peer, is_validated, connections)
            });
        inner.driver.expire(now);
        inner.sort_events();
        inner.end_overdue(now);
    }
    world.pass_strays_on();
    // Whoever hears of one may use the driver.
    while let Some(event) = next_event(world) {
        service.handle_quic(event);
    }
    while let Some(ended) = next_ended(world, now) {
        end_pair(service, world, ended);
    }
    if let Some(inner) = &mut *world.streams.inner.borrow_mut() {
        inner.close_idle();
    }
    world.pass_bridges_on();
}

/// Has pairs go on, and gives one that has ended.
fn next_ended<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    now: Timestamp,
) -> Option<StreamsEnded> {
    let mut inner = world.streams.inner.borrow_mut();
    let Inner {
        driver,
        plane,
        sessions,
        lifetimes,
        ..
    } = inner.as_mut()?;
    if let Some(ended) = plane.poll_ended() {
        return Some(ended);
    }
    plane.run(driver);
    while let Some(key) = plane.poll_begun() {
        let joined = sessions.get(&key);
        if let Some(Joined { session, .. }) = joined.filter(|joined| !joined.session.is_far) {
            let waited = clock::now().since(session.joined_at);
            record(&mut world.latencies.borrow_mut().first_byte, waited);
        }
    }
    if plane.take_half_closed() {
        lifetimes.half_close(now);
    }
    plane.poll_ended()
}

fn end_pair<S: Service>(
    service: &Rc<S>,
    world: &Rc<World<S::Context, S::Message>>,
    ended: StreamsEnded,
) {
    let joined = world.streams.with_inner(|inner| {
        world.streams.pairs.set(inner.plane.len());
        inner.lifetimes.end(ended.pair);
        inner.sessions.remove(&ended.pair)
    });
    let Some(Joined { session, polls }) = joined else {
        unreachable!("every pair has its session");
    };
    if !session.is_far {
        session.log(ended.reason, ended.bytes);
        world.counters.ended.increment(ended.reason);
        let lasted = clock::now().since(session.joined_at);
        record(&mut world.latencies.borrow_mut().session, lasted);
    }
    // Before its sockets are closed, which would look like an end to a seam's other side.
    service.handle_streams_ended(&session, ended.reason);
    for (socket, poll) in ended.sockets.into_iter().zip(polls) {
        if let (Some((socket, how)), Some(poll)) = (socket, poll) {
            let closing = match how {
                How::Reset => Closing::Reset,
                How::Clean | How::Parting => Closing::Clean,
            };
            world.reactor.retire(poll, socket, closing);
        }
    }
}

fn next_event<C: Copy, M: Send + 'static>(world: &World<C, M>) -> Option<QuicEvent> {
    world
        .streams
        .inner
        .borrow_mut()
        .as_mut()?
        .events
        .pop_front()
}
