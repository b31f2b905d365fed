//! Two directions that live and end together, decided without a system call.
//!
//! Each direction ends for itself: the end of one stream does not touch the
//! other. The pair ends when both directions have, or with the first failure
//! of either socket. That failure is final for both directions: the kernel
//! tells a reset only once, to whichever call comes first, and answers the
//! next `recv` with 0, as if the stream had ended.

use rustix::io::Errno;

use crate::runtime::readiness::Readiness;

use super::close::CloseReason;
use super::codec::Heard;
use super::direction::{Action, Direction, Failure, Mode, Outcome, State};

/// One of the two legs of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The leg that was there first: waiting, or accepted.
    Left,
    /// The leg that came second: joining, or dialled.
    Right,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Left, Self::Right];

    /// 0 for left, 1 for right.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Left => 0,
            Self::Right => 1,
        }
    }

    /// The opposite leg.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// What a socket looked like when a read from it returned 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndEvidence {
    /// The error that was pending.
    pub error: Option<Errno>,
    /// A TCP connection of which nothing is open any more.
    pub gone: bool,
}

impl EndEvidence {
    /// The failure that the read of 0 stood for; `None` for a clean end.
    ///
    /// While our own half towards the leg is open, a leg that ended cleanly is
    /// only half closed. If it is gone altogether it was reset, and a call that
    /// had already moved bytes swallowed the error.
    #[must_use]
    pub fn failure(self, our_half_ended: bool) -> Option<Errno> {
        let was_reset = self.gone && !our_half_ended;
        self.error.or(was_reset.then_some(Errno::CONNRESET))
    }
}

/// The directions that an event at one leg's socket gives a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakes {
    /// The direction that reads from the leg.
    pub incoming: bool,
    /// The direction that writes to the leg.
    pub outgoing: bool,
}

/// What came of one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Where the direction stopped.
    pub state: State,
    /// The opposite direction wants a turn: the source's first byte opened its gate,
    /// or the source takes no more.
    pub wakes_opposite: bool,
    /// The direction began to splice, or goes on: the streaming rule may watch
    /// it.
    pub bulk: bool,
}

/// Both directions of a pair.
#[derive(Debug)]
pub struct Pair {
    /// By the side of their source.
    directions: [Direction; 2],
    first_to_end: Option<Side>,
}

impl Pair {
    /// Two directions that wait for their sources.
    #[must_use]
    pub const fn new(mode: Mode) -> Self {
        Self {
            directions: [Direction::new(mode), Direction::new(mode)],
            first_to_end: None,
        }
    }

    /// The direction that reads from `source`.
    #[must_use]
    pub const fn from(&self, source: Side) -> &Direction {
        &self.directions[source.index()]
    }

    /// The direction that reads from `source`.
    #[must_use]
    pub const fn from_mut(&mut self, source: Side) -> &mut Direction {
        &mut self.directions[source.index()]
    }

    /// Bytes that were delivered, by the side that they came from.
    #[must_use]
    pub const fn bytes(&self) -> [u64; 2] {
        [
            self.directions[0].relayed_bytes(),
            self.directions[1].relayed_bytes(),
        ]
    }

    /// Whether the end of the stream from `source` was passed on.
    fn has_ended(&self, source: Side) -> bool {
        self.from(source).state() == State::Ended
    }

    /// Takes what a poll reported for the socket of `side`, and tells which
    /// directions want a turn.
    ///
    /// A pending error is not looked at here: it ends the pair.
    pub fn handle_readiness(&mut self, side: Side, readiness: Readiness) -> Wakes {
        let incoming = self.from_mut(side);
        if readiness.is_read_closed() {
            incoming.close_source(readiness.is_hangup());
        }
        let incoming = readiness.is_readable() && incoming.wakes_on_source();
        let outgoing = readiness.is_writable() && self.from(side.other()).wakes_on_destination();
        Wakes { incoming, outgoing }
    }

    /// Decides whether a read of 0 from `source` was the end of the stream, see
    /// [`EndEvidence::failure`]. A FIN that was reported by itself is believed
    /// without asking for `evidence`.
    #[must_use]
    pub fn judge_end(&self, source: Side, evidence: impl FnOnce() -> EndEvidence) -> Outcome {
        let our_half_ended = self.has_ended(source.other());
        if self.from(source).is_fin_reported(our_half_ended) {
            return Outcome::SourceEnded;
        }
        match evidence().failure(our_half_ended) {
            Some(error) => Outcome::SourceFailed(error),
            None => Outcome::SourceEnded,
        }
    }

    /// Runs one turn of the direction that reads from `source`: at most
    /// `moves_max` moves, see [`Direction::begin_turn`].
    ///
    /// `perform` does each action and tells its outcome; where a read returned
    /// 0 it asks [`Pair::judge_end`] through its first argument. The end of the
    /// second stream to end is passed on by closing, [`How::Clean`]: a reset that
    /// comes in that moment is noticed no more.
    ///
    /// [`How::Clean`]: super::close::How::Clean
    ///
    /// # Errors
    ///
    /// The reason for which the whole pair ends now.
    pub fn run_turn(
        &mut self,
        source: Side,
        moves_max: u8,
        mut perform: impl FnMut(&Self, Action) -> Outcome,
    ) -> Result<Turn, CloseReason> {
        self.from_mut(source).begin_turn(moves_max);
        let mut wakes_opposite = false;
        while let Some(action) = self.from_mut(source).poll_action() {
            let outcome = match action {
                // The pair ends with it, and closing the socket sends this FIN.
                Action::ShutdownWrite if self.has_ended(source.other()) => Outcome::Done,
                _ => perform(self, action),
            };
            match outcome {
                Outcome::Copied { received: 1.., .. } => {
                    wakes_opposite |= self.from_mut(source.other()).open_gate();
                }
                Outcome::Filled { heard, .. } => {
                    wakes_opposite |= self.from_mut(source.other()).open_gate();
                    if heard != Heard::Open {
                        self.first_to_end.get_or_insert(source);
                    }
                }
                Outcome::SourceEnded => {
                    self.first_to_end.get_or_insert(source);
                }
                Outcome::Transformed { bytes, heard, .. } => {
                    let opposite = self.from_mut(source.other());
                    if bytes > 0 || heard == Heard::Closed {
                        wakes_opposite |= opposite.open_gate();
                    }
                    if heard == Heard::Closed {
                        opposite.give_source_up();
                        wakes_opposite = true;
                    }
                    if heard != Heard::Open {
                        self.first_to_end.get_or_insert(source);
                    }
                }
                _ => {}
            }
            if let Err(failure) = self.from_mut(source).handle_outcome(action, outcome) {
                return Err(match failure {
                    Failure::Source(error) => CloseReason::from_error(source, error),
                    Failure::Broken => CloseReason::Broken(source),
                    Failure::Destination(error) => CloseReason::from_error(source.other(), error),
                });
            }
        }
        if Side::BOTH.into_iter().all(|side| self.has_ended(side)) {
            let first = self.first_to_end.unwrap_or(source);
            return Err(CloseReason::Finished(first));
        }
        let direction = self.from(source);
        Ok(Turn {
            state: direction.state(),
            wakes_opposite,
            bulk: direction.mode().is_promoted(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::direction::SpillKey;
    use super::*;

    /// Runs turns of left to right with these outcomes, which are also the
    /// whole of what is asked for.
    fn run(pair: &mut Pair, source: Side, outcomes: &[Outcome]) -> Result<Turn, CloseReason> {
        let mut outcomes = outcomes.iter();
        let result = pair.run_turn(source, 2, |_, _| {
            *outcomes.next().expect("one action more than expected")
        });
        assert_eq!(outcomes.next(), None, "one action less than expected");
        result
    }

    #[test]
    fn the_pair_ends_with_its_second_half() {
        for first in Side::BOTH {
            let mut pair = Pair::new(Mode::Small);
            let turn = run(&mut pair, first, &[Outcome::SourceEnded, Outcome::Done]);
            assert_eq!(turn.map(|turn| turn.state), Ok(State::Ended));
            let end = run(&mut pair, first.other(), &[Outcome::SourceEnded]);
            assert_eq!(
                end,
                Err(CloseReason::Finished(first)),
                "closing does the rest"
            );
        }
    }

    #[test]
    fn a_failure_names_the_leg_that_failed() {
        let check = |outcome, expected| {
            let mut pair = Pair::new(Mode::Small);
            assert_eq!(run(&mut pair, Side::Left, &[outcome]), Err(expected));
        };
        check(
            Outcome::SourceFailed(Errno::CONNRESET),
            CloseReason::Reset(Side::Left),
        );
        check(
            Outcome::DestinationFailed(Errno::PIPE),
            CloseReason::Reset(Side::Right),
        );
        check(
            Outcome::DestinationFailed(Errno::TIMEDOUT),
            CloseReason::TimedOut(Side::Right),
        );
    }

    #[test]
    fn a_read_of_zero_alone_proves_no_end() {
        let check = |write_half_ended: bool, evidence, expected| {
            let mut pair = Pair::new(Mode::Small);
            if write_half_ended {
                run(
                    &mut pair,
                    Side::Right,
                    &[Outcome::SourceEnded, Outcome::Done],
                )
                .expect("one half is open");
            }
            assert_eq!(pair.judge_end(Side::Left, || evidence), expected);
        };
        let clean = EndEvidence::default();
        let gone = EndEvidence {
            gone: true,
            ..clean
        };
        let failed = EndEvidence {
            error: Some(Errno::TIMEDOUT),
            gone: true,
        };
        let reset = Outcome::SourceFailed(Errno::CONNRESET);
        check(false, clean, Outcome::SourceEnded);
        check(true, clean, Outcome::SourceEnded);
        check(false, gone, reset);
        // Both halves have ended, so nothing is open any more.
        check(true, gone, Outcome::SourceEnded);
        check(true, failed, Outcome::SourceFailed(Errno::TIMEDOUT));
        check(false, failed, Outcome::SourceFailed(Errno::TIMEDOUT));
    }

    #[test]
    fn an_event_wakes_who_waits_for_it() {
        let check = |readiness, incoming, outgoing| {
            let mut pair = Pair::new(Mode::Small);
            pair.from_mut(Side::Right).set_prefix(SpillKey(0), 1);
            run(&mut pair, Side::Right, &[Outcome::DestinationFull]).expect("it waits");
            assert_eq!(
                pair.handle_readiness(Side::Left, readiness),
                Wakes { incoming, outgoing }
            );
        };
        check(Readiness::READABLE, true, false);
        check(Readiness::READ_CLOSED, true, false);
        check(Readiness::WRITABLE, false, true);
        check(Readiness::READABLE | Readiness::WRITABLE, true, true);
        check(Readiness::HANGUP, true, true);
        check(Readiness::NONE, false, false);
    }

    #[test]
    fn the_first_byte_opens_the_opposite_gate() {
        let mut pair = Pair::new(Mode::Small);
        pair.from_mut(Side::Right).close_gate();
        let wakes = pair.handle_readiness(Side::Right, Readiness::READABLE);
        assert_eq!(wakes, Wakes::default(), "it is held");
        let copied = Outcome::Copied {
            received: 1,
            sent: 1,
            source_drained: true,
            destination_full: false,
            spill: None,
        };
        let turn = run(&mut pair, Side::Left, &[copied]).expect("a turn");
        assert!(turn.wakes_opposite);
        assert!(!pair.from(Side::Right).is_gated());
    }
}
