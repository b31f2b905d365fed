//! Which cores to run on, as written.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::{Problem, ValueError};

/// The highest core number that may be written: `CPU_SETSIZE`, the set that
/// `sched_setaffinity(2)` takes, holds 1024.
const CORE_MAX: usize = 1023;

/// A number of cores, or which ones. One shard runs on each.
///
/// A number alone is a count; with a comma or a dash it is a list, so core 3
/// alone is written `3-3`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CoreChoice {
    /// Every core that this process may use.
    #[default]
    All,
    /// The first so many of them. Not 0.
    Count(usize),
    /// These, each once, in this order. Not empty.
    List(Vec<usize>),
}

impl CoreChoice {
    /// The cores to use, given those that this process may use, in ascending
    /// order.
    ///
    /// # Errors
    ///
    /// More cores than there are, or one that this process may not use.
    pub fn resolve(&self, allowed: &[usize]) -> Result<Vec<usize>, Problem> {
        match self {
            Self::All => Ok(allowed.to_vec()),
            Self::Count(count) if *count <= allowed.len() => Ok(allowed[..*count].to_vec()),
            Self::Count(count) => Err(Problem::TooManyCores {
                asked: *count,
                allowed: allowed.to_vec(),
            }),
            Self::List(cores) => match cores.iter().find(|core| !allowed.contains(core)) {
                Some(&core) => Err(Problem::CoreNotAllowed {
                    core,
                    allowed: allowed.to_vec(),
                }),
                None => Ok(cores.clone()),
            },
        }
    }
}

impl FromStr for CoreChoice {
    type Err = ValueError;

    fn from_str(written: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Cores {
            written: written.to_owned(),
        };
        let number = |text: &str| -> Result<usize, ValueError> {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let number = if digits { text.parse().ok() } else { None };
            number.filter(|n| *n <= CORE_MAX).ok_or_else(wrong)
        };
        if !written.contains([',', '-']) {
            let count = number(written)?;
            return if count == 0 {
                Err(wrong())
            } else {
                Ok(Self::Count(count))
            };
        }
        let mut cores = Vec::new();
        for part in written.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            for core in first..=last {
                if cores.contains(&core) {
                    return Err(ValueError::CoreTwice { core });
                }
                cores.push(core);
            }
        }
        Ok(Self::List(cores))
    }
}

/// As it is written; `All` is not written at all.
impl fmt::Display for CoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = match self {
            Self::All => return Ok(()),
            Self::Count(count) => return write!(f, "{count}"),
            Self::List(cores) => cores,
        };
        if let [core] = &**cores {
            // Alone it would be a count.
            return write!(f, "{core}-{core}");
        }
        let runs = cores.chunk_by(|one, next| one + 1 == *next);
        for (index, run) in runs.enumerate() {
            let separator = if index == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(f, "{separator}{first}-{last}")?,
                [core] => write!(f, "{separator}{core}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for CoreChoice {
    /// A count as an integer, or a string as on the command line.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = CoreChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of cores, such as 2, or a string, such as \"0,2-3\"")
            }

            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<CoreChoice, E> {
                count.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, written: &str) -> Result<CoreChoice, E> {
                written.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_counts_and_lists() {
        let list = |cores: &[usize]| Ok(CoreChoice::List(cores.to_vec()));
        let check = |written: &str, expected: Result<CoreChoice, ()>| {
            assert_eq!(
                written.parse::<CoreChoice>().map_err(|_| ()),
                expected,
                "{written:?}"
            );
        };
        check("1", Ok(CoreChoice::Count(1)));
        check("64", Ok(CoreChoice::Count(64)));
        check("0,2-3", list(&[0, 2, 3]));
        check("3-3", list(&[3]));
        check("5,1", list(&[5, 1]));
        for wrong in [
            "",
            "0",
            "-1",
            "1-",
            "3-2",
            "0,0",
            "0-2,1",
            "a",
            "1,,2",
            "+1",
            "1024",
            "0-9999999999",
        ] {
            check(wrong, Err(()));
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for (cores, expected) in [
            (&[0][..], "0-0"),
            (&[0, 1], "0-1"),
            (&[0, 2], "0,2"),
            (&[0, 2, 3, 4, 7], "0,2-4,7"),
            (&[5, 4], "5,4"),
        ] {
            let list = CoreChoice::List(cores.to_vec());
            assert_eq!(list.to_string(), expected);
            assert_eq!(expected.parse(), Ok(list));
        }
        assert_eq!(CoreChoice::Count(2).to_string(), "2");
    }

    #[test]
    fn resolves_only_to_allowed_cores() {
        let allowed = [1, 2, 5];
        assert_eq!(CoreChoice::All.resolve(&allowed).unwrap(), allowed);
        assert_eq!(CoreChoice::Count(2).resolve(&allowed).unwrap(), [1, 2]);
        assert_eq!(
            CoreChoice::List(vec![5, 1]).resolve(&allowed).unwrap(),
            [5, 1]
        );
        assert!(CoreChoice::Count(4).resolve(&allowed).is_err());
        assert!(CoreChoice::List(vec![0]).resolve(&allowed).is_err());
    }
}
