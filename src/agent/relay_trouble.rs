//! Why relays cannot be had, as operators are told.

use std::cell::RefCell;
use std::fmt::Display;

use crate::labels;
use crate::metrics::counters::{Label, Labelled};
use crate::runtime::clock;
use crate::shard::status::RelayFailure;
use crate::time::Timestamp;

/// Why a relay cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is no connection to it.
    Unreachable,
    /// It does not let us in, or is not whom we trust.
    Refuses,
    /// It lets us in, and does not reply.
    Mute,
}

labels!(Trouble {
    Unreachable = "unreachable",
    Refuses = "refuses",
    Mute = "mute",
});

/// How often one relay could not be had by one shard, and why the last time.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    counted: Labelled<Trouble>,
    last: RefCell<Option<(Timestamp, Trouble, Box<str>)>>,
}

impl Troubles {
    pub(super) fn add(&self, now: Timestamp, trouble: Trouble, error: &impl Display) {
        self.counted.increment(trouble);
        let told = (now, trouble, error.to_string().into());
        self.last.replace(Some(told));
    }

    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        Trouble::all()
            .map(|trouble| (trouble.as_str(), self.counted.count(trouble)))
            .collect()
    }

    pub(super) fn last(&self) -> Option<RelayFailure> {
        let last = self.last.borrow();
        let (at, trouble, error) = last.as_ref()?;
        Some(RelayFailure {
            why: trouble.as_str(),
            error: error.clone(),
            ago: clock::now().since(*at),
        })
    }
}
