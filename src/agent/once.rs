//! The server-side proxy for one session with any JET client.
//!
//! Such a client says no hello, and one that waits for a greeting says nothing
//! at all, so nobody tells when it comes. The service is therefore connected
//! in advance, and what it says waits at the relay:
//!
//! ```text
//! accept ── dial the service ── joined ──┬── ended, served ──> done
//!   ^                                    ├── ended, nobody came ──┐
//!   │                                    └── ROUND_TIME over ─────┤
//!   └────────────────────────────────────────────────────────────┘
//! ```
//!
//! A client that comes directly is served when nobody has come by the relay: what waits
//! there is replaced first, see above, and given up. Its session then is the round.
//!
//! Services close connections on which nobody logs in, so each round has a
//! fresh one. Accepting again under the same ids replaces the former round; the
//! relay refuses that when a client has joined it, which is how one that only
//! listens is noticed.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use tracing::warn;
use uuid::Builder;

use super::direct::{Admitted, CALLERS_MAX, Caller};
use super::error::AgentError;
use super::leg::{self, LegError, WaitingLeg};
use super::proxy::Proxy;
use super::random::{random_bytes, random_number};
use super::reconnect::Backoff;
use super::relay_watch::RelayWatch;
use super::target::{HostPort, Service as Exposed};
use super::ticket::OnceTicket;
use super::way::Way;
use crate::association::key::{AssociationKey, CandidateKey, RendezvousKey};
use crate::protocol::jet::{Place, Status};
use crate::relay::{CloseReason, Side};
use crate::runtime::executor::spawn;
use crate::runtime::flag::{Either, Flag, either};
use crate::runtime::socket::Socket;
use crate::session::handshake::ReadBuffer;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;
use crate::shard::leg::Leg;
use crate::shard::tally::Tally;
use crate::shard::world::World;

/// How long a connection to the service waits for a client at most: half of
/// what sshd(8) gives one to log in.
const ROUND_TIME: Duration = Duration::from_secs(60);

/// Told the ticket once somebody may use it.
pub type Announce = Box<dyn FnOnce(OnceTicket) + Send>;

/// The proxy; it has one shard.
pub(super) struct OnceService {
    world: Rc<World<u32, Infallible>>,
    exposed: Exposed,
    relay: RelayWatch,
    announce: RefCell<Option<Announce>>,
    /// Where clients that come directly reach it.
    direct: Option<HostPort>,
    read_buffer: ReadBuffer,
    /// Clients that came directly and are not served yet.
    calling: Tally,
    /// Raised when the one of them that has the session is being served, or has gone.
    taken: RefCell<Option<Rc<Flag>>>,
    /// The one session is over.
    served: Flag,
    /// Where it waits, once the relay lets it.
    key: Cell<Option<RendezvousKey>>,
    round: RefCell<Option<Rc<Round>>>,
    stop: Flag,
    leaving: Tally,
    failure: RefCell<Option<AgentError>>,
}

/// One connection to the service, joined with one leg at the relay.
#[derive(Debug)]
struct Round {
    number: u32,
    route: Route,
    ended: Cell<Option<Outcome>>,
    over: Flag,
}

/// How a round's client comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// By the relay, if anybody comes.
    Relay,
    /// It came directly.
    Direct,
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    NobodyCame,
}

impl Outcome {
    /// From why the pair of relay (left) and service (right) ended, and the
    /// bytes that each of them sent.
    fn of(reason: CloseReason, [from_relay, from_service]: [u64; 2]) -> Self {
        // Without a client, what the service says and its end of stream only
        // reach the relay, which resets the leg when it gives it up.
        let only_listened = reason == CloseReason::Finished(Side::Right) && from_service > 0;
        if from_relay > 0 || only_listened {
            Self::Served
        } else {
            Self::NobodyCame
        }
    }
}

impl OnceService {
    pub(super) fn new(
        world: Rc<World<u32, Infallible>>,
        relay: Way,
        exposed: Exposed,
        direct: Option<HostPort>,
        announce: Announce,
    ) -> Rc<Self> {
        Rc::new(Self {
            world,
            exposed,
            relay: RelayWatch::new(relay),
            announce: RefCell::new(Some(announce)),
            direct,
            read_buffer: ReadBuffer::default(),
            calling: Tally::default(),
            taken: RefCell::new(None),
            served: Flag::default(),
            key: Cell::new(None),
            round: RefCell::new(None),
            stop: Flag::default(),
            leaving: Tally::default(),
            failure: RefCell::new(None),
        })
    }

    /// Starts waiting for the session.
    pub(super) fn start(self: &Rc<Self>) {
        let service = Rc::clone(self);
        spawn(async move {
            let leaving = service.leaving.clone();
            let running = either(service.served.raised(), service.run());
            match service.stop.or_raised(running).await {
                Some(Either::First(())) => service.world.drain(),
                Some(Either::Second(Err(failure))) => {
                    service.failure.replace(Some(failure));
                    service.world.drain();
                }
                Some(Either::Second(Ok(never))) => match never {},
                None => {
                    let _leaving = leaving.enter();
                    service.leave_relay().await;
                }
            }
        });
    }

    /// Why the proxy gave up, if it did.
    pub(super) fn take_failure(&self) -> Option<AgentError> {
        self.failure.take()
    }

    /// Goes from round to round; the end of one that was served is told elsewhere.
    async fn run(&self) -> Result<Infallible, AgentError> {
        let mut backoff = Backoff::default();
        loop {
            // Meanwhile nobody waits at the relay.
            let taken = self.taken.borrow().clone();
            if let Some(taken) = taken {
                taken.raised().await;
            }
            if let Some(round) = self
                .live_round()
                .filter(|round| round.route == Route::Direct)
            {
                round.over.raised().await;
            }
            match self.accept().await {
                Ok(waiting) => {
                    self.relay.handle_success();
                    self.note_key(waiting.key)?;
                    let until = self.world.reactor.now() + ROUND_TIME;
                    let until = until.min(waiting.lease.renew_at(random_number()));
                    let Some(round) = self.begin_round(waiting).await else {
                        backoff.rest(&self.world.reactor).await;
                        continue;
                    };
                    let over = round.over.raised();
                    self.world.reactor.deadline(until, over).await;
                }
                Err(LegError::Refused(status @ (Status::BAD_REQUEST | Status::NOT_FOUND)))
                    if self.key.get().is_some() =>
                {
                    match self.live_round() {
                        // A client has joined it.
                        Some(round) => round.over.raised().await,
                        // The former pair is still being taken down.
                        None if status == Status::BAD_REQUEST => {}
                        None => {
                            let relay = self.relay.way.url.clone();
                            return Err(AgentError::Forgotten { relay, status });
                        }
                    }
                }
                Err(error) => {
                    self.relay.handle_failure(error)?;
                    backoff.rest(&self.world.reactor).await;
                    continue;
                }
            }
            let round = self.round.borrow().clone();
            match round.and_then(|round| round.ended.get()) {
                Some(_) => backoff.rest(&self.world.reactor).await,
                None => backoff.handle_success(),
            }
        }
    }

    /// Waits at the relay: where we waited before, or at new ids of our own, or
    /// where a relay says that does not let acceptors choose.
    async fn accept(&self) -> Result<WaitingLeg, LegError> {
        let relay = &self.relay.way;
        if let Some(key) = self.key.get() {
            return leg::accept(&self.world, relay, Some(key)).await;
        }
        let id = || Builder::from_random_bytes(random_bytes()).into_uuid();
        let key = RendezvousKey {
            association: AssociationKey(id()),
            candidate: Some(CandidateKey(id())),
        };
        match leg::accept(&self.world, relay, Some(key)).await {
            // Packets alone can ask for a place.
            Err(LegError::Refused(Status::BAD_REQUEST | Status::NOT_FOUND))
                if !relay.url.transport.is_websocket() =>
            {
                leg::accept(&self.world, relay, None).await
            }
            result => result,
        }
    }

    /// Remembers where the relay lets us wait, and says so the first time.
    fn note_key(&self, key: RendezvousKey) -> Result<(), AgentError> {
        match self.key.replace(Some(key)) {
            Some(former) if former != key => Err(AgentError::Forgotten {
                relay: self.relay.way.url.clone(),
                status: Status::OK,
            }),
            _ => Ok(()),
        }
    }

    /// Connects the service and joins it with the relay.
    async fn begin_round(&self, waiting: WaitingLeg) -> Option<Rc<Round>> {
        let target = &self.exposed.target;
        let service = match leg::dial_target(&self.world, target).await {
            Ok(service) => service,
            Err(error) => {
                warn!(%target, %error, "cannot reach the service; trying again");
                return None;
            }
        };
        // A client may have come directly meanwhile.
        if self.is_taken() {
            return None;
        }
        let key = waiting.key;
        let leg = leg::into_leg(waiting.link, waiting.since);
        let round = self.join(Route::Relay, leg, service);
        if let Some(announce) = self.announce.take() {
            announce(OnceTicket {
                relay: self.relay.way.url.clone(),
                key,
                direct: self.direct.clone(),
            });
        }
        Some(round)
    }

    /// Joins a client, or the relay, with the service in a new round.
    fn join(&self, route: Route, left: Leg, service: WrappedStream) -> Rc<Round> {
        let last = self.round.borrow().as_ref().map_or(0, |round| round.number);
        let round = Rc::new(Round {
            number: last.wrapping_add(1),
            route,
            ended: Cell::new(None),
            over: Flag::default(),
        });
        self.round.replace(Some(Rc::clone(&round)));
        let right = leg::into_leg(service, self.world.reactor.now());
        self.world.join(left, right, round.number);
        round
    }

    /// Serves a client that came directly, unless somebody was served before it.
    async fn attend_directly(self: Rc<Self>, socket: Socket) {
        let _calling = self.calling.enter();
        let Some(caller) = Caller::receive(&self.world, &self.read_buffer, socket).await else {
            return;
        };
        let key = self.key.get();
        let is_ours = |place: Place| {
            let named = place.candidate.map(CandidateKey);
            key.is_some_and(|key| {
                key.association.0 == place.association
                    && (named.is_none() || named == key.candidate)
            })
        };
        let Some((caller, _)) = caller.wants(&self.world, is_ours).await else {
            return;
        };
        let Some(_taken) = Taken::new(&self) else {
            return caller
                .turn_away(&self.world, Refused::AlreadyConnected)
                .await;
        };
        if !self.leave_relay().await {
            return caller
                .turn_away(&self.world, Refused::AlreadyConnected)
                .await;
        }
        let target = &self.exposed.target;
        let service = match leg::dial_target(&self.world, target).await {
            Ok(service) => service,
            Err(error) => {
                warn!(%target, %error, "cannot reach the service for a direct client");
                return caller.turn_away(&self.world, Refused::NotWaiting).await;
            }
        };
        let Some(admitted) = caller.admit(&self.world) else {
            return;
        };
        let Admitted {
            stream,
            early,
            gate,
            since,
        } = admitted;
        let Ok(link) = WrappedStream::new(stream, None, early, &self.world.workshop) else {
            return;
        };
        let mut leg = leg::into_leg(link, since);
        leg.io.gate = gate;
        let former = self.live_round();
        self.join(Route::Direct, leg, service);
        // Only now, so that whoever waits for its end finds the new one.
        if let Some(former) = former {
            former.ended.set(Some(Outcome::NobodyCame));
            former.over.raise();
        }
    }

    fn live_round(&self) -> Option<Rc<Round>> {
        let round = self.round.borrow().clone();
        round.filter(|round| round.ended.get().is_none())
    }

    /// Whether a client that came directly has the session, or it is over.
    fn is_taken(&self) -> bool {
        let round = self.live_round();
        let is_direct = round.is_some_and(|round| round.route == Route::Direct);
        is_direct || self.taken.borrow().is_some() || self.served.is_raised()
    }

    /// Replaces the leg that waits by one that goes: that ends a round to which
    /// nobody came, while one with a client may finish. Returns whether nobody has one.
    async fn leave_relay(&self) -> bool {
        let (Some(key), Some(round)) = (self.key.get(), self.live_round()) else {
            return true;
        };
        match leg::accept(&self.world, &self.relay.way, Some(key)).await {
            Ok(_) => true,
            // It may say no for reasons of its own, with a client joined or without.
            Err(LegError::Refused(_)) => false,
            Err(_) => self.give_up(&round),
        }
    }

    /// Ends a round at a relay that cannot be asked, unless somebody has spoken in it.
    fn give_up(&self, round: &Round) -> bool {
        let sessions = self.world.sessions(|_| true);
        let ours = |number: &u32| *number == round.number;
        let mut spoken = sessions
            .iter()
            .filter(|(session, _)| ours(&session.context))
            .map(|(_, [from_relay, _])| *from_relay);
        if spoken.any(|bytes| bytes > 0) {
            return false;
        }
        self.world.end_sessions(CloseReason::Terminated, ours);
        true
    }
}

/// That a client that came directly has the session, until it is served or gone.
struct Taken(Rc<OnceService>);

impl Taken {
    /// `None` when another one has it.
    fn new(service: &Rc<OnceService>) -> Option<Self> {
        if service.is_taken() {
            return None;
        }
        service.taken.replace(Some(Rc::default()));
        Some(Self(Rc::clone(service)))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(taken) = self.0.taken.take() {
            taken.raise();
        }
    }
}

impl fmt::Debug for OnceService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnceService")
            .field("exposed", &self.exposed)
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}

impl Proxy for OnceService {
    type Session = u32;
    type Message = Infallible;

    fn own_world(&self) -> &Rc<World<u32, Infallible>> {
        &self.world
    }

    fn take_message(&self, message: Infallible) {
        match message {}
    }

    fn is_session(&self, _number: u32, reason: CloseReason, bytes: [u64; 2]) -> bool {
        Outcome::of(reason, bytes) == Outcome::Served
    }

    fn end_session(&self, number: u32, reason: CloseReason, bytes: [u64; 2]) {
        let outcome = Outcome::of(reason, bytes);
        if outcome == Outcome::Served {
            self.served.raise();
        }
        let round = self.live_round().filter(|round| round.number == number);
        if let Some(round) = round {
            round.ended.set(Some(outcome));
            round.over.raise();
        }
    }

    fn accept_local(self: &Rc<Self>, socket: Socket) {
        if self.calling.count() >= CALLERS_MAX {
            return self.world.count_refused(Refused::TooManyHandshakes);
        }
        let service = Rc::clone(self);
        spawn(async move {
            let attending = Rc::clone(&service).attend_directly(socket);
            service.stop.or_raised(attending).await;
        });
    }

    fn stop(&self) {
        self.stop.raise();
    }

    fn has_work(&self) -> bool {
        self.leaving.count() > 0
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn tells_a_client_from_nobody() {
        let check = |reason, bytes, expected| assert_eq!(Outcome::of(reason, bytes), expected);
        let (left, right) = (Side::Left, Side::Right);
        use CloseReason::{Failed, Finished, Reset, TimedOut};
        use Outcome::{NobodyCame, Served};
        check(Finished(left), [1, 0], Served);
        check(Finished(right), [1, 9], Served);
        check(Reset(left), [1, 9], Served);
        // A client that only listened, to the end.
        check(Finished(right), [0, 9], Served);
        // The relay gave the leg up, with and without a greeting in it.
        check(Finished(left), [0, 0], NobodyCame);
        check(Finished(left), [0, 9], NobodyCame);
        check(Reset(left), [0, 9], NobodyCame);
        check(TimedOut(left), [0, 9], NobodyCame);
        check(Failed(left, Errno::HOSTUNREACH), [0, 9], NobodyCame);
        // The service hung up at once.
        check(Finished(right), [0, 0], NobodyCame);
        check(Reset(right), [0, 9], NobodyCame);
    }
}
