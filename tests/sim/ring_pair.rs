//! The ring's pair against a ring and two sockets made up from a seed.
//!
//! Receives and sends complete when and as short as the seed has it, buffers
//! run out, the budget comes and goes, room in a socket is told once. The model
//! is where a flow's bytes are: each is in one place, and the places empty in
//! their order.

use midspan::relay::pair::EndEvidence;
use midspan::relay::ring_pair::{Action, RingPair};
use midspan::relay::{CloseReason, Side};
use midspan::runtime::provided::BufferSize;
use rustix::io::Errno;

use super::for_each_seed;

/// Steps after which a pair that is not at its end hangs.
const STEPS_MAX: usize = 400_000;
const SMALL_BYTES: usize = BufferSize::Small.bytes() as usize;

#[test]
fn ring_pair() {
    for_each_seed("ring_pair", |rng| World::new(rng).run());
}

/// One direction: its source, what is on its way, and its destination.
#[derive(Debug, Default)]
struct Flow {
    total: usize,
    written: usize,
    unread: usize,
    receive: Option<Receive>,
    queue: usize,
    sending: Option<usize>,
    spill: usize,
    delivered: usize,
    /// What the destination takes before its peer reads on.
    room: usize,
    /// It was found full, so that room is told.
    full: bool,
    waits: bool,
    shut: bool,
}

#[derive(Clone, Copy, Debug)]
struct Receive {
    bytes_max: usize,
    once: bool,
    cancelled: bool,
}

struct World {
    rng: fastrand::Rng,
    pair: RingPair,
    flows: [Flow; 2],
    at_budget: bool,
    failure: Option<CloseReason>,
}

impl World {
    fn new(mut rng: fastrand::Rng) -> Self {
        let mut flow = || Flow {
            total: rng.usize(0..1 << 20),
            ..Flow::default()
        };
        Self {
            pair: RingPair::default(),
            flows: [flow(), flow()],
            at_budget: rng.bool(),
            failure: None,
            rng,
        }
    }

    fn run(mut self) {
        let resets = self.rng.u32(0..5) == 0;
        for _ in 0..STEPS_MAX {
            self.act();
            if let Some(end) = self.pair.poll_end() {
                return self.check_end(end);
            }
            let side = Side::BOTH[self.rng.usize(0..2)];
            if resets && self.failure.is_none() && self.rng.u32(0..200) == 0 {
                self.pair.handle_failure(side, Errno::CONNRESET);
                self.failure = Some(CloseReason::Reset(side));
            }
            self.step(side);
        }
        panic!("the pair hangs: {:?} {:?}", self.pair, self.flows);
    }

    /// One random thing happens to the flow from `side`.
    fn step(&mut self, side: Side) {
        let Self {
            rng, pair, flows, ..
        } = self;
        let our_half_ended = flows[side.other().index()].shut;
        let flow = &mut flows[side.index()];
        let largest = 1 << rng.u32(0..=17);
        let piece = rng.usize(1..=largest);
        match rng.u32(0..6) {
            0 => {
                let written = piece.min(flow.total - flow.written);
                flow.written += written;
                flow.unread += written;
            }
            1 => {
                flow.room = (flow.room + piece).min(1 << 18);
                if std::mem::take(&mut flow.full) {
                    pair.handle_writable(side.other());
                }
            }
            2 => flow.complete_receive(rng, pair, side, our_half_ended),
            3 => {
                if let Some(bytes) = flow.sending.take() {
                    let sent = flow.deliver(bytes);
                    flow.spill += bytes - sent;
                    pair.handle_sent(side, sent, bytes - sent);
                }
            }
            4 => {
                if std::mem::take(&mut flow.waits) {
                    pair.handle_room(side);
                }
            }
            _ => self.at_budget ^= rng.u32(0..20) == 0,
        }
    }

    /// Carries out what is asked for.
    fn act(&mut self) {
        while let Some((side, action)) = self.pair.poll_action(self.at_budget) {
            let flow = &mut self.flows[side.index()];
            let receive = |bytes_max, once| Receive {
                bytes_max,
                once,
                cancelled: false,
            };
            match action {
                Action::Receive(size) => {
                    assert!(!self.at_budget && flow.spill == 0);
                    let bytes_max = size.bytes() as usize;
                    assert!(flow.receive.replace(receive(bytes_max, false)).is_none());
                }
                Action::ReceiveOnce => {
                    assert!(self.at_budget && flow.is_empty());
                    assert!(flow.receive.replace(receive(SMALL_BYTES, true)).is_none());
                }
                Action::CancelReceive => {
                    let receive = flow.receive.as_mut().expect("a receive");
                    assert!(!std::mem::replace(&mut receive.cancelled, true), "twice");
                }
                Action::Send => {
                    assert_eq!((flow.sending, flow.spill), (None, 0));
                    let bytes = self.rng.usize(1..=flow.queue);
                    flow.queue -= bytes;
                    flow.sending = Some(bytes);
                    self.pair.handle_send_started(side, bytes);
                }
                Action::SpillQueue => flow.spill += std::mem::take(&mut flow.queue),
                Action::SendSpill => {
                    assert_eq!(flow.sending, None);
                    let sent = flow.deliver(flow.spill);
                    flow.spill -= sent;
                    self.pair.handle_spill_sent(side, sent);
                }
                Action::ShutdownWrite => {
                    assert_eq!(flow.delivered, flow.total, "the end came early");
                    assert!(!std::mem::replace(&mut flow.shut, true), "twice");
                }
            }
        }
    }

    fn check_end(&self, end: CloseReason) {
        for flow in &self.flows {
            assert!(flow.receive.is_none() && flow.sending.is_none());
        }
        let delivered = self.flows.each_ref().map(|flow| flow.delivered as u64);
        assert_eq!(self.pair.bytes(), delivered);
        match self.failure {
            Some(failure) => assert_eq!(end, failure),
            None => {
                assert!(matches!(end, CloseReason::Finished(_)), "{end:?}");
                assert!(self.flows.iter().all(|flow| flow.shut));
            }
        }
    }
}

impl Flow {
    fn complete_receive(
        &mut self,
        rng: &mut fastrand::Rng,
        pair: &mut RingPair,
        side: Side,
        our_half_ended: bool,
    ) {
        let Some(receive) = self.receive else {
            return;
        };
        let is_over = if receive.cancelled && rng.bool() {
            true
        } else if self.unread > 0 && rng.u32(0..8) == 0 {
            pair.handle_starved(side);
            self.waits = true;
            true
        } else if self.unread > 0 {
            let bytes = self.unread.min(receive.bytes_max);
            self.unread -= bytes;
            self.queue += bytes;
            pair.handle_received(side, bytes);
            receive.once
        } else if self.written == self.total {
            let evidence = EndEvidence {
                error: None,
                gone: our_half_ended,
            };
            pair.handle_source_end(side, evidence);
            true
        } else {
            false
        };
        if is_over {
            self.receive = None;
            pair.handle_receive_over(side);
        }
    }

    /// The destination takes of so many bytes what it has room for.
    fn deliver(&mut self, bytes: usize) -> usize {
        let taken = bytes.min(self.room);
        self.room -= taken;
        self.delivered += taken;
        self.full |= taken < bytes;
        taken
    }

    fn is_empty(&self) -> bool {
        self.queue == 0 && self.spill == 0 && self.sending.is_none()
    }
}
