//! A socket as one task sees it: reads and writes that wait.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Type};

use super::poll_table::{Owner, PollKey};
use super::reactor::{Closing, Reactor};
use super::readiness::{Interest, Readiness};
use super::socket::Socket;

/// A connected socket that one task reads and writes.
///
/// Every operation may be dropped at any await: no buffer of the caller is
/// ever in the kernel's hands. Dropping the stream ends the connection with a
/// FIN.
#[derive(Debug)]
pub struct Stream {
    reactor: Rc<Reactor>,
    /// `None` only after `into_parts` or `detach` took it.
    socket: Option<Socket>,
    /// Watched from the first time that something would block: many
    /// handshakes are complete before.
    poll: Option<PollKey>,
    /// What was reported so far of ends and errors, which are reported once.
    seen: Readiness,
    interest: Interest,
}

/// A socket that a task gives up to another owner on its shard.
#[derive(Debug)]
pub struct Watched {
    pub socket: Socket,
    pub poll: PollKey,
    /// What was reported before, for the new owner to act on: an event tells
    /// each thing once.
    pub readiness: Readiness,
}

impl Stream {
    /// Takes a connected socket.
    #[must_use]
    pub fn new(reactor: Rc<Reactor>, socket: Socket) -> Self {
        Self {
            reactor,
            socket: Some(socket),
            poll: None,
            seen: Readiness::NONE,
            interest: Interest::Both,
        }
    }

    /// Two sockets that are connected with each other.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    pub fn pair(reactor: &Rc<Reactor>) -> io::Result<[Self; 2]> {
        let (here, there) = UnixStream::pair()?;
        let stream = |one: UnixStream| {
            let socket = Socket::adopt(one.into())?;
            let mut stream = Self::new(Rc::clone(reactor), socket);
            stream.interest = Interest::Within;
            Ok::<_, Errno>(stream)
        };
        Ok([stream(here)?, stream(there)?])
    }

    /// Connects to `address`. Bound its time with [`Reactor::deadline`].
    ///
    /// # Errors
    ///
    /// Whatever `connect(2)` says, at once or later.
    pub async fn connect(reactor: Rc<Reactor>, address: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = new_socket(domain, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        Self::connect_socket(reactor, socket, &address.into()).await
    }

    /// Connects to the unix socket at `path`.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`]; `EAGAIN` when the other side's backlog is full.
    pub async fn connect_unix(reactor: Rc<Reactor>, path: &Path) -> io::Result<Self> {
        let socket = new_socket(Domain::UNIX, None)?;
        Self::connect_socket(reactor, socket, &SockAddr::unix(path)?).await
    }

    async fn connect_socket(
        reactor: Rc<Reactor>,
        socket: socket2::Socket,
        address: &SockAddr,
    ) -> io::Result<Self> {
        let started = socket.connect(address);
        let mut stream = Self::new(reactor, Socket::from_nonblocking(OwnedFd::from(socket)));
        match started {
            Ok(()) => return Ok(stream),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        loop {
            let readiness = stream.readiness().await;
            if let Some(error) = stream.socket().take_error() {
                return Err(error.into());
            }
            if readiness.is_hangup() {
                return Err(Errno::CONNREFUSED.into());
            }
            if readiness.is_writable() {
                return Ok(stream);
            }
        }
    }

    /// The socket, for options and addresses.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        match &self.socket {
            Some(socket) => socket,
            // INVARIANT: only the consuming methods and `drop` take it.
            None => unreachable!("a stream has its socket until it is consumed"),
        }
    }

    /// Reads what is there, waiting until there is something. 0 is the end of
    /// the stream.
    ///
    /// # Errors
    ///
    /// Whatever `recv(2)` says, except `EAGAIN`.
    pub async fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket().recv(buffer) {
                Err(Errno::AGAIN) => {
                    self.readiness().await;
                }
                result => return Ok(result?),
            }
        }
    }

    /// Writes all of `bytes`, waiting for room.
    ///
    /// # Errors
    ///
    /// Whatever `send(2)` says, except `EAGAIN`.
    pub async fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.socket().send(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => {
                    self.readiness().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for something to happen on the socket since the last look. May
    /// report what a call has dealt with already: try, and wait again.
    pub async fn readiness(&mut self) -> Readiness {
        let key = self.watch();
        let readiness = poll_fn(|context| self.reactor.poll_readiness(key, context)).await;
        self.seen |= readiness.ends();
        readiness
    }

    /// Waits until the connection has broken. One whose peer says no more has not.
    pub async fn broken(&mut self) {
        loop {
            let readiness = self.readiness().await;
            if readiness.is_hangup() || readiness.is_error() {
                return;
            }
        }
    }

    /// Takes the socket off this shard: no operation holds its file any more,
    /// so that it can go to another thread.
    pub async fn detach(mut self) -> Socket {
        match (self.socket.take(), self.poll.take()) {
            (Some(socket), Some(key)) => self.reactor.detach(key, socket).await,
            (Some(socket), None) => socket,
            (None, _) => unreachable!("a stream has its socket until it is consumed"),
        }
    }

    /// A stream of a socket that another owner on this shard had watched.
    #[must_use]
    pub fn from_watched(reactor: Rc<Reactor>, watched: Watched) -> Self {
        let Watched {
            socket,
            poll,
            readiness,
        } = watched;
        let seen = readiness | reactor.set_owner(poll, Owner::TASK);
        Self {
            reactor,
            socket: Some(socket),
            poll: Some(poll),
            seen,
            interest: Interest::Both,
        }
    }

    /// Gives the socket up to another owner on this shard. It is watched for
    /// `owner` from now on.
    #[must_use]
    pub fn into_watched(mut self, owner: Owner) -> Watched {
        let poll = self.watch();
        let readiness = self.seen | self.reactor.set_owner(poll, owner);
        self.poll = None;
        match self.socket.take() {
            Some(socket) => Watched {
                socket,
                poll,
                readiness,
            },
            None => unreachable!("a stream has its socket until it is consumed"),
        }
    }

    /// Ends the connection with a RST.
    pub fn reset(mut self) {
        self.close(Closing::Reset);
    }

    fn watch(&mut self) -> PollKey {
        if let Some(key) = self.poll {
            return key;
        }
        let key = self.reactor.watch_task(self.socket(), self.interest);
        self.poll = Some(key);
        key
    }

    fn close(&mut self, closing: Closing) {
        let Some(socket) = self.socket.take() else {
            return;
        };
        match self.poll.take() {
            Some(key) => self.reactor.retire(key, socket, closing),
            None if closing == Closing::Reset => {
                // Fails only on a socket that is already dead.
                let _ = socket.set_linger_reset();
            }
            None => {}
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close(Closing::Clean);
    }
}

fn new_socket(domain: Domain, protocol: Option<Protocol>) -> io::Result<socket2::Socket> {
    socket2::Socket::new(domain, Type::STREAM.nonblocking().cloexec(), protocol)
}
