//! The shard's pipes: taken for a splice, given back when the source is empty.

use rustix::io::Errno;

use crate::runtime::pipe::Pipe;

use super::direction::PipeKey;

/// Capacity of a pipe when the preferred one is not allowed.
const FALLBACK_BYTES: u32 = 256 << 10;
/// Requests that go without a pipe after the kernel refused one.
const REFUSALS_PER_ERROR: u32 = 1024;

/// A bounded number of pipes of a bounded size together.
#[derive(Debug)]
pub(super) struct PipePool {
    /// Every slot ever used; `None` while its number is free.
    pipes: Vec<Option<Pipe>>,
    vacant: Vec<u32>,
    /// Empty pipes, the warmest last.
    idle: Vec<u32>,
    total_bytes: u64,
    /// Requests that are still refused without asking the kernel.
    refusals_left: u32,
    limits: PipePoolLimits,
}

/// The bounds of a [`PipePool`].
#[derive(Clone, Copy, Debug)]
pub(super) struct PipePoolLimits {
    pub(super) pipe_bytes: u32,
    pub(super) count_max: u32,
    pub(super) total_bytes_max: u64,
    /// Empty pipes that are kept open.
    pub(super) idle_max: usize,
}

impl PipePool {
    pub(super) const fn new(limits: PipePoolLimits) -> Self {
        Self {
            pipes: Vec::new(),
            vacant: Vec::new(),
            idle: Vec::new(),
            total_bytes: 0,
            refusals_left: 0,
            limits,
        }
    }

    /// An empty pipe; `None` when the budget or the kernel has none to give.
    pub(super) fn acquire(&mut self) -> Option<PipeKey> {
        if let Some(index) = self.idle.pop() {
            return Some(PipeKey(index));
        }
        let pipe = self.create()?;
        self.total_bytes += u64::from(pipe.capacity_bytes());
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.pipes.push(None);
            u32::try_from(self.pipes.len() - 1).unwrap_or(u32::MAX)
        });
        self.pipes[index as usize] = Some(pipe);
        Some(PipeKey(index))
    }

    /// Takes an empty pipe back.
    pub(super) fn release(&mut self, key: PipeKey) {
        if self.idle.len() < self.limits.idle_max {
            self.idle.push(key.0);
        } else {
            self.discard(key);
        }
    }

    /// Closes a pipe, with what it holds.
    pub(super) fn discard(&mut self, key: PipeKey) {
        if let Some(pipe) = self.pipes[key.0 as usize].take() {
            self.total_bytes -= u64::from(pipe.capacity_bytes());
            self.vacant.push(key.0);
        }
    }

    #[inline]
    pub(super) fn pipe(&self, key: PipeKey) -> &Pipe {
        self.pipes[key.0 as usize]
            .as_ref()
            .expect("a key names a pipe until it is given back")
    }

    /// Pipes that directions hold now.
    pub(super) fn in_use(&self) -> usize {
        self.pipes.len() - self.vacant.len() - self.idle.len()
    }

    /// Empty pipes that are kept open.
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    fn create(&mut self) -> Option<Pipe> {
        let open = self.pipes.len() - self.vacant.len();
        if open >= self.limits.count_max as usize {
            return None;
        }
        if self.refusals_left > 0 {
            self.refusals_left -= 1;
            return None;
        }
        loop {
            let bytes = self.limits.pipe_bytes;
            if self.total_bytes + u64::from(bytes) > self.limits.total_bytes_max {
                return None;
            }
            match Pipe::create(bytes) {
                Ok(pipe) => return Some(pipe),
                // Larger than this user may have, or the user's pipes together
                // are: a smaller one still pays.
                Err(Errno::PERM) if bytes > FALLBACK_BYTES => {
                    self.limits.pipe_bytes = FALLBACK_BYTES;
                }
                // Out of pipe pages or of descriptors, which others use too.
                Err(_) => {
                    self.refusals_left = REFUSALS_PER_ERROR;
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PipePoolLimits = PipePoolLimits {
        pipe_bytes: 64 << 10,
        count_max: 3,
        total_bytes_max: 1 << 20,
        idle_max: 1,
    };

    #[test]
    fn pipes_are_bounded_in_number() {
        let mut pool = PipePool::new(LIMITS);
        let keys: Vec<PipeKey> = std::iter::from_fn(|| pool.acquire()).collect();
        assert_eq!(keys.len(), 3);
        for key in keys {
            pool.release(key);
        }
        assert_eq!((pool.in_use(), pool.idle()), (0, 1));
        assert_eq!(pool.total_bytes, 64 << 10);
        assert!(pool.acquire().is_some());
        assert!(pool.acquire().is_some());
    }

    #[test]
    fn pipes_are_bounded_in_size() {
        let mut pool = PipePool::new(PipePoolLimits {
            total_bytes_max: 200 << 10,
            count_max: 100,
            ..LIMITS
        });
        assert_eq!(std::iter::from_fn(|| pool.acquire()).count(), 3);
    }

    #[test]
    fn a_pipe_with_bytes_is_closed_and_not_used_again() {
        let mut pool = PipePool::new(LIMITS);
        let key = pool.acquire().expect("a pipe");
        pool.discard(key);
        assert_eq!((pool.in_use(), pool.idle(), pool.total_bytes), (0, 0, 0));
    }
}
