//! When sessions that may last only so long are over.
//!
//! Left out: ending them.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use ahash::RandomState;

use crate::time::Timestamp;

/// The sessions with a limit that run; nothing is held of others.
/// `S` is how a session is known.
#[derive(Debug)]
pub struct SessionEnds<S> {
    ends: HashMap<S, Timestamp, RandomState>,
    /// INVARIANT: holds exactly `ends`, in order of time.
    by_time: BTreeSet<(Timestamp, S)>,
}

impl<S> Default for SessionEnds<S> {
    fn default() -> Self {
        Self {
            ends: HashMap::default(),
            by_time: BTreeSet::new(),
        }
    }
}

impl<S: Copy + Ord + Hash> SessionEnds<S> {
    /// A session that is to end at `end` has begun.
    pub fn insert(&mut self, session: S, end: Timestamp) {
        self.ends.insert(session, end);
        self.by_time.insert((end, session));
    }

    /// A session has ended, whether it had a limit or not.
    pub fn remove(&mut self, session: S) {
        if let Some(end) = self.ends.remove(&session) {
            self.by_time.remove(&(end, session));
        }
    }

    /// When a session is to end, if it has a limit.
    #[must_use]
    pub fn end_of(&self, session: S) -> Option<Timestamp> {
        self.ends.get(&session).copied()
    }

    /// The next session whose time is over. It is not told again.
    #[must_use]
    pub fn poll_due(&mut self, now: Timestamp) -> Option<S> {
        let (end, session) = *self.by_time.first()?;
        (end <= now).then(|| {
            self.remove(session);
            session
        })
    }

    /// When to ask [`Self::poll_due`] next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(end, _)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_told_once_in_order_unless_they_ended_before() {
        let at = Timestamp::from_nanos;
        let session = |number: u32| number;
        let mut ends = SessionEnds::default();
        assert_eq!(ends.next_deadline(), None);
        ends.insert(session(1), at(30));
        ends.insert(session(2), at(10));
        ends.insert(session(3), at(20));
        ends.insert(session(4), at(20));
        ends.remove(session(3));
        ends.remove(session(9));
        assert_eq!(ends.next_deadline(), Some(at(10)));
        assert_eq!(
            (ends.end_of(session(2)), ends.end_of(session(3))),
            (Some(at(10)), None)
        );
        assert_eq!(ends.poll_due(at(9)), None);
        assert_eq!(ends.poll_due(at(20)), Some(session(2)));
        assert_eq!(ends.poll_due(at(20)), Some(session(4)));
        assert_eq!(ends.poll_due(at(20)), None);
        assert_eq!(ends.next_deadline(), Some(at(30)));
        ends.remove(session(1));
        assert_eq!(ends.next_deadline(), None);
    }
}
