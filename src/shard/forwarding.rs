//! Forwarded ports, by PTTH over HTTP: each request waits in a task of its own, on the shard
//! that owns its server's port, until all four of its tunnel are there.
//!
//! ```text
//! listen ──── waits ── told of an id
//! connect ─── waits ── 200 ──┐
//! accept ──── 200 ───────────┤ waits until it is whole ── two pairs, one for each way
//! upstream ──────────────────┤
//! downstream ────────────────┘
//! ```
//!
//! A pair is a request with a body and an answer with one. What breaks one pair breaks the
//! other.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use ahash::RandomState;
use tracing::debug;

use super::leg::Leg;
use super::peer_address::PeerAddress;
use super::rendezvous::{Message, RelayService};
use super::sessions::Origin;
use crate::access::Presented;
use crate::access::forwarding::NotForwarded;
use crate::protocol::http_head::{Answer, Persistence};
use crate::protocol::ptth_http::{
    self, Call, CallError, ConnectionId, Late, Name, Place, Refusal, Switchboard, Whole,
};
use crate::relay::codec::{Codec, HttpBody};
use crate::relay::{CloseReason, GateHold};
use crate::runtime::executor::spawn;
use crate::runtime::flag::{Either, Flag, either};
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::http::StreamedBody;
use crate::session::link::Link;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;
use crate::time::Timestamp;
use crate::tls::Session;

/// How long a server waits for a connection before it is told to ask again.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(25);

/// Connections that wait for one port.
const BACKLOG_MAX: usize = 64;

/// What somebody may say who is to listen, before it is given up.
const UNASKED_BYTES_MAX: usize = 4 << 10;

/// Has a client that asks first send its body: RFC 9110 §10.1.1.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One request whose caller may ask what it asks.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) link: Link,
    pub(super) request: CallerRequest,
}

/// What it asks, and who.
#[derive(Debug)]
pub(super) struct CallerRequest {
    pub(super) call: Call,
    /// The server, or the client.
    name: Name,
    stream: Option<StreamedBody>,
    pub(super) peer: PeerAddress,
    since: Timestamp,
}

/// A request on its way to the shard that owns its port or its tunnel.
#[derive(Debug)]
pub struct CallHandoff {
    socket: Socket,
    tls: Option<Box<Session>>,
    early: Vec<u8>,
    request: CallerRequest,
}

/// The requests of one shard that wait.
#[derive(Debug)]
pub(super) struct Forwards {
    board: RefCell<Switchboard<u64>>,
    waiting: RefCell<HashMap<u64, Rc<Waiter>, RandomState>>,
    last_waiter: Cell<u64>,
    last_tunnel: Cell<u32>,
}

#[derive(Debug, Default)]
struct Waiter {
    told: Flag,
    news: RefCell<Option<News>>,
}

/// What a request waited for.
#[derive(Clone, Debug)]
enum News {
    Offered(ConnectionId),
    Accepted,
    Rejected,
    NotAccepted,
    Broken,
    Whole(Rc<Gathering>, Role),
}

/// What a request is to its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Connect,
    Accept,
    Upstream,
    Downstream,
}

/// The requests of a tunnel, as they come together.
#[derive(Debug, Default)]
struct Gathering(RefCell<Vec<(Role, Caller)>>);

/// Why somebody waits no more.
enum Waited {
    Told(News),
    Gone,
    Late,
}

impl Default for Forwards {
    fn default() -> Self {
        Self {
            board: RefCell::new(Switchboard::new(BACKLOG_MAX)),
            waiting: RefCell::default(),
            last_waiter: Cell::new(0),
            last_tunnel: Cell::new(0),
        }
    }
}

impl Forwards {
    fn enter(&self) -> (u64, Rc<Waiter>) {
        let id = self.last_waiter.get() + 1;
        self.last_waiter.set(id);
        let waiter = Rc::new(Waiter::default());
        self.waiting.borrow_mut().insert(id, Rc::clone(&waiter));
        (id, waiter)
    }

    fn tell(&self, id: u64, news: News) {
        if let Some(waiter) = self.waiting.borrow().get(&id) {
            waiter.news.replace(Some(news));
            waiter.told.raise();
        }
    }

    fn tell_all(&self, ids: Vec<u64>, news: &News) {
        for id in ids {
            self.tell(id, news.clone());
        }
    }

    /// When somebody will have waited for too long.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.board.borrow().next_deadline()
    }

    /// Tells those who have.
    pub(super) fn end_late(&self, now: Timestamp) {
        while let Some(late) = {
            let mut board = self.board.borrow_mut();
            board.poll_late(now)
        } {
            match late {
                Late::NotAccepted {
                    connect,
                    downstream,
                } => {
                    self.tell(connect, News::NotAccepted);
                    self.tell_all(downstream.into_iter().collect(), &News::Broken);
                }
                Late::NotWhole(requests) => self.tell_all(requests, &News::Broken),
            }
        }
    }

    /// Has everybody go who waits: the relay stops.
    pub(super) fn drain(&self) {
        let all: Vec<u64> = self.waiting.borrow().keys().copied().collect();
        self.tell_all(all, &News::Broken);
    }
}

impl RelayService {
    /// Who asks, and whether it may.
    pub(super) fn check_call(&self, call: &Call, key: Option<&Presented>) -> Result<Name, Refused> {
        let settings = self.settings();
        let forwarding = &settings.forwarding;
        let refused = |why| match why {
            NotForwarded::NoKey => Refused::NoKey,
            NotForwarded::UnknownKey => Refused::UnknownKey,
            NotForwarded::NoServer => Refused::NotFound,
        };
        match call {
            Call::Listen { .. } | Call::Accept(_) | Call::Reject(_) | Call::Downstream(_) => {
                let server = forwarding.server(key).map_err(refused)?;
                Ok(server.name.clone())
            }
            Call::Connect { server, port } => {
                let client = forwarding.client(key).map_err(refused)?;
                let place = Place {
                    server: server.clone(),
                    port: port.clone(),
                };
                forwarding.check(client, &place).map_err(refused)?;
                Ok(client.name.clone())
            }
            Call::Upstream(_) => {
                let client = forwarding.client(key).map_err(refused)?;
                Ok(client.name.clone())
            }
        }
    }

    /// Brings a request to where its tunnel is, and serves it there.
    pub(super) async fn place_call(self: &Rc<Self>, caller: Caller) {
        let owner = self.rendezvous.borrow().owner_of(&caller.request.key());
        if owner == self.world.shard {
            return self.serve_call(caller).await;
        }
        let Caller { link, request } = caller;
        let (stream, tls, early) = link.into_parts();
        let peer = request.peer;
        let handoff = Box::new(CallHandoff {
            socket: stream.detach().await,
            tls,
            early,
            request,
        });
        if self.world.send(owner, Message::Call(handoff)).is_err() {
            self.count_refused(peer, Refused::Draining);
        }
    }

    /// A request came from another shard.
    pub(super) fn take_call(self: &Rc<Self>, handoff: CallHandoff) {
        let CallHandoff {
            socket,
            tls,
            early,
            request,
        } = handoff;
        let stream = Stream::new(Rc::clone(&self.world.reactor), socket);
        let mut link = Link::from_parts(stream, tls);
        link.put_back(early);
        let service = Rc::clone(self);
        let calling = self.callers.enter();
        spawn(async move {
            service.serve_call(Caller { link, request }).await;
            drop(calling);
        });
    }

    async fn serve_call(self: &Rc<Self>, caller: Caller) {
        let (id, waiter) = self.forwards.enter();
        let served = Box::pin(self.serve_waiting(id, &waiter, caller)).await;
        self.forwards.waiting.borrow_mut().remove(&id);
        if let Err((caller, refused)) = served {
            let answer = Answer::new(refused.http_status());
            let words = answer.encode(Persistence::Close);
            self.count_refused(caller.request.peer, refused);
            caller.link.refuse(&self.world.reactor, &words).await;
        }
    }

    async fn serve_waiting(
        self: &Rc<Self>,
        waiter_id: u64,
        waiter: &Waiter,
        caller: Caller,
    ) -> Result<(), (Caller, Refused)> {
        let now = self.world.reactor.now();
        let name = caller.request.name.clone();
        let board = &self.forwards.board;
        match caller.request.call.clone() {
            Call::Listen { port } => {
                let place = Place { server: name, port };
                self.listen(waiter_id, waiter, caller, &place).await
            }
            Call::Connect { server, port } => {
                let place = Place { server, port };
                self.connect(waiter_id, waiter, caller, &place).await
            }
            Call::Reject(id) => {
                let rejected = board.borrow_mut().reject(id, &name);
                match rejected {
                    Ok(connect) => self.forwards.tell(connect, News::Rejected),
                    Err(refusal) => return Err((caller, refusal.into())),
                }
                let words = Answer::new(204).encode(Persistence::Close);
                caller.link.refuse(&self.world.reactor, &words).await;
                Ok(())
            }
            Call::Accept(id) => {
                let accepted = board.borrow_mut().accept(id, &name, waiter_id, now);
                match accepted {
                    Ok(connect) => self.forwards.tell(connect, News::Accepted),
                    Err(refusal) => return Err((caller, refusal.into())),
                }
                self.stream(waiter_id, waiter, caller, id, ptth_http::accepted())
                    .await;
                Ok(())
            }
            Call::Upstream(id) => {
                let taken = board.borrow_mut().upstream(id, &name, waiter_id);
                self.send_body(waiter_id, waiter, caller, id, taken).await
            }
            Call::Downstream(id) => {
                let taken = board.borrow_mut().downstream(id, &name, waiter_id);
                self.send_body(waiter_id, waiter, caller, id, taken).await
            }
        }
    }

    async fn listen(
        self: &Rc<Self>,
        waiter_id: u64,
        waiter: &Waiter,
        mut caller: Caller,
        place: &Place,
    ) -> Result<(), (Caller, Refused)> {
        let board = &self.forwards.board;
        let offered = board.borrow_mut().listen(place, waiter_id);
        let offered = match offered {
            Some(id) => Some(id),
            None => {
                let until = self.world.reactor.now() + LISTEN_TIMEOUT;
                match self.wait(waiter, &mut caller.link, Some(until)).await {
                    Waited::Told(News::Offered(id)) => Some(id),
                    Waited::Told(_) | Waited::Late => None,
                    Waited::Gone => {
                        board.borrow_mut().stop_listening(place, waiter_id);
                        // It may have been told in this moment.
                        if let Some(News::Offered(id)) = waiter.news.take() {
                            self.offer_again(id);
                        }
                        return Ok(());
                    }
                }
            }
        };
        board.borrow_mut().stop_listening(place, waiter_id);
        let Some(id) = offered else {
            let words = Answer::new(204).encode(Persistence::Close);
            caller.link.refuse(&self.world.reactor, &words).await;
            return Ok(());
        };
        let words = ptth_http::offered(id).encode(Persistence::Close);
        match caller.link.send_all(&words).await {
            Ok(()) => {
                let now = self.world.reactor.now();
                board.borrow_mut().handle_told(id, now);
                caller.link.refuse(&self.world.reactor, &[]).await;
            }
            Err(_) => self.offer_again(id),
        }
        Ok(())
    }

    /// Whoever was to hear of a connection has gone.
    fn offer_again(&self, id: ConnectionId) {
        let other = self.forwards.board.borrow_mut().handle_not_told(id);
        if let Some(other) = other {
            self.forwards.tell(other, News::Offered(id));
        }
    }

    async fn connect(
        self: &Rc<Self>,
        waiter_id: u64,
        waiter: &Waiter,
        mut caller: Caller,
        place: &Place,
    ) -> Result<(), (Caller, Refused)> {
        let minted = self.rendezvous.borrow().mint(self.random);
        let Ok(key) = minted else {
            return Err((caller, Refused::TableFull));
        };
        let id = ConnectionId(key.0.into_bytes());
        let client = caller.request.name.clone();
        let now = self.world.reactor.now();
        let board = &self.forwards.board;
        let placed = board
            .borrow_mut()
            .connect(id, place, client, waiter_id, now);
        match placed {
            Ok(Some(listener)) => self.forwards.tell(listener, News::Offered(id)),
            Ok(None) => {}
            Err(refusal) => return Err((caller, refusal.into())),
        }
        match self.wait(waiter, &mut caller.link, None).await {
            Waited::Told(News::Accepted) => {
                self.stream(waiter_id, waiter, caller, id, ptth_http::connected(id))
                    .await;
                Ok(())
            }
            Waited::Told(News::Rejected) => Err((caller, Refused::RejectedByServer)),
            Waited::Told(News::NotAccepted) => Err((caller, Refused::NotAcceptedInTime)),
            Waited::Told(_) => Err((caller, Refused::Draining)),
            Waited::Gone | Waited::Late => {
                self.withdraw(id, waiter_id);
                Ok(())
            }
        }
    }

    /// Answers with a body that is to stream.
    async fn stream(
        self: &Rc<Self>,
        waiter_id: u64,
        waiter: &Waiter,
        mut caller: Caller,
        id: ConnectionId,
        head: Vec<u8>,
    ) {
        if caller.link.send_all(&head).await.is_err() {
            return self.withdraw(id, waiter_id);
        }
        self.begin_if_whole(id);
        match self.wait(waiter, &mut caller.link, None).await {
            Waited::Told(News::Whole(gathering, role)) => {
                self.come_together(&gathering, role, caller)
            }
            Waited::Told(_) => caller.link.reset(),
            Waited::Gone | Waited::Late => self.withdraw(id, waiter_id),
        }
    }

    /// Takes a body that streams.
    async fn send_body(
        self: &Rc<Self>,
        waiter_id: u64,
        waiter: &Waiter,
        mut caller: Caller,
        id: ConnectionId,
        taken: Result<(), Refusal>,
    ) -> Result<(), (Caller, Refused)> {
        if let Err(refusal) = taken {
            return Err((caller, refusal.into()));
        }
        let expects = caller.request.stream;
        if expects.is_some_and(|stream| stream.expects_continue)
            && caller.link.send_all(CONTINUE).await.is_err()
        {
            self.withdraw(id, waiter_id);
            return Ok(());
        }
        self.begin_if_whole(id);
        // Whether it goes is seen when it is read: what it sends waits in its socket.
        waiter.told.raised().await;
        match waiter.news.take() {
            Some(News::Whole(gathering, role)) => self.come_together(&gathering, role, caller),
            _ => return Err((caller, Refused::TunnelBroken)),
        }
        Ok(())
    }

    fn withdraw(&self, id: ConnectionId, gone: u64) {
        let others = self.forwards.board.borrow_mut().withdraw(id, gone);
        self.forwards.tell_all(others, &News::Broken);
    }

    fn begin_if_whole(&self, id: ConnectionId) {
        let whole = self.forwards.board.borrow_mut().take_whole(id);
        let Some(Whole {
            connect,
            upstream,
            accept,
            downstream,
        }) = whole
        else {
            return;
        };
        let gathering = Rc::new(Gathering::default());
        for (waiter, role) in [
            (connect, Role::Connect),
            (upstream, Role::Upstream),
            (accept, Role::Accept),
            (downstream, Role::Downstream),
        ] {
            self.forwards
                .tell(waiter, News::Whole(Rc::clone(&gathering), role));
        }
    }

    /// A request joins the others; the last one has the bytes begin to flow.
    fn come_together(&self, gathering: &Gathering, role: Role, caller: Caller) {
        gathering.0.borrow_mut().push((role, caller));
        if gathering.0.borrow().len() < 4 {
            return;
        }
        let mut callers = gathering.0.take();
        let mut take = |wanted| {
            let at = callers.iter().position(|(role, _)| *role == wanted);
            callers.swap_remove(at.expect("each comes once")).1
        };
        let tunnel = self.forwards.last_tunnel.get().wrapping_add(2);
        self.forwards.last_tunnel.set(tunnel);
        let ways = [
            (take(Role::Upstream), take(Role::Accept), tunnel),
            (take(Role::Downstream), take(Role::Connect), tunnel + 1),
        ];
        // Both are begun before one is ended, so that the other is there to be ended.
        let failed = ways.map(|(request, answer, number)| {
            let joined = self.join_bodies(request, answer, number);
            joined.err().map(|error| (number, error))
        });
        for (number, error) in failed.into_iter().flatten() {
            debug!(%error, "a body did not begin");
            self.sever(number);
        }
    }

    fn join_bodies(&self, request: Caller, answer: Caller, number: u32) -> std::io::Result<()> {
        let stream = request.request.stream;
        let body = stream.expect("its call streams").body;
        let [of_request, of_answer] = HttpBody::both(body);
        let left = self.body_leg(request, of_request)?;
        let right = self.body_leg(answer, of_answer)?;
        self.begin_session(left, right, Origin::Forwarded(number), None);
        Ok(())
    }

    fn body_leg(&self, caller: Caller, body: HttpBody) -> std::io::Result<Leg> {
        let Caller { link, request } = caller;
        let (stream, tls, early) = link.into_parts();
        let begun = Codec::begin_http(tls, body, early);
        let (codec, early) = begun.map_err(std::io::Error::other)?;
        let stream = WrappedStream::new(stream, Some(codec), early, &self.world.workshop)?;
        let leg = Leg::from_stream(stream, request.peer, request.since, GateHold::Open);
        Ok(leg)
    }

    /// One way of a tunnel has broken: so does the other.
    pub(super) fn sever(&self, number: u32) {
        let other = Origin::Forwarded(number ^ 1);
        self.world
            .end_sessions(CloseReason::Severed, |session| *session == other);
    }

    /// Waits for news, as long as the peer is there and says nothing.
    async fn wait(&self, waiter: &Waiter, link: &mut Link, until: Option<Timestamp>) -> Waited {
        let waiting = async {
            match either(waiter.told.raised(), is_gone(link)).await {
                Either::First(()) => match waiter.news.take() {
                    Some(news) => Waited::Told(news),
                    None => Waited::Gone,
                },
                Either::Second(()) => Waited::Gone,
            }
        };
        let waited = match until {
            None => waiting.await,
            Some(until) => {
                let waited = self.world.reactor.deadline(until, waiting).await;
                waited.unwrap_or(Waited::Late)
            }
        };
        waiter.told.lower();
        waited
    }
}

/// Returns when the peer has gone, or says what nobody asked.
async fn is_gone(link: &mut Link) {
    let mut unasked = Vec::new();
    while unasked.len() < UNASKED_BYTES_MAX {
        match link.try_read_into::<1024>(&mut unasked) {
            Ok(true) => {}
            Ok(false) => link.more().await,
            Err(_) => return,
        }
    }
}

impl CallerRequest {
    pub(super) const fn new(
        call: Call,
        name: Name,
        stream: Option<StreamedBody>,
        peer: PeerAddress,
        since: Timestamp,
    ) -> Self {
        Self {
            call,
            name,
            stream,
            peer,
            since,
        }
    }

    /// What tells which shard it belongs to.
    fn key(&self) -> Vec<u8> {
        let place = |server: &Name, port: &Name| format!("{server}/{port}").into_bytes();
        match &self.call {
            Call::Listen { port } => place(&self.name, port),
            Call::Connect { server, port } => place(server, port),
            Call::Accept(id) | Call::Reject(id) | Call::Upstream(id) | Call::Downstream(id) => {
                id.0.to_vec()
            }
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => Self::NotFound,
            Refusal::Used => Self::LegInUse,
            Refusal::Busy => Self::PortBusy,
        }
    }
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        match error {
            CallError::WrongMethod { .. } => Self::BadMethod,
            CallError::Name(_) => Self::MalformedPath,
            CallError::NotOurs | CallError::Unknown | CallError::Id(_) => Self::BadPath,
        }
    }
}
