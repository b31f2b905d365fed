//! A table of slots that never moves its entries and knows stale keys.

use std::fmt;

/// Slots in one chunk. A chunk is allocated when the first of them is needed
/// and touched slot by slot, so memory follows use.
const CHUNK_SLOTS: usize = 1024;

/// Names one entry for as long as it lives; afterwards it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The slot, used again by later entries.
    pub index: u32,
    /// Counts the slot's entries, so that a late event finds nobody.
    pub generation: u32,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// Entries by [`Key`], in chunks that are never copied.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Slot<T>>>,
    first_vacant: Option<u32>,
    len: usize,
}

#[derive(Debug)]
pub(crate) struct Slot<T> {
    generation: u32,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Occupied(T),
    /// Its entry is gone, its index still in somebody's books.
    Taken,
    Vacant {
        next: Option<u32>,
    },
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            first_vacant: None,
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Stores an entry; the slot that was freed last is used first, as it is
    /// the one in the cache.
    pub(crate) fn insert(&mut self, entry: T) -> Key {
        self.len += 1;
        if let Some(index) = self.first_vacant {
            let slot = &mut self.chunks[chunk_of(index)][slot_of(index)];
            let Content::Vacant { next } = slot.content else {
                unreachable!("the vacant list leads to an occupied slot");
            };
            self.first_vacant = next;
            slot.content = Content::Occupied(entry);
            return Key {
                index,
                generation: slot.generation,
            };
        }
        if self
            .chunks
            .last()
            .is_none_or(|chunk| chunk.len() == CHUNK_SLOTS)
        {
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS));
        }
        let chunk_index = self.chunks.len() - 1;
        let chunk = &mut self.chunks[chunk_index];
        let index = u32::try_from(chunk_index * CHUNK_SLOTS + chunk.len())
            .expect("descriptors run out long before 2^32 pairs");
        chunk.push(Slot {
            generation: 0,
            content: Content::Occupied(entry),
        });
        Key {
            index,
            generation: 0,
        }
    }

    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self
            .chunks
            .get(chunk_of(key.index))?
            .get(slot_of(key.index))?;
        match &slot.content {
            Content::Occupied(entry) if slot.generation == key.generation => Some(entry),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self
            .chunks
            .get_mut(chunk_of(key.index))?
            .get_mut(slot_of(key.index))?;
        match &mut slot.content {
            Content::Occupied(entry) if slot.generation == key.generation => Some(entry),
            _ => None,
        }
    }

    /// Takes an entry out and frees its slot.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.take(key)?;
        self.release(key.index);
        Some(entry)
    }

    /// Takes an entry out, whose key names nothing from now on; the slot is
    /// used again only after [`Slab::release`].
    pub(crate) fn take(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let slot = &mut self.chunks[chunk_of(key.index)][slot_of(key.index)];
        slot.generation = slot.generation.wrapping_add(1);
        self.len -= 1;
        match std::mem::replace(&mut slot.content, Content::Taken) {
            Content::Occupied(entry) => Some(entry),
            Content::Taken | Content::Vacant { .. } => None,
        }
    }

    /// Frees the slot of an entry that was taken.
    pub(crate) fn release(&mut self, index: u32) {
        let slot = &mut self.chunks[chunk_of(index)][slot_of(index)];
        debug_assert!(matches!(slot.content, Content::Taken), "released once");
        slot.content = Content::Vacant {
            next: self.first_vacant,
        };
        self.first_vacant = Some(index);
    }

    /// The key that the next [`Slab::insert`] gives.
    pub(crate) fn next_key(&self) -> Key {
        match self.first_vacant {
            Some(index) => Key {
                index,
                generation: self.chunks[chunk_of(index)][slot_of(index)].generation,
            },
            None => {
                let full = self.chunks.len().saturating_sub(1) * CHUNK_SLOTS;
                let index = full + self.chunks.last().map_or(0, Vec::len);
                Key {
                    index: u32::try_from(index)
                        .expect("descriptors run out long before 2^32 entries"),
                    generation: 0,
                }
            }
        }
    }

    /// The key of the entry that is in a slot now.
    pub(crate) fn key_at(&self, index: u32) -> Option<Key> {
        let slot = self.chunks.get(chunk_of(index))?.get(slot_of(index))?;
        matches!(slot.content, Content::Occupied(_)).then_some(Key {
            index,
            generation: slot.generation,
        })
    }

    /// Slots, in use or not: every index is below.
    pub(crate) fn span(&self) -> u32 {
        let full = self.chunks.len().saturating_sub(1) * CHUNK_SLOTS;
        let last = self.chunks.last().map_or(0, Vec::len);
        u32::try_from(full + last).unwrap_or(u32::MAX)
    }

    /// The keys of all entries.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        let slots = self.chunks.iter().flatten();
        (0u32..).zip(slots).filter_map(|(index, slot)| {
            matches!(slot.content, Content::Occupied(_)).then_some(Key {
                index,
                generation: slot.generation,
            })
        })
    }
}

const fn chunk_of(index: u32) -> usize {
    index as usize / CHUNK_SLOTS
}

const fn slot_of(index: u32) -> usize {
    index as usize % CHUNK_SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outlives_its_entry_and_finds_nobody() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        assert_eq!(slab.get(first), Some(&"first"));
        assert_eq!(slab.remove(first), Some("first"));
        assert_eq!(slab.remove(first), None);
        let second = slab.insert("second");
        assert_eq!(second.index, first.index);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn chunks_fill_one_after_the_other() {
        let mut slab = Slab::new();
        let keys: Vec<Key> = (0..CHUNK_SLOTS * 2 + 1).map(|n| slab.insert(n)).collect();
        assert_eq!(slab.chunks.len(), 3);
        assert_eq!(slab.keys().collect::<Vec<_>>(), keys);
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(slab.get(*key), Some(&n));
        }
        slab.remove(keys[5]);
        slab.remove(keys[CHUNK_SLOTS + 5]);
        assert_eq!(slab.keys().count(), CHUNK_SLOTS * 2 - 1);
        assert_eq!(slab.insert(0).index, keys[CHUNK_SLOTS + 5].index);
        assert_eq!(slab.insert(0).index, keys[5].index);
        assert_eq!(slab.chunks.len(), 3);
    }
}
