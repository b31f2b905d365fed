//! Starts the relay: addresses first, then one shard per core, then waits for
//! all of them to end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use ahash::RandomState;
use rustls::ServerConfig;

use super::control::{Envelope, Operator};
use super::drive::drive;
use super::listeners::{Listeners, check_addresses};
use super::pulse::Pulse;
use super::reload::Reloader;
use super::rendezvous::{Message, Random, RelayService};
use super::rendezvous_settings::{
    ForwardingLimits, QuicSettings, RendezvousSettings, TunnelSettings,
};
use super::share::{engine_share, share, to_u32, to_usize};
use super::status::{Inquirer, Legacies};
use super::udp_listeners::{QuicIdentity, UdpListeners};
use super::world::{ShardSnapshot, World, WorldSettings};
use crate::association::key::ShardId;
use crate::association::owner::Owner;
use crate::association::rendezvous::Rendezvous;
use crate::association::table::{Limits as TableLimits, OnUnknown, Table};
use crate::config::settings::RelaySettings;
use crate::config::{JetV1, Pinned, URLS_MAX};
use crate::protocol::jet::{HostName, HostNameError, PublicUrl, PublicUrlError, Transport};
use crate::quic::keys::SharedKeys;
use crate::runtime::cores::{Cores, CoresError};
use crate::runtime::executor::{ExecutorError, Start, run_shards};
use crate::runtime::inbox::{Inbox, Mailbox, inbox};
use crate::runtime::inherited::InheritedSocket;
use crate::runtime::listener::{Listener, listen_advice};
use crate::runtime::resolver::Resolver;
use crate::runtime::signal::Signals;
use crate::runtime::socket::Socket;
use crate::runtime::udp_group::udp_advice;

/// Why the relay did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot bind {address} over UDP")]
    ListenUdp {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("quic.listen takes at most 256 shards, and there are {shards}")]
    TooManyShards { shards: NonZeroU16 },
    #[error("this build has no cipher that QUIC can begin with")]
    NoInitialCipher,
    #[error("websocks.bind.addresses: cannot listen at {ip}")]
    Await { ip: IpAddr, source: io::Error },
    #[error(
        "sockets that systemd has bound to {address}: {sockets}; shards, which need one each: {shards}"
    )]
    Sockets {
        address: SocketAddr,
        sockets: usize,
        shards: NonZeroU16,
    },
    #[error(transparent)]
    Cores(#[from] CoresError),
    #[error("jet.instance: {0}")]
    Instance(#[from] HostNameError),
    #[error("jet.instance: {0}")]
    Route(#[from] PublicUrlError),
    #[error("cannot ask which cores this process may use")]
    Affinity(#[source] io::Error),
    #[error(transparent)]
    Executor(#[from] ExecutorError),
}

impl ServeError {
    /// What the operator can do about it, as an imperative.
    #[must_use]
    pub fn next_step(&self) -> Option<String> {
        match self {
            Self::Listen { source, .. } | Self::Await { source, .. } => {
                listen_advice(source).map(str::to_owned)
            }
            Self::ListenUdp { source, .. } => udp_advice(source).map(str::to_owned),
            Self::Executor(error) => error.next_step().map(str::to_owned),
            Self::Sockets {
                sockets, shards, ..
            } => Some(format!(
                "in the .socket unit, write ReusePort=yes and this ListenStream= {shards} times, or \
                 pass --cores {sockets}"
            )),
            _ => None,
        }
    }
}

/// A relay that listens but does not serve yet.
#[derive(Debug)]
pub struct BoundRelay {
    cores: Cores,
    seeds: Vec<Seed>,
    addresses: Vec<SocketAddr>,
    congestion_control: String,
    quic_addresses: Vec<SocketAddr>,
    /// See [`UdpListeners::kept`].
    quic_kept: Vec<Socket>,
    quic_notes: Vec<String>,
    reloader: Option<Reloader>,
    pulse: Option<Pulse<Message>>,
    inquirer: Option<Inquirer<Message>>,
}

/// What one shard starts with.
#[derive(Debug)]
struct Seed {
    world: WorldSettings,
    service: RendezvousSettings,
    table: TableLimits,
    owner: Owner,
    random: Random,
    listeners: Vec<Listener>,
    quic: Vec<Socket>,
    quic_keys: SharedKeys,
    resolver: Resolver,
    legacies: Legacies,
    inbox: Inbox<Envelope<Message>>,
    shards: Vec<Mailbox<Envelope<Message>>>,
    operator: Option<Operator>,
}

impl BoundRelay {
    /// Claims the addresses, or takes those of `sockets` if there are any, and makes
    /// everything that the shards need.
    ///
    /// `tls` is for those who come over it, `quic` for those who come by that; `owner_secret`
    /// keys the owner function; `random` must be fit for credentials.
    ///
    /// # Errors
    ///
    /// When an address, a core or a descriptor cannot be had.
    pub fn bind(
        settings: &RelaySettings,
        tls: Arc<ServerConfig>,
        quic: &QuicIdentity,
        owner_secret: [u8; 16],
        random: Random,
        signals: Signals,
        sockets: Vec<InheritedSocket>,
    ) -> Result<Self, ServeError> {
        let cores = Cores::usable()
            .map_err(ServeError::Affinity)?
            .select(&settings.cores)?;
        let shard_count = u16::try_from(cores.count()).ok().and_then(NonZeroU16::new);
        let Some(shard_count) = shard_count else {
            return Err(CoresError::None.into());
        };
        let owner = Owner::new(owner_secret, shard_count);
        let (reload, reload_asked) = channel();
        let (stopping, told_to_stop) = channel();
        let mut operator = Some(Operator {
            signals,
            reload: Some(reload),
            stopping,
        });
        let listeners = match sockets.is_empty() {
            true => Listeners::bind(settings, shard_count)?,
            false => Listeners::adopt(settings, sockets, shard_count)?,
        };
        check_addresses(&settings.awaiting.addresses, &[])?;
        let udp = UdpListeners::bind(settings, shard_count)?;
        let quic_server = match udp.addresses.is_empty() {
            true => None,
            false => Some(quic.server(&settings.limits, settings.quic.path)?),
        };
        let quic_keys = quic_server.as_ref().map(|_| quic.keys);
        let congestion_control = listeners.congestion_control();
        let addresses = listeners.addresses;
        let mut mailboxes = Vec::new();
        let mut inboxes = Vec::new();
        for _ in 0..shard_count.get() {
            let (mailbox, inbox) = inbox().map_err(ExecutorError::Setup)?;
            mailboxes.push(mailbox);
            inboxes.push(inbox);
        }
        let service = service_settings(settings, tls, quic_server, &addresses, shard_count)?;
        let resolver = Resolver::start().map_err(ExecutorError::Setup)?;
        let legacies = Legacies::new(inboxes.len());
        let mut seeds = Vec::new();
        let sockets = listeners.by_shard.into_iter().zip(udp.by_shard);
        for (inbox, (listeners, udp)) in inboxes.into_iter().zip(sockets) {
            seeds.push(Seed {
                quic: udp,
                quic_keys: quic.keys,
                world: world_settings(settings, shard_count),
                service: service.clone(),
                table: table_limits(settings, shard_count),
                owner: owner.clone(),
                random,
                listeners,
                resolver: resolver.clone(),
                legacies: legacies.clone(),
                inbox,
                shards: mailboxes.clone(),
                // One shard hears the operator and tells the others.
                operator: operator.take(),
            });
        }
        let inquirer = Inquirer::new(mailboxes.clone(), legacies);
        Ok(Self {
            cores,
            seeds,
            reloader: Some(Reloader {
                addresses: addresses.clone(),
                awaiting: settings.awaiting.addresses.clone().into(),
                shard_count,
                shards: mailboxes.clone(),
                asked: reload_asked,
                quic_keys,
            }),
            pulse: Some(Pulse {
                shards: mailboxes,
                stopping: told_to_stop,
            }),
            inquirer: Some(inquirer),
            addresses,
            quic_addresses: udp.addresses,
            quic_kept: udp.kept,
            quic_notes: udp.notes,
            congestion_control,
        })
    }

    /// What asks the shards how they are, to be kept on another thread; once.
    pub const fn take_inquirer(&mut self) -> Option<Inquirer<Message>> {
        self.inquirer.take()
    }

    /// What gives the shards new settings, to be kept on another thread; once.
    pub const fn take_reloader(&mut self) -> Option<Reloader> {
        self.reloader.take()
    }

    /// What watches the shards, to be kept on another thread; once.
    pub const fn take_pulse(&mut self) -> Option<Pulse<Message>> {
        self.pulse.take()
    }

    /// Where it listens, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it speaks QUIC, with the ports that the kernel chose.
    #[must_use]
    pub fn quic_addresses(&self) -> &[SocketAddr] {
        &self.quic_addresses
    }

    /// What of its sockets of UDP an operator may want to change, a sentence each.
    #[must_use]
    pub fn quic_notes(&self) -> &[String] {
        &self.quic_notes
    }

    /// The cores that it will run on.
    #[must_use]
    pub fn cores(&self) -> &Cores {
        &self.cores
    }

    /// The congestion control of its connections.
    #[must_use]
    pub fn congestion_control(&self) -> &str {
        &self.congestion_control
    }

    /// Serves until told to stop; returns what all shards counted.
    ///
    /// # Errors
    ///
    /// When the shards cannot be started.
    pub fn serve(self) -> Result<ShardSnapshot, ServeError> {
        let snapshots = run_shards(&self.cores, self.seeds, run_shard)?;
        drop(self.quic_kept);
        let mut total = ShardSnapshot::zero();
        for snapshot in snapshots {
            total.merge(&snapshot);
        }
        Ok(total)
    }
}

async fn run_shard(index: u16, seed: Seed, start: Start) -> Result<ShardSnapshot, ExecutorError> {
    // The first draw seeds the thread's generator, which takes some 20 ms: now,
    // and not while somebody waits for an id.
    let _ = (seed.random)();
    let shard = ShardId(index);
    let world = World::new(shard, seed.world, seed.shards, Some(seed.resolver))?;
    let table = Table::new(seed.table, RandomState::new());
    let rendezvous = Rendezvous::new(seed.owner, shard, table);
    for listener in seed.listeners {
        world.reactor.listen(listener);
    }
    if let Some(server) = &seed.service.quic.server {
        world.speak_quic(seed.quic_keys, seed.quic, Some(server))?;
    }
    let service = RelayService::new(world, seed.service, rendezvous, seed.random);
    start.meet_others()?;
    Ok(drive(service, seed.inbox, seed.operator, &seed.legacies).await)
}

fn world_settings(settings: &RelaySettings, shards: NonZeroU16) -> WorldSettings {
    WorldSettings {
        data_plane: settings.data_plane,
        engine: engine_share(&settings.limits, shards),
        drain_timeout: settings.drain_timeout,
        spin: Duration::from_micros(u64::from(settings.spin_us)),
    }
}

pub(super) fn service_settings(
    settings: &RelaySettings,
    tls: Arc<ServerConfig>,
    quic: Option<Arc<quinn_proto::ServerConfig>>,
    addresses: &[SocketAddr],
    shards: NonZeroU16,
) -> Result<RendezvousSettings, ServeError> {
    let limits = &settings.limits;
    let instance = &settings.jet.instance;
    Ok(RendezvousSettings {
        on_unknown: if settings.create_on_accept {
            OnUnknown::Create
        } else {
            OnUnknown::Refuse
        },
        v1_allowed: settings.jet.v1 == JetV1::Allow,
        instance: HostName::new(instance.as_str())?,
        only: settings
            .listen
            .iter()
            .map(|listener| listener.only)
            .collect(),
        routes: match settings.jet.urls.is_empty() {
            true => listener_urls(settings, addresses)?,
            false => settings.jet.urls.clone(),
        },
        tls,
        tls_required: settings.tls.client_ca.is_some(),
        keyring: settings.keyring.clone(),
        session_idle: limits.session_idle(),
        users: settings.users.users.clone(),
        allowances: settings.users.allowances.clone(),
        awaiting: settings.awaiting.clone(),
        egress: settings.egress.clone(),
        forwarding: settings.forwarding.clone(),
        forwarding_limits: ForwardingLimits::new(limits),
        tunnels: TunnelSettings::new(settings, shards),
        quic: QuicSettings::new(limits, quic),
        web: settings.web.clone(),
        stun: settings.jet.stun.clone(),
        proxy_protocol_from: settings.proxy_protocol_from.clone(),
        forwarded_for_from: settings.forwarded_for_from.clone(),
        association_ttl: limits.association_ttl(),
        session_ttl: limits.session_ttl(),
        handshake_timeout: limits.handshake_timeout(),
        handshakes_max: to_usize(share(limits.handshakes_max, shards)),
        connections_max: to_usize(share(limits.connections_max, shards)),
        connections_per_address_max: to_u32(share(limits.connections_per_address_max, shards)),
        memory_bytes_max: limits.memory_bytes_max,
        waiting_per_address_max: to_u32(share(limits.waiting_per_address_max, shards)),
        creations_per_minute_max: to_u32(limits.creations_per_minute_max),
        sessions_per_user_max: to_u32(limits.sessions_per_user_max),
        dials_per_minute_max: to_u32(limits.dials_per_minute_max),
        binds_max: to_usize(share(limits.binds_max, shards)),
        binds_per_user_max: to_u32(limits.binds_per_user_max),
        bind_timeout: limits.bind_timeout(),
        names_per_user_max: to_usize(limits.names_per_user_max),
        wrong_passwords_per_minute_max: to_u32(share(
            limits.wrong_passwords_per_minute_max,
            shards,
        )),
        spent_tokens_max: to_usize(share(limits.spent_tokens_max, shards)),
    })
}

/// How peers reach the listeners, as far as the relay knows.
fn listener_urls(
    settings: &RelaySettings,
    addresses: &[SocketAddr],
) -> Result<Vec<PublicUrl>, PublicUrlError> {
    // The instance's name may bring a port, which then is the one to be told.
    let instance = &settings.jet.instance;
    let (host, port) = (instance.host(), instance.port());
    // Nobody whom we tell of it could trust a certificate made here.
    let transports: &[Transport] = match settings.tls.certificates.is_empty() {
        true => &[Transport::Tcp, Transport::Ws],
        false => &[
            Transport::Tcp,
            Transport::Tls,
            Transport::Ws,
            Transport::Wss,
        ],
    };
    let mut routes = Vec::new();
    for (address, listener) in addresses.iter().zip(&settings.listen) {
        let only = listener.only;
        let is_served =
            |transport: &&Transport| only.is_none_or(|only| only == Pinned::Jet(**transport));
        for &transport in transports.iter().filter(is_served) {
            let url = PublicUrl::new(transport, host, port.unwrap_or(address.port()))?;
            if !routes.contains(&url) {
                routes.push(url);
            }
        }
    }
    routes.truncate(URLS_MAX);
    Ok(routes)
}

fn table_limits(settings: &RelaySettings, shards: NonZeroU16) -> TableLimits {
    TableLimits {
        associations_max: to_u32(share(settings.limits.associations_max, shards)),
        per_creator_max: to_u32(share(settings.limits.associations_per_bearer_max, shards)),
        lifetime: settings.limits.association_ttl(),
        ..TableLimits::default()
    }
}
