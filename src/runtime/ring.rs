//! One io_uring, owned by the thread that made it.
//!
//! Thin on purpose: it knows entries and completions, not what they mean. The
//! meaning of a completion is in its user data, which [`super::reactor`]
//! composes.
//!
//! Facts that this file honours, each found the hard way:
//!
//! - With `DEFER_TASKRUN` an enter runs a bounded number of deferred
//!   completions, so the caller reaps and enters again until
//!   `Ring::has_completions` says no.
//! - The completion queue is sized apart from the submission queue, because an
//!   overflow ends multishot operations.
//! - A full submission queue is flushed and the push repeated.
//! - Who sleeps in a ring is counted as waiting for storage, and an idle shard
//!   shows as a core at 100 % iowait, unless each enter says otherwise (Linux 6.15).

#![expect(
    unsafe_code,
    reason = "an entry's buffers must outlive it: only the caller can know"
)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, squeue};

/// Entries in the submission queue unless a test asks for fewer.
pub(crate) const SUBMISSIONS_MAX: u32 = 2048;

/// Entries in the completion queue unless a test asks for fewer.
pub(crate) const COMPLETIONS_MAX: u32 = 16_384;

// An overflow ends multishots, so one whole submission queue must fit in the
// completion queue several times over.
const _: () = assert!(COMPLETIONS_MAX >= 4 * SUBMISSIONS_MAX);

/// The two sizes of a ring, in entries; the kernel rounds up to powers of two.
#[derive(Clone, Copy, Debug)]
pub struct RingSize {
    pub submissions: u32,
    pub completions: u32,
}

impl Default for RingSize {
    fn default() -> Self {
        Self {
            submissions: SUBMISSIONS_MAX,
            completions: COMPLETIONS_MAX,
        }
    }
}

/// What the kernel said about one operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub user_data: u64,
    pub result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the operation will complete again. Once it says no, a multishot
    /// operation is over and must be armed anew.
    pub(crate) fn has_more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that holds the data, where there is one.
    pub(crate) fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Whether this is the second completion of a zero-copy send, which frees
    /// its buffers.
    pub(crate) fn is_notification(self) -> bool {
        cqueue::notif(self.flags)
    }
}

/// How long to sleep when nothing is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Not at all: submit, run deferred work, come back.
    No,
    /// Until one completion is there.
    UntilOne,
    /// Until `min_wait` has passed and one completion is there, or until a
    /// large batch is there; gathers completions while bulk data flows.
    Batch { min_wait: Duration },
}

/// Completions that end a [`Sleep::Batch`] before its minimum wait.
const BATCH_COMPLETIONS: usize = 1024;

/// A batched sleep ends by itself after this long.
pub(super) const BATCH_SLEEP_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Ring {
    uring: IoUring,
    /// Of an enter that may sleep.
    sleep_flags: EnterFlags,
}

impl Ring {
    /// Makes a ring for the calling thread alone.
    ///
    /// # Errors
    ///
    /// Whatever `io_uring_setup(2)` says; [`super::kernel`] explains it.
    pub(crate) fn new(size: RingSize) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(size.completions)
            .build(size.submissions)?;
        let mut sleep_flags = EnterFlags::GETEVENTS;
        if uring.params().is_feature_no_iowait() {
            sleep_flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Self { uring, sleep_flags })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.uring.as_raw_fd()
    }

    /// Whether [`Sleep::Batch`] is honoured (Linux 6.12).
    pub(crate) fn has_min_wait(&self) -> bool {
        self.uring.params().is_feature_min_timeout()
    }

    /// Whether the kernel bundles provided buffers (Linux 6.10).
    pub(crate) fn has_bundles(&self) -> bool {
        self.uring.params().is_feature_recvsend_bundle()
    }

    pub(crate) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.uring.submitter()
    }

    /// Queues one entry, flushing a full queue first.
    ///
    /// # Safety
    ///
    /// Every buffer that the entry points to must stay valid, and must not be
    /// touched in a way that conflicts with the operation, until the
    /// operation's final completion has been reaped, or this
    /// ring was dropped.
    ///
    /// Every descriptor that it names must stay open until the entry was
    /// submitted: until then it is a number, which another file could get. From
    /// then on the kernel holds the file.
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // JUSTIFICATION: the crate offers no safe way to queue an entry.
            // SAFETY: `push` asks that the entry's parameters are valid for the
            // whole duration of the operation: our caller's promise. A full
            // queue copies nothing, so the entry is queued once.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            self.flush();
        }
    }

    /// Hands every queued entry to the kernel, without waiting.
    pub(crate) fn flush(&mut self) {
        if let Err(error) = self.uring.submit() {
            fatal_unless_transient(&error);
        }
    }

    /// Whether entries wait to be handed to the kernel.
    pub(crate) fn has_submissions(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// Whether an enter or a reap would find something. Costs two loads.
    pub(crate) fn has_completions(&mut self) -> bool {
        let submission = self.uring.submission();
        let deferred = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        deferred || !self.uring.completion().is_empty()
    }

    /// Submits what is queued, runs deferred work, and sleeps as told.
    pub(crate) fn enter(&mut self, sleep: Sleep) {
        let result = match sleep {
            Sleep::No => self.uring.submit(),
            Sleep::UntilOne => self.submit_and_wait(1, None),
            Sleep::Batch { min_wait } => {
                let timespec = Timespec::from(BATCH_SLEEP_MAX);
                let min_wait_us = u32::try_from(min_wait.as_micros()).unwrap_or(u32::MAX);
                let args = SubmitArgs::new()
                    .min_wait_usec(min_wait_us)
                    .timespec(&timespec);
                self.submit_and_wait(BATCH_COMPLETIONS, Some(&args))
            }
        };
        if let Err(error) = result {
            fatal_unless_transient(&error);
        }
    }

    fn submit_and_wait(
        &mut self,
        completions: usize,
        args: Option<&SubmitArgs<'_, '_>>,
    ) -> io::Result<usize> {
        let mut flags = self.sleep_flags;
        if args.is_some() {
            flags |= EnterFlags::EXT_ARG;
        }
        let queued = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
        let wanted = u32::try_from(completions).unwrap_or(u32::MAX);
        let submitter = self.uring.submitter();
        // JUSTIFICATION: the crate's safe ways to wait do not let flags be set.
        // SAFETY: `enter` asks for right parameters. It submits what is queued, whose
        // buffers `push` had its caller promise; `args` is what EXT_ARG announces,
        // and lives through the call together with its timespec; without it the
        // kernel is given a null pointer and no such flag.
        unsafe { submitter.enter(queued, wanted, flags.bits(), args) }
    }

    /// Takes the oldest completion.
    pub(crate) fn poll_completion(&mut self) -> Option<Completion> {
        let entry = self.uring.completion().next()?;
        Some(Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        })
    }
}

/// `EINTR`, `ETIME`, `EAGAIN` and `EBUSY` (completions overflowed: reap first)
/// mean "come back"; anything else means that this ring was misused, and a
/// shard without its ring has nothing left to do.
fn fatal_unless_transient(error: &io::Error) {
    let transient = matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY)
    );
    assert!(transient, "io_uring_enter failed: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::opcode;

    fn ring(submissions: u32, completions: u32) -> Ring {
        Ring::new(RingSize {
            submissions,
            completions,
        })
        .expect("io_uring is available")
    }

    fn nop(ring: &mut Ring, user_data: u64) {
        let entry = opcode::Nop::new().build().user_data(user_data);
        // JUSTIFICATION: tests drive the ring directly.
        // SAFETY: a no-op points to no buffer and names no descriptor.
        unsafe { ring.push(&entry) };
    }

    #[test]
    fn a_full_submission_queue_is_flushed_and_nothing_is_lost() {
        let mut ring = ring(4, 16);
        let mut seen = Vec::new();
        for user_data in 0..10 {
            nop(&mut ring, user_data);
        }
        while seen.len() < 10 {
            ring.enter(Sleep::UntilOne);
            while let Some(completion) = ring.poll_completion() {
                seen.push(completion.user_data);
            }
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        assert!(!ring.has_completions());
    }

    #[test]
    fn an_overflowed_completion_queue_gives_everything_back() {
        let mut ring = ring(4, 4);
        let mut seen = 0;
        for user_data in 0..64 {
            nop(&mut ring, user_data);
        }
        while seen < 64 {
            ring.enter(Sleep::UntilOne);
            while ring.poll_completion().is_some() {
                seen += 1;
            }
        }
        assert!(!ring.has_completions());
    }

    #[test]
    fn a_sleep_that_is_not_wanted_returns_at_once() {
        let mut ring = ring(4, 16);
        ring.enter(Sleep::No);
        assert!(ring.poll_completion().is_none());
    }
}
