//! The places in a work buffer that are sent with one call.

use std::io::IoSlice;
use std::ops::Range;

/// Places at most. More than that are pieces so small that to move them together
/// costs less than to send them apart.
const PLACES_MAX: usize = 16;

/// A piece up to this size is moved to the end of the one before: the kernel's work
/// for one place more is worth as much.
const SMALL_BYTES: usize = 2 << 10;

/// Places in the order in which they are sent, none empty, none overlapping.
#[derive(Debug)]
pub(crate) struct Gather {
    places: [Range<usize>; PLACES_MAX],
    len: usize,
}

impl Gather {
    pub(crate) const fn new() -> Self {
        Self {
            places: [const { 0..0 }; PLACES_MAX],
            len: 0,
        }
    }

    /// Forgets all places.
    pub(crate) const fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a place behind all others. Bytes between it and them are lost.
    pub(crate) fn push(&mut self, buffer: &mut [u8], place: Range<usize>) {
        if place.is_empty() {
            return;
        }
        let is_full = self.len == PLACES_MAX;
        if let Some(last) = self.places[..self.len].last_mut() {
            debug_assert!(last.end <= place.start, "in the order of their sending");
            if last.end == place.start {
                last.end = place.end;
                return;
            }
            if is_full || place.len() <= SMALL_BYTES {
                let bytes = place.len();
                buffer.copy_within(place, last.end);
                last.end += bytes;
                return;
            }
        }
        self.places[self.len] = place;
        self.len += 1;
    }

    /// The places, for one call.
    pub(crate) fn slices<'bytes>(
        &self,
        buffer: &'bytes [u8],
    ) -> ([IoSlice<'bytes>; PLACES_MAX], usize) {
        let mut slices = [IoSlice::new(&[]); PLACES_MAX];
        for (slice, place) in slices.iter_mut().zip(self.places()) {
            *slice = IoSlice::new(&buffer[place.clone()]);
        }
        (slices, self.len)
    }

    /// The places.
    pub(crate) fn places(&self) -> &[Range<usize>] {
        &self.places[..self.len]
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.places().iter().map(Range::len).sum()
    }

    /// What is left behind the first `sent` bytes, in one piece.
    pub(crate) fn rest(&self, buffer: &[u8], sent: usize) -> Box<[u8]> {
        let mut rest = Vec::with_capacity(self.bytes() - sent);
        let mut skip = sent;
        for place in self.places() {
            let skipped = skip.min(place.len());
            skip -= skipped;
            rest.extend_from_slice(&buffer[place.start + skipped..place.end]);
        }
        rest.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_bytes_stays_however_they_are_put_together() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut buffer: Vec<u8> = (0..200_000).map(|_| random.u8(..)).collect();
            let mut gather = Gather::new();
            let mut expected = Vec::new();
            let mut at = 0;
            loop {
                let start = at + random.usize(0..3) * random.usize(0..20);
                let largest = 1 << random.u32(1..15);
                let end = start + random.usize(0..largest);
                if end > buffer.len() {
                    break;
                }
                expected.extend_from_slice(&buffer[start..end]);
                gather.push(&mut buffer, start..end);
                at = end;
            }
            assert_eq!(gather.bytes(), expected.len());
            let (slices, count) = gather.slices(&buffer);
            assert_eq!(slices[..count].concat_bytes(), expected);
            for sent in [0, 1, expected.len() / 2, expected.len()] {
                assert_eq!(gather.rest(&buffer, sent)[..], expected[sent..]);
            }
        }
    }

    trait Concat {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl Concat for [IoSlice<'_>] {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|slice| slice.to_vec()).collect()
        }
    }

    #[test]
    fn large_pieces_stay_where_they_are() {
        let mut buffer = vec![0; 100_000];
        let mut gather = Gather::new();
        gather.push(&mut buffer, 10..10);
        for place in [16..5_000, 5_000..5_001, 5_008..10_008, 10_020..10_030] {
            gather.push(&mut buffer, place);
        }
        assert_eq!(gather.places(), [16..5_001, 5_008..10_018]);
    }
}
