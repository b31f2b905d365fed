//! The ring plane: the ring itself receives into provided buffers and sends
//! from the same buffers, with zero copy where a device can do it.
//!
//! A pair begins in the engine, which sees its prefixes and gates off; once
//! nothing is held there, the ring takes it over and keeps it to its end.
//! [`RingPair`] decides what to do next; here it is carried out.
//!
//! A send takes what the socket has room for and no more; the rest is copied
//! to the heap and its buffers go back to the kernel. So a slow peer costs
//! memory of its own, never the buffers of the others. While the spills
//! together are at their budget, the flows without one go on, slowly: a few
//! peers that are stuck must not stop the others.
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
use super::means::Ends;
use super::pair::Side;
use super::ring_pair::{Action, RingPair};
use crate::runtime::Owner;
use crate::runtime::provided::{BufferSize, Segment};
use crate::runtime::reactor::Reactor;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::runtime::transfer::{Progress, Step, TransferKey};
use crate::slab::Key;

/// The pairs that the ring moves.
#[derive(Debug)]
pub struct RingPlane {
    /// Owner tag of its transfers.
    tag: u8,
    pairs: HashMap<u32, Moved, ahash::RandomState>,
    pub(super) spill_bytes: usize,
    spill_bytes_max: usize,
    /// Pairs taken over so far.
    pub(super) taken_over: u64,
    /// Receives of one small buffer, for want of spill memory.
    pub(super) small_receives: u64,
    /// Flows that wait for buffers of a size.
    waiting: [VecDeque<(Key, Side)>; BufferSize::ALL.len()],
}

/// A pair and what it has under way.
#[derive(Debug)]
struct Moved {
    key: Key,
    pair: RingPair,
    /// By the side of their source.
    flows: [Flow; 2],
}

/// What one direction holds, and the transfers that fill and empty it.
#[derive(Debug, Default)]
struct Flow {
    receive: Option<TransferKey>,
    send: Option<TransferKey>,
    queue: VecDeque<Segment>,
    spill: VecDeque<u8>,
}

impl RingPlane {
    /// A plane without pairs. Its transfers' events carry `tag`. Once all
    /// spills together take `spill_bytes_max` bytes, a flow adds what a receive
    /// brings that is under way, and then one small buffer at a time.
    #[must_use]
    pub fn new(tag: u8, spill_bytes_max: u64) -> Self {
        Self {
            tag,
            pairs: HashMap::default(),
            spill_bytes: 0,
            taken_over: 0,
            small_receives: 0,
            spill_bytes_max: usize::try_from(spill_bytes_max).unwrap_or(usize::MAX),
            waiting: Default::default(),
        }
    }

    /// Whether the pair at this index is the ring's.
    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        self.pairs
            .get(&key.index)
            .is_some_and(|moved| moved.key == key)
    }

    /// Bytes that the ring has delivered of a pair that is its own.
    #[must_use]
    pub fn bytes(&self, key: Key) -> Option<[u64; 2]> {
        let moved = self.pairs.get(&key.index)?;
        (moved.key == key).then(|| moved.pair.bytes())
    }

    /// Takes a pair over that the engine has let go.
    pub fn start(&mut self, reactor: &Reactor, engine: &mut Engine, key: Key) {
        let moved = Moved {
            key,
            pair: RingPair::default(),
            flows: Default::default(),
        };
        self.taken_over += 1;
        self.pairs.insert(key.index, moved);
        self.advance(reactor, engine, key);
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
        if let Some(moved) = self.pairs.get_mut(&(token >> 1)) {
            let key = moved.key;
            let flow = &moved.flows[side.index()];
            // Neither: a zero-copy send's buffers came back after its pair had
            // moved on.
            if flow.receive == Some(progress.key) {
                self.handle_receive(reactor, engine, key, side, progress);
            } else if flow.send == Some(progress.key) {
                self.handle_send(reactor, key, side, progress.what);
            }
            self.advance(reactor, engine, key);
        }
        self.serve_waiting(reactor, engine);
    }

    fn handle_receive(
        &mut self,
        reactor: &Reactor,
        engine: &Engine,
        key: Key,
        side: Side,
        progress: Progress,
    ) {
        let Some(Moved { pair, flows, .. }) = moved(&mut self.pairs, key) else {
            return;
        };
        let flow = &mut flows[side.index()];
        match progress.what {
            Step::Received => {
                let mut bytes = 0;
                reactor.take_received(|segment| {
                    bytes += segment.len();
                    flow.queue.push_back(segment);
                });
                pair.handle_received(side, bytes);
            }
            Step::ReceiveEnded => {
                if let Some(ends) = ends(engine, key, side) {
                    pair.handle_source_end(side, ends.evidence());
                }
            }
            Step::Starved => {
                let size = pair.handle_starved(side);
                self.waiting[size as usize].push_back((key, side));
            }
            Step::Failed(error) => pair.handle_failure(side, error),
            Step::Sent(_) | Step::Cancelled | Step::Released => {}
        }
        if progress.is_final {
            flow.receive = None;
            pair.handle_receive_over(side);
        }
    }

    /// Takes the first word of a send. The next may follow: what a zero-copy
    /// one still tells is that its buffers came back.
    fn handle_send(&mut self, reactor: &Reactor, key: Key, side: Side, what: Step) {
        let Some(Moved { pair, flows, .. }) = moved(&mut self.pairs, key) else {
            return;
        };
        let flow = &mut flows[side.index()];
        flow.send = None;
        match what {
            Step::Sent(sent) => {
                let unsent = reactor.with_unsent(|unsent| {
                    flow.spill.extend(unsent);
                    unsent.len()
                });
                self.spill_bytes += unsent;
                pair.handle_sent(side, sent, unsent);
            }
            Step::Failed(error) => pair.handle_send_failed(side, error),
            what => unreachable!("a send does not tell {what:?} first"),
        }
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
        let Some(Moved { pair, .. }) = moved(&mut self.pairs, key) else {
            return;
        };
        if readiness.is_error()
            && let Some(error) = engine.socket(key, side).and_then(Socket::take_error)
        {
            pair.handle_failure(side, error);
        }
        if readiness.is_writable() {
            pair.handle_writable(side);
        }
        self.advance(reactor, engine, key);
        self.serve_waiting(reactor, engine);
    }

    /// Ends a pair for a reason of the relay's own.
    pub fn abort(&mut self, reactor: &Reactor, engine: &mut Engine, key: Key, reason: CloseReason) {
        if let Some(Moved { pair, .. }) = moved(&mut self.pairs, key) {
            pair.end(reason);
        }
        self.advance(reactor, engine, key);
        self.serve_waiting(reactor, engine);
    }

    /// Lets flows receive again that waited for what is there now, oldest
    /// first.
    fn serve_waiting(&mut self, reactor: &Reactor, engine: &mut Engine) {
        for size in BufferSize::ALL {
            if self.waiting[size as usize].is_empty() || !reactor.has_room(size) {
                continue;
            }
            // One that must go on waiting stands at the end.
            for _ in 0..self.waiting[size as usize].len() {
                let Some((key, side)) = self.waiting[size as usize].pop_front() else {
                    break;
                };
                if let Some(Moved { pair, .. }) = moved(&mut self.pairs, key) {
                    pair.handle_room(side);
                    self.advance(reactor, engine, key);
                }
            }
        }
    }

    /// Does whatever a pair can do now, and gives it back to the engine, which
    /// reports it, when it is over and no transfer holds its sockets.
    fn advance(&mut self, reactor: &Reactor, engine: &mut Engine, key: Key) {
        let Some(Moved { pair, flows, .. }) = moved(&mut self.pairs, key) else {
            return;
        };
        while let Some((side, action)) = pair.poll_action(self.spill_bytes >= self.spill_bytes_max)
        {
            let Some(ends) = ends(engine, key, side) else {
                unreachable!("the engine keeps the sockets of a pair to its end");
            };
            let owner = owner(self.tag, key, side);
            let flow = &mut flows[side.index()];
            match action {
                Action::Receive(size) => {
                    flow.receive = Some(reactor.start_receive(ends.source, owner, size));
                }
                Action::ReceiveOnce => {
                    self.small_receives += 1;
                    let receive = reactor.start_receive_once(ends.source, owner, BufferSize::Small);
                    flow.receive = Some(receive);
                }
                Action::CancelReceive => {
                    if let Some(receive) = flow.receive {
                        reactor.cancel_transfer(receive);
                    }
                }
                Action::Send => {
                    let bytes = flow.send(reactor, ends.destination, owner);
                    pair.handle_send_started(side, bytes);
                }
                Action::SpillQueue => self.spill_bytes += flow.spill_queue(reactor),
                Action::SendSpill => {
                    let (sent, result) = flow.send_spill(ends.destination);
                    self.spill_bytes -= sent;
                    pair.handle_spill_sent(side, sent);
                    if let Err(error) = result {
                        pair.handle_failure(side.other(), error);
                    }
                }
                Action::ShutdownWrite => {
                    if let Err(error) = ends.destination.shutdown_write() {
                        pair.handle_failure(side.other(), error);
                    }
                }
            }
        }
        let Some(reason) = pair.poll_end() else {
            return;
        };
        let bytes = pair.bytes();
        for flow in flows {
            self.spill_bytes -= flow.spill.len();
            flow.give_back(reactor);
        }
        self.pairs.remove(&key.index);
        debug!(reason = reason.label(), "the ring gives a pair back");
        engine.finish(key, reason, bytes);
    }
}

impl Flow {
    /// Starts a send from the front of the queue; tells how many bytes.
    fn send(&mut self, reactor: &Reactor, destination: &Socket, owner: Owner) -> usize {
        let mut bytes = 0;
        let segments = std::iter::from_fn(|| {
            let segment = self.queue.pop_front()?;
            bytes += segment.len();
            Some(segment)
        });
        self.send = Some(reactor.start_send(destination, owner, segments));
        bytes
    }

    /// Copies the queue behind the spill; tells how many bytes.
    fn spill_queue(&mut self, reactor: &Reactor) -> usize {
        let held = self.spill.len();
        for segment in self.queue.drain(..) {
            reactor.consume_segment(segment, |bytes| self.spill.extend(bytes));
        }
        self.spill.len() - held
    }

    /// Sends the spill as long as the socket takes it; tells how many bytes,
    /// and whether the socket failed.
    fn send_spill(&mut self, destination: &Socket) -> (usize, Result<(), Errno>) {
        let mut sent = 0;
        let result = loop {
            if self.spill.is_empty() {
                // Its memory was for the time that the peer was slow.
                self.spill = VecDeque::new();
                break Ok(());
            }
            match destination.send(self.spill.as_slices().0) {
                Ok(count) => {
                    self.spill.drain(..count);
                    sent += count;
                }
                Err(Errno::AGAIN) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        (sent, result)
    }

    /// Gives up what a pair that was cut short delivers no more.
    fn give_back(&mut self, reactor: &Reactor) {
        for segment in self.queue.drain(..) {
            reactor.consume_segment(segment, |_| ());
        }
    }
}

/// The pair, if it is the ring's.
fn moved(pairs: &mut HashMap<u32, Moved, ahash::RandomState>, key: Key) -> Option<&mut Moved> {
    pairs.get_mut(&key.index).filter(|moved| moved.key == key)
}

/// The sockets of the flow from `side`.
fn ends(engine: &Engine, key: Key, side: Side) -> Option<Ends<'_>> {
    Some(Ends {
        source: engine.socket(key, side)?,
        destination: engine.socket(key, side.other())?,
    })
}

fn owner(tag: u8, key: Key, side: Side) -> Owner {
    let side = match side {
        Side::Left => 0,
        Side::Right => 1,
    };
    Owner {
        tag,
        token: key.index << 1 | side,
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::EngineSettings;
    use super::super::engine_rig::{Rig, connection};
    use crate::config::DataPlane;

    const STUCK_PAIRS_COUNT: usize = 8;
    const BUDGET_BYTES: usize = 64 << 10;

    #[test]
    fn peers_that_are_stuck_do_not_stop_the_others() {
        let mut rig = Rig::new(EngineSettings {
            spill_bytes_max: BUDGET_BYTES as u64,
            ..EngineSettings::default()
        });
        let mut pair = || {
            let (left, left_leg) = connection();
            let (right, right_leg) = connection();
            rig.join(DataPlane::Ring, left_leg, right_leg);
            (left, right)
        };
        let (mut left, mut right) = pair();
        let mut stuck: Vec<_> = std::iter::repeat_with(&mut pair)
            .take(STUCK_PAIRS_COUNT)
            .collect();
        let bytes = vec![1; 256 << 10];
        rig.run_until("a used up budget", |rig| {
            for (sender, _) in &mut stuck {
                sender.write(&bytes);
            }
            rig.planes.ring.spill_bytes >= BUDGET_BYTES
        });

        for _ in 0..3 {
            left.write_all(&mut rig, b"ping");
            assert_eq!(right.read_exactly(&mut rig, 4), b"ping");
        }
        let (mut written, mut read) = (0, 0);
        let mut sink = vec![0; 256 << 10];
        rig.run_until("a stream", |_| {
            written += left.write(&bytes[written..]);
            read += right.read(&mut sink).unwrap_or(0);
            read == bytes.len()
        });
        assert!(rig.planes.ring.spill_bytes >= BUDGET_BYTES);
    }
}
