//! Ways into one relay that are kept ready, and whether it can be had at all.
//!
//! ```text
//! keeper: lost ones go ── PONG where 15 s are over ── enter while there are too few ── wait
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use tracing::{info, warn};

use super::entrance::{AskError, EnterError, Entrance, Gateway};
use crate::agent::random::random_number;
use crate::agent::reconnect::Backoff;
use crate::protocol::websocks::SubProtocol;
use crate::runtime::executor::spawn;
use crate::runtime::flag::Flag;
use crate::shard::tally::Tally;
use crate::shard::world::World;
use crate::time::Timestamp;

/// How long a way that is ready may be silent: as known agents have it, and well within a
/// minute, after which gateways cut what is silent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often those that are ready are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// One shard's ways into one relay.
#[derive(Debug)]
pub(super) struct Pool {
    world: Rc<World<(), Infallible>>,
    gateway: Gateway,
    protocol: SubProtocol,
    size: usize,
    ready: RefCell<VecDeque<Ready>>,
    /// Those that are on their way.
    opening: Tally,
    /// Raised when one was taken; a fresh one for each round.
    taken: RefCell<Rc<Flag>>,
    health: RefCell<Health>,
    stop: Rc<Flag>,
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
    Down(Timestamp),
}

impl Pool {
    pub(super) fn new(
        world: Rc<World<(), Infallible>>,
        gateway: Gateway,
        protocol: SubProtocol,
        size: usize,
        stop: Rc<Flag>,
    ) -> Rc<Self> {
        Rc::new(Self {
            world,
            gateway,
            protocol,
            size,
            ready: RefCell::default(),
            opening: Tally::default(),
            taken: RefCell::default(),
            health: RefCell::default(),
            stop,
        })
    }

    pub(super) fn world(&self) -> &World<(), Infallible> {
        &self.world
    }

    pub(super) const fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Whether it makes sense to try the relay now.
    pub(super) fn is_up(&self, now: Timestamp) -> bool {
        match self.health.borrow().state {
            State::New | State::Up => true,
            State::Down(until) => until <= now,
        }
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

    /// A fresh way.
    pub(super) async fn open(&self) -> Result<Entrance, AskError> {
        let entered = self.gateway.enter(&self.world, self.protocol).await;
        match &entered {
            Ok(_) => self.handle_success(),
            Err(error) => self.handle_failure(error),
        }
        Ok(entered?)
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
            self.world.reactor.deadline(next_look, taken.raised()).await;
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
            State::Down(until) if until <= now => 1_usize.saturating_sub(self.opening.count()),
            State::Down(_) => 0,
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
        let Ok(entrance) = self.open().await else {
            return;
        };
        if self.ready.borrow().len() < self.size {
            let shown_at = self.world.reactor.now();
            let ready = Ready { entrance, shown_at };
            self.ready.borrow_mut().push_back(ready);
        }
    }

    fn handle_success(&self) {
        let mut health = self.health.borrow_mut();
        health.backoff.handle_success();
        if std::mem::replace(&mut health.state, State::Up) != State::Up {
            info!(relay = %self.gateway, "the relay lets us in");
        }
    }

    fn handle_failure(&self, error: &EnterError) {
        let mut health = self.health.borrow_mut();
        let pause = health.backoff.handle_failure(random_number());
        let was = health.state;
        health.state = State::Down(self.world.reactor.now() + pause);
        if !matches!(was, State::Down(_)) {
            let next = error.next_step().unwrap_or_default();
            warn!(relay = %self.gateway, %error, next, "the relay lets nobody in");
        }
    }
}
