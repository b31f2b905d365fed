//! What a running relay says of its users when it has read them again.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{info, warn};

use crate::config::settings::RelaySettings;
use crate::shard::errand::one_word;

/// Names, or files, of each kind that are told; of others how many there are.
const TOLD_MAX: usize = 8;

/// Each user of a system, and by what it is known.
type Known<T> = BTreeMap<Arc<str>, T>;

/// Logs who has come and gone, and whose files are wrong.
pub(super) fn log(before: &RelaySettings, now: &RelaySettings) {
    let websocks = |settings: &RelaySettings| -> Known<_> {
        let users = settings.users.users.all().iter();
        let known = users.map(|user| (Arc::clone(&user.name), user.password.clone()));
        known.collect()
    };
    log_changes("[websocks]", &websocks(before), &websocks(now));
    let jproxy = |settings: &RelaySettings| -> Known<_> {
        let users = settings.jproxy.users.all().iter();
        let known = users.map(|user| (Arc::clone(user.name()), *user.hash()));
        known.collect()
    };
    log_changes("[jproxy]", &jproxy(before), &jproxy(now));
    let wrong = &now.jproxy.wrong;
    for file in wrong.iter().take(TOLD_MAX) {
        warn!(
            error = file.error,
            next = file.next_step.as_deref(),
            keeps = file.keeps.as_deref(),
            "a user's file is not taken"
        );
    }
    if wrong.len() > TOLD_MAX {
        let others = wrong.len() - TOLD_MAX;
        warn!(
            others,
            "users' files are not taken; those that are told are the first"
        );
    }
    let notes_before = before.jproxy.notes();
    for note in now.jproxy.notes() {
        if !notes_before.contains(&note) {
            warn!("{note}");
        }
    }
}

fn log_changes<T: PartialEq>(system: &str, before: &Known<T>, now: &Known<T>) {
    if before == now {
        return;
    }
    let beyond = |some: &Known<T>, others: &Known<T>| {
        let names = some.keys().filter(|name| !others.contains_key(*name));
        shown(&names.collect::<Vec<_>>())
    };
    let renewed = now.iter().filter(|(name, known)| {
        let old = before.get(*name);
        old.is_some_and(|old| old != *known)
    });
    let renewed: Vec<_> = renewed.map(|(name, _)| name).collect();
    info!(
        users = now.len(),
        came = beyond(now, before),
        went = beyond(before, now),
        renewed = shown(&renewed),
        "the users of {system} have changed"
    );
}

/// The first of these names, and how many others there are; `None` where there is none.
fn shown(names: &[&Arc<str>]) -> Option<String> {
    let told: Vec<_> = names.iter().take(TOLD_MAX).map(|it| one_word(it)).collect();
    let others = names.len() - told.len();
    let told = (!told.is_empty()).then(|| told.join(", "))?;
    Some(match others {
        0 => told,
        _ => format!("{told} and {others} more"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_told_by_their_number() {
        let check = |names: &[&str], expected: Option<&str>| {
            let names: Vec<Arc<str>> = names.iter().map(|name| (*name).into()).collect();
            let names: Vec<_> = names.iter().collect();
            assert_eq!(shown(&names).as_deref(), expected);
        };
        check(&[], None);
        check(&["alice", "b c"], Some("alice, b\\u{20}c"));
        let ten = ["a"; TOLD_MAX + 2];
        check(&ten, Some("a, a, a, a, a, a, a, a and 2 more"));
    }
}
