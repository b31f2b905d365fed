//! The relay's settings: parsed, valid, with every default filled in.
//!
//! `resolve` says how they come to be: the command line over the file over the
//! defaults.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::certificates::{CertificateFiles, TlsSettings};
use super::error::similar;
use super::forwarding;
use super::jproxy::{self, JproxySettings};
use super::limits::{LimitFlag, Limits};
use super::quic_settings::QuicSettings;
use super::web;
use super::websocks::{self, UsersFile};
use super::{
    CoreChoice, DataPlane, GivenSockets, Instance, JetV1, ListenAddress, Listener, LogFormat,
    LogLevel, Period, Pinned,
};
use crate::access::egress::Egress;
use crate::access::forwarding::Forwarding;
use crate::access::jproxy::TunnelUsers;
use crate::access::{Awaiting, Keyring};
use crate::protocol::jet::{PublicUrl, Transport};
use crate::protocol::ptth_name::Name;
use crate::web::Web;

/// How long a shard may spin before it sleeps, at most, in microseconds.
/// Beyond a millisecond spinning costs a core and gains nothing.
pub const SPIN_US_MAX: u32 = 1000;

/// Where the relay listens when nobody says: loopback, JET's usual port.
pub const LISTEN_DEFAULT: Listener = Listener::any(ListenAddress(SocketAddr::new(
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    8080,
)));

/// What the relay runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// Where to listen: at least one address, none twice.
    pub listen: Vec<Listener>,
    /// Where operators look: on loopback.
    pub admin: Option<ListenAddress>,
    /// Whether anybody may use the relay, without credentials. Always true
    /// where other hosts reach a listener that is not for jProxy alone.
    pub open: bool,
    /// Who passes on others' connections, and begins each with a PROXY protocol header
    /// that says whose it is.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Who passes on others' HTTP requests, and says whose in `X-Forwarded-For`.
    pub forwarded_for_from: Vec<IpNet>,
    /// Whether a JET acceptor may create the association that it names.
    pub create_on_accept: bool,
    /// The cores to run on, one shard each: at least one, none twice.
    pub cores: Vec<usize>,
    /// How to move bytes.
    pub data_plane: DataPlane,
    /// How long to wait for pairs when told to stop.
    pub drain_timeout: Duration,
    /// How long a shard spins before it sleeps, in microseconds; at most
    /// [`SPIN_US_MAX`].
    pub spin_us: u32,
    /// What to log, and how.
    pub log: LogSettings,
    /// Where keys are kept; an absolute path.
    pub state_dir: PathBuf,
    /// JET's own settings.
    pub jet: JetSettings,
    /// Every limit.
    pub limits: Limits,
    /// Who may create associations by HTTP requests, and list and end what there
    /// is. Without a key anybody may create, and nobody may do the rest.
    pub keyring: Keyring,
    /// Who the relay is to those who come over TLS.
    pub tls: TlsSettings,
    /// Whom the relay dials for, by WebSocks. Without any user it does not.
    pub users: UsersFile,
    /// Where it awaits somebody for them. Without an address it does not.
    pub awaiting: Awaiting,
    /// Where it may dial.
    pub egress: Egress,
    /// Whom it dials for by jProxy's tunnels.
    pub jproxy: JproxySettings,
    /// Whose ports it forwards, by PTTH, and to whom.
    pub forwarding: Forwarding,
    /// Where it speaks QUIC.
    pub quic: QuicSettings,
    /// What those get who ask over HTTP for none of the relay's own paths.
    pub web: Web,
}

/// What to log, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// Layout of a line.
    pub format: LogFormat,
    /// The least important line that is logged.
    pub level: LogLevel,
}

/// JET's own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JetSettings {
    /// Whether the relay invents associations, as version 1 has it.
    pub v1: JetV1,
    /// The name by which peers reach this relay (`Jet-Instance`).
    pub instance: Instance,
    /// The URLs by which peers reach this relay: an association has a candidate for
    /// each. Without any, there is one for each listener, at `instance`.
    pub urls: Vec<PublicUrl>,
    /// STUN and TURN servers that `GET /jet/create` lists beside them.
    pub stun: Vec<String>,
}

/// What the command line says about the relay; `None` where it is silent.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--listen`, repeated; replaces the file's list as a whole.
    pub listen: Vec<Listener>,
    /// `--quic-listen`, repeated; replaces the file's list as a whole.
    pub quic_listen: Vec<ListenAddress>,
    /// `--admin`
    pub admin: Option<ListenAddress>,
    /// `--open`
    pub open: Option<bool>,
    /// `--create-on-accept`
    pub create_on_accept: Option<bool>,
    /// `--cores`
    pub cores: Option<CoreChoice>,
    /// `--data-plane`
    pub data_plane: Option<DataPlane>,
    /// `--drain-timeout`
    pub drain_timeout: Option<Period>,
    /// `--spin-us`
    pub spin_us: Option<u32>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
    /// `--log-level`
    pub log_level: Option<LogLevel>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--jet-v1`
    pub jet_v1: Option<JetV1>,
    /// `--jet-instance`
    pub jet_instance: Option<Instance>,
    /// `--tls-certificate` and `--tls-key`
    pub tls: Option<CertificateFiles>,
    /// `--limit`, repeated; the last of a name holds.
    pub limits: Vec<LimitFlag>,
}

/// What the defaults depend on, gathered by whoever may ask the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The cores that this process may use, ascending; at least one.
    pub cores_allowed: Vec<usize>,
    /// How many files this process may open.
    pub descriptors: u64,
    /// How much memory it may use before the kernel ends it.
    pub memory_bytes: u64,
    /// The host's own name.
    pub hostname: String,
    /// Where state goes when nobody says; `None` if there is no such place.
    pub state_dir: Option<PathBuf>,
    /// The directory that relative paths on the command line start from.
    pub current_dir: PathBuf,
    /// Sockets that are bound already.
    pub given: GivenSockets,
    /// Whom a relay that runs serves by jProxy: of these none is lost because a file is wrong.
    /// `None` where one starts, or would.
    pub served: Option<TunnelUsers>,
}

#[cfg(test)]
impl HostFacts {
    /// A host for tests: two cores and few descriptors.
    pub(crate) fn example() -> Self {
        Self {
            cores_allowed: vec![0, 1],
            descriptors: 1024,
            memory_bytes: 4 << 30,
            hostname: "relay.example".into(),
            state_dir: Some("/var/lib/midspan".into()),
            current_dir: "/home/operator".into(),
            given: GivenSockets::default(),
            served: None,
        }
    }
}

impl RelaySettings {
    /// Gives `fresh` those of these settings that a running relay cannot change, and
    /// tells the names of what differed.
    pub fn keep_unchangeable(&self, fresh: &mut Self) -> Vec<&'static str> {
        let mut differing = Vec::new();
        macro_rules! keep {
            ($($name:literal $($field:ident).+,)*) => {$(
                if fresh.$($field).+ != self.$($field).+ {
                    fresh.$($field).+.clone_from(&self.$($field).+);
                    differing.push($name);
                }
            )*};
        }
        keep! {
            "listen" listen,
            "quic.listen" quic.listen,
            "quic.congestion" quic.path.congestion,
            "quic.mtu_max" quic.path.mtu_max,
            "admin" admin,
            "cores" cores,
            "data_plane" data_plane,
            "drain_timeout" drain_timeout,
            "spin_us" spin_us,
            "log" log,
            "state_dir" state_dir,
            "limits.associations_max" limits.associations_max,
            "limits.association_ttl_s" limits.association_ttl_s,
            "limits.pipes_max" limits.pipes_max,
            "limits.spill_bytes_max" limits.spill_bytes_max,
            "limits.websocket_ping_s" limits.websocket_ping_s,
            "limits.websocket_pong_timeout_s" limits.websocket_pong_timeout_s,
        }
        differing
    }

    /// What is valid, and yet perhaps not what was meant.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let without_tls = self.listen.iter().find(|listener| {
            let is_ws = |only| only == Pinned::Jet(Transport::Ws);
            !listener.is_loopback() && listener.only.is_none_or(is_ws)
        });
        let mut notes = Vec::new();
        if let Some(listener) = without_tls
            && self.users.path.is_some()
            && self.tls.client_ca.is_none()
        {
            notes.push(format!(
                "users of [websocks] may come to {} without TLS, where all can read what they \
                 prove who they are by, and use it for three minutes; have them come by \
                 websocks+wss, or listen at jet+wss://{} for TLS alone",
                listener.address, listener.address
            ));
        }
        for listener in &self.listen {
            if let Some(Pinned::Jproxy { is_tls: false, .. }) = listener.only
                && !listener.is_loopback()
            {
                let address = listener.address;
                notes.push(format!(
                    "users of [jproxy] come to {address} without TLS, where whoever is on the way \
                     can change what they send, and see what they send twice; listen at \
                     jproxy+tls://{address} where their clients can have it"
                ));
            }
        }
        notes.extend(self.jproxy.notes());
        let Awaiting { addresses, anybody } = &self.awaiting;
        if addresses.is_empty() && *anybody {
            notes.push(
                "websocks.bind.anybody is set without websocks.bind.addresses: nobody is awaited"
                    .to_owned(),
            );
        }
        if !addresses.is_empty() && self.users.path.is_none() {
            notes.push(
                "websocks.bind.addresses are set without websocks.users: there is nobody for \
                 whom somebody could be awaited"
                    .to_owned(),
            );
        }
        for (client, reachable) in self.forwarding.missing() {
            let name = &client.name;
            let servers = self.forwarding.servers().iter().map(|it| it.name.as_str());
            let written = reachable.server().map_or("", Name::as_str);
            let guess = similar(written, servers).map(|name| format!(": did you mean \"{name}\"?"));
            notes.push(format!(
                "the client \"{name}\" of [[ptth.clients]] may reach \"{reachable}\", and no server \
                 of [[ptth.servers]] is called so{}",
                guess.unwrap_or_default()
            ));
        }
        let absent = match (self.forwarding.servers(), self.forwarding.clients()) {
            ([], []) => Some("neither [[ptth.servers]] nor [[ptth.clients]] are"),
            ([], _) => Some("no [[ptth.servers]] are"),
            (_, []) => Some("no [[ptth.clients]] are"),
            _ => None,
        };
        if let Some(absent) = absent
            && !self.quic.listen.is_empty()
        {
            notes.push(format!(
                "quic.listen is set, and {absent} listed: nobody can meet by it; `midspan key NAME \
                 --for ptth-server` and `--for ptth-client` make a key each, and the lines for it"
            ));
        }
        notes
    }

    /// Whether only this host can reach the relay.
    #[must_use]
    pub fn is_loopback_only(&self) -> bool {
        self.listen.iter().all(|listener| listener.is_loopback())
    }
}

impl fmt::Display for RelaySettings {
    /// As a configuration file that says the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listen: Vec<_> = self.listen.iter().map(|a| format!("\"{a}\"")).collect();
        writeln!(f, "listen = [{}]", listen.join(", "))?;
        writeln!(f, "open = {}", self.open)?;
        if let Some(admin) = self.admin {
            writeln!(f, "admin = \"{admin}\"")?;
        }
        for (name, networks) in [
            ("proxy_protocol_from", &self.proxy_protocol_from),
            ("forwarded_for_from", &self.forwarded_for_from),
        ] {
            if !networks.is_empty() {
                let networks: Vec<_> = networks.iter().map(|n| format!("\"{n}\"")).collect();
                writeln!(f, "{name} = [{}]", networks.join(", "))?;
            }
        }
        writeln!(f, "create_on_accept = {}", self.create_on_accept)?;
        let cores = CoreChoice::List(self.cores.clone());
        writeln!(f, "cores = \"{cores}\"")?;
        writeln!(f, "data_plane = \"{}\"", self.data_plane)?;
        writeln!(f, "drain_timeout = \"{}\"", Period(self.drain_timeout))?;
        writeln!(f, "spin_us = {}", self.spin_us)?;
        let state_dir = toml::Value::String(self.state_dir.to_string_lossy().into_owned());
        writeln!(f, "state_dir = {state_dir}")?;
        writeln!(
            f,
            "\n[log]\nformat = \"{}\"\nlevel = \"{}\"",
            self.log.format, self.log.level
        )?;
        writeln!(
            f,
            "\n[jet]\nv1 = \"{}\"\ninstance = \"{}\"",
            self.jet.v1, self.jet.instance
        )?;
        // An empty list would be read as no list.
        if !self.jet.urls.is_empty() {
            let urls: Vec<_> = self.jet.urls.iter().map(|u| format!("\"{u}\"")).collect();
            writeln!(f, "urls = [{}]", urls.join(", "))?;
        }
        if !self.jet.stun.is_empty() {
            let stun: Vec<_> = self.jet.stun.iter().map(|u| format!("\"{u}\"")).collect();
            writeln!(f, "stun = [{}]", stun.join(", "))?;
        }
        writeln!(f, "\n[limits]")?;
        for (name, value) in self.limits.named() {
            writeln!(f, "{name} = {value}")?;
        }
        for key in self.keyring.keys() {
            write!(f, "\n{key}")?;
        }
        for issuer in self.keyring.issuers() {
            write!(f, "\n{issuer}")?;
        }
        websocks::Shown(&self.users, &self.awaiting, &self.egress).fmt(f)?;
        jproxy::Shown(&self.jproxy).fmt(f)?;
        forwarding::Shown(&self.forwarding).fmt(f)?;
        self.quic.fmt(f)?;
        web::Shown(&self.web).fmt(f)?;
        self.tls.fmt(f)
    }
}
