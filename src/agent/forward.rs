//! The client-side proxy: each local connection becomes one session.
//!
//! Where the ticket says how whoever exposes can be asked without the relay, both
//! routes are tried at once and the first that answers is taken. A number taken at a door
//! and not used there costs the other side a door, though; so where the direct route
//! answered last, it has a head start.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tracing::{debug, warn};
use uuid::Builder;

use super::leg::{self, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, LegError};
use super::meeting::{
    Answer, DOORS, NUMBER_BYTES, WELCOME_BYTES, decode_welcome, direct_id, door_id, encode_hello,
    session_id,
};
use super::proxy::Proxy;
use super::random::{random_bytes, random_number};
use super::reconnect::Backoff;
use super::ticket::{OnceTicket, ReusableTicket, Ticket};
use super::way::Way;
use crate::association::key::{AssociationKey, CandidateKey, RendezvousKey};
use crate::protocol::jet::{Status, Version};
use crate::runtime::executor::spawn;
use crate::runtime::flag::{Either, either};
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;
use crate::shard::tally::Tally;
use crate::shard::world::World;

/// How long to look for a door that somebody keeps.
pub const MEETING_TIMEOUT: Duration = Duration::from_secs(10);

/// Until the other proxy must have answered a hello: it dials the service
/// meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the direct route has for itself where it answered last: several times a
/// connection's first two round trips within a country.
const HEAD_START: Duration = Duration::from_millis(100);

/// How long the direct route has for a ticket that serves once: which of two ways it
/// came could not be told, so they are tried one after the other.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(ANSWER_TIMEOUT.as_secs() > CONNECT_TIMEOUT.as_secs());

/// Why a local connection leads nowhere.
#[derive(Debug, thiserror::Error)]
enum MeetError {
    /// No other proxy is there, or none that has time.
    #[error(
        "nobody waits under this ticket; is `midspan expose` running, or is the ticket an old one?"
    )]
    NobodyWaits,
    /// The relay cannot be had.
    #[error(transparent)]
    Relay(LegError),
    /// Somebody without the ticket has the address of the direct route.
    #[error("whoever answers there does not have the ticket")]
    Impostor,
    /// The other proxy or its relay went away on the way.
    #[error("the session broke before it began: {0}")]
    Broken(io::Error),
    /// The session's answer does not come.
    #[error("the exposing proxy does not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
    /// The other proxy says no.
    #[error("{}", refusal(*.0))]
    Refused(Answer),
    /// The other proxy says something else.
    #[error("the exposing proxy gives an unknown answer: {code}; is it newer than this one?")]
    UnknownAnswer { code: u8 },
}

impl From<LegError> for MeetError {
    /// From joining whoever waits at the relay.
    fn from(error: LegError) -> Self {
        match error {
            LegError::Refused(Status::NOT_FOUND | Status::BAD_REQUEST) => Self::NobodyWaits,
            error => Self::Relay(error),
        }
    }
}

fn refusal(answer: Answer) -> &'static str {
    match answer {
        Answer::Ready => "the service is connected",
        Answer::NoSuchService => {
            "the ticket's port is not exposed, or it names none and several are: add /PORT to it, as \
             `midspan expose` printed"
        }
        Answer::Unreachable => "the exposed service does not answer",
        Answer::Busy => "the exposing proxy has too many connections",
    }
}

/// One shard's part of the proxy.
#[derive(Debug)]
pub(super) struct ForwardService {
    world: Rc<World<(), Infallible>>,
    ticket: Ticket,
    relay: Way,
    /// To whoever exposes.
    direct: Option<Way>,
    /// Whether that answered when it was tried last.
    direct_answers: Cell<bool>,
    connections_max: usize,
    meeting: Tally,
}

impl ForwardService {
    pub(super) fn new(
        world: Rc<World<(), Infallible>>,
        ticket: Ticket,
        relay: Way,
        direct: Option<Way>,
        connections_max: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            world,
            ticket,
            relay,
            direct,
            direct_answers: Cell::new(true),
            connections_max,
            meeting: Tally::default(),
        })
    }

    async fn forward(self: Rc<Self>, local: Stream) {
        let _meeting = self.meeting.enter();
        let since = self.world.reactor.now();
        let met = match &self.ticket {
            Ticket::Reusable(ticket) => self.meet(ticket).await,
            Ticket::Once(ticket) => self.connect_once(ticket).await,
        };
        match met {
            Ok(remote) => {
                let local = WrappedStream::plain(local);
                let (left, right) = (leg::into_leg(local, since), leg::into_leg(remote, since));
                self.world.join(left, right, ());
            }
            Err(error) => {
                warn!(relay = %self.relay, %error, "no session: connection reset");
                local.reset();
            }
        }
    }

    /// Joins the one session of a plain ticket, as any JET client would.
    async fn connect_once(&self, ticket: &OnceTicket) -> Result<WrappedStream, MeetError> {
        let version = match ticket.key.candidate {
            Some(_) => Version::V2,
            None => Version::V1,
        };
        // The ids are the credential, which TLS is to keep from whoever has the direct
        // address by now.
        let is_kept = self.relay.url.transport.is_tls();
        if let Some(direct) = self.direct.as_ref().filter(|_| !is_kept) {
            let until = self.world.reactor.now() + DIRECT_TIMEOUT;
            let connecting = leg::connect(&self.world, direct, ticket.key, version);
            match self.world.reactor.deadline(until, connecting).await {
                Some(Ok(link)) => return Ok(link),
                Some(Err(error)) => debug!(%direct, %error, "no direct route"),
                None => debug!(%direct, "no direct route in time"),
            }
        }
        Ok(leg::connect(&self.world, &self.relay, ticket.key, version).await?)
    }

    /// Meets whoever exposes, by the route that answers first.
    async fn meet(&self, ticket: &ReusableTicket) -> Result<WrappedStream, MeetError> {
        let relayed = self.meet_at_relay(ticket);
        let (number, link) = match &self.direct {
            None => relayed.await?,
            Some(direct) => {
                let direct = self.meet_directly(ticket, direct);
                self.race(direct, relayed).await?
            }
        };
        self.greet(ticket, number, link).await
    }

    async fn race<T>(
        &self,
        direct: impl Future<Output = Result<T, MeetError>>,
        relayed: impl Future<Output = Result<T, MeetError>>,
    ) -> Result<T, MeetError> {
        let (mut direct, mut relayed) = (pin!(direct), pin!(relayed));
        let first = match self.direct_answers.get() {
            true => {
                let until = self.world.reactor.now() + HEAD_START;
                self.world.reactor.deadline(until, direct.as_mut()).await
            }
            false => None,
        };
        let first = match first {
            Some(first) => Either::First(first),
            None => either(direct.as_mut(), relayed.as_mut()).await,
        };
        let answers = matches!(first, Either::First(Ok(_)));
        let had_answered = self.direct_answers.replace(answers);
        match first {
            Either::First(Ok(met)) | Either::Second(Ok(met)) => Ok(met),
            Either::First(Err(error)) => {
                match error {
                    // Once, until it answers again.
                    MeetError::Impostor if had_answered => warn!(%error, "no direct route"),
                    _ => debug!(%error, "no direct route"),
                }
                relayed.await
            }
            Either::Second(Err(error)) => {
                let met = direct.await.map_err(|_| error);
                self.direct_answers.set(met.is_ok());
                met
            }
        }
    }

    /// Asks whoever exposes, and makes sure that it is they who answer.
    async fn meet_directly(
        &self,
        ticket: &ReusableTicket,
        direct: &Way,
    ) -> Result<(u64, WrappedStream), MeetError> {
        let nonce = Builder::from_random_bytes(random_bytes()).into_uuid();
        let key = RendezvousKey {
            association: AssociationKey(direct_id(&ticket.secret)),
            candidate: Some(CandidateKey(nonce)),
        };
        let mut link = leg::connect(&self.world, direct, key, Version::V2).await?;
        let mut welcome = [0; WELCOME_BYTES];
        let reading = link.recv_exact(&mut welcome);
        self.within(HANDSHAKE_TIMEOUT, reading).await?;
        let number = decode_welcome(&ticket.secret, nonce, &welcome).ok_or(MeetError::Impostor)?;
        Ok((number, link))
    }

    /// Goes from door to door until somebody answers.
    async fn meet_at_relay(
        &self,
        ticket: &ReusableTicket,
    ) -> Result<(u64, WrappedStream), MeetError> {
        let reactor = &self.world.reactor;
        let until = reactor.now() + MEETING_TIMEOUT;
        let mut backoff = Backoff::default();
        let mut failure = MeetError::NobodyWaits;
        let trying = async {
            loop {
                let first = random_number();
                for step in 0..DOORS {
                    let index = first.wrapping_add(step) % DOORS;
                    match self.try_door(ticket, index).await {
                        Ok(met) => return met,
                        Err(MeetError::NobodyWaits) => failure = MeetError::NobodyWaits,
                        Err(error) => {
                            failure = error;
                            // The relay is away: the next door is no better.
                            break;
                        }
                    }
                }
                backoff.rest(reactor).await;
            }
        };
        let met = reactor.deadline(until, trying).await;
        met.ok_or(failure)
    }

    /// Takes a session's number at a door and goes there.
    async fn try_door(
        &self,
        ticket: &ReusableTicket,
        index: u64,
    ) -> Result<(u64, WrappedStream), MeetError> {
        let number = self.take_number(ticket, index).await?;
        let session = session_id(&ticket.secret, number);
        Ok((number, self.connect(session).await?))
    }

    async fn take_number(&self, ticket: &ReusableTicket, index: u64) -> Result<u64, MeetError> {
        let door = door_id(&ticket.secret, index);
        let mut stream = self.connect(door).await?;
        let mut number = [0; NUMBER_BYTES];
        let reading = stream.recv_exact(&mut number);
        let read = self.within(HANDSHAKE_TIMEOUT, reading).await;
        // Its keeper went away without the relay's knowing.
        read.map_err(|_| MeetError::NobodyWaits)?;
        Ok(u64::from_be_bytes(number))
    }

    /// What is said to the other proxy, or heard of it, in so long.
    async fn within(
        &self,
        timeout: Duration,
        exchange: impl Future<Output = io::Result<()>>,
    ) -> Result<(), MeetError> {
        let until = self.world.reactor.now() + timeout;
        let exchanged = self.world.reactor.deadline(until, exchange).await;
        exchanged
            .ok_or(MeetError::Silent)?
            .map_err(MeetError::Broken)
    }

    async fn connect(&self, association: uuid::Uuid) -> Result<WrappedStream, MeetError> {
        let key = leg::implicit(association);
        Ok(leg::connect(&self.world, &self.relay, key, Version::V2).await?)
    }

    /// Says hello in a session and waits for the answer.
    async fn greet(
        &self,
        ticket: &ReusableTicket,
        number: u64,
        mut stream: WrappedStream,
    ) -> Result<WrappedStream, MeetError> {
        let hello = encode_hello(&ticket.secret, number, ticket.port);
        let mut code = [0];
        let exchange = async {
            stream.send_all(&hello).await?;
            stream.recv_exact(&mut code).await
        };
        self.within(ANSWER_TIMEOUT, exchange).await?;
        let [code] = code;
        match Answer::decode(code) {
            Some(Answer::Ready) => Ok(stream),
            Some(answer) => Err(MeetError::Refused(answer)),
            None => Err(MeetError::UnknownAnswer { code }),
        }
    }
}

impl Proxy for ForwardService {
    type Session = ();
    type Message = Infallible;

    fn own_world(&self) -> &Rc<World<(), Infallible>> {
        &self.world
    }

    fn take_message(&self, message: Infallible) {
        match message {}
    }

    fn accept_local(self: &Rc<Self>, socket: Socket) {
        // Each session takes two connections, and one that meets a third.
        let open = self.world.reactor.watched() + 2 * self.meeting.count();
        if open + 2 > self.connections_max {
            return self.world.count_refused(Refused::TooManyConnections);
        }
        let local = Stream::new(Rc::clone(&self.world.reactor), socket);
        if self.world.is_draining() {
            return local.reset();
        }
        spawn(Rc::clone(self).forward(local));
    }

    fn has_work(&self) -> bool {
        self.meeting.count() > 0
    }
}
