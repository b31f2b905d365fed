//! Whether the shards still turn, for a thread that watches the process.
//!
//! Cheaper than [`super::status`]: a shard answers from its loop and counts nothing.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::control::Envelope;
use super::world::World;
use crate::runtime::clock;
use crate::runtime::inbox::Mailbox;

/// The shards, as seen by who watches them.
#[derive(Debug)]
pub struct Pulse<M> {
    pub(crate) shards: Vec<Mailbox<Envelope<M>>>,
    pub(crate) stopping: Receiver<()>,
}

/// A shard's sign of life.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    pub shard: usize,
    /// Pairs that live there.
    pub pairs: usize,
}

/// What asking all shards came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Shards that answered.
    pub answered: usize,
    /// Pairs that live on these.
    pub pairs: usize,
    /// Shards that neither answered nor have ended.
    pub silent: Vec<usize>,
}

/// What waiting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// An operator had the process stop.
    Stopping,
    /// The time is over.
    Idle,
    /// The shard that hears the operator has ended.
    Over,
}

impl<M> Pulse<M> {
    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Waits for the operator, at most so long; without a limit, as long as it takes.
    #[must_use]
    pub fn wait(&self, limit: Option<Duration>) -> Wake {
        let heard = match limit {
            Some(limit) => self.stopping.recv_timeout(limit),
            None => self.stopping.recv().map_err(RecvTimeoutError::from),
        };
        match heard {
            Ok(()) => Wake::Stopping,
            Err(RecvTimeoutError::Timeout) => Wake::Idle,
            Err(RecvTimeoutError::Disconnected) => Wake::Over,
        }
    }

    /// Asks every shard, and waits until each has answered or ended, at most so long.
    #[must_use]
    pub fn ask(&self, limit: Duration) -> Round {
        let (asker, beats) = channel();
        let mut silent = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            // One that has ended takes no question.
            if shard.send(Envelope::Pulse(asker.clone())).is_ok() {
                silent.push(index);
            }
        }
        drop(asker);
        let mut round = Round::default();
        let until = clock::now() + limit;
        let ended = loop {
            match beats.recv_timeout(until.since(clock::now())) {
                Ok(Beat { shard, pairs }) => {
                    round.answered += 1;
                    round.pairs += pairs;
                    silent.retain(|one| *one != shard);
                }
                // Nobody holds the question any more.
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        if !ended {
            round.silent = silent;
        }
        round
    }
}

impl<C: Copy, M: Send + 'static> World<C, M> {
    /// Gives a sign of life.
    pub(super) fn beat(&self, asker: &Sender<Beat>) {
        let beat = Beat {
            shard: usize::from(self.shard.0),
            pairs: self.pairs(),
        };
        // Whoever asked may have given up waiting.
        let _ = asker.send(beat);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::runtime::inbox::{Inbox, inbox};

    type Questions = Inbox<Envelope<()>>;

    fn pulse(count: usize) -> (Pulse<()>, Vec<Questions>, Sender<()>) {
        let (stop, stopping) = channel();
        let pairs = (0..count).map(|_| inbox().expect("a descriptor"));
        let (shards, inboxes) = pairs.unzip();
        (Pulse { shards, stopping }, inboxes, stop)
    }

    fn next_question(inbox: &Questions) -> Sender<Beat> {
        loop {
            if let Some(Envelope::Pulse(asker)) = inbox.drain().next() {
                return asker;
            }
            thread::yield_now();
        }
    }

    #[test]
    fn a_shard_that_ends_is_not_waited_for() {
        let (pulse, mut inboxes, _stop) = pulse(3);
        drop(inboxes.pop());
        let (ends, answers) = (inboxes.pop(), inboxes.pop());
        let round = thread::scope(|scope| {
            scope.spawn(|| next_question(&ends.expect("the second")));
            scope.spawn(|| {
                let asker = next_question(&answers.expect("the first"));
                asker.send(Beat { shard: 0, pairs: 7 }).expect("it waits");
            });
            pulse.ask(Duration::MAX)
        });
        let expected = Round {
            answered: 1,
            pairs: 7,
            silent: vec![],
        };
        assert_eq!(round, expected);
    }

    #[test]
    fn a_shard_that_hangs_is_told_of() {
        let (pulse, mut inboxes, _stop) = pulse(3);
        drop(inboxes.remove(1));
        let round = pulse.ask(Duration::ZERO);
        assert_eq!((round.answered, round.silent), (0, vec![0, 2]));
    }

    #[test]
    fn waiting_ends_with_the_word_of_the_operator_or_with_the_shard_that_hears_it() {
        let (pulse, _inboxes, stop) = pulse(1);
        assert_eq!(pulse.wait(Some(Duration::ZERO)), Wake::Idle);
        stop.send(()).expect("it waits");
        assert_eq!(pulse.wait(None), Wake::Stopping);
        drop(stop);
        assert_eq!(pulse.wait(None), Wake::Over);
    }
}
