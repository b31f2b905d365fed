//! Whom the relay dials for, and where: `[websocks]` and `[egress]`.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::error::UserReason;
use super::file::ConfigFile;
use super::{ConfigError, Place, Problem};
use crate::access::egress::{Egress, Reach, Rule, Verdict};
use crate::access::{PasswordDigest, User, Users};

/// `[websocks]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenWebsocks {
    users: Option<Spanned<PathBuf>>,
}

/// `[egress]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenEgress {
    reach: Option<WrittenReach>,
    #[serde(default)]
    rules: Vec<Spanned<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenReach {
    Public,
    Everything,
}

/// Bits of a file's mode that let others read it.
const OTHERS_READ: u32 = 0o004;

/// Users, and the file that lists them, a line each: the name, a colon, and the base64 of
/// the password's SHA-256. As secret as the passwords, so a file of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsersFile {
    /// Where they are; `None`: nobody is known.
    pub path: Option<PathBuf>,
    /// Those that it lists.
    pub users: Users,
}

impl UsersFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or by anybody; or a line that is none.
    fn read(path: &Path) -> Result<Self, Problem> {
        let unreadable = |error| Problem::UsersUnreadable { error };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
        if mode & OTHERS_READ != 0 {
            let path = path.to_owned();
            return Err(Problem::UsersOpen { path, mode });
        }
        let text = io::read_to_string(file).map_err(unreadable)?;
        Ok(Self {
            path: Some(path.to_owned()),
            users: parse(&text)?,
        })
    }

    /// The same file, read again.
    ///
    /// # Errors
    ///
    /// As when it was read first.
    pub fn read_again(&self) -> Result<Self, ConfigError> {
        match &self.path {
            None => Ok(Self::default()),
            Some(path) => Self::read(path)
                .map_err(|problem| ConfigError::new(Place::WholeFile(path.clone()), problem)),
        }
    }
}

fn parse(text: &str) -> Result<Users, Problem> {
    let mut users: Vec<User> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |reason| Problem::UsersLine { number, reason };
        let (name, password) = line.split_once(':').ok_or(wrong(UserReason::NoColon))?;
        if name.is_empty() {
            return Err(wrong(UserReason::NoName));
        }
        if users.iter().any(|user| user.name == name) {
            return Err(wrong(UserReason::Twice));
        }
        let password: PasswordDigest = password
            .parse()
            .map_err(|error| wrong(UserReason::Password(error)))?;
        let name = name.to_owned();
        users.push(User { name, password });
    }
    Ok(Users::new(users))
}

/// The users of the file that the configuration names. Without it, WebSocks is not served.
pub(super) fn users(file: Option<&ConfigFile>) -> Result<UsersFile, ConfigError> {
    let in_file = file.and_then(|file| Some((file, file.written().websocks.users.as_ref()?)));
    let Some((file, written)) = in_file else {
        return Ok(UsersFile::default());
    };
    let wrong = |problem| ConfigError::new(file.place(written), problem);
    let path = written.get_ref();
    if !path.is_absolute() {
        return Err(wrong(Problem::RelativePath { path: path.clone() }));
    }
    UsersFile::read(path).map_err(wrong)
}

/// Where may be dialled: by the rules of the file, and beyond them what is public, or on
/// a relay that only this host reaches, everything.
pub(super) fn egress(
    file: Option<&ConfigFile>,
    is_loopback_only: bool,
) -> Result<Egress, ConfigError> {
    let by_default = match is_loopback_only {
        true => Reach::Everything,
        false => Reach::Public,
    };
    let Some(file) = file else {
        return Ok(Egress::new(Vec::new(), by_default));
    };
    let written = &file.written().egress;
    let reach = match written.reach {
        Some(WrittenReach::Public) => Reach::Public,
        Some(WrittenReach::Everything) => Reach::Everything,
        None => by_default,
    };
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
    let rules: Result<_, _> = written.rules.iter().map(rule).collect();
    Ok(Egress::new(rules?, reach))
}

/// Where users are listed, and egress rules, as the file writes them.
pub(super) struct Shown<'a>(pub(super) &'a UsersFile, pub(super) &'a Egress);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(users, egress) = self;
        let reach = match egress.reach() {
            Reach::Public => "public",
            Reach::Everything => "everything",
        };
        writeln!(f, "\n[egress]\nreach = \"{reach}\"")?;
        if !egress.rules().is_empty() {
            writeln!(f, "rules = [")?;
            for Rule { pattern, verdict } in egress.rules() {
                let verdict = match verdict {
                    Verdict::Allow => "allow",
                    Verdict::Deny => "deny",
                };
                writeln!(f, "    \"{verdict} {pattern}\",")?;
            }
            writeln!(f, "]")?;
        }
        if let Some(path) = &users.path {
            let path = toml::Value::String(path.to_string_lossy().into_owned());
            writeln!(f, "\n[websocks]\nusers = {path}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_listed_a_line_each() {
        let kept = PasswordDigest::of("pasSw0rD").to_string();
        let check = |text: &str, expected: Result<&[&str], &str>| {
            let got = parse(text).map_err(|problem| problem.to_string());
            let names = got.as_ref().map(|users| {
                let names = users.all().iter().map(|user| user.name.as_str());
                names.collect::<Vec<_>>()
            });
            match expected {
                Ok(expected) => assert_eq!(names, Ok(expected.to_vec()), "{text}"),
                Err(part) => assert!(got.is_err_and(|error| error.contains(part)), "{text}"),
            }
        };
        check("", Ok(&[]));
        check(
            &format!("# who\n\nalice:{kept}\n b:{kept} \r\n"),
            Ok(&["alice", "b"]),
        );
        check("alice", Err("line 1: no colon"));
        check(&format!("\n:{kept}"), Err("line 2: no name"));
        check(
            &format!("a:{kept}\na:{kept}"),
            Err("line 2: the user is listed twice"),
        );
        check("alice:pasSw0rD", Err("line 1: a password is kept as"));
    }
}
