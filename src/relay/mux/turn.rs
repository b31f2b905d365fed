//! One tunnel's turn: what came by it goes to its channels (`incoming.rs`), and what these have to
//! say goes by it.

use std::collections::VecDeque;

use rustix::io::Errno;

use super::channel::{Channel, LocalEnd};
use super::tunnel::{Inbound, Means, Packet, STEP_BYTES, Stop, Tunnel, WIRE_BYTES};
use super::{
    Answer, ChannelEnded, MuxCounts, MuxEvent, QUEUE_BYTES_MAX, REST_TIMEOUT, Role, SWEEP,
    TUNNEL_BYTES_MAX,
};
use crate::protocol::jproxy::{
    BindStatus, ChannelId, ChannelKind, ConnectStatus, DATA_BYTES_MAX, Dialect, EndReason,
    FromClient, FromServer,
};
use crate::relay::close::{CloseReason, How};
use crate::relay::pair::Side;
use crate::slab::{Key, Slab};
use crate::time::Timestamp;

/// Datagrams of one channel before others have their turn.
const DATAGRAMS_MAX: usize = 32;

pub(super) struct Turn<'a> {
    pub(super) key: Key,
    pub(super) tunnel: &'a mut Tunnel,
    pub(super) channels: &'a mut Slab<Channel>,
    /// The tunnels that are held up.
    pub(super) held: &'a mut Vec<Key>,
    pub(super) next_sweep: &'a mut Option<Timestamp>,
    pub(super) means: &'a mut Means,
    pub(super) events: &'a mut VecDeque<MuxEvent>,
    pub(super) counts: &'a mut MuxCounts,
    pub(super) now: Timestamp,
}

impl Turn<'_> {
    /// Does what there is to do; tells whether there is more.
    pub(super) fn run(&mut self, inbound: &mut Inbound) -> Result<bool, Stop> {
        let had_failed = self.tunnel.link.outlet.failed().is_some();
        self.tunnel.link.outlet.flush();
        self.receive(inbound).map_err(|stop| self.first_of(stop))?;
        // What TLS has to say waits for no event.
        self.tunnel.link.outlet.flush();
        self.send_wire()?;
        self.run_channels()?;
        self.send_wire()?;
        if let Some(error) = self.tunnel.link.outlet.failed() {
            // What came before it is read to the end.
            inbound.is_readable |= !had_failed;
            if !inbound.is_readable {
                return Err(Stop::Failed(error));
            }
        }
        let has_room = self.tunnel.link.outlet.has_room();
        if self.tunnel.is_foreign {
            let broken = CloseReason::Broken(self.tunnel.role.tunnel_side());
            return Err(Stop::Left(broken));
        }
        if let Some(reason) = self.tunnel.leaving
            && self.tunnel.channel_count() == 0
        {
            if has_room {
                return Err(Stop::Left(reason));
            }
            self.tunnel
                .rest_until
                .get_or_insert(self.now + REST_TIMEOUT);
            self.next_sweep.get_or_insert(self.now + SWEEP);
        }
        if has_room {
            for key in std::mem::take(&mut self.tunnel.starved) {
                if let Some(channel) = self.channels.get_mut(key) {
                    channel.is_starved = false;
                }
                self.enqueue(key);
            }
        }
        Ok(self.tunnel.may_receive(inbound, 0) || !self.tunnel.ready.is_empty())
    }

    /// Of an end that comes of an error of before, that.
    fn first_of(&self, stop: Stop) -> Stop {
        match (stop, self.tunnel.link.outlet.failed()) {
            (Stop::Ended, Some(error)) => Stop::Failed(error),
            _ => stop,
        }
    }

    fn send_wire(&mut self) -> Result<(), Stop> {
        match self.means.wire.is_empty() {
            true => Ok(()),
            false => self.tunnel.link.send_wire(self.means),
        }
    }

    pub(super) fn say(&mut self, packet: &Packet<'_>) {
        self.tunnel.seal(self.means, packet);
    }

    pub(super) fn enqueue(&mut self, key: Key) {
        if let Some(channel) = self.channels.get_mut(key)
            && !std::mem::replace(&mut channel.is_queued, true)
        {
            self.tunnel.ready.push_back(key);
        }
    }

    fn run_channels(&mut self) -> Result<(), Stop> {
        for _ in 0..self.tunnel.ready.len() {
            let Some(key) = self.tunnel.ready.pop_front() else {
                break;
            };
            if let Some(channel) = self.channels.get_mut(key) {
                channel.is_queued = false;
                self.run_channel(key);
            }
            if self.means.wire.len() >= WIRE_BYTES {
                self.send_wire()?;
            }
        }
        Ok(())
    }

    fn run_channel(&mut self, key: Key) {
        if let Err(error) = self.drain(key) {
            return self.break_local(key, error);
        }
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        if !channel.is_readable || channel.has_said_end {
            return;
        }
        if !channel.may_say_more() {
            return self.read_away(key);
        }
        if !self.tunnel.link.outlet.has_room() {
            if !std::mem::replace(&mut channel.is_starved, true) {
                self.tunnel.starved.push(key);
            }
            return;
        }
        let read = match &channel.end {
            Some(LocalEnd::Stream(_)) => self.read_stream(key),
            Some(LocalEnd::Datagrams(_) | LocalEnd::Echoes(_)) => {
                self.read_datagrams(key);
                Ok(())
            }
            Some(LocalEnd::Task) | None => Ok(()),
        };
        if let Err(error) = read {
            self.break_local(key, error);
        }
    }

    fn read_away(&mut self, key: Key) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        match channel.read_away(&mut self.means.chunk) {
            Err(error) => self.break_local(key, error),
            Ok(()) if channel.is_readable => self.enqueue(key),
            Ok(()) => {}
        }
    }

    /// Has an end take what waits for it, and the end behind that.
    pub(super) fn drain(&mut self, key: Key) -> Result<(), Errno> {
        self.drain_queue(key)?;
        self.reconsider_hold();
        let Some(channel) = self.channels.get_mut(key) else {
            return Ok(());
        };
        if !channel.has_heard_end || !channel.queue.is_empty() {
            return Ok(());
        }
        let Some(LocalEnd::Stream(socket)) = &channel.end else {
            return Ok(());
        };
        let was_shut = std::mem::replace(&mut channel.is_shut, true);
        let side = self.tunnel.role.tunnel_side();
        if channel.has_said_end {
            self.remove(key, CloseReason::Finished(side.other()));
        } else if channel.ends_both {
            self.end(key, CloseReason::Finished(side), EndReason::Finished);
        } else if !was_shut {
            socket.shutdown_write()?;
        }
        Ok(())
    }

    /// Has an end take what waits for it.
    fn drain_queue(&mut self, key: Key) -> Result<(), Errno> {
        let Some(channel) = self.channels.get_mut(key) else {
            return Ok(());
        };
        let before = channel.queued_bytes();
        let drained = channel.drain();
        let taken = before - channel.queued_bytes();
        self.counts.bytes_relayed += taken as u64;
        self.tunnel.queued_bytes -= taken;
        drained
    }

    /// Has the tunnel be read again once enough was taken. Where much still waits, but not for
    /// whom it was held up by, that is somebody else's fault.
    fn reconsider_hold(&mut self) {
        let Some((by, since)) = self.tunnel.held else {
            return;
        };
        let rest = self.channels.get(by).map_or(0, Channel::queued_bytes);
        if rest >= QUEUE_BYTES_MAX / 2 {
            return;
        }
        let is_low = self.tunnel.queued_bytes < TUNNEL_BYTES_MAX / 2;
        let fullest = self.fullest().filter(|_| !is_low);
        self.tunnel.held = fullest.map(|fullest| (fullest, since));
    }

    fn read_stream(&mut self, key: Key) -> Result<(), Errno> {
        let Some(channel) = self.channels.get_mut(key) else {
            return Ok(());
        };
        let Some(LocalEnd::Stream(socket)) = &channel.end else {
            return Ok(());
        };
        let mut chunk = std::mem::take(&mut self.means.chunk);
        chunk.clear();
        let received = socket.recv_behind(&mut chunk);
        let outcome = match received {
            Ok(0) => match socket.take_error() {
                Some(error) => Err(error),
                None => {
                    self.finish_local(key);
                    Ok(())
                }
            },
            Ok(count) => {
                channel.is_readable = count >= STEP_BYTES || channel.has_hung_up;
                channel.bytes.sent += count as u64;
                self.counts.bytes_relayed += count as u64;
                let (id, is_more) = (channel.id, channel.is_readable);
                for piece in chunk.chunks(DATA_BYTES_MAX) {
                    let packet = self.data(id, piece);
                    self.tunnel.seal(self.means, &packet);
                }
                if is_more {
                    self.enqueue(key);
                }
                Ok(())
            }
            Err(Errno::AGAIN) => {
                channel.is_readable = false;
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.means.chunk = chunk;
        outcome
    }

    /// Nothing more comes from a channel's end.
    fn finish_local(&mut self, key: Key) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        channel.is_readable = false;
        let side = self.tunnel.role.tunnel_side().other();
        let is_whole = channel.has_heard_end && channel.is_shut;
        if is_whole || self.tunnel.dialect == Dialect::Original {
            let first = match is_whole {
                true => side.other(),
                false => side,
            };
            return self.end(key, CloseReason::Finished(first), EndReason::Finished);
        }
        channel.has_said_end = true;
        let id = channel.id;
        self.say_end(id, EndReason::Finished);
    }

    fn read_datagrams(&mut self, key: Key) {
        let mut chunk = std::mem::take(&mut self.means.chunk);
        for count in 0.. {
            let Some(channel) = self.channels.get_mut(key) else {
                break;
            };
            if count == DATAGRAMS_MAX {
                self.enqueue(key);
                break;
            }
            chunk.clear();
            let id = channel.id;
            let received = match &channel.end {
                Some(LocalEnd::Datagrams(socket)) => socket
                    .recv_behind(&mut chunk)
                    .map(|_| Some(FromServer::Datagram(id, &chunk))),
                Some(LocalEnd::Echoes(socket)) => socket.receive(&mut chunk).map(|reply| {
                    reply.map(|(sequence, data)| FromServer::Echo { id, sequence, data })
                }),
                _ => break,
            };
            match received {
                Ok(Some(FromServer::Datagram(_, data))) if data.len() > DATA_BYTES_MAX => {
                    self.counts.datagrams_dropped += 1;
                }
                // Behind its sequence.
                Ok(Some(FromServer::Echo { data, .. })) if data.len() > DATA_BYTES_MAX - 2 => {
                    self.counts.datagrams_dropped += 1;
                }
                Ok(Some(packet)) => {
                    channel.used_at = self.now;
                    if let FromServer::Datagram(_, data) | FromServer::Echo { data, .. } = &packet {
                        channel.bytes.sent += data.len() as u64;
                    }
                    self.counts.datagrams_relayed += 1;
                    self.tunnel.seal(self.means, &Packet::Server(packet));
                }
                Ok(None) => {}
                Err(Errno::AGAIN) => {
                    channel.is_readable = false;
                    break;
                }
                // It tells of a datagram that was sent before.
                Err(_) => {}
            }
        }
        self.means.chunk = chunk;
    }

    fn data<'p>(&self, id: ChannelId, data: &'p [u8]) -> Packet<'p> {
        match self.tunnel.role {
            Role::Server => Packet::Server(FromServer::Data(id, data)),
            Role::Client => Packet::Client(FromClient::Data(id, data)),
        }
    }

    fn say_end(&mut self, id: ChannelId, reason: EndReason) {
        let packet = match self.tunnel.role {
            Role::Server => Packet::Server(FromServer::End(id, reason)),
            Role::Client => Packet::Client(FromClient::End(id, reason)),
        };
        self.say(&packet);
    }

    /// A channel that was to be given up has held up its tunnel.
    pub(super) fn end_stuck(&mut self, key: Key) {
        let Some(channel) = self.channels.get(key) else {
            return;
        };
        let reason = CloseReason::TimedOut(self.tunnel.role.tunnel_side().other());
        if channel.end.is_none() && self.tunnel.role == Role::Server {
            // It is asked for, and nobody has been told what becomes of it.
            let answer = Answer::refused(channel.kind, ConnectStatus::TimedOut, BindStatus::Limit);
            let id = channel.id;
            self.say(&Packet::Server(answer.packet(id)));
            return self.remove(key, reason);
        }
        self.end(key, reason, EndReason::TimedOut);
    }

    pub(super) fn break_local(&mut self, key: Key, error: Errno) {
        let side = self.tunnel.role.tunnel_side().other();
        let reason = CloseReason::from_error(side, error);
        self.end(key, reason, EndReason::Reset);
    }

    /// Ends a channel, and tells the tunnel's peer, unless it knows.
    pub(super) fn end(&mut self, key: Key, reason: CloseReason, said: EndReason) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        let (kind, id) = (channel.kind, channel.id);
        // Of the programs that speak the other dialect the client uses a number again as soon as
        // it has said the end, and is told no more of it.
        let is_over = channel.has_heard_end || said == EndReason::Finished;
        let knows = channel.has_said_end && is_over
            || channel.has_heard_end
                && self.tunnel.role == Role::Server
                && self.tunnel.dialect == Dialect::Original;
        channel.has_said_end = true;
        let is_anothers = self.tunnel.by_id.get(&(kind, id)) != Some(&key);
        match (kind, self.tunnel.role) {
            _ if knows || is_anothers => {}
            (ChannelKind::Tcp, _) => self.say_end(id, said),
            (ChannelKind::Udp, Role::Client) => {
                self.say(&Packet::Client(FromClient::EndDatagrams(id)));
            }
            (ChannelKind::Icmp, Role::Client) => {
                self.say(&Packet::Client(FromClient::EndEchoes(id)));
            }
            (ChannelKind::Udp | ChannelKind::Icmp, Role::Server) => {}
        }
        self.remove(key, reason);
    }

    pub(super) fn remove(&mut self, key: Key, reason: CloseReason) {
        let Some(channel) = self.channels.remove(key) else {
            return;
        };
        self.tunnel.forget(key, &channel);
        let side = self.tunnel.role.tunnel_side();
        self.events
            .push_back(MuxEvent::Ended(channel.into_ended(key, reason, side)));
    }
}

impl Channel {
    /// What there is to say of it, whose tunnel is at this side.
    pub(super) fn into_ended(self, key: Key, reason: CloseReason, tunnel: Side) -> ChannelEnded {
        let how = match reason {
            // What its end still says would turn a close into a reset, which overtakes bytes.
            CloseReason::Finished(side) if side == tunnel && self.kind == ChannelKind::Tcp => {
                How::Parting
            }
            CloseReason::Finished(_) => How::Clean,
            _ => How::Reset,
        };
        let socket = self.end.and_then(LocalEnd::into_socket);
        ChannelEnded {
            channel: key,
            tunnel: self.tunnel,
            kind: self.kind,
            id: self.id,
            reason,
            bytes: self.bytes,
            socket: socket.map(|socket| (socket, how)),
            is_free: self.has_heard_end && self.has_said_end,
        }
    }
}
