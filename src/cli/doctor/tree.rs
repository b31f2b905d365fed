//! A host's files, below its root: what it has, what it is to have, what it keeps.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::process::geteuid;

use super::super::Advise;
use crate::tuning::{Conf, Current, DropIn, Line};

/// Who may read a file in `/etc`: everybody.
const MODE: Mode = Mode::from_raw_mode(0o644);

/// The files below a directory, which paths and symbolic links within do not leave.
#[derive(Debug)]
pub(super) struct Tree {
    root: File,
    path: PathBuf,
}

impl Tree {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::openat(CWD, path, flags, Mode::empty())
            .with_context(|| format!("--root: cannot open {}", path.display()))
            .usage()?;
        Ok(Self {
            root: root.into(),
            path: path.to_owned(),
        })
    }

    /// The directory, for messages.
    pub(super) fn root(&self) -> &Path {
        &self.path
    }

    /// The path of the file that is `path` below the root, for messages.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// The command that looks at this tree, for next steps.
    pub(super) fn command(&self) -> String {
        match self.path.to_str() {
            Some("/") => "midspan doctor".to_owned(),
            _ => format!("midspan doctor --root {}", self.path.display()),
        }
    }

    /// What the host has of a setting.
    pub(super) fn current(&self, line: &Line) -> Current {
        let value = match self.read(&line.shown_in()) {
            Ok(content) => line.shown(&content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Current::Unreadable(error.to_string()),
        };
        let has_kernel = || self.open_below("/proc/sys", OFlags::PATH).is_ok();
        match value {
            Some(value) if value.contains('\n') => Current::Unreadable("many lines".to_owned()),
            Some(value) => Current::Value(value),
            None if line.conf() == Conf::Sysctl && has_kernel() => Current::NotHere,
            None => Current::Unknown,
        }
    }

    /// Has the kernel take `value` for the setting of `line`.
    ///
    /// # Errors
    ///
    /// It does not take the value, or not from us.
    pub(super) fn set(&self, line: &Line, value: &str) -> anyhow::Result<()> {
        let write = || -> io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::TRUNC;
            let mut file = self.open_below(&line.shown_in(), flags)?;
            // In one piece, with a new line, which alone says that a list is to be empty.
            file.write_all(format!("{value}\n").as_bytes())
        };
        write().or_else(|error| {
            let next_step = match error.kind() {
                // The name was read before; this is about the value.
                io::ErrorKind::InvalidInput | io::ErrorKind::NotFound => {
                    "find a value that this kernel takes, and pass it: --apply NAME=VALUE"
                        .to_owned()
                }
                _ => next_step(&error),
            };
            Err(error)
                .with_context(|| format!("cannot set {} to \"{value}\"", line.name()))
                .advise(next_step)
        })
    }

    /// What the host keeps for its next boot.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is somebody else's.
    pub(super) fn drop_in(&self, conf: Conf) -> anyhow::Result<DropIn> {
        let path = conf.drop_in();
        let text = match self.read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        };
        let text = text.or_else(|error| {
            let next_step = next_step(&error);
            Err(error)
                .with_context(|| format!("cannot read {}", self.path(path).display()))
                .advise(next_step)
        })?;
        DropIn::parse(conf, &text).advise(format!(
            "move what is not of midspan doctor to another file beside {}",
            self.path(path).display()
        ))
    }

    /// Keeps this for the next boot: the file is there whole, or as it was before. One that
    /// keeps nothing is removed.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn keep(&self, drop_in: &DropIn) -> anyhow::Result<()> {
        let path = drop_in.conf().drop_in();
        let text = drop_in.to_string();
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        // `sysctl` and PAM read names that end in .conf alone.
        let temporary = format!("{name}.new");
        let write = || -> io::Result<()> {
            let folder = self.open_below(folder, OFlags::DIRECTORY)?;
            if text.is_empty() {
                match fs::unlinkat(&folder, name, AtFlags::empty()) {
                    Err(error) if error != rustix::io::Errno::NOENT => return Err(error.into()),
                    Ok(()) | Err(_) => {}
                }
            } else {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
                let file = fs::openat(&folder, &temporary, flags | OFlags::CLOEXEC, MODE)?;
                let mut file = File::from(file);
                // Whatever the umask says.
                fs::fchmod(&file, MODE)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                fs::renameat(&folder, &temporary, &folder, name)?;
            }
            folder.sync_all()
        };
        write().or_else(|error| {
            let next_step = match error.kind() {
                io::ErrorKind::NotFound => {
                    format!("make the directory {}", self.path(folder).display())
                }
                _ => next_step(&error),
            };
            Err(error)
                .with_context(|| format!("cannot write {}", self.path(path).display()))
                .advise(next_step)
        })
    }

    fn read(&self, path: &str) -> io::Result<String> {
        let mut content = String::new();
        self.open_below(path, OFlags::empty())?
            .read_to_string(&mut content)?;
        Ok(content)
    }

    fn open_below(&self, path: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT;
        Ok(fs::openat2(&self.root, path, flags, Mode::empty(), resolve)?.into())
    }
}

/// What to do about an error of a file that is there.
fn next_step(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied if !geteuid().is_root() => "run it as root".to_owned(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "in a container, set it where that is started: on the host, or for Docker with \
             --sysctl and --ulimit"
                .to_owned()
        }
        _ => "look at that file, and try again".to_owned(),
    }
}
