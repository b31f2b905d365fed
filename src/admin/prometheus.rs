//! `/metrics`, in the text format of Prometheus, version 0.0.4. Labels are of closed
//! sets: none is a session's or an address's.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::overview::Summed;
use crate::metrics::counters::Label;
use crate::runtime::allocator::allocated_bytes;
use crate::shard::status::Meetings;

/// Upper bounds of the buckets, in microseconds: from a round trip on one host to a
/// day.
const BUCKETS_US: [u64; 14] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    10_000_000,
    600_000_000,
    86_400_000_000,
];

pub(super) fn metrics(sum: &Summed) -> String {
    let mut text = String::new();
    for (count, value) in sum.counters.counts() {
        let name = format!("midspan_{}_total", count.as_str());
        metric(&mut text, &name, "counter", "See docs/operating.md.");
        line(&mut text, &name, "", value);
    }
    labelled(
        &mut text,
        "midspan_sessions_ended_total",
        "Sessions that ended, by how.",
        "reason",
        sum.counters.all_ended(),
    );
    labelled(
        &mut text,
        "midspan_refused_total",
        "Peers that were turned away, by why.",
        "reason",
        sum.counters.all_refused(),
    );
    if let Some(meetings) = &sum.meetings {
        meeting_lines(&mut text, meetings);
    }
    for (name, help, value) in [
        ("pairs", "Pairs that are joined.", sum.usage.pairs as u64),
        ("connections", "Connections that are open.", sum.connections),
        (
            "handshakes",
            "Connections that have not said what they want.",
            sum.handshakes,
        ),
        (
            "memory_bytes",
            "Bytes that the program has allocated.",
            allocated_bytes(),
        ),
        (
            "spill_bytes",
            "Bytes that wait for a destination.",
            sum.usage.spill_bytes,
        ),
        (
            "pipes_in_use",
            "Pipes that hold bytes.",
            sum.usage.pipes_in_use as u64,
        ),
        (
            "pipes_idle",
            "Empty pipes that are kept.",
            sum.usage.pipes_idle as u64,
        ),
        (
            "shards_answering",
            "Shards that answered.",
            sum.answering as u64,
        ),
        (
            "ready",
            "1 when new sessions are served.",
            u64::from(sum.is_ready()),
        ),
    ] {
        gauge(&mut text, name, help, value);
    }
    for (name, histogram) in sum.latencies.named() {
        histogram_lines(&mut text, &format!("midspan_{name}_seconds"), histogram);
    }
    text
}

/// Who waits for whom at a relay.
fn meeting_lines(text: &mut String, meetings: &Meetings) {
    let Meetings {
        waiting,
        census,
        tally,
    } = meetings;
    let name = "midspan_associations_total";
    metric(
        text,
        name,
        "counter",
        "Associations, by what became of them.",
    );
    for (event, value) in [
        ("created", tally.created),
        ("expired", tally.expired),
        ("ended", tally.ended),
        ("deleted", tally.deleted),
    ] {
        line(text, name, &format!("{{event=\"{event}\"}}"), value);
    }
    gauge(
        text,
        "associations",
        "Associations that are known.",
        census.associations,
    );
    gauge(text, "waiting", "Acceptors that wait.", *waiting);
}

fn labelled<L: Label>(
    text: &mut String,
    name: &str,
    help: &str,
    label: &str,
    counts: impl Iterator<Item = (L, u64)>,
) {
    metric(text, name, "counter", help);
    for (value, count) in counts {
        line(
            text,
            name,
            &format!("{{{label}=\"{}\"}}", value.as_str()),
            count,
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sum is for averages")]
fn histogram_lines(text: &mut String, name: &str, histogram: &Histogram<u64>) {
    metric(text, name, "histogram", "See docs/operating.md.");
    for bound_us in BUCKETS_US {
        let below = histogram.count_between(0, bound_us);
        let seconds = bound_us as f64 / 1e6;
        line(
            text,
            &format!("{name}_bucket"),
            &format!("{{le=\"{seconds}\"}}"),
            below,
        );
    }
    line(
        text,
        &format!("{name}_bucket"),
        "{le=\"+Inf\"}",
        histogram.len(),
    );
    let sum = histogram.mean() * histogram.len() as f64 / 1e6;
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{name}_sum {sum}");
    line(text, &format!("{name}_count"), "", histogram.len());
}

fn gauge(text: &mut String, name: &str, help: &str, value: u64) {
    let name = format!("midspan_{name}");
    metric(text, &name, "gauge", help);
    line(text, &name, "", value);
}

fn metric(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(text, "{name}{labels} {value}");
}
