//! A value of one shard's, and tasks that wait for it to become something.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::executor::wake;

/// A value that changes. Each task that waits has one place, however often it is polled, and
/// gives it up with the future that it belongs to.
#[derive(Default)]
pub struct Watch<T> {
    value: Cell<T>,
    next: Cell<u64>,
    waiting: RefCell<HashMap<u64, Waker>>,
}

impl<T: Copy> Watch<T> {
    /// It begins so.
    pub fn new(value: T) -> Self {
        Self {
            value: Cell::new(value),
            next: Cell::default(),
            waiting: RefCell::default(),
        }
    }

    /// What it is.
    #[must_use]
    pub const fn get(&self) -> T {
        self.value.get()
    }

    /// Changes it. The tasks see it when they next run; one that runs later than the next
    /// change never sees what was between.
    pub fn set(&self, value: T) {
        self.value.set(value);
        for (_, waker) in self.waiting.take() {
            wake(waker);
        }
    }

    /// Waits until `meant` finds something in it.
    pub async fn until<R>(&self, meant: impl Fn(T) -> Option<R>) -> R {
        let place = Place {
            waiting: &self.waiting,
            id: self.next.get(),
        };
        self.next.set(place.id + 1);
        poll_fn(|context| match meant(self.value.get()) {
            Some(found) => Poll::Ready(found),
            None => {
                let mut waiting = self.waiting.borrow_mut();
                waiting.insert(place.id, context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

impl<T: Copy + fmt::Debug> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("value", &self.value)
            .field("waiting", &self.waiting.borrow().len())
            .finish()
    }
}

/// A waker's place, given up with the future that it belongs to.
struct Place<'a> {
    waiting: &'a RefCell<HashMap<u64, Waker>>,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn a_task_has_one_place_and_gives_it_up() {
        let watch = Watch::new(0);
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut odd = pin!(watch.until(|value| (value % 2 == 1).then_some(value)));
            for _ in 0..3 {
                assert!(odd.as_mut().poll(&mut context).is_pending());
                assert_eq!(watch.waiting.borrow().len(), 1);
            }
            watch.set(2);
            assert!(odd.as_mut().poll(&mut context).is_pending());
            watch.set(3);
            assert_eq!(odd.as_mut().poll(&mut context), Poll::Ready(3));
            let mut never = pin!(watch.until(|_| None::<()>));
            assert!(never.as_mut().poll(&mut context).is_pending());
        }
        assert!(watch.waiting.borrow().is_empty());
    }
}
