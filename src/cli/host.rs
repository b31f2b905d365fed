//! Asks this host what the settings' defaults depend on.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::process::{Resource, geteuid, getrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::config::GivenSockets;
use crate::config::settings::HostFacts;

/// The facts as they are now; of sockets that were given, their owner knows.
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
        memory_bytes: memory_bytes(|path| fs::read_to_string(path).ok()),
        hostname: hostname(),
        state_dir: default_state_dir(|name| env::var_os(name), geteuid().is_root()),
        current_dir: env::current_dir().context("cannot tell the current directory")?,
        given: GivenSockets::default(),
        served: None,
    })
}

/// The host's name, or nothing where it has none that is text.
fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

/// The memory of the host, or less where a control group (version 2) bounds it;
/// 0 where neither can be read.
fn memory_bytes(read: impl Fn(&Path) -> Option<String>) -> u64 {
    let of_host = || {
        let facts = read(Path::new("/proc/meminfo"))?;
        let total = facts
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kibibytes: u64 = total.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kibibytes << 10)
    };
    let of_groups = || {
        let groups = read(Path::new("/proc/self/cgroup"))?;
        let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let root = Path::new("/sys/fs/cgroup");
        // Each group above bounds those within.
        let above = Path::new(own).ancestors();
        let limits = above.filter_map(|group| {
            let written = read(&root.join(group).join("memory.max"))?;
            written.trim().parse::<u64>().ok()
        });
        limits.min()
    };
    let limits = [of_host(), of_groups()];
    limits.into_iter().flatten().min().unwrap_or(0)
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
        assert!(facts.descriptors > 0 && facts.memory_bytes > 0);
    }

    #[test]
    fn memory_is_the_hosts_or_what_a_group_has_of_it() {
        let meminfo = ("/proc/meminfo", "MemTotal:  4096 kB\nMemFree: 1 kB\n");
        let cgroup = ("/proc/self/cgroup", "1:name=x:/y\n0::/a/b\n");
        let check = |files: &[(&str, &str)], expected: u64| {
            let read = |path: &Path| {
                let found = files.iter().find(|(known, _)| Path::new(known) == path);
                found.map(|(_, text)| (*text).to_owned())
            };
            assert_eq!(memory_bytes(read), expected, "{files:?}");
        };
        let inner = |text| ("/sys/fs/cgroup/a/b/memory.max", text);
        let outer = |text| ("/sys/fs/cgroup/a/memory.max", text);
        check(&[], 0);
        check(&[meminfo], 4 << 20);
        check(&[meminfo, cgroup, inner("max\n")], 4 << 20);
        check(&[meminfo, cgroup, inner("1000\n"), outer("max\n")], 1000);
        check(&[meminfo, cgroup, inner("max\n"), outer("2000\n")], 2000);
        check(&[meminfo, cgroup, inner("99999999999\n")], 4 << 20);
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
