//! One connected stream socket, always non-blocking.
//!
//! TCP or unix stream. Every call is one system call that returns at once; the
//! error is the kernel's `errno`, and `EAGAIN` ([`Errno::AGAIN`]) means "not
//! now, wait for the poll". `EINTR` is repeated here and never seen above.
//! Listening and accepting are left to [`super::listener`].
#![expect(
    unsafe_code,
    reason = "SO_RCVLOWAT, SIOCOUTQ and TCP_INFO have no safe wrapper in rustix"
)]

use std::io::IoSlice;
use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec, ioctl_fionbio, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
    connect, getpeername, recv, send, sendmsg, shutdown, socket_with, sockopt,
};

use super::readiness::Readiness;

/// When a silent peer is asked whether it is still there, and when it is given
/// up. A peer that only reads slowly answers, and is never given up. The
/// question also keeps the connection's place in the tables of routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds, at most 32767.
    pub idle: Duration,
    /// Time between two probes; whole seconds, at most 32767.
    pub interval: Duration,
    /// Probes without an answer after which it is given up; at most 127.
    pub count: u32,
}

impl Keepalive {
    /// For every connection of a relay and its proxies: a peer that vanished is
    /// given up within two minutes.
    pub const DEFAULT: Self = Self {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 6,
    };
}

/// A connected, non-blocking TCP or unix stream socket; closed when dropped.
///
/// Dropping it while a poll is armed on it sends neither FIN nor RST until the
/// poll is cancelled: the ring holds the file.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

const _: () = assert!(size_of::<Option<Socket>>() == 4);

impl Socket {
    /// Takes a socket that is already non-blocking, as those of an accept with
    /// `SOCK_NONBLOCK` are.
    #[must_use]
    pub fn from_nonblocking(fd: OwnedFd) -> Self {
        debug_assert!(
            fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK)),
            "a blocking socket would block its whole shard"
        );
        Self { fd }
    }

    /// Takes any socket and makes it non-blocking.
    ///
    /// # Errors
    ///
    /// What `FIONBIO` answers; not seen on an open socket.
    pub fn adopt(fd: OwnedFd) -> Result<Self, Errno> {
        ioctl_fionbio(&fd, true)?;
        Ok(Self { fd })
    }

    /// Another descriptor of the same connection, which ends when both are closed.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    pub fn duplicate(&self) -> Result<Self, Errno> {
        let fd = fcntl_dupfd_cloexec(&self.fd, 0)?;
        Ok(Self { fd })
    }

    /// Starts to connect to `address` over TCP, with `TCP_NODELAY`. Once the
    /// socket is writable, [`Socket::take_error`] tells how it went.
    ///
    /// # Errors
    ///
    /// Whatever `socket(2)` says; from `connect(2)` what is known at once.
    pub fn start_connect(address: SocketAddr) -> Result<Self, Errno> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = Self {
            fd: socket_with(family, SocketType::STREAM, flags, None)?,
        };
        socket.set_nodelay()?;
        match retry_on_intr(|| connect(&socket.fd, &address)) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error),
        }
    }

    /// Reads up to `buffer.len()` bytes; 0 is the end of the stream, or an
    /// error that was already reported once (see [`Socket::poll_now`]).
    ///
    /// # Errors
    ///
    /// `EAGAIN` when nothing waits; `ECONNRESET`, `ETIMEDOUT` and the like once.
    #[inline]
    pub fn recv(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        retry_on_intr(|| recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT)).map(|(_, count)| count)
    }

    /// As [`Socket::recv`], into the room that a buffer has behind its bytes.
    ///
    /// # Errors
    ///
    /// As [`Socket::recv`].
    pub fn recv_behind(&self, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
        let received = retry_on_intr(|| {
            let room = spare_capacity(&mut *buffer);
            recv(&self.fd, room, RecvFlags::DONTWAIT)
        });
        received.map(|(_, count)| count)
    }

    /// As [`Socket::recv`], leaving the bytes where they are.
    ///
    /// # Errors
    ///
    /// As [`Socket::recv`].
    pub fn peek(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        retry_on_intr(|| recv(&self.fd, &mut *buffer, flags)).map(|(_, count)| count)
    }

    /// Takes bytes off the stream without copying them anywhere (`MSG_TRUNC`
    /// on TCP): as many as fit into `space`, which stays as it is. A receiver
    /// that costs next to nothing, for load generators.
    ///
    /// # Errors
    ///
    /// As [`Socket::recv`].
    #[inline]
    pub fn discard(&self, space: &mut [u8]) -> Result<usize, Errno> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        retry_on_intr(|| recv(&self.fd, &mut *space, flags)).map(|(_, count)| count)
    }

    /// Writes as much of `bytes` as the send buffer takes, without `SIGPIPE`.
    ///
    /// A short count means that the buffer is full now: the kernel reports
    /// writable when it is not.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when nothing fits; `EPIPE` after the connection was lost or
    /// the write side was shut.
    #[inline]
    pub fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        retry_on_intr(|| send(&self.fd, bytes, flags))
    }

    /// As [`Socket::send`], of bytes that lie in several places, in one call.
    ///
    /// # Errors
    ///
    /// As [`Socket::send`].
    #[inline]
    pub fn send_gathered(&self, places: &[IoSlice<'_>]) -> Result<usize, Errno> {
        if let [place] = places {
            return self.send(place);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        retry_on_intr(|| sendmsg(&self.fd, places, &mut SendAncillaryBuffer::default(), flags))
    }

    /// Ends our half of the stream: a FIN goes out behind what was sent.
    ///
    /// # Errors
    ///
    /// `ENOTCONN` when the connection is already gone.
    pub fn shutdown_write(&self) -> Result<(), Errno> {
        shutdown(&self.fd, Shutdown::Write)
    }

    /// Makes the close that follows send a RST instead of a FIN and drop what
    /// was not sent (`SO_LINGER` with 0 seconds).
    ///
    /// # Errors
    ///
    /// None known for an open socket.
    pub fn set_linger_reset(&self) -> Result<(), Errno> {
        sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO))
    }

    /// Reports readable only when `bytes` or more wait, or the stream ended
    /// (`SO_RCVLOWAT`); 1 is the kernel's default.
    ///
    /// Setting it re-evaluates: if enough waits now, a poll fires.
    ///
    /// # Errors
    ///
    /// None known for an open TCP socket.
    pub fn set_receive_low_water(&self, bytes: u32) -> Result<(), Errno> {
        let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        // JUSTIFICATION: rustix has no SO_RCVLOWAT.
        // SAFETY: the descriptor is open while `self` lives; the option's value
        // is a c_int, which `value` is, and its length is passed beside it; the
        // kernel reads it before the call returns.
        let status = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const value).cast(),
                socklen::<libc::c_int>(),
            )
        };
        check(status)
    }

    /// Takes the pending error, which the kernel forgets by telling it
    /// (`SO_ERROR`); `None` when there is none.
    #[must_use = "the kernel reports an error only once"]
    pub fn take_error(&self) -> Option<Errno> {
        match sockopt::socket_error(&self.fd) {
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(error),
        }
    }

    /// The whole readiness as it is now (`poll(2)` with no wait); nothing is
    /// consumed by it.
    #[must_use]
    pub fn poll_now(&self) -> Readiness {
        let mut fds = [PollFd::new(&self.fd, Readiness::INTEREST)];
        let at_once = Timespec::default();
        match retry_on_intr(|| poll(&mut fds, Some(&at_once))) {
            Ok(_) => Readiness::from_poll(fds[0].revents()),
            Err(_) => Readiness::NONE,
        }
    }

    /// Bytes written that the peer's kernel has not acknowledged, sent or not
    /// (`SIOCOUTQ`).
    ///
    /// # Errors
    ///
    /// None known for a connected socket.
    pub fn unsent_bytes(&self) -> Result<u32, Errno> {
        let mut bytes: libc::c_int = 0;
        // JUSTIFICATION: rustix has no SIOCOUTQ; TIOCOUTQ is its number.
        // SAFETY: the descriptor is open while `self` lives; the request writes
        // one c_int through the pointer, which is valid for that.
        let status = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        check(status)?;
        Ok(u32::try_from(bytes).unwrap_or(0))
    }

    /// Bytes written that have not even been sent (`SIOCOUTQNSD`).
    ///
    /// # Errors
    ///
    /// `ENOTTY` and the like on a socket that is not TCP.
    pub fn queued_bytes(&self) -> Result<u32, Errno> {
        const SIOCOUTQNSD: libc::Ioctl = 0x894b;
        let mut bytes: libc::c_int = 0;
        // JUSTIFICATION: neither rustix nor libc has SIOCOUTQNSD.
        // SAFETY: the descriptor is open while `self` lives; the request writes
        // one c_int through the pointer, which is valid for that.
        let status = unsafe { libc::ioctl(self.fd.as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) };
        check(status)?;
        Ok(u32::try_from(bytes).unwrap_or(0))
    }

    /// Time since the peer last acknowledged anything (`TCP_INFO`), to a
    /// kernel tick of 1 to 10 ms.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` on a socket that is not TCP.
    pub fn time_since_ack(&self) -> Result<Duration, Errno> {
        // JUSTIFICATION: `tcp_info` has many fields and no constructor.
        // SAFETY: it is plain integers, for which all zeroes is a value.
        let mut info: libc::tcp_info = unsafe { zeroed() };
        let mut length = socklen::<libc::tcp_info>();
        // JUSTIFICATION: rustix has no TCP_INFO.
        // SAFETY: the descriptor is open while `self` lives; the kernel writes
        // at most `length` bytes, which is the size of `info`, and updates
        // `length`; both outlive the call.
        let status = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        check(status)?;
        Ok(Duration::from_millis(info.tcpi_last_ack_recv.into()))
    }

    /// Sends small writes at once instead of gathering them (`TCP_NODELAY`).
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` on a socket that is not TCP.
    pub fn set_nodelay(&self) -> Result<(), Errno> {
        sockopt::set_tcp_nodelay(&self.fd, true)
    }

    /// Probes a silent peer.
    ///
    /// # Errors
    ///
    /// `EINVAL` outside of the kernel's limits.
    pub fn set_keepalive(&self, keepalive: Keepalive) -> Result<(), Errno> {
        sockopt::set_socket_keepalive(&self.fd, true)?;
        sockopt::set_tcp_keepidle(&self.fd, keepalive.idle)?;
        sockopt::set_tcp_keepintvl(&self.fd, keepalive.interval)?;
        sockopt::set_tcp_keepcnt(&self.fd, keepalive.count)
    }

    /// The address on this side; `None` for a socket that has none, such as one of unix.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        let address = rustix::net::getsockname(&self.fd).ok()?;
        SocketAddr::try_from(address).ok()
    }

    /// The peer's address; `None` for a socket that has none, such as one of unix.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        getpeername(&self.fd)
            .ok()
            .flatten()
            .and_then(|address| SocketAddr::try_from(address).ok())
    }

    /// Whether this is an internet socket, not a unix one.
    #[must_use]
    pub fn is_internet(&self) -> bool {
        sockopt::socket_domain(&self.fd)
            .is_ok_and(|domain| matches!(domain, AddressFamily::INET | AddressFamily::INET6))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

const fn socklen<T>() -> libc::socklen_t {
    assert!(size_of::<T>() < 1 << 16);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the assertion above leaves 16 bits, and try_from is not const"
    )]
    {
        size_of::<T>() as libc::socklen_t
    }
}

fn check(status: libc::c_int) -> Result<(), Errno> {
    if status == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
