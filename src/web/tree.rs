//! Pages by their names.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::media_type::media_type_of;
use super::path::{decode, push_name, push_target};
use super::{Method, WebRefusal, WebRequest};
use crate::protocol::http_head::Answer;

/// The page of a folder.
const INDEX: &str = "index.html";

/// Bytes of a page's hash that are its tag.
const TAG_BYTES: usize = 16;

/// All pages, as they were when they were read.
#[derive(PartialEq, Eq)]
pub struct Tree {
    root: PathBuf,
    /// By their names below the root, with slashes between: `docs/index.html`.
    pages: HashMap<String, Page>,
    bytes: u64,
}

/// One page. Cloned, it shares its bytes, which live as long as somebody still reads them.
#[derive(Clone, PartialEq, Eq)]
pub struct Page {
    media_type: &'static str,
    /// Another one for other bytes: RFC 9110 §8.8.3.
    tag: String,
    bytes: Arc<[u8]>,
}

/// How many, not which.
impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree")
            .field("root", &self.root)
            .field("pages", &self.pages.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("media_type", &self.media_type)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Tree {
    /// A tree without pages, to be read from below `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            pages: HashMap::new(),
            bytes: 0,
        }
    }

    /// Adds a page. Where the tree `before` has the same, that one is shared.
    pub fn insert(&mut self, name: String, bytes: Vec<u8>, before: Option<&Self>) {
        let known = before.and_then(|before| before.pages.get(&name));
        self.bytes += bytes.len() as u64;
        let page = match known {
            Some(known) if *known.bytes == *bytes => known.clone(),
            _ => Page::new(&name, bytes),
        };
        self.pages.insert(name, page);
    }

    /// Where it was read from.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How many pages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Bytes of all pages.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The page of this name.
    #[must_use]
    pub fn page(&self, name: &str) -> Option<&Page> {
        self.pages.get(name)
    }

    pub(super) fn answer(&self, request: &WebRequest) -> Result<Answer, WebRefusal> {
        if request.method() == Method::Other {
            return Err(WebRefusal::WrongMethod);
        }
        let name = decode(request.path())?;
        if name.is_empty() || name.ends_with('/') {
            let page = self.page(&(name + INDEX)).ok_or(WebRefusal::NotFound)?;
            return Ok(page.answer(request));
        }
        if let Some(page) = self.page(&name) {
            return Ok(page.answer(request));
        }
        if self.pages.contains_key(&format!("{name}/{INDEX}")) {
            // What its page refers to begins there. A name that was found begins with no
            // slash, so that this leads to no other host.
            let mut location = "/".to_owned();
            push_name(&mut location, &name);
            location.push('/');
            push_target(&mut location, request.query());
            return Ok(Answer::new(302).with_header("Location", location));
        }
        let page = self.page(&(name + ".html"));
        page.map(|page| page.answer(request))
            .ok_or(WebRefusal::NotFound)
    }
}

impl Page {
    fn new(name: &str, bytes: Vec<u8>) -> Self {
        let hash = digest(&SHA256, &bytes);
        let mut tag = "\"".to_owned();
        for byte in &hash.as_ref()[..TAG_BYTES] {
            // Writing to a string does not fail.
            let _ = write!(tag, "{byte:02x}");
        }
        tag.push('"');
        Self {
            media_type: media_type_of(name),
            tag,
            bytes: bytes.into(),
        }
    }

    /// What it holds.
    #[must_use]
    pub const fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    fn answer(&self, request: &WebRequest) -> Answer {
        let answer = match request.knows(&self.tag) {
            true => Answer::new(304),
            false => Answer::with_shared_body(200, self.media_type, Arc::clone(&self.bytes))
                .with_header("X-Content-Type-Options", "nosniff"),
        };
        // It may be kept, and asked for by its tag each time.
        let answer = answer
            .with_header("ETag", self.tag.clone())
            .with_cache_control("no-cache");
        match request.method() {
            Method::Head => answer.without_body(),
            Method::Get | Method::Other => answer,
        }
    }
}
