//! How often each bearer of a key or token may ask, and each user may have us dial.
//!
//! Left out: who is asked for it (one shard for each bearer, each shard its share for
//! users), and addresses: those are in `guesses.rs`, as there is no end of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use ahash::RandomState;

use super::keyring::Denied;
use crate::time::Timestamp;

/// What a rate is told for.
const MINUTE: Duration = Duration::from_secs(60);

/// When each one's requests would be over if they came evenly. A minute's worth may come
/// at once.
///
/// INVARIANT: they are those of the keyring, or of the users, so that there are no more
/// of them.
#[derive(Debug)]
pub struct Rates<K>(HashMap<K, Pace, RandomState>);

/// When what was taken would be over if it came evenly.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace(Timestamp);

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<K: Eq + Hash> Rates<K> {
    /// Takes one request of `bearer` at `now`, of which there may be so many a minute, at
    /// least one.
    ///
    /// # Errors
    ///
    /// [`Denied::TooFast`].
    pub fn take(&mut self, bearer: K, per_minute: u32, now: Timestamp) -> Result<(), Denied> {
        let pace = self.0.entry(bearer).or_default();
        pace.take(per_minute, now)
            .then_some(())
            .ok_or(Denied::TooFast)
    }

    /// Forgets whom there is no reason to remember.
    pub fn keep(&mut self, is_known: impl Fn(&K) -> bool) {
        self.0.retain(|bearer, _| is_known(bearer));
    }
}

impl Pace {
    /// Takes one more at `now`, of which there may be so many a minute, at least one. False where
    /// that is one too many.
    pub fn take(&mut self, per_minute: u32, now: Timestamp) -> bool {
        let next = after_one_more(self.0, per_minute, now);
        self.0 = next.unwrap_or(self.0);
        next.is_some()
    }
}

/// When what would be `over` then is with one more of so many a minute; `None` when that
/// is one too many.
pub(super) fn after_one_more(
    over: Timestamp,
    per_minute: u32,
    now: Timestamp,
) -> Option<Timestamp> {
    let next = over.max(now) + MINUTE / per_minute.max(1);
    (next.since(now) <= MINUTE).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::super::spent::TokenId;
    use super::*;

    #[test]
    fn a_minutes_worth_may_come_at_once_and_then_evenly() {
        let at = |ms: u64| Timestamp::from_nanos(1_000_000 * (1_000_000 + ms));
        let (one, other) = (TokenId([1; 16]), TokenId([2; 16]));
        let mut rates = Rates::default();
        for _ in 0..3 {
            assert_eq!(rates.take(one, 3, at(0)), Ok(()));
        }
        assert_eq!(rates.take(one, 3, at(0)), Err(Denied::TooFast));
        assert_eq!(rates.take(other, 3, at(0)), Ok(()));
        assert_eq!(rates.take(one, 3, at(19_999)), Err(Denied::TooFast));
        assert_eq!(rates.take(one, 3, at(20_000)), Ok(()));
        assert_eq!(rates.take(one, 3, at(20_001)), Err(Denied::TooFast));
        // Who rests has no more than a minute's worth.
        for _ in 0..3 {
            assert_eq!(rates.take(one, 3, at(600_000)), Ok(()));
        }
        assert_eq!(rates.take(one, 3, at(600_000)), Err(Denied::TooFast));
        rates.keep(|bearer| *bearer == other);
        assert_eq!(rates.0.len(), 1);
    }
}
