//! The sockets whose readiness a shard watches: sixteen bytes each, so that
//! ten thousand idle pairs stay cheap.

use std::os::fd::RawFd;
use std::task::{Poll, Waker};

use super::executor::wake;
use super::reactor::TAG_TASK;
use super::readiness::{Interest, Readiness};
use super::slot_key::SlotKey;

/// Whom an event is for: a tag that tells the kind of owner, and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Chosen by the shard; `u8::MAX` is reserved for tasks.
    pub tag: u8,
    pub token: u32,
}

impl Owner {
    /// The owner of a socket that one task reads and writes.
    pub const TASK: Self = Self {
        tag: TAG_TASK,
        token: NONE,
    };
}

/// Names one watched socket for as long as it is watched.
pub type PollKey = SlotKey<Watch>;

/// What a [`PollKey`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {}

/// The life of one watched socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    Free,
    Armed,
    /// Cancelled, and closed by whoever watched; the final completion frees the slot.
    Closing,
    /// Cancelled; the final completion sets the socket free for its task.
    Detaching,
    /// No operation is left; the task that waits may take its socket.
    Detached,
}

const NONE: u32 = u32::MAX;

struct Slot {
    /// The descriptor, to arm its poll again; owned by whoever watches.
    fd: RawFd,
    /// The owner's token; for a task the index of its waker; for a free slot
    /// the next free one.
    token: u32,
    generation: u16,
    tag: u8,
    stage: Stage,
    /// What a task has not looked at yet.
    latched: Readiness,
    interest: Interest,
}

const _: () = assert!(size_of::<Slot>() == 16);

/// Slots are allocated this many at a time, so that growing copies nothing.
const CHUNK_SLOTS: usize = 256;

pub(crate) struct PollTable {
    chunks: Vec<Vec<Slot>>,
    free: u32,
    /// Slots whose socket is still somebody's.
    watched: usize,
    /// Those of them that are connections to somewhere else.
    connections: usize,
    wakers: Vec<Option<Waker>>,
    wakers_free: Vec<u32>,
}

impl PollTable {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: NONE,
            watched: 0,
            connections: 0,
            wakers: Vec::new(),
            wakers_free: Vec::new(),
        }
    }

    /// Number of sockets whose poll is armed, or whose task takes them away.
    pub(crate) fn watched(&self) -> usize {
        self.watched
    }

    /// Those of them that are connections to other programs.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    pub(crate) fn insert(&mut self, fd: RawFd, owner: Owner, interest: Interest) -> PollKey {
        let index = if self.free == NONE {
            self.grow()
        } else {
            self.free
        };
        self.free = self.slot(index).token;
        self.watched += 1;
        self.connections += usize::from(interest == Interest::Both);
        let slot = self.slot_mut(index);
        slot.fd = fd;
        slot.token = owner.token;
        slot.tag = owner.tag;
        slot.stage = Stage::Armed;
        slot.latched = Readiness::NONE;
        slot.interest = interest;
        PollKey::new(index, slot.generation)
    }

    /// The stage of a key's socket; `None` for a key that outlived it.
    pub(crate) fn stage(&self, key: PollKey) -> Option<Stage> {
        let chunk = self.chunks.get(key.index as usize / CHUNK_SLOTS)?;
        let slot = chunk.get(key.index as usize % CHUNK_SLOTS)?;
        (slot.generation == key.generation && slot.stage != Stage::Free).then_some(slot.stage)
    }

    pub(crate) fn fd(&self, key: PollKey) -> RawFd {
        self.live(key).fd
    }

    pub(crate) fn interest(&self, key: PollKey) -> Interest {
        self.live(key).interest
    }

    pub(crate) fn owner(&self, key: PollKey) -> Owner {
        let slot = self.live(key);
        Owner {
            tag: slot.tag,
            token: slot.token,
        }
    }

    pub(crate) fn set_owner(&mut self, key: PollKey, owner: Owner) -> Readiness {
        self.forget_waker(key);
        let slot = self.live_mut(key);
        slot.tag = owner.tag;
        slot.token = owner.token;
        std::mem::take(&mut slot.latched)
    }

    /// Leaves a slot, whose socket is closed, to the final completion.
    pub(crate) fn retire(&mut self, key: PollKey) {
        self.leave(key);
        self.live_mut(key).stage = Stage::Closing;
        self.count_off(key);
    }

    /// Starts the way of a socket to its task.
    pub(crate) fn detach(&mut self, key: PollKey) {
        self.leave(key);
        self.live_mut(key).stage = Stage::Detaching;
    }

    /// The task that detaches a socket has gone: as [`Self::retire`].
    pub(crate) fn abandon(&mut self, key: PollKey) {
        match self.stage(key) {
            Some(Stage::Detaching) => {
                self.forget_waker(key);
                self.live_mut(key).stage = Stage::Closing;
                self.count_off(key);
            }
            Some(Stage::Detached) => self.take_off(key),
            Some(Stage::Free | Stage::Armed | Stage::Closing) | None => {}
        }
    }

    /// Takes a socket from its owner.
    fn leave(&mut self, key: PollKey) {
        debug_assert_eq!(self.stage(key), Some(Stage::Armed), "a socket leaves once");
        self.forget_waker(key);
        let slot = self.live_mut(key);
        slot.tag = TAG_TASK;
        slot.token = NONE;
    }

    /// The final completion came: frees the slot, or wakes the task that detaches
    /// its socket.
    pub(crate) fn finish(&mut self, key: PollKey) {
        match self.live(key).stage {
            Stage::Closing => self.release(key),
            Stage::Detaching => {
                self.live_mut(key).stage = Stage::Detached;
                self.wake(key);
            }
            Stage::Free | Stage::Armed | Stage::Detached => {}
        }
    }

    /// Whether a detaching socket is free; frees its slot once it is.
    pub(crate) fn poll_detached(&mut self, key: PollKey, waker: &Waker) -> Poll<()> {
        if self.live(key).stage == Stage::Detached {
            self.forget_waker(key);
            self.take_off(key);
            return Poll::Ready(());
        }
        self.remember_waker(key, waker);
        Poll::Pending
    }

    /// Keeps readiness for the owning task and wakes it.
    pub(crate) fn latch(&mut self, key: PollKey, readiness: Readiness) {
        self.live_mut(key).latched |= readiness;
        self.wake(key);
    }

    /// What was latched for the owning task, taken; or remembers its waker.
    pub(crate) fn poll_readiness(&mut self, key: PollKey, waker: &Waker) -> Poll<Readiness> {
        let latched = std::mem::take(&mut self.live_mut(key).latched);
        if !latched.is_empty() {
            return Poll::Ready(latched);
        }
        self.remember_waker(key, waker);
        Poll::Pending
    }

    fn wake(&mut self, key: PollKey) {
        let token = self.live(key).token;
        if let Some(waker) = self.wakers.get_mut(token as usize).and_then(Option::take) {
            self.wakers_free.push(token);
            self.live_mut(key).token = NONE;
            wake(waker);
        }
    }

    fn remember_waker(&mut self, key: PollKey, waker: &Waker) {
        let token = self.live(key).token;
        if let Some(Some(known)) = self.wakers.get_mut(token as usize) {
            known.clone_from(waker);
            return;
        }
        let token = self.wakers_free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            u32::try_from(self.wakers.len() - 1).unwrap_or(NONE)
        });
        self.wakers[token as usize] = Some(waker.clone());
        self.live_mut(key).token = token;
    }

    fn forget_waker(&mut self, key: PollKey) {
        let slot = self.live(key);
        if slot.tag == TAG_TASK && slot.token != NONE {
            let token = slot.token;
            self.wakers[token as usize] = None;
            self.wakers_free.push(token);
            self.live_mut(key).token = NONE;
        }
    }

    /// A socket's task took it: nothing is left of it here.
    fn take_off(&mut self, key: PollKey) {
        self.count_off(key);
        self.release(key);
    }

    fn count_off(&mut self, key: PollKey) {
        self.watched -= 1;
        self.connections -= usize::from(self.interest(key) == Interest::Both);
    }

    fn release(&mut self, key: PollKey) {
        let free = self.free;
        let slot = self.live_mut(key);
        slot.stage = Stage::Free;
        slot.generation = slot.generation.wrapping_add(1);
        slot.token = free;
        self.free = key.index;
    }

    fn grow(&mut self) -> u32 {
        if self
            .chunks
            .last()
            .is_none_or(|chunk| chunk.len() == CHUNK_SLOTS)
        {
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS));
        }
        let chunks_full = self.chunks.len() - 1;
        let chunk = &mut self.chunks[chunks_full];
        let index = u32::try_from(chunks_full * CHUNK_SLOTS + chunk.len()).unwrap_or(NONE);
        assert!(
            index != NONE,
            "sockets are bounded by descriptors, far below 2^32"
        );
        chunk.push(Slot {
            fd: -1,
            token: NONE,
            generation: 0,
            tag: 0,
            stage: Stage::Free,
            latched: Readiness::NONE,
            interest: Interest::Both,
        });
        index
    }

    fn live(&self, key: PollKey) -> &Slot {
        let slot = self.slot(key.index);
        debug_assert_eq!(slot.generation, key.generation, "a key outlived its socket");
        slot
    }

    fn live_mut(&mut self, key: PollKey) -> &mut Slot {
        debug_assert_eq!(self.slot(key.index).generation, key.generation);
        self.slot_mut(key.index)
    }

    fn slot(&self, index: u32) -> &Slot {
        &self.chunks[index as usize / CHUNK_SLOTS][index as usize % CHUNK_SLOTS]
    }

    fn slot_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.chunks[index as usize / CHUNK_SLOTS][index as usize % CHUNK_SLOTS]
    }
}
