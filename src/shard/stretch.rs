//! A trouble that is reported when it begins, not each time that it is met.

use std::cell::Cell;
use std::time::Duration;

use crate::time::Timestamp;

/// How long a trouble must not have been met to count as over. Shorter pauses
/// are part of it: at a limit, each connection that ends lets another one in.
const QUIET: Duration = Duration::from_secs(60);

/// When one trouble was last met.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    last: Cell<Option<Timestamp>>,
}

impl Stretch {
    /// The trouble was met at `now`; gives whether a new stretch of it began.
    pub(super) fn meet(&self, now: Timestamp) -> bool {
        let last = self.last.replace(Some(now));
        last.is_none_or(|last| now.since(last) >= QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_begins_again_after_a_quiet_minute() {
        let stretch = Stretch::default();
        let begins = [0, 1, 60, 119, 179, 200, 259].map(|s| {
            let now = Timestamp::default() + Duration::from_secs(s);
            stretch.meet(now)
        });
        assert_eq!(begins, [true, false, false, false, true, false, false]);
    }
}
