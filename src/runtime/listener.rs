//! Listening sockets: one per shard and address, in one SO_REUSEPORT group; bound here, or
//! by whoever started the process.

#![expect(unsafe_code, reason = "one socket option has no safe interface")]

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};

use super::inherited::InheritedSocket;
use super::socket::{Keepalive, Socket};

/// How often it is looked whether an address is free by now, and after how long each time.
const IN_USE_LOOKS: u32 = 40;
const IN_USE_INTERVAL: Duration = Duration::from_millis(25);

/// Connections that the kernel keeps for one listener while the shard is busy.
const BACKLOG: i32 = 4096;

/// Connections refused in one go after descriptors ran out; the rest of the
/// backlog gets its turn after a rest.
const REFUSE_BATCH: u32 = 256;

/// One shard's listening socket on one address.
#[derive(Debug)]
pub struct Listener {
    socket: Option<OwnedFd>,
    address: SocketAddr,
    /// Somebody else has the socket too: what waits in its queue when this shard stops
    /// is for who serves it next.
    is_kept: bool,
    /// Held so that it can be given up: with no descriptor left, it makes room
    /// for just the one that accepts and refuses.
    reserve: Option<OwnedFd>,
}

/// When a listener hands a connection out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOut {
    /// As soon as it is established: for protocols whose server speaks first.
    Established,
    /// With the client's first bytes, or about a second after it was
    /// established (`TCP_DEFER_ACCEPT`): saves a turn of the loop per
    /// connection.
    FirstBytes,
}

/// What taking one connection from the kernel's queue gave.
pub(crate) enum Backlog {
    Connection(Socket),
    /// It was closed at once: no descriptor was left for it.
    Refused,
    Empty,
}

/// What an operator can do about an address that cannot be had.
#[must_use]
pub fn listen_advice(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            Some("stop what listens there (ss -ltnp), or choose another address or port")
        }
        io::ErrorKind::AddrNotAvailable => {
            Some("no interface has this address (ip addr); choose one that an interface has")
        }
        io::ErrorKind::PermissionDenied => {
            Some("ports below 1024 take root or CAP_NET_BIND_SERVICE (see tuning/midspan.service)")
        }
        _ => None,
    }
}

/// Checks that nobody else listens on `address`, and settles port 0.
///
/// A listener of a SO_REUSEPORT group can be joined in silence by another
/// process of the same user, which would then take a share of the connections.
/// A bind without that option fails instead.
///
/// # Errors
///
/// `EADDRINUSE` when somebody listens there; whatever `bind(2)` says.
pub fn claim_address(address: SocketAddr) -> io::Result<SocketAddr> {
    once_free(|| try_address(address))
}

fn try_address(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM.cloexec(),
        Some(Protocol::TCP),
    )?;
    // Connections of a former process in TIME_WAIT must not block the bind; a
    // socket that listens still does.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

/// Binds as soon as nobody else has the address, if that is soon. What was killed has its
/// sockets for a moment longer, as the kernel takes rings down behind the process's back.
pub(super) fn once_free<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..IN_USE_LOOKS {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => wait(IN_USE_INTERVAL),
            bound => return bound,
        }
    }
    bind()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the process starts, and has no shard yet"
)]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// Binds one listener for each of `count` shards, all at one address, which
/// [`claim_address`] gave.
///
/// # Errors
///
/// As [`Listener::bind`].
pub fn bind_group(
    address: SocketAddr,
    hand_out: HandOut,
    count: usize,
) -> io::Result<Vec<Listener>> {
    (0..count)
        .map(|_| Listener::bind(address, hand_out))
        .collect()
}

impl Listener {
    /// Binds `address` within its group and listens.
    ///
    /// # Errors
    ///
    /// Whatever `socket(2)`, `bind(2)` or `listen(2)` says.
    pub fn bind(address: SocketAddr, hand_out: HandOut) -> io::Result<Self> {
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        prepare(SockRef::from(&socket), hand_out)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self {
            socket: Some(socket.into()),
            address,
            is_kept: false,
            reserve: reserve_descriptor(),
        })
    }

    /// Serves a socket that listens already. Its backlog stays as whoever bound it has
    /// chosen.
    ///
    /// # Errors
    ///
    /// Whatever `ioctl(2)` or `setsockopt(2)` says.
    pub fn adopt(inherited: InheritedSocket, hand_out: HandOut) -> io::Result<Self> {
        let address = inherited.address();
        let socket = OwnedFd::from(inherited);
        ioctl_fionbio(&socket, true)?;
        prepare(SockRef::from(&socket), hand_out)?;
        Ok(Self {
            socket: Some(socket),
            address,
            is_kept: true,
            reserve: reserve_descriptor(),
        })
    }

    /// The address it is bound to, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The congestion control that its connections will use.
    ///
    /// # Errors
    ///
    /// Whatever `getsockopt(2)` says.
    pub fn congestion_control(&self) -> io::Result<String> {
        let name = SockRef::from(&self.as_fd()).tcp_congestion()?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// Takes one connection from the kernel's queue, of a listener that stops: closing
    /// its last descriptor would reset them. Where another one keeps it open, none.
    pub(crate) fn accept_queued(&mut self) -> Backlog {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.is_kept) else {
            return Backlog::Empty;
        };
        loop {
            match accept_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(fd) => return Backlog::Connection(Socket::from_nonblocking(fd)),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE) => {
                    return if self.refuse_one() {
                        Backlog::Refused
                    } else {
                        Backlog::Empty
                    };
                }
                Err(_) => return Backlog::Empty,
            }
        }
    }

    /// Accepts and closes what waits in the kernel's queue, with the reserve
    /// descriptor: those peers learn at once instead of timing out. Returns how
    /// many.
    pub(crate) fn refuse_backlog(&mut self) -> u32 {
        let mut count = 0;
        while count < REFUSE_BATCH && self.refuse_one() {
            count += 1;
        }
        count
    }

    /// Stops listening.
    pub(crate) fn close(&mut self) {
        self.socket = None;
        self.reserve = None;
    }

    fn refuse_one(&mut self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        self.reserve = None;
        // Another shard may have been quicker to take the descriptor: then its
        // connection waits for the next round.
        let accepted = accept_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC);
        let refused = accepted.is_ok();
        drop(accepted);
        self.reserve = reserve_descriptor();
        refused
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Some(socket) => socket.as_fd(),
            // INVARIANT: `close` comes last in a listener's life.
            None => unreachable!("a closed listener is not used"),
        }
    }
}

impl From<Keepalive> for TcpKeepalive {
    fn from(keepalive: Keepalive) -> Self {
        Self::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.count)
    }
}

/// Sets what is needed once, on the listening socket, and not for each connection.
pub(super) fn prepare(socket: SockRef<'_>, hand_out: HandOut) -> io::Result<()> {
    if hand_out == HandOut::FirstBytes {
        defer_accept(&socket)?;
    }
    // Accepted sockets inherit both.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&Keepalive::DEFAULT.into())
}

fn defer_accept(socket: &socket2::Socket) -> io::Result<()> {
    let seconds: libc::c_int = 1;
    // JUSTIFICATION: neither socket2 nor rustix has this option.
    // SAFETY: `setsockopt` asks for a live descriptor and for a value of the
    // length that it is told: a C int, on the stack for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            socklen_of(&seconds),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn socklen_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).unwrap_or(libc::socklen_t::MAX)
}

fn reserve_descriptor() -> Option<OwnedFd> {
    File::open("/dev/null").ok().map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_about_to_be_free_is_waited_for() {
        let former = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = former.local_addr().unwrap();
        let mut looks = 0;
        let mut former = Some(former);
        let claimed = once_free(|| {
            looks += 1;
            if looks == 3 {
                former = None;
            }
            try_address(address)
        });
        assert_eq!((claimed.unwrap(), looks), (address, 3));
    }
}
