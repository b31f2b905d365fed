//! For how long what is joined with a stream may last, and carry nothing.

use std::time::Duration;

use super::{Inner, Streams};
use crate::association::idle::Idleness;
use crate::association::session_ends::SessionEnds;
use crate::protocol::ptth_quic::Refusal;
use crate::relay::CloseReason;
use crate::relay::stream_plane::StreamPlane;
use crate::slab::Key;
use crate::time::Timestamp;

/// The limits; what is `None` has no end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// From when it is joined.
    pub ttl: Option<Duration>,
    /// Without a byte either way.
    pub idle: Option<Duration>,
    /// The same once one way has ended.
    pub half_closed: Option<Duration>,
}

/// Those of a shard that run.
#[derive(Debug, Default)]
pub(super) struct Lifetimes {
    limits: Lifetime,
    ends: SessionEnds<Key>,
    idleness: Idleness<Key>,
    /// Of those of which one way has ended.
    half_idleness: Idleness<Key>,
}

impl Lifetimes {
    pub(super) fn begin(&mut self, pair: Key, now: Timestamp) {
        if let Some(ttl) = self.limits.ttl {
            self.ends.insert(pair, now + ttl);
        }
        if let Some(idle) = self.limits.idle {
            self.idleness.begin(idle, now);
        }
    }

    /// One way of a pair has ended.
    pub(super) fn half_close(&mut self, now: Timestamp) {
        if let Some(limit) = self.limits.half_closed {
            self.half_idleness.begin(limit, now);
        }
    }

    pub(super) fn end(&mut self, pair: Key) {
        self.ends.remove(pair);
    }

    /// When to look for those whose time is over.
    pub(super) fn next_look(&self) -> Option<Timestamp> {
        let looks = [
            self.ends.next_deadline(),
            self.idleness.next_look(),
            self.half_idleness.next_look(),
        ];
        looks.into_iter().flatten().min()
    }

    /// Those whose time is over; `is_whole` knows what is timed elsewhere.
    fn look(
        &mut self,
        plane: &StreamPlane,
        is_whole: impl Fn(Key) -> bool,
        now: Timestamp,
    ) -> Vec<Key> {
        let carried = || plane.carried().filter(|(pair, ..)| is_whole(*pair));
        let mut over: Vec<Key> = std::iter::from_fn(|| self.ends.poll_due(now)).collect();
        let is_due = |idleness: &Idleness<Key>| idleness.next_look().is_some_and(|it| it <= now);
        if is_due(&self.idleness) {
            let carried = carried().map(|(pair, bytes, _)| (pair, bytes));
            over.extend(self.idleness.look(carried, self.limits.idle, now));
        }
        if is_due(&self.half_idleness) {
            let half = carried().filter(|(.., is_half)| *is_half);
            let carried = half.map(|(pair, bytes, _)| (pair, bytes));
            let limit = self.limits.half_closed;
            over.extend(self.half_idleness.look(carried, limit, now));
        }
        over
    }
}

impl Streams {
    /// Limits what is joined from now on; silence also of what is.
    pub fn set_lifetime(&self, limits: Lifetime) {
        if let Some(inner) = &mut *self.inner.borrow_mut() {
            inner.lifetimes.limits = limits;
        }
    }
}

impl Inner {
    /// Breaks off what has had its time.
    pub(super) fn end_overdue(&mut self, now: Timestamp) {
        if self.lifetimes.next_look().is_none_or(|look| look > now) {
            return;
        }
        let is_whole = |pair| {
            let joined = self.sessions.get(&pair);
            joined.is_some_and(|joined| !joined.session.is_far)
        };
        for pair in self.lifetimes.look(&self.plane, is_whole, now) {
            let code = Refusal::LimitReached.into();
            self.plane
                .break_off(&mut self.driver, pair, CloseReason::Expired, code);
        }
    }
}
