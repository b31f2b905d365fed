//! Questions that a task asks elsewhere, of another thread or another shard: it
//! waits, and the answer comes through the shard's inbox.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::executor::wake;

/// Answers that tasks of one shard wait for.
#[derive(Debug)]
pub struct Pending<T> {
    inner: Rc<RefCell<Inner<T>>>,
}

#[derive(Debug)]
struct Inner<T> {
    waiting: HashMap<u64, Waiting<T>>,
    /// Number of the last question.
    last: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    waker: Option<Waker>,
    answer: Option<T>,
}

/// One question under way; forgotten when dropped.
#[derive(Debug)]
pub struct Question<T> {
    id: u64,
    inner: Rc<RefCell<Inner<T>>>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        let inner = Inner {
            waiting: HashMap::new(),
            last: 0,
        };
        Self {
            inner: Rc::new(RefCell::new(inner)),
        }
    }
}

impl<T> Pending<T> {
    /// Opens a question. Its id travels with the answer.
    #[must_use]
    pub fn open(&self) -> Question<T> {
        let mut inner = self.inner.borrow_mut();
        inner.last += 1;
        let id = inner.last;
        let waiting = Waiting {
            waker: None,
            answer: None,
        };
        inner.waiting.insert(id, waiting);
        Question {
            id,
            inner: Rc::clone(&self.inner),
        }
    }

    /// Delivers an answer that came through the shard's inbox. One that nobody
    /// waits for any more is dropped.
    pub fn deliver(&self, id: u64, answer: T) {
        let waker = self
            .inner
            .borrow_mut()
            .waiting
            .get_mut(&id)
            .and_then(|waiting| {
                waiting.answer = Some(answer);
                waiting.waker.take()
            });
        if let Some(waker) = waker {
            wake(waker);
        }
    }
}

impl<T> Question<T> {
    /// The id under which the answer is delivered.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits for the answer, or for the next one where there are several. Bound its time where
    /// nobody promises one.
    pub async fn answer(&self) -> T {
        poll_fn(|context| match self.take_answer() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.with(|waiting| waiting.waker = Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// The answer, if it has come and was not taken.
    pub fn take_answer(&self) -> Option<T> {
        self.with(|waiting| waiting.answer.take())
    }

    fn with<R>(&self, look: impl FnOnce(&mut Waiting<T>) -> R) -> R {
        let mut inner = self.inner.borrow_mut();
        let Some(waiting) = inner.waiting.get_mut(&self.id) else {
            unreachable!("a question is forgotten when it is dropped");
        };
        look(waiting)
    }
}

impl<T> Drop for Question<T> {
    fn drop(&mut self) {
        self.inner.borrow_mut().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn an_answer_reaches_its_question_and_no_other() {
        let pending = Pending::default();
        let (first, second) = (pending.open(), pending.open());
        let (first_id, second_id) = (first.id(), second.id());
        let mut context = Context::from_waker(Waker::noop());
        let mut first = pin!(first.answer());
        assert_eq!(first.as_mut().poll(&mut context), Poll::Pending);
        drop(second);
        pending.deliver(second_id, 2);
        assert_eq!(first.as_mut().poll(&mut context), Poll::Pending);
        pending.deliver(first_id, 1);
        assert_eq!(first.as_mut().poll(&mut context), Poll::Ready(1));
    }

    #[test]
    fn answers_come_one_after_the_other() {
        let pending = Pending::default();
        let question = pending.open();
        assert_eq!(question.take_answer(), None);
        for answer in [1, 2] {
            pending.deliver(question.id(), answer);
            let mut context = Context::from_waker(Waker::noop());
            let answered = pin!(question.answer()).as_mut().poll(&mut context);
            assert_eq!(answered, Poll::Ready(answer));
        }
        assert_eq!(question.take_answer(), None);
    }
}
