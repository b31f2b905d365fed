//! What a plane tells of, and what that means for the model.

use midspan::protocol::jproxy::ChannelKind;
use midspan::relay::mux::{Asked, ChannelEnded, MuxEvent};
use midspan::relay::{CloseReason, How, Side};
use midspan::runtime::socket::Socket;
use midspan::slab::Key;

use super::flow::Flow;
use super::{CLIENT, Channel, SERVER, State, Tunnel, World};

impl World {
    /// One plane does what there is to do.
    pub(super) fn turn(&mut self, side: usize) {
        self.polls[side].tell(&mut self.planes[side]);
        self.planes[side].run(self.now);
        self.planes[side].check_invariants();
        while let Some(event) = self.planes[side].poll_event() {
            self.handle(side, event);
        }
        self.parting.retain(|socket| {
            let mut space = [0; 4096];
            !matches!(socket.discard(&mut space), Ok(0))
        });
    }

    fn at_key(&self, side: usize, key: Key) -> usize {
        let has_key = |channel: &Channel| match channel.states[side] {
            State::Asked(it) | State::Granted(it) | State::Open(it) => it == key,
            State::Over | State::Unknown => false,
        };
        let at = self.channels.iter().position(has_key);
        at.expect("something is told of a channel that is not there")
    }

    fn handle(&mut self, side: usize, event: MuxEvent) {
        match event {
            MuxEvent::Asked {
                channel,
                tunnel,
                asked,
            } => self.set_asked(tunnel, &asked, State::Asked(channel)),
            MuxEvent::TurnedAway { tunnel, asked, .. } => {
                self.set_asked(tunnel, &asked, State::Over);
            }
            MuxEvent::Answered { channel, answer } => {
                let at = self.at_key(CLIENT, channel);
                assert_eq!(self.channels[at].states[CLIENT], State::Asked(channel));
                if answer.is_granted() {
                    self.channels[at].states[CLIENT] = State::Granted(channel);
                    self.channels[at].was_granted = true;
                } else {
                    self.channels[at].states[CLIENT] = State::Over;
                    self.free(at);
                    self.seen.insert("refused");
                }
            }
            MuxEvent::Datagram { channel, data } => {
                let at = self.at_key(side, channel);
                note_datagram(&mut self.channels[at].numbers[1 - side].1, &data);
                self.seen.insert("a datagram back");
            }
            MuxEvent::OtherDialect { .. } => unreachable!("both speak the same"),
            MuxEvent::Undecrypted { .. } => unreachable!("both have the key"),
            MuxEvent::Ended(ended) => self.handle_ended(side, ended),
            MuxEvent::Forgotten { tunnel, kind, id } => {
                let is_it = |it: &&mut Tunnel| it.keys[CLIENT] == Some(tunnel);
                let tunnel = self.tunnels.iter_mut().find(is_it);
                tunnel.expect("a tunnel").busy.remove(&(kind as u8, id));
            }
            MuxEvent::Lost(lost) => {
                let is_it = |tunnel: &Tunnel| tunnel.keys[side] == Some(lost.tunnel);
                let at = self.tunnels.iter().position(is_it).expect("a tunnel");
                self.tunnels[at].keys[side] = None;
                self.close(lost.socket, lost.how);
                match self.tunnels[at].is_leaving && lost.reason == CloseReason::Drained {
                    true => drop(self.seen.insert("left in order")),
                    false => self.break_channels_that_are_not_over(at, side),
                }
            }
        }
    }

    fn close(&mut self, socket: Socket, how: How) {
        if how == How::Parting {
            // It may be gone already.
            let _ = socket.shutdown_write();
            self.parting.push(socket);
        }
    }

    fn break_channels_that_are_not_over(&mut self, tunnel: usize, side: usize) {
        for channel in &mut self.channels {
            if channel.tunnel == tunnel && channel.states[side] == State::Unknown {
                channel.states[side] = State::Over;
                channel.is_broken = true;
            }
        }
    }

    /// The server has heard of what was asked for.
    fn set_asked(&mut self, tunnel: Key, asked: &Asked, state: State) {
        let is_it = |channel: &Channel| {
            let is_of_it = self.tunnels[channel.tunnel].keys[SERVER] == Some(tunnel);
            let id = match asked {
                Asked::Connect(id, _) | Asked::Associate { id, .. } | Asked::Echoes(id, _) => *id,
            };
            let is_unknown = channel.states[SERVER] == State::Unknown;
            is_of_it && is_unknown && (channel.kind, channel.id) == (asked.kind(), id)
        };
        let at = self.channels.iter().position(is_it);
        let at = at.expect("somebody asks for what nobody asked for");
        self.channels[at].states[SERVER] = state;
    }

    fn handle_ended(&mut self, side: usize, ended: ChannelEnded) {
        self.seen.insert(ended.reason.label());
        let at = self.at_key(side, ended.channel);
        let channel = &mut self.channels[at];
        assert_eq!((channel.kind, channel.id), (ended.kind, ended.id));
        channel.states[side] = State::Over;
        match ended.reason {
            CloseReason::Finished(_) => channel.has_finished[side] = true,
            CloseReason::TimedOut(Side::Left | Side::Right) => {
                let waits = |flow: &Flow| flow.written > flow.read;
                let are_read = !channel.flows.iter().any(waits);
                assert!(!are_read || channel.is_broken, "nothing of it was stuck");
                channel.is_broken = true;
            }
            _ => {
                let is_told = channel.kind == ChannelKind::Udp;
                assert!(channel.is_broken || is_told, "{:?}", ended.reason);
            }
        }
        if let Some((socket, how)) = ended.socket {
            if how == How::Reset {
                channel.is_broken = true;
            }
            self.close(socket, how);
        }
        if side == CLIENT && ended.is_free {
            self.free(at);
        }
        if ended.kind == ChannelKind::Udp && side == SERVER {
            self.channels[at].datagrams = None;
        }
    }

    fn free(&mut self, at: usize) {
        let Channel {
            kind, id, tunnel, ..
        } = self.channels[at];
        self.tunnels[tunnel].busy.remove(&(kind as u8, id));
    }
}

pub(super) fn note_datagram(last: &mut Option<u32>, datagram: &[u8]) {
    let (words, rest) = datagram.as_chunks::<4>();
    let number = u32::from_be_bytes(words[0]);
    assert!(rest.is_empty() && words.iter().all(|word| *word == words[0]));
    assert!(
        last.is_none_or(|last| last < number),
        "twice, or in another order"
    );
    *last = Some(number);
}
