//! Channels whose tunnels are gone, while their ends take the last of what came.

use std::collections::VecDeque;

use super::channel::{Channel, LocalEnd};
use super::{MuxEvent, MuxPlane, REST_TIMEOUT, SWEEP};
use crate::relay::close::CloseReason;
use crate::relay::pair::Side;
use crate::slab::Key;
use crate::time::Timestamp;

/// One shard's.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    pub(super) all: Vec<Key>,
    pub(super) ready: VecDeque<Key>,
}

impl MuxPlane {
    /// Whether a channel of a tunnel that is gone is kept: its peer has said all that it had to
    /// say, and its end has not taken that yet.
    pub(super) fn is_to_outlive(&mut self, key: Key) -> bool {
        let Some(channel) = self.channels.get_mut(key) else {
            return false;
        };
        let before = channel.bytes.delivered;
        let is_drained = channel.drain();
        self.counts.bytes_relayed += channel.bytes.delivered - before;
        let is_stream = matches!(channel.end, Some(LocalEnd::Stream(_)));
        is_stream && channel.has_heard_end && is_drained.is_ok() && !channel.queue.is_empty()
    }

    /// Keeps a channel without its tunnel, which was at that side.
    pub(super) fn keep_orphan(&mut self, key: Key, side: Side, now: Timestamp) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        channel.orphan_of = Some(side);
        channel.ends_both = true;
        channel.rest_until.get_or_insert(now + REST_TIMEOUT);
        channel.is_queued = false;
        self.orphans.all.push(key);
        self.next_sweep.get_or_insert(now + SWEEP);
        self.enqueue_orphan(key);
    }

    pub(super) fn enqueue_orphan(&mut self, key: Key) {
        if let Some(channel) = self.channels.get_mut(key)
            && !std::mem::replace(&mut channel.is_queued, true)
        {
            self.orphans.ready.push_back(key);
        }
    }

    /// Has ends take what waits for them.
    pub(super) fn run_orphans(&mut self) {
        for _ in 0..self.orphans.ready.len() {
            let Some(key) = self.orphans.ready.pop_front() else {
                return;
            };
            let Some(channel) = self.channels.get_mut(key) else {
                continue;
            };
            let Some(side) = channel.orphan_of else {
                continue;
            };
            channel.is_queued = false;
            let before = channel.bytes.delivered;
            let drained = channel.drain();
            let taken = channel.bytes.delivered - before;
            self.counts.bytes_relayed += taken;
            let is_all = channel.queue.is_empty();
            if channel.is_readable && drained.is_ok() && !is_all {
                // An error of its end shows in what it takes.
                let _ = channel.read_away(&mut self.means.chunk);
                if channel.is_readable {
                    self.enqueue_orphan(key);
                }
            }
            match drained {
                Ok(()) if is_all => self.end_orphan(key, CloseReason::Finished(side)),
                Ok(()) => {}
                Err(error) => {
                    self.end_orphan(key, CloseReason::from_error(side.other(), error));
                }
            }
        }
    }

    /// Gives it up, if it is one.
    pub(super) fn end_late_orphan(&mut self, key: Key) {
        if let Some(side) = self.channels.get(key).and_then(|it| it.orphan_of) {
            self.end_orphan(key, CloseReason::TimedOut(side.other()));
        }
    }

    /// Ends it, if it is one.
    pub(super) fn end_orphan(&mut self, key: Key, reason: CloseReason) {
        let is_orphan = |channel: &Channel| channel.orphan_of.is_some();
        if !self.channels.get(key).is_some_and(is_orphan) {
            return;
        }
        self.orphans.all.retain(|orphan| *orphan != key);
        if let Some(channel) = self.channels.remove(key)
            && let Some(side) = channel.orphan_of
        {
            let ended = channel.into_ended(key, reason, side);
            self.events.push_back(MuxEvent::Ended(ended));
        }
    }
}
