//! The file that makes what was set last, and that remembers what was there before.
//!
//! It is read by `sysctl` or PAM as any other of its folder, so one file is all there is to
//! look at or to take away. It lies where root alone writes: in the state directory, the
//! relay's user could have told root what to set.

use std::fmt;

use super::block;
use super::{Conf, FileError, Label, Line, Problem, Setting, Wrapped};

/// How it begins, and how we know that it is ours to change.
const HEADER: &str = "\
# Written by `midspan doctor --apply`; `midspan doctor --undo` takes it back.
# Lines of your own belong into another file.
";

/// The file of one [`Conf`]; displays as it is written, and as nothing when it is empty.
#[derive(Clone, Debug)]
pub struct DropIn {
    conf: Conf,
    entries: Vec<Entry>,
}

/// One setting in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was set.
    pub line: Line,
    /// What the kernel had before, where one ran.
    pub before: Option<String>,
    why: String,
    gained: String,
}

impl DropIn {
    /// Reads what `text` keeps for `conf`: nothing, if it is empty.
    ///
    /// # Errors
    ///
    /// It is not what [`DropIn`] writes.
    pub fn parse(conf: Conf, text: &str) -> Result<Self, FileError> {
        let file = conf.drop_in();
        let mut entries = Vec::new();
        if !text.trim().is_empty() && !text.starts_with(HEADER) {
            return Err(FileError::new(file, 1, Problem::NotOurs));
        }
        for block in block::parse(conf, file, text)? {
            if block.is_advice {
                return Err(block.error(Problem::NotOurs));
            }
            entries.push(Entry {
                line: block.line.clone(),
                before: block.text(Label::Before).map(str::to_owned),
                why: block.required(Label::Why)?.to_owned(),
                gained: block.required(Label::Gained)?.to_owned(),
            });
        }
        Ok(Self { conf, entries })
    }

    /// Whose it is.
    #[must_use]
    pub const fn conf(&self) -> Conf {
        self.conf
    }

    /// What it keeps, in the order in which it was set.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What it keeps of the setting `name`.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.line.name() == name)
    }

    /// Keeps `line`, for the reasons of `setting`. What was there `before` the first time
    /// stays.
    pub fn keep(&mut self, setting: &Setting, line: Line, before: Option<&str>) {
        let name = line.name().to_owned();
        let entry = Entry {
            line,
            before: before.map(str::to_owned),
            why: setting.why.clone(),
            gained: setting.gained.clone(),
        };
        match self
            .entries
            .iter_mut()
            .find(|entry| entry.line.name() == name)
        {
            Some(kept) => {
                let before = kept.before.take();
                *kept = Entry { before, ..entry };
            }
            None => self.entries.push(entry),
        }
    }

    /// Keeps nothing of `name` any more, or what `earlier` kept of it.
    pub fn restore(&mut self, name: &str, earlier: Option<Entry>) {
        let place = self
            .entries
            .iter()
            .position(|entry| entry.line.name() == name);
        if let Some(place) = place {
            self.entries.splice(place..=place, earlier);
        }
    }
}

impl fmt::Display for DropIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.entries.is_empty() {
            f.write_str(HEADER)?;
        }
        for entry in &self.entries {
            let undo = format!("midspan doctor --undo {}", entry.line.name());
            f.write_str("\n")?;
            for (label, text) in [
                (Label::Why, &entry.why),
                (Label::Gained, &entry.gained),
                (Label::Undo, &undo),
            ] {
                let first = format!("# {label}: ");
                let (first, rest) = (first.as_str(), "# ");
                write!(f, "{}", Wrapped { first, rest, text })?;
            }
            if let Some(before) = &entry.before {
                writeln!(f, "{}", format!("# {}: {before}", Label::Before).trim_end())?;
            }
            writeln!(f, "{}", entry.line)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Current, settings};
    use super::*;

    fn empty(conf: Conf) -> DropIn {
        DropIn::parse(conf, "").expect("nothing")
    }

    #[test]
    fn what_is_written_is_read_again() {
        for conf in Conf::ALL {
            let mut drop_in = empty(conf);
            assert_eq!(drop_in.to_string(), "");
            for (setting, before) in settings().expect("the files").iter().zip(
                // As the kernel separates numbers, and nothing, and not known.
                [Some("1\t2"), Some(""), None].into_iter().cycle(),
            ) {
                if setting.line.conf() == conf {
                    drop_in.keep(setting, setting.to_set(&Current::Unknown), before);
                }
            }
            let text = drop_in.to_string();
            let again = DropIn::parse(conf, &text).expect("what we wrote");
            assert_eq!(again.entries(), drop_in.entries(), "{text}");
            assert_eq!(again.to_string(), text);
        }
    }

    #[test]
    fn the_first_value_stays() {
        let mut drop_in = empty(Conf::Sysctl);
        let setting = &settings().expect("the files")[0];
        let line = |value: &str| setting.line.with_value(value).expect("a value");
        let name = setting.line.name();

        drop_in.keep(setting, line("2"), Some("1"));
        let earlier = drop_in.entry(name).cloned();
        drop_in.keep(setting, line("3"), Some("2"));
        let check = |drop_in: &DropIn, expected: Option<(&str, &str)>| {
            let entry = drop_in.entry(name);
            let kept = entry.map(|entry| (entry.before.as_deref(), entry.line.value()));
            let expected = expected.map(|(before, value)| (Some(before), value));
            assert_eq!(kept, expected);
        };
        check(&drop_in, Some(("1", "3")));
        drop_in.restore(name, earlier);
        check(&drop_in, Some(("1", "2")));
        drop_in.restore(name, None);
        check(&drop_in, None);
        assert_eq!(drop_in.to_string(), "");
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        let check = |text: &str, expected: &str| {
            let error = DropIn::parse(Conf::Sysctl, text).expect_err("not ours");
            let expected = format!("/etc/sysctl.d/60-midspan.conf:{expected}");
            assert_eq!(error.to_string(), expected);
        };
        check("a.b = 1\n", "1: this file is not of `midspan doctor`");
        let added = |line: &str| format!("{HEADER}\n{line}\n");
        check(&added("a.b = 1"), "4: no \"# Why:\" above the setting");
        check(&added("-a.b"), "4: \"-a.b\" is no setting");
    }
}
