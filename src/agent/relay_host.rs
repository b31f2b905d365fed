//! A relay that is asked over HTTP or HTTPS: where it is, whom to trust there, and the proxy by
//! which it is reached.

use std::fmt::{self, Display};

use super::leg::{self, LegError};
use super::settings::AgentSettings;
use super::target::HostPort;
use super::way::{self, WayError};
use crate::access::Fingerprint;
use crate::runtime::stream::Stream;
use crate::session::approach::Trusted;
use crate::shard::world::World;

/// One relay's, the same for all shards.
#[derive(Clone, Debug)]
pub(super) struct RelayHost {
    address: HostPort,
    authority: String,
    trusted: Option<Trusted>,
    via: Option<HostPort>,
}

impl RelayHost {
    /// Of the relay at `address`; over TLS it is trusted by `pin`, or else by authorities.
    pub(super) fn new(
        address: &HostPort,
        is_tls: bool,
        pin: Option<Fingerprint>,
        agent: &AgentSettings,
    ) -> Result<Self, WayError> {
        let authorities = agent.relay_ca.as_deref();
        let trusted = is_tls.then(|| way::trusted(pin, &address.host, authorities));
        Ok(Self {
            address: address.clone(),
            authority: address.to_string(),
            trusted: trusted.transpose()?,
            via: agent.via.clone(),
        })
    }

    /// Host and port, as requests name them.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Whom to trust, and as whom; `None`: there is no TLS.
    pub(super) const fn trusted(&self) -> Option<&Trusted> {
        self.trusted.as_ref()
    }

    /// Connects to it.
    pub(super) async fn reach<C, M>(&self, world: &World<C, M>) -> Result<Stream, LegError>
    where
        C: Copy,
        M: Send + 'static,
    {
        leg::reach(world, &self.address, self.via.as_ref()).await
    }

    /// Writes the relay's URL, and by which proxy it is reached.
    pub(super) fn fmt_with(&self, url: &impl Display, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.via {
            Some(via) => write!(f, "{url} via {via}"),
            None => url.fmt(f),
        }
    }
}
