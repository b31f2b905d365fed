//! Name resolution off the shards: `getaddrinfo(3)` blocks, so eight threads
//! do nothing else. Seven dead names do not delay the eighth.
//!
//! Somebody's names may be many and slow, so each asker has a line of its own. The next free
//! thread goes to the line that holds fewest, and the last four, like the last places to
//! wait in, go to askers that have none: the names of five are all it takes to hold all
//! threads, if not one of them is answered.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar};
use std::thread;

/// Threads that resolve.
pub const RESOLVER_THREADS: usize = 8;

/// Names that wait for a thread; one more is refused, unless it is its asker's only one.
pub const RESOLVER_QUEUE_MAX: usize = 256;

/// Names that wait beyond these, each its asker's only one.
const QUEUE_KEPT: usize = 256;

/// Threads that are kept for askers that hold none.
const THREADS_KEPT: usize = RESOLVER_THREADS / 2;

/// Resolves one name; the seam through which tests give dead names.
pub type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Sends questions to the pool. Clone one per shard.
#[derive(Clone, Debug)]
pub struct Resolver {
    pool: Arc<Handle>,
}

/// On whose behalf a name is resolved.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Who it is.
    pub name: Arc<str>,
    /// Names of it that may be resolved, or wait for that, at once.
    pub names_max: usize,
}

/// Why a name is not resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyNames {
    /// [`RESOLVER_QUEUE_MAX`] names wait already.
    #[error("{RESOLVER_QUEUE_MAX} names wait to be resolved already")]
    OfAll,
    /// So many do of the asker alone.
    #[error("{0} names of one asker are being resolved already")]
    OfAsker(usize),
}

/// Carries an answer back to the shard that asked; called on a pool thread.
pub type Answer = Box<dyn FnOnce(io::Result<Vec<SocketAddr>>) + Send>;

struct Job {
    host: String,
    port: u16,
    answer: Answer,
}

/// One asker's names. There is a line as long as there is one of them.
struct Line {
    /// `None`: ourselves, with as many threads as there are.
    asker: Option<Arc<str>>,
    waiting: VecDeque<Job>,
    running: usize,
}

/// What the threads have to do.
#[derive(Default)]
struct Jobs {
    /// Those that were served last stand last.
    lines: VecDeque<Line>,
    waiting: usize,
    running: usize,
    /// Nobody will ask any more.
    is_over: bool,
}

#[expect(
    clippy::disallowed_types,
    reason = "the pool's threads share one queue; a shard takes the lock to put a name there, \
              and nobody holds it for longer than that takes"
)]
struct Pool {
    jobs: std::sync::Mutex<Jobs>,
    changed: Condvar,
}

/// Ends the pool when it is dropped.
struct Handle(Arc<Pool>);

impl Resolver {
    /// Starts the pool. Its threads end when the last clone is dropped.
    ///
    /// # Errors
    ///
    /// When a thread cannot be started.
    pub fn start() -> io::Result<Self> {
        Self::start_with(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
    }

    /// Starts the pool with another way to look names up.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_with(lookup: Lookup) -> io::Result<Self> {
        let pool = Arc::new(Pool {
            jobs: Jobs::default().into(),
            changed: Condvar::new(),
        });
        let handle = Arc::new(Handle(Arc::clone(&pool)));
        for index in 0..RESOLVER_THREADS {
            let pool = Arc::clone(&pool);
            thread::Builder::new()
                .name(format!("resolver-{index}"))
                .spawn(move || pool.work(lookup))?;
        }
        Ok(Self { pool: handle })
    }

    /// Asks for the addresses of `host`; `answer` is called on a pool thread.
    ///
    /// # Errors
    ///
    /// When too many names wait already, of all or of `asker`.
    pub fn resolve(
        &self,
        host: &str,
        port: u16,
        asker: Option<Asker>,
        answer: Answer,
    ) -> Result<(), TooManyNames> {
        let job = Job {
            host: host.to_owned(),
            port,
            answer,
        };
        let Pool { jobs, changed } = &*self.pool.0;
        let mut jobs = jobs.lock().map_err(|_| TooManyNames::OfAll)?;
        jobs.add(asker, job)?;
        changed.notify_one();
        Ok(())
    }
}

impl Pool {
    fn work(&self, lookup: Lookup) {
        // The lock is held while waiting for a job, not while resolving.
        let Ok(mut jobs) = self.jobs.lock() else {
            return;
        };
        loop {
            if let Some((asker, Job { host, port, answer })) = jobs.take() {
                drop(jobs);
                answer(lookup(&host, port));
                match self.jobs.lock() {
                    Ok(locked) => jobs = locked,
                    Err(_) => return,
                }
                jobs.finish(asker.as_ref());
                continue;
            }
            if jobs.is_over {
                return;
            }
            match self.changed.wait(jobs) {
                Ok(locked) => jobs = locked,
                Err(_) => return,
            }
        }
    }
}

impl Jobs {
    fn add(&mut self, asker: Option<Asker>, job: Job) -> Result<(), TooManyNames> {
        let name = asker.as_ref().map(|asker| &asker.name);
        let line = self
            .lines
            .iter_mut()
            .find(|line| line.asker.as_ref() == name);
        let is_first = line.as_ref().is_none_or(|line| line.waiting.is_empty());
        let kept = if is_first { QUEUE_KEPT } else { 0 };
        if self.waiting >= RESOLVER_QUEUE_MAX + kept {
            return Err(TooManyNames::OfAll);
        }
        match (line, asker) {
            (Some(line), Some(asker)) if line.names() >= asker.names_max => {
                return Err(TooManyNames::OfAsker(asker.names_max));
            }
            (Some(line), _) => line.waiting.push_back(job),
            (None, asker) => self.lines.push_back(Line {
                asker: asker.map(|asker| asker.name),
                waiting: VecDeque::from([job]),
                running: 0,
            }),
        }
        self.waiting += 1;
        Ok(())
    }

    /// What a thread is to do next, and for whom.
    fn take(&mut self) -> Option<(Option<Arc<str>>, Job)> {
        let is_kept = self.running + THREADS_KEPT >= RESOLVER_THREADS;
        let lines = self.lines.iter().enumerate();
        let (index, _) = lines
            .filter(|(_, line)| line.may_run(is_kept))
            .min_by_key(|(_, line)| line.running)?;
        let mut line = self.lines.remove(index)?;
        let job = line.waiting.pop_front()?;
        let asker = line.asker.clone();
        line.running += 1;
        self.running += 1;
        self.waiting -= 1;
        self.lines.push_back(line);
        Some((asker, job))
    }

    /// A thread has done what it took.
    fn finish(&mut self, asker: Option<&Arc<str>>) {
        self.running -= 1;
        for line in &mut self.lines {
            if line.asker.as_ref() == asker {
                line.running -= 1;
            }
        }
        self.lines.retain(|line| line.names() > 0);
    }
}

impl Line {
    fn names(&self) -> usize {
        self.waiting.len() + self.running
    }

    /// Whether the next thread may be this line's, which `is_kept` or is anybody's.
    fn may_run(&self, is_kept: bool) -> bool {
        let may_hold = self.asker.is_none() || self.running == 0 || !is_kept;
        may_hold && !self.waiting.is_empty()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(mut jobs) = self.0.jobs.lock() {
            jobs.is_over = true;
        }
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl From<TooManyNames> for io::Error {
    fn from(error: TooManyNames) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;
    use std::sync::mpsc::{self, Receiver, SyncSender};

    /// "dead" blocks until the test has seen the living name answered.
    #[expect(
        clippy::disallowed_types,
        reason = "a test's gate for several pool threads"
    )]
    static GATE: OnceLock<(SyncSender<()>, std::sync::Mutex<Receiver<()>>)> = OnceLock::new();

    fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if host == "dead" {
            let (_, gate) = GATE.get().unwrap();
            let _ = gate.lock().unwrap().recv();
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
    }

    #[test]
    fn seven_dead_names_do_not_delay_the_eighth() {
        let (open, gate) = mpsc::sync_channel(RESOLVER_THREADS);
        #[expect(clippy::disallowed_types, reason = "as above")]
        GATE.set((open, std::sync::Mutex::new(gate))).unwrap();
        let resolver = Resolver::start_with(lookup).unwrap();
        let (sender, answers) = mpsc::channel();
        for index in 0..RESOLVER_THREADS {
            let host = if index < 7 { "dead" } else { "alive" };
            let sender = sender.clone();
            let answer: Answer = Box::new(move |answer| sender.send((host, answer)).unwrap());
            resolver.resolve(host, 7, None, answer).unwrap();
        }
        let (host, answer) = answers.recv().unwrap();
        assert_eq!(host, "alive");
        assert_eq!(answer.unwrap(), [SocketAddr::from(([127, 0, 0, 1], 7))]);
        for _ in 0..7 {
            GATE.get().unwrap().0.send(()).unwrap();
            assert_eq!(answers.recv().unwrap().0, "dead");
        }
    }

    fn job() -> Job {
        Job {
            host: String::new(),
            port: 0,
            answer: Box::new(|_| {}),
        }
    }

    fn asker(name: &str, names_max: usize) -> Option<Asker> {
        let name = name.into();
        Some(Asker { name, names_max })
    }

    /// For whom the next threads work.
    fn take(jobs: &mut Jobs, count: usize) -> Vec<String> {
        let taken = (0..count).map_while(|_| jobs.take());
        let names = taken.map(|(asker, _)| asker.as_deref().unwrap_or("us").to_owned());
        names.collect()
    }

    #[test]
    fn slow_askers_leave_a_thread_to_whoever_has_none() {
        for (slow, held) in [
            (&["a"][..], &["a", "a", "a", "a"][..]),
            (&["a", "b"], &["a", "b", "a", "b"]),
            (&["a", "b", "c"], &["a", "b", "c", "a"]),
        ] {
            let mut jobs = Jobs::default();
            for name in slow.iter().cycle().take(20 * slow.len()) {
                jobs.add(asker(name, 64), job()).unwrap();
            }
            assert_eq!(take(&mut jobs, RESOLVER_THREADS), held);
            // Others come one by one, and each has its thread at once.
            for name in ["w", "x", "y", "z"] {
                jobs.add(asker(name, 64), job()).unwrap();
                jobs.add(asker(name, 64), job()).unwrap();
                assert_eq!(take(&mut jobs, RESOLVER_THREADS), [name]);
            }
            assert_eq!(jobs.running, RESOLVER_THREADS);
        }
        // Those who come when others have all that one may have take one each.
        let mut jobs = Jobs::default();
        for name in ["a", "b", "c"] {
            for _ in 0..20 {
                jobs.add(asker(name, 64), job()).unwrap();
            }
            let held = take(&mut jobs, RESOLVER_THREADS);
            assert_eq!(held.len(), if name == "a" { 4 } else { 1 });
        }
    }

    #[test]
    fn slow_askers_leave_room_to_wait_to_whoever_has_none() {
        let mut jobs = Jobs::default();
        for name in ["a", "b"] {
            for _ in 0..RESOLVER_QUEUE_MAX / 2 {
                jobs.add(asker(name, 256), job()).unwrap();
            }
        }
        assert_eq!(jobs.add(asker("a", 256), job()), Err(TooManyNames::OfAll));
        for number in 0..QUEUE_KEPT {
            let name = number.to_string();
            jobs.add(asker(&name, 256), job()).unwrap();
            let another = jobs.add(asker(&name, 256), job());
            assert_eq!(another, Err(TooManyNames::OfAll));
        }
        assert_eq!(jobs.add(asker("c", 256), job()), Err(TooManyNames::OfAll));
    }

    #[test]
    fn an_asker_holds_half_of_the_threads_and_makes_way_for_others() {
        let mut jobs = Jobs::default();
        for _ in 0..20 {
            jobs.add(asker("slow", 20), job()).unwrap();
        }
        assert_eq!(take(&mut jobs, RESOLVER_THREADS), ["slow"; 4]);
        for name in ["a", "b", "a"] {
            jobs.add(asker(name, 20), job()).unwrap();
        }
        // Whoever holds fewest is next, and among these whoever waits longest.
        assert_eq!(take(&mut jobs, 2), ["a", "b"]);
        // Half of them are held: whoever has one waits, and we do not.
        jobs.finish(Some(&"slow".into()));
        assert_eq!(take(&mut jobs, 3), [""; 0]);
        jobs.add(None, job()).unwrap();
        assert_eq!(take(&mut jobs, 2), ["us"]);
        jobs.finish(None);
        for name in ["slow", "b"] {
            jobs.finish(Some(&name.into()));
        }
        assert_eq!(take(&mut jobs, 3), ["a"]);
        for name in ["a", "a"] {
            jobs.finish(Some(&name.into()));
        }
        assert_eq!(take(&mut jobs, 3), ["slow", "slow"]);
        let left: Vec<_> = jobs
            .lines
            .iter()
            .map(|line| line.asker.as_deref())
            .collect();
        assert_eq!(left, [Some("slow")]);
        assert_eq!((jobs.waiting, jobs.running), (14, 4));
    }

    #[test]
    fn an_asker_has_so_many_names_until_they_are_resolved() {
        let mut jobs = Jobs::default();
        for _ in 0..6 {
            jobs.add(asker("slow", 6), job()).unwrap();
        }
        take(&mut jobs, RESOLVER_THREADS);
        let refused = Err(TooManyNames::OfAsker(6));
        assert_eq!(jobs.add(asker("slow", 6), job()), refused);
        assert_eq!(jobs.add(asker("a", 6), job()), Ok(()));
        jobs.finish(Some(&"slow".into()));
        assert_eq!(jobs.add(asker("slow", 6), job()), Ok(()));
        assert_eq!(jobs.add(asker("slow", 6), job()), refused);
        while jobs.waiting < RESOLVER_QUEUE_MAX {
            jobs.add(None, job()).unwrap();
        }
        assert_eq!(jobs.add(None, job()), Err(TooManyNames::OfAll));
    }
}
