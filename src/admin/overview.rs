//! All shards in one, as `/status` tells it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::association::census::Tally;
use crate::metrics::counters::Label;
use crate::metrics::latency::Latencies;
use crate::relay::Usage;
use crate::runtime::allocator::allocated_bytes;
use crate::shard::status::{Meetings, ShardStatus};
use crate::shard::world::ShardSnapshot;

/// What the whole process is at.
#[derive(Debug)]
pub(super) struct Summed {
    pub(super) shards: usize,
    /// Those that answered.
    pub(super) answering: usize,
    /// Those that have drained and ended.
    pub(super) ended: usize,
    pub(super) is_draining: bool,
    pub(super) handshakes: u64,
    pub(super) connections: u64,
    pub(super) usage: Usage,
    pub(super) counters: ShardSnapshot,
    pub(super) latencies: Latencies,
    pub(super) meetings: Option<Meetings>,
}

impl Summed {
    pub(super) fn of(statuses: &[ShardStatus], shards: usize) -> Self {
        let mut sum = Self {
            shards,
            answering: statuses.iter().filter(|one| !one.has_ended).count(),
            ended: statuses.iter().filter(|one| one.has_ended).count(),
            is_draining: false,
            handshakes: 0,
            connections: 0,
            usage: Usage::default(),
            counters: ShardSnapshot::zero(),
            latencies: Latencies::new(),
            meetings: None,
        };
        for status in statuses {
            sum.is_draining |= status.is_draining;
            sum.handshakes += status.handshakes;
            sum.connections += status.connections;
            sum.usage += status.usage;
            sum.counters.merge(&status.counters);
            sum.latencies.merge(&status.latencies);
            if let Some(meetings) = status.meetings {
                *sum.meetings.get_or_insert_default() += meetings;
            }
        }
        sum
    }

    /// Whether new sessions are served.
    pub(super) const fn is_ready(&self) -> bool {
        self.answering == self.shards && !self.is_draining
    }
}

/// `/status`. Its names are those of the metrics.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overview {
    pub version: String,
    pub uptime_s: u64,
    pub shards: usize,
    pub shards_answering: usize,
    pub shards_ended: usize,
    pub draining: bool,
    pub connections: u64,
    pub handshakes: u64,
    /// Of a relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
    pub pairs: u64,
    /// Of a relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub associations: Option<Associations>,
    /// Allocated by the program.
    pub memory_bytes: u64,
    pub spill_bytes: u64,
    pub pipes_in_use: u64,
    pub pipes_idle: u64,
    pub counts: Vec<Named>,
    pub ended: Vec<Named>,
    pub refused: Vec<Named>,
    pub latency: Vec<Percentiles>,
}

/// What became of associations.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Associations {
    pub live: u64,
    pub waiting: u64,
    pub connected: u64,
    pub created: u64,
    pub expired: u64,
    pub ended: u64,
    pub deleted: u64,
}

/// One counter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub count: u64,
}

/// One histogram, in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Percentiles {
    pub name: String,
    pub count: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl Overview {
    pub(super) fn of(sum: &Summed, uptime: Duration) -> Self {
        let percentiles = |(name, histogram): (&str, &hdrhistogram::Histogram<u64>)| {
            let at = |quantile| histogram.value_at_quantile(quantile);
            Percentiles {
                name: name.to_owned(),
                count: histogram.len(),
                p50_us: at(0.5),
                p90_us: at(0.9),
                p99_us: at(0.99),
                p999_us: at(0.999),
                max_us: histogram.max(),
            }
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: uptime.as_secs(),
            shards: sum.shards,
            shards_answering: sum.answering,
            shards_ended: sum.ended,
            draining: sum.is_draining,
            connections: sum.connections,
            handshakes: sum.handshakes,
            waiting: sum.meetings.map(|meetings| meetings.waiting),
            pairs: sum.usage.pairs as u64,
            associations: sum.meetings.map(Associations::of),
            memory_bytes: allocated_bytes(),
            spill_bytes: sum.usage.spill_bytes,
            pipes_in_use: sum.usage.pipes_in_use as u64,
            pipes_idle: sum.usage.pipes_idle as u64,
            counts: named(sum.counters.counts()),
            ended: named(sum.counters.all_ended()),
            refused: named(sum.counters.all_refused()),
            latency: sum.latencies.named().map(percentiles).into(),
        }
    }
}

impl Associations {
    const fn of(Meetings { census, tally, .. }: Meetings) -> Self {
        let Tally {
            created,
            expired,
            ended,
            deleted,
        } = tally;
        Self {
            live: census.associations,
            waiting: census.waiting,
            connected: census.connected,
            created,
            expired,
            ended,
            deleted,
        }
    }
}

fn named<L: Label>(counts: impl Iterator<Item = (L, u64)>) -> Vec<Named> {
    let one = |(label, count): (L, u64)| Named {
        name: label.as_str().to_owned(),
        count,
    };
    counts.map(one).collect()
}
