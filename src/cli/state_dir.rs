//! The directory that keeps what must survive a restart: keys of 16 random
//! bytes and the like, one a file.
//!
//! A key file appears whole or not at all: it is written under another name
//! and then linked, so two processes that start at once agree on one key. It
//! is readable by its owner alone, and one that others can read is refused,
//! since it may be known to them already.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use aws_lc_rs::rand;

use crate::config::shell_word::quoted_path;
use crate::quic::keys::{self, SharedKeys};

/// How long every key is.
const KEY_BYTES: usize = 16;

/// What is read of a file, at most.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Bits of a file's mode that give others access.
const OTHERS: u32 = 0o077;

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// The directory cannot be made.
    #[error("cannot make the state directory {}", .path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// A key cannot be read.
    #[error("cannot read the key file {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A key cannot be written.
    #[error("cannot make the key file {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    /// Something else stands where a key belongs.
    #[error("the key file {} is not a regular file", .path.display())]
    NotAFile { path: PathBuf },
    /// Others can read a key.
    #[error("the key file {} can be read by others (mode {mode:04o})", .path.display())]
    Readable { path: PathBuf, mode: u32 },
    /// A key of another length.
    #[error("the key file {} holds {bytes} bytes instead of {KEY_BYTES}", .path.display())]
    Length { path: PathBuf, bytes: usize },
    /// Another process serves under a ticket.
    #[error("another process serves under the ticket {}", .path.display())]
    InUse { path: PathBuf },
    /// The system has no randomness to give.
    #[error("the system gives no random bytes for {}", .path.display())]
    Random { path: PathBuf },
}

impl StateDirError {
    /// What the operator can do about it.
    #[must_use]
    pub fn next_step(&self) -> String {
        match self {
            Self::Directory { .. } | Self::Read { .. } | Self::Write { .. } => {
                "check its owner and mode, or pass another directory as --state-dir DIR".into()
            }
            Self::Readable { path, .. } => format!(
                "if nobody else has read it: chmod 600 {0}; otherwise remove it, and the next start makes a new one",
                quoted_path(path)
            ),
            Self::NotAFile { path } | Self::Length { path, .. } => format!(
                "restore {} from a backup, or remove it, and the next start makes a new one",
                path.display()
            ),
            Self::InUse { .. } => {
                "stop it, or choose another NAME: two would get each other's clients".into()
            }
            Self::Random { .. } => {
                "check that getrandom(2) is not forbidden to this process".into()
            }
        }
    }
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory at `path`, and makes it, for its owner alone, if it
    /// is not there.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| StateDirError::Directory {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The key that decides which shard owns an association. Kept so that a
    /// restarted relay decides the same.
    ///
    /// # Errors
    ///
    /// See [`StateDirError`].
    pub fn owner_key(&self) -> Result<[u8; KEY_BYTES], StateDirError> {
        self.key("owner.key")
    }

    /// The secret of the ticket called `name`, which holds no slash. Kept so
    /// that a ticket outlives the proxy that printed it.
    ///
    /// # Errors
    ///
    /// See [`StateDirError`].
    pub fn ticket_secret(&self, name: &str) -> Result<[u8; KEY_BYTES], StateDirError> {
        debug_assert!(!name.contains('/'), "a name is one part of a path");
        self.key(&ticket_file(name))
    }

    /// Claims the ticket called `name`, whose secret is there, for as long as the
    /// file is open: of two that serve under one ticket, each would get clients of
    /// the other.
    ///
    /// # Errors
    ///
    /// [`StateDirError::InUse`], or the key file cannot be opened.
    pub fn claim_ticket(&self, name: &str) -> Result<File, StateDirError> {
        let path = self.path.join(ticket_file(name));
        let claimed = File::open(&path).and_then(|file| match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        });
        match claimed {
            Ok(Some(file)) => Ok(file),
            Ok(None) => Err(StateDirError::InUse { path }),
            Err(source) => Err(StateDirError::Read { path, source }),
        }
    }

    /// The keys of QUIC: with them a relay that is restarted ends at once what it has
    /// forgotten.
    ///
    /// # Errors
    ///
    /// See [`StateDirError`].
    pub fn quic_keys(&self) -> anyhow::Result<SharedKeys> {
        let key = |file_name: &str| {
            let path = self.path.join(file_name);
            let kept = self.kept(file_name, || {
                let mut key = vec![0; keys::KEY_BYTES];
                fill(&mut key, &path)?;
                Ok(key)
            })?;
            <[u8; keys::KEY_BYTES]>::try_from(kept.as_slice()).map_err(|_| {
                anyhow!(
                    "{} has {} bytes instead of {}; another one is made if it is gone",
                    path.display(),
                    kept.len(),
                    keys::KEY_BYTES
                )
            })
        };
        Ok(SharedKeys {
            reset: key("quic-reset.key")?,
            token: key("quic-token.key")?,
        })
    }

    /// The content of the file `file_name`, which `make` makes if it is not there.
    ///
    /// # Errors
    ///
    /// See [`StateDirError`]; or whatever `make` says.
    pub fn kept(
        &self,
        file_name: &str,
        make: impl FnOnce() -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Vec<u8>> {
        let path = self.path.join(file_name);
        match read_secret(&path) {
            Err(StateDirError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.make(&path, &make()?)?;
                // Perhaps another process's: the first link wins.
                Ok(read_secret(&path)?)
            }
            result => Ok(result?),
        }
    }

    fn key(&self, file_name: &str) -> Result<[u8; KEY_BYTES], StateDirError> {
        let path = self.path.join(file_name);
        match read_key(&path) {
            Err(StateDirError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; KEY_BYTES];
                fill(&mut key, &path)?;
                self.make(&path, &key)?;
                // Perhaps another process's: the first link wins.
                read_key(&path)
            }
            result => result,
        }
    }

    fn make(&self, path: &Path, content: &[u8]) -> Result<(), StateDirError> {
        let mut suffix = [0; 8];
        fill(&mut suffix, path)?;

        let temporary = self
            .path
            .join(format!("new-{:016x}", u64::from_be_bytes(suffix)));
        let linked =
            write_new(&temporary, content).and_then(|()| match fs::hard_link(&temporary, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                result => result,
            });
        // Gone already if it could not be made; harmless if it stays.
        let _ = fs::remove_file(&temporary);
        linked
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(|source| StateDirError::Write {
                path: path.to_owned(),
                source,
            })
    }
}

fn ticket_file(name: &str) -> String {
    format!("ticket-{name}.key")
}

fn fill(bytes: &mut [u8], path: &Path) -> Result<(), StateDirError> {
    rand::fill(bytes).map_err(|_| StateDirError::Random {
        path: path.to_owned(),
    })
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn read_key(path: &Path) -> Result<[u8; KEY_BYTES], StateDirError> {
    let content = read_secret(path)?;
    content.try_into().map_err(|content: Vec<u8>| {
        let path = path.to_owned();
        StateDirError::Length {
            path,
            bytes: content.len(),
        }
    })
}

fn read_secret(path: &Path) -> Result<Vec<u8>, StateDirError> {
    let failed = |source| StateDirError::Read {
        path: path.to_owned(),
        source,
    };
    // Neither follow a link that somebody else may have placed, nor wait for
    // the other end of a pipe.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let path = || path.to_owned();
    if !metadata.is_file() {
        return Err(StateDirError::NotAFile { path: path() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(StateDirError::Readable { path: path(), mode });
    }
    let mut content = Vec::new();
    file.take(SECRET_BYTES_MAX)
        .read_to_end(&mut content)
        .map_err(failed)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = StateDir::open(&folder.path().join("a/midspan")).expect("a state directory");
        (folder, state)
    }

    #[test]
    fn a_key_is_made_once_and_kept() {
        let (_folder, state) = state();
        let owner = state.owner_key().expect("a key");
        assert_eq!(state.owner_key().expect("the same key"), owner);
        let again = StateDir::open(&state.path).expect("opened again");
        assert_eq!(again.owner_key().expect("the same key"), owner);
        assert_ne!(state.ticket_secret("home").expect("another key"), owner);

        let mode = |path: &Path| fs::metadata(path).expect("metadata").mode() & 0o777;
        assert_eq!(mode(&state.path), 0o700);
        assert_eq!(mode(&state.path.join("owner.key")), 0o600);
        let names = fs::read_dir(&state.path).expect("a directory").count();
        assert_eq!(names, 2, "no temporary file is left");
    }

    #[test]
    fn a_ticket_serves_one_at_a_time() {
        let (_folder, state) = state();
        state.ticket_secret("home").expect("a secret");
        let claim = state.claim_ticket("home").expect("nobody has it");
        let error = state.claim_ticket("home").expect_err("in use");
        assert!(matches!(error, StateDirError::InUse { .. }), "{error}");
        drop(claim);
        state.claim_ticket("home").expect("nobody has it any more");
    }

    #[test]
    fn all_who_start_at_once_get_one_key() {
        let (_folder, state) = state();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let start = || scope.spawn(|| state.owner_key().expect("a key"));
            let threads: Vec<_> = (0..8).map(|_| start()).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_key_that_is_not_ours_alone_is_refused() {
        let (_folder, state) = state();
        state.owner_key().expect("a key");
        let path = state.path.join("owner.key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let error = state.owner_key().expect_err("refused");
        assert!(
            matches!(error, StateDirError::Readable { mode: 0o640, .. }),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .ends_with("can be read by others (mode 0640)"),
            "{error}"
        );
        assert!(error.next_step().contains("chmod 600"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let (_folder, state) = state();
        let path = state.path.join("owner.key");
        write_new(&path, b"short").expect("written");
        assert!(matches!(
            state.owner_key(),
            Err(StateDirError::Length { bytes: 5, .. })
        ));
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a directory");
        assert!(matches!(
            state.owner_key(),
            Err(StateDirError::NotAFile { .. })
        ));
        fs::remove_dir(&path).expect("removed");
        symlink("/dev/zero", &path).expect("a link");
        assert!(matches!(state.owner_key(), Err(StateDirError::Read { .. })));
    }

    #[test]
    fn a_directory_that_cannot_be_made_says_so() {
        let error = StateDir::open(Path::new("/dev/null/midspan")).expect_err("not a directory");
        assert!(error.to_string().contains("/dev/null/midspan"));
        assert!(error.next_step().contains("--state-dir"));
    }
}
