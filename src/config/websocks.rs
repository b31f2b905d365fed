//! Whom the relay dials for, or awaits somebody, and where: `[websocks]` and `[egress]`.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::error::UserReason;
use super::file::ConfigFile;
use super::user_rules::{Known, allowances, rules, show_allowances, show_rules, written_rules};
use super::{ConfigError, Place, Problem};
use crate::access::egress::{Egress, Reach};
use crate::access::{Allowances, Awaiting, PasswordDigest, User, Users};

/// `[websocks]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenWebsocks {
    users: Option<Spanned<PathBuf>>,
    #[serde(default)]
    bind: WrittenBind,
    #[serde(default)]
    rules: Vec<WrittenRules>,
}

/// `[websocks.bind]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenBind {
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    #[serde(default)]
    anybody: bool,
}

written_rules! {
    /// `[[websocks.rules]]`
    binds_max: Spanned<u64>
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
pub(super) const OTHERS_READ: u32 = 0o004;

/// Users, and the file that lists them, a line each: the name, a colon, and the base64 of
/// the password's SHA-256. As secret as the passwords, so a file of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsersFile {
    /// Where they are; `None`: nobody is known.
    pub path: Option<PathBuf>,
    /// Those that it lists.
    pub users: Users,
    /// What some of them may, by the configuration.
    pub allowances: Allowances,
}

impl UsersFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or by anybody; or a line that is none.
    fn read(path: &Path) -> Result<Self, Problem> {
        let unreadable = |error| Problem::UsersUnreadable {
            path: path.to_owned(),
            error,
        };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(unreadable(io::ErrorKind::IsADirectory.into()));
        }
        let mode = metadata.mode() & 0o7777;
        if mode & OTHERS_READ != 0 {
            let path = path.to_owned();
            return Err(Problem::UsersOpen { path, mode });
        }
        let text = io::read_to_string(file).map_err(unreadable)?;
        Ok(Self {
            path: Some(path.to_owned()),
            users: parse(&text)?,
            allowances: Allowances::default(),
        })
    }

    /// The same file, read again. Whoever is gone from it may not stay because rules are
    /// left, so that these are not looked at.
    ///
    /// # Errors
    ///
    /// As when it was read first.
    pub fn read_again(&self) -> Result<Self, ConfigError> {
        let Some(path) = &self.path else {
            return Ok(self.clone());
        };
        let wrong = |problem| ConfigError::new(Place::WholeFile(path.clone()), problem);
        let fresh = Self::read(path).map_err(wrong)?;
        let allowances = self.allowances.clone();
        Ok(Self {
            allowances,
            ..fresh
        })
    }
}

fn parse(text: &str) -> Result<Users, Problem> {
    let (mut users, mut names) = (Vec::new(), HashSet::new());
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
        if !names.insert(name) {
            return Err(wrong(UserReason::Twice));
        }
        let password: PasswordDigest = password
            .parse()
            .map_err(|error| wrong(UserReason::Password(error)))?;
        let name = name.into();
        users.push(User { name, password });
    }
    Ok(Users::new(users))
}

/// The users of the file that the configuration names, with what they may. Without it,
/// WebSocks is not served.
pub(super) fn users(file: Option<&ConfigFile>) -> Result<UsersFile, ConfigError> {
    let Some(file) = file else {
        return Ok(UsersFile::default());
    };
    let WrittenWebsocks { users, rules, .. } = &file.written().websocks;
    let listed = match users {
        None => UsersFile::default(),
        Some(written) => {
            let wrong = |problem| ConfigError::new(file.place(written), problem);
            let path = written.get_ref();
            if !path.is_absolute() {
                return Err(wrong(Problem::RelativePath { path: path.clone() }));
            }
            UsersFile::read(path).map_err(wrong)?
        }
    };
    let known = Known {
        is_user: &|name| listed.users.find(name).is_some(),
        path: listed.path.as_deref(),
        line: "[websocks] users = \"/etc/midspan/users\"",
    };
    let tables: Vec<_> = rules.iter().map(WrittenRules::allowance).collect();
    let allowances = allowances(file, &tables, &known)?;
    Ok(UsersFile {
        allowances,
        ..listed
    })
}

/// Where visitors' peers are awaited. Without an address of a family none of it is.
pub(super) fn awaiting(file: Option<&ConfigFile>) -> Result<Awaiting, ConfigError> {
    let Some(file) = file else {
        return Ok(Awaiting::default());
    };
    let WrittenBind { addresses, anybody } = &file.written().websocks.bind;
    let mut awaiting = Awaiting {
        addresses: Vec::new(),
        anybody: *anybody,
    };
    for written in addresses {
        let wrong = |problem| ConfigError::new(file.place(written), problem);
        let text = written.get_ref();
        // Visitors are told it, so that it has to be one to which others can connect.
        let is_one = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast();
        let Some(ip) = text.parse().ok().filter(is_one) else {
            let written = text.clone();
            return Err(wrong(Problem::BindAddress { written }));
        };
        // As one of IPv6 it would be awaited at, and told, as what nobody can connect to.
        if ip.to_canonical() != ip {
            let ip = ip.to_canonical();
            return Err(wrong(Problem::BindAddressMapped { ip }));
        }
        if awaiting.of_family(ip).is_some() {
            return Err(wrong(Problem::BindFamilyTwice { ip }));
        }
        awaiting.addresses.push(ip);
    }
    Ok(awaiting)
}

/// Where may be dialled: by the rules of the file, and beyond them what is public. That a
/// relay listens on loopback does not tell who comes: a gateway may stand before it.
pub(super) fn egress(file: Option<&ConfigFile>) -> Result<Egress, ConfigError> {
    let Some(file) = file else {
        return Ok(Egress::default());
    };
    let written = &file.written().egress;
    let reach = match written.reach {
        Some(WrittenReach::Public) | None => Reach::Public,
        Some(WrittenReach::Everything) => Reach::Everything,
    };
    Ok(Egress::new(rules(file, &written.rules)?, reach))
}

/// Where users are listed, what they may, where somebody is awaited for them, and egress
/// rules, as the file writes them.
pub(super) struct Shown<'a>(
    pub(super) &'a UsersFile,
    pub(super) &'a Awaiting,
    pub(super) &'a Egress,
);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(users, awaiting, egress) = self;
        let reach = match egress.reach() {
            Reach::Public => "public",
            Reach::Everything => "everything",
        };
        writeln!(f, "\n[egress]\nreach = \"{reach}\"")?;
        show_rules(f, "rules", egress.rules())?;
        if let Some(path) = &users.path {
            let path = toml::Value::String(path.to_string_lossy().into_owned());
            writeln!(f, "\n[websocks]\nusers = {path}")?;
        }
        if **awaiting != Awaiting::default() {
            let addresses = awaiting.addresses.iter();
            let addresses: Vec<_> = addresses.map(|ip| format!("\"{ip}\"")).collect();
            writeln!(
                f,
                "\n[websocks.bind]\naddresses = [{}]",
                addresses.join(", ")
            )?;
            writeln!(f, "anybody = {}", awaiting.anybody)?;
        }
        show_allowances(f, "websocks.rules", &users.allowances)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn users_are_listed_a_line_each() {
        let kept = PasswordDigest::of("pasSw0rD").to_string();
        let check = |text: &str, expected: Result<&[&str], &str>| {
            let got = parse(text).map_err(|problem| problem.to_string());
            let names = got.as_ref().map(|users| {
                let names = users.all().iter().map(|user| &*user.name);
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

    /// A file of alice, bob and carol, and a configuration that names it.
    fn with_users(rules: &str) -> (tempfile::TempDir, PathBuf, ConfigFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let kept = PasswordDigest::of("pasSw0rD");
        fs::write(&path, format!("alice:{kept}\nbob:{kept}\ncarol:{kept}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let text = format!("[websocks]\nusers = {path:?}\n{rules}");
        let file = ConfigFile::parse(Path::new("midspan.toml"), text).unwrap();
        (folder, path, file)
    }

    #[test]
    fn users_have_their_own_rules_and_limits() {
        let written = "[[websocks.rules]]\nusers = [\"alice\", \"bob\"]\nsessions_max = 10\n\
             egress = [\"allow 10.1.0.0/16\", \"deny *:25\"]\n\
             [[websocks.rules]]\nusers = [\"carol\"]\ndials_per_minute_max = 0\n\
             binds_max = 3\n";
        let (_folder, path, file) = with_users(written);
        let users = users(Some(&file)).unwrap();
        let of_alice = users.allowances.of("alice").unwrap();
        assert_eq!(of_alice.egress.len(), 2);
        assert_eq!(of_alice.sessions_max, Some(10));
        assert_eq!(of_alice.dials_per_minute_max, None);
        assert_eq!(users.allowances.of("bob"), Some(of_alice));
        let of_carol = users.allowances.of("carol").unwrap();
        assert_eq!(of_carol.dials_per_minute_max, Some(0));
        assert_eq!(of_carol.binds_max, Some(3));
        assert_eq!(users.allowances.of("dave"), None);

        // It is shown as it could be written.
        let shown = Shown(&users, &Awaiting::default(), &Egress::default()).to_string();
        let again = ConfigFile::parse(Path::new("again.toml"), shown).unwrap();
        assert_eq!(super::users(Some(&again)).unwrap(), users);

        // Whoever is gone from the file alone is gone, whatever rules are left.
        let kept = PasswordDigest::of("pasSw0rD");
        fs::write(&path, format!("alice:{kept}\n")).unwrap();
        let fresh = users.read_again().unwrap();
        assert!(fresh.users.find("alice").is_some() && fresh.users.find("bob").is_none());
        assert_eq!(fresh.allowances, users.allowances);
    }

    #[test]
    fn rules_are_for_users_that_there_are_and_once() {
        let check = |rules: &str, expected: &str, step: &str| {
            let (_folder, _, file) = with_users(rules);
            let error = users(Some(&file)).unwrap_err();
            assert_eq!(error.to_string(), expected);
            let next = error.next_step().unwrap_or_default();
            assert!(next.contains(step), "{next}");
        };
        check(
            "[[websocks.rules]]\nusers = [\"alice\", \"dave\"]\n",
            "midspan.toml:4:19: there is no user \"dave\"",
            "/users, or leave the name out here",
        );
        check(
            "[[websocks.rules]]\nusers = [\"bob\"]\n[[websocks.rules]]\nusers = [\"bob\"]\n",
            "midspan.toml:6:10: the user \"bob\" has rules already",
            "one table",
        );
        check(
            "[[websocks.rules]]\nusers = []\n",
            "midspan.toml:4:9: no user is named",
            "",
        );
        check(
            "[[websocks.rules]]\nusers = [\"bob\"]\nsessions_max = 99999999\n",
            "midspan.toml:5:16: 99999999 is outside 0 to 16777216",
            "",
        );
    }
}
