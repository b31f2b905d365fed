//! `bulk`: each pair moves as many bytes as go through, in one direction.
//!
//! All bytes are accounted for: after the window the sources end their streams,
//! and each sink must have got exactly what its source sent.

use std::rc::Rc;
use std::time::Duration;

use midspan::runtime::Owner;
use midspan::runtime::reactor::{Closing, Reactor};
use midspan::runtime::readiness::Readiness;
use midspan::runtime::socket::Socket;
use midspan::time::Timestamp;
use rustix::io::Errno;

use super::{ENDING_TIMEOUT, Errors, Outcome, Stage};
use crate::args::{BulkArgs, FlowArgs};
use crate::event_loop::{Ended, Load, ReadyQueue};
use crate::peer::{Sink, Source, Taken};
use crate::report::{BulkFigures, Figures, GIB, Report};
use crate::route::{Leg, Pair, open_pairs};

/// Connections that get a turn between two looks at the ring.
const TURNS_MAX: u32 = 16;

pub(super) fn run(args: &BulkArgs, stage: &mut Stage) -> anyhow::Result<Outcome> {
    let pairs = open_pairs(
        &mut stage.event_loop,
        &stage.route,
        BulkPairs::TAG,
        args.pairs,
    )?;
    let reactor = Rc::clone(&stage.event_loop.reactor);
    let mut load = BulkPairs::new(reactor, pairs, &args.flow, args.bytes)?;
    let warmup = if args.bytes.is_some() {
        Duration::ZERO
    } else {
        args.window.warmup
    };
    let now = stage.event_loop.reactor.now();
    stage
        .event_loop
        .run_until(&mut load, now + warmup, BulkPairs::is_finished);

    let start = stage.read()?;
    let received_before = load.received;
    let until = match args.bytes {
        Some(_) => start.at + Duration::from_secs(3600),
        None => start.at + args.window.seconds,
    };
    stage
        .event_loop
        .run_until(&mut load, until, BulkPairs::is_finished);
    let window = stage.window_since(start)?;
    let bytes = load.received - received_before;

    load.end(stage);
    let figures = BulkFigures {
        pairs: args.pairs,
        source: args.flow.source,
        sink: args.flow.sink,
        bytes,
        gib_per_s: gib(bytes) / window.seconds,
        relay_cpu_s_per_gib: window.relay_cpu_s.map(|cpu_s| cpu_s / gib(bytes)),
        relay_cpu_s_per_gib_each: window
            .relay_cpu_s_each
            .as_ref()
            .map(|each| each.iter().map(|cpu_s| cpu_s / gib(bytes)).collect()),
    };
    let report = Report::new(
        &stage.route,
        window,
        load.into_errors(),
        Figures::Bulk(figures),
    );
    Ok(Outcome {
        report,
        latency: None,
    })
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / GIB
}

/// Pairs that move bytes.
pub(super) struct BulkPairs {
    reactor: Rc<Reactor>,
    pairs: Vec<Flow>,
    /// Where the near leg is the sink, odd tokens are sources.
    source_parity: u32,
    ready: ReadyQueue,
    source: Source,
    sink: Sink,
    /// Bytes that each source sends before it ends its stream.
    limit: u64,
    received: u64,
    /// Of the last progress line.
    received_told: u64,
    open: usize,
    errors: Errors,
}

struct Flow {
    /// `None` once it is closed.
    pair: Option<Pair>,
    sent: u64,
    received: u64,
    sending: Sending,
    /// The sink's socket told that the stream ends soon.
    ending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Running,
    /// The end of the stream is out.
    Ended,
}

impl BulkPairs {
    pub(super) const TAG: u8 = 1;

    pub(super) fn new(
        reactor: Rc<Reactor>,
        pairs: Vec<Pair>,
        args: &FlowArgs,
        bytes: Option<u64>,
    ) -> anyhow::Result<Self> {
        let is_plain = pairs.iter().all(|pair| {
            let source = if args.reverse { &pair.far } else { &pair.near };
            source.wrapped.is_none()
        });
        let mut ready = ReadyQueue::default();
        let legs = u32::try_from(pairs.len() * 2)?;
        // Events that came while the pairs were opened are gone.
        (0..legs).for_each(|token| ready.push(token));
        Ok(Self {
            reactor,
            open: pairs.len(),
            pairs: pairs.into_iter().map(Flow::new).collect(),
            source_parity: u32::from(args.reverse),
            ready,
            source: Source::new(args, is_plain)?,
            sink: Sink::new(args),
            limit: bytes.unwrap_or(u64::MAX),
            received: 0,
            received_told: 0,
            errors: Errors::default(),
        })
    }

    pub(super) fn is_finished(&self) -> bool {
        self.open == 0
    }

    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// Ends all streams and sees to it that everything arrives.
    pub(super) fn end(&mut self, stage: &mut Stage) {
        self.limit = 0;
        for pair in 0..self.pairs.len() {
            let token = u32::try_from(pair * 2).unwrap_or(u32::MAX);
            self.ready.push(token + self.source_parity);
        }
        let until = stage.event_loop.reactor.now() + ENDING_TIMEOUT;
        if stage.event_loop.run_until(self, until, Self::is_finished) == Ended::TimeUp {
            for index in 0..self.pairs.len() {
                if self.pairs[index].pair.is_some() {
                    self.fail(index, "a stream did not end in time");
                }
            }
        }
    }

    pub(super) fn into_errors(self) -> Errors {
        self.errors
    }

    /// Gives one connection its turn.
    pub(super) fn run_one(&mut self) {
        let Some(token) = self.ready.pop() else {
            return;
        };
        let index = usize::try_from(token / 2).unwrap_or(usize::MAX);
        if self.pairs.get(index).is_none_or(|flow| flow.pair.is_none()) {
            return;
        }
        if token % 2 == self.source_parity {
            self.run_source(token, index);
        } else {
            self.run_sink(token, index);
        }
    }

    fn run_source(&mut self, token: u32, index: usize) {
        let reverse = self.source_parity == 1;
        let flow = &mut self.pairs[index];
        let (sent, sending) = (flow.sent, flow.sending);
        let Some(leg) = flow.source(reverse) else {
            return;
        };
        let left = self.limit.saturating_sub(sent);
        if sending == Sending::Ended {
            return;
        }
        if left == 0 {
            match leg.end() {
                Ok(()) => flow.sending = Sending::Ended,
                Err(Errno::AGAIN) => {}
                Err(error) => self.fail(index, format_args!("cannot end a stream: {error}")),
            }
            return;
        }
        match self.source.send(leg, sent, left) {
            Ok(count) => {
                flow.sent += u64::try_from(count).unwrap_or(0);
                self.ready.push(token);
            }
            Err(Errno::AGAIN) => {}
            Err(error) => self.fail(index, format_args!("cannot send: {error}")),
        }
    }

    fn run_sink(&mut self, token: u32, index: usize) {
        let reverse = self.source_parity == 1;
        let flow = &mut self.pairs[index];
        let received = flow.received;
        let Some(leg) = flow.sink(reverse) else {
            return;
        };
        let is_wrapped = leg.wrapped.is_some();
        match self.sink.take(leg, received) {
            Ok(Taken::Bytes(0)) => self.finish(index),
            Ok(Taken::Bytes(count)) => {
                let bytes = u64::try_from(count).unwrap_or(0);
                flow.received += bytes;
                self.received += bytes;
                // What comes after a short read brings an event of its own,
                // except an end that was told already.
                if flow.ending || is_wrapped || !self.sink.is_drained_by(count) {
                    self.ready.push(token);
                }
            }
            Ok(Taken::Wrong) => {
                let position = flow.received;
                self.fail(index, format_args!("wrong bytes after {position}"));
            }
            Err(Errno::AGAIN) => {}
            Err(error) => self.fail(index, format_args!("cannot receive: {error}")),
        }
    }

    /// The stream ended: all of it must be there.
    fn finish(&mut self, index: usize) {
        let flow = &self.pairs[index];
        let (sent, received) = (flow.sent, flow.received);
        if flow.sending == Sending::Running || sent != received {
            self.fail(
                index,
                format_args!("a stream ended after {received} of {sent} bytes"),
            );
            return;
        }
        self.close(index, Closing::Clean);
    }

    fn fail(&mut self, index: usize, error: impl ToString) {
        self.errors.add(error);
        self.close(index, Closing::Reset);
    }

    fn close(&mut self, index: usize, closing: Closing) {
        if let Some(pair) = self.pairs[index].pair.take() {
            pair.close(&self.reactor, closing);
            self.open -= 1;
        }
    }
}

impl Load for BulkPairs {
    fn handle_ready(&mut self, owner: Owner, readiness: Readiness) {
        if owner.tag != Self::TAG {
            return;
        }
        let token = owner.token;
        let Some(flow) = usize::try_from(token / 2)
            .ok()
            .and_then(|index| self.pairs.get_mut(index))
        else {
            return;
        };
        if token % 2 == self.source_parity {
            if readiness.is_writable() {
                self.ready.push(token);
            }
        } else if readiness.is_readable() {
            flow.ending |= readiness.is_read_closed();
            self.ready.push(token);
        }
    }

    fn handle_accepted(&mut self, _: Socket) {
        self.errors.add("an unexpected connection to the backend");
    }

    fn run(&mut self, _: Timestamp) -> bool {
        for _ in 0..TURNS_MAX {
            self.run_one();
            if !self.has_work() {
                return false;
            }
            if self.reactor.has_completions() {
                return true;
            }
        }
        true
    }

    fn progress(&mut self, interval: Duration) -> String {
        let bytes = self.received - self.received_told;
        self.received_told = self.received;
        let (rate, open) = (gib(bytes) / interval.as_secs_f64(), self.open);
        format!("{rate:.2} GiB/s, {open} pairs")
    }
}

impl Flow {
    fn new(pair: Pair) -> Self {
        Self {
            pair: Some(pair),
            sent: 0,
            received: 0,
            sending: Sending::Running,
            ending: false,
        }
    }

    fn source(&mut self, reverse: bool) -> Option<&mut Leg> {
        let pair = self.pair.as_mut()?;
        Some(if reverse {
            &mut pair.far
        } else {
            &mut pair.near
        })
    }

    fn sink(&mut self, reverse: bool) -> Option<&mut Leg> {
        self.source(!reverse)
    }
}
