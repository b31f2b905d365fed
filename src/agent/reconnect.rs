//! How long to wait before the next attempt.
//!
//! Exponential with jitter: the ceiling doubles with each failure, and the
//! delay is drawn from its upper half. So a relay that comes back is not met by
//! all its peers in the same moment, and none of them hammers one that stays
//! away.

use std::time::Duration;

use super::random::random_number;
use crate::runtime::reactor::Reactor;

/// The shortest delay.
pub const DELAY_MIN: Duration = Duration::from_millis(100);

/// The longest delay.
pub const DELAY_MAX: Duration = Duration::from_secs(10);

/// Doublings after which the ceiling is [`DELAY_MAX`] for certain.
const DOUBLINGS_MAX: u32 = 7;

const _: () = assert!((DELAY_MIN.as_millis() << DOUBLINGS_MAX) >= DELAY_MAX.as_millis());

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after one more failure: from [`DELAY_MIN`] to [`DELAY_MAX`].
    /// `random` is uniform.
    pub fn handle_failure(&mut self, random: u64) -> Duration {
        self.failures = (self.failures + 1).min(DOUBLINGS_MAX);
        self.delay(random)
    }

    /// A delay as long as after the last failure, with none more.
    pub fn delay(self, random: u64) -> Duration {
        let ceiling = (DELAY_MIN * (1 << self.failures)).min(DELAY_MAX);
        let half_ns = u64::try_from(ceiling.as_nanos() / 2).unwrap_or(u64::MAX);
        Duration::from_nanos(half_ns + random % (half_ns + 1))
    }

    /// One more failure: sleeps for its delay.
    pub(super) async fn rest(&mut self, reactor: &Reactor) {
        let until = reactor.now() + self.handle_failure(random_number());
        reactor.sleep_until(until).await;
    }

    /// What was tried works again.
    pub fn handle_success(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The delays in milliseconds of ten failures in a row.
    fn delays_ms(random: u64) -> Vec<u128> {
        let mut backoff = Backoff::default();
        (0..10)
            .map(|_| backoff.handle_failure(random).as_millis())
            .collect()
    }

    #[test]
    fn doubles_within_its_bounds() {
        assert_eq!(
            delays_ms(0),
            [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000]
        );
        // The highest draw of each round: half of the ceiling, inclusive.
        let mut backoff = Backoff::default();
        for ceiling_ms in [200_u64, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let delay = backoff.handle_failure(ceiling_ms * 500_000);
            assert_eq!(delay, Duration::from_millis(ceiling_ms));
        }
    }

    #[test]
    fn any_draw_is_within_the_bounds() {
        for seed in 0..1000_u64 {
            let mut backoff = Backoff::default();
            for step in 1..20 {
                let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(step);
                let delay = backoff.handle_failure(random);
                assert!((DELAY_MIN..=DELAY_MAX).contains(&delay), "{delay:?}");
            }
        }
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.handle_failure(7);
        }
        backoff.handle_success();
        assert_eq!(backoff.handle_failure(0), DELAY_MIN);
        assert_eq!(backoff.delay(0), DELAY_MIN);
    }
}
