//! What HTTP requests ask of the relay's associations.
//!
//! A connection stays on the shard that it came to. What it asks about an
//! association that lives elsewhere goes to its owner as a message, and the answer
//! comes back as one.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::caller::{Caller, CallerRequest};
use super::http_connection::Client;
use super::peer_address::PeerAddress;
use super::rendezvous::{Message, RelayService};
use super::rendezvous_settings::RendezvousSettings;
use super::server_listens::Listen;
use super::sessions::Origin;
use super::user_sessions::Dial;
use super::websocks::Visitor;
use crate::access::{Grant, Presented, Scope, SingleUse, TokenId};
use crate::association::census::Removal;
use crate::association::creators::CreatorId;
use crate::association::key::{AssociationKey, CandidateKey, RendezvousKey, ShardId};
use crate::metrics::ACCESS_LOG;
use crate::protocol::http_head::{Answer, Persistence};
use crate::protocol::jet::rest_answer::{self, AssociationDetail, RouteTo};
use crate::protocol::jet::{PublicUrl, RestError, RestRequest};
use crate::protocol::ptth_http::CallError;
use crate::protocol::websocket::{self, UpgradeError};
use crate::relay::CloseReason;
use crate::relay::codec::Codec;
use crate::runtime::clock;
use crate::runtime::executor::yield_now;
use crate::session::arrival::{Arrival, Switching};
use crate::session::http::{HttpEnd, HttpReader};
use crate::session::link::Link;
use crate::session::refused::Refused;
use crate::time::Timestamp;
use crate::web;

/// Wrong passwords on one connection, after which it is closed.
const STRIKES_MAX: u8 = 3;

/// What is asked of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To make it known to one who asks, with a candidate for each route. Its sessions may
    /// last only so long.
    Gather(AssociationKey, Option<CreatorId>, Option<Duration>),
    /// Whether it is known.
    Show(AssociationKey),
    /// To give it up, with its sessions.
    Delete(AssociationKey),
    /// To end its sessions.
    Terminate(AssociationKey),
    /// To take a token that serves once.
    Spend(SingleUse),
    /// To take one request of a bearer that creates.
    Take(TokenId),
    /// To count a session of a user that is to begin.
    Dial(Dial),
    /// To count a request of a server that is to listen.
    Listen(Listen),
    /// All that the shard has.
    List,
}

/// Whose connection serves no more requests, but is for something else.
pub(super) enum Leaving {
    Visitor(Visitor),
    Caller(Caller),
}

/// What it says: what was asked for, or nothing but that it is done.
pub type Told = Result<Answered, Refused>;

/// What was asked for.
#[derive(Debug)]
pub enum Answered {
    Done,
    Candidates(Vec<CandidateKey>),
    Associations(Vec<AssociationDetail>),
}

impl RelayService {
    /// Answers the requests of one connection until it ends, or leaves for something else.
    /// `received` has come of them already.
    pub(super) async fn serve_http(
        self: &Rc<Self>,
        mut link: Link,
        received: Vec<u8>,
        client: &mut Client,
        since: Timestamp,
    ) -> Option<Leaving> {
        let reactor = &self.world.reactor;
        let Client {
            peer: own,
            is_forwarder,
            counted,
        } = client;
        let mut peer = *own;
        let mut reader = HttpReader::new(received);
        // As long as it has no place of its own among the limits, a connection has
        // that of a handshake, and no longer than one.
        let until = reactor.now() + self.settings().handshake_timeout;
        let mut strikes = 0_u8;
        loop {
            let next = reader.next(reactor, &mut link, until);
            let next = match self.draining.or_raised(next).await {
                Some(next) => next,
                None if reader.is_empty() => Err(HttpEnd::Idle),
                None => Err(HttpEnd::Refused(Refused::Draining)),
            };
            let request = match next {
                Ok(request) => request,
                Err(HttpEnd::Idle) => return None,
                Err(HttpEnd::Broken(refused)) => {
                    self.count_refused(peer, refused);
                    link.give_up(reactor).await;
                    return None;
                }
                Err(HttpEnd::Refused(refused)) => {
                    let answer = Answer::new(refused.http_status());
                    self.part_with(link, peer, refused, &answer).await;
                    return None;
                }
            };
            if *is_forwarder {
                // Its port is nobody's business.
                let said = request.forwarded_for.map(|ip| SocketAddr::new(ip, 0));
                peer = said.map_or(*own, |said| PeerAddress::from(Some(said)));
                if !self.count_for(peer, counted) {
                    let refused = Refused::TooManyFromAddress;
                    let answer = refusal(request.asked, refused);
                    self.part_with(link, peer, refused, &answer).await;
                    return None;
                }
            }
            if let Ok(RestRequest::Meet { verb, place }) = request.asked {
                let early = take_early(&mut reader, &mut link);
                let switching = match check_upgrade(request.upgrade, &early) {
                    Ok(switching) => switching,
                    Err(refused) => {
                        let answer = refusal(request.asked, refused);
                        self.part_with(link, peer, refused, &answer).await;
                        return None;
                    }
                };
                let (stream, tls, _) = link.into_parts();
                let arrival = Arrival::websocket(verb, place, switching, early, tls);
                self.arrive(stream, arrival, peer, since).await;
                return None;
            }
            let knock = request.knock.filter(|_| self.has_users());
            let knocked = knock
                .as_ref()
                .map(|knock| self.check_knock(knock, peer, &link));
            if let (Some(knock), Some(Ok(user))) = (&knock, &knocked) {
                let (knock, user) = (knock.clone(), Arc::clone(user));
                let early = take_early(&mut reader, &mut link);
                link.put_back(early);
                return Some(Leaving::Visitor(Visitor {
                    link,
                    knock,
                    user,
                    peer,
                }));
            }
            // As that of a request of the relay's own.
            let asked = match &request.call {
                Some(Err(CallError::WrongMethod { allow })) if self.forwards_ports() => {
                    Err(RestError::WrongMethod { allow })
                }
                _ => request.asked,
            };
            let call = request.call.filter(|_| self.forwards_ports());
            let called = call.map(|call| self.check_call(call?, request.key.as_ref(), peer));
            let called = match called {
                Some(Ok((call, name))) => {
                    let early = take_early(&mut reader, &mut link);
                    link.put_back(early);
                    return Some(Leaving::Caller(Caller {
                        link,
                        request: CallerRequest {
                            call,
                            name,
                            stream: request.stream,
                            persistence: request.persistence,
                            peer,
                            since,
                        },
                        unasked: Vec::new(),
                    }));
                }
                Some(Err(refused)) => Some(refused),
                None => None,
            };
            if request.stream.is_some() {
                // What follows is no request, but a body that nobody takes.
                let refused = called.unwrap_or(Refused::BadPath);
                let answer = refusal(asked, refused);
                self.part_with(link, peer, refused, &answer).await;
                return None;
            }
            let stranger = knocked.and_then(Result::err).or(called);
            let answered = match (stranger, &request.web) {
                (Some(refused), _) => {
                    strikes += 1;
                    Err(refused)
                }
                (None, Some(web)) => self.answer_web(web),
                (None, None) => {
                    let answering = self.answer_http(asked, request.key.as_ref(), peer);
                    answering.await
                }
            };
            let answer = match answered {
                Ok(answer) => answer,
                Err(refused) => {
                    self.count_refused(peer, refused);
                    refusal(asked, refused)
                }
            };
            let persistence = match self.world.is_draining() || strikes >= STRIKES_MAX {
                true => Persistence::Close,
                false => request.persistence,
            };
            let sending = self.send_answer(&mut link, &answer, persistence);
            if let Err(refused) = sending.await {
                self.count_refused(peer, refused);
                return None;
            }
            if persistence == Persistence::Close {
                link.refuse(reactor, &[]).await;
                return None;
            }
            // A client that never lets us wait would keep the shard to itself.
            yield_now().await;
        }
    }

    /// Answers a request after which there is no other, and counts why.
    pub(super) async fn part_with(
        &self,
        link: Link,
        peer: PeerAddress,
        refused: Refused,
        answer: &Answer,
    ) {
        self.count_refused(peer, refused);
        let words = answer.encode(Persistence::Close);
        link.refuse(&self.world.reactor, &words).await;
    }

    async fn answer_http(
        self: &Rc<Self>,
        asked: Result<RestRequest, RestError>,
        key: Option<&Presented>,
        peer: PeerAddress,
    ) -> Result<Answer, Refused> {
        let request = asked?;
        let settings = self.settings();
        let needed = self.needed_scope(request);
        let granted = match needed {
            None => Grant::default(),
            Some(scope) => {
                let association = request.association();
                let now = clock::unix_time();
                settings.keyring.authorize(key, scope, association, now)?
            }
        };
        // Before a token is spent, so that it can be shown again.
        if let (Some(bearer), Some(Scope::Create)) = (granted.bearer_id(), needed)
            && settings.creations_per_minute_max > 0
        {
            self.ask(Ask::Take(bearer)).await?;
        }
        if let Some(token) = granted.single_use {
            self.ask(Ask::Spend(token)).await?;
        }
        let answer = self.grant(request, &settings, &granted).await?;
        if let Some(what) = changes(request) {
            // Without the id, which is a credential.
            info!(target: ACCESS_LOG, %peer, bearer = granted.bearer, what, "request granted");
        }
        Ok(answer)
    }

    async fn grant(
        &self,
        request: RestRequest,
        settings: &RendezvousSettings,
        granted: &Grant<'_>,
    ) -> Result<Answer, Refused> {
        let limit = granted.session_limit;
        let creator = granted.bearer_id().map(|bearer| CreatorId(bearer.0));
        match request {
            RestRequest::Health => Ok(rest_answer::healthy(settings.instance.as_str())),
            RestRequest::Create { association } => {
                let association = match association.or(granted.association) {
                    Some(chosen) => AssociationKey(chosen),
                    None => self
                        .rendezvous
                        .borrow()
                        .mint(self.random)
                        .map_err(|_| Refused::TableFull)?,
                };
                let candidates = self.gather(association, creator, limit).await?;
                let routes = routes_to(&settings.routes, &candidates);
                Ok(rest_answer::created(association.0, &settings.stun, &routes))
            }
            RestRequest::CreateAssociation(id) => {
                self.gather(AssociationKey(id), creator, limit).await?;
                Ok(Answer::new(200))
            }
            RestRequest::GatherCandidates(id) => {
                let candidates = self.gather(AssociationKey(id), creator, limit).await?;
                let routes = routes_to(&settings.routes, &candidates);
                Ok(rest_answer::gathered(id, &routes))
            }
            RestRequest::ShowAssociation(id) => {
                self.ask(Ask::Show(AssociationKey(id))).await?;
                Ok(Answer::new(200))
            }
            RestRequest::DeleteAssociation(id) => {
                self.ask(Ask::Delete(AssociationKey(id))).await?;
                Ok(Answer::new(200))
            }
            RestRequest::TerminateSession(id) => {
                self.ask(Ask::Terminate(AssociationKey(id))).await?;
                Ok(Answer::new(200))
            }
            RestRequest::ListAssociations { with_detail } => {
                let associations = self.list().await;
                Ok(rest_answer::listed(&associations, with_detail))
            }
            RestRequest::ListSessions => Ok(rest_answer::sessions(&self.list().await)),
            RestRequest::CountSessions => Ok(rest_answer::sessions_count(&self.list().await)),
            RestRequest::Heartbeat => Ok(rest_answer::heartbeat(
                settings.instance.as_str(),
                &self.list().await,
            )),
            RestRequest::Meet { .. } => unreachable!("answered with an upgrade"),
        }
    }

    /// What a key has to be good for; `None` where none is needed. Without any key
    /// anybody may create, as any acceptor of version 1 may, and nobody may see or
    /// end what is others': ids are credentials.
    fn needed_scope(&self, request: RestRequest) -> Option<Scope> {
        match request {
            RestRequest::Create { .. }
            | RestRequest::CreateAssociation(_)
            | RestRequest::GatherCandidates(_) => {
                (!self.settings().keyring.is_empty()).then_some(Scope::Create)
            }
            RestRequest::ListAssociations { .. }
            | RestRequest::Heartbeat
            | RestRequest::ListSessions
            | RestRequest::CountSessions => Some(Scope::Read),
            RestRequest::DeleteAssociation(_) | RestRequest::TerminateSession(_) => {
                Some(Scope::Terminate)
            }
            RestRequest::ShowAssociation(_) | RestRequest::Health | RestRequest::Meet { .. } => {
                None
            }
        }
    }

    /// Makes an association known, and gives its candidates.
    async fn gather(
        &self,
        association: AssociationKey,
        creator: Option<CreatorId>,
        session_limit: Option<Duration>,
    ) -> Result<Vec<CandidateKey>, Refused> {
        let gather = Ask::Gather(association, creator, session_limit);
        match self.ask(gather).await? {
            Answered::Candidates(candidates) => Ok(candidates),
            Answered::Done | Answered::Associations(_) => {
                unreachable!("every question has its own answer")
            }
        }
    }

    /// Every association of every shard that answers.
    async fn list(&self) -> Vec<AssociationDetail> {
        let mut all = Vec::new();
        for shard in 0..self.world.shards.len() {
            let shard = ShardId(u16::try_from(shard).unwrap_or(u16::MAX));
            if let Ok(Answered::Associations(some)) = self.ask_shard(shard, Ask::List).await {
                all.extend(some);
            }
        }
        all
    }

    /// Asks an association's owner, this shard or another.
    async fn ask(&self, ask: Ask) -> Told {
        let name = match &ask {
            Ask::Gather(key, ..) | Ask::Show(key) | Ask::Delete(key) | Ask::Terminate(key) => {
                key.0.as_bytes()
            }
            // One shard remembers each.
            Ask::Spend(SingleUse { id, .. }) | Ask::Take(id) => &id.0[..],
            Ask::Dial(Dial { user, .. }) => user.as_bytes(),
            Ask::Listen(Listen { server, .. }) => server.as_str().as_bytes(),
            Ask::List => return self.tell(ask),
        };
        let owner = self.owner_of(name);
        self.ask_shard(owner, ask).await
    }

    /// The shard that owns what these bytes name, an association or anything else.
    pub(super) fn owner_of(&self, name: &[u8]) -> ShardId {
        self.rendezvous.borrow().owner_of(name)
    }

    /// Asks a shard, this one or another.
    pub(super) async fn ask_shard(&self, shard: ShardId, ask: Ask) -> Told {
        if shard == self.world.shard {
            return self.tell(ask);
        }
        let question = self.questions.open();
        let message = Message::Ask {
            asker: self.world.shard,
            question: question.id(),
            ask,
        };
        if self.world.send(shard, message).is_err() {
            return Err(Refused::Draining);
        }
        // A shard that ends meanwhile does not answer.
        let deadline = self.world.reactor.now() + self.settings().handshake_timeout;
        let answer = self.world.reactor.deadline(deadline, question.answer());
        answer.await.unwrap_or(Err(Refused::Draining))
    }

    /// Answers what is asked of this shard.
    pub(super) fn tell(&self, ask: Ask) -> Told {
        self.close_expired();
        let now = self.world.reactor.now();
        match ask {
            Ask::Gather(..) if self.world.is_draining() => Err(Refused::Draining),
            Ask::Gather(..) if !self.has_memory() => Err(Refused::OverMemory),
            Ask::Gather(association, creator, session_limit) => {
                let routes = u16::try_from(self.settings().routes.len()).unwrap_or(u16::MAX);
                let mut rendezvous = self.rendezvous.borrow_mut();
                let candidates =
                    rendezvous.gather(association, routes, creator, session_limit, now)?;
                Ok(Answered::Candidates(candidates))
            }
            Ask::Show(association) => {
                self.rendezvous.borrow().test(implicit(association), now)?;
                Ok(Answered::Done)
            }
            Ask::Delete(association) => {
                let removal = self.rendezvous.borrow_mut().remove(association, now)?;
                match removal {
                    Removal::Gone => self.close_expired(),
                    // It goes with the last of them.
                    Removal::HasSessions { slot } => {
                        let is_meant = |session: &Origin| session.is_of(slot);
                        self.world.end_sessions(CloseReason::Terminated, is_meant);
                    }
                }
                Ok(Answered::Done)
            }
            Ask::Terminate(association) => {
                let slot = self.rendezvous.borrow().table().slot(association);
                let slot = slot.ok_or(Refused::NotFound)?;
                let is_meant = |session: &Origin| session.is_of(slot);
                match self.world.end_sessions(CloseReason::Terminated, is_meant) {
                    0 => Err(Refused::NotFound),
                    _ => Ok(Answered::Done),
                }
            }
            Ask::Take(bearer) => {
                let per_minute = self.settings().creations_per_minute_max;
                let mut rates = self.creation_rates.borrow_mut();
                rates.take(bearer, per_minute, now)?;
                Ok(Answered::Done)
            }
            Ask::Listen(listen) => {
                let max = self.settings().forwarding_limits.listens_per_server_max;
                self.forwards.listens.begin(listen, max)?;
                Ok(Answered::Done)
            }
            Ask::Dial(dial) => {
                self.users.sessions.borrow_mut().begin(dial, now)?;
                Ok(Answered::Done)
            }
            Ask::Spend(token) => {
                let tokens_max = self.settings().spent_tokens_max;
                let mut spent = self.spent_tokens.borrow_mut();
                spent.spend(token, clock::unix_time(), tokens_max)?;
                Ok(Answered::Done)
            }
            Ask::List => Ok(Answered::Associations(self.listed())),
        }
    }
}

/// What has come behind a request.
fn take_early(reader: &mut HttpReader, link: &mut Link) -> Vec<u8> {
    let mut early = reader.take_rest();
    early.extend_from_slice(&link.take_opened());
    early
}

fn implicit(association: AssociationKey) -> RendezvousKey {
    RendezvousKey {
        association,
        candidate: None,
    }
}

/// Whether an upgrade can be granted to a client from which `early` has come already;
/// until it is, it can be refused in HTTP.
fn check_upgrade(
    upgrade: Result<Switching, UpgradeError>,
    early: &[u8],
) -> Result<Switching, Refused> {
    let switching = upgrade?;
    if Codec::takes_early(early) {
        Ok(switching)
    } else {
        Err(Refused::NotWebSocket)
    }
}

/// What a request changes, for the log.
const fn changes(request: RestRequest) -> Option<&'static str> {
    match request {
        RestRequest::Create { .. }
        | RestRequest::CreateAssociation(_)
        | RestRequest::GatherCandidates(_) => Some("create"),
        RestRequest::DeleteAssociation(_) => Some("delete"),
        RestRequest::TerminateSession(_) => Some("terminate"),
        RestRequest::ShowAssociation(_)
        | RestRequest::ListAssociations { .. }
        | RestRequest::ListSessions
        | RestRequest::CountSessions
        | RestRequest::Heartbeat
        | RestRequest::Health
        | RestRequest::Meet { .. } => None,
    }
}

/// The routes to an association with these candidates.
fn routes_to<'a>(routes: &'a [PublicUrl], candidates: &[CandidateKey]) -> Vec<RouteTo<'a>> {
    let route_to = |(url, candidate): (&'a PublicUrl, &CandidateKey)| RouteTo {
        candidate: candidate.0,
        url,
    };
    routes.iter().zip(candidates).map(route_to).collect()
}

/// The answer to a request that is refused.
fn refusal(asked: Result<RestRequest, RestError>, refused: Refused) -> Answer {
    let answer = Answer::new(refused.http_status());
    match asked {
        Ok(RestRequest::Meet { .. }) if answer.status() == 426 => answer
            .with_header("Upgrade", "websocket")
            .with_header("Sec-WebSocket-Version", websocket::VERSION),
        Err(RestError::WrongMethod { allow }) => answer.with_header("Allow", allow),
        Err(RestError::UnknownPath) if refused == Refused::BadMethod => {
            answer.with_header("Allow", web::METHODS)
        }
        _ if matches!(refused, Refused::NoPassword | Refused::WrongPassword) => {
            answer.with_header("WWW-Authenticate", "Basic")
        }
        _ if answer.status() == 401 => answer.with_header("WWW-Authenticate", "Bearer"),
        _ => answer,
    }
}
