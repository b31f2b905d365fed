//! Tunnels of jProxy: many channels on one connection, each with an end of its own on this side.
//!
//! ```text
//!                 ┌── read ── decrypt ── packets ──┬─▶ queue ── write ──▶ │ channel's
//!   tunnel ───────┤                                └─▶ queue ── write ──▶ │ end: socket
//!   (TLS or not)  └── write ◀── encrypt ◀── packets ◀──── read ◀──────────│ or task
//! ```
//!
//! Nothing in the protocol says how much a channel may send. So what an end does not take waits, up
//! to [`QUEUE_BYTES_MAX`]; beyond that nothing of its tunnel is read, for as long as the tunnel may
//! be held up and no longer: then the channel is given up, as one stuck destination must not stop
//! the others. What comes from the ends is read only when the tunnel has taken all before it, in
//! turn.
//!
//! In the dialect of the document an end that was *finished* is that of one direction, and each
//! side says its own; in the other dialect it is the end of both.

mod channel;
mod echo;
mod event;
mod incoming;
mod invariants;
mod link;
mod orphans;
mod overdue;
#[cfg(test)]
mod rest_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
mod tunnel;
mod turn;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

pub use channel::{Carried, LocalEnd};
pub use echo::EchoSocket;
pub use event::{Answer, Asked, ChannelEnded, MuxCounts, MuxEvent, NOT_TRIED_MS, TunnelLost};

use channel::Channel;
use orphans::Orphans;
use tunnel::{Inbound, Means, Packet, Stop, Tunnel};
use turn::Turn;

use super::close::{CloseReason, How};
use super::codec::Codec;
use super::pair::Side;
use crate::protocol::jproxy::{
    ChannelKind, DATA_BYTES_MAX, Dialect, EndReason, FromClient, SessionKey,
};
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::slab::{Key, Slab};
use crate::time::Timestamp;

/// Bytes that wait for one channel's end, from which on its tunnel is held up. What one read of
/// the tunnel brings may go beyond.
pub const QUEUE_BYTES_MAX: usize = 256 << 10;

/// The same for all of a tunnel's channels together.
pub const TUNNEL_BYTES_MAX: usize = 2 << 20;

/// How long a channel for datagrams lasts on which none passes, at the server.
const DATAGRAMS_IDLE: Duration = Duration::from_secs(60);

/// The same at the client, which is told nothing of it, and must not believe in one that is gone.
const DATAGRAMS_IDLE_CLIENT: Duration = Duration::from_secs(50);

/// How long an end may take the rest of what was sent by whoever has done with its channel; and
/// the peer of a tunnel that is to end what was said in it last.
const REST_TIMEOUT: Duration = Duration::from_secs(60);

/// How often that is looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// Which end of a tunnel this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

/// A tunnel whose handshake is over.
pub struct TunnelStart {
    pub socket: Socket,
    /// TLS, where there is some.
    pub codec: Option<Box<Codec>>,
    /// What came behind the handshake, without TLS.
    pub early: Vec<u8>,
    pub key: SessionKey,
    pub role: Role,
    pub dialect: Dialect,
    pub channels_max: usize,
}

/// One shard's tunnels.
pub struct MuxPlane {
    tunnels: Slab<(Tunnel, Inbound)>,
    channels: Slab<Channel>,
    /// Those whose tunnels are gone.
    orphans: Orphans,
    /// Tunnels that may have something to do.
    ready: VecDeque<Key>,
    /// Tunnels that are held up, or were a moment ago.
    held: Vec<Key>,
    events: VecDeque<MuxEvent>,
    means: Means,
    counts: MuxCounts,
    /// How long one channel may hold up its tunnel.
    stuck: Duration,
    next_sweep: Option<Timestamp>,
}

impl Role {
    /// The side of a channel's pair at which the tunnel is: who asks is at the left.
    pub(super) const fn tunnel_side(self) -> Side {
        match self {
            Self::Server => Side::Left,
            Self::Client => Side::Right,
        }
    }
}

impl MuxPlane {
    /// None yet; one channel may hold up its tunnel for as long as `stuck`.
    #[must_use]
    pub fn new(stuck: Duration) -> Self {
        Self {
            tunnels: Slab::new(),
            channels: Slab::new(),
            orphans: Orphans::default(),
            ready: VecDeque::new(),
            held: Vec::new(),
            events: VecDeque::new(),
            means: Means::new(),
            counts: MuxCounts::default(),
            stuck,
            next_sweep: None,
        }
    }

    /// From now on one channel may hold up its tunnel for so long.
    pub const fn set_stuck(&mut self, stuck: Duration) {
        self.stuck = stuck;
    }

    /// A tunnel begins.
    pub fn start(&mut self, start: TunnelStart) -> Key {
        let key = self.tunnels.insert(Tunnel::new(start));
        self.enqueue(key);
        key
    }

    /// Asks the server for a channel; `None` where there are as many as there may be, or that has
    /// this number, or the tunnel is gone.
    pub fn ask(&mut self, tunnel_key: Key, asked: &Asked, now: Timestamp) -> Option<Key> {
        let (tunnel, _) = self.tunnels.get_mut(tunnel_key)?;
        let place = (asked.kind(), asked.id());
        if tunnel.channel_count() >= tunnel.channels_max || tunnel.by_id.contains_key(&place) {
            return None;
        }
        let channel = self.channels.insert(Channel::new(tunnel_key, asked, now));
        if place.0 != ChannelKind::Tcp {
            // The server may know nothing of this kind.
            self.next_sweep.get_or_insert(now + SWEEP);
        }
        tunnel.by_id.insert(place, channel);
        self.say(tunnel_key, &Packet::Client(asked.packet()));
        Some(channel)
    }

    /// What a channel leads to is there; from now on its bytes are the plane's. Gives the end back
    /// where the channel is gone.
    ///
    /// # Errors
    ///
    /// The end of a channel that is gone.
    pub fn open(
        &mut self,
        key: Key,
        end: LocalEnd,
        answer: Option<Answer>,
        now: Timestamp,
    ) -> Result<(), LocalEnd> {
        let Some(channel) = self.channels.get_mut(key) else {
            return Err(end);
        };
        if channel.kind != ChannelKind::Tcp {
            self.next_sweep.get_or_insert(now + SWEEP);
        }
        channel.used_at = now;
        channel.open(end);
        let (tunnel, id) = (channel.tunnel, channel.id);
        if let Some(answer) = answer {
            self.say(tunnel, &Packet::Server(answer.packet(id)));
        }
        self.enqueue_channel(key);
        Ok(())
    }

    /// What was asked for is not to be had.
    pub fn refuse(&mut self, key: Key, answer: Answer) {
        if let Some(channel) = self.channels.remove(key) {
            if let Some((tunnel, _)) = self.tunnels.get_mut(channel.tunnel) {
                tunnel.forget(key, &channel);
            }
            self.say(channel.tunnel, &Packet::Server(answer.packet(channel.id)));
            // It may have been the last of a tunnel that is to leave.
            self.enqueue(channel.tunnel);
        }
    }

    /// Gives up a channel.
    pub fn give_up(&mut self, key: Key, reason: CloseReason) {
        self.end_orphan(key, reason);
        let said = match reason {
            CloseReason::Finished(_) => EndReason::Finished,
            CloseReason::Expired | CloseReason::TimedOut(_) => EndReason::TimedOut,
            CloseReason::Severed | CloseReason::Drained => EndReason::Stopping,
            _ => EndReason::Reset,
        };
        self.with_turn_of(key, |turn| turn.end(key, reason, said));
    }

    /// Sends a datagram of a task's. False where it is dropped, as there is no room or the channel
    /// is gone, which is the task's to count.
    pub fn send_datagram(&mut self, key: Key, data: &[u8], now: Timestamp) -> bool {
        let Some(channel) = self.channels.get_mut(key) else {
            return false;
        };
        channel.used_at = now;
        let (tunnel, id) = (channel.tunnel, channel.id);
        let has_room = self
            .tunnels
            .get(tunnel)
            .is_some_and(|(tunnel, _)| tunnel.link.outlet.has_room());
        if has_room {
            channel.bytes.sent += data.len() as u64;
            self.say(tunnel, &Packet::Client(FromClient::Datagram(id, data)));
            self.counts.datagrams_relayed += 1;
        }
        has_room
    }

    /// Sends what came of a connection before it became the end of its channel.
    pub fn send_early(&mut self, key: Key, data: &[u8]) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        channel.bytes.sent += data.len() as u64;
        self.counts.bytes_relayed += data.len() as u64;
        let (tunnel, id) = (channel.tunnel, channel.id);
        for piece in data.chunks(DATA_BYTES_MAX) {
            self.say(tunnel, &Packet::Client(FromClient::Data(id, piece)));
        }
    }

    /// Sends a packet behind those that wait.
    fn say(&mut self, key: Key, packet: &Packet<'_>) {
        debug_assert!(self.means.wire.is_empty(), "between two turns");
        if let Some((tunnel, _)) = self.tunnels.get_mut(key) {
            tunnel.seal(&mut self.means, packet);
            self.send_wire(key);
        }
    }

    /// Sends what was sealed between two turns.
    fn send_wire(&mut self, key: Key) {
        let Some((tunnel, inbound)) = self.tunnels.get_mut(key) else {
            return;
        };
        let is_broken = tunnel.link.send_wire(&mut self.means).is_err();
        if is_broken || tunnel.link.outlet.failed().is_some() {
            self.means.clear();
            // What came before it is read to the end.
            inbound.is_readable = true;
            self.enqueue(key);
        }
    }

    /// Ends a tunnel for this reason once its channels have ended; there are no new ones.
    pub fn leave(&mut self, key: Key, reason: CloseReason) {
        if let Some((tunnel, _)) = self.tunnels.get_mut(key) {
            tunnel.leaving = Some(reason);
            self.enqueue(key);
        }
    }

    /// Ends all of them.
    pub fn break_all_off(&mut self, reason: CloseReason) -> usize {
        let channels = self.channels.len();
        let all: Vec<Key> = self.tunnels.keys().collect();
        for key in all {
            self.lose(key, Stop::Left(reason), Timestamp::default());
        }
        for key in std::mem::take(&mut self.orphans.all) {
            self.end_orphan(key, reason);
        }
        channels
    }

    /// How many tunnels there are.
    #[must_use]
    pub const fn tunnels(&self) -> usize {
        self.tunnels.len()
    }

    /// How many channels.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.channels.len()
    }

    /// How many channels a tunnel has; `None` where it is gone.
    #[must_use]
    pub fn channels_of(&self, tunnel: Key) -> Option<usize> {
        let (tunnel, _) = self.tunnels.get(tunnel)?;
        Some(tunnel.channel_count())
    }

    /// What a channel has carried.
    #[must_use]
    pub fn carried(&self, channel: Key) -> Option<Carried> {
        Some(self.channels.get(channel)?.bytes)
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counts(&self) -> MuxCounts {
        self.counts
    }

    /// Whether there is something to do before the next sleep.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.orphans.ready.is_empty() || !self.events.is_empty()
    }

    /// When to look for what is stuck or silent next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let held = self.held.iter().filter_map(|key| {
            let (tunnel, _) = self.tunnels.get(*key)?;
            tunnel.held.map(|(_, since)| since + self.stuck)
        });
        held.chain(self.next_sweep).min()
    }

    /// The connection of the tunnel in a slot triggered.
    pub fn handle_tunnel(&mut self, index: u32, readiness: Readiness) {
        if let Some(key) = self.tunnels.key_at(index)
            && let Some((tunnel, inbound)) = self.tunnels.get_mut(key)
        {
            inbound.note(readiness);
            tunnel.link.outlet.note(readiness);
            self.enqueue(key);
        }
    }

    /// The end of the channel in a slot triggered.
    pub fn handle_channel(&mut self, index: u32, readiness: Readiness) {
        if let Some(key) = self.channels.key_at(index)
            && let Some(channel) = self.channels.get_mut(key)
        {
            channel.note(readiness);
            self.enqueue_channel(key);
        }
    }

    fn enqueue(&mut self, key: Key) {
        if let Some((tunnel, _)) = self.tunnels.get_mut(key)
            && !std::mem::replace(&mut tunnel.is_queued, true)
        {
            self.ready.push_back(key);
        }
    }

    fn enqueue_channel(&mut self, key: Key) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        if channel.orphan_of.is_some() {
            return self.enqueue_orphan(key);
        }
        let tunnel_key = channel.tunnel;
        if let Some((tunnel, _)) = self.tunnels.get_mut(tunnel_key)
            && !std::mem::replace(&mut channel.is_queued, true)
        {
            tunnel.ready.push_back(key);
        }
        self.enqueue(tunnel_key);
    }

    /// Does what there is to do now, each tunnel in its turn.
    pub fn run(&mut self, now: Timestamp) {
        self.run_orphans();
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else {
                break;
            };
            let Some((mut turn, inbound)) = self.turn_of(key, now) else {
                continue;
            };
            turn.tunnel.is_queued = false;
            match turn.run(inbound) {
                Ok(true) => self.enqueue(key),
                Ok(false) => {}
                Err(stop) => self.lose(key, stop, now),
            }
        }
        // Whoever takes something in this turn is not given up in it.
        self.look_for_stuck(now);
        self.sweep(now);
    }

    /// Takes what is to be seen to; call until `None`.
    pub fn poll_event(&mut self) -> Option<MuxEvent> {
        self.events.pop_front()
    }

    fn with_turn_of(&mut self, channel: Key, act: impl FnOnce(&mut Turn<'_>)) {
        let Some(key) = self.channels.get(channel).map(|channel| channel.tunnel) else {
            return;
        };
        // Nothing that is done so looks at the time.
        let Some((mut turn, _)) = self.turn_of(key, Timestamp::default()) else {
            return;
        };
        act(&mut turn);
        self.send_wire(key);
        self.enqueue(key);
    }

    /// What a tunnel does its turn with, and what it receives.
    fn turn_of(&mut self, key: Key, now: Timestamp) -> Option<(Turn<'_>, &mut Inbound)> {
        let (tunnel, inbound) = self.tunnels.get_mut(key)?;
        let turn = Turn {
            key,
            tunnel,
            channels: &mut self.channels,
            held: &mut self.held,
            next_sweep: &mut self.next_sweep,
            means: &mut self.means,
            events: &mut self.events,
            counts: &mut self.counts,
            now,
        };
        Some((turn, inbound))
    }

    /// A tunnel is over, and its channels with it.
    fn lose(&mut self, key: Key, stop: Stop, now: Timestamp) {
        self.means.wire.clear();
        let Some((mut tunnel, _)) = self.tunnels.remove(key) else {
            return;
        };
        let side = tunnel.role.tunnel_side();
        let reason = stop.reason(side);
        let of_channels = match stop {
            Stop::Left(reason) | Stop::Untaken(reason) => reason,
            Stop::Ended => CloseReason::Reset(side),
            Stop::Broken | Stop::Failed(_) => reason,
        };
        let is_left = matches!(stop, Stop::Left(_));
        for channel_key in tunnel.channels() {
            // Whoever has said all before it goes is done, as who closes a connection is.
            if !is_left && self.is_to_outlive(channel_key) {
                self.keep_orphan(channel_key, side, now);
                continue;
            }
            if let Some(channel) = self.channels.remove(channel_key) {
                let is_done = !is_left && channel.has_said_all();
                let reason = match is_done {
                    true => CloseReason::Finished(side),
                    false => of_channels,
                };
                let ended = channel.into_ended(channel_key, reason, side);
                self.events.push_back(MuxEvent::Ended(ended));
            }
        }
        let how = match stop {
            Stop::Ended => How::Clean,
            Stop::Left(_) => How::Parting,
            Stop::Broken | Stop::Failed(_) | Stop::Untaken(_) => How::Reset,
        };
        if how == How::Parting {
            // What finds no room is lost with it.
            tunnel.link.say_farewell(&mut self.means);
        }
        self.events.push_back(MuxEvent::Lost(TunnelLost {
            tunnel: key,
            reason,
            socket: tunnel.link.outlet.socket,
            how,
        }));
    }
}

impl fmt::Debug for MuxPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MuxPlane")
            .field("tunnels", &self.tunnels.len())
            .field("channels", &self.channels.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TunnelStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStart")
            .field("role", &self.role)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}
