//! `echo`: messages to and fro, one outstanding per pair, each answer checked
//! and timed.
//!
//! Closed loop: a pair sends again as soon as it has its answer. Open loop
//! (`--rate`): a pair sends when its schedule says so and its last answer is
//! there, and the latency counts from the scheduled time.

use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use midspan::runtime::reactor::{Closing, Reactor};
use midspan::runtime::readiness::Readiness;
use midspan::runtime::socket::Socket;
use midspan::runtime::{Owner, clock};
use midspan::time::Timestamp;
use rustix::io::Errno;

use super::bulk::BulkPairs;
use super::{ENDING_TIMEOUT, Errors, Outcome, Stage};
use crate::args::EchoArgs;
use crate::event_loop::{Ended, Load, ReadyQueue};
use crate::histogram::{self, Latency};
use crate::report::{EchoFigures, Figures, GIB, Report};
use crate::route::{Pair, open_pairs};
use crate::schedule::Schedule;

/// Most that one call reads or echoes.
const CALL_BYTES_MAX: usize = 64 << 10;

pub(super) fn run(args: &EchoArgs, stage: &mut Stage) -> anyhow::Result<Outcome> {
    let reactor = Rc::clone(&stage.event_loop.reactor);
    let (event_loop, route) = (&mut stage.event_loop, &stage.route);
    let bulk = open_pairs(event_loop, route, BulkPairs::TAG, args.beside_bulk)?;
    let pairs = open_pairs(event_loop, route, EchoPairs::TAG, args.pairs)?;
    let mut load = Together {
        bulk: BulkPairs::new(Rc::clone(&reactor), bulk, &args.flow, None)?,
        echo: EchoPairs::new(Rc::clone(&reactor), pairs, args)?,
    };
    let until = reactor.now() + args.window.warmup;
    event_loop.run_until(&mut load, until, |load| load.echo.is_over());

    let start = stage.read()?;
    load.echo.latency.reset();
    load.echo.answered = 0;
    let bulk_before = load.bulk.received();
    let until = start.at + args.window.seconds;
    stage
        .event_loop
        .run_until(&mut load, until, |load| load.echo.is_over());
    let window = stage.window_since(start)?;
    let (answered, bulk_bytes) = (load.echo.answered, load.bulk.received() - bulk_before);
    let latency = load.echo.latency.clone();

    load.echo.phase = Phase::Ending;
    let until = reactor.now() + ENDING_TIMEOUT;
    let ended = stage
        .event_loop
        .run_until(&mut load, until, |load| load.echo.is_over());
    let Together { mut bulk, mut echo } = load;
    if ended == Ended::TimeUp {
        echo.errors.add("answers are missing");
    }
    if answered == 0 {
        echo.errors.add("no answer came while it was measured");
    }
    echo.close_all();
    bulk.end(stage);
    let mut errors = echo.errors;
    errors.append(bulk.into_errors());

    let figures = EchoFigures {
        pairs: args.pairs,
        size_bytes: args.size,
        rate_per_s: args.rate,
        beside_bulk_pairs: args.beside_bulk,
        round_trips: answered,
        round_trips_per_s: answered as f64 / window.seconds,
        relay_cpu_us_per_round_trip: window
            .relay_cpu_s
            .map(|cpu_s| cpu_s * 1e6 / answered as f64),
        latency: Latency::of(&latency),
        bulk_gib_per_s: bulk_bytes as f64 / GIB / window.seconds,
    };
    let report = Report::new(&stage.route, window, errors, Figures::Echo(figures));
    Ok(Outcome {
        report,
        latency: Some(latency),
    })
}

/// Echo pairs, which go first, beside bulk pairs.
struct Together {
    bulk: BulkPairs,
    echo: EchoPairs,
}

impl Load for Together {
    fn handle_ready(&mut self, owner: Owner, readiness: Readiness) {
        match owner.tag {
            EchoPairs::TAG => self.echo.handle_ready(owner, readiness),
            _ => self.bulk.handle_ready(owner, readiness),
        }
    }

    fn handle_accepted(&mut self, _: Socket) {
        self.echo
            .errors
            .add("an unexpected connection to the backend");
    }

    fn run(&mut self, now: Timestamp) -> bool {
        self.echo.run(now);
        // One turn of bulk at a time: a message that came meanwhile goes first.
        self.bulk.run_one();
        self.bulk.has_work()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.echo.next_deadline()
    }

    fn progress(&mut self, interval: Duration) -> String {
        self.echo.progress(interval)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// No new messages; those on their way come home.
    Ending,
}

struct EchoPairs {
    reactor: Rc<Reactor>,
    pairs: Vec<Echo>,
    ready: ReadyQueue,
    scratch: Vec<u8>,
    schedule: Option<Schedule>,
    phase: Phase,
    answered: u64,
    answered_total: u64,
    /// `answered_total` of the last progress line.
    answered_told: u64,
    in_flight: usize,
    open: usize,
    latency: Histogram<u64>,
    errors: Errors,
}

struct Echo {
    /// `None` once it is closed.
    pair: Option<Pair>,
    /// The message on its way; its first bytes hold its number.
    message: Vec<u8>,
    /// Number of the next message.
    number: u64,
    in_flight: bool,
    sent: usize,
    received: usize,
    intended: Timestamp,
    /// Messages that the schedule has released.
    released: u64,
    /// What the far leg has read and could not write yet.
    owed: Vec<u8>,
}

impl EchoPairs {
    const TAG: u8 = 2;

    fn new(reactor: Rc<Reactor>, pairs: Vec<Pair>, args: &EchoArgs) -> anyhow::Result<Self> {
        let now = clock::now();
        let size = usize::try_from(args.size)?;
        let mut load = Self {
            open: pairs.len(),
            pairs: pairs
                .into_iter()
                .map(|pair| Echo::new(pair, size))
                .collect(),
            reactor,
            ready: ReadyQueue::default(),
            scratch: vec![0; CALL_BYTES_MAX],
            schedule: args.rate.map(|rate| Schedule::new(now, rate, args.pairs)),
            phase: Phase::Running,
            answered: 0,
            answered_total: 0,
            answered_told: 0,
            in_flight: 0,
            latency: histogram::new()?,
            errors: Errors::default(),
        };
        if load.schedule.is_none() {
            (0..load.pairs.len()).for_each(|index| load.launch(index, now));
        }
        Ok(load)
    }

    /// Nothing is on its way and nothing will be.
    fn is_over(&self) -> bool {
        self.open == 0 || (self.phase == Phase::Ending && self.in_flight == 0)
    }

    /// Sends the next message of an idle pair, if one is due.
    fn launch(&mut self, index: usize, now: Timestamp) {
        let echo = &mut self.pairs[index];
        if self.phase == Phase::Ending || echo.in_flight || echo.pair.is_none() {
            return;
        }
        let token = u32::try_from(index).unwrap_or(u32::MAX);
        let intended = match &self.schedule {
            None => now,
            Some(schedule) if echo.number < echo.released => schedule.intended(token, echo.number),
            Some(_) => return,
        };
        echo.load_message(intended);
        self.in_flight += 1;
        self.ready.push(token * 2);
    }

    fn run_near(&mut self, index: usize) -> anyhow::Result<()> {
        let echo = &mut self.pairs[index];
        let Some(pair) = &mut echo.pair else {
            return Ok(());
        };
        let leg = &mut pair.near;
        leg.flush()?;
        while echo.in_flight && echo.sent < echo.message.len() {
            match leg.send(echo.message.get(echo.sent..).unwrap_or_default()) {
                Ok(count) => echo.sent += count,
                Err(Errno::AGAIN) => break,
                Err(error) => anyhow::bail!("cannot send: {error}"),
            }
        }
        loop {
            match leg.recv(&mut self.scratch) {
                Ok(0) => anyhow::bail!("a pair ended before its time"),
                Ok(count) => {
                    let came = self.scratch.get(..count).unwrap_or_default();
                    let upto = echo.received + count;
                    if !echo.in_flight || echo.message.get(echo.received..upto) != Some(came) {
                        anyhow::bail!("an answer differs from its message");
                    }
                    echo.received = upto;
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => anyhow::bail!("cannot receive: {error}"),
            }
            if echo.received == echo.message.len() {
                let now = clock::now();
                histogram::record(&mut self.latency, now.since(echo.intended));
                echo.in_flight = false;
                self.in_flight -= 1;
                self.answered += 1;
                self.answered_total += 1;
                self.launch(index, now);
                return Ok(());
            }
        }
    }

    fn run_far(&mut self, index: usize) -> anyhow::Result<()> {
        let echo = &mut self.pairs[index];
        let Some(pair) = &mut echo.pair else {
            return Ok(());
        };
        let leg = &mut pair.far;
        leg.flush()?;
        loop {
            while !echo.owed.is_empty() {
                match leg.send(&echo.owed) {
                    Ok(count) => drop(echo.owed.drain(..count)),
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(error) => anyhow::bail!("cannot echo: {error}"),
                }
            }
            let count = match leg.recv(&mut self.scratch) {
                Ok(0) => anyhow::bail!("a pair ended before its time"),
                Ok(count) => count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => anyhow::bail!("cannot receive: {error}"),
            };
            let came = self.scratch.get(..count).unwrap_or_default();
            let sent = match leg.send(came) {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => 0,
                Err(error) => anyhow::bail!("cannot echo: {error}"),
            };
            echo.owed
                .extend_from_slice(came.get(sent..).unwrap_or_default());
            // More brings an event of its own.
            let is_drained = leg.wrapped.is_none() && count < self.scratch.len();
            if echo.owed.is_empty() && is_drained {
                return Ok(());
            }
        }
    }

    fn fail(&mut self, index: usize, error: impl ToString) {
        self.errors.add(error);
        let echo = &mut self.pairs[index];
        if echo.in_flight {
            echo.in_flight = false;
            self.in_flight -= 1;
        }
        self.close(index, Closing::Reset);
    }

    fn close(&mut self, index: usize, closing: Closing) {
        if let Some(pair) = self.pairs[index].pair.take() {
            pair.close(&self.reactor, closing);
            self.open -= 1;
        }
    }

    fn close_all(&mut self) {
        (0..self.pairs.len()).for_each(|index| self.close(index, Closing::Clean));
    }
}

impl Load for EchoPairs {
    fn handle_ready(&mut self, owner: Owner, _: Readiness) {
        self.ready.push(owner.token);
    }

    fn handle_accepted(&mut self, _: Socket) {}

    fn run(&mut self, now: Timestamp) -> bool {
        while let Some(schedule) = &mut self.schedule {
            let Some(pair) = schedule.poll_due(now) else {
                break;
            };
            let index = usize::try_from(pair).unwrap_or(usize::MAX);
            self.pairs[index].released += 1;
            self.launch(index, now);
        }
        while let Some(token) = self.ready.pop() {
            let index = usize::try_from(token / 2).unwrap_or(usize::MAX);
            let result = match token % 2 {
                0 => self.run_near(index),
                _ => self.run_far(index),
            };
            if let Err(error) = result {
                self.fail(index, error);
            }
        }
        false
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let schedule = self.schedule.as_ref()?;
        (self.phase == Phase::Running).then(|| schedule.next_due())
    }

    fn progress(&mut self, interval: Duration) -> String {
        let count = self.answered_total - self.answered_told;
        self.answered_told = self.answered_total;
        let rate = count as f64 / interval.as_secs_f64();
        format!("{rate:.0} round trips/s")
    }
}

impl Echo {
    fn new(pair: Pair, size: usize) -> Self {
        Self {
            pair: Some(pair),
            message: vec![b'm'; size],
            number: 0,
            in_flight: false,
            sent: 0,
            received: 0,
            intended: Timestamp::default(),
            released: 0,
            owed: Vec::new(),
        }
    }

    fn load_message(&mut self, intended: Timestamp) {
        for (byte, digit) in self
            .message
            .iter_mut()
            .zip(self.number.to_be_bytes().iter().rev())
        {
            *byte = *digit;
        }
        self.number += 1;
        self.in_flight = true;
        self.sent = 0;
        self.received = 0;
        self.intended = intended;
    }
}
