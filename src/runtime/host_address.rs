//! Whether an address is one of this host's own, by the kernel's routes.
//!
//! Left out: addresses that are the host's by a network of the loopback device alone, to which
//! the kernel goes from another address, and those that a router translates to the host's.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// Any: a socket for datagrams is connected without a word on the network.
const PORT: u16 = 9;

/// Asks the kernel from where it would go to an address: to one of the host's own, from that
/// itself.
///
/// # Errors
///
/// When it cannot be asked, mostly for want of a descriptor.
pub fn is_of_host(address: IpAddr) -> io::Result<bool> {
    let to = SocketAddr::new(address, PORT);
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    // Where there is no way there is nobody, be it ourselves.
    if socket.connect(&to.into()).is_err() {
        return Ok(false);
    }
    let from = socket.local_addr()?.as_socket();
    Ok(from.is_none_or(|from| from.ip() == address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_addresses_are_known() {
        for (address, expected) in [("127.0.0.1", true), ("192.0.2.1", false)] {
            let address = address.parse().expect("an address");
            assert_eq!(is_of_host(address).unwrap(), expected, "{address}");
        }
    }
}
