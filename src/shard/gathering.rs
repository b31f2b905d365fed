//! The requests of a tunnel come together, once all are there.
//!
//! A pair is a request with a body and an answer with one. What breaks one pair breaks the
//! other.
//!
//! Of a client or a server that speaks QUIC there are no requests, but an end of a stream. Both
//! pairs then have a socket's one side, and a pair of the stream's has its other side: a *seam*.
//!
//! ```text
//!   upstream ──▶ ┐                      ┌──▶
//!   connect  ◀── ┘ there ══════════ here └◀── stream, or a bridge to one
//! ```
//!
//! A socket that is closed looks the same however it came about. So what breaks at one side of a
//! seam is broken at the other before its socket is closed, and an end that comes over a seam
//! holds once the requests have said that it is one.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use tracing::debug;

use super::caller::Caller;
use super::forwarding::News;
use super::leg::Leg;
use super::peer_address::PeerAddress;
use super::rendezvous::{Message, RelayService};
use super::sessions::Origin;
use super::streams::{StreamEnd, StreamSession};
use super::tunnels::{Seam, Tunnel};
use crate::protocol::ptth_http::{ConnectionId, Name, Place, Whole};
use crate::relay::codec::HttpBody;
use crate::relay::{CloseReason, Half, Side};
use crate::runtime::clock;
use crate::runtime::stream::Stream;
use crate::time::Timestamp;

/// What somebody is to a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Connect,
    Upstream,
    Accept,
    Downstream,
    /// A client that speaks QUIC.
    Client,
    /// A server that does.
    Server,
}

/// One that comes together with others.
#[derive(Debug)]
pub(super) enum Party {
    Caller(Caller),
    Streamed(Streamed),
}

/// A client or a server that speaks QUIC.
#[derive(Debug)]
pub(super) struct Streamed {
    pub(super) end: StreamEnd<Origin, Message>,
    pub(super) peer: PeerAddress,
    /// When it came.
    pub(super) since: Timestamp,
}

/// Those of a tunnel, as they come together.
#[derive(Debug)]
pub(super) struct Gathering {
    place: Place,
    client: Name,
    /// How many they will be.
    count: usize,
    parties: RefCell<Vec<(Role, Party)>>,
}

/// Half of a tunnel: a client, or a server.
#[expect(clippy::large_enum_variant, reason = "there are two, for one call")]
enum Partner {
    Requests { body: Caller, answer: Caller },
    Streamed(Streamed),
}

/// Those of a tunnel that came to nothing after all.
impl Drop for Gathering {
    fn drop(&mut self) {
        for (_, party) in self.parties.take() {
            if let Party::Caller(caller) = party {
                caller.link.reset();
            }
        }
    }
}

impl Gathering {
    fn take(&self, wanted: Role) -> Option<Party> {
        let mut parties = self.parties.borrow_mut();
        let at = parties.iter().position(|(role, _)| *role == wanted)?;
        Some(parties.swap_remove(at).1)
    }

    fn take_caller(&self, wanted: Role) -> Caller {
        match self.take(wanted) {
            Some(Party::Caller(caller)) => caller,
            _ => unreachable!("each comes once, and is what its role says"),
        }
    }

    fn take_partner(&self, streamed: Role, body: Role, answer: Role) -> Partner {
        match self.take(streamed) {
            Some(Party::Streamed(streamed)) => Partner::Streamed(streamed),
            _ => Partner::Requests {
                body: self.take_caller(body),
                answer: self.take_caller(answer),
            },
        }
    }
}

impl RelayService {
    pub(super) fn begin_if_whole(&self, id: ConnectionId) {
        let whole = self.forwards.board.borrow_mut().take_whole(id);
        let Some(Whole {
            place,
            client,
            connect,
            upstream,
            accept,
            downstream,
        }) = whole
        else {
            return;
        };
        // One who has both speaks no HTTP.
        let of_client: &[_] = match connect == upstream {
            true => &[(connect, Role::Client)],
            false => &[(connect, Role::Connect), (upstream, Role::Upstream)],
        };
        let of_server: &[_] = match accept == downstream {
            true => &[(accept, Role::Server)],
            false => &[(accept, Role::Accept), (downstream, Role::Downstream)],
        };
        let gathering = Rc::new(Gathering {
            place,
            client,
            count: of_client.len() + of_server.len(),
            parties: RefCell::default(),
        });
        for (waiter, role) in of_client.iter().chain(of_server) {
            self.forwards
                .waiting
                .deliver(*waiter, News::Whole(Rc::clone(&gathering), *role));
        }
    }

    /// One joins the others; the last one has the bytes begin to flow.
    pub(super) fn come_together(self: &Rc<Self>, gathering: &Gathering, role: Role, party: Party) {
        gathering.parties.borrow_mut().push((role, party));
        if gathering.parties.borrow().len() < gathering.count {
            return;
        }
        let client = gathering.take_partner(Role::Client, Role::Upstream, Role::Connect);
        let server = gathering.take_partner(Role::Server, Role::Downstream, Role::Accept);
        let is_told_elsewhere = matches!(client, Partner::Streamed(_));
        let tunnel = Tunnel {
            client: gathering.client.clone(),
            place: gathering.place.clone(),
            peers: [client.peer(), server.peer()],
            waiting_since: client.since(),
            joined_at: clock::now(),
            is_told_elsewhere,
        };
        match (client, server) {
            (
                Partner::Requests {
                    body: upstream,
                    answer: connect,
                },
                Partner::Requests {
                    body: downstream,
                    answer: accept,
                },
            ) => {
                let up = self.begin_tunnel(tunnel);
                let ways = [(upstream, accept, up), (downstream, connect, up + 1)];
                // Both are begun before one is ended, so that the other is there to be ended.
                let failed = ways.map(|(request, answer, number)| {
                    let joined = self.join_bodies(request, answer, number);
                    joined.err().map(|error| (number, error))
                });
                for (number, error) in failed.into_iter().flatten() {
                    self.end_failed(number, &error);
                }
            }
            (Partner::Requests { body, answer }, Partner::Streamed(server)) => {
                self.join_seam(tunnel, server, Side::Right, body, answer);
            }
            (Partner::Streamed(client), Partner::Requests { body, answer }) => {
                self.join_seam(tunnel, client, Side::Left, body, answer);
            }
            (Partner::Streamed(client), Partner::Streamed(server)) => {
                let session = tunnel.far_session();
                self.world.join_streams([client.end, server.end], session);
            }
        }
    }

    fn join_bodies(&self, request: Caller, answer: Caller, number: u32) -> io::Result<()> {
        let stream = request.request.stream;
        let body = stream.expect("its call streams").body;
        let [of_request, of_answer] = HttpBody::both(body);
        let left = match self.body_leg(request, of_request) {
            Ok(left) => left,
            Err(error) => {
                answer.link.reset();
                return Err(error);
            }
        };
        match self.body_leg(answer, of_answer) {
            Ok(right) => self.begin_session(left, right, Origin::Forwarded(number), None),
            Err(error) => {
                left.give_up(&self.world.reactor);
                return Err(error);
            }
        }
        Ok(())
    }

    fn body_leg(&self, caller: Caller, body: HttpBody) -> io::Result<Leg> {
        let Caller { link, request, .. } = caller;
        let workshop = &self.world.workshop;
        Leg::with_body(link, body, workshop, request.peer, request.since)
    }

    /// Joins one who speaks QUIC, at this side of the tunnel, with the other side's requests.
    fn join_seam(
        self: &Rc<Self>,
        tunnel: Tunnel,
        streamed: Streamed,
        side: Side,
        body: Caller,
        answer: Caller,
    ) {
        let Streamed { end, since, .. } = streamed;
        let reactor = &self.world.reactor;
        let made = Stream::pair(reactor).and_then(|[here, there]| {
            let sink = there.socket().duplicate()?;
            Ok((here, there, Stream::new(Rc::clone(reactor), sink)))
        });
        let (here, there, sink) = match made {
            Ok(made) => made,
            Err(error) => {
                // The stream's end breaks off when it is dropped.
                body.link.reset();
                answer.link.reset();
                return debug!(%error, "a seam did not begin");
            }
        };
        let mut session = tunnel.far_session();
        let number = self.begin_tunnel(tunnel);
        session.tunnel = Some(number);
        let seam = StreamEnd::Seam(here);
        let ends = match side {
            Side::Left => [end, seam],
            Side::Right => [seam, end],
        };
        let pair = self.world.join_streams(ends, session);
        let [from_stream, to_stream] = match side {
            Side::Left => [number, number + 1],
            Side::Right => [number + 1, number],
        };
        let seam = Seam {
            pair,
            side: side.other(),
            to_stream,
        };
        self.forwards.tunnels.set_seam(number, seam);
        let [source_half, sink_half] = Half::both();
        // It is no connection of anybody's, and counts for no address.
        let nobody = PeerAddress::UNKNOWN;
        let source = Leg::of_half(there, source_half, nobody, since);
        let sink = Leg::of_half(sink, sink_half, nobody, since);
        let answered = self.body_leg(answer, HttpBody::packed());
        let from = match answered {
            Ok(leg) => Ok((source, leg, from_stream)),
            Err(error) => Err((source, error, from_stream)),
        };
        let stream = body.request.stream.expect("its call streams");
        let to = match self.body_leg(body, HttpBody::unpacked(stream.body)) {
            Ok(leg) => Ok((leg, sink, to_stream)),
            Err(error) => Err((sink, error, to_stream)),
        };
        // Both are begun before one is ended, so that the other is there to be ended.
        let failed = [from, to].map(|way| match way {
            Ok((left, right, number)) => {
                self.begin_session(left, right, Origin::Forwarded(number), None);
                None
            }
            Err((left, error, number)) => {
                left.give_up(reactor);
                Some((number, error))
            }
        });
        for (number, error) in failed.into_iter().flatten() {
            self.end_failed(number, &error);
        }
    }

    fn end_failed(self: &Rc<Self>, number: u32, error: &io::Error) {
        debug!(%error, "a body did not begin");
        self.end_way(number, CloseReason::Severed, [0; 2]);
    }
}

impl Partner {
    fn peer(&self) -> PeerAddress {
        match self {
            Self::Requests { answer, .. } => answer.request.peer,
            Self::Streamed(streamed) => streamed.peer,
        }
    }

    /// When it came.
    fn since(&self) -> Timestamp {
        match self {
            Self::Requests { answer, .. } => answer.request.since,
            Self::Streamed(streamed) => streamed.since,
        }
    }
}

impl Tunnel {
    /// What a pair of streams is that the tunnel, or another shard, tells of.
    fn far_session(&self) -> StreamSession {
        StreamSession::far(self.peers, self.waiting_since, self.joined_at)
    }
}
