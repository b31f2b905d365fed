//! Hosts out of a list of Adblock Plus's kind, such as `gfwlist`.
//!
//! Such a list filters URLs, and of a destination there is only the host. What is used:
//!
//! | line | fits |
//! |---|---|
//! | `\|\|example.com`, `.example.com`, `example.com` | the name and all below it |
//! | `\|https://example.com/path` | that name alone |
//! | `\|\|192.0.2.7` | that address |
//! | `word` | names that it is part of |
//! | `/regex/` | names of which `https://NAME/` or `http://NAME/` holds it, in either case |
//! | `@@` before any of these | takes the host out of the list, wherever it stands |
//! | `! text`, `[AutoProxy 0.2.9]` | nothing: a comment, the head |
//!
//! A path or a port behind a host is dropped: who leads one page by a relay leads its host
//! there. Not so in an exception, which would take out more than it says; that is ignored.
//! So is what depends on more than the host: options (`$third-party`), rules about elements
//! (`##`), wildcards within a host, text of a path, and regular expressions with look-around.
//! Ignored lines are counted.
//!
//! Names are kept by hash and asked for label by label, so that the length of a list does
//! not tell in how long an answer takes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::iter;
use std::net::IpAddr;

use ahash::RandomState;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::pattern::REGEX_BYTES_MAX;
use super::{Asked, NAME_BYTES_MAX, written_out};
use crate::access::egress::host_name;

/// How long a list may be, in bytes: ten times the longest that are in use.
pub const LIST_BYTES_MAX: usize = 16 << 20;

/// How large all regular expressions of a list may be when they are compiled, in bytes, and
/// all words.
const SET_BYTES_MAX: usize = 16 << 20;

/// Hosts, by name, address, or form.
#[derive(Clone, Debug)]
pub struct HostList {
    listed: Hosts,
    excepted: Hosts,
    used_count: usize,
    ignored_count: usize,
}

/// No list that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostListError {
    /// Longer than [`LIST_BYTES_MAX`].
    #[error("it has {bytes} bytes, and {LIST_BYTES_MAX} are taken; split it over several rules")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Its regular expressions, or its words, take too much memory together.
    #[error(
        "its regular expressions or words need more than {SET_BYTES_MAX} bytes to be matched; \
         split it over several rules"
    )]
    TooLarge,
    /// Not one of its lines was of use.
    #[error(
        "none of its {lines_count} lines names a host; write one of Adblock Plus's kind, such \
         as ||example.com"
    )]
    NoHost {
        /// How many lines it has, without comments.
        lines_count: usize,
    },
}

#[derive(Clone, Debug)]
struct Hosts {
    names: HashMap<Box<str>, Breadth, RandomState>,
    addresses: HashSet<IpAddr, RandomState>,
    /// Any of the words, if there are.
    words: Option<Regex>,
    /// About URLs.
    regexes: RegexSet,
}

/// What of a domain is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Breadth {
    Itself,
    AllBelow,
}

/// Hosts as they are collected.
#[derive(Debug, Default)]
struct Collected {
    names: HashMap<Box<str>, Breadth, RandomState>,
    addresses: HashSet<IpAddr, RandomState>,
    words: Vec<String>,
    regexes: Vec<String>,
}

/// What one line names.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Name(String, Breadth),
    Address(IpAddr),
    Word(String),
    Regex(String),
}

impl HostList {
    /// The hosts that a list names, all of which may be in base64.
    ///
    /// # Errors
    ///
    /// More than [`LIST_BYTES_MAX`]; regular expressions that need more than 16 MiB together;
    /// lines none of which names a host, as of a page that was stored in a list's place.
    pub fn parse(text: &str) -> Result<Self, HostListError> {
        if text.len() > LIST_BYTES_MAX {
            let bytes = text.len();
            return Err(HostListError::TooLong { bytes });
        }
        let text = unpacked(text);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let (mut listed, mut excepted) = (Collected::default(), Collected::default());
        let (mut used_count, mut ignored_count) = (0, 0);
        for line in text.lines().map(str::trim) {
            let is_head = line.starts_with('[') && line.ends_with(']');
            if line.is_empty() || line.starts_with('!') || is_head {
                continue;
            }
            let exception = line.strip_prefix("@@");
            let entry = match exception {
                Some(rule) => Entry::parse(rule, Rest::MustBeEmpty),
                None => Entry::parse(line, Rest::IsDropped),
            };
            match (entry, exception) {
                (None, _) => {
                    ignored_count += 1;
                    continue;
                }
                (Some(entry), Some(_)) => excepted.insert(entry),
                (Some(entry), None) => listed.insert(entry),
            }
            used_count += 1;
        }
        if used_count == 0 && ignored_count > 0 {
            let lines_count = ignored_count;
            return Err(HostListError::NoHost { lines_count });
        }
        let too_large = |_| HostListError::TooLarge;
        Ok(Self {
            listed: Hosts::new(listed).map_err(too_large)?,
            excepted: Hosts::new(excepted).map_err(too_large)?,
            used_count,
            ignored_count,
        })
    }

    /// How many lines name a host or except one.
    #[must_use]
    pub const fn used_count(&self) -> usize {
        self.used_count
    }

    /// How many lines say nothing that can be told of a host. Comments are none of them.
    #[must_use]
    pub const fn ignored_count(&self) -> usize {
        self.ignored_count
    }

    /// Whether a host is listed, and not excepted.
    pub(super) fn holds(&self, asked: &Asked) -> bool {
        self.listed.hold(asked) && !self.excepted.hold(asked)
    }
}

impl Hosts {
    fn new(collected: Collected) -> Result<Self, regex::Error> {
        // Words are in lower case, as the names that are asked about: an alternation of such
        // plain text is one automaton (Aho-Corasick), which a set would not be.
        let any_word = |words: &[String]| {
            let escaped: Vec<_> = words.iter().map(|word| regex::escape(word)).collect();
            RegexBuilder::new(&escaped.join("|"))
                .unicode(false)
                .size_limit(SET_BYTES_MAX)
                .build()
        };
        let words = match collected.words.as_slice() {
            [] => None,
            words => Some(any_word(words)?),
        };
        let regexes = RegexSetBuilder::new(&collected.regexes)
            .unicode(false)
            .case_insensitive(true)
            .size_limit(SET_BYTES_MAX)
            .build()?;
        Ok(Self {
            names: collected.names,
            addresses: collected.addresses,
            words,
            regexes,
        })
    }

    fn hold(&self, asked: &Asked) -> bool {
        match asked {
            Asked::Address(address) => self.addresses.contains(address),
            Asked::Name(name) => {
                self.hold_name(name) || self.hold_word_of(name) || self.hold_url_of(name)
            }
        }
    }

    fn hold_name(&self, name: &str) -> bool {
        suffixes(name).any(|suffix| match self.names.get(suffix) {
            Some(Breadth::AllBelow) => true,
            Some(Breadth::Itself) => suffix.len() == name.len(),
            None => false,
        })
    }

    fn hold_word_of(&self, name: &str) -> bool {
        let words = self.words.as_ref();
        words.is_some_and(|words| words.is_match(name.as_bytes()))
    }

    fn hold_url_of(&self, name: &str) -> bool {
        let holds = |scheme| {
            let url = format!("{scheme}://{name}/");
            self.regexes.is_match(url.as_bytes())
        };
        !self.regexes.is_empty() && ["https", "http"].into_iter().any(holds)
    }
}

/// Where a name's labels start, from the last: `com`, `example.com`, `www.example.com`. None
/// is longer than a name can be.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    let starts = name.rmatch_indices('.').map(|(at, _)| at + 1);
    let suffixes = starts.chain(iter::once(0)).map(|start| &name[start..]);
    suffixes.take_while(|suffix| suffix.len() <= NAME_BYTES_MAX)
}

impl Collected {
    fn insert(&mut self, entry: Entry) {
        match entry {
            Entry::Name(name, breadth) => {
                let kept = self.names.entry(name.into()).or_insert(breadth);
                *kept = breadth.max(*kept);
            }
            Entry::Address(address) => {
                self.addresses.insert(address);
            }
            Entry::Word(word) => self.words.push(word),
            Entry::Regex(regex) => self.regexes.push(regex),
        }
    }
}

/// What to do with what stands behind a host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    IsDropped,
    MustBeEmpty,
}

impl Entry {
    /// What a line without its `@@` names, if anything.
    fn parse(rule: &str, rest: Rest) -> Option<Self> {
        let regex = rule.strip_prefix('/').and_then(|r| r.strip_suffix('/'));
        if let Some(regex) = regex {
            return Self::regex(regex);
        }
        if rule.contains(['#', '$']) {
            return None;
        }
        let url = rule.strip_prefix('|').unwrap_or(rule);
        if let Some(below) = url.strip_prefix('|') {
            return Self::host(below, Breadth::AllBelow, rest);
        }
        if let Some((scheme, url)) = url.split_once("://") {
            let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphabetic());
            let host = || Self::host(url, Breadth::Itself, rest);
            return is_scheme.then(host).flatten();
        }
        if rule.starts_with('|') {
            return None;
        }
        if let Some(below) = rule.strip_prefix('.') {
            return Self::host(below, Breadth::AllBelow, rest);
        }
        if rule.contains('.') {
            return Self::host(rule, Breadth::AllBelow, rest).filter(|entry| match entry {
                // `page/index.html` starts with none.
                Self::Name(name, _) => name.contains('.'),
                _ => true,
            });
        }
        let word = host_name(rule).filter(|word| word.len() <= NAME_BYTES_MAX);
        word.map(Self::Word)
    }

    /// The host that `text` starts with.
    fn host(text: &str, breadth: Breadth, rest: Rest) -> Option<Self> {
        let end = match text.strip_prefix('[').and_then(|rest| rest.find(']')) {
            Some(length) => length + 2,
            None => text.find(['/', '^', ':', '?', '|']).unwrap_or(text.len()),
        };
        let (host, behind) = text.split_at(end);
        if rest == Rest::MustBeEmpty && !behind.trim_matches(['/', '^', '|', '*']).is_empty() {
            return None;
        }
        if let Some(address) = written_out(host) {
            return Some(Self::Address(address.to_canonical()));
        }
        let (host, breadth) = match host.strip_prefix("*.") {
            Some(below) => (below, Breadth::AllBelow),
            None => (host, breadth),
        };
        // A dot at the end is of a text that goes on (`.example.`), and not of the root.
        let is_whole = host.len() <= NAME_BYTES_MAX && !host.ends_with('.');
        let name = host_name(host).filter(|_| is_whole)?;
        Some(Self::Name(name, breadth))
    }

    fn regex(written: &str) -> Option<Self> {
        if written.is_empty() || written.len() > REGEX_BYTES_MAX {
            return None;
        }
        let mut builder = RegexBuilder::new(written);
        builder.unicode(false).case_insensitive(true);
        let regex = builder.size_limit(REGEX_BYTES_MAX).build();
        regex.is_ok().then(|| Self::Regex(written.to_owned()))
    }
}

/// The text within base64, or `text` itself. A list in the clear has dots, bars or
/// exclamation marks, of which base64 has none; and what is no base64 seldom leads to text.
fn unpacked(text: &str) -> Cow<'_, str> {
    let bytes = text.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let mut packed: Vec<u8> = bytes.collect();
    while packed.last() == Some(&b'=') {
        packed.pop();
    }
    let list = STANDARD_NO_PAD.decode(&packed).ok();
    let list = list.and_then(|list| String::from_utf8(list).ok());
    let is_text = |list: &String| {
        let mut chars = list.chars();
        chars.all(|c| !c.is_control() || c.is_ascii_whitespace())
    };
    list.filter(|list| !list.is_empty() && is_text(list))
        .map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::super::Host;
    use super::*;

    fn list(text: &str) -> HostList {
        HostList::parse(text).expect(text)
    }

    fn check(list: &HostList, cases: &[(&str, bool)]) {
        for (host, expected) in cases {
            let asked = Asked::from(Host::Name(host));
            assert_eq!(list.holds(&asked), *expected, "{host}");
        }
    }

    const WRITTEN: &str = "\
[AutoProxy 0.2.9]
! a comment about ||commented.example
||below.example
||Slash.example/
||caret.example^
||path.example/some/page
||port.example:8080
||*.starred.example
||192.0.2.7
||[2001:db8::7]:443
|http://alone.example
|https://alone.path.example/page?x=y
http://bare.example/page|
.dotted.example
.dotted.path.example/page
plain.example
plain.path.example/page
198.51.100.7
TibetWord
/^https?:\\/\\/([^\\/]+\\.)*regex[0-9]\\.example\\//
@@||not.below.example
@@|https://exact.plain.example/
@@||most.plain.example/page
@@/^https:\\/\\/no[0-9]\\.plain\\.example/

||options.example^$third-party
##.banner
|nothing
|https://in*wild.example/
.google.
/page/banner.gif
page/banner.gif
search*word
q=word
/look(?=ahead)/
/open(/
||b\u{fc}cher.example
||
";

    #[test]
    fn lines_of_each_kind_are_taken_for_their_hosts() {
        let list = list(WRITTEN);
        check(
            &list,
            &[
                ("commented.example", false),
                ("below.example", true),
                ("a.b.BELOW.example.", true),
                ("notbelow.example", false),
                ("below.example.com", false),
                ("not.below.example", false),
                ("is.not.below.example", false),
                ("cannot.below.example", true),
                ("www.slash.example", true),
                ("www.caret.example", true),
                ("www.path.example", true),
                ("port.example", true),
                ("www.starred.example", true),
                ("starred.example", true),
                ("192.0.2.7", true),
                ("::ffff:192.0.2.7", true),
                ("192.0.2.70", false),
                ("1.192.0.2.7", false),
                ("2001:db8::7", true),
                ("alone.example", true),
                ("www.alone.example", false),
                ("alone.path.example", true),
                ("bare.example", true),
                ("www.bare.example", false),
                ("dotted.example", true),
                ("www.dotted.example", true),
                ("www.dotted.path.example", true),
                ("plain.example", true),
                ("www.plain.example", true),
                ("exact.plain.example", false),
                ("www.exact.plain.example", true),
                ("most.plain.example", true),
                ("no7.plain.example", false),
                ("www.plain.path.example", true),
                ("198.51.100.7", true),
                ("100.7", false),
                ("my-tibetword.example", true),
                ("tibet.word.example", false),
                ("regex7.example", true),
                ("www.REGEX7.example", true),
                ("aregex7.example", false),
                ("regex7.example.com", false),
                ("options.example", false),
                ("google.com", false),
                ("www.google", false),
                ("nothing", false),
                ("page", false),
                ("banner.gif", false),
                ("in-the.wild.example", false),
                ("", false),
                (".", false),
                ("example", false),
            ],
        );
        assert_eq!((list.used_count(), list.ignored_count()), (21, 14));
    }

    #[test]
    fn a_list_may_be_in_base64_and_end_its_lines_in_any_way() {
        let packed = base64::engine::general_purpose::STANDARD.encode(WRITTEN);
        let lines: Vec<_> = packed
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).expect("ASCII"))
            .collect();
        for text in [
            WRITTEN.replace('\n', "\r\n"),
            format!("\u{feff}{WRITTEN}"),
            packed.clone(),
            packed.trim_end_matches('=').to_owned(),
            lines.join("\n"),
            format!("\r\n{}\r\n", lines.join("\r\n")),
        ] {
            let list = list(&text);
            assert_eq!((list.used_count(), list.ignored_count()), (21, 14));
            check(
                &list,
                &[("www.below.example", true), ("not.below.example", false)],
            );
        }
        // Base64 of no text is what it says.
        check(&list("word"), &[("a-word.example", true)]);
    }

    #[test]
    fn the_wider_of_two_entries_holds() {
        for text in [
            "||a.example\n|http://a.example",
            "|http://a.example\n||a.example",
        ] {
            check(&list(text), &[("www.a.example", true), ("a.example", true)]);
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert_eq!(list("").used_count(), 0);
        assert_eq!(list("[Adblock Plus 2.0]\n! nothing yet\n").used_count(), 0);
        let page = "<!DOCTYPE html>\n<p>302 Found</p>\n";
        let error = HostList::parse(page).expect_err("a page");
        assert_eq!(error, HostListError::NoHost { lines_count: 2 });
        let bytes = LIST_BYTES_MAX + 1;
        let error = HostList::parse(&"!".repeat(bytes)).expect_err("too long");
        assert_eq!(error, HostListError::TooLong { bytes });
    }

    #[test]
    fn hostile_lines_are_ignored() {
        let long = "a".repeat(1 << 20);
        for line in [
            format!("||{long}.example"),
            long.clone(),
            format!("/{long}/"),
            "/(a{1000}){1000}/".to_owned(),
            format!("/{}/", "(".repeat(100_000)),
            "||nul\0.example".to_owned(),
            "||-\u{202e}.example".to_owned(),
            "[".to_owned(),
            "@@".to_owned(),
            "@@@@||a.example".to_owned(),
            "||[::1".to_owned(),
            "||[".to_owned(),
            "//".to_owned(),
            "/".to_owned(),
            "|".to_owned(),
            "://".to_owned(),
        ] {
            let list = list(&format!("||a.example\n{line}"));
            let shown: String = line.chars().take(20).collect();
            assert_eq!((list.used_count(), list.ignored_count()), (1, 1), "{shown}");
            check(&list, &[("a.example", true)]);
        }
        let each = |index: usize| format!("/^x{index}[a-z]{{1,500}}\\.example/\n");
        let many: String = (0..5_000).map(each).collect();
        let error = HostList::parse(&many).expect_err("too large");
        assert_eq!(error, HostListError::TooLarge);
    }

    #[test]
    fn a_long_list_is_asked_as_often_as_a_name_has_labels() {
        let name = |index: usize| format!("||host{index}.example\nword{index}x\n");
        let text: String = (0..10_000).map(name).collect();
        let list = list(&text);
        assert_eq!(list.used_count(), 20_000);
        check(
            &list,
            &[
                ("www.host9999.example", true),
                ("host10000.example", false),
                ("my-word9999x.example", true),
                ("my-word10000x.example", false),
            ],
        );
        let probes: Vec<_> = suffixes("www.a.host1.example").collect();
        assert_eq!(
            probes,
            [
                "example",
                "host1.example",
                "a.host1.example",
                "www.a.host1.example"
            ]
        );
        for hostile in [".".repeat(100_000), "a.".repeat(100_000)] {
            assert!(suffixes(&hostile).count() <= NAME_BYTES_MAX + 1);
        }
        assert_eq!(suffixes(&"a".repeat(100_000)).count(), 0);
    }
}
