//! Who has come by QUIC: proxies say who they are on their connection's first stream, and are
//! found by their names from then on.
//!
//! A name is one connection's at a time. A newer one takes it over: what has crashed leaves a
//! dead connection behind, which would lock its successor out until it times out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tracing::{debug, info};

use super::rendezvous::{Message, RelayService};
use super::sessions::Origin;
use super::streams::{NoMessage, QuicStream};
use super::tally::Tally;
use crate::access::Presented;
use crate::protocol::ptth_name::Name;
use crate::protocol::ptth_quic::{
    Answer, CloseCode, Hello, MessageError, Refusal, Role, StreamCode, Who,
};
use crate::quic::connection::{ConnectionKey, Health};
use crate::quic::driver::{Admission, QuicEvent};
use crate::runtime::clock;
use crate::runtime::executor::run_or_spawn;
use crate::session::refused::Refused;

/// How long a connection may take to say whose it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client's former connection has to give a sign of life when a new one has come.
const SIGN_OF_LIFE_TIME: Duration = Duration::from_millis(1500);

/// What a connection is told that has to go for another one.
pub(super) const REPLACED: &str = "another connection has this name";

/// How long a peer that is turned away has to read why, before its connection is closed.
const LAST_WORDS_TIME: Duration = Duration::from_secs(1);

/// Streams of the relay.
pub(super) type RelayStream = QuicStream<Origin, Message>;

/// The connections of one shard.
#[derive(Debug, Default)]
pub(super) struct QuicGuests {
    guests: RefCell<HashMap<ConnectionKey, Option<Rc<Guest>>, ahash::RandomState>>,
    /// The last connection of each client.
    clients: RefCell<HashMap<Name, ConnectionKey, ahash::RandomState>>,
    /// Streams that are not joined yet, or will not be.
    pub(super) opens: Tally,
}

/// A proxy that has said who it is.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) role: Role,
    pub(super) name: Name,
    pub(super) connection: ConnectionKey,
}

impl QuicGuests {
    /// Who has a connection, once it is known.
    pub(super) fn guest(&self, connection: ConnectionKey) -> Option<Rc<Guest>> {
        self.guests.borrow().get(&connection)?.clone()
    }

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.guests.borrow().len()
    }

    /// Notes who has a connection, unless it has gone since.
    fn settle(&self, guest: Guest) -> Settled {
        let (role, name, connection) = (guest.role, guest.name.clone(), guest.connection);
        match self.guests.borrow_mut().get_mut(&connection) {
            Some(known) => *known = Some(Rc::new(guest)),
            None => return Settled::Gone,
        }
        match role {
            Role::ServerSide => Settled::Server(name),
            Role::ClientSide => Settled::Client(self.clients.borrow_mut().insert(name, connection)),
        }
    }

    fn forget(&self, connection: ConnectionKey) -> Option<Rc<Guest>> {
        let guest = self.guests.borrow_mut().remove(&connection)??;
        let mut clients = self.clients.borrow_mut();
        if guest.role == Role::ClientSide && clients.get(&guest.name) == Some(&connection) {
            clients.remove(&guest.name);
        }
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

    pub(super) fn take_quic_event(self: &Rc<Self>, event: QuicEvent) {
        match event {
            QuicEvent::Connected(connection) => {
                self.quic.guests.borrow_mut().insert(connection, None);
                if self.world.is_draining() {
                    return self.dismiss(connection);
                }
                let service = Rc::clone(self);
                run_or_spawn(async move { service.await_hello(connection).await });
            }
            QuicEvent::Lost(connection, why) => {
                if let Some(guest) = self.forget_guest(connection) {
                    info!(name = %guest.name, %why, "a proxy's connection is gone");
                }
            }
            QuicEvent::Opened(key) => {
                let stream = RelayStream::new(Rc::clone(&self.world), key);
                let service = Rc::clone(self);
                let open = self.quic.opens.enter();
                run_or_spawn(async move {
                    match stream.key().is_first_of_client() {
                        true => service.greet(stream).await,
                        false => service.serve_open(stream).await,
                    }
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

    /// Whoever says nothing is nobody.
    async fn await_hello(&self, connection: ConnectionKey) {
        let reactor = &self.world.reactor;
        reactor.sleep_until(reactor.now() + HELLO_TIMEOUT).await;
        let guests = self.quic.guests.borrow();
        let is_silent = matches!(guests.get(&connection), Some(None));
        drop(guests);
        if is_silent {
            self.world.count_refused(Refused::Silent);
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
        if guest.role == Role::ServerSide {
            self.server_left(&guest.name, connection);
        }
        Some(guest)
    }

    /// Reads who has come, and answers.
    async fn greet(self: Rc<Self>, stream: RelayStream) {
        let connection = stream.key().connection;
        let hello = match stream.read_message(Hello::decode).await {
            Ok(hello) => hello,
            Err(NoMessage::Wrong(error)) => return self.refuse_hello(stream, error).await,
            Err(_) => return self.close_quic(connection, CloseCode::Protocol, "no hello came"),
        };
        let question = hello.question();
        match self.identify(&hello, connection) {
            Ok(guest) => {
                let (role, name) = (guest.role, guest.name.clone());
                let peer = self.world.streams.peer_address(connection);
                match self.quic.settle(guest) {
                    Settled::Gone => return,
                    Settled::Server(name) => self.server_joined(&name, connection),
                    Settled::Client(former) => {
                        if let Some(former) = former.filter(|former| *former != connection) {
                            self.replace(former);
                        }
                    }
                }
                info!(%name, role = role_label(role), peer = ?peer, "a proxy has joined");
                stream
                    .say(|words| Answer::Accepted.encode(question, words))
                    .await;
                // It says nothing more, but its end would be the connection's for old proxies.
                stream.keep();
            }
            Err(refusal) => {
                self.world.count_refused(Refused::UnknownKey);
                debug!(%refusal, "a proxy is not let in");
                let answer = Answer::Refused(refusal);
                stream.say(|words| answer.encode(question, words)).await;
                stream.finish(refusal.into());
                self.close_later(connection, CloseCode::Unauthenticated, "unknown")
                    .await;
            }
        }
    }

    /// A client has a new connection. It may have several, and only one that is dead has to go.
    fn replace(self: &Rc<Self>, former: ConnectionKey) {
        self.world.streams.with_driver(|driver| driver.ping(former));
        let service = Rc::clone(self);
        run_or_spawn(async move {
            let reactor = &service.world.reactor;
            let asked_at = clock::now();
            reactor.sleep_until(reactor.now() + SIGN_OF_LIFE_TIME).await;
            let streams = &service.world.streams;
            let health = streams.with_driver(|driver| driver.health(former));
            let has_answered = |health: Health| health.heard_at > Some(asked_at);
            if health.is_some_and(|health| !has_answered(health)) {
                service.close_quic(former, CloseCode::Replaced, REPLACED);
            }
        });
    }

    async fn refuse_hello(&self, stream: RelayStream, error: MessageError) {
        let connection = stream.key().connection;
        self.world.count_refused(Refused::NotAMessage);
        debug!(%error, "no hello");
        stream.write(&error.answer()).await;
        stream.finish(Refusal::Malformed.into());
        self.close_later(connection, CloseCode::Protocol, "no hello")
            .await;
    }

    /// A close drops what was written and is not acknowledged.
    async fn close_later(&self, connection: ConnectionKey, code: CloseCode, reason: &'static str) {
        let reactor = &self.world.reactor;
        reactor.sleep_until(reactor.now() + LAST_WORDS_TIME).await;
        self.close_quic(connection, code, reason);
    }

    /// Whether somebody is who he says.
    fn identify(&self, hello: &Hello, connection: ConnectionKey) -> Result<Guest, Refusal> {
        let Who::Layered { id, key } = &hello.who else {
            // A number proves nothing.
            return Err(Refusal::Unauthenticated);
        };
        let key = key
            .as_ref()
            .map(|key| Presented::new(key.as_str().to_owned()));
        let settings = self.settings();
        let known = match hello.role {
            Role::ServerSide => settings.forwarding.server(key.as_ref()).map(|it| &it.name),
            Role::ClientSide => settings.forwarding.client(key.as_ref()).map(|it| &it.name),
        };
        match known {
            Ok(name) if id.is_of_key() || id.to_name().as_ref() == Some(name) => Ok(Guest {
                role: hello.role,
                name: name.clone(),
                connection,
            }),
            Ok(_) | Err(_) => Err(Refusal::Unauthenticated),
        }
    }

    /// Tells every proxy that the relay stops, once nothing of it runs any more.
    pub(super) fn dismiss_quic(&self) {
        let guests = self.quic.guests.borrow();
        guests.keys().for_each(|guest| self.dismiss(*guest));
    }

    fn dismiss(&self, connection: ConnectionKey) {
        let streams = &self.world.streams;
        streams.leave(connection, CloseCode::Shutdown, "the relay stops");
    }
}

const fn role_label(role: Role) -> &'static str {
    match role {
        Role::ClientSide => "client",
        Role::ServerSide => "server",
    }
}
