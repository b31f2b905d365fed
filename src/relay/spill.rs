//! What directions hold that read more than their destination took.
//!
//! Each spill is exactly as large as the bytes in it and freed when the last
//! of them is sent. Together they stay within a budget; prefixes count, but
//! are taken in always: their handshake has bounded them.

use super::direction::SpillKey;

/// What a direction with a slow destination reads at a time when the budget is
/// nearly used up.
pub(super) const CAREFUL_READ_BYTES: u32 = 4 << 10;

/// The spills of one shard.
#[derive(Debug)]
pub(super) struct SpillPool {
    spills: Vec<Option<Spill>>,
    vacant: Vec<u32>,
    held_bytes: u64,
    bytes_max: u64,
}

#[derive(Debug)]
struct Spill {
    bytes: Box<[u8]>,
    sent: usize,
}

impl SpillPool {
    pub(super) const fn new(bytes_max: u64) -> Self {
        Self {
            spills: Vec::new(),
            vacant: Vec::new(),
            held_bytes: 0,
            bytes_max,
        }
    }

    /// How much a direction may read now, given that in the worst case all of
    /// it must be held; 0 when nothing may be held any more.
    pub(super) fn read_max(&self, slow: bool, wanted: u32) -> u32 {
        let room = self.bytes_max.saturating_sub(self.held_bytes);
        let near = room < self.bytes_max / 4;
        if near && slow || room < u64::from(wanted) {
            if room < u64::from(CAREFUL_READ_BYTES) {
                0
            } else {
                CAREFUL_READ_BYTES
            }
        } else {
            wanted
        }
    }

    /// Takes bytes in; they are not empty.
    pub(super) fn insert(&mut self, bytes: Box<[u8]>) -> SpillKey {
        debug_assert!(!bytes.is_empty());
        self.held_bytes += bytes.len() as u64;
        let spill = Some(Spill { bytes, sent: 0 });
        let index = match self.vacant.pop() {
            Some(index) => {
                self.spills[index as usize] = spill;
                index
            }
            None => {
                self.spills.push(spill);
                u32::try_from(self.spills.len() - 1).unwrap_or(u32::MAX)
            }
        };
        SpillKey(index)
    }

    /// The bytes that are still to be sent.
    pub(super) fn bytes(&self, key: SpillKey) -> &[u8] {
        self.spills[key.0 as usize]
            .as_ref()
            .map_or(&[], |spill| &spill.bytes[spill.sent..])
    }

    /// Notes that `count` bytes were sent, and frees a spill that is done.
    pub(super) fn consume(&mut self, key: SpillKey, count: usize) {
        if let Some(spill) = &mut self.spills[key.0 as usize] {
            spill.sent += count;
            if spill.sent >= spill.bytes.len() {
                self.discard(key);
            }
        }
    }

    /// Frees a spill with what is left of it.
    pub(super) fn discard(&mut self, key: SpillKey) {
        if let Some(spill) = self.spills[key.0 as usize].take() {
            self.held_bytes -= spill.bytes.len() as u64;
            self.vacant.push(key.0);
        }
        if self.vacant.len() == self.spills.len() {
            // A crowd of slow destinations is gone: so is its table.
            self.spills = Vec::new();
            self.vacant = Vec::new();
        }
    }

    /// Memory held.
    pub(super) const fn held_bytes(&self) -> u64 {
        self.held_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spill_is_freed_with_its_last_byte() {
        let mut pool = SpillPool::new(1 << 20);
        let key = pool.insert(b"hello".as_slice().into());
        let other = pool.insert(b"other".as_slice().into());
        pool.consume(key, 2);
        assert_eq!(pool.bytes(key), b"llo");
        assert_eq!(pool.held_bytes(), 10);
        pool.consume(key, 3);
        assert_eq!(pool.held_bytes(), 5);
        pool.discard(other);
        assert_eq!(pool.held_bytes(), 0);
        assert!(pool.spills.is_empty());
    }

    #[test]
    fn reads_shrink_towards_the_budget() {
        let mut pool = SpillPool::new(100_000);
        let check = |pool: &SpillPool, slow, expected| {
            assert_eq!(pool.read_max(slow, 16_384), expected, "{}", pool.held_bytes);
        };
        check(&pool, true, 16_384);
        pool.insert(vec![0; 80_000].into());
        check(&pool, false, 16_384);
        check(&pool, true, CAREFUL_READ_BYTES);
        pool.insert(vec![0; 10_000].into());
        check(&pool, false, CAREFUL_READ_BYTES);
        pool.insert(vec![0; 8_000].into());
        check(&pool, false, 0);
        check(&pool, true, 0);
    }
}
