//! When what a host has is enough, so that one that has more is left alone.

use std::fmt;
use std::str::FromStr;

/// How a value that is there compares with the one that is wanted; in the files,
/// `# Enough: this or more`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enough {
    /// The wanted value alone.
    Exactly,
    /// A number that is not smaller.
    OrMore,
    /// Two numbers with the wanted ones between them.
    OrWider,
    /// A list of ports and ranges, `8080,9000-9010`, that holds the wanted ones.
    AmongOthers,
    /// The wanted word, or any but this one.
    AnyBut(String),
}

/// A value that has not the form of its setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{value}\" is not {expected}")]
pub struct NotUnderstood {
    value: String,
    expected: &'static str,
}

impl NotUnderstood {
    pub(super) fn new(value: &str, expected: &'static str) -> Self {
        let value = value.escape_debug().to_string();
        Self { value, expected }
    }
}

impl Enough {
    /// Whether `current` will do where `wanted` is wanted.
    ///
    /// # Errors
    ///
    /// Either has not the form that is compared.
    pub fn holds(&self, current: &str, wanted: &str) -> Result<bool, NotUnderstood> {
        let is_wanted = current.split_whitespace().eq(wanted.split_whitespace());
        Ok(match self {
            Self::Exactly => is_wanted,
            Self::OrMore => number(current)? >= number(wanted)?,
            Self::OrWider => {
                let ((low, high), (from, to)) = (range(current)?, range(wanted)?);
                low <= from && to <= high
            }
            Self::AmongOthers => {
                let held = ports(current)?;
                let mut wanted = ports(wanted)?.into_iter().flat_map(|(from, to)| from..=to);
                wanted.all(|port| held.iter().any(|(from, to)| (from..=to).contains(&&port)))
            }
            Self::AnyBut(word) => is_wanted || current != word,
        })
    }

    /// What to set so that `wanted` is there and nothing that `current` has is lost.
    ///
    /// # Errors
    ///
    /// Either has not the form that is compared.
    pub fn joined(&self, current: &str, wanted: &str) -> Result<String, NotUnderstood> {
        Ok(match self {
            _ if self.holds(current, wanted)? => current.to_owned(),
            Self::OrWider => {
                let ((low, high), (from, to)) = (range(current)?, range(wanted)?);
                format!("{} {}", low.min(from), high.max(to))
            }
            Self::AmongOthers if !current.is_empty() => format!("{current},{wanted}"),
            Self::Exactly | Self::OrMore | Self::AmongOthers | Self::AnyBut(_) => wanted.to_owned(),
        })
    }

    /// What is wanted, in words: `4096 or more`.
    #[must_use]
    pub fn in_words(&self, wanted: &str) -> String {
        match self {
            Self::Exactly => wanted.to_owned(),
            _ => self.to_string().replacen("this", wanted, 1),
        }
    }
}

const ANY_BUT: &str = "this, or any but ";

impl fmt::Display for Enough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly => f.write_str("exactly this"),
            Self::OrMore => f.write_str("this or more"),
            Self::OrWider => f.write_str("this or wider"),
            Self::AmongOthers => f.write_str("this among others"),
            Self::AnyBut(word) => write!(f, "{ANY_BUT}{word}"),
        }
    }
}

impl FromStr for Enough {
    type Err = ();

    fn from_str(phrase: &str) -> Result<Self, ()> {
        let plain = [
            Self::Exactly,
            Self::OrMore,
            Self::OrWider,
            Self::AmongOthers,
        ];
        let of_phrase = plain.into_iter().find(|one| one.to_string() == phrase);
        let any_but = || Some(Self::AnyBut(phrase.strip_prefix(ANY_BUT)?.to_owned()));
        of_phrase.or_else(any_but).ok_or(())
    }
}

fn number(text: &str) -> Result<u64, NotUnderstood> {
    // As limits are written.
    if text == "unlimited" {
        return Ok(u64::MAX);
    }
    text.parse()
        .map_err(|_| NotUnderstood::new(text, "a number"))
}

fn range(text: &str) -> Result<(u64, u64), NotUnderstood> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [low, high] => Ok((number(low)?, number(high)?)),
        _ => Err(NotUnderstood::new(text, "two numbers")),
    }
}

fn ports(text: &str) -> Result<Vec<(u16, u16)>, NotUnderstood> {
    let port = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some((from.parse().ok()?, to.parse().ok()?))
    };
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .map(port)
        .collect::<Option<_>>()
        .ok_or_else(|| NotUnderstood::new(text, "a list of ports"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` is what is set in the end, or what is not understood.
    fn check(phrase: &str, current: &str, wanted: &str, holds: bool, expected: &str) {
        let enough: Enough = phrase.parse().expect("a phrase");
        assert_eq!(enough.to_string(), phrase);
        let case = format!("{phrase}: {current} for {wanted}");
        assert_eq!(
            enough.holds(current, wanted).unwrap_or(false),
            holds,
            "{case}"
        );
        let joined = enough.joined(current, wanted);
        if let Ok(joined) = &joined {
            assert_eq!(enough.holds(joined, wanted), Ok(true), "{case}");
        }
        let joined = joined.unwrap_or_else(|error| error.to_string());
        assert_eq!(joined, expected, "{case}");
    }

    #[test]
    fn compares_and_loses_nothing() {
        check("exactly this", "1", "1", true, "1");
        check("exactly this", "2", "1", false, "1");
        check("exactly this", "1\t2", "1 2", true, "1\t2");

        check("this or more", "4096", "4096", true, "4096");
        check("this or more", "65535", "4096", true, "65535");
        check("this or more", "unlimited", "4096", true, "unlimited");
        check("this or more", "128", "4096", false, "4096");
        let many = "\"many\" is not a number";
        check("this or more", "many", "4096", false, many);
        check("this or more", "1", "-1", false, "\"-1\" is not a number");

        let wide = "this or wider";
        check(wide, "1025\t65535", "1025 65535", true, "1025\t65535");
        check(wide, "1 65535", "1025 65535", true, "1 65535");
        check(wide, "32768 60999", "1025 65535", false, "1025 65535");
        check(wide, "500 60999", "1025 65535", false, "500 65535");
        check(wide, "1", "1 2", false, "\"1\" is not two numbers");

        let among = "this among others";
        check(among, "", "8080", false, "8080");
        check(among, "8080", "8080", true, "8080");
        check(among, "9000-9010", "8080", false, "9000-9010,8080");
        check(among, "8000-8100,1", "8080,8090-8100", true, "8000-8100,1");
        check(among, "0-65535", "1-65535", true, "0-65535");
        check(
            among,
            "1",
            "99999",
            false,
            "\"99999\" is not a list of ports",
        );

        let any = "this, or any but bbr";
        check(any, "bbr", "cubic", false, "cubic");
        check(any, "reno", "cubic", true, "reno");
        check(any, "cubic", "cubic", true, "cubic");
        assert_eq!("that".parse::<Enough>(), Err(()));
    }

    #[test]
    fn says_what_is_wanted() {
        assert_eq!(Enough::Exactly.in_words("1"), "1");
        assert_eq!(Enough::OrMore.in_words("4096"), "4096 or more");
        let any_but = Enough::AnyBut("bbr".to_owned());
        assert_eq!(any_but.in_words("cubic"), "cubic, or any but bbr");
    }
}
