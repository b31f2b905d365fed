//! The server-side proxy: it listens, and leads whoever connects to its services.
//!
//! ```text
//!   listen ── an id ──┬── dials the service ──┬── accept      ──> what the client sends
//!      ^              │                       └── downstream  <── what the service sends
//!      └── at once ───┘
//! ```
//!
//! Each port is listened on several times: what comes while one connection is offered finds
//! another. Beside a proxy over QUIC it listens while UDP is blocked.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::asking::{ANSWER_TIMEOUT, AskError, Asked, Relay};
use super::relay_health::RelayHealth;
use super::room::Room;
use super::tunnel::{Client, Ends, TunnelWorld, Tunnels, Way};
use crate::agent::error::AgentError;
use crate::agent::leg;
use crate::agent::proxy::Proxy;
use crate::agent::reconnect::Backoff;
use crate::agent::settings::PtthService;
use crate::protocol::http_head::Body;
use crate::protocol::ptth_http::{Call, ConnectionId, Name};
use crate::relay::CloseReason;
use crate::runtime::executor::spawn;
use crate::runtime::flag::{Flag, both, either};
use crate::runtime::watch::Watch;
use crate::session::link::Link;
use crate::session::refused::Refused;
use crate::shard::status::{Detail, ShardStatus};
use crate::shard::tally::Tally;
use crate::time::Timestamp;

/// How often each port is listened on, over all shards.
const LISTENS: u64 = 4;

/// How long the relay may keep a listen without an answer: it says 204 after 25 s.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a listen goes without an answer before it is taken for one that the relay keeps:
/// whom it does not know it tells so at once.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// One shard's part of the proxy.
#[derive(Debug)]
pub(super) struct ExposeService {
    world: Rc<TunnelWorld<Infallible>>,
    relay: Relay,
    /// What the relay is to know this server by.
    name: Name,
    services: Vec<PtthService>,
    room: Room,
    standing: Standing,
    is_listening: Watch<bool>,
    health: RelayHealth,
    tunnels: Tunnels,
    stop: Flag,
    /// Connections that are being accepted.
    serving: Tally,
    failure: RefCell<Option<AgentError>>,
}

/// What a proxy by HTTP is to its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// All of it: it listens as it starts, and gives up where trying again changes nothing.
    Alone,
    /// The other way to the relay: it listens when it is told to.
    Fallback,
}

impl ExposeService {
    pub(super) fn new(
        world: Rc<TunnelWorld<Infallible>>,
        relay: Relay,
        (name, services): (Name, Vec<PtthService>),
        room: Room,
        standing: Standing,
    ) -> Rc<Self> {
        let tunnels = Tunnels::new(Client::Remote, relay.url());
        Rc::new(Self {
            world,
            relay,
            name,
            services,
            room,
            standing,
            is_listening: Watch::new(standing == Standing::Alone),
            health: RelayHealth::default(),
            tunnels,
            stop: Flag::default(),
            serving: Tally::default(),
            failure: RefCell::default(),
        })
    }

    /// Starts this shard's share of the listening.
    pub(super) fn start(self: &Rc<Self>, shards: u64) {
        let shard = u64::from(self.world.shard.0);
        let share = (0..LISTENS).filter(|index| index % shards == shard).count();
        for index in 0..self.services.len() {
            for _ in 0..share {
                let service = Rc::clone(self);
                spawn(async move {
                    service.stop.or_raised(service.keep_listening(index)).await;
                });
            }
        }
    }

    /// Why the proxy gave up, if it did.
    pub(super) fn take_failure(&self) -> Option<AgentError> {
        self.failure.take()
    }

    /// Whether it is to listen from now on; tunnels stay. What listens may have been offered a
    /// connection already, and does not end before the relay says.
    pub(super) fn listen_if(&self, is_wanted: bool) {
        self.is_listening.set(is_wanted);
    }

    async fn until_listening(&self, is_wanted: bool) {
        let meant = |is_listening| (is_listening == is_wanted).then_some(());
        self.is_listening.until(meant).await;
    }

    /// Listens on one port whenever that is wanted, until the proxy stops or gives up.
    async fn keep_listening(self: &Rc<Self>, index: usize) {
        let mut backoff = Backoff::default();
        let mut kept = None;
        loop {
            if !self.is_listening.get() {
                kept = None;
                self.until_listening(true).await;
            }
            let was_kept = kept.is_some();
            let asked_at = self.world.reactor.now();
            match self.listen(index, kept.take()).await {
                Ok((offered, link)) => {
                    kept = link;
                    backoff.handle_success();
                    self.handle_listening(asked_at);
                    if let Some(id) = offered {
                        spawn(Rc::clone(self).serve(index, id));
                    }
                }
                // A connection that waited for its next request may have been closed.
                Err(AskError::Lost) if was_kept => {}
                Err(_) if !self.is_listening.get() => {}
                Err(error) => {
                    if let Err(failure) = self.handle_failure(&error) {
                        self.failure.replace(Some(failure));
                        return self.world.drain();
                    }
                    let resting = backoff.rest(&self.world.reactor);
                    either(self.until_listening(false), resting).await;
                }
            }
        }
    }

    /// Listens once: gives the connection that was offered, if any was, and the way to listen
    /// again.
    async fn listen(
        &self,
        index: usize,
        kept: Option<Link>,
    ) -> Result<(Option<ConnectionId>, Option<Link>), AskError> {
        let call = Call::Listen {
            port: self.services[index].port.clone(),
            server: Some(self.name.clone()),
        };
        let asked_at = self.world.reactor.now();
        let asked = match kept {
            Some(link) => self.relay.ask_on(link, &call).await?,
            None => self.relay.ask(&self.world, &call).await?,
        };
        let until = self.world.reactor.now() + REFUSAL_TIME;
        let mut listening = pin!(asked.finish(&self.world, LISTEN_TIMEOUT));
        let finished = self.world.reactor.deadline(until, listening.as_mut());
        let (answered, kept) = match finished.await {
            Some(finished) => finished?,
            None => {
                self.handle_listening(asked_at);
                listening.await?
            }
        };
        match answered.status {
            200 => Ok((Some(answered.id.ok_or(AskError::NoId)?), kept)),
            204 => Ok((None, kept)),
            403 if let Some(known) = answered.server
                && known != self.name =>
            {
                let name = self.name.clone();
                Err(AskError::OtherServer { name, known })
            }
            status => Err(AskError::Refused { status }),
        }
    }

    /// The relay has let us listen as we asked at `asked_at`.
    fn handle_listening(&self, asked_at: Timestamp) {
        if self.health.handle_success(asked_at) {
            info!(relay = %self.relay, "listening at the relay");
        }
    }

    /// Cannot listen.
    ///
    /// # Errors
    ///
    /// When trying again would not change it.
    fn handle_failure(&self, error: &AskError) -> Result<(), AgentError> {
        let next = error.next_step();
        // A relay that served before may be restarting, with something before it that speaks
        // for it, or with a list that is being written.
        if self.standing == Standing::Alone && self.health.is_new() {
            let relay = self.relay.to_string();
            match error {
                AskError::Refused { status: 429 } => {}
                AskError::Refused {
                    status: status @ 400..=499,
                } => {
                    let status = *status;
                    return Err(AgentError::NotListed {
                        relay,
                        status,
                        next,
                    });
                }
                AskError::OtherServer { name, known } => {
                    let [name, known] = [name, known].map(Name::clone);
                    return Err(AgentError::OtherServer {
                        relay,
                        name,
                        known,
                        next,
                    });
                }
                _ => {}
            }
        }
        let now = self.world.reactor.now();
        if self.health.handle_failure(now, error.trouble(), error) {
            warn!(relay = %self.relay, %error, next, "cannot listen at the relay; trying again");
        }
        Ok(())
    }

    /// Leads a connection to its service.
    async fn serve(self: Rc<Self>, index: usize, id: ConnectionId) {
        let since = self.world.reactor.now();
        let _serving = self.serving.enter();
        let target = &self.services[index].target;
        if !self.room.is_left(&self.world, self.serving.count() - 1) {
            return self.reject(id).await;
        }
        let local = match leg::dial_target(&self.world, target).await {
            Ok(local) => local.into_parts().0,
            Err(error) => {
                self.world.count_refused(Refused::DialFailed);
                warn!(%target, %error, "cannot reach the service");
                return self.reject(id).await;
            }
        };
        match self.accept(id).await {
            Ok((answer, request)) => {
                let ends = Ends {
                    local,
                    request,
                    answer,
                };
                self.tunnels.join(&self.world, ends, target, since);
            }
            Err(error) => {
                local.reset();
                match error {
                    AskError::Refused { status: 404 } => debug!(%error, "its client has gone"),
                    _ => {
                        warn!(relay = %self.relay, %error, "cannot accept a connection");
                        self.reject(id).await;
                    }
                }
            }
        }
    }

    /// Accepts a connection: the answer's body is what its client sends, the request's what it
    /// gets.
    async fn accept(&self, id: ConnectionId) -> Result<((Link, Body), Link), AskError> {
        let accepting = async {
            let asked = self.relay.ask(&self.world, &Call::Accept(id)).await?;
            asked.stream(&self.world, ANSWER_TIMEOUT).await
        };
        let downstream = Call::Downstream(id);
        let sending = self.relay.ask(&self.world, &downstream);
        let (accepted, sending) = both(accepting, sending).await;
        let (answered, link) = accepted?;
        let Asked { link: request } = sending?;
        Ok(((link, answered.body), request))
    }

    /// Tells the relay that nobody comes.
    async fn reject(&self, id: ConnectionId) {
        let rejecting = async {
            let asked = self.relay.ask(&self.world, &Call::Reject(id)).await?;
            asked.finish(&self.world, ANSWER_TIMEOUT).await
        };
        if let Err(error) = rejecting.await {
            debug!(%error, "not rejected");
        }
    }
}

impl Proxy for ExposeService {
    type Session = Way;
    type Message = Infallible;

    fn own_world(&self) -> &Rc<TunnelWorld<Infallible>> {
        &self.world
    }

    fn take_message(&self, message: Infallible) {
        match message {}
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
        self.serving.count() > 0
    }
}
