//! What a table holds and what became of it, for reports and those who administer.

use std::ops::AddAssign;
use std::time::Duration;

use super::candidate::{Candidate, State};
use super::key::{AssociationKey, CandidateKey};
use super::table::Table;
use crate::time::Timestamp;

/// What a table has seen since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Associations that were made, by a request or by their acceptor.
    pub created: u64,
    /// Those whose lifetime was over, or that had to make way for others.
    pub expired: u64,
    /// Those whose last session has ended.
    pub ended: u64,
    /// Those that somebody gave up on purpose.
    pub deleted: u64,
}

/// What a table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Associations.
    pub associations: u64,
    /// Of them, those at which an acceptor waits, and no pair is joined.
    pub waiting: u64,
    /// Of them, those of which a pair is joined.
    pub connected: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.created += other.created;
        self.expired += other.expired;
        self.ended += other.ended;
        self.deleted += other.deleted;
    }
}

impl AddAssign for Census {
    fn add_assign(&mut self, other: Self) {
        self.associations += other.associations;
        self.waiting += other.waiting;
        self.connected += other.connected;
    }
}

/// One association, to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssociationView {
    /// Its id.
    pub key: AssociationKey,
    /// How long ago it was made, or somebody came to wait last; `None` while a pair
    /// of it is joined.
    pub age: Option<Duration>,
    /// Its place in the table, by which sessions know it.
    pub slot: u32,
    /// How long each of its sessions may last.
    pub session_limit: Option<Duration>,
    /// Its candidates in order.
    pub candidates: Vec<CandidateView>,
}

/// One candidate of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateView {
    /// Its id; the implicit one has none.
    pub key: Option<CandidateKey>,
    /// What it is at.
    pub state: CandidateState,
}

/// What a candidate is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateState {
    /// Nobody waits.
    Initial,
    /// An acceptor waits.
    Accepted,
    /// A pair is joined.
    Connected,
    /// Its pair has ended.
    Final,
}

impl CandidateState {
    pub(super) const fn of<L>(state: &State<L>) -> Self {
        match state {
            State::Initial => Self::Initial,
            State::Waiting(_) => Self::Accepted,
            State::Connected => Self::Connected,
            State::Final => Self::Final,
        }
    }

    /// As known servers name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "Initial",
            Self::Accepted => "Accepted",
            Self::Connected => "Connected",
            Self::Final => "Final",
        }
    }
}

/// What came of giving an association up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone; whoever waited there is to be closed.
    Gone,
    /// Pairs of it are joined, so that it goes with the last of them.
    HasSessions {
        /// Its place in the table, by which they know it.
        slot: u32,
    },
}

impl<L: Copy> Table<L> {
    /// What became of all associations so far.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// What is held, but for what is due. Looks at every association: for reports.
    #[must_use]
    pub fn census(&self, now: Timestamp) -> Census {
        let mut census = Census::default();
        for (_, association) in self.slots.iter() {
            if self.is_due(association, now) {
                continue;
            }
            let candidates = association.candidates.as_slice();
            let is_waiting = |c: &Candidate<L>| matches!(c.state, State::Waiting(_));
            let is_connected = association.candidates.is_any_connected();
            census.associations += 1;
            census.connected += u64::from(is_connected);
            census.waiting += u64::from(!is_connected && candidates.iter().any(is_waiting));
        }
        census
    }

    /// Every association, but for what is due, in no order.
    pub fn views(&self, now: Timestamp) -> impl Iterator<Item = AssociationView> {
        let live = self
            .slots
            .iter()
            .filter(move |(_, association)| !self.is_due(association, now));
        live.map(move |(slot, association)| {
            let candidates = association.candidates.as_slice();
            let is_connected = association.candidates.is_any_connected();
            let expires_at = self.expiry.deadline_of(&association.links);
            let left = expires_at.since(now);
            AssociationView {
                key: association.key,
                age: (!is_connected).then(|| self.limits.lifetime.saturating_sub(left)),
                slot,
                session_limit: association.session_limit(),
                candidates: candidates
                    .iter()
                    .map(|candidate| CandidateView {
                        key: candidate.key,
                        state: CandidateState::of(&candidate.state),
                    })
                    .collect(),
            }
        })
    }
}
