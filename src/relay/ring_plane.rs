//! The ring plane: the ring itself receives into provided buffers and sends
//! from the same buffers, with zero copy where a device can do it.
//!
//! A pair begins in the engine, which sees its prefixes and gates off; once
//! nothing is held there, the ring takes it over and keeps it to its end:
//!
//! ```text
//!  receive (multishot) ──> queue ──> send (one at a time) ──> delivered
//!                                      │ the socket was full
//!                                      v
//!                             spill ──> send(2) when writable ──> delivered
//! ```
//!
//! A send takes what the socket has room for and no more; the rest is copied
//! to the heap and its buffers go back to the kernel. So a slow peer costs
//! memory of its own, never the buffers of the others. While a flow has a
//! spill, or the spills together are at their budget, it receives nothing.
//!
//! A receive takes whatever the socket holds, so a few streams can take all
//! buffers there are. A flow therefore receives into small buffers of which
//! streams have none, until it fills them; flows for which no buffer was left
//! take turns.

use std::collections::{HashMap, VecDeque};

use rustix::io::Errno;
use tracing::debug;

use super::close::CloseReason;
use super::engine::Engine;
use super::pair::Side;
use super::slab::Key;
use crate::runtime::Owner;
use crate::runtime::provided::{BufferSize, Segment};
use crate::runtime::reactor::Reactor;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::runtime::transfer::{Progress, Step, TransferKey};

/// A flow that has so many bytes queued behind its send receives no more until
/// they are sent.
const QUEUE_BYTES_MAX: usize = 256 << 10;

/// Receipts in a row after which a flow gets buffers of another size: that
/// filled a small one, or did not fill a small one.
const RECEIPTS_TO_RESIZE: u8 = 4;

/// The pairs that the ring moves.
#[derive(Debug)]
pub struct RingPlane {
    /// Owner tag of its transfers.
    tag: u8,
    pairs: HashMap<u32, RingPair, ahash::RandomState>,
    spill_bytes: usize,
    spill_bytes_max: usize,
    /// Flows that wait for spill budget, or for buffers of a size.
    waiting: [VecDeque<(Key, Side)>; BufferSize::ALL.len()],
}

#[derive(Debug)]
struct RingPair {
    key: Key,
    /// By the side of their source.
    flows: [Flow; 2],
    /// Set once the pair is to end: no transfer is started any more.
    reason: Option<CloseReason>,
    first_ended: Option<Side>,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    receive: Option<TransferKey>,
    /// The receive's cancel is under way.
    cancelled: bool,
    size: BufferSize,
    /// Receipts in a row that asked for the other size.
    misfits: u8,
    send: Option<TransferKey>,
    queue: VecDeque<Segment>,
    queue_bytes: usize,
    spill: VecDeque<u8>,
    /// The destination took nothing more of the spill.
    destination_full: bool,
    source_ended: bool,
    shut: bool,
    waits: bool,
    relayed_bytes: u64,
}

impl RingPlane {
    /// A plane without pairs. Its transfers' events carry `tag`; spills
    /// together take about `spill_bytes_max` bytes at most.
    #[must_use]
    pub fn new(tag: u8, spill_bytes_max: u64) -> Self {
        Self {
            tag,
            pairs: HashMap::default(),
            spill_bytes: 0,
            spill_bytes_max: usize::try_from(spill_bytes_max).unwrap_or(usize::MAX),
            waiting: Default::default(),
        }
    }

    /// Whether the pair at this index is the ring's.
    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        self.pairs
            .get(&key.index)
            .is_some_and(|pair| pair.key == key)
    }

    /// Takes a pair over that the engine has let go.
    pub fn start(&mut self, reactor: &Reactor, engine: &mut Engine, key: Key) {
        let flows = [Flow::default(), Flow::default()];
        let pair = RingPair {
            key,
            flows,
            reason: None,
            first_ended: None,
        };
        self.pairs.insert(key.index, pair);
        for side in Side::BOTH {
            self.receive(reactor, engine, key, side);
        }
    }

    /// Takes what a transfer told. `token` is that of its owner.
    pub fn handle_progress(
        &mut self,
        reactor: &Reactor,
        engine: &mut Engine,
        token: u32,
        progress: Progress,
    ) {
        let side = if token & 1 == 0 {
            Side::Left
        } else {
            Side::Right
        };
        let Some(pair) = self.pairs.get_mut(&(token >> 1)) else {
            return;
        };
        let key = pair.key;
        let flow = &mut pair.flows[side.index()];
        let is_receive = flow.receive == Some(progress.key);
        if !is_receive && flow.send != Some(progress.key) {
            // A zero-copy send's buffers came back after its pair had moved on.
            return self.serve_waiting(reactor, engine);
        }
        if is_receive && progress.is_final {
            flow.receive = None;
            flow.cancelled = false;
        }
        // Not only the last word of a send says that the next may follow: for
        // a zero-copy one the buffers come back later.
        if !is_receive {
            flow.send = None;
        }
        let ending = pair.reason.is_some();
        match progress.what {
            Step::Received => {
                let flow = &mut pair.flows[side.index()];
                let queue = &mut flow.queue;
                let mut bytes = 0;
                reactor.take_received(|segment| {
                    bytes += segment.len();
                    queue.push_back(segment);
                });
                flow.queue_bytes += bytes;
                flow.note_receipt(bytes);
            }
            Step::ReceiveEnded if !ending => self.end_source(reactor, engine, key, side),
            Step::Sent(sent) => {
                let flow = &mut pair.flows[side.index()];
                flow.relayed_bytes += sent as u64;
                let held = flow.spill.len();
                reactor.with_unsent(|unsent| flow.spill.extend(unsent));
                // Room that came meanwhile is told no more: see for ourselves.
                flow.destination_full = false;
                self.spill_bytes += flow.spill.len() - held;
            }
            Step::Starved => self.wait(key, side),
            Step::Failed(error) if !ending => {
                let failed = if is_receive { side } else { side.other() };
                self.fail(reactor, key, CloseReason::from_error(failed, error));
            }
            Step::ReceiveEnded | Step::Failed(_) | Step::Cancelled | Step::Released => {}
        }
        self.advance(reactor, engine, key, side);
        self.serve_waiting(reactor, engine);
    }

    /// Takes what a poll reported for one leg's socket.
    pub fn handle_readiness(
        &mut self,
        reactor: &Reactor,
        engine: &mut Engine,
        key: Key,
        side: Side,
        readiness: Readiness,
    ) {
        if readiness.is_error()
            && let Some(error) = engine.socket(key, side).and_then(Socket::take_error)
        {
            self.fail(reactor, key, CloseReason::from_error(side, error));
        }
        if readiness.is_writable() {
            if let Some(flow) = self.flow_mut(key, side.other()) {
                flow.destination_full = false;
            }
            self.advance(reactor, engine, key, side.other());
        } else {
            self.finish_if_over(reactor, engine, key);
        }
        self.serve_waiting(reactor, engine);
    }

    /// Lets flows receive again that waited for what is there now, oldest
    /// first.
    fn serve_waiting(&mut self, reactor: &Reactor, engine: &Engine) {
        for size in BufferSize::ALL {
            if self.waiting[size as usize].is_empty() || !reactor.has_room(size) {
                continue;
            }
            // One that must go on waiting stands at the end.
            for _ in 0..self.waiting[size as usize].len() {
                if self.spill_bytes >= self.spill_bytes_max {
                    return;
                }
                let Some((key, side)) = self.waiting[size as usize].pop_front() else {
                    break;
                };
                if let Some(flow) = self.flow_mut(key, side) {
                    flow.waits = false;
                    self.receive(reactor, engine, key, side);
                }
            }
        }
    }

    /// Ends a pair for a reason of the relay's own.
    pub fn abort(&mut self, reactor: &Reactor, engine: &mut Engine, key: Key, reason: CloseReason) {
        self.fail(reactor, key, reason);
        self.finish_if_over(reactor, engine, key);
        self.serve_waiting(reactor, engine);
    }

    /// Does whatever a flow can do now.
    fn advance(&mut self, reactor: &Reactor, engine: &mut Engine, key: Key, side: Side) {
        self.flush_spill(reactor, engine, key, side);
        self.send(reactor, engine, key, side);
        self.pass_end_on(reactor, engine, key, side);
        self.receive(reactor, engine, key, side);
        self.finish_if_over(reactor, engine, key);
    }

    /// Sends what a full socket left over, as long as it takes it.
    fn flush_spill(&mut self, reactor: &Reactor, engine: &Engine, key: Key, side: Side) {
        let Some(destination) = engine.socket(key, side.other()) else {
            return;
        };
        let Some(flow) = self.live_flow_mut(key, side) else {
            return;
        };
        if flow.spill.is_empty() {
            return;
        }
        // Bytes that came meanwhile go behind it, and their buffers back.
        let held = flow.spill.len();
        for segment in flow.queue.drain(..) {
            reactor.consume_segment(segment, |bytes| flow.spill.extend(bytes));
        }
        flow.queue_bytes = 0;
        let mut failure = None;
        let mut sent = 0;
        while !flow.spill.is_empty() && flow.send.is_none() && !flow.destination_full {
            match destination.send(flow.spill.as_slices().0) {
                Ok(count) => {
                    flow.spill.drain(..count);
                    flow.relayed_bytes += count as u64;
                    sent += count;
                }
                Err(Errno::AGAIN) => flow.destination_full = true,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let grown = flow.spill.len() + sent - held;
        if flow.spill.is_empty() {
            flow.spill = VecDeque::new();
        }
        self.spill_bytes = self.spill_bytes + grown - sent;
        if let Some(error) = failure {
            self.fail(reactor, key, CloseReason::from_error(side.other(), error));
        }
    }

    fn send(&mut self, reactor: &Reactor, engine: &Engine, key: Key, side: Side) {
        let Some(destination) = engine.socket(key, side.other()) else {
            return;
        };
        let owner = self.owner(key, side);
        let Some(flow) = self.live_flow_mut(key, side) else {
            return;
        };
        if flow.send.is_some() || !flow.spill.is_empty() || flow.queue.is_empty() {
            return;
        }
        let Flow {
            queue, queue_bytes, ..
        } = flow;
        let segments = std::iter::from_fn(|| {
            let segment = queue.pop_front()?;
            *queue_bytes -= segment.len();
            Some(segment)
        });
        flow.send = Some(reactor.start_send(destination, owner, segments));
    }

    /// Starts or stops receiving, as the flow's backlog has it.
    fn receive(&mut self, reactor: &Reactor, engine: &Engine, key: Key, side: Side) {
        let over_budget = self.spill_bytes >= self.spill_bytes_max;
        let owner = self.owner(key, side);
        let Some(source) = engine.socket(key, side) else {
            return;
        };
        let Some(flow) = self.live_flow_mut(key, side) else {
            return;
        };
        let backlogged = !flow.spill.is_empty() || flow.queue_bytes > QUEUE_BYTES_MAX;
        match flow.receive {
            // What comes instead of it takes buffers of the other size.
            Some(_) if backlogged || flow.is_misfit() => flow.cancel_receive(reactor),
            None if !backlogged && !flow.source_ended && !flow.waits => {
                if over_budget {
                    self.wait(key, side);
                } else {
                    flow.fit();
                    flow.receive = Some(reactor.start_receive(source, owner, flow.size));
                }
            }
            _ => {}
        }
    }

    /// Passes the end of a stream on after its last byte.
    fn pass_end_on(&mut self, reactor: &Reactor, engine: &Engine, key: Key, side: Side) {
        let Some(destination) = engine.socket(key, side.other()) else {
            return;
        };
        let Some(flow) = self.live_flow_mut(key, side) else {
            return;
        };
        let delivered = flow.queue.is_empty() && flow.spill.is_empty() && flow.send.is_none();
        if !flow.source_ended || flow.shut || !delivered {
            return;
        }
        flow.shut = true;
        if let Err(error) = destination.shutdown_write() {
            self.fail(reactor, key, CloseReason::from_error(side.other(), error));
        }
    }

    /// A receive said that the stream ended: cleanly, or was the error that
    /// ended it reported elsewhere?
    fn end_source(&mut self, reactor: &Reactor, engine: &Engine, key: Key, side: Side) {
        let (Some(source), Some(pair)) = (engine.socket(key, side), self.pairs.get_mut(&key.index))
        else {
            return;
        };
        let readiness = source.poll_now();
        let error = readiness.is_error().then(|| source.take_error()).flatten();
        let was_reset =
            readiness.is_hangup() && source.is_internet() && !pair.flows[side.other().index()].shut;
        pair.flows[side.index()].source_ended = true;
        pair.first_ended.get_or_insert(side);
        if let Some(error) = error.or(was_reset.then_some(Errno::CONNRESET)) {
            self.fail(reactor, key, CloseReason::from_error(side, error));
        }
    }

    /// The pair ends: what would go on by itself is cancelled. A send does not
    /// wait.
    fn fail(&mut self, reactor: &Reactor, key: Key, reason: CloseReason) {
        let Some(pair) = self
            .pairs
            .get_mut(&key.index)
            .filter(|pair| pair.key == key)
        else {
            return;
        };
        pair.reason.get_or_insert(reason);
        for flow in &mut pair.flows {
            flow.cancel_receive(reactor);
        }
    }

    /// Gives a pair that is over back to the engine, which reports it, once no
    /// transfer holds its sockets.
    fn finish_if_over(&mut self, reactor: &Reactor, engine: &mut Engine, key: Key) {
        let Some(pair) = self.pairs.get(&key.index).filter(|pair| pair.key == key) else {
            return;
        };
        let idle = pair
            .flows
            .iter()
            .all(|flow| flow.receive.is_none() && flow.send.is_none());
        let finished = pair.flows.iter().all(|flow| flow.shut);
        let reason = match (pair.reason, pair.first_ended) {
            (Some(reason), _) => reason,
            (None, Some(side)) if finished => CloseReason::Finished(side),
            (None, _) => return,
        };
        if !idle {
            return;
        }
        let bytes = pair.flows.each_ref().map(|flow| flow.relayed_bytes);
        if let Some(pair) = self.pairs.remove(&key.index) {
            for flow in pair.flows {
                self.spill_bytes -= flow.spill.len();
                // A pair that is cut short delivers no more.
                flow.queue
                    .into_iter()
                    .for_each(|segment| reactor.consume_segment(segment, |_| ()));
            }
        }
        debug!(reason = reason.label(), "the ring gives a pair back");
        engine.finish(key, reason, bytes);
    }

    fn wait(&mut self, key: Key, side: Side) {
        if let Some(flow) = self.flow_mut(key, side)
            && !flow.waits
        {
            flow.waits = true;
            let size = flow.size;
            self.waiting[size as usize].push_back((key, side));
        }
    }

    fn owner(&self, key: Key, side: Side) -> Owner {
        let side = match side {
            Side::Left => 0,
            Side::Right => 1,
        };
        Owner {
            tag: self.tag,
            token: key.index << 1 | side,
        }
    }

    fn flow_mut(&mut self, key: Key, side: Side) -> Option<&mut Flow> {
        let pair = self
            .pairs
            .get_mut(&key.index)
            .filter(|pair| pair.key == key)?;
        Some(&mut pair.flows[side.index()])
    }

    /// The flow, unless its pair is ending.
    fn live_flow_mut(&mut self, key: Key, side: Side) -> Option<&mut Flow> {
        let pair = self
            .pairs
            .get_mut(&key.index)
            .filter(|pair| pair.key == key)?;
        pair.reason
            .is_none()
            .then_some(&mut pair.flows[side.index()])
    }
}

impl Flow {
    /// Has the receive end early, which its final progress tells.
    fn cancel_receive(&mut self, reactor: &Reactor) {
        if let Some(receive) = self.receive
            && !std::mem::replace(&mut self.cancelled, true)
        {
            reactor.cancel_transfer(receive);
        }
    }

    fn note_receipt(&mut self, bytes: usize) {
        let fills_small = bytes >= BufferSize::Small.bytes() as usize;
        let fits = match self.size {
            BufferSize::Small => !fills_small,
            BufferSize::Large => fills_small,
        };
        self.misfits = if fits {
            0
        } else {
            self.misfits.saturating_add(1)
        };
    }

    const fn is_misfit(&self) -> bool {
        self.misfits >= RECEIPTS_TO_RESIZE
    }

    /// Takes the size that the receipts asked for.
    const fn fit(&mut self) {
        if self.is_misfit() {
            self.misfits = 0;
            self.size = match self.size {
                BufferSize::Small => BufferSize::Large,
                BufferSize::Large => BufferSize::Small,
            };
        }
    }
}
