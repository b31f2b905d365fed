//! Messages between shards, and from helper threads to shards.
//!
//! A message goes into the receiver's queue, then its doorbell is rung: from a
//! shard by one `IORING_OP_MSG_RING`, from any other thread (or when that
//! fails) by its eventfd. One ring answers for any number of messages.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc;

use rustix::event::{EventfdFlags, eventfd};

use super::reactor::Reactor;

/// Wakes one shard. Cheap to clone; outlives the shard.
#[derive(Clone, Debug)]
pub struct Doorbell {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// A ring is on its way; whoever sees it set need not ring again.
    claimed: AtomicBool,
    /// The receiver's ring, once it runs; -1 before and after.
    ring_fd: AtomicI32,
    eventfd: OwnedFd,
}

/// The sending end of one shard's inbox.
#[derive(Debug)]
pub struct Mailbox<M> {
    sender: mpsc::Sender<M>,
    doorbell: Doorbell,
}

/// The receiving end: belongs to one shard.
#[derive(Debug)]
pub struct Inbox<M> {
    receiver: mpsc::Receiver<M>,
    doorbell: Doorbell,
}

/// Makes the two ends of one shard's inbox.
///
/// # Errors
///
/// When no descriptor is left for the doorbell.
pub fn inbox<M>() -> io::Result<(Mailbox<M>, Inbox<M>)> {
    let (sender, receiver) = mpsc::channel();
    let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let doorbell = Doorbell {
        shared: Arc::new(Shared {
            claimed: AtomicBool::new(false),
            ring_fd: AtomicI32::new(-1),
            eventfd,
        }),
    };
    let mailbox = Mailbox {
        sender,
        doorbell: doorbell.clone(),
    };
    Ok((mailbox, Inbox { receiver, doorbell }))
}

impl<M> Mailbox<M> {
    /// Sends from a shard, through its ring.
    ///
    /// # Errors
    ///
    /// Gives the message back when the receiver has ended.
    pub fn send_from(&self, reactor: &Reactor, message: M) -> Result<(), M> {
        self.sender.send(message).map_err(|error| error.0)?;
        reactor.ring(&self.doorbell);
        Ok(())
    }

    /// Sends from any thread.
    ///
    /// # Errors
    ///
    /// Gives the message back when the receiver has ended.
    pub fn send(&self, message: M) -> Result<(), M> {
        self.sender.send(message).map_err(|error| error.0)?;
        if self.doorbell.claim() {
            self.doorbell.ring_by_eventfd();
        }
        Ok(())
    }
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            doorbell: self.doorbell.clone(),
        }
    }
}

impl<M> Inbox<M> {
    /// Has `reactor` report [`super::reactor::Event::Doorbell`] for this inbox.
    pub fn attach(&self, reactor: &Reactor) {
        reactor.attach_doorbell(self.doorbell.clone());
    }

    /// The messages that are there. Call on every doorbell event, and take all.
    pub fn drain(&self) -> impl Iterator<Item = M> + '_ {
        // Cleared before the queue is read: a message that comes after the last
        // look rings anew.
        self.doorbell.shared.claimed.store(false, Ordering::SeqCst);
        self.receiver.try_iter()
    }
}

#[cfg(test)]
impl<M> Inbox<M> {
    pub(super) fn publish_ring_for_test(&self, ring_fd: RawFd) {
        self.doorbell.publish_ring(ring_fd);
    }
}

impl<M> Drop for Inbox<M> {
    fn drop(&mut self) {
        self.doorbell.shared.ring_fd.store(-1, Ordering::SeqCst);
    }
}

impl Doorbell {
    /// Claims the right, and duty, to ring. `false` when a ring is on its way.
    pub(crate) fn claim(&self) -> bool {
        !self.shared.claimed.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn publish_ring(&self, ring_fd: RawFd) {
        self.shared.ring_fd.store(ring_fd, Ordering::SeqCst);
    }

    pub(crate) fn ring_fd(&self) -> Option<RawFd> {
        let ring_fd = self.shared.ring_fd.load(Ordering::SeqCst);
        (ring_fd >= 0).then_some(ring_fd)
    }

    pub(crate) fn eventfd(&self) -> BorrowedFd<'_> {
        self.shared.eventfd.as_fd()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub(crate) fn ring_by_eventfd(&self) {
        // EAGAIN: the counter is full, so a wake-up is already due.
        let _ = rustix::io::write(&self.shared.eventfd, &1_u64.to_ne_bytes());
    }

    pub(crate) fn clear_eventfd(&self) {
        let _ = rustix::io::read(&self.shared.eventfd, &mut [0_u8; 8]);
    }
}
