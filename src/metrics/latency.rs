//! How long things take, as HDR histograms in microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest time that is told apart: a day. What takes longer counts as that.
const LONGEST_US: u64 = 24 * 60 * 60 * 1_000_000;

/// Two digits: each value is within a hundredth of what it was. A histogram takes
/// some 20 KiB once it is used.
const DIGITS: u8 = 2;

/// One shard's times, or their sum over several.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// From a connector's first moment until it is joined.
    pub join: Histogram<u64>,
    /// From there until the first byte goes through.
    pub first_byte: Histogram<u64>,
    /// From there until the session ends.
    pub session: Histogram<u64>,
}

impl Latencies {
    /// Nothing was measured.
    ///
    /// # Panics
    ///
    /// Never: the bounds are fixed.
    #[must_use]
    pub fn new() -> Self {
        let empty = || match Histogram::new_with_max(LONGEST_US, DIGITS) {
            Ok(histogram) => histogram,
            Err(error) => unreachable!("the bounds are fixed: {error}"),
        };
        Self {
            join: empty(),
            first_byte: empty(),
            session: empty(),
        }
    }

    /// Adds what another has measured.
    pub fn merge(&mut self, other: &Self) {
        for (sum, one) in [
            (&mut self.join, &other.join),
            (&mut self.first_byte, &other.first_byte),
            (&mut self.session, &other.session),
        ] {
            let added = sum.add(one);
            debug_assert_eq!(added, Ok(()), "all have the same bounds");
        }
    }

    /// Each by its name.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, &Histogram<u64>); 3] {
        [
            ("join", &self.join),
            ("first_byte", &self.first_byte),
            ("session", &self.session),
        ]
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

/// Records one time.
pub fn record(histogram: &mut Histogram<u64>, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    histogram.saturating_record(micros.min(LONGEST_US));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_within_a_hundredth_and_sums_are_exact_in_number() {
        let (mut one, mut other) = (Latencies::new(), Latencies::new());
        record(&mut one.join, Duration::from_micros(1234));
        record(&mut other.join, Duration::from_secs(100_000_000));
        record(&mut other.session, Duration::ZERO);
        one.merge(&other);
        assert_eq!(one.join.len(), 2);
        let low = one.join.value_at_quantile(0.5);
        assert!((1220..=1250).contains(&low), "{low}");
        assert_eq!(one.session.len(), 1);
        assert_eq!(one.first_byte.len(), 0);
    }
}
