//! A word from the loop to the tasks of its shard, such as that the proxy
//! stops; and the choice between two things to wait for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use super::watch::Watch;

/// Raised once, seen by every task of the shard.
#[derive(Debug, Default)]
pub struct Flag(Watch<bool>);

impl Flag {
    /// Raises it. The tasks see it when they next run.
    pub fn raise(&self) {
        self.0.set(true);
    }

    /// Whether it was raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.get()
    }

    /// Runs `future` until it is done; `None` when the flag was raised before.
    pub async fn or_raised<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        match either(self.raised(), future).await {
            Either::First(()) => None,
            Either::Second(value) => Some(value),
        }
    }

    /// Waits until it is raised.
    pub async fn raised(&self) {
        self.0.until(|raised| raised.then_some(())).await;
    }
}

/// Runs two futures until both are done.
pub async fn both<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, B) {
    let mut first = pin!(first);
    let mut second = pin!(second);
    let mut done = (None, None);
    poll_fn(|context: &mut Context<'_>| {
        if done.0.is_none()
            && let Poll::Ready(value) = first.as_mut().poll(context)
        {
            done.0 = Some(value);
        }
        if done.1.is_none()
            && let Poll::Ready(value) = second.as_mut().poll(context)
        {
            done.1 = Some(value);
        }
        match (done.0.take(), done.1.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            so_far => {
                done = so_far;
                Poll::Pending
            }
        }
    })
    .await
}

/// Which of two futures was done first.
#[derive(Debug)]
pub enum Either<A, B> {
    First(A),
    Second(B),
}

/// Runs two futures until one of them is done, and drops the other. The first
/// one has the say when both are.
pub async fn either<A, B>(
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> Either<A, B> {
    let mut first = pin!(first);
    let mut second = pin!(second);
    poll_fn(|context: &mut Context<'_>| {
        if let Poll::Ready(value) = first.as_mut().poll(context) {
            return Poll::Ready(Either::First(value));
        }
        second.as_mut().poll(context).map(Either::Second)
    })
    .await
}
