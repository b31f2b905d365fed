//! Starts the proxies of PTTH: claims what they need, and runs their shards.

use std::convert::Infallible;
use std::net::SocketAddr;

use super::asking::Relay;
use super::expose::ExposeService;
use super::forward::ForwardService;
use crate::agent::error::AgentError;
use crate::agent::process::{
    Ended, Seed, drive_shard, finish, inquirer, listeners, new_world, seeds, with_each,
};
use crate::agent::settings::{
    PtthDestination, PtthExposeSettings, PtthForwardSettings, PtthService,
};
use crate::runtime::cores::Cores;
use crate::runtime::executor::run_shards;
use crate::runtime::listener::{HandOut, Listener};
use crate::runtime::signal::Signals;
use crate::shard::pulse::Pulse;
use crate::shard::status::Inquirer;
use crate::shard::world::ShardSnapshot;

/// A server-side proxy that is ready to listen at its relay.
#[derive(Debug)]
pub struct BoundExpose {
    cores: Cores,
    seeds: Vec<(Seed, ())>,
    relay: Relay,
    services: Vec<PtthService>,
    pulse: Option<Pulse<Infallible>>,
}

impl BoundExpose {
    /// Makes everything that the shards need.
    ///
    /// # Errors
    ///
    /// When a core or a descriptor cannot be had, or there is nobody to trust as the relay.
    pub fn bind(settings: &PtthExposeSettings, signals: Signals) -> Result<Self, AgentError> {
        let agent = &settings.agent;
        let (cores, seeds, pulse) = seeds(agent, signals, None)?;
        Ok(Self {
            cores,
            seeds: seeds.into_iter().map(|seed| (seed, ())).collect(),
            relay: Relay::new(&settings.relay, &settings.key, agent)?,
            services: settings.services.clone(),
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

    /// Exposes services until told to stop; returns what all shards counted.
    ///
    /// # Errors
    ///
    /// When the shards cannot be started, or the relay will not serve them.
    pub fn serve(self) -> Result<ShardSnapshot, AgentError> {
        let own = (self.relay, self.services);
        let seeds = with_each(self.seeds, |()| own.clone());
        finish(run_shards(&self.cores, seeds, run_expose)?)
    }
}

/// A client-side proxy that listens but does not serve yet.
#[derive(Debug)]
pub struct BoundForward {
    address: SocketAddr,
    cores: Cores,
    seeds: Vec<(Seed, Listener)>,
    relay: Relay,
    destination: PtthDestination,
    pulse: Option<Pulse<Infallible>>,
}

impl BoundForward {
    /// Claims the local address and makes everything that the shards need.
    ///
    /// # Errors
    ///
    /// When the address, a core or a descriptor cannot be had, or there is nobody to trust as
    /// the relay.
    pub fn bind(settings: &PtthForwardSettings, signals: Signals) -> Result<Self, AgentError> {
        let agent = &settings.agent;
        let (cores, seeds, pulse) = seeds(agent, signals, None)?;
        let relay = Relay::new(&settings.relay, &settings.key, agent)?;
        let (address, listeners) = listeners(settings.listen.0, HandOut::Established, seeds.len())?;
        Ok(Self {
            address,
            cores,
            seeds: seeds.into_iter().zip(listeners).collect(),
            relay,
            destination: settings.destination.clone(),
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
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards until told to stop; returns what all shards counted.
    ///
    /// # Errors
    ///
    /// When the shards cannot be started.
    pub fn serve(self) -> Result<ShardSnapshot, AgentError> {
        let own = (self.relay, self.destination);
        let seeds = with_each(self.seeds, |listener| (own.clone(), listener));
        finish(run_shards(&self.cores, seeds, run_forward)?)
    }
}

async fn run_expose(index: u16, (seed, own): (Seed, (Relay, Vec<PtthService>))) -> Ended {
    let world = new_world(index, &seed)?;
    let (relay, services) = own;
    let shards = u64::try_from(seed.shards.len()).unwrap_or(u64::MAX);
    let service = ExposeService::new(world, relay, services, seed.connections_max);
    service.start(shards);
    let counted = drive_shard(&service, seed).await;
    Ok((counted, service.take_failure()))
}

async fn run_forward(
    index: u16,
    (seed, own): (Seed, ((Relay, PtthDestination), Listener)),
) -> Ended {
    let world = new_world(index, &seed)?;
    let ((relay, destination), listener) = own;
    world.reactor.listen(listener);
    let service = ForwardService::new(world, relay, destination, seed.connections_max);
    let counted = drive_shard(&service, seed).await;
    Ok((counted, None))
}
