//! A listening socket as one task sees it: there for somebody who is awaited, until the task
//! drops it.
//!
//! Left out: sharing a port's connections with other shards, which is [`super::listener`]'s.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Type};

use super::listener::{HandOut, prepare};
use super::reactor::Reactor;
use super::socket::Socket;
use super::stream::Stream;
use super::task_socket::TaskSocket;

/// Connections that the kernel keeps: one is awaited, and strangers are closed at once.
const BACKLOG: i32 = 16;

/// One task's listening socket, at a port of the kernel's choice.
///
/// Dropped, it listens no more from the next turn of the reactor that may sleep; who is in
/// its queue by then is reset.
pub struct PeerListener {
    socket: TaskSocket,
    address: SocketAddr,
}

impl PeerListener {
    /// Listens at `ip`; at one of IPv6 for nothing else.
    ///
    /// # Errors
    ///
    /// Whatever `socket(2)`, `bind(2)` and `listen(2)` say.
    pub fn bind(reactor: Rc<Reactor>, ip: IpAddr) -> io::Result<Self> {
        let address = SocketAddr::new(ip, 0);
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = socket2::Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        prepare(SockRef::from(&socket), HandOut::Established)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        let socket = Socket::from_nonblocking(OwnedFd::from(socket));
        Ok(Self {
            socket: TaskSocket::new(reactor, socket),
            address,
        })
    }

    /// Where it is, with the port that the kernel chose.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the next connection; gives who it is from. May be dropped at any time: no
    /// connection is lost.
    ///
    /// # Errors
    ///
    /// What `accept(2)` says of us, such as that no descriptor is left; what it says of a
    /// connection that has gone is passed over.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match acceptfrom_with(self.socket.socket(), flags) {
                Ok((fd, from)) => {
                    let socket = Socket::from_nonblocking(fd);
                    if let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) {
                        return Ok((Stream::new(Rc::clone(self.socket.reactor()), socket), from));
                    }
                }
                Err(Errno::AGAIN) => {
                    poll_fn(|context| self.socket.poll_readiness(context)).await;
                }
                // Errors that wait on the new connection: accept(2).
                Err(
                    Errno::INTR
                    | Errno::CONNABORTED
                    | Errno::NETDOWN
                    | Errno::PROTO
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::NONET
                    | Errno::HOSTUNREACH
                    | Errno::NETUNREACH,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl fmt::Debug for PeerListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerListener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use super::*;
    use crate::runtime::clock;
    use crate::runtime::ring::{RingSize, Sleep};

    fn reactor() -> Rc<Reactor> {
        Reactor::new(RingSize::default()).expect("a ring")
    }

    /// Turns until somebody has come.
    fn accept(reactor: &Reactor, listener: &PeerListener) -> (Stream, SocketAddr) {
        let mut accepting = pin!(listener.accept());
        let limit = clock::now() + Duration::from_secs(30);
        loop {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(accepted) = accepting.as_mut().poll(&mut context) {
                return accepted.expect("a connection");
            }
            assert!(clock::now() < limit, "nobody came");
            reactor.turn(Sleep::UntilOne, Some(limit));
            while reactor.poll_event().is_some() {}
        }
    }

    #[test]
    fn whoever_comes_is_told_and_nobody_listens_when_it_is_dropped() {
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            let reactor = reactor();
            let listener = PeerListener::bind(Rc::clone(&reactor), ip).expect("a port");
            let address = listener.address();
            assert!(address.ip() == ip && address.port() != 0);
            // One before anybody waits, two while somebody does.
            let mut peers = vec![TcpStream::connect(address).expect("connected")];
            for count in 0..3 {
                let (stream, from) = accept(&reactor, &listener);
                let peer = &peers[count];
                assert_eq!(from, peer.local_addr().expect("connected"));
                assert_eq!(stream.socket().local_address(), Some(address));
                peers.push(TcpStream::connect(address).expect("connected"));
            }
            assert_eq!(reactor.watched(), 1);
            drop(listener);
            assert_eq!(reactor.watched(), 0);
            reactor.turn(Sleep::UntilOne, Some(clock::now()));
            let refused = TcpStream::connect(address).expect_err("nobody listens");
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn whoever_comes_wakes_who_waits() {
        struct Woken(AtomicBool);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }

        let reactor = reactor();
        let ip = Ipv4Addr::LOCALHOST.into();
        let listener = PeerListener::bind(Rc::clone(&reactor), ip).expect("a port");
        let mut accepting = pin!(listener.accept());
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        assert!(accepting.as_mut().poll(&mut context).is_pending());
        let peer = TcpStream::connect(listener.address()).expect("connected");
        let limit = clock::now() + Duration::from_secs(30);
        while !woken.0.load(Ordering::Relaxed) {
            assert!(clock::now() < limit, "nobody was woken");
            reactor.turn(Sleep::UntilOne, Some(limit));
            while reactor.poll_event().is_some() {}
        }
        let Poll::Ready(Ok((_, from))) = accepting.as_mut().poll(&mut context) else {
            panic!("woken for nobody");
        };
        assert_eq!(from, peer.local_addr().expect("connected"));
    }

    #[test]
    fn a_wait_that_is_dropped_loses_nobody() {
        let reactor = reactor();
        let ip = Ipv4Addr::LOCALHOST.into();
        let listener = PeerListener::bind(Rc::clone(&reactor), ip).expect("a port");
        {
            let mut accepting = pin!(listener.accept());
            let mut context = Context::from_waker(Waker::noop());
            assert!(accepting.as_mut().poll(&mut context).is_pending());
        }
        let peer = TcpStream::connect(listener.address()).expect("connected");
        let (_, from) = accept(&reactor, &listener);
        assert_eq!(from, peer.local_addr().expect("connected"));
    }

    #[test]
    fn an_address_that_is_not_ours_is_refused() {
        let elsewhere = IpAddr::from([192, 0, 2, 1]);
        let refused = PeerListener::bind(reactor(), elsewhere).expect_err("not ours");
        assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
