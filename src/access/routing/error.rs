//! What is wrong with a file of rules, on which line, and what to write instead.

use std::io;
use std::path::PathBuf;

use super::pattern::REGEX_BYTES_MAX;
use super::{Action, HostListError, RULES_MAX};

/// How much of what was written is repeated, in bytes.
const EXCERPT_BYTES_MAX: usize = 80;

/// A line that is no rule. Displays as `line 7: …`.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RoutingError {
    line: usize,
    problem: Box<RoutingProblem>,
}

/// What is wrong with it. What was written is cut to 80 bytes.
#[derive(Debug, thiserror::Error)]
pub enum RoutingProblem {
    /// None of the four.
    #[error(
        "\"{}\" is no action; write relay, relay-or-direct, direct or deny, and then a pattern",
        .written.escape_default()
    )]
    Action { written: String },
    /// An action alone.
    #[error("{action} what? write a pattern behind it, such as * or example.com")]
    NoPattern { action: Action },
    /// None of any kind.
    #[error(
        "\"{}\" is no pattern; write *, a domain (example.com), an address (192.0.2.7) or a \
         network (10.0.0.0/8), a port (:22), one of these with a port (example.com:443, \
         [2001:db8::]/32:443), a regular expression (/.*\\.example/), or a list \
         (abp:/etc/midspan/gfwlist.txt)",
        .written.escape_default()
    )]
    Pattern { written: String },
    /// A comment behind a rule. A regular expression or a path may hold what looks like one.
    #[error(
        "a comment takes a line of its own; move \"{}\" there",
        .written.escape_default()
    )]
    Comment { written: String },
    /// A name in the letters of its language.
    #[error(
        "\"{}\" is not in ASCII; write its name as resolvers know it, such as \
         xn--bcher-kva.example",
        .written.escape_default()
    )]
    NotAscii { written: String },
    /// One slash, or nothing between two.
    #[error(
        "\"{}\" is not closed; write a regular expression between two slashes, such as \
         /.*\\.example\\.com/",
        .written.escape_default()
    )]
    RegexUnclosed { written: String },
    /// One that does not parse.
    #[error("/{written}/ is no regular expression: {reason}")]
    Regex { written: String, reason: String },
    /// One that would take too much memory.
    #[error(
        "/{written}/ is too large: more than {REGEX_BYTES_MAX} bytes are needed to match it; \
         write several"
    )]
    RegexTooLarge { written: String },
    /// A relative path: relative to what?
    #[error(
        "\"{}\" is no absolute path; write abp: and one, such as abp:/etc/midspan/gfwlist.txt",
        .written.escape_default()
    )]
    ListPath { written: String },
    /// A file that is not there.
    #[error("cannot read the list {}: {error}", .path.display())]
    ListUnreadable { path: PathBuf, error: io::Error },
    /// A file that is something else.
    #[error("the list {} cannot be used: {error}", .path.display())]
    List { path: PathBuf, error: HostListError },
    /// More than are asked one by one.
    #[error(
        "more than {RULES_MAX} rules; names in thousands belong in a list, such as \
         abp:/etc/midspan/names.txt"
    )]
    TooManyRules,
}

impl RoutingError {
    pub(super) fn new(line: usize, problem: RoutingProblem) -> Self {
        Self {
            line,
            problem: Box::new(problem),
        }
    }

    /// Which line, from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self) -> &RoutingProblem {
        &self.problem
    }
}

impl RoutingProblem {
    pub(super) fn action(written: &str) -> Self {
        Self::Action {
            written: excerpt(written),
        }
    }

    /// Why this is no pattern of a place.
    pub(super) fn pattern(written: &str) -> Self {
        let comment = written.match_indices('#').map(|(at, _)| at);
        let mut comment = comment.filter(|at| written[..*at].ends_with([' ', '\t']));
        if let Some(at) = comment.next() {
            let written = excerpt(&written[at..]);
            return Self::Comment { written };
        }
        let is_ascii = written.is_ascii();
        let written = excerpt(written);
        if is_ascii {
            Self::Pattern { written }
        } else {
            Self::NotAscii { written }
        }
    }

    pub(super) fn regex(written: &str, error: &regex::Error) -> Self {
        // Its backslashes stay as they are.
        let written = excerpt(written).replace(char::is_control, "?");
        if let regex::Error::CompiledTooBig(_) = error {
            return Self::RegexTooLarge { written };
        }
        // The last of several lines says it; the others draw where.
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason).to_owned();
        Self::Regex { written, reason }
    }
}

pub(super) fn excerpt(written: &str) -> String {
    if written.len() <= EXCERPT_BYTES_MAX {
        return written.to_owned();
    }
    let end = written.floor_char_boundary(EXCERPT_BYTES_MAX);
    format!("{}...", &written[..end])
}
