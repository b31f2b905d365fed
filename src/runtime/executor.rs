//! One pinned thread per core, each with an executor for its tasks.
//!
//! glommio gives the pool, the tasks and their queue; everything that waits
//! waits in the shard's own ring ([`super::reactor`]). Its timers, sockets and
//! channels are not used: they would run late, since its reactor gets a turn
//! only when the shard's loop yields.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use glommio::{CpuSet, GlommioError, LocalExecutorPoolBuilder, PoolPlacement};

use super::allocator;
use super::cores::Cores;

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
    #[error("cannot start the executors: {0}")]
    Start(String),
}

/// Runs `shard` once per core, each on its own pinned thread, and returns what
/// they returned, in shard order. `shard` gets its index, from 0, and its seed.
///
/// # Errors
///
/// When the threads or their executors cannot be made.
///
/// # Panics
///
/// When there is not one seed per core.
pub fn run_shards<T, F, S>(
    cores: &Cores,
    seeds: Vec<S>,
    shard: fn(u16, S) -> F,
) -> Result<Vec<T>, ExecutorError>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
    S: Send + 'static,
{
    assert_eq!(cores.count(), seeds.len(), "one seed per core");
    allocator::keep_what_is_freed();
    let online = CpuSet::online().map_err(start_error)?;
    let mut sets = Vec::with_capacity(cores.count());
    for &core in cores.as_slice() {
        let set = online.clone().filter(|location| location.cpu == core);
        if set.is_empty() {
            return Err(ExecutorError::CoreMissing { core });
        }
        sets.push(set);
    }
    let seeds = share((0_u16..).zip(seeds).collect());
    let threads = LocalExecutorPoolBuilder::new(PoolPlacement::Custom(sets))
        .name("shard")
        .io_memory(EXECUTOR_IO_MEMORY_BYTES)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .on_all_shards(move || {
            // The pool does not tell a thread its number, so each draws one.
            let seed = seeds.lock().ok().and_then(|mut seeds| seeds.pop());
            async move {
                let Some((index, seed)) = seed else {
                    unreachable!("one seed per thread");
                };
                allocator::count_in_batches();
                (index, shard(index, seed).await)
            }
        })
        .map_err(start_error)?;
    let mut results = Vec::with_capacity(cores.count());
    for result in threads.join_all() {
        results.push(result.map_err(start_error)?);
    }
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, value)| value).collect())
}

#[expect(
    clippy::disallowed_types,
    reason = "taken once per shard, before it runs"
)]
fn share<S>(seeds: Vec<(u16, S)>) -> Arc<std::sync::Mutex<Vec<(u16, S)>>> {
    Arc::new(std::sync::Mutex::new(seeds))
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
    ExecutorError::Start(error.to_string())
}
