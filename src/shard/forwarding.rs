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

use std::cell::RefCell;
use std::rc::Rc;

use super::caller::{Caller, CallerRequest, Kept, log_refused};
use super::gathering::{Gathering, Party, Role};
use super::not_reached::NotReached;
use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use super::rendezvous_settings::ForwardingLimits;
use super::server_listens::ServerListens;
use super::status::{Forwarded, PlaceStatus, SESSIONS_TOLD_MAX};
use super::tunnels::Tunnels;
use crate::access::Presented;
use crate::access::forwarding::{Credentials, NotForwarded};
use crate::protocol::http_head::{Answer, Persistence};
use crate::protocol::ptth_http::{
    self, Call, CallError, ConnectionId, Late, Name, Place, Refusal, Switchboard,
};
use crate::runtime::flag::{Either, either};
use crate::runtime::question::{Pending, Question};
use crate::session::http::CONTINUE;
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// What a request is answered that has nothing more to hear: RFC 9110 §15.3.5.
const NO_CONTENT: u16 = 204;

/// The requests of one shard that wait.
#[derive(Debug)]
pub(super) struct Forwards {
    pub(super) board: RefCell<Switchboard<u64>>,
    pub(super) waiting: Pending<News>,
    pub(super) listens: ServerListens,
    pub(super) tunnels: Tunnels,
}

/// What a request waited for.
#[derive(Clone, Debug)]
pub(super) enum News {
    Offered(ConnectionId),
    /// By a server that is there.
    Accepted(PeerAddress),
    Rejected,
    /// What the server has answered by QUIC.
    Refused(NotReached),
    /// Whoever was told did not take it; it is to be offered again, until then.
    NotTaken(Timestamp),
    NotAccepted,
    Broken,
    Whole(Rc<Gathering>, Role),
}

/// Why somebody waits no more.
enum Waited {
    Told(News),
    Gone,
    Late,
    Draining,
}

impl Forwards {
    pub(super) fn new(limits: &ForwardingLimits) -> Self {
        Self {
            board: RefCell::new(Switchboard::new(limits.switchboard)),
            waiting: Pending::default(),
            listens: ServerListens::default(),
            tunnels: Tunnels::default(),
        }
    }

    /// From now on the limits are these.
    pub(super) fn set_limits(&self, limits: &ForwardingLimits) {
        self.board.borrow_mut().set_limits(limits.switchboard);
    }

    fn tell_all(&self, ids: Vec<u64>, news: &News) {
        for id in ids {
            self.waiting.deliver(id, news.clone());
        }
    }

    /// When somebody will have waited, or been silent, for too long.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let waits = self.board.borrow().next_deadline();
        [waits, self.tunnels.next_look()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn status(&self) -> Forwarded {
        let board = self.board.borrow();
        Forwarded {
            tunnels: self.tunnels.count() as u64,
            census: board.census(),
            tally: board.tally(),
        }
    }

    /// Where somebody waits, as far as it is told.
    pub(super) fn place_statuses(&self) -> Vec<PlaceStatus> {
        let board = self.board.borrow();
        let told = board.places().take(SESSIONS_TOLD_MAX);
        told.map(|(place, [listens, connects])| PlaceStatus {
            place: place.clone(),
            listens: listens as u64,
            connects: connects as u64,
        })
        .collect()
    }

    /// Tells those who have.
    pub(super) fn end_late(&self, now: Timestamp) {
        while let Some(late) = {
            let mut board = self.board.borrow_mut();
            board.poll_late(now)
        } {
            let (connect, news, downstream) = match late {
                Late::NotTaken {
                    connect,
                    downstream,
                    until,
                } => (connect, News::NotTaken(until), downstream),
                Late::NotAccepted {
                    connect,
                    downstream,
                } => (connect, News::NotAccepted, downstream),
                Late::NotWhole(requests) => {
                    self.tell_all(requests, &News::Broken);
                    continue;
                }
            };
            self.waiting.deliver(connect, news);
            self.tell_all(downstream.into_iter().collect(), &News::Broken);
        }
    }
}

impl RelayService {
    /// Whether anybody's ports are forwarded.
    pub(super) fn forwards_ports(&self) -> bool {
        !self.settings().forwarding.is_empty()
    }

    /// What is asked, and by whom, if it may.
    pub(super) fn check_call(
        &self,
        call: Call,
        key: Option<&Presented>,
        peer: PeerAddress,
    ) -> Result<(Call, Name), Refused> {
        let settings = self.settings();
        let forwarding = &settings.forwarding;
        let shown = Credentials::of_key(key);
        let (name, may) = match &call {
            Call::Listen { .. } | Call::Accept(_) | Call::Reject(_) | Call::Downstream(_) => {
                let server = forwarding.server(shown);
                (server.map(|server| &server.name), Ok(()))
            }
            Call::Upstream(_) => {
                let client = forwarding.client(shown);
                (client.map(|client| &client.name), Ok(()))
            }
            Call::Connect { server, port } => {
                let client = forwarding.client(shown);
                let may = client.and_then(|client| forwarding.check(client, server, port));
                (client.map(|client| &client.name), may)
            }
        };
        match name.and_then(|name| may.map(|()| name.clone())) {
            Ok(name) => Ok((call, name)),
            Err(why) => {
                let refused = why.into();
                log_refused(peer, &call, name.ok(), refused);
                Err(refused)
            }
        }
    }

    /// Serves a request whose tunnel is here; gives the connection if it may have another one.
    pub(super) async fn serve_call(self: &Rc<Self>, caller: Caller) -> Option<Kept> {
        let waiting = self.forwards.waiting.open();
        match Box::pin(self.serve_waiting(&waiting, caller)).await {
            Ok(kept) => kept,
            Err((caller, refused)) => {
                self.count_refused_call(&caller.request, refused);
                self.answer(caller, &Answer::new(refused.http_status()))
                    .await
            }
        }
    }

    fn count_refused_call(&self, request: &CallerRequest, refused: Refused) {
        log_refused(request.peer, &request.call, Some(&request.name), refused);
        self.count_refused(request.peer, refused);
    }

    /// Answers a request; gives the connection if it may have another one.
    async fn answer(&self, mut caller: Caller, answer: &Answer) -> Option<Kept> {
        let persistence = self.persistence_behind(&caller);
        let sent = self
            .send_answer(&mut caller.link, answer, persistence)
            .await;
        match sent {
            Ok(()) => self.end_answer(caller, persistence).await,
            Err(refused) => {
                self.count_refused(caller.request.peer, refused);
                None
            }
        }
    }

    /// What becomes of a connection once its request is answered. A body that nobody takes
    /// is no next request.
    fn persistence_behind(&self, caller: &Caller) -> Persistence {
        match caller.request.stream.is_some() || self.world.is_draining() {
            true => Persistence::Close,
            false => caller.request.persistence,
        }
    }

    async fn end_answer(&self, caller: Caller, persistence: Persistence) -> Option<Kept> {
        let Caller { link, unasked, .. } = caller;
        match persistence {
            Persistence::KeepAlive => Some((link, unasked)),
            Persistence::Close => {
                link.refuse(&self.world.reactor, &[]).await;
                None
            }
        }
    }

    async fn serve_waiting(
        self: &Rc<Self>,
        waiting: &Question<News>,
        caller: Caller,
    ) -> Result<Option<Kept>, (Caller, Refused)> {
        let now = self.world.reactor.now();
        let name = caller.request.name.clone();
        let board = &self.forwards.board;
        match caller.request.call.clone() {
            Call::Listen {
                server: Some(server),
                ..
            } if server != name => {
                self.count_refused_call(&caller.request, Refused::OtherServer);
                Ok(self.answer(caller, &ptth_http::other_server(&name)).await)
            }
            Call::Listen { port, .. } => {
                let place = Place { server: name, port };
                self.listen(waiting, caller, &place).await
            }
            Call::Connect { server, port } => {
                let place = Place { server, port };
                self.connect(waiting, caller, &place).await.map(|()| None)
            }
            Call::Reject(id) => {
                let rejected = board.borrow_mut().reject(id, &name);
                match rejected {
                    Ok(connect) => self.forwards.waiting.deliver(connect, News::Rejected),
                    Err(refusal) => return Err((caller, refusal.into())),
                }
                Ok(self.answer(caller, &Answer::new(NO_CONTENT)).await)
            }
            Call::Accept(id) => {
                let accepted = board.borrow_mut().accept(id, &name, waiting.id(), now);
                match accepted {
                    Ok(connect) => {
                        let news = News::Accepted(caller.request.peer);
                        self.forwards.waiting.deliver(connect, news);
                    }
                    Err(refusal) => return Err((caller, refusal.into())),
                }
                self.stream(waiting, caller, id, ptth_http::accepted())
                    .await;
                Ok(None)
            }
            Call::Upstream(id) => {
                let taken = board.borrow_mut().upstream(id, &name, waiting.id());
                self.send_body(waiting, caller, id, taken)
                    .await
                    .map(|()| None)
            }
            Call::Downstream(id) => {
                let taken = board.borrow_mut().downstream(id, &name, waiting.id());
                self.send_body(waiting, caller, id, taken)
                    .await
                    .map(|()| None)
            }
        }
    }

    async fn listen(
        self: &Rc<Self>,
        waiting: &Question<News>,
        mut caller: Caller,
        place: &Place,
    ) -> Result<Option<Kept>, (Caller, Refused)> {
        let listening = match self.begin_listening(&place.server).await {
            Ok(listening) => listening,
            Err(refused) => return Err((caller, refused)),
        };
        let board = &self.forwards.board;
        let mut offered = board.borrow_mut().listen(place, waiting.id());
        if offered.is_none() {
            let until = self.world.reactor.now() + self.settings().forwarding_limits.listen_timeout;
            let waited = self.wait(waiting, &mut caller, Some(until)).await;
            board.borrow_mut().stop_listening(place, waiting.id());
            let is_gone = matches!(waited, Waited::Gone);
            let news = match waited {
                Waited::Told(news) => Some(news),
                // It may have been told in this moment.
                _ => waiting.take_answer(),
            };
            offered = match news {
                Some(News::Offered(id)) => Some(id),
                _ => None,
            };
            if is_gone {
                offered.into_iter().for_each(|id| self.offer_again(id));
                return Ok(None);
            }
        }
        board
            .borrow_mut()
            .note_listened(place, self.world.reactor.now());
        // Before the answer, which the server's next request may follow at once.
        drop(listening);
        let Some(id) = offered else {
            return Ok(self.answer(caller, &Answer::new(NO_CONTENT)).await);
        };
        let persistence = self.persistence_behind(&caller);
        let answer = ptth_http::offered(id);
        let sending = self.send_answer(&mut caller.link, &answer, persistence);
        match sending.await {
            Ok(()) => {
                let now = self.world.reactor.now();
                board.borrow_mut().handle_told(id, now);
                Ok(self.end_answer(caller, persistence).await)
            }
            Err(_) => {
                self.offer_again(id);
                Ok(None)
            }
        }
    }

    /// Whoever was to hear of a connection has gone.
    pub(super) fn offer_again(self: &Rc<Self>, id: ConnectionId) {
        let mut board = self.forwards.board.borrow_mut();
        match board.handle_not_told(id) {
            Some(other) => self.forwards.waiting.deliver(other, News::Offered(id)),
            None => {
                let place = board.place_of(id).cloned();
                drop(board);
                place.iter().for_each(|place| self.lead_by_quic(place));
            }
        }
    }

    /// Has a connection wait for a server, by a fresh id: until then, if it waited before.
    pub(super) fn place_connect(
        self: &Rc<Self>,
        place: &Place,
        client: Name,
        waiter: u64,
        again: Option<Timestamp>,
    ) -> Result<ConnectionId, Refused> {
        let minted = self.rendezvous.borrow().mint(self.random);
        let Ok(key) = minted else {
            return Err(Refused::TableFull);
        };
        let id = ConnectionId(key.0.into_bytes());
        let placed = {
            let mut board = self.forwards.board.borrow_mut();
            let now = self.world.reactor.now();
            match again {
                None => board.connect(id, place, client, waiter, now)?,
                Some(until) => board.connect_again(id, place, client, waiter, until),
            }
        };
        match placed {
            Some(listener) => self.forwards.waiting.deliver(listener, News::Offered(id)),
            None => self.lead_by_quic(place),
        }
        Ok(id)
    }

    async fn connect(
        self: &Rc<Self>,
        waiting: &Question<News>,
        mut caller: Caller,
        place: &Place,
    ) -> Result<(), (Caller, Refused)> {
        let mut again = None;
        let (id, waited) = loop {
            let client = caller.request.name.clone();
            let id = match self.place_connect(place, client, waiting.id(), again) {
                Ok(id) => id,
                Err(refused) => return Err((caller, refused)),
            };
            match self.wait(waiting, &mut caller, None).await {
                Waited::Told(News::NotTaken(until)) => again = Some(until),
                waited => break (id, waited),
            }
        };
        match waited {
            Waited::Told(News::Accepted(_)) => {
                self.stream(waiting, caller, id, ptth_http::connected(id))
                    .await;
                Ok(())
            }
            // All the others were faster than the news that the first of them has come.
            Waited::Told(News::Whole(gathering, role)) => {
                if caller
                    .link
                    .send_all(&ptth_http::connected(id))
                    .await
                    .is_ok()
                {
                    self.come_together(&gathering, role, Party::Caller(caller));
                }
                Ok(())
            }
            Waited::Told(News::Rejected) => Err((caller, Refused::RejectedByServer)),
            Waited::Told(News::Refused(error)) => Err((caller, error.over_http())),
            Waited::Told(News::NotAccepted) => Err((caller, Refused::NotAcceptedInTime)),
            Waited::Told(_) => Err((caller, Refused::TunnelBroken)),
            Waited::Draining => {
                self.withdraw(id, waiting.id());
                Err((caller, Refused::Draining))
            }
            Waited::Gone | Waited::Late => {
                self.withdraw(id, waiting.id());
                Ok(())
            }
        }
    }

    /// Answers with a body that is to stream.
    async fn stream(
        self: &Rc<Self>,
        waiting: &Question<News>,
        mut caller: Caller,
        id: ConnectionId,
        head: Vec<u8>,
    ) {
        if caller.link.send_all(&head).await.is_err() {
            return self.withdraw(id, waiting.id());
        }
        self.begin_if_whole(id);
        match self.wait(waiting, &mut caller, None).await {
            Waited::Told(News::Whole(gathering, role)) => {
                self.come_together(&gathering, role, Party::Caller(caller))
            }
            Waited::Told(_) => caller.link.reset(),
            Waited::Draining => {
                self.withdraw(id, waiting.id());
                caller.link.reset();
            }
            Waited::Gone | Waited::Late => self.withdraw(id, waiting.id()),
        }
    }

    /// Takes a body that streams.
    async fn send_body(
        self: &Rc<Self>,
        waiting: &Question<News>,
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
            self.withdraw(id, waiting.id());
            return Ok(());
        }
        self.begin_if_whole(id);
        // What it sends waits in its socket, and so does its end.
        let waiting_for = either(waiting.answer(), caller.link.broken());
        match self.draining.or_raised(waiting_for).await {
            Some(Either::First(News::Whole(gathering, role))) => {
                self.come_together(&gathering, role, Party::Caller(caller));
                Ok(())
            }
            Some(Either::First(_)) => Err((caller, Refused::TunnelBroken)),
            Some(Either::Second(())) => {
                self.withdraw(id, waiting.id());
                Ok(())
            }
            None => {
                self.withdraw(id, waiting.id());
                Err((caller, Refused::Draining))
            }
        }
    }

    pub(super) fn withdraw(&self, id: ConnectionId, gone: u64) {
        let others = self.forwards.board.borrow_mut().withdraw(id, gone);
        self.forwards.tell_all(others, &News::Broken);
    }

    /// Waits for news, as long as the peer is there and says nothing.
    async fn wait(
        &self,
        waiting: &Question<News>,
        caller: &mut Caller,
        until: Option<Timestamp>,
    ) -> Waited {
        let heard = self
            .draining
            .or_raised(either(waiting.answer(), caller.gone()));
        let heard = match until {
            None => Some(heard.await),
            Some(until) => self.world.reactor.deadline(until, heard).await,
        };
        match heard {
            Some(Some(Either::First(news))) => Waited::Told(news),
            Some(Some(Either::Second(()))) => Waited::Gone,
            Some(None) => Waited::Draining,
            None => Waited::Late,
        }
    }
}

impl From<NotForwarded> for Refused {
    fn from(why: NotForwarded) -> Self {
        match why {
            NotForwarded::NoKey => Self::NoKey,
            NotForwarded::UnknownKey => Self::UnknownKey,
            NotForwarded::NoServer => Self::NotFound,
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
            CallError::OldVersion => Self::OldHttp,
            CallError::Name(_) => Self::MalformedPath,
            CallError::NotOurs | CallError::Unknown | CallError::Id(_) => Self::BadPath,
        }
    }
}
