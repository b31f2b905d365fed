//! How often each bearer of a key or token may ask.
//!
//! Left out: who is asked for it (one shard for each bearer), and addresses.

use std::collections::HashMap;
use std::time::Duration;

use ahash::RandomState;

use super::keyring::Denied;
use super::spent::TokenId;
use crate::time::Timestamp;

/// What a rate is told for.
const MINUTE: Duration = Duration::from_secs(60);

/// When each bearer's requests would be over if they came evenly. A minute's worth may
/// come at once.
///
/// INVARIANT: bearers are those of the keyring, so that there are no more of them.
#[derive(Debug, Default)]
pub struct Rates(HashMap<TokenId, Timestamp, RandomState>);

impl Rates {
    /// Takes one request of `bearer` at `now`, of which there may be so many a minute, at
    /// least one.
    ///
    /// # Errors
    ///
    /// [`Denied::TooFast`].
    pub fn take(&mut self, bearer: TokenId, per_minute: u32, now: Timestamp) -> Result<(), Denied> {
        let step = MINUTE / per_minute.max(1);
        let over = self.0.entry(bearer).or_insert(now);
        let next = (*over).max(now) + step;
        if next.since(now) > MINUTE {
            return Err(Denied::TooFast);
        }
        *over = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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
    }
}
