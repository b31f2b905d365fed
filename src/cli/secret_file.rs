//! Files that hold a secret and nothing else.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, anyhow};

use super::Advise;
use crate::config::shell_word::quoted_path;

/// More than any ticket, password or key is long.
const FILE_BYTES_MAX: u64 = 4096;

/// Bits of a file's mode that let others read it.
const OTHERS_READ: u32 = 0o044;

/// The mode of a file that its owner alone reads and writes.
const OWN_MODE: u32 = 0o600;

/// Reads the file that holds the secret called `what`.
///
/// # Errors
///
/// When it cannot be read, or can be by others.
pub(super) fn read(what: &str, path: &Path) -> anyhow::Result<String> {
    let secret = String::from_utf8(read_bytes(what, path)?);
    secret.with_context(|| format!("the {what} file {} is no text", path.display()))
}

/// As [`read`], of a secret that is no text.
///
/// # Errors
///
/// As there.
pub(super) fn read_bytes(what: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let reading = || format!("cannot read the {what} file {shown}");
    let file = File::open(path).with_context(reading)?;
    let metadata = file.metadata().with_context(reading)?;
    if metadata.is_dir() {
        return Err(anyhow!("the {what} file {shown} is a directory"));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS_READ != 0 {
        return Err(anyhow!(
            "the {what} file {shown} can be read by others (mode {mode:04o})"
        ))
        .advise(format!(
            "if nobody else has read it: chmod 600 {}",
            quoted_path(path)
        ));
    }
    let mut secret = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut secret)
        .with_context(reading)?;
    Ok(secret)
}

/// Makes a file of the secret called `what`, for its owner alone.
///
/// # Errors
///
/// When there is such a file, which stays as it is, or none can be made.
pub(super) fn create(what: &str, path: &Path, secret: &impl Display) -> anyhow::Result<()> {
    create_bytes(what, path, format!("{secret}\n").as_bytes())
}

/// The same, of exactly these bytes.
///
/// # Errors
///
/// As above.
pub(super) fn create_bytes(what: &str, path: &Path, secret: &[u8]) -> anyhow::Result<()> {
    let shown = path.display();
    let writing = || format!("cannot write the {what} file {shown}");
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWN_MODE)
        .open(path);
    let mut file = match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(anyhow!("the {what} file {shown} is there already"))
                .advise("choose another name, or remove it if nobody uses what it holds");
        }
        made => made
            .with_context(writing)
            .advise_missing("make the directory that it is to be in, or choose another")?,
    };
    let written = file.write_all(secret).and_then(|()| file.sync_all());
    written.with_context(writing)
}
