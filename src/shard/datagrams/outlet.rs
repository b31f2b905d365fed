//! One client's sockets: its datagrams leave by them, if they may, and answers come in.
//!
//! A name's address of IPv4 is taken before one of IPv6: nothing tells which of them
//! answers, and without IPv6 on the way that would be none. What is sent to a name that is
//! not known waits for it; what is sent elsewhere meanwhile does not.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::by_name::{ByName, Waiting};
use super::destinations::Destinations;
use crate::access::egress::Candidate;
use crate::metrics::counters::Count;
use crate::protocol::socks5::{Host, udp};
use crate::runtime::datagram::DatagramSocket;
use crate::session::datagram_stream::{DatagramStream, NotQueued, TURN_DATAGRAMS};
use crate::shard::rendezvous::RelayService;
use crate::shard::session_log::Carried;

/// How long datagrams wait for their name's addresses.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// One client's sockets.
pub(super) struct Outlet {
    service: Rc<RelayService>,
    user: Arc<str>,
    v4: DatagramSocket,
    /// From the first datagram on that goes by it.
    v6: Option<DatagramSocket>,
    destinations: Destinations,
    by_name: ByName,
    asking: Option<Asking>,
    /// A name that was asked for, and where it leads.
    answer: Option<(Box<str>, Vec<IpAddr>)>,
    pub(super) sent: Carried,
    pub(super) passed_back: Carried,
}

/// A name that is being asked for.
struct Asking {
    name: Box<str>,
    /// None where it leads nowhere.
    addresses: Pin<Box<dyn Future<Output = Vec<IpAddr>>>>,
}

impl Outlet {
    /// # Errors
    ///
    /// When no socket is to be had.
    pub(super) fn open(service: &Rc<RelayService>, user: &Arc<str>) -> io::Result<Self> {
        let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let reactor = Rc::clone(&service.world.reactor);
        Ok(Self {
            v4: DatagramSocket::bind(reactor, anywhere)?,
            v6: None,
            service: Rc::clone(service),
            user: Arc::clone(user),
            destinations: Destinations::default(),
            by_name: ByName::default(),
            asking: None,
            answer: None,
            sent: Carried::default(),
            passed_back: Carried::default(),
        })
    }

    /// Where the first socket is.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        self.v4.local_address()
    }

    /// Whether there may be something to do; has the task woken when there is.
    pub(super) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(asking) = &mut self.asking
            && let Poll::Ready(addresses) = asking.addresses.as_mut().poll(context)
        {
            let name = std::mem::take(&mut asking.name);
            self.answer = Some((name, addresses));
            self.asking = None;
        }
        let mut is_ready = self.answer.is_some();
        for socket in [Some(&mut self.v4), self.v6.as_mut()].into_iter().flatten() {
            is_ready |= socket.poll_readable(context).is_ready();
        }
        match is_ready {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Sends a datagram that came with its header.
    pub(super) fn send(&mut self, datagram: &[u8]) {
        let Ok((destination, data)) = udp::decode(datagram) else {
            return self.count(Count::DatagramsDropped);
        };
        match &destination.host {
            Host::Address(address) => self.send_to_one(None, &[*address], destination.port, data),
            Host::Name(name) => self.send_to_name(name, destination.port, data),
        }
    }

    /// Sends what waited for an answer that has come.
    pub(super) fn handle_answer(&mut self) {
        if let Some((name, addresses)) = self.answer.take() {
            for Waiting { port, data, .. } in self.by_name.take(&name) {
                self.send_to_one(Some(&name), &addresses, port, &data);
            }
            self.ask_next();
        }
    }

    /// Takes in what came for the client; tells whether there may be more.
    ///
    /// # Errors
    ///
    /// When the client's stream is broken.
    pub(super) fn receive(&mut self, stream: &mut DatagramStream) -> io::Result<bool> {
        let world = &self.service.world;
        let counts = &world.counters.counts;
        let mut space = world.datagram_space.borrow_mut();
        let mut is_more = false;
        for socket in [Some(&mut self.v4), self.v6.as_mut()].into_iter().flatten() {
            let mut left = TURN_DATAGRAMS;
            while left > 0
                && let Ok((count, from)) = socket.try_recv_from(&mut space)
            {
                left -= 1;
                // Of nobody who was asked.
                if !self.destinations.contains(from) {
                    counts.increment(Count::DatagramsDropped);
                    continue;
                }
                let mut header = Vec::with_capacity(udp::HEADER_BYTES_MAX);
                udp::encode_header(&from.into(), &mut header);
                match stream.queue(&header, &space[..count]) {
                    Ok(()) => {
                        self.passed_back.add(count);
                        counts.increment(Count::DatagramsRelayed);
                    }
                    Err(NotQueued::Broken(error)) => return Err(error),
                    Err(NotQueued::Full | NotQueued::Frame(_)) => {
                        counts.increment(Count::DatagramsDropped);
                    }
                }
            }
            is_more |= left == 0;
        }
        Ok(is_more)
    }

    fn send_to_name(&mut self, name: &str, port: u16, data: &[u8]) {
        let world = &self.service.world;
        let known = world.names.borrow().find(name, world.reactor.now());
        match known {
            Some(Ok(addresses)) => self.send_to_one(Some(name), &addresses, port, data),
            Some(Err(_)) => self.count(Count::DatagramsDropped),
            None if self.by_name.push(name, port, data) => self.ask_next(),
            None => self.count(Count::DatagramsDropped),
        }
    }

    /// Asks for the name that has waited longest, unless one is asked for.
    fn ask_next(&mut self) {
        let Some(name) = self.by_name.first_name().filter(|_| self.asking.is_none()) else {
            return;
        };
        let (service, asked) = (Rc::clone(&self.service), Box::<str>::from(name));
        let asker = Some(service.asker(&self.user));
        let resolving = async move {
            let world = &service.world;
            let until = world.reactor.now() + RESOLVE_TIMEOUT;
            let resolving = world.resolve_for(asker, &asked, 0);
            let resolved = world.reactor.deadline(until, resolving).await;
            let addresses = resolved.and_then(Result::ok).unwrap_or_default();
            addresses.iter().map(SocketAddr::ip).collect()
        };
        self.asking = Some(Asking {
            name: name.into(),
            addresses: Box::pin(resolving),
        });
    }

    /// Sends to one of a host's addresses, of which some may be forbidden.
    fn send_to_one(&mut self, name: Option<&str>, addresses: &[IpAddr], port: u16, data: &[u8]) {
        if addresses.is_empty() {
            return self.count(Count::DatagramsDropped);
        }
        // One that is mapped is of IPv4, and has that one's socket.
        let canonical = addresses.iter().map(IpAddr::to_canonical);
        let allowed = canonical.filter(|address| self.may_send(name, *address, port));
        let Some(address) = allowed.min_by_key(IpAddr::is_ipv6) else {
            return self.count(Count::DatagramsDenied);
        };
        let to = SocketAddr::new(address, port);
        let socket = match address {
            IpAddr::V4(_) => Some(&self.v4),
            IpAddr::V6(_) => self.v6(),
        };
        let is_sent = socket.is_some_and(|socket| socket.try_send_to(data, to).is_ok());
        if is_sent {
            self.destinations.note(to);
            self.sent.add(data.len());
        }
        self.count(match is_sent {
            true => Count::DatagramsRelayed,
            false => Count::DatagramsDropped,
        });
    }

    fn v6(&mut self) -> Option<&DatagramSocket> {
        if self.v6.is_none() {
            let anywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
            let reactor = Rc::clone(&self.service.world.reactor);
            self.v6 = DatagramSocket::bind(reactor, anywhere).ok();
        }
        self.v6.as_ref()
    }

    /// Asked for every datagram, so that new rules hold for the next, and nothing is sent for
    /// whoever is no user any more.
    fn may_send(&self, name: Option<&str>, address: IpAddr, port: u16) -> bool {
        let candidate = Candidate {
            name,
            address,
            port,
        };
        let settings = self.service.settings();
        let may = self.service.allowance(&settings, &self.user);
        may.is_ok_and(|may| may.dial(&candidate))
    }

    fn count(&self, count: Count) {
        self.service.world.counters.counts.increment(count);
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet")
            .field("sent", &self.sent)
            .field("passed_back", &self.passed_back)
            .finish_non_exhaustive()
    }
}
