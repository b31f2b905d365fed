//! Connection IDs that say which shard they are for.
//!
//! ```text
//! byte   0        1 2 3     4 5 6 7
//!        steer    random    mark
//! ```
//!
//! The rest of `steer` divided by the number of shards is the shard; the kernel steers by it
//! ([`crate::runtime::udp_group`]). The mark is made of the other bytes with a key, so that an
//! ID of ours is told from one that a client made up, also after a restart, and with another
//! number of shards.

use std::fmt;
use std::hash::Hasher;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use siphasher::sip::SipHasher24;

use super::keys::SharedKeys;

/// Length of our connection IDs, in bytes.
pub const ID_BYTES: usize = 8;

const MARKED_BYTES: usize = 4;

/// What makes and knows the connection IDs of one shard's endpoint.
#[derive(Clone)]
pub struct SteeredIds {
    shard: u16,
    shards: u16,
    mark_key: [u8; 16],
}

impl SteeredIds {
    /// IDs of one of so many shards, at most 256.
    #[must_use]
    pub fn new(shard: u16, shards: u16, keys: &SharedKeys) -> Self {
        debug_assert!(shard < shards && shards <= 256);
        Self {
            shard,
            shards,
            mark_key: keys.mark_key(),
        }
    }

    /// The shard for which an ID was made, if it is one of ours.
    #[must_use]
    pub fn shard_of(&self, id: &[u8]) -> Option<u16> {
        let (marked, mark) = id.split_at_checked(MARKED_BYTES)?;
        (mark == self.mark(marked)).then(|| u16::from(id[0]) % self.shards)
    }

    fn mark(&self, marked: &[u8]) -> [u8; ID_BYTES - MARKED_BYTES] {
        let mut hasher = SipHasher24::new_with_key(&self.mark_key);
        hasher.write(marked);
        let mut mark = [0; ID_BYTES - MARKED_BYTES];
        mark.copy_from_slice(&hasher.finish().to_be_bytes()[..ID_BYTES - MARKED_BYTES]);
        mark
    }
}

impl ConnectionIdGenerator for SteeredIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        aws_lc_rs::rand::fill(&mut id[..MARKED_BYTES]).expect("the system gives random bytes");
        // The last shards have one value less of 256, where it is no multiple of their number.
        let turns = (256 - 1 - self.shard) / self.shards + 1;
        let steer = self.shard + u16::from(id[0]) % turns * self.shards;
        id[0] = u8::try_from(steer).unwrap_or(u8::MAX);
        let mark = self.mark(&id[..MARKED_BYTES]);
        id[MARKED_BYTES..].copy_from_slice(&mark);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        self.shard_of(id).map(|_| ()).ok_or(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

impl fmt::Debug for SteeredIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SteeredIds")
            .field("shard", &self.shard)
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}

/// A datagram's destination connection ID, as far as it is as long as ours (RFC 8999 §5).
#[must_use]
pub fn destination(datagram: &[u8]) -> Option<&[u8]> {
    let is_long = datagram.first()? & 0x80 != 0;
    match is_long {
        true if usize::from(*datagram.get(5)?) == ID_BYTES => datagram.get(6..6 + ID_BYTES),
        true => None,
        false => datagram.get(1..1 + ID_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: SharedKeys = SharedKeys {
        reset: [1; 32],
        token: [2; 32],
    };

    #[test]
    fn every_shard_knows_whose_an_id_is() {
        for shards in [1, 2, 3, 7, 64, 255, 256] {
            for shard in [0, shards / 2, shards - 1] {
                let mut ids = SteeredIds::new(shard, shards, &KEYS);
                for _ in 0..100 {
                    let id = ids.generate_cid();
                    assert_eq!(ids.shard_of(&id), Some(shard), "{shards}");
                    assert!(SteeredIds::new(0, 5, &KEYS).validate(&id).is_ok());
                }
            }
        }
    }

    #[test]
    fn an_id_of_others_is_nobodys() {
        let mut ids = SteeredIds::new(0, 2, &KEYS);
        let others = SharedKeys {
            reset: [3; 32],
            ..KEYS
        };
        let id = SteeredIds::new(0, 2, &others).generate_cid();
        assert!(ids.validate(&id).is_err());
        assert_eq!(ids.shard_of(&[0; 3]), None);
        let own = ids.generate_cid();
        assert_eq!(ids.shard_of(&own[..7]), None);
    }

    #[test]
    fn destinations_are_found_in_both_headers() {
        let long = [0xc0, 0, 0, 0, 1, 8, 10, 11, 12, 13, 14, 15, 16, 17, 0];
        assert_eq!(destination(&long), Some(&long[6..14]));
        let other_length = [0xc0, 0, 0, 0, 1, 7, 10, 11, 12, 13, 14, 15, 16, 17, 0];
        assert_eq!(destination(&other_length), None);
        let short = [0x40, 10, 11, 12, 13, 14, 15, 16, 17];
        assert_eq!(destination(&short), Some(&short[1..9]));
        for bytes in [&long[..13], &long[..5], &short[..8], &[]] {
            assert_eq!(destination(bytes), None);
        }
    }
}
