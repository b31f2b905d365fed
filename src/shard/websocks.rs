//! Visitors who come by WebSocks: the relay dials for them.
//!
//! ```text
//! 101 ── pooled: PONGs ── ten bytes ── SOCKS5 request ── dial ── reply ── pair
//!                                                       ├ somebody is awaited: bind.rs
//!                                                       └ sockets ── reply ── datagrams.rs
//! ```
//!
//! A visitor may wait in its client's pool as long as it shows signs of life. Everything
//! behind the ten bytes has the deadline of a handshake, and the dial one of its own.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::errand::{log_not_reached, one_word, target};
use super::leg::Leg;
use super::names::ResolveError;
use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use super::sessions::Origin;
use super::user_sessions::{Beginning, UserSession};
use super::users::May;
use crate::access::egress::Candidate;
use crate::metrics::ACCESS_LOG;
use crate::metrics::counters::Label;
use crate::protocol::Progress;
use crate::protocol::socks5::{
    Asked, Command, Destination, Host, MethodPolicy, Reply, ReplyCode, Request, Server,
};
use crate::protocol::websocket::Role;
use crate::protocol::websocks::{Knock, MAX_FRAME, Prelude, SubProtocol};
use crate::relay::GateHold;
use crate::relay::codec::{Closing, Codec, WebSocket};
use crate::runtime::clock;
use crate::runtime::stream::Stream;
use crate::session::link::Link;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;
use crate::time::Timestamp;

/// How long a visitor may wait without a sign of life: known clients give one every 15 s.
const POOLED_TIMEOUT: Duration = Duration::from_secs(180);

/// Until a connection for a visitor must stand, its name resolved.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that is one visitor's.
pub(super) struct Visitor {
    pub(super) link: Link,
    pub(super) knock: Knock,
    pub(super) user: Arc<str>,
    pub(super) peer: PeerAddress,
}

/// A visitor that has asked.
pub(super) struct Guest {
    pub(super) stream: WrappedStream,
    pub(super) user: Arc<str>,
    pub(super) peer: PeerAddress,
    pub(super) since: Timestamp,
    /// It takes what comes in one read with a reply for an error.
    reads_replies_alone: bool,
}

/// Why somebody was not connected with a visitor: for it, and for the counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotConnected {
    pub(super) reply: ReplyCode,
    pub(super) refused: Refused,
}

impl RelayService {
    /// Lets a visitor in and dials for it.
    pub(super) async fn serve_visitor(self: &Rc<Self>, visitor: Visitor) {
        let Visitor {
            mut link,
            knock,
            user,
            peer,
        } = visitor;
        let reactor = &self.world.reactor;
        let until = reactor.now() + self.settings().handshake_timeout;
        let welcome = link.send_all(knock.response().as_bytes());
        if !matches!(reactor.deadline(until, welcome).await, Some(Ok(()))) {
            return self.count_refused(peer, Refused::ReplyFailed);
        }
        let is_framed = knock.protocol == Some(SubProtocol::Framed);
        let Ok(mut stream) = self.wrap(link, is_framed) else {
            return self.count_refused(peer, Refused::BadPrelude);
        };
        let mut received = Vec::new();
        let waiting = async {
            match is_framed {
                true => self.wait_framed(&mut stream).await,
                false => self.wait_in_pool(&mut stream, &mut received).await,
            }
        };
        match self.draining.or_raised(waiting).await {
            Some(Ok(())) => {}
            // Whoever waits in a pool and goes has asked for nothing.
            Some(Err(Refused::ClosedEarly)) => return,
            Some(Err(refused)) => return self.count_refused(peer, refused),
            None => return stream.part(reactor, &[]).await,
        }
        let _asking = self.asking_visitors.enter();
        let since = clock::now();
        let deadline = since + self.settings().handshake_timeout;
        let greeting: &[u8] = if is_framed { &[] } else { &MAX_FRAME };
        let asking = read_request(&mut stream, received, greeting);
        let asked = reactor.deadline(deadline, asking).await;
        let request = match asked.unwrap_or(Err(Refused::TooSlow)) {
            Ok(request) => request,
            Err(refused) => {
                self.count_refused(peer, refused);
                return stream.part(reactor, &[]).await;
            }
        };
        let guest = Guest {
            stream,
            user,
            peer,
            since,
            reads_replies_alone: knock.reads_replies_alone && !is_framed,
        };
        match request.command {
            Command::Connect => self.serve_connect(guest, &request).await,
            Command::Bind => Box::pin(self.serve_bind(guest, &request)).await,
            Command::UdpAssociate => {
                Box::pin(self.serve_datagrams(guest, &request)).await;
            }
        }
    }

    async fn serve_connect(&self, guest: Guest, request: &Request) {
        let dialling = async {
            let settings = self.settings();
            let may = self.allowance(&settings, &guest.user)?;
            self.dial_for(&guest.user, &may, &request.destination).await
        };
        let dialled = self.draining.or_raised(dialling).await;
        match dialled.unwrap_or(Err(Refused::Draining.into())) {
            Ok((origin, of_user)) => {
                let bound = origin.socket().local_address();
                let bound = bound.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
                self.join_guest(guest, request, bound, (origin, of_user))
                    .await;
            }
            Err(not) => self.refuse_guest(guest, request, not).await,
        }
    }

    /// Tells a visitor that it is done, and at which end, and joins it with whom it has asked
    /// for.
    pub(super) async fn join_guest(
        &self,
        mut guest: Guest,
        request: &Request,
        bound: SocketAddr,
        (origin, of_user): (Stream, UserSession),
    ) {
        if self.tell_guest(&mut guest, bound).await.is_err() {
            return;
        }
        let Guest {
            stream,
            peer,
            since,
            reads_replies_alone,
            ..
        } = guest;
        let gate = match reads_replies_alone {
            true => GateHold::Replied(self.world.reactor.now()),
            false => GateHold::Open,
        };
        let origin_peer = PeerAddress::from(origin.socket().peer_address());
        let left = Leg::from_stream(stream, peer, since, gate);
        let origin = WrappedStream::plain(origin);
        let right = Leg::from_stream(origin, origin_peer, since, GateHold::Open);
        let number = self.next_dialled();
        self.remember_dialled(number, of_user, request);
        self.begin_session(left, right, Origin::Dialled(number), None);
    }

    /// Tells a visitor that it is done, and at which end. Counts one that cannot be told.
    pub(super) async fn tell_guest(
        &self,
        guest: &mut Guest,
        bound: SocketAddr,
    ) -> Result<(), Refused> {
        let mut reply = Vec::new();
        Reply::succeeded(bound).encode(&mut reply);
        let reactor = &self.world.reactor;
        let until = reactor.now() + self.settings().handshake_timeout;
        let sent = reactor.deadline(until, guest.stream.send_all(&reply)).await;
        if matches!(sent, Some(Ok(()))) {
            return Ok(());
        }
        self.count_refused(guest.peer, Refused::ReplyFailed);
        Err(Refused::ReplyFailed)
    }

    /// Tells a visitor why it is not connected, and parts with it.
    pub(super) async fn refuse_guest(&self, guest: Guest, request: &Request, not: NotConnected) {
        self.count_refused(guest.peer, not.refused);
        if let Some(left_out) = self.users.lines.take(Some(&guest.user), clock::now()) {
            info!(
                target: ACCESS_LOG,
                peer = %guest.peer,
                user = %one_word(&guest.user),
                target = %target(&request.destination),
                command = request.command.as_str(),
                reason = not.refused.as_str(),
                code = not.reply.code(),
                left_out,
                "visitor refused"
            );
        }
        let mut reply = Vec::new();
        Reply::failed(not.reply).encode(&mut reply);
        guest.stream.part(&self.world.reactor, &reply).await;
    }

    /// A visitor's connection behind its upgrade.
    pub(super) fn wrap(&self, link: Link, is_framed: bool) -> io::Result<WrappedStream> {
        let (stream, tls, early) = link.into_parts();
        let websocket = is_framed.then(|| WebSocket::new(Role::Server, Closing::OneWay));
        let begun = Codec::begin(tls, websocket, early);
        let (codec, early) = begun.map_err(io::Error::other)?;
        WrappedStream::new(stream, codec, early, &self.world.workshop)
    }

    /// Waits for the ten bytes; leaves in `received` what came behind them.
    async fn wait_in_pool(
        &self,
        stream: &mut WrappedStream,
        received: &mut Vec<u8>,
    ) -> Result<(), Refused> {
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
                    let more = read_more(stream, received);
                    reactor
                        .deadline(until, more)
                        .await
                        .unwrap_or(Err(Refused::Silent))?;
                }
            }
        }
    }

    /// Waits for the first message. Pings are answered meanwhile.
    async fn wait_framed(&self, stream: &mut WrappedStream) -> Result<(), Refused> {
        let reactor = &self.world.reactor;
        loop {
            let until = reactor.now() + POOLED_TIMEOUT;
            let waited = reactor.deadline(until, stream.readable()).await;
            match waited {
                Some(()) if stream.is_lost() => return Err(Refused::ClosedEarly),
                Some(()) => return Ok(()),
                None if stream.take_sign_of_life() => {}
                None => return Err(Refused::Silent),
            }
        }
    }

    /// Connects to where a user wants to go, if it may.
    pub(super) async fn dial_for(
        &self,
        user: &Arc<str>,
        may: &May<'_>,
        destination: &Destination,
    ) -> Result<(Stream, UserSession), NotConnected> {
        let until = self.world.reactor.now() + DIAL_TIMEOUT;
        let session = self.begin_dial(user, may, Beginning::Dial).await?;
        let allowed = self
            .allowed_addresses(user, may, destination, until)
            .await?;
        let connected = self.world.connect(destination.name(), &allowed, until);
        let connected = connected.await.map_err(|error| {
            log_not_reached("not dialled", user, destination, &error);
            NotConnected {
                reply: ReplyCode::of_dial(error.kind()),
                refused: Refused::DialFailed,
            }
        })?;
        Ok((connected, session))
    }

    /// Those addresses of a destination that a user may be connected with: at least one. Its
    /// name has to be resolved `until` then.
    pub(super) async fn allowed_addresses(
        &self,
        user: &Arc<str>,
        may: &May<'_>,
        destination: &Destination,
        until: Timestamp,
    ) -> Result<Vec<SocketAddr>, NotConnected> {
        let reactor = &self.world.reactor;
        let name = destination.name();
        let addresses = match &destination.host {
            Host::Address(address) => vec![SocketAddr::new(*address, destination.port)],
            Host::Name(name) => {
                let asker = Some(self.asker(user));
                let resolving = self.world.resolve_for(asker, name, destination.port);
                match reactor.deadline(until, resolving).await {
                    Some(Ok(addresses)) => addresses,
                    Some(Err(ResolveError::TooMany(_))) => {
                        return Err(Refused::TooManyNames.into());
                    }
                    Some(Err(error)) => {
                        log_not_reached("name not resolved", user, destination, &error);
                        return Err(Refused::NotResolved.into());
                    }
                    None => {
                        return Err(NotConnected {
                            reply: ReplyCode::TtlExpired,
                            refused: Refused::NotResolved,
                        });
                    }
                }
            }
        };
        let may_dial = |address: &SocketAddr| {
            may.dial(&Candidate {
                name,
                address: address.ip(),
                port: address.port(),
            })
        };
        let allowed: Vec<SocketAddr> = addresses.into_iter().filter(may_dial).collect();
        match allowed.is_empty() {
            true => Err(Refused::EgressDenied.into()),
            false => Ok(allowed),
        }
    }
}

impl From<Refused> for NotConnected {
    fn from(refused: Refused) -> Self {
        let reply = refused.socks_reply();
        Self { reply, refused }
    }
}

/// Speaks SOCKS5 up to the request, of which `received` has come; puts back what came
/// behind it. Says `greeting` first.
async fn read_request(
    stream: &mut WrappedStream,
    received: Vec<u8>,
    greeting: &[u8],
) -> Result<Request, Refused> {
    let mut server = Server::new(MethodPolicy::NoAuthentication);
    server.receive(&received);
    // In one piece with what SOCKS5 has to say, if it has.
    let mut words = greeting.to_vec();
    loop {
        let asked = server.poll();
        words.extend_from_slice(&server.take_output());
        let sent = stream.send_all(&words).await;
        words.clear();
        match (asked, sent) {
            (Ok(Some(Asked::Request(request))), Ok(())) => {
                stream.put_back(server.into_rest());
                return Ok(request);
            }
            (Ok(Some(Asked::Credentials(_))), _) => unreachable!("none are asked for"),
            (Ok(None), Ok(())) => {}
            (Err(_), _) => return Err(Refused::BadSocks),
            (_, Err(_)) => return Err(Refused::ReplyFailed),
        }
        let mut fresh = Vec::new();
        read_more(stream, &mut fresh).await?;
        server.receive(&fresh);
    }
}

pub(super) async fn read_more(
    stream: &mut WrappedStream,
    received: &mut Vec<u8>,
) -> Result<(), Refused> {
    match stream.read_into(received).await {
        Ok(0) => Err(Refused::ClosedEarly),
        Ok(_) => Ok(()),
        Err(_) => Err(Refused::ResetEarly),
    }
}
