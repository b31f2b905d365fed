//! Datagram sockets that have one peer: the kernel gives them what comes from it and nothing else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockAddr, Type};

use super::socket::Socket;

/// A socket for datagrams with `peer`, from a port of ours, or any if that is 0.
///
/// # Errors
///
/// `AddrInUse` and `PermissionDenied` when the port is not to be had; whatever else `socket(2)`,
/// `bind(2)` and `connect(2)` say.
pub fn connected(local_port: u16, peer: SocketAddr) -> io::Result<Socket> {
    let anywhere: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = new_socket(Domain::for_address(peer), Protocol::UDP)?;
    socket.bind(&SockAddr::from(SocketAddr::new(anywhere, local_port)))?;
    socket.connect(&peer.into())?;
    Ok(Socket::from_nonblocking(OwnedFd::from(socket)))
}

/// What is to be done where [`echoes`] is not permitted.
pub const ECHOES_NEED: &str = "net.ipv4.ping_group_range has to have the relay's group, or \
                               [jproxy] icmp to be false";

/// A socket for echo requests to `host`, which takes no privilege where the group of this process
/// is in `net.ipv4.ping_group_range` (`icmp(7)`).
///
/// # Errors
///
/// `PermissionDenied` where it is not; whatever else `socket(2)` and `connect(2)` say.
pub fn echoes(host: IpAddr) -> io::Result<Socket> {
    let peer = SocketAddr::new(host, 0);
    let protocol = match host {
        IpAddr::V4(_) => Protocol::ICMPV4,
        IpAddr::V6(_) => Protocol::ICMPV6,
    };
    let socket = new_socket(Domain::for_address(peer), protocol)?;
    socket.connect(&peer.into())?;
    Ok(Socket::from_nonblocking(OwnedFd::from(socket)))
}

fn new_socket(domain: Domain, protocol: Protocol) -> io::Result<socket2::Socket> {
    socket2::Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(protocol))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn only_what_comes_from_the_peer_is_there() {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let there = peer.local_addr().expect("an address");
        let ours = connected(0, there).expect("a socket");
        let here = ours.local_address().expect("an address");
        stranger.send_to(b"stranger", here).expect("sent");
        peer.send_to(b"peer", here).expect("sent");
        let mut buffer = [0; 64];
        assert_eq!(ours.recv(&mut buffer), Ok(4));
        assert_eq!(&buffer[..4], b"peer");
        let taken = connected(here.port(), there).map(drop);
        let taken = taken.expect_err("the port is taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
