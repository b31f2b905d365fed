//! jProxy's tunnels in a shard's world: their connections, and what their channels lead to.
//!
//! A tunnel is a task's until its handshake is over, and from then on the plane's
//! ([`crate::relay::mux`]); so is a channel's end from when it is there. What is asked of a server,
//! or answered to a client, is the service's.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use ahash::RandomState;

use super::errand::Errand;
use super::peer_address::PeerAddress;
use super::session_log::SessionLine;
use super::streams::Lifetime;
use super::world::{Service, World};
use crate::association::idle::Idleness;
use crate::association::session_ends::SessionEnds;
use crate::metrics::counters::{Count, Labelled};
use crate::metrics::latency::record;
use crate::protocol::jproxy::{Dialect, SessionKey};
use crate::relay::mux::{
    Answer, Asked, Carried, ChannelEnded, EchoSocket, LocalEnd, MuxCounts, MuxEvent, MuxPlane,
    Role, TunnelLost, TunnelStart,
};
use crate::relay::{CloseReason, How};
use crate::runtime::clock;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::runtime::{Owner, PollKey};
use crate::session::wrapped_stream::WrappedStream;
use crate::slab::Key;
use crate::time::Timestamp;

/// Owner tag of tunnels' connections; the token is the tunnel's index.
pub(super) const TAG_TUNNEL: u8 = 6;
/// Owner tag of channels' ends; the token is the channel's index.
pub(super) const TAG_CHANNEL: u8 = 7;

/// How long a channel may hold up its tunnel, unless something else is said.
const STUCK_DEFAULT: Duration = Duration::from_secs(2);

/// How long a tunnel is waited for without delay after something has come by it, or for it.
const PROMPT: Duration = Duration::from_millis(10);

/// A world's tunnels; empty where nobody speaks jProxy.
#[derive(Debug, Default)]
pub struct Muxes {
    inner: RefCell<Option<Box<Inner>>>,
    /// To be asked for while something comes in, too.
    tunnels: Cell<usize>,
    channels: Cell<usize>,
    /// Something has come since the last turn.
    is_active: Cell<bool>,
    /// When something came last.
    active_at: Cell<Timestamp>,
}

#[derive(Debug)]
struct Inner {
    plane: MuxPlane,
    tunnel_polls: HashMap<Key, PollKey, RandomState>,
    joined: HashMap<Key, Joined, RandomState>,
    /// Those of them that are parts of other sessions.
    parts: HashSet<Key, RandomState>,
    /// What such ones have carried that have ended.
    parts_bytes: u64,
    lifetime: Lifetime,
    ends: SessionEnds<Key>,
    idleness: Idleness<Key>,
    told: MuxCounts,
}

/// A channel whose end is there.
#[derive(Debug)]
struct Joined {
    /// `None` of a part of a session of which the service tells.
    session: Option<ChannelSession>,
    poll: Option<PollKey>,
}

/// What is remembered of a channel until it ends.
#[derive(Debug)]
pub struct ChannelSession {
    pub role: Role,
    /// Who asks, and who is asked.
    pub peers: [PeerAddress; 2],
    pub errand: Rc<Errand>,
    /// When it was asked for.
    pub waiting_since: Timestamp,
    pub joined_at: Timestamp,
}

/// What a tunnel begins with, but for its connection.
#[derive(Debug)]
pub struct MuxStart {
    pub key: SessionKey,
    pub role: Role,
    pub dialect: Dialect,
    pub channels_max: usize,
}

/// What a channel leads to on this side.
#[derive(Debug)]
pub enum ChannelEnd {
    Stream(Stream),
    /// A socket that is connected with whom datagrams are exchanged with.
    Datagrams(Socket),
    Echoes(EchoSocket),
    /// The service hears of what comes.
    Task,
}

impl Inner {
    fn new() -> Self {
        Self {
            plane: MuxPlane::new(STUCK_DEFAULT),
            tunnel_polls: HashMap::default(),
            joined: HashMap::default(),
            parts: HashSet::default(),
            parts_bytes: 0,
            lifetime: Lifetime::default(),
            ends: SessionEnds::default(),
            idleness: Idleness::default(),
            told: MuxCounts::default(),
        }
    }
}

impl Muxes {
    fn with<R>(&self, act: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.inner.borrow_mut();
        let inner = inner.get_or_insert_with(|| Box::new(Inner::new()));
        let acted = act(inner);
        self.tunnels.set(inner.plane.tunnels());
        self.channels.set(inner.plane.channels());
        acted
    }

    /// Asks for a channel of a tunnel; `None` where there are as many as there may be, or that
    /// has this number, or the tunnel is gone.
    pub fn ask(&self, tunnel: Key, asked: &Asked) -> Option<Key> {
        self.with(|inner| inner.plane.ask(tunnel, asked, clock::now()))
    }

    /// What was asked for is not to be had.
    pub fn refuse(&self, channel: Key, answer: Answer) {
        self.with(|inner| inner.plane.refuse(channel, answer));
    }

    /// Gives up a channel that was asked for, or is a task's.
    pub fn give_up(&self, channel: Key, reason: CloseReason) {
        self.with(|inner| inner.plane.give_up(channel, reason));
    }

    /// Sends what came of a connection before it becomes the end of its channel.
    pub fn send_early(&self, channel: Key, data: &[u8]) {
        self.with(|inner| inner.plane.send_early(channel, data));
    }

    /// Sends a datagram of a task's channel; false where it is dropped, which is not counted.
    pub fn send_datagram(&self, channel: Key, data: &[u8]) -> bool {
        self.with(|inner| inner.plane.send_datagram(channel, data, clock::now()))
    }

    /// Ends a tunnel for this reason once its channels have ended; there are no new ones.
    pub fn leave(&self, tunnel: Key, reason: CloseReason) {
        self.with(|inner| inner.plane.leave(tunnel, reason));
    }

    /// How many channels a tunnel has; `None` where it is gone.
    pub fn channels_of(&self, tunnel: Key) -> Option<usize> {
        self.with(|inner| inner.plane.channels_of(tunnel))
    }

    /// From now on channels last, and hold up their tunnels, no longer than this.
    pub fn set_limits(&self, lifetime: Lifetime, stuck: Duration) {
        self.with(|inner| {
            inner.lifetime = lifetime;
            inner.plane.set_stuck(stuck);
        });
    }

    /// Tunnels that there are.
    pub fn tunnels(&self) -> usize {
        self.tunnels.get()
    }

    /// Channels that there are, those that wait for their end among them.
    pub fn channels(&self) -> usize {
        self.channels.get()
    }

    /// What a channel has carried.
    pub fn carried(&self, channel: Key) -> Option<Carried> {
        self.inner.borrow().as_ref()?.plane.carried(channel)
    }

    /// Bytes that channels and their ends have taken, but for parts of other sessions.
    pub(super) fn bytes_relayed(&self) -> u64 {
        let inner = self.inner.borrow();
        let Some(inner) = &*inner else {
            return 0;
        };
        let parts = inner.parts.iter();
        let parts = parts.filter_map(|key| inner.plane.carried(*key));
        let parts_bytes: u64 = parts.map(|one| one.delivered + one.sent).sum();
        inner.plane.counts().bytes_relayed - inner.parts_bytes - parts_bytes
    }

    /// Puts what was counted since the last time among a shard's counts.
    pub(super) fn count(&self, counts: &Labelled<Count>) {
        let mut inner = self.inner.borrow_mut();
        let Some(inner) = &mut *inner else {
            return;
        };
        let now = inner.plane.counts();
        let before = std::mem::replace(&mut inner.told, now);
        for (count, now, before) in [
            (
                Count::DatagramsRelayed,
                now.datagrams_relayed,
                before.datagrams_relayed,
            ),
            (
                Count::DatagramsDropped,
                now.datagrams_dropped,
                before.datagrams_dropped,
            ),
            (
                Count::PacketsIgnored,
                now.packets_ignored,
                before.packets_ignored,
            ),
            (Count::ChannelsStuck, now.stuck, before.stuck),
        ] {
            counts.add(count, now - before);
        }
    }

    /// Ends all channels.
    pub(super) fn end(&self, reason: CloseReason) -> usize {
        let is_there = self.inner.borrow().is_some();
        match is_there {
            true => self.with(|inner| inner.plane.break_all_off(reason)),
            false => 0,
        }
    }

    /// Whether there is something to do before the next sleep.
    pub(super) fn has_work(&self) -> bool {
        let inner = self.inner.borrow();
        inner.as_ref().is_some_and(|inner| inner.plane.has_work())
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let inner = self.inner.borrow();
        let inner = inner.as_ref()?;
        let deadlines = [
            inner.plane.next_deadline(),
            inner.ends.next_deadline(),
            inner.idleness.next_look(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Whether the next packet is to be seen at once, though bulk data of others could be
    /// gathered meanwhile: there is one soon.
    pub(super) fn wants_promptness(&self, now: Timestamp) -> bool {
        self.tunnels.get() > 0 && now.since(self.active_at.get()) < PROMPT
    }

    pub(super) fn handle_tunnel(&self, token: u32, readiness: Readiness) {
        self.is_active.set(true);
        self.with(|inner| inner.plane.handle_tunnel(token, readiness));
    }

    pub(super) fn handle_channel(&self, token: u32, readiness: Readiness) {
        self.is_active.set(true);
        self.with(|inner| inner.plane.handle_channel(token, readiness));
    }

    /// Every channel whose end is there, with what it has carried from who asked, and to it; but
    /// for parts of other sessions.
    pub fn for_each_joined(&self, mut tell: impl FnMut(&ChannelSession, [u64; 2])) {
        let inner = self.inner.borrow();
        let Some(inner) = &*inner else {
            return;
        };
        for (key, joined) in &inner.joined {
            let carried = inner.plane.carried(*key).unwrap_or_default();
            if let Some(session) = &joined.session {
                tell(session, session.bytes(carried));
            }
        }
    }
}

impl Inner {
    /// Ends channels that last, or carry nothing, for longer than they may.
    fn end_overdue(&mut self, now: Timestamp) {
        while let Some(channel) = self.ends.poll_due(now) {
            self.plane.give_up(channel, CloseReason::Expired);
        }
        if self.idleness.next_look().is_some_and(|due| due <= now) {
            let plane = &self.plane;
            let carried = self.joined.keys().filter_map(|key| {
                let Carried { delivered, sent } = plane.carried(*key)?;
                Some((*key, delivered + sent))
            });
            let silent = self.idleness.look(carried, self.lifetime.idle, now);
            for channel in silent {
                self.plane.give_up(channel, CloseReason::Expired);
            }
        }
    }
}

impl ChannelSession {
    /// What came from who asked, and from who was asked.
    fn bytes(&self, carried: Carried) -> [u64; 2] {
        match self.role {
            Role::Server => [carried.delivered, carried.sent],
            Role::Client => [carried.sent, carried.delivered],
        }
    }

    fn log(&self, reason: CloseReason, carried: Carried) {
        let line = SessionLine {
            peers: self.peers,
            bytes: self.bytes(carried),
            waiting_since: self.waiting_since,
            joined_at: self.joined_at,
            now: clock::now(),
            reason,
            errand: Some(&self.errand),
        };
        line.log();
    }
}

impl<C: Copy + 'static, M: Send + 'static> World<C, M> {
    /// A tunnel's handshake is over: from now on its bytes are the plane's business.
    pub fn begin_mux(&self, stream: WrappedStream, start: MuxStart) -> Key {
        let MuxStart {
            key,
            role,
            dialect,
            channels_max,
        } = start;
        let (stream, codec, early) = stream.into_opened_parts();
        let watched = stream.into_watched(Owner::TASK);
        let tunnel = self.muxes.with(|inner| {
            let tunnel = inner.plane.start(TunnelStart {
                socket: watched.socket,
                codec,
                early,
                key,
                role,
                dialect,
                channels_max,
            });
            inner.tunnel_polls.insert(tunnel, watched.poll);
            tunnel
        });
        let owner = Owner {
            tag: TAG_TUNNEL,
            token: tunnel.index,
        };
        let missed = self.reactor.set_owner(watched.poll, owner);
        self.muxes
            .handle_tunnel(tunnel.index, watched.readiness | missed);
        tunnel
    }

    /// What a channel leads to is there: from now on its bytes are the plane's business. False
    /// where the channel is gone, and its end with it. Without a session it is a part of one
    /// which the service counts and logs.
    pub fn join_channel(
        &self,
        channel: Key,
        end: ChannelEnd,
        answer: Option<Answer>,
        session: impl Into<Option<ChannelSession>>,
    ) -> bool {
        let session = session.into();
        let (end, poll, readiness) = match end {
            ChannelEnd::Stream(stream) => {
                let watched = stream.into_watched(Owner::TASK);
                let end = LocalEnd::Stream(watched.socket);
                (end, Some(watched.poll), watched.readiness)
            }
            ChannelEnd::Datagrams(socket) => {
                let poll = self.reactor.watch_input(&socket);
                (LocalEnd::Datagrams(socket), Some(poll), Readiness::NONE)
            }
            ChannelEnd::Echoes(socket) => {
                let poll = self.reactor.watch_input(socket.socket());
                (LocalEnd::Echoes(socket), Some(poll), Readiness::NONE)
            }
            ChannelEnd::Task => (LocalEnd::Task, None, Readiness::NONE),
        };
        let now = clock::now();
        let told = session.as_ref();
        let waited = told.map(|session| session.joined_at.since(session.waiting_since));
        let opened = self.muxes.with(|inner| {
            let opened = inner.plane.open(channel, end, answer, now);
            if opened.is_ok() {
                let Lifetime { ttl, idle, .. } = inner.lifetime;
                if let Some(ttl) = ttl {
                    inner.ends.insert(channel, now + ttl);
                }
                if let Some(idle) = idle {
                    inner.idleness.begin(idle, now);
                }
                if session.is_none() {
                    inner.parts.insert(channel);
                }
                inner.joined.insert(channel, Joined { session, poll });
            }
            opened
        });
        if let Err(end) = opened {
            if let (Some(socket), Some(poll)) = (end.into_socket(), poll) {
                self.close_socket(poll, socket, How::Reset);
            }
            return false;
        }
        if let Some(poll) = poll {
            let owner = Owner {
                tag: TAG_CHANNEL,
                token: channel.index,
            };
            let missed = self.reactor.set_owner(poll, owner);
            self.muxes.handle_channel(channel.index, readiness | missed);
        }
        if let Some(waited) = waited {
            self.counters.counts.increment(Count::Paired);
            record(&mut self.latencies.borrow_mut().join, waited);
        }
        true
    }
}

/// Does what there is to do about tunnels, and tells the service what it is to see to.
pub(super) fn run_muxes<S: Service>(service: &Rc<S>, world: &Rc<World<S::Context, S::Message>>) {
    if world.muxes.inner.borrow().is_none() {
        return;
    }
    let now = clock::now();
    if world.muxes.is_active.take() {
        world.muxes.active_at.set(now);
    }
    world.muxes.with(|inner| {
        inner.end_overdue(now);
        inner.plane.run(now);
    });
    while let Some(event) = world.muxes.with(|inner| inner.plane.poll_event()) {
        match event {
            MuxEvent::Ended(mut ended) => {
                end_channel(world, &mut ended);
                service.handle_mux(MuxEvent::Ended(ended));
            }
            MuxEvent::Lost(lost) => {
                let TunnelLost { tunnel, reason, .. } = lost;
                let poll = world.muxes.with(|inner| inner.tunnel_polls.remove(&tunnel));
                if let Some(poll) = poll {
                    world.close_socket(poll, lost.socket, lost.how);
                }
                service.handle_mux_lost(tunnel, reason);
            }
            event => service.handle_mux(event),
        }
    }
}

fn end_channel<C: Copy + 'static, M: Send + 'static>(
    world: &World<C, M>,
    ended: &mut ChannelEnded,
) {
    let joined = world.muxes.with(|inner| {
        inner.ends.remove(ended.channel);
        if inner.parts.remove(&ended.channel) {
            inner.parts_bytes += ended.bytes.delivered + ended.bytes.sent;
        }
        inner.joined.remove(&ended.channel)
    });
    let Some(Joined { session, poll }) = joined else {
        return;
    };
    if let Some(session) = session {
        session.log(ended.reason, ended.bytes);
        world.counters.ended.increment(ended.reason);
        let lasted = clock::now().since(session.joined_at);
        record(&mut world.latencies.borrow_mut().session, lasted);
    }
    if let (Some((socket, how)), Some(poll)) = (ended.socket.take(), poll) {
        world.close_socket(poll, socket, how);
    }
}
