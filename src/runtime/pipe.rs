//! A kernel pipe as the place where spliced bytes rest between two sockets.
//!
//! `splice(2)` moves references to pages, and no byte through memory of ours; `tee(2)`
//! makes second references, to look at some of the bytes while all of them go on. All
//! calls are non-blocking and move (rather than copy) where the kernel can.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice, tee,
};
use rustix::thread::{CapabilitySet, capabilities};

use super::socket::Socket;

/// A pipe and its capacity; closed, with whatever it holds, when dropped.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    capacity_bytes: u32,
}

/// Where bytes go that nobody wants: `/dev/null`.
#[derive(Debug)]
pub struct Nowhere(OwnedFd);

impl Nowhere {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// Where there is no such device.
    pub fn open() -> Result<Self, Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        open("/dev/null", flags, Mode::empty()).map(Self)
    }
}

impl Pipe {
    /// Makes a pipe that can hold `capacity_bytes`, or what the kernel rounds
    /// that up to.
    ///
    /// # Errors
    ///
    /// `EPERM` past `fs.pipe-max-size`, or when an unprivileged user's pipes
    /// together would pass `fs.pipe-user-pages-soft`; `EMFILE` and `ENFILE` out
    /// of descriptors.
    pub fn create(capacity_bytes: u32) -> Result<Self, Errno> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let wanted = usize::try_from(capacity_bytes).unwrap_or(usize::MAX);
        // A pipe is born with 64 KiB, or less past the soft limit.
        let mut capacity = fcntl_getpipe_size(&writer)?;
        if capacity != wanted {
            capacity = fcntl_setpipe_size(&writer, wanted)?;
        }
        Ok(Self {
            reader,
            writer,
            capacity_bytes: u32::try_from(capacity).unwrap_or(u32::MAX),
        })
    }

    /// Bytes that the pipe holds when every slot is a full page.
    #[must_use]
    pub const fn capacity_bytes(&self) -> u32 {
        self.capacity_bytes
    }

    /// Moves up to `bytes_max` from the socket into the pipe; 0 is the end of
    /// the stream.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when the socket has nothing or the pipe is full: fill an empty
    /// pipe only, and it means the socket. Otherwise as [`Socket::recv`].
    #[inline]
    pub fn splice_from(&self, socket: &Socket, bytes_max: u32) -> Result<u32, Errno> {
        move_bytes(
            |length| splice(socket, None, &self.writer, None, length, FLAGS),
            bytes_max,
        )
    }

    /// Moves up to `bytes_max` from the pipe into the socket.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when the socket takes nothing or the pipe is empty: drain only
    /// a pipe that holds bytes, and it means the socket. Otherwise as
    /// [`Socket::send`]; an error behind some moved bytes is lost, the next
    /// call says `EPIPE`.
    #[inline]
    pub fn splice_to(&self, socket: &Socket, bytes_max: u32) -> Result<u32, Errno> {
        move_bytes(
            |length| splice(&self.reader, None, socket, None, length, FLAGS),
            bytes_max,
        )
    }

    /// Puts second references to what the pipe holds, its first `bytes_max`, into `other`,
    /// which has to be empty; it takes all if it is as large. Nothing is taken away here.
    ///
    /// # Errors
    ///
    /// None known for such pipes.
    pub fn tee_to(&self, other: &Self, bytes_max: u32) -> Result<u32, Errno> {
        move_bytes(
            |length| tee(&self.reader, &other.writer, length, SpliceFlags::NONBLOCK),
            bytes_max,
        )
    }

    /// Drops up to `bytes_max` bytes unseen.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when the pipe is empty.
    pub fn drop_bytes(&self, nowhere: &Nowhere, bytes_max: u32) -> Result<u32, Errno> {
        move_bytes(
            |length| splice(&self.reader, None, &nowhere.0, None, length, FLAGS),
            bytes_max,
        )
    }

    /// Copies up to `buffer.len()` bytes out of the pipe.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when the pipe is empty.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        retry_on_intr(|| read(&self.reader, &mut *buffer))
    }
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

#[inline]
fn move_bytes(
    mut call: impl FnMut(usize) -> Result<usize, Errno>,
    bytes_max: u32,
) -> Result<u32, Errno> {
    let length = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let moved = retry_on_intr(|| call(length))?;
    Ok(u32::try_from(moved).unwrap_or(bytes_max))
}

/// What the kernel lets this process have in pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipeLimits {
    /// Largest single pipe.
    pub pipe_bytes_max: u64,
    /// All pipes of this user together; `None` when nothing bounds them.
    pub total_bytes_max: Option<u64>,
}

impl PipeLimits {
    /// Reads the limits of this process from `/proc/sys/fs` and from its
    /// capabilities; what cannot be read is taken for the kernel's default.
    #[must_use]
    pub fn read() -> Self {
        let privileged = capabilities(None).is_ok_and(|sets| {
            sets.effective
                .intersects(CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_ADMIN)
        });
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let pages = |name, default| match read_number(name).unwrap_or(default) {
            0 => None,
            pages => Some(pages.saturating_mul(page_bytes)),
        };
        let soft = pages("pipe-user-pages-soft", 16_384);
        let hard = pages("pipe-user-pages-hard", 0);
        let total_bytes_max = match (soft, hard) {
            _ if privileged => None,
            (Some(soft), Some(hard)) => Some(soft.min(hard)),
            (soft, hard) => soft.or(hard),
        };
        Self {
            pipe_bytes_max: read_number("pipe-max-size").unwrap_or(1 << 20),
            total_bytes_max,
        }
    }
}

fn read_number(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/sys/fs/{name}")).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_reports_the_capacity_that_it_got() {
        let pipe = Pipe::create(60_000).expect("a small pipe");
        assert_eq!(pipe.capacity_bytes(), 65_536);
        let pipe = Pipe::create(256 << 10).expect("a 256 KiB pipe");
        assert_eq!(pipe.capacity_bytes(), 256 << 10);
    }

    #[test]
    fn what_a_pipe_holds_can_be_looked_at_and_goes_on() {
        let [pipe, second] = [(); 2].map(|()| Pipe::create(64 << 10).expect("a pipe"));
        let nowhere = Nowhere::open().expect("a device");
        rustix::io::write(&pipe.writer, b"0123456789").expect("room");
        assert_eq!(pipe.tee_to(&second, 100), Ok(10));
        let mut buffer = [0; 3];
        assert_eq!(second.drop_bytes(&nowhere, 2), Ok(2));
        assert_eq!(second.read(&mut buffer), Ok(3));
        assert_eq!(&buffer, b"234");
        assert_eq!(second.drop_bytes(&nowhere, 100), Ok(5));
        assert_eq!(second.read(&mut buffer), Err(Errno::AGAIN));
        assert_eq!(second.drop_bytes(&nowhere, 1), Err(Errno::AGAIN));
        let mut buffer = [0; 20];
        assert_eq!(pipe.read(&mut buffer), Ok(10));
        assert_eq!(&buffer[..10], b"0123456789");
    }

    #[test]
    fn limits_are_read() {
        let limits = PipeLimits::read();
        assert!(limits.pipe_bytes_max >= 4096, "{limits:?}");
        assert!(limits.total_bytes_max != Some(0), "{limits:?}");
    }
}
