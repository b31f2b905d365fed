//! What HTTP requests ask of the relay's associations.
//!
//! A connection stays on the shard that it came to. What it asks about an
//! association that lives elsewhere goes to its owner as a message, and the answer
//! comes back as one.

use std::rc::Rc;

use super::peer_address::PeerAddress;
use super::rendezvous::{Message, Newcomer, RelayService};
use crate::access::{Presented, Scope};
use crate::association::key::{AssociationKey, CandidateKey, RendezvousKey};
use crate::association::rendezvous::Route;
use crate::protocol::http_head::{Answer, Persistence};
use crate::protocol::jet::rest_answer::{self, RouteTo};
use crate::protocol::jet::{PublicUrl, RestError, RestRequest};
use crate::protocol::websocket;
use crate::runtime::executor::yield_now;
use crate::session::arrival::Arrival;
use crate::session::http::{HttpEnd, HttpReader};
use crate::session::link::Link;
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// What is asked of an association's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To make it known, with a candidate for each route.
    Gather(AssociationKey),
    /// Whether it is known.
    Show(AssociationKey),
}

/// What its owner says: its candidates, if that was asked.
pub type Told = Result<Vec<CandidateKey>, Refused>;

impl RelayService {
    /// Answers the requests of one connection until it ends. `received` has come
    /// of them already.
    pub(super) async fn serve_http(
        self: &Rc<Self>,
        mut link: Link,
        received: Vec<u8>,
        peer: PeerAddress,
        since: Timestamp,
    ) {
        let reactor = &self.world.reactor;
        let mut reader = HttpReader::new(received);
        // As long as it has no place of its own among the limits, a connection has
        // that of a handshake, and no longer than one.
        let until = reactor.now() + self.settings().handshake_timeout;
        loop {
            let next = reader.next(reactor, &mut link, until);
            let next = match self.draining.or_raised(next).await {
                Some(next) => next,
                None if reader.is_empty() => Err(HttpEnd::Idle),
                None => Err(HttpEnd::Refused(Refused::Draining)),
            };
            let request = match next {
                Ok(request) => request,
                Err(HttpEnd::Idle) => return,
                Err(HttpEnd::Broken(refused)) => return self.count_refused(peer, refused),
                Err(HttpEnd::Refused(refused)) => {
                    self.count_refused(peer, refused);
                    let answer = Answer::new(refused.http_status());
                    return link
                        .refuse(reactor, &answer.encode(Persistence::Close))
                        .await;
                }
            };
            if let Ok(RestRequest::Meet { verb, place }) = request.asked {
                let switching = match request.upgrade {
                    Ok(switching) => switching,
                    Err(error) => {
                        let refused = error.into();
                        self.count_refused(peer, refused);
                        let answer = refusal(request.asked, refused);
                        return link
                            .refuse(reactor, &answer.encode(Persistence::Close))
                            .await;
                    }
                };
                let (stream, tls, opened) = link.into_parts();
                let mut early = reader.take_rest();
                early.extend_from_slice(&opened);
                let arrival = match Arrival::websocket(verb, place, switching, early, tls) {
                    Ok(arrival) => arrival,
                    Err(_) => return self.count_refused(peer, Refused::NotWebSocket),
                };
                return self
                    .place(Newcomer {
                        stream,
                        arrival,
                        peer,
                        since,
                    })
                    .await;
            }
            let answer = match self.answer_http(request.asked, request.key.as_ref()).await {
                Ok(answer) => answer,
                Err(refused) => {
                    self.count_refused(peer, refused);
                    refusal(request.asked, refused)
                }
            };
            let persistence = match self.world.is_draining() {
                true => Persistence::Close,
                false => request.persistence,
            };
            let bytes = answer.encode(persistence);
            let deadline = reactor.now() + self.settings().handshake_timeout;
            match reactor.deadline(deadline, link.send_all(&bytes)).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return self.count_refused(peer, Refused::ReplyFailed),
            }
            if persistence == Persistence::Close {
                return link.refuse(reactor, &[]).await;
            }
            // A client that never lets us wait would keep the shard to itself.
            yield_now().await;
        }
    }

    async fn answer_http(
        self: &Rc<Self>,
        asked: Result<RestRequest, RestError>,
        key: Option<&Presented>,
    ) -> Result<Answer, Refused> {
        let request = asked?;
        let settings = self.settings();
        if let Some(scope) = self.needed_scope(request) {
            settings.keyring.authorize(key, scope)?;
        }
        match request {
            RestRequest::Health => Ok(rest_answer::healthy(settings.instance.as_str())),
            RestRequest::Create { association } => {
                let association = match association {
                    Some(chosen) => AssociationKey(chosen),
                    None => self
                        .rendezvous
                        .borrow()
                        .mint(self.random)
                        .map_err(|_| Refused::TableFull)?,
                };
                let candidates = self.ask(Ask::Gather(association)).await?;
                let routes = routes_to(&settings.routes, &candidates);
                Ok(rest_answer::created(association.0, &settings.stun, &routes))
            }
            RestRequest::CreateAssociation(id) => {
                self.ask(Ask::Gather(AssociationKey(id))).await?;
                Ok(Answer::new(200))
            }
            RestRequest::GatherCandidates(id) => {
                let candidates = self.ask(Ask::Gather(AssociationKey(id))).await?;
                let routes = routes_to(&settings.routes, &candidates);
                Ok(rest_answer::gathered(id, &routes))
            }
            RestRequest::ShowAssociation(id) => {
                self.ask(Ask::Show(AssociationKey(id))).await?;
                Ok(Answer::new(200))
            }
            RestRequest::DeleteAssociation(_)
            | RestRequest::ListAssociations { .. }
            | RestRequest::Heartbeat
            | RestRequest::ListSessions
            | RestRequest::CountSessions
            | RestRequest::TerminateSession(_) => Err(Refused::NotServed),
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

    /// Asks an association's owner, this shard or another.
    async fn ask(&self, ask: Ask) -> Told {
        let route = self.rendezvous.borrow().route(&ask.key());
        let shard = match route {
            Route::Here => return self.tell(ask),
            Route::Handoff(shard) => shard,
        };
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

    /// Answers as an association's owner.
    pub(super) fn tell(&self, ask: Ask) -> Told {
        if self.world.is_draining() {
            return Err(Refused::Draining);
        }
        self.close_expired();
        let now = self.world.reactor.now();
        let mut rendezvous = self.rendezvous.borrow_mut();
        match ask {
            Ask::Gather(association) => {
                let routes = u16::try_from(self.settings().routes.len()).unwrap_or(u16::MAX);
                Ok(rendezvous.gather(association, routes, now)?)
            }
            Ask::Show(_) => {
                rendezvous.test(ask.key(), now)?;
                Ok(Vec::new())
            }
        }
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

impl Ask {
    fn key(self) -> RendezvousKey {
        let (Self::Gather(association) | Self::Show(association)) = self;
        RendezvousKey {
            association,
            candidate: None,
        }
    }
}

/// The answer to a request that is refused.
fn refusal(asked: Result<RestRequest, RestError>, refused: Refused) -> Answer {
    let answer = Answer::new(refused.http_status());
    match asked {
        Ok(RestRequest::Meet { .. }) if answer.status() == 426 => answer
            .with_header("Upgrade", "websocket")
            .with_header("Sec-WebSocket-Version", websocket::VERSION),
        Err(RestError::WrongMethod { allow }) => answer.with_header("Allow", allow),
        _ if answer.status() == 401 => answer.with_header("WWW-Authenticate", "Bearer"),
        _ => answer,
    }
}
