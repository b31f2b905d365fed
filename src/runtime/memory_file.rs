//! Bytes in a file that exists only in memory, as a source that costs next to
//! nothing: `sendfile(2)` puts its pages into a socket's queue without a copy.
//!
//! For load generators. Left out: changing the bytes later, which peers that
//! have not read them yet would see.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::io::{Errno, retry_on_intr, write};

use super::socket::Socket;

/// A file in memory, written once; gone when dropped.
#[derive(Debug)]
pub struct MemoryFile {
    fd: OwnedFd,
    len_bytes: u64,
}

impl MemoryFile {
    /// Makes a file that holds `bytes`.
    ///
    /// # Errors
    ///
    /// `EMFILE` and `ENFILE` out of descriptors, `ENOSPC` out of memory.
    pub fn create(bytes: &[u8]) -> Result<Self, Errno> {
        let fd = memfd_create("midspan-source", MemfdFlags::CLOEXEC)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = retry_on_intr(|| write(&fd, rest))?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(Self {
            fd,
            len_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        })
    }

    /// Length of the file.
    #[must_use]
    pub const fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Sends up to `bytes_max` of what stands at `offset` into `socket`; 0 only
    /// at the end of the file.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when the send buffer is full; otherwise as [`Socket::send`],
    /// except that a lost connection also raises `SIGPIPE`, which Rust programs
    /// ignore.
    #[inline]
    pub fn send_to(&self, socket: &Socket, offset: u64, bytes_max: usize) -> Result<usize, Errno> {
        retry_on_intr(|| {
            let mut position = offset;
            sendfile(socket, &self.fd, Some(&mut position), bytes_max)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn sends_from_any_offset_up_to_its_end() {
        let file = MemoryFile::create(b"midspan").expect("a memory file");
        assert_eq!(file.len_bytes(), 7);
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let ours = Socket::adopt(ours.into()).expect("an open socket");
        assert_eq!(file.send_to(&ours, 3, 2), Ok(2));
        assert_eq!(file.send_to(&ours, 3, 100), Ok(4));
        assert_eq!(file.send_to(&ours, 7, 1), Ok(0));
        drop(ours);
        let mut got = String::new();
        theirs.read_to_string(&mut got).expect("what was sent");
        assert_eq!(got, "spspan");
    }
}
