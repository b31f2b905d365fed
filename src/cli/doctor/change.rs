//! Sets what is advised, and takes it back.
//!
//! What a host had is written down, in the file that makes the new value last, before
//! anything is set: whenever this ends, it can be taken back.

use std::fmt;
use std::io;

use anyhow::anyhow;

use super::super::{Advise, failure, print};
use super::find;
use super::report::shown;
use super::tree::Tree;
use crate::tuning::{Conf, Current, DropIn, Entry, Setting, Standing};

/// Something to set, in place of what the host has.
type Change<'a> = (&'a Setting, Current);

/// Sets what could be better; or those of `settings` that `wishes` name, each as `NAME` or
/// as `NAME=VALUE`.
///
/// What the kernel does not take keeps nothing else from being set.
///
/// # Errors
///
/// A wish that is none, or a file that cannot be read, and then nothing is set; a file that
/// cannot be written, and then nothing of it is set; what the kernel did not take.
pub(super) fn apply(tree: &Tree, settings: &[Setting], wishes: &[String]) -> anyhow::Result<()> {
    let wished = wishes.iter().map(|wish| wished(settings, wish));
    let mut wished: Vec<Setting> = wished.collect::<anyhow::Result<_>>()?;
    // In the order of the files: a setting may rest on one before it.
    let place = |wish: &Setting| {
        let mut names = settings.iter().map(|setting| setting.line.name());
        names.position(|name| name == wish.line.name())
    };
    wished.sort_by_key(place);
    let is_named = !wished.is_empty();
    let settings = if is_named { &wished } else { settings };

    let mut failures = Failures::default();
    let mut files = Vec::new();
    for conf in Conf::ALL {
        let drop_in = tree.drop_in(conf)?;
        let mut changes = Vec::new();
        for setting in settings.iter().filter(|one| one.line.conf() == conf) {
            let current = tree.current(&setting.line);
            let is_due = is_due(setting, &current, &drop_in, is_named);
            if failures.keep(is_due) == Some(true) {
                changes.push((setting, current));
            }
        }
        files.push((drop_in, changes));
    }
    if files.iter().all(|(_, changes)| changes.is_empty()) {
        print(&"Nothing to do.\n");
        return failures.end();
    }
    for (drop_in, changes) in &mut files {
        if !changes.is_empty() {
            let is_set = set(tree, drop_in, changes, &mut failures);
            if failures.keep(is_set).is_none() {
                return failures.end();
            }
        }
    }
    print(&format_args!(
        "To take back what was set:\n  {} --undo\n",
        tree.command()
    ));
    failures.end()
}

/// The setting that a wish names, with the value that it names.
fn wished(settings: &[Setting], wish: &str) -> anyhow::Result<Setting> {
    let Some((name, value)) = wish.split_once('=') else {
        return find(settings, wish).cloned();
    };
    let setting = find(settings, name)?;
    let wanting = setting.wanting(value).usage();
    wanting.map_err(|error| error.context(name.to_owned()))
}

/// Whether a setting is to be set; says why not, if somebody named it.
fn is_due(
    setting: &Setting,
    current: &Current,
    drop_in: &DropIn,
    is_named: bool,
) -> anyhow::Result<bool> {
    let name = setting.line.name();
    let kept = drop_in.entry(name).map(|entry| entry.line.value());
    match setting.standing(current, kept) {
        Standing::Better => return Ok(true),
        // Somebody has decided.
        Standing::Depends | Standing::Unclear => return Ok(is_named),
        Standing::NotHere if is_named => {
            return Err(anyhow!("this kernel has no {name}"))
                .advise("leave it out, or boot a kernel that has it");
        }
        Standing::Enough | Standing::Later if is_named => said("ok", name, &"enough already"),
        Standing::Enough | Standing::Later | Standing::NotHere => {}
    }
    Ok(false)
}

/// Sets the settings of one file.
fn set(
    tree: &Tree,
    drop_in: &mut DropIn,
    changes: &[Change<'_>],
    failures: &mut Failures,
) -> anyhow::Result<()> {
    let earlier = drop_in.clone();
    for (setting, current) in changes {
        let before = match (setting.line.conf(), current) {
            (Conf::Sysctl, Current::Value(value)) => Some(value.as_str()),
            _ => None,
        };
        drop_in.keep(setting, setting.to_set(current), before);
    }
    tree.keep(drop_in)?;

    for (setting, current) in changes {
        let line = setting.to_set(current);
        let (name, value) = (line.name(), line.value());
        match (line.conf(), current) {
            (Conf::Limits, _) => {
                let unit = setting.unit.as_deref().unwrap_or_default();
                let text = format!("{value} from the next login of midspan; in a unit {unit}");
                said("kept", name, &text);
                continue;
            }
            (Conf::Sysctl, Current::Unknown) => {
                said("kept", name, &format!("{value} from the next boot"));
                continue;
            }
            (Conf::Sysctl, _) => {}
        }
        if failures.keep(tree.set(&line, value)).is_none() {
            // It would fail at the next boot as well.
            drop_in.restore(name, earlier.entry(name).cloned());
            continue;
        }
        // What the kernel made of it, so that it is known again.
        let held = match tree.current(&line) {
            Current::Value(held) => line.with_value(&held),
            Current::NotHere | Current::Unknown | Current::Unreadable(_) => None,
        };
        let held = held.unwrap_or(line);
        let had = match current {
            Current::Value(value) => shown(value),
            _ => "?".to_owned(),
        };
        said(
            "set",
            held.name(),
            &format!("{had} -> {}", shown(held.value())),
        );
        drop_in.keep(setting, held, None);
    }
    tree.keep(drop_in)
}

/// Takes back what was set; or of that what `names` name.
///
/// # Errors
///
/// A name that is none, or a file that cannot be read or written; or what the kernel did
/// not take, which can then be tried again.
pub(super) fn undo(tree: &Tree, settings: &[Setting], names: &[String]) -> anyhow::Result<()> {
    let files = Conf::ALL.map(|conf| tree.drop_in(conf));
    let mut files: Vec<DropIn> = files.into_iter().collect::<anyhow::Result<_>>()?;
    for name in names {
        if files.iter().all(|drop_in| drop_in.entry(name).is_none()) {
            find(settings, name)?;
            said("ok", name, &"nothing to undo");
        }
    }
    if files.iter().all(|drop_in| drop_in.entries().is_empty()) {
        print(&"Nothing to undo: `midspan doctor --apply` has set nothing here.\n");
        return Ok(());
    }
    let mut failures = Failures::default();
    for drop_in in &mut files {
        // The last first: a setting may rest on one before it.
        let entries: Vec<Entry> = drop_in.entries().iter().rev().cloned().collect();
        let is_meant = |entry: &&Entry| {
            let mut names = names.iter();
            names.len() == 0 || names.any(|name| name == entry.line.name())
        };
        let mut is_changed = false;
        for entry in entries.iter().filter(is_meant) {
            if failures.keep(take_back(tree, entry)).is_some() {
                drop_in.restore(entry.line.name(), None);
                is_changed = true;
            }
        }
        if is_changed {
            failures.keep(tree.keep(drop_in));
        }
    }
    failures.end()
}

/// Gives the kernel what it had before, unless somebody has set it since.
fn take_back(tree: &Tree, entry: &Entry) -> anyhow::Result<()> {
    let Entry { line, before, .. } = entry;
    let name = line.name();
    let is = |value: &str, other: &str| value.split_whitespace().eq(other.split_whitespace());
    let Some(before) = before else {
        said("undone", name, &"no longer kept");
        return Ok(());
    };
    match tree.current(line) {
        Current::Value(current) if is(&current, before) => {
            said("undone", name, &format_args!("{} as before", shown(before)));
        }
        Current::Value(current) if is(&current, line.value()) => {
            tree.set(line, before)?;
            let (current, before) = (shown(&current), shown(before));
            said("undone", name, &format_args!("{current} -> {before}"));
        }
        Current::Value(current) => {
            let (current, before) = (shown(&current), shown(before));
            let text = format!("{current} is somebody else's since; it was {before} before");
            said("left", name, &text);
        }
        Current::NotHere | Current::Unknown => said("undone", name, &"no longer kept"),
        Current::Unreadable(error) => {
            let path = tree.path(&line.shown_in());
            return Err(anyhow!("cannot read {}: {error}", path.display()))
                .advise("look at that file, and try again");
        }
    }
    Ok(())
}

/// Tells what became of a setting.
fn said(what: &str, name: &str, text: &dyn fmt::Display) {
    print(&format_args!("  {what:<6}  {name:<32}  {text}\n"));
}

/// What did not succeed beside what did.
#[derive(Debug, Default)]
struct Failures(Vec<anyhow::Error>);

impl Failures {
    /// The value, or nothing where there is an error to keep.
    fn keep<T>(&mut self, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// Reports all but the last, which is the command's own.
    fn end(mut self) -> anyhow::Result<()> {
        let last = self.0.pop();
        for error in &self.0 {
            failure::report(error, &mut io::stderr().lock());
        }
        last.map_or(Ok(()), Err)
    }
}
