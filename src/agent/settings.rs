//! What the proxies run with: parsed, valid, with every default filled in.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::ptth::DEFAULT_PORT;
use super::ptth::proof::Proof;
use super::ptth::url::PtthUrl;
use super::socks::tunnel::url::JproxyUrl;
use super::socks::url::WebsocksUrl;
use super::target::{HostPort, Service, Target};
use super::ticket::{RelayUrl, Secret, Ticket};
use crate::access::PasswordDigest;
use crate::access::jproxy::ClientKey;
use crate::access::routing::RoutingRules;
use crate::config::limits::Limits;
use crate::config::quic_settings::PathSettings;
use crate::config::settings::LogSettings;
use crate::config::{DataPlane, ListenAddress};
use crate::protocol::jproxy::Dialect;
use crate::protocol::ptth_http::{Name, NameError};
use crate::protocol::socks5::{Credentials, Destination};
use crate::protocol::websocks::SubProtocol;

/// What all proxies need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// The cores to run on, one shard each: at least one, none twice.
    pub cores: Vec<usize>,
    /// How to move bytes.
    pub data_plane: DataPlane,
    /// How long to wait for pairs when told to stop.
    pub drain_timeout: Duration,
    /// What to log, and how.
    pub log: LogSettings,
    /// Every limit, as the host allows.
    pub limits: Limits,
    /// Certificates of authorities that may vouch for the relay, instead of the
    /// system's.
    pub relay_ca: Option<PathBuf>,
    /// An HTTP proxy by which the relay is reached.
    pub via: Option<HostPort>,
    /// Where operators look: on loopback.
    pub admin: Option<ListenAddress>,
}

/// The server-side proxy: makes local services reachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposeSettings {
    /// What people call it. It names the file that keeps the ticket's secret.
    pub name: String,
    /// The relay at which to meet.
    pub relay: RelayUrl,
    /// The services: at least one; ports differ, and only a single one may
    /// have none.
    pub services: Vec<Service>,
    /// For how many sessions.
    pub sessions: Sessions,
    /// Where clients may ask without the relay.
    pub direct: Option<Direct>,
    /// As for both proxies.
    pub agent: AgentSettings,
}

/// Where a server-side proxy can be asked without the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Where to listen.
    pub listen: ListenAddress,
    /// How clients reach it, if not so.
    pub told: Option<HostPort>,
}

/// For how many sessions a proxy is exposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// Any number, with ids derived from this secret.
    Reusable(Secret),
    /// One, with random ids that any JET client can use. There is one service.
    Once,
}

/// The local SOCKS5 and HTTP proxy port.
#[derive(Clone, Debug)]
pub struct SocksSettings {
    /// Where to listen.
    pub listen: ListenAddress,
    /// The relays by which connections go out.
    pub relays: RelaySettings,
    /// What is led by them.
    pub rules: Arc<RoutingRules>,
    /// Whom the local port serves; `None`: everybody who reaches it.
    pub local_user: Option<Credentials>,
    /// As for all proxies.
    pub agent: AgentSettings,
}

/// Relays by which connections go out, all of one kind: at least one, those first that are
/// preferred.
#[derive(Clone, Debug)]
pub enum RelaySettings {
    Websocks(WebsocksSettings),
    Jproxy(JproxySettings),
}

impl RelaySettings {
    /// Their URLs, without pins.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        match self {
            Self::Websocks(websocks) => websocks.relays.iter().map(ToString::to_string).collect(),
            Self::Jproxy(jproxy) => jproxy.relays.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Relays of WebSocks.
#[derive(Clone, Debug)]
pub struct WebsocksSettings {
    pub relays: Vec<WebsocksUrl>,
    /// What is kept of the password for all of them.
    pub password: PasswordDigest,
    /// How SOCKS5 is carried to them.
    pub protocol: SubProtocol,
    /// Connections to each relay that every shard keeps ready.
    pub pool_size: usize,
}

/// Relays of jProxy.
#[derive(Clone, Debug)]
pub struct JproxySettings {
    pub relays: Vec<JproxyUrl>,
    /// By which all of them know us.
    pub key: Arc<ClientKey>,
    /// How packets are written.
    pub dialect: Dialect,
}

/// The client-side proxy by jProxy: a local port that leads to where the relay can go.
#[derive(Clone, Debug)]
pub struct TunnelForwardSettings {
    /// Where to listen.
    pub listen: ListenAddress,
    pub relay: JproxySettings,
    /// Where it leads.
    pub destination: Destination,
    /// As for all proxies.
    pub agent: AgentSettings,
}

/// The server-side proxy by PTTH: makes local services reachable under a server's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtthExposeSettings {
    /// What the relay calls it.
    pub name: Name,
    /// The relay at which to listen.
    pub relay: PtthUrl,
    /// What says who it is.
    pub proof: Proof,
    /// At least one; no port twice.
    pub services: Vec<PtthService>,
    /// How the connection goes, if it is by QUIC.
    pub path: PathSettings,
    /// As for all proxies.
    pub agent: AgentSettings,
}

/// One service that is exposed by PTTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtthService {
    /// By which name clients ask for it.
    pub port: Name,
    /// Where it answers.
    pub target: Target,
}

/// The client-side proxy by PTTH: a local port that leads to a server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtthForwardSettings {
    /// Where to listen.
    pub listen: ListenAddress,
    /// The relay to dial.
    pub relay: PtthUrl,
    /// What says who it is.
    pub proof: Proof,
    /// Where it leads.
    pub destination: PtthDestination,
    /// How the connection goes, if it is by QUIC.
    pub path: PathSettings,
    /// As for all proxies.
    pub agent: AgentSettings,
}

/// A port of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtthDestination {
    /// Whose.
    pub server: Name,
    /// Which, by the server's own name for it.
    pub port: Name,
}

/// The client-side proxy: a local port that leads to an exposed service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardSettings {
    /// Where to listen.
    pub listen: ListenAddress,
    /// Where it leads, at the relay to dial.
    pub ticket: Ticket,
    /// As for both proxies.
    pub agent: AgentSettings,
}

impl FromStr for PtthDestination {
    type Err = NameError;

    /// `SERVER[:PORT]`
    fn from_str(written: &str) -> Result<Self, NameError> {
        let (server, port) = written.split_once(':').unwrap_or((written, DEFAULT_PORT));
        Ok(Self {
            server: server.parse()?,
            port: port.parse()?,
        })
    }
}

impl fmt::Display for PtthDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.server, self.port)
    }
}
