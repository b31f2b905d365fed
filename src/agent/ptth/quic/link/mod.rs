//! The connection to the relay: made, kept, and made anew.
//!
//! ```text
//!   trying, away ── dial, hello ──▶ joined ── silence for 1.5 s ──▶ doubted ─┐
//!      │  ▲                          │ ▲                            │        │ dialled beside
//!      │  └────────── lost ──────────┘ ├──── heard of again ────────┤        │ it, again and
//!      │                               └── the new one has joined ──│────────┘ again
//!      └── two attempts without a datagram, and the relay is there ─┘
//!                    by HTTPS ──▶ blocked ── dial, hello, every 30 s ──▶ joined
//! ```
//!
//! QUIC doubles the time between two of its probes, and so notices a relay that comes back
//! about as late as it was away. A connection in doubt is kept for what it carries, while
//! another one is tried beside it. Once the relay has joined the new one, what is new goes by that,
//! and the old one goes when what runs there has ended, or when it is lost.

mod addresses;
mod attempt;
mod doubt;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use quinn_proto::ConnectionError;
use tracing::{debug, info, warn};

use addresses::Addresses;

use crate::agent::error::AgentError;
use crate::agent::ptth::quic::relay::{JoinError, Kind, Relay, WINDOWS};
use crate::agent::ptth::relay_health::RelayHealth;
use crate::agent::ptth::tunnel::TunnelWorld;
use crate::agent::random::random_number;
use crate::agent::reconnect::Backoff;
use crate::agent::relay_trouble::Trouble;
use crate::protocol::ptth_quic::{CloseCode, StreamCode};
use crate::quic::connection::{ConnectionKey, Health};
use crate::quic::driver::QuicEvent;
use crate::quic::keys::SharedKeys;
use crate::runtime::clock;
use crate::runtime::executor::{spawn, wake};
use crate::runtime::flag::{Either, Flag, either};
use crate::runtime::udp_group::{SmallBuffers, bind_udp};
use crate::runtime::watch::Watch;
use crate::shard::errand::one_word;
use crate::shard::status::RelayStatus;
use crate::time::Timestamp;

/// How long an attempt may go without a single datagram of the relay's.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The silence beside a connection that is in doubt: the next attempt may find the relay back.
const REJOIN_SILENCE_MAX: Duration = Duration::from_secs(1);
/// From one attempt to the next where UDP is blocked, and how much later it may be: not all
/// proxies of a network are to try in one moment.
const BLOCKED_TIME: Duration = Duration::from_secs(30);
const BLOCKED_JITTER_MS: u64 = 5000;
/// How often it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Until the next attempt when another proxy has taken the name: both would else take it from
/// each other as fast as they can dial.
const REPLACED_TIME: Duration = Duration::from_secs(5);
/// A connection that lasted so long was a good one: the relay is dialled at once when it is
/// lost. One that lets us in and drops us is not dialled as fast as it does.
const STEADY_TIME: Duration = Duration::from_secs(10);

/// How the relay is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Whether anything passes over UDP is not known yet.
    Trying,
    /// Not at all, as it is not to be had, or does not let us in.
    Away(Trouble),
    /// By this connection.
    Joined(ConnectionKey),
    /// By HTTPS alone.
    Blocked,
}

/// The connection of one proxy.
pub(in crate::agent::ptth) struct Link {
    world: Rc<TunnelWorld<Infallible>>,
    relay: Relay,
    state: Watch<State>,
    addresses: RefCell<Addresses>,
    /// How many the relay had the last time.
    found: Cell<usize>,
    /// Where it was dialled then.
    dialled: Cell<Option<SocketAddr>>,
    /// Since when it is joined, or was the last time.
    joined_at: Cell<Timestamp>,
    news: RefCell<HashMap<ConnectionKey, News>>,
    /// Whether it ever was.
    was_joined: Cell<bool>,
    health: RelayHealth,
    /// How it is by HTTPS, where nobody else asks for that.
    https_health: Option<Rc<RelayHealth>>,
    /// What has been told of a relay that is away.
    told: RefCell<Vec<Kind>>,
    /// The proxy is told to stop.
    stop: Flag,
    failure: RefCell<Option<AgentError>>,
}

/// What has happened to a connection, until its task hears of it.
#[derive(Default)]
struct News {
    events: VecDeque<QuicEvent>,
    waiting: Option<Waker>,
}

/// What has become of a connection in doubt.
enum Rejoined {
    /// Another one has taken its place.
    By(ConnectionKey),
    /// It has been heard of.
    Heard,
    /// It is lost.
    Lost(ConnectionError),
    /// UDP passes no more, and the relay is there by HTTPS; why nothing comes.
    Blocked(JoinError),
}

impl Link {
    /// A link over sockets of its own; what it finds out of the relay by HTTPS is noted.
    pub(in crate::agent::ptth) fn new(
        world: Rc<TunnelWorld<Infallible>>,
        relay: Relay,
        https_health: Option<Rc<RelayHealth>>,
    ) -> std::io::Result<Self> {
        let mut keys = SharedKeys {
            reset: [0; 32],
            token: [0; 32],
        };
        aws_lc_rs::rand::fill(&mut keys.reset).map_err(std::io::Error::other)?;
        // One for each family; a host may have one of them alone.
        let any: [SocketAddr; 2] = [
            (Ipv4Addr::UNSPECIFIED, 0).into(),
            (Ipv6Addr::UNSPECIFIED, 0).into(),
        ];
        let [ipv4, ipv6] = any.map(bind_udp);
        let sockets = match (ipv4, ipv6) {
            (Err(error), Err(_)) => return Err(error),
            (ipv4, ipv6) => ipv4.into_iter().chain(ipv6),
        };
        let sockets = Vec::from_iter(sockets);
        if let Some(small) = sockets.first().and_then(SmallBuffers::of) {
            warn!(next = small.next_step(), "{small}");
        }
        world.speak_quic(keys, sockets, None)?;
        world.streams.set_windows(WINDOWS);
        let joined_at = Cell::new(world.reactor.now());
        Ok(Self {
            world,
            relay,
            state: Watch::new(State::Trying),
            addresses: RefCell::default(),
            found: Cell::default(),
            dialled: Cell::new(None),
            joined_at,
            news: RefCell::default(),
            was_joined: Cell::default(),
            health: RelayHealth::default(),
            https_health,
            told: RefCell::default(),
            stop: Flag::default(),
            failure: RefCell::default(),
        })
    }

    /// Begins to keep the connection to the relay, for as long as the proxy runs.
    pub(in crate::agent::ptth) fn start(self: &Rc<Self>) {
        if !self.relay.https.has_key() {
            let relay = &self.relay;
            info!(%relay, "a certificate is good over QUIC alone: UDP has to get to the relay");
        }
        let link = Rc::clone(self);
        spawn(async move {
            if let Some(error) = link.stop.or_raised(link.keep()).await {
                link.failure.replace(Some(AgentError::NotJoined {
                    relay: link.relay.to_string(),
                    next: error.next_step(),
                    why: error.to_string(),
                }));
                link.world.drain();
            }
        });
    }

    /// Why the relay will never let the proxy in, if that is so.
    pub(in crate::agent::ptth) fn take_failure(&self) -> Option<AgentError> {
        self.failure.take()
    }

    /// How the relay is, for operators.
    pub(super) fn status(&self) -> RelayStatus {
        self.health.status(&one_word(&self.relay.to_string()))
    }

    /// Whether the relay is reached by HTTPS alone.
    pub(in crate::agent::ptth) fn is_blocked(&self) -> bool {
        self.state.get() == State::Blocked
    }

    /// How the relay is reached, to look at and to wait for.
    pub(super) const fn state(&self) -> &Watch<State> {
        &self.state
    }

    /// Raised when the proxy is told to stop.
    pub(super) const fn stopping(&self) -> &Flag {
        &self.stop
    }

    /// The proxy is told to stop: the connection is closed once nothing goes by it.
    pub(super) fn stop(&self) {
        self.stop.raise();
        if let State::Joined(connection) = self.state.get() {
            self.leave(connection);
        }
    }

    /// Takes what concerns connections.
    pub(super) fn handle(&self, event: QuicEvent) {
        let (QuicEvent::Connected(connection) | QuicEvent::Lost(connection, _)) = event else {
            return;
        };
        if matches!(event, QuicEvent::Lost(..)) && self.state.get() == State::Joined(connection) {
            // Before anybody asks for a stream of it.
            self.state.set(State::Trying);
        }
        if let Some(news) = self.news.borrow_mut().get_mut(&connection) {
            news.events.push_back(event);
            news.waiting.take().into_iter().for_each(wake);
        }
    }

    /// Keeps a connection for as long as the proxy runs; returns why the relay will never let
    /// it in.
    async fn keep(&self) -> JoinError {
        let reactor = &self.world.reactor;
        let mut failures = Backoff::default();
        let mut losses = Backoff::default();
        loop {
            let connection = match self.join_or_tell(&mut failures).await {
                Ok(connection) => connection,
                Err(error) => return error,
            };
            failures.handle_success();
            let why = self.stay(connection).await;
            let lasted = clock::now().since(self.joined_at.get());
            self.handle_lost(&why);
            if is_replaced(&why) {
                reactor.sleep_until(reactor.now() + REPLACED_TIME).await;
            } else if lasted < STEADY_TIME {
                losses.rest(reactor).await;
            } else {
                losses.handle_success();
            }
        }
    }

    /// Dials, again and again, until the relay has let us in, or never will.
    async fn join_or_tell(&self, failures: &mut Backoff) -> Result<ConnectionKey, JoinError> {
        let mut silent_attempts = 0;
        loop {
            let error = match self.join(SILENCE_MAX).await {
                Ok(connection) => return Ok(connection),
                Err(error) if error.is_final() && !self.was_joined.get() => return Err(error),
                Err(JoinError::Silent) => match self.is_there_otherwise().await {
                    Ok(_) if !self.relay.https.has_key() => JoinError::OnlyOverUdp,
                    Ok(why) if silent_attempts + 1 >= self.silent_attempts_max() => {
                        return Ok(self.go_by_https(&why).await);
                    }
                    Ok(_) => {
                        silent_attempts += 1;
                        debug!(relay = %self.relay, "no answer over UDP; trying once more");
                        self.state.set(State::Trying);
                        failures.rest(&self.world.reactor).await;
                        continue;
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            silent_attempts = 0;
            self.state.set(State::Away(error.trouble()));
            let next = error.next_step();
            if self.handle_failure(&error) {
                match error.trouble() {
                    Trouble::Refuses => {
                        warn!(relay = %self.relay, %error, next, "cannot join the relay; trying again");
                    }
                    Trouble::Unreachable | Trouble::Mute => {
                        warn!(relay = %self.relay, %error, next, "the relay is away; trying again");
                    }
                }
            }
            failures.rest(&self.world.reactor).await;
        }
    }

    /// Leaves the relay to HTTPS until UDP passes.
    async fn go_by_https(&self, why: &JoinError) -> ConnectionKey {
        self.handle_failure(why);
        let next = why.next_step();
        warn!(relay = %self.relay, error = %why, next, "no answer over UDP: going by ptth+https");
        self.state.set(State::Blocked);
        loop {
            let jitter = Duration::from_millis(random_number() % BLOCKED_JITTER_MS);
            let reactor = &self.world.reactor;
            let next = reactor.now() + BLOCKED_TIME + jitter;
            reactor.sleep_until(next).await;
            match self.join(SILENCE_MAX).await {
                Ok(connection) => {
                    info!(relay = %self.relay, "UDP passes again");
                    return connection;
                }
                // That the relay refuses is no reason to leave a way by which it may not.
                Err(error) if error.trouble() == Trouble::Refuses => {
                    if self.handle_failure(&error) {
                        let next = error.next_step();
                        warn!(relay = %self.relay, %error, next, "UDP passes, but leads nowhere");
                    }
                }
                Err(error) => {
                    self.handle_failure(&error);
                    debug!(relay = %self.relay, %error, "UDP does not pass yet");
                    self.look_by_https().await;
                }
            }
        }
    }

    /// Watches a connection, and those that come in its place, until one is lost.
    async fn stay(&self, mut connection: ConnectionKey) -> ConnectionError {
        self.settle(connection);
        loop {
            match either(self.lost(connection), self.doubted(connection)).await {
                Either::First(why) => return why,
                Either::Second(()) if self.handle_failure(&JoinError::TimedOut) => {
                    warn!(relay = %self.relay, "the relay does not answer; dialling it once more");
                }
                Either::Second(()) => {}
            }
            let rejoined = self.rejoin(connection).await;
            match rejoined {
                Rejoined::By(successor) => {
                    self.leave(connection);
                    connection = successor;
                    self.settle(connection);
                }
                Rejoined::Heard => {
                    self.told.take();
                    if self.health.handle_success(clock::now()) {
                        info!(relay = %self.relay, "the relay answers again");
                    }
                }
                Rejoined::Lost(why) => return why,
                Rejoined::Blocked(why) => {
                    self.leave(connection);
                    connection = self.go_by_https(&why).await;
                    self.settle(connection);
                }
            }
        }
    }

    /// Tries other connections beside one that is in doubt, until it no longer is.
    async fn rejoin(&self, connection: ConnectionKey) -> Rejoined {
        let mut silent_attempts = 0;
        loop {
            let mut trying = pin!(self.try_rejoin(connection));
            let may_be_blocked =
                silent_attempts + 1 >= self.silent_attempts_max() && self.relay.https.has_key();
            let (tried, checked) = match may_be_blocked {
                false => (trying.await, None),
                // HTTPS has no time of its own: the next attempt may find the relay back.
                true => match either(trying.as_mut(), self.is_there_otherwise()).await {
                    Either::First(tried) => (tried, None),
                    Either::Second(checked) => (trying.await, checked.ok()),
                },
            };
            match (tried, checked) {
                (Ok(rejoined), _) => return rejoined,
                (Err(JoinError::Silent), Some(why)) if self.is_in_doubt(connection) => {
                    return Rejoined::Blocked(why);
                }
                (Err(JoinError::Silent), _) => silent_attempts += 1,
                (Err(_), _) => {
                    silent_attempts = 0;
                    // It may have failed at once.
                    self.look_later().await;
                }
            }
        }
    }

    /// Tries one.
    async fn try_rejoin(&self, connection: ConnectionKey) -> Result<Rejoined, JoinError> {
        let round_trip = self.health_of(connection).map(|health| health.round_trip);
        let silence_max = REJOIN_SILENCE_MAX.max(round_trip.unwrap_or_default() * 2);
        let mut joining = pin!(self.join(silence_max));
        let heard = either(self.lost(connection), self.heard_again(connection));
        match either(joining.as_mut(), heard).await {
            Either::First(joined) => joined.map(Rejoined::By),
            // By the one that is being made: what the relay does with it comes next.
            Either::Second(Either::First(why)) if is_replaced(&why) => Ok(match joining.await {
                Ok(successor) => Rejoined::By(successor),
                Err(_) => Rejoined::Lost(why),
            }),
            Either::Second(Either::First(why)) => Ok(Rejoined::Lost(why)),
            Either::Second(Either::Second(())) => Ok(Rejoined::Heard),
        }
    }

    fn settle(&self, connection: ConnectionKey) {
        let now = clock::now();
        self.joined_at.set(now);
        self.was_joined.set(true);
        self.told.take();
        self.state.set(State::Joined(connection));
        if self.health.handle_success(now) {
            info!(relay = %self.relay, "joined the relay");
        }
    }

    fn handle_lost(&self, why: &ConnectionError) {
        self.state.set(State::Trying);
        let is_replaced = is_replaced(why);
        let lost = JoinError::Connection(why.clone());
        if self.handle_failure(&lost) || is_replaced {
            let next = is_replaced.then_some("does another proxy run with this name?");
            warn!(relay = %self.relay, error = %why, next, "the relay's connection is lost");
        }
    }

    /// The relay cannot be had; whether that is news: of each kind, the first since it could.
    fn handle_failure(&self, error: &JoinError) -> bool {
        let kind = error.kind();
        self.health.handle_failure(clock::now(), kind.0, error);
        let mut told = self.told.borrow_mut();
        let is_news = !told.contains(&kind);
        if is_news {
            told.push(kind);
        }
        is_news
    }

    /// The next thing that happens to a connection.
    async fn next(&self, connection: ConnectionKey) -> QuicEvent {
        poll_fn(|context| {
            let mut all = self.news.borrow_mut();
            let news = all.entry(connection).or_default();
            match news.events.pop_front() {
                Some(event) => Poll::Ready(event),
                None => {
                    news.waiting = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    async fn lost(&self, connection: ConnectionKey) -> ConnectionError {
        loop {
            if let QuicEvent::Lost(_, why) = self.next(connection).await {
                self.news.borrow_mut().remove(&connection);
                return why;
            }
        }
    }

    fn health_of(&self, connection: ConnectionKey) -> Option<Health> {
        let streams = &self.world.streams;
        streams.with_driver(|driver| driver.health(connection))
    }

    async fn look_later(&self) {
        let reactor = &self.world.reactor;
        reactor.sleep_until(reactor.now() + LOOK_INTERVAL).await;
    }

    /// Nothing new goes by a connection: it is closed once what runs by it has ended, unless
    /// it is found to be lost before.
    fn leave(&self, connection: ConnectionKey) {
        self.news.borrow_mut().remove(&connection);
        let streams = &self.world.streams;
        let code = CloseCode::Clean;
        streams.leave(connection, 1, code, code.as_str());
    }

    fn drop_connection(&self, connection: ConnectionKey, code: CloseCode) {
        self.news.borrow_mut().remove(&connection);
        let streams = &self.world.streams;
        streams.close(
            connection,
            code.value(),
            code.as_str(),
            StreamCode::PEER_LOST,
        );
    }
}

/// Whether a connection had to make way for another one of its name.
fn is_replaced(why: &ConnectionError) -> bool {
    matches!(
        why,
        ConnectionError::ApplicationClosed(close)
            if CloseCode::from_wire(close.error_code.into_inner()) == Some(CloseCode::Replaced)
    )
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("relay", &self.relay)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
