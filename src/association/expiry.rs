//! Which association expires next: a queue through the entries themselves.
//!
//! Every entry lives equally long from the time it was queued, so queueing at
//! the back keeps the queue in the order of deadlines. A renewal unlinks the
//! entry and queues it anew. Each step is O(1), the next deadline is always
//! exact, and renewals take no memory.
//!
//! Left out on purpose: lifetimes that differ between entries.

use std::time::Duration;

use super::slab::{NO_SLOT, Slab};
use crate::time::Timestamp;

/// The queue's ends; its links are in the entries.
#[derive(Debug)]
pub(super) struct ExpiryQueue {
    front: u32,
    back: u32,
    lifetime: Duration,
}

/// An entry's place in the queue.
#[derive(Debug)]
pub(super) struct Links {
    previous: u32,
    next: u32,
    queued_at: Timestamp,
}

impl ExpiryQueue {
    pub(super) const fn new(lifetime: Duration) -> Self {
        Self {
            front: NO_SLOT,
            back: NO_SLOT,
            lifetime,
        }
    }

    /// Queues the entry at `index`, which is in no queue, to expire a lifetime
    /// after `now`.
    pub(super) fn push<T: AsRef<Links> + AsMut<Links>>(
        &mut self,
        slab: &mut Slab<T>,
        index: u32,
        now: Timestamp,
    ) {
        let previous = self.back;
        let queued_at = match slab.get_mut(previous) {
            None => {
                self.front = index;
                now
            }
            Some(back) => {
                let links = back.as_mut();
                debug_assert!(links.queued_at <= now, "the clock went back");
                links.next = index;
                links.queued_at.max(now)
            }
        };
        *slab.held_mut(index).as_mut() = Links {
            previous,
            next: NO_SLOT,
            queued_at,
        };
        self.back = index;
    }

    /// Takes the entry at `index`, which is queued, out of the queue.
    pub(super) fn remove<T: AsRef<Links> + AsMut<Links>>(
        &mut self,
        slab: &mut Slab<T>,
        index: u32,
    ) {
        let links = std::mem::take(slab.held_mut(index).as_mut());
        match slab.get_mut(links.previous) {
            Some(previous) => previous.as_mut().next = links.next,
            None => self.front = links.next,
        }
        match slab.get_mut(links.next) {
            Some(next) => next.as_mut().previous = links.previous,
            None => self.back = links.previous,
        }
    }

    /// The entry that expires first, and when.
    pub(super) fn front<T: AsRef<Links>>(&self, slab: &Slab<T>) -> Option<(u32, Timestamp)> {
        let entry = slab.get(self.front)?;
        Some((self.front, self.deadline_of(entry.as_ref())))
    }

    /// When a queued entry with these links expires.
    pub(super) fn deadline_of(&self, links: &Links) -> Timestamp {
        links.queued_at + self.lifetime
    }

    /// Checks the links and counts the entries.
    ///
    /// # Panics
    ///
    /// When the queue is broken.
    pub(super) fn invariants<T: AsRef<Links>>(&self, slab: &Slab<T>) -> u32 {
        let (mut count, mut previous, mut index) = (0, NO_SLOT, self.front);
        let mut queued_at = Timestamp::default();
        while index != NO_SLOT {
            let links = slab.held(index).as_ref();
            assert_eq!(links.previous, previous, "queue link of slot {index}");
            assert!(links.queued_at >= queued_at, "queue order at slot {index}");
            assert!(count < slab.len(), "queue loops");
            (previous, index, queued_at) = (index, links.next, links.queued_at);
            count += 1;
        }
        assert_eq!(self.back, previous, "end of the queue");
        count
    }
}

impl Default for Links {
    fn default() -> Self {
        Self {
            previous: NO_SLOT,
            next: NO_SLOT,
            queued_at: Timestamp::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry(Links);

    impl AsRef<Links> for Entry {
        fn as_ref(&self) -> &Links {
            &self.0
        }
    }

    impl AsMut<Links> for Entry {
        fn as_mut(&mut self) -> &mut Links {
            &mut self.0
        }
    }

    enum Step {
        Push(u32),
        Remove(u32),
    }
    use Step::{Push, Remove};

    /// Runs the steps, one a second, and expects the queue to give `order`,
    /// slots with their deadlines.
    fn check(steps: &[Step], order: &[(u32, u64)]) {
        let mut slab = Slab::new();
        let mut queue = ExpiryQueue::new(Duration::from_secs(100));
        for n in 0..4 {
            assert_eq!(slab.insert(Entry(Links::default())), n);
        }
        let mut now = Timestamp::default();
        for step in steps {
            match *step {
                Push(index) => queue.push(&mut slab, index, now),
                Remove(index) => queue.remove(&mut slab, index),
            }
            queue.invariants(&slab);
            now = now + Duration::from_secs(1);
        }
        for &(index, at_s) in order {
            let deadline = Timestamp::default() + Duration::from_secs(at_s);
            assert_eq!(queue.front(&slab), Some((index, deadline)));
            queue.remove(&mut slab, index);
            queue.invariants(&slab);
        }
        assert_eq!(queue.front(&slab), None);
    }

    #[test]
    fn entries_expire_in_order() {
        check(&[], &[]);
        check(&[Push(2)], &[(2, 100)]);
        check(&[Push(2), Remove(2)], &[]);
        check(&[Push(2), Remove(2), Push(2)], &[(2, 102)]);
        check(
            &[Push(3), Push(0), Push(1)],
            &[(3, 100), (0, 101), (1, 102)],
        );
        check(
            &[Push(3), Push(0), Push(1), Remove(0)],
            &[(3, 100), (1, 102)],
        );
        check(
            &[Push(3), Push(0), Push(1), Remove(3), Push(3)],
            &[(0, 101), (1, 102), (3, 104)],
        );
        check(
            &[Push(0), Push(1), Remove(1), Push(1), Remove(0)],
            &[(1, 103)],
        );
    }
}
