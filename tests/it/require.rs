//! What a test may need of its machine: found, or the test says that it was skipped.

use std::io::Write as _;
use std::path::PathBuf;
use std::{env, io};

/// The full path of `program`, from `PATH` and the places of daemons.
///
/// Without it the caller returns early; see [`skip`].
pub(crate) fn require(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = env::split_paths(&path)
        .chain(daemons)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        skip(&format!("{program} not found"));
    }
    found
}

/// Whether this process may do what only root may.
pub(crate) fn require_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip("not root");
    }
    is_root
}

/// Whether this process may run on `count` cores.
pub(crate) fn require_cores(count: usize) -> bool {
    let usable = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if usable < count {
        skip(&format!("{usable} of {count} cores"));
    }
    usable >= count
}

/// Says that a test was skipped. The note goes to the standard error stream itself and not through
/// `eprintln!`, whose output libtest keeps to itself when the test passes: so a person sees it, and
/// CI finds it in the log and fails.
pub(crate) fn skip(why: &str) {
    // One write, so that lines of tests that run at the same time do not mix.
    let note = format!("skipped: {why}\n");
    let _ = io::stderr().write_all(note.as_bytes());
}
