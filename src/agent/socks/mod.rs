//! The local SOCKS5 and HTTP proxy port: each connection goes out by a WebSocks relay.
//!
//! ```text
//! accepted ── what does it want? ── a way out ── SOCKS5 over it ── reply ── pair
//!             local.rs              pool.rs      entrance.rs       local.rs
//!                                                                  or datagrams: udp.rs,
//!                                                                  somebody awaited: bind.rs
//! ```
//!
//! Each shard has its own ways out. What is behind the reply is the relay's data plane, as
//! for every pair; an HTTP request that is passed on is pass.rs.

mod bind;
mod entrance;
mod journal;
mod local;
mod pass;
mod pool;
mod refusal;
pub mod tunnel;
mod udp;
pub mod url;

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use tracing::{debug, field};

use super::leg;
use super::proxy::Proxy;
use super::settings::SocksSettings;
use super::way::WayError;
use crate::access::PasswordDigest;
use crate::access::routing::{self, Action, RoutingRules, Ruling};
use crate::metrics::counters::Label;
use crate::protocol::socks5::{Command, Destination, Host, Reply, ReplyCode, Request};
use crate::protocol::websocks::SubProtocol;
use crate::relay::CloseReason;
use crate::runtime::executor::spawn;
use crate::runtime::flag::Flag;
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;
use crate::shard::errand::{Errand, target};
use crate::shard::peer_address::PeerAddress;
use crate::shard::status::{Detail, ShardStatus};
use crate::shard::tally::Tally;
use crate::shard::world::World;
use crate::time::Timestamp;
pub(super) use entrance::Gateway;
use entrance::{ASK_TIMEOUT, AskError, Inquiry};
use journal::{Journal, Task, TaskKind};
use local::{Doorkeeper, Local, LocalPolicy};
use pool::{Leave, Pool, Used};
use refusal::Refusal;

/// Local connections of one shard that have not said what they want.
const ASKING_MAX: usize = 1024;

/// What all shards of the agent have.
#[derive(Clone, Debug)]
pub(super) struct SocksOptions {
    /// At least one.
    pub(super) gateways: Vec<Gateway>,
    pub(super) renewable: Renewable,
    pub(super) protocol: SubProtocol,
    /// Ways out of one shard that are kept ready at each gateway.
    pub(super) pool_size: usize,
}

/// What may change while the agent runs; what is under way keeps what it began with.
#[derive(Clone, Debug)]
pub struct Renewable {
    policy: LocalPolicy,
    rules: Arc<RoutingRules>,
    password: PasswordDigest,
}

/// One shard of the agent, whose journal has its sessions by number.
type SocksWorld = World<u64, Box<Renewable>>;

/// One shard's part of the agent.
#[derive(Debug)]
pub(super) struct SocksService {
    world: Rc<SocksWorld>,
    door: Doorkeeper,
    rules: RefCell<Arc<RoutingRules>>,
    pools: Vec<Rc<Pool>>,
    connections_max: usize,
    /// Connections that have not said what they want.
    asking: Tally,
    /// Connections that are being served and are no pairs yet.
    serving: Tally,
    /// Those whose datagrams are passed on.
    associated: Tally,
    /// Those for whom a relay awaits somebody.
    awaiting: Tally,
    journal: Rc<Journal>,
    /// The way of those that no relay leads.
    direct: Rc<str>,
    stop: Rc<Flag>,
}

/// A connection to a destination.
struct Connected {
    stream: WrappedStream,
    /// Where it begins.
    bound: SocketAddr,
    /// A relay, or directly.
    way: Rc<str>,
}

/// What a relay has said, and the way there.
type Asked = Result<(Inquiry, Reply), AskError>;

/// Where a connection begins whose beginning nobody knows.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What a relay has done for a client.
struct Granted<'a> {
    inquiry: Inquiry,
    /// The end that its reply names.
    bound: SocketAddr,
    pool: &'a Pool,
}

impl SocksOptions {
    pub(super) fn new(settings: &SocksSettings) -> Result<Self, WayError> {
        let gateway = |url| Gateway::new(url, &settings.agent);
        let gateways: Result<_, _> = settings.relays.iter().map(gateway).collect();
        Ok(Self {
            gateways: gateways?,
            renewable: Renewable::new(settings),
            protocol: settings.protocol,
            pool_size: settings.pool_size,
        })
    }
}

impl Renewable {
    pub(super) fn new(settings: &SocksSettings) -> Self {
        Self {
            policy: LocalPolicy::new(settings.local_user.clone(), &settings.agent.limits),
            rules: Arc::clone(&settings.rules),
            password: settings.password.clone(),
        }
    }
}

impl SocksService {
    pub(super) fn new(
        world: Rc<SocksWorld>,
        options: SocksOptions,
        connections_max: usize,
    ) -> Rc<Self> {
        let stop = Rc::new(Flag::default());
        let SocksOptions {
            gateways,
            renewable,
            protocol,
            pool_size,
        } = options;
        let Renewable {
            policy,
            rules,
            password,
        } = renewable;
        let pool = |gateway| {
            let (world, stop) = (Rc::clone(&world), Rc::clone(&stop));
            let gateway = (gateway, password.clone());
            Pool::new(world, gateway, protocol, pool_size, stop)
        };
        let pools = gateways.into_iter().map(pool).collect();
        Rc::new(Self {
            world,
            door: Doorkeeper::new(policy),
            rules: RefCell::new(rules),
            pools,
            connections_max,
            asking: Tally::default(),
            serving: Tally::default(),
            associated: Tally::default(),
            awaiting: Tally::default(),
            journal: Rc::default(),
            direct: "direct".into(),
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
        let rules = Arc::clone(&self.rules.borrow());
        let asking_it = local.ask(&self.door, &rules, since);
        let asked = reactor.deadline(until, asking_it).await;
        drop(asking);
        let request = match asked.unwrap_or(Err(Refused::TooSlow)) {
            Ok(Some(request)) => request,
            Ok(None) => return local.part(reactor).await,
            Err(refused) => {
                self.count_refused(local.peer_address(), refused);
                return local.part(reactor).await;
            }
        };
        let destination = &request.destination;
        let connected = match request.command {
            Command::Connect => self.connect(&request).await,
            Command::UdpAssociate => {
                return Box::pin(self.associate(local, destination, serving)).await;
            }
            Command::Bind => {
                return Box::pin(self.await_peer(local, &request, (serving, since))).await;
            }
        };
        match connected {
            Ok(Connected { stream, bound, way }) => {
                if local.answer(Ok(bound)).await.is_err() {
                    return;
                }
                drop(serving);
                let target = target(destination);
                match local.into_parts() {
                    (client, Some(passed)) => {
                        let running = self.journal.begin(Task {
                            target: Some(target),
                            ..Task::new(TaskKind::Exchange, client.peer_address(), way)
                        });
                        Box::pin(self.pass(client, stream, passed, running)).await;
                    }
                    (client, None) => {
                        let left = leg::into_leg(client, since);
                        let number = self.journal.begin_pair(Errand {
                            user: None,
                            target,
                            way: Some(way),
                            command: request.command.as_str(),
                        });
                        self.world.join(left, leg::into_leg(stream, since), number);
                    }
                }
            }
            Err(refusal) => self.refuse(local, Some(destination), &refusal).await,
        }
    }

    /// Counts and logs why a client is turned away that has not said where it wants to go.
    fn count_refused(&self, peer: Option<SocketAddr>, refused: Refused) {
        self.world.count_refused(refused);
        debug!(peer = %PeerAddress::from(peer), reason = refused.as_str(), "refused");
    }

    /// Tells a client why there is nothing for it. Datagrams have a destination each.
    async fn refuse(&self, mut local: Local, destination: Option<&Destination>, refusal: &Refusal) {
        let Refusal { code, refused, why } = refusal;
        self.world.count_refused(*refused);
        debug!(
            peer = %PeerAddress::from(local.peer_address()),
            reason = refused.as_str(),
            code = code.code(),
            target = destination.map(|destination| field::display(target(destination))),
            %why,
            "refused"
        );
        let _ = local.answer(Err(refusal)).await;
        local.part(&self.world.reactor).await;
    }

    /// What the rules say of a destination.
    fn action(&self, destination: &Destination) -> Action {
        self.rules.borrow().decide(&as_routed(destination))
    }

    /// Connects to where a request wants to go as the rules say.
    async fn connect(&self, request: &Request) -> Result<Connected, Refusal> {
        let destination = &request.destination;
        let rules = Arc::clone(&self.rules.borrow());
        let ruling = rules.judge(&as_routed(destination));
        match ruling.action() {
            Action::Deny => Err(Refusal::by_rule(&ruling)),
            Action::Direct => self.connect_directly(destination, &ruling).await,
            action @ (Action::Relay | Action::RelayOrDirect) => match self.ask(request).await {
                Err(refusal)
                    if refusal.refused == Refused::NoRelay && action == Action::RelayOrDirect =>
                {
                    self.connect_directly(destination, &ruling).await
                }
                asked => asked.map(Connected::from),
            },
        }
    }

    async fn connect_directly(
        &self,
        destination: &Destination,
        ruling: &Ruling<'_>,
    ) -> Result<Connected, Refusal> {
        let stream = leg::dial_destination(&self.world, destination).await;
        let stream = stream.map_err(|error| Refusal::direct(ruling, error))?;
        let bound = stream.socket().local_address();
        Ok(Connected {
            stream: WrappedStream::plain(stream),
            bound: bound.unwrap_or(NOWHERE),
            way: Rc::clone(&self.direct),
        })
    }

    /// Has the first relay that can be had do what is asked.
    async fn ask(&self, request: &Request) -> Result<Granted<'_>, Refusal> {
        let until = self.world.reactor.now() + ASK_TIMEOUT;
        let mut refusal = Refusal::no_relay();
        for pool in &self.pools {
            let asked = match self.world.reactor.now() < until {
                true => ask_at(pool, request, until).await,
                // Nobody knows whether this one can be had.
                false => Err(AskError::OutOfTime),
            };
            match asked {
                Ok((inquiry, reply)) => {
                    return Ok(Granted {
                        inquiry,
                        bound: accepted(pool, &reply)?,
                        pool,
                    });
                }
                Err(error) => {
                    debug!(relay = %pool.gateway(), %error, "no way out here");
                    // It is that there is no relay only where none can be reached.
                    if refusal.refused == Refused::NoRelay {
                        refusal = error.refusal(pool.gateway().authority());
                    }
                }
            }
        }
        Err(refusal)
    }
}

/// Asks by a way that was ready, and where that turns out to be dead, by a fresh one; where
/// there is none to be had, by the others that are ready. Nothing of the client's was sent by
/// then.
async fn ask_at(pool: &Rc<Pool>, request: &Request, until: Timestamp) -> Asked {
    let mut no_fresh = match pool.begin_ask().map_err(AskError::Resting)? {
        Leave::Any => None,
        Leave::ReadyOnly(trouble) => Some(AskError::Resting(trouble)),
    };
    loop {
        if let Some(ready) = pool.take() {
            match ready.ask(pool.world(), request, until).await {
                Err(AskError::Dead) => {}
                asked => return told(pool, Used::Ready, asked),
            }
        } else if let Some(error) = no_fresh {
            return Err(error);
        }
        if no_fresh.is_none() {
            match pool.open(until).await {
                Ok(fresh) => {
                    let asked = fresh.ask(pool.world(), request, until).await;
                    return told(pool, Used::Fresh, asked);
                }
                Err(error) => no_fresh = Some(error),
            }
        }
    }
}

/// Tells the pool whether its relay replies.
fn told(pool: &Pool, used: Used, asked: Asked) -> Asked {
    match &asked {
        Ok(_) => pool.handle_reply(used),
        Err(error) => pool.handle_failure(error),
    }
    asked
}

impl From<Granted<'_>> for Connected {
    fn from(granted: Granted<'_>) -> Self {
        Self {
            stream: granted.inquiry.into_stream(),
            bound: granted.bound,
            way: Rc::clone(granted.pool.way()),
        }
    }
}

/// The end that a reply names, unless it says no.
fn accepted(pool: &Pool, reply: &Reply) -> Result<SocketAddr, Refusal> {
    match reply.code {
        ReplyCode::Succeeded => Ok(reply.bound.address().unwrap_or(NOWHERE)),
        code => Err(Refusal::by_relay(pool.gateway().authority(), code)),
    }
}

/// A destination as rules have it.
fn as_routed(destination: &Destination) -> routing::Destination<'_> {
    routing::Destination {
        host: match &destination.host {
            Host::Address(address) => routing::Host::Address(*address),
            Host::Name(name) => routing::Host::Name(name),
        },
        port: destination.port,
    }
}

impl Proxy for SocksService {
    type Session = u64;
    type Message = Box<Renewable>;

    fn own_world(&self) -> &Rc<SocksWorld> {
        &self.world
    }

    fn take_message(&self, fresh: Box<Renewable>) {
        let Renewable {
            policy,
            rules,
            password,
        } = *fresh;
        self.door.renew(policy);
        self.rules.replace(rules);
        for pool in &self.pools {
            pool.renew_password(&password);
        }
    }

    fn accept_local(self: &Rc<Self>, socket: Socket) {
        if self.asking.count() >= ASKING_MAX {
            let peer = socket.peer_address();
            return self.count_refused(peer, Refused::TooManyHandshakes);
        }
        // Each session takes two connections, and one that is being served a second.
        let open = self.world.reactor.watched() + 2 * self.serving.count();
        if open + 2 > self.connections_max {
            let peer = socket.peer_address();
            return self.count_refused(peer, Refused::TooManyConnections);
        }
        if !self.world.is_draining() {
            let stream = Stream::new(Rc::clone(&self.world.reactor), socket);
            spawn(Rc::clone(self).serve(stream));
        }
    }

    fn errand(&self, number: u64) -> Option<Rc<Errand>> {
        self.journal.pair(number)
    }

    fn add_status(&self, status: &mut ShardStatus, detail: Detail) {
        let running = |kind| self.journal.count(kind) as u64;
        status.handshakes = self.asking.count() as u64;
        status.binds = Some(running(TaskKind::Bind));
        status.exchanges = Some(running(TaskKind::Exchange));
        status.datagram_associations = Some(running(TaskKind::Datagrams));
        status.relays = self.pools.iter().map(|pool| pool.status()).collect();
        if detail == Detail::Sessions {
            status.sessions = Some(self.journal.statuses(&self.world));
        }
    }

    fn end_session(&self, number: u64, _reason: CloseReason, _bytes: [u64; 2]) {
        self.journal.end_pair(number);
    }

    fn stop(&self) {
        self.stop.raise();
        for pool in &self.pools {
            pool.empty();
        }
    }

    fn has_work(&self) -> bool {
        [&self.serving, &self.associated, &self.awaiting]
            .iter()
            .any(|tally| tally.count() > 0)
    }
}
