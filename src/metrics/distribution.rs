//! Histograms as the tools around HdrHistogram read them.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

/// The percentile distribution as HdrHistogram's plotter reads it (`.hgrm`). A
/// value is told as so many times `unit`.
#[expect(clippy::cast_precision_loss, reason = "values are told in 12 digits")]
#[must_use]
pub fn hgrm(histogram: &Histogram<u64>, unit: f64) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let told = |value: u64| value as f64 / unit;
    let mut count = 0;
    for value in histogram.iter_quantiles(5) {
        count += value.count_since_last_iteration();
        let quantile = value.quantile_iterated_to();
        let inverse = match quantile {
            quantile if quantile < 1.0 => format!("{:14.2}", 1.0 / (1.0 - quantile)),
            _ => format!("{:>14}", "inf"),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "{:12.3} {quantile:14.12} {count:10} {inverse}",
            told(value.value_iterated_to())
        );
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n\
         #[Max     = {:12.3}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]",
        histogram.mean() / unit,
        histogram.stdev() / unit,
        told(histogram.max()),
        histogram.len(),
        histogram.buckets(),
        1 << 11,
    );
    text
}

/// The same as an interval log of one interval (`.hlog`), which began at `started`
/// since 1970 and took so long.
///
/// # Errors
///
/// When it cannot be compressed.
pub fn hlog(
    histogram: &Histogram<u64>,
    started: Duration,
    lasted: Duration,
    unit: f64,
) -> io::Result<Vec<u8>> {
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .with_max_value_divisor(unit)
        .begin_log_with(&mut log, &mut serializer)?;
    writer
        .write_histogram(histogram, started, lasted, None)
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_ends_with_all_values() {
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record(3000).unwrap();
        histogram.record(5000).unwrap();
        let text = hgrm(&histogram, 1e3);
        let last = text.lines().rfind(|line| line.contains("inf")).unwrap();
        let fields: Vec<_> = last.split_ascii_whitespace().collect();
        assert_eq!(fields[1..], ["1.000000000000", "2", "inf"]);
        assert!(text.contains("Total count    =            2"), "{text}");
    }

    #[test]
    fn a_log_is_read_as_it_was_written() {
        use hdrhistogram::serialization::Deserializer;
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
        let mut histogram = Histogram::<u64>::new(2).unwrap();
        histogram.record(4242).unwrap();
        let (started, lasted) = (Duration::from_secs(7), Duration::from_secs(3));
        let log = hlog(&histogram, started, lasted, 1e3).unwrap();
        let entries: Vec<_> = IntervalLogIterator::new(&log).map(Result::unwrap).collect();
        let Some(LogEntry::Interval(interval)) = entries.last() else {
            panic!("{entries:?}");
        };
        assert_eq!(
            (interval.start_timestamp(), interval.duration()),
            (started, lasted)
        );
        let bytes = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            interval.encoded_histogram(),
        );
        let read: Histogram<u64> = Deserializer::new()
            .deserialize(&mut &bytes.unwrap()[..])
            .unwrap();
        assert_eq!(read, histogram);
    }
}
