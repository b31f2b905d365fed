//! A pair on the ring plane: what to do next, decided without a system call.
//!
//! After whatever was told by a `handle_*`, every [`Action`] of
//! [`RingPair::poll_action`] is carried out until there is none, and then
//! [`RingPair::poll_end`] is asked. Each direction is a flow:
//!
//! ```text
//!  receive ──> queue ──> send (one at a time) ──> delivered
//!                │         │ the socket was full
//!                │         v
//!                └──────> spill ──> sent directly when writable ──> delivered
//! ```
//!
//! While a flow has a spill it receives nothing, and what still comes goes
//! behind the spill, so that its buffers go back to the kernel. Once all spills
//! together are at their budget, a flow without one has no more than one small
//! buffer between its sockets, which is what it may add to the spills. The end
//! of the stream is passed on behind the last byte. A failure of either socket
//! ends the pair, once nothing is under way any more.

use rustix::io::Errno;

use super::close::CloseReason;
use super::pair::{EndEvidence, Side};
use crate::runtime::provided::BufferSize;

/// A flow that has so many bytes queued behind its send receives no more until
/// they are sent.
pub const QUEUE_BYTES_MAX: usize = 256 << 10;

/// Receipts in a row after which a flow gets buffers of another size: that
/// filled a small one, or did not fill a small one.
pub const RECEIPTS_TO_RESIZE: u8 = 4;

/// What a pair asks for, for the flow from one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Receive from the source into buffers of this size until cancelled:
    /// [`RingPair::handle_received`] as often as bytes come, and once
    /// [`RingPair::handle_receive_over`].
    Receive(BufferSize),
    /// Receive into one small buffer; told in the same way.
    ReceiveOnce,
    /// Have the receive end early; that it did is told all the same.
    CancelReceive,
    /// Send from the front of the queue: at once
    /// [`RingPair::handle_send_started`], later [`RingPair::handle_sent`].
    Send,
    /// Copy the whole queue behind the spill.
    SpillQueue,
    /// Send from the spill until it is empty or the socket is full:
    /// [`RingPair::handle_spill_sent`].
    SendSpill,
    /// Pass the end of the stream on.
    ShutdownWrite,
}

/// Both flows of a pair, and how it ends.
#[derive(Debug, Default)]
pub struct RingPair {
    /// By the side of their source.
    flows: [Flow; 2],
    /// Set once the pair is to end: nothing is started any more.
    reason: Option<CloseReason>,
    first_ended: Option<Side>,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    receiving: Receiving,
    /// Of the buffers that are received into.
    size: BufferSize,
    /// Receipts in a row that asked for the other size.
    misfits: u8,
    /// No buffer was left; another flow may be first when some are.
    waits: bool,
    /// INVARIANT: not while there is a spill, which goes first.
    sending: bool,
    queue_bytes: usize,
    spill_bytes: usize,
    /// The destination took nothing more of the spill.
    destination_full: bool,
    source_ended: bool,
    /// INVARIANT: only behind the last byte.
    shut: bool,
    relayed_bytes: u64,
}

/// The receive of a flow, if one is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Receiving {
    #[default]
    Nothing,
    UntilCancelled,
    /// Into one small buffer.
    Once,
    /// The cancel is under way.
    Cancelled,
}

impl RingPair {
    /// The next thing to do, and for the flow from which side. `at_budget`
    /// says that all spills together are as large as they should be.
    pub fn poll_action(&mut self, at_budget: bool) -> Option<(Side, Action)> {
        let ending = self.reason.is_some();
        Side::BOTH.into_iter().find_map(|side| {
            let flow = &mut self.flows[side.index()];
            let action = if ending {
                flow.poll_cancel()
            } else {
                flow.poll_action(at_budget)
            };
            flow.invariants();
            Some((side, action?))
        })
    }

    /// Why the pair has ended, once nothing is under way.
    #[must_use]
    pub fn poll_end(&self) -> Option<CloseReason> {
        let reason = match (self.reason, self.first_ended) {
            (Some(reason), _) => reason,
            (None, Some(side)) if self.flows.iter().all(|flow| flow.shut) => {
                CloseReason::Finished(side)
            }
            (None, _) => return None,
        };
        let is_idle = self.flows.iter().all(Flow::is_idle);
        is_idle.then_some(reason)
    }

    /// Takes bytes that the source's receive queued.
    pub const fn handle_received(&mut self, source: Side, bytes: usize) {
        let flow = self.flow_mut(source);
        flow.queue_bytes += bytes;
        flow.note_receipt(bytes);
    }

    /// The source's receive told its last.
    pub const fn handle_receive_over(&mut self, source: Side) {
        self.flow_mut(source).receiving = Receiving::Nothing;
    }

    /// No buffer was left for the source's receive. Tells for which size the
    /// flow waits, until [`Self::handle_room`].
    pub const fn handle_starved(&mut self, source: Side) -> BufferSize {
        let flow = self.flow_mut(source);
        flow.waits = true;
        match flow.receiving {
            Receiving::Once => BufferSize::Small,
            _ => flow.size,
        }
    }

    /// It is the flow's turn to receive again.
    pub const fn handle_room(&mut self, source: Side) {
        self.flow_mut(source).waits = false;
    }

    /// The source's receive said that the stream ended: cleanly, or was the
    /// error that ended it told elsewhere? See [`EndEvidence::failure`].
    pub fn handle_source_end(&mut self, source: Side, evidence: EndEvidence) {
        let our_half_ended = self.flows[source.other().index()].shut;
        self.flow_mut(source).source_ended = true;
        self.first_ended.get_or_insert(source);
        if let Some(error) = evidence.failure(our_half_ended) {
            self.handle_failure(source, error);
        }
    }

    /// A send took this many bytes off the queue.
    pub const fn handle_send_started(&mut self, source: Side, bytes: usize) {
        let flow = self.flow_mut(source);
        flow.sending = true;
        flow.queue_bytes -= bytes;
    }

    /// A send ended: the destination took `sent` bytes, and `unsent` are the
    /// spill now.
    pub fn handle_sent(&mut self, source: Side, sent: usize, unsent: usize) {
        let flow = self.flow_mut(source);
        flow.sending = false;
        flow.relayed_bytes += sent as u64;
        flow.spill_bytes += unsent;
        // Room that came meanwhile is told no more: see for ourselves.
        flow.destination_full = false;
        flow.invariants();
    }

    /// A send failed, and with it the destination.
    pub fn handle_send_failed(&mut self, source: Side, error: Errno) {
        self.flow_mut(source).sending = false;
        self.handle_failure(source.other(), error);
    }

    /// The destination took `sent` bytes of the spill, all unless it is full.
    pub fn handle_spill_sent(&mut self, source: Side, sent: usize) {
        let flow = self.flow_mut(source);
        flow.relayed_bytes += sent as u64;
        flow.spill_bytes -= sent;
        flow.destination_full = flow.spill_bytes > 0;
    }

    /// The socket of `leg` has room again.
    pub const fn handle_writable(&mut self, leg: Side) {
        self.flow_mut(leg.other()).destination_full = false;
    }

    /// The socket of `leg` failed.
    pub fn handle_failure(&mut self, leg: Side, error: Errno) {
        self.end(CloseReason::from_error(leg, error));
    }

    /// Ends the pair for this reason, unless it had another before.
    pub fn end(&mut self, reason: CloseReason) {
        self.reason.get_or_insert(reason);
    }

    /// Bytes that were delivered, by the side that they came from.
    #[must_use]
    pub fn bytes(&self) -> [u64; 2] {
        self.flows.each_ref().map(|flow| flow.relayed_bytes)
    }

    const fn flow_mut(&mut self, source: Side) -> &mut Flow {
        &mut self.flows[source.index()]
    }
}

impl Flow {
    fn poll_action(&mut self, at_budget: bool) -> Option<Action> {
        if self.spill_bytes > 0 && self.queue_bytes > 0 {
            self.spill_bytes += self.queue_bytes;
            self.queue_bytes = 0;
            return Some(Action::SpillQueue);
        }
        if self.spill_bytes > 0 && !self.destination_full {
            return Some(Action::SendSpill);
        }
        if self.queue_bytes > 0 && !self.sending {
            return Some(Action::Send);
        }
        if self.source_ended && !self.shut && self.is_empty() {
            self.shut = true;
            return Some(Action::ShutdownWrite);
        }
        self.poll_receive(at_budget)
    }

    /// Starts or stops receiving, as the backlog has it.
    const fn poll_receive(&mut self, at_budget: bool) -> Option<Action> {
        let backlogged = self.spill_bytes > 0 || self.queue_bytes > QUEUE_BYTES_MAX;
        match self.receiving {
            // What comes instead of it takes other buffers.
            Receiving::UntilCancelled if backlogged || at_budget || self.is_misfit() => {
                self.poll_cancel()
            }
            Receiving::Nothing if backlogged || self.source_ended || self.waits => None,
            Receiving::Nothing if at_budget => {
                if !self.is_empty() {
                    return None;
                }
                self.receiving = Receiving::Once;
                Some(Action::ReceiveOnce)
            }
            Receiving::Nothing => {
                self.fit();
                self.receiving = Receiving::UntilCancelled;
                Some(Action::Receive(self.size))
            }
            _ => None,
        }
    }

    const fn poll_cancel(&mut self) -> Option<Action> {
        if matches!(self.receiving, Receiving::UntilCancelled | Receiving::Once) {
            self.receiving = Receiving::Cancelled;
            return Some(Action::CancelReceive);
        }
        None
    }

    const fn note_receipt(&mut self, bytes: usize) {
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

    /// Whether all that was received was delivered.
    const fn is_empty(&self) -> bool {
        self.queue_bytes == 0 && self.spill_bytes == 0 && !self.sending
    }

    const fn is_idle(&self) -> bool {
        matches!(self.receiving, Receiving::Nothing) && !self.sending
    }

    fn invariants(&self) {
        debug_assert!(self.spill_bytes == 0 || !self.sending);
        debug_assert!(!self.shut || self.source_ended && self.is_empty());
    }
}
