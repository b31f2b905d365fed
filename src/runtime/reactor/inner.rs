//! The reactor's state, and what each completion does to it.
//!
//! Every operation's user data has its [`Kind`] in the top byte; the rest
//! names what the operation is about.

#![expect(unsafe_code, reason = "ring entries name descriptors and buffers")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::task::Waker;
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use super::super::inbox::Doorbell;
use super::super::listener::{Backlog, Listener};
use super::super::poll_table::{Owner, PollKey, PollTable, Stage};
use super::super::readiness::Readiness;
use super::super::ring::{Completion, Ring, Sleep};
use super::super::socket::Socket;
use super::super::timer_wheel::TimerWheel;
use super::super::transfer::{TransferKey, Transfers};
use super::{Event, TAG_TASK};
use crate::time::Timestamp;

/// How long accepting rests after the process ran out of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

pub(super) enum TimerTarget {
    Loop(Owner),
    Task(Waker),
    /// Accepting rested after descriptors ran out.
    Accept(usize),
}

pub(super) struct Inner {
    pub(super) ring: Ring,
    /// INVARIANT: stands behind `ring`, so that its buffers outlive it.
    pub(super) transfers: Option<Transfers>,
    pub(super) polls: PollTable,
    pub(super) timers: TimerWheel<TimerTarget>,
    /// The one timeout that is armed on the ring, and the count that tells it
    /// from its predecessors.
    pub(super) armed_deadline: Option<Timestamp>,
    pub(super) timespec: Box<types::Timespec>,
    pub(super) listeners: Vec<Listening>,
    pub(super) doorbell: Option<Doorbell>,
    /// The doorbells of other shards that were rung from here.
    pub(super) neighbours: Vec<Doorbell>,
    pub(super) events: VecDeque<Event>,
    /// Polls that are queued and not submitted: each names a descriptor that has to
    /// stay open until then.
    pub(super) queued_polls: Vec<PollKey>,
    /// A transfer is queued likewise.
    pub(super) has_queued_transfer: bool,
    /// An operation was cancelled since the last turn, and somebody waits for its
    /// last completion: see [`Awaited`].
    pub(super) has_cancelled: bool,
}

pub(super) struct Listening {
    pub(super) listener: Listener,
    pub(super) state: Accepting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    Armed,
    /// Out of descriptors; a timer arms it again.
    Resting,
    /// Told to stop, the final completion is on its way.
    Stopping,
    Stopped,
}

/// Whether somebody waits for the last completion of what is cancelled: to take a
/// socket elsewhere, to end a transfer's pair, to take over a listener's backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Yes,
    No,
}

/// What a completion is about: the top byte of its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A multishot poll; the rest is its [`PollKey`].
    Poll = 1,
    /// A multishot accept; the rest is the listener's index.
    Accept = 2,
    /// The armed timeout.
    Timeout = 3,
    /// Another shard rang.
    Doorbell = 4,
    /// Ringing a neighbour failed; the rest is its index.
    Rang = 5,
    /// The poll on our own doorbell's eventfd.
    DoorbellFd = 6,
    /// Nobody waits for the outcome.
    Ignored = 7,
    /// A receive or send of the ring; the rest is its [`TransferKey`].
    Transfer = 8,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Poll,
        Self::Accept,
        Self::Timeout,
        Self::Doorbell,
        Self::Rang,
        Self::DoorbellFd,
        Self::Ignored,
        Self::Transfer,
    ];

    pub(super) const fn with(self, rest: u64) -> u64 {
        (self as u64) << 56 | rest
    }

    pub(super) fn split(user_data: u64) -> (Option<Self>, u64) {
        let kind = Self::ALL
            .into_iter()
            .find(|kind| *kind as u64 == user_data >> 56);
        (kind, user_data & ((1 << 56) - 1))
    }
}

/// The user data with which another shard's ring completes on this one.
pub(super) const DOORBELL_USER_DATA: u64 = Kind::Doorbell.with(0);

impl Inner {
    pub(super) fn push(&mut self, entry: &squeue::Entry) {
        // JUSTIFICATION: every entry that this file builds goes through here.
        // SAFETY: `Ring::push` asks that buffers outlive the operation. The
        // entries built here point to no buffer, except a timeout's timespec,
        // which the kernel copies while submitting (IORING_FEAT_SUBMIT_STABLE,
        // Linux 5.5): it has a box of its own behind `ring` in `self`, and it is
        // written between two enters on this thread, never during one.
        // It also asks that descriptors are open until submitted. A watched socket
        // is closed by `let_go`, which submits first what names it, or leaves by
        // `detach`, after the final completion; a listener is closed by that of its
        // accept; `watch_fd` has its caller promise more; our doorbell stays in
        // `self`. A neighbour's ring may be gone: MSG_RING does nothing to
        // what is no ring, and no ring is made once the shards have started.
        unsafe { self.ring.push(entry) };
    }

    /// Cancels whatever runs under `target`. Only a failure completes: the
    /// operation had ended by itself, and its final completion tells so.
    pub(super) fn cancel(&mut self, target: u64, awaited: Awaited) {
        let entry = opcode::AsyncCancel::new(target)
            .build()
            .user_data(Kind::Ignored.with(0))
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&entry);
        self.has_cancelled |= awaited == Awaited::Yes;
    }

    pub(super) fn neighbour_index(&mut self, doorbell: &Doorbell) -> usize {
        let known = self.neighbours.iter().position(|one| one.is_same(doorbell));
        known.unwrap_or_else(|| {
            self.neighbours.push(doorbell.clone());
            self.neighbours.len() - 1
        })
    }

    pub(super) fn arm_poll(&mut self, fd: RawFd, key: PollKey) {
        let flags = self.polls.interest(key).flags();
        let entry = opcode::PollAdd::new(types::Fd(fd), u32::from(flags.bits()))
            .multi(true)
            .build()
            .user_data(Kind::Poll.with(key.to_bits()));
        self.push(&entry);
        self.queued_polls.push(key);
    }

    /// Not by `IORING_OP_POLL_REMOVE`: that one fails with `EALREADY` on a poll
    /// which is just triggering, and then the poll would stay.
    pub(super) fn cancel_poll(&mut self, key: PollKey, awaited: Awaited) {
        self.cancel(Kind::Poll.with(key.to_bits()), awaited);
    }

    /// Closes a socket whose poll was or is to be cancelled. Until then the poll
    /// holds the file, so that the cancel sends the FIN or the RST.
    pub(super) fn let_go(&mut self, key: PollKey, socket: Socket) {
        if self.has_queued_transfer || self.queued_polls.contains(&key) {
            while self.ring.has_submissions() {
                self.ring.flush();
            }
            self.note_submitted();
        }
        drop(socket);
    }

    /// Submits what is queued and sleeps as told.
    pub(super) fn enter(&mut self, sleep: Sleep) {
        self.ring.enter(sleep);
        if !self.ring.has_submissions() {
            self.note_submitted();
        }
    }

    fn note_submitted(&mut self) {
        self.queued_polls.clear();
        self.has_queued_transfer = false;
    }

    pub(super) fn arm_accept(&mut self, index: usize) {
        let listening = &mut self.listeners[index];
        listening.state = Accepting::Armed;
        let fd = listening.listener.as_fd().as_raw_fd();
        let entry = opcode::AcceptMulti::new(types::Fd(fd))
            .flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
            .build()
            .user_data(Kind::Accept.with(index as u64));
        self.push(&entry);
    }

    pub(super) fn arm_doorbell(&mut self, doorbell: &Doorbell) {
        let entry = opcode::PollAdd::new(
            types::Fd(doorbell.eventfd().as_raw_fd()),
            libc::POLLIN as u32,
        )
        .multi(true)
        .build()
        .user_data(Kind::DoorbellFd.with(0));
        self.push(&entry);
    }

    /// Keeps the one armed timeout at or before `at`. An armed one that is
    /// earlier stays: waking once too often is cheaper than programming the
    /// timer on every turn.
    pub(super) fn arm_deadline(&mut self, at: Timestamp) {
        if self.armed_deadline.is_some_and(|armed| armed <= at) {
            return;
        }
        let at_ns = at.as_nanos();
        *self.timespec = types::Timespec::new()
            .sec(at_ns / 1_000_000_000)
            .nsec(u32::try_from(at_ns % 1_000_000_000).unwrap_or(0));
        let timespec: *const types::Timespec = &raw const *self.timespec;
        if self.armed_deadline.is_some() {
            let entry = opcode::TimeoutRemove::new(Kind::Timeout.with(0))
                .build()
                .user_data(Kind::Ignored.with(0))
                .flags(squeue::Flags::SKIP_SUCCESS);
            self.push(&entry);
        }
        let entry = opcode::Timeout::new(timespec)
            .flags(types::TimeoutFlags::ABS)
            .build()
            .user_data(Kind::Timeout.with(0));
        self.push(&entry);
        self.armed_deadline = Some(at);
    }

    pub(super) fn handle_completion(
        &mut self,
        completion: Completion,
        now: Timestamp,
    ) -> Option<Event> {
        match Kind::split(completion.user_data) {
            (Some(Kind::Poll), bits) => self.handle_poll(PollKey::from_bits(bits), completion),
            (Some(Kind::Accept), index) => self.handle_accept(
                usize::try_from(index).unwrap_or(usize::MAX),
                completion,
                now,
            ),
            (Some(Kind::Timeout), _) => {
                // A removed predecessor says ECANCELED; only ETIME is ours.
                if completion.result == -libc::ETIME {
                    self.armed_deadline = None;
                }
                None
            }
            (Some(Kind::Doorbell), _) => Some(Event::Doorbell),
            (Some(Kind::DoorbellFd), _) => {
                let doorbell = self.doorbell.take()?;
                doorbell.clear_eventfd();
                if !completion.has_more() {
                    self.arm_doorbell(&doorbell);
                }
                self.doorbell = Some(doorbell);
                Some(Event::Doorbell)
            }
            (Some(Kind::Rang), index) => {
                // The other ring is full or gone: an eventfd always has room.
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                if let Some(neighbour) = self.neighbours.get(index) {
                    neighbour.ring_by_eventfd();
                }
                None
            }
            (Some(Kind::Transfer), bits) => {
                let transfers = self.transfers.as_mut()?;
                let key = TransferKey::from_bits(bits);
                let (owner, progress) = transfers.handle_completion(key, completion)?;
                Some(Event::Transfer { owner, progress })
            }
            (Some(Kind::Ignored) | None, _) => None,
        }
    }

    pub(super) fn handle_poll(&mut self, key: PollKey, completion: Completion) -> Option<Event> {
        let stage = self.polls.stage(key)?;
        debug_assert_ne!(
            completion.result,
            -libc::EBADF,
            "a descriptor was closed before the ring knew its file"
        );
        if stage != Stage::Armed {
            if !completion.has_more() {
                // The final completion: nothing holds the file any more.
                self.polls.finish(key);
            }
            return None;
        }
        if !completion.has_more() {
            let fd = self.polls.fd(key);
            self.arm_poll(fd, key);
        }
        let readiness = Readiness::from_completion(completion.result);
        let owner = self.polls.owner(key);
        if owner.tag == TAG_TASK {
            self.polls.latch(key, readiness);
            return None;
        }
        (!readiness.is_empty()).then_some(Event::Ready { owner, readiness })
    }

    pub(super) fn handle_accept(
        &mut self,
        index: usize,
        completion: Completion,
        now: Timestamp,
    ) -> Option<Event> {
        let listening = self.listeners.get(index)?;
        let state = listening.state;
        let ended = !completion.has_more();
        if completion.result >= 0 {
            // JUSTIFICATION: the ring hands out accepted descriptors as numbers.
            // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else
            // owns: a successful accept just made it for this completion alone,
            // and a completion is reaped once.
            let fd = unsafe { OwnedFd::from_raw_fd(completion.result) };
            if ended {
                self.accept_ended(index, state);
            }
            return Some(Event::Accepted {
                listener: index,
                socket: Socket::from_nonblocking(fd),
            });
        }
        match -completion.result {
            libc::ECANCELED => {
                self.accept_ended(index, state);
                None
            }
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                let refused = self.listeners[index].listener.refuse_backlog();
                if state == Accepting::Stopping {
                    self.accept_ended(index, state);
                } else {
                    self.listeners[index].state = Accepting::Resting;
                    self.timers
                        .set(now + ACCEPT_REST, TimerTarget::Accept(index));
                }
                Some(Event::Refused {
                    listener: index,
                    count: refused,
                })
            }
            error => {
                if ended {
                    self.accept_ended(index, state);
                }
                let error = io::Error::from_raw_os_error(error);
                Some(Event::AcceptFailed {
                    listener: index,
                    error,
                })
            }
        }
    }

    pub(super) fn accept_ended(&mut self, index: usize, state: Accepting) {
        match state {
            Accepting::Armed => self.arm_accept(index),
            Accepting::Stopping => self.drain_backlog(index),
            Accepting::Resting | Accepting::Stopped => {}
        }
    }

    pub(super) fn resume_accepting(&mut self, index: usize) {
        if self.listeners[index].state == Accepting::Resting {
            self.arm_accept(index);
        }
    }

    /// Takes what the kernel has queued on a listener that no longer accepts,
    /// then closes it.
    pub(super) fn drain_backlog(&mut self, index: usize) {
        loop {
            match self.listeners[index].listener.accept_queued() {
                Backlog::Connection(socket) => {
                    self.events.push_back(Event::Accepted {
                        listener: index,
                        socket,
                    });
                }
                Backlog::Refused => {
                    self.events.push_back(Event::Refused {
                        listener: index,
                        count: 1,
                    });
                }
                Backlog::Empty => break,
            }
        }
        self.listeners[index].listener.close();
        self.listeners[index].state = Accepting::Stopped;
    }
}
