//! Whether the relay can be had, as one shard finds: for its log and for operators.

use std::cell::Cell;
use std::fmt::Display;

use super::asking::AskError;
use crate::agent::relay_trouble::{Trouble, Troubles};
use crate::agent::relay_watch::Presence;
use crate::shard::status::RelayStatus;
use crate::time::Timestamp;

/// What a shard's requests find together.
#[derive(Debug, Default)]
pub(super) struct RelayHealth {
    presence: Presence,
    failed_at: Cell<Option<Timestamp>>,
    troubles: Troubles,
}

impl RelayHealth {
    /// The relay served what was asked at `asked_at`; whether it is news that it does. An
    /// answer may have been waited for: what was asked before the last failure says nothing of
    /// what the relay would serve now.
    pub(super) fn handle_success(&self, asked_at: Timestamp) -> bool {
        let is_old = self.failed_at.get().is_some_and(|at| asked_at <= at);
        !is_old && self.presence.handle_success()
    }

    /// It did not; whether that is news.
    pub(super) fn handle_failure(
        &self,
        now: Timestamp,
        trouble: Trouble,
        error: &impl Display,
    ) -> bool {
        self.failed_at.set(Some(now));
        self.troubles.add(now, trouble, error);
        self.presence.handle_failure()
    }

    /// Whether it was never asked, or has not answered yet.
    pub(super) fn is_new(&self) -> bool {
        self.presence.is_new()
    }

    /// How it is, for operators; `url` is one word.
    pub(super) fn status(&self, url: &str) -> RelayStatus {
        RelayStatus {
            url: url.into(),
            is_down: self.presence.is_down(),
            entrances: None,
            failures: self.troubles.counts(),
            last_failure: self.troubles.last(),
        }
    }
}

impl AskError {
    /// What operators are told of it.
    pub(super) fn trouble(&self) -> Trouble {
        match self {
            Self::Leg(_) | Self::Lost => Trouble::Unreachable,
            Self::Silent(_) => Trouble::Mute,
            Self::Approach(_)
            | Self::Answer(_)
            | Self::NoId
            | Self::NoEnd
            | Self::OtherServer { .. }
            | Self::Refused { .. } => Trouble::Refuses,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_to_what_was_asked_before_a_failure_is_no_news() {
        let health = RelayHealth::default();
        let at = |seconds| Timestamp::from_nanos(0) + Duration::from_secs(seconds);
        let refused = AskError::Refused { status: 401 };
        let fail = |at| health.handle_failure(at, refused.trouble(), &refused);
        assert!(health.handle_success(at(0)));
        assert!(!health.handle_success(at(0)));
        // The key is removed: one that listens is told so, and others have waited since.
        assert!(fail(at(25)));
        assert!(!health.handle_success(at(1)));
        assert!(!fail(at(26)), "no news either");
        let status = health.status("relay");
        assert!(status.is_down);
        assert_eq!(status.failures[1], ("refuses", 2));
        let last = status.last_failure.expect("one");
        assert_eq!((last.why, &*last.error), ("refuses", &*refused.to_string()));
        // It is listed again.
        assert!(health.handle_success(at(27)));
        assert!(!health.status("relay").is_down);
    }
}
