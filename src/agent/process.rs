//! Starts a proxy: one shard per core, until it is told to stop or gives up.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::error::AgentError;
use super::expose::ExposeService;
use super::forward::ForwardService;
use super::once::{Announce, OnceService};
use super::random::seed_randomness;
use super::settings::{
    AgentSettings, Direct, ExposeSettings, ForwardSettings, Sessions, SocksSettings,
};
use super::socks::{Renewable, SocksOptions, SocksService};
use super::target::{HostPort, Service as Exposed};
use super::ticket::{RelayUrl, Secret, Ticket};
use super::way::Way;
use crate::association::key::ShardId;
use crate::runtime::cores::{Cores, CoresError};
use crate::runtime::executor::run_shards;
use crate::runtime::inbox::{Inbox, Mailbox, inbox};
use crate::runtime::listener::{HandOut, Listener, bind_group, claim_address};
use crate::runtime::resolver::Resolver;
use crate::runtime::signal::Signals;
use crate::shard::control::{Envelope, Operator};
use crate::shard::pulse::Pulse;
use crate::shard::share::{engine_share, share, to_usize};
use crate::shard::status::{Inquirer, Legacies};
use crate::shard::world::{Service, ShardSnapshot, World, WorldSettings, drive};

/// A server-side proxy that is ready to serve.
#[derive(Debug)]
pub struct BoundExpose {
    cores: Cores,
    seeds: Vec<(Seed, Option<Listener>)>,
    relay: Way,
    direct: Option<HostPort>,
    services: Vec<Exposed>,
    sessions: Sessions,
    pulse: Option<Pulse<Infallible>>,
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
        let (cores, seeds, pulse) = seeds(&agent, signals, None)?;
        let mut bound = Vec::new();
        let mut direct = None;
        match &settings.direct {
            None => bound.extend(seeds.into_iter().map(|seed| (seed, None))),
            Some(Direct { listen, told }) => {
                let (address, listeners) = listeners(listen.0, HandOut::FirstBytes, seeds.len())?;
                direct = Some(told.clone().unwrap_or_else(|| address.into()));
                let listeners = listeners.into_iter().map(Some);
                bound.extend(seeds.into_iter().zip(listeners));
            }
        }
        Ok(Self {
            cores,
            seeds: bound,
            relay: way(&settings.relay, &agent)?,
            direct,
            services: settings.services.clone(),
            sessions: settings.sessions.clone(),
            pulse: Some(pulse),
        })
    }

    /// What watches the shards, to be kept on another thread; once.
    pub const fn take_pulse(&mut self) -> Option<Pulse<Infallible>> {
        self.pulse.take()
    }

    /// What asks the shards how they are.
    #[must_use]
    pub fn inquirer(&self) -> Inquirer<Infallible> {
        inquirer(&self.seeds)
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
            cores,
            seeds,
            relay,
            direct,
            services,
            sessions,
            pulse: _,
        } = self;
        match (sessions, services.first()) {
            (Sessions::Once, Some(exposed)) => {
                let mut announce = Some(announce);
                let seeds = with_each(seeds, |listener| OnceSeed {
                    relay: relay.clone(),
                    exposed: exposed.clone(),
                    direct: direct.clone(),
                    listener,
                    announce: announce.take(),
                });
                finish(run_shards(&cores, seeds, run_once)?)
            }
            (Sessions::Once, None) => unreachable!("the settings name at least one service"),
            (Sessions::Reusable(secret), _) => {
                let seeds = with_each(seeds, |listener| ExposeSeed {
                    relay: relay.clone(),
                    secret: secret.clone(),
                    services: services.clone(),
                    listener,
                });
                finish(run_shards(&cores, seeds, run_expose)?)
            }
        }
    }
}

/// A client-side proxy that listens but does not serve yet.
#[derive(Debug)]
pub struct BoundForward {
    address: SocketAddr,
    cores: Cores,
    seeds: Vec<(Seed, ForwardSeed)>,
    pulse: Option<Pulse<Infallible>>,
}

impl BoundForward {
    /// Claims the local address and makes everything that the shards need.
    ///
    /// # Errors
    ///
    /// When the address, a core or a descriptor cannot be had.
    pub fn bind(settings: &ForwardSettings, signals: Signals) -> Result<Self, AgentError> {
        let (cores, seeds, pulse) = seeds(&settings.agent, signals, None)?;
        let relay = way(settings.ticket.relay(), &settings.agent)?;
        let direct = settings
            .ticket
            .direct()
            .map(|address| Way::new(RelayUrl::direct(address.clone()), None, None));
        let direct = direct.transpose()?;
        let (address, listeners) = listeners(settings.listen.0, HandOut::Established, seeds.len())?;
        let own = listeners.into_iter().map(|listener| ForwardSeed {
            ticket: settings.ticket.clone(),
            relay: relay.clone(),
            direct: direct.clone(),
            listener,
        });
        Ok(Self {
            address,
            cores,
            seeds: seeds.into_iter().zip(own).collect(),
            pulse: Some(pulse),
        })
    }

    /// What watches the shards, to be kept on another thread; once.
    pub const fn take_pulse(&mut self) -> Option<Pulse<Infallible>> {
        self.pulse.take()
    }

    /// What asks the shards how they are.
    #[must_use]
    pub fn inquirer(&self) -> Inquirer<Infallible> {
        inquirer(&self.seeds)
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
        finish(run_shards(&self.cores, self.seeds, run_forward)?)
    }
}

/// A local SOCKS5 port that listens but does not serve yet.
#[derive(Debug)]
pub struct BoundSocks {
    address: SocketAddr,
    cores: Cores,
    seeds: Vec<(Seed<SocksMessage>, Listener)>,
    options: SocksOptions,
    pulse: Option<Pulse<SocksMessage>>,
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

    /// Has every shard take rules, password and local user of these settings for all that
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
        let (cores, seeds, pulse) = seeds(&settings.agent, signals, Some(reload))?;
        let reloader = SocksReloader {
            shards: pulse.shards.clone(),
            asked,
        };
        let options = SocksOptions::new(settings)?;
        let (address, listeners) = listeners(settings.listen.0, HandOut::FirstBytes, seeds.len())?;
        Ok(Self {
            address,
            cores,
            seeds: seeds.into_iter().zip(listeners).collect(),
            options,
            pulse: Some(pulse),
            reloader: Some(reloader),
        })
    }

    /// What watches the shards, to be kept on another thread; once.
    pub const fn take_pulse(&mut self) -> Option<Pulse<SocksMessage>> {
        self.pulse.take()
    }

    /// What asks the shards how they are.
    #[must_use]
    pub fn inquirer(&self) -> Inquirer<SocksMessage> {
        inquirer(&self.seeds)
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
        let options = &self.options;
        let seeds = with_each(self.seeds, |listener| (options.clone(), listener));
        finish(run_shards(&self.cores, seeds, run_socks)?)
    }
}

/// What every shard starts with.
#[derive(Debug)]
pub(super) struct Seed<M = Infallible> {
    world: WorldSettings,
    pub(super) connections_max: usize,
    resolver: Resolver,
    inbox: Inbox<Envelope<M>>,
    pub(super) shards: Vec<Mailbox<Envelope<M>>>,
    operator: Option<Operator>,
    legacies: Legacies,
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

pub(super) type Ended = io::Result<(ShardSnapshot, Option<AgentError>)>;

type Started<M> = (Cores, Vec<Seed<M>>, Pulse<M>);

/// `reload` is told of a `SIGHUP`, which else ends the agent.
pub(super) fn seeds<M>(
    settings: &AgentSettings,
    signals: Signals,
    reload: Option<Sender<()>>,
) -> Result<Started<M>, AgentError> {
    let cores = Cores::usable()
        .map_err(AgentError::Affinity)?
        .select(&settings.cores)?;
    let shard_count = u16::try_from(cores.count()).ok().and_then(NonZeroU16::new);
    let Some(shard_count) = shard_count else {
        return Err(CoresError::None.into());
    };
    let world = WorldSettings {
        data_plane: settings.data_plane,
        engine: engine_share(&settings.limits, shard_count),
        drain_timeout: settings.drain_timeout,
        spin: Duration::ZERO,
    };
    let resolver = Resolver::start().map_err(AgentError::Setup)?;
    let mut mailboxes = Vec::new();
    let mut inboxes = Vec::new();
    for _ in 0..shard_count.get() {
        let (mailbox, inbox) = inbox().map_err(AgentError::Setup)?;
        mailboxes.push(mailbox);
        inboxes.push(inbox);
    }
    // One shard reads the signals and tells the others.
    let (stopping, told_to_stop) = channel();
    let mut operator = Some(Operator {
        signals,
        reload,
        stopping,
    });
    let legacies = Legacies::new(inboxes.len());
    let seeds = inboxes
        .into_iter()
        .map(|inbox| Seed {
            world,
            connections_max: to_usize(share(settings.limits.connections_max, shard_count)),
            resolver: resolver.clone(),
            inbox,
            shards: mailboxes.clone(),
            operator: operator.take(),
            legacies: legacies.clone(),
        })
        .collect();
    let pulse = Pulse {
        shards: mailboxes,
        stopping: told_to_stop,
    };
    Ok((cores, seeds, pulse))
}

pub(super) fn inquirer<M, S>(seeds: &[(Seed<M>, S)]) -> Inquirer<M> {
    let Some((seed, _)) = seeds.first() else {
        unreachable!("there is a shard for each core, and at least one");
    };
    Inquirer::new(seed.shards.clone(), seed.legacies.clone())
}

fn way(relay: &RelayUrl, agent: &AgentSettings) -> Result<Way, AgentError> {
    let authorities = agent.relay_ca.as_deref();
    Ok(Way::new(relay.clone(), authorities, agent.via.clone())?)
}

pub(super) fn listeners(
    address: SocketAddr,
    hand_out: HandOut,
    count: usize,
) -> Result<(SocketAddr, Vec<Listener>), AgentError> {
    let claim_and_bind = || {
        // Settles the port for all of them.
        let claimed = claim_address(address)?;
        Ok((claimed, bind_group(claimed, hand_out, count)?))
    };
    claim_and_bind().map_err(|source| AgentError::Listen { address, source })
}

pub(super) fn with_each<M, S, T>(
    seeds: Vec<(Seed<M>, S)>,
    mut make: impl FnMut(S) -> T,
) -> Vec<(Seed<M>, T)> {
    let with_own = |(seed, own)| (seed, make(own));
    seeds.into_iter().map(with_own).collect()
}

pub(super) fn finish(shards: Vec<Ended>) -> Result<ShardSnapshot, AgentError> {
    let mut total = ShardSnapshot::zero();
    for ended in shards {
        let (snapshot, failure) = ended.map_err(AgentError::Setup)?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        total.merge(&snapshot);
    }
    Ok(total)
}

pub(super) fn new_world<C: Copy, M>(index: u16, seed: &Seed<M>) -> io::Result<Rc<World<C, M>>>
where
    M: Send + 'static,
{
    seed_randomness();
    let resolver = Some(seed.resolver.clone());
    World::new(ShardId(index), seed.world, seed.shards.clone(), resolver)
}

pub(super) async fn drive_shard<S: Service>(
    service: &Rc<S>,
    seed: Seed<S::Message>,
) -> ShardSnapshot {
    let service = Rc::clone(service);
    drive(service, seed.inbox, seed.operator, &seed.legacies).await
}

async fn run_expose(index: u16, (seed, own): (Seed, ExposeSeed)) -> Ended {
    let world = new_world(index, &seed)?;
    if let Some(listener) = own.listener {
        world.reactor.listen(listener);
    }
    let shards = u64::try_from(seed.shards.len()).unwrap_or(u64::MAX);
    let service = ExposeService::new(
        world,
        own.relay,
        own.secret,
        own.services,
        seed.connections_max,
    );
    service.start(shards);
    let counted = drive_shard(&service, seed).await;
    Ok((counted, service.take_failure()))
}

async fn run_once(index: u16, (seed, own): (Seed, OnceSeed)) -> Ended {
    let world = new_world(index, &seed)?;
    if let Some(listener) = own.listener {
        world.reactor.listen(listener);
    }
    let announce = own.announce.unwrap_or_else(|| Box::new(|_| ()));
    let service = OnceService::new(world, own.relay, own.exposed, own.direct, announce);
    service.start();
    let counted = drive_shard(&service, seed).await;
    Ok((counted, service.take_failure()))
}

async fn run_socks(
    index: u16,
    (seed, own): (Seed<SocksMessage>, (SocksOptions, Listener)),
) -> Ended {
    let world = new_world(index, &seed)?;
    let (options, listener) = own;
    world.reactor.listen(listener);
    let service = SocksService::new(world, options, seed.connections_max);
    service.start();
    let counted = drive_shard(&service, seed).await;
    Ok((counted, None))
}

async fn run_forward(index: u16, (seed, own): (Seed, ForwardSeed)) -> Ended {
    let world = new_world(index, &seed)?;
    world.reactor.listen(own.listener);
    let service = ForwardService::new(
        world,
        own.ticket,
        own.relay,
        own.direct,
        seed.connections_max,
    );
    let counted = drive_shard(&service, seed).await;
    Ok((counted, None))
}
