//! What a pair on the ring plane asks for, event by event.

use rustix::io::Errno;

use super::close::CloseReason;
use super::pair::{EndEvidence, Side};
use super::ring_pair::{Action, QUEUE_BYTES_MAX, RECEIPTS_TO_RESIZE, RingPair};
use crate::runtime::provided::BufferSize::{Large, Small};

const SMALL_BYTES: usize = Small.bytes() as usize;

/// A pair whose left side sends. The right side is only received from, and the
/// actions for that are left out.
struct Rig {
    pair: RingPair,
    queued: usize,
    spilled: usize,
    /// Bytes that the destination takes when asked directly.
    room: usize,
    at_budget: bool,
}

impl Rig {
    /// A pair that receives from both sides.
    fn new() -> Self {
        let mut rig = Self {
            pair: RingPair::default(),
            queued: 0,
            spilled: 0,
            room: 0,
            at_budget: false,
        };
        let receive = Action::Receive(Small);
        assert_eq!(rig.pair.poll_action(false), Some((Side::Left, receive)));
        assert_eq!(rig.pair.poll_action(false), Some((Side::Right, receive)));
        assert_eq!(rig.actions(), []);
        rig
    }

    /// Carries out what is asked for the flow from the left, and tells what
    /// that was.
    fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some((side, action)) = self.pair.poll_action(self.at_budget) {
            if side == Side::Right {
                continue;
            }
            actions.push(action);
            match action {
                Action::Send => {
                    let bytes = std::mem::take(&mut self.queued);
                    self.pair.handle_send_started(side, bytes);
                }
                Action::SpillQueue => self.spilled += std::mem::take(&mut self.queued),
                Action::SendSpill => {
                    let sent = self.spilled.min(self.room);
                    self.spilled -= sent;
                    self.pair.handle_spill_sent(side, sent);
                }
                _ => {}
            }
        }
        actions
    }

    fn receive(&mut self, bytes: usize) -> Vec<Action> {
        self.queued += bytes;
        self.pair.handle_received(Side::Left, bytes);
        self.actions()
    }

    fn sent(&mut self, sent: usize, unsent: usize) -> Vec<Action> {
        self.spilled += unsent;
        self.pair.handle_sent(Side::Left, sent, unsent);
        self.actions()
    }

    /// The destination has room for so many bytes.
    fn writable(&mut self, room: usize) -> Vec<Action> {
        self.room = room;
        self.pair.handle_writable(Side::Right);
        self.actions()
    }

    fn receive_over(&mut self) -> Vec<Action> {
        self.pair.handle_receive_over(Side::Left);
        self.actions()
    }

    fn end_source(&mut self, side: Side, evidence: EndEvidence) -> Vec<Action> {
        self.pair.handle_source_end(side, evidence);
        self.pair.handle_receive_over(side);
        self.actions()
    }

    /// Receipts of this size until the flow changes its buffers.
    fn receive_until_cancel(&mut self, bytes: usize) {
        for receipt in 1..=RECEIPTS_TO_RESIZE {
            let mut actions = self.receive(bytes);
            actions.extend(self.sent(bytes, 0));
            let cancels = actions.contains(&Action::CancelReceive);
            assert_eq!(cancels, receipt == RECEIPTS_TO_RESIZE, "{receipt}");
        }
    }
}

#[test]
fn one_send_at_a_time_takes_all_that_is_queued() {
    let mut rig = Rig::new();
    assert_eq!(rig.receive(10), [Action::Send]);
    assert_eq!(rig.receive(20), []);
    assert_eq!(rig.receive(30), []);
    assert_eq!(rig.sent(10, 0), [Action::Send]);
    assert_eq!(rig.queued, 0);
    assert_eq!(rig.sent(50, 0), []);
    assert_eq!(rig.pair.bytes(), [60, 0]);
}

#[test]
fn a_full_destination_stops_the_receive_until_its_spill_is_sent() {
    let mut rig = Rig::new();
    rig.receive(100);
    assert_eq!(
        rig.sent(30, 70),
        [Action::SendSpill, Action::CancelReceive],
        "room that came with the send would not be told again"
    );
    // What still comes goes behind the spill, without another try.
    assert_eq!(rig.receive(5), [Action::SpillQueue]);
    assert_eq!(rig.receive(5), [Action::SpillQueue]);
    assert_eq!(rig.receive_over(), []);
    assert_eq!(rig.writable(60), [Action::SendSpill]);
    assert_eq!(
        rig.writable(60),
        [Action::SendSpill, Action::Receive(Small)]
    );
    assert_eq!((rig.spilled, rig.pair.bytes()), (0, [110, 0]));
}

#[test]
fn a_backlog_stops_the_receive_once() {
    let mut rig = Rig::new();
    assert_eq!(rig.receive(QUEUE_BYTES_MAX), [Action::Send]);
    assert_eq!(rig.receive(QUEUE_BYTES_MAX), []);
    assert_eq!(rig.receive(1), [Action::CancelReceive]);
    // The cancel is on its way: it is not repeated.
    assert_eq!(rig.receive(1), []);
    assert_eq!(rig.receive_over(), [], "still backlogged");
    assert_eq!(
        rig.sent(QUEUE_BYTES_MAX, 0),
        [Action::Send, Action::Receive(Small)]
    );
}

#[test]
fn buffers_fit_what_was_received_lately() {
    let mut rig = Rig::new();
    rig.receive_until_cancel(SMALL_BYTES);
    rig.receive(SMALL_BYTES);
    assert_eq!(
        rig.receive_over(),
        [Action::Receive(Large)],
        "the last receipts are on their way meanwhile"
    );
    rig.sent(SMALL_BYTES, 0);
    // One large receipt between small ones begins the count anew.
    for bytes in [1, 1, 1, SMALL_BYTES] {
        assert_eq!(rig.receive(bytes), [Action::Send]);
        assert_eq!(rig.sent(bytes, 0), []);
    }
    rig.receive_until_cancel(1);
    assert_eq!(rig.receive_over(), [Action::Receive(Small)]);
}

#[test]
fn a_starved_flow_waits_for_its_turn() {
    let mut rig = Rig::new();
    assert_eq!(rig.pair.handle_starved(Side::Left), Small);
    assert_eq!(rig.receive_over(), []);
    assert_eq!(rig.writable(0), [], "no event but its turn begins it");
    rig.pair.handle_room(Side::Left);
    assert_eq!(rig.actions(), [Action::Receive(Small)]);
}

#[test]
fn a_starved_flow_with_a_spill_does_not_receive_in_its_turn() {
    let mut rig = Rig::new();
    rig.receive(2);
    rig.sent(1, 1);
    rig.pair.handle_starved(Side::Left);
    assert_eq!(rig.receive_over(), []);
    rig.pair.handle_room(Side::Left);
    assert_eq!(rig.actions(), []);
    assert_eq!(rig.writable(1), [Action::SendSpill, Action::Receive(Small)]);
}

#[test]
fn at_the_budget_a_flow_goes_on_by_one_small_buffer() {
    let mut rig = Rig::new();
    rig.receive(1);
    rig.at_budget = true;
    assert_eq!(rig.actions(), [Action::CancelReceive]);
    assert_eq!(rig.receive(1), [], "one cancel");
    assert_eq!(rig.receive_over(), [], "two bytes are not delivered yet");
    assert_eq!(rig.sent(1, 0), [Action::Send]);
    for _ in 0..3 {
        assert_eq!(rig.sent(1, 0), [Action::ReceiveOnce]);
        rig.pair.handle_receive_over(Side::Left);
        assert_eq!(rig.receive(1), [Action::Send], "nothing beside the send");
    }
    // It stops for its own destination alone.
    assert_eq!(rig.sent(0, 1), [Action::SendSpill]);
    assert_eq!(
        rig.writable(1),
        [Action::SendSpill, Action::ReceiveOnce],
        "it has no spill any more"
    );
    // What is under way stays so, and then it is as before.
    rig.at_budget = false;
    assert_eq!(rig.actions(), []);
    rig.pair.handle_receive_over(Side::Left);
    assert_eq!(rig.receive(1), [Action::Send, Action::Receive(Small)]);
}

#[test]
fn at_the_budget_a_stream_waits_for_small_buffers() {
    let mut rig = Rig::new();
    rig.receive_until_cancel(SMALL_BYTES);
    assert_eq!(rig.receive_over(), [Action::Receive(Large)]);
    rig.at_budget = true;
    assert_eq!(rig.actions(), [Action::CancelReceive]);
    assert_eq!(rig.receive_over(), [Action::ReceiveOnce]);
    assert_eq!(rig.pair.handle_starved(Side::Left), Small);
    rig.at_budget = false;
    rig.pair.handle_room(Side::Left);
    assert_eq!(rig.receive_over(), [Action::Receive(Large)]);
}

#[test]
fn an_end_is_passed_on_behind_the_last_byte() {
    let mut rig = Rig::new();
    rig.receive(10);
    rig.receive(10);
    let nothing = EndEvidence::default();
    assert_eq!(rig.end_source(Side::Left, nothing), []);
    assert_eq!(rig.sent(10, 0), [Action::Send]);
    assert_eq!(rig.sent(4, 6), [Action::SendSpill]);
    assert_eq!(rig.pair.poll_end(), None);
    assert_eq!(
        rig.writable(6),
        [Action::SendSpill, Action::ShutdownWrite],
        "and no receive follows"
    );
    assert_eq!(rig.pair.poll_end(), None, "one half is open");
    rig.end_source(Side::Right, nothing);
    assert_eq!(rig.pair.poll_end(), Some(CloseReason::Finished(Side::Left)));
}

#[test]
fn an_end_needs_evidence() {
    let check = |our_half_ended, evidence, expected| {
        let mut rig = Rig::new();
        if our_half_ended {
            rig.end_source(Side::Left, EndEvidence::default());
        }
        rig.end_source(Side::Right, evidence);
        rig.receive_over();
        assert_eq!(rig.pair.poll_end(), expected);
    };
    let clean = EndEvidence::default();
    let gone = EndEvidence {
        gone: true,
        ..clean
    };
    let failed = EndEvidence {
        error: Some(Errno::TIMEDOUT),
        gone: true,
    };
    let finished = Some(CloseReason::Finished(Side::Left));
    check(false, clean, None);
    check(true, clean, finished);
    check(false, gone, Some(CloseReason::Reset(Side::Right)));
    // Both halves have ended, so nothing is open any more.
    check(true, gone, finished);
    check(false, failed, Some(CloseReason::TimedOut(Side::Right)));
    check(true, failed, Some(CloseReason::TimedOut(Side::Right)));
}

#[test]
fn a_pair_ends_once_nothing_is_under_way() {
    let mut rig = Rig::new();
    rig.receive(10);
    rig.receive(10);
    rig.pair.end(CloseReason::Drained);
    let cancels = [
        (Side::Left, Action::CancelReceive),
        (Side::Right, Action::CancelReceive),
    ];
    assert_eq!(
        [rig.pair.poll_action(false), rig.pair.poll_action(false)],
        cancels.map(Some)
    );
    assert_eq!(rig.pair.poll_action(false), None, "one cancel each");
    // Later reasons do not count, and nothing begins any more.
    rig.pair.handle_send_failed(Side::Left, Errno::PIPE);
    assert_eq!(rig.receive(10), []);
    assert_eq!(rig.receive_over(), []);
    assert_eq!(rig.pair.poll_end(), None, "the right one receives");
    rig.pair.handle_receive_over(Side::Right);
    assert_eq!(rig.pair.poll_end(), Some(CloseReason::Drained));
}

#[test]
fn a_failure_names_the_leg_that_failed() {
    let check = |fail: fn(&mut RingPair), expected| {
        let mut rig = Rig::new();
        rig.receive(1);
        fail(&mut rig.pair);
        rig.actions();
        rig.pair.handle_receive_over(Side::Left);
        rig.pair.handle_receive_over(Side::Right);
        assert_eq!(rig.pair.poll_end(), expected);
    };
    const RESET: Errno = Errno::CONNRESET;
    check(
        |pair| pair.handle_send_failed(Side::Left, RESET),
        Some(CloseReason::Reset(Side::Right)),
    );
    // The send under way is waited for.
    check(|pair| pair.handle_failure(Side::Left, RESET), None);
}
