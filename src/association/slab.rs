//! Slots for entries, in chunks that are never moved or copied.
//!
//! An entry keeps its index until it is removed, so an index serves as a link.
//! Growth adds one chunk, whose pages are touched only as its slots are first
//! used. Chunks are kept when entries go; freed slots are used again, the last
//! freed first.

/// Slots in a chunk.
pub(super) const CHUNK_SLOTS: u32 = 128;

/// The index that names no slot.
pub(super) const NO_SLOT: u32 = u32::MAX;

const _: () = assert!(usize::BITS >= u32::BITS, "a slot index fits a usize");

/// Entries by index.
pub(super) struct Slab<T> {
    chunks: Vec<Vec<Slot<T>>>,
    /// INVARIANT: head of the list of vacant slots, or `NO_SLOT`.
    vacant: u32,
    /// Slots ever used; those at and above it have not been touched.
    used: u32,
    len: u32,
}

pub(super) enum Slot<T> {
    Vacant { next: u32 },
    Held(T),
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            vacant: NO_SLOT,
            used: 0,
            len: 0,
        }
    }

    /// Entries held.
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// Bytes of all chunks.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK_SLOTS as usize * size_of::<Slot<T>>()
            + self.chunks.capacity() * size_of::<Vec<Slot<T>>>()
    }

    /// Puts `entry` into a slot and gives its index.
    ///
    /// # Panics
    ///
    /// With `NO_SLOT` entries held already; the caller's limit is below that.
    pub(super) fn insert(&mut self, entry: T) -> u32 {
        let index = self.vacant;
        if index == NO_SLOT {
            return self.append(entry);
        }
        let slot = self.slot_mut(index);
        let Slot::Vacant { next } = *slot else {
            unreachable!("slot {index} is on the vacant list and held");
        };
        *slot = Slot::Held(entry);
        self.vacant = next;
        self.len += 1;
        index
    }

    /// Takes the entry at `index` out, if there is one.
    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        self.get(index)?;
        let next = self.vacant;
        let slot = std::mem::replace(self.slot_mut(index), Slot::Vacant { next });
        self.vacant = index;
        self.len -= 1;
        match slot {
            Slot::Held(entry) => Some(entry),
            Slot::Vacant { .. } => None,
        }
    }

    /// The entry at `index`, which may be any number.
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        match self.chunks.get(chunk_of(index))?.get(place_of(index))? {
            Slot::Held(entry) => Some(entry),
            Slot::Vacant { .. } => None,
        }
    }

    /// The entry at `index`, which may be any number.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self
            .chunks
            .get_mut(chunk_of(index))?
            .get_mut(place_of(index))?
        {
            Slot::Held(entry) => Some(entry),
            Slot::Vacant { .. } => None,
        }
    }

    /// The entry at `index`, which the caller knows to be held.
    pub(super) fn held(&self, index: u32) -> &T {
        self.get(index)
            .unwrap_or_else(|| unreachable!("slot {index} is vacant"))
    }

    /// The entry at `index`, which the caller knows to be held.
    pub(super) fn held_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index)
            .unwrap_or_else(|| unreachable!("slot {index} is vacant"))
    }

    /// All entries, in the order of their indices.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.used).filter_map(|index| Some((index, self.get(index)?)))
    }

    fn append(&mut self, entry: T) -> u32 {
        let index = self.used;
        assert!(index != NO_SLOT, "slab exceeds {NO_SLOT} slots");
        if place_of(index) == 0 {
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS as usize));
        }
        self.chunks[chunk_of(index)].push(Slot::Held(entry));
        self.used += 1;
        self.len += 1;
        index
    }

    fn slot_mut(&mut self, index: u32) -> &mut Slot<T> {
        &mut self.chunks[chunk_of(index)][place_of(index)]
    }
}

const fn chunk_of(index: u32) -> usize {
    (index / CHUNK_SLOTS) as usize
}

const fn place_of(index: u32) -> usize {
    (index % CHUNK_SLOTS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_stay_and_freed_slots_are_used_again() {
        let mut slab = Slab::new();
        let count = CHUNK_SLOTS * 2 + 1;
        for n in 0..count {
            assert_eq!(slab.insert(n), n);
        }
        assert_eq!((slab.len(), slab.chunks.len()), (count, 3));
        assert_eq!(slab.remove(130), Some(130));
        assert_eq!(slab.remove(5), Some(5));
        assert_eq!(slab.remove(5), None);
        assert_eq!(
            (slab.get(5), slab.get(6), slab.get(count)),
            (None, Some(&6), None)
        );
        assert_eq!(slab.get(NO_SLOT), None);
        assert_eq!(slab.iter().count(), 255);
        assert_eq!([slab.insert(1000), slab.insert(1001)], [5, 130]);
        assert_eq!((slab.insert(1002), slab.len()), (count, count + 1));
        assert_eq!(*slab.held(130), 1001);
    }
}
