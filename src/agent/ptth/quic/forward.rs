//! The client-side proxy: each local connection becomes a stream to one port of a server, or is
//! left to the one by HTTPS where UDP is blocked.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use tracing::{debug, warn};

use super::link::{Link, State};
use crate::agent::proxy::Proxy;
use crate::agent::ptth::forward::ForwardService as ByHttps;
use crate::agent::ptth::room::Room;
use crate::agent::ptth::tunnel::{TunnelWorld, Way};
use crate::agent::relay_trouble::Trouble;
use crate::agent::settings::PtthDestination;
use crate::protocol::ptth_quic::{Answer, AnswerError, Inner, Open, Refusal};
use crate::quic::connection::ConnectionKey;
use crate::quic::driver::QuicEvent;
use crate::runtime::clock;
use crate::runtime::executor::run_or_spawn;
use crate::runtime::flag::{Either, either};
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::refused::Refused;
use crate::shard::peer_address::PeerAddress;
use crate::shard::status::{Detail, ShardStatus};
use crate::shard::streams::{NoMessage, QuicStream, StreamEnd, StreamSession};
use crate::shard::tally::Tally;

/// How long a local connection waits for the relay to be there.
const RELAY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it waits until it is known by which way: UDP is tried up to four times, for 3 s
/// each, with up to a second between.
const TRYING_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it waits for its server: the server's proxy tries to connect for 5 s, and the
/// relay waits for that for 10 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// The proxy, on its one core.
#[derive(Debug)]
pub(in crate::agent::ptth) struct ForwardService {
    world: Rc<TunnelWorld<Infallible>>,
    link: Rc<Link>,
    https: Rc<ByHttps>,
    destination: PtthDestination,
    room: Room,
    connecting: Tally,
}

/// Why a local connection leads nowhere.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the relay is away")]
    Away,
    #[error("the relay does not let this proxy in, or is not whom it trusts")]
    NotLetIn,
    #[error("UDP is blocked")]
    Blocked,
    #[error("{}", told(*.0))]
    Refused(Refusal),
    #[error("the relay allows no more streams")]
    NoStream,
    #[error("no answer in time")]
    TimedOut,
    #[error("the local connection broke")]
    LocalGone,
    #[error("the proxy stops")]
    Stopping,
    #[error("the relay's answer: {0}")]
    Answer(#[from] NoMessage<AnswerError>),
}

fn told(refusal: Refusal) -> String {
    let why = match refusal {
        Refusal::Unauthenticated => "the relay does not know this client any more",
        Refusal::Forbidden => {
            "there is no such server or port, or this key may not reach it: see `may` in the \
             relay's [[ptth.clients]]"
        }
        Refusal::NotConnected => "the server is not there: is `midspan expose` running?",
        Refusal::TimedOut => "the server's service does not answer",
        Refusal::TargetRefused => "the server cannot reach its service: is it running?",
        Refusal::LimitReached => "there are too many connections, or the relay is stopping",
        Refusal::Malformed | Refusal::Internal => "the relay or the server's proxy is at fault",
    };
    format!("{why} (status {})", refusal.status())
}

impl ForwardService {
    pub(in crate::agent::ptth) fn new(
        world: Rc<TunnelWorld<Infallible>>,
        link: Rc<Link>,
        https: Rc<ByHttps>,
        destination: PtthDestination,
        room: Room,
    ) -> Rc<Self> {
        Rc::new(Self {
            world,
            link,
            https,
            destination,
            room,
            connecting: Tally::default(),
        })
    }

    async fn forward(self: Rc<Self>, mut local: Stream) {
        let _connecting = self.connecting.enter();
        let since = self.world.reactor.now();
        let peer = local.socket().peer_address();
        let client_port = peer.map_or(0, |peer| peer.port());
        let opening = either(self.open(client_port), local.broken());
        let opened = match self.link.stopping().or_raised(opening).await {
            Some(Either::First(opened)) => opened,
            Some(Either::Second(())) => Err(ConnectError::LocalGone),
            None => Err(ConnectError::Stopping),
        };
        match opened {
            Ok(stream) => {
                let relay = self.world.streams.peer_address(stream.key().connection);
                let session = StreamSession {
                    peers: [PeerAddress::from(peer), PeerAddress::from(relay)],
                    client: None,
                    client_port,
                    server: Some(self.destination.server.as_str().into()),
                    target: Some(self.destination.port.as_str().into()),
                    waiting_since: since,
                    joined_at: clock::now(),
                    is_far: false,
                    tunnel: None,
                };
                let ends = [StreamEnd::Socket(local), StreamEnd::Stream(stream)];
                self.world.join_streams(ends, session);
            }
            Err(ConnectError::Blocked) => self.https.take(local),
            Err(error @ ConnectError::LocalGone) => {
                debug!(to = %self.destination, %error, "no session");
                local.reset();
            }
            Err(error) => {
                self.world.count_refused(match error {
                    ConnectError::Refused(_) | ConnectError::NotLetIn => Refused::RelayRefuses,
                    _ => Refused::NoRelay,
                });
                warn!(to = %self.destination, %error, "cannot connect");
                local.reset();
            }
        }
    }

    /// Opens a stream that leads to the destination. Where the connection to the relay is lost
    /// before anybody has answered, or another way has taken its place, that one is as good.
    async fn open(&self, client_port: u16) -> Result<QuicStream<Way, Infallible>, ConnectError> {
        loop {
            let connection = self.joined().await?;
            let joined = State::Joined(connection);
            let state = self.link.state();
            let left = || state.until(|state| (state != joined).then_some(()));
            // An answer that has come goes before the news of another way.
            match either(self.open_by(connection, client_port), left()).await {
                // The link may hear of it later than a stream does.
                Either::First(Err(ConnectError::Answer(NoMessage::Lost))) => left().await,
                Either::First(opened) => return opened,
                Either::Second(()) => {}
            }
        }
    }

    /// The connection that the relay has let in, once there is one.
    async fn joined(&self) -> Result<ConnectionKey, ConnectError> {
        let reactor = &self.world.reactor;
        let state = self.link.state();
        let tried = state.until(|state| (state != State::Trying).then_some(()));
        reactor
            .deadline(reactor.now() + TRYING_TIMEOUT, tried)
            .await;
        let settled = state.until(|state| match state {
            State::Joined(connection) => Some(Ok(connection)),
            State::Blocked => Some(Err(ConnectError::Blocked)),
            State::Trying | State::Away(_) => None,
        });
        let until = reactor.now() + RELAY_TIMEOUT;
        let settled = reactor.deadline(until, settled).await;
        settled.unwrap_or_else(|| {
            Err(match state.get() {
                State::Away(Trouble::Refuses) => ConnectError::NotLetIn,
                _ => ConnectError::Away,
            })
        })
    }

    async fn open_by(
        &self,
        connection: ConnectionKey,
        client_port: u16,
    ) -> Result<QuicStream<Way, Infallible>, ConnectError> {
        let reactor = &self.world.reactor;
        let opening = QuicStream::open_when_allowed(&self.world, connection);
        let opened = reactor.deadline(reactor.now() + RELAY_TIMEOUT, opening);
        let opened = opened.await.ok_or(ConnectError::NoStream)?;
        let stream = opened.ok_or(NoMessage::Lost)?;
        let open = Open::Layered {
            server: (&self.destination.server).into(),
            inner: Inner {
                client_port,
                target: (&self.destination.port).into(),
            },
        };
        let asking = async {
            stream.say(|words| open.encode(words)).await;
            let decode = |bytes: &[u8]| Answer::decode(bytes, open.question());
            stream.read_message(decode).await
        };
        let until = reactor.now() + ANSWER_TIMEOUT;
        let answer = reactor.deadline(until, asking).await;
        let answer = answer.ok_or(ConnectError::TimedOut)??;
        answer.verdict().map_err(ConnectError::Refused)?;
        Ok(stream)
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
        let local = Stream::new(Rc::clone(&self.world.reactor), socket);
        if !self.room.is_left(&self.world, self.connecting.count()) {
            return local.reset();
        }
        run_or_spawn(Rc::clone(self).forward(local));
    }

    fn take_quic(self: &Rc<Self>, event: QuicEvent) {
        match event {
            // A relay opens none to a client.
            QuicEvent::Opened(key) => {
                let stream: QuicStream<Way, Infallible> =
                    QuicStream::new(Rc::clone(&self.world), key);
                stream.break_off(Refusal::Malformed.into());
            }
            event => self.link.handle(event),
        }
    }

    fn add_status(&self, status: &mut ShardStatus, _detail: Detail) {
        status.relays.push(self.link.status());
    }

    fn stop(&self) {
        self.link.stop();
    }

    fn has_work(&self) -> bool {
        self.connecting.count() > 0
    }
}
