//! Ways into one relay that are kept ready, and whether it can be had at all.
//!
//! ```text
//! keeper: lost ones go ── PONG where 15 s are over ── enter while there are too few ── wait
//!
//!           let in                      a failure
//! New ─────────────────► Up ──────────────────────────► Down ◄─┐ a failure
//!                        ▲ ▲   let in, by the keeper      │ │   │
//!                        │ └──────────────────────────────┘ │   │
//!                        └────────────── Trial ◄────────────┘───┘
//!                            a reply       a client, where it did not reply
//! ```
//!
//! Of a relay that is down nobody asks for a fresh way until its pause is over, and then it is
//! tried once, by the keeper: what is ready still serves. Where it had let us in and not
//! replied it is asked nothing, and then tried by a client, since only somebody who asks can
//! see whether it does again. It may be that client's destination that is slow, so another may
//! try as well after as long a pause.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tracing::{info, warn};

use super::SocksWorld;
use super::entrance::{ASK_TIMEOUT, AskError, Entrance, Gateway};
use crate::access::PasswordDigest;
use crate::agent::random::random_number;
use crate::agent::reconnect::Backoff;
use crate::agent::relay_trouble::{Trouble, Troubles};
use crate::protocol::websocks::SubProtocol;
use crate::runtime::executor::spawn;
use crate::runtime::flag::Flag;
use crate::shard::errand::one_word;
use crate::shard::status::{Entrances, RelayStatus};
use crate::shard::tally::Tally;
use crate::time::Timestamp;

/// How long a way that is ready may be silent: as known agents have it, and well within a
/// minute, after which gateways cut what is silent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often those that are ready are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// One shard's ways into one relay.
#[derive(Debug)]
pub(super) struct Pool {
    world: Rc<SocksWorld>,
    gateway: Gateway,
    /// The relay, as a session's way.
    way: Rc<str>,
    password: RefCell<PasswordDigest>,
    protocol: SubProtocol,
    size: usize,
    ready: RefCell<VecDeque<Ready>>,
    /// Those that are on their way.
    opening: Tally,
    /// Raised when one was taken; a fresh one for each round.
    taken: RefCell<Rc<Flag>>,
    health: RefCell<Health>,
    counted: PoolCounts,
    stop: Rc<Flag>,
}

/// What operators are told of a pool.
#[derive(Debug)]
struct PoolCounts {
    opened: Cell<u64>,
    /// Those that were ready, and fresh ones.
    used: [Cell<u64>; 2],
    troubles: Troubles,
}

#[derive(Debug)]
struct Ready {
    entrance: Entrance,
    /// When it last showed that it is alive.
    shown_at: Timestamp,
}

/// Whether the relay can be had.
#[derive(Debug, Default)]
struct Health {
    backoff: Backoff,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It was not tried.
    #[default]
    New,
    Up,
    /// It is to be tried again then.
    Down {
        until: Timestamp,
        trouble: Trouble,
    },
    /// A client sees whether it replies again; another may as well then.
    Trial {
        until: Timestamp,
    },
}

/// A way by which a client was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Used {
    Ready,
    Fresh,
}

/// By what a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// A way that is ready, or a fresh one.
    Any,
    /// A way that is ready: there is no fresh one for now.
    ReadyOnly(Trouble),
}

impl Pool {
    pub(super) fn new(
        world: Rc<SocksWorld>,
        (gateway, password): (Gateway, PasswordDigest),
        protocol: SubProtocol,
        size: usize,
        stop: Rc<Flag>,
    ) -> Rc<Self> {
        Rc::new(Self {
            world,
            way: one_word(&gateway.url().to_string()).into(),
            gateway,
            password: RefCell::new(password),
            protocol,
            size,
            ready: RefCell::default(),
            opening: Tally::default(),
            taken: RefCell::default(),
            health: RefCell::default(),
            counted: PoolCounts {
                opened: Cell::default(),
                used: Default::default(),
                troubles: Troubles::default(),
            },
            stop,
        })
    }

    pub(super) fn world(&self) -> &SocksWorld {
        &self.world
    }

    pub(super) const fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The relay, as a session's way.
    pub(super) const fn way(&self) -> &Rc<str> {
        &self.way
    }

    /// How it is, for operators.
    pub(super) fn status(&self) -> RelayStatus {
        let counted = &self.counted;
        RelayStatus {
            url: (*self.way).into(),
            is_down: matches!(
                self.health.borrow().state,
                State::Down { .. } | State::Trial { .. }
            ),
            entrances: Some(Entrances {
                ready: self.ready.borrow().len() as u64,
                opened: counted.opened.get(),
                used: counted.used.each_ref().map(Cell::get),
            }),
            failures: counted.troubles.counts(),
            last_failure: counted.troubles.last(),
        }
    }

    /// Begins to ask there for a client, who has to tell what comes of it; or why not to ask.
    pub(super) fn begin_ask(&self) -> Result<Leave, Trouble> {
        let now = self.world.reactor.now();
        self.health.borrow_mut().begin_ask(now, random_number())
    }

    /// A way that is ready.
    pub(super) fn take(&self) -> Option<Entrance> {
        let mut ready = self.ready.borrow_mut();
        let live = loop {
            let mut first = ready.pop_front()?;
            if !first.entrance.is_lost() {
                break first.entrance;
            }
        };
        self.taken.borrow().raise();
        Some(live)
    }

    /// A fresh way, which has to be there `until` then.
    pub(super) async fn open(&self, until: Timestamp) -> Result<Entrance, AskError> {
        let password = self.password.borrow().clone();
        let entering = self.gateway.enter(&self.world, self.protocol, &password);
        let entered = self.world.reactor.deadline(until, entering).await;
        let error = match entered {
            Some(Ok(entrance)) => {
                self.handle_entered();
                return Ok(entrance);
            }
            Some(Err(error)) => AskError::from(error),
            None => AskError::OutOfTime,
        };
        // What a password comes to that was renewed meanwhile says nothing any more.
        if *self.password.borrow() == password {
            self.handle_failure(&error);
        }
        Err(error)
    }

    /// Goes in by another password from now on. Who is in stays, and a relay that refused the
    /// one before is tried at once.
    pub(super) fn renew_password(&self, password: &PasswordDigest) {
        if *self.password.borrow() == *password {
            return;
        }
        self.password.replace(password.clone());
        let mut health = self.health.borrow_mut();
        if let State::Down {
            trouble: Trouble::Refuses,
            ..
        } = health.state
        {
            *health = Health::default();
            self.taken.borrow().raise();
        }
    }

    /// Closes those that are ready.
    pub(super) fn empty(&self) {
        self.ready.take();
    }

    /// Keeps as many ready as there should be, until the agent stops. Where none should
    /// be, sees whether a relay that was away is back.
    pub(super) async fn keep(self: Rc<Self>) {
        self.stop.or_raised(self.keep_on()).await;
    }

    async fn keep_on(self: &Rc<Self>) {
        let mut next_look = self.world.reactor.now();
        loop {
            let taken = Rc::new(Flag::default());
            self.taken.replace(Rc::clone(&taken));
            // A look asks the kernel about each; too much for each one that is taken.
            if next_look <= self.world.reactor.now() {
                self.look().await;
                next_look = self.world.reactor.now() + LOOK;
            }
            self.fill();
            let until = self
                .next_try()
                .map_or(next_look, |next| next.min(next_look));
            self.world.reactor.deadline(until, taken.raised()).await;
        }
    }

    /// When the pause is over, if it is not.
    fn next_try(&self) -> Option<Timestamp> {
        match self.health.borrow().state {
            State::Down { until, .. } => Some(until).filter(|at| *at > self.world.reactor.now()),
            State::New | State::Up | State::Trial { .. } => None,
        }
    }

    /// Sees who is still there.
    async fn look(&self) {
        let now = self.world.reactor.now();
        let is_due = |ready: &mut Ready| now.since(ready.shown_at) >= KEEP_ALIVE;
        let mut due = Vec::new();
        {
            let mut ready = self.ready.borrow_mut();
            for _ in 0..ready.len() {
                let Some(mut one) = ready.pop_front() else {
                    break;
                };
                match (one.entrance.is_lost(), is_due(&mut one)) {
                    (true, _) => {}
                    (false, true) => due.push(one),
                    (false, false) => ready.push_back(one),
                }
            }
        }
        for mut one in due {
            if one.entrance.keep_alive().await.is_ok() {
                one.shown_at = now;
                self.ready.borrow_mut().push_back(one);
            }
        }
    }

    /// Has those come that are missing; one alone where it is not known whether the relay
    /// can be had.
    fn fill(self: &Rc<Self>) {
        let now = self.world.reactor.now();
        let state = self.health.borrow().state;
        let count = self.ready.borrow().len() + self.opening.count();
        let missing = match state {
            State::Up => self.size.saturating_sub(count),
            State::New => self.size.min(1).saturating_sub(self.opening.count()),
            State::Down { until, trouble } if until <= now && trouble != Trouble::Mute => {
                1_usize.saturating_sub(self.opening.count())
            }
            State::Down { .. } | State::Trial { .. } => 0,
        };
        for _ in 0..missing {
            let pool = Rc::clone(self);
            let opening = self.opening.enter();
            spawn(async move {
                pool.stop.or_raised(pool.add()).await;
                drop(opening);
                pool.taken.borrow().raise();
            });
        }
    }

    async fn add(&self) {
        // Said by whoever counts the relay's health.
        let until = self.world.reactor.now() + ASK_TIMEOUT;
        let Ok(entrance) = self.open(until).await else {
            return;
        };
        if self.ready.borrow().len() < self.size {
            let shown_at = self.world.reactor.now();
            let ready = Ready { entrance, shown_at };
            self.ready.borrow_mut().push_back(ready);
        }
    }

    /// It has let us in, from which a client that got no reply has nothing.
    fn handle_entered(&self) {
        increment(&self.counted.opened);
        let mut health = self.health.borrow_mut();
        let is_mute = match health.state {
            State::Down { trouble, .. } => trouble == Trouble::Mute,
            State::Trial { .. } => true,
            State::New | State::Up => false,
        };
        if !is_mute && health.rise() != State::Up {
            info!(relay = %self.gateway, "the relay lets us in");
        }
    }

    /// It has replied, which says nothing of whether it lets anybody else in.
    pub(super) fn handle_reply(&self, used: Used) {
        increment(&self.counted.used[used as usize]);
        let mut health = self.health.borrow_mut();
        if let State::Down { trouble, .. } = health.state
            && trouble != Trouble::Mute
        {
            return;
        }
        if health.rise() != State::Up {
            info!(relay = %self.gateway, "the relay replies");
        }
    }

    /// It could not be had, or did not reply, or nobody knows.
    pub(super) fn handle_failure(&self, error: &AskError) {
        let now = self.world.reactor.now();
        let mut health = self.health.borrow_mut();
        let was = match health.state {
            // Another that was under way as well: a failure of all is one.
            State::Down { until, .. } if until > now => return,
            State::Down { trouble, .. } => Some(trouble),
            State::Trial { .. } => Some(Trouble::Mute),
            State::New | State::Up => None,
        };
        let Some(trouble) = error.trouble() else {
            return health.end_trial(now);
        };
        let until = now + health.backoff.handle_failure(random_number());
        health.state = State::Down { until, trouble };
        self.counted.troubles.add(now, trouble, error);
        if was != Some(trouble) {
            let next = error.next_step().unwrap_or_default();
            let relay = &self.gateway;
            match trouble {
                Trouble::Unreachable => warn!(%relay, %error, next, "the relay is not reached"),
                Trouble::Mute => warn!(%relay, %error, next, "the relay does not reply"),
                Trouble::Refuses => warn!(%relay, %error, next, "the relay lets nobody in"),
            }
        }
    }
}

fn increment(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

impl Health {
    fn begin_ask(&mut self, now: Timestamp, random: u64) -> Result<Leave, Trouble> {
        match self.state {
            State::New | State::Up => Ok(Leave::Any),
            State::Down {
                until,
                trouble: Trouble::Mute,
            }
            | State::Trial { until } => {
                if until > now {
                    return Err(Trouble::Mute);
                }
                let until = now + self.backoff.delay(random);
                self.state = State::Trial { until };
                Ok(Leave::Any)
            }
            State::Down { trouble, .. } => Ok(Leave::ReadyOnly(trouble)),
        }
    }

    /// A client has not seen whether it replies: the next one may.
    fn end_trial(&mut self, now: Timestamp) {
        if let State::Trial { .. } = self.state {
            self.state = State::Down {
                until: now,
                trouble: Trouble::Mute,
            };
        }
    }

    /// It can be had; gives what was.
    fn rise(&mut self) -> State {
        self.backoff.handle_success();
        std::mem::replace(&mut self.state, State::Up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at_ms(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    fn mute(until: Timestamp) -> Health {
        let mut backoff = Backoff::default();
        backoff.handle_failure(0);
        let trouble = Trouble::Mute;
        let state = State::Down { until, trouble };
        Health { backoff, state }
    }

    #[test]
    fn one_client_tries_what_was_mute_and_after_a_pause_another() {
        let mut health = mute(at_ms(1000));
        for (ms, expected) in [
            (999, Err(Trouble::Mute)),
            (1000, Ok(Leave::Any)),
            (1000, Err(Trouble::Mute)),
            (1099, Err(Trouble::Mute)),
            (1100, Ok(Leave::Any)),
            (1101, Err(Trouble::Mute)),
        ] {
            assert_eq!(health.begin_ask(at_ms(ms), 0), expected, "{ms}");
        }
        health.rise();
        assert_eq!(health.begin_ask(at_ms(1101), 0), Ok(Leave::Any));
    }

    #[test]
    fn a_trial_of_which_nothing_is_known_is_the_next_clients() {
        let mut health = mute(at_ms(1000));
        assert_eq!(health.begin_ask(at_ms(1000), 0), Ok(Leave::Any));
        health.end_trial(at_ms(1001));
        assert_eq!(health.begin_ask(at_ms(1001), 0), Ok(Leave::Any));
        health.rise();
        health.end_trial(at_ms(1002));
        assert_eq!(health.state, State::Up);
    }

    #[test]
    fn only_a_fresh_way_is_withheld_where_a_relay_lets_nobody_in() {
        for trouble in [Trouble::Unreachable, Trouble::Refuses] {
            let mut health = mute(at_ms(1000));
            let until = at_ms(1000);
            health.state = State::Down { until, trouble };
            for ms in [0, 1000, 2000] {
                let leave = health.begin_ask(at_ms(ms), 0);
                assert_eq!(leave, Ok(Leave::ReadyOnly(trouble)));
            }
        }
    }
}
