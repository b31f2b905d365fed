//! The associations that one shard owns, and the acceptors that wait at them.
//!
//! An association is a set of candidates, possible routes to one acceptor. At
//! each, an acceptor waits until a connector joins it:
//!
//! ```text
//!                       accept: the new leg waits, the old one is handed back
//!                                ┌────┐
//!                     accept     ▼    │    connect
//!           Initial ──────────▶ Waiting ──────────▶ Connected
//!              ▲                 │    ▲                 │
//!              └─────────────────┘    │                 │ session_ended
//!               waiting_leg_gone      │     accept      ▼
//!                                     └────────────── Final
//! ```
//!
//! When a session ends and no other candidate is connected, the association is
//! deleted: ids serve once. Of several connected candidates the losers may end
//! without harm to the winner.
//!
//! An association expires a lifetime after it was created; one that an accept
//! created, a lifetime after the last successful accept. While a candidate is
//! connected it does not expire: the end of the session deletes it.
//! An association that is due is unknown from that moment on, reaped or not.
//!
//! An association that an accept created is *deserted* when nobody waits at it
//! any more. It is kept for an acceptor that comes back, a lifetime from the
//! moment when the last one left, but only while there is room: in a full table
//! the one deserted first makes way for a new one. So who accepts and leaves in
//! a loop keeps nobody out, and those who stay are the caller's to bound.
//!
//! An acceptor is stored before its reply is sent: call [`Table::accept`], then
//! reply, and when that fails [`Table::waiting_leg_gone`]. Drain
//! [`Table::poll_close`] after each create, accept, connect and
//! [`Table::session_ended`], and at [`Table::next_deadline`].
//!
//! # Memory
//!
//! A slot is 80 bytes when the caller's handle `L` is 8 bytes: key 16, links in
//! the expiry queue 16, candidate 40 (key 17, turn 4, state 16, padding), origin,
//! limit of a session and padding 8. Slots come in chunks of 128 that are never copied. The index
//! takes 5 bytes a bucket at 44 to 88 % load, 5.7 to 11.4 an association.
//! 9,000 associations: 71 chunks × 10,240 + 16,384 buckets × 5 = 809 KB, 90
//! bytes each. More than one candidate costs 40 bytes each on the heap.
//!
//! Left out on purpose: the reply, the legs themselves, lifetimes that differ
//! between associations.

use std::fmt;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashTable;

use super::answer::Refusal;
use super::candidate::{Candidates, State};
use super::census::{Removal, Tally};
use super::creators::{CreatorId, Creators, Origin};
use super::expiry::{ExpiryQueue, Links};
use super::key::{AssociationKey, CandidateKey, RendezvousKey};
use super::slab::{CHUNK_SLOTS, Slab, Slot};
use crate::time::Timestamp;

pub use super::answer::{Accepted, CandidateRef, Closing, ClosingCause, Joined, OnUnknown, Stale};

const _: () = assert!(size_of::<Slot<Association<u64>>>() <= 80, "see Memory");
const _: () = assert!(size_of::<Slot<Association<[u32; 2]>>>() <= 80, "see Memory");
const _: () = assert!(CHUNK_SLOTS == 128, "see Memory");
const _: () = assert!(size_of::<CandidateRef>() == 12, "kept in every leg");

/// What one table holds at most, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Associations of one shard, connected ones included.
    pub associations_max: u32,
    /// Candidates of one association, from 1 to 254.
    pub candidates_max: u8,
    /// Associations of one creator that is named; 0: no limit.
    pub per_creator_max: u32,
    /// How long an association lives; see the module.
    pub lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            associations_max: 262_144,
            candidates_max: 16,
            per_creator_max: 0,
            lifetime: Duration::from_secs(300),
        }
    }
}

/// The associations of one shard. `L` is the caller's handle of a waiting leg.
///
/// Input: [`create`](Self::create), [`accept`](Self::accept),
/// [`connect`](Self::connect), [`waiting_leg_gone`](Self::waiting_leg_gone),
/// [`session_ended`](Self::session_ended). Output: their results,
/// [`poll_close`](Self::poll_close) and [`next_deadline`](Self::next_deadline).
pub struct Table<L> {
    pub(super) limits: Limits,
    hasher: RandomState,
    /// Slots by key; the key itself is only in the slot.
    index: HashTable<u32>,
    pub(super) slots: Slab<Association<L>>,
    /// INVARIANT: holds exactly the associations that are neither connected nor
    /// deserted.
    pub(super) expiry: ExpiryQueue,
    /// INVARIANT: holds exactly the deserted associations.
    deserted: ExpiryQueue,
    /// Acceptors whose association is gone, until they are polled.
    closing: Vec<Closing<L>>,
    creators: Creators,
    /// Number of the last acceptance.
    turn: u32,
    pub(super) tally: Tally,
}

pub(super) struct Association<L> {
    pub(super) key: AssociationKey,
    origin: Origin,
    /// Seconds that each of its sessions may last; 0: any number.
    session_limit_s: u32,
    pub(super) links: Links,
    pub(super) candidates: Candidates<L>,
}

impl<L: Copy> Table<L> {
    /// An empty table, which has allocated nothing. `hasher` is seeded at
    /// random, so that no peer can choose ids that collide.
    ///
    /// # Panics
    ///
    /// When `limits.candidates_max` is out of its range.
    #[must_use]
    pub fn new(limits: Limits, hasher: RandomState) -> Self {
        assert!(
            (1..u8::MAX).contains(&limits.candidates_max),
            "an association has from 1 to 254 candidates"
        );
        Self {
            limits,
            hasher,
            index: HashTable::new(),
            slots: Slab::new(),
            expiry: ExpiryQueue::new(limits.lifetime),
            deserted: ExpiryQueue::new(limits.lifetime),
            closing: Vec::new(),
            creators: Creators::default(),
            turn: 0,
            tally: Tally::default(),
        }
    }

    /// Makes the association known, and the candidate if one is named. What is
    /// known already stays as it is, its creator's.
    ///
    /// # Errors
    ///
    /// [`Refusal::Full`]; [`Refusal::TooMany`] where a creator is named.
    pub fn create(
        &mut self,
        key: RendezvousKey,
        creator: Option<CreatorId>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let slot = match (self.find_live(key.association, now), creator) {
            (Some(slot), _) => slot,
            (None, None) => self.insert(key.association, Origin::EXPLICIT, now)?,
            (None, Some(creator)) => self.insert_by(creator, key.association, now)?,
        };
        let candidates = &mut self.slots.held_mut(slot).candidates;
        let result = match key.candidate {
            Some(_) if candidates.position(key.candidate).is_none() => candidates
                .push(key.candidate, self.limits.candidates_max)
                .map(|_| ()),
            _ => Ok(()),
        };
        self.check_invariants();
        result
    }

    /// Bounds the sessions of an association that are still to begin, to whole seconds
    /// and at most 136 years.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub fn limit_sessions(
        &mut self,
        key: AssociationKey,
        limit: Duration,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let slot = self.find_live(key, now).ok_or(Refusal::NotFound)?;
        let limit_s = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
        self.slots.held_mut(slot).session_limit_s = limit_s.max(1);
        Ok(())
    }

    /// Lets `leg` wait at a candidate, in place of the acceptor that waits there.
    ///
    /// The one-id form means the implicit candidate, which every known
    /// association has.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], unless unknown ones are to be created;
    /// [`Refusal::AlreadyConnected`]; [`Refusal::Full`].
    pub fn accept(
        &mut self,
        key: RendezvousKey,
        leg: L,
        on_unknown: OnUnknown,
        now: Timestamp,
    ) -> Result<Accepted<L>, Refusal> {
        let slot = match (self.find_live(key.association, now), on_unknown) {
            (Some(slot), _) => slot,
            (None, OnUnknown::Create) => self.insert(key.association, Origin::ACCEPT, now)?,
            (None, OnUnknown::Refuse) => return Err(Refusal::NotFound),
        };
        let was_deserted = self.slots.held(slot).is_deserted();
        let result = self.accept_at(slot, key.candidate, leg, on_unknown);
        if result.is_ok() {
            self.renew(slot, was_deserted, now);
        }
        self.check_invariants();
        result
    }

    /// Joins the acceptor that waits at a candidate.
    ///
    /// The one-id form means the implicit candidate if an acceptor waits there,
    /// otherwise the first candidate at which one does.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], [`Refusal::NotWaiting`],
    /// [`Refusal::AlreadyConnected`].
    pub fn connect(&mut self, key: RendezvousKey, now: Timestamp) -> Result<Joined<L>, Refusal> {
        let slot = self
            .find_live(key.association, now)
            .ok_or(Refusal::NotFound)?;
        let association = self.slots.held_mut(slot);
        let session_limit = association.session_limit();
        let candidates = &mut association.candidates;
        let was_connected = candidates.is_any_connected();
        let position = candidates.to_connect(key.candidate)?;
        let candidate = &mut candidates.as_mut_slice()[position];
        let acceptor = candidate.connect()?;
        let turn = candidate.turn;
        if !was_connected {
            self.expiry.remove(&mut self.slots, slot);
        }
        self.check_invariants();
        Ok(Joined {
            candidate: CandidateRef::new(slot, turn, position),
            acceptor,
            session_limit,
        })
    }

    /// The acceptor that [`Table::connect`] would join now.
    #[must_use]
    pub fn waiting_leg(&self, key: RendezvousKey, now: Timestamp) -> Option<L> {
        let association = self.slots.held(self.find(key.association)?);
        if self.is_due(association, now) {
            return None;
        }
        let position = association.candidates.to_connect(key.candidate).ok()?;
        match association.candidates.as_slice()[position].state {
            State::Waiting(leg) => Some(leg),
            State::Initial | State::Connected | State::Final => None,
        }
    }

    /// Whether the association, and the candidate if one is named, is known.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub fn test(&self, key: RendezvousKey, now: Timestamp) -> Result<(), Refusal> {
        let association = self
            .find(key.association)
            .map(|slot| self.slots.held(slot))
            .filter(|association| !self.is_due(association, now))
            .ok_or(Refusal::NotFound)?;
        match key.candidate {
            Some(_) if association.candidates.position(key.candidate).is_none() => {
                Err(Refusal::NotFound)
            }
            _ => Ok(()),
        }
    }

    /// The acceptor died, or its reply could not be written. The association
    /// stays, though it may be deserted now; see the module.
    ///
    /// # Errors
    ///
    /// [`Stale`]: this acceptor waits no longer. It was replaced, joined, or its
    /// association is gone, and then [`Table::poll_close`] still gives the leg
    /// unless it already did.
    pub fn waiting_leg_gone(
        &mut self,
        candidate: CandidateRef,
        now: Timestamp,
    ) -> Result<(), Stale> {
        let state = self.state_mut(candidate)?;
        if !matches!(state, State::Waiting(_)) {
            return Err(Stale);
        }
        *state = State::Initial;
        let slot = candidate.slot;
        let association = self.slots.held(slot);
        if association.is_deserted() {
            let is_due = self.is_due(association, now);
            self.dequeue(slot, false);
            if is_due {
                self.delete(slot, ClosingCause::Expired);
            } else {
                self.deserted.push(&mut self.slots, slot, now);
            }
        }
        self.check_invariants();
        Ok(())
    }

    /// The session has ended, or its connector's reply could not be written.
    /// The association goes, unless another candidate is connected.
    ///
    /// # Errors
    ///
    /// [`Stale`]: this session does not exist, or not any more.
    pub fn session_ended(&mut self, candidate: CandidateRef) -> Result<(), Stale> {
        let state = self.state_mut(candidate)?;
        if !matches!(state, State::Connected) {
            return Err(Stale);
        }
        *state = State::Final;
        let candidates = &self.slots.held(candidate.slot).candidates;
        if !candidates.is_any_connected() {
            self.delete(candidate.slot, ClosingCause::AssociationEnded);
        }
        self.check_invariants();
        Ok(())
    }

    /// Where an association is, by which its sessions know it.
    #[must_use]
    pub fn slot(&self, key: AssociationKey) -> Option<u32> {
        self.find(key)
    }

    /// Gives an association up, unless pairs of it are joined.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub fn remove(&mut self, key: AssociationKey, now: Timestamp) -> Result<Removal, Refusal> {
        let slot = self.find_live(key, now).ok_or(Refusal::NotFound)?;
        let association = self.slots.held(slot);
        if association.candidates.is_any_connected() {
            return Ok(Removal::HasSessions { slot });
        }
        self.dequeue(slot, association.is_deserted());
        self.delete(slot, ClosingCause::Deleted);
        self.check_invariants();
        Ok(Removal::Gone)
    }

    /// The next acceptor whose association is gone, expired ones included. Ask
    /// until there is none.
    #[must_use]
    pub fn poll_close(&mut self, now: Timestamp) -> Option<Closing<L>> {
        while self.closing.is_empty() {
            if !self.expire_next(now) {
                break;
            }
        }
        self.check_invariants();
        self.closing.pop()
    }

    /// When to ask [`Table::poll_close`] next: in the past while it has
    /// something to give.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if !self.closing.is_empty() {
            return Some(Timestamp::default());
        }
        self.next_to_expire().map(|(_, deadline)| deadline)
    }

    /// Associations held, connected ones and those not yet reaped included.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.slots.len()
    }

    /// Whether no association is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of heap in use. Looks at every association: for reports.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let candidates: usize = self
            .slots
            .iter()
            .map(|(_, association)| association.candidates.memory_bytes())
            .sum();
        candidates
            + self.slots.memory_bytes()
            + self.index.allocation_size()
            + self.closing.capacity() * size_of::<Closing<L>>()
    }

    /// Checks everything that must always hold. In debug builds it runs after
    /// every change while the table is small.
    ///
    /// # Panics
    ///
    /// When something does not hold, which is our own fault.
    pub fn invariants(&self) {
        assert!(self.slots.len() <= self.limits.associations_max, "limit");
        assert_eq!(self.index.len(), self.slots.len() as usize, "index");
        let (mut expiring, mut deserted, mut with_creator) = (0, 0, 0);
        for (slot, association) in self.slots.iter() {
            assert_eq!(self.find(association.key), Some(slot), "index of {slot}");
            let candidates = association.candidates.as_slice();
            assert!(candidates.len() <= usize::from(self.limits.candidates_max));
            for (position, candidate) in candidates.iter().enumerate() {
                let first = association.candidates.position(candidate.key);
                assert_eq!(first, Some(position), "candidates of {slot} repeat");
            }
            with_creator += u32::from(association.origin.creator().is_some());
            if association.is_deserted() {
                deserted += 1;
            } else if !association.candidates.is_any_connected() {
                expiring += 1;
            }
        }
        assert_eq!(self.creators.total(), with_creator, "creators");
        assert_eq!(self.expiry.invariants(&self.slots), expiring, "expiry");
        assert_eq!(
            self.deserted.invariants(&self.slots),
            deserted,
            "deserted ones"
        );
    }

    fn accept_at(
        &mut self,
        slot: u32,
        key: Option<CandidateKey>,
        leg: L,
        on_unknown: OnUnknown,
    ) -> Result<Accepted<L>, Refusal> {
        let candidates = &mut self.slots.held_mut(slot).candidates;
        let position = match (candidates.position(key), key, on_unknown) {
            (Some(position), ..) => position,
            (None, None, _) | (None, _, OnUnknown::Create) => {
                candidates.push(key, self.limits.candidates_max)?
            }
            (None, Some(_), OnUnknown::Refuse) => return Err(Refusal::NotFound),
        };
        self.turn = self.turn.wrapping_add(1);
        let replaced = candidates.as_mut_slice()[position].accept(leg, self.turn)?;
        Ok(Accepted {
            candidate: CandidateRef::new(slot, self.turn, position),
            replaced,
        })
    }

    /// Lets an association that an accept created live anew, now that somebody
    /// waits at it.
    fn renew(&mut self, slot: u32, was_deserted: bool, now: Timestamp) {
        let association = self.slots.held(slot);
        if association.origin == Origin::ACCEPT && !association.candidates.is_any_connected() {
            self.dequeue(slot, was_deserted);
            self.expiry.push(&mut self.slots, slot, now);
        }
    }

    fn find(&self, key: AssociationKey) -> Option<u32> {
        self.index
            .find(hash_of(&self.hasher, key), |slot| {
                self.slots.held(*slot).key == key
            })
            .copied()
    }

    /// As `find`; an association that is due is reaped instead.
    fn find_live(&mut self, key: AssociationKey, now: Timestamp) -> Option<u32> {
        let slot = self.find(key)?;
        if !self.is_due(self.slots.held(slot), now) {
            return Some(slot);
        }
        self.expire(slot);
        None
    }

    pub(super) fn is_due(&self, association: &Association<L>, now: Timestamp) -> bool {
        !association.candidates.is_any_connected()
            && self.expiry.deadline_of(&association.links) <= now
    }

    /// As `insert`, for a creator that may have so many.
    fn insert_by(
        &mut self,
        creator: CreatorId,
        key: AssociationKey,
        now: Timestamp,
    ) -> Result<u32, Refusal> {
        // Those that are due are no one's any more.
        while self.expire_next(now) {}
        let number = self.creators.enter(creator, self.limits.per_creator_max)?;
        let inserted = self.insert(key, Origin::by(number), now);
        if inserted.is_err() {
            self.creators.leave(number);
        }
        inserted
    }

    /// Adds an association whose key is unknown.
    fn insert(
        &mut self,
        key: AssociationKey,
        origin: Origin,
        now: Timestamp,
    ) -> Result<u32, Refusal> {
        if self.slots.len() >= self.limits.associations_max && !self.make_room(now) {
            return Err(Refusal::Full);
        }
        let slot = self.slots.insert(Association {
            key,
            origin,
            session_limit_s: 0,
            links: Links::default(),
            candidates: Candidates::None,
        });
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index
            .insert_unique(hash_of(hasher, key), slot, |slot| {
                hash_of(hasher, slots.held(*slot).key)
            });
        self.expiry.push(&mut self.slots, slot, now);
        self.tally.created += 1;
        Ok(slot)
    }

    /// Gives up an association that is due, since the limit counts what is live,
    /// or else the one that was deserted first.
    fn make_room(&mut self, now: Timestamp) -> bool {
        if self.expire_next(now) {
            return true;
        }
        let Some((slot, _)) = self.deserted.front(&self.slots) else {
            return false;
        };
        self.expire(slot);
        true
    }

    /// Reaps the association that expires first, if it is due.
    fn expire_next(&mut self, now: Timestamp) -> bool {
        match self.next_to_expire() {
            Some((slot, deadline)) if deadline <= now => {
                self.expire(slot);
                true
            }
            _ => false,
        }
    }

    fn next_to_expire(&self) -> Option<(u32, Timestamp)> {
        let fronts = [&self.expiry, &self.deserted].map(|queue| queue.front(&self.slots));
        fronts
            .into_iter()
            .flatten()
            .min_by_key(|(_, deadline)| *deadline)
    }

    fn expire(&mut self, slot: u32) {
        self.dequeue(slot, self.slots.held(slot).is_deserted());
        self.delete(slot, ClosingCause::Expired);
    }

    /// Takes an association out of the queue in which it stands.
    fn dequeue(&mut self, slot: u32, is_deserted: bool) {
        let queue = if is_deserted {
            &mut self.deserted
        } else {
            &mut self.expiry
        };
        queue.remove(&mut self.slots, slot);
    }

    /// Removes an association that is in no queue; its acceptors are to be
    /// closed.
    fn delete(&mut self, slot: u32, cause: ClosingCause) {
        let count = match cause {
            ClosingCause::Expired => &mut self.tally.expired,
            ClosingCause::AssociationEnded => &mut self.tally.ended,
            ClosingCause::Deleted => &mut self.tally.deleted,
        };
        *count += 1;
        let Some(association) = self.slots.remove(slot) else {
            unreachable!("slot {slot} is vacant");
        };
        if let Some(number) = association.origin.creator() {
            self.creators.leave(number);
        }
        match self
            .index
            .find_entry(hash_of(&self.hasher, association.key), |s| *s == slot)
        {
            Ok(entry) => drop(entry.remove()),
            Err(_) => unreachable!("slot {slot} is not in the index"),
        }
        for candidate in association.candidates.as_slice() {
            if let State::Waiting(leg) = candidate.state {
                self.closing.push(Closing { leg, cause });
            }
        }
    }

    fn state_mut(&mut self, candidate: CandidateRef) -> Result<&mut State<L>, Stale> {
        self.slots
            .get_mut(candidate.slot)
            .and_then(|association| {
                let candidates = association.candidates.as_mut_slice();
                candidates.get_mut(candidate.position())
            })
            .filter(|current| current.turn == candidate.turn)
            .map(|current| &mut current.state)
            .ok_or(Stale)
    }

    /// A walk over everything, so for small tables only.
    fn check_invariants(&self) {
        if cfg!(debug_assertions) && self.slots.len() <= 64 {
            self.invariants();
        }
    }
}

impl<L> Association<L> {
    /// How long each of its sessions may last.
    pub(super) fn session_limit(&self) -> Option<Duration> {
        let limit = Duration::from_secs(self.session_limit_s.into());
        (!limit.is_zero()).then_some(limit)
    }

    /// Whether an accept created it and nobody is there any more. One that was
    /// just added for an acceptor is not, though its candidate is still to come.
    fn is_deserted(&self) -> bool {
        let candidates = self.candidates.as_slice();
        self.origin == Origin::ACCEPT
            && !candidates.is_empty()
            && candidates
                .iter()
                .all(|candidate| matches!(candidate.state, State::Initial | State::Final))
    }
}

fn hash_of(hasher: &RandomState, key: AssociationKey) -> u64 {
    hasher.hash_one(key.0.as_u128())
}

impl<L> AsRef<Links> for Association<L> {
    fn as_ref(&self) -> &Links {
        &self.links
    }
}

impl<L> AsMut<Links> for Association<L> {
    fn as_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl<L> fmt::Debug for Table<L> {
    /// Numbers only: keys are credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("associations", &self.slots.len())
            .field("closing", &self.closing.len())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
