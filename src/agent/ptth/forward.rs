//! The client-side proxy: each local connection is connected to one port of a server.
//!
//! ```text
//!   a local connection ── connect ── 200, an id ──┬── its body    ──> what the client gets
//!                                                 └── upstream    <── what the client sends
//! ```

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use tracing::{debug, warn};

use super::DEFAULT_PORT;
use super::asking::{AskError, Asked, Relay};
use super::relay_health::RelayHealth;
use super::room::Room;
use super::tunnel::{Client, Ends, TunnelWorld, Tunnels, Way};
use crate::agent::leg::LegError;
use crate::agent::proxy::Proxy;
use crate::agent::reconnect::Backoff;
use crate::agent::settings::PtthDestination;
use crate::protocol::http_head::Body;
use crate::protocol::ptth_http::Call;
use crate::relay::CloseReason;
use crate::runtime::executor::spawn;
use crate::runtime::flag::{Either, Flag, either};
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::link::Link;
use crate::shard::status::{Detail, ShardStatus};
use crate::shard::tally::Tally;

/// How long the relay may take until a server has accepted: it gives up after 30 s, and the
/// server takes up to 10 s to reach its service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(45);

/// How long a relay is tried that cannot be reached, or has no room: one that is restarted is
/// back by then, and many connections that come at once have found their server.
const PATIENCE: Duration = Duration::from_secs(10);

/// One shard's part of the proxy.
#[derive(Debug)]
pub(super) struct ForwardService {
    world: Rc<TunnelWorld<Infallible>>,
    relay: Relay,
    destination: PtthDestination,
    room: Room,
    health: Rc<RelayHealth>,
    tunnels: Tunnels,
    stop: Flag,
    connecting: Tally,
}

/// Why a local connection leads nowhere.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    /// The relay, or the server, does not connect.
    #[error("{}", refusal(*.status, .to))]
    Refused {
        status: u16,
        to: Box<PtthDestination>,
    },
    /// The relay cannot be had.
    #[error(transparent)]
    Relay(AskError),
    /// Whoever wanted it has gone.
    #[error("the local connection broke")]
    LocalGone,
    /// The proxy is told to stop.
    #[error("the proxy stops")]
    Stopping,
}

impl ConnectError {
    /// What whoever started the proxy can do about it.
    fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Relay(error) => error.next_step(),
            Self::Refused { .. } | Self::LocalGone | Self::Stopping => None,
        }
    }
}

fn refusal(status: u16, to: &PtthDestination) -> String {
    let PtthDestination { server, port } = to;
    let why = match status {
        401 => "the relay does not know this key: its SHA-256 belongs under [[ptth.clients]]",
        404 => {
            "there is no such server, or this key may not reach this port of it: see `may` in \
                the relay's [[ptth.clients]]"
        }
        502 => "the server rejects it: is its service running?",
        503 => "too many wait for this port, or the relay has no room",
        504 if port.as_str() == DEFAULT_PORT => {
            return format!(
                "nobody listens for {server} without a port: is `midspan expose` running? With \
                 several services it is asked for each by {server}:PORT (status {status})"
            );
        }
        504 => {
            return format!(
                "nobody listens for port {port} of {server}: is `midspan expose` running, and does \
                 it expose {port}? (status {status})"
            );
        }
        505 => "a proxy on the way speaks HTTP/1.0, which has no chunks",
        _ => return format!("the relay answers with status {status}"),
    };
    format!("{why} (status {status})")
}

impl ForwardService {
    pub(super) fn new(
        world: Rc<TunnelWorld<Infallible>>,
        relay: Relay,
        destination: PtthDestination,
        room: Room,
    ) -> Rc<Self> {
        let tunnels = Tunnels::new(Client::Local, relay.url());
        Rc::new(Self {
            world,
            relay,
            destination,
            room,
            health: Rc::default(),
            tunnels,
            stop: Flag::default(),
            connecting: Tally::default(),
        })
    }

    /// How the relay is, for whoever else finds out.
    pub(super) const fn health(&self) -> &Rc<RelayHealth> {
        &self.health
    }

    /// Leads a local connection to the server.
    pub(super) fn take(self: &Rc<Self>, local: Stream) {
        if !self.room.is_left(&self.world, self.connecting.count()) || self.world.is_draining() {
            return local.reset();
        }
        spawn(Rc::clone(self).forward(local));
    }

    async fn forward(self: Rc<Self>, mut local: Stream) {
        let _connecting = self.connecting.enter();
        let since = self.world.reactor.now();
        let connecting = either(self.connect(), local.broken());
        let connected = match self.stop.or_raised(connecting).await {
            Some(Either::First(connected)) => connected,
            Some(Either::Second(())) => Err(ConnectError::LocalGone),
            None => Err(ConnectError::Stopping),
        };
        match connected {
            Ok((answer, request)) => {
                let ends = Ends {
                    local,
                    request,
                    answer,
                };
                self.tunnels
                    .join(&self.world, ends, &self.destination, since);
            }
            Err(error) => {
                let (relay, to) = (&self.relay, &self.destination);
                match error {
                    ConnectError::LocalGone => debug!(%relay, %to, %error, "no session"),
                    _ => {
                        let next = error.next_step();
                        warn!(%relay, %to, %error, next, "no session: connection reset");
                    }
                }
                local.reset();
            }
        }
    }

    /// Connects to the server, as soon as the relay lets us.
    async fn connect(&self) -> Result<((Link, Body), Link), ConnectError> {
        let reactor = &self.world.reactor;
        let until = reactor.now() + PATIENCE;
        let mut backoff = Backoff::default();
        loop {
            let asked_at = reactor.now();
            let connected = self.try_connect().await;
            match &connected {
                // The relay answers; whether somebody else does is not its affair.
                Ok(_)
                | Err(AskError::Refused {
                    status: 404 | 502..=504,
                }) => self.health.handle_success(asked_at),
                Err(error) => {
                    let now = reactor.now();
                    self.health.handle_failure(now, error.trouble(), error)
                }
            };
            match connected {
                Err(
                    AskError::Leg(LegError::Connect { .. } | LegError::Closed)
                    | AskError::Refused { status: 503 },
                ) if reactor.now() < until => backoff.rest(reactor).await,
                Err(AskError::Refused { status }) => {
                    let to = Box::new(self.destination.clone());
                    return Err(ConnectError::Refused { status, to });
                }
                connected => return connected.map_err(ConnectError::Relay),
            }
        }
    }

    async fn try_connect(&self) -> Result<((Link, Body), Link), AskError> {
        let PtthDestination { server, port } = self.destination.clone();
        let call = Call::Connect { server, port };
        let asked = self.relay.ask(&self.world, &call).await?;
        let (answered, answer) = asked.stream(&self.world, CONNECT_TIMEOUT).await?;
        let id = answered.id.ok_or(AskError::NoId)?;
        let sending = self.relay.ask(&self.world, &Call::Upstream(id)).await?;
        let Asked { link: request } = sending;
        Ok(((answer, answered.body), request))
    }
}

impl Proxy for ForwardService {
    type Session = Way;
    type Message = Infallible;

    fn own_world(&self) -> &Rc<TunnelWorld<Infallible>> {
        &self.world
    }

    fn take_message(&self, message: Infallible) {
        match message {}
    }

    fn accept_local(self: &Rc<Self>, socket: Socket) {
        self.take(Stream::new(Rc::clone(&self.world.reactor), socket));
    }

    fn add_status(&self, status: &mut ShardStatus, detail: Detail) {
        self.tunnels
            .add_status(&self.world, &self.health, status, detail);
    }

    fn end_session(&self, way: Way, reason: CloseReason, bytes: [u64; 2]) {
        self.tunnels.end_way(&self.world, way, reason, bytes);
    }

    fn stop(&self) {
        self.stop.raise();
    }

    fn has_work(&self) -> bool {
        self.connecting.count() > 0
    }
}
