//! What programs and services do, as the seed has it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::{UnixDatagram, UnixStream};

use midspan::protocol::jproxy::{BindStatus, ChannelId, ChannelKind, ConnectStatus, Dialect};
use midspan::protocol::socks5::{Destination, Host};
use midspan::relay::CloseReason;
use midspan::relay::mux::{Answer, Asked, LocalEnd, NOT_TRIED_MS};
use midspan::runtime::socket::Socket;
use midspan::slab::Key;
use rustix::event::epoll::EventFlags;

use super::events::note_datagram;
use super::flow::Flow;
use super::poll::Watched;
use super::{CHANNELS_MAX, CLIENT, Channel, SERVER, State, Tunnel, World, both};

impl World {
    /// The client asks for a channel.
    pub(super) fn ask(&mut self) {
        let tunnel = self.rng.usize(0..self.tunnels.len());
        let kind = match self.rng.u32(0..6) {
            0 => ChannelKind::Udp,
            _ => ChannelKind::Tcp,
        };
        let Tunnel {
            keys: [Some(key), at_server],
            busy,
            used,
            is_leaving: false,
            is_broken,
        } = &mut self.tunnels[tunnel]
        else {
            return;
        };
        let mut ids = 0..=ChannelId::MAX;
        let id = ids.find(|id| !busy.contains(&(kind as u8, *id)));
        let mut id = id.expect("there are enough");
        // Some clients wait for nobody, once they have ended a channel that was there.
        let of_tunnel = self
            .channels
            .iter()
            .filter(|channel| channel.tunnel == tunnel && channel.kind == ChannelKind::Tcp);
        let newest: BTreeMap<ChannelId, &Channel> =
            of_tunnel.map(|channel| (channel.id, channel)).collect();
        let is_forgotten =
            |channel: &&Channel| channel.states[CLIENT] == State::Over && channel.was_granted;
        let forgotten = newest.into_values().filter(is_forgotten);
        let forgotten: Vec<ChannelId> = forgotten.map(|channel| channel.id).collect();
        if kind == ChannelKind::Tcp
            && self.rng.u32(0..4) == 0
            && let Some(forgotten) = self.rng.choice(forgotten)
        {
            id = forgotten;
        }
        let asked = match kind {
            ChannelKind::Tcp => Asked::Connect(id, somewhere()),
            _ => Asked::Associate {
                id,
                local_port: 0,
                with: somewhere(),
            },
        };
        let Some(channel) = self.planes[CLIENT].ask(*key, &asked, self.now) else {
            match self.planes[CLIENT].channels_of(*key) {
                Some(count) => assert_eq!(count, CHANNELS_MAX),
                None => assert!(*is_broken, "it is told of that next"),
            }
            self.seen.insert("too many");
            return;
        };
        busy.insert((kind as u8, id));
        if !used.insert((kind as u8, id)) {
            self.seen.insert("number used again");
        }
        let seed = self.channels.len() as u64 * 2;
        self.channels.push(Channel {
            kind,
            id,
            tunnel,
            states: [
                State::Asked(channel),
                match at_server {
                    Some(_) => State::Unknown,
                    None => State::Over,
                },
            ],
            programs: [None, None],
            flows: [Flow::new(seed), Flow::new(seed + 1)],
            is_broken: *is_broken,
            was_granted: false,
            has_finished: [false; 2],
            has_gone: [false; 2],
            ended_first: None,
            datagrams: None,
            numbers: [(0, None); 2],
        });
    }

    /// The server grants what it was asked for, or does not.
    pub(super) fn answer(&mut self) {
        let is_asked = |channel: &Channel| matches!(channel.states[SERVER], State::Asked(_));
        let Some(at) = self.any_channel(is_asked) else {
            return;
        };
        let State::Asked(key) = self.channels[at].states[SERVER] else {
            unreachable!("it was looked for");
        };
        if self.planes[SERVER].carried(key).is_none() {
            // It is told of that next.
            return;
        }
        let kind = self.channels[at].kind;
        if self.rng.u32(0..6) == 0 {
            let answer = Answer::refused(kind, ConnectStatus::Refused, BindStatus::Denied);
            self.planes[SERVER].refuse(key, answer);
            self.channels[at].states[SERVER] = State::Over;
            return;
        }
        let (end, answer) = match kind {
            ChannelKind::Tcp => {
                let (origin, end) = program();
                self.channels[at].programs[SERVER] = Some(origin);
                let answer = Answer::Connect {
                    status: ConnectStatus::Connected,
                    took_ms: NOT_TRIED_MS,
                };
                (LocalEnd::Stream(self.socket(end)), answer)
            }
            _ => {
                let (origin, end) = UnixDatagram::pair().expect("sockets");
                origin.set_nonblocking(true).expect("set");
                self.channels[at].datagrams = Some(origin);
                let answer = Answer::Associate {
                    status: BindStatus::Bound,
                    local_port: 1,
                };
                let end = Socket::adopt(end.into()).expect("a socket");
                (LocalEnd::Datagrams(end), answer)
            }
        };
        self.open(at, SERVER, key, end, Some(answer));
    }

    fn open(&mut self, at: usize, side: usize, key: Key, end: LocalEnd, answer: Option<Answer>) {
        let place = match &end {
            LocalEnd::Stream(socket) => Some(self.polls[side].watch(socket, both())),
            LocalEnd::Datagrams(socket) => Some(self.polls[side].watch(socket, EventFlags::IN)),
            LocalEnd::Echoes(_) | LocalEnd::Task => None,
        };
        if let Some(place) = place {
            self.polls[side].assign(&place, Watched::Channel(key));
        }
        let opened = self.planes[side].open(key, end, answer, self.now);
        match opened {
            Ok(()) => self.channels[at].states[side] = State::Open(key),
            // It is told of that next.
            Err(_) => assert!(self.channels[at].is_broken, "it has not ended"),
        }
    }

    /// The client's program is there, and has said something already.
    pub(super) fn join(&mut self) {
        let is_granted = |channel: &Channel| matches!(channel.states[CLIENT], State::Granted(_));
        let Some(at) = self.any_channel(is_granted) else {
            return;
        };
        let State::Granted(key) = self.channels[at].states[CLIENT] else {
            unreachable!("it was looked for");
        };
        let end = match self.channels[at].kind {
            ChannelKind::Tcp => {
                let early = self.rng.usize(0..3000) * self.rng.usize(0..2);
                let flow = &mut self.channels[at].flows[CLIENT];
                self.planes[CLIENT].send_early(key, &flow.next(early));
                flow.written += early as u64;
                if early > 0 {
                    self.seen.insert("said early");
                }
                let (local, end) = program();
                self.channels[at].programs[CLIENT] = Some(local);
                LocalEnd::Stream(self.socket(end))
            }
            _ => LocalEnd::Task,
        };
        self.open(at, CLIENT, key, end, None);
    }

    /// A program that is there, and its side.
    fn any_program(&mut self) -> Option<(usize, usize)> {
        let has_program = |channel: &Channel| channel.programs.iter().any(Option::is_some);
        let at = match self.rng.bool() && self.lazy.is_some() {
            true => self.channels.iter().position(has_program)?,
            false => self.any_channel(has_program)?,
        };
        let side = self.rng.usize(0..2);
        let side = if self.channels[at].programs[side].is_some() {
            side
        } else {
            1 - side
        };
        Some((at, side))
    }

    pub(super) fn write(&mut self) {
        let Some((at, side)) = self.any_program() else {
            return;
        };
        let most = 1 << self.rng.u32(0..=17);
        let count = self.rng.usize(1..=most);
        let channel = &mut self.channels[at];
        let program = channel.programs[side].as_mut().expect("it is there");
        if !channel.flows[side].is_shut && !channel.flows[side].write(program, count) {
            channel.is_broken = true;
        }
    }

    pub(super) fn read(&mut self) {
        if let Some((at, side)) = self.any_program()
            && !(self.lazy == Some(side) && self.rng.u32(0..16) > 0)
        {
            let count = 1 << self.rng.u32(0..=17);
            self.read_at(at, side, count);
        }
    }

    pub(super) fn read_at(&mut self, at: usize, side: usize, count: usize) {
        let channel = &mut self.channels[at];
        let program = channel.programs[side].as_mut().expect("it is there");
        let flow = &mut channel.flows[1 - side];
        if !flow.read(program, count) {
            assert!(
                !channel.has_finished[side],
                "it ended in order, and is reset"
            );
            channel.is_broken = true;
            channel.programs[side] = None;
            return;
        }
        let is_over = channel.states[side] == State::Over;
        if flow.has_end && (channel.flows[side].is_shut || is_over) {
            channel.programs[side] = None;
        }
    }

    /// A program has said all that it has to say.
    pub(super) fn shut(&mut self) {
        if let Some((at, side)) = self.any_program() {
            self.shut_at(at, side);
        }
    }

    pub(super) fn shut_at(&mut self, at: usize, side: usize) {
        let channel = &mut self.channels[at];
        if self.dialect == Dialect::Original {
            // Whoever ends next has heard of that, or loses what comes.
            match channel.ended_first {
                None => channel.ended_first = Some(side),
                Some(first) if first == side || !channel.flows[first].has_end => return,
                Some(_) => {}
            }
        }
        let program = channel.programs[side].as_ref().expect("it is there");
        channel.flows[side].shut(program);
    }

    /// A program goes in the middle of something.
    pub(super) fn go(&mut self) {
        if let Some((at, side)) = self.any_program() {
            let channel = &mut self.channels[at];
            channel.is_broken = true;
            channel.has_gone[side] = true;
            channel.programs[side] = None;
        }
    }

    pub(super) fn give_up(&mut self) {
        let side = self.rng.usize(0..2);
        let is_there = |channel: &Channel| {
            let is_a_task = channel.kind == ChannelKind::Udp && side == CLIENT;
            match channel.states[side] {
                State::Open(_) => channel.kind == ChannelKind::Tcp || is_a_task,
                State::Asked(_) | State::Granted(_) => side == CLIENT,
                State::Over | State::Unknown => false,
            }
        };
        let Some(at) = self.any_channel(is_there) else {
            return;
        };
        let channel = &mut self.channels[at];
        let (State::Open(key) | State::Asked(key) | State::Granted(key)) = channel.states[side]
        else {
            unreachable!("it was looked for");
        };
        channel.is_broken = true;
        self.planes[side].give_up(key, CloseReason::Terminated);
    }

    pub(super) fn exchange_datagrams(&mut self) {
        let is_joined = |channel: &Channel| {
            channel.kind == ChannelKind::Udp
                && channel.datagrams.is_some()
                && matches!(channel.states, [State::Open(_), State::Open(_)])
        };
        let Some(at) = self.any_channel(is_joined) else {
            return;
        };
        let channel = &mut self.channels[at];
        let side = self.rng.usize(0..2);
        let (sent, last) = &mut channel.numbers[side];
        let words = self.rng.usize(1..200);
        let datagram = sent.to_be_bytes().repeat(words);
        let origin = channel.datagrams.as_ref().expect("it is there");
        *sent += 1;
        if side == CLIENT {
            let State::Open(key) = channel.states[CLIENT] else {
                unreachable!("it was looked for");
            };
            self.planes[CLIENT].send_datagram(key, &datagram, self.now);
            let mut buffer = [0; 2000];
            while let Ok(count) = origin.recv(&mut buffer) {
                note_datagram(last, &buffer[..count]);
                self.seen.insert("a datagram there");
            }
        } else {
            // Without room it is lost.
            let _ = origin.send(&datagram);
        }
    }

    /// A plane ends all of its tunnels, whatever goes by them.
    pub(super) fn break_off(&mut self) {
        let side = self.rng.usize(0..2);
        self.planes[side].break_all_off(CloseReason::Severed);
        for tunnel in &mut self.tunnels {
            tunnel.is_broken = true;
        }
        for channel in &mut self.channels {
            channel.is_broken = true;
        }
        self.seen.insert("broken off");
    }

    pub(super) fn leave(&mut self) {
        let at = self.rng.usize(0..self.tunnels.len());
        if let Some(key) = self.tunnels[at].keys[CLIENT] {
            self.planes[CLIENT].leave(key, CloseReason::Drained);
            self.tunnels[at].is_leaving = true;
        }
    }
}

/// A program's socket, and what the plane is given of it.
fn program() -> (UnixStream, UnixStream) {
    let (program, end) = UnixStream::pair().expect("sockets");
    program.set_nonblocking(true).expect("set");
    (program, end)
}

fn somewhere() -> Destination {
    Destination {
        host: Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: 80,
    }
}
