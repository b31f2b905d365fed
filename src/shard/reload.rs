//! Gives running shards new settings, from a thread that may wait for files.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rustls::ServerConfig;

use super::control::Envelope;
use super::listeners::check_addresses;
use super::rendezvous::Message;
use super::serve::{ServeError, service_settings};
use super::udp_listeners::QuicIdentity;
use crate::config::settings::RelaySettings;
use crate::quic::keys::SharedKeys;
use crate::runtime::inbox::Mailbox;

/// The shards, as seen by who has settings for them.
#[derive(Debug)]
pub struct Reloader {
    pub(super) addresses: Vec<SocketAddr>,
    /// Where somebody is awaited by the settings that the shards have.
    pub(super) awaiting: RefCell<Vec<IpAddr>>,
    pub(super) shard_count: NonZeroU16,
    pub(super) shards: Vec<Mailbox<Envelope<Message>>>,
    pub(super) asked: Receiver<()>,
    /// Where QUIC is served.
    pub(super) quic_keys: Option<SharedKeys>,
}

/// What waiting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// An operator asks for the configuration to be read again.
    Asked,
    /// The time is over.
    Idle,
    /// The relay has ended.
    Over,
}

impl Reloader {
    /// Waits for an operator, at most so long.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Wake {
        match self.asked.recv_timeout(limit) {
            Ok(()) => Wake::Asked,
            Err(RecvTimeoutError::Timeout) => Wake::Idle,
            Err(RecvTimeoutError::Disconnected) => Wake::Over,
        }
    }

    /// Has every shard take these settings for all that comes from now on. Nothing
    /// that runs notices.
    ///
    /// # Errors
    ///
    /// When they are none, or name an address for those who are awaited that is new and not
    /// the host's; then nothing has changed.
    pub fn apply(
        &self,
        settings: &RelaySettings,
        tls: &Arc<ServerConfig>,
        quic: &Arc<ServerConfig>,
    ) -> Result<(), ServeError> {
        let awaiting = &settings.awaiting.addresses;
        check_addresses(awaiting, &self.awaiting.borrow())?;
        let tls = Arc::clone(tls);
        let quic = match &self.quic_keys {
            None => None,
            Some(keys) => {
                let tls = Arc::clone(quic);
                Some(
                    QuicIdentity { tls, keys: *keys }
                        .server(&settings.limits, settings.quic.path)?,
                )
            }
        };
        let fresh = service_settings(settings, tls, quic, &self.addresses, self.shard_count)?;
        self.awaiting.replace(awaiting.clone());
        for shard in &self.shards {
            // A shard that has ended needs none.
            let _ = shard.send(Envelope::Service(Message::Reload(Box::new(fresh.clone()))));
        }
        Ok(())
    }
}
