//! What those get who ask over HTTP for none of the relay's own paths: `[web]`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::file::ConfigFile;
use super::limits::Limits;
use super::web_root;
use super::{ConfigError, Place, Problem};
use crate::web::Web;

/// `[web]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenWeb {
    root: Option<Spanned<PathBuf>>,
    redirect: Option<Spanned<String>>,
}

/// What the file says, with its pages read.
pub(super) fn web(file: Option<&ConfigFile>, limits: &Limits) -> Result<Web, ConfigError> {
    let Some(file) = file else {
        return Ok(Web::Nothing);
    };
    match &file.written().web {
        WrittenWeb {
            root: None,
            redirect: None,
        } => Ok(Web::Nothing),
        WrittenWeb {
            root: Some(_),
            redirect: Some(redirect),
        } => Err(ConfigError::new(file.place(redirect), Problem::WebTwice)),
        WrittenWeb {
            redirect: Some(redirect),
            ..
        } => match redirect.get_ref().parse() {
            Ok(origin) => Ok(Web::Redirect(origin)),
            Err(error) => {
                let problem = Problem::Origin(error);
                Err(ConfigError::new(file.place(redirect), problem))
            }
        },
        WrittenWeb {
            root: Some(root), ..
        } => {
            let wrong = |problem| ConfigError::new(file.place(root), problem);
            let path = root.get_ref();
            if !path.is_absolute() {
                return Err(wrong(Problem::RelativePath { path: path.clone() }));
            }
            let tree = web_root::read(path, limits, None);
            let tree = tree.map_err(|error| wrong(Problem::Web(error)))?;
            Ok(Web::Tree(Arc::new(tree)))
        }
    }
}

/// The same, with its pages read again.
///
/// # Errors
///
/// As when they were read first.
pub fn read_again(web: &Web, limits: &Limits) -> Result<Web, ConfigError> {
    let Web::Tree(before) = web else {
        return Ok(web.clone());
    };
    let tree = web_root::read(before.root(), limits, Some(before));
    let tree = tree.map_err(|error| {
        let place = Place::WholeFile(before.root().to_owned());
        ConfigError::new(place, Problem::Web(error))
    })?;
    Ok(Web::Tree(Arc::new(tree)))
}

/// A number that is another one when its pages have changed; `None` when they cannot be
/// looked at, or there are none.
#[must_use]
pub fn stamp(web: &Web, limits: &Limits) -> Option<u64> {
    match web {
        Web::Tree(tree) => web_root::stamp(tree.root(), limits).ok(),
        Web::Nothing | Web::Redirect(_) => None,
    }
}

/// As the file writes it.
pub(super) struct Shown<'a>(pub(super) &'a Web);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Web::Nothing => Ok(()),
            Web::Redirect(origin) => writeln!(f, "\n[web]\nredirect = \"{origin}\""),
            Web::Tree(tree) => {
                let (count, bytes) = (tree.len(), tree.bytes());
                let root = tree.root().to_string_lossy().into_owned();
                let root = toml::Value::String(root);
                writeln!(
                    f,
                    "\n[web]\n# Files: {count}, bytes: {bytes}.\nroot = {root}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn pages_are_read_with_the_file_and_shown_as_it_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("index.html"), "home").unwrap();
        let limits = Limits::defaults(1024, 1 << 30);
        let text = format!("[web]\nroot = {:?}\n", folder.path().to_str().unwrap());
        let read = |text: String| {
            let file = ConfigFile::parse(Path::new("midspan.toml"), text).unwrap();
            web(Some(&file), &limits)
        };
        let first = read(text.clone()).unwrap();
        let shown = Shown(&first).to_string();
        assert!(shown.contains("# Files: 1, bytes: 4.\n"), "{shown}");
        assert_eq!(read(shown).unwrap(), first);

        let before = stamp(&first, &limits);
        assert!(before.is_some());
        fs::write(folder.path().join("more.txt"), "more").unwrap();
        assert_ne!(stamp(&first, &limits), before);
        let again = read_again(&first, &limits).unwrap();
        assert_ne!(again, first);
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(stamp(&first, &limits), None);
        let error = read_again(&first, &limits).unwrap_err().to_string();
        let root = folder.path().display();
        let expected = format!("{root}: cannot read {root}: No such file or directory");
        assert!(error.starts_with(&expected), "{error}");
        let error = read(text).unwrap_err().to_string();
        assert!(
            error.starts_with("midspan.toml:2:8: web.root: cannot read "),
            "{error}"
        );
    }
}
