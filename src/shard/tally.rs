//! Counts what runs, for as long as it runs.

use std::cell::Cell;
use std::rc::Rc;

/// A count of one shard's tasks.
#[derive(Clone, Debug, Default)]
pub struct Tally(Rc<Cell<usize>>);

/// One of the counted.
#[derive(Debug)]
pub struct Counted(Tally);

impl Tally {
    /// One more, until the guard is dropped.
    pub fn enter(&self) -> Counted {
        self.0.set(self.0.get() + 1);
        Counted(self.clone())
    }

    pub fn count(&self) -> usize {
        self.0.get()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let count = &self.0.0;
        count.set(count.get() - 1);
    }
}
