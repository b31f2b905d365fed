//! The local SOCKS5 and HTTP proxy port, whose connections go out by a relay of WebSocks or of
//! jProxy; or a port that leads to one destination in the same way.
//!
//! ```text
//! accepted ── what does it want? ── a way out ─┬─ SOCKS5 over it ─┬─ reply ── pair, or channel
//!             local.rs              ways_out.rs │  pools.rs        │  local.rs
//!                                               │  entrance.rs     │  or datagrams: udp.rs,
//!                                               └─ a channel ──────┘  somebody awaited: bind.rs
//!                                                  tunnel/
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
mod pools;
mod refusal;
pub mod tunnel;
mod udp;
pub mod url;
mod ways_out;

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use tracing::{debug, field, warn};

use super::leg;
use super::proxy::Proxy;
use super::settings::{RelaySettings, SocksSettings, TunnelForwardSettings};
use super::way::WayError;
use crate::access::routing::{self, Action, RoutingRules, Ruling};
use crate::metrics::counters::Label;
use crate::protocol::socks5::{Command, Destination, Host, Request};
use crate::protocol::websocks::SubProtocol;
use crate::relay::CloseReason;
use crate::relay::mux::MuxEvent;
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
use crate::slab::Key;
use crate::time::Timestamp;
pub(super) use entrance::Gateway;
use journal::{Journal, Task, TaskKind};
use local::{Doorkeeper, Local, LocalPolicy};
use refusal::Refusal;
use ways_out::{Connected, Credential, Outward, RelayOptions, WaysOut};

/// Local connections of one shard that have not said what they want.
const ASKING_MAX: usize = 1024;

/// What all shards of the agent have.
#[derive(Clone, Debug)]
pub(super) struct SocksOptions {
    relays: RelayOptions,
    port: Port,
    renewable: Renewable,
}

/// What the local port is.
#[derive(Clone, Debug)]
enum Port {
    /// A proxy: each client says where it wants to go.
    Proxy,
    /// All of them want to go there.
    Forwarded(Destination),
}

/// The relays of WebSocks, and how they are asked.
#[derive(Clone, Debug)]
struct WebsocksOptions {
    /// At least one.
    gateways: Vec<Gateway>,
    protocol: SubProtocol,
    /// Ways out of one shard that are kept ready at each gateway.
    pool_size: usize,
}

/// What may change while the agent runs; what is under way keeps what it began with.
#[derive(Clone, Debug)]
pub struct Renewable {
    policy: LocalPolicy,
    rules: Arc<RoutingRules>,
    credential: Credential,
}

/// One shard of the agent, whose journal has its sessions by number.
type SocksWorld = World<u64, Box<Renewable>>;

/// One shard's part of the agent.
#[derive(Debug)]
pub(super) struct SocksService {
    world: Rc<SocksWorld>,
    door: Doorkeeper,
    rules: RefCell<Arc<RoutingRules>>,
    port: Port,
    ways_out: WaysOut,
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

/// Where a connection begins whose beginning nobody knows.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl SocksOptions {
    pub(super) fn new(settings: &SocksSettings) -> Result<Self, WayError> {
        Ok(Self {
            relays: RelayOptions::new(&settings.relays, &settings.agent)?,
            port: Port::Proxy,
            renewable: Renewable::new(settings),
        })
    }

    /// Of a port that leads to one destination.
    pub(super) fn forwarding(settings: &TunnelForwardSettings) -> Result<Self, WayError> {
        let relays = RelaySettings::Jproxy(settings.relay.clone());
        Ok(Self {
            relays: RelayOptions::new(&relays, &settings.agent)?,
            port: Port::Forwarded(settings.destination.clone()),
            renewable: Renewable {
                policy: LocalPolicy::new(None, &settings.agent.limits),
                rules: Arc::default(),
                credential: Credential::of(&relays),
            },
        })
    }
}

impl Renewable {
    pub(super) fn new(settings: &SocksSettings) -> Self {
        Self {
            policy: LocalPolicy::new(settings.local_user.clone(), &settings.agent.limits),
            rules: Arc::clone(&settings.rules),
            credential: Credential::of(&settings.relays),
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
            relays,
            port,
            renewable,
        } = options;
        let Renewable {
            policy,
            rules,
            credential,
        } = renewable;
        Rc::new(Self {
            ways_out: WaysOut::new(&world, relays, credential, &stop),
            port,
            world,
            door: Doorkeeper::new(policy),
            rules: RefCell::new(rules),
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
        self.ways_out.start();
    }

    async fn serve(self: Rc<Self>, stream: Stream) {
        let reactor = &self.world.reactor;
        let since = reactor.now();
        let serving = self.serving.enter();
        let asking = self.asking.enter();
        let mut local = match self.port {
            Port::Proxy => Local::new(stream),
            Port::Forwarded(_) => Local::forwarded(stream),
        };
        let until = since + leg::HANDSHAKE_TIMEOUT;
        let rules = Arc::clone(&self.rules.borrow());
        let asked = match &self.port {
            Port::Proxy => {
                let asking_it = local.ask(&self.door, &rules, since);
                reactor.deadline(until, asking_it).await
            }
            Port::Forwarded(destination) => Some(Ok(Some(Request {
                command: Command::Connect,
                destination: destination.clone(),
            }))),
        };
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
            Ok(connected) => {
                if local.answer(Ok(connected.bound)).await.is_err() {
                    return;
                }
                drop(serving);
                self.lead(local, connected, &request, since).await;
            }
            Err(refusal) => self.refuse(local, Some(destination), &refusal).await,
        }
    }

    /// Leads a client that has its reply to where it wants to go.
    async fn lead(&self, local: Local, connected: Connected, request: &Request, since: Timestamp) {
        let Connected { outward, way, .. } = connected;
        let target = target(&request.destination);
        let errand = Errand {
            user: None,
            target: target.clone(),
            way: Some(Rc::clone(&way)),
            command: request.command.as_str(),
        };
        let (client, passed) = local.into_parts();
        let Some(passed) = passed else {
            return match outward {
                Outward::Channel(channel) => channel.join(client, errand),
                Outward::Stream(stream) => {
                    let left = leg::into_leg(client, since);
                    let number = self.journal.begin_pair(errand);
                    self.world.join(left, leg::into_leg(stream, since), number);
                }
            };
        };
        let peer = client.peer_address();
        let (right, stream) = match outward {
            Outward::Stream(stream) => (stream.peer_address().into(), Ok((stream, None))),
            Outward::Channel(channel) => {
                let with = |(stream, within)| (stream, Some(within));
                (channel.peer(), channel.into_stream().map(with))
            }
        };
        let (stream, within) = match stream {
            Ok(stream) => stream,
            Err(error) => {
                self.count_refused(peer, Refused::NoDescriptor);
                debug!(%error, "not passed on");
                return client.reset();
            }
        };
        let running = self.journal.begin(Task {
            target: Some(target),
            ..Task::new(TaskKind::Exchange, peer, way)
        });
        Box::pin(self.pass(client, (stream, right, within), passed, running)).await;
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
        if let Port::Forwarded(destination) = &self.port {
            let to = target(destination);
            warn!(%to, %why, "no session: connection reset");
            return local.into_stream().reset();
        }
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
            Action::Relay => self.ways_out.connect(request).await,
            Action::RelayOrDirect => match self.ways_out.connect(request).await {
                Err(refusal) if refusal.refused == Refused::NoRelay => {
                    self.connect_directly(destination, &ruling).await
                }
                connected => connected,
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
            outward: Outward::Stream(WrappedStream::plain(stream)),
            bound: bound.unwrap_or(NOWHERE),
            way: Rc::clone(&self.direct),
        })
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
            credential,
        } = *fresh;
        self.door.renew(policy);
        self.rules.replace(rules);
        self.ways_out.renew(&credential);
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
        if let Port::Proxy = self.port {
            status.exchanges = Some(running(TaskKind::Exchange));
            status.datagram_associations = Some(running(TaskKind::Datagrams));
        }
        match (&self.ways_out, &self.port) {
            (WaysOut::Tunnels(_), _) => {
                status.jproxy_tunnels = Some(self.world.muxes.tunnels() as u64);
                status.jproxy_channels = Some(self.world.muxes.channels() as u64);
            }
            (WaysOut::Pools(_), Port::Proxy) => {
                status.binds = Some(running(TaskKind::Bind));
            }
            (WaysOut::Pools(_), Port::Forwarded(_)) => {}
        }
        status.relays = self.ways_out.statuses();
        if detail == Detail::Sessions {
            status.sessions = Some(self.journal.statuses(&self.world));
        }
    }

    fn take_mux(self: &Rc<Self>, event: MuxEvent) {
        if let WaysOut::Tunnels(tunnels) = &self.ways_out {
            tunnels.handle_event(event);
        }
    }

    fn lose_mux(self: &Rc<Self>, tunnel: Key, reason: CloseReason) {
        if let WaysOut::Tunnels(tunnels) = &self.ways_out {
            tunnels.handle_lost(tunnel, reason);
        }
    }

    fn end_session(&self, number: u64, _reason: CloseReason, _bytes: [u64; 2]) {
        self.journal.end_pair(number);
    }

    fn stop(&self) {
        self.stop.raise();
        self.ways_out.stop();
    }

    fn has_work(&self) -> bool {
        [&self.serving, &self.associated, &self.awaiting]
            .iter()
            .any(|tally| tally.count() > 0)
    }
}
