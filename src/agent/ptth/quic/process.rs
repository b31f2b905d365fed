//! Starts the proxies of PTTH over QUIC.

use std::net::SocketAddr;
use std::rc::Rc;

use aws_lc_rs::digest::{SHA256, digest};

use super::expose::ExposeService;
use super::forward::ForwardService;
use super::link::{Link, Relay};
use crate::agent::error::AgentError;
use crate::agent::fleet::{Ended, Fleet, Seed};
use crate::agent::settings::{
    AgentSettings, PtthDestination, PtthExposeSettings, PtthForwardSettings, PtthService,
};
use crate::protocol::ptth_name::Name;
use crate::protocol::ptth_quic::{Hello, Role, Who, WireId};
use crate::runtime::listener::{HandOut, Listener};
use crate::runtime::signal::Signals;
use crate::shard::world::ShardSnapshot;

/// A server-side proxy that is ready to join its relay.
#[derive(Debug)]
pub struct BoundExpose {
    /// Its one shard.
    pub fleet: Fleet,
    relay: Relay,
    services: Vec<PtthService>,
}

impl BoundExpose {
    /// Makes everything that the proxy needs.
    ///
    /// # Errors
    ///
    /// When a core or a descriptor cannot be had, or there is nobody to trust as the relay.
    pub fn bind(settings: &PtthExposeSettings, signals: Signals) -> Result<Self, AgentError> {
        let hello = Hello {
            role: Role::ServerSide,
            who: Who::Layered {
                id: (&settings.name).into(),
                key: Some(settings.key.shown()),
            },
        };
        let steer = steer(&settings.name);
        Ok(Self {
            fleet: Fleet::new(&on_one_core(&settings.agent), signals, None)?,
            relay: Relay::new(
                &settings.relay,
                hello,
                steer,
                settings.path,
                &settings.agent,
            )?,
            services: settings.services.clone(),
        })
    }

    /// Exposes services until told to stop; returns what was counted.
    ///
    /// # Errors
    ///
    /// When the shard cannot be started, or the relay will not let it in.
    pub fn serve(self) -> Result<ShardSnapshot, AgentError> {
        self.fleet.run([(self.relay, self.services)], run_expose)
    }
}

/// A client-side proxy that listens but does not serve yet.
#[derive(Debug)]
pub struct BoundForward {
    /// Its one shard.
    pub fleet: Fleet,
    address: SocketAddr,
    listeners: Vec<Listener>,
    relay: Relay,
    destination: PtthDestination,
}

impl BoundForward {
    /// Claims the local address and makes everything that the proxy needs.
    ///
    /// # Errors
    ///
    /// When the address, a core or a descriptor cannot be had, or there is nobody to trust as
    /// the relay.
    pub fn bind(settings: &PtthForwardSettings, signals: Signals) -> Result<Self, AgentError> {
        let fleet = Fleet::new(&on_one_core(&settings.agent), signals, None)?;
        let hello = Hello {
            role: Role::ClientSide,
            who: Who::Layered {
                id: WireId::of_key(),
                key: Some(settings.key.shown()),
            },
        };
        let steer = steer(&settings.destination.server);
        let relay = Relay::new(
            &settings.relay,
            hello,
            steer,
            settings.path,
            &settings.agent,
        )?;
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

    /// Forwards until told to stop; returns what was counted.
    ///
    /// # Errors
    ///
    /// When the shard cannot be started, or the relay will not let it in.
    pub fn serve(self) -> Result<ShardSnapshot, AgentError> {
        let own = [(self.relay, self.destination)]
            .into_iter()
            .zip(self.listeners);
        self.fleet.run(own, run_forward)
    }
}

fn on_one_core(agent: &AgentSettings) -> AgentSettings {
    let mut agent = agent.clone();
    agent.cores.truncate(1);
    agent
}

/// By which a server's proxy and all of its clients come to one shard of the relay, however
/// many it has.
fn steer(server: &Name) -> u8 {
    digest(&SHA256, server.as_str().as_bytes()).as_ref()[0]
}

async fn run_expose(index: u16, (seed, own): (Seed, (Relay, Vec<PtthService>))) -> Ended {
    let world = seed.world(index)?;
    let (relay, services) = own;
    let link = Rc::new(Link::new(Rc::clone(&world), relay)?);
    let service = ExposeService::new(world, Rc::clone(&link), services, seed.connections_max);
    link.start();
    let counted = seed.drive(&service).await;
    Ok((counted, link.take_failure()))
}

async fn run_forward(
    index: u16,
    (seed, own): (Seed, ((Relay, PtthDestination), Listener)),
) -> Ended {
    let world = seed.world(index)?;
    let ((relay, destination), listener) = own;
    world.reactor.listen(listener);
    let link = Rc::new(Link::new(Rc::clone(&world), relay)?);
    let service = ForwardService::new(world, Rc::clone(&link), destination, seed.connections_max);
    link.start();
    let counted = seed.drive(&service).await;
    Ok((counted, link.take_failure()))
}
