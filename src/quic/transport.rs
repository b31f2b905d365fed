//! What connections of either side are set to.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::congestion::{BbrConfig, CubicConfig, NewRenoConfig};
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, ConnectionId, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};

use super::keys::SharedKeys;
use crate::config::Congestion;
use crate::config::quic_settings::PathSettings;

/// Handshakes of one endpoint that wait to be admitted; each is decided about at once.
const INCOMING_MAX: usize = 1024;
/// Bytes that come with such a handshake, each and all together.
const INCOMING_BYTES_MAX: u64 = 64 << 10;
const INCOMING_BYTES_MAX_TOTAL: u64 = 4 << 20;
/// How long a client may take to come back with what proves its address.
const RETRY_TOKEN_LIFETIME: Duration = Duration::from_secs(15);
/// What a client takes the round trip for before it knows: three times this until it asks
/// again.
const CLIENT_INITIAL_RTT: Duration = Duration::from_millis(100);

/// The limits and habits of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Bytes of one stream that the peer may send before they are read.
    pub stream_window: u32,
    /// The same of all streams of a connection.
    pub connection_window: u32,
    /// Bytes of a connection that are kept until they are acknowledged.
    pub send_window: u32,
    /// Streams that the peer may have open.
    pub streams_max: u32,
    /// Silence after which a connection is given up; the smaller of both sides' counts.
    pub idle_timeout: Duration,
    /// After how much silence the peer is asked whether it is there; never, if none.
    pub keep_alive: Option<Duration>,
    pub path: PathSettings,
}

/// What connections hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// See [`Transport::stream_window`].
    pub stream: u32,
    /// See [`Transport::connection_window`].
    pub connection: u32,
    /// Bytes of a connection that may wait beyond that for those who do not read.
    pub stalled_max: u64,
    /// The most that is sent, and held, before it is acknowledged; as much of it as the round
    /// trip asks for.
    pub sent_max: u64,
}

impl Windows {
    /// What a connection's peer may send while so many of its streams are not read: half of
    /// the connection's window is for those that are.
    #[must_use]
    pub fn while_stalled(&self, streams: usize) -> u64 {
        let (stream, connection) = (u64::from(self.stream), u64::from(self.connection));
        let stalled = (streams as u64).saturating_mul(stream);
        let beyond = stalled.saturating_sub(connection / 2);
        connection + beyond.min(self.stalled_max)
    }
}

impl Transport {
    fn config(&self) -> TransportConfig {
        let mut config = TransportConfig::default();
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.path.mtu_max);
        let idle =
            VarInt::from_u32(u32::try_from(self.idle_timeout.as_millis()).unwrap_or(u32::MAX));
        config
            .max_concurrent_bidi_streams(self.streams_max.into())
            .max_concurrent_uni_streams(0u32.into())
            .stream_receive_window(self.stream_window.into())
            .receive_window(self.connection_window.into())
            .send_window(self.send_window.into())
            .max_idle_timeout(Some(idle.into()))
            .keep_alive_interval(self.keep_alive)
            .mtu_discovery_config(Some(discovery))
            .datagram_receive_buffer_size(None);
        match self.path.congestion {
            Congestion::Cubic => {
                config.congestion_controller_factory(Arc::new(CubicConfig::default()))
            }
            Congestion::Bbr => config.congestion_controller_factory(Arc::new(BbrConfig::default())),
            Congestion::NewReno => {
                config.congestion_controller_factory(Arc::new(NewRenoConfig::default()))
            }
        };
        config
    }

    /// What a server's endpoints need.
    ///
    /// # Errors
    ///
    /// When `tls` lacks the cipher suite that every connection begins with.
    pub fn server(
        &self,
        tls: Arc<rustls::ServerConfig>,
        keys: &SharedKeys,
    ) -> Result<Arc<ServerConfig>, NoInitialCipherSuite> {
        let crypto = Arc::new(QuicServerConfig::try_from(tls)?);
        let mut config = ServerConfig::new(crypto, keys.token_key());
        config
            .transport_config(Arc::new(self.config()))
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES_MAX)
            .incoming_buffer_size_total(INCOMING_BYTES_MAX_TOTAL)
            .retry_token_lifetime(RETRY_TOKEN_LIFETIME)
            .migration(true);
        Ok(Arc::new(config))
    }

    /// What a client needs to connect. `steer` chooses among the server's shards: all with the
    /// same come to the same.
    ///
    /// # Errors
    ///
    /// As [`Self::server`].
    pub fn client(
        &self,
        tls: Arc<rustls::ClientConfig>,
        steer: u8,
    ) -> Result<ClientConfig, NoInitialCipherSuite> {
        let mut transport = self.config();
        transport.initial_rtt(CLIENT_INITIAL_RTT);
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config
            .transport_config(Arc::new(transport))
            .initial_dst_cid_provider(Arc::new(move || {
                // RFC 9000 §7.2 asks for at least 8 bytes that cannot be foreseen.
                let mut id = [steer; 20];
                aws_lc_rs::rand::fill(&mut id[1..]).expect("the system gives random bytes");
                ConnectionId::new(&id)
            }));
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_read_takes_nothing_of_the_others() {
        const MIB: u64 = 1 << 20;
        let windows = Windows {
            stream: 2 << 20,
            connection: 16 << 20,
            stalled_max: 20 * MIB,
            sent_max: MIB,
        };
        for (streams, mib) in [
            (0, 16),
            (4, 16),
            (5, 18),
            (8, 24),
            (14, 36),
            (usize::MAX, 36),
        ] {
            assert_eq!(windows.while_stalled(streams), mib * MIB, "{streams}");
        }
    }
}
