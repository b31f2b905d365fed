//! The shard's pipes: taken for a splice, given back when the source is empty.
//!
//! A direction holds a *chain*: one pipe, and while its destination is slower
//! than its source, more of them behind it. A chain is filled at its end and
//! drained from its front.

use std::collections::VecDeque;

use rustix::io::Errno;

use crate::runtime::pipe::{Nowhere, Pipe};
use crate::runtime::socket::Socket;

use super::direction::ChainKey;

/// Capacity of a pipe when the preferred one is not allowed.
const FALLBACK_BYTES: u32 = 256 << 10;
/// A chain may have one in so many of the pool's pipes: a reader that stands
/// still keeps them.
const CHAIN_SHARE: usize = 8;
/// Requests that go without a pipe after the kernel refused one.
const REFUSALS_PER_ERROR: u32 = 1024;

/// A bounded number of pipes of a bounded size together.
#[derive(Debug)]
pub(super) struct PipePool {
    /// Every chain ever used; without pipes while its number is free.
    chains: Vec<VecDeque<Link>>,
    vacant: Vec<u32>,
    /// Empty pipes, the warmest last.
    idle: Vec<Pipe>,
    open_count: usize,
    open_bytes: u64,
    /// Requests that are still refused without asking the kernel.
    refusals_left: u32,
    /// For what need not be looked at, once somebody looks.
    nowhere: Option<Nowhere>,
    limits: PipePoolLimits,
}

/// A pipe of a chain.
///
/// INVARIANT: only the last pipe of a chain may be empty, and between two calls
/// only if it is the only one.
#[derive(Debug)]
struct Link {
    pipe: Pipe,
    /// What is to be drained.
    held_bytes: u32,
    /// Behind that it holds what is nobody's.
    is_fouled: bool,
}

/// A pipe beside the last one of a chain, to look at what that holds.
#[derive(Debug)]
pub(super) struct Second {
    link: Link,
    nowhere: Nowhere,
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

/// What one splice into a chain moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) bytes: u32,
    /// What the pipe had room for, or the bound.
    pub(super) asked_bytes: u32,
}

impl PipePool {
    pub(super) const fn new(limits: PipePoolLimits) -> Self {
        Self {
            chains: Vec::new(),
            vacant: Vec::new(),
            idle: Vec::new(),
            open_count: 0,
            open_bytes: 0,
            refusals_left: 0,
            nowhere: None,
            limits,
        }
    }

    /// A chain of one empty pipe; `None` when the budget or the kernel has
    /// none to give.
    pub(super) fn acquire(&mut self) -> Option<ChainKey> {
        let link = self.take_link()?;
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.chains.push(VecDeque::new());
            u32::try_from(self.chains.len() - 1).unwrap_or(u32::MAX)
        });
        self.chains[index as usize].push_back(link);
        Some(ChainKey(index))
    }

    /// Puts an empty pipe behind the others; false when there is none to
    /// spare: a quarter of what the pool may open is left to first pipes, and a
    /// chain takes no more than an eighth.
    pub(super) fn extend(&mut self, key: ChainKey) -> bool {
        let PipePoolLimits {
            pipe_bytes,
            count_max,
            total_bytes_max,
            ..
        } = self.limits;
        let by_bytes = usize::try_from(total_bytes_max / u64::from(pipe_bytes));
        let count_max = by_bytes.unwrap_or(usize::MAX).min(count_max as usize);
        let length = self.chains[key.0 as usize].len();
        if self.in_use() >= count_max - count_max / 4 || length >= count_max / CHAIN_SHARE {
            return false;
        }
        let Some(link) = self.take_link() else {
            return false;
        };
        self.chains[key.0 as usize].push_back(link);
        true
    }

    /// Splices up to `bytes_max` into the last pipe of the chain, which is empty.
    ///
    /// # Errors
    ///
    /// As [`Pipe::splice_from`].
    #[inline]
    pub(super) fn fill(
        &mut self,
        key: ChainKey,
        source: &Socket,
        bytes_max: u32,
    ) -> Result<Filled, Errno> {
        let link = self.chains[key.0 as usize]
            .back_mut()
            .expect("a key names a chain until it is given back");
        debug_assert_eq!(link.held_bytes, 0);
        let asked_bytes = link.pipe.capacity_bytes().min(bytes_max);
        let bytes = link.pipe.splice_from(source, asked_bytes)?;
        link.held_bytes = bytes;
        Ok(Filled { bytes, asked_bytes })
    }

    /// An empty pipe that can hold whatever the last one of the chain can; `None` when there
    /// is none to give.
    pub(super) fn take_second(&mut self, key: ChainKey) -> Option<Second> {
        let nowhere = match self.nowhere.take() {
            Some(nowhere) => nowhere,
            None => Nowhere::open().ok()?,
        };
        let capacity = |link: &Link| link.pipe.capacity_bytes();
        let wanted = self.chains[key.0 as usize].back().map(capacity);
        match self.take_link() {
            Some(link) if Some(capacity(&link)) >= wanted => Some(Second { link, nowhere }),
            other => {
                other.into_iter().for_each(|link| self.put_link(link));
                self.nowhere = Some(nowhere);
                None
            }
        }
    }

    /// Puts second references to what the last pipe of the chain holds into `second`.
    ///
    /// # Errors
    ///
    /// When they are not all there then.
    pub(super) fn tee(&self, key: ChainKey, second: &mut Second) -> Result<(), Errno> {
        let Some(link) = self.chains[key.0 as usize].back() else {
            return Ok(());
        };
        let bytes = link.pipe.tee_to(&second.link.pipe, link.held_bytes)?;
        second.link.held_bytes = bytes;
        match bytes == link.held_bytes {
            true => Ok(()),
            false => Err(Errno::IO),
        }
    }

    /// Takes a second pipe back.
    pub(super) fn put_second(&mut self, second: Second) {
        self.nowhere = Some(second.nowhere);
        self.put_link(second.link);
    }

    /// Of what the last pipe of the chain holds, only so much is to be drained.
    pub(super) fn cut(&mut self, key: ChainKey, bytes: u32) {
        if let Some(link) = self.chains[key.0 as usize].back_mut() {
            link.is_fouled = bytes < link.held_bytes;
            link.held_bytes = bytes;
        }
    }

    /// Splices up to `bytes_max` out of the first pipe of the chain, which holds
    /// bytes.
    ///
    /// # Errors
    ///
    /// As [`Pipe::splice_to`].
    #[inline]
    pub(super) fn drain(
        &mut self,
        key: ChainKey,
        destination: &Socket,
        bytes_max: u32,
    ) -> Result<u32, Errno> {
        let chain = &mut self.chains[key.0 as usize];
        let is_last = chain.len() == 1;
        let link = chain
            .front_mut()
            .expect("a key names a chain until it is given back");
        let asked_bytes = link.held_bytes.min(bytes_max);
        let bytes = link.pipe.splice_to(destination, asked_bytes)?;
        link.held_bytes -= bytes;
        if link.held_bytes == 0
            && !is_last
            && let Some(link) = chain.pop_front()
        {
            self.put_link(link);
        }
        Ok(bytes)
    }

    /// Takes the pipe behind the others back: the splice into it moved nothing, or
    /// nothing that counts.
    pub(super) fn shorten(&mut self, key: ChainKey) {
        if let Some(link) = self.chains[key.0 as usize].pop_back() {
            self.put_link(link);
        }
    }

    /// Takes a chain back, and closes the pipes that hold bytes.
    pub(super) fn release(&mut self, key: ChainKey) {
        while let Some(link) = self.chains[key.0 as usize].pop_front() {
            self.put_link(link);
        }
        self.vacant.push(key.0);
    }

    /// Pipes that directions hold now.
    pub(super) const fn in_use(&self) -> usize {
        self.open_count - self.idle.len()
    }

    /// Empty pipes that are kept open.
    pub(super) const fn idle(&self) -> usize {
        self.idle.len()
    }

    fn take_link(&mut self) -> Option<Link> {
        let pipe = match self.idle.pop() {
            Some(pipe) => pipe,
            None => {
                let pipe = self.create()?;
                self.open_count += 1;
                self.open_bytes += u64::from(pipe.capacity_bytes());
                pipe
            }
        };
        Some(Link {
            pipe,
            held_bytes: 0,
            is_fouled: false,
        })
    }

    fn put_link(&mut self, link: Link) {
        let Link {
            pipe,
            held_bytes,
            is_fouled,
        } = link;
        if held_bytes == 0 && !is_fouled && self.idle.len() < self.limits.idle_max {
            self.idle.push(pipe);
        } else {
            self.open_count -= 1;
            self.open_bytes -= u64::from(pipe.capacity_bytes());
        }
    }

    fn create(&mut self) -> Option<Pipe> {
        if self.open_count >= self.limits.count_max as usize {
            return None;
        }
        if self.refusals_left > 0 {
            self.refusals_left -= 1;
            return None;
        }
        loop {
            let bytes = self.limits.pipe_bytes;
            if self.open_bytes + u64::from(bytes) > self.limits.total_bytes_max {
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

impl Second {
    /// What is still to be looked at.
    pub(super) const fn held_bytes(&self) -> u32 {
        self.link.held_bytes
    }

    /// Drops up to `bytes_max` of it unseen; tells how many.
    ///
    /// # Errors
    ///
    /// As [`Pipe::drop_bytes`].
    pub(super) fn skip(&mut self, bytes_max: u32) -> Result<u32, Errno> {
        let bytes = self.link.pipe.drop_bytes(&self.nowhere, bytes_max)?;
        self.link.held_bytes -= bytes;
        Ok(bytes)
    }

    /// Copies some of it.
    ///
    /// # Errors
    ///
    /// As [`Pipe::read`].
    pub(super) fn read<'buffer>(
        &mut self,
        buffer: &'buffer mut [u8],
    ) -> Result<&'buffer [u8], Errno> {
        let count = self.link.pipe.read(buffer)?;
        self.link.held_bytes -= u32::try_from(count).unwrap_or(0);
        Ok(&buffer[..count])
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const LIMITS: PipePoolLimits = PipePoolLimits {
        pipe_bytes: 64 << 10,
        count_max: 3,
        total_bytes_max: 1 << 20,
        idle_max: 1,
    };

    fn connection() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("a peer");
        let (stream, _) = listener.accept().expect("a connection");
        (peer, Socket::adopt(stream.into()).expect("a socket"))
    }

    #[test]
    fn pipes_are_bounded_in_number() {
        let mut pool = PipePool::new(LIMITS);
        let keys: Vec<ChainKey> = std::iter::from_fn(|| pool.acquire()).collect();
        assert_eq!(keys.len(), 3);
        for key in keys {
            pool.release(key);
        }
        assert_eq!((pool.in_use(), pool.idle()), (0, 1));
        assert_eq!(pool.open_bytes, 64 << 10);
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
    fn a_quarter_of_the_pipes_is_left_to_those_that_have_none() {
        let mut pool = PipePool::new(PipePoolLimits {
            count_max: 16,
            ..LIMITS
        });
        let mut extended = Vec::new();
        while let Some(key) = pool.acquire() {
            extended.push((0..3).filter(|_| pool.extend(key)).count());
        }
        // Two of 16 are an eighth, and 12 are three quarters.
        assert_eq!(extended, [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_chain_keeps_the_order_and_gives_its_pipes_back() {
        let mut pool = PipePool::new(PipePoolLimits {
            count_max: 32,
            total_bytes_max: 4 << 20,
            idle_max: 8,
            ..LIMITS
        });
        let (mut sender, source) = connection();
        let (mut receiver, destination) = connection();
        let key = pool.acquire().expect("a pipe");
        for part in ["one ", "two ", "three"] {
            sender.write_all(part.as_bytes()).expect("room");
            while pool.fill(key, &source, u32::MAX).is_err() {
                std::thread::yield_now();
            }
            assert!(pool.extend(key));
        }
        assert_eq!(pool.fill(key, &source, u32::MAX), Err(Errno::AGAIN));
        pool.shorten(key);
        for left in [2, 1, 1] {
            pool.drain(key, &destination, u32::MAX).expect("room");
            assert_eq!(pool.in_use(), left);
        }
        pool.release(key);
        assert_eq!((pool.in_use(), pool.idle()), (0, 4));
        drop(destination);
        let mut text = String::new();
        receiver.read_to_string(&mut text).expect("text");
        assert_eq!(text, "one two three");
    }

    #[test]
    fn a_pipe_with_bytes_is_closed_and_not_used_again() {
        let mut pool = PipePool::new(LIMITS);
        let (mut sender, source) = connection();
        sender.write_all(b"bytes").expect("room");
        let key = pool.acquire().expect("a pipe");
        while pool.fill(key, &source, u32::MAX).is_err() {
            std::thread::yield_now();
        }
        pool.release(key);
        assert_eq!((pool.in_use(), pool.idle(), pool.open_bytes), (0, 0, 0));
    }
}
