//! Legs that arrive on any shard, move to the owner of their association, wait,
//! meet and die at any moment, on one to four shards.
//!
//! Each leg is accounted for exactly once, legs meet on the owner only and move
//! there at most once, and every answer is the model's.

mod model;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use ahash::RandomState;
use fastrand::Rng;
use midspan::association::Refusal;
use midspan::association::census::Removal;
use midspan::association::creators::CreatorId;
use midspan::association::key::{AssociationKey, CandidateKey, RendezvousKey, ShardId};
use midspan::association::owner::Owner;
use midspan::association::rendezvous::{Rendezvous, Route};
use midspan::association::table::{CandidateRef, ClosingCause, Limits, OnUnknown, Stale, Table};
use midspan::time::Timestamp;
use uuid::Uuid;

use self::model::Model;
use crate::{for_each_seed, is_full_run};

const STEPS: usize = 1_000;

pub(crate) type LegId = u32;

#[test]
fn rendezvous() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for_each_seed("rendezvous", |rng| {
        let mut world = World::new(rng);
        for _ in 0..STEPS {
            world.step();
        }
        world.finish();
        if world.model.made_way > 0 {
            world.saw("made way");
        }
        for (case, count) in world.seen {
            *seen.entry(case).or_default() += count;
        }
    });
    if is_full_run() {
        let missing: Vec<_> = CASES.iter().filter(|c| !seen.contains_key(*c)).collect();
        assert!(missing.is_empty(), "no seed led to {missing:?}: {seen:?}");
    }
}

/// What has to come up in a full run, for the rest to mean anything.
const CASES: [&str; 22] = [
    "AlreadyConnected",
    "AssociationEnded",
    "Deleted",
    "Ended",
    "deletion waits for a session",
    "Expired",
    "Full",
    "NotFound",
    "NotWaiting",
    "answered",
    "died moving, asked all the same",
    "died moving, dropped",
    "gone while expired",
    "gone while waiting",
    "handoff",
    "made way",
    "minted",
    "owed already when gone",
    "replaced",
    "served",
    "stale session",
    "stale wait",
];

struct World {
    rng: Rng,
    now: Timestamp,
    shards: Vec<Rendezvous<LegId>>,
    model: Model,
    legs: Vec<Leg>,
    /// Legs on their way to their owner.
    handoffs: Vec<Handoff>,
    /// By acceptor.
    sessions: BTreeMap<LegId, Session>,
    /// Every acceptance so far: most are stale.
    acceptances: Vec<(LegId, CandidateRef)>,
    associations: Vec<AssociationKey>,
    seen: BTreeMap<&'static str, u64>,
}

struct Leg {
    ask: Ask,
    key: RendezvousKey,
    shard: ShardId,
    is_minted: bool,
    is_alive: bool,
    handoffs: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Create,
    Accept(OnUnknown),
    Connect,
    Test,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Not yet looked at by its owner.
    Arriving,
    Waiting(CandidateRef),
    Joined,
    /// Accounted for.
    Over(#[expect(dead_code, reason = "read by Debug, in failures")] &'static str),
}

struct Handoff {
    leg: LegId,
    to: ShardId,
    arrives_at: Timestamp,
}

struct Session {
    connector: LegId,
    candidate: CandidateRef,
}

impl World {
    fn new(mut rng: Rng) -> Self {
        let count = NonZeroU16::new(rng.u16(1..=4)).expect("at least one");
        let limits = Limits {
            associations_max: rng.u32(1..=8),
            candidates_max: rng.u8(1..=4),
            per_creator_max: 0,
            lifetime: Duration::from_secs(300),
        };
        let owner = Owner::new(rng.u128(..).to_ne_bytes(), count);
        let shards = (0..count.get())
            .map(|n| {
                let seed = rng.u64(..);
                let hasher = RandomState::with_seeds(seed, seed, seed, seed);
                Rendezvous::new(owner.clone(), ShardId(n), Table::new(limits, hasher))
            })
            .collect();
        let associations = (0..8)
            .map(|_| AssociationKey(Uuid::from_u128(rng.u128(..))))
            .collect();
        Self {
            now: Timestamp::from_nanos(rng.u64(..1 << 40)),
            rng,
            shards,
            model: Model::new(limits),
            legs: Vec::new(),
            handoffs: Vec::new(),
            sessions: BTreeMap::new(),
            acceptances: Vec::new(),
            associations,
            seen: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        match self.rng.u8(..100) {
            0..=44 => self.arrive(),
            45..=59 => self.deliver(),
            60..=69 => self.leg_dies(),
            70..=77 => self.any_session_ends(),
            78..=83 => self.use_stale_handle(),
            84..=85 => self.delete(),
            86..=91 => self.time_passes(),
            92..=97 => {
                let shard = self.any_shard();
                self.poll(shard);
            }
            _ => self.compare_all_keys(),
        }
        for shard in &self.shards {
            shard.table().invariants();
        }
    }

    /// Somebody gives an association up.
    fn delete(&mut self) {
        self.model.expire(self.now);
        let key = self.any_key();
        for shard in &mut self.shards {
            if shard.route(&key) == Route::Here {
                let removed = shard.remove(key.association, self.now).ok();
                let is_gone = removed.map(|removal| removal == Removal::Gone);
                assert_eq!(is_gone, self.model.remove(key.association));
                if is_gone == Some(false) {
                    return self.saw("deletion waits for a session");
                }
            }
        }
    }

    /// A leg comes in on whatever shard the kernel picks.
    fn arrive(&mut self) {
        let shard = self.any_shard();
        let is_minted = self.rng.u8(..10) == 0;
        let (ask, key) = if is_minted {
            let rng = &mut self.rng;
            let association = self.shards[usize::from(shard.0)]
                .mint(|| rng.u128(..).to_ne_bytes())
                .expect("the source varies");
            let place = self.rng.usize(..self.associations.len());
            self.associations[place] = association;
            self.saw("minted");
            let key = RendezvousKey {
                association,
                candidate: None,
            };
            (Ask::Accept(OnUnknown::Create), key)
        } else {
            let ask = match self.rng.u8(..12) {
                0..=1 => Ask::Create,
                2..=4 => Ask::Accept(OnUnknown::Refuse),
                5..=6 => Ask::Accept(OnUnknown::Create),
                7..=10 => Ask::Connect,
                _ => Ask::Test,
            };
            (ask, self.any_key())
        };
        let leg = LegId::try_from(self.legs.len()).expect("few legs");
        self.legs.push(Leg {
            ask,
            key,
            shard,
            is_minted,
            is_alive: true,
            handoffs: 0,
            phase: Phase::Arriving,
        });
        match self.shards[usize::from(shard.0)].route(&key) {
            Route::Here => self.ask(leg),
            Route::Handoff(to) => {
                self.saw("handoff");
                let delay = Duration::from_millis(self.rng.u64(..2_000));
                self.leg(leg).handoffs += 1;
                self.handoffs.push(Handoff {
                    leg,
                    to,
                    arrives_at: self.now + delay,
                });
            }
        }
    }

    /// Any hand-off that is due comes in, in any order.
    fn deliver(&mut self) {
        let now = self.now;
        self.rng.shuffle(&mut self.handoffs);
        let due = self.handoffs.iter().position(|h| h.arrives_at <= now);
        let Some(handoff) = due.map(|n| self.handoffs.swap_remove(n)) else {
            self.now = self.now + Duration::from_millis(200);
            return;
        };
        self.leg(handoff.leg).shard = handoff.to;
        if !self.leg(handoff.leg).is_alive {
            if self.rng.bool() {
                self.over(handoff.leg, "died moving, dropped");
                return;
            }
            self.saw("died moving, asked all the same");
        }
        self.ask(handoff.leg);
    }

    /// The owner does what the leg asks for, and so does the model.
    fn ask(&mut self, leg: LegId) {
        self.model.expire(self.now);
        let Leg {
            ask, key, shard, ..
        } = self.legs[leg as usize];
        let here = &mut self.shards[usize::from(shard.0)];
        assert_eq!(
            here.route(&key),
            Route::Here,
            "the owner sends leg {leg} on"
        );
        match ask {
            Ask::Create => {
                // Whose they are is kept with them, and checked by the table itself.
                let creator = [None, Some(CreatorId([1; 16])), Some(CreatorId([2; 16]))];
                let answer = here.create(key, creator[leg as usize % 3], self.now);
                assert_eq!(answer, self.model.create(shard, key, self.now));
                self.answered(leg, answer);
            }
            Ask::Test => {
                let answer = here.test(key, self.now);
                assert_eq!(answer, self.model.test(key));
                self.answered(leg, answer);
            }
            Ask::Accept(on_unknown) => {
                let answer = here.accept(key, leg, on_unknown, self.now);
                let expected = self.model.accept(shard, key, leg, on_unknown, self.now);
                assert_eq!(answer.map(|accepted| accepted.replaced), expected);
                match answer {
                    Err(refusal) => self.answered(leg, Err(refusal)),
                    Ok(accepted) => {
                        if let Some(old) = accepted.replaced {
                            self.over(old, "replaced");
                        }
                        self.leg(leg).phase = Phase::Waiting(accepted.candidate);
                        self.acceptances.push((leg, accepted.candidate));
                        if self.reply_fails(leg) {
                            self.waiting_leg_gone(leg);
                        }
                    }
                }
            }
            Ask::Connect => {
                let answer = here.connect(key, self.now);
                let expected = self.model.connect(key);
                assert_eq!(answer.map(|joined| joined.acceptor), expected);
                match answer {
                    Err(refusal) => self.answered(leg, Err(refusal)),
                    Ok(joined) => {
                        self.join(joined.acceptor, leg, joined.candidate);
                        if self.reply_fails(leg) {
                            self.session_ends(joined.acceptor);
                        }
                    }
                }
            }
        }
    }

    fn join(&mut self, acceptor: LegId, connector: LegId, candidate: CandidateRef) {
        let (a, c) = (
            &self.legs[acceptor as usize],
            &self.legs[connector as usize],
        );
        assert!(
            matches!(a.phase, Phase::Waiting(accepted) if accepted == candidate),
            "leg {acceptor} is joined in {:?}",
            a.phase
        );
        assert_eq!(a.key.association, c.key.association);
        assert_eq!(a.shard, c.shard, "legs {acceptor} and {connector} meet");
        self.leg(acceptor).phase = Phase::Joined;
        self.leg(connector).phase = Phase::Joined;
        let session = Session {
            connector,
            candidate,
        };
        assert!(self.sessions.insert(acceptor, session).is_none());
    }

    fn leg_dies(&mut self) {
        let (moving, waiting): (Vec<_>, Vec<_>) = (0..)
            .zip(&self.legs)
            .filter(|(_, leg)| matches!(leg.phase, Phase::Arriving | Phase::Waiting(_)))
            .partition(|(_, leg)| matches!(leg.phase, Phase::Arriving));
        let ids = if self.rng.bool() { moving } else { waiting };
        let ids: Vec<LegId> = ids.into_iter().map(|(id, _)| id).collect();
        let Some(id) = self.rng.choice(ids) else {
            return;
        };
        match self.leg(id).phase {
            Phase::Waiting(_) => self.waiting_leg_gone(id),
            _ => self.leg(id).is_alive = false,
        }
    }

    fn waiting_leg_gone(&mut self, leg: LegId) {
        self.model.expire(self.now);
        let Leg { phase, shard, .. } = self.legs[leg as usize];
        let Phase::Waiting(candidate) = phase else {
            panic!("leg {leg} does not wait: {phase:?}");
        };
        let now = self.now;
        let result = self.shards[usize::from(shard.0)].waiting_leg_gone(candidate, now);
        let waited = self.model.waiting_leg_gone(leg, now);
        match result {
            Ok(()) if waited => self.over(leg, "gone while waiting"),
            Ok(()) => {
                // Due, but not reaped yet: then it need not be closed.
                let owed = self.model.owed.remove(&leg);
                assert!(owed.is_some(), "leg {leg} did not wait");
                self.over(leg, "gone while expired");
            }
            Err(Stale) => {
                assert!(self.model.owed.contains_key(&leg), "leg {leg} is lost");
                self.saw("owed already when gone");
            }
        }
    }

    fn any_session_ends(&mut self) {
        let acceptors: Vec<_> = self.sessions.keys().copied().collect();
        if let Some(acceptor) = self.rng.choice(acceptors) {
            self.session_ends(acceptor);
        }
    }

    fn session_ends(&mut self, acceptor: LegId) {
        self.model.expire(self.now);
        let session = self.sessions.remove(&acceptor).expect("joined");
        let shard = self.leg(acceptor).shard;
        let result = self.shards[usize::from(shard.0)].session_ended(session.candidate);
        assert_eq!(result, Ok(()), "session of {acceptor}");
        assert!(self.model.session_ended(acceptor));
        self.over(acceptor, "served");
        self.over(session.connector, "served");
    }

    /// A handle is used for what it no longer names, or never did.
    fn use_stale_handle(&mut self) {
        let Some((leg, candidate)) = self.rng.choice(self.acceptances.iter().copied()) else {
            return;
        };
        let Leg { phase, shard, .. } = self.legs[leg as usize];
        let here = &mut self.shards[usize::from(shard.0)];
        if !matches!(phase, Phase::Waiting(_)) {
            let gone = here.waiting_leg_gone(candidate, self.now);
            assert_eq!(gone, Err(Stale), "{phase:?}");
            self.saw("stale wait");
        }
        let here = &mut self.shards[usize::from(shard.0)];
        if !matches!(phase, Phase::Joined) {
            assert_eq!(here.session_ended(candidate), Err(Stale), "{phase:?}");
            self.saw("stale session");
        }
    }

    /// Mostly a little, at times across the lifetime, at times to the very edge
    /// of a deadline.
    fn time_passes(&mut self) {
        let shard = self.any_shard();
        let deadline = self.model.deadline(shard).unwrap_or(self.now);
        let to = match self.rng.u8(..8) {
            0 => deadline,
            1 => Timestamp::from_nanos(deadline.as_nanos().saturating_sub(1)),
            2 => self.now + Duration::from_secs(self.rng.u64(100..400)),
            _ => self.now + Duration::from_millis(self.rng.u64(..20_000)),
        };
        self.now = self.now.max(to);
    }

    /// A shard closes what there is to close; then its table is as the model.
    fn poll(&mut self, shard: ShardId) {
        self.model.expire(self.now);
        while let Some(closing) = self.shards[usize::from(shard.0)].poll_close(self.now) {
            let owed = self.model.owed.remove(&closing.leg);
            assert_eq!(owed, Some((shard, closing.cause)), "leg {}", closing.leg);
            let how = match closing.cause {
                ClosingCause::Expired => "Expired",
                ClosingCause::AssociationEnded => "AssociationEnded",
                ClosingCause::Deleted => "Deleted",
            };
            self.over(closing.leg, how);
        }
        let forgotten = self.model.owed.iter().find(|(_, (s, _))| *s == shard);
        assert_eq!(forgotten, None, "not handed out");
        let here = &self.shards[usize::from(shard.0)];
        assert_eq!(here.next_deadline(), self.model.deadline(shard));
        assert_eq!(here.table().len() as usize, self.model.count(shard));
    }

    fn compare_all_keys(&mut self) {
        self.model.expire(self.now);
        for association in &self.associations {
            for n in 0..4 {
                let key = RendezvousKey {
                    association: *association,
                    candidate: candidate(n),
                };
                let here = self
                    .shards
                    .iter()
                    .find(|shard| shard.route(&key) == Route::Here)
                    .expect("every key has an owner");
                assert_eq!(here.test(key, self.now), self.model.test(key), "{key:?}");
            }
        }
    }

    /// Everything comes to its end, and nothing is left.
    fn finish(&mut self) {
        self.now = self.now + Duration::from_secs(2);
        while !self.handoffs.is_empty() {
            self.deliver();
        }
        while !self.sessions.is_empty() {
            self.any_session_ends();
        }
        self.now = self.now + Duration::from_secs(300);
        for n in 0..u16::try_from(self.shards.len()).expect("few shards") {
            self.poll(ShardId(n));
        }
        for shard in &self.shards {
            assert!(shard.table().is_empty());
            assert_eq!(shard.next_deadline(), None);
        }
        assert!(self.model.owed.is_empty());
        for (id, leg) in self.legs.iter().enumerate() {
            assert!(
                matches!(leg.phase, Phase::Over(_)),
                "leg {id} is lost: {:?}",
                leg.phase
            );
            let handoffs_max = u32::from(!leg.is_minted);
            assert!(
                leg.handoffs <= handoffs_max,
                "leg {id} moved {}×",
                leg.handoffs
            );
        }
    }

    fn answered(&mut self, leg: LegId, answer: Result<(), Refusal>) {
        self.over(
            leg,
            match answer {
                Ok(()) => "answered",
                Err(Refusal::NotFound) => "NotFound",
                Err(Refusal::NotWaiting) => "NotWaiting",
                Err(Refusal::Ended) => "Ended",
                Err(Refusal::AlreadyConnected) => "AlreadyConnected",
                Err(Refusal::Full) => "Full",
                Err(Refusal::TooMany) => unreachable!("creators have no limit here"),
            },
        );
    }

    /// Accounts for a leg, which happens once.
    fn over(&mut self, leg: LegId, how: &'static str) {
        let phase = std::mem::replace(&mut self.leg(leg).phase, Phase::Over(how));
        assert!(
            !matches!(phase, Phase::Over(_)),
            "leg {leg} is {how} after {phase:?}"
        );
        self.saw(how);
    }

    fn reply_fails(&mut self, leg: LegId) -> bool {
        !self.legs[leg as usize].is_alive || self.rng.u8(..20) == 0
    }

    fn saw(&mut self, case: &'static str) {
        *self.seen.entry(case).or_default() += 1;
    }

    fn leg(&mut self, leg: LegId) -> &mut Leg {
        &mut self.legs[leg as usize]
    }

    fn any_shard(&mut self) -> ShardId {
        let count = u16::try_from(self.shards.len()).expect("few shards");
        ShardId(self.rng.u16(..count))
    }

    fn any_key(&mut self) -> RendezvousKey {
        let association = if self.rng.u8(..20) == 0 {
            AssociationKey(Uuid::from_u128(self.rng.u128(..)))
        } else {
            self.associations[self.rng.usize(..self.associations.len())]
        };
        RendezvousKey {
            association,
            candidate: candidate(self.rng.u128(..4)),
        }
    }
}

/// Candidates of different associations may well have the same id; 0 is the
/// implicit one.
fn candidate(n: u128) -> Option<CandidateKey> {
    (n != 0).then(|| CandidateKey(Uuid::from_u128(n)))
}
