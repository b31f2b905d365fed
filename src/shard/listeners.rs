//! The relay's listening sockets, one for each shard and address: bound here, or by
//! whoever started the process.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use tracing::warn;

use super::serve::ServeError;
use crate::config::settings::RelaySettings;
use crate::runtime::inherited::InheritedSocket;
use crate::runtime::listener::{HandOut, Listener, bind_group, claim_address};

/// Sockets that listen, and that no shard serves yet.
#[derive(Debug)]
pub(super) struct Listeners {
    /// In the order of the settings, with the ports that the kernel chose.
    pub(super) addresses: Vec<SocketAddr>,
    /// Each shard's, in the order of the addresses.
    pub(super) by_shard: Vec<Vec<Listener>>,
}

/// Checks that this host has these addresses, at which nobody listens yet. One that was in
/// use `before` may have gone since: that is said, and keeps nothing else from being taken,
/// such as that a user is gone.
pub(super) fn check_addresses(ips: &[IpAddr], before: &[IpAddr]) -> Result<(), ServeError> {
    for &ip in ips {
        match claim_address(SocketAddr::new(ip, 0)) {
            Ok(_) => {}
            Err(error) if before.contains(&ip) => {
                warn!(%ip, %error, "nobody can be awaited");
            }
            Err(source) => return Err(ServeError::Await { ip, source }),
        }
    }
    Ok(())
}

impl Listeners {
    /// Claims the addresses and binds them.
    pub(super) fn bind(settings: &RelaySettings, shards: NonZeroU16) -> Result<Self, ServeError> {
        let mut addresses = Vec::new();
        // All of them first: one that listens would be in the way of another that is within
        // it, such as 127.0.0.1 beside 0.0.0.0.
        for listener in &settings.listen {
            let address = listener.address.0;
            let claimed =
                claim_address(address).map_err(|source| ServeError::Listen { address, source })?;
            addresses.push(claimed);
        }
        let mut by_shard: Vec<_> = (0..shards.get()).map(|_| Vec::new()).collect();
        for &address in &addresses {
            let here = bind_group(address, HandOut::FirstBytes, by_shard.len())
                .map_err(|source| ServeError::Listen { address, source })?;
            for (listeners, listener) in by_shard.iter_mut().zip(here) {
                listeners.push(listener);
            }
        }
        Ok(Self {
            addresses,
            by_shard,
        })
    }

    /// Shares `sockets` out, which are at the addresses of the settings. A shard that had
    /// none at some address would leave the others its work; and connections to a socket
    /// that no shard serves would wait in vain.
    pub(super) fn adopt(
        settings: &RelaySettings,
        mut sockets: Vec<InheritedSocket>,
        shards: NonZeroU16,
    ) -> Result<Self, ServeError> {
        let mut addresses = Vec::new();
        let mut by_shard: Vec<_> = (0..shards.get()).map(|_| Vec::new()).collect();
        for listener in &settings.listen {
            let address = listener.address.0;
            let (here, elsewhere): (Vec<_>, _) = sockets
                .into_iter()
                .partition(|socket| socket.address() == address);
            sockets = elsewhere;
            if here.len() != by_shard.len() {
                return Err(ServeError::Sockets {
                    address,
                    sockets: here.len(),
                    shards,
                });
            }
            for (listeners, socket) in by_shard.iter_mut().zip(here) {
                let listener = Listener::adopt(socket, HandOut::FirstBytes)
                    .map_err(|source| ServeError::Listen { address, source })?;
                listeners.push(listener);
            }
            addresses.push(address);
        }
        Ok(Self {
            addresses,
            by_shard,
        })
    }

    /// The congestion control of their connections.
    pub(super) fn congestion_control(&self) -> String {
        let mut listeners = self.by_shard.iter().flatten();
        listeners
            .find_map(|listener| listener.congestion_control().ok())
            .unwrap_or_else(|| "unknown".to_owned())
    }
}
