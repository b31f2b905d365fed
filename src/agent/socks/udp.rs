//! UDP ASSOCIATE: a local client's datagrams go out by a relay, for as long as the client keeps
//! the connection open on which it asked.
//!
//! ```text
//! client ── datagrams with headers ── a socket ── the same, framed ── relay of WebSocks
//!                                              └─ the data alone ──── relay of jProxy
//!        ── the connection on which it asked: nothing more, and its end
//! ```
//!
//! A relay of WebSocks has a connection for each client, and reads and writes the headers; here
//! a datagram is only looked at to see whether it has one. By a tunnel each destination has an
//! association.
//!
//! Left out: fragments, which are dropped, as RFC 1928 §7 allows; and sending directly: what
//! a rule keeps from the relay is not sent at all.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tracing::debug;

use super::SocksService;
use super::journal::{Running, Task, TaskKind};
use super::local::Local;
use super::refusal::Refusal;
use super::tunnel::{Associations, Taken};
use super::ways_out::WaysOut;
use crate::access::routing::Action;
use crate::metrics::counters::Count;
use crate::protocol::socks5::{Command, Destination, Host, Request, udp};
use crate::runtime::datagram::DatagramSocket;
use crate::runtime::executor::yield_now;
use crate::session::datagram_stream::{DatagramStream, Left, NotQueued, TURN_DATAGRAMS};
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;
use crate::shard::session_log::{Carried, DatagramsEnded};
use crate::shard::tally::Counted;

/// Clients of one shard whose datagrams are passed on at a time.
const ASSOCIATED_MAX: usize = 256;

/// Reads of what a client says on its connection, which means nothing, in a row.
const WASTE_READS: usize = 32;

/// What an association begins with.
struct Opened {
    socket: DatagramSocket,
    /// Where that is.
    bound: SocketAddr,
    client: ClientAddress,
    carrier: Carrier,
    way: Rc<str>,
}

/// By what datagrams go to a relay, and come from it.
#[derive(Debug)]
enum Carrier {
    /// A connection of their own.
    Stream(DatagramStream),
    /// Associations of a tunnel, which counts what it carries itself.
    Tunnel(Associations),
}

/// One client's datagrams.
#[derive(Debug)]
struct UdpAssociation {
    service: Rc<SocksService>,
    /// The connection on which it was asked for.
    control: WrappedStream,
    socket: DatagramSocket,
    client: ClientAddress,
    carrier: Carrier,
    running: Running,
    sent: Carried,
    passed_back: Carried,
}

/// From where a client sends: what it has said of that, and else what is seen first.
#[derive(Debug)]
struct ClientAddress {
    ip: IpAddr,
    port: Option<u16>,
    /// As the first datagram had it, with the zone that an answer may need.
    seen: Option<SocketAddr>,
}

/// Why an association is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The client went.
    Finished,
    /// The relay says no more.
    RelayEnded,
    /// The way broke, or what came on it was no datagram.
    Failed,
}

impl SocksService {
    /// Passes datagrams on for a client that gives `declared` as its address, and counts as
    /// one that is served until it has its answer.
    pub(super) async fn associate(
        self: &Rc<Self>,
        mut local: Local,
        declared: &Destination,
        serving: Counted,
    ) {
        let reactor = &self.world.reactor;
        let _associated = self.associated.enter();
        let opened = match self.associated.count() <= ASSOCIATED_MAX {
            true => self.open(&local, declared).await,
            false => Err(Refusal::by_proxy(Refused::TooManyConnections)),
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(refusal) => return self.refuse(local, None, &refusal).await,
        };
        if local.answer(Ok(opened.bound)).await.is_err() {
            return;
        }
        drop(serving);
        let peer = local.peer_address();
        let running = Task::new(TaskKind::Datagrams, peer, opened.way);
        let mut association = UdpAssociation {
            service: Rc::clone(self),
            control: local.into_stream(),
            socket: opened.socket,
            client: opened.client,
            carrier: opened.carrier,
            running: self.journal.begin(running),
            sent: Carried::default(),
            passed_back: Carried::default(),
        };
        let over = self.stop.or_raised(association.run()).await;
        let UdpAssociation {
            control,
            socket,
            carrier,
            running,
            sent,
            passed_back,
            ..
        } = association;
        let ended = DatagramsEnded {
            peer: running.peer,
            sent,
            passed_back,
            since: running.since,
            reason: over.map_or("drained", Over::as_str),
            user: None,
            way: Some(&running.way),
        };
        ended.log();
        drop((running, socket));
        if let Carrier::Stream(relay) = carrier {
            relay.part(reactor).await;
        }
        control.part(reactor, &[]).await;
    }

    /// A socket for the client at the address that it has reached us at, and a way out.
    async fn open(&self, local: &Local, declared: &Destination) -> Result<Opened, Refusal> {
        let (ours, theirs) = local
            .addresses()
            .ok_or(Refusal::by_proxy(Refused::ClosedEarly))?;
        let reactor = Rc::clone(&self.world.reactor);
        let socket = DatagramSocket::bind(reactor, any_port(ours)).map_err(|error| {
            debug!(%error, "no socket for datagrams");
            Refusal::by_proxy(Refused::NoDescriptor)
        })?;
        let bound = socket.local_address();
        let bound = bound.ok_or(Refusal::by_proxy(Refused::NoDescriptor))?;
        let (carrier, way) = self.carrier(theirs).await?;
        Ok(Opened {
            bound,
            socket,
            client: ClientAddress::new(theirs.ip(), declared),
            carrier,
            way,
        })
    }

    /// A way out for the datagrams of a client that is there.
    async fn carrier(&self, client: SocketAddr) -> Result<(Carrier, Rc<str>), Refusal> {
        let pools = match &self.ways_out {
            WaysOut::Pools(pools) => pools,
            WaysOut::Tunnels(tunnels) => {
                let way = tunnels.way_of_datagrams().await?;
                let client = Some(client).into();
                let associations = Associations::new(tunnels, client);
                return Ok((Carrier::Tunnel(associations), way));
            }
        };
        let request = Request {
            command: Command::UdpAssociate,
            // What goes by a stream comes from no address.
            destination: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into(),
        };
        let granted = pools.ask(&request).await?;
        let way = Rc::clone(granted.pool.way());
        let stream = DatagramStream::new(granted.inquiry.into_stream());
        Ok((Carrier::Stream(stream), way))
    }
}

impl UdpAssociation {
    /// Passes datagrams on until somebody goes; says who.
    async fn run(&mut self) -> Over {
        loop {
            match self.turn() {
                Ok(true) => yield_now().await,
                Ok(false) => {}
                Err(over) => return over,
            }
            if let Err(over) = self.something().await {
                return over;
            }
        }
    }

    /// Waits until there may be something to do.
    async fn something(&mut self) -> Result<(), Over> {
        poll_fn(|context| {
            if self.has_left(context) {
                return Poll::Ready(Err(Over::Finished));
            }
            let socket = self.socket.poll_readable(context);
            let relay = match &mut self.carrier {
                Carrier::Stream(relay) => relay.poll_ready(context),
                Carrier::Tunnel(associations) => associations.poll_ready(context),
            };
            match socket.is_ready() || relay.is_ready() {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Whether the client has closed its connection. What it says on it means nothing; one
    /// that says more than is read in a turn is as good as gone.
    fn has_left(&mut self, context: &mut Context<'_>) -> bool {
        let mut waste = [0; 512];
        for _ in 0..WASTE_READS {
            match pin!(self.control.recv(&mut waste)).poll(context) {
                Poll::Pending => return false,
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Ready(Ok(_)) => {}
            }
        }
        true
    }

    /// Passes on what is there, but not too much of it; tells whether there may be more.
    fn turn(&mut self) -> Result<bool, Over> {
        let has_sent_all = self.send()?;
        let has_received_all = self.receive()?;
        if let Carrier::Stream(relay) = &mut self.carrier {
            relay.flush()?;
        }
        let [sent, passed_back] = &self.running.bytes;
        sent.set(self.sent.bytes);
        passed_back.set(self.passed_back.bytes);
        Ok(!(has_sent_all && has_received_all))
    }

    /// Sends the relay what the client has sent; tells whether that is all.
    fn send(&mut self) -> Result<bool, Over> {
        let world = Rc::clone(&self.service.world);
        let mut space = world.datagram_space.borrow_mut();
        for _ in 0..TURN_DATAGRAMS {
            let Ok((count, from)) = self.socket.try_recv_from(&mut space) else {
                return Ok(true);
            };
            let datagram = &space[..count];
            let decoded = udp::decode(datagram).ok();
            let Some((destination, data)) = decoded.filter(|_| self.client.is_at(from)) else {
                self.count(Count::DatagramsDropped);
                continue;
            };
            self.client.seen = Some(from);
            if let Action::Deny | Action::Direct = self.service.action(&destination) {
                self.count(Count::DatagramsDenied);
                continue;
            }
            let queued = match &mut self.carrier {
                Carrier::Stream(relay) => relay.queue(&[], datagram),
                Carrier::Tunnel(associations) => {
                    match associations.send(&destination, data) {
                        Taken::Sent => self.sent.add(data.len()),
                        Taken::Waits => {}
                        Taken::Dropped => self.count(Count::DatagramsDropped),
                        Taken::Denied => self.count(Count::DatagramsDenied),
                    }
                    continue;
                }
            };
            match queued {
                Ok(()) => {
                    self.sent.add(data.len());
                    self.count(Count::DatagramsRelayed);
                }
                Err(NotQueued::Broken(_)) => return Err(Over::Failed),
                Err(NotQueued::Full | NotQueued::Frame(_)) => self.count(Count::DatagramsDropped),
            }
        }
        Ok(false)
    }

    /// Sends the client what the relay has sent; tells whether that is all.
    fn receive(&mut self) -> Result<bool, Over> {
        let (socket, counts) = (&self.socket, &self.service.world.counters.counts);
        let (client, passed_back) = (self.client.seen, &mut self.passed_back);
        let counts_itself = matches!(self.carrier, Carrier::Tunnel(_));
        let pass_back = |datagram: &[u8]| {
            let sent = client.map(|client| socket.try_send_to(datagram, client));
            match sent {
                Some(Ok(())) => {
                    let decoded = udp::decode(datagram);
                    passed_back.add(decoded.map_or(0, |(_, data)| data.len()));
                    if !counts_itself {
                        counts.increment(Count::DatagramsRelayed);
                    }
                }
                Some(Err(_)) | None => counts.increment(Count::DatagramsDropped),
            }
        };
        let left = match &mut self.carrier {
            Carrier::Stream(relay) => relay.take_turn(pass_back)?,
            Carrier::Tunnel(associations) => associations.take_turn(&mut self.sent, pass_back),
        };
        match left {
            Left::Nothing => Ok(true),
            Left::More => Ok(false),
            Left::End => Err(Over::RelayEnded),
        }
    }

    fn count(&self, count: Count) {
        self.service.world.counters.counts.increment(count);
    }
}

impl ClientAddress {
    /// Of one that has come from `ip` and `declared` where it will send from: no host there
    /// is that `ip` and any port. A name is not resolved, and says as much.
    fn new(ip: IpAddr, declared: &Destination) -> Self {
        let (ip, port) = match declared.host {
            Host::Address(declared_ip) if !declared.is_unspecified() => {
                (declared_ip, Some(declared.port).filter(|port| *port != 0))
            }
            Host::Address(_) | Host::Name(_) => (ip, None),
        };
        Self {
            ip: ip.to_canonical(),
            port,
            seen: None,
        }
    }

    /// Whether the client may be there.
    fn is_at(&self, from: SocketAddr) -> bool {
        let port = self.seen.map(|seen| seen.port()).or(self.port);
        from.ip().to_canonical() == self.ip && port.is_none_or(|port| port == from.port())
    }
}

/// Any port of this address, which is one of IPv4 where it is mapped.
fn any_port(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, 0)),
        IpAddr::V6(_) => {
            let mut any = address;
            any.set_port(0);
            any
        }
    }
}

impl Over {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::RelayEnded => "ended_by_relay",
            Self::Failed => "failed",
        }
    }
}

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_client_is_where_it_says_or_where_it_is_first_seen() {
        let check = |(host, port), from: &str, expected| {
            let declared = Destination::named(host, port).expect("a destination");
            let mut client = ClientAddress::new(at("127.0.0.1:9").ip(), &declared);
            assert_eq!(client.is_at(at(from)), expected, "{host} {from}");
            if expected {
                client.seen = Some(at(from));
                let mut other = at(from);
                other.set_port(1);
                assert!(client.is_at(at(from)) && !client.is_at(other));
            }
        };
        for unknown in [("0", 7), ("0.0.0.0", 0), ("::", 7), ("localhost", 7)] {
            check(unknown, "127.0.0.1:5", true);
            check(unknown, "[::ffff:127.0.0.1]:5", true);
            check(unknown, "127.0.0.2:5", false);
            check(unknown, "[::1]:7", false);
        }
        check(("127.0.0.1", 7), "127.0.0.1:7", true);
        check(("127.0.0.1", 7), "127.0.0.1:5", false);
        check(("127.0.0.2", 7), "127.0.0.2:7", true);
        check(("127.0.0.2", 7), "127.0.0.1:7", false);
        check(("127.0.0.2", 0), "127.0.0.2:5", true);
        check(("::1", 7), "[::1]:7", true);
    }

    #[test]
    fn an_address_of_ipv4_is_one_however_it_is_reached() {
        assert_eq!(any_port(at("[::ffff:127.0.0.1]:9")), at("127.0.0.1:0"));
        assert_eq!(any_port(at("127.0.0.1:9")), at("127.0.0.1:0"));
        assert_eq!(any_port(at("[::1]:9")), at("[::1]:0"));
    }
}
