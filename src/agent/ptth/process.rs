//! Starts the proxies of PTTH: claims what they need, and runs their shards.

use std::iter;
use std::net::SocketAddr;

use super::asking::Relay;
use super::expose::ExposeService;
use super::forward::ForwardService;
use crate::agent::error::AgentError;
use crate::agent::fleet::{Ended, Fleet, Seed};
use crate::agent::settings::{
    PtthDestination, PtthExposeSettings, PtthForwardSettings, PtthService,
};
use crate::protocol::ptth_http::Name;
use crate::runtime::listener::{HandOut, Listener};
use crate::runtime::signal::Signals;
use crate::shard::world::ShardSnapshot;

/// A server-side proxy that is ready to listen at its relay.
#[derive(Debug)]
pub struct BoundExpose {
    /// Its shards.
    pub fleet: Fleet,
    relay: Relay,
    name: Name,
    services: Vec<PtthService>,
}

impl BoundExpose {
    /// Makes everything that the shards need.
    ///
    /// # Errors
    ///
    /// When a core or a descriptor cannot be had, or there is nobody to trust as the relay.
    pub fn bind(settings: &PtthExposeSettings, signals: Signals) -> Result<Self, AgentError> {
        let agent = &settings.agent;
        Ok(Self {
            fleet: Fleet::new(agent, signals, None)?,
            relay: Relay::new(&settings.relay, &settings.key, agent)?,
            name: settings.name.clone(),
            services: settings.services.clone(),
        })
    }

    /// Exposes services until told to stop; returns what all shards counted.
    ///
    /// # Errors
    ///
    /// When the shards cannot be started, or the relay will not serve them.
    pub fn serve(self) -> Result<ShardSnapshot, AgentError> {
        let own = iter::repeat((self.relay, (self.name, self.services)));
        self.fleet.run(own, run_expose)
    }
}

/// A client-side proxy that listens but does not serve yet.
#[derive(Debug)]
pub struct BoundForward {
    /// Its shards.
    pub fleet: Fleet,
    address: SocketAddr,
    listeners: Vec<Listener>,
    relay: Relay,
    destination: PtthDestination,
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
        let fleet = Fleet::new(agent, signals, None)?;
        let relay = Relay::new(&settings.relay, &settings.key, agent)?;
        let (address, listeners) = fleet.listen(settings.listen.0, HandOut::Established)?;
        Ok(Self {
            fleet,
            address,
            listeners,
            relay,
            destination: settings.destination.clone(),
        })
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
        let own = iter::repeat((self.relay, self.destination)).zip(self.listeners);
        self.fleet.run(own, run_forward)
    }
}

async fn run_expose(
    index: u16,
    (seed, (relay, server)): (Seed, (Relay, (Name, Vec<PtthService>))),
) -> Ended {
    let world = seed.world(index)?;
    let service = ExposeService::new(world, relay, server, seed.connections_max);
    service.start(seed.shards());
    let counted = seed.drive(&service).await;
    Ok((counted, service.take_failure()))
}

async fn run_forward(
    index: u16,
    (seed, own): (Seed, ((Relay, PtthDestination), Listener)),
) -> Ended {
    let world = seed.world(index)?;
    let ((relay, destination), listener) = own;
    world.reactor.listen(listener);
    let service = ForwardService::new(world, relay, destination, seed.connections_max);
    let counted = seed.drive(&service).await;
    Ok((counted, None))
}
