//! Receives and sends that the ring itself carries out, into and out of
//! provided buffers.
//!
//! A receive is of one buffer, or multishot and goes on until its final
//! completion. A send takes segments, and its final completion recycles them:
//! for a zero-copy send that is the notification, until which the network may
//! read them.
//! Nothing that the kernel may still touch is ever in the hands of a caller.

#![expect(unsafe_code, reason = "send operations point to their own memory")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{opcode, squeue, types};

use super::poll_table::Owner;
use super::provided::{BufferSize, ProvidedBuffers, Segment};
use super::ring::{Completion, Ring};
use super::slot_key::SlotKey;
use super::socket::Socket;

/// Segments in one send.
pub const SEND_SEGMENTS_MAX: usize = 16;

/// Sends of at least so many bytes may leave the copying to the device.
const ZERO_COPY_BYTES_MIN: usize = 32 << 10;

/// Large segments that zero-copy sends may hold at a time: a peer that
/// acknowledges nothing must not keep the others from receiving. Small ones,
/// which a flow begins with, they never hold.
const ZERO_COPY_SEGMENTS_MAX: u16 = BufferSize::Large.count() / 2;

/// A receive may start while one buffer in so many is free.
const ROOM_SHARE: u16 = 8;

/// After so many notifications that all say "copied", zero copy is given up:
/// the route has no device that could do without.
const ZERO_COPY_TRIALS: u32 = 64;

/// The result of a notification whose bytes were copied after all.
const NOTIFICATION_COPIED: i32 = i32::MIN;

// As completions tell them.
const EAGAIN: i32 = -libc::EAGAIN;
const ENOMEM: i32 = -libc::ENOMEM;
const ENOBUFS: i32 = -libc::ENOBUFS;

/// `IORING_SEND_ZC_REPORT_USAGE`: have the notification say so.
const ZERO_COPY_REPORT: u16 = 1 << 3;

/// Names one operation; stale once its final completion was delivered.
pub type TransferKey = SlotKey<Transfer>;

/// What a [`TransferKey`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {}

/// How much a receive takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    OneBuffer,
    UntilCancelled,
}

/// What an operation told.
#[derive(Debug)]
pub struct Progress {
    pub key: TransferKey,
    pub what: Step,
    /// Whether this was the operation's last word; it must be started anew.
    pub is_final: bool,
}

/// What happened to a transfer.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes came: [`super::reactor::Reactor::take_received`] has them.
    Received,
    /// The peer's stream ended.
    ReceiveEnded,
    /// No buffer was left: start anew when [`super::reactor::Reactor::has_room`].
    Starved,
    /// The operation was cancelled.
    Cancelled,
    /// Bytes that the socket took; fewer than given when it was full. The rest
    /// is for [`super::reactor::Reactor::with_unsent`].
    Sent(usize),
    /// A zero-copy send's buffers are free.
    Released,
    /// The socket failed.
    Failed(rustix::io::Errno),
}

/// What came of zero-copy sends.
#[derive(Clone, Copy, Debug, Default)]
struct ZeroCopyCounts {
    /// Sends whose notification came.
    notified: u64,
    /// Of those, sends whose bytes were copied anyway.
    copied: u64,
}

struct Operation {
    generation: u16,
    owner: Owner,
    kind: OperationKind,
}

enum OperationKind {
    Free { next: Option<u32> },
    Receive(BufferSize),
    Send(Box<SendState>),
}

/// The memory of one send: the kernel reads it until the operation has ended.
struct SendState {
    header: libc::msghdr,
    vectors: [libc::iovec; SEND_SEGMENTS_MAX],
    segments: Vec<Segment>,
    zero_copy: bool,
}

/// The transfers of one shard, made when the first is started.
pub(crate) struct Transfers {
    operations: Vec<Operation>,
    free: Option<u32>,
    /// Dropped after the ring: the reactor's fields stand in that order.
    buffers: Buffers,
    received: Vec<Segment>,
    unsent: Vec<u8>,
    #[expect(
        clippy::vec_box,
        reason = "a state is moved into its operation while pointed into"
    )]
    spare: Vec<Box<SendState>>,
    zero_copy_held: u16,
    zero_copy: ZeroCopyCounts,
    /// The kernel would not pin more of this user's memory (`RLIMIT_MEMLOCK`).
    zero_copy_denied: bool,
}

/// The groups of both sizes.
struct Buffers {
    small: ProvidedBuffers,
    large: ProvidedBuffers,
}

impl Transfers {
    pub(crate) fn new(ring: &Ring) -> io::Result<Self> {
        Ok(Self {
            operations: Vec::new(),
            free: None,
            buffers: Buffers::new(ring)?,
            received: Vec::new(),
            unsent: Vec::new(),
            spare: Vec::new(),
            zero_copy_held: 0,
            zero_copy: ZeroCopyCounts::default(),
            zero_copy_denied: false,
        })
    }

    /// Starts a receive, multishot or of one buffer.
    pub(crate) fn receive(
        &mut self,
        ring: &mut Ring,
        socket: &Socket,
        owner: Owner,
        size: BufferSize,
        extent: Extent,
        user_data: impl FnOnce(TransferKey) -> u64,
    ) -> TransferKey {
        let key = self.start(owner, OperationKind::Receive(size));
        let fd = types::Fd(socket.as_fd().as_raw_fd());
        let entry = match extent {
            Extent::OneBuffer => opcode::Recv::new(fd, std::ptr::null_mut(), size.bytes())
                .buf_group(size.group())
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
            Extent::UntilCancelled if size == BufferSize::Large && ring.has_bundles() => {
                opcode::RecvMultiBundle::new(fd, size.group()).build()
            }
            Extent::UntilCancelled => opcode::RecvMulti::new(fd, size.group()).build(),
        };
        // JUSTIFICATION: a receive is an entry of the ring.
        // SAFETY: `Ring::push` asks for buffers: the receive writes into those of
        // its group alone, which nobody reads before they are taken as segments
        // and which are unmapped after the ring, behind which `Inner` has us. The
        // descriptor is open until the final progress, as
        // `Reactor::start_receive` has its caller promise.
        unsafe { ring.push(&entry.user_data(user_data(key))) };
        key
    }

    /// Sends `segments`, at most [`SEND_SEGMENTS_MAX`], as far as the socket
    /// takes them now.
    pub(crate) fn send(
        &mut self,
        ring: &mut Ring,
        socket: &Socket,
        owner: Owner,
        segments: impl Iterator<Item = Segment>,
        user_data: impl FnOnce(TransferKey) -> u64,
    ) -> TransferKey {
        let mut state = self.spare.pop().unwrap_or_else(SendState::empty);
        state.segments.extend(segments.take(SEND_SEGMENTS_MAX));
        for (vector, segment) in state.vectors.iter_mut().zip(&state.segments) {
            *vector = self.buffers.of(segment.size()).iovec(segment);
        }
        let bytes: usize = state.segments.iter().map(Segment::len).sum();
        let count = u16::try_from(state.segments.len()).unwrap_or(u16::MAX);
        let are_large = state
            .segments
            .iter()
            .all(|segment| segment.size() == BufferSize::Large);
        // A unix socket refuses it.
        state.zero_copy = bytes >= ZERO_COPY_BYTES_MIN
            && are_large
            && self.admits_zero_copy(count)
            && socket.is_internet();
        state.header.msg_iov = state.vectors.as_mut_ptr();
        state.header.msg_iovlen = state.segments.len();
        let header: *const libc::msghdr = &raw const state.header;
        let zero_copy = state.zero_copy;
        let key = self.start(owner, OperationKind::Send(state));
        let fd = types::Fd(socket.as_fd().as_raw_fd());
        // What the socket does not take now is copied away, so that a slow
        // peer holds no provided buffer.
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT).unsigned_abs();
        let entry: squeue::Entry = if zero_copy {
            self.zero_copy_held += count;
            opcode::SendMsgZc::new(fd, header)
                .flags(flags)
                .ioprio(ZERO_COPY_REPORT)
                .build()
        } else {
            opcode::SendMsg::new(fd, header).flags(flags).build()
        };
        // JUSTIFICATION: a send is an entry of the ring.
        // SAFETY: `Ring::push` asks for buffers. Header and vectors are in the
        // boxed state, and so are the segments, whose bytes nobody can write or
        // recycle while they are there. `operations` keeps the box, which nobody
        // writes to, until `finish` takes it at the final completion, for a
        // zero-copy send the notification; what never completes is dropped after
        // the ring. The unused rest of the header is zero, and the vectors in use
        // were filled above. The descriptor: as for a receive.
        unsafe { ring.push(&entry.user_data(user_data(key))) };
        key
    }

    /// Whether `key` names an operation under way.
    pub(crate) fn is_under_way(&self, key: TransferKey) -> bool {
        self.operations
            .get(key.index as usize)
            .is_some_and(|operation| {
                operation.generation == key.generation
                    && !matches!(operation.kind, OperationKind::Free { .. })
            })
    }

    /// Takes what the ring completed.
    pub(crate) fn handle_completion(
        &mut self,
        key: TransferKey,
        completion: Completion,
    ) -> Option<(Owner, Progress)> {
        if !self.is_under_way(key) {
            return None;
        }
        let is_final = !completion.has_more();
        let operation = &mut self.operations[key.index as usize];
        let owner = operation.owner;
        let what = match &mut operation.kind {
            OperationKind::Receive(size) => {
                let size = *size;
                debug_assert!(
                    self.received.is_empty(),
                    "take_received follows every receipt"
                );
                match (completion.result, completion.buffer()) {
                    (1.., Some(first)) => {
                        let bytes = completion.result.unsigned_abs();
                        let group = self.buffers.of_mut(size);
                        group.take(first, bytes, &mut self.received);
                        Step::Received
                    }
                    (0.., _) => Step::ReceiveEnded,
                    (ENOBUFS, _) => Step::Starved,
                    (result, _) => Step::from_error(result),
                }
            }
            OperationKind::Send(_) if completion.is_notification() => {
                self.zero_copy.notified += 1;
                if completion.result == NOTIFICATION_COPIED {
                    self.zero_copy.copied += 1;
                }
                Step::Released
            }
            OperationKind::Send(state) => match completion.result {
                result @ 0.. => {
                    let sent = usize::try_from(result).unwrap_or(0);
                    self.unsent.clear();
                    state.collect_unsent(&self.buffers, sent, &mut self.unsent);
                    Step::Sent(sent)
                }
                result @ (EAGAIN | ENOMEM | ENOBUFS) if state.zero_copy || result == EAGAIN => {
                    self.zero_copy_denied |= result != EAGAIN;
                    self.unsent.clear();
                    state.collect_unsent(&self.buffers, 0, &mut self.unsent);
                    Step::Sent(0)
                }
                result => Step::from_error(result),
            },
            OperationKind::Free { .. } => return None,
        };
        if is_final {
            self.finish(key);
        }
        Some((
            owner,
            Progress {
                key,
                what,
                is_final,
            },
        ))
    }

    /// What the last receipt brought.
    pub(crate) fn take_received(&mut self) -> std::vec::Drain<'_, Segment> {
        self.received.drain(..)
    }

    /// What the last send did not take.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    /// The bytes of a segment.
    pub(crate) fn bytes<'a>(&'a self, segment: &'a Segment) -> &'a [u8] {
        self.buffers.bytes(segment)
    }

    pub(crate) fn recycle(&mut self, segment: Segment) {
        let group = self.buffers.of_mut(segment.size());
        group.recycle(segment);
        group.publish();
    }

    /// Whether a receive may be started without starving soon.
    pub(crate) fn has_room(&self, size: BufferSize) -> bool {
        self.buffers.of(size).available() >= size.count() / ROOM_SHARE
    }

    fn admits_zero_copy(&self, count: u16) -> bool {
        let ZeroCopyCounts {
            notified, copied, ..
        } = self.zero_copy;
        let hopeless = copied >= u64::from(ZERO_COPY_TRIALS) && copied == notified;
        !hopeless && !self.zero_copy_denied && self.zero_copy_held + count <= ZERO_COPY_SEGMENTS_MAX
    }

    fn start(&mut self, owner: Owner, kind: OperationKind) -> TransferKey {
        if let Some(index) = self.free {
            let operation = &mut self.operations[index as usize];
            if let OperationKind::Free { next } = operation.kind {
                self.free = next;
            }
            operation.owner = owner;
            operation.kind = kind;
            return TransferKey::new(index, operation.generation);
        }
        let index = u32::try_from(self.operations.len()).unwrap_or(u32::MAX);
        self.operations.push(Operation {
            generation: 0,
            owner,
            kind,
        });
        TransferKey::new(index, 0)
    }

    /// The kernel is done with an operation: its buffers go back.
    fn finish(&mut self, key: TransferKey) {
        let operation = &mut self.operations[key.index as usize];
        operation.generation = operation.generation.wrapping_add(1);
        let kind = std::mem::replace(&mut operation.kind, OperationKind::Free { next: self.free });
        self.free = Some(key.index);
        let OperationKind::Send(mut state) = kind else {
            return;
        };
        if state.zero_copy {
            self.zero_copy_held -= u16::try_from(state.segments.len()).unwrap_or(0);
        }
        for segment in state.segments.drain(..) {
            self.buffers.of_mut(segment.size()).recycle(segment);
        }
        self.buffers.publish();
        self.spare.push(state);
    }
}

impl Buffers {
    fn new(ring: &Ring) -> io::Result<Self> {
        let submitter = ring.submitter();
        let small = ProvidedBuffers::new(&submitter, BufferSize::Small)?;
        match ProvidedBuffers::new(&submitter, BufferSize::Large) {
            Ok(large) => Ok(Self { small, large }),
            Err(error) => {
                small.unregister(&submitter);
                Err(error)
            }
        }
    }

    const fn of(&self, size: BufferSize) -> &ProvidedBuffers {
        match size {
            BufferSize::Small => &self.small,
            BufferSize::Large => &self.large,
        }
    }

    const fn of_mut(&mut self, size: BufferSize) -> &mut ProvidedBuffers {
        match size {
            BufferSize::Small => &mut self.small,
            BufferSize::Large => &mut self.large,
        }
    }

    fn bytes<'a>(&'a self, segment: &'a Segment) -> &'a [u8] {
        self.of(segment.size()).bytes(segment)
    }

    fn publish(&mut self) {
        self.small.publish();
        self.large.publish();
    }
}

impl SendState {
    fn empty() -> Box<Self> {
        let nothing = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Box::new(Self {
            header: libc::msghdr {
                msg_name: std::ptr::null_mut(),
                msg_namelen: 0,
                msg_iov: std::ptr::null_mut(),
                msg_iovlen: 0,
                msg_control: std::ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
            vectors: [nothing; SEND_SEGMENTS_MAX],
            segments: Vec::with_capacity(SEND_SEGMENTS_MAX),
            zero_copy: false,
        })
    }

    fn collect_unsent(&self, buffers: &Buffers, sent: usize, unsent: &mut Vec<u8>) {
        let mut skip = sent;
        for segment in &self.segments {
            let bytes = buffers.bytes(segment);
            unsent.extend_from_slice(&bytes[skip.min(bytes.len())..]);
            skip = skip.saturating_sub(bytes.len());
        }
    }
}

impl Step {
    fn from_error(result: i32) -> Self {
        match result {
            _ if result == -libc::ECANCELED => Self::Cancelled,
            _ => Self::Failed(rustix::io::Errno::from_raw_os_error(-result)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ring::RingSize;

    #[test]
    fn buffers_that_cannot_all_be_had_are_given_back() {
        let ring = Ring::new(RingSize::default()).expect("io_uring is available");
        let taken = ProvidedBuffers::new(&ring.submitter(), BufferSize::Large);
        assert!(Buffers::new(&ring).is_err());
        let small = ProvidedBuffers::new(&ring.submitter(), BufferSize::Small);
        assert!(small.is_ok());
        // Groups are unmapped after their ring.
        drop(ring);
        drop((taken, small));
    }
}
