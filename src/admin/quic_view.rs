//! QUIC as `/status` tells it.

use serde::{Deserialize, Serialize};

use super::overview::Named;
use crate::shard::peer_address::PeerAddress;
use crate::shard::streams::{ConnectionStatus, QuicStatus, StreamStatus};

/// Connections, and what goes by them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuicView {
    /// By who is at the other end.
    pub connections_count: Vec<Named>,
    pub streams_count: u64,
    pub round_trip_max_us: u64,
    /// So many of each shard.
    #[serde(default)]
    pub connections: Vec<QuicConnectionView>,
    /// As `connections`.
    #[serde(default)]
    pub streams: Vec<StreamView>,
}

/// One connection that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuicConnectionView {
    pub role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub peer: String,
    pub handshaking: bool,
    pub round_trip_us: u64,
    pub congestion_window_bytes: u64,
    pub congestion_events: u64,
    pub packets_sent: u64,
    pub packets_lost: u64,
    pub mtu_bytes: u16,
    /// For how long nothing has come, where something was sent that is to be acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered_ms: Option<u64>,
    pub lasted_s: u64,
}

/// One connection of a user's; the names are those of its line of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamView {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    pub client_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    pub left: String,
    pub right: String,
    pub left_bytes: u64,
    pub right_bytes: u64,
    pub lasted_s: u64,
}

impl QuicView {
    /// Whether somebody has come, or is dialled.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.connections_count.iter().any(|one| one.count > 0)
    }

    pub(super) fn of(status: &QuicStatus) -> Self {
        let named = |(name, count): (&str, u64)| Named {
            name: name.to_owned(),
            count,
        };
        let census = &status.census;
        let connections = status.connections.iter();
        let streams = status.streams.iter();
        Self {
            connections_count: census.connections().map(named).collect(),
            streams_count: census.streams,
            round_trip_max_us: micros(census.round_trip_max),
            connections: connections.map(QuicConnectionView::of).collect(),
            streams: streams.map(StreamView::of).collect(),
        }
    }
}

impl QuicConnectionView {
    fn of(status: &ConnectionStatus) -> Self {
        let ConnectionStatus {
            whose,
            peer,
            health,
            lasted,
            unanswered,
        } = status;
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis());
        Self {
            role: whose.role.as_str().to_owned(),
            name: whose.name.as_deref().map(str::to_owned),
            peer: peer.to_string(),
            handshaking: health.is_handshaking,
            round_trip_us: micros(health.round_trip),
            congestion_window_bytes: health.congestion_window,
            congestion_events: health.congestion_events,
            packets_sent: health.packets_sent,
            packets_lost: health.packets_lost,
            mtu_bytes: health.mtu,
            unanswered_ms: unanswered.and_then(|time| millis(time).ok()),
            lasted_s: lasted.as_secs(),
        }
    }
}

impl StreamView {
    fn of(status: &StreamStatus) -> Self {
        let owned = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        let [left, right] = status.peers.map(|peer: PeerAddress| peer.to_string());
        let [left_bytes, right_bytes] = status.bytes;
        Self {
            client: owned(&status.client),
            client_port: status.client_port,
            server: owned(&status.server),
            port: owned(&status.target),
            left,
            right,
            left_bytes,
            right_bytes,
            lasted_s: status.lasted.as_secs(),
        }
    }
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
