//! Name resolution off the shards: `getaddrinfo(3)` blocks, so eight threads
//! do nothing else. Seven dead names do not delay the eighth.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::thread;

/// Threads that resolve.
pub const RESOLVER_THREADS: usize = 8;

/// Names that wait for a thread; one more is refused.
pub const RESOLVER_QUEUE_MAX: usize = 256;

/// Resolves one name; the seam through which tests give dead names.
pub type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Sends questions to the pool. Clone one per shard.
#[derive(Clone, Debug)]
pub struct Resolver {
    jobs: mpsc::SyncSender<Job>,
}

/// Carries an answer back to the shard that asked; called on a pool thread.
pub type Answer = Box<dyn FnOnce(io::Result<Vec<SocketAddr>>) + Send>;

struct Job {
    host: String,
    port: u16,
    answer: Answer,
}

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
    #[expect(
        clippy::disallowed_types,
        reason = "the pool's threads share one queue; no shard ever takes this lock"
    )]
    pub fn start_with(lookup: Lookup) -> io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(RESOLVER_QUEUE_MAX);
        let queue = Arc::new(std::sync::Mutex::new(queue));
        for index in 0..RESOLVER_THREADS {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("resolver-{index}"))
                .spawn(move || {
                    loop {
                        // The lock is held while waiting for a job, not while resolving.
                        let job = match queue.lock() {
                            Ok(queue) => queue.recv(),
                            Err(_) => return,
                        };
                        let Ok(Job { host, port, answer }) = job else {
                            return;
                        };
                        answer(lookup(&host, port));
                    }
                })?;
        }
        Ok(Self { jobs })
    }

    /// Asks for the addresses of `host`; `answer` is called on a pool thread.
    ///
    /// # Errors
    ///
    /// When [`RESOLVER_QUEUE_MAX`] names wait already.
    pub fn resolve(&self, host: &str, port: u16, answer: Answer) -> io::Result<()> {
        self.jobs
            .try_send(Job {
                host: host.to_owned(),
                port,
                answer,
            })
            .map_err(|_| {
                io::Error::other(format!(
                    "{RESOLVER_QUEUE_MAX} names wait to be resolved already"
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;
    use std::sync::mpsc::{Receiver, SyncSender};

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
            resolver.resolve(host, 7, answer).unwrap();
        }
        let (host, answer) = answers.recv().unwrap();
        assert_eq!(host, "alive");
        assert_eq!(answer.unwrap(), [SocketAddr::from(([127, 0, 0, 1], 7))]);
        for _ in 0..7 {
            GATE.get().unwrap().0.send(()).unwrap();
            assert_eq!(answers.recv().unwrap().0, "dead");
        }
    }
}
