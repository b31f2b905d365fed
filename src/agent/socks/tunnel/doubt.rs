//! Whether a tunnel may be of the other dialect, by what is answered in it.
//!
//! Connects begin alike in both, and only their numbers are in another order: a relay of the other
//! dialect lets us in, and connects with other ports, where nobody listens. So where nothing can be
//! reached from the beginning, that is worth a look. A name that leads nowhere, and a limit, say
//! nothing of it. *Denied* has a number in `spec` alone, which means nothing in `original`: where
//! it is read, the relay speaks `spec` too.

use crate::protocol::jproxy::ConnectStatus;

/// Connects of a tunnel that fail before it is said.
const FAILED_BEFORE_SAID: u8 = 3;

/// What one tunnel gives reason to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// So many connects have failed, and no answer has shown that the dialect is right.
    Failed(u8),
    /// There is no reason to think so, or it was said.
    Settled,
}

/// Of a tunnel in which nothing was answered yet.
impl Default for Doubt {
    fn default() -> Self {
        Self::Failed(0)
    }
}

impl Doubt {
    /// A connect was answered so; gives the doubt from now on, and whether it is to be said.
    pub(super) const fn after(self, status: ConnectStatus) -> (Self, bool) {
        match (self, status) {
            (Self::Settled, _) | (_, ConnectStatus::Connected | ConnectStatus::Denied) => {
                (Self::Settled, false)
            }
            (Self::Failed(_), ConnectStatus::UnknownHost | ConnectStatus::Limit) => (self, false),
            (Self::Failed(before), _) if before + 1 < FAILED_BEFORE_SAID => {
                (Self::Failed(before + 1), false)
            }
            (Self::Failed(_), _) => (Self::Settled, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_where_nothing_could_be_reached() {
        let check = |statuses: &[ConnectStatus], expected: &[bool]| {
            let mut doubt = Doubt::default();
            let said = statuses.iter().map(|status| {
                let (next, is_said) = doubt.after(*status);
                doubt = next;
                is_said
            });
            assert_eq!(said.collect::<Vec<_>>(), expected, "{statuses:?}");
        };
        let (refused, unknown) = (ConnectStatus::Refused, ConnectStatus::UnknownHost);
        let (late, connected) = (ConnectStatus::TimedOut, ConnectStatus::Connected);
        check(&[refused; 5], &[false, false, true, false, false]);
        check(
            &[late, unknown, ConnectStatus::Limit, refused, late],
            &[false, false, false, false, true],
        );
        for right in [connected, ConnectStatus::Denied] {
            check(
                &[refused, refused, right, refused, refused, refused],
                &[false; 6],
            );
        }
    }
}
