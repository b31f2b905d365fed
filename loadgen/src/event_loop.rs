//! The loop that all scenarios run in: one reactor, one load.
//!
//! A load keeps what is ready in a [`ReadyQueue`] and works it off in small
//! quanta, so that no connection waits for long behind another one.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use midspan::runtime::Owner;
use midspan::runtime::clock;
use midspan::runtime::reactor::{Event, Reactor};
use midspan::runtime::readiness::Readiness;
use midspan::runtime::ring::{RingSize, Sleep};
use midspan::runtime::socket::Socket;
use midspan::time::Timestamp;

/// What a scenario does in the loop.
pub(crate) trait Load {
    /// A watched socket of ours triggered.
    fn handle_ready(&mut self, owner: Owner, readiness: Readiness);

    /// The backend was dialled.
    fn handle_accepted(&mut self, socket: Socket);

    /// Works for a bounded time, and returns whether more can be done at once.
    fn run(&mut self, now: Timestamp) -> bool;

    /// When [`Self::run`] wants to be called even if nothing happens.
    fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// How far it is, in a few words.
    fn progress(&mut self, interval: Duration) -> String;
}

/// The reactor and what tells a person how it goes.
pub(crate) struct EventLoop {
    pub(crate) reactor: Rc<Reactor>,
    progress: Option<Progress>,
}

struct Progress {
    started: Timestamp,
    last: Timestamp,
}

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How a stretch of the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// What was asked for is done.
    Finished,
    /// The time was up.
    TimeUp,
}

impl EventLoop {
    /// Makes the thread's reactor. Progress is told when asked for, or when
    /// standard error is a terminal.
    pub(crate) fn new(wants_progress: bool) -> anyhow::Result<Self> {
        let reactor = Reactor::new(RingSize::default()).context("cannot set up io_uring")?;
        let now = clock::now();
        let progress = (wants_progress || io::stderr().is_terminal()).then_some(Progress {
            started: now,
            last: now,
        });
        Ok(Self { reactor, progress })
    }

    /// Runs `load` until it is `finished`, or until `until`.
    pub(crate) fn run_until<L: Load>(
        &mut self,
        load: &mut L,
        until: Timestamp,
        finished: impl Fn(&L) -> bool,
    ) -> Ended {
        loop {
            while let Some(event) = self.reactor.poll_event() {
                match event {
                    Event::Ready { owner, readiness } => load.handle_ready(owner, readiness),
                    Event::Accepted { socket, .. } => load.handle_accepted(socket),
                    // Whoever dialled sees its connection closed, and counts it.
                    Event::Refused { .. }
                    | Event::AcceptFailed { .. }
                    | Event::Doorbell
                    | Event::Transfer { .. }
                    | Event::Deadline { .. } => {}
                }
            }
            let more = load.run(self.reactor.now());
            if finished(load) {
                return Ended::Finished;
            }
            let now = self.reactor.now();
            if now >= until {
                return Ended::TimeUp;
            }
            let mut deadline = until;
            if let Some(progress) = &mut self.progress {
                progress.tell(now, load);
                deadline = deadline.min(progress.last + PROGRESS_INTERVAL);
            }
            if let Some(at) = load.next_deadline() {
                deadline = deadline.min(at);
            }
            let sleep = if more { Sleep::No } else { Sleep::UntilOne };
            self.reactor.turn(sleep, Some(deadline));
        }
    }

    /// Ends every connection that was given back.
    pub(crate) fn close(&self) {
        let until = clock::now() + Duration::from_secs(10);
        while !self.reactor.is_caught_up() && self.reactor.now() < until {
            self.reactor.turn(Sleep::No, None);
            while self.reactor.poll_event().is_some() {}
        }
    }
}

impl Progress {
    fn tell(&mut self, now: Timestamp, load: &mut impl Load) {
        let interval = now.since(self.last);
        if interval < PROGRESS_INTERVAL {
            return;
        }
        self.last = now;
        let text = load.progress(interval);
        let seconds = now.since(self.started).as_secs();
        // Telling how it goes must not end the run.
        let _ = writeln!(io::stderr(), "{seconds:>4} s  {text}");
    }
}

/// Tokens that can make progress, each at most once, oldest first.
#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    tokens: VecDeque<u32>,
    queued: Vec<bool>,
}

impl ReadyQueue {
    pub(crate) fn push(&mut self, token: u32) {
        let Ok(index) = usize::try_from(token) else {
            return;
        };
        if self.queued.len() <= index {
            self.queued.resize(index + 1, false);
        }
        if !self.queued[index] {
            self.queued[index] = true;
            self.tokens.push_back(token);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<u32> {
        let token = self.tokens.pop_front()?;
        if let Some(queued) = usize::try_from(token)
            .ok()
            .and_then(|index| self.queued.get_mut(index))
        {
            *queued = false;
        }
        Some(token)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_queued_once_and_in_order() {
        let mut queue = ReadyQueue::default();
        for token in [7, 2, 7, 2, 5] {
            queue.push(token);
        }
        assert_eq!(queue.pop(), Some(7));
        queue.push(7);
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, [2, 5, 7]);
        assert!(queue.is_empty());
    }
}
