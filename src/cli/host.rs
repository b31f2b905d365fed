//! Asks this host what the settings' defaults depend on.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use rustix::process::{Resource, geteuid, getrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::config::settings::HostFacts;

/// The facts as they are now.
///
/// # Errors
///
/// The kernel does not answer.
pub(super) fn facts() -> anyhow::Result<HostFacts> {
    let affinity = sched_getaffinity(None).context("cannot ask for this process's cores")?;
    let cores_allowed = (0..CpuSet::MAX_CPU)
        .filter(|core| affinity.is_set(*core))
        .collect();
    Ok(HostFacts {
        cores_allowed,
        descriptors: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        hostname: hostname(),
        state_dir: default_state_dir(|name| env::var_os(name), geteuid().is_root()),
        current_dir: env::current_dir().context("cannot tell the current directory")?,
    })
}

/// The host's name, or nothing where it has none that is text.
fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

/// Where state goes when nobody says: what systemd chose, else the usual place
/// for root and for everyone else. Relative paths are ignored, as the XDG Base
/// Directory Specification asks.
fn default_state_dir(
    variable: impl Fn(&str) -> Option<OsString>,
    is_root: bool,
) -> Option<PathBuf> {
    let path = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    // systemd separates several directories by colons; the first is ours.
    let from_systemd = variable("STATE_DIRECTORY").and_then(|list| {
        let first = env::split_paths(&list).next();
        first.filter(|path| path.is_absolute())
    });
    if from_systemd.is_some() {
        return from_systemd;
    }
    if is_root {
        return Some("/var/lib/midspan".into());
    }
    path("XDG_STATE_HOME")
        .or_else(|| path("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("midspan"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_answers() {
        let facts = facts().expect("facts");
        assert!(!facts.cores_allowed.is_empty());
        assert!(facts.cores_allowed.is_sorted());
        assert!(facts.descriptors > 0);
    }

    #[test]
    fn finds_the_state_directory() {
        let check = |variables: &[(&str, &str)], is_root: bool, expected: Option<&str>| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            };
            assert_eq!(
                default_state_dir(variable, is_root),
                expected.map(PathBuf::from),
                "{variables:?}"
            );
        };
        let home = ("HOME", "/home/me");
        check(&[], true, Some("/var/lib/midspan"));
        check(&[], false, None);
        check(&[home], false, Some("/home/me/.local/state/midspan"));
        check(&[home, ("XDG_STATE_HOME", "/s")], false, Some("/s/midspan"));
        check(
            &[home, ("XDG_STATE_HOME", "s")],
            false,
            Some("/home/me/.local/state/midspan"),
        );
        check(&[home, ("STATE_DIRECTORY", "/a:/b")], true, Some("/a"));
        check(
            &[home, ("STATE_DIRECTORY", "")],
            true,
            Some("/var/lib/midspan"),
        );
        check(&[("HOME", "")], false, None);
    }
}
