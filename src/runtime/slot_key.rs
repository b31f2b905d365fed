//! What names one tenant of a slot that is used again and again.

use std::marker::PhantomData;

/// Names one tenant of a slot in a table of `T`s. A key that outlived its tenant
/// names nothing: the generation tells it from the slot's next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotKey<T> {
    pub(crate) index: u32,
    /// The slot's tenants before this one, modulo 2^16.
    pub(crate) generation: u16,
    /// Keys of one table are no keys of another.
    table: PhantomData<T>,
}

impl<T: Copy> SlotKey<T> {
    pub(crate) const fn new(index: u32, generation: u16) -> Self {
        Self {
            index,
            generation,
            table: PhantomData,
        }
    }

    /// The key as the lower 48 bits of a number, the rest of which is free.
    pub(crate) const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The key in the lower 48 bits of a number.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        let [_, _, g1, g0, i3, i2, i1, i0] = bits.to_be_bytes();
        let index = u32::from_be_bytes([i3, i2, i1, i0]);
        Self::new(index, u16::from_be_bytes([g1, g0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_a_key_and_nothing_else() {
        let check = |index, generation, bits| {
            let key = SlotKey::<()>::new(index, generation);
            assert_eq!(key.to_bits(), bits);
            for others in [0, 0xffff << 48] {
                assert_eq!(SlotKey::from_bits(bits | others), key);
            }
        };
        check(0, 0, 0);
        check(1, 0, 1);
        check(0, 1, 1 << 32);
        check(0x0123_4567, 0x89ab, 0x89ab_0123_4567);
        check(u32::MAX, u16::MAX, (1 << 48) - 1);
    }
}
