//! Where legs meet, as one shard sees it: the owner function and the shard's
//! own table.
//!
//! A leg that names its association asks [`Rendezvous::route`] first, and goes
//! over to the owner at most once: the owner never sends it on. An acceptor
//! whose id the relay invents stays, because [`Rendezvous::mint`] draws an id
//! that this shard owns.
//!
//! Left out on purpose: the move itself.

use std::time::Duration;

use super::answer::Refusal;
use super::census::Removal;
use super::creators::CreatorId;
use super::key::{AssociationKey, CandidateKey, RendezvousKey, ShardId};
use super::owner::{MintError, Owner};
use super::table::{Accepted, CandidateRef, Closing, Joined, OnUnknown, Stale, Table};
use crate::time::Timestamp;

/// One shard's part of all associations. `L` is its handle of a waiting leg.
#[derive(Debug)]
pub struct Rendezvous<L> {
    owner: Owner,
    me: ShardId,
    table: Table<L>,
}

/// Where a leg's association lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// On this shard.
    Here,
    /// On this other shard: the leg moves there.
    Handoff(ShardId),
}

impl<L: Copy> Rendezvous<L> {
    /// The part of shard `me`. `owner` is the same on all shards.
    #[must_use]
    pub fn new(owner: Owner, me: ShardId, table: Table<L>) -> Self {
        debug_assert!(me.0 < owner.shards().get(), "shard {me} does not exist");
        Self { owner, me, table }
    }

    /// Where the leg that names `key` has to be.
    #[must_use]
    pub fn route(&self, key: &RendezvousKey) -> Route {
        match self.owner.shard_of(key.association) {
            shard if shard == self.me => Route::Here,
            shard => Route::Handoff(shard),
        }
    }

    /// Which shard owns what these bytes name, be it no association.
    #[must_use]
    pub fn owner_of(&self, name: &[u8]) -> ShardId {
        self.owner.shard_of_name(name)
    }

    /// Invents the id of an association that lives here. `random` gives 16
    /// fresh random bytes a call.
    ///
    /// # Errors
    ///
    /// When the source is stuck; see [`Owner::mint`].
    pub fn mint(&self, random: impl FnMut() -> [u8; 16]) -> Result<AssociationKey, MintError> {
        self.owner.mint(self.me, random)
    }

    /// See [`Table::create`]; the association must live here.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create(
        &mut self,
        key: RendezvousKey,
        creator: Option<CreatorId>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.assert_owned(&key);
        self.table.create(key, creator, now)
    }

    /// Makes an association known with as many candidates as there are routes to
    /// it, and gives their ids, in order: the same when it is asked again. Its sessions
    /// last as long as they may; without a limit, as was said before.
    ///
    /// # Errors
    ///
    /// As [`Table::create`].
    pub fn gather(
        &mut self,
        association: AssociationKey,
        routes: u16,
        creator: Option<CreatorId>,
        session_limit: Option<Duration>,
        now: Timestamp,
    ) -> Result<Vec<CandidateKey>, Refusal> {
        let implicit = RendezvousKey {
            association,
            candidate: None,
        };
        self.create(implicit, creator, now)?;
        if let Some(limit) = session_limit {
            self.table.limit_sessions(association, limit, now)?;
        }
        (0..routes)
            .map(|index| {
                let candidate = self.owner.candidate(association, index);
                let key = RendezvousKey {
                    association,
                    candidate: Some(candidate),
                };
                self.create(key, creator, now).map(|()| candidate)
            })
            .collect()
    }

    /// See [`Table::accept`]; the association must live here.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn accept(
        &mut self,
        key: RendezvousKey,
        leg: L,
        on_unknown: OnUnknown,
        now: Timestamp,
    ) -> Result<Accepted<L>, Refusal> {
        self.assert_owned(&key);
        self.table.accept(key, leg, on_unknown, now)
    }

    /// See [`Table::connect`]; the association must live here.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn connect(&mut self, key: RendezvousKey, now: Timestamp) -> Result<Joined<L>, Refusal> {
        self.assert_owned(&key);
        self.table.connect(key, now)
    }

    /// See [`Table::waiting_leg`]; the association must live here.
    #[must_use]
    pub fn waiting_leg(&self, key: RendezvousKey, now: Timestamp) -> Option<L> {
        self.assert_owned(&key);
        self.table.waiting_leg(key, now)
    }

    /// See [`Table::test`]; the association must live here.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn test(&self, key: RendezvousKey, now: Timestamp) -> Result<(), Refusal> {
        self.assert_owned(&key);
        self.table.test(key, now)
    }

    /// See [`Table::waiting_leg_gone`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn waiting_leg_gone(
        &mut self,
        candidate: CandidateRef,
        now: Timestamp,
    ) -> Result<(), Stale> {
        self.table.waiting_leg_gone(candidate, now)
    }

    /// See [`Table::session_ended`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn session_ended(&mut self, candidate: CandidateRef) -> Result<(), Stale> {
        self.table.session_ended(candidate)
    }

    /// See [`Table::remove`]; the association must live here.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove(&mut self, key: AssociationKey, now: Timestamp) -> Result<Removal, Refusal> {
        self.table.remove(key, now)
    }

    /// See [`Table::poll_close`].
    #[must_use]
    pub fn poll_close(&mut self, now: Timestamp) -> Option<Closing<L>> {
        self.table.poll_close(now)
    }

    /// See [`Table::next_deadline`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.table.next_deadline()
    }

    /// Which of `routes` routes to an association this candidate of it is, if it is
    /// one of those that [`Self::gather`] makes.
    #[must_use]
    pub fn route_index(
        &self,
        association: AssociationKey,
        candidate: CandidateKey,
        routes: usize,
    ) -> Option<usize> {
        (0..routes).find(|route| {
            let index = u16::try_from(*route).unwrap_or(u16::MAX);
            self.owner.candidate(association, index) == candidate
        })
    }

    /// The table, to be read for reports.
    #[must_use]
    pub fn table(&self) -> &Table<L> {
        &self.table
    }

    fn assert_owned(&self, key: &RendezvousKey) {
        debug_assert_eq!(self.route(key), Route::Here, "{key:?} is not owned here");
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use ahash::RandomState;
    use uuid::Uuid;

    use super::super::table::Limits;
    use super::*;

    fn shards(count: u16) -> Vec<Rendezvous<u32>> {
        let owner = Owner::new([3; 16], NonZeroU16::new(count).unwrap());
        (0..count)
            .map(|n| {
                let hasher = RandomState::with_seeds(1, 2, 3, 4);
                Rendezvous::new(
                    owner.clone(),
                    ShardId(n),
                    Table::new(Limits::default(), hasher),
                )
            })
            .collect()
    }

    #[test]
    fn every_key_is_here_on_one_shard_and_the_others_agree() {
        for count in [1, 2, 5] {
            let shards = shards(count);
            for id in 0..200 {
                let key = RendezvousKey {
                    association: AssociationKey(Uuid::from_u128(id)),
                    candidate: None,
                };
                let routes: Vec<_> = shards.iter().map(|s| s.route(&key)).collect();
                let here = routes.iter().position(|r| *r == Route::Here).unwrap();
                let away = Route::Handoff(ShardId(u16::try_from(here).unwrap()));
                let others = routes.iter().enumerate().filter(|(n, _)| *n != here);
                assert!(others.into_iter().all(|(_, route)| *route == away));
            }
        }
    }

    #[test]
    fn candidates_are_the_same_whenever_they_are_gathered() {
        let shard = &mut shards(1)[0];
        let now = Timestamp::default();
        let association = AssociationKey(Uuid::from_u128(5));
        let gathered = shard.gather(association, 3, None, None, now).unwrap();
        assert_eq!(
            shard.gather(association, 3, None, None, now),
            Ok(gathered.clone())
        );
        assert_eq!(shard.table().len(), 1);
        for (index, candidate) in gathered.iter().enumerate() {
            assert!(!gathered[..index].contains(candidate));
            assert_eq!(candidate.0.get_version_num(), 4);
            let key = RendezvousKey {
                association,
                candidate: Some(*candidate),
            };
            assert_eq!(shard.test(key, now), Ok(()));
        }
        let other = shard.gather(AssociationKey(Uuid::from_u128(6)), 1, None, None, now);
        assert_ne!(other.unwrap()[0], gathered[0]);
    }

    #[test]
    fn minted_acceptor_is_met_on_the_minting_shard() {
        let mut rng = fastrand::Rng::with_seed(2);
        for shard in &mut shards(4) {
            let association = shard.mint(|| rng.u128(..).to_ne_bytes()).unwrap();
            let key = RendezvousKey {
                association,
                candidate: None,
            };
            assert_eq!(shard.route(&key), Route::Here);
            let now = Timestamp::default();
            let accepted = shard.accept(key, 7, OnUnknown::Create, now).unwrap();
            assert_eq!(shard.test(key, now), Ok(()));
            assert_eq!(shard.waiting_leg(key, now), Some(7));
            let joined = shard.connect(key, now).unwrap();
            assert_eq!((joined.acceptor, joined.candidate), (7, accepted.candidate));
            assert_eq!(shard.waiting_leg(key, now), None);
            assert_eq!(shard.session_ended(joined.candidate), Ok(()));
            assert!(shard.table().is_empty() && shard.poll_close(now).is_none());
        }
    }
}
