//! The connection to the relay: made, kept, and made anew.
//!
//! ```text
//!   away ── dial, hello ──▶ joined ── silence for 1.5 s ──▶ doubted ──┐
//!    ▲                        │ ▲                            │        │ dialled beside it,
//!    │                       lost└──── heard of again ───────┘        │ again and again
//!    └────────────────────────┴◀──────── the new one has joined ──────┘
//! ```
//!
//! QUIC doubles the time between two of its probes, and so notices a relay that comes back
//! about as late as it was away. A connection in doubt is kept for what it carries, while
//! another one is tried beside it: a relay that has joined the new one drops the old one, as
//! both have one name.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use quinn_proto::ConnectionError;
use rustls::pki_types::ServerName;
use tracing::{info, warn};

use crate::agent::error::AgentError;
use crate::agent::ptth::url::PtthUrl;
use crate::agent::reconnect::Backoff;
use crate::agent::relay_watch::Presence;
use crate::agent::settings::AgentSettings;
use crate::agent::target::Host;
use crate::agent::way::{self, WayError};
use crate::config::quic_settings::PathSettings;
use crate::protocol::ptth_quic::{
    ALPN, Answer, AnswerError, CloseCode, Hello, Refusal, StreamCode,
};
use crate::quic::connection::ConnectionKey;
use crate::quic::driver::QuicEvent;
use crate::quic::keys::SharedKeys;
use crate::quic::transport::Transport;
use crate::runtime::clock;
use crate::runtime::executor::{spawn, wake};
use crate::runtime::flag::{Either, Flag, either};
use crate::runtime::udp_group::{SmallBuffers, bind_udp};
use crate::shard::streams::{NoMessage, QuicStream};
use crate::shard::world::World;
use crate::tls::client::quic_client_config;

/// What a proxy's connection is set to. The relay may open as many streams as it is asked for.
const fn transport(path: PathSettings) -> Transport {
    Transport {
        stream_window: 4 << 20,
        connection_window: 16 << 20,
        send_window: 8 << 20,
        streams_max: 4096,
        idle_timeout: Duration::from_secs(20),
        keep_alive: Some(Duration::from_secs(5)),
        path,
    }
}

/// How long one attempt may take until the relay has let us in.
const JOIN_TIMEOUT: Duration = Duration::from_secs(3);
/// The same beside a connection that is in doubt: the next one may find the relay back.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Silence after something was sent, until a connection is in doubt.
const DOUBT_TIME: Duration = Duration::from_millis(1500);
/// How often it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Until the next attempt when another proxy has taken the name: both would else take it from
/// each other as fast as they can dial.
const REPLACED_TIME: Duration = Duration::from_secs(5);

/// Why the relay does not let us in.
#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error("cannot find {host}: {source}")]
    Resolve {
        host: String,
        source: std::io::Error,
    },
    #[error("{0} cannot be dialled from here")]
    NoWay(SocketAddr),
    #[error("{0}")]
    Connection(ConnectionError),
    #[error("no answer in time")]
    TimedOut,
    #[error("the relay answers {0}")]
    Refused(Refusal),
    #[error("what the relay answers is no answer: {0}")]
    Answer(#[from] NoMessage<AnswerError>),
    #[error("the relay lets no stream be opened")]
    NoStream,
}

impl JoinError {
    /// What whoever started the proxy can do about it.
    fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Resolve { .. } => Some("check the name in --relay"),
            Self::TimedOut | Self::Connection(ConnectionError::TimedOut) => {
                Some("is the relay running, with quic.listen at this port, and does UDP get there?")
            }
            Self::Refused(Refusal::Unauthenticated) => Some(
                "the relay's [[ptth.servers]] or [[ptth.clients]] has to list this name with the \
                 SHA-256 of this key",
            ),
            Self::Connection(ConnectionError::TransportError(_)) => {
                Some("does --relay have the certificate's name, or its ?pin=?")
            }
            _ => None,
        }
    }

    /// Whether trying again changes nothing.
    const fn is_final(&self) -> bool {
        matches!(self, Self::Refused(Refusal::Unauthenticated))
    }
}

/// The relay, as it is dialled.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    url: PtthUrl,
    tls: Arc<rustls::ClientConfig>,
    name: String,
    hello: Hello,
    /// See [`Transport::client`].
    steer: u8,
    path: PathSettings,
}

impl Relay {
    pub(super) fn new(
        url: &PtthUrl,
        hello: Hello,
        steer: u8,
        path: PathSettings,
        agent: &AgentSettings,
    ) -> Result<Self, WayError> {
        let authorities = agent.relay_ca.as_deref();
        let (trust, name) = way::trust(url.pin, &url.address.host, authorities)?;
        let name = match name {
            ServerName::DnsName(name) => name.as_ref().to_owned(),
            // Without the brackets of a URL.
            ServerName::IpAddress(ip) => IpAddr::from(ip).to_string(),
            _ => url.address.host.to_string(),
        };
        Ok(Self {
            url: url.clone(),
            tls: quic_client_config(trust, ALPN)?,
            name,
            hello,
            steer,
            path,
        })
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// The connection of one proxy.
pub(super) struct Link<C: Copy + 'static, M: Send + 'static> {
    world: Rc<World<C, M>>,
    relay: Relay,
    joined: Cell<Option<ConnectionKey>>,
    /// How often the relay was dialled.
    attempts: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
    news: RefCell<HashMap<ConnectionKey, News>>,
    presence: Presence,
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

impl<C: Copy + 'static, M: Send + 'static> Link<C, M> {
    /// A link over sockets of its own.
    pub(super) fn new(world: Rc<World<C, M>>, relay: Relay) -> std::io::Result<Self> {
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
        Ok(Self {
            world,
            relay,
            joined: Cell::new(None),
            attempts: Cell::new(0),
            waiting: RefCell::default(),
            news: RefCell::default(),
            presence: Presence::default(),
            stop: Flag::default(),
            failure: RefCell::default(),
        })
    }

    /// Begins to keep the connection to the relay, for as long as the proxy runs.
    pub(super) fn start(self: &Rc<Self>) {
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
    pub(super) fn take_failure(&self) -> Option<AgentError> {
        self.failure.take()
    }

    /// Whether the proxy is told to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_raised()
    }

    /// The proxy is told to stop: the connection is closed once nothing goes by it.
    pub(super) fn stop(&self) {
        self.stop.raise();
        if let Some(connection) = self.joined.get() {
            let code = CloseCode::Clean;
            let streams = &self.world.streams;
            streams.leave(connection, 1, code, code.as_str());
        }
    }

    /// Takes what concerns connections.
    pub(super) fn handle(&self, event: QuicEvent) {
        let (QuicEvent::Connected(connection) | QuicEvent::Lost(connection, _)) = event else {
            return;
        };
        if matches!(event, QuicEvent::Lost(..)) && self.joined.get() == Some(connection) {
            // Before anybody asks for a stream of it.
            self.joined.set(None);
        }
        if let Some(news) = self.news.borrow_mut().get_mut(&connection) {
            news.events.push_back(event);
            news.waiting.take().into_iter().for_each(wake);
        }
    }

    /// The connection that the relay has let in, once there is one.
    pub(super) async fn joined(&self) -> ConnectionKey {
        poll_fn(|context| match self.joined.get() {
            Some(connection) => Poll::Ready(connection),
            None => {
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Keeps a connection for as long as the proxy runs; returns why the relay will never let
    /// it in.
    async fn keep(&self) -> JoinError {
        let mut backoff = Backoff::default();
        loop {
            match self.join(JOIN_TIMEOUT).await {
                Ok(connection) => {
                    backoff.handle_success();
                    self.stay(connection).await;
                }
                Err(error) if error.is_final() && self.presence.is_new() => return error,
                Err(error) => {
                    let next = error.next_step();
                    if self.presence.handle_failure() {
                        warn!(relay = %self.relay, %error, next, "the relay is away; trying again");
                    }
                    backoff.rest(&self.world.reactor).await;
                }
            }
        }
    }

    /// Watches a connection, and those that come in its place, until one is lost.
    async fn stay(&self, mut connection: ConnectionKey) {
        loop {
            self.settle(connection);
            match either(self.lost(connection), self.doubted(connection)).await {
                Either::First(why) => return self.handle_lost(connection, &why).await,
                Either::Second(()) => {
                    warn!(relay = %self.relay, "the relay does not answer; dialling it once more");
                }
            }
            let mut joining = pin!(self.join(REJOIN_TIMEOUT));
            let heard = either(self.lost(connection), self.heard_again(connection));
            let joined = match either(joining.as_mut(), heard).await {
                Either::First(joined) => joined,
                // By the one that is being made: what the relay does with it comes next.
                Either::Second(Either::First(why)) if is_replaced(&why) => match joining.await {
                    Ok(successor) => Ok(successor),
                    Err(_) => return self.handle_lost(connection, &why).await,
                },
                Either::Second(Either::First(why)) => {
                    return self.handle_lost(connection, &why).await;
                }
                Either::Second(Either::Second(())) => continue,
            };
            if let Ok(successor) = joined {
                self.drop_connection(connection, CloseCode::Replaced);
                connection = successor;
            }
        }
    }

    fn settle(&self, connection: ConnectionKey) {
        self.joined.set(Some(connection));
        for waker in self.waiting.take() {
            wake(waker);
        }
        if self.presence.handle_success() {
            info!(relay = %self.relay, "joined the relay");
        }
    }

    async fn handle_lost(&self, connection: ConnectionKey, why: &ConnectionError) {
        self.joined.set(None);
        self.news.borrow_mut().remove(&connection);
        let is_replaced = is_replaced(why);
        if self.presence.handle_failure() {
            let next = is_replaced.then_some("does another proxy run with this name?");
            warn!(relay = %self.relay, error = %why, next, "the relay's connection is lost");
        }
        if is_replaced {
            let reactor = &self.world.reactor;
            reactor.sleep_until(reactor.now() + REPLACED_TIME).await;
        }
    }

    /// Dials until the relay has let us in.
    async fn join(&self, timeout: Duration) -> Result<ConnectionKey, JoinError> {
        let until = self.world.reactor.now() + timeout;
        let connection = match self.world.reactor.deadline(until, self.dial()).await {
            Some(dialled) => dialled?,
            None => return Err(JoinError::TimedOut),
        };
        let attempt = Attempt {
            link: self,
            connection,
            is_over: Cell::new(false),
        };
        let joining = self.introduce(connection);
        let joined = self.world.reactor.deadline(until, joining).await;
        joined.unwrap_or(Err(JoinError::TimedOut))?;
        attempt.is_over.set(true);
        Ok(connection)
    }

    async fn dial(&self) -> Result<ConnectionKey, JoinError> {
        let address = &self.relay.url.address;
        let mut addresses = match &address.host {
            Host::Address(ip) => vec![SocketAddr::new(*ip, address.port)],
            Host::Name(name) => {
                let resolved = self.world.resolve(name, address.port).await;
                resolved.map_err(|source| JoinError::Resolve {
                    host: name.clone(),
                    source,
                })?
            }
        };
        // Each attempt begins with another one: whether somebody answers shows later.
        let attempt = self.attempts.replace(self.attempts.get().wrapping_add(1));
        let count = addresses.len().max(1);
        addresses.rotate_left(attempt % count);
        let mut result = Err(JoinError::TimedOut);
        for to in addresses {
            let config = transport(self.relay.path)
                .client(Arc::clone(&self.relay.tls), self.relay.steer)
                .map_err(|_| JoinError::NoWay(to))?;
            let dialled = self.world.streams.with_driver(|driver| {
                let port = driver.port_of_family(to)?;
                driver
                    .connect(port, config, to, &self.relay.name, clock::now())
                    .ok()
            });
            match dialled {
                Some(connection) => {
                    self.news.borrow_mut().insert(connection, News::default());
                    return Ok(connection);
                }
                None => result = Err(JoinError::NoWay(to)),
            }
        }
        result
    }

    /// Says who we are.
    async fn introduce(&self, connection: ConnectionKey) -> Result<(), JoinError> {
        if let QuicEvent::Lost(_, why) = self.next(connection).await {
            return Err(JoinError::Connection(why));
        }
        let stream = QuicStream::open(&self.world, connection).ok_or(JoinError::NoStream)?;
        stream.say(|words| self.relay.hello.encode(words)).await;
        let question = self.relay.hello.question();
        let decode = |bytes: &[u8]| Answer::decode(bytes, question);
        let answer = match either(self.lost(connection), stream.read_message(decode)).await {
            Either::First(why) => return Err(JoinError::Connection(why)),
            Either::Second(answer) => answer?,
        };
        answer.verdict().map_err(JoinError::Refused)?;
        stream.keep();
        Ok(())
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
                return why;
            }
        }
    }

    /// Waits until a connection is in doubt.
    async fn doubted(&self, connection: ConnectionKey) {
        loop {
            if self.is_silent(connection, DOUBT_TIME) {
                return;
            }
            self.look_later().await;
        }
    }

    /// Waits until it no longer is.
    async fn heard_again(&self, connection: ConnectionKey) {
        while self.is_silent(connection, DOUBT_TIME) {
            self.look_later().await;
        }
    }

    fn is_silent(&self, connection: ConnectionKey, time: Duration) -> bool {
        let now = self.world.reactor.now();
        self.world.streams.with_driver(|driver| {
            let health = driver.health(connection);
            let since = health.and_then(|health| health.unanswered_since);
            let silence = since.map_or(Duration::ZERO, |since| now.since(since));
            // What was sent may have been nothing that is answered.
            if silence > time / 2 {
                driver.ping(connection);
            }
            silence > time
        })
    }

    async fn look_later(&self) {
        let reactor = &self.world.reactor;
        reactor.sleep_until(reactor.now() + LOOK_INTERVAL).await;
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

/// An attempt that has not come to its end: dropped, its connection is closed.
struct Attempt<'a, C: Copy + 'static, M: Send + 'static> {
    link: &'a Link<C, M>,
    connection: ConnectionKey,
    is_over: Cell<bool>,
}

impl<C: Copy + 'static, M: Send + 'static> Drop for Attempt<'_, C, M> {
    fn drop(&mut self) {
        if !self.is_over.get() {
            self.link.drop_connection(self.connection, CloseCode::Clean);
        }
    }
}

impl<C: Copy + 'static, M: Send + 'static> fmt::Debug for Link<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("relay", &self.relay)
            .field("joined", &self.joined)
            .finish_non_exhaustive()
    }
}
