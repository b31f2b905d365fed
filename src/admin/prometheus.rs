//! `/metrics`, in the text format of Prometheus, version 0.0.4. Labels are of closed
//! sets, or an agent's relays: none is a session's.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::overview::{Summed, SummedRelay};
use crate::metrics::counters::Label;
use crate::runtime::allocator::allocated_bytes;
use crate::shard::status::{Forwarded, Meetings};
use crate::shard::streams::QuicCensus;

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
    if let Some(forwarded) = &sum.forwarded {
        tunnel_lines(&mut text, forwarded);
    }
    for (name, help, value) in [
        (
            "binds",
            "Clients for whom somebody is awaited by SOCKS5's BIND.",
            sum.binds,
        ),
        (
            "exchanges",
            "HTTP requests that an agent passes on.",
            sum.exchanges,
        ),
        (
            "datagram_associations",
            "Clients whose datagrams are passed on.",
            sum.datagram_associations,
        ),
        (
            "jproxy_tunnels",
            "Tunnels of jProxy whose user is known.",
            sum.jproxy_tunnels,
        ),
        (
            "jproxy_channels",
            "Channels of jProxy's tunnels, those that are being dialled among them.",
            sum.jproxy_channels,
        ),
        (
            "jproxy_files_wrong",
            "Files of jProxy's users that are not taken.",
            sum.jproxy_files_wrong,
        ),
    ] {
        // What this program never has is left out.
        if let Some(value) = value {
            gauge(&mut text, name, help, value);
        }
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
    relay_lines(&mut text, &sum.relays);
    if let Some(quic) = &sum.quic {
        quic_lines(&mut text, &quic.census);
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

/// Forwarded connections of a relay.
fn tunnel_lines(text: &mut String, forwarded: &Forwarded) {
    let Forwarded {
        tunnels,
        census,
        tally,
    } = forwarded;
    let name = "midspan_tunnels_total";
    let help = "Connections forwarded by PTTH, by what became of them.";
    metric(text, name, "counter", help);
    for (event, value) in tally.named() {
        line(text, name, &format!("{{event=\"{event}\"}}"), value);
    }
    for (name, help, value) in [
        (
            "tunnels",
            "Connections forwarded by PTTH that are whole.",
            *tunnels,
        ),
        (
            "listens_waiting",
            "Requests of servers that listen.",
            census.listens_waiting,
        ),
        (
            "connects_waiting",
            "Clients' connections that no server has accepted.",
            census.connects_waiting,
        ),
    ] {
        gauge(text, name, help, value);
    }
}

/// Connections of QUIC, and what goes by them.
fn quic_lines(text: &mut String, census: &QuicCensus) {
    let name = "midspan_quic_connections";
    let help = "Connections of QUIC that are open, by who is at the other end.";
    metric(text, name, "gauge", help);
    for (role, count) in census.connections() {
        line(text, name, &format!("{{role=\"{role}\"}}"), count);
    }
    let help = "Connections of users that go by streams of QUIC.";
    gauge(text, "quic_streams", help, census.streams);
    let name = "midspan_quic_round_trip_max_seconds";
    metric(
        text,
        name,
        "gauge",
        "The longest round trip of a connection of QUIC.",
    );
    let seconds = census.round_trip_max.as_secs_f64();
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{name} {seconds}");
}

/// The relays by which an agent goes out: those of its command line, and so few.
fn relay_lines(text: &mut String, relays: &[SummedRelay]) {
    type Samples = fn(&SummedRelay) -> Vec<(String, u64)>;
    let families: [(&str, &str, &str, Samples); 5] = [
        (
            "relay_down",
            "gauge",
            "Shards for which the relay could not be had, and has not been had since.",
            |relay| vec![(String::new(), relay.shards_down)],
        ),
        (
            "relay_entrances_ready",
            "gauge",
            "Entrances, connections into the relay, that are kept ready.",
            |relay| {
                let entrances = relay.sum.entrances.iter();
                entrances.map(|one| (String::new(), one.ready)).collect()
            },
        ),
        (
            "relay_entrances_opened_total",
            "counter",
            "Entrances that the relay has given.",
            |relay| {
                let entrances = relay.sum.entrances.iter();
                entrances.map(|one| (String::new(), one.opened)).collect()
            },
        ),
        (
            "relay_entrances_used_total",
            "counter",
            "Entrances by which somebody was served.",
            |relay| {
                let used = relay.sum.entrances.iter().flat_map(|one| one.used);
                let used = ["ready", "fresh"].into_iter().zip(used);
                used.map(|(was, count)| (format!(",was=\"{was}\""), count))
                    .collect()
            },
        ),
        (
            "relay_failures_total",
            "counter",
            "How often the relay could not be had, by why.",
            |relay| {
                let failures = relay.sum.failures.iter();
                failures
                    .map(|(why, count)| (format!(",reason=\"{why}\""), *count))
                    .collect()
            },
        ),
    ];
    for (name, kind, help, samples) in families {
        if relays.iter().all(|relay| samples(relay).is_empty()) {
            continue;
        }
        let name = format!("midspan_{name}");
        metric(text, &name, kind, help);
        for relay in relays {
            // One word of a line: nothing in it has to be escaped but a backslash.
            let url = relay.sum.url.replace('\\', "\\\\");
            for (more, value) in samples(relay) {
                line(text, &name, &format!("{{relay=\"{url}\"{more}}}"), value);
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::status::{Entrances, RelayStatus};

    #[test]
    fn a_relay_has_its_samples_and_one_that_is_none_has_no_family() {
        let sum = RelayStatus {
            url: "ws://a\\u{22}@b:1".into(),
            is_down: false,
            entrances: Some(Entrances {
                ready: 4,
                opened: 5,
                used: [6, 7],
            }),
            failures: vec![("mute", 8)],
            last_failure: None,
        };
        let without = SummedRelay {
            sum: RelayStatus {
                entrances: None,
                ..sum.clone()
            },
            shards_down: 1,
        };
        let relay = SummedRelay {
            sum,
            shards_down: 1,
        };
        let mut text = String::new();
        relay_lines(&mut text, &[]);
        assert_eq!(text, "");
        relay_lines(&mut text, &[without]);
        assert!(text.contains("midspan_relay_down{") && !text.contains("entrances"));
        relay_lines(&mut text, &[relay]);
        let url = "ws://a\\\\u{22}@b:1";
        for sample in [
            format!("midspan_relay_down{{relay=\"{url}\"}} 1\n"),
            format!("midspan_relay_entrances_ready{{relay=\"{url}\"}} 4\n"),
            format!("midspan_relay_entrances_opened_total{{relay=\"{url}\"}} 5\n"),
            format!("midspan_relay_entrances_used_total{{relay=\"{url}\",was=\"ready\"}} 6\n"),
            format!("midspan_relay_entrances_used_total{{relay=\"{url}\",was=\"fresh\"}} 7\n"),
            format!("midspan_relay_failures_total{{relay=\"{url}\",reason=\"mute\"}} 8\n"),
        ] {
            assert!(text.contains(&sample), "{sample} is missing: {text}");
        }
    }
}
