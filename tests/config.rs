//! Configuration files, right and wrong. Each `invalid/NAME.toml` stands
//! beside `NAME.err`: what the operator reads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use midspan::config::file::ConfigFile;
use midspan::config::settings::{Flags, HostFacts, RelaySettings};
use midspan::config::{ConfigError, GivenSockets};

fn resolve(path: &Path) -> Result<RelaySettings, ConfigError> {
    let host = HostFacts {
        cores_allowed: vec![0, 1, 2, 3],
        descriptors: 1024,
        memory_bytes: 4 << 30,
        hostname: "relay.example".into(),
        state_dir: Some("/var/lib/midspan".into()),
        current_dir: "/".into(),
        given: GivenSockets::default(),
        served: None,
    };
    let name = path.file_name().expect("a file has a name");
    let text = fs::read_to_string(path).expect("test files are text");
    let file = ConfigFile::parse(Path::new(name), text)?;
    RelaySettings::resolve(&Flags::default(), Some(&file), &host)
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder of test files")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn valid_files_resolve_and_say_the_same_again() {
    let valid = [files("tests/config_files/valid"), files("docs/deployments")];
    for path in valid.concat() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let here = with_users(&path, folder.path());
        let settings = resolve(&here).unwrap_or_else(|error| panic!("{error}"));
        let again = folder.path().join("again.toml");
        fs::write(&again, settings.to_string()).expect("written");
        assert_eq!(
            resolve(&again).expect("valid"),
            settings,
            "{}",
            path.display()
        );
    }
}

/// A copy of a file whose users are in this folder: they are read with it.
fn with_users(path: &Path, folder: &Path) -> PathBuf {
    let (copy, users) = (folder.join("copy.toml"), folder.join("users"));
    let text = fs::read_to_string(path).expect("text");
    let text = text.replace("/etc/midspan/users", users.to_str().expect("text"));
    let text = text.replace("/etc/midspan/jproxy", folder.to_str().expect("text"));
    fs::write(&copy, text).expect("written");
    fs::write(&users, "").expect("written");
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).expect("chmod");
    copy
}

#[test]
fn invalid_files_tell_what_is_wrong_and_what_to_do() {
    let mut wrong = String::new();
    for path in files("tests/config_files/invalid") {
        let got = match resolve(&path) {
            Ok(_) => "valid\n".to_owned(),
            Err(error) => match error.next_step() {
                Some(step) => format!("{error}\nnext: {step}\n"),
                None => format!("{error}\n"),
            },
        };
        let expected = fs::read_to_string(path.with_extension("err")).unwrap_or_default();
        if got != expected {
            wrong += &format!(
                "--- {}\nexpected: {expected}got:      {got}",
                path.display()
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
