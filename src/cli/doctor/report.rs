//! What the doctor says: whether a relay can run here, a table, and reasons for what is
//! not as it should be.

use std::fmt;

use super::tree::Tree;
use crate::runtime::kernel::{Features, Missing};
use crate::tuning::{Conf, Current, Setting, Standing, Wrapped};

/// Columns of a host's own value, after which it is cut: a list of ports has no end.
const VALUE_COLUMNS_MAX: usize = 24;

/// The whole, as it is printed.
#[derive(Debug)]
pub(super) struct Report<'a> {
    tree: &'a Tree,
    verdict: Option<&'a Result<Features, Missing>>,
    rows: Vec<Row<'a>>,
    /// Why a file that makes settings last cannot be told.
    complaints: Vec<anyhow::Error>,
}

#[derive(Debug)]
struct Row<'a> {
    setting: &'a Setting,
    current: Current,
    standing: Standing,
    /// Set by us, in place of this.
    before: Option<String>,
    is_kept: bool,
}

impl<'a> Report<'a> {
    /// Looks at the host. `verdict` is whether a relay can run in this process.
    pub(super) fn new(
        tree: &'a Tree,
        settings: &'a [Setting],
        verdict: Option<&'a Result<Features, Missing>>,
    ) -> Self {
        let mut rows = Vec::new();
        let mut complaints = Vec::new();
        for conf in Conf::ALL {
            let drop_in = tree.drop_in(conf);
            for setting in settings.iter().filter(|one| one.line.conf() == conf) {
                let drop_in = drop_in.as_ref().ok();
                let entry = drop_in.and_then(|kept| kept.entry(setting.line.name()));
                let current = tree.current(&setting.line);
                let kept = entry.map(|entry| entry.line.value());
                rows.push(Row {
                    setting,
                    standing: setting.standing(&current, kept),
                    current,
                    before: entry.and_then(|entry| entry.before.clone()),
                    is_kept: entry.is_some(),
                });
            }
            complaints.extend(drop_in.err());
        }
        Self {
            tree,
            verdict,
            rows,
            complaints,
        }
    }

    fn count(&self, standing: Standing) -> usize {
        let rows = self.rows.iter();
        rows.filter(|row| row.standing == standing).count()
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict {
            Some(Ok(features)) => writeln!(
                f,
                "A relay can run here: Linux {}, {} descriptors",
                features.kernel_release, features.descriptors_max
            )?,
            Some(Err(_)) => writeln!(f, "No relay can run here: the last lines say why")?,
            None => writeln!(
                f,
                "Settings below {} (whether a relay can run there is told from inside)",
                self.tree.root().display()
            )?,
        }
        self.table(f)?;
        for row in &self.rows {
            row.reasons(f, self.tree)?;
        }
        f.write_str("\n")?;
        for complaint in &self.complaints {
            writeln!(f, "Not looked at: {complaint:#}")?;
        }
        let doctor = self.tree.command();
        match self.count(Standing::Better) {
            0 if self.count(Standing::Depends) == 0 => writeln!(f, "Nothing to do.")?,
            0 => writeln!(
                f,
                "Nothing to do. What depends on you is set when it is named, as root:\n  \
                 {doctor} --apply NAME"
            )?,
            count => writeln!(
                f,
                "{count} could be better. Next, as root:\n  {doctor} --apply"
            )?,
        }
        if self.rows.iter().any(|row| row.is_kept) {
            writeln!(f, "To take back what was set, as root:\n  {doctor} --undo")?;
        }
        Ok(())
    }
}

impl Report<'_> {
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = ["", "setting", "now", "wanted"].map(str::to_owned);
        let rows = self.rows.iter().map(Row::cells);
        let table: Vec<[String; 4]> = [title].into_iter().chain(rows).collect();
        let width = |column: usize| {
            let cells = table.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2)];
        f.write_str("\n")?;
        for [standing, name, now, wanted] in &table {
            let [a, b, c] = widths;
            writeln!(f, "  {standing:a$}  {name:b$}  {now:c$}  {wanted}")?;
        }
        Ok(())
    }
}

impl Row<'_> {
    fn cells(&self) -> [String; 4] {
        let line = &self.setting.line;
        let standing = match self.standing {
            Standing::Enough => "ok",
            Standing::Later => match line.conf() {
                Conf::Sysctl => "ok after a boot",
                Conf::Limits => "ok after a login",
            },
            Standing::Better => "could be better",
            Standing::Depends => "depends on you",
            Standing::NotHere => "not on this kernel",
            Standing::Unclear => "unclear",
        };
        let mut now = match &self.current {
            Current::Value(value) => shown(value),
            Current::NotHere | Current::Unknown | Current::Unreadable(_) => "-".to_owned(),
        };
        if let Some(before) = &self.before {
            now += &format!(" (was {})", shown(before));
        }
        [
            standing.to_owned(),
            line.name().to_owned(),
            now,
            self.setting.enough.in_words(line.value()),
        ]
    }

    /// Why it should be otherwise, unless it is well or cannot be helped.
    fn reasons(&self, f: &mut fmt::Formatter<'_>, tree: &Tree) -> fmt::Result {
        let name = self.setting.line.name();
        let mut reasons = vec![
            ("Why", self.setting.why.clone()),
            ("Gained", self.setting.gained.clone()),
        ];
        match self.standing {
            Standing::Enough | Standing::Later | Standing::NotHere => return Ok(()),
            Standing::Better => {}
            Standing::Depends => {
                let wish = format!("{name}={}", self.setting.line.value());
                let quote = if wish.contains(' ') { "'" } else { "" };
                let text = format!("{} --apply {quote}{wish}{quote}", tree.command());
                reasons.push(("To set", text));
            }
            Standing::Unclear => {
                let path = tree.path(&self.setting.line.shown_in());
                let what = match &self.current {
                    Current::Unreadable(error) => error,
                    _ => "what it has is no value of this setting",
                };
                reasons.push(("Unclear", format!("{}: {what}", path.display())));
            }
        }
        if let Some(unit) = &self.setting.unit {
            let text = format!("{unit} in the relay's unit, if systemd starts it");
            reasons.push(("Unit", text));
        }
        writeln!(f, "\n{name}")?;
        for (label, text) in &reasons {
            let first = format!("  {label}: ");
            let (first, rest) = (first.as_str(), "    ");
            write!(f, "{}", Wrapped { first, rest, text })?;
        }
        Ok(())
    }
}

/// A value of a host's in one short line.
pub(super) fn shown(value: &str) -> String {
    let words: Vec<&str> = value.split_whitespace().collect();
    let value = words.join(" ");
    if value.is_empty() {
        return "nothing".to_owned();
    }
    let end = value.char_indices().nth(VALUE_COLUMNS_MAX);
    match end {
        Some((end, _)) => format!("{}...", value[..end].escape_debug()),
        None => value.escape_debug().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short_and_in_one_line() {
        for (value, expected) in [
            ("", "nothing"),
            ("32768\t60999", "32768 60999"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("123456789.123456789.1234", "123456789.123456789.1234"),
            ("123456789.123456789.12345", "123456789.123456789.1234..."),
        ] {
            assert_eq!(shown(value), expected);
        }
    }
}
