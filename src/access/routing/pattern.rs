//! What a rule is about.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use regex::bytes::{Regex, RegexBuilder};

use super::error::excerpt;
use super::{Asked, HostList, RoutingProblem};
use crate::access::egress;

/// How large one regular expression may be when it is compiled, in bytes. One with four
/// labels of up to 63 characters fits.
pub(super) const REGEX_BYTES_MAX: usize = 256 << 10;

/// A destination or many.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    /// A domain, addresses, a port, or everything.
    Place(egress::Pattern),
    /// Names of a form.
    Name(NameRegex),
    /// The hosts of a list.
    List { path: PathBuf, list: Box<HostList> },
}

/// A regular expression that all of a name matches, in either case. Its classes are those of
/// ASCII, as names are.
#[derive(Clone, Debug)]
pub(super) struct NameRegex {
    written: String,
    regex: Regex,
}

impl Pattern {
    pub(super) fn parse(
        written: &str,
        read_list: &mut impl FnMut(&Path) -> io::Result<String>,
    ) -> Result<Self, RoutingProblem> {
        if let Some(path) = written.strip_prefix("abp:") {
            return Self::list(path, read_list);
        }
        if let Some(rest) = written.strip_prefix('/') {
            let inner = rest.strip_suffix('/').filter(|inner| !inner.is_empty());
            let Some(inner) = inner else {
                let written = excerpt(written);
                return Err(RoutingProblem::RegexUnclosed { written });
            };
            return NameRegex::new(inner).map(Self::Name);
        }
        let place = written.parse().map(Self::Place);
        place.map_err(|_| RoutingProblem::pattern(written))
    }

    fn list(
        written: &str,
        read_list: &mut impl FnMut(&Path) -> io::Result<String>,
    ) -> Result<Self, RoutingProblem> {
        let path = PathBuf::from(written);
        if !path.is_absolute() {
            let written = excerpt(written);
            return Err(RoutingProblem::ListPath { written });
        }
        let text = match read_list(&path) {
            Ok(text) => text,
            Err(error) => return Err(RoutingProblem::ListUnreadable { path, error }),
        };
        match HostList::parse(&text) {
            Ok(list) => Ok(Self::List {
                path,
                list: Box::new(list),
            }),
            Err(error) => Err(RoutingProblem::List { path, error }),
        }
    }

    pub(super) fn fits(&self, asked: &Asked, port: u16) -> bool {
        match (self, asked) {
            (Self::Place(place), Asked::Name(name)) => place.fits(Some(name), None, port),
            (Self::Place(place), Asked::Address(address)) => place.fits(None, Some(*address), port),
            (Self::Name(regex), Asked::Name(name)) => regex.regex.is_match(name.as_bytes()),
            (Self::Name(_), Asked::Address(_)) => false,
            (Self::List { list, .. }, asked) => list.holds(asked),
        }
    }
}

impl NameRegex {
    fn new(written: &str) -> Result<Self, RoutingProblem> {
        // Parsing takes more memory than a text does, and compiling it more than that.
        if written.len() > REGEX_BYTES_MAX {
            let written = excerpt(written);
            return Err(RoutingProblem::RegexTooLarge { written });
        }
        let build = |regex: &str| {
            RegexBuilder::new(regex)
                .unicode(false)
                .case_insensitive(true)
                // No byte in a name takes it out of a rule.
                .dot_matches_new_line(true)
                .size_limit(REGEX_BYTES_MAX)
                .build()
                .map_err(|error| RoutingProblem::regex(written, &error))
        };
        // By itself first: it must not close the group around it.
        build(written)?;
        let regex = build(&format!(r"\A(?:{written})\z"))?;
        let written = written.to_owned();
        Ok(Self { written, regex })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(place) => place.fmt(f),
            Self::Name(regex) => write!(f, "/{}/", regex.written),
            Self::List { path, .. } => write!(f, "abp:{}", path.display()),
        }
    }
}
