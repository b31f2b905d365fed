//! A request as far as it matters to a page.

use std::fmt;

use crate::protocol::http_head::RequestHead;

/// What somebody asks who asks for none of the relay's own paths.
#[derive(Clone, PartialEq, Eq)]
pub struct WebRequest {
    method: Method,
    /// Path and query. Begins with a slash.
    target: String,
    /// Tags of what the client has already, as `If-None-Match` lists them.
    known: Vec<String>,
}

/// How it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Other,
}

/// Without the query, which may hold a key.
impl fmt::Debug for WebRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebRequest")
            .field("method", &self.method)
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl WebRequest {
    /// Reads it from a head; `None` if its target has no path, as that of `CONNECT`.
    #[must_use]
    pub fn from_head(head: &RequestHead<'_, '_>) -> Option<Self> {
        let tags = head.headers.tokens("If-None-Match");
        Some(Self {
            method: match head.method {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                _ => Method::Other,
            },
            target: path_and_query(head.target)?,
            known: tags.map(str::to_owned).collect(),
        })
    }

    /// How it asks.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Path and query, as they came.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The path, as it came.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts().0
    }

    /// The query with its question mark, or nothing.
    #[must_use]
    pub fn query(&self) -> &str {
        self.parts().1
    }

    /// Whether the client has what has this tag: RFC 9110 §13.1.2.
    #[must_use]
    pub fn knows(&self, tag: &str) -> bool {
        let is_same = |known: &String| known == "*" || known.trim_start_matches("W/") == tag;
        self.known.iter().any(is_same)
    }

    fn parts(&self) -> (&str, &str) {
        let end = self.target.find('?').unwrap_or(self.target.len());
        self.target.split_at(end)
    }
}

/// Those of a target in origin form, or in absolute form, whose host is not looked at: RFC
/// 9112 §3.2.
fn path_and_query(target: &str) -> Option<String> {
    if target.starts_with('/') {
        return Some(target.to_owned());
    }
    let (scheme, rest) = target.split_once("://")?;
    let is_http = ["http", "https"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let after = &rest[end..];
    let slash = if after.starts_with('/') { "" } else { "/" };
    is_http.then(|| format!("{slash}{after}"))
}

#[cfg(test)]
impl WebRequest {
    /// Of this head.
    pub(super) fn of(text: &str) -> Option<Self> {
        use crate::protocol::Progress;
        use crate::protocol::http_head::{HeadPolicy, HeaderSlots};
        let mut slots = HeaderSlots::<8>::new();
        match RequestHead::decode(text.as_bytes(), HeadPolicy::HTTP, &mut slots) {
            Ok(Progress::Complete { value, .. }) => Self::from_head(&value),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_a_path_or_is_none_of_ours() {
        for (target, expected) in [
            ("/a?b", Some("/a?b")),
            ("http://a/b?c", Some("/b?c")),
            ("HTTPS://a", Some("/")),
            ("http://a?b/c", Some("/?b/c")),
            ("http://a#b", Some("/#b")),
            ("ftp://a/b", None),
            ("a:443", None),
            ("*", None),
            ("a/b", None),
        ] {
            let request = WebRequest::of(&format!("GET {target} HTTP/1.1\r\n\r\n"));
            let got = request.as_ref().map(WebRequest::target);
            assert_eq!(got, expected, "{target}");
        }
        let request = WebRequest::of("GET /a?token=b HTTP/1.1\r\n\r\n").expect("a path");
        assert!(!format!("{request:?}").contains("token"), "{request:?}");
    }
}
