//! All shards in one, as `/status` tells it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::quic_view::QuicView;
use crate::association::census::Tally;
use crate::metrics::counters::Label;
use crate::metrics::latency::Latencies;
use crate::relay::Usage;
use crate::runtime::allocator::allocated_bytes;
use crate::shard::status::{
    Entrances, Forwarded, Meetings, PlaceStatus, RelayStatus, SessionStatus, SessionStatuses,
    ShardStatus, TunnelStatus,
};
use crate::shard::streams::QuicStatus;
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
    /// `None` of a program that never has any, as with the next two.
    pub(super) binds: Option<u64>,
    pub(super) connections: u64,
    pub(super) datagram_associations: Option<u64>,
    pub(super) jproxy_tunnels: Option<u64>,
    pub(super) jproxy_channels: Option<u64>,
    pub(super) jproxy_files_wrong: Option<u64>,
    pub(super) exchanges: Option<u64>,
    pub(super) usage: Usage,
    pub(super) counters: ShardSnapshot,
    pub(super) latencies: Latencies,
    pub(super) meetings: Option<Meetings>,
    pub(super) forwarded: Option<Forwarded>,
    /// Where they were asked for, of a relay.
    pub(super) tunnels: Option<Vec<TunnelStatus>>,
    /// As `tunnels`.
    pub(super) places: Vec<PlaceStatus>,
    /// Where they were asked for, and are known.
    pub(super) sessions: Option<SessionStatuses>,
    /// Each once, whichever shards go out by it.
    pub(super) relays: Vec<SummedRelay>,
    /// Where it is spoken.
    pub(super) quic: Option<QuicStatus>,
}

/// One relay as all shards see it.
#[derive(Debug)]
pub(super) struct SummedRelay {
    pub(super) sum: RelayStatus,
    /// Shards for which it is down.
    pub(super) shards_down: u64,
}

impl Summed {
    pub(super) fn of(statuses: Vec<ShardStatus>, shards: usize) -> Self {
        let mut sum = Self {
            shards,
            answering: statuses.iter().filter(|one| !one.has_ended).count(),
            ended: statuses.iter().filter(|one| one.has_ended).count(),
            is_draining: false,
            handshakes: 0,
            binds: None,
            connections: 0,
            datagram_associations: None,
            jproxy_tunnels: None,
            jproxy_channels: None,
            jproxy_files_wrong: None,
            exchanges: None,
            usage: Usage::default(),
            counters: ShardSnapshot::zero(),
            latencies: Latencies::new(),
            meetings: None,
            forwarded: None,
            tunnels: None,
            places: Vec::new(),
            sessions: None,
            relays: Vec::new(),
            quic: None,
        };
        for status in statuses {
            sum.is_draining |= status.is_draining;
            sum.handshakes += status.handshakes;
            sum.connections += status.connections;
            for (sum, count) in [
                (&mut sum.binds, status.binds),
                (&mut sum.datagram_associations, status.datagram_associations),
                (&mut sum.jproxy_tunnels, status.jproxy_tunnels),
                (&mut sum.jproxy_channels, status.jproxy_channels),
                (&mut sum.exchanges, status.exchanges),
            ] {
                if let Some(count) = count {
                    *sum.get_or_insert_default() += count;
                }
            }
            sum.jproxy_files_wrong = sum.jproxy_files_wrong.max(status.jproxy_files_wrong);
            sum.usage += status.usage;
            sum.counters.merge(&status.counters);
            sum.latencies.merge(&status.latencies);
            if let Some(meetings) = status.meetings {
                *sum.meetings.get_or_insert_default() += meetings;
            }
            if let Some(forwarded) = status.forwarded {
                *sum.forwarded.get_or_insert_default() += forwarded;
            }
            if let Some(tunnels) = status.tunnels {
                sum.tunnels.get_or_insert_default().extend(tunnels);
            }
            sum.places.extend(status.places);
            if let Some(sessions) = status.sessions {
                let sum = sum.sessions.get_or_insert_default();
                sum.told.extend(sessions.told);
                sum.count += sessions.count;
            }
            if let Some(quic) = status.quic {
                *sum.quic.get_or_insert_default() += quic;
            }
            for relay in status.relays {
                sum.add_relay(relay);
            }
        }
        sum
    }

    fn add_relay(&mut self, relay: RelayStatus) {
        let shards_down = u64::from(relay.is_down);
        let known = self.relays.iter_mut().find(|one| one.sum.url == relay.url);
        let Some(SummedRelay {
            sum,
            shards_down: down,
        }) = known
        else {
            let sum = relay;
            return self.relays.push(SummedRelay { sum, shards_down });
        };
        *down += shards_down;
        if let (Some(sum), Some(entrances)) = (&mut sum.entrances, relay.entrances) {
            sum.ready += entrances.ready;
            sum.opened += entrances.opened;
            for (sum, used) in sum.used.iter_mut().zip(entrances.used) {
                *sum += used;
            }
        }
        for ((_, sum), (_, count)) in sum.failures.iter_mut().zip(relay.failures) {
            *sum += count;
        }
        let failures = [sum.last_failure.take(), relay.last_failure];
        let latest = failures.into_iter().flatten().min_by_key(|one| one.ago);
        sum.last_failure = latest;
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
    /// Of a relay, and of an agent that has one await somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binds: Option<u64>,
    pub pairs: u64,
    /// Of an agent that passes them on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchanges: Option<u64>,
    /// As `binds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagram_associations: Option<u64>,
    /// Tunnels of jProxy, as `binds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jproxy_tunnels: Option<u64>,
    /// Their channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jproxy_channels: Option<u64>,
    /// Of a relay: users' files that it does not take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jproxy_files_wrong: Option<u64>,
    /// Of a relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub associations: Option<Associations>,
    /// Of a relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<ForwardedView>,
    /// Allocated by the program.
    pub memory_bytes: u64,
    pub spill_bytes: u64,
    pub pipes_in_use: u64,
    pub pipes_idle: u64,
    pub counts: Vec<Named>,
    pub ended: Vec<Named>,
    pub refused: Vec<Named>,
    pub latency: Vec<Percentiles>,
    /// Those by which an agent goes out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayView>,
    /// Of an agent that knows where they go, so many of each shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Vec<SessionView>>,
    /// How many they are with those that are not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_count: Option<u64>,
    /// Where it is spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic: Option<QuicView>,
}

/// Forwarded connections, and what became of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForwardedView {
    pub tunnels: u64,
    pub listens_waiting: u64,
    pub connects_waiting: u64,
    pub events: Vec<Named>,
    /// Those that are whole, one by one.
    #[serde(default)]
    pub running: Vec<TunnelView>,
    /// The ports at which somebody waits, in order, so many of each shard.
    #[serde(default)]
    pub ports: Vec<PortView>,
}

/// One tunnel that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TunnelView {
    pub client: String,
    pub server: String,
    pub port: String,
    /// The client's address, and the server's.
    pub left: String,
    pub right: String,
    pub left_bytes: u64,
    pub right_bytes: u64,
    pub lasted_s: u64,
}

/// One port of a server, at which somebody waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortView {
    pub server: String,
    pub port: String,
    pub listens_waiting: u64,
    /// Connections that wait for one who listens.
    pub connects_waiting: u64,
}

/// One relay by which an agent goes out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayView {
    pub relay: String,
    /// Shards for which it could not be had, and has not been had since.
    pub shards_down: u64,
    /// Of an agent that keeps some.
    #[serde(flatten)]
    pub entrances: Option<EntrancesView>,
    pub failures: Vec<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<FailureView>,
}

/// Connections into a relay.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct EntrancesView {
    pub entrances_ready: u64,
    pub entrances_opened: u64,
    pub entrances_used_ready: u64,
    pub entrances_used_fresh: u64,
}

/// Why a relay could not be had.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureView {
    pub why: String,
    pub error: String,
    pub ago_s: u64,
}

/// One session that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionView {
    pub kind: String,
    pub peer: String,
    pub target: Option<String>,
    pub way: Option<String>,
    pub left_bytes: u64,
    pub right_bytes: u64,
    pub lasted_s: u64,
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
            binds: sum.binds,
            pairs: sum.usage.pairs as u64,
            exchanges: sum.exchanges,
            datagram_associations: sum.datagram_associations,
            jproxy_tunnels: sum.jproxy_tunnels,
            jproxy_channels: sum.jproxy_channels,
            jproxy_files_wrong: sum.jproxy_files_wrong,
            associations: sum.meetings.map(Associations::of),
            forwarded: sum
                .forwarded
                .map(|forwarded| ForwardedView::of(forwarded, sum)),
            memory_bytes: allocated_bytes(),
            spill_bytes: sum.usage.spill_bytes,
            pipes_in_use: sum.usage.pipes_in_use as u64,
            pipes_idle: sum.usage.pipes_idle as u64,
            counts: named(sum.counters.counts()),
            ended: named(sum.counters.all_ended()),
            refused: named(sum.counters.all_refused()),
            latency: sum.latencies.named().map(percentiles).into(),
            relays: sum.relays.iter().map(RelayView::of).collect(),
            sessions: sum
                .sessions
                .as_ref()
                .map(|sessions| sessions.told.iter().map(SessionView::of).collect()),
            sessions_count: sum.sessions.as_ref().map(|sessions| sessions.count),
            quic: sum.quic.as_ref().map(QuicView::of),
        }
    }
}

impl ForwardedView {
    /// Whether anybody has asked for a forwarded port.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.listens_waiting > 0 || self.events.iter().any(|event| event.count > 0)
    }

    fn of(forwarded: Forwarded, sum: &Summed) -> Self {
        let Forwarded {
            tunnels,
            census,
            tally,
        } = forwarded;
        let event = |(name, count): (&str, u64)| Named {
            name: name.to_owned(),
            count,
        };
        let running = sum.tunnels.iter().flatten();
        let mut ports: Vec<_> = sum.places.iter().map(PortView::of).collect();
        ports.sort_by(|one, other| (&one.server, &one.port).cmp(&(&other.server, &other.port)));
        Self {
            tunnels,
            listens_waiting: census.listens_waiting,
            connects_waiting: census.connects_waiting,
            events: tally.named().map(event).into(),
            running: running.map(TunnelView::of).collect(),
            ports,
        }
    }
}

impl PortView {
    fn of(status: &PlaceStatus) -> Self {
        Self {
            server: status.place.server.to_string(),
            port: status.place.port.to_string(),
            listens_waiting: status.listens,
            connects_waiting: status.connects,
        }
    }
}

impl TunnelView {
    fn of(tunnel: &TunnelStatus) -> Self {
        let [left, right] = tunnel.peers;
        let [left_bytes, right_bytes] = tunnel.bytes;
        Self {
            client: tunnel.client.to_string(),
            server: tunnel.place.server.to_string(),
            port: tunnel.place.port.to_string(),
            left: left.to_string(),
            right: right.to_string(),
            left_bytes,
            right_bytes,
            lasted_s: tunnel.lasted.as_secs(),
        }
    }
}

impl RelayView {
    fn of(relay: &SummedRelay) -> Self {
        let SummedRelay { sum, shards_down } = relay;
        let failures = sum.failures.iter().map(|(name, count)| Named {
            name: (*name).to_owned(),
            count: *count,
        });
        let last_failure = sum.last_failure.as_ref().map(|last| FailureView {
            why: last.why.to_owned(),
            error: last.error.to_string(),
            ago_s: last.ago.as_secs(),
        });
        Self {
            relay: sum.url.to_string(),
            shards_down: *shards_down,
            entrances: sum.entrances.map(EntrancesView::of),
            failures: failures.collect(),
            last_failure,
        }
    }
}

impl EntrancesView {
    const fn of(entrances: Entrances) -> Self {
        let Entrances {
            ready,
            opened,
            used: [used_ready, used_fresh],
        } = entrances;
        Self {
            entrances_ready: ready,
            entrances_opened: opened,
            entrances_used_ready: used_ready,
            entrances_used_fresh: used_fresh,
        }
    }
}

impl SessionView {
    fn of(session: &SessionStatus) -> Self {
        let [left_bytes, right_bytes] = session.bytes;
        Self {
            kind: session.kind.to_owned(),
            peer: session.peer.to_string(),
            target: session.target.as_deref().map(str::to_owned),
            way: session.way.as_deref().map(str::to_owned),
            left_bytes,
            right_bytes,
            lasted_s: session.lasted.as_secs(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::status::RelayFailure;

    #[test]
    fn a_relay_is_told_once_whichever_shards_go_out_by_it() {
        let failure = |why, seconds| RelayFailure {
            why,
            error: "x".into(),
            ago: Duration::from_secs(seconds),
        };
        let seen = |url: &str, is_down, last_failure| RelayStatus {
            url: url.into(),
            is_down,
            entrances: Some(Entrances {
                ready: 4,
                opened: 5,
                used: [1, 2],
            }),
            failures: vec![("mute", 3), ("refuses", 0)],
            last_failure,
        };
        let mut sum = Summed::of(Vec::new(), 2);
        sum.add_relay(seen("a", true, Some(failure("refuses", 9))));
        sum.add_relay(seen("b", false, None));
        sum.add_relay(seen("a", false, Some(failure("mute", 2))));
        let views: Vec<_> = sum.relays.iter().map(RelayView::of).collect();
        let [a, b] = &views[..] else {
            panic!("{views:?}");
        };
        assert_eq!((&*a.relay, a.shards_down), ("a", 1));
        let entrances = a.entrances.expect("some");
        let used = [
            entrances.entrances_used_ready,
            entrances.entrances_used_fresh,
        ];
        let counts = (entrances.entrances_ready, entrances.entrances_opened);
        assert_eq!((counts, used), ((8, 10), [2, 4]));
        assert_eq!(a.failures[0].count, 6);
        let last = a.last_failure.as_ref().expect("one");
        assert_eq!((&*last.why, last.ago_s), ("mute", 2));
        let opened = b.entrances.map(|entrances| entrances.entrances_opened);
        assert_eq!((&*b.relay, opened), ("b", Some(5)));
        assert!(b.last_failure.is_none());
    }
}
