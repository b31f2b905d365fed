//! The relay's sockets of UDP, one for each shard and address, and what its QUIC is set to.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use super::serve::ServeError;
use super::share::to_u32;
use crate::config::limits::Limits;
use crate::config::quic_settings::PathSettings;
use crate::config::settings::RelaySettings;
use crate::quic::keys::SharedKeys;
use crate::quic::transport::Transport;
use crate::runtime::socket::Socket;
use crate::runtime::udp_group::{
    STEERED_SHARDS_MAX, SmallBuffers, bind_udp_group, claim_udp_address, steer,
};

/// Streams that a connection has for its hello.
pub(super) const HELLO_STREAMS: u32 = 1;
/// Bytes that it may send before it is known who has come.
const HELLO_WINDOW_BYTES: u32 = 64 << 10;

/// What a relay's connections begin with: room for a hello.
fn before_hello(limits: &Limits, path: PathSettings) -> Transport {
    Transport {
        stream_window: to_u32(limits.quic_stream_window_bytes),
        connection_window: HELLO_WINDOW_BYTES,
        send_window: to_u32(limits.quic_send_window_bytes),
        streams_max: HELLO_STREAMS,
        idle_timeout: Duration::from_secs(limits.quic_idle_timeout_s),
        // One side is enough, and it is the proxies that want to know.
        keep_alive: None,
        path,
    }
}

/// Who the relay is to those who come by QUIC.
#[derive(Clone, Debug)]
pub struct QuicIdentity {
    pub tls: Arc<rustls::ServerConfig>,
    pub keys: SharedKeys,
}

/// Sockets that are bound, and that no shard serves yet.
#[derive(Debug)]
pub(super) struct UdpListeners {
    /// In the order of the settings, with the ports that the kernel chose.
    pub(super) addresses: Vec<SocketAddr>,
    /// Each shard's, in the order of the addresses.
    pub(super) by_shard: Vec<Vec<Socket>>,
    /// A second descriptor of each, to be kept until all shards have ended: a socket that is
    /// closed before the others of its group changes whose datagrams are whose.
    pub(super) kept: Vec<Socket>,
    /// What an operator may want to change, a sentence each.
    pub(super) notes: Vec<String>,
}

impl UdpListeners {
    /// Claims the addresses and binds them.
    pub(super) fn bind(settings: &RelaySettings, shards: NonZeroU16) -> Result<Self, ServeError> {
        let mut by_shard: Vec<_> = (0..shards.get()).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        let mut kept = Vec::new();
        let mut notes = Vec::new();
        if shards.get() > STEERED_SHARDS_MAX && !settings.quic.listen.is_empty() {
            return Err(ServeError::TooManyShards { shards });
        }
        for listener in &settings.quic.listen {
            let address = listener.0;
            let mut bind = || {
                let claimed = claim_udp_address(address)?;
                let sockets = bind_udp_group(claimed, by_shard.len())?;
                for socket in &sockets {
                    kept.push(socket.duplicate()?);
                }
                if let Some(socket) = sockets.first()
                    && shards.get() > 1
                    && let Err(error) = steer(socket, shards.get())
                {
                    notes.push(format!(
                        "datagrams at {claimed} are steered by shards, as the kernel does not: {error}"
                    ));
                }
                Ok((claimed, sockets))
            };
            let bound: std::io::Result<_> = bind();
            let (claimed, sockets) =
                bound.map_err(|source| ServeError::ListenUdp { address, source })?;
            addresses.push(claimed);
            for (own, socket) in by_shard.iter_mut().zip(sockets) {
                own.push(socket);
            }
        }
        if let Some(small) = kept.first().and_then(SmallBuffers::of) {
            notes.push(format!("{small}; {}", small.next_step()));
        }
        Ok(Self {
            addresses,
            by_shard,
            kept,
            notes,
        })
    }
}

impl QuicIdentity {
    /// What the endpoints of all shards serve by.
    pub(super) fn server(
        &self,
        limits: &Limits,
        path: PathSettings,
    ) -> Result<Arc<quinn_proto::ServerConfig>, ServeError> {
        before_hello(limits, path)
            .server(Arc::clone(&self.tls), &self.keys)
            .map_err(|_| ServeError::NoInitialCipher)
    }
}
