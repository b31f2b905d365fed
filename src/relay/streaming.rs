//! Fewer and larger wake-ups for a stream that flows one way.
//!
//! Once per [`TICK`], for each direction that splices: when the opposite
//! direction carried less than 1/[`REVERSE_SHARE`] of this one for
//! [`TICKS_TO_STREAM`] ticks, this is a stream and nobody waits for the answer
//! to a part of it. Then its low-water mark (`SO_RCVLOWAT`) rises to about
//! what arrives in a tick, so that one wake-up moves a tick's worth.
//!
//! The stream's rate also bounds how many bytes a chain of pipes may take from
//! it at once while its destination is slow ([`Flow::chain_pipes`]).
//!
//! A mark can hold back the end of a message. So a tick without progress
//! lowers it to 1 and looks at the source (a *probe*). After
//! [`IDLE_TICKS_TO_DEMOTE`] ticks without progress the direction is small
//! again and nobody ticks for it.

use std::time::Duration;

/// Time between two looks at the directions that splice.
pub const TICK: Duration = Duration::from_millis(4);
/// A stream's opposite direction carries less than one part in this many.
pub const REVERSE_SHARE: u64 = 16;
/// Ticks in a row after which one-way traffic is a stream.
pub const TICKS_TO_STREAM: u8 = 2;
/// Ticks without progress in a row after which a direction is small again.
pub const IDLE_TICKS_TO_DEMOTE: u8 = 25;
/// Lowest mark above 1; below it a wake-up costs nothing worth saving.
pub const LOW_WATER_BYTES_MIN: u32 = 64 << 10;
/// Highest mark: what one pipe holds.
pub const LOW_WATER_BYTES_MAX: u32 = 1 << 20;

/// Most pipes of a chain. The kernel lets a receive queue grow to some MiB
/// (`net.ipv4.tcp_rmem`), and a chain is to hold all of it.
pub const CHAIN_PIPES_MAX: u8 = 12;
/// Beyond its first pipe, a chain holds no more than the stream moves in this
/// time, which it adds to the stream's delay.
pub const CHAIN_TIME: Duration = Duration::from_millis(200);

/// What one tick saw of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Bytes that the direction has delivered since it began.
    pub own_bytes: u64,
    /// Bytes that the opposite direction has delivered since it began.
    pub reverse_bytes: u64,
    /// It waits for its destination, or stands in the queue: that it made no
    /// progress is not its source's doing.
    pub busy: bool,
    /// Its mark may be raised.
    pub may_raise: bool,
    /// The mark stands above 1.
    pub raised: bool,
    /// Time since the last tick.
    pub elapsed: Duration,
}

/// What a tick asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Keep,
    /// Set the low-water mark.
    SetLowWater(u32),
    /// Set the mark to 1, and give the direction a turn: below a raised mark
    /// bytes may wait without an event.
    Probe,
    /// Copy from now on.
    Demote,
}

/// The memory of the rule about one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    own_bytes: u64,
    reverse_bytes: u64,
    /// Bytes per tick, averaged over the last ones.
    tick_bytes: u64,
    low_water_bytes: u32,
    streaming_ticks: u8,
    idle_ticks: u8,
}

impl Flow {
    /// A direction that began to splice, with what both directions have
    /// delivered so far.
    #[must_use]
    pub const fn new(own_bytes: u64, reverse_bytes: u64) -> Self {
        Self {
            own_bytes,
            reverse_bytes,
            tick_bytes: 0,
            low_water_bytes: 1,
            streaming_ticks: 0,
            idle_ticks: 0,
        }
    }

    /// Takes one tick's observation.
    pub fn handle_tick(&mut self, seen: Observation) -> Decision {
        if !seen.raised {
            self.low_water_bytes = 1;
        }
        let own = seen.own_bytes - self.own_bytes;
        let reverse = seen.reverse_bytes - self.reverse_bytes;
        self.own_bytes = seen.own_bytes;
        self.reverse_bytes = seen.reverse_bytes;
        self.tick_bytes = (self.tick_bytes * 7 + per_tick(own, seen.elapsed)) / 8;
        if reverse.saturating_mul(REVERSE_SHARE) < own {
            self.streaming_ticks = self.streaming_ticks.saturating_add(1);
        } else if own > 0 || reverse > 0 {
            self.streaming_ticks = 0;
        }
        if own == 0 && !seen.busy {
            self.streaming_ticks = 0;
            self.low_water_bytes = 1;
            self.idle_ticks += 1;
            return if self.idle_ticks >= IDLE_TICKS_TO_DEMOTE {
                Decision::Demote
            } else if seen.raised {
                Decision::Probe
            } else {
                Decision::Keep
            };
        }
        self.idle_ticks = 0;
        if own == 0 {
            return Decision::Keep;
        }
        let streams = self.streaming_ticks >= TICKS_TO_STREAM && seen.may_raise;
        let mark = if streams {
            mark_for(own, seen.elapsed)
        } else {
            1
        };
        let current = self.low_water_bytes;
        // Lowered by one step only when it is two steps too high: rates waver.
        if mark == current || (mark < current && mark > 1 && mark * 2 >= current) {
            return Decision::Keep;
        }
        self.low_water_bytes = mark;
        Decision::SetLowWater(mark)
    }

    /// Whether the last tick saw the direction move, or held up by others.
    #[must_use]
    pub const fn is_flowing(&self) -> bool {
        self.idle_ticks == 0
    }

    /// Pipes that a chain of this stream may have, at its present rate.
    #[must_use]
    pub fn chain_pipes(&self) -> u8 {
        let bytes = u128::from(self.tick_bytes) * CHAIN_TIME.as_nanos() / TICK.as_nanos();
        let pipes = u8::try_from(bytes / u128::from(LOW_WATER_BYTES_MAX)).unwrap_or(u8::MAX);
        pipes.clamp(1, CHAIN_PIPES_MAX)
    }

    /// Forgets what a probe moved: bytes that had waited below the mark are no
    /// sign of a stream.
    pub const fn handle_probed(&mut self, own_bytes: u64) {
        self.own_bytes = own_bytes;
    }
}

/// Bytes in a tick at the rate of `bytes` in `elapsed`.
fn per_tick(bytes: u64, elapsed: Duration) -> u64 {
    let bytes =
        u128::from(bytes) * TICK.as_nanos() / elapsed.max(Duration::from_nanos(1)).as_nanos();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// What arrives in a tick at the rate of `bytes` in `elapsed`, as a power of
/// two within the limits, or 1 below them.
fn mark_for(bytes: u64, elapsed: Duration) -> u32 {
    let per_tick = u32::try_from(per_tick(bytes, elapsed))
        .unwrap_or(u32::MAX)
        .min(LOW_WATER_BYTES_MAX);
    if per_tick < LOW_WATER_BYTES_MIN {
        1
    } else {
        1 << per_tick.ilog2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Track {
        flow: Flow,
        own: u64,
        reverse: u64,
        raised: bool,
    }

    impl Track {
        fn new() -> Self {
            Self {
                flow: Flow::new(0, 0),
                own: 0,
                reverse: 0,
                raised: false,
            }
        }

        fn check(&mut self, own: u64, reverse: u64, busy: bool, expected: Decision) {
            self.own += own;
            self.reverse += reverse;
            let decision = self.flow.handle_tick(Observation {
                own_bytes: self.own,
                reverse_bytes: self.reverse,
                busy,
                may_raise: true,
                raised: self.raised,
                elapsed: TICK,
            });
            assert_eq!(decision, expected, "{:?}", self.flow);
            match decision {
                Decision::Keep => {}
                Decision::SetLowWater(bytes) => self.raised = bytes > 1,
                Decision::Probe | Decision::Demote => self.raised = false,
            }
        }
    }

    #[test]
    fn a_stream_gets_a_mark_after_two_ticks() {
        let mut track = Track::new();
        track.check(300 << 10, 0, false, Decision::Keep);
        track.check(300 << 10, 0, false, Decision::SetLowWater(256 << 10));
        track.check(200 << 10, 0, false, Decision::Keep);
        track.check(100 << 10, 0, false, Decision::SetLowWater(64 << 10));
        track.check(8 << 20, 100, false, Decision::SetLowWater(1 << 20));
        track.check(10 << 10, 0, false, Decision::SetLowWater(1));
    }

    #[test]
    fn traffic_both_ways_keeps_the_mark_at_one() {
        let mut track = Track::new();
        for _ in 0..5 {
            track.check(1 << 20, 1 << 20, false, Decision::Keep);
        }
        track.check(1 << 20, 0, false, Decision::Keep);
        track.check(1 << 20, 0, false, Decision::SetLowWater(1 << 20));
        track.check(1 << 20, 1 << 17, false, Decision::SetLowWater(1));
    }

    #[test]
    fn a_pause_lowers_the_mark_at_once_and_demotes_in_the_end() {
        let mut track = Track::new();
        track.check(1 << 20, 0, false, Decision::Keep);
        track.check(1 << 20, 0, false, Decision::SetLowWater(1 << 20));
        // Its destination is full: not a pause.
        track.check(0, 0, true, Decision::Keep);
        track.check(0, 0, false, Decision::Probe);
        for _ in 2..IDLE_TICKS_TO_DEMOTE {
            track.check(0, 0, false, Decision::Keep);
        }
        track.check(0, 0, false, Decision::Demote);
    }

    #[test]
    fn a_mark_that_was_reset_elsewhere_is_set_again() {
        let mut track = Track::new();
        track.check(1 << 20, 0, false, Decision::Keep);
        track.check(1 << 20, 0, false, Decision::SetLowWater(1 << 20));
        track.raised = false;
        track.check(1 << 20, 0, false, Decision::SetLowWater(1 << 20));
    }

    #[test]
    fn a_chain_is_as_long_as_the_rate_allows() {
        let check = |mib_per_s: u64, expected| {
            let mut track = Track::new();
            for _ in 0..100 {
                track.own += (mib_per_s << 20) * 4 / 1000;
                track.flow.handle_tick(Observation {
                    own_bytes: track.own,
                    reverse_bytes: 0,
                    busy: false,
                    may_raise: true,
                    raised: false,
                    elapsed: TICK,
                });
            }
            assert_eq!(track.flow.chain_pipes(), expected, "{mib_per_s} MiB/s");
        };
        check(0, 1);
        check(9, 1);
        check(21, 4);
        check(1000, CHAIN_PIPES_MAX);
        assert_eq!(Flow::new(0, 0).chain_pipes(), 1);
    }

    #[test]
    fn a_late_tick_does_not_look_like_a_faster_stream() {
        let check = |bytes, elapsed_ms, expected| {
            assert_eq!(mark_for(bytes, Duration::from_millis(elapsed_ms)), expected);
        };
        check(1 << 20, 4, 1 << 20);
        check(1 << 20, 8, 512 << 10);
        check(1 << 20, 40, 64 << 10);
        check(1 << 20, 80, 1);
        check(0, 0, 1);
        check(u64::MAX, 0, 1 << 20);
    }
}
