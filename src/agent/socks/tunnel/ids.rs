//! Numbers of a tunnel's channels: those that were let go longest ago first.
//!
//! ```text
//!          take               let_go, both sides have ended
//! free ──────────▶ in use ───────────────────────────────────▶ free, behind all others
//!                     │                                          ▲
//!                     └── let_go, the other one has not ── resting ── its end, or 30 s
//! ```
//!
//! The other side may not know yet that a channel is over, and what it sends of it would come by
//! the one that has the number next.

use std::collections::VecDeque;
use std::time::Duration;

use crate::protocol::jproxy::ChannelId;
use crate::time::Timestamp;

/// How long a number rests of which the other side says nothing more.
const REST: Duration = Duration::from_secs(30);

/// The numbers of one kind of channels.
#[derive(Debug)]
pub(super) struct IdPool {
    /// Numbers from here on were never taken; [`Self::end`] is none.
    fresh: usize,
    end: usize,
    free: VecDeque<ChannelId>,
    /// By when they rest no more.
    resting: VecDeque<(Timestamp, ChannelId)>,
}

/// Whether the other side knows that a channel is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Yes,
    NotYet,
}

impl IdPool {
    /// The first so many numbers.
    pub(super) const fn new(count: usize) -> Self {
        assert!(count <= ChannelId::MAX as usize + 1, "there are no more");
        Self {
            fresh: 0,
            end: count,
            free: VecDeque::new(),
            resting: VecDeque::new(),
        }
    }

    /// A number that nobody uses; `None`: all are in use, or rest.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<ChannelId> {
        while let Some((until, id)) = self.resting.front()
            && *until <= now
        {
            self.free.push_back(*id);
            self.resting.pop_front();
        }
        if self.fresh == self.end {
            return self.free.pop_front();
        }
        let id = ChannelId::try_from(self.fresh).ok();
        self.fresh += 1;
        id
    }

    /// A channel with this number is over on this side.
    pub(super) fn let_go(&mut self, id: ChannelId, known: Known, now: Timestamp) {
        match known {
            Known::Yes => self.free.push_back(id),
            Known::NotYet => self.resting.push_back((now + REST, id)),
        }
    }

    /// The other side has ended what had this number: nothing more comes of it.
    pub(super) fn handle_end(&mut self, id: ChannelId) {
        let place = self.resting.iter().position(|(_, resting)| *resting == id);
        if let Some(place) = place {
            self.resting.remove(place);
            self.free.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn the_number_that_rested_longest_comes_next() {
        let mut ids = IdPool::new(3);
        let now = at(0);
        let taken: Vec<_> = (0..4).map(|_| ids.take(now)).collect();
        assert_eq!(taken, [Some(0), Some(1), Some(2), None]);
        for id in [2, 0] {
            ids.let_go(id, Known::Yes, now);
        }
        assert_eq!(ids.take(now), Some(2));
        ids.let_go(2, Known::Yes, now);
        let taken: Vec<_> = (0..3).map(|_| ids.take(now)).collect();
        assert_eq!(taken, [Some(0), Some(2), None]);
    }

    #[test]
    fn numbers_that_were_never_taken_come_first() {
        let mut ids = IdPool::new(3);
        for expected in [0, 1, 2, 0, 1] {
            let id = ids.take(at(0)).expect("a number");
            assert_eq!(id, expected);
            ids.let_go(id, Known::Yes, at(0));
        }
        let mut all = IdPool::new(1 << 16);
        let last = (0..1 << 16).map(|_| all.take(at(0)));
        assert_eq!(last.last(), Some(Some(ChannelId::MAX)));
        assert_eq!(all.take(at(0)), None);
    }

    #[test]
    fn a_number_rests_until_the_other_side_has_ended_as_well() {
        let mut ids = IdPool::new(2);
        for id in 0..2 {
            assert_eq!(ids.take(at(0)), Some(id));
            ids.let_go(id, Known::NotYet, at(u64::from(id)));
        }
        assert_eq!(ids.take(at(1)), None);
        ids.handle_end(1);
        assert_eq!(ids.take(at(1)), Some(1));
        // It has ended already, and nothing rests.
        ids.handle_end(1);
        assert_eq!(ids.take(at(29)), None);
        assert_eq!(ids.take(at(30)), Some(0));
        // An end of what was used again meanwhile is not its.
        ids.handle_end(0);
        assert_eq!(ids.take(at(100)), None);
    }
}
