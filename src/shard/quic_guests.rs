//! Who has come by QUIC: proxies say who they are on their connection's first stream, and are
//! found by their names from then on.
//!
//! A name is one connection's at a time. A newer one takes it over: what has crashed leaves a
//! dead connection behind, which would lock its successor out until it times out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use quinn_proto::ConnectionError;
use tracing::{debug, info};

use super::caller::RefusedCall;
use super::peer_address::PeerAddress;
use super::per_address::CountedAddress;
use super::rendezvous::{Message, RelayService};
use super::sessions::Origin;
use super::streams::{Lifetime, NoMessage, QuicPeer, QuicRole, QuicStream};
use super::tally::{Counted, Tally};
use super::udp_listeners::HELLO_STREAMS;
use crate::access::Presented;
use crate::access::forwarding::Credentials;
use crate::protocol::ptth_name::Name;
use crate::protocol::ptth_quic::{
    Answer, CloseCode, Hello, MessageError, MessageFault, Refusal, Role, StreamCode, Who,
};
use crate::quic::connection::ConnectionKey;
use crate::quic::driver::QuicEvent;
use crate::quic::intake::Admission;
use crate::runtime::clock;
use crate::runtime::executor::run_or_spawn;
use crate::session::refused::Refused;
use crate::tls::client_identity::public_key;

/// What a connection is told that has to go for another one.
const REPLACED: &str = "another connection has this name";

/// How long a peer that is turned away has to read why, before its connection is closed.
const LAST_WORDS_TIME: Duration = Duration::from_secs(1);

/// Codes that end a connection with an alert of TLS: RFC 9001 §4.8.
const TLS_ALERTS: RangeInclusive<u64> = 0x100..=0x1ff;

/// Streams of the relay.
pub(super) type RelayStream = QuicStream<Origin, Message>;

/// The connections of one shard.
#[derive(Debug, Default)]
pub(super) struct QuicGuests {
    visitors: RefCell<HashMap<ConnectionKey, Visitor, ahash::RandomState>>,
    /// The last connection of each client.
    clients: RefCell<HashMap<Name, ConnectionKey, ahash::RandomState>>,
    /// Streams that are not joined yet, or will not be.
    pub(super) opens: Tally,
}

/// A connection that has come about.
#[derive(Debug)]
struct Visitor {
    standing: Standing,
    /// For its address, where it counts.
    _counted: Option<CountedAddress>,
}

/// Whose a connection is.
#[derive(Debug)]
enum Standing {
    /// It has not said.
    Unknown,
    Known(Rc<Guest>),
    /// It is about to be closed.
    Expelled,
}

/// A proxy that has said who it is.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) role: Role,
    pub(super) name: Name,
    /// By which it was let in.
    shown: Credentials,
    pub(super) connection: ConnectionKey,
}

impl QuicGuests {
    /// Who has a connection, once it is known.
    pub(super) fn guest(&self, connection: ConnectionKey) -> Option<Rc<Guest>> {
        match &self.visitors.borrow().get(&connection)?.standing {
            Standing::Known(guest) => Some(Rc::clone(guest)),
            Standing::Unknown | Standing::Expelled => None,
        }
    }

    /// The same for operators.
    pub(super) fn whose(&self, connection: ConnectionKey) -> QuicPeer {
        match self.guest(connection) {
            Some(guest) => QuicPeer {
                role: guest.role.into(),
                name: Some(guest.name.as_str().into()),
            },
            None => QuicPeer {
                role: QuicRole::Unknown,
                name: None,
            },
        }
    }

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.visitors.borrow().len()
    }

    fn has(&self, connection: ConnectionKey) -> bool {
        self.visitors.borrow().contains_key(&connection)
    }

    /// Notes who has a connection, unless it has gone since.
    fn settle(&self, guest: Guest) -> Settled {
        let (role, name, connection) = (guest.role, guest.name.clone(), guest.connection);
        match self.visitors.borrow_mut().get_mut(&connection) {
            Some(visitor) => visitor.standing = Standing::Known(Rc::new(guest)),
            None => return Settled::Gone,
        }
        match role {
            Role::ServerSide => Settled::Server(name),
            Role::ClientSide => Settled::Client(self.clients.borrow_mut().insert(name, connection)),
        }
    }

    /// From now on a connection is nobody's.
    fn expel(&self, connection: ConnectionKey) -> Option<Rc<Guest>> {
        let standing = {
            let mut visitors = self.visitors.borrow_mut();
            let visitor = visitors.get_mut(&connection)?;
            std::mem::replace(&mut visitor.standing, Standing::Expelled)
        };
        self.give_up_name(standing)
    }

    fn forget(&self, connection: ConnectionKey) -> Option<Rc<Guest>> {
        let visitor = self.visitors.borrow_mut().remove(&connection)?;
        self.give_up_name(visitor.standing)
    }

    fn give_up_name(&self, standing: Standing) -> Option<Rc<Guest>> {
        let Standing::Known(guest) = standing else {
            return None;
        };
        let mut clients = self.clients.borrow_mut();
        if guest.role == Role::ClientSide && clients.get(&guest.name) == Some(&guest.connection) {
            clients.remove(&guest.name);
        }
        drop(clients);
        Some(guest)
    }
}

/// What a connection is, whose proxy has said who it is.
enum Settled {
    Gone,
    Server(Name),
    /// A client's, which had another one before.
    Client(Option<ConnectionKey>),
}

impl RelayService {
    /// What is to become of somebody who wants to connect.
    pub(super) fn admit_quic(
        &self,
        peer: SocketAddr,
        is_validated: bool,
        connections: usize,
    ) -> Admission {
        let settings = self.settings();
        // Those that have not come about yet, and those that are about to go.
        let unknown = connections.saturating_sub(self.quic.count());
        let handshakes = unknown + self.handshakes();
        let refused = if self.world.is_draining() {
            Refused::Draining
        } else if self.connections() + unknown >= settings.connections_max {
            Refused::TooManyConnections
        } else if handshakes >= settings.handshakes_max {
            Refused::TooManyHandshakes
        } else if !self.admits(Some(peer).into()) {
            Refused::TooManyFromAddress
        } else if self.has_memory() {
            return match is_validated || handshakes < settings.handshakes_max / 2 {
                true => Admission::Accept,
                // Under load, whoever sends from addresses that are not its own gets no further.
                false => Admission::Retry,
            };
        } else {
            Refused::OverMemory
        };
        self.count_refused(Some(peer).into(), refused);
        Admission::Refuse
    }

    /// Takes the settings for those who come by QUIC from now on.
    pub(super) fn set_up_quic(&self) {
        let settings = self.settings();
        let streams = &self.world.streams;
        streams.set_handshake_timeout(settings.handshake_timeout);
        streams.set_windows(settings.quic.windows);
        let limits = settings.forwarding_limits;
        let idle = [settings.session_idle, limits.idle];
        streams.set_lifetime(Lifetime {
            ttl: settings.session_ttl,
            idle: idle.into_iter().flatten().min(),
            half_closed: limits.half_closed,
        });
        if let Some(server) = &settings.quic.server {
            streams.set_server_config(server);
        }
        self.expel_strangers();
    }

    /// Lets those go whose key or certificate is listed no more, or with another name, once their
    /// last stream has ended.
    fn expel_strangers(&self) {
        let settings = self.settings();
        let is_listed = |guest: &Guest| {
            let forwarding = &settings.forwarding;
            let name = match guest.role {
                Role::ServerSide => forwarding.server(guest.shown).map(|it| &it.name),
                Role::ClientSide => forwarding.client(guest.shown).map(|it| &it.name),
            };
            name == Ok(&guest.name)
        };
        let visitors = self.quic.visitors.borrow();
        let standings = visitors.values().map(|visitor| &visitor.standing);
        let strangers = standings.filter_map(|standing| match standing {
            Standing::Known(guest) if !is_listed(guest) => Some(Rc::clone(guest)),
            _ => None,
        });
        let strangers: Vec<_> = strangers.collect();
        drop(visitors);
        for guest in strangers {
            info!(name = %guest.name, "a proxy's key is not listed any more");
            self.quic.expel(guest.connection);
            self.note_left(&guest);
            let streams = &self.world.streams;
            let reason = "its key is not listed any more";
            streams.leave(guest.connection, 1, CloseCode::Unauthenticated, reason);
        }
    }

    pub(super) fn take_quic_event(self: &Rc<Self>, event: QuicEvent) {
        match event {
            QuicEvent::Connected(connection) => self.welcome(connection),
            QuicEvent::Lost(connection, why) => {
                if !self.quic.has(connection) {
                    let peer = self.world.streams.peer_address(connection);
                    self.count_no_handshake(peer, &why);
                }
                if let Some(guest) = self.forget_guest(connection) {
                    info!(name = %guest.name, %why, "a proxy's connection is gone");
                }
            }
            QuicEvent::NotBegun(peer, why) => self.count_no_handshake(Some(peer), &why),
            // A connection that is closed had a stream open before.
            QuicEvent::Opened(key) if !self.quic.has(key.connection) => {}
            QuicEvent::Opened(key) => {
                let stream = RelayStream::new(Rc::clone(&self.world), key);
                let service = Rc::clone(self);
                let open = self.quic.opens.enter();
                run_or_spawn(async move {
                    if stream.key().is_first_of_client() {
                        return service.greet(stream, open).await;
                    }
                    service.serve_open(stream).await;
                    drop(open);
                });
            }
            QuicEvent::Available(_)
            | QuicEvent::Readable(_)
            | QuicEvent::Writable(_)
            | QuicEvent::Stopped(..)
            | QuicEvent::Finished(_) => {}
        }
    }

    /// Counts why somebody was refused what he asked for by a connection.
    pub(super) fn count_refused_by(&self, connection: ConnectionKey, refused: Refused) {
        let peer = self.world.streams.peer_address(connection);
        self.count_refused(peer.into(), refused);
    }

    /// No connection has come about.
    fn count_no_handshake(&self, peer: Option<SocketAddr>, why: &ConnectionError) {
        let code = match why {
            ConnectionError::TimedOut => {
                return self.count_refused(peer.into(), Refused::TooSlow);
            }
            ConnectionError::TransportError(error) => error.code,
            ConnectionError::ConnectionClosed(close) => close.error_code,
            _ => return,
        };
        if TLS_ALERTS.contains(&code.into()) {
            let peer = PeerAddress::from(peer);
            debug!(%peer, %why, "no TLS with a proxy");
            self.count_refused(peer, Refused::TlsFailed);
        }
    }

    /// A connection has come about.
    fn welcome(self: &Rc<Self>, connection: ConnectionKey) {
        let streams = &self.world.streams;
        let peer = PeerAddress::from(streams.peer_address(connection));
        let mut counted = None;
        // An address counts once it is proven whose it is.
        if !self.count_for(peer, &mut counted) {
            self.count_refused(peer, Refused::TooManyFromAddress);
            let reason = "too many connections from this address";
            return self.close_quic(connection, CloseCode::Clean, reason);
        }
        let visitor = Visitor {
            standing: Standing::Unknown,
            _counted: counted,
        };
        self.quic.visitors.borrow_mut().insert(connection, visitor);
        if self.world.is_draining() {
            return self.dismiss(connection);
        }
        let service = Rc::clone(self);
        run_or_spawn(async move { service.await_hello(connection).await });
    }

    /// Whoever says nothing is nobody.
    async fn await_hello(&self, connection: ConnectionKey) {
        let reactor = &self.world.reactor;
        let timeout = self.settings().quic.hello_timeout;
        reactor.sleep_until(reactor.now() + timeout).await;
        let visitors = self.quic.visitors.borrow();
        let standing = visitors.get(&connection).map(|visitor| &visitor.standing);
        let is_silent = matches!(standing, Some(Standing::Unknown));
        drop(visitors);
        if is_silent {
            self.count_refused_by(connection, Refused::Silent);
            self.close_quic(connection, CloseCode::Protocol, "no hello came");
        }
    }

    /// Closes a connection and forgets whose it is.
    pub(super) fn close_quic(
        &self,
        connection: ConnectionKey,
        code: CloseCode,
        reason: &'static str,
    ) {
        self.forget_guest(connection);
        self.world
            .streams
            .close(connection, code.value(), reason, StreamCode::PEER_LOST);
    }

    fn forget_guest(&self, connection: ConnectionKey) -> Option<Rc<Guest>> {
        let guest = self.quic.forget(connection)?;
        self.note_left(&guest);
        Some(guest)
    }

    fn note_left(&self, guest: &Guest) {
        if guest.role == Role::ServerSide {
            self.server_left(&guest.name, guest.connection);
        }
    }

    /// Reads who has come, and answers.
    async fn greet(self: Rc<Self>, stream: RelayStream, open: Counted) {
        let connection = stream.key().connection;
        let hello = match stream.read_message(Hello::decode).await {
            Ok(hello) => hello,
            Err(NoMessage::Wrong(error)) => {
                return self.refuse_place(stream, &error.answer()).await;
            }
            Err(_) => return self.close_quic(connection, CloseCode::Protocol, "no hello came"),
        };
        let question = hello.question();
        match self.identify(&hello, connection) {
            Ok(guest) => {
                let (role, name) = (guest.role, guest.name.clone());
                let peer = PeerAddress::from(self.world.streams.peer_address(connection));
                match self.quic.settle(guest) {
                    Settled::Gone => return,
                    Settled::Server(name) => self.server_joined(&name, connection),
                    Settled::Client(former) => {
                        if let Some(former) = former.filter(|former| *former != connection) {
                            self.replace(former, Role::ClientSide);
                        }
                    }
                }
                info!(%name, role = QuicRole::from(role).as_str(), %peer, "a proxy has joined");
                self.world.streams.with_driver(|driver| {
                    let settings = &self.settings().quic;
                    let streams_max = settings.streams_max + HELLO_STREAMS;
                    driver.widen(connection, streams_max, settings.windows.connection);
                });
                stream
                    .say(|words| Answer::Accepted.encode(question, words))
                    .await;
                drop(open);
                if self.world.is_draining() {
                    self.dismiss(connection);
                }
                if let Some(kind) = stream.more().await {
                    let fault = MessageFault::NotHere;
                    let answer = MessageError { kind, fault }.answer();
                    return self.refuse_place(stream, &answer).await;
                }
                // Its end would be the connection's for old proxies.
                stream.keep();
            }
            Err(refusal) => {
                self.count_refused_hello(connection, &hello);
                let answer = Answer::Refused(refusal);
                stream.say(|words| answer.encode(question, words)).await;
                stream.finish(refusal.into());
                let code = CloseCode::Unauthenticated;
                self.let_go(connection, 0, code, "unknown").await;
            }
        }
    }

    /// Nobody who is listed says this.
    fn count_refused_hello(&self, connection: ConnectionKey, hello: &Hello) {
        let peer = self.world.streams.peer_address(connection).into();
        let name: Option<&dyn Display> = match &hello.who {
            Who::Layered { id, .. } if id.is_of_key() => None,
            Who::Layered { id, .. } => Some(id),
            Who::Legacy { number } => Some(number),
        };
        let (client, server) = match hello.role {
            Role::ClientSide => (name, None),
            Role::ServerSide => (None, name),
        };
        let refused = Refused::UnknownKey;
        RefusedCall {
            peer,
            call: "hello",
            client,
            server,
            port: None,
            refused,
        }
        .log();
        self.count_refused(peer, refused);
    }

    /// A proxy has a new connection. If the former one is dead it has to go. Else it is a
    /// client's, which may have several, or a server's, to which nobody is led any more, and
    /// which goes once what runs there has ended.
    pub(super) fn replace(self: &Rc<Self>, former: ConnectionKey, role: Role) {
        let service = Rc::clone(self);
        run_or_spawn(async move {
            match (service.answers(former).await, role) {
                (true, Role::ClientSide) => {}
                (true, Role::ServerSide) => {
                    let streams = &service.world.streams;
                    streams.leave(former, 1, CloseCode::Replaced, REPLACED);
                }
                (false, _) => service.close_quic(former, CloseCode::Replaced, REPLACED),
            }
        });
    }

    /// Asks a connection for a sign of life; whether one has come when it is to be expected.
    pub(super) async fn answers(&self, connection: ConnectionKey) -> bool {
        let streams = &self.world.streams;
        let asked_at = clock::now();
        let health = streams.with_driver(|driver| {
            driver.ping(connection);
            driver.health(connection)
        });
        let Some(health) = health else {
            return false;
        };
        let reactor = &self.world.reactor;
        reactor.sleep_until(reactor.now() + health.patience()).await;
        let health = streams.with_driver(|driver| driver.health(connection));
        health.is_some_and(|health| health.heard_at > Some(asked_at))
    }

    /// What a peer says has no place where it says so: it does not keep to the protocol.
    pub(super) async fn refuse_place(&self, stream: RelayStream, answer: &[u8]) {
        let connection = stream.key().connection;
        self.count_refused_by(connection, Refused::NotAMessage);
        debug!(stream = %stream.key().id, "a message out of place");
        let is_known = self.quic.guest(connection).is_some();
        let lasting = usize::from(is_known && !stream.key().is_first_of_client());
        self.last_words(&stream, answer).await;
        stream.finish(Refusal::Malformed.into());
        let code = CloseCode::Protocol;
        self.let_go(connection, lasting, code, "a message out of place")
            .await;
    }

    /// Closes a connection whose peer is to read why before, and of which so many streams last.
    async fn let_go(
        &self,
        connection: ConnectionKey,
        lasting: usize,
        code: CloseCode,
        reason: &'static str,
    ) {
        if let Some(guest) = self.quic.expel(connection) {
            self.note_left(&guest);
        }
        let streams = &self.world.streams;
        streams.leave(connection, lasting, code, reason);
        let reactor = &self.world.reactor;
        reactor.sleep_until(reactor.now() + LAST_WORDS_TIME).await;
        self.close_quic(connection, code, reason);
    }

    /// Whether somebody is who he says.
    fn identify(&self, hello: &Hello, connection: ConnectionKey) -> Result<Guest, Refusal> {
        let key = match &hello.who {
            Who::Layered { key: Some(key), .. } => Some(Presented::new(key.as_str().to_owned())),
            Who::Layered { key: None, .. } | Who::Legacy { .. } => None,
        };
        let streams = &self.world.streams;
        let certificate = streams.with_driver(|driver| driver.certificate(connection));
        let shown = Credentials {
            certificate: certificate.as_ref().and_then(public_key),
            ..Credentials::of_key(key.as_ref())
        };
        let settings = self.settings();
        let known = match hello.role {
            Role::ServerSide => {
                let server = settings.forwarding.server(shown);
                server.map(|it| (&it.name, it.legacy_id))
            }
            Role::ClientSide => {
                let client = settings.forwarding.client(shown);
                client.map(|it| (&it.name, it.legacy_id))
            }
        };
        let (name, legacy_id) = known.map_err(|_| Refusal::Unauthenticated)?;
        // A name or a number proves nothing; it has to be that of who shows this.
        let is_his = match &hello.who {
            Who::Layered { id, .. } => id.is_of_key() || id.to_name().as_ref() == Some(name),
            Who::Legacy { number } => legacy_id.is_some_and(|own| own.get() == *number),
        };
        match is_his {
            true => Ok(Guest {
                role: hello.role,
                name: name.clone(),
                shown,
                connection,
            }),
            false => Err(Refusal::Unauthenticated),
        }
    }

    /// Tells every proxy that the relay stops, once nothing of it runs any more.
    pub(super) fn dismiss_quic(&self) {
        let visitors = self.quic.visitors.borrow();
        let connections: Vec<_> = visitors.keys().copied().collect();
        drop(visitors);
        connections.into_iter().for_each(|it| self.dismiss(it));
    }

    fn dismiss(&self, connection: ConnectionKey) {
        let visitors = self.quic.visitors.borrow();
        let lasting = match visitors.get(&connection).map(|visitor| &visitor.standing) {
            Some(Standing::Known(_)) => 1,
            Some(Standing::Unknown) => 0,
            // Its peer is told why it has to go.
            Some(Standing::Expelled) | None => return,
        };
        drop(visitors);
        let streams = &self.world.streams;
        streams.leave(connection, lasting, CloseCode::Shutdown, "the relay stops");
    }
}
