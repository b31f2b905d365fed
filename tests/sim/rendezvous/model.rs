//! What the tables of all shards ought to say: one global map, searched and
//! swept as a whole, with no links, handles or reuse.

use std::collections::BTreeMap;

use midspan::association::Refusal;
use midspan::association::key::{AssociationKey, CandidateKey, RendezvousKey, ShardId};
use midspan::association::table::{ClosingCause, Limits, OnUnknown};
use midspan::time::Timestamp;

use super::LegId;

pub(crate) struct Model {
    limits: Limits,
    associations: BTreeMap<AssociationKey, Association>,
    /// Acceptors that have to be handed out to be closed.
    pub(crate) owed: BTreeMap<LegId, (ShardId, ClosingCause)>,
    /// How often an association was deserted.
    desertions: u64,
    /// How many deserted ones made way for new ones.
    pub(crate) made_way: u64,
}

struct Association {
    shard: ShardId,
    is_explicit: bool,
    since: Timestamp,
    candidates: Vec<(Option<CandidateKey>, State)>,
    /// The number of its last desertion, if it is deserted.
    deserted: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Initial,
    Waiting(LegId),
    /// Named by its acceptor.
    Connected(LegId),
    Final,
}

impl Model {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            associations: BTreeMap::new(),
            owed: BTreeMap::new(),
            desertions: 0,
            made_way: 0,
        }
    }

    /// Deletes what is due.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        let due: Vec<_> = self
            .associations
            .iter()
            .filter(|(_, a)| !a.is_connected() && a.since + self.limits.lifetime <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            self.delete(key, ClosingCause::Expired);
        }
    }

    pub(crate) fn create(
        &mut self,
        shard: ShardId,
        key: RendezvousKey,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let candidates_max = usize::from(self.limits.candidates_max);
        let candidates = &mut self.known_or_new(shard, key, true, now)?.candidates;
        if key.candidate.is_some() && candidates.iter().all(|(k, _)| *k != key.candidate) {
            if candidates.len() == candidates_max {
                return Err(Refusal::Full);
            }
            candidates.push((key.candidate, State::Initial));
        }
        Ok(())
    }

    pub(crate) fn accept(
        &mut self,
        shard: ShardId,
        key: RendezvousKey,
        leg: LegId,
        on_unknown: OnUnknown,
        now: Timestamp,
    ) -> Result<Option<LegId>, Refusal> {
        let may_create = on_unknown == OnUnknown::Create;
        if !may_create && !self.associations.contains_key(&key.association) {
            return Err(Refusal::NotFound);
        }
        let candidates_max = usize::from(self.limits.candidates_max);
        let association = self.known_or_new(shard, key, false, now)?;
        let candidates = &mut association.candidates;
        if candidates.iter().all(|(k, _)| *k != key.candidate) {
            if key.candidate.is_some() && !may_create {
                return Err(Refusal::NotFound);
            }
            if candidates.len() == candidates_max {
                return Err(Refusal::Full);
            }
            candidates.push((key.candidate, State::Initial));
        }
        let state = state_of(candidates, key.candidate).expect("it was added");
        let replaced = match *state {
            State::Connected(_) => return Err(Refusal::AlreadyConnected),
            State::Waiting(old) => Some(old),
            State::Initial | State::Final => None,
        };
        *state = State::Waiting(leg);
        association.deserted = None;
        if !association.is_explicit {
            association.since = now;
        }
        Ok(replaced)
    }

    pub(crate) fn connect(&mut self, key: RendezvousKey) -> Result<LegId, Refusal> {
        let association = self
            .associations
            .get_mut(&key.association)
            .ok_or(Refusal::NotFound)?;
        let is_connected = association.is_connected();
        let candidates = &mut association.candidates;
        let implicit_waits = candidates
            .iter()
            .any(|(k, state)| k.is_none() && matches!(state, State::Waiting(_)));
        let state = if key.candidate.is_some() || implicit_waits {
            state_of(candidates, key.candidate).ok_or(Refusal::NotFound)?
        } else {
            candidates
                .iter_mut()
                .map(|(_, state)| state)
                .find(|state| matches!(state, State::Waiting(_)))
                .ok_or(if is_connected {
                    Refusal::AlreadyConnected
                } else {
                    Refusal::NotWaiting
                })?
        };
        match *state {
            State::Connected(_) => Err(Refusal::AlreadyConnected),
            State::Initial => Err(Refusal::NotWaiting),
            State::Final => Err(Refusal::Ended),
            State::Waiting(acceptor) => {
                *state = State::Connected(acceptor);
                Ok(acceptor)
            }
        }
    }

    pub(crate) fn test(&self, key: RendezvousKey) -> Result<(), Refusal> {
        let known = self.associations.get(&key.association).is_some_and(|a| {
            key.candidate.is_none() || a.candidates.iter().any(|(k, _)| *k == key.candidate)
        });
        if known {
            Ok(())
        } else {
            Err(Refusal::NotFound)
        }
    }

    /// The acceptor is gone; false when it does not wait.
    pub(crate) fn waiting_leg_gone(&mut self, leg: LegId, now: Timestamp) -> bool {
        let Some(key) = self.replace_state(State::Waiting(leg), State::Initial) else {
            return false;
        };
        let association = self.associations.get_mut(&key).expect("known");
        let is_anybody_there = association
            .candidates
            .iter()
            .any(|(_, state)| matches!(state, State::Waiting(_) | State::Connected(_)));
        if !association.is_explicit && !is_anybody_there {
            self.desertions += 1;
            association.deserted = Some(self.desertions);
            association.since = now;
        }
        true
    }

    /// The acceptor's session is over; false when it has none.
    pub(crate) fn session_ended(&mut self, acceptor: LegId) -> bool {
        let ended = self.replace_state(State::Connected(acceptor), State::Final);
        if let Some(key) = ended
            && !self.associations[&key].is_connected()
        {
            self.delete(key, ClosingCause::AssociationEnded);
        }
        ended.is_some()
    }

    /// Gives an association up; `Some(false)` when a pair of it is joined.
    pub(crate) fn remove(&mut self, key: AssociationKey) -> Option<bool> {
        let is_free = !self.associations.get(&key)?.is_connected();
        if is_free {
            self.delete(key, ClosingCause::Deleted);
        }
        Some(is_free)
    }

    /// When the next association of a shard expires.
    pub(crate) fn deadline(&self, shard: ShardId) -> Option<Timestamp> {
        self.of_shard(shard)
            .filter(|a| !a.is_connected())
            .map(|a| a.since + self.limits.lifetime)
            .min()
    }

    pub(crate) fn count(&self, shard: ShardId) -> usize {
        self.of_shard(shard).count()
    }

    fn of_shard(&self, shard: ShardId) -> impl Iterator<Item = &Association> {
        self.associations.values().filter(move |a| a.shard == shard)
    }

    fn known_or_new(
        &mut self,
        shard: ShardId,
        key: RendezvousKey,
        is_explicit: bool,
        now: Timestamp,
    ) -> Result<&mut Association, Refusal> {
        let is_full = self.count(shard) >= self.limits.associations_max as usize;
        if is_full && !self.associations.contains_key(&key.association) {
            let deserted = self.associations.iter().filter(|(_, a)| a.shard == shard);
            let first = deserted
                .filter_map(|(key, a)| Some((a.deserted?, *key)))
                .min()
                .ok_or(Refusal::Full)?;
            self.associations.remove(&first.1);
            self.made_way += 1;
        }
        let association = self
            .associations
            .entry(key.association)
            .or_insert_with(|| Association {
                shard,
                is_explicit,
                since: now,
                candidates: Vec::new(),
                deserted: None,
            });
        assert_eq!(association.shard, shard, "two owners of {key:?}");
        Ok(association)
    }

    fn delete(&mut self, key: AssociationKey, cause: ClosingCause) {
        let association = self.associations.remove(&key).expect("known");
        for (_, state) in association.candidates {
            if let State::Waiting(leg) = state {
                self.owed.insert(leg, (association.shard, cause));
            }
        }
    }

    fn replace_state(&mut self, from: State, to: State) -> Option<AssociationKey> {
        self.associations.iter_mut().find_map(|(key, association)| {
            let (_, state) = association
                .candidates
                .iter_mut()
                .find(|(_, state)| *state == from)?;
            *state = to;
            Some(*key)
        })
    }
}

impl Association {
    fn is_connected(&self) -> bool {
        self.candidates
            .iter()
            .any(|(_, state)| matches!(state, State::Connected(_)))
    }
}

fn state_of(
    candidates: &mut [(Option<CandidateKey>, State)],
    key: Option<CandidateKey>,
) -> Option<&mut State> {
    candidates
        .iter_mut()
        .find(|(k, _)| *k == key)
        .map(|(_, state)| state)
}
