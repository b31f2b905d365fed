//! Holds the first bytes towards a leg until that leg has read its reply.
//!
//! A client that reads the relay's reply with one `read` and throws the excess
//! away would lose what the other leg sends at once (a banner). So the bytes
//! towards it wait until it sends its first byte, or until its kernel has
//! acknowledged the reply and [`SETTLE`] passed for its process to read it.
//! While the reply is unacknowledged there is no hurry: TCP could not have
//! delivered the bytes behind it either.

use std::time::Duration;

use crate::time::Timestamp;

/// Time between two looks at a held leg; the same for all, so that the looks
/// stand in a queue in order of time.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// Time that a client gets between acknowledging and having read its reply.
pub const SETTLE: Duration = Duration::from_millis(10);
/// Age of the last acknowledgement that proves, without another look, that the
/// reply was acknowledged [`SETTLE`] ago: the kernel counts in ticks of up to
/// 10 ms.
pub const SETTLED_BY_KERNEL: Duration = Duration::from_millis(20);
/// A reply that stays unacknowledged this long ends the pair.
pub const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// What to do with the held bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Keep them and look again after [`CHECK_INTERVAL`].
    Hold,
    /// Let them go.
    Open,
    /// The reply never arrived: end the pair.
    Expired,
}

/// One leg's reply on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    replied_at: Timestamp,
    acknowledged_at: Option<Timestamp>,
}

impl Gate {
    /// A gate for a reply that was written at `replied_at`.
    #[must_use]
    pub const fn new(replied_at: Timestamp) -> Self {
        Self {
            replied_at,
            acknowledged_at: None,
        }
    }

    /// Takes a look: `acknowledged` says that nothing written to the leg is
    /// without acknowledgement.
    pub fn handle_check(&mut self, acknowledged: bool, now: Timestamp) -> Verdict {
        if !acknowledged && self.acknowledged_at.is_none() {
            return if now.since(self.replied_at) >= UNACKNOWLEDGED_MAX {
                Verdict::Expired
            } else {
                Verdict::Hold
            };
        }
        let since = *self.acknowledged_at.get_or_insert(now);
        if now.since(since) >= SETTLE {
            Verdict::Open
        } else {
            Verdict::Hold
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at the gate every 5 ms from 0 on and returns the time of the
    /// verdict, in milliseconds, for a reply acknowledged at `acknowledged_ms`.
    fn check(acknowledged_ms: u64, expected: Verdict, expected_ms: u64) {
        let at = |ms: u64| Timestamp::from_nanos(ms * 1_000_000);
        let mut gate = Gate::new(at(0));
        let mut ms = 0;
        let verdict = loop {
            match gate.handle_check(ms >= acknowledged_ms, at(ms)) {
                Verdict::Hold => ms += 5,
                verdict => break verdict,
            }
        };
        assert_eq!((verdict, ms), (expected, expected_ms));
    }

    #[test]
    fn opens_ten_milliseconds_after_the_acknowledgement_was_seen() {
        check(0, Verdict::Open, 10);
        check(1, Verdict::Open, 15);
        check(7, Verdict::Open, 20);
        // A reply whose first segment was lost.
        check(1_200, Verdict::Open, 1_210);
        check(9_995, Verdict::Open, 10_005);
    }

    #[test]
    fn expires_when_never_acknowledged() {
        check(u64::MAX, Verdict::Expired, 10_000);
    }
}
