//! One pinned thread per core, each with an executor for its tasks.
//!
//! glommio gives the tasks and their queue; everything that waits
//! waits in the shard's own ring ([`super::reactor`]). Its timers, sockets and
//! channels are not used: they would run late, since its reactor gets a turn
//! only when the shard's loop yields.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::resume_unwind;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::{io, mem, thread};

use glommio::{CpuSet, GlommioError, LocalExecutorBuilder, Placement};

use super::allocator;
use super::cores::Cores;
use super::kernel::MEMLOCK_ADVICE;

/// glommio registers this much memory per executor for files, which we do not
/// use; the smallest that it accepts keeps it under a small memlock limit.
const EXECUTOR_IO_MEMORY_BYTES: usize = 64 << 10;

/// Entries in each of glommio's own rings, idle here.
const EXECUTOR_RING_DEPTH: usize = 64;

/// Why the shards did not start, or one ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    #[error("cannot find core {core} in /sys/devices/system/cpu")]
    CoreMissing { core: usize },
    #[error("cannot start an executor")]
    Start(#[source] io::Error),
    #[error("cannot set up a shard")]
    Setup(#[from] io::Error),
    /// Never what [`run_shards`] returns, which has the other's error.
    #[error("another shard could not start")]
    OtherFailed,
}

impl ExecutorError {
    /// What the operator can do about it, as an imperative.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Start(error) | Self::Setup(error)
                if error.kind() == io::ErrorKind::OutOfMemory =>
            {
                Some(MEMLOCK_ADVICE)
            }
            _ => None,
        }
    }
}

/// A shard's part in the start of all: none begins to serve before the last can. One alone
/// would have its share of everything and be asked for the other shares in vain.
#[derive(Debug)]
pub struct Start {
    ready: mpsc::Sender<()>,
    go: mpsc::Receiver<()>,
}

impl Start {
    /// Says that the calling shard has all that it needs, and waits until the others have too.
    /// It blocks the thread, on which nothing else runs yet.
    ///
    /// # Errors
    ///
    /// When another shard could not start.
    pub fn meet_others(self) -> Result<(), ExecutorError> {
        // Whoever waits for it has gone where another has failed.
        let _ = self.ready.send(());
        self.go.recv().map_err(|_| ExecutorError::OtherFailed)
    }
}

/// Runs `shard` once per core, each on its own pinned thread, and returns what
/// they returned, in shard order. `shard` gets its index, from 0, its seed, and what it
/// meets the others by before it serves.
///
/// # Errors
///
/// When the threads or their executors cannot be made, or a shard fails; where one fails before
/// it has met the others, all end.
///
/// # Panics
///
/// When there is not one seed per core.
pub fn run_shards<T, F, S>(
    cores: &Cores,
    seeds: Vec<S>,
    shard: fn(u16, S, Start) -> F,
) -> Result<Vec<T>, ExecutorError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ExecutorError>> + 'static,
    S: Send + 'static,
{
    assert_eq!(cores.count(), seeds.len(), "one seed per core");
    allocator::keep_what_is_freed();
    let online = CpuSet::online().map_err(start_error)?;
    let is_online = |core| online.iter().any(|location| location.cpu == core);
    if let Some(&core) = cores.as_slice().iter().find(|&&core| !is_online(core)) {
        return Err(ExecutorError::CoreMissing { core });
    }
    let mut waiting = Vec::with_capacity(cores.count());
    let mut threads = Vec::with_capacity(cores.count());
    let mut unspawned = None;
    for ((index, seed), &core) in (0_u16..).zip(seeds).zip(cores.as_slice()) {
        let (ready, is_ready) = mpsc::channel();
        let (goes, go) = mpsc::channel();
        let start = Start { ready, go };
        let thread = thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || run_on(core, || shard(index, seed, start)));
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                unspawned = Some(ExecutorError::Start(error));
                break;
            }
        }
        waiting.push((is_ready, goes));
    }
    // Whoever fails drops its end; dropping the other ends tells the others.
    if unspawned.is_none() && waiting.iter().all(|(is_ready, _)| is_ready.recv().is_ok()) {
        for (_, goes) in waiting {
            // It waits, as it was ready.
            let _ = goes.send(());
        }
    } else {
        drop(waiting);
    }
    let ended = threads.into_iter().map(|thread| match thread.join() {
        Ok(ended) => ended,
        Err(panic) => resume_unwind(panic),
    });
    let (ended, failed): (Vec<_>, Vec<_>) = ended.partition(Result::is_ok);
    let errors = failed.into_iter().filter_map(Result::err).chain(unspawned);
    // Those that gave up for another one's sake do not say why.
    match errors.reduce(|first, other| match first {
        ExecutorError::OtherFailed => other,
        first => first,
    }) {
        Some(error) => Err(error),
        None => Ok(ended.into_iter().flatten().collect()),
    }
}

/// Runs a task on the calling thread, pinned to a core, until it ends.
fn run_on<T, F>(core: usize, task: impl FnOnce() -> F) -> Result<T, ExecutorError>
where
    F: Future<Output = Result<T, ExecutorError>> + 'static,
    T: 'static,
{
    let executor = LocalExecutorBuilder::new(Placement::Fixed(core))
        .io_memory(EXECUTOR_IO_MEMORY_BYTES)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .make()
        .map_err(start_error)?;
    allocator::count_in_batches();
    executor.run(task())
}

thread_local! {
    /// A task became runnable behind the shard's loop in the executor's queue.
    static RUNNABLE: Cell<bool> = const { Cell::new(false) };
}

/// Starts a task on the calling shard. It runs until it ends by itself.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
    note_runnable();
}

/// Runs `task` at once, as far as it gets; only one that has to wait then is
/// started as [`spawn`] does. The caller holds nothing that the task may want.
pub fn run_or_spawn(task: impl Future<Output = ()> + 'static) {
    let mut task = Box::pin(task);
    // Nothing is lost with this waker: a task that has to wait runs once more in
    // any case, and then finds what has happened or leaves a waker of its own.
    let mut context = Context::from_waker(Waker::noop());
    if task.as_mut().poll(&mut context).is_pending() {
        spawn(task);
    }
}

/// Lets everything else of the shard have its turn before the task goes on: for a
/// task that may never have to wait.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        wake(context.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Wakes a task. Tasks are woken in no other way: the shard's loop lets them
/// run, and stays awake for them, only when it is told here.
#[expect(clippy::disallowed_methods, reason = "the one place that wakes")]
pub fn wake(waker: Waker) {
    waker.wake();
    note_runnable();
}

fn note_runnable() {
    RUNNABLE.set(true);
}

/// Lets the tasks run that were started or woken. Returns whether these did the
/// same to others: they stand behind the loop in the queue, so it must come
/// round without sleeping.
pub async fn run_woken_tasks() -> bool {
    if !RUNNABLE.take() {
        return false;
    }
    glommio::executor().yield_task_queue_now().await;
    RUNNABLE.get()
}

fn start_error<T>(error: GlommioError<T>) -> ExecutorError {
    ExecutorError::Start(error.into())
}
