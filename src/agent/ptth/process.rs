//! Starts the proxies of PTTH: claims what they need, and runs their shards. Those over QUIC
//! have one.

use std::convert::Infallible;
use std::iter;
use std::net::SocketAddr;
use std::rc::Rc;

use super::asking::Relay;
use super::either::EitherService;
use super::expose::{ExposeService, Standing};
use super::forward::ForwardService;
use super::proof::Proof;
use super::quic;
use super::room::Room;
use super::tunnel::Way;
use super::url::{PtthUrl, PtthWay};
use crate::agent::error::AgentError;
use crate::agent::fleet::{Ended, Fleet, Seed};
use crate::agent::proxy::Proxy;
use crate::agent::settings::{
    AgentSettings, PtthDestination, PtthExposeSettings, PtthForwardSettings, PtthService,
};
use crate::agent::way::WayError;
use crate::config::quic_settings::PathSettings;
use crate::protocol::ptth_http::Name;
use crate::protocol::ptth_quic::{Hello, Role, Who, WireId};
use crate::runtime::executor::Start;
use crate::runtime::listener::{HandOut, Listener};
use crate::runtime::signal::Signals;
use crate::shard::world::ShardSnapshot;

/// The relay, by the ways that lead to it.
#[derive(Clone, Debug)]
enum Ways {
    Http(Relay),
    /// And by HTTPS where UDP is blocked.
    Quic(quic::relay::Relay),
}

/// A server-side proxy that is ready to listen at its relay.
#[derive(Debug)]
pub struct BoundExpose {
    /// Its shards.
    pub fleet: Fleet,
    ways: Ways,
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
        let PtthExposeSettings {
            name,
            relay,
            proof,
            services,
            path,
            agent,
        } = settings;
        let fleet = fleet(relay, agent, signals)?;
        let hello = Hello {
            role: Role::ServerSide,
            who: Who::Layered {
                id: name.into(),
                key: proof.shown(),
            },
        };
        Ok(Self {
            fleet,
            ways: Ways::new(relay, proof, (hello, name), *path, agent)?,
            name: name.clone(),
            services: services.clone(),
        })
    }

    /// Exposes services until told to stop; returns what all shards counted.
    ///
    /// # Errors
    ///
    /// When the shards cannot be started, or the relay will not serve them.
    pub fn serve(self) -> Result<ShardSnapshot, AgentError> {
        let own = iter::repeat((self.ways, (self.name, self.services)));
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
    ways: Ways,
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
        let PtthForwardSettings {
            listen,
            relay,
            proof,
            destination,
            path,
            agent,
        } = settings;
        let fleet = fleet(relay, agent, signals)?;
        let hello = Hello {
            role: Role::ClientSide,
            who: Who::Layered {
                id: WireId::of_key(),
                key: proof.shown(),
            },
        };
        let ways = Ways::new(relay, proof, (hello, &destination.server), *path, agent)?;
        let (address, listeners) = fleet.listen(listen.0, HandOut::Established)?;
        Ok(Self {
            fleet,
            address,
            listeners,
            ways,
            destination: destination.clone(),
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
    /// When the shards cannot be started, or the relay will not serve them.
    pub fn serve(self) -> Result<ShardSnapshot, AgentError> {
        let own = iter::repeat((self.ways, self.destination)).zip(self.listeners);
        self.fleet.run(own, run_forward)
    }
}

impl Ways {
    /// To the relay at `url`: by HTTP with this key, or by QUIC with this to show and to say;
    /// `server` is whose proxy asks, or is asked for.
    fn new(
        url: &PtthUrl,
        proof: &Proof,
        (hello, server): (Hello, &Name),
        path: PathSettings,
        agent: &AgentSettings,
    ) -> Result<Self, WayError> {
        if url.way != PtthWay::Quic {
            return Ok(Self::Http(Relay::new(url, proof.key(), agent)?));
        }
        let https = Relay::new(&url.by_https(), proof.key(), agent)?;
        let relay = quic::relay::Relay::new(url, (hello, server), proof, https, path, agent)?;
        Ok(Self::Quic(relay))
    }
}

fn fleet(relay: &PtthUrl, agent: &AgentSettings, signals: Signals) -> Result<Fleet, AgentError> {
    let mut agent = agent.clone();
    if relay.way == PtthWay::Quic {
        agent.cores.truncate(1);
    }
    Fleet::new(&agent, signals, None)
}

async fn run_expose(
    index: u16,
    (seed, (ways, server)): (Seed, (Ways, (Name, Vec<PtthService>))),
    start: Start,
) -> Ended {
    let world = seed.world(index)?;
    let [tunnels, streams] = rooms(&seed);
    let by_http = |relay, standing| {
        let (world, server) = (Rc::clone(&world), server.clone());
        let service = ExposeService::new(world, relay, server, tunnels, standing);
        service.start(seed.shards());
        service
    };
    match ways {
        Ways::Http(relay) => {
            let service = by_http(relay, Standing::Alone);
            let counted = seed.drive(start, &service).await?;
            Ok((counted, service.take_failure()))
        }
        Ways::Quic(relay) => {
            let https = by_http(relay.https.clone(), Standing::Fallback);
            let link = Rc::new(quic::link::Link::new(Rc::clone(&world), relay, None)?);
            let (own_link, services) = (Rc::clone(&link), server.1);
            let quic = quic::expose::ExposeService::new(world, own_link, services, streams);
            quic.fall_back_to(Rc::clone(&https));
            run_either(seed, start, EitherService { link, quic, https }).await
        }
    }
}

async fn run_forward(
    index: u16,
    (seed, own): (Seed, ((Ways, PtthDestination), Listener)),
    start: Start,
) -> Ended {
    let world = seed.world(index)?;
    let [tunnels, streams] = rooms(&seed);
    let ((ways, to), listener) = own;
    world.reactor.listen(listener);
    let by_http = |relay| {
        let (world, to) = (Rc::clone(&world), to.clone());
        ForwardService::new(world, relay, to, tunnels)
    };
    match ways {
        Ways::Http(relay) => {
            let counted = seed.drive(start, &by_http(relay)).await?;
            Ok((counted, None))
        }
        Ways::Quic(relay) => {
            let https = by_http(relay.https.clone());
            let health = Some(Rc::clone(https.health()));
            let link = Rc::new(quic::link::Link::new(Rc::clone(&world), relay, health)?);
            let (own_link, by_https) = (Rc::clone(&link), Rc::clone(&https));
            let quic = quic::forward::ForwardService::new(world, own_link, by_https, to, streams);
            run_either(seed, start, EitherService { link, quic, https }).await
        }
    }
}

/// Room by HTTP, and by QUIC.
fn rooms(seed: &Seed) -> [Room; 2] {
    [Room::for_tunnels, Room::for_streams].map(|room| room(seed.connections_max))
}

async fn run_either<Q, H>(seed: Seed, start: Start, service: EitherService<Q, H>) -> Ended
where
    Q: Proxy<Session = Way, Message = Infallible>,
    H: Proxy<Session = Way, Message = Infallible>,
{
    let link = Rc::clone(&service.link);
    link.start();
    let counted = seed.drive(start, &Rc::new(service)).await?;
    Ok((counted, link.take_failure()))
}
