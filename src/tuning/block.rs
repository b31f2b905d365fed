//! How the files are laid out: blocks between empty lines, each of a setting with its
//! reasons above it, label by label.
//!
//! ```text
//! # Why: the relay asks for a backlog of 4096 on each listener, and the kernel
//! # cuts it to this.
//! # Gained: nothing since Linux 5.4, whose default it is.
//! # Undo: sysctl -w net.core.somaxconn=4096
//! # Enough: this or more
//! net.core.somaxconn = 4096
//! ```
//!
//! A setting that is commented out is advice. A block without labels and without a
//! setting is prose, and skipped.

use std::fmt;

use super::{Conf, Line};

/// What may stand above a setting, as `# Why: because`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Why it should be set.
    Why,
    /// What that gained.
    Gained,
    /// How to take it back.
    Undo,
    /// The same for a unit of systemd.
    Unit,
    /// When what a host has will do.
    Enough,
    /// What was there before.
    Before,
}

impl Label {
    const ALL: [Self; 6] = [
        Self::Why,
        Self::Gained,
        Self::Undo,
        Self::Unit,
        Self::Enough,
        Self::Before,
    ];
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Why => "Why",
            Self::Gained => "Gained",
            Self::Undo => "Undo",
            Self::Unit => "Unit",
            Self::Enough => "Enough",
            Self::Before => "Before",
        })
    }
}

/// What is wrong with a file of settings, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct FileError {
    file: String,
    line: usize,
    problem: Problem,
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Neither a comment nor a setting.
    #[error("\"{0}\" is no setting")]
    NotASetting(String),
    /// Reasons for nothing.
    #[error("no setting below \"# {0}:\"")]
    NoSetting(Label),
    /// A setting whose reasons are those of another.
    #[error("a second setting in a block, without reasons of its own")]
    Second,
    /// A reason that is missing.
    #[error("no \"# {0}:\" above the setting")]
    Missing(Label),
    /// A label that stands there more than once.
    #[error("a second \"# {0}:\" in a block")]
    Twice(Label),
    /// An unknown rule.
    #[error("\"# Enough: {0}\" is unknown")]
    Enough(String),
    /// The value does not suit the rule.
    #[error(transparent)]
    Value(#[from] super::NotUnderstood),
    /// The file is somebody else's.
    #[error("this file is not of `midspan doctor`")]
    NotOurs,
}

impl FileError {
    pub(super) fn new(file: &str, line: usize, problem: Problem) -> Self {
        let file = file.to_owned();
        Self {
            file,
            line,
            problem,
        }
    }
}

/// A setting with what stands above it.
#[derive(Clone, Debug)]
pub(super) struct Block<'a> {
    file: &'a str,
    /// Of the setting; from 1.
    line_number: usize,
    pub line: Line,
    /// It is commented out.
    pub is_advice: bool,
    reasons: Vec<(Label, String)>,
}

impl Block<'_> {
    /// What `label` says, in one line.
    pub(super) fn text(&self, label: Label) -> Option<&str> {
        let mut reasons = self.reasons.iter();
        let (_, text) = reasons.find(|(one, _)| *one == label)?;
        Some(text)
    }

    /// What `label` says; it has to say something.
    pub(super) fn required(&self, label: Label) -> Result<&str, FileError> {
        let text = self.text(label).filter(|text| !text.is_empty());
        text.ok_or_else(|| self.error(Problem::Missing(label)))
    }

    pub(super) fn error(&self, problem: Problem) -> FileError {
        FileError::new(self.file, self.line_number, problem)
    }
}

/// The blocks of `text`, which is `file`'s and of the form of `conf`.
pub(super) fn parse<'a>(
    conf: Conf,
    file: &'a str,
    text: &str,
) -> Result<Vec<Block<'a>>, FileError> {
    let mut blocks = Vec::new();
    let mut reasons: Vec<(Label, String)> = Vec::new();
    let mut has_setting = false;
    let numbered = (1..).zip(text.lines().chain([""]));
    for (line_number, text) in numbered {
        let error = |problem| FileError::new(file, line_number, problem);
        let comment = text.strip_prefix('#').map(|text| {
            // Deeper ones are prose.
            text.strip_prefix(' ').unwrap_or(text)
        });
        let label = comment.and_then(label);
        let setting = match comment {
            None => Line::parse(conf, text),
            Some(_) if reasons.is_empty() => None,
            Some(text) if text.starts_with(' ') => None,
            Some(text) => Line::parse(conf, text),
        };
        if text.trim().is_empty() {
            if let (Some((label, _)), false) = (reasons.first(), has_setting) {
                return Err(error(Problem::NoSetting(*label)));
            }
            reasons.clear();
            has_setting = false;
        } else if let Some((label, _)) = label.filter(|_| has_setting) {
            // The empty line between two blocks is missing.
            return Err(error(Problem::NoSetting(label)));
        } else if let Some((label, text)) = label {
            if reasons.iter().any(|(one, _)| *one == label) {
                return Err(error(Problem::Twice(label)));
            }
            reasons.push((label, text.trim().to_owned()));
        } else if let Some(line) = setting {
            if has_setting {
                return Err(error(Problem::Second));
            }
            has_setting = true;
            blocks.push(Block {
                file,
                line_number,
                line,
                is_advice: comment.is_some(),
                reasons: reasons.clone(),
            });
        } else if comment.is_none() {
            return Err(error(Problem::NotASetting(text.escape_debug().to_string())));
        } else if let (Some((_, reason)), Some(text)) = (reasons.last_mut(), comment) {
            reason.push(' ');
            reason.push_str(text.trim());
        }
    }
    Ok(blocks)
}

/// A comment's label, and what follows it.
fn label(comment: &str) -> Option<(Label, &str)> {
    let (word, text) = comment.split_once(':')?;
    let mut labels = Label::ALL.into_iter();
    let label = labels.find(|label| label.to_string() == word)?;
    Some((label, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&[(&str, bool, &str)], &str>) {
        let blocks = parse(Conf::Sysctl, "f", text).map_err(|error| error.to_string());
        let blocks = blocks.as_ref().map(|blocks| {
            let read = |block: &Block<'_>| {
                let why = block.text(Label::Why).unwrap_or("-").to_owned();
                (block.line.to_string(), block.is_advice, why)
            };
            blocks.iter().map(read).collect::<Vec<_>>()
        });
        let expected = expected.map(|blocks| {
            let owned = |(line, is_advice, why): &(&str, bool, &str)| {
                ((*line).to_owned(), *is_advice, (*why).to_owned())
            };
            blocks.iter().map(owned).collect::<Vec<_>>()
        });
        let blocks = blocks.map_err(|error| error.as_str());
        assert_eq!(blocks, expected, "{text:?}");
    }

    #[test]
    fn reads_blocks() {
        check("", Ok(&[]));
        check("# prose: a.b = 1\n# c.d = 2\n", Ok(&[]));
        check("a.b = 1", Ok(&[("a.b = 1", false, "-")]));
        check(
            "# Why: so\n#   a.b = 3\n# Note: be it\na.b = 1\n\n\n# Why: not\n# c.d = 2\n",
            Ok(&[
                ("a.b = 1", false, "so a.b = 3 Note: be it"),
                ("c.d = 2", true, "not"),
            ]),
        );
    }

    #[test]
    fn says_where_a_file_is_wrong() {
        check("a.b", Err("f:1: \"a.b\" is no setting"));
        check("\n# Why: so\n\n", Err("f:3: no setting below \"# Why:\""));
        check("# Why: so", Err("f:2: no setting below \"# Why:\""));
        check(
            "# Why: so\n# Why: not\na.b = 1\n",
            Err("f:2: a second \"# Why:\" in a block"),
        );
        check(
            "# Why: so\na.b = 1\nc.d = 2\n",
            Err("f:3: a second setting in a block, without reasons of its own"),
        );
        check(
            "# Why: so\na.b = 1\n# Why: not\nc.d = 2\n",
            Err("f:3: no setting below \"# Why:\""),
        );
    }

    #[test]
    fn asks_for_what_must_be_there() {
        let text = "\n# Why:\n# Gained: much\na.b = 1\n";
        let blocks = parse(Conf::Sysctl, "f", text).expect("blocks");
        let block = blocks.first().expect("a block");
        assert_eq!(block.required(Label::Gained), Ok("much"));
        for label in [Label::Why, Label::Undo] {
            let error = block.required(label).expect_err("missing");
            let expected = format!("f:4: no \"# {label}:\" above the setting");
            assert_eq!(error.to_string(), expected);
        }
    }
}
