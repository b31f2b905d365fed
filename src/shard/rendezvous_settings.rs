//! What the relay's service runs with, as far as a shard needs it.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::ServerConfig;

use super::share::{share, to_u32, to_usize};
use crate::access::egress::Egress;
use crate::access::forwarding::Forwarding;
use crate::access::jproxy::{TunnelUsers, UserHash};
use crate::access::{Allowances, Awaiting, Keyring, Users};
use crate::association::table::OnUnknown;
use crate::config::Pinned;
use crate::config::limits::Limits;
use crate::config::settings::RelaySettings;
use crate::protocol::jet::{HostName, PublicUrl};
use crate::protocol::jproxy::Dialect;
use crate::protocol::ptth_http::SwitchboardLimits;
use crate::quic::transport::Windows;
use crate::web::Web;

/// What the relay's service runs with, the same on all shards. Limits are one
/// shard's share.
#[derive(Clone, Debug)]
pub struct RendezvousSettings {
    /// Whether an acceptor may create the association that it names.
    pub on_unknown: OnUnknown,
    /// Whether an acceptor that names no association is given one, as version 1
    /// has it.
    pub v1_allowed: bool,
    /// What an acceptor of version 1 is told to name as the relay.
    pub instance: HostName,
    /// How peers reach this relay: an association has a candidate for each.
    pub routes: Vec<PublicUrl>,
    /// For those who come over TLS.
    pub tls: Arc<ServerConfig>,
    /// Whether they alone are served: those who come otherwise show no certificate.
    pub tls_required: bool,
    /// By listener, the only thing that it is for.
    pub only: Vec<Option<Pinned>>,
    /// Who may create associations by HTTP requests.
    pub keyring: Keyring,
    /// For whom the relay dials.
    pub users: Users,
    /// What some of them may.
    pub allowances: Allowances,
    /// Where it awaits somebody for them.
    pub awaiting: Awaiting,
    /// Where it may dial.
    pub egress: Egress,
    /// Whose ports are forwarded, and to whom.
    pub forwarding: Forwarding,
    /// How much of that there may be.
    pub forwarding_limits: ForwardingLimits,
    /// How that is done over QUIC.
    pub quic: QuicSettings,
    /// Whose tunnels of jProxy are served, and how.
    pub tunnels: TunnelSettings,
    /// What there is beside the relay's own paths.
    pub web: Web,
    /// STUN and TURN servers that clients are told.
    pub stun: Vec<String>,
    /// Who passes on others' connections, and says whose.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Who passes on others' requests, and says whose.
    pub forwarded_for_from: Vec<IpNet>,
    pub association_ttl: Duration,
    /// How long a session may last.
    pub session_ttl: Option<Duration>,
    /// How long it may carry nothing.
    pub session_idle: Option<Duration>,
    pub handshake_timeout: Duration,
    pub handshakes_max: usize,
    pub connections_max: usize,
    /// 0 is no limit.
    pub connections_per_address_max: u32,
    /// Of the whole process.
    pub memory_bytes_max: u64,
    pub waiting_per_address_max: u32,
    pub spent_tokens_max: usize,
    /// Of one bearer, on all shards; 0 is no limit.
    pub creations_per_minute_max: u32,
    /// On all shards; 0 is no limit.
    pub sessions_per_user_max: u32,
    /// As above.
    pub dials_per_minute_max: u32,
    /// Of this shard.
    pub binds_max: usize,
    /// On all shards; 0 is none.
    pub binds_per_user_max: u32,
    /// Until whom a visitor awaits must have come.
    pub bind_timeout: Duration,
    /// On all shards.
    pub names_per_user_max: usize,
    /// 0 is no limit.
    pub wrong_passwords_per_minute_max: u32,
}

/// How those are served who come with tunnels of jProxy.
#[derive(Clone, Debug)]
pub struct TunnelSettings {
    /// Whether there is a place for users, be it empty.
    pub is_served: bool,
    pub users: TunnelUsers,
    /// Files that are called like users' and are not taken.
    pub files_wrong: usize,
    /// What some of them may.
    pub allowances: Allowances,
    /// Where neither a user nor a listener has one.
    pub dialect: Dialect,
    /// Whether echo requests are sent for them.
    pub icmp: bool,
    /// How long a destination that takes nothing may hold up its tunnel.
    pub stuck: Duration,
    /// Of this shard.
    pub tunnels_max: usize,
    /// Of this shard; 0 is no limit.
    pub per_user_max: usize,
    pub channels_max: usize,
}

impl TunnelSettings {
    pub(super) fn new(settings: &RelaySettings, shards: NonZeroU16) -> Self {
        let (jproxy, limits) = (&settings.jproxy, &settings.limits);
        Self {
            is_served: jproxy.path.is_some(),
            users: jproxy.users.clone(),
            files_wrong: jproxy.wrong.len(),
            allowances: jproxy.allowances.clone(),
            dialect: jproxy.dialect,
            icmp: jproxy.icmp,
            stuck: jproxy.stuck,
            tunnels_max: to_usize(share(limits.tunnels_max, shards)),
            per_user_max: to_usize(share(limits.tunnels_per_user_max, shards)),
            channels_max: to_usize(limits.channels_per_tunnel_max),
        }
    }

    /// Whether the user that has logged in by this hash is one still.
    pub(super) fn knows(&self, user: &str, hash: &UserHash) -> bool {
        let known = self.users.find(hash);
        known.is_some_and(|known| **known.name() == *user)
    }

    /// Which dialect a user speaks on a listener that may have one.
    pub(super) fn dialect_of(&self, user: &str, of_listener: Option<Dialect>) -> Spoken {
        let own = self.allowances.of(user).and_then(|own| own.dialect);
        let (dialect, set_by) = match (own, of_listener) {
            (Some(own), _) => (own, "the user's table of [[jproxy.rules]]"),
            (None, Some(of_listener)) => (of_listener, "the listener's URL"),
            (None, None) => (self.dialect, "[jproxy]"),
        };
        Spoken { dialect, set_by }
    }
}

/// The dialect of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spoken {
    pub(super) dialect: Dialect,
    /// What has it so, in words for the log.
    pub(super) set_by: &'static str,
}

impl Spoken {
    /// What can be done where a client speaks the other one.
    pub(super) fn next_step(self) -> String {
        format!(
            "have the client pass --dialect {}, or set dialect = \"{}\" in a [[jproxy.rules]] for \
             this user",
            self.dialect,
            self.dialect.other()
        )
    }
}

/// How those are served who come by QUIC.
#[derive(Clone, Debug)]
pub struct QuicSettings {
    /// `None` where nobody is.
    pub server: Option<Arc<quinn_proto::ServerConfig>>,
    /// Streams that a proxy may have open, beside that of its hello.
    pub streams_max: u32,
    pub windows: Windows,
    /// How long a connection may take to say whose it is.
    pub hello_timeout: Duration,
    /// How long a server's proxy may take to answer.
    pub answer_timeout: Duration,
}

impl QuicSettings {
    pub(super) fn new(limits: &Limits, server: Option<Arc<quinn_proto::ServerConfig>>) -> Self {
        Self {
            server,
            streams_max: to_u32(limits.quic_streams_per_client_max),
            windows: Windows {
                stream: to_u32(limits.quic_stream_window_bytes),
                connection: to_u32(limits.quic_connection_window_bytes),
                stalled_max: limits.quic_stalled_bytes_max,
                sent_max: limits.quic_send_window_bytes,
            },
            hello_timeout: Duration::from_secs(limits.quic_hello_timeout_s),
            answer_timeout: Duration::from_secs(limits.quic_answer_timeout_s),
        }
    }
}

/// Limits of forwarded ports.
#[derive(Clone, Copy, Debug)]
pub struct ForwardingLimits {
    /// Of this shard, which owns each port that it has to do with.
    pub switchboard: SwitchboardLimits,
    /// On all shards.
    pub listens_per_server_max: usize,
    /// How long a server waits for a connection before it is told to ask again.
    pub listen_timeout: Duration,
    /// How long a tunnel may carry nothing.
    pub idle: Option<Duration>,
    /// How long it may, once one of its ways has ended.
    pub half_closed: Option<Duration>,
}

impl ForwardingLimits {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            switchboard: SwitchboardLimits {
                connects_per_place_max: to_usize(limits.ptth_connects_per_port_max),
                connect_timeout: Duration::from_secs(limits.ptth_connect_timeout_s),
                accept_timeout: Duration::from_secs(limits.ptth_accept_timeout_s),
                join_timeout: Duration::from_secs(limits.ptth_join_timeout_s),
            },
            listens_per_server_max: to_usize(limits.ptth_listens_per_server_max),
            listen_timeout: Duration::from_secs(limits.ptth_listen_timeout_s),
            idle: limits.ptth_idle(),
            half_closed: limits.ptth_half_closed(),
        }
    }
}
