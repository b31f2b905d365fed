//! UDP sockets of one address, one for each shard, and who of them gets a datagram.
//!
//! The sockets are one `SO_REUSEPORT` group. By itself the kernel chooses among them by
//! addresses and ports, so that a client whose address changes comes to another shard. A
//! steered group is asked for the first byte of a QUIC packet's destination connection ID
//! instead ([RFC 9000 §17]): the rest of its division by the number of sockets is the index
//! of the socket, in the order in which they were bound.
//!
//! A socket that leaves its group gives its index to the last one, so that those of a group
//! are closed together or not at all.
//!
//! [RFC 9000 §17]: https://www.rfc-editor.org/rfc/rfc9000#section-17
#![expect(unsafe_code, reason = "one socket option has no safe interface")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use socket2::{Domain, Protocol, SockRef, Type};

use super::listener::listen_advice;
use super::listener::once_free;
use super::socket::Socket;

/// What is asked of the kernel for each socket, each way: a burst of one client is some
/// hundred KiB, and the default of 208 KiB loses from it.
pub const BUFFER_BYTES: usize = 4 << 20;

/// Most sockets of a steered group: the rest of a division of one byte.
pub const STEERED_SHARDS_MAX: u16 = 256;

/// Checks that nobody else has `address`, and settles port 0. A socket of a `SO_REUSEPORT`
/// group can be joined in silence by another process of the same user; a bind without that
/// option fails instead.
///
/// # Errors
///
/// `EADDRINUSE` when somebody has it; whatever `bind(2)` says.
pub fn claim_udp_address(address: SocketAddr) -> io::Result<SocketAddr> {
    once_free(|| try_udp_address(address))
}

fn try_udp_address(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = unbound(address)?;
    socket.bind(&address.into())?;
    local_address(&socket)
}

/// Binds one socket for each of `count` shards, all at one address, which
/// [`claim_udp_address`] gave.
///
/// # Errors
///
/// Whatever `socket(2)` or `bind(2)` says.
pub fn bind_udp_group(address: SocketAddr, count: usize) -> io::Result<Vec<Socket>> {
    let bind = |_| {
        let socket = unbound(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Ok(Socket::from_nonblocking(OwnedFd::from(socket)))
    };
    (0..count).map(bind).collect()
}

/// Has the kernel steer the group of which `socket` is one by connection IDs.
///
/// # Errors
///
/// When the kernel or a sandbox does not allow it. Datagrams then come by their addresses.
pub fn steer(socket: &Socket, sockets: u16) -> io::Result<()> {
    debug_assert!((2..=STEERED_SHARDS_MAX).contains(&sockets));
    // Offsets are from the UDP payload. A packet with a long header has its connection ID's
    // length before it, at 5 (RFC 8999 §5.1); one with a short header has only a flags byte.
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, 0x80),
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 6),
        instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 1),
        instruction(
            libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K,
            0,
            0,
            sockets.into(),
        ),
        instruction(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: 7,
        filter: program.as_mut_ptr(),
    };
    let length = libc::socklen_t::try_from(size_of_val(&program)).unwrap_or(libc::socklen_t::MAX);
    // JUSTIFICATION: socket2 has the option for filters, not the one for groups.
    // SAFETY: `setsockopt` asks for a live descriptor and for a value of the length that it
    // is told: a program that points to seven instructions, which the kernel copies before
    // the call returns. All of it lives on the stack until then.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A socket for one client's datagrams, at a port of its own.
///
/// # Errors
///
/// Whatever `socket(2)` or `bind(2)` says.
pub fn bind_udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = unbound(address)?;
    socket.bind(&address.into())?;
    Ok(Socket::from_nonblocking(OwnedFd::from(socket)))
}

/// Sockets have less room than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "UDP sockets have buffers of {bytes} bytes, and {BUFFER_BYTES} were asked for: what a burst \
     brings beyond is lost, and sent again"
)]
pub struct SmallBuffers {
    bytes: usize,
}

impl SmallBuffers {
    /// What the kernel gave `socket`, if it is less than was asked for, or if it does not tell.
    #[must_use]
    pub fn of(socket: &Socket) -> Option<Self> {
        Self::check(buffer_bytes(socket).unwrap_or_default())
    }

    fn check(bytes: usize) -> Option<Self> {
        (bytes < BUFFER_BYTES).then_some(Self { bytes })
    }

    /// What the operator can do about it, as an imperative.
    #[must_use]
    pub fn next_step(self) -> String {
        format!(
            "sysctl -w net.core.rmem_max={BUFFER_BYTES} net.core.wmem_max={BUFFER_BYTES}, as \
             midspan doctor --apply does, and start again"
        )
    }
}

/// A socket that speaks with `peer` alone. If its host says that nobody listens there, which
/// others hear nothing of, the socket has that as its error.
///
/// # Errors
///
/// Whatever `socket(2)` or `connect(2)` says.
pub fn connect_udp(peer: SocketAddr) -> io::Result<Socket> {
    let socket = unbound(peer)?;
    socket.connect(&peer.into())?;
    Ok(Socket::from_nonblocking(OwnedFd::from(socket)))
}

/// The smaller of a socket's two buffers, in bytes as [`BUFFER_BYTES`] is meant: the kernel
/// keeps twice what it was asked for, for its own books.
fn buffer_bytes(socket: &Socket) -> io::Result<usize> {
    let socket = SockRef::from(socket);
    Ok(socket.recv_buffer_size()?.min(socket.send_buffer_size()?) / 2)
}

/// What an operator can do about an address of UDP that cannot be had.
#[must_use]
pub fn udp_advice(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::AddrInUse => Some(
            "stop what is bound there (ss -lunp; a relay that drains is until it ends), or choose \
             another address or port",
        ),
        _ => listen_advice(error),
    }
}

fn unbound(address: SocketAddr) -> io::Result<socket2::Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The kernel cuts it down to net.core.rmem_max and wmem_max without an error.
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    Ok(socket)
}

fn local_address(socket: &socket2::Socket) -> io::Result<SocketAddr> {
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

fn instruction(code: u32, if_true: u8, if_false: u8, operand: u32) -> libc::sock_filter {
    libc::sock_filter {
        // INVARIANT: every code of classic BPF is below 256.
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt: if_true,
        jf: if_false,
        k: operand,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use rustix::net::{RecvFlags, recv};

    use super::*;

    const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    /// A packet with such a destination connection ID: a long header's, or a short one's.
    fn packet(is_long: bool, steer: u8) -> Vec<u8> {
        match is_long {
            true => vec![0xc0, 0, 0, 0, 1, 8, steer, 1, 2, 3, 4, 5, 6, 7],
            false => vec![0x40, steer, 1, 2, 3, 4, 5, 6, 7],
        }
    }

    #[test]
    fn datagrams_go_where_their_connection_id_says() {
        for shards in [2, 3, 5] {
            let address = claim_udp_address(LOCALHOST).unwrap();
            let sockets = bind_udp_group(address, usize::from(shards)).unwrap();
            steer(&sockets[0], shards).unwrap();
            // From many ports, which is what the kernel would choose by.
            for steer in 0..=u8::MAX {
                for is_long in [false, true] {
                    let client = UdpSocket::bind(LOCALHOST).unwrap();
                    client.send_to(&packet(is_long, steer), address).unwrap();
                    let expected = usize::from(u16::from(steer) % shards);
                    for (index, socket) in sockets.iter().enumerate() {
                        let mut buffer = [0; 64];
                        let got = recv(socket, &mut buffer, RecvFlags::DONTWAIT);
                        assert_eq!(got.is_ok(), index == expected, "{steer} {is_long} {index}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_group_is_not_joined_in_silence() {
        let address = claim_udp_address(LOCALHOST).unwrap();
        let _group = bind_udp_group(address, 2).unwrap();
        let error = try_udp_address(address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn buffers_are_told_as_they_were_asked_for() {
        let socket = bind_udp(LOCALHOST).unwrap();
        let bytes = buffer_bytes(&socket).unwrap();
        let limit = |name| {
            let path = format!("/proc/sys/net/core/{name}");
            let limit = std::fs::read_to_string(path).unwrap();
            limit.trim().parse::<usize>().unwrap()
        };
        let limit = limit("rmem_max").min(limit("wmem_max"));
        assert_eq!(bytes, BUFFER_BYTES.min(limit));
        assert_eq!(SmallBuffers::of(&socket).is_some(), limit < BUFFER_BYTES);
    }

    #[test]
    fn small_buffers_are_told_with_what_helps() {
        assert_eq!(SmallBuffers::check(BUFFER_BYTES), None);
        let small = SmallBuffers::check(212_992).unwrap();
        let told = small.to_string();
        assert!(told.contains("212992 bytes, and 4194304 were"), "{told}");
        let next = small.next_step();
        assert!(
            next.contains("rmem_max=4194304 net.core.wmem_max=4194304"),
            "{next}"
        );
    }

    #[test]
    fn an_address_that_is_taken_is_looked_up_as_udp() {
        let socket = bind_udp(LOCALHOST).unwrap();
        let error = try_udp_address(socket.local_address().unwrap()).unwrap_err();
        assert!(udp_advice(&error).unwrap().contains("ss -lunp"));
    }
}
