//! A pair whose ends are on two shards: a bridge between two pairs, one on each.
//!
//! ```text
//!   shard A                                         shard B
//!   source ─▶ pair ─▶ end ════ bytes, end ════▶ end ─▶ pair ─▶ sink
//!                      ◀══════ credit ════════
//! ```
//!
//! Bytes cross as messages. Each direction has credit: what has left one shard and was not passed
//! on by the other is never more. It begins with [`CREDIT_BYTES_FIRST`] and grows to
//! [`CREDIT_BYTES_MAX`] as it is used, by [`GROWN_BYTES_MAX`] for all ends of a shard: what nobody
//! reads holds little, however many ends there are. Whoever is out of credit does not read its
//! source, as with a socket that has no room.
//!
//! An end may be there before its pair is, so that nothing comes too early: whoever begins a
//! bridge has an end at once, and the other shard from when it is asked for one.

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use bytes::Bytes;

use super::close::CloseReason;
use crate::protocol::ptth_quic::StreamCode;

/// Bytes of one direction that may leave a shard before any was passed on by the other one.
pub const CREDIT_BYTES_FIRST: usize = 64 << 10;

/// The most that are on their way once many were. With half as many the two shards wake each
/// other more often: a byte costs a tenth more.
pub const CREDIT_BYTES_MAX: usize = 512 << 10;

/// By how much all ends of a shard may have grown: enough for 146 that have the most.
pub const GROWN_BYTES_MAX: usize = 64 << 20;

/// What a message costs at least, however short: each has room of its own where it waits.
const MESSAGE_COST: usize = 1 << 10;

/// Names one end of a bridge, among all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BridgeEndId {
    /// The shard that began the bridge, which has numbered it.
    pub begun_by: u16,
    pub number: u64,
    /// Whether it is the end of the shard that began it. Both may be one shard's.
    pub is_near: bool,
}

impl BridgeEndId {
    /// The end at the other side.
    #[must_use]
    pub const fn other(self) -> Self {
        Self {
            is_near: !self.is_near,
            ..self
        }
    }
}

/// What one end tells the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crossing {
    Bytes(Bytes),
    /// So many bytes were passed on.
    Credit(usize),
    /// No bytes follow.
    End,
    /// It is broken off both ways, for this reason, as client and server have it.
    Abort(StreamCode, CloseReason),
}

/// Something on its way to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeMessage {
    pub to: BridgeEndId,
    pub crossing: Crossing,
}

/// What is to be had from an end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BridgeRead {
    Bytes(Bytes),
    /// Nothing has come.
    Blocked,
    /// All was read, to the end.
    Ended,
    Aborted(StreamCode, CloseReason),
    /// There is no such end.
    Gone,
}

/// One shard's ends of bridges, and what they have to say.
#[derive(Debug, Default)]
pub(super) struct Bridges {
    ends: HashMap<BridgeEndId, EndState, RandomState>,
    outbox: Vec<(u16, BridgeMessage)>,
    /// By how much the ends have grown, all together.
    grown: usize,
}

#[derive(Debug)]
struct EndState {
    /// The shard of the other end.
    shard: u16,
    incoming: VecDeque<Bytes>,
    has_ended: bool,
    aborted: Option<(StreamCode, CloseReason)>,
    /// Bytes that may still leave.
    credit: usize,
    /// Bytes that were read, and are not credited yet.
    owed: usize,
    /// What the other end may have on its way.
    allowed: usize,
}

impl EndState {
    /// What the other end is to be credited now that so much was read: nothing, while that would
    /// not be worth a message. `grown` is what all ends have grown by.
    fn owe(&mut self, bytes: usize, grown: &mut usize) -> usize {
        self.owed += bytes;
        if self.has_ended || self.owed < self.allowed / 2 {
            return 0;
        }
        let more = self.allowed.min(CREDIT_BYTES_MAX - self.allowed);
        let more = more.min(GROWN_BYTES_MAX - *grown);
        self.allowed += more;
        *grown += more;
        std::mem::take(&mut self.owed) + more
    }
}

impl Bridges {
    /// From now on there is an end here, whose other one is on `shard`.
    pub(super) fn open(&mut self, id: BridgeEndId, shard: u16) {
        let end = EndState {
            shard,
            incoming: VecDeque::new(),
            has_ended: false,
            aborted: None,
            credit: CREDIT_BYTES_FIRST,
            owed: 0,
            allowed: CREDIT_BYTES_FIRST,
        };
        let former = self.ends.insert(id, end);
        debug_assert!(former.is_none(), "an end is opened once");
    }

    /// Takes what the other end has said; false where there is no such end any more.
    pub(super) fn handle(&mut self, message: BridgeMessage) -> bool {
        let Some(end) = self.ends.get_mut(&message.to) else {
            return false;
        };
        match message.crossing {
            Crossing::Bytes(bytes) => end.incoming.push_back(bytes),
            Crossing::Credit(bytes) => end.credit += bytes,
            Crossing::End => end.has_ended = true,
            Crossing::Abort(code, reason) => end.aborted = Some((code, reason)),
        }
        true
    }

    /// Whether the other end has broken it off.
    pub(super) fn aborted(&self, id: BridgeEndId) -> Option<(StreamCode, CloseReason)> {
        self.ends.get(&id)?.aborted
    }

    /// Takes one piece of what has come.
    pub(super) fn read(&mut self, id: BridgeEndId) -> BridgeRead {
        let Some(end) = self.ends.get_mut(&id) else {
            return BridgeRead::Gone;
        };
        if let Some((code, reason)) = end.aborted {
            return BridgeRead::Aborted(code, reason);
        }
        let Some(bytes) = end.incoming.pop_front() else {
            return match end.has_ended {
                true => BridgeRead::Ended,
                false => BridgeRead::Blocked,
            };
        };
        let credit = end.owe(cost(&bytes), &mut self.grown);
        if credit > 0 {
            let shard = end.shard;
            self.say(id, shard, Crossing::Credit(credit));
        }
        BridgeRead::Bytes(bytes)
    }

    /// Sends as much as there is credit for, which `bytes` loses.
    pub(super) fn write(&mut self, id: BridgeEndId, bytes: &mut Bytes) {
        let Some(end) = self.ends.get_mut(&id) else {
            return;
        };
        if bytes.is_empty() || end.credit < MESSAGE_COST {
            return;
        }
        let sent = bytes.split_to(bytes.len().min(end.credit));
        end.credit -= cost(&sent);
        let shard = end.shard;
        self.say(id, shard, Crossing::Bytes(sent));
    }

    /// Nothing more is sent.
    pub(super) fn finish(&mut self, id: BridgeEndId) {
        if let Some(end) = self.ends.get(&id) {
            let shard = end.shard;
            self.say(id, shard, Crossing::End);
        }
    }

    /// Forgets an end that both have done with.
    pub(super) fn close(&mut self, id: BridgeEndId) {
        self.remove(id);
    }

    fn remove(&mut self, id: BridgeEndId) -> Option<EndState> {
        let end = self.ends.remove(&id)?;
        self.grown -= end.allowed - CREDIT_BYTES_FIRST;
        Some(end)
    }

    /// Breaks it off, unless the other end did.
    pub(super) fn abort(&mut self, id: BridgeEndId, code: StreamCode, reason: CloseReason) {
        if let Some(end) = self.remove(id)
            && end.aborted.is_none()
        {
            self.say(id, end.shard, Crossing::Abort(code, reason));
        }
    }

    fn say(&mut self, from: BridgeEndId, shard: u16, crossing: Crossing) {
        let to = from.other();
        self.outbox.push((shard, BridgeMessage { to, crossing }));
    }

    /// Whether there is something to send.
    pub(super) fn has_messages(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// What is to be sent, each with the shard that it is for.
    pub(super) fn take_messages(&mut self) -> Vec<(u16, BridgeMessage)> {
        std::mem::take(&mut self.outbox)
    }
}

/// What a message takes of the credit.
fn cost(bytes: &Bytes) -> usize {
    bytes.len().max(MESSAGE_COST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: BridgeEndId = BridgeEndId {
        begun_by: 3,
        number: 7,
        is_near: true,
    };

    fn bridge() -> Bridges {
        let mut bridges = Bridges::default();
        bridges.open(NEAR, 3);
        bridges.open(NEAR.other(), 3);
        bridges
    }

    /// Has both ends hear what was said; how much that was.
    fn pass_on(bridges: &mut Bridges) -> usize {
        let messages = bridges.take_messages();
        let count = messages.len();
        for (shard, message) in messages {
            assert_eq!(shard, 3);
            bridges.handle(message);
        }
        count
    }

    #[test]
    fn no_more_is_on_its_way_than_there_is_credit_for() {
        let mut bridges = bridge();
        let mut bytes = Bytes::from(vec![7; CREDIT_BYTES_FIRST + 100]);
        bridges.write(NEAR, &mut bytes);
        assert_eq!(bytes.len(), 100);
        bridges.write(NEAR, &mut bytes);
        assert_eq!((bytes.len(), pass_on(&mut bridges)), (100, 1));
        let BridgeRead::Bytes(read) = bridges.read(NEAR.other()) else {
            panic!("bytes have come");
        };
        assert_eq!(read.len(), CREDIT_BYTES_FIRST);
        assert_eq!(pass_on(&mut bridges), 1);
        bridges.write(NEAR, &mut bytes);
        assert!(bytes.is_empty());
    }

    #[test]
    fn short_messages_are_not_without_number() {
        let mut bridges = bridge();
        for _ in 0..1000 {
            bridges.write(NEAR, &mut Bytes::from_static(b"x"));
        }
        assert_eq!(
            bridges.take_messages().len(),
            CREDIT_BYTES_FIRST / MESSAGE_COST
        );
    }

    /// Writes and reads so much; how many messages of credit there were.
    fn carry(bridges: &mut Bridges, bytes: usize) -> usize {
        let mut read = 0;
        let mut credits = 0;
        while read < bytes {
            bridges.write(NEAR, &mut Bytes::from_static(&[1; 2000]));
            pass_on(bridges);
            while let BridgeRead::Bytes(bytes) = bridges.read(NEAR.other()) {
                read += bytes.len();
            }
            credits += pass_on(bridges);
        }
        credits
    }

    /// What may leave at once.
    fn room(bridges: &mut Bridges) -> usize {
        let mut bytes = Bytes::from(vec![7; 2 * CREDIT_BYTES_MAX]);
        bridges.write(NEAR, &mut bytes);
        2 * CREDIT_BYTES_MAX - bytes.len()
    }

    #[test]
    fn little_is_not_worth_a_credit() {
        let mut bridges = bridge();
        carry(&mut bridges, 2 * CREDIT_BYTES_MAX);
        let credits = carry(&mut bridges, 10 * CREDIT_BYTES_MAX);
        assert!((15..=20).contains(&credits), "{credits}");
    }

    #[test]
    fn credit_grows_with_what_is_read_and_not_beyond_its_limit() {
        let mut bridges = bridge();
        assert_eq!(room(&mut bridges), CREDIT_BYTES_FIRST);
        let mut bridges = bridge();
        carry(&mut bridges, CREDIT_BYTES_FIRST);
        assert!(room(&mut bridges) > CREDIT_BYTES_FIRST);
        let mut bridges = bridge();
        carry(&mut bridges, 20 * CREDIT_BYTES_MAX);
        let room = room(&mut bridges);
        assert!(
            (CREDIT_BYTES_MAX / 2..=CREDIT_BYTES_MAX).contains(&room),
            "{room}"
        );
    }

    #[test]
    fn all_ends_together_grow_to_their_limit_and_give_it_back() {
        let mut bridges = Bridges::default();
        let many = GROWN_BYTES_MAX / (CREDIT_BYTES_MAX - CREDIT_BYTES_FIRST) + 10;
        let id = |number| BridgeEndId {
            number: number as u64,
            ..NEAR
        };
        for number in 0..many {
            bridges.open(id(number), 3);
            bridges.open(id(number).other(), 3);
            let mut left = Bytes::from(vec![7; 4 * CREDIT_BYTES_MAX]);
            while !left.is_empty() {
                bridges.write(id(number), &mut left);
                pass_on(&mut bridges);
                while let BridgeRead::Bytes(_) = bridges.read(id(number).other()) {}
                pass_on(&mut bridges);
            }
        }
        assert_eq!(bridges.grown, GROWN_BYTES_MAX);
        for number in 0..many {
            bridges.close(id(number));
            bridges.abort(id(number).other(), StreamCode::RESET, CloseReason::Expired);
        }
        assert_eq!(bridges.grown, 0);
    }

    #[test]
    fn an_end_comes_behind_the_last_byte_and_an_abort_before_it() {
        let mut bridges = bridge();
        bridges.write(NEAR, &mut Bytes::from_static(b"last"));
        bridges.finish(NEAR);
        pass_on(&mut bridges);
        let far = NEAR.other();
        assert_eq!(
            bridges.read(far),
            BridgeRead::Bytes(Bytes::from_static(b"last"))
        );
        assert_eq!(bridges.read(far), BridgeRead::Ended);
        bridges.write(far, &mut Bytes::from_static(b"lost"));
        bridges.abort(far, StreamCode::RESET, CloseReason::Expired);
        assert_eq!(bridges.read(far), BridgeRead::Gone);
        pass_on(&mut bridges);
        let aborted = BridgeRead::Aborted(StreamCode::RESET, CloseReason::Expired);
        assert_eq!(bridges.read(NEAR), aborted);
        // It is not told what it has said.
        bridges.abort(NEAR, StreamCode::RESET, CloseReason::Expired);
        assert!(!bridges.has_messages());
        let late = BridgeMessage {
            to: NEAR,
            crossing: Crossing::End,
        };
        assert!(!bridges.handle(late));
    }
}
