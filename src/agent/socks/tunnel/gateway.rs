//! One jProxy relay, and the way into it.

use std::fmt;

use super::url::JproxyUrl;
use crate::access::jproxy::ClientKey;
use crate::agent::leg::{self, LegError};
use crate::agent::relay_host::RelayHost;
use crate::agent::relay_trouble::Trouble;
use crate::agent::settings::AgentSettings;
use crate::agent::socks::SocksWorld;
use crate::agent::way::WayError;
use crate::protocol::jproxy::SessionKey;
use crate::session::tunnel_entry::{TunnelEntered, TunnelEntry, TunnelEntryError};
use crate::session::wrapped_stream::WrappedStream;

/// What to see to where something else answers, or nothing does.
macro_rules! serves_jproxy {
    () => {
        "whether the relay serves jProxy at this port ([jproxy] users); if the port takes TLS alone, \
         write jproxy+tls"
    };
}

/// What to do then.
const NOT_JPROXY: &str = concat!("see ", serves_jproxy!());

/// What to do where a web server answers.
const WEB_SERVER: &str = concat!(
    "a web server answers there: check the port, and ",
    serves_jproxy!()
);

/// One relay.
#[derive(Clone, Debug)]
pub(in crate::agent) struct TunnelGateway {
    url: JproxyUrl,
    host: RelayHost,
}

/// Why there is no way into a relay.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    #[error(transparent)]
    Leg(#[from] LegError),
    #[error(transparent)]
    Entry(#[from] TunnelEntryError),
    /// It was there, and what was asked by it was not answered.
    #[error("the tunnel ended at its first packet: {reason}")]
    FirstPacket { reason: &'static str },
}

impl TunnelGateway {
    pub(in crate::agent::socks) fn new(
        url: &JproxyUrl,
        agent: &AgentSettings,
    ) -> Result<Self, WayError> {
        Ok(Self {
            url: url.clone(),
            host: RelayHost::new(&url.address, url.is_tls, url.pin, agent)?,
        })
    }

    /// The relay.
    pub(super) const fn url(&self) -> &JproxyUrl {
        &self.url
    }

    /// Its host and port.
    pub(super) fn authority(&self) -> &str {
        self.host.authority()
    }

    /// Goes in by this key; gives the tunnel and its key.
    pub(super) async fn enter(
        &self,
        world: &SocksWorld,
        key: &ClientKey,
    ) -> Result<(WrappedStream, SessionKey), TunnelError> {
        let mut stream = self.host.reach(world).await?;
        let entry = TunnelEntry::new(self.host.trusted(), *key.hash())?;
        let entered: Result<_, TunnelError> = leg::converse(world, &mut stream, entry).await;
        let TunnelEntered {
            codec,
            early,
            encrypted_key,
        } = entered?;
        let stream = WrappedStream::new(stream, codec, early, &world.workshop);
        let stream = stream.map_err(LegError::Broken)?;
        Ok((stream, key.decrypt(&encrypted_key)))
    }
}

impl TunnelError {
    /// What it says of the relay.
    pub(super) const fn trouble(&self) -> Trouble {
        match self {
            Self::Leg(error) if error.is_unreachable() => Trouble::Unreachable,
            Self::Leg(_) | Self::Entry(_) => Trouble::Refuses,
            Self::FirstPacket { .. } => Trouble::Mute,
        }
    }

    /// What whoever started the agent can do about it.
    pub(super) fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Leg(LegError::Closed) | Self::Entry(TunnelEntryError::NotJproxy(_)) => {
                Some(NOT_JPROXY)
            }
            Self::Leg(error) => error.next_step(),
            Self::Entry(TunnelEntryError::OtherProtocol { begins })
                if begins.starts_with(b"HTTP/") =>
            {
                Some(WEB_SERVER)
            }
            Self::Entry(TunnelEntryError::OtherProtocol { .. }) => Some(NOT_JPROXY),
            Self::Entry(TunnelEntryError::Approach(error)) => leg::approach_advice(error),
            Self::Entry(TunnelEntryError::UnknownKey) => Some(
                "put the key's user file, which `midspan key jproxy` makes with it, into the \
                 directory that the relay has under [jproxy] users; where it is there, the relay's \
                 log says which limit its user is at",
            ),
            Self::Entry(TunnelEntryError::OtherVersion) => {
                Some("see whether the relay speaks version 3 of jProxy")
            }
            Self::Entry(TunnelEntryError::Codec(_)) => None,
            Self::FirstPacket { .. } => Some(
                "unless the relay has just ended: the private key in --key-file is not that of the \
                 user's file which the relay has for its hash; make both anew, with `midspan key \
                 jproxy`, and bring each to its place",
            ),
        }
    }
}

impl fmt::Display for TunnelGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt_with(&self.url, f)
    }
}
