//! This shard's associations and sessions, for those who may see them.

use std::time::Duration;

use super::rendezvous::RelayService;
use crate::protocol::jet::rest_answer::{AssociationDetail, CandidateDetail, SessionDetail};
use crate::runtime::clock;

impl RelayService {
    /// All of them, with what their sessions have carried so far.
    pub(super) fn listed(&self) -> Vec<AssociationDetail> {
        let now = self.world.reactor.now();
        let unix_now = clock::unix_time();
        let ago = |age: Duration| unix_now.saturating_sub(age).as_secs();
        let sessions = self.world.sessions(|session| session.candidate().is_some());
        let settings = self.settings();
        let ends = self.session_ends.borrow();
        let rendezvous = self.rendezvous.borrow();
        let views = rendezvous.table().views(now);
        let detail = views.map(|view| {
            let of_view: Vec<_> = sessions
                .iter()
                .filter(|(session, _)| session.context.is_of(view.slot))
                .collect();
            let bytes_at = |position: usize| {
                let here = of_view.iter().find(|(session, _)| {
                    let candidate = session.context.candidate();
                    candidate.is_some_and(|candidate| candidate.position() == position)
                });
                here.map_or([0, 0], |(_, bytes)| *bytes)
            };
            let candidates = view.candidates.iter().enumerate();
            let candidates = candidates.map(|(position, candidate)| CandidateDetail {
                id: candidate.key.map(|key| key.0),
                url: candidate.key.and_then(|key| {
                    let routes = &settings.routes;
                    let route = rendezvous.route_index(view.key, key, routes.len())?;
                    routes.get(route).cloned()
                }),
                state: candidate.state.as_str(),
                bytes: bytes_at(position),
            });
            let started = of_view.iter().map(|(session, _)| SessionDetail {
                started_unix_s: ago(now.since(session.joined_at)),
                limit: ends
                    .end_of(session.context)
                    .map(|end| end.since(session.joined_at)),
            });
            let oldest = of_view
                .iter()
                .map(|(session, _)| now.since(session.waiting_since))
                .max();
            AssociationDetail {
                id: view.key.0,
                created_unix_s: ago(view.age.or(oldest).unwrap_or_default()),
                candidates: candidates.collect(),
                sessions: started.collect(),
            }
        });
        detail.collect()
    }
}
