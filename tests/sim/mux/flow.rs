//! What one program says to the other: each byte is known by its place.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// One direction of a channel.
#[derive(Debug)]
pub(super) struct Flow {
    seed: u64,
    pub(super) written: u64,
    pub(super) read: u64,
    /// Whoever writes has ended it.
    pub(super) is_shut: bool,
    /// Whoever reads has seen the end.
    pub(super) has_end: bool,
}

impl Flow {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            seed,
            written: 0,
            read: 0,
            is_shut: false,
            has_end: false,
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_shut && self.has_end && self.read == self.written
    }

    fn bytes(&self, from: u64, count: usize) -> impl Iterator<Item = u8> {
        let seed = self.seed;
        (from..)
            .take(count)
            .map(move |at| ((at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
    }

    /// What is written next, of so many bytes.
    pub(super) fn next(&self, count: usize) -> Vec<u8> {
        self.bytes(self.written, count).collect()
    }

    /// Writes up to so many bytes. False where nobody takes them any more.
    pub(super) fn write(&mut self, program: &mut UnixStream, count: usize) -> bool {
        match program.write(&self.next(count)) {
            Ok(written) => self.written += written as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        true
    }

    pub(super) fn shut(&mut self, program: &UnixStream) {
        self.is_shut = true;
        // It may be gone already.
        let _ = program.shutdown(Shutdown::Write);
    }

    /// Reads up to so many bytes, which have to be the next ones. False where it was broken off.
    pub(super) fn read(&mut self, program: &mut UnixStream, count: usize) -> bool {
        let mut buffer = vec![0; count];
        match program.read(&mut buffer) {
            Ok(0) if count > 0 => self.has_end = true,
            Ok(read) => {
                let expected: Vec<u8> = self.bytes(self.read, read).collect();
                assert!(buffer[..read] == expected, "bytes of something else");
                self.read += read as u64;
                assert!(self.read <= self.written, "bytes that nobody wrote");
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        true
    }
}
