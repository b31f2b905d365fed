//! The server-side proxy under a reusable ticket.
//!
//! One task keeps each door, see [`super::meeting`]. A door and the session
//! that it leads to are opened together:
//!
//! ```text
//!        ┌──────────────── over (used, or lost): next number ──────────────┐
//!        v                                                                 │
//! open session(n) ── open door(i) ── both wait ── lease runs out: renew ───┤
//!        ^                │                                                │
//!        └─── backoff ────┘          the session is attended to meanwhile ─┘
//! ```
//!
//! Clients that come directly are served beside, on one connection each.
//!
//! A door that is renewed replaces its predecessor at the relay without a gap,
//! and the predecessor's session is attended to until its own lease ends: its
//! number may have been given out in that moment.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use tracing::{debug, warn};

use super::direct::{Admitted, CALLERS_MAX, Caller};
use super::error::AgentError;
use super::leg::{self, HANDSHAKE_TIMEOUT, LegError, WaitingLeg};
use super::meeting::{
    Answer, DOORS, HELLO_BYTES, decode_hello, direct_id, door_id, encode_welcome, session_id,
};
use super::proxy::Proxy;
use super::random::random_number;
use super::reconnect::Backoff;
use super::relay_watch::RelayWatch;
use super::target::Service as Exposed;
use super::ticket::Secret;
use super::way::Way;
use crate::protocol::jet::Status;
use crate::runtime::executor::spawn;
use crate::runtime::flag::{Flag, either};
use crate::runtime::socket::Socket;
use crate::session::handshake::ReadBuffer;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;
use crate::shard::tally::Tally;
use crate::shard::world::World;
use crate::time::Timestamp;

/// The most services under one ticket.
pub const SERVICES_MAX: usize = 64;

/// The most sessions of one shard whose client has not said hello yet. Beyond,
/// doors open at the pace of [`Backoff`].
const ATTENDED_MAX: usize = 64;

/// How long the way from a door to its session should take. A door that is over
/// and leads nobody to its session in this time does not open again at once:
/// either somebody plays with it, or a second proxy has taken it over.
const WAY_TIME: Duration = Duration::from_secs(1);

/// So many doors in a row without a client are worth a word.
const VAIN_USES_SUSPICIOUS: u32 = 5;

const SUSPICION: &str = "clients take a number here and do not come: is the same ticket exposed \
                         elsewhere, or does it circulate?";

/// One shard's part of the proxy.
#[derive(Debug)]
pub(super) struct ExposeService {
    world: Rc<World<(), Infallible>>,
    secret: Secret,
    services: Vec<Exposed>,
    connections_max: usize,
    relay: RelayWatch,
    stop: Flag,
    /// Sessions whose client has not said hello.
    attended: Tally,
    /// Sessions whose service is being dialled.
    dialling: Tally,
    /// Clients that came directly and have not said hello.
    calling: Tally,
    read_buffer: ReadBuffer,
    failure: RefCell<Option<AgentError>>,
}

/// A session that waits for its client.
#[derive(Debug)]
struct WaitingSession {
    number: u64,
    leg: WaitingLeg,
}

impl ExposeService {
    pub(super) fn new(
        world: Rc<World<(), Infallible>>,
        relay: Way,
        secret: Secret,
        services: Vec<Exposed>,
        connections_max: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            world,
            secret,
            services,
            connections_max,
            relay: RelayWatch::new(relay),
            stop: Flag::default(),
            attended: Tally::default(),
            dialling: Tally::default(),
            calling: Tally::default(),
            read_buffer: ReadBuffer::default(),
            failure: RefCell::new(None),
        })
    }

    /// Starts keeping this shard's share of the doors.
    pub(super) fn start(self: &Rc<Self>, shards: u64) {
        let shard = u64::from(self.world.shard.0);
        for index in (0..DOORS).filter(|index| index % shards == shard) {
            let service = Rc::clone(self);
            spawn(async move {
                service.stop.or_raised(service.keep_door(index)).await;
            });
        }
    }

    /// Why the proxy gave up, if it did.
    pub(super) fn take_failure(&self) -> Option<AgentError> {
        self.failure.take()
    }

    /// Keeps one door for as long as the proxy runs.
    async fn keep_door(self: &Rc<Self>, index: u64) {
        let mut backoff = Backoff::default();
        let mut used_in_vain = 0_u32;
        // A session whose number was not given out yet.
        let mut spare = None;
        // The door that the next one replaces.
        let mut previous: Option<WrappedStream> = None;
        loop {
            match self.open_door(index, &mut spare).await {
                Ok((mut session, mut door)) => {
                    self.relay.handle_success();
                    drop(previous.take());
                    let over = self.wait_at(&mut session, &mut door).await;
                    let until = if over {
                        drop(door);
                        used_in_vain = match self.has_come(&mut session).await {
                            true => 0,
                            false => used_in_vain + 1,
                        };
                        self.world.reactor.now() + HANDSHAKE_TIMEOUT
                    } else {
                        previous = Some(door.link);
                        session.leg.lease.expires_at()
                    };
                    spawn(Rc::clone(self).attend(session, until));
                    if used_in_vain == VAIN_USES_SUSPICIOUS {
                        warn!(door = index, "{SUSPICION}");
                    }
                    if used_in_vain > 0 || self.attended.count() > ATTENDED_MAX {
                        backoff.rest(&self.world.reactor).await;
                    } else {
                        backoff.handle_success();
                    }
                }
                // The former session at this door is still being taken down.
                Err(LegError::Refused(Status::BAD_REQUEST)) if spare.is_some() => {
                    backoff.rest(&self.world.reactor).await;
                }
                Err(error) => {
                    spare = None;
                    if let Err(failure) = self.relay.handle_failure(error) {
                        self.failure.replace(Some(failure));
                        self.world.drain();
                        return;
                    }
                    backoff.rest(&self.world.reactor).await;
                }
            }
        }
    }

    /// Opens a session and the door that leads to it. A session that has been
    /// opened when the door fails is left in `spare`.
    async fn open_door(
        &self,
        index: u64,
        spare: &mut Option<WaitingSession>,
    ) -> Result<(WaitingSession, WaitingLeg), LegError> {
        let still_there = match spare.take() {
            Some(mut session) => (!session.is_lost()).then_some(session),
            None => None,
        };
        let session = match still_there {
            Some(session) => session,
            None => self.open_session().await?,
        };
        let number = session.number;
        *spare = Some(session);
        let mut door = self.accept(door_id(&self.secret, index)).await?;
        door.link.send_all(&number.to_be_bytes()).await?;
        match spare.take() {
            Some(session) => Ok((session, door)),
            None => unreachable!("stored above"),
        }
    }

    async fn open_session(&self) -> Result<WaitingSession, LegError> {
        let number = random_number();
        let leg = self.accept(session_id(&self.secret, number)).await?;
        Ok(WaitingSession { number, leg })
    }

    async fn accept(&self, association: uuid::Uuid) -> Result<WaitingLeg, LegError> {
        let key = leg::implicit(association);
        let waiting = leg::accept(&self.world, &self.relay.way, Some(key)).await?;
        if waiting.key == key {
            Ok(waiting)
        } else {
            // Nobody who has the ticket could find it.
            Err(LegError::Refused(Status::NOT_FOUND))
        }
    }

    /// Waits until a door is over, or to be renewed. Returns whether it is over.
    async fn wait_at(&self, session: &mut WaitingSession, door: &mut WaitingLeg) -> bool {
        let random = random_number();
        let renew_at = door.lease.renew_at(random);
        let renew_at = renew_at.min(session.leg.lease.renew_at(random));
        // Nobody has anything to say at a door, so all that comes is its end.
        let mut said = [0];
        let over = either(door.link.recv(&mut said), session.readable());
        self.world.reactor.deadline(renew_at, over).await.is_some()
    }

    /// Whether whoever was at the door comes to the session.
    async fn has_come(&self, session: &mut WaitingSession) -> bool {
        let until = self.world.reactor.now() + WAY_TIME;
        let coming = self.world.reactor.deadline(until, session.readable());
        coming.await.is_some() && !session.is_lost()
    }

    /// Waits for a session's client and serves it.
    async fn attend(self: Rc<Self>, session: WaitingSession, until: Timestamp) {
        let counted = self.attended.enter();
        let WaitingSession { number, mut leg } = session;
        let Some(hello) = self.read_hello(&mut leg.link, until).await else {
            return;
        };
        drop(counted);
        self.take_hello(leg.link, leg.since, number, hello).await;
    }

    /// Meets a client that came directly, and serves it.
    async fn attend_directly(self: Rc<Self>, socket: Socket) {
        let counted = self.calling.enter();
        let welcoming = self.welcome(socket);
        let Some(Some((mut link, since, number))) = self.stop.or_raised(welcoming).await else {
            return;
        };
        let until = self.world.reactor.now() + HANDSHAKE_TIMEOUT;
        let Some(hello) = self.read_hello(&mut link, until).await else {
            return;
        };
        drop(counted);
        self.take_hello(link, since, number, hello).await;
    }

    /// Lets a client in that knows where to ask, and shows it who answers. Gives the
    /// session's number.
    async fn welcome(&self, socket: Socket) -> Option<(WrappedStream, Timestamp, u64)> {
        let own = direct_id(&self.secret);
        let caller = Caller::receive(&self.world, &self.read_buffer, socket).await?;
        let wanting = caller.wants(&self.world, |place| place.association == own);
        let (caller, place) = wanting.await?;
        let Admitted {
            stream,
            early,
            since,
            gate: _,
        } = caller.admit(&self.world)?;
        let mut link = WrappedStream::new(stream, None, early, &self.world.workshop).ok()?;
        let number = random_number();
        let nonce = place.candidate.unwrap_or_default();
        let welcome = encode_welcome(&self.secret, nonce, number);
        link.send_all(&welcome).await.ok()?;
        Some((link, since, number))
    }

    /// `None` when it does not come until then, or not at all.
    async fn read_hello(
        &self,
        link: &mut WrappedStream,
        until: Timestamp,
    ) -> Option<[u8; HELLO_BYTES]> {
        let mut hello = [0; HELLO_BYTES];
        let reading = link.recv_exact(&mut hello);
        let reading = self.world.reactor.deadline(until, reading);
        let read = self.stop.or_raised(reading).await??;
        read.ok().map(|()| hello)
    }

    /// Serves a session's client that has the ticket.
    async fn take_hello(
        &self,
        link: WrappedStream,
        since: Timestamp,
        number: u64,
        hello: [u8; HELLO_BYTES],
    ) {
        let _dialling = self.dialling.enter();
        match decode_hello(&self.secret, number, &hello) {
            Ok(port) => self.serve(link, since, port).await,
            Err(error) => {
                warn!(%error, "session refused");
                link.reset();
            }
        }
    }

    /// Connects a session's client with the service that it wants.
    async fn serve(&self, mut link: WrappedStream, since: Timestamp, port: Option<u16>) {
        let connected = match self.find_service(port) {
            Ok(service) => leg::dial_target(&self.world, &service.target)
                .await
                .map_err(|error| {
                    warn!(target = %service.target, %error, "cannot reach the service");
                    Answer::Unreachable
                }),
            Err(answer) => Err(answer),
        };
        let answer = connected.as_ref().err().copied().unwrap_or(Answer::Ready);
        // A client that has gone meanwhile ends the pair like any other.
        let sent = link.send_all(&[answer.encode()]).await;
        if let (Ok(target), Ok(())) = (connected, sent) {
            let now = self.world.reactor.now();
            let (left, right) = (leg::into_leg(link, since), leg::into_leg(target, now));
            self.world.join(left, right, ());
        }
    }

    fn find_service(&self, port: Option<u16>) -> Result<&Exposed, Answer> {
        // The session's own connection is one of those watched.
        if self.world.reactor.watched() >= self.connections_max {
            warn!(
                connections_max = self.connections_max,
                "session refused: too many connections"
            );
            return Err(Answer::Busy);
        }
        let found = match port {
            None if self.services.len() == 1 => self.services.first(),
            port => self.services.iter().find(|service| service.port == port),
        };
        found.ok_or_else(|| {
            debug!(?port, "session refused: no such service");
            Answer::NoSuchService
        })
    }
}

impl WaitingSession {
    /// Waits until something happens: a hello, or the end.
    async fn readable(&mut self) {
        self.leg.link.readable().await;
    }

    /// Whether the relay gave it up.
    fn is_lost(&mut self) -> bool {
        self.leg.link.is_lost()
    }
}

impl Proxy for ExposeService {
    type Session = ();
    type Message = Infallible;

    fn own_world(&self) -> &Rc<World<(), Infallible>> {
        &self.world
    }

    fn take_message(&self, message: Infallible) {
        match message {}
    }

    fn accept_local(self: &Rc<Self>, socket: Socket) {
        if self.calling.count() >= CALLERS_MAX {
            return self.world.count_refused(Refused::TooManyHandshakes);
        }
        // Each session takes two connections.
        if self.world.reactor.watched() + 2 > self.connections_max {
            return self.world.count_refused(Refused::TooManyConnections);
        }
        if !self.world.is_draining() {
            spawn(Rc::clone(self).attend_directly(socket));
        }
    }

    fn stop(&self) {
        self.stop.raise();
    }

    fn has_work(&self) -> bool {
        self.dialling.count() > 0
    }
}
