//! The local SOCKS5 and HTTP CONNECT port: each connection goes out by a WebSocks relay.
//!
//! ```text
//! accepted ── what does it want? ── a way out ── SOCKS5 over it ── reply ── pair
//!             local.rs              pool.rs      entrance.rs       local.rs
//!                                                                  or datagrams: udp.rs
//! ```
//!
//! Each shard has its own ways out. What is behind the reply is the relay's data plane, as
//! for every pair.
//!
//! Left out: BIND, which is answered as not supported.

mod entrance;
mod local;
mod pool;
mod udp;
pub mod url;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use tracing::debug;

use super::leg;
use super::proxy::Proxy;
use super::settings::SocksSettings;
use super::way::WayError;
use crate::protocol::socks5::{Command, Destination, Reply, ReplyCode, Request};
use crate::protocol::websocks::SubProtocol;
use crate::runtime::executor::spawn;
use crate::runtime::flag::Flag;
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;
use crate::shard::tally::Tally;
use crate::shard::world::World;
pub(super) use entrance::Gateway;
use entrance::{AskError, Entrance};
use local::{Local, LocalPolicy};
use pool::Pool;

/// Local connections of one shard that have not said what they want.
const ASKING_MAX: usize = 1024;

/// What all shards of the agent have.
#[derive(Clone, Debug)]
pub(super) struct SocksOptions {
    /// At least one.
    pub(super) gateways: Vec<Gateway>,
    pub(super) policy: LocalPolicy,
    pub(super) protocol: SubProtocol,
    /// Ways out of one shard that are kept ready at each gateway.
    pub(super) pool_size: usize,
}

/// One shard's part of the agent.
#[derive(Debug)]
pub(super) struct SocksService {
    world: Rc<World<(), Infallible>>,
    policy: LocalPolicy,
    pools: Vec<Rc<Pool>>,
    connections_max: usize,
    /// Connections that have not said what they want.
    asking: Tally,
    /// Connections that are being served and are no pairs yet.
    serving: Tally,
    /// Those whose datagrams are passed on.
    associated: Tally,
    stop: Rc<Flag>,
}

/// A way out with an answer on it, and where its far end is.
type Connected = (WrappedStream, SocketAddr);

impl SocksOptions {
    pub(super) fn new(settings: &SocksSettings) -> Result<Self, WayError> {
        let gateway = |url| Gateway::new(url, settings);
        let gateways: Result<_, _> = settings.relays.iter().map(gateway).collect();
        Ok(Self {
            gateways: gateways?,
            policy: LocalPolicy::new(settings.local_user.clone()),
            protocol: settings.protocol,
            pool_size: settings.pool_size,
        })
    }
}

impl SocksService {
    pub(super) fn new(
        world: Rc<World<(), Infallible>>,
        options: SocksOptions,
        connections_max: usize,
    ) -> Rc<Self> {
        let stop = Rc::new(Flag::default());
        let SocksOptions {
            gateways,
            policy,
            protocol,
            pool_size,
        } = options;
        let pool = |gateway| {
            let (world, stop) = (Rc::clone(&world), Rc::clone(&stop));
            Pool::new(world, gateway, protocol, pool_size, stop)
        };
        let pools = gateways.into_iter().map(pool).collect();
        Rc::new(Self {
            world,
            policy,
            pools,
            connections_max,
            asking: Tally::default(),
            serving: Tally::default(),
            associated: Tally::default(),
            stop,
        })
    }

    /// Starts keeping ways out ready.
    pub(super) fn start(&self) {
        for pool in &self.pools {
            spawn(Rc::clone(pool).keep());
        }
    }

    async fn serve(self: Rc<Self>, stream: Stream) {
        let reactor = &self.world.reactor;
        let since = reactor.now();
        let serving = self.serving.enter();
        let asking = self.asking.enter();
        let mut local = Local::new(stream);
        let until = since + leg::HANDSHAKE_TIMEOUT;
        let asked = reactor.deadline(until, local.ask(&self.policy)).await;
        drop(asking);
        let request = match asked.unwrap_or(Err(Refused::TooSlow)) {
            Ok(request) => request,
            Err(refused) => {
                self.world.count_refused(refused);
                return local.part(reactor).await;
            }
        };
        let connected = match request.command {
            Command::Connect => self.connect(&request.destination).await,
            Command::UdpAssociate => {
                let declared = &request.destination;
                return Box::pin(self.associate(local, declared, serving)).await;
            }
            Command::Bind => {
                self.world.count_refused(Refused::CommandNotSupported);
                Err(ReplyCode::CommandNotSupported)
            }
        };
        match connected {
            Ok((remote, bound)) => {
                if local.answer(Ok(bound)).await.is_err() {
                    return;
                }
                drop(serving);
                let left = leg::into_leg(local.into_stream(), since);
                self.world.join(left, leg::into_leg(remote, since), ());
            }
            Err(code) => {
                let _ = local.answer(Err(code)).await;
                local.part(reactor).await;
            }
        }
    }

    /// Has the first relay that can be had connect to a destination.
    async fn connect(&self, destination: &Destination) -> Result<Connected, ReplyCode> {
        let request = Request {
            command: Command::Connect,
            destination: destination.clone(),
        };
        self.ask(&request).await
    }

    /// Has the first relay that can be had do what is asked.
    async fn ask(&self, request: &Request) -> Result<Connected, ReplyCode> {
        let mut failure = ReplyCode::NetworkUnreachable;
        for pool in self.by_health() {
            match ask_at(pool, request).await {
                Ok((stream, reply)) => return accepted(stream, &reply, &request.destination),
                Err(error) => {
                    debug!(relay = %pool.gateway(), %error, "no way out here");
                    failure = error.reply();
                }
            }
        }
        self.world.count_refused(Refused::DialFailed);
        Err(failure)
    }

    /// Those first that answered last.
    fn by_health(&self) -> impl Iterator<Item = &Rc<Pool>> {
        let now = self.world.reactor.now();
        let (up, down) = (self.pools.iter(), self.pools.iter());
        up.filter(move |pool| pool.is_up(now))
            .chain(down.filter(move |pool| !pool.is_up(now)))
    }
}

/// Asks by a way that was ready, and where that turns out to be dead, by a fresh one:
/// nothing of the client's was sent by then.
async fn ask_at(pool: &Rc<Pool>, request: &Request) -> Result<(WrappedStream, Reply), AskError> {
    if let Some(ready) = pool.take() {
        match ready.ask(pool.world(), request).await {
            Err(AskError::Dead) => {}
            asked => return asked,
        }
    }
    let fresh: Entrance = pool.open().await?;
    fresh.ask(pool.world(), request).await
}

fn accepted(
    stream: WrappedStream,
    reply: &Reply,
    destination: &Destination,
) -> Result<Connected, ReplyCode> {
    match reply.code {
        ReplyCode::Succeeded => {
            let bound = reply.bound.address();
            Ok((
                stream,
                bound.unwrap_or_else(|| SocketAddr::from(([0; 4], 0))),
            ))
        }
        code => {
            debug!(%destination, code = code.code(), "the relay does not connect");
            Err(code)
        }
    }
}

impl Proxy for SocksService {
    type Session = ();

    fn own_world(&self) -> &Rc<World<(), Infallible>> {
        &self.world
    }

    fn accept_local(self: &Rc<Self>, socket: Socket) {
        if self.asking.count() >= ASKING_MAX {
            return self.world.count_refused(Refused::TooManyHandshakes);
        }
        // Each session takes two connections, and one that is being served a second.
        let open = self.world.reactor.watched() + 2 * self.serving.count();
        if open + 2 > self.connections_max {
            return self.world.count_refused(Refused::TooManyConnections);
        }
        if !self.world.is_draining() {
            let stream = Stream::new(Rc::clone(&self.world.reactor), socket);
            spawn(Rc::clone(self).serve(stream));
        }
    }

    fn stop(&self) {
        self.stop.raise();
        for pool in &self.pools {
            pool.empty();
        }
    }

    fn has_work(&self) -> bool {
        self.serving.count() > 0 || self.associated.count() > 0
    }
}
