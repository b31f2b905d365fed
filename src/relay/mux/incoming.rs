//! What comes by a tunnel, packet by packet, and where it goes.

use std::io::IoSlice;

use super::channel::{Channel, LocalEnd};
use super::tunnel::{Inbound, Packet, Stop};
use super::turn::Turn;
use super::{
    Answer, Asked, MuxEvent, QUEUE_BYTES_MAX, REST_TIMEOUT, Role, SWEEP, TUNNEL_BYTES_MAX,
};
use crate::protocol::jproxy::{
    ChannelId, ChannelKind, Dialect, EndReason, FromClient, FromServer, PacketError,
};
use crate::relay::close::CloseReason;
use crate::slab::Key;

/// Reads of a tunnel before its channels, and other tunnels, have their turn.
const READS_MAX: usize = 4;

/// Pieces that are delivered with one call: what one read brings in packets of a KiB.
const PIECES_MAX: usize = 64;

/// Data of one channel that came in a row.
struct Run<'p> {
    channel: Option<Key>,
    pieces: [IoSlice<'p>; PIECES_MAX],
    count: usize,
}

/// What either side says, where both say the same.
enum Said<'p> {
    Data(ChannelId, &'p [u8]),
    End(ChannelKind, ChannelId, EndReason),
    Datagram(ChannelId, &'p [u8]),
    Echo(ChannelId, u16, &'p [u8]),
    Asked(Asked),
    Answered(ChannelKind, ChannelId, Answer),
}

impl Turn<'_> {
    pub(super) fn receive(&mut self, inbound: &mut Inbound) -> Result<(), Stop> {
        for _ in 0..READS_MAX {
            if !self.tunnel.may_receive(inbound, self.means.wire.len())
                || !inbound.receive(&mut self.tunnel.link, self.means)?
            {
                break;
            }
            let mut run = Run {
                channel: None,
                pieces: [IoSlice::new(&[]); PIECES_MAX],
                count: 0,
            };
            for payload in inbound.opener.payloads() {
                let Ok(payload) = payload else {
                    return Err(self.handle_undecrypted());
                };
                // One of no blocks is empty by every key.
                self.tunnel.has_decrypted |= !payload.is_empty();
                self.handle(payload, &mut run)?;
                if self.tunnel.is_foreign {
                    break;
                }
            }
            self.deliver(&mut run);
        }
        Ok(())
    }

    fn handle_undecrypted(&mut self) -> Stop {
        if !self.tunnel.has_decrypted {
            let tunnel = self.key;
            self.events.push_back(MuxEvent::Undecrypted { tunnel });
        }
        Stop::Broken
    }

    fn handle<'p>(&mut self, payload: &'p [u8], run: &mut Run<'p>) -> Result<(), Stop> {
        let dialect = self.tunnel.dialect;
        let decoded = match self.tunnel.role {
            Role::Server => FromClient::decode(payload, dialect).map(Said::from),
            Role::Client => FromServer::decode(payload, dialect).map(Said::from),
        };
        match decoded {
            Ok(Said::Data(id, data)) => {
                self.gather(id, data, run);
                return Ok(());
            }
            Err(error) => {
                self.deliver(run);
                return self.handle_error(error, payload);
            }
            Ok(said) => {
                // What came before is delivered before.
                self.deliver(run);
                self.handle_said(said);
            }
        }
        Ok(())
    }

    fn gather<'p>(&mut self, id: ChannelId, data: &'p [u8], run: &mut Run<'p>) {
        let place = (ChannelKind::Tcp, id);
        // Of a channel that is gone here, whose peer does not know yet.
        let channel = self.tunnel.by_id.get(&place).copied();
        if channel != run.channel || run.count == PIECES_MAX {
            self.deliver(run);
            run.channel = channel;
        }
        if channel.is_some() && !data.is_empty() {
            run.pieces[run.count] = IoSlice::new(data);
            run.count += 1;
        }
    }

    /// Has the channel's end take what was gathered.
    fn deliver(&mut self, run: &mut Run<'_>) {
        let pieces = &run.pieces[..std::mem::take(&mut run.count)];
        let Some(key) = run.channel.filter(|_| !pieces.is_empty()) else {
            return;
        };
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        // What comes before a server's answer is of an older channel with this number.
        if channel.has_heard_end || self.tunnel.role == Role::Client && !channel.is_expected() {
            self.counts.packets_ignored += 1;
            return;
        }
        let before = (channel.queued_bytes(), channel.bytes.delivered);
        let delivered = channel.deliver(pieces);
        let queued = channel.queued_bytes();
        self.counts.bytes_relayed += channel.bytes.delivered - before.1;
        self.tunnel.queued_bytes += queued - before.0;
        if let Err(error) = delivered {
            return self.break_local(key, error);
        }
        if self.tunnel.held.is_none()
            && (queued >= QUEUE_BYTES_MAX || self.tunnel.queued_bytes >= TUNNEL_BYTES_MAX)
        {
            self.tunnel.held = Some((self.fullest().unwrap_or(key), self.now));
            if !std::mem::replace(&mut self.tunnel.is_among_held, true) {
                self.held.push(self.key);
            }
            for key in self.tunnel.channels() {
                if let Some(channel) = self.channels.get_mut(key) {
                    channel.held_bytes = channel.queued_bytes();
                }
            }
        }
    }

    /// The channel for whose end most waits.
    pub(super) fn fullest(&self) -> Option<Key> {
        self.tunnel.channels().max_by_key(|key| {
            let channel = self.channels.get(*key);
            channel.map(Channel::queued_bytes)
        })
    }

    fn handle_said(&mut self, said: Said<'_>) {
        match said {
            Said::Data(..) => unreachable!("it was gathered"),
            Said::Asked(asked) => self.handle_asked(asked),
            Said::Answered(kind, id, answer) => self.handle_answered(kind, id, answer),
            Said::End(kind, id, reason) => self.handle_end(kind, id, reason),
            Said::Datagram(id, data) => self.handle_datagram(id, data),
            Said::Echo(id, sequence, data) => {
                let place = (ChannelKind::Icmp, id);
                let end = self
                    .find(place)
                    .and_then(|(_, channel)| channel.end.as_ref());
                if let Some(LocalEnd::Echoes(socket)) = end {
                    let sent = socket.send(sequence, data);
                    return self.note_datagram(place, data.len(), sent.is_ok());
                }
                // Nobody here asks for any.
                self.note_datagram(place, data.len(), false);
            }
        }
    }

    fn find(&self, place: (ChannelKind, ChannelId)) -> Option<(Key, &Channel)> {
        let key = *self.tunnel.by_id.get(&place)?;
        Some((key, self.channels.get(key)?))
    }

    fn handle_datagram(&mut self, id: ChannelId, data: &[u8]) {
        let place = (ChannelKind::Udp, id);
        let is_passed = match self.find(place) {
            Some((_, channel)) => match &channel.end {
                // An error tells of a datagram before.
                Some(LocalEnd::Datagrams(socket)) => {
                    socket.send(data).or_else(|_| socket.send(data)).is_ok()
                }
                Some(LocalEnd::Task) => {
                    let channel = self.tunnel.by_id[&place];
                    let data = data.to_vec();
                    self.events.push_back(MuxEvent::Datagram { channel, data });
                    true
                }
                Some(LocalEnd::Stream(_) | LocalEnd::Echoes(_)) | None => false,
            },
            None => false,
        };
        self.note_datagram(place, data.len(), is_passed);
    }

    fn note_datagram(&mut self, place: (ChannelKind, ChannelId), bytes: usize, is_passed: bool) {
        match is_passed {
            true => self.counts.datagrams_relayed += 1,
            false => self.counts.datagrams_dropped += 1,
        }
        let channel = self.tunnel.by_id.get(&place);
        if let Some(channel) = channel.and_then(|key| self.channels.get_mut(*key))
            && is_passed
        {
            channel.used_at = self.now;
            channel.bytes.delivered += bytes as u64;
        }
    }

    fn handle_asked(&mut self, asked: Asked) {
        let (kind, id) = (asked.kind(), asked.id());
        if let Some(old) = self.tunnel.by_id.get(&(kind, id)).copied() {
            self.replace(old);
        }
        let turned_away = match self.tunnel.leaving {
            // Whose it was may have none any more.
            Some(CloseReason::Terminated) => Some(Answer::denied(kind)),
            Some(_) => Some(Answer::limit(kind)),
            None if self.tunnel.channel_count() >= self.tunnel.channels_max => {
                Some(Answer::limit(kind))
            }
            None => None,
        };
        if let Some(answer) = turned_away {
            self.events.push_back(MuxEvent::TurnedAway {
                tunnel: self.key,
                asked,
                answer,
            });
            return self.say(&Packet::Server(answer.packet(id)));
        }
        let channel = Channel::new(self.key, &asked, self.now);
        let channel = self.channels.insert(channel);
        self.tunnel.by_id.insert((kind, id), channel);
        self.events.push_back(MuxEvent::Asked {
            channel,
            tunnel: self.key,
            asked,
        });
    }

    /// Whoever asks anew has forgotten the channel that had this number, and is told of it no more.
    /// If it has said its end, that goes behind the last byte.
    fn replace(&mut self, key: Key) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        if channel.has_heard_end && channel.end.is_some() {
            channel.ends_both = true;
            self.tunnel.outlive(channel);
            self.limit_rest(key);
            if let Err(error) = self.drain(key) {
                self.break_local(key, error);
            }
        } else {
            self.remove(key, CloseReason::Reset(self.tunnel.role.tunnel_side()));
        }
    }

    /// Whoever has sent what waits for a channel's end has done with it.
    fn limit_rest(&mut self, key: Key) {
        if let Some(channel) = self.channels.get_mut(key) {
            channel.rest_until.get_or_insert(self.now + REST_TIMEOUT);
            self.next_sweep.get_or_insert(self.now + SWEEP);
        }
    }

    fn handle_answered(&mut self, kind: ChannelKind, id: ChannelId, answer: Answer) {
        let found = self.find((kind, id));
        let Some((key, _)) = found.filter(|(_, channel)| !channel.is_expected()) else {
            self.counts.packets_ignored += 1;
            return;
        };
        if !answer.is_granted() {
            if let Some(channel) = self.channels.remove(key) {
                self.tunnel.forget(key, &channel);
            }
        } else if let Some(channel) = self.channels.get_mut(key) {
            channel.is_granted = true;
        }
        self.events.push_back(MuxEvent::Answered {
            channel: key,
            answer,
        });
    }

    fn handle_end(&mut self, kind: ChannelKind, id: ChannelId, reason: EndReason) {
        let Some(key) = self.tunnel.by_id.get(&(kind, id)).copied() else {
            if self.tunnel.role == Role::Client {
                self.events.push_back(MuxEvent::Forgotten {
                    tunnel: self.key,
                    kind,
                    id,
                });
            }
            return;
        };
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        let role = self.tunnel.role;
        if role == Role::Client && !channel.is_expected() {
            self.counts.packets_ignored += 1;
            return;
        }
        channel.has_heard_end = true;
        let side = role.tunnel_side();
        // The document has no other word for an end that is none of a reset.
        let is_original = self.tunnel.dialect == Dialect::Original;
        let is_plain_end = reason == EndReason::Unknown && !is_original;
        channel.ends_both = is_original || is_plain_end;
        let is_both = channel.ends_both;
        // What came before it waits for an end that is on its way.
        let is_orderly = reason == EndReason::Finished || is_plain_end;
        match kind {
            ChannelKind::Tcp if is_orderly => {
                // A client's end is a program of the user's own, which may pause.
                if is_both && role == Role::Server {
                    self.limit_rest(key);
                }
                self.enqueue(key);
            }
            ChannelKind::Tcp => {
                let (reason, answer) = match reason {
                    EndReason::Finished | EndReason::Reset | EndReason::Unknown => {
                        (CloseReason::Reset(side), EndReason::Reset)
                    }
                    EndReason::TimedOut | EndReason::Limit => {
                        (CloseReason::TimedOut(side), EndReason::TimedOut)
                    }
                    EndReason::Stopping => (CloseReason::Severed, EndReason::Stopping),
                };
                self.end(key, reason, answer);
            }
            ChannelKind::Udp | ChannelKind::Icmp => self.remove(key, CloseReason::Finished(side)),
        }
    }

    /// A packet that is none. What can be passed over is; what is answered is answered.
    fn handle_error(&mut self, error: PacketError, payload: &[u8]) -> Result<(), Stop> {
        match error {
            PacketError::Address { kind, id, .. } => {
                self.say(&Packet::Server(Answer::nowhere(kind).packet(id)));
                Ok(())
            }
            PacketError::Empty | PacketError::Opcode { .. } | PacketError::Misplaced { .. } => {
                self.counts.packets_ignored += 1;
                Ok(())
            }
            PacketError::OtherDialect { dialect, .. } => {
                let tunnel = self.key;
                self.events
                    .push_back(MuxEvent::OtherDialect { tunnel, error });
                self.say_in(dialect, payload);
                self.tunnel.is_foreign = true;
                self.tunnel.ready.clear();
                Ok(())
            }
            PacketError::Short { .. } => Err(Stop::Broken),
        }
    }

    /// Tells whoever speaks another dialect, in that, that its channel has failed.
    fn say_in(&mut self, dialect: Dialect, payload: &[u8]) {
        let ours = std::mem::replace(&mut self.tunnel.dialect, dialect);
        if self.tunnel.role == Role::Server
            && let Ok(FromClient::Data(id, _) | FromClient::End(id, _)) =
                FromClient::decode(payload, dialect)
        {
            let failed = Answer::nowhere(ChannelKind::Tcp).packet(id);
            self.say(&Packet::Server(failed));
        }
        self.tunnel.dialect = ours;
    }
}

impl<'p> From<FromClient<'p>> for Said<'p> {
    fn from(packet: FromClient<'p>) -> Self {
        match packet {
            FromClient::Connect(id, destination) => Self::Asked(Asked::Connect(id, destination)),
            FromClient::Data(id, data) => Self::Data(id, data),
            FromClient::End(id, reason) => Self::End(ChannelKind::Tcp, id, reason),
            FromClient::Associate {
                id,
                local_port,
                with,
            } => Self::Asked(Asked::Associate {
                id,
                local_port,
                with,
            }),
            FromClient::Datagram(id, data) => Self::Datagram(id, data),
            FromClient::EndDatagrams(id) => Self::End(ChannelKind::Udp, id, EndReason::Finished),
            FromClient::AssociateEchoes(id, host) => Self::Asked(Asked::Echoes(id, host)),
            FromClient::Echo { id, sequence, data } => Self::Echo(id, sequence, data),
            FromClient::EndEchoes(id) => Self::End(ChannelKind::Icmp, id, EndReason::Finished),
        }
    }
}

impl<'p> From<FromServer<'p>> for Said<'p> {
    fn from(packet: FromServer<'p>) -> Self {
        match packet {
            FromServer::Connected {
                id,
                status,
                took_ms,
            } => Self::Answered(ChannelKind::Tcp, id, Answer::Connect { status, took_ms }),
            FromServer::Data(id, data) => Self::Data(id, data),
            FromServer::End(id, reason) => Self::End(ChannelKind::Tcp, id, reason),
            FromServer::Associated {
                id,
                status,
                local_port,
            } => Self::Answered(
                ChannelKind::Udp,
                id,
                Answer::Associate { status, local_port },
            ),
            FromServer::Datagram(id, data) => Self::Datagram(id, data),
            FromServer::AssociatedEchoes(id, status) => {
                Self::Answered(ChannelKind::Icmp, id, Answer::Echoes(status))
            }
            FromServer::Echo { id, sequence, data } => Self::Echo(id, sequence, data),
        }
    }
}
