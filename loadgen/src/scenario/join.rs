//! `join`: a pair comes about, carries one byte, and ends, again and again.
//!
//! ```text
//! ptth        Tunnelling ────────────────> Carrying ──> Ending ──> Parting ──> (next)
//! jet         Accepting ──> Connecting ──> Carrying ──> Ending ──> (next)
//! tls, socks                Connecting ──> Carrying ──> Ending ──> (next)
//! dialled                                  Carrying ──> Ending ──> (next)
//! ```
//!
//! The byte goes from the near leg to the far one and tells the slot that it
//! belongs to: so a backend knows its pair, and a byte on a wrong leg is an
//! error. Then the near leg ends the pair; of a tunnel, either leg ends its own way.
//!
//! Closed loop: a slot starts its next join when one ended. Open loop
//! (`--rate`): a join starts when its schedule says so and a slot is free, and
//! its latency counts from the scheduled time. What a join costs a relay depends
//! on how busy it is, since one that never sleeps never wakes either; so only
//! costs at the same rate compare like with like.

use std::mem;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use midspan::protocol::jet::Place;
use midspan::runtime::Owner;
use midspan::runtime::clock;
use midspan::runtime::reactor::{Closing, Reactor};
use midspan::runtime::readiness::Readiness;
use midspan::runtime::socket::Socket;
use midspan::time::Timestamp;
use rustix::io::Errno;

use super::{Errors, Outcome, Stage};
use crate::args::JoinArgs;
use crate::event_loop::{Ended, Load, ReadyQueue};
use crate::exchange::Exchange;
use crate::histogram::{self, Latency};
use crate::jet::place_of;
use crate::ptth::Tunnel;
use crate::report::{Figures, JoinFigures, Report};
use crate::route::{Leg, OPENING_TIMEOUT, Opening, Route, owners};
use crate::schedule::Schedule;

/// Joins before the measured ones, unless told otherwise.
const WARMUP_MAX: u32 = 500;

/// A run that takes longer than this ends by itself.
const RUN_MAX: Duration = Duration::from_secs(3600);

/// How often slots are looked at for joins that hang.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(args: &JoinArgs, stage: &mut Stage) -> anyhow::Result<Outcome> {
    let reactor = Rc::clone(&stage.event_loop.reactor);
    let mut load = Joins::new(reactor, stage.route.clone(), args)?;
    let warmup = args.warmup.unwrap_or((args.count / 10).min(WARMUP_MAX));
    load.run_batch(stage, warmup);
    load.latency.reset();
    let start = stage.read()?;
    let joins = load.run_batch(stage, args.count);
    let window = stage.window_since(start)?;
    let figures = JoinFigures {
        concurrency: args.concurrency,
        rate_per_s: args.rate,
        joins,
        joins_per_s: joins as f64 / window.seconds,
        relay_cpu_us_per_join: window.relay_cpu_s.map(|cpu_s| cpu_s * 1e6 / joins as f64),
        latency: Latency::of(&load.latency),
    };
    let latency = load.latency.clone();
    load.close_strays();
    let report = Report::new(&stage.route, window, load.errors, Figures::Join(figures));
    Ok(Outcome {
        report,
        latency: Some(latency),
    })
}

struct Joins {
    reactor: Rc<Reactor>,
    route: Route,
    slots: Vec<Slot>,
    ready: ReadyQueue,
    /// Backend's connections whose byte has not come; the index is the token.
    strays: Vec<Option<Leg>>,
    rate: Option<u32>,
    /// When the joins of an open loop begin.
    schedule: Option<Schedule>,
    /// Slots without a join.
    free: Vec<usize>,
    /// Joins that are still to be started.
    left: u32,
    /// Joins of this batch that were started: the next one's number.
    begun: u64,
    running: usize,
    done: u64,
    done_told: u64,
    next_check: Timestamp,
    latency: Histogram<u64>,
    errors: Errors,
}

struct Slot {
    step: Step,
    started: Timestamp,
    /// From when its latency counts: of an open loop's join the scheduled time.
    intended: Timestamp,
    near: Option<Leg>,
    far: Option<Leg>,
}

enum Step {
    Free,
    /// Its requests are on their way.
    Tunnelling {
        tunnel: Box<Tunnel>,
    },
    /// The far leg waits for its reply.
    Accepting {
        exchange: Exchange,
        chosen: Option<Place>,
    },
    /// The near leg waits for its reply.
    Connecting {
        exchange: Exchange,
    },
    /// The byte is to be sent, or on its way.
    Carrying {
        sent: bool,
    },
    /// The near leg has ended, the far leg waits for the end.
    Ending,
    /// The far leg has ended too, and a near leg that is still there waits for that.
    Parting,
}

impl Step {
    const fn name(&self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Tunnelling { .. } => "waiting for a tunnel",
            Self::Accepting { .. } => "waiting for the accept reply",
            Self::Connecting { .. } => "waiting for the connect reply",
            Self::Carrying { sent: false } => "dialling",
            Self::Carrying { sent: true } => "waiting for the byte",
            Self::Ending | Self::Parting => "waiting for the end",
        }
    }
}

/// Whether a slot can go on at once.
#[derive(PartialEq, Eq)]
enum Next {
    Again,
    Wait,
}

impl Joins {
    const TAG: u8 = 1;
    const TAG_STRAY: u8 = 2;

    fn new(reactor: Rc<Reactor>, route: Route, args: &JoinArgs) -> anyhow::Result<Self> {
        if let Route::Dial {
            opening: Opening::Http(_),
            ..
        } = route
        {
            bail!("--http is not for joins");
        }
        Ok(Self {
            reactor,
            route,
            slots: (0..args.concurrency).map(|_| Slot::free()).collect(),
            ready: ReadyQueue::default(),
            strays: Vec::new(),
            rate: args.rate,
            schedule: None,
            free: Vec::new(),
            left: 0,
            begun: 0,
            running: 0,
            done: 0,
            done_told: 0,
            next_check: Timestamp::default(),
            latency: histogram::new()?,
            errors: Errors::default(),
        })
    }

    /// Runs so many joins to their end, and returns how many succeeded.
    fn run_batch(&mut self, stage: &mut Stage, count: u32) -> u64 {
        let before = self.done;
        let now = clock::now();
        self.left = count;
        self.begun = 0;
        self.schedule = self.rate.map(|rate| Schedule::new(now, rate, 1));
        self.free = (0..self.slots.len()).rev().collect();
        debug_assert_eq!(self.running, 0, "the last batch is over");
        self.next_check = now + CHECK_INTERVAL;
        self.start_due(now);
        let ended = stage
            .event_loop
            .run_until(self, now + RUN_MAX, Self::is_over);
        if ended == Ended::TimeUp {
            self.errors.add(format_args!(
                "{} joins did not come about in time, {} of them not even begun",
                self.running + self.left as usize,
                self.left
            ));
            self.left = 0;
            for index in 0..self.slots.len() {
                if !matches!(self.slots[index].step, Step::Free) {
                    self.end(index, Closing::Reset);
                }
            }
        }
        self.done - before
    }

    fn is_over(&self) -> bool {
        self.left == 0 && self.running == 0
    }

    /// Starts joins that are due, as far as slots are free.
    fn start_due(&mut self, now: Timestamp) {
        while self.left > 0 {
            let intended = self.next_due();
            if intended.is_some_and(|due| due > now) {
                return;
            }
            let Some(index) = self.free.pop() else {
                return;
            };
            self.left -= 1;
            self.begun += 1;
            match self.start(index, intended) {
                Ok(()) => {
                    self.running += 1;
                    self.ready.push(token_of(index));
                }
                Err(error) => {
                    self.slots[index] = Slot::free();
                    self.free.push(index);
                    self.errors.add(format_args!("{error:#}"));
                }
            }
        }
    }

    /// When the next join of an open loop is to start.
    fn next_due(&self) -> Option<Timestamp> {
        let schedule = self.schedule.as_ref()?;
        Some(schedule.intended(0, self.begun))
    }

    fn start(&mut self, index: usize, intended: Option<Timestamp>) -> anyhow::Result<()> {
        let (near, far) = owners(Self::TAG, token_of(index));
        let slot = &mut self.slots[index];
        slot.started = clock::now();
        slot.intended = intended.unwrap_or(slot.started);
        match &self.route {
            Route::Dial {
                address, opening, ..
            } => {
                slot.near = Some(Leg::dial(&self.reactor, *address, near)?);
                slot.step = match opening.begin()? {
                    None => Step::Carrying { sent: false },
                    Some(exchange) => Step::Connecting { exchange },
                };
            }
            Route::Ptth(client) => {
                let tunnel = Box::new(client.begin(&self.reactor, (near, far))?);
                slot.step = Step::Tunnelling { tunnel };
            }
            Route::Jet(client) => {
                let (exchange, chosen) = client.accept()?;
                slot.far = Some(Leg::dial(&self.reactor, client.relay, far)?);
                slot.step = Step::Accepting { exchange, chosen };
            }
        }
        Ok(())
    }

    fn run_slot(&mut self, index: usize) {
        loop {
            match self.advance(index) {
                Ok(Next::Again) => {}
                Ok(Next::Wait) => return,
                Err(error) => {
                    self.errors.add(format_args!("{error:#}"));
                    self.end(index, Closing::Reset);
                    return;
                }
            }
            if matches!(self.slots[index].step, Step::Free) {
                self.done += 1;
                self.end(index, Closing::Clean);
                return;
            }
        }
    }

    /// Takes a slot one step further.
    fn advance(&mut self, index: usize) -> anyhow::Result<Next> {
        let (near_owner, _) = owners(Self::TAG, token_of(index));
        let slot = &mut self.slots[index];
        match (&mut slot.step, &self.route) {
            (Step::Tunnelling { tunnel }, Route::Ptth(client)) => {
                let Some(pair) = client.advance(&self.reactor, tunnel)? else {
                    return Ok(Next::Wait);
                };
                (slot.near, slot.far) = (Some(pair.near), Some(pair.far));
                slot.step = Step::Carrying { sent: false };
            }
            (Step::Accepting { exchange, chosen }, Route::Jet(client)) => {
                let far = slot.far.as_mut().context("an acceptor without a leg")?;
                let Some(granted) = exchange.advance(&far.socket)? else {
                    return Ok(Next::Wait);
                };
                far.wrapped = granted.wrapped;
                let exchange = client.connect(place_of(*chosen, granted.reply.as_ref())?)?;
                slot.near = Some(Leg::dial(&self.reactor, client.relay, near_owner)?);
                slot.step = Step::Connecting { exchange };
            }
            (Step::Connecting { exchange }, _) => {
                let near = slot.near.as_mut().context("a connector without a leg")?;
                let Some(granted) = exchange.advance(&near.socket)? else {
                    return Ok(Next::Wait);
                };
                near.wrapped = granted.wrapped;
                slot.step = Step::Carrying { sent: false };
            }
            (Step::Carrying { sent }, _) => {
                let byte = byte_of(index);
                if let (Some(near), false) = (&mut slot.near, *sent) {
                    match near.send(&[byte]) {
                        Ok(_) => *sent = true,
                        Err(Errno::AGAIN) => return Ok(Next::Wait),
                        Err(error) => return Err(error).context("cannot send"),
                    }
                }
                let Some(far) = &mut slot.far else {
                    return Ok(Next::Wait);
                };
                match recv_byte(far)? {
                    None => return Ok(Next::Wait),
                    Some(came) if came != byte => bail!("a byte came on the wrong leg"),
                    Some(_) => self.carried(index),
                }
            }
            (Step::Ending, _) => {
                let far = slot.far.as_mut().context("an acceptor without a leg")?;
                if !has_ended(far)? {
                    return Ok(Next::Wait);
                }
                if slot.near.is_some() {
                    // Its words are few, and the socket is empty.
                    far.end().context("cannot end a stream")?;
                }
                slot.step = Step::Parting;
            }
            (Step::Parting, _) => {
                if let Some(near) = &mut slot.near
                    && !has_ended(near)?
                {
                    return Ok(Next::Wait);
                }
                slot.step = Step::Free;
            }
            (Step::Free | Step::Accepting { .. } | Step::Tunnelling { .. }, _) => {
                return Ok(Next::Wait);
            }
        }
        Ok(Next::Again)
    }

    /// The byte is there: the near leg has done its work.
    fn carried(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        histogram::record(&mut self.latency, clock::now().since(slot.intended));
        if let Some(mut near) = slot.near.take() {
            if near.wrapped.is_some() {
                // Its words are few, and the socket is empty.
                let _ = near.end();
            }
            match self.route {
                // Whoever goes while it may still be answered cuts the tunnel off.
                Route::Ptth(_) => slot.near = Some(near),
                _ => near.close(&self.reactor, Closing::Clean),
            }
        }
        slot.step = Step::Ending;
    }

    fn end(&mut self, index: usize, closing: Closing) {
        let slot = mem::replace(&mut self.slots[index], Slot::free());
        if let Step::Tunnelling { tunnel } = slot.step {
            tunnel.close(&self.reactor);
        }
        for leg in [slot.near, slot.far].into_iter().flatten() {
            leg.close(&self.reactor, closing);
        }
        self.running -= 1;
        self.free.push(index);
        self.start_due(clock::now());
    }

    /// Reads the byte that tells whose a backend's connection is.
    fn run_stray(&mut self, token: u32) {
        let place = usize::try_from(token).unwrap_or(usize::MAX);
        let Some(mut leg) = self.strays.get_mut(place).and_then(Option::take) else {
            return;
        };
        let index = match recv_byte(&mut leg) {
            Ok(Some(byte)) => usize::from(byte),
            Ok(None) => {
                self.strays[place] = Some(leg);
                return;
            }
            Err(error) => {
                self.errors.add(format_args!("backend: {error:#}"));
                leg.close(&self.reactor, Closing::Reset);
                return;
            }
        };
        match self.slots.get_mut(index) {
            Some(slot)
                if slot.far.is_none() && matches!(slot.step, Step::Carrying { sent: true }) =>
            {
                let (_, far) = owners(Self::TAG, token_of(index));
                self.reactor.set_owner(leg.poll, far);
                slot.far = Some(leg);
                self.carried(index);
                self.run_slot(index);
            }
            _ => {
                self.errors.add("a byte came that nobody waits for");
                leg.close(&self.reactor, Closing::Reset);
            }
        }
    }

    /// Ends joins that hang.
    fn check_slots(&mut self, now: Timestamp) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let busy = !matches!(slot.step, Step::Free);
            if busy && now.since(slot.started) > OPENING_TIMEOUT {
                self.errors
                    .add(format_args!("no progress while {}", slot.step.name()));
                self.end(index, Closing::Reset);
            }
        }
    }

    fn close_strays(&mut self) {
        for leg in self.strays.drain(..).flatten() {
            leg.close(&self.reactor, Closing::Reset);
        }
    }
}

impl Load for Joins {
    fn handle_ready(&mut self, owner: Owner, _: Readiness) {
        match owner.tag {
            Self::TAG => self.ready.push(owner.token / 2),
            _ => self.run_stray(owner.token),
        }
    }

    fn handle_accepted(&mut self, socket: Socket) {
        let place = self.strays.iter().position(Option::is_none);
        let place = place.unwrap_or_else(|| {
            self.strays.push(None);
            self.strays.len() - 1
        });
        let token = u32::try_from(place).unwrap_or(u32::MAX);
        let owner = Owner {
            tag: Self::TAG_STRAY,
            token,
        };
        self.strays[place] = Some(Leg::watch(&self.reactor, socket, owner));
        self.run_stray(token);
    }

    fn run(&mut self, now: Timestamp) -> bool {
        if now >= self.next_check {
            self.next_check = now + CHECK_INTERVAL;
            self.check_slots(now);
        }
        self.start_due(now);
        while let Some(index) = self.ready.pop() {
            self.run_slot(usize::try_from(index).unwrap_or(usize::MAX));
            if self.reactor.has_completions() {
                break;
            }
        }
        !self.ready.is_empty()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        // Without a free slot the end of a join comes first.
        let may_start = self.left > 0 && !self.free.is_empty();
        let due = self.next_due().filter(|_| may_start);
        Some(due.map_or(self.next_check, |due| due.min(self.next_check)))
    }

    fn progress(&mut self, interval: Duration) -> String {
        let count = self.done - self.done_told;
        self.done_told = self.done;
        let rate = count as f64 / interval.as_secs_f64();
        format!("{rate:.0} joins/s, {} left", self.left)
    }
}

impl Slot {
    const fn free() -> Self {
        Self {
            step: Step::Free,
            started: Timestamp::from_nanos(0),
            intended: Timestamp::from_nanos(0),
            near: None,
            far: None,
        }
    }
}

/// There are at most 256 slots.
fn token_of(index: usize) -> u32 {
    u32::from(byte_of(index))
}

fn byte_of(index: usize) -> u8 {
    debug_assert!(index < 256, "a byte tells the slot");
    u8::try_from(index).unwrap_or(u8::MAX)
}

/// Whether a leg's stream has ended, on which nothing more may come.
fn has_ended(leg: &mut Leg) -> anyhow::Result<bool> {
    match leg.recv(&mut [0; 16]) {
        Ok(0) => Ok(true),
        Ok(_) => bail!("more came than was sent"),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error).context("the end did not come clean"),
    }
}

/// The byte that came, or `None` if it is not there yet.
fn recv_byte(leg: &mut Leg) -> anyhow::Result<Option<u8>> {
    // Room for what may be around it.
    let mut bytes = [0; 16];
    match leg.recv(&mut bytes) {
        Ok(0) => bail!("a pair ended before its byte"),
        Ok(1) => Ok(Some(bytes[0])),
        Ok(_) => bail!("more came than was sent"),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error).context("cannot receive"),
    }
}
