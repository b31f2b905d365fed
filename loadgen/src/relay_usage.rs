//! What the relay's processes use, from procfs.

use std::fs;
use std::iter::Sum;
use std::ops::{Add, Sub};

use anyhow::Context;
use serde::Serialize;

/// The processes that make up the relay.
#[derive(Clone, Debug)]
pub(crate) struct RelayUsage {
    pids: Vec<u32>,
}

/// User memory of the relay's processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Everything resident, pages of files too.
    pub(crate) rss_bytes: u64,
    /// What is resident and belongs to no file.
    pub(crate) anonymous_bytes: u64,
}

impl RelayUsage {
    /// `None` when no process was named: then nothing is known.
    pub(crate) fn of(pids: &[u32]) -> Option<Self> {
        (!pids.is_empty()).then(|| Self {
            pids: pids.to_vec(),
        })
    }

    /// CPU time of all threads so far, in nanoseconds. The kernel adds up a
    /// running thread's time at each tick, so it may lag by some milliseconds.
    pub(crate) fn cpu_ns(&self) -> anyhow::Result<u64> {
        self.pids.iter().map(|pid| process_cpu_ns(*pid)).sum()
    }

    /// Memory as of now.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        self.pids.iter().map(|pid| process_memory(*pid)).sum()
    }
}

fn process_cpu_ns(pid: u32) -> anyhow::Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let mut total = 0;
    for thread in fs::read_dir(&folder).with_context(|| format!("no process {pid}"))? {
        // A thread may end between being listed and being read.
        if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
            total += parse_schedstat(&text).with_context(|| format!("odd schedstat: {text:?}"))?;
        }
    }
    Ok(total)
}

/// Nanoseconds on a core: the first of three numbers.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn process_memory(pid: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("no process {pid}"))?;
    let field = |name| {
        parse_status(&status, name).with_context(|| format!("no {name} in the status of {pid}"))
    };
    Ok(Memory {
        rss_bytes: field("VmRSS")?,
        anonymous_bytes: field("RssAnon")?,
    })
}

/// A line such as `VmRSS:      1234 kB`, in bytes.
fn parse_status(status: &str, name: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

impl Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rss_bytes: self.rss_bytes + other.rss_bytes,
            anonymous_bytes: self.anonymous_bytes + other.anonymous_bytes,
        }
    }
}

impl Sub for Memory {
    type Output = Self;

    /// What was added since `earlier`; nothing if memory was given back.
    fn sub(self, earlier: Self) -> Self {
        Self {
            rss_bytes: self.rss_bytes.saturating_sub(earlier.rss_bytes),
            anonymous_bytes: self.anonymous_bytes.saturating_sub(earlier.anonymous_bytes),
        }
    }
}

impl Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_procfs_texts() {
        assert_eq!(parse_schedstat("1075846 475420 1\n"), Some(1_075_846));
        assert_eq!(parse_schedstat(""), None);
        let status = "Name:\tx\nVmRSS:\t     12 kB\nRssAnon:\t       3 kB\n";
        assert_eq!(parse_status(status, "VmRSS"), Some(12 << 10));
        assert_eq!(parse_status(status, "RssAnon"), Some(3 << 10));
        assert_eq!(parse_status(status, "Rss"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = RelayUsage::of(&[std::process::id()]).unwrap();
        assert!(usage.cpu_ns().unwrap() > 0);
        let memory = usage.memory().unwrap();
        assert!(memory.rss_bytes >= memory.anonymous_bytes);
        assert_eq!((memory - memory).rss_bytes, 0);
        assert!(RelayUsage::of(&[]).is_none());
    }
}
