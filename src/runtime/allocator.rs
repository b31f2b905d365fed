//! How many bytes the program has allocated: what the memory budget goes by.
//!
//! Counted is what was asked for, not what the system's allocator keeps beside it.
//! Left out: what is mapped, such as rings and stacks, and what the kernel holds for a
//! socket or a pipe.

#![expect(unsafe_code, reason = "an allocator's interface is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// So many bytes, more or less, a shard's thread counts by itself before it tells the
/// others, so that cores do not share a cache line at every allocation.
const UNTOLD_BYTES_MAX: i64 = 64 << 10;

/// The system's allocator, counted. Programs name it as their global allocator.
#[derive(Debug)]
pub struct CountingAllocator;

/// Modulo 2^64: freed bytes are added as their complement, and one thread may free
/// what another allocated and has not told.
static TOLD_BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What this thread has not told; `None` in one that tells each time, since it may
    /// end. Has no destructor and no first use that would allocate.
    static UNTOLD_BYTES: Cell<Option<i64>> = const { Cell::new(None) };
}

/// Bytes that are allocated now, to within 64 KiB for each shard. 0 in a program
/// whose allocator is another.
#[must_use]
pub fn allocated_bytes() -> u64 {
    // Threads that have freed more than they told can outweigh the sum.
    let sum = TOLD_BYTES.load(Ordering::Relaxed).cast_signed();
    u64::try_from(sum).unwrap_or(0)
}

/// Free bytes at the end of a heap that stay with the program: a shard that relays frees what it
/// is about to allocate again, and pages that it had given back come empty, one fault each.
#[cfg(target_env = "gnu")]
const FREE_BYTES_KEPT: libc::c_int = 4 << 20;
/// From how many bytes on an allocation is mapped by itself. By default that grows with what is
/// freed, but not where the line before is set.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: libc::c_int = 1 << 20;

/// Has the system's allocator keep what is freed, within limits, for all threads.
#[cfg(target_env = "gnu")]
pub(super) fn keep_what_is_freed() {
    // JUSTIFICATION: the allocator has no safe interface for its settings.
    // SAFETY: `mallopt` takes two numbers, and its own lock. What it refuses stays as it was.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_BYTES_KEPT) };
    // JUSTIFICATION: as before.
    // SAFETY: as before.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN) };
}

/// Another library's allocator has settings of its own.
#[cfg(not(target_env = "gnu"))]
pub(super) const fn keep_what_is_freed() {}

/// Has the calling thread, which lives as long as the program, count by itself.
pub(super) fn count_in_batches() {
    UNTOLD_BYTES.set(Some(UNTOLD_BYTES.get().unwrap_or(0)));
}

fn count(bytes: i64) {
    let untold = match UNTOLD_BYTES.get() {
        None => bytes,
        Some(untold) if (untold + bytes).abs() < UNTOLD_BYTES_MAX => {
            return UNTOLD_BYTES.set(Some(untold + bytes));
        }
        Some(untold) => {
            UNTOLD_BYTES.set(Some(0));
            untold + bytes
        }
    };
    TOLD_BYTES.fetch_add(untold.cast_unsigned(), Ordering::Relaxed);
}

/// The size of a layout, which is at most `isize::MAX`.
const fn size(layout: Layout) -> i64 {
    layout.size().cast_signed() as i64
}

// JUSTIFICATION: the global allocator is the one place that sees every allocation,
// those of libraries among them.
// SAFETY: every method passes its arguments on to `System`, which upholds the contract
// of `GlobalAlloc`, and returns what it returns. `count` neither allocates nor unwinds:
// it adds to a thread-local without a destructor and to an atomic.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds `GlobalAlloc::alloc`: the layout's size is not zero.
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            count(size(layout));
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`. Passed on, as the kernel's fresh pages are zero already.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            count(size(layout));
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds `GlobalAlloc::dealloc`: `pointer` came from this
        // allocator, and so from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) };
        count(-size(layout));
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller upholds `GlobalAlloc::realloc`: `pointer` came from `System`
        // with this layout, and `new_size` is neither zero nor too large.
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        if !moved.is_null() {
            count(new_size.cast_signed() as i64 - size(layout));
        }
        moved
    }
}
