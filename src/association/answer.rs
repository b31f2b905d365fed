//! What is asked of a table beside a key, and what it answers.

use std::num::NonZeroU8;
use std::time::Duration;

/// What an accept does with an association or candidate that is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// It is refused.
    Refuse,
    /// It is created.
    Create,
}

/// One acceptance at one candidate, and the pair that comes of it.
///
/// It goes stale when another acceptor is accepted there or the association is
/// deleted, and a stale one is noticed: no two acceptances share a number until
/// 2^32 further ones on the same shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CandidateRef {
    pub(super) slot: u32,
    pub(super) turn: u32,
    /// Its place and one more, so that what holds one or something else takes no more
    /// memory.
    pub(super) candidate: NonZeroU8,
}

/// An acceptor waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a replaced leg is the caller's to close"]
pub struct Accepted<L> {
    /// Names this acceptance.
    pub candidate: CandidateRef,
    /// The acceptor that waited there until now: close it, without a reply.
    pub replaced: Option<L>,
}

/// A connector has met its acceptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the acceptor waits no longer"]
pub struct Joined<L> {
    /// What the acceptor's [`Accepted`] said; names the session from now on.
    pub candidate: CandidateRef,
    /// The acceptor.
    pub acceptor: L,
    /// How long the session may last.
    pub session_limit: Option<Duration>,
}

/// An acceptor whose association is gone: to be closed without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing<L> {
    /// The acceptor.
    pub leg: L,
    /// Why it waits no longer.
    pub cause: ClosingCause,
}

/// Why an association is gone while an acceptor waits at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosingCause {
    /// Its lifetime is over.
    Expired,
    /// The session at another candidate has ended.
    AssociationEnded,
    /// Somebody gave the association up on purpose.
    Deleted,
}

/// The handle names no waiting acceptor, or no session, any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stale candidate handle")]
pub struct Stale;

/// The reason why a leg was not accepted or joined.
///
/// The status in the documentation is that of JET over TCP; each protocol
/// turns a refusal into its own answer, in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The association, or this candidate of it, is unknown or has expired: 404.
    #[error("unknown association or candidate")]
    NotFound,
    /// No acceptor waits at the candidate: 400.
    #[error("no acceptor is waiting")]
    NotWaiting,
    /// The candidate's pair has ended, and no acceptor waits anew: 400.
    #[error("the session has ended")]
    Ended,
    /// The candidate's pair is already joined: 400.
    #[error("already connected")]
    AlreadyConnected,
    /// The shard's associations or the association's candidates are at their
    /// limit: 503.
    #[error("association table is full")]
    Full,
    /// The bearer of the credential holds as many associations as it may: 429.
    #[error("this bearer holds as many associations as it may")]
    TooMany,
}

impl CandidateRef {
    /// The association's place in the table.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// The candidate's place in its association.
    #[must_use]
    pub const fn position(self) -> usize {
        self.candidate.get() as usize - 1
    }

    pub(super) fn new(slot: u32, turn: u32, position: usize) -> Self {
        Self {
            slot,
            turn,
            candidate: u8::try_from(position + 1)
                .ok()
                .and_then(NonZeroU8::new)
                .unwrap_or_else(|| unreachable!("an association has fewer candidates")),
        }
    }
}
