//! Counts by key, for limits that hold for each, without what is not there any more.

use std::borrow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use ahash::RandomState;

/// How many of something each key has on one shard.
#[derive(Debug)]
pub struct Counts<K>(Rc<RefCell<HashMap<K, u32, RandomState>>>);

/// One of the counted, until it is dropped.
#[derive(Debug)]
pub struct CountedFor<K: Eq + Hash> {
    counts: Counts<K>,
    key: K,
}

impl<K: Eq + Hash> Counts<K> {
    pub fn count<Q>(&self, key: &Q) -> u32
    where
        K: borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.borrow().get(key).copied().unwrap_or(0)
    }

    pub fn add(&self, key: K) {
        *self.0.borrow_mut().entry(key).or_insert(0) += 1;
    }

    /// Takes back what [`Self::add`] counted.
    pub fn remove(&self, key: &K) {
        let mut counts = self.0.borrow_mut();
        let Some(count) = counts.get_mut(key) else {
            debug_assert!(false, "it was never counted");
            return;
        };
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }

    /// One more, until the guard is dropped.
    pub fn enter(&self, key: K) -> CountedFor<K>
    where
        K: Clone,
    {
        self.add(key.clone());
        CountedFor {
            counts: self.clone(),
            key,
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

impl<K> Clone for Counts<K> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

impl<K: Eq + Hash> Drop for CountedFor<K> {
    fn drop(&mut self) {
        self.counts.remove(&self.key);
    }
}
