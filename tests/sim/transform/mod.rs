//! Pairs of which a leg, or both, came over TLS, WebSocket or the second within the
//! first: the engine over real sockets, with peers made up from a seed.
//!
//! The peers speak through `rustls`' own connections and through frames that are
//! encoded here, never through the relay's codecs. They write and read in pieces of any
//! size, stop reading, interrupt their messages with pings, change their keys, and end
//! their streams in every way that there is. The shadow model of each direction is a
//! stream whose bytes anybody can compute: each of them arrives once and in its turn,
//! all of them before an end, and messages as they were sent. What the pair holds while
//! nobody talks, and what is left of it, is nothing.
//!
//! A seed decides everything but the kernel's part: how much a socket takes, and when.

mod bodies;
mod flow;
mod peer;
mod relay;
mod transport;
mod websocket;

#[path = "../../support/tls_sides.rs"]
mod tls_sides;

use std::collections::BTreeMap;
use std::time::Duration;
use std::{fmt, fs};

use midspan::protocol::websocket::{CloseCode, Role};
use midspan::relay::codec::Closing;
use midspan::relay::{CloseReason, EngineSettings, GateHold, LegIo, Side};
use midspan::runtime::clock;

use self::flow::Flow;
use self::peer::{Conduct, End, Peer};
use self::relay::{BEGINNING, Relay};
use self::transport::{Transport, connection};
use super::{alone_with_sockets, for_each_seed, is_full_run};

/// When a pair that is not where it should be hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn transform() {
    let _alone = alone_with_sockets();
    pairs();
    bodies::run();
}

fn pairs() {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for_each_seed("transform", |rng| {
        let descriptors = open_descriptors();
        let mut world = World::new(rng);
        world.run();
        for label in world.labels() {
            *seen.entry(label.to_owned()).or_default() += 1;
        }
        drop(world);
        assert_eq!(open_descriptors(), descriptors, "descriptors are left open");
    });
    // The seeds reach every transport and every end there is.
    if is_full_run() {
        for label in [
            "tls",
            "websocket",
            "websocket over tls",
            "dialled tls",
            "dialled websocket",
            "dialled websocket over tls",
            "finished_by_left",
            "finished_by_right",
            "reset_by_left",
            "reset_by_right",
            "left_timed_out",
            "right_timed_out",
            "left_broke_protocol",
            "right_broke_protocol",
            "terminated",
        ] {
            assert!(seen.contains_key(label), "{label}: {seen:?}");
        }
    }
}

/// How the pair is to end.
#[derive(Clone, Copy, Debug)]
enum Plan {
    /// Each stream for itself, behind its last byte.
    Finish,
    /// One leg closes both streams.
    Leave(Side),
    Reset(Side),
    Break(Side),
    /// One leg answers nothing any more.
    Stall(Side),
    /// The relay ends it, once the left leg has sent so much.
    Terminate {
        at: u64,
    },
}

/// What a peer does at some place of its stream.
type AtPlace = fn(u64) -> Conduct;

struct World {
    rng: fastrand::Rng,
    transports: [Transport; 2],
    relay: Relay,
    peers: [Peer; 2],
    /// By the side that they come from.
    flows: [Flow; 2],
    plan: Plan,
}

impl World {
    fn new(mut rng: fastrand::Rng) -> Self {
        let transports = transports(&mut rng);
        let has_messages = transports.iter().all(|one| one.websocket.is_some());
        let is_text = rng.bool();
        let mut flows = [(); 2].map(|()| Flow::new(&mut rng, has_messages, is_text));
        let [(left, left_leg), (right, right_leg)] = Side::BOTH
            .map(|side| meet(&mut rng, transports[side.index()], &mut flows[side.index()]));
        let [mut left, mut right] = [left, right];
        left.keep_pace(&flows[0], &flows[1]);
        right.keep_pace(&flows[1], &flows[0]);
        let settings = EngineSettings {
            spill_bytes_max: *rng.choice(&[0, 20 << 10, 64 << 20]).expect("not empty"),
            ..EngineSettings::default()
        };
        Self {
            plan: plan(&mut rng, transports, &flows),
            relay: Relay::new(settings, left_leg, right_leg),
            transports,
            peers: [left, right],
            flows,
            rng,
        }
    }

    fn labels(&self) -> [&'static str; 3] {
        let [left, right] = self.transports.map(Transport::label);
        let outcome = self.relay.ended.as_ref().expect("an end");
        [left, right, outcome.reason.label()]
    }

    fn run(&mut self) {
        // Some end before they begin.
        if !matches!(self.plan, Plan::Terminate { at: 0 }) {
            self.relay.open_gates();
            for _ in 0..self.rng.u32(0..3) {
                for flow in &mut self.flows {
                    flow.limit = self.rng.u64(flow.sent..=flow.total);
                }
                self.rest();
            }
            if self.rng.bool() {
                self.wait_for_pings();
            }
        }
        if let Plan::Stall(side) = self.plan {
            for flow in &mut self.flows {
                flow.total = flow.sent;
                flow.limit = flow.sent;
            }
            self.rest();
            self.stall(side);
        }
        self.end();
        self.check();
    }

    /// Until nothing is on its way, in either direction.
    fn rest(&mut self) {
        self.run_until("rest", |world| {
            world.flows.iter().all(Flow::is_quiet) && world.peers.iter().all(Peer::is_quiet)
        });
        while self.relay.turn(4) {}
        self.relay.assert_nothing_held();
    }

    /// Lets so much time pass that each leg is asked for a sign of life that can be.
    fn wait_for_pings(&mut self) {
        for flow in &mut self.flows {
            flow.limit = flow.sent;
        }
        self.rest();
        let expected = Side::BOTH.map(|side| {
            let is_asked = self.transports[side.index()].websocket.is_some();
            self.peers[side.index()].pings_heard + u32::from(is_asked)
        });
        // It was heard before the first look, and not between it and the second.
        self.relay.pass_ping_interval();
        self.relay.pass_ping_interval();
        self.run_until("pings", |world| {
            world.peers.each_ref().map(|peer| peer.pings_heard) == expected
        });
        self.rest();
    }

    /// One leg says nothing more; after a ping without an answer it is given up.
    fn stall(&mut self, side: Side) {
        self.peers[side.index()].conduct = Conduct::Stalls;
        for _ in 0..4 {
            self.relay.pass_ping_interval();
            while self.relay.turn(4) {}
        }
        // It sees what became of it.
        self.peers[side.index()].conduct = Conduct::Stays;
    }

    /// Has both peers do as planned until their connections are gone.
    fn end(&mut self) {
        let conducts = [(); 2].map(|()| Conduct::Finishes {
            has_words: self.rng.u32(0..4) > 0,
        });
        for ((peer, flow), conduct) in self.peers.iter_mut().zip(&mut self.flows).zip(conducts) {
            flow.limit = flow.total;
            peer.conduct = conduct;
        }
        let unusual: Option<(Side, AtPlace)> = match self.plan {
            Plan::Leave(side) => Some((side, Conduct::Leaves)),
            Plan::Reset(side) => Some((side, Conduct::Resets)),
            Plan::Break(side) => Some((side, Conduct::Breaks)),
            Plan::Finish | Plan::Stall(_) | Plan::Terminate { .. } => None,
        };
        if let Some((side, conduct)) = unusual {
            let flow = &mut self.flows[side.index()];
            let place = self.rng.u64(flow.sent..=flow.total);
            self.peers[side.index()].conduct = conduct(place);
            // The other never hears all of it, or it would be done before.
            flow.total += u64::from(!matches!(self.plan, Plan::Leave(_)));
        }
        self.run_until("the end", |world| {
            if let Plan::Terminate { at } = world.plan
                && world.flows[0].sent >= at
            {
                world.relay.terminate();
            }
            world.relay.is_over() && world.peers.iter().all(Peer::is_over)
        });
    }

    fn check(&mut self) {
        let outcome = self.relay.ended.as_ref().expect("an end");
        let (reason, bytes) = (outcome.reason, outcome.bytes);
        let end_at = |side: Side| self.peers[side.index()].end;
        let is_as_planned = match self.plan {
            Plan::Finish => {
                bytes == self.flows.each_ref().map(|flow| flow.total)
                    && self.flows.iter().all(Flow::is_complete)
                    && matches!(reason, CloseReason::Finished(_))
                    && Side::BOTH.into_iter().all(|side| self.was_told(side))
            }
            Plan::Leave(side) => {
                let flow = &self.flows[side.index()];
                flow.received == flow.sent
                    && matches!(reason, CloseReason::Finished(_))
                    && Side::BOTH.into_iter().all(|side| self.was_told(side))
            }
            Plan::Reset(side) => {
                reason == CloseReason::Reset(side) && end_at(side.other()) == Some(End::Reset)
            }
            Plan::Break(side) => {
                reason == CloseReason::Broken(side)
                    && end_at(side) == Some(End::Fin)
                    && end_at(side.other()) == Some(End::Reset)
            }
            Plan::Stall(side) => reason == CloseReason::TimedOut(side),
            Plan::Terminate { .. } => reason == CloseReason::Terminated,
        };
        assert!(is_as_planned, "{self:?}");
        for (flow, bytes) in self.flows.iter().zip(bytes) {
            assert!(flow.received <= bytes && bytes <= flow.sent, "{self:?}");
        }
        self.relay.pass_ping_interval();
        self.relay.assert_nothing_held();
        self.relay.assert_nothing_due();
    }

    /// Whether a peer was told of the end by a FIN, and before it in the words of its
    /// own protocol, unless it showed that it knows none.
    fn was_told(&self, side: Side) -> bool {
        let (transport, peer) = (self.transports[side.index()], &self.peers[side.index()]);
        let is_mute = peer.conduct == Conduct::Finishes { has_words: false };
        let has_words = match (transport.tls, transport.websocket) {
            (_, Some(_)) => is_mute || peer.heard_close == Some(CloseCode::NORMAL.as_u16()),
            (Some(_), None) => peer.heard_close_notify,
            (None, None) => true,
        };
        has_words && peer.has_heard_whole_frames() && peer.end == Some(End::Fin)
    }

    fn run_until(&mut self, what: &str, mut is_done: impl FnMut(&mut Self) -> bool) {
        let begun = clock::now();
        while !is_done(self) {
            self.step();
            let waited = clock::now().since(begun);
            assert!(waited < PATIENCE, "{what} never came: {self:?}");
        }
    }

    /// One random thing happens.
    fn step(&mut self) {
        let ([left, right], [forth, back]) = (&mut self.peers, &mut self.flows);
        match self.rng.u32(0..4) {
            0 => left.act(forth, back),
            1 => right.act(back, forth),
            _ => drop(self.relay.turn(self.rng.usize(1..=4))),
        }
    }
}

/// A leg that the relay dialled with a codec is joined with one that has none.
fn transports(rng: &mut fastrand::Rng) -> [Transport; 2] {
    let role = *rng
        .choice(&[Role::Server, Role::Server, Role::Client])
        .expect("not empty");
    let other = match role {
        Role::Server if rng.bool() => Transport::wrapped(rng, role),
        _ => Transport::PLAIN,
    };
    let mut both = [Transport::wrapped(rng, role), other];
    rng.shuffle(&mut both);
    both
}

/// A peer, and the leg that it is to the relay.
fn meet(rng: &mut fastrand::Rng, transport: Transport, flow: &mut Flow) -> (Peer, LegIo) {
    let buffers = [None, Some(4 << 10), Some(16 << 10), Some(64 << 10)];
    let (stream, socket) = connection(*rng.choice(&buffers).expect("not empty"));
    let (session, tls) = transport.shake().unzip();
    let mut peer = Peer::new(rng.fork(), transport, stream, tls);
    let early = if rng.bool() {
        flow.limit = flow.total;
        peer.begin(flow)
    } else {
        Vec::new()
    };
    let (codec, prefix) = transport.codec(session, &early);
    let leg = LegIo {
        socket,
        prefix,
        gate: match rng.u32(0..3) {
            0 => GateHold::Replied(BEGINNING),
            _ => GateHold::Open,
        },
        codec,
        half: None,
    };
    (peer, leg)
}

/// A plan that legs over these can carry out.
fn plan(rng: &mut fastrand::Rng, transports: [Transport; 2], flows: &[Flow; 2]) -> Plan {
    let side = *rng.choice(&Side::BOTH).expect("not empty");
    let (transport, other) = (transports[side.index()], transports[side.other().index()]);
    match rng.u32(0..8) {
        0 if transport.websocket == Some(Closing::BothWays) => Plan::Leave(side),
        1 => Plan::Reset(side),
        2 if !transport.is_plain() => Plan::Break(side),
        // The other one would be asked too, and have no time to answer.
        3 if transport.websocket.is_some() && other.websocket.is_none() => Plan::Stall(side),
        4 => Plan::Terminate {
            at: rng.u64(0..=flows[0].total),
        },
        _ => Plan::Finish,
    }
}

/// What a failure is to be understood by.
impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("plan", &self.plan)
            .field("transports", &self.transports)
            .field("peers", &self.peers)
            .field("flows", &self.flows)
            .field("ended", &self.relay.ended)
            .finish_non_exhaustive()
    }
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("a list").count()
}
