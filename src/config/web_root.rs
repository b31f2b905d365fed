//! Reads the files under `web.root` into memory, so that nobody who asks for a page waits
//! for a disk.
//!
//! The kernel is asked for each name below the root's own descriptor, and to lead nowhere
//! else (`openat2` with `RESOLVE_BENEATH`). So what is read was under the root, whatever
//! is moved meanwhile. A relative link to a file in it is followed; the root itself may be
//! any link, and switched as a whole.
//!
//! Names that begin with a dot are not read. Whatever else cannot be served is an error: a
//! page that is missing in silence would be searched for in vain.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, statat,
};
use rustix::io::Errno;
use thiserror::Error;

use super::limits::Limits;
use crate::web::{Tree, is_plain_name};

/// Why a tree is not taken.
#[derive(Debug, Error)]
pub enum TreeError {
    /// The kernel does not give it.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    /// A link to what is not below the root, or that does not say so.
    #[error("{} is a link that leads out of the root", path.display())]
    LeadsOut { path: PathBuf },
    /// A link to a folder, a device, or the like.
    #[error("{} is neither a file nor a folder", path.display())]
    NoFile { path: PathBuf },
    /// A name for which nobody could ask.
    #[error(
        "nobody can ask for {path:?}: a name is UTF-8 without backslashes and control characters"
    )]
    Name { path: PathBuf },
    /// More than fits.
    #[error("{} exceeds {limit} = {max}", path.display())]
    OverLimit {
        path: PathBuf,
        limit: &'static str,
        max: u64,
    },
}

impl TreeError {
    /// What the operator can do about it.
    pub(super) fn next_step(&self) -> Option<String> {
        match self {
            Self::Unreadable { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                Some("let the relay's user read it, folders above it included".into())
            }
            Self::LeadsOut { .. } | Self::NoFile { .. } => Some(
                "put a copy of the file there; links have to be relative, and to files below \
                 the root"
                    .into(),
            ),
            Self::OverLimit { limit, .. } => Some(format!(
                "raise {limit} (in the file: [limits]), or keep it elsewhere: all pages are \
                 held in memory"
            )),
            Self::Unreadable { .. } | Self::Name { .. } => None,
        }
    }
}

/// A file below the root.
struct Found {
    name: String,
    stamp: Stamp,
}

/// What of a file changes when it does.
type Stamp = Option<[u64; 6]>;

/// Reads all files below `root`. Those that the tree `before` has as they are now are
/// shared with it.
///
/// # Errors
///
/// One of them cannot be served, or there are more than `limits` allow.
pub(super) fn read(root: &Path, limits: &Limits, before: Option<&Tree>) -> Result<Tree, TreeError> {
    let walk = Walk::begin(root, limits)?;
    let mut tree = Tree::new(root.to_owned());
    for found in walk.files()? {
        let bytes = walk.read(&found.name)?;
        if tree.bytes() + bytes.len() as u64 > limits.web_bytes_max {
            let max = limits.web_bytes_max;
            return Err(walk.over(&found.name, "web_bytes_max", max));
        }
        tree.insert(found.name, bytes, before);
    }
    Ok(tree)
}

/// A number that is another one when a file below `root` has changed: another name, time,
/// size or place.
///
/// # Errors
///
/// The files cannot be looked at, or are too many.
pub(super) fn stamp(root: &Path, limits: &Limits) -> Result<u64, TreeError> {
    let mut hasher = DefaultHasher::new();
    for found in Walk::begin(root, limits)?.files()? {
        (found.name, found.stamp).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

struct Walk<'a> {
    root: &'a Path,
    descriptor: OwnedFd,
    limits: &'a Limits,
}

impl<'a> Walk<'a> {
    fn begin(root: &'a Path, limits: &'a Limits) -> Result<Self, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty());
        let descriptor = opened.map_err(|error| TreeError::Unreadable {
            path: root.to_owned(),
            error: error.into(),
        })?;
        Ok(Self {
            root,
            descriptor,
            limits,
        })
    }

    /// All files, by name.
    fn files(&self) -> Result<Vec<Found>, TreeError> {
        let mut folders = vec![String::new()];
        let (mut files, mut count) = (Vec::new(), 0);
        while let Some(folder) = folders.pop() {
            for name in self.names(&folder)? {
                count += 1;
                if count > self.limits.web_files_max {
                    let max = self.limits.web_files_max;
                    return Err(self.over(&name, "web_files_max", max));
                }
                let itself = statat(&self.descriptor, &name, AtFlags::SYMLINK_NOFOLLOW);
                let itself = itself.map_err(|error| self.failed(&name, error))?;
                match FileType::from_raw_mode(itself.st_mode) {
                    FileType::Directory => folders.push(name),
                    FileType::RegularFile => files.push(Found {
                        name,
                        stamp: Some(stamp_of(&itself)),
                    }),
                    FileType::Symlink => {
                        let target = statat(&self.descriptor, &name, AtFlags::empty());
                        let stamp = target.ok().as_ref().map(stamp_of);
                        files.push(Found { name, stamp });
                    }
                    _ => {
                        return Err(TreeError::NoFile {
                            path: self.path(&name),
                        });
                    }
                }
            }
        }
        files.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(files)
    }

    /// What a folder holds, by names below the root.
    fn names(&self, folder: &str) -> Result<Vec<String>, TreeError> {
        let failed = |error| self.failed(folder, error);
        let path = if folder.is_empty() { "." } else { folder };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = self.open(path, flags).map_err(failed)?;
        let mut names = Vec::new();
        for entry in Dir::new(opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let bytes = entry.file_name().to_bytes();
            if bytes.starts_with(b".") {
                continue;
            }
            let name = str::from_utf8(bytes)
                .ok()
                .filter(|name| is_plain_name(name));
            let Some(name) = name else {
                let name = String::from_utf8_lossy(bytes);
                let path = self.path(folder).join(&*name);
                return Err(TreeError::Name { path });
            };
            names.push(match folder {
                "" => name.to_owned(),
                _ => format!("{folder}/{name}"),
            });
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, TreeError> {
        let failed = |error: Errno| self.failed(name, error);
        // Of a pipe that lies there nobody waits for the other end.
        let opened = self.open(name, OFlags::NONBLOCK | OFlags::NOCTTY);
        let opened = opened.map_err(failed)?;
        let status = fstat(&opened).map_err(failed)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(TreeError::NoFile {
                path: self.path(name),
            });
        }
        let max = self.limits.web_file_bytes_max;
        let mut bytes = Vec::new();
        // It may grow meanwhile.
        let mut limited = File::from(opened).take(max + 1);
        let count = limited.read_to_end(&mut bytes);
        let count = count.map_err(|error| TreeError::Unreadable {
            path: self.path(name),
            error,
        })?;
        if count as u64 > max {
            return Err(self.over(name, "web_file_bytes_max", max));
        }
        Ok(bytes)
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.descriptor, name, flags, Mode::empty(), resolve)
    }

    fn path(&self, name: &str) -> PathBuf {
        match name {
            "" => self.root.to_owned(),
            _ => self.root.join(name),
        }
    }

    fn failed(&self, name: &str, error: Errno) -> TreeError {
        let path = self.path(name);
        match error {
            Errno::XDEV => TreeError::LeadsOut { path },
            error => TreeError::Unreadable {
                path,
                error: error.into(),
            },
        }
    }

    fn over(&self, name: &str, limit: &'static str, max: u64) -> TreeError {
        TreeError::OverLimit {
            path: self.path(name),
            limit,
            max,
        }
    }
}

#[expect(
    clippy::cast_sign_loss,
    reason = "only whether they are the same matters"
)]
fn stamp_of(status: &Stat) -> [u64; 6] {
    [
        status.st_ino,
        status.st_size as u64,
        status.st_mtime as u64,
        status.st_mtime_nsec,
        status.st_ctime as u64,
        status.st_ctime_nsec,
    ]
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    use rustix::fs::{CWD, mknodat};

    use super::*;

    fn limits() -> Limits {
        Limits {
            web_bytes_max: 100,
            web_files_max: 5,
            web_file_bytes_max: 60,
            ..Limits::defaults(1024, 1 << 30)
        }
    }

    /// A folder with `www` in it, which has one page.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("www")).unwrap();
        fs::write(folder.path().join("www/index.html"), "home").unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        folder
    }

    fn read_in(folder: &Path) -> Result<Tree, TreeError> {
        read(&folder.join("www"), &limits(), None)
    }

    /// What a tree is refused for to which `add` has added something.
    #[track_caller]
    fn check_error(add: impl FnOnce(&Path), expected: &str) {
        let folder = folder();
        let www = folder.path().join("www");
        add(&www);
        let error = read_in(folder.path()).unwrap_err().to_string();
        let shown = error.replace(www.to_str().unwrap(), "WWW");
        assert_eq!(shown, expected);
    }

    #[test]
    fn files_are_read_with_those_in_folders_and_without_those_with_dots() {
        let folder = folder();
        let www = folder.path().join("www");
        fs::create_dir_all(www.join("a/b")).unwrap();
        fs::write(www.join("a/b/c d.txt"), "text").unwrap();
        fs::create_dir(www.join(".git")).unwrap();
        fs::write(www.join(".git/config"), "secret").unwrap();
        fs::write(www.join(".htpasswd"), "secret").unwrap();
        let tree = read_in(folder.path()).unwrap();
        assert_eq!((tree.len(), tree.bytes()), (2, 8));
        assert_eq!(**tree.page("a/b/c d.txt").unwrap().bytes(), *b"text");
        assert_eq!(**tree.page("index.html").unwrap().bytes(), *b"home");

        // The root may be a link; what has not changed is shared.
        symlink("www", folder.path().join("link")).unwrap();
        fs::write(www.join("index.html"), "come").unwrap();
        let again = read(&folder.path().join("link"), &limits(), Some(&tree)).unwrap();
        let [one, other] = [&tree, &again].map(|tree| tree.page("a/b/c d.txt").unwrap());
        assert!(Arc::ptr_eq(one.bytes(), other.bytes()));
        assert_eq!(**again.page("index.html").unwrap().bytes(), *b"come");
    }

    #[test]
    fn a_link_is_followed_to_a_file_below_the_root_and_nowhere_else() {
        let followed = folder();
        let www = followed.path().join("www");
        // As Kubernetes lays out a ConfigMap.
        fs::create_dir(www.join("..2026")).unwrap();
        fs::write(www.join("..2026/a.html"), "first").unwrap();
        symlink("..2026", www.join("..data")).unwrap();
        symlink("..data/a.html", www.join("a.html")).unwrap();
        let tree = read_in(followed.path()).unwrap();
        assert_eq!(**tree.page("a.html").unwrap().bytes(), *b"first");
        assert_eq!(tree.len(), 2);

        let link = |to: &'static str| move |www: &Path| symlink(to, www.join("link")).unwrap();
        let leads_out = "WWW/link is a link that leads out of the root";
        check_error(link("../secret"), leads_out);
        check_error(link("/etc/passwd"), leads_out);
        check_error(link("../www/index.html"), leads_out);
        let own = |www: &Path| symlink(www.join("index.html"), www.join("link")).unwrap();
        check_error(own, leads_out);
        check_error(link("."), "WWW/link is neither a file nor a folder");
        check_error(
            link("nothing"),
            "cannot read WWW/link: No such file or directory (os error 2)",
        );
        check_error(
            link("link"),
            "cannot read WWW/link: Too many levels of symbolic links (os error 40)",
        );
        let through_another = |www: &Path| {
            symlink("..", www.join(".up")).unwrap();
            symlink(".up/secret", www.join("link")).unwrap();
        };
        check_error(through_another, leads_out);
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        let pipe = |www: &Path| {
            let mode = Mode::RUSR;
            mknodat(CWD, www.join("pipe"), FileType::Fifo, mode, 0).unwrap();
        };
        check_error(pipe, "WWW/pipe is neither a file nor a folder");
        for (name, shown) in [(&b"caf\xe9"[..], "caf\u{fffd}"), (b"a\\b", "a\\\\b")] {
            let add = |www: &Path| fs::write(www.join(OsStr::from_bytes(name)), "").unwrap();
            check_error(
                add,
                &format!(
                    "nobody can ask for \"WWW/{shown}\": a name is UTF-8 without backslashes and \
                     control characters"
                ),
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let error = read_in(folder.path()).unwrap_err();
        assert!(error.to_string().starts_with("cannot read "), "{error}");
        fs::write(folder.path().join("www"), "").unwrap();
        let error = read_in(folder.path()).unwrap_err();
        assert!(error.to_string().contains("Not a directory"), "{error}");
    }

    #[test]
    fn what_is_too_much_is_named_with_its_limit() {
        let write = |www: &Path, name: &str, bytes: usize| {
            fs::write(www.join(name), vec![b'x'; bytes]).unwrap();
        };
        let fits = folder();
        write(&fits.path().join("www"), "a", 60);
        write(&fits.path().join("www"), "b", 36);
        assert_eq!(read_in(fits.path()).unwrap().bytes(), 100);
        check_error(
            |www| write(www, "a", 61),
            "WWW/a exceeds web_file_bytes_max = 60",
        );
        check_error(
            |www| {
                write(www, "a", 60);
                write(www, "b", 37);
            },
            "WWW/index.html exceeds web_bytes_max = 100",
        );
        let folders = |www: &Path| fs::create_dir_all(www.join("a/b/c/d/e")).unwrap();
        check_error(folders, "WWW/a/b/c/d/e exceeds web_files_max = 5");
    }

    #[test]
    fn a_stamp_changes_with_any_file() {
        let folder = folder();
        let www = folder.path().join("www");
        let stamp = || stamp(&www, &limits()).unwrap();
        let mut seen = vec![stamp()];
        assert_eq!(stamp(), seen[0]);
        symlink("b", www.join("a")).unwrap();
        seen.push(stamp());
        fs::write(www.join("b"), "1").unwrap();
        seen.push(stamp());
        fs::write(www.join("b"), "22").unwrap();
        seen.push(stamp());
        fs::rename(www.join("b"), www.join("c")).unwrap();
        seen.push(stamp());
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
