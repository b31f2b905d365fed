//! One setting as its file has it, and where a host shows what it has instead.

use std::fmt;

/// The user for whom the limits are.
const USER: &str = "midspan";

/// What `limits.conf` may name: its word, the row of `/proc/self/limits`, and how many of
/// the row's units are one of the word's.
const LIMITS: [(&str, &str, u64); 2] = [
    ("nofile", "Max open files", 1),
    ("memlock", "Max locked memory", 1024),
];

/// One of the two files of settings, by who takes its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conf {
    /// The kernel, by way of `sysctl`: `name = value`.
    Sysctl,
    /// `pam_limits`: `midspan hard nofile 1048576`.
    Limits,
}

impl Conf {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sysctl, Self::Limits];

    /// The file's name in the source tree, and what it says.
    #[must_use]
    pub const fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::Sysctl => (
                "tuning/sysctl.conf",
                include_str!("../../tuning/sysctl.conf"),
            ),
            Self::Limits => (
                "tuning/limits.conf",
                include_str!("../../tuning/limits.conf"),
            ),
        }
    }

    /// The file on a host that makes settings last.
    #[must_use]
    pub const fn drop_in(self) -> &'static str {
        match self {
            Self::Sysctl => "/etc/sysctl.d/60-midspan.conf",
            Self::Limits => "/etc/security/limits.d/60-midspan.conf",
        }
    }
}

/// A setting and its value; displays as its file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    form: Form,
    /// INVARIANT: a word of [`LIMITS`]; or, for the kernel, words of letters, digits,
    /// dashes and underscores with single dots between them, so that it leads nowhere but
    /// below `/proc/sys`.
    name: String,
    /// INVARIANT: words with single spaces between them, and no control characters.
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Sysctl,
    HardLimit,
    /// Soft and hard.
    Limit,
}

impl Line {
    /// Reads a line of `conf`; `None` if it is not one.
    #[must_use]
    pub fn parse(conf: Conf, text: &str) -> Option<Self> {
        let (form, name, value) = match conf {
            Conf::Sysctl => {
                let (name, value) = text.split_once('=')?;
                let value: Vec<&str> = value.split_whitespace().collect();
                (Form::Sysctl, name.trim(), value.join(" "))
            }
            Conf::Limits => {
                let words: Vec<&str> = text.split_whitespace().collect();
                let [USER, kind, name, value] = words[..] else {
                    return None;
                };
                let form = match kind {
                    "hard" => Form::HardLimit,
                    "-" => Form::Limit,
                    _ => return None,
                };
                (form, name, value.to_owned())
            }
        };
        let known = match form {
            Form::Sysctl => is_sysctl(name),
            Form::HardLimit | Form::Limit => LIMITS.iter().any(|(word, ..)| *word == name),
        };
        (known && !value.is_empty() && !value.contains(char::is_control)).then(|| Self {
            form,
            name: name.to_owned(),
            value,
        })
    }

    /// The file that it belongs to.
    #[must_use]
    pub const fn conf(&self) -> Conf {
        match self.form {
            Form::Sysctl => Conf::Sysctl,
            Form::HardLimit | Form::Limit => Conf::Limits,
        }
    }

    /// What is set.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is set to.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The same setting with another value; `None` if that cannot be written as one.
    #[must_use]
    pub fn with_value(&self, value: &str) -> Option<Self> {
        let line = Self {
            value: value.to_owned(),
            ..self.clone()
        };
        Self::parse(self.conf(), &line.to_string())
    }

    /// The file in which a host shows what it has.
    #[must_use]
    pub fn shown_in(&self) -> String {
        match self.conf() {
            Conf::Sysctl => format!("/proc/sys/{}", self.name.replace('.', "/")),
            Conf::Limits => "/proc/self/limits".to_owned(),
        }
    }

    /// What a host has, out of the `content` of that file: of limits, the one that counts.
    /// `None` if it is not there.
    #[must_use]
    pub fn shown(&self, content: &str) -> Option<String> {
        if self.form == Form::Sysctl {
            return Some(content.trim().to_owned());
        }
        let (_, row, unit) = LIMITS.iter().find(|(word, ..)| *word == self.name)?;
        let row = content.lines().find_map(|line| line.strip_prefix(row))?;
        let [soft, hard] = row.split_whitespace().take(2).collect::<Vec<_>>()[..] else {
            return None;
        };
        // A soft limit is never above the hard one.
        let shown = match self.form {
            Form::HardLimit => hard,
            Form::Sysctl | Form::Limit => soft,
        };
        Some(match shown.parse::<u64>() {
            Ok(number) => (number / unit).to_string(),
            Err(_) => shown.to_owned(),
        })
    }
}

fn is_sysctl(name: &str) -> bool {
    let is_word = |word: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !word.is_empty() && word.bytes().all(allowed)
    };
    name.contains('.') && name.split('.').all(is_word)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { form, name, value } = self;
        match form {
            Form::Sysctl => write!(f, "{name} = {value}"),
            Form::HardLimit => write!(f, "{USER} hard {name} {value}"),
            Form::Limit => write!(f, "{USER} - {name} {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_lines() {
        for (conf, text, expected) in [
            (Conf::Sysctl, "a.b = 1", Some("a.b = 1")),
            (Conf::Sysctl, " a.b-c.d_e=1\t2 ", Some("a.b-c.d_e = 1 2")),
            (Conf::Sysctl, "a.b", None),
            (Conf::Sysctl, "a.b =", None),
            (Conf::Sysctl, "a = 1", None),
            (Conf::Sysctl, "if a.b = 1", None),
            (Conf::Sysctl, "a..b = 1", None),
            (Conf::Sysctl, "../a.b = 1", None),
            (Conf::Sysctl, "a.b = \u{1b}[2J", None),
            (
                Conf::Limits,
                "midspan  hard nofile 9",
                Some("midspan hard nofile 9"),
            ),
            (
                Conf::Limits,
                "midspan - memlock unlimited",
                Some("midspan - memlock unlimited"),
            ),
            (Conf::Limits, "midspan soft memlock 9", None),
            (Conf::Limits, "midspan hard nproc 9", None),
            (Conf::Limits, "root hard nofile 9", None),
            (Conf::Limits, "midspan hard nofile", None),
        ] {
            let line = Line::parse(conf, text).map(|line| line.to_string());
            assert_eq!(line.as_deref(), expected, "{text}");
        }
        let line = Line::parse(Conf::Sysctl, "a.b = 1").expect("a line");
        let other = line.with_value("2\n3").expect("one line");
        assert_eq!(other.to_string(), "a.b = 2 3");
        assert_eq!(line.with_value(" "), None);
    }

    #[test]
    fn finds_what_a_host_shows() {
        let limits = "\
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 524288               files
Max locked memory         8388608              unlimited            bytes
";
        let check = |conf, text, file, content, expected: Option<&str>| {
            let line = Line::parse(conf, text).expect("a line");
            assert_eq!(line.shown_in(), file, "{text}");
            assert_eq!(line.shown(content).as_deref(), expected, "{text}");
        };
        let file = "/proc/sys/net/ipv4/ip_local_port_range";
        let line = "net.ipv4.ip_local_port_range = 1 2";
        check(Conf::Sysctl, line, file, "3\t4\n", Some("3\t4"));
        check(Conf::Sysctl, line, file, "\n", Some(""));
        let file = "/proc/self/limits";
        let line = "midspan hard nofile 1";
        check(Conf::Limits, line, file, limits, Some("524288"));
        check(Conf::Limits, line, file, "Max open files", None);
        check(Conf::Limits, line, file, "", None);
        let line = "midspan - memlock 1";
        check(Conf::Limits, line, file, limits, Some("8192"));
        let line = "midspan hard memlock 1";
        check(Conf::Limits, line, file, limits, Some("unlimited"));
    }
}
