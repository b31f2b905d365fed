//! Starts a proxy: one shard per core, until it is told to stop or gives up.

use std::iter;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};

use super::error::AgentError;
use super::expose::ExposeService;
use super::fleet::{Ended, Fleet, Seed};
use super::forward::ForwardService;
use super::once::{Announce, OnceService};
use super::settings::{
    AgentSettings, Direct, ExposeSettings, ForwardSettings, Sessions, SocksSettings,
    TunnelForwardSettings,
};
use super::socks::{Renewable, SocksOptions, SocksService};
use super::target::{HostPort, Service as Exposed};
use super::ticket::{RelayUrl, Secret, Ticket};
use super::way::Way;
use crate::runtime::executor::Start;
use crate::runtime::inbox::Mailbox;
use crate::runtime::listener::{HandOut, Listener};
use crate::runtime::signal::Signals;
use crate::shard::control::Envelope;
use crate::shard::world::ShardSnapshot;

/// A server-side proxy that is ready to serve.
#[derive(Debug)]
pub struct BoundExpose {
    /// Its shards.
    pub fleet: Fleet,
    /// For clients that come directly: of every shard, or of none.
    listeners: Vec<Listener>,
    relay: Way,
    direct: Option<HostPort>,
    services: Vec<Exposed>,
    sessions: Sessions,
}

impl BoundExpose {
    /// Claims the address for clients that come directly, if there is to be one, and
    /// makes everything that the shards need.
    ///
    /// # Errors
    ///
    /// When the address, a core or a descriptor cannot be had, or there is no way to
    /// the relay.
    pub fn bind(settings: &ExposeSettings, signals: Signals) -> Result<Self, AgentError> {
        let mut agent = settings.agent.clone();
        if settings.sessions == Sessions::Once {
            agent.cores.truncate(1);
        }
        let fleet = Fleet::new(&agent, signals, None)?;
        let (direct, listeners) = match &settings.direct {
            None => (None, Vec::new()),
            Some(Direct { listen, told }) => {
                let (address, listeners) = fleet.listen(listen.0, HandOut::FirstBytes)?;
                let told = told.clone().unwrap_or_else(|| address.into());
                (Some(told), listeners)
            }
        };
        Ok(Self {
            fleet,
            listeners,
            relay: way(&settings.relay, &agent)?,
            direct,
            services: settings.services.clone(),
            sessions: settings.sessions.clone(),
        })
    }

    /// Where clients that come directly reach it, with the port that the kernel chose.
    #[must_use]
    pub const fn direct(&self) -> Option<&HostPort> {
        self.direct.as_ref()
    }

    /// Exposes services until told to stop, or until the one session of
    /// [`Sessions::Once`] is over; `announce` tells that session's ticket. Returns
    /// what all shards counted.
    ///
    /// # Errors
    ///
    /// When the shards cannot be started, or the relay will not serve them.
    pub fn serve(self, announce: Announce) -> Result<ShardSnapshot, AgentError> {
        let Self {
            fleet,
            listeners,
            relay,
            direct,
            services,
            sessions,
        } = self;
        let mut listeners = listeners.into_iter();
        match (sessions, services.first()) {
            (Sessions::Once, Some(exposed)) => {
                let mut announce = Some(announce);
                let own = iter::repeat_with(|| OnceSeed {
                    relay: relay.clone(),
                    exposed: exposed.clone(),
                    direct: direct.clone(),
                    listener: listeners.next(),
                    announce: announce.take(),
                });
                fleet.run(own, run_once)
            }
            (Sessions::Once, None) => unreachable!("the settings name at least one service"),
            (Sessions::Reusable(secret), _) => {
                let own = iter::repeat_with(|| ExposeSeed {
                    relay: relay.clone(),
                    secret: secret.clone(),
                    services: services.clone(),
                    listener: listeners.next(),
                });
                fleet.run(own, run_expose)
            }
        }
    }
}

/// A client-side proxy that listens but does not serve yet.
#[derive(Debug)]
pub struct BoundForward {
    /// Its shards.
    pub fleet: Fleet,
    address: SocketAddr,
    own: Vec<ForwardSeed>,
}

impl BoundForward {
    /// Claims the local address and makes everything that the shards need.
    ///
    /// # Errors
    ///
    /// When the address, a core or a descriptor cannot be had.
    pub fn bind(settings: &ForwardSettings, signals: Signals) -> Result<Self, AgentError> {
        let fleet = Fleet::new(&settings.agent, signals, None)?;
        let relay = way(settings.ticket.relay(), &settings.agent)?;
        let direct = settings
            .ticket
            .direct()
            .map(|address| Way::new(RelayUrl::direct(address.clone()), None, None));
        let direct = direct.transpose()?;
        let (address, listeners) = fleet.listen(settings.listen.0, HandOut::Established)?;
        let own = listeners.into_iter().map(|listener| ForwardSeed {
            ticket: settings.ticket.clone(),
            relay: relay.clone(),
            direct: direct.clone(),
            listener,
        });
        Ok(Self {
            fleet,
            address,
            own: own.collect(),
        })
    }

    /// Where it listens, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards until told to stop; returns what all shards counted.
    ///
    /// # Errors
    ///
    /// When the shards cannot be started.
    pub fn serve(self) -> Result<ShardSnapshot, AgentError> {
        self.fleet.run(self.own, run_forward)
    }
}

/// A local SOCKS5 port that listens but does not serve yet.
#[derive(Debug)]
pub struct BoundSocks {
    /// Its shards.
    pub fleet: Fleet<SocksMessage>,
    address: SocketAddr,
    listeners: Vec<Listener>,
    options: SocksOptions,
    reloader: Option<SocksReloader>,
}

/// What a local SOCKS5 port is told while it serves.
type SocksMessage = Box<Renewable>;

/// The shards of a local SOCKS5 port, as seen by who reads its files again.
#[derive(Debug)]
pub struct SocksReloader {
    shards: Vec<Mailbox<Envelope<SocksMessage>>>,
    asked: Receiver<()>,
}

impl SocksReloader {
    /// Waits for an operator to ask for it; false when the agent has ended.
    #[must_use]
    pub fn wait(&self) -> bool {
        self.asked.recv().is_ok()
    }

    /// Has every shard take rules, password or key, and local user of these settings for all that
    /// comes from now on. Nothing that runs notices.
    pub fn apply(&self, settings: &SocksSettings) {
        let fresh = Box::new(Renewable::new(settings));
        for shard in &self.shards {
            // A shard that has ended needs none.
            let _ = shard.send(Envelope::Service(fresh.clone()));
        }
    }
}

impl BoundSocks {
    /// Claims the local address and makes everything that the shards need.
    ///
    /// # Errors
    ///
    /// When the address, a core or a descriptor cannot be had, or there is nobody to trust
    /// as a relay.
    pub fn bind(settings: &SocksSettings, signals: Signals) -> Result<Self, AgentError> {
        let (reload, asked) = channel();
        let fleet = Fleet::new(&settings.agent, signals, Some(reload))?;
        let reloader = SocksReloader {
            shards: fleet.mailboxes(),
            asked,
        };
        let options = SocksOptions::new(settings)?;
        let (address, listeners) = fleet.listen(settings.listen.0, HandOut::FirstBytes)?;
        Ok(Self {
            fleet,
            address,
            listeners,
            options,
            reloader: Some(reloader),
        })
    }

    /// The same for a port that leads to one destination.
    ///
    /// # Errors
    ///
    /// As [`Self::bind`].
    pub fn bind_forward(
        settings: &TunnelForwardSettings,
        signals: Signals,
    ) -> Result<Self, AgentError> {
        let fleet = Fleet::new(&settings.agent, signals, None)?;
        let options = SocksOptions::forwarding(settings)?;
        let (address, listeners) = fleet.listen(settings.listen.0, HandOut::Established)?;
        Ok(Self {
            fleet,
            address,
            listeners,
            options,
            reloader: None,
        })
    }

    /// What gives the shards new settings, to be kept on another thread; once.
    pub const fn take_reloader(&mut self) -> Option<SocksReloader> {
        self.reloader.take()
    }

    /// Where it listens, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop; returns what all shards counted.
    ///
    /// # Errors
    ///
    /// When the shards cannot be started.
    pub fn serve(self) -> Result<ShardSnapshot, AgentError> {
        let own = iter::repeat(self.options).zip(self.listeners);
        self.fleet.run(own, run_socks)
    }
}

struct ExposeSeed {
    relay: Way,
    secret: Secret,
    services: Vec<Exposed>,
    /// For clients that come directly.
    listener: Option<Listener>,
}

struct OnceSeed {
    relay: Way,
    exposed: Exposed,
    /// Where clients that come directly reach it.
    direct: Option<HostPort>,
    listener: Option<Listener>,
    announce: Option<Announce>,
}

#[derive(Debug)]
struct ForwardSeed {
    ticket: Ticket,
    relay: Way,
    direct: Option<Way>,
    listener: Listener,
}

fn way(relay: &RelayUrl, agent: &AgentSettings) -> Result<Way, AgentError> {
    let authorities = agent.relay_ca.as_deref();
    Ok(Way::new(relay.clone(), authorities, agent.via.clone())?)
}

async fn run_expose(index: u16, (seed, own): (Seed, ExposeSeed), start: Start) -> Ended {
    let world = seed.world(index)?;
    if let Some(listener) = own.listener {
        world.reactor.listen(listener);
    }
    let service = ExposeService::new(
        world,
        own.relay,
        own.secret,
        own.services,
        seed.connections_max,
    );
    service.start(seed.shards());
    let counted = seed.drive(start, &service).await?;
    Ok((counted, service.take_failure()))
}

async fn run_once(index: u16, (seed, own): (Seed, OnceSeed), start: Start) -> Ended {
    let world = seed.world(index)?;
    if let Some(listener) = own.listener {
        world.reactor.listen(listener);
    }
    let announce = own.announce.unwrap_or_else(|| Box::new(|_| ()));
    let service = OnceService::new(world, own.relay, own.exposed, own.direct, announce);
    service.start();
    let counted = seed.drive(start, &service).await?;
    Ok((counted, service.take_failure()))
}

async fn run_socks(
    index: u16,
    (seed, own): (Seed<SocksMessage>, (SocksOptions, Listener)),
    start: Start,
) -> Ended {
    let world = seed.world(index)?;
    let (options, listener) = own;
    world.reactor.listen(listener);
    let service = SocksService::new(world, options, seed.connections_max);
    service.start();
    let counted = seed.drive(start, &service).await?;
    Ok((counted, None))
}

async fn run_forward(index: u16, (seed, own): (Seed, ForwardSeed), start: Start) -> Ended {
    let world = seed.world(index)?;
    world.reactor.listen(own.listener);
    let service = ForwardService::new(
        world,
        own.ticket,
        own.relay,
        own.direct,
        seed.connections_max,
    );
    let counted = seed.drive(start, &service).await?;
    Ok((counted, None))
}
