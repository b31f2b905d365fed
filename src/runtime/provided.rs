//! Buffers that the ring receives into, in groups that are handed to the kernel
//! through provided-buffer rings and back.
//!
//! ```text
//!   provided ──receive──> Segment (ours) ──send──> in flight ──completion──┐
//!      ^                     │                                             │
//!      └─────────────────────┴──────────────── recycle ────────────────────┘
//! ```
//!
//! A [`Segment`] is the right to read one buffer. It cannot be copied, so a
//! buffer goes back to the kernel once, when nobody can read it any more, and it
//! stays on the thread of its group.

#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::io;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// What a receive takes its buffers from. Apart, so that streams, which take
/// whatever they can get, leave those of messages alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BufferSize {
    /// For messages: one buffer at a time.
    #[default]
    Small,
    /// For streams: where the kernel can, several at a time.
    Large,
}

impl BufferSize {
    /// Every size.
    pub const ALL: [Self; 2] = [Self::Small, Self::Large];

    /// Bytes of one buffer.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Small => 4 << 10,
            Self::Large => 32 << 10,
        }
    }

    /// Buffers of one shard. Their memory is touched as they are used.
    pub(crate) const fn count(self) -> u16 {
        match self {
            Self::Small => 256,
            Self::Large => 512,
        }
    }

    /// The number of its group on the shard's ring.
    pub(crate) const fn group(self) -> u16 {
        match self {
            Self::Small => 0,
            Self::Large => 1,
        }
    }

    const fn memory_bytes(self) -> usize {
        self.count() as usize * self.bytes() as usize
    }

    const fn entries_bytes(self) -> usize {
        self.count() as usize * size_of::<BufRingEntry>()
    }

    const fn mask(self) -> u16 {
        self.count() - 1
    }
}

const _: () = assert!(BufferSize::Small.count().is_power_of_two());
const _: () = assert!(BufferSize::Large.count().is_power_of_two());

/// Received bytes in a buffer that is ours until it is recycled or sent.
#[derive(Debug)]
#[must_use = "a segment that is dropped is lost to the shard: recycle it"]
pub struct Segment {
    size: BufferSize,
    buffer: u16,
    /// INVARIANT: at most the buffer's.
    bytes: u32,
    /// Another shard's buffer of this number is not ours to read.
    not_send: PhantomData<*const u8>,
}

impl Segment {
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes as usize
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Where its buffer belongs.
    pub(crate) const fn size(&self) -> BufferSize {
        self.size
    }
}

/// One group: its memory, its ring, and which buffer is where.
pub(crate) struct ProvidedBuffers {
    size: BufferSize,
    memory: NonNull<u8>,
    entries: NonNull<BufRingEntry>,
    /// The buffer in each entry of the ring, so that a bundle, which names only
    /// its first buffer, can be followed.
    order: Box<[u16]>,
    /// The next entry that the kernel takes from.
    head: u16,
    /// The next entry that we fill.
    tail: u16,
}

impl ProvidedBuffers {
    /// Makes the group and registers it with the ring of `submitter`. It must
    /// be dropped after that ring, unless [`Self::unregister`] ends it.
    ///
    /// # Errors
    ///
    /// When memory cannot be mapped, or the kernel knows no provided-buffer
    /// rings.
    pub(crate) fn new(submitter: &Submitter<'_>, size: BufferSize) -> io::Result<Self> {
        let memory = map(size.memory_bytes())?;
        let entries = map(size.entries_bytes())?.cast::<BufRingEntry>();
        let mut group = Self {
            size,
            memory,
            entries,
            order: vec![0; usize::from(size.count())].into(),
            head: 0,
            tail: 0,
        };
        // JUSTIFICATION: there is no safe way to share memory with the kernel.
        // SAFETY: `register_buf_ring_with_flags` asks that the entries, as many as
        // it is told, stay valid until the ring is gone or the group
        // unregistered: the mapping has room for `count`, at a page's start as the
        // kernel wants it, and `Drop` unmaps it after that. When it fails, the
        // kernel has kept nothing.
        unsafe {
            submitter.register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                size.count(),
                size.group(),
                0,
            )
        }?;
        for buffer in 0..size.count() {
            group.provide(buffer);
        }
        group.publish();
        Ok(group)
    }

    /// Takes the group from the kernel, for which no receive may have it.
    pub(crate) fn unregister(self, submitter: &Submitter<'_>) {
        if submitter.unregister_buf_ring(self.size.group()).is_err() {
            // Lost memory is better than memory that the kernel still knows.
            std::mem::forget(self);
        }
    }

    /// Buffers that the kernel may fill.
    pub(crate) fn available(&self) -> u16 {
        self.tail.wrapping_sub(self.head)
    }

    /// Takes the buffers that one receive of `bytes` filled, starting with
    /// `first`: each is full but the last.
    pub(crate) fn take(&mut self, first: u16, bytes: u32, segments: &mut Vec<Segment>) {
        let mut left = bytes;
        let mut expected = Some(first);
        while left > 0 {
            let buffer = self.order[usize::from(self.head & self.size.mask())];
            assert!(
                expected.take().is_none_or(|first| first == buffer) && self.available() > 0,
                "the kernel takes provided buffers in their order"
            );
            self.head = self.head.wrapping_add(1);
            let bytes = left.min(self.size.bytes());
            left -= bytes;
            segments.push(Segment {
                size: self.size,
                buffer,
                bytes,
                not_send: PhantomData,
            });
        }
    }

    /// The received bytes.
    pub(crate) fn bytes<'a>(&'a self, segment: &'a Segment) -> &'a [u8] {
        let start = self.address(segment.buffer);
        // JUSTIFICATION: the buffer is memory that only we know the type of.
        // SAFETY: `from_raw_parts` asks for so many initialised bytes of one
        // allocation, which nobody writes meanwhile: a segment has at most its
        // buffer's bytes, in a mapping that began as zeroes and that `self` keeps.
        // The kernel does not have the buffer while the segment lives, which the
        // borrow covers, and the segment is of this group: a thread has one
        // reactor, and `size` told its group.
        unsafe { slice::from_raw_parts(start, segment.len()) }
    }

    /// What a send operation needs of a segment.
    pub(crate) fn iovec(&self, segment: &Segment) -> libc::iovec {
        libc::iovec {
            iov_base: self.address(segment.buffer).cast(),
            iov_len: segment.len(),
        }
    }

    /// Gives a buffer back to the kernel, visible with the next
    /// [`Self::publish`].
    pub(crate) fn recycle(&mut self, segment: Segment) {
        self.provide(segment.buffer);
    }

    /// Shows the kernel what was recycled.
    pub(crate) fn publish(&mut self) {
        // JUSTIFICATION: the tail lies in the ring that the kernel reads.
        // SAFETY: `tail` asks for the first entry of a ring, initialised: the
        // mapping begins with it, and began as zeroes.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        let tail = tail.cast::<AtomicU16>();
        // JUSTIFICATION: as above; the kernel reads it concurrently.
        // SAFETY: a reference asks for an aligned and initialised value, valid for
        // as long as it lives: the tail is a u16 at an even place in a page, in a
        // mapping that `self` keeps. The kernel only reads it, and what is written
        // here is written through this atomic alone.
        let tail = unsafe { &*tail };
        tail.store(self.tail, Ordering::Release);
    }

    fn provide(&mut self, buffer: u16) {
        let at = self.tail & self.size.mask();
        self.order[usize::from(at)] = buffer;
        let address = self.address(buffer) as u64;
        // JUSTIFICATION: the ring of entries is shared with the kernel.
        // SAFETY: `add` asks to stay in the allocation: `at` is masked to it.
        let entry = unsafe { self.entries.as_ptr().add(usize::from(at)) };
        // JUSTIFICATION: as above.
        // SAFETY: `&mut` asks for an aligned and initialised entry that nobody else
        // uses meanwhile: entries of 16 bytes follow each other from a page's
        // start, in a mapping that began as zeroes. This one lies behind the
        // published tail, so the kernel does not read it, and no other reference
        // to it exists. In the first entry the last field is the ring's tail,
        // which the kernel reads and the setters leave alone.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(self.size.bytes());
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn address(&self, buffer: u16) -> *mut u8 {
        debug_assert!(buffer < self.size.count());
        let offset = usize::from(buffer) * self.size.bytes() as usize;
        // JUSTIFICATION: buffers are slices of one mapping.
        // SAFETY: `add` asks to stay in the allocation: buffers are numbered
        // below the group's count.
        unsafe { self.memory.as_ptr().add(offset) }
    }
}

impl Drop for ProvidedBuffers {
    fn drop(&mut self) {
        for (address, bytes) in [
            (self.memory.cast(), self.size.memory_bytes()),
            (self.entries.cast(), self.size.entries_bytes()),
        ] {
            // JUSTIFICATION: the mapping was made by hand.
            // SAFETY: `munmap` asks for a mapping's own address and size, and that
            // nothing refers to the memory: whoever reads a segment borrows `self`,
            // and the ring, whose operations used it, was dropped before or the
            // group unregistered (see `new`). Pages that a zero-copy send left
            // with the network are the kernel's own until it is done.
            let _ = unsafe { munmap(address.as_ptr(), bytes) };
        }
    }
}

fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // JUSTIFICATION: provided buffers must not move and need page alignment.
    // SAFETY: `mmap_anonymous` asks that no memory in use is mapped over: without
    // a given address the kernel takes what is free.
    let address = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    NonNull::new(address.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}
