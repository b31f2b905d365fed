//! A UDP socket as one task sees it: sends at once, and waits for what comes.
//!
//! Left out: waiting for room to send. Where a datagram does not fit now it is lost, as it
//! may be anywhere on its way. And whom an error of ICMP is about: the kernel tells it to
//! sockets with one peer, and whoever has several loses a datagram.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto};
use socket2::{Domain, Protocol, Type};

use super::reactor::Reactor;
use super::socket::Socket;
use super::task_socket::TaskSocket;

/// The longest datagram there is: its length in the header of UDP.
pub const DATAGRAM_BYTES_MAX: usize = u16::MAX as usize;

/// Errors in a row that are passed over for what is behind them. Each tells of a datagram
/// that was sent before.
const ERRORS_MAX: usize = 16;

/// A socket for one task's datagrams.
///
/// Every operation may be dropped at any await: no buffer of the caller is ever in the
/// kernel's hands.
pub struct DatagramSocket {
    socket: TaskSocket,
    /// There may be something: its poll tells each thing once.
    is_readable: bool,
}

impl DatagramSocket {
    /// A socket at `address`; one of IPv6 is for nothing else.
    ///
    /// # Errors
    ///
    /// Whatever `socket(2)` and `bind(2)` say.
    pub fn bind(reactor: Rc<Reactor>, address: SocketAddr) -> io::Result<Self> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let domain = Domain::for_address(address);
        let socket = socket2::Socket::new(domain, kind, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        let socket = Socket::from_nonblocking(OwnedFd::from(socket));
        Ok(Self {
            socket: TaskSocket::new(reactor, socket),
            is_readable: true,
        })
    }

    /// Where it is, with the port that the kernel chose.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.socket().local_address()
    }

    /// Sends a datagram, which may be empty.
    ///
    /// # Errors
    ///
    /// Why it was not sent. The socket is as good as before.
    pub fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> Result<(), Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        retry_on_intr(|| sendto(self.socket(), bytes, flags, &to)).map(|_| ())
    }

    /// Takes a datagram, as much of it as `buffer` has room for, and who sent it.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when none is there.
    pub fn try_recv_from(&mut self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Errno> {
        for _ in 0..ERRORS_MAX {
            if !self.is_readable {
                break;
            }
            let received = retry_on_intr(|| {
                let (_, bytes, from) = recvfrom(self.socket(), &mut *buffer, RecvFlags::DONTWAIT)?;
                Ok((bytes, from))
            });
            match received {
                Ok((bytes, from)) => {
                    if let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) {
                        return Ok((bytes, from));
                    }
                }
                Err(Errno::AGAIN) => self.is_readable = false,
                Err(_) => {}
            }
        }
        // After so many errors one that stays would be met for ever.
        self.is_readable = false;
        Err(Errno::AGAIN)
    }

    /// Whether something may be there; has the task woken when it is.
    pub fn poll_readable(&mut self, context: &Context<'_>) -> Poll<()> {
        while !self.is_readable {
            match self.socket.poll_readiness(context) {
                Poll::Ready(readiness) => self.is_readable = readiness.is_readable(),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    fn socket(&self) -> &Socket {
        self.socket.socket()
    }
}

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket")
            .field("local_address", &self.local_address())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
    use std::pin::pin;
    use std::task::Waker;
    use std::time::Duration;

    use super::*;
    use crate::runtime::clock;
    use crate::runtime::ring::{RingSize, Sleep};

    const ANYWHERE: [SocketAddr; 2] = [
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
    ];

    fn reactor() -> Rc<Reactor> {
        Reactor::new(RingSize::default()).expect("a ring")
    }

    /// Turns until there is a datagram, and gives it.
    fn receive(reactor: &Reactor, socket: &mut DatagramSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 64];
        let mut receiving = pin!(poll_fn(|context| {
            loop {
                match socket.try_recv_from(&mut buffer) {
                    Ok((count, from)) => return Poll::Ready((buffer[..count].to_vec(), from)),
                    Err(_) if socket.poll_readable(context).is_ready() => {}
                    Err(_) => return Poll::Pending,
                }
            }
        }));
        let limit = clock::now() + Duration::from_secs(30);
        loop {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(received) = receiving.as_mut().poll(&mut context) {
                return received;
            }
            assert!(clock::now() < limit, "nothing came");
            reactor.turn(Sleep::UntilOne, Some(limit));
            while reactor.poll_event().is_some() {}
        }
    }

    #[test]
    fn datagrams_go_both_ways_empty_ones_too() {
        for address in ANYWHERE {
            let reactor = reactor();
            let mut ours = DatagramSocket::bind(Rc::clone(&reactor), address).expect("bound");
            let here = ours.local_address().expect("an address");
            let peer = UdpSocket::bind(address).expect("bound");
            let there = peer.local_addr().expect("an address");
            for word in [&b"hello"[..], b"", b"again"] {
                peer.send_to(word, here).expect("sent");
                assert_eq!(receive(&reactor, &mut ours), (word.to_vec(), there));
                ours.try_send_to(word, there).expect("sent");
                let mut buffer = [0; 64];
                let (count, from) = peer.recv_from(&mut buffer).expect("received");
                assert_eq!((&buffer[..count], from), (word, here));
            }
            assert_eq!(reactor.watched(), 1);
            drop(ours);
            assert_eq!(reactor.watched(), 0);
            // Its poll lets go of it before the next sleep: nobody has the address any more.
            reactor.turn(Sleep::UntilOne, Some(clock::now()));
            drop(UdpSocket::bind(here).expect("bound again"));
        }
    }

    #[test]
    fn whoever_is_gone_is_no_error_of_the_socket() {
        let reactor = reactor();
        let mut ours = DatagramSocket::bind(Rc::clone(&reactor), ANYWHERE[0]).expect("bound");
        let here = ours.local_address().expect("an address");
        let gone = UdpSocket::bind(ANYWHERE[0]).and_then(|gone| gone.local_addr());
        let gone = gone.expect("an address");
        for _ in 0..3 {
            ours.try_send_to(b"anybody?", gone).expect("sent");
        }
        assert_eq!(ours.try_recv_from(&mut [0; 64]), Err(Errno::AGAIN));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(ours.try_send_to(b"x", nowhere), Err(Errno::INVAL));
        let peer = UdpSocket::bind(ANYWHERE[0]).expect("bound");
        let there = peer.local_addr().expect("an address");
        peer.send_to(b"here", here).expect("sent");
        assert_eq!(receive(&reactor, &mut ours), (b"here".to_vec(), there));
    }

    #[test]
    fn what_is_sent_makes_no_events() {
        let reactor = reactor();
        let ours = DatagramSocket::bind(Rc::clone(&reactor), ANYWHERE[0]).expect("bound");
        let peer = UdpSocket::bind(ANYWHERE[0]).expect("bound");
        let there = peer.local_addr().expect("an address");
        reactor.turn(Sleep::No, None);
        for _ in 0..10 {
            ours.try_send_to(b"x", there).expect("sent");
            peer.recv_from(&mut [0; 64]).expect("received");
            assert!(!reactor.has_completions());
            reactor.turn(Sleep::No, None);
        }
        assert!(reactor.is_caught_up());
    }
}
