//! Sessions that carry nothing for too long.
//!
//! Left out: ending them, and counting what they carry.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use ahash::RandomState;

use crate::time::Timestamp;

/// So many looks are taken in the time that a session may be idle: it is told at the latest
/// that part of it after its time.
const LOOKS: u32 = 8;

/// What sessions had carried at the last looks. `S` is how a session is known.
#[derive(Debug)]
pub struct Idleness<S> {
    seen: HashMap<S, Seen, RandomState>,
    next_look: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    bytes: u64,
    /// Of the first look that saw so many.
    since: Timestamp,
}

impl<S> Default for Idleness<S> {
    fn default() -> Self {
        Self {
            seen: HashMap::default(),
            next_look: None,
        }
    }
}

impl<S: Copy + Eq + Hash> Idleness<S> {
    /// Has looks be taken from `now` on, with sessions that may be idle for `limit`.
    pub fn begin(&mut self, limit: Duration, now: Timestamp) {
        if self.next_look.is_none() {
            self.next_look = Some(now + limit / LOOKS);
        }
    }

    /// When to look next.
    #[must_use]
    pub const fn next_look(&self) -> Option<Timestamp> {
        self.next_look
    }

    /// Looks at all sessions that run, each with the bytes that it has carried; gives those
    /// that have carried nothing for `limit`, which is `None` where that does not matter
    /// any more.
    #[must_use]
    pub fn look(
        &mut self,
        sessions: impl Iterator<Item = (S, u64)>,
        limit: Option<Duration>,
        now: Timestamp,
    ) -> Vec<S> {
        let Some(limit) = limit else {
            *self = Self::default();
            return Vec::new();
        };
        let seen = std::mem::take(&mut self.seen);
        let mut idle = Vec::new();
        for (session, bytes) in sessions {
            let since = match seen.get(&session) {
                Some(seen) if seen.bytes == bytes => seen.since,
                _ => now,
            };
            if now.since(since) >= limit {
                idle.push(session);
            }
            self.seen.insert(session, Seen { bytes, since });
        }
        // Without sessions there is nothing to look at until one begins.
        self.next_look = (!self.seen.is_empty()).then(|| now + limit / LOOKS);
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_carries_nothing_for_the_time_is_told() {
        let at = |seconds: u64| Timestamp::from_nanos(seconds * 1_000_000_000);
        let limit = Duration::from_secs(80);
        let mut idleness = Idleness::default();
        assert_eq!(idleness.next_look(), None);
        idleness.begin(limit, at(0));
        idleness.begin(limit, at(5));
        assert_eq!(idleness.next_look(), Some(at(10)));
        let mut look = |sessions: &[(u32, u64)], seconds| {
            let idle = idleness.look(sessions.iter().copied(), Some(limit), at(seconds));
            (idle, idleness.next_look())
        };
        let next = |seconds| Some(at(seconds));
        assert_eq!(look(&[(1, 0), (2, 5)], 10), (vec![], next(20)));
        assert_eq!(look(&[(1, 0), (2, 6)], 80), (vec![], next(90)));
        assert_eq!(look(&[(1, 0), (2, 6), (3, 0)], 90), (vec![1], next(100)));
        // It is ended; its number may be another's one day.
        assert_eq!(look(&[(2, 6), (3, 1)], 150), (vec![], next(160)));
        assert_eq!(look(&[(2, 6), (1, 0)], 160), (vec![2], next(170)));
        assert_eq!(look(&[], 170), (vec![], None));
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let mut idleness = Idleness::default();
        idleness.begin(Duration::from_secs(8), Timestamp::default());
        let sessions = || [(1, 0)].into_iter();
        let limit = Some(Duration::from_secs(8));
        let _ = idleness.look(sessions(), limit, Timestamp::default());
        let idle = idleness.look(sessions(), None, Timestamp::from_nanos(u64::MAX / 2));
        assert_eq!((idle, idleness.next_look()), (vec![], None));
        assert!(idleness.seen.is_empty());
    }
}
