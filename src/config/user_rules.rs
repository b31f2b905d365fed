//! What single users may, as `[[websocks.rules]]` and `[[jproxy.rules]]` have it, and rules of
//! egress.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use toml::Spanned;

use super::file::ConfigFile;
use super::limits::spec_of;
use super::{ConfigError, Problem};
use crate::access::egress::{Rule, Verdict};
use crate::access::{Allowance, Allowances};
use crate::protocol::jproxy::Dialect;

/// One table, of either kind.
#[derive(Clone, Copy)]
pub(super) struct WrittenAllowance<'a> {
    pub(super) users: &'a Spanned<Vec<Spanned<String>>>,
    pub(super) egress: &'a [Spanned<String>],
    pub(super) sessions_max: Option<&'a Spanned<u64>>,
    pub(super) dials_per_minute_max: Option<&'a Spanned<u64>>,
    pub(super) binds_max: Option<&'a Spanned<u64>>,
    pub(super) dialect: Option<&'a Dialect>,
}

/// Has `WrittenRules` be one table of a system: what both systems have, and one key of its own,
/// which is that of a [`WrittenAllowance`]. One type for both would take either's key from the
/// other.
macro_rules! written_rules {
    ($(#[$doc:meta])* $own:ident: $type:ty) => {
        $(#[$doc])*
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct WrittenRules {
            users: toml::Spanned<Vec<toml::Spanned<String>>>,
            #[serde(default)]
            egress: Vec<toml::Spanned<String>>,
            sessions_max: Option<toml::Spanned<u64>>,
            dials_per_minute_max: Option<toml::Spanned<u64>>,
            $own: Option<$type>,
        }

        impl WrittenRules {
            fn allowance(&self) -> $crate::config::user_rules::WrittenAllowance<'_> {
                $crate::config::user_rules::WrittenAllowance {
                    $own: self.$own.as_ref(),
                    ..$crate::config::user_rules::WrittenAllowance {
                        users: &self.users,
                        egress: &self.egress,
                        sessions_max: self.sessions_max.as_ref(),
                        dials_per_minute_max: self.dials_per_minute_max.as_ref(),
                        binds_max: None,
                        dialect: None,
                    }
                }
            }
        }
    };
}
pub(super) use written_rules;

/// Whom rules can be for.
pub(super) struct Known<'a> {
    /// Whether there is a user of this name, or may be one later.
    pub(super) is_user: &'a dyn Fn(&str) -> bool,
    /// Where users are listed, if anywhere.
    pub(super) path: Option<&'a Path>,
    /// The line of the configuration that says where.
    pub(super) line: &'static str,
}

/// What users may of whom the file says so. They are those that are listed, and each is in
/// one table.
pub(super) fn allowances(
    file: &ConfigFile,
    tables: &[WrittenAllowance<'_>],
    known: &Known<'_>,
) -> Result<Allowances, ConfigError> {
    let (mut allowances, mut named) = (Vec::new(), HashSet::new());
    for table in tables {
        let names = table.users.get_ref();
        if names.is_empty() {
            return Err(ConfigError::new(file.place(table.users), Problem::NoUser));
        }
        for written in names {
            let name = written.get_ref();
            let problem = match (known.is_user)(name) {
                false => Problem::NoSuchUser {
                    name: name.clone(),
                    path: known.path.map(Path::to_owned),
                    line: known.line,
                },
                true if !named.insert(name) => Problem::UserTwice { name: name.clone() },
                true => continue,
            };
            return Err(ConfigError::new(file.place(written), problem));
        }
        let users = names.iter().map(|name| name.get_ref().clone());
        let own = |written, limit| own_limit(file, written, limit);
        let allowance = Allowance {
            egress: rules(file, table.egress)?,
            sessions_max: own(table.sessions_max, "sessions_per_user_max")?,
            dials_per_minute_max: own(table.dials_per_minute_max, "dials_per_minute_max")?,
            binds_max: own(table.binds_max, "binds_per_user_max")?,
            dialect: table.dialect.copied(),
        };
        allowances.push((users.collect(), allowance));
    }
    Ok(Allowances::new(allowances))
}

/// What stands in place of the limit called `name`, within its range.
fn own_limit(
    file: &ConfigFile,
    written: Option<&Spanned<u64>>,
    name: &str,
) -> Result<Option<u32>, ConfigError> {
    let Some(written) = written else {
        return Ok(None);
    };
    let (spec, value) = (spec_of(name), *written.get_ref());
    match u32::try_from(value) {
        Ok(own) if (spec.min..=spec.max).contains(&value) => Ok(Some(own)),
        _ => {
            let (min, max) = (spec.min, spec.max);
            let problem = Problem::OutOfRange { value, min, max };
            Err(ConfigError::new(file.place(written), problem))
        }
    }
}

/// Rules as they are written, in order.
pub(super) fn rules(
    file: &ConfigFile,
    written: &[Spanned<String>],
) -> Result<Vec<Rule>, ConfigError> {
    let rule = |written: &Spanned<String>| {
        let wrong = |problem| ConfigError::new(file.place(written), problem);
        let text = written.get_ref();
        let (verdict, pattern) = match text.split_once(' ') {
            Some(("allow", pattern)) => (Verdict::Allow, pattern),
            Some(("deny", pattern)) => (Verdict::Deny, pattern),
            _ => {
                let written = text.clone();
                return Err(wrong(Problem::Rule { written }));
            }
        };
        match pattern.trim().parse() {
            Ok(pattern) => Ok(Rule { pattern, verdict }),
            Err(error) => Err(wrong(Problem::Pattern(error))),
        }
    };
    written.iter().map(rule).collect()
}

/// Tables of this name, as the file writes them.
pub(super) fn show_allowances(
    f: &mut fmt::Formatter<'_>,
    table: &str,
    allowances: &Allowances,
) -> fmt::Result {
    for (users, allowance) in allowances.all() {
        let Allowance {
            egress,
            sessions_max,
            dials_per_minute_max,
            binds_max,
            dialect,
        } = allowance;
        let users: Vec<_> = users.iter().cloned().map(toml::Value::String).collect();
        let users = toml::Value::Array(users);
        writeln!(f, "\n[[{table}]]\nusers = {users}")?;
        show_rules(f, "egress", egress)?;
        for (key, own) in [
            ("sessions_max", sessions_max),
            ("dials_per_minute_max", dials_per_minute_max),
            ("binds_max", binds_max),
        ] {
            if let Some(max) = own {
                writeln!(f, "{key} = {max}")?;
            }
        }
        if let Some(dialect) = dialect {
            writeln!(f, "dialect = \"{dialect}\"")?;
        }
    }
    Ok(())
}

/// Rules of egress, as the file writes them.
pub(super) fn show_rules(f: &mut fmt::Formatter<'_>, key: &str, rules: &[Rule]) -> fmt::Result {
    if rules.is_empty() {
        return Ok(());
    }
    writeln!(f, "{key} = [")?;
    for Rule { pattern, verdict } in rules {
        let verdict = match verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        };
        writeln!(f, "    \"{verdict} {pattern}\",")?;
    }
    writeln!(f, "]")
}
