//! When an open loop intends to send: evenly spread, whatever the answers do.
//!
//! A closed loop waits for an answer before it sends again, so a relay that
//! stalls is asked less often while it stalls, and its worst moments hardly
//! count. Here every message has its time from the start, and its latency is
//! counted from that time, however late it really went out.

use std::time::Duration;

use midspan::time::Timestamp;

/// Messages at a fixed rate, dealt to the pairs in turn.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start: Timestamp,
    rate: u64,
    pairs: u64,
    released: u64,
}

impl Schedule {
    /// `rate` messages a second over all of `pairs`, from `start` on. Neither
    /// may be 0.
    pub(crate) fn new(start: Timestamp, rate: u32, pairs: u32) -> Self {
        debug_assert!(rate > 0 && pairs > 0, "a schedule needs a rate and pairs");
        Self {
            start,
            rate: rate.into(),
            pairs: pairs.into(),
            released: 0,
        }
    }

    /// The pair whose next message is due, if one is by `now`; call until
    /// `None`.
    pub(crate) fn poll_due(&mut self, now: Timestamp) -> Option<u32> {
        if self.next_due() > now {
            return None;
        }
        let pair = self.released % self.pairs;
        self.released += 1;
        u32::try_from(pair).ok()
    }

    /// When the next message over all pairs is due.
    pub(crate) fn next_due(&self) -> Timestamp {
        self.at(self.released)
    }

    /// When a pair's message with this number, from 0, was intended.
    pub(crate) fn intended(&self, pair: u32, number: u64) -> Timestamp {
        self.at(number * self.pairs + u64::from(pair))
    }

    fn at(&self, position: u64) -> Timestamp {
        let nanos = u128::from(position) * 1_000_000_000 / u128::from(self.rate);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn messages_are_dealt_in_turn_and_on_time() {
        let mut schedule = Schedule::new(at(100), 1_000_000, 3);
        assert_eq!(schedule.poll_due(at(99)), None);
        let mut due = Vec::new();
        for now in [100, 1_099, 1_100, 4_100] {
            while let Some(pair) = schedule.poll_due(at(now)) {
                due.push((now, pair));
            }
        }
        assert_eq!(
            due,
            [(100, 0), (1_100, 1), (4_100, 2), (4_100, 0), (4_100, 1)]
        );
        assert_eq!(schedule.next_due(), at(5_100));
        assert_eq!(schedule.intended(0, 1), at(3_100));
        assert_eq!(schedule.intended(2, 0), at(2_100));
    }

    #[test]
    fn rates_that_do_not_divide_a_second_do_not_drift() {
        let schedule = Schedule::new(at(0), 3, 1);
        assert_eq!(schedule.intended(0, 3_000_000), at(1_000_000_000_000_000));
    }
}
