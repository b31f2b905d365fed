//! One shard's view of the kernel: readiness of sockets, accepted
//! connections, messages from other shards, deadlines, all on one ring.
//!
//! Data moves by direct system calls on non-blocking sockets; the ring tells
//! when to try. Each watched socket has one multishot poll, armed once and
//! kept until the socket is closed or leaves the shard:
//!
//! ```text
//!            watch                    retire / detach
//!   (free) ─────────> Armed ────────────────────────────> Leaving ──> (free)
//!                      │ ▲         cancelled               final completion
//!    no MORE (overflow) └─┘ armed again
//! ```
//!
//! An armed poll holds the file: closing the descriptor alone sends neither FIN
//! nor RST. So a socket is given back here ([`Reactor::retire`]), which closes it
//! and has the next turn cancel its poll; the cancel lets go of the file, which
//! ends the connection. A socket that is to go elsewhere leaves with the poll's
//! final completion ([`Reactor::detach`]).
//!
//! Readiness is edge-triggered: an event carries only the bits that triggered,
//! and its receiver latches them until a call says `EAGAIN`.

mod inner;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use inner::{Accepting, Awaited, DOORBELL_USER_DATA, Inner, Kind, Listening, TimerTarget};

use super::clock;
use super::executor::wake;
use super::inbox::Doorbell;
use super::listener::Listener;
use super::poll_table::{Owner, PollKey, PollTable};
use super::provided::{BufferSize, Segment};
use super::readiness::{Interest, Readiness};
use super::ring::{Ring, RingSize, Sleep};
use super::socket::Socket;
use super::timer_wheel::{TimerKey, TimerWheel};
use super::transfer::{Extent, Progress, TransferKey, Transfers};
use crate::time::Timestamp;

/// The owner tag of a socket whose events wake a task instead of reaching the
/// shard's loop.
pub(crate) const TAG_TASK: u8 = u8::MAX;

/// Something the shard's loop must act on.
#[derive(Debug)]
pub enum Event {
    /// A socket watched under `owner` triggered.
    Ready { owner: Owner, readiness: Readiness },
    /// A connection came in on the listener with this index.
    Accepted { listener: usize, socket: Socket },
    /// Connections that were accepted and closed at once, because the process
    /// has no descriptor left for them.
    Refused { listener: usize, count: u32 },
    /// `accept` failed for a reason that is not a limit of ours.
    AcceptFailed { listener: usize, error: io::Error },
    /// The inbox may hold messages.
    Doorbell,
    /// A transfer of the ring made progress.
    Transfer { owner: Owner, progress: Progress },
    /// A deadline set with [`Reactor::set_deadline`] has come.
    Deadline { owner: Owner },
}

/// How a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// With a FIN, once what was written has been delivered.
    Clean,
    /// With a RST; what was written and not delivered is dropped.
    Reset,
}

/// The shard's reactor. Shared on its thread through `Rc`; never leaves it.
pub struct Reactor {
    inner: RefCell<Inner>,
    now: Cell<Timestamp>,
}

impl Reactor {
    /// Makes the calling thread's reactor.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a ring; [`super::kernel::probe`] turns the
    /// error into a next step.
    pub fn new(size: RingSize) -> io::Result<Rc<Self>> {
        let ring = Ring::new(size)?;
        let now = clock::now();
        Ok(Rc::new(Self {
            inner: RefCell::new(Inner {
                ring,
                transfers: None,
                polls: PollTable::new(),
                timers: TimerWheel::new(now),
                armed_deadline: None,
                timespec: Box::default(),
                listeners: Vec::new(),
                doorbell: None,
                neighbours: Vec::new(),
                events: VecDeque::new(),
                queued_polls: Vec::new(),
                has_queued_transfer: false,
                has_cancelled: false,
            }),
            now: Cell::new(now),
        }))
    }

    /// The time as of the last [`Self::turn`]; saves a clock reading per event.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now.get()
    }

    /// Whether the kernel can gather completions ([`Sleep::Batch`]).
    #[must_use]
    pub fn has_min_wait(&self) -> bool {
        self.inner.borrow().ring.has_min_wait()
    }

    /// Submits what is queued, sleeps as told but not past `deadline` or an own
    /// timer, and takes a new reading of the clock. Events come from
    /// [`Self::poll_event`].
    pub fn turn(&self, sleep: Sleep, deadline: Option<Timestamp>) {
        let mut inner = self.inner.borrow_mut();
        let has_cancelled = std::mem::take(&mut inner.has_cancelled);
        let sleep = match sleep {
            _ if !inner.events.is_empty() => Sleep::No,
            // A last completion is all that somebody waits for.
            Sleep::Batch { .. } if has_cancelled => Sleep::UntilOne,
            sleep => sleep,
        };
        if sleep != Sleep::No {
            let timers = inner.timers.next_deadline();
            let first = match (deadline, timers) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            if let Some(first) = first {
                inner.arm_deadline(first);
            }
        }
        inner.enter(sleep);
        drop(inner);
        self.now.set(clock::now());
    }

    /// Spins for at most `limit` for something to happen, without sleeping.
    /// Returns whether something did.
    pub fn spin(&self, limit: Duration) -> bool {
        let until = clock::now() + limit;
        let mut inner = self.inner.borrow_mut();
        // What the last turn queued must not wait for the spin to end.
        if inner.ring.has_submissions() {
            inner.enter(Sleep::No);
        }
        loop {
            for _ in 0..32 {
                if inner.ring.has_completions() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if clock::now() >= until {
                return false;
            }
        }
    }

    /// Whether [`Self::poll_event`] might find something if the loop came
    /// round now. Costs two loads, so ask it between quanta of work.
    #[must_use]
    pub fn has_completions(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        !inner.events.is_empty() || inner.ring.has_completions()
    }

    /// Whether the events taken so far are all that the kernel had to tell by
    /// now: every poll is armed, and none has anything new. Costs three loads.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.events.is_empty() && !inner.ring.has_submissions() && !inner.ring.has_completions()
    }

    /// Takes the next event; call until `None`.
    pub fn poll_event(&self) -> Option<Event> {
        let mut inner = self.inner.borrow_mut();
        loop {
            if let Some(event) = inner.events.pop_front() {
                return Some(event);
            }
            if let Some(completion) = inner.ring.poll_completion() {
                if let Some(event) = inner.handle_completion(completion, self.now.get()) {
                    return Some(event);
                }
                continue;
            }
            match inner.timers.poll(self.now.get())? {
                TimerTarget::Loop(owner) => return Some(Event::Deadline { owner }),
                TimerTarget::Task(waker) => wake(waker),
                TimerTarget::Accept(listener) => inner.resume_accepting(listener),
            }
        }
    }

    /// Watches `socket` for `owner`. The caller keeps the socket and must end
    /// it through [`Self::retire`] or [`Self::detach`].
    pub fn watch(&self, socket: &Socket, owner: Owner) -> PollKey {
        self.watch_for(socket.as_fd(), owner, Interest::Both)
    }

    /// As [`Self::watch`], for a task, with this interest.
    pub(crate) fn watch_task(&self, socket: &Socket, interest: Interest) -> PollKey {
        self.watch_for(socket.as_fd(), Owner::TASK, interest)
    }

    /// As [`Self::watch`], for a task that is only told of what comes in.
    pub(crate) fn watch_input(&self, socket: &Socket) -> PollKey {
        self.watch_task(socket, Interest::Input)
    }

    /// As [`Self::watch`], for a datagram socket of the shard's loop: one poll tells of what
    /// comes in, and another, while it is wanted, of room for what goes out.
    pub fn watch_datagrams(&self, socket: &Socket, owner: Owner, interest: Interest) -> PollKey {
        self.watch_for(socket.as_fd(), owner, interest)
    }

    /// Watches for what comes in by any descriptor that is never closed while the reactor lives,
    /// such as a signalfd.
    pub fn watch_fd(&self, fd: BorrowedFd<'_>, owner: Owner) -> PollKey {
        self.watch_for(fd, owner, Interest::Input)
    }

    fn watch_for(&self, fd: BorrowedFd<'_>, owner: Owner, interest: Interest) -> PollKey {
        let mut inner = self.inner.borrow_mut();
        let key = inner.polls.insert(fd.as_raw_fd(), owner, interest);
        inner.arm_poll(fd.as_raw_fd(), key);
        key
    }

    /// Gives the events of a watched socket to another owner; returns those
    /// that a task had not looked at.
    pub fn set_owner(&self, key: PollKey, owner: Owner) -> Readiness {
        self.inner.borrow_mut().polls.set_owner(key, owner)
    }

    /// Ends a watched socket: closes it and cancels its poll, which is the last to
    /// hold the file. The FIN or the RST goes out with the next [`Self::turn`] that
    /// may sleep, before it does. No event of the socket is delivered any more.
    pub fn retire(&self, key: PollKey, socket: Socket, closing: Closing) {
        if closing == Closing::Reset {
            // Fails only on a socket that is already dead.
            let _ = socket.set_linger_reset();
        }
        let mut inner = self.inner.borrow_mut();
        debug_assert_eq!(
            inner.polls.fd(key),
            socket.as_fd().as_raw_fd(),
            "a key goes with its socket"
        );
        inner.let_go(key, socket);
        inner.cancel_poll(key, Awaited::No);
        inner.polls.retire(key);
    }

    /// Takes a watched socket off this shard: resolves once no operation holds
    /// its file, so that it can be closed or sent to another thread.
    pub async fn detach(&self, key: PollKey, socket: Socket) -> Socket {
        {
            let mut inner = self.inner.borrow_mut();
            inner.polls.detach(key);
            inner.cancel_poll(key, Awaited::Yes);
        }
        let mut detaching = Detaching {
            reactor: self,
            key,
            socket: Some(socket),
        };
        poll_fn(|context| {
            self.inner
                .borrow_mut()
                .polls
                .poll_detached(key, context.waker())
        })
        .await;
        match detaching.socket.take() {
            Some(socket) => socket,
            None => unreachable!("only its drop gives it away"),
        }
    }

    /// Number of sockets that were given to this reactor and not yet back.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.inner.borrow().polls.watched()
    }

    /// Number of those of them that are connections to other programs: neither sockets for
    /// datagrams, nor what has its shard woken.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.borrow().polls.connections()
    }

    /// Latched readiness of a task's socket, taken; or registers the waker.
    pub(crate) fn poll_readiness(&self, key: PollKey, context: &Context<'_>) -> Poll<Readiness> {
        self.inner
            .borrow_mut()
            .polls
            .poll_readiness(key, context.waker())
    }

    /// Makes the buffers for the ring's own transfers, unless they are there.
    ///
    /// # Errors
    ///
    /// When memory is short, or the kernel has no provided buffers.
    pub fn enable_transfers(&self) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        if inner.transfers.is_none() {
            inner.transfers = Some(Transfers::new(&inner.ring)?);
        }
        Ok(())
    }

    /// Has the ring receive from `socket`, into buffers of this size, until the
    /// transfer's final progress. The socket stays open until then.
    ///
    /// # Panics
    ///
    /// Without [`Self::enable_transfers`], as all that deals with transfers.
    pub fn start_receive(&self, socket: &Socket, owner: Owner, size: BufferSize) -> TransferKey {
        self.receive(socket, owner, size, Extent::UntilCancelled)
    }

    /// Has the ring receive from `socket` once, into one buffer of this size:
    /// the transfer's first progress is its final one.
    pub fn start_receive_once(
        &self,
        socket: &Socket,
        owner: Owner,
        size: BufferSize,
    ) -> TransferKey {
        self.receive(socket, owner, size, Extent::OneBuffer)
    }

    fn receive(
        &self,
        socket: &Socket,
        owner: Owner,
        size: BufferSize,
        extent: Extent,
    ) -> TransferKey {
        self.queue_transfer(|transfers, ring| {
            transfers.receive(ring, socket, owner, size, extent, |key| {
                Kind::Transfer.with(key.to_bits())
            })
        })
    }

    /// Has the ring send `segments`, at most
    /// [`SEND_SEGMENTS_MAX`](super::transfer::SEND_SEGMENTS_MAX), as far as
    /// `socket` takes them now. Segments beyond that number are not taken from
    /// the iterator. The socket stays open until the transfer's first progress.
    pub fn start_send(
        &self,
        socket: &Socket,
        owner: Owner,
        segments: impl Iterator<Item = Segment>,
    ) -> TransferKey {
        self.queue_transfer(|transfers, ring| {
            transfers.send(ring, socket, owner, segments, |key| {
                Kind::Transfer.with(key.to_bits())
            })
        })
    }

    /// Ends a transfer early; its final progress comes all the same.
    pub fn cancel_transfer(&self, key: TransferKey) {
        let mut inner = self.inner.borrow_mut();
        if inner
            .transfers
            .as_ref()
            .is_some_and(|transfers| transfers.is_under_way(key))
        {
            inner.cancel(Kind::Transfer.with(key.to_bits()), Awaited::Yes);
        }
    }

    /// Whether enough buffers of this size are free to start a receive that
    /// starved.
    #[must_use]
    pub fn has_room(&self, size: BufferSize) -> bool {
        self.with_transfers(|transfers, _| transfers.has_room(size))
    }

    /// The segments of the last [`Step::Received`](super::transfer::Step),
    /// to be taken before the next event.
    pub fn take_received(&self, take: impl FnMut(Segment)) {
        self.with_transfers(|transfers, _| transfers.take_received().for_each(take));
    }

    /// The bytes that the last [`Step::Sent`](super::transfer::Step) did not
    /// take, to be copied before the next event.
    pub fn with_unsent<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        self.with_transfers(|transfers, _| read(transfers.unsent()))
    }

    /// Reads a segment that is not sent, and gives its buffer back.
    pub fn consume_segment<T>(&self, segment: Segment, read: impl FnOnce(&[u8]) -> T) -> T {
        self.with_transfers(|transfers, _| {
            let value = read(transfers.bytes(&segment));
            transfers.recycle(segment);
            value
        })
    }

    fn queue_transfer<T>(&self, act: impl FnOnce(&mut Transfers, &mut Ring) -> T) -> T {
        self.inner.borrow_mut().has_queued_transfer = true;
        self.with_transfers(act)
    }

    fn with_transfers<T>(&self, act: impl FnOnce(&mut Transfers, &mut Ring) -> T) -> T {
        let mut inner = self.inner.borrow_mut();
        let Inner {
            ring, transfers, ..
        } = &mut *inner;
        let Some(transfers) = transfers else {
            unreachable!("transfers are enabled before the first is started");
        };
        act(transfers, ring)
    }

    /// Starts accepting from `listener`; returns the index that its events
    /// carry.
    pub fn listen(&self, listener: Listener) -> usize {
        let mut inner = self.inner.borrow_mut();
        let index = inner.listeners.len();
        inner.listeners.push(Listening {
            listener,
            state: Accepting::Stopped,
        });
        inner.arm_accept(index);
        index
    }

    /// Stops accepting everywhere. What the kernel has queued by then is
    /// still delivered as [`Event::Accepted`]: closing a listener with a
    /// backlog would reset those peers; one that somebody else keeps open is
    /// left with it. Closed once [`Self::is_listening`]
    /// says no.
    pub fn stop_listening(&self) {
        let mut inner = self.inner.borrow_mut();
        for index in 0..inner.listeners.len() {
            match inner.listeners[index].state {
                Accepting::Armed => {
                    inner.listeners[index].state = Accepting::Stopping;
                    inner.cancel(Kind::Accept.with(index as u64), Awaited::Yes);
                }
                Accepting::Resting => inner.drain_backlog(index),
                Accepting::Stopping | Accepting::Stopped => {}
            }
        }
    }

    /// Whether any listener still accepts or is being stopped.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.inner
            .borrow()
            .listeners
            .iter()
            .any(|one| one.state != Accepting::Stopped)
    }

    /// Has the loop told when `at` has come.
    pub fn set_deadline(&self, at: Timestamp, owner: Owner) -> TimerKey {
        self.inner
            .borrow_mut()
            .timers
            .set(at, TimerTarget::Loop(owner))
    }

    /// Takes a deadline back, if it has not come yet.
    pub fn cancel_deadline(&self, key: TimerKey) {
        self.inner.borrow_mut().timers.cancel(key);
    }

    /// Resolves once `at` has come.
    pub async fn sleep_until(&self, at: Timestamp) {
        let mut timer = TaskTimer {
            reactor: self,
            key: None,
        };
        poll_fn(|context| {
            // The reading of the last turn: a timer never fires early.
            if self.now() >= at {
                return Poll::Ready(());
            }
            timer.rearm(at, context.waker());
            Poll::Pending
        })
        .await;
    }

    /// Runs `future` until it is done or `at` has come, whichever is first.
    pub async fn deadline<T>(&self, at: Timestamp, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut sleep = pin!(self.sleep_until(at));
        poll_fn(|context| {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(Some(value));
            }
            sleep.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    /// Makes this reactor answer `doorbell`: rings through the ring arrive as
    /// messages, rings from other threads through its eventfd.
    pub(crate) fn attach_doorbell(&self, doorbell: Doorbell) {
        let mut inner = self.inner.borrow_mut();
        doorbell.publish_ring(inner.ring.raw_fd());
        inner.arm_doorbell(&doorbell);
        inner.doorbell = Some(doorbell);
    }

    /// Rings another shard: one message on its ring, unless a ring is already
    /// on its way.
    pub(crate) fn ring(&self, doorbell: &Doorbell) {
        if !doorbell.claim() {
            return;
        }
        let Some(ring_fd) = doorbell.ring_fd() else {
            doorbell.ring_by_eventfd();
            return;
        };
        let mut inner = self.inner.borrow_mut();
        let index = inner.neighbour_index(doorbell);
        let entry = opcode::MsgRingData::new(types::Fd(ring_fd), 0, DOORBELL_USER_DATA, None)
            .build()
            .user_data(Kind::Rang.with(index as u64))
            .flags(squeue::Flags::SKIP_SUCCESS);
        inner.push(&entry);
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("now", &self.now.get())
            .finish_non_exhaustive()
    }
}

/// A detach under way; a task that is dropped meanwhile closes its socket.
struct Detaching<'a> {
    reactor: &'a Reactor,
    key: PollKey,
    /// Taken once no operation holds it.
    socket: Option<Socket>,
}

impl Drop for Detaching<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            let mut inner = self.reactor.inner.borrow_mut();
            inner.let_go(self.key, socket);
            inner.polls.abandon(self.key);
        }
    }
}

/// A task's timer, cancelled when the task loses interest.
struct TaskTimer<'a> {
    reactor: &'a Reactor,
    key: Option<TimerKey>,
}

impl TaskTimer<'_> {
    fn rearm(&mut self, at: Timestamp, waker: &Waker) {
        let mut inner = self.reactor.inner.borrow_mut();
        if let Some(key) = self.key.take() {
            inner.timers.cancel(key);
        }
        self.key = Some(inner.timers.set(at, TimerTarget::Task(waker.clone())));
    }
}

impl Drop for TaskTimer<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.reactor.inner.borrow_mut().timers.cancel(key);
        }
    }
}
