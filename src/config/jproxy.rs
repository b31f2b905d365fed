//! Whom the relay serves by jProxy's tunnels, and how: `[jproxy]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::file::ConfigFile;
use super::shell_word::quoted_path;
use super::tunnel_users::{self, Listing, WrongFile};
use super::user_rules::{self, Known, show_allowances, written_rules};
use super::{ConfigError, Place, Problem};
use crate::access::Allowances;
use crate::access::jproxy::TunnelUsers;
use crate::protocol::jproxy::Dialect;

/// Seconds that a destination which takes nothing may hold up its tunnel: long enough for a
/// packet that is lost on the way, and no longer than others of the tunnel bear.
const STUCK_DEFAULT_S: u64 = 2;
const STUCK_MIN_S: u64 = 1;
const STUCK_MAX_S: u64 = 10;

/// Names of rules for nobody that are told.
const MISSING_TOLD_MAX: usize = 8;

/// `[jproxy]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenJproxy {
    users: Option<Spanned<PathBuf>>,
    #[serde(default)]
    dialect: Dialect,
    #[serde(default)]
    icmp: bool,
    stuck_s: Option<Spanned<u64>>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    rules: Vec<WrittenRules>,
}

written_rules! {
    /// `[[jproxy.rules]]`
    dialect: Dialect
}

/// How jProxy is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JproxySettings {
    /// The directory of its users; `None`: it is not served.
    pub path: Option<PathBuf>,
    /// Those whose files are there.
    pub users: TunnelUsers,
    /// Files that are none of them, of a relay that runs: none may be wrong where one starts.
    pub wrong: Vec<WrongFile>,
    /// Whether anybody may add files to the directory.
    pub is_open: bool,
    /// What some of them may, by the configuration.
    pub allowances: Allowances,
    /// Whom that names, in order, and where it does.
    named: Vec<(String, Place)>,
    /// How packets are written where neither a user's rules nor a listener say so.
    pub dialect: Dialect,
    /// Whether users may have hosts asked whether they are there.
    pub icmp: bool,
    /// How long a destination that takes nothing may hold up its tunnel.
    pub stuck: Duration,
    /// Whether other hosts may reach a listener that serves it without TLS.
    pub insecure: bool,
}

impl Default for JproxySettings {
    fn default() -> Self {
        Self {
            path: None,
            users: TunnelUsers::default(),
            wrong: Vec::new(),
            is_open: false,
            allowances: Allowances::default(),
            named: Vec::new(),
            dialect: Dialect::default(),
            icmp: false,
            stuck: Duration::from_secs(STUCK_DEFAULT_S),
            insecure: false,
        }
    }
}

impl JproxySettings {
    /// The same, with users read again. Those whose files are wrong stay as they are. Whoever is
    /// gone from the directory may not stay because rules are left, so that these are not looked
    /// at.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn read_again(&self) -> Result<Self, ConfigError> {
        let Some(path) = &self.path else {
            return Ok(self.clone());
        };
        // The error names the directory itself.
        let wrong = |error| ConfigError::new(Place::Default, Problem::TunnelUsers(error));
        let Listing {
            users,
            wrong,
            is_open,
        } = tunnel_users::read(path, &self.users).map_err(wrong)?;
        Ok(Self {
            users,
            wrong: wrong.iter().map(WrongFile::from).collect(),
            is_open,
            ..self.clone()
        })
    }

    /// What is valid, and yet perhaps not what was meant.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let Some(path) = &self.path else {
            let note = "[jproxy] says how jProxy is served, and jproxy.users is not set: it is not";
            let is_silent = *self == Self::default();
            return (!is_silent).then(|| note.to_owned()).into_iter().collect();
        };
        let (shown, word) = (path.display(), quoted_path(path));
        let is_empty = self.users.is_empty();
        let empty = is_empty.then(|| {
            format!(
                "{shown} has no user's file: nobody is let in by jProxy; to make one, with the \
                 user's own name for NAME: midspan key jproxy NAME --key-file FILE --user-dir {word}"
            )
        });
        let open = self
            .is_open
            .then(|| format!("anybody on this host may add users to {shown}: chmod o-w {word}"));
        let notes = [empty, open, self.rules_for_nobody()];
        notes.into_iter().flatten().collect()
    }

    /// Whom rules are for that is not there, and where they are; `None` where everybody is there.
    #[must_use]
    pub fn rules_for_nobody(&self) -> Option<String> {
        let shown = self.path.as_ref()?.display();
        let nobody = |(name, _): &&(String, Place)| self.users.named(name).is_none();
        let missing: Vec<_> = self.named.iter().filter(nobody).collect();
        let told = missing.iter().take(MISSING_TOLD_MAX);
        let told: Vec<_> = told.map(|(name, at)| format!("{name:?} at {at}")).collect();
        let others = match missing.len() - told.len() {
            0 => String::new(),
            others => format!(", and {others} more"),
        };
        (!missing.is_empty()).then(|| {
            format!(
                "[[jproxy.rules]] has rules for users of whom {shown} has no file that is taken: \
                 {}{others}; they hold as soon as there is one, and until then for nobody: if a \
                 name is misspelt, whoever was meant is not restricted by them",
                told.join(", ")
            )
        })
    }

    /// What to look at to find out whether it is to be read again: the directory, and users'
    /// files in it now.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let files = self.path.iter().flat_map(|path| tunnel_users::files(path));
        self.path.iter().cloned().chain(files.flatten()).collect()
    }
}

/// How the file has jProxy served. Without `users` it is not. A user's file that is wrong is an
/// error, unless `served` are those whom a relay that runs has let in until now. Rules may be for
/// whom there is no file: to remove a user's takes its key back, and may not keep the relay from
/// its next start.
pub(super) fn jproxy(
    file: Option<&ConfigFile>,
    served: Option<&TunnelUsers>,
) -> Result<JproxySettings, ConfigError> {
    let Some(file) = file else {
        return Ok(JproxySettings::default());
    };
    let written = &file.written().jproxy;
    let mut settings = match &written.users {
        None => JproxySettings::default(),
        Some(users) => {
            let wrong = |problem| ConfigError::new(file.place(users), problem);
            let path = users.get_ref();
            if !path.is_absolute() {
                return Err(wrong(Problem::RelativePath { path: path.clone() }));
            }
            let misread = |error| wrong(Problem::TunnelUsers(error));
            let nobody = TunnelUsers::default();
            let listing = tunnel_users::read(path, served.unwrap_or(&nobody)).map_err(misread)?;
            let wrong = listing.wrong.iter().map(WrongFile::from).collect();
            if let (None, Some((first, _))) = (served, listing.wrong.into_iter().next()) {
                return Err(misread(first));
            }
            JproxySettings {
                path: Some(path.clone()),
                users: listing.users,
                wrong,
                is_open: listing.is_open,
                ..JproxySettings::default()
            }
        }
    };
    let known = Known {
        is_user: &|_| settings.path.is_some(),
        path: settings.path.as_deref(),
        line: "[jproxy] users = \"/etc/midspan/jproxy\"",
    };
    let tables: Vec<_> = written.rules.iter().map(WrittenRules::allowance).collect();
    settings.allowances = user_rules::allowances(file, &tables, &known)?;
    let users = tables.iter().flat_map(|table| table.users.get_ref());
    let named = users.map(|name| (name.get_ref().clone(), file.place(name)));
    settings.named = named.collect();
    Ok(JproxySettings {
        dialect: written.dialect,
        icmp: written.icmp,
        stuck: stuck(file, written.stuck_s.as_ref())?,
        insecure: written.insecure,
        ..settings
    })
}

fn stuck(file: &ConfigFile, written: Option<&Spanned<u64>>) -> Result<Duration, ConfigError> {
    let Some(written) = written else {
        return Ok(Duration::from_secs(STUCK_DEFAULT_S));
    };
    let (value, min, max) = (*written.get_ref(), STUCK_MIN_S, STUCK_MAX_S);
    match (min..=max).contains(&value) {
        true => Ok(Duration::from_secs(value)),
        false => {
            let problem = Problem::OutOfRange { value, min, max };
            Err(ConfigError::new(file.place(written), problem))
        }
    }
}

/// As the file writes it.
pub(super) struct Shown<'a>(pub(super) &'a JproxySettings);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(settings) = self;
        if **settings == JproxySettings::default() {
            return Ok(());
        }
        f.write_str("\n[jproxy]\n")?;
        if let Some(path) = &settings.path {
            let path = toml::Value::String(path.to_string_lossy().into_owned());
            writeln!(f, "users = {path}")?;
        }
        writeln!(f, "dialect = \"{}\"", settings.dialect)?;
        writeln!(f, "icmp = {}", settings.icmp)?;
        writeln!(f, "stuck_s = {}", settings.stuck.as_secs())?;
        writeln!(f, "insecure = {}", settings.insecure)?;
        show_allowances(f, "jproxy.rules", &settings.allowances)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::access::jproxy::KeyPair;

    /// A user's file, for its owner alone.
    fn add(folder: &Path, name: &str) -> PathBuf {
        let pair = KeyPair::generate(name).unwrap();
        let path = folder.join(&pair.user_file_name);
        fs::write(&path, &pair.user_file).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn parse(folder: &Path, more: &str) -> Result<JproxySettings, ConfigError> {
        let text = format!("[jproxy]\nusers = {folder:?}\n{more}");
        jproxy(
            Some(&ConfigFile::parse(Path::new("midspan.toml"), text)?),
            None,
        )
    }

    fn names(settings: &JproxySettings) -> Vec<&str> {
        let users = settings.users.all().iter();
        users.map(|user| &**user.name()).collect()
    }

    #[test]
    fn users_are_files_of_a_directory_with_rules_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let of_alice = add(folder, "alice");
        add(folder, "bob");
        for other in [".hidden.dat", "README", "bob.dat~"] {
            fs::write(folder.join(other), "").unwrap();
        }
        let written = "dialect = \"original\"\nicmp = true\nstuck_s = 10\ninsecure = true\n\
             [[jproxy.rules]]\nusers = [\"alice\"]\negress = [\"deny *:25\"]\nsessions_max = 4\n\
             dials_per_minute_max = 9\ndialect = \"spec\"\n";
        let settings = parse(folder, written).unwrap();
        assert_eq!(names(&settings), ["alice", "bob"]);
        let of = |name| settings.allowances.of(name);
        let alices = of("alice").unwrap();
        assert_eq!(alices.dialect, Some(Dialect::Spec));
        assert_eq!((alices.sessions_max, alices.binds_max), (Some(4), None));
        assert_eq!(
            (alices.dials_per_minute_max, alices.egress.len()),
            (Some(9), 1)
        );
        assert_eq!(of("bob"), None);
        assert_eq!(settings.dialect, Dialect::Original);
        assert!(settings.icmp && settings.insecure);
        assert_eq!(settings.stuck, Duration::from_secs(10));

        // It is shown as it could be written.
        let shown = Shown(&settings).to_string();
        let again = ConfigFile::parse(Path::new("again.toml"), shown).unwrap();
        let again = jproxy(Some(&again), None).unwrap();
        assert_ne!(again.named, settings.named);
        let named = settings.named.clone();
        assert_eq!(JproxySettings { named, ..again }, settings);

        // Whoever is gone from the directory alone is gone, whatever rules are left.
        let before = settings.files();
        assert_eq!(before.len(), 3);
        fs::remove_file(of_alice).unwrap();
        add(folder, "carol");
        let fresh = settings.read_again().unwrap();
        assert_eq!(names(&fresh), ["bob", "carol"]);
        assert_eq!(fresh.allowances, settings.allowances);
        assert_ne!(fresh.files(), before);

        let nothing = ConfigFile::parse(Path::new("midspan.toml"), String::new()).unwrap();
        let nothing = jproxy(Some(&nothing), None).unwrap();
        assert_eq!(nothing, JproxySettings::default());
        assert_eq!(nothing.files(), Vec::<PathBuf>::new());
        assert_eq!(Shown(&nothing).to_string(), "");
    }

    #[test]
    fn a_file_that_is_wrong_costs_no_other_user() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let of_alice = add(folder, "alice");
        add(folder, "bob");
        let settings = parse(folder, "").unwrap();
        let alices = *settings.users.named("alice").unwrap().hash();
        let check = |expected: &[&str], errors: &[(&str, Option<&str>)]| {
            let fresh = settings.read_again().unwrap();
            assert_eq!(names(&fresh), expected);
            assert_eq!(fresh.wrong.len(), errors.len(), "{:?}", fresh.wrong);
            for (file, (error, keeps)) in fresh.wrong.iter().zip(errors) {
                assert!(file.error.contains(error), "{}", file.error);
                assert_eq!(file.error.matches(folder.to_str().unwrap()).count(), 1);
                assert_eq!(file.keeps.as_deref(), *keeps, "{}", file.error);
                assert!(file.next_step.is_some());
            }
            // A relay that is told to read its file again does the same; one that starts has no
            // such file.
            let text = format!("[jproxy]\nusers = {folder:?}\n");
            let file = ConfigFile::parse(Path::new("midspan.toml"), text).unwrap();
            assert_eq!(jproxy(Some(&file), Some(&settings.users)).unwrap(), fresh);
            assert_eq!(jproxy(Some(&file), None).is_err(), !errors.is_empty());
            fresh
        };

        // Half written, or open to all, it is whose it was.
        let whole = fs::read(&of_alice).unwrap();
        fs::write(&of_alice, &whole[..100]).unwrap();
        let of_carol = add(folder, "carol");
        check(&["alice", "bob", "carol"], &[("it ends", Some("alice"))]);
        fs::write(&of_alice, &whole).unwrap();
        for (mode, error) in [(0o644, "read by anybody"), (0o602, "changed by anybody")] {
            fs::set_permissions(&of_alice, Permissions::from_mode(mode)).unwrap();
            check(&["alice", "bob", "carol"], &[(error, Some("alice"))]);
        }
        fs::set_permissions(&of_alice, Permissions::from_mode(0o600)).unwrap();

        // Whoever was never let in is not.
        let name = format!("{}.dat", "0".repeat(64));
        fs::rename(&of_carol, folder.join(&name)).unwrap();
        check(&["alice", "bob"], &[("its content", None)]);
        fs::remove_file(folder.join(&name)).unwrap();

        // Of two keys it is the older one, until that is gone.
        let second = add(folder, "alice");
        let fresh = check(&["alice", "bob"], &[("listed twice", Some("alice"))]);
        assert_eq!(fresh.users.named("alice").unwrap().hash(), &alices);
        fs::write(&of_alice, "").unwrap();
        let fresh = check(&["alice", "bob"], &[("it ends", None)]);
        assert_ne!(fresh.users.named("alice").unwrap().hash(), &alices);
        fs::remove_file(second).unwrap();

        // Whose file is gone is gone.
        check(&["alice", "bob"], &[("it ends", Some("alice"))]);
        fs::remove_file(&of_alice).unwrap();
        check(&["bob"], &[]);
    }

    /// Whoever was never let in is not known by name, and its rules hold from when it is.
    #[test]
    fn rules_for_whom_no_file_is_taken_wait_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        add(folder, "bob");
        let served = parse(folder, "").unwrap().users;
        let of_alice = add(folder, "alice");
        fs::set_permissions(&of_alice, Permissions::from_mode(0o644)).unwrap();
        let rules = "[[jproxy.rules]]\nusers = [\"bob\", \"alice\"]\nsessions_max = 4\n";
        let running = |text: String| {
            let file = ConfigFile::parse(Path::new("midspan.toml"), text).unwrap();
            jproxy(Some(&file), Some(&served))
        };
        let settings = running(format!("[jproxy]\nusers = {folder:?}\n{rules}")).unwrap();
        assert_eq!(names(&settings), ["bob"]);
        let notes = settings.notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        let told = "taken: \"alice\" at midspan.toml:4:17; ";
        assert!(notes[0].contains(told), "{notes:?}");
        assert!(notes[0].contains("whoever was meant is not restricted"));

        fs::set_permissions(&of_alice, Permissions::from_mode(0o600)).unwrap();
        let settings = settings.read_again().unwrap();
        assert_eq!(names(&settings), ["alice", "bob"]);
        let alices = settings.allowances.of("alice").unwrap();
        assert_eq!(alices.sessions_max, Some(4));
        assert_eq!(settings.notes(), Vec::<String>::new());

        // So it is where a relay starts when a key was taken back.
        let carol = "[[jproxy.rules]]\nusers = [\"carol\"]\n";
        let notes = parse(folder, carol).unwrap().notes();
        assert!(notes[0].contains("\"carol\" at "), "{notes:?}");
        let names: Vec<_> = (0..10).map(|number| format!("\"u{number}\"")).collect();
        let many = format!("[[jproxy.rules]]\nusers = [{}]\n", names.join(", "));
        let notes = parse(folder, &many).unwrap().notes();
        assert!(notes[0].contains(", and 2 more; "), "{notes:?}");

        // Where nobody is listed, nobody can be later.
        let error = running(rules.to_owned()).unwrap_err().to_string();
        assert!(error.contains("there is no user \"bob\""), "{error}");
    }

    #[test]
    fn a_directory_that_is_empty_or_open_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let check = |expected: &[&str]| {
            let notes = parse(folder, "").unwrap().notes();
            assert_eq!(notes.len(), expected.len(), "{notes:?}");
            for (note, part) in notes.iter().zip(expected) {
                assert!(note.contains(part), "{note}");
            }
        };
        check(&["has no user's file"]);
        fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
        check(&["has no user's file", "chmod o-w"]);
        add(folder, "alice");
        check(&["chmod o-w"]);
        fs::set_permissions(folder, Permissions::from_mode(0o750)).unwrap();
        check(&[]);
        assert_eq!(JproxySettings::default().notes(), Vec::<String>::new());
        let text = "[jproxy]\ndialect = \"original\"\n".to_owned();
        let file = ConfigFile::parse(Path::new("midspan.toml"), text).unwrap();
        let notes = jproxy(Some(&file), None).unwrap().notes();
        assert!(notes[0].contains("jproxy.users is not set"), "{notes:?}");
    }

    #[track_caller]
    fn check(folder: &Path, more: &str, expected: &str, step: &str) {
        let error = parse(folder, more).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        let next = error.next_step().unwrap_or_default();
        assert!(next.contains(step), "{next}");
    }

    #[test]
    fn what_is_wrong_with_a_users_file_is_told_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let of_alice = add(folder, "alice");
        let (shown, folder_shown) = (of_alice.display(), folder.display());

        fs::set_permissions(&of_alice, Permissions::from_mode(0o644)).unwrap();
        let open = format!("jproxy.users: {shown} can be read by anybody (mode 0644)");
        check(folder, "", &open, &format!("chmod 640 {shown}"));
        fs::set_permissions(&of_alice, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(names(&parse(folder, "").unwrap()), ["alice"]);

        let second = add(folder, "alice");
        check(
            folder,
            "",
            "the user \"alice\" is listed twice: by ",
            "older",
        );
        let error = parse(folder, "").unwrap_err().to_string();
        for path in [&of_alice, &second] {
            assert!(error.contains(path.file_name().unwrap().to_str().unwrap()));
        }

        fs::rename(&second, folder.join("alice.dat")).unwrap();
        let text = format!(
            "{}/alice.dat is no user's file: the file's name",
            folder.display()
        );
        check(folder, "", &text, "by its hash");
        let name = format!("{}.dat", "0".repeat(64));
        fs::rename(folder.join("alice.dat"), folder.join(&name)).unwrap();
        check(
            folder,
            "",
            &format!("{name} is no user's file: its content"),
            "mv -n ",
        );
        fs::write(folder.join(&name), "").unwrap();
        check(
            folder,
            "",
            &format!("{name} is no user's file: it ends"),
            "midspan key",
        );
        fs::remove_file(folder.join(&name)).unwrap();
        fs::create_dir(folder.join(&name)).unwrap();
        check(
            folder,
            "",
            &format!("{name}: it is no file"),
            "move it elsewhere",
        );
        fs::remove_dir(folder.join(&name)).unwrap();
        symlink("/nowhere", folder.join(&name)).unwrap();
        check(
            folder,
            "",
            "No such file",
            &format!("rm {folder_shown}/{name}"),
        );
        check(&of_alice, "", "Not a directory", "name a directory");
        check(&folder.join("x"), "", "No such file", "mkdir -m 750");
    }

    #[test]
    fn rules_and_numbers_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        add(folder, "alice");
        let check = |more: &str, expected: &str| check(folder, more, expected, "");
        check(
            "stuck_s = 0\n",
            ":3:11: jproxy.stuck_s: 0 is outside 1 to 10",
        );
        check("stuck_s = 11\n", "11 is outside 1 to 10");
        check("dialect = \"java\"\n", "unknown word \"java\"");
        check(
            "[[jproxy.rules]]\nusers = [\"alice\"]\nbinds_max = 1\n",
            "unknown key \"binds_max\"",
        );
        let text = "[[jproxy.rules]]\nusers = [\"alice\"]\n".to_owned();
        let file = ConfigFile::parse(Path::new("midspan.toml"), text).unwrap();
        let step = jproxy(Some(&file), None).unwrap_err().next_step().unwrap();
        assert!(step.contains("[jproxy] users = "), "{step}");
    }
}
