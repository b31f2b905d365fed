//! The relay's sessions: how they came about, and for how long they last.

use std::collections::HashSet;
use std::iter;
use std::time::Duration;

use ahash::RandomState;

use super::leg::Leg;
use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use super::session_log::Session;
use crate::association::table::CandidateRef;
use crate::relay::CloseReason;
use crate::time::Timestamp;

/// How a session of the relay came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Two legs met at this candidate.
    Met(CandidateRef),
    /// The relay dialled for one of them; numbered.
    Dialled(u32),
    /// One way of a tunnel; the other one's number differs in the lowest bit.
    Forwarded(u32),
}

// Every session has one.
const _: () = assert!(size_of::<Origin>() <= size_of::<CandidateRef>() + 4);

impl Origin {
    /// The candidate at which two legs met.
    pub(super) const fn candidate(self) -> Option<CandidateRef> {
        match self {
            Self::Met(candidate) => Some(candidate),
            Self::Dialled(_) | Self::Forwarded(_) => None,
        }
    }

    /// Those of the left and the right peer who connected to the relay.
    fn connected(self, [left, right]: [PeerAddress; 2]) -> impl Iterator<Item = PeerAddress> {
        let right = (!matches!(self, Self::Dialled(_))).then_some(right);
        iter::once(left).chain(right)
    }

    /// Whether it is a session of the association in this slot.
    pub(super) fn is_of(self, slot: u32) -> bool {
        self.candidate()
            .is_some_and(|candidate| candidate.slot() == slot)
    }
}

impl RelayService {
    /// How long a session may last whose association has this limit.
    fn session_limit(&self, of_association: Option<Duration>) -> Option<Duration> {
        let limits = [of_association, self.settings().session_ttl];
        limits.into_iter().flatten().min()
    }

    /// Joins two legs in a session that may last as long as its association says.
    pub(super) fn begin_session(
        &self,
        left: Leg,
        right: Leg,
        session: Origin,
        limit: Option<Duration>,
    ) {
        let now = self.world.reactor.now();
        if let Some(limit) = self.session_limit(limit) {
            let mut ends = self.session_ends.borrow_mut();
            ends.insert(session, now + limit);
        }
        if let Some(limit) = self.settings().session_idle
            && !matches!(session, Origin::Forwarded(_))
        {
            self.idleness.borrow_mut().begin(limit, now);
        }
        for peer in session.connected([left.party.peer, right.party.peer]) {
            self.connections_per_address.add(peer);
        }
        self.world.join(left, right, session);
    }

    /// Takes back what [`Self::begin_session`] entered, but for its look at idleness.
    pub(super) fn forget_session(&self, session: &Session<Origin>) {
        self.session_ends.borrow_mut().remove(session.context);
        if let Origin::Dialled(number) = session.context {
            self.forget_dialled(number);
        }
        let peers = session.parties.map(|party| party.peer);
        for peer in session.context.connected(peers) {
            self.connections_per_address.remove(peer);
        }
    }

    /// Ends sessions that have carried nothing for as long as they may. Of a tunnel, both are
    /// looked at as one elsewhere.
    pub(super) fn end_idle(&self, now: Timestamp) {
        let mut idleness = self.idleness.borrow_mut();
        if idleness.next_look().is_none_or(|due| due > now) {
            return;
        }
        let sessions = |session: &Origin| !matches!(session, Origin::Forwarded(_));
        let sessions = self.world.sessions(sessions);
        let carried = sessions
            .iter()
            .map(|(session, [left, right])| (session.context, left + right));
        let idle = idleness.look(carried, self.settings().session_idle, now);
        self.expire(idle);
    }

    pub(super) fn expire(&self, sessions: Vec<Origin>) {
        let sessions: HashSet<Origin, RandomState> = sessions.into_iter().collect();
        if !sessions.is_empty() {
            let is_meant = |session: &Origin| sessions.contains(session);
            self.world.end_sessions(CloseReason::Expired, is_meant);
        }
    }

    /// A number for the next session that the relay dials for. No two that run have the
    /// same.
    pub(super) fn next_dialled(&self) -> u32 {
        let mut next = self.last_dialled.get().wrapping_add(1);
        // Some may have lasted since the numbers began anew.
        while self.is_dialled(next) {
            next = next.wrapping_add(1);
        }
        self.last_dialled.set(next);
        next
    }

    /// Ends sessions that have lasted as long as they may.
    pub(super) fn end_overdue(&self, now: Timestamp) {
        let mut ends = self.session_ends.borrow_mut();
        let overdue = iter::from_fn(|| ends.poll_due(now)).collect();
        self.expire(overdue);
    }
}
