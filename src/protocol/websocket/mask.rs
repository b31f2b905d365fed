//! Masking: RFC 6455 §5.3.

use std::array;

/// The four bytes that a client draws for each frame and XORs its payload with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskKey(pub [u8; 4]);

/// Bytes that are masked at once: enough for the compiler to use the widest
/// vectors of its target, and a multiple of the key.
const LANE_BYTES: usize = 64;

impl MaskKey {
    /// Masks `payload`, or unmasks it, which is the same. It begins where the key
    /// does: see [`Self::advance`].
    pub fn apply(self, payload: &mut [u8]) {
        let lane: [u8; LANE_BYTES] = array::from_fn(|index| self.0[index % 4]);
        let (chunks, rest) = payload.as_chunks_mut::<LANE_BYTES>();
        for chunk in chunks {
            for (byte, key) in chunk.iter_mut().zip(lane) {
                *byte ^= key;
            }
        }
        for (byte, key) in rest.iter_mut().zip(lane) {
            *byte ^= key;
        }
    }

    /// The key for what comes `bytes` further on in the payload.
    #[must_use]
    pub const fn advance(self, bytes: usize) -> Self {
        let [a, b, c, d] = self.0;
        Self(match bytes % 4 {
            0 => [a, b, c, d],
            1 => [b, c, d, a],
            2 => [c, d, a, b],
            _ => [d, a, b, c],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply_naively(key: [u8; 4], payload: &mut [u8]) {
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[index % 4];
        }
    }

    #[test]
    fn agrees_with_the_naive_one_at_every_length_and_place() {
        let mut random = fastrand::Rng::with_seed(1);
        let key = random.u32(..).to_le_bytes();
        let plain: Vec<u8> = (0..3 * LANE_BYTES + 5).map(|_| random.u8(..)).collect();
        for start in 0..16 {
            for end in start..=plain.len() {
                let (mut masked, mut expected) = (plain.clone(), plain.clone());
                MaskKey(key).apply(&mut masked[start..end]);
                apply_naively(key, &mut expected[start..end]);
                assert_eq!(masked, expected, "{start}..{end}");
            }
        }
    }

    #[test]
    fn a_payload_may_come_in_pieces() {
        let key = MaskKey([1, 2, 4, 8]);
        let mut whole = [0; 41];
        key.apply(&mut whole);
        for cut in 0..whole.len() {
            let mut pieces = [0; 41];
            let (first, second) = pieces.split_at_mut(cut);
            key.apply(first);
            key.advance(cut).apply(second);
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }
}
