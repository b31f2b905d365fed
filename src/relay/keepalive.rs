//! Asks legs for a sign of life whose protocol has one, and gives up those that
//! show none.
//!
//! Middle boxes cut what is idle, and a peer that vanished is noticed by nobody who
//! has nothing to send. Nothing is kept for it but a byte of each codec: the
//! pairs are swept, a part of them at a time, and each is looked at once an interval.

use std::time::Duration;

use crate::time::Timestamp;

use super::close::CloseReason;
use super::codec::Life;
use super::direction::State;
use super::engine::{Engine, Session};
use super::pair::Side;
use crate::slab::Key;

/// Parts of the pairs, each swept at a time of its own.
const PARTS: u32 = 16;

/// How often legs are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingSettings {
    /// A leg of which nothing came for so long, up to twice that, is pinged.
    pub interval: Duration,
    /// Further intervals without a sign after which it is given up.
    pub silent_max: u16,
    /// Whether it is pinged at all. Without, only those that owe us a Close are given
    /// up.
    pub is_on: bool,
}

impl PingSettings {
    /// Pings after `ping_after`, zero being never, and waits `timeout` for an answer,
    /// rounded up to whole intervals.
    #[must_use]
    pub fn new(ping_after: Duration, timeout: Duration) -> Self {
        let is_on = !ping_after.is_zero();
        let interval = if is_on { ping_after } else { timeout };
        let intervals = timeout.as_nanos().div_ceil(interval.as_nanos().max(1));
        Self {
            interval,
            silent_max: u16::try_from(intervals).unwrap_or(u16::MAX).max(1),
            is_on,
        }
    }
}

impl Default for PingSettings {
    fn default() -> Self {
        let usual = Duration::from_secs(20);
        Self::new(usual, usual)
    }
}

/// Where the sweep is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Pairs of which a leg can be asked.
    pub(super) pairs: usize,
    part: u32,
    pub(super) due: Option<Timestamp>,
}

impl Engine {
    /// A pair has begun of which a leg can be asked.
    pub(super) fn begin_sweep(&mut self, now: Timestamp) {
        self.sweep.pairs += 1;
        if self.sweep.due.is_none() {
            self.sweep.due = Some(now + self.ping.interval / PARTS);
        }
    }

    /// Looks at the next part of the pairs.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        let part = self.sweep.part;
        self.sweep.part = (part + 1) % PARTS;
        self.sweep.due = (self.sweep.pairs > 0).then(|| now + self.ping.interval / PARTS);
        for index in (part..self.pairs.span()).step_by(PARTS as usize) {
            let Some(key) = self.pairs.key_at(index) else {
                continue;
            };
            // Both before either is asked, as the way to one is the other's from there.
            for (side, life) in Side::BOTH.map(|side| (side, self.look(key, side))) {
                match life {
                    Life::Seen => {}
                    Life::Asked => self.say_words(key, side),
                    Life::Gone => {
                        self.end(key, CloseReason::TimedOut(side));
                    }
                }
            }
        }
    }

    /// Looks at one leg; of one that cannot show a sign of life none is missed.
    fn look(&mut self, key: Key, side: Side) -> Life {
        let (ping, means) = (self.ping, &mut self.means);
        let Some(Session {
            pair,
            sockets,
            transforms: Some(transforms),
            ..
        }) = self.pairs.get_mut(key)
        else {
            return Life::Seen;
        };
        let (incoming, outgoing) = (pair.from(side), pair.from(side.other()));
        // Of one that is not read nothing can come, and one that has much to read
        // comes to a ping late.
        if incoming.is_gated()
            || incoming.state() != State::AwaitSource
            || outgoing.state() == State::AwaitDestination
            || sockets[side.index()].queued_bytes() != Ok(0)
        {
            return Life::Seen;
        }
        transforms.codec_mut(side).map_or(Life::Seen, |codec| {
            means.workshop.look_for_life(codec, ping)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_rounded_up_to_whole_intervals() {
        let check = |ping, timeout, interval, silent_max, is_on| {
            let seconds = Duration::from_secs;
            assert_eq!(
                PingSettings::new(seconds(ping), seconds(timeout)),
                PingSettings {
                    interval: seconds(interval),
                    silent_max,
                    is_on
                }
            );
        };
        check(20, 20, 20, 1, true);
        check(20, 21, 20, 2, true);
        check(20, 1, 20, 1, true);
        check(1, 3_600, 1, 3_600, true);
        check(0, 20, 20, 1, false);
    }
}
