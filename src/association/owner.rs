//! Which shard owns an association: the one place of the owner function.
//!
//! The owner of an association is SipHash-2-4 of its id, keyed with a secret
//! that is persisted, modulo the number of shards. All candidates of an
//! association live on its owner. The key keeps a peer, who chooses the id in
//! most dialects, from aiming at one shard; its persistence keeps the answer
//! the same after a restart.
//!
//! Left out on purpose: where the secret is kept, and the source of randomness.

use std::fmt;
use std::hash::Hasher;
use std::num::NonZeroU16;

use siphasher::sip::SipHasher24;
use uuid::Builder;

use super::key::{AssociationKey, CandidateKey, ShardId};

/// Draws that [`Owner::mint`] makes at most, for each shard that there is.
///
/// One draw misses with probability 1 - 1/n, so n times this many miss with
/// less than e^-64, under 2e-28: a source that fails so is not random.
pub const MINT_DRAWS_PER_SHARD_MAX: u32 = 64;

/// The owner function of one relay: the same on all of its shards.
#[derive(Clone)]
pub struct Owner {
    secret: [u8; 16],
    shards: NonZeroU16,
}

/// No drawn id belonged to the minting shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("none of {draws} drawn ids is owned by shard {home}: the random source does not vary")]
pub struct MintError {
    /// The shard that was to own the id.
    pub home: ShardId,
    /// How many ids were drawn.
    pub draws: u32,
}

impl Owner {
    /// The owner function for `shards` shards under a persisted `secret`.
    #[must_use]
    pub fn new(secret: [u8; 16], shards: NonZeroU16) -> Self {
        Self { secret, shards }
    }

    /// How many shards share the associations.
    #[must_use]
    pub fn shards(&self) -> NonZeroU16 {
        self.shards
    }

    /// The shard that owns `association` and all of its candidates.
    #[must_use]
    pub fn shard_of(&self, association: AssociationKey) -> ShardId {
        self.shard_of_name(association.0.as_bytes())
    }

    /// The shard that owns what these bytes name; an association's are its id's.
    #[must_use]
    pub fn shard_of_name(&self, name: &[u8]) -> ShardId {
        let hash = SipHasher24::new_with_key(&self.secret).hash(name);
        let shard = hash % u64::from(self.shards.get());
        ShardId(u16::try_from(shard).unwrap_or_else(|_| unreachable!("a remainder of a u16")))
    }

    /// The id of an association's candidate number `index`: the same whenever it
    /// is asked for, so that nobody has to remember it. In form a UUID v4.
    #[must_use]
    pub fn candidate(&self, association: AssociationKey, index: u16) -> CandidateKey {
        let mut bytes = [0; 16];
        for (half, chunk) in (0_u8..).zip(bytes.chunks_exact_mut(8)) {
            let mut hasher = SipHasher24::new_with_key(&self.secret);
            // Longer than what the owner function hashes, so never the same.
            hasher.write(association.0.as_bytes());
            hasher.write(&index.to_le_bytes());
            hasher.write(&[half]);
            chunk.copy_from_slice(&hasher.finish().to_le_bytes());
        }
        CandidateKey(Builder::from_random_bytes(bytes).into_uuid())
    }

    /// Draws a UUID v4 (RFC 9562 §5.4) that `home` owns, so that an acceptor
    /// whose id the relay invents need not move. `random` gives 16 fresh
    /// random bytes a call.
    ///
    /// # Errors
    ///
    /// After [`MINT_DRAWS_PER_SHARD_MAX`] draws for each shard.
    pub fn mint(
        &self,
        home: ShardId,
        mut random: impl FnMut() -> [u8; 16],
    ) -> Result<AssociationKey, MintError> {
        debug_assert!(home.0 < self.shards.get(), "shard {home} does not exist");
        let draws = MINT_DRAWS_PER_SHARD_MAX * u32::from(self.shards.get());
        (0..draws)
            .map(|_| AssociationKey(Builder::from_random_bytes(random()).into_uuid()))
            .find(|key| self.shard_of(*key) == home)
            .ok_or(MintError { home, draws })
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner")
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use uuid::{Uuid, Variant, Version};

    use super::*;

    fn owner(secret: [u8; 16], shards: u16) -> Owner {
        Owner::new(secret, NonZeroU16::new(shards).unwrap())
    }

    fn key(id: u128) -> AssociationKey {
        AssociationKey(Uuid::from_u128(id))
    }

    #[test]
    fn owner_is_siphash_2_4_of_the_id_bytes() {
        // The reference vector of SipHash-2-4 for the key 00..0f and the
        // 16-byte message 00..0f is 3f2acc7f57c29bdb.
        let bytes: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let id = AssociationKey(Uuid::from_bytes(bytes));
        for shards in [1, 2, 3, 64, u16::MAX] {
            let expected = 0x3f2a_cc7f_57c2_9bdb_u64 % u64::from(shards);
            let shard = owner(bytes, shards).shard_of(id);
            assert_eq!(u64::from(shard.0), expected, "{shards} shards");
        }
    }

    #[test]
    fn owners_are_spread_and_depend_on_the_secret() {
        let mut counts = [0_u32; 4];
        let mut differing = 0;
        for id in 0..4000 {
            let shard = owner([7; 16], 4).shard_of(key(id));
            counts[usize::from(shard.0)] += 1;
            differing += u32::from(owner([8; 16], 4).shard_of(key(id)) != shard);
        }
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
        assert!((2700..3300).contains(&differing), "{differing}");
    }

    #[test]
    fn minted_ids_are_version_4_and_at_home() {
        let mut rng = fastrand::Rng::with_seed(1);
        for shards in [1, 2, 3, 16, 300] {
            let owner = owner([9; 16], shards);
            for home in (0..shards).map(ShardId) {
                let key = owner.mint(home, || rng.u128(..).to_ne_bytes()).unwrap();
                assert_eq!(owner.shard_of(key), home);
                assert_eq!(key.0.get_version(), Some(Version::Random));
                assert_eq!(key.0.get_variant(), Variant::RFC4122);
            }
        }
    }

    #[test]
    fn minting_from_a_stuck_source_ends() {
        let owner = owner([9; 16], 2);
        let mut failed = Vec::new();
        for home in [ShardId(0), ShardId(1)] {
            let mut drawn = 0;
            let result = owner.mint(home, || {
                drawn += 1;
                [0; 16]
            });
            failed.extend(result.err().map(|error| (error.home, error.draws, drawn)));
        }
        let [(_, 128, 128)] = failed[..] else {
            panic!("{failed:?}");
        };
    }

    #[test]
    fn the_secret_is_not_printed() {
        assert!(!format!("{:?}", owner([0x5a; 16], 2)).contains("90"));
    }
}
