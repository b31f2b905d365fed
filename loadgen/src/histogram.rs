//! Latencies: an HDR histogram in nanoseconds, told in microseconds.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use midspan::metrics::distribution::hgrm;
use serde::Serialize;

/// Longer ones count as this.
const LATENCY_NS_MAX: u64 = 100_000_000_000;

/// What a histogram counts in, of what it is told in.
const NANOS_PER_MICRO: f64 = 1e3;

/// Three digits: a value is off by at most a thousandth.
const DIGITS: u8 = 3;

pub(crate) fn new() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS)?)
}

pub(crate) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
}

/// The figures that a report shows, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p99_9_us: f64,
    pub(crate) max_us: f64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Self {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: us(histogram.max()),
        }
    }
}

fn us(nanos: u64) -> f64 {
    nanos as f64 / NANOS_PER_MICRO
}

/// Writes the percentile distribution in the form that HdrHistogram's own
/// plotter reads (`.hgrm`), in microseconds.
pub(crate) fn write_hgrm(path: &Path, histogram: &Histogram<u64>) -> anyhow::Result<()> {
    fs::write(path, hgrm(histogram, NANOS_PER_MICRO))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_told_in_microseconds() {
        let mut histogram = new().unwrap();
        for us in 1..=1000 {
            record(&mut histogram, Duration::from_micros(us));
        }
        let latency = Latency::of(&histogram);
        assert!((latency.p50_us - 500.0).abs() < 1.0, "{latency:?}");
        assert!((latency.p99_us - 990.0).abs() < 1.5, "{latency:?}");
        assert!((latency.max_us - 1000.0).abs() < 1.5, "{latency:?}");
        record(&mut histogram, Duration::from_secs(1000));
        assert_eq!(histogram.len(), 1001);
    }
}
