//! Files that hold a secret and nothing else.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, anyhow};

use super::Advise;

/// More than any ticket or password is long.
const FILE_BYTES_MAX: u64 = 4096;

/// Bits of a file's mode that let others read it.
const OTHERS_READ: u32 = 0o044;

/// Reads the file that holds the secret called `what`.
///
/// # Errors
///
/// When it cannot be read, or can be by others.
pub(super) fn read(what: &str, path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let reading = || format!("cannot read the {what} file {shown}");
    let file = File::open(path).with_context(reading)?;
    let mode = file.metadata().with_context(reading)?.mode() & 0o7777;
    if mode & OTHERS_READ != 0 {
        return Err(anyhow!(
            "the {what} file {shown} can be read by others (mode {mode:04o})"
        ))
        .advise(format!("if nobody else has read it: chmod 600 {shown}"));
    }
    let mut secret = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut secret)
        .with_context(reading)?;
    Ok(secret)
}
