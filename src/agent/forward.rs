//! The client-side proxy: each local connection becomes one session.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use tracing::warn;

use super::leg::{self, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, LegError};
use super::link::Link;
use super::meeting::{Answer, DOORS, NUMBER_BYTES, door_id, encode_hello, session_id};
use super::proxy::Proxy;
use super::random::random_number;
use super::reconnect::Backoff;
use super::ticket::{OnceTicket, ReusableTicket, Ticket};
use super::way::Way;
use crate::protocol::jet::{Status, Version};
use crate::runtime::executor::spawn;
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::refused::Refused;
use crate::shard::tally::Tally;
use crate::shard::world::World;

/// How long to look for a door that somebody keeps.
pub const MEETING_TIMEOUT: Duration = Duration::from_secs(10);

/// Until the other proxy must have answered a hello: it dials the service
/// meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

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
    /// The other proxy or its relay went away on the way.
    #[error("the session broke before it began: {0}")]
    Broken(std::io::Error),
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
            "the ticket's port is not exposed, or it names none and several are"
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
    connections_max: usize,
    meeting: Tally,
}

impl ForwardService {
    pub(super) fn new(
        world: Rc<World<(), Infallible>>,
        ticket: Ticket,
        relay: Way,
        connections_max: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            world,
            ticket,
            relay,
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
                let (left, right) = (Link::plain(local).into_leg(since), remote.into_leg(since));
                self.world.join(left, right, ());
            }
            Err(error) => {
                warn!(relay = %self.relay, %error, "no session: connection reset");
                local.reset();
            }
        }
    }

    /// Joins the one session of a plain ticket, as any JET client would.
    async fn connect_once(&self, ticket: &OnceTicket) -> Result<Link, MeetError> {
        let version = match ticket.key.candidate {
            Some(_) => Version::V2,
            None => Version::V1,
        };
        Ok(leg::connect(&self.world, &self.relay, ticket.key, version).await?)
    }

    /// Goes from door to door until somebody answers.
    async fn meet(&self, ticket: &ReusableTicket) -> Result<Link, MeetError> {
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
        match reactor.deadline(until, trying).await {
            Some((number, stream)) => self.greet(ticket, number, stream).await,
            None => Err(failure),
        }
    }

    /// Takes a session's number at a door and goes there.
    async fn try_door(
        &self,
        ticket: &ReusableTicket,
        index: u64,
    ) -> Result<(u64, Link), MeetError> {
        let number = self.take_number(ticket, index).await?;
        let session = session_id(&ticket.secret, number);
        Ok((number, self.connect(session).await?))
    }

    async fn take_number(&self, ticket: &ReusableTicket, index: u64) -> Result<u64, MeetError> {
        let door = door_id(&ticket.secret, index);
        let mut stream = self.connect(door).await?;
        let mut number = [0; NUMBER_BYTES];
        let until = self.world.reactor.now() + HANDSHAKE_TIMEOUT;
        let reading = stream.recv_exact(&mut number);
        match self.world.reactor.deadline(until, reading).await {
            Some(Ok(())) => Ok(u64::from_be_bytes(number)),
            // Its keeper went away without the relay's knowing.
            Some(Err(_)) | None => Err(MeetError::NobodyWaits),
        }
    }

    async fn connect(&self, association: uuid::Uuid) -> Result<Link, MeetError> {
        let key = leg::implicit(association);
        Ok(leg::connect(&self.world, &self.relay, key, Version::V2).await?)
    }

    /// Says hello in a session and waits for the answer.
    async fn greet(
        &self,
        ticket: &ReusableTicket,
        number: u64,
        mut stream: Link,
    ) -> Result<Link, MeetError> {
        let hello = encode_hello(&ticket.secret, number, ticket.port);
        let mut code = [0];
        let exchange = async {
            stream.send_all(&hello).await?;
            stream.recv_exact(&mut code).await
        };
        let until = self.world.reactor.now() + ANSWER_TIMEOUT;
        match self.world.reactor.deadline(until, exchange).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(MeetError::Broken(error)),
            None => return Err(MeetError::Silent),
        }
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

    fn own_world(&self) -> &Rc<World<(), Infallible>> {
        &self.world
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
