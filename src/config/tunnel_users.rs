//! The directory of jProxy's users: a file each, called by its hash. `access::jproxy` has what is
//! in them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::shell_word::{quoted, quoted_path};
use super::websocks::OTHERS_READ;
use crate::access::jproxy::{
    NameListed, TunnelUser, TunnelUsers, USER_FILE_SUFFIX, UserFileError, UserHash,
};

/// Bits of a mode that let others write. The hash is of the key alone: whoever writes a user's
/// file may give it another user's name, and whoever writes the directory may add users.
const OTHERS_WRITE: u32 = 0o002;

/// More than any user's file has.
const FILE_BYTES_MAX: u64 = 4096;

/// Why a directory lists no users. Never holds what is in a file.
#[derive(Debug, thiserror::Error)]
pub enum TunnelUsersError {
    /// The directory, or a file in it, cannot be read.
    #[error("cannot read {}: {error}", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    /// Anybody can read or change a file.
    #[error(
        "{} can be {} by anybody (mode {mode:04o})",
        .path.display(),
        if .mode & OTHERS_READ != 0 { "read" } else { "changed" }
    )]
    Open { path: PathBuf, mode: u32 },
    /// A file that is called like one of a user, and is none.
    #[error("{} is no user's file: {error}", .path.display())]
    NoUser {
        path: PathBuf,
        error: UserFileError,
        /// Whose it seems to be.
        name: Option<String>,
    },
    /// Two files for one name.
    #[error("{error}, of {}", .path.display())]
    Twice { path: PathBuf, error: NameListed },
}

impl From<&(TunnelUsersError, Option<Arc<TunnelUser>>)> for WrongFile {
    fn from((error, user): &(TunnelUsersError, Option<Arc<TunnelUser>>)) -> Self {
        Self {
            next_step: error.next_step(),
            error: error.to_string(),
            keeps: user.as_ref().map(|user| Arc::clone(user.name())),
        }
    }
}

impl TunnelUsersError {
    /// What the operator can do about it.
    pub(super) fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable { path, error } => match error.kind() {
                ErrorKind::NotFound if is_entry(path) => {
                    format!("it leads nowhere: rm {}", quoted_path(path))
                }
                ErrorKind::NotFound => format!(
                    "make the directory (mkdir -m 750 {0}), and a user's file in it, with the \
                     user's own name for NAME: midspan key jproxy NAME --key-file FILE --user-dir \
                     {0}",
                    quoted_path(path)
                ),
                ErrorKind::PermissionDenied => format!(
                    "let whoever the relay runs as read {}: chgrp it, and chmod 640, or 750 where \
                     it is a directory",
                    quoted_path(path)
                ),
                kind if kind != ErrorKind::NotADirectory && is_entry(path) => {
                    format!("move it elsewhere: what ends in {USER_FILE_SUFFIX} is a user's file")
                }
                _ => "name a directory that holds a file for each user".into(),
            },
            Self::Open { path, mode } => {
                let done = if mode & OTHERS_READ != 0 {
                    "read"
                } else {
                    "changed"
                };
                let shown = quoted_path(path);
                format!("if nobody else has {done} it: chmod 640 {shown}")
            }
            Self::NoUser { path, error, name } => match error {
                UserFileError::OtherHash { content } => {
                    let named = path.with_file_name(TunnelUser::file_name(content));
                    format!(
                        "if it was renamed: mv -n {} {}; else it is damaged: {}",
                        quoted_path(path),
                        quoted_path(&named),
                        make_anew(path, name.as_deref())
                    )
                }
                UserFileError::FileName => format!(
                    "call it by its hash, or move it elsewhere: what ends in {USER_FILE_SUFFIX} is \
                     a user's"
                ),
                UserFileError::ClientKey => "move it to the client, who alone is to have it, and \
                                             put here what `midspan key jproxy` wrote to its \
                                             --user-dir"
                    .into(),
                _ => make_anew(path, name.as_deref()),
            },
            Self::Twice { .. } => "remove the file of the older key".into(),
        })
    }
}

/// Whether it is called like a user's file, and not like a directory of them.
fn is_entry(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| name.ends_with(USER_FILE_SUFFIX))
}

/// What to do about a damaged file of this user: nobody can have what was in it, so that another
/// key is made, in a file beside that of the one before.
fn make_anew(path: &Path, name: Option<&str>) -> String {
    let by_whom = match name {
        Some(_) => "",
        None => ", with the user's own name for NAME",
    };
    let name = name.unwrap_or("NAME");
    let key_file = format!("new-{}.dat", name.replace('/', "_"));
    let directory = path.parent().unwrap_or(path);
    format!(
        "make another key, and remove the file{by_whom}: midspan key jproxy --key-file {} \
         --user-dir {} -- {} && rm {}; then let whoever the relay runs as read the new file, and \
         give the user the new key",
        quoted(&key_file),
        quoted_path(directory),
        quoted(name),
        quoted_path(path),
    )
}

/// A file that is called like a user's, and is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongFile {
    /// What is wrong with it, with its name.
    pub error: String,
    /// What the operator can do about it.
    pub next_step: Option<String>,
    /// The user whose file it was, and who stays.
    pub keeps: Option<Arc<str>>,
}

/// What a directory lists.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) users: TunnelUsers,
    /// What is not taken, and who stays all the same.
    pub(super) wrong: Vec<(TunnelUsersError, Option<Arc<TunnelUser>>)>,
    /// Anybody may add users.
    pub(super) is_open: bool,
}

/// Reads every user's file of a directory. What is wrong with one concerns its own user alone,
/// which stays as it was `before` for as long as the file is there: one that is half written cuts
/// nobody off, and one that is removed does.
///
/// # Errors
///
/// The directory cannot be read.
pub(super) fn read(directory: &Path, before: &TunnelUsers) -> Result<Listing, TunnelUsersError> {
    let metadata = fs::metadata(directory).map_err(|error| unreadable(directory, error))?;
    let paths = files(directory).map_err(|error| unreadable(directory, error))?;
    let mut wrong = Vec::new();
    let mut named: BTreeMap<Arc<str>, Vec<Arc<TunnelUser>>> = BTreeMap::new();
    for path in paths {
        match read_one(&path) {
            Ok(user) => named
                .entry(Arc::clone(user.name()))
                .or_default()
                .push(user.into()),
            // Somebody has removed it meanwhile.
            Err(TunnelUsersError::Unreadable { .. }) if fs::symlink_metadata(&path).is_err() => {}
            Err(error) => {
                let user = hash_of(&path).and_then(|hash| before.find(&hash));
                wrong.push((error, user.cloned()));
            }
        }
    }
    let mut users = Vec::new();
    for (_, user) in &mut wrong {
        // A file that can be read goes before one of the same name that cannot; and the name of
        // one is the same in capitals and in small letters.
        *user = user.take().filter(|user| {
            let is_needed = !named.contains_key(user.name()) && !users.contains(user);
            if is_needed {
                users.push(Arc::clone(user));
            }
            is_needed
        });
    }
    for (name, of_name) in named {
        let is_alone = of_name.len() == 1;
        let is_as_before = |user: &&Arc<TunnelUser>| before.find(user.hash()) == Some(user);
        let taken = of_name.iter().find(|user| is_alone || is_as_before(user));
        if let [one, other, ..] = &*of_name {
            let hashes = [*one.hash(), *other.hash()];
            let error = TunnelUsersError::Twice {
                path: directory.to_owned(),
                error: NameListed { name, hashes },
            };
            wrong.push((error, taken.cloned()));
        }
        users.extend(taken.cloned());
    }
    let users = TunnelUsers::new(users).map_err(|error| TunnelUsersError::Twice {
        path: directory.to_owned(),
        error,
    })?;
    Ok(Listing {
        users,
        wrong,
        is_open: metadata.mode() & OTHERS_WRITE != 0,
    })
}

/// Whose file it is called after.
fn hash_of(path: &Path) -> Option<UserHash> {
    TunnelUser::hash_of_file(path.file_name()?.to_str()?)
}

/// The files in it that are called like users', in order. Others, and hidden ones, are somebody
/// else's: so that a file can be written under another name, and renamed when it is whole.
pub(super) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.ends_with(USER_FILE_SUFFIX.as_bytes()) && !name.starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// The file of the user of this name, if there is one. Those that are wrong are nobody's.
///
/// # Errors
///
/// The directory cannot be read.
pub fn tunnel_user_of(directory: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    let is_named = |path: &PathBuf| read_one(path).is_ok_and(|user| **user.name() == *name);
    Ok(files(directory)?.into_iter().find(is_named))
}

fn read_one(path: &Path) -> Result<TunnelUser, TunnelUsersError> {
    let no_user = |error, name| TunnelUsersError::NoUser {
        path: path.to_owned(),
        error,
        name,
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| no_user(UserFileError::FileName, None))?;
    // Before it is opened: a pipe would have the relay wait.
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
    if !metadata.is_file() {
        return Err(unreadable(path, io::Error::other("it is no file")));
    }
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let mode = file.metadata().map_err(|error| unreadable(path, error))?;
    let mode = mode.mode() & 0o7777;
    if mode & (OTHERS_READ | OTHERS_WRITE) != 0 {
        let path = path.to_owned();
        return Err(TunnelUsersError::Open { path, mode });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(path, error))?;
    TunnelUser::decode(name, &bytes).map_err(|error| no_user(error, TunnelUser::name_in(&bytes)))
}

fn unreadable(path: &Path, error: io::Error) -> TunnelUsersError {
    let path = path.to_owned();
    TunnelUsersError::Unreadable { path, error }
}
