//! What those get who ask over HTTP for none of the relay's own paths: nothing, the way to
//! another site, or a page of a tree of files that is held in memory.
//!
//! A page is found by its name in a map, so that a request reaches nothing that is not in
//! it, whatever its path says. Nothing here waits for a disk: `config` reads the tree.
//!
//! Left out: lists of what a folder holds, ranges (RFC 9110 §14), compression, dates (an
//! `ETag` says as much, and a core reads no clock), and pages for errors.

mod media_type;
mod origin;
mod path;
mod request;
mod tree;

use std::sync::Arc;

use thiserror::Error;

use crate::protocol::http_head::Answer;

pub use origin::{Origin, OriginError};
pub use path::is_plain_name;
pub use request::{Method, WebRequest};
pub use tree::{Page, Tree};

/// The methods that a page takes, as the header `Allow` lists them.
pub const METHODS: &str = "GET, HEAD";

/// What there is beside the relay's own paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Web {
    /// Nothing.
    #[default]
    Nothing,
    /// All that is asked for is at another site.
    Redirect(Origin),
    /// These pages.
    Tree(Arc<Tree>),
}

/// Why a request gets nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WebRefusal {
    /// 404
    #[error("there is no such page")]
    NotFound,
    /// 400
    #[error("the path is none that a page could have")]
    MalformedPath,
    /// 405
    #[error("a page takes {METHODS} only")]
    WrongMethod,
}

impl Web {
    /// Answers a request.
    ///
    /// # Errors
    /// If there is nothing for it.
    pub fn answer(&self, request: &WebRequest) -> Result<Answer, WebRefusal> {
        match self {
            Self::Nothing => Err(WebRefusal::NotFound),
            // 308 and not 301, so that what is posted is posted there as well: RFC 9110
            // §15.4.9. No cache keeps it, so that it can be taken back.
            Self::Redirect(origin) => {
                Ok(Answer::new(308).with_header("Location", origin.location(request.target())))
            }
            Self::Tree(tree) => tree.answer(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http_head::Persistence;

    fn tree() -> Web {
        let mut tree = Tree::new("/srv/www".into());
        for (name, text) in [
            ("index.html", "home"),
            ("about.html", "about"),
            ("docs/index.html", "docs"),
            ("docs.html", "not reached without its end"),
            ("docs/a b/index.html", "spaces"),
            ("empty/data.bin", ""),
            ("caf\u{e9}.txt", "coffee"),
        ] {
            tree.insert(name.to_owned(), text.as_bytes().to_vec(), None);
        }
        Web::Tree(Arc::new(tree))
    }

    fn ask(web: &Web, line: &str, headers: &str) -> Result<String, WebRefusal> {
        let request = WebRequest::of(&format!("{line} HTTP/1.1\r\n{headers}\r\n"));
        let answer = web.answer(&request.expect("a request"))?;
        Ok(String::from_utf8(answer.encode(Persistence::KeepAlive)).expect("text"))
    }

    #[track_caller]
    fn check(line: &str, expected: Result<(&str, &str), WebRefusal>) {
        let got = ask(&tree(), line, "");
        match (got, expected) {
            (Ok(got), Ok((status, part))) => {
                assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
                assert!(got.contains(part), "{line}: {got}");
            }
            (got, expected) => assert_eq!(got.err(), expected.err(), "{line}"),
        }
    }

    #[test]
    fn a_page_is_found_by_its_name() {
        check("GET /", Ok(("200", "\r\n\r\nhome")));
        check("GET /?x=y", Ok(("200", "\r\n\r\nhome")));
        check("GET http://elsewhere.example", Ok(("200", "\r\n\r\nhome")));
        check("GET http://elsewhere.example?x", Ok(("200", "home")));
        check("GET /index.html", Ok(("200", "\r\n\r\nhome")));
        check("GET /about.html", Ok(("200", "\r\n\r\nabout")));
        check("GET /about", Ok(("200", "\r\n\r\nabout")));
        check("GET /%61bout", Ok(("200", "\r\n\r\nabout")));
        check("GET /docs/", Ok(("200", "\r\n\r\ndocs")));
        check("GET /docs", Ok(("302", "\r\nLocation: /docs/\r\n")));
        check("GET /docs?x", Ok(("302", "\r\nLocation: /docs/?x\r\n")));
        let spaced = "\r\nLocation: /docs/a%20b/\r\n";
        check("GET /docs/a%20b", Ok(("302", spaced)));
        check("GET /caf%C3%A9.txt", Ok(("200", "\r\n\r\ncoffee")));
        check("GET /caf\u{e9}.txt", Ok(("200", "\r\n\r\ncoffee")));
        check("GET /empty/data.bin", Ok(("200", "Content-Length: 0\r\n")));
        for line in [
            "GET /none",
            "GET /about/",
            "GET /ABOUT",
            "GET /empty",
            "GET /empty/",
            "GET //",
            "GET //docs",
            "GET //docs/",
            "GET /docs//",
            "GET /about.html/",
        ] {
            check(line, Err(WebRefusal::NotFound));
        }
        check("GET /docs/../about", Err(WebRefusal::MalformedPath));
        check("POST /", Err(WebRefusal::WrongMethod));
        check("get /", Err(WebRefusal::WrongMethod));
        check("DELETE /none", Err(WebRefusal::WrongMethod));
    }

    #[test]
    fn a_head_is_that_of_the_page_without_it() {
        let whole = ask(&tree(), "GET /about", "").expect("a page");
        let head = ask(&tree(), "HEAD /about", "").expect("a head");
        assert_eq!(whole, format!("{head}about"));
        for line in [
            "Content-Type: text/html; charset=utf-8",
            "Content-Length: 5",
            "X-Content-Type-Options: nosniff",
            "Cache-Control: no-cache",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
        }
    }

    #[test]
    fn whoever_has_the_page_is_told_that_it_has_not_changed() {
        let web = tree();
        let head = ask(&web, "HEAD /about", "").expect("a head");
        let (_, tag) = head.split_once("ETag: ").expect("a tag");
        let tag = tag.split("\r\n").next().expect("a line");
        for (known, expected) in [
            (format!("If-None-Match: {tag}\r\n"), "304"),
            (format!("If-None-Match: W/{tag}\r\n"), "304"),
            (format!("If-None-Match: \"other\", {tag}\r\n"), "304"),
            (
                format!("If-None-Match: \"a\"\r\nif-none-match: {tag}\r\n"),
                "304",
            ),
            ("If-None-Match: *\r\n".to_owned(), "304"),
            ("If-None-Match: \"other\"\r\n".to_owned(), "200"),
            (
                format!("If-None-Match: {}\r\n", tag.trim_matches('"')),
                "200",
            ),
        ] {
            for method in ["GET", "HEAD"] {
                let got = ask(&web, &format!("{method} /about"), &known).expect("an answer");
                assert!(got.starts_with(&format!("HTTP/1.1 {expected} ")), "{got}");
                assert!(got.contains(&format!("\r\nETag: {tag}\r\n")), "{got}");
                let is_told = got.contains("Content-Length");
                assert_eq!(is_told, expected == "200", "{got}");
            }
        }
    }

    #[test]
    fn a_redirect_keeps_path_and_query_and_nothing_else() {
        let web = Web::Redirect("https://example.com".parse().expect("an origin"));
        for (target, expected) in [
            ("/", "/"),
            ("/a/b?c=d&e", "/a/b?c=d&e"),
            ("/a%2Fb%zz%", "/a%2Fb%25zz%25"),
            ("//evil.example/x", "//evil.example/x"),
            ("/\\evil.example", "/%5Cevil.example"),
            ("/@evil.example", "/@evil.example"),
            ("/a#b", "/a%23b"),
            ("/\"<>{}|^`[]", "/%22%3C%3E%7B%7D%7C%5E%60%5B%5D"),
            ("/%0d%0aSet-Cookie:x=y", "/%0d%0aSet-Cookie:x=y"),
            ("/\u{e9}", "/%C3%A9"),
            ("http://evil.example/x?y", "/x?y"),
            ("http://evil.example", "/"),
            ("https://user@evil.example?y", "/?y"),
        ] {
            for method in ["GET", "HEAD", "POST"] {
                let got = ask(&web, &format!("{method} {target}"), "").expect("a redirect");
                let location = format!("\r\nLocation: https://example.com{expected}\r\n");
                assert!(got.starts_with("HTTP/1.1 308 "), "{got}");
                assert!(got.contains(&location), "{target}: {got}");
            }
        }
    }
}
