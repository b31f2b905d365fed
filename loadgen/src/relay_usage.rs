//! What the relay's processes use, from their clocks and from procfs.

use std::fs;
use std::iter::Sum;
use std::ops::{Add, Sub};
use std::time::Duration;

use anyhow::Context;
use nix::time::ClockId;
use nix::unistd::Pid;
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

    /// CPU time so far of each process, of all its threads, those that have ended too, in
    /// nanoseconds.
    pub(crate) fn cpu_ns(&self) -> anyhow::Result<Vec<u64>> {
        self.pids.iter().map(|pid| process_cpu_ns(*pid)).collect()
    }

    /// Memory as of now.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        self.pids.iter().map(|pid| process_memory(*pid)).sum()
    }
}

/// By the process's own clock: procfs forgets the threads that have ended, and counts the
/// process in hundredths of a second.
fn process_cpu_ns(pid: u32) -> anyhow::Result<u64> {
    let time = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid)?))
        .and_then(ClockId::now)
        .with_context(|| format!("no process {pid}"))?;
    Ok(u64::try_from(Duration::from(time).as_nanos())?)
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
        let status = "Name:\tx\nVmRSS:\t     12 kB\nRssAnon:\t       3 kB\n";
        assert_eq!(parse_status(status, "VmRSS"), Some(12 << 10));
        assert_eq!(parse_status(status, "RssAnon"), Some(3 << 10));
        assert_eq!(parse_status(status, "Rss"), None);
    }

    #[test]
    fn a_thread_that_has_ended_still_counts() {
        let usage = RelayUsage::of(&[std::process::id()]).unwrap();
        let before = usage.cpu_ns().unwrap()[0];
        let thread = std::thread::spawn(|| {
            let mine = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
            while mine() < Duration::from_millis(20) {}
        });
        thread.join().unwrap();
        assert!(usage.cpu_ns().unwrap()[0] - before >= 20_000_000);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = RelayUsage::of(&[std::process::id()]).unwrap();
        assert!(usage.cpu_ns().unwrap()[0] > 0);
        let memory = usage.memory().unwrap();
        assert!(memory.rss_bytes >= memory.anonymous_bytes);
        assert_eq!((memory - memory).rss_bytes, 0);
        assert!(RelayUsage::of(&[]).is_none());
    }
}
