//! Visitors who come by WebSocks: the relay dials for them.
//!
//! ```text
//! 101 ── pooled: PONGs ── ten bytes ── SOCKS5 request ── dial ── reply ── pair
//! ```
//!
//! A visitor may wait in its client's pool as long as it shows signs of life. Everything
//! behind the ten bytes has the deadline of a handshake, and the dial one of its own.
//!
//! Left out: BIND and datagrams, which are answered as not supported.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use tracing::debug;

use super::leg::{Leg, Remains};
use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use super::sessions::Origin;
use crate::access::egress::{Candidate, Verdict};
use crate::protocol::Progress;
use crate::protocol::socks5::{
    Asked, Command, Destination, Host, MethodPolicy, Reply, ReplyCode, Request, Server,
};
use crate::protocol::websocks::{Knock, MAX_FRAME, Prelude, SubProtocol};
use crate::relay::GateHold;
use crate::relay::codec::Codec;
use crate::runtime::Owner;
use crate::runtime::clock;
use crate::runtime::readiness::Readiness;
use crate::runtime::stream::Stream;
use crate::session::link::Link;
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// How long a visitor may wait without a sign of life: known clients give one every 15 s.
const POOLED_TIMEOUT: Duration = Duration::from_secs(180);

/// Until a connection for a visitor must stand, its name resolved.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that are read of a visitor at a time.
const READ_BYTES: usize = 2 << 10;

/// A connection that is one visitor's.
pub(super) struct Visitor {
    pub(super) link: Link,
    pub(super) knock: Knock,
    pub(super) peer: PeerAddress,
}

/// Why nothing was dialled, or came of it.
#[derive(Clone, Copy, Debug)]
struct NotDialled {
    reply: ReplyCode,
    refused: Refused,
}

impl RelayService {
    /// Whether a knock is a user's.
    pub(super) fn check_knock(&self, knock: &Knock) -> Result<(), Refused> {
        let settings = self.settings();
        let (user, proof) = knock.credentials.as_ref().ok_or(Refused::NoPassword)?;
        let known = settings.users.authenticate(user, proof, clock::unix_time());
        known.ok_or(Refused::WrongPassword)?;
        match knock.protocol {
            Some(SubProtocol::Plain) => Ok(()),
            // Framed is only chosen where it is served.
            Some(SubProtocol::Framed) | None => Err(Refused::NoSubProtocol),
        }
    }

    /// Lets a visitor in and dials for it.
    pub(super) async fn serve_visitor(self: &Rc<Self>, visitor: Visitor) {
        let Visitor {
            mut link,
            knock,
            peer,
        } = visitor;
        let reactor = &self.world.reactor;
        let until = reactor.now() + self.settings().handshake_timeout;
        let welcome = link.send_all(knock.response().as_bytes());
        if !matches!(reactor.deadline(until, welcome).await, Some(Ok(()))) {
            return self.count_refused(peer, Refused::ReplyFailed);
        }
        let mut received = Vec::new();
        let waiting = self.wait_in_pool(&mut link, &mut received);
        match self.draining.or_raised(waiting).await {
            Some(Ok(())) => {}
            // Whoever waits in a pool and goes has asked for nothing.
            Some(Err(Refused::ClosedEarly)) => return,
            Some(Err(refused)) => return self.count_refused(peer, refused),
            None => return,
        }
        let since = clock::now();
        let deadline = since + self.settings().handshake_timeout;
        let asking = self.read_request(&mut link, received);
        let asked = reactor.deadline(deadline, asking).await;
        let (request, rest) = match asked.unwrap_or(Err(Refused::TooSlow)) {
            Ok(asked) => asked,
            Err(refused) => {
                self.count_refused(peer, refused);
                return link.refuse(reactor, &[]).await;
            }
        };
        let dialled = match request.command {
            Command::Connect => self.dial_for(&request.destination).await,
            Command::Bind | Command::UdpAssociate => Err(NotDialled {
                reply: ReplyCode::CommandNotSupported,
                refused: Refused::CommandNotSupported,
            }),
        };
        let mut reply = Vec::new();
        let origin = match dialled {
            Ok(origin) => origin,
            Err(NotDialled {
                reply: code,
                refused,
            }) => {
                self.count_refused(peer, refused);
                Reply::failed(code).encode(&mut reply);
                return link.refuse(reactor, &reply).await;
            }
        };
        let bound = origin.socket().local_address();
        let bound = bound.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        Reply::succeeded(bound).encode(&mut reply);
        let until = reactor.now() + self.settings().handshake_timeout;
        let sent = reactor.deadline(until, link.send_all(&reply)).await;
        if !matches!(sent, Some(Ok(()))) {
            return self.count_refused(peer, Refused::ReplyFailed);
        }
        let gate = match knock.reads_replies_alone {
            true => GateHold::Replied(reactor.now()),
            false => GateHold::Open,
        };
        self.join_visitor(link, rest, gate, origin, peer, since);
    }

    /// Waits for the ten bytes; leaves in `received` what came behind them.
    async fn wait_in_pool(&self, link: &mut Link, received: &mut Vec<u8>) -> Result<(), Refused> {
        let reactor = &self.world.reactor;
        loop {
            match Prelude::decode(received).map_err(|_| Refused::BadPrelude)? {
                Progress::Complete { value, consumed } => {
                    received.drain(..consumed);
                    if value == Prelude::Begins {
                        return Ok(());
                    }
                }
                Progress::Partial { .. } => {
                    let until = reactor.now() + POOLED_TIMEOUT;
                    let more = link.read_into::<READ_BYTES>(received);
                    reactor
                        .deadline(until, more)
                        .await
                        .unwrap_or(Err(Refused::Silent))?;
                }
            }
        }
    }

    /// Speaks SOCKS5 up to the request; gives it with what came behind it.
    async fn read_request(
        &self,
        link: &mut Link,
        received: Vec<u8>,
    ) -> Result<(Request, Vec<u8>), Refused> {
        let mut server = Server::new(MethodPolicy::NoAuthentication);
        server.receive(&received);
        // In one piece with what SOCKS5 has to say, if it has.
        let mut words = MAX_FRAME.to_vec();
        loop {
            let asked = server.poll();
            words.extend_from_slice(&server.take_output());
            let sent = link.send_all(&words).await;
            words.clear();
            match (asked, sent) {
                (Ok(Some(Asked::Request(request))), Ok(())) => {
                    return Ok((request, server.into_rest()));
                }
                (Ok(Some(Asked::Credentials(_))), _) => unreachable!("none are asked for"),
                (Ok(None), Ok(())) => {}
                (Err(_), _) => return Err(Refused::BadSocks),
                (_, Err(_)) => return Err(Refused::ReplyFailed),
            }
            let mut fresh = Vec::new();
            link.read_into::<READ_BYTES>(&mut fresh).await?;
            server.receive(&fresh);
        }
    }

    /// Connects to where a visitor wants to go, if it may.
    async fn dial_for(&self, destination: &Destination) -> Result<Stream, NotDialled> {
        let reactor = &self.world.reactor;
        let until = reactor.now() + DIAL_TIMEOUT;
        let not = |reply, refused| NotDialled { reply, refused };
        let (name, addresses) = match &destination.host {
            Host::Address(address) => (None, vec![SocketAddr::new(*address, destination.port)]),
            Host::Name(name) => {
                let resolving = self.world.resolve(name, destination.port);
                let resolved = reactor.deadline(until, resolving).await;
                let addresses = match resolved {
                    Some(Ok(addresses)) => addresses,
                    Some(Err(error)) => {
                        debug!(%destination, %error, "name not resolved");
                        return Err(not(ReplyCode::HostUnreachable, Refused::NotResolved));
                    }
                    None => return Err(not(ReplyCode::TtlExpired, Refused::NotResolved)),
                };
                (Some(&**name), addresses)
            }
        };
        let settings = self.settings();
        let may_dial = |address: &SocketAddr| {
            let candidate = Candidate {
                name,
                address: address.ip(),
                port: address.port(),
            };
            settings.egress.judge(&candidate) == Verdict::Allow
        };
        let allowed: Vec<SocketAddr> = addresses.into_iter().filter(may_dial).collect();
        if allowed.is_empty() {
            return Err(not(ReplyCode::NotAllowed, Refused::EgressDenied));
        }
        let connected = self.world.connect(name, &allowed, until).await;
        connected.map_err(|error| {
            debug!(%destination, %error, "not dialled");
            not(reply_code(&error), Refused::DialFailed)
        })
    }

    fn join_visitor(
        &self,
        link: Link,
        mut rest: Vec<u8>,
        gate: GateHold,
        origin: Stream,
        peer: PeerAddress,
        since: Timestamp,
    ) {
        let (stream, tls, opened) = link.into_parts();
        rest.extend_from_slice(&opened);
        let Ok((codec, prefix)) = Codec::begin(tls, None, rest) else {
            return self.count_refused(peer, Refused::ClosedEarly);
        };
        let watched = stream.into_watched(Owner::TASK);
        // What was read, or came with the connection, may not have been all.
        let left_unread = Readiness::READABLE;
        let remains = Remains {
            codec,
            prefix,
            gate,
            left_unread,
        };
        let left = Leg::new(watched, peer, since, remains);
        let origin_peer = PeerAddress::from(origin.socket().peer_address());
        let watched = origin.into_watched(Owner::TASK);
        let remains = Remains {
            left_unread,
            ..Remains::default()
        };
        let right = Leg::new(watched, origin_peer, since, remains);
        let session = Origin::Dialled(self.next_dialled());
        self.begin_session(left, right, session, None);
    }
}

/// What a visitor is told of a dial that failed: RFC 1928 §6.
fn reply_code(error: &io::Error) -> ReplyCode {
    match (error.kind(), Errno::from_io_error(error)) {
        (io::ErrorKind::TimedOut, _) => ReplyCode::TtlExpired,
        (_, Some(Errno::NETUNREACH)) => ReplyCode::NetworkUnreachable,
        (_, Some(Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL)) => ReplyCode::HostUnreachable,
        (_, Some(Errno::CONNREFUSED)) => ReplyCode::ConnectionRefused,
        _ => ReplyCode::GeneralFailure,
    }
}
