//! Listening sockets that were open when the process started, as systemd passes them to
//! a service: numbered from 3 on, see sd_listen_fds(3). Its variables are read above.
//!
//! Left out: whatever is no TCP socket that listens, such as the connections of a
//! `.socket` unit with `Accept=yes`.

#![expect(unsafe_code, reason = "descriptors come as numbers")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{ipproto, sockopt};
use socket2::SockRef;

/// The first one's number, `SD_LISTEN_FDS_START`.
const FIRST_NUMBER: RawFd = 3;

/// A listening TCP socket that somebody else bound, and may keep open.
#[derive(Debug)]
pub struct InheritedSocket {
    fd: OwnedFd,
    address: SocketAddr,
}

/// Why what was passed on cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    #[error("descriptor {number} was not passed on")]
    Missing { number: RawFd },
    #[error("descriptor {number} is not a TCP socket that listens")]
    NotListening { number: RawFd },
    #[error("cannot ask for the address of descriptor {number}")]
    Address { number: RawFd, source: io::Error },
}

impl InheritedSocket {
    /// Takes the first `count` descriptors behind standard error, in order.
    ///
    /// # Errors
    ///
    /// When one of them is not a TCP socket that listens, or was taken before.
    pub fn take(count: u16) -> Result<Vec<Self>, InheritedError> {
        (FIRST_NUMBER..FIRST_NUMBER + RawFd::from(count))
            .map(Self::take_one)
            .collect()
    }

    fn take_one(number: RawFd) -> Result<Self, InheritedError> {
        // JUSTIFICATION: whether the number is in use is to be found out.
        // SAFETY: `fcntl` with F_GETFD takes any number, and changes nothing.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        // Whatever this program opens is closed on exec: it is no such descriptor.
        if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
            return Err(InheritedError::Missing { number });
        }
        // JUSTIFICATION: the descriptor came as a number.
        // SAFETY: `from_raw_fd` asks for an open descriptor without another owner. It
        // is open. It came through an exec, so nothing here has opened it; and it was
        // not taken before, as taking marks it, which is the next step.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let not_listening = |_| InheritedError::NotListening { number };
        fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(not_listening)?;
        let listens = sockopt::socket_acceptconn(&fd).map_err(not_listening)?;
        let protocol = sockopt::socket_protocol(&fd).map_err(not_listening)?;
        if !listens || protocol != Some(ipproto::TCP) {
            return Err(InheritedError::NotListening { number });
        }
        let address = SockRef::from(&fd)
            .local_addr()
            .map_err(|source| InheritedError::Address { number, source })?;
        match address.as_socket() {
            Some(address) => Ok(Self { fd, address }),
            None => Err(InheritedError::NotListening { number }),
        }
    }

    /// The address that it is bound to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
impl InheritedSocket {
    pub(super) fn from_listener_for_test(listener: std::net::TcpListener) -> Self {
        let address = listener.local_addr().expect("bound");
        let fd = OwnedFd::from(listener);
        Self { fd, address }
    }
}

impl From<InheritedSocket> for OwnedFd {
    fn from(socket: InheritedSocket) -> Self {
        socket.fd
    }
}
