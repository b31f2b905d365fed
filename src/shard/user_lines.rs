//! How many lines of the log there may be about each user: so many a minute, and about strangers
//! together as many, so that none of them fills the log. The next line tells how many were left
//! out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use crate::access::Pace;
use crate::time::Timestamp;

/// Lines about one user in a minute, of one shard. All of them may be at once.
const LINES_PER_MINUTE: u32 = 60;

/// What was said of each user.
///
/// INVARIANT: they are users that there were since the settings were last replaced, and `None` for
/// all who are none.
#[derive(Debug, Default)]
pub(super) struct UserLines(RefCell<HashMap<Option<Arc<str>>, Said, RandomState>>);

#[derive(Debug, Default)]
struct Said {
    pace: Pace,
    left_out: u64,
}

impl UserLines {
    /// Whether there may be another line about somebody, and then how many were left out before
    /// it, if any.
    pub(super) fn take(&self, user: Option<&Arc<str>>, now: Timestamp) -> Option<Option<u64>> {
        let mut said = self.0.borrow_mut();
        let said = said.entry(user.map(Arc::clone)).or_default();
        if !said.pace.take(LINES_PER_MINUTE, now) {
            said.left_out += 1;
            return None;
        }
        let left_out = std::mem::take(&mut said.left_out);
        Some((left_out > 0).then_some(left_out))
    }

    /// Forgets users that are gone.
    pub(super) fn keep(&self, is_known: impl Fn(&str) -> bool) {
        let mut said = self.0.borrow_mut();
        said.retain(|user, _| user.as_deref().is_none_or(&is_known));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_fills_the_log_and_what_is_left_out_is_told() {
        let at = |s: u64| Timestamp::from_nanos(1_000_000_000 * (1_000 + s));
        let lines = UserLines::default();
        let alice: Arc<str> = "alice".into();
        for _ in 0..LINES_PER_MINUTE {
            assert_eq!(lines.take(Some(&alice), at(0)), Some(None));
        }
        for _ in 0..3 {
            assert_eq!(lines.take(Some(&alice), at(0)), None);
        }
        assert_eq!(lines.take(None, at(0)), Some(None));
        assert_eq!(lines.take(Some(&alice), at(1)), Some(Some(3)));
        assert_eq!(lines.take(Some(&alice), at(2)), Some(None));
        lines.keep(|user| user != "alice");
        assert_eq!(lines.0.borrow().len(), 1);
    }
}
