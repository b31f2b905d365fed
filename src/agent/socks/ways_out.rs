//! By what connections go out that rules leave to relays: ways into relays of WebSocks that are
//! kept ready, or a tunnel of jProxy's.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::pools::Pools;
use super::refusal::Refusal;
use super::tunnel::{Channel, TunnelGateway, TunnelOptions, Tunnels};
use super::{Gateway, NOWHERE, SocksWorld, WebsocksOptions};
use crate::access::PasswordDigest;
use crate::access::jproxy::ClientKey;
use crate::agent::settings::{AgentSettings, RelaySettings};
use crate::agent::way::WayError;
use crate::protocol::socks5::Request;
use crate::runtime::flag::Flag;
use crate::session::wrapped_stream::WrappedStream;
use crate::shard::status::RelayStatus;

/// One shard's.
#[derive(Debug)]
pub(super) enum WaysOut {
    Pools(Pools),
    Tunnels(Rc<Tunnels>),
}

/// The relays, the same for all shards.
#[derive(Clone, Debug)]
pub(super) enum RelayOptions {
    Websocks(WebsocksOptions),
    Jproxy(TunnelOptions),
}

/// By what relays know us.
#[derive(Clone, Debug)]
pub(super) enum Credential {
    Password(PasswordDigest),
    Key(Arc<ClientKey>),
}

/// A connection to a destination.
pub(super) struct Connected {
    pub(super) outward: Outward,
    /// Where it begins.
    pub(super) bound: SocketAddr,
    /// A relay, or directly.
    pub(super) way: Rc<str>,
}

/// What leads to a destination.
pub(super) enum Outward {
    Stream(WrappedStream),
    Channel(Channel),
}

impl RelayOptions {
    pub(super) fn new(relays: &RelaySettings, agent: &AgentSettings) -> Result<Self, WayError> {
        Ok(match relays {
            RelaySettings::Websocks(websocks) => {
                let gateways = websocks.relays.iter().map(|url| Gateway::new(url, agent));
                Self::Websocks(WebsocksOptions {
                    gateways: gateways.collect::<Result<_, _>>()?,
                    protocol: websocks.protocol,
                    pool_size: websocks.pool_size,
                })
            }
            RelaySettings::Jproxy(jproxy) => {
                let gateways = jproxy.relays.iter();
                let gateways = gateways.map(|url| TunnelGateway::new(url, agent));
                Self::Jproxy(TunnelOptions {
                    gateways: gateways.collect::<Result<_, _>>()?,
                    dialect: jproxy.dialect,
                })
            }
        })
    }
}

impl Credential {
    pub(super) fn of(relays: &RelaySettings) -> Self {
        match relays {
            RelaySettings::Websocks(websocks) => Self::Password(websocks.password.clone()),
            RelaySettings::Jproxy(jproxy) => Self::Key(Arc::clone(&jproxy.key)),
        }
    }
}

impl WaysOut {
    pub(super) fn new(
        world: &Rc<SocksWorld>,
        relays: RelayOptions,
        credential: Credential,
        stop: &Rc<Flag>,
    ) -> Self {
        match (relays, credential) {
            (RelayOptions::Websocks(websocks), Credential::Password(password)) => {
                Self::Pools(Pools::new(world, websocks, &password, stop))
            }
            (RelayOptions::Jproxy(tunnel), Credential::Key(key)) => {
                Self::Tunnels(Tunnels::new(world, tunnel, key, stop))
            }
            (RelayOptions::Websocks(_), Credential::Key(_))
            | (RelayOptions::Jproxy(_), Credential::Password(_)) => {
                unreachable!("both are of the same settings")
            }
        }
    }

    /// Starts keeping what is needed.
    pub(super) fn start(&self) {
        match self {
            Self::Pools(pools) => pools.start(),
            Self::Tunnels(tunnels) => tunnels.start(),
        }
    }

    /// Goes in by another password or key from now on.
    pub(super) fn renew(&self, credential: &Credential) {
        match (self, credential) {
            (Self::Pools(pools), Credential::Password(password)) => pools.renew_password(password),
            (Self::Tunnels(tunnels), Credential::Key(key)) => tunnels.renew_key(key),
            // Of which kind relays are changes with a new start alone.
            (Self::Pools(_), Credential::Key(_)) | (Self::Tunnels(_), Credential::Password(_)) => {}
        }
    }

    /// Has a relay connect with a destination.
    pub(super) async fn connect(&self, request: &Request) -> Result<Connected, Refusal> {
        match self {
            Self::Pools(pools) => {
                let granted = pools.ask(request).await?;
                Ok(Connected {
                    outward: Outward::Stream(granted.inquiry.into_stream()),
                    bound: granted.bound,
                    way: Rc::clone(granted.pool.way()),
                })
            }
            Self::Tunnels(tunnels) => {
                let channel = tunnels.connect(&request.destination).await?;
                Ok(Connected {
                    way: channel.way(),
                    outward: Outward::Channel(channel),
                    bound: NOWHERE,
                })
            }
        }
    }

    /// The agent stops.
    pub(super) fn stop(&self) {
        match self {
            Self::Pools(pools) => pools.empty(),
            Self::Tunnels(tunnels) => tunnels.stop(),
        }
    }

    /// How the relays are, for operators.
    pub(super) fn statuses(&self) -> Vec<RelayStatus> {
        match self {
            Self::Pools(pools) => pools.statuses(),
            Self::Tunnels(tunnels) => tunnels.statuses(),
        }
    }
}
