//! Both planes of tunnels made up from a seed: clients and servers of jProxy over real sockets,
//! under a clock that is moved by hand.
//!
//! Programs at both ends of channels write, read, end and go as the seed has it; the planes are
//! told of edges, late, and run in any order. What comes out of a channel is the beginning of what
//! went in, and all of it before an end; each channel that was asked for is answered or ends once
//! at either side; and nothing is left in the planes when the tunnels have gone.

mod actions;
mod events;
mod flow;
mod poll;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use midspan::protocol::jproxy::{ChannelId, ChannelKind, Dialect, SessionKey};
use midspan::relay::mux::{MuxPlane, Role, TunnelStart};
use midspan::relay::{CloseReason, Side};
use midspan::runtime::socket::Socket;
use midspan::slab::Key;
use midspan::time::Timestamp;
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::{alone_with_sockets, for_each_seed, is_full_run};
use flow::Flow;
use poll::{Poll, Watched};

const STUCK: Duration = Duration::from_secs(2);
const CHANNELS_MAX: usize = 12;

/// Steps that the seed chooses, and those after which a world that comes to its end hangs.
const STEPS: usize = 1500;
const LAST_STEPS_MAX: usize = 20_000;

const CLIENT: usize = 0;
const SERVER: usize = 1;

#[test]
fn mux() {
    let _alone = alone_with_sockets();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for_each_seed("mux", |rng| {
        let mut world = World::new(rng);
        world.run();
        for label in world.seen {
            *seen.entry(label).or_default() += 1;
        }
    });
    if is_full_run() {
        for label in [
            "spec",
            "original",
            "refused",
            "too many",
            "said early",
            "whole",
            "number used again",
            "finished_by_left",
            "finished_by_right",
            "reset_by_left",
            "reset_by_right",
            "left_timed_out",
            "right_timed_out",
            "terminated",
            "severed",
            "expired",
            "a datagram there",
            "a datagram back",
            "broken off",
            "left in order",
        ] {
            assert!(seen.contains_key(label), "{label}: {seen:?}");
        }
    }
}

/// What becomes of a channel at one side.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The client has asked; or the server was, and has not answered.
    Asked(Key),
    /// The client was answered, and its program is not there yet.
    Granted(Key),
    Open(Key),
    Over,
    /// The server has not heard of it.
    Unknown,
}

/// A channel with its two programs: that of the client, and that which it asks for.
struct Channel {
    kind: ChannelKind,
    id: ChannelId,
    tunnel: usize,
    states: [State; 2],
    programs: [Option<UnixStream>; 2],
    /// By who writes.
    flows: [Flow; 2],
    /// Somebody has broken it off.
    is_broken: bool,
    was_granted: bool,
    /// It has ended in order at that side.
    has_finished: [bool; 2],
    /// The program there has gone in the middle of something.
    has_gone: [bool; 2],
    /// Whoever ended first, where that ends both directions.
    ended_first: Option<usize>,
    datagrams: Option<UnixDatagram>,
    /// Sent so far, and the last that came; by who sends.
    numbers: [(u32, Option<u32>); 2],
}

struct Tunnel {
    keys: [Option<Key>; 2],
    /// Numbers that may not be used: by channels, and since the other side may not know of an end.
    busy: BTreeSet<(u8, ChannelId)>,
    used: BTreeSet<(u8, ChannelId)>,
    is_leaving: bool,
    is_broken: bool,
}

struct World {
    rng: fastrand::Rng,
    dialect: Dialect,
    planes: [MuxPlane; 2],
    polls: [Poll; 2],
    tunnels: Vec<Tunnel>,
    channels: Vec<Channel>,
    /// What a plane has given back to be closed once its peer has gone.
    parting: Vec<Socket>,
    now: Timestamp,
    buffer_bytes: usize,
    /// The side whose programs hardly read.
    lazy: Option<usize>,
    seen: BTreeSet<&'static str>,
}

impl Channel {
    fn is_over(&self) -> bool {
        let is_over = self.states == [State::Over, State::Over];
        is_over && self.programs.iter().all(Option::is_none)
    }

    /// Whether nobody is waited for any more.
    fn is_settled(&self) -> bool {
        let is_settled = |state: &State| matches!(state, State::Open(_) | State::Over);
        self.states.iter().all(is_settled)
    }
}

impl World {
    fn new(mut rng: fastrand::Rng) -> Self {
        let dialect = *rng
            .choice(&[Dialect::Spec, Dialect::Original])
            .expect("not empty");
        let buffer_bytes = *rng.choice(&[4 << 10, 64 << 10]).expect("not empty");
        let label = match dialect {
            Dialect::Spec => "spec",
            Dialect::Original => "original",
        };
        let mut world = Self {
            planes: [MuxPlane::new(STUCK), MuxPlane::new(STUCK)],
            polls: [Poll::new(), Poll::new()],
            tunnels: Vec::new(),
            channels: Vec::new(),
            parting: Vec::new(),
            now: Timestamp::from_nanos(1_000_000_000),
            buffer_bytes,
            lazy: *rng
                .choice(&[None, None, Some(CLIENT), Some(SERVER)])
                .expect("not empty"),
            seen: BTreeSet::from([label]),
            dialect,
            rng,
        };
        for _ in 0..world.rng.usize(1..=2) {
            world.begin_tunnel();
        }
        world
    }

    fn begin_tunnel(&mut self) {
        let mut key = [0; 16];
        self.rng.fill(&mut key);
        let (here, there) = UnixStream::pair().expect("sockets");
        let roles = [Role::Client, Role::Server];
        let ends = [here, there].into_iter().zip(roles).enumerate();
        let keys = ends.map(|(side, (stream, role))| {
            let socket = self.socket(stream);
            let place = self.polls[side].watch(&socket, both());
            let start = TunnelStart {
                socket,
                codec: None,
                early: Vec::new(),
                key: SessionKey(key),
                role,
                dialect: self.dialect,
                channels_max: CHANNELS_MAX,
            };
            let key = self.planes[side].start(start);
            self.polls[side].assign(&place, Watched::Tunnel(key));
            Some(key)
        });
        let keys: Vec<_> = keys.collect();
        self.tunnels.push(Tunnel {
            keys: [keys[CLIENT], keys[SERVER]],
            busy: BTreeSet::new(),
            used: BTreeSet::new(),
            is_leaving: false,
            is_broken: false,
        });
    }

    fn socket(&self, stream: UnixStream) -> Socket {
        set_socket_send_buffer_size(&stream, self.buffer_bytes).expect("a size");
        Socket::adopt(stream.into()).expect("a socket")
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.step();
        }
        self.finish();
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..6 => self.ask(),
            6..14 => self.answer(),
            14..20 => self.join(),
            20..40 => self.write(),
            40..60 => self.read(),
            // What is to be stuck has to last.
            60..65 if self.lazy.is_some() && self.rng.u32(0..16) > 0 => self.write(),
            60..63 => self.shut(),
            63 => self.go(),
            64 => self.give_up(),
            65..72 => self.exchange_datagrams(),
            72..76 => self.now = self.now + Duration::from_millis(self.rng.u64(0..200)),
            76 if self.rng.u32(0..40) == 0 || self.lazy.is_some() => self.now = self.now + STUCK,
            77 if self.rng.u32(0..60) == 0 => self.now = self.now + Duration::from_secs(60),
            78 if self.rng.u32(0..300) == 0 => self.break_off(),
            79 if self.rng.u32(0..300) == 0 => self.leave(),
            _ => {
                let side = self.rng.usize(0..2);
                self.turn(side);
            }
        }
    }

    fn any_channel(&mut self, is_meant: impl Fn(&Channel) -> bool) -> Option<usize> {
        let meant = (0..self.channels.len()).filter(|at| is_meant(&self.channels[*at]));
        let meant: Vec<usize> = meant.collect();
        self.rng.choice(meant)
    }

    /// Everybody says what there is to say, and goes.
    fn finish(&mut self) {
        for _ in 0..LAST_STEPS_MAX {
            self.answer();
            self.join();
            for at in 0..self.channels.len() {
                self.finish_channel(at);
            }
            self.turn(CLIENT);
            self.turn(SERVER);
            if self.channels.iter().all(Channel::is_over) {
                break;
            }
        }
        self.check_channels();
        for at in 0..self.tunnels.len() {
            if let Some(key) = self.tunnels[at].keys[CLIENT] {
                self.planes[CLIENT].leave(key, CloseReason::Drained);
                self.tunnels[at].is_leaving = true;
            }
        }
        for _ in 0..20 {
            self.turn(CLIENT);
            self.turn(SERVER);
        }
        for plane in &self.planes {
            assert_eq!((plane.tunnels(), plane.channels()), (0, 0));
            assert!(!plane.has_work());
        }
    }

    fn finish_channel(&mut self, at: usize) {
        let channel = &self.channels[at];
        if channel.kind != ChannelKind::Tcp {
            if let State::Open(key) = channel.states[CLIENT] {
                self.planes[CLIENT].give_up(key, CloseReason::Finished(Side::Left));
            }
            return;
        }
        for side in [CLIENT, SERVER] {
            if self.channels[at].programs[side].is_some() {
                self.read_at(at, side, 1 << 17);
            }
            let is_ready = self.channels[at].is_settled() || self.channels[at].is_broken;
            let is_there = self.channels[at].programs[side].is_some();
            if is_there && is_ready && !self.channels[at].flows[side].is_shut {
                self.shut_at(at, side);
            }
        }
    }

    fn check_channels(&mut self) {
        for channel in &self.channels {
            let told = format!(
                "{:?} {} {:?} {:?} {:?}",
                channel.kind,
                channel.id,
                channel.states,
                channel.flows,
                channel.programs.each_ref().map(Option::is_some)
            );
            assert!(channel.is_over(), "it hangs: {told}");
            let was_open = channel.flows.iter().any(|flow| flow.is_shut);
            for side in [CLIENT, SERVER] {
                let peers = &channel.flows[1 - side];
                let is_one_way = self.dialect == Dialect::Spec;
                // The other dialect has one word for an end and for a reset.
                let was_first = is_one_way
                    || channel.ended_first == Some(1 - side) && channel.has_finished[1 - side];
                let is_told = channel.has_finished[side] && !channel.has_gone[side];
                assert!(
                    !(is_told && peers.is_shut && was_first) || peers.read == peers.written,
                    "it ended in order, and not all has come: {told}"
                );
            }
            if channel.kind != ChannelKind::Tcp || channel.is_broken || !was_open {
                continue;
            }
            let is_whole = match channel.ended_first {
                Some(first) => channel.flows[first].is_whole(),
                None => channel.flows.iter().all(Flow::is_whole),
            };
            assert!(is_whole, "something is missing: {told}");
            self.seen.insert("whole");
        }
    }
}

const fn both() -> EventFlags {
    EventFlags::IN
        .union(EventFlags::OUT)
        .union(EventFlags::RDHUP)
}
