//! One thing that `tuning/` advises: how a host stands to it, and what to set.

use super::block::{self, Block};
use super::{Conf, Enough, FileError, Label, Line, NotUnderstood, Problem};

/// A setting with its reasons.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What is wanted.
    pub line: Line,
    /// When a host's own value will do.
    pub enough: Enough,
    /// Whether it suits some hosts and not others, so that somebody has to decide.
    pub is_advice: bool,
    /// Why it should be set.
    pub why: String,
    /// What that gained.
    pub gained: String,
    /// The same for a unit of systemd, which knows no limits of PAM.
    pub unit: Option<String>,
}

/// What a host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Current {
    /// This value.
    Value(String),
    /// Its kernel has no such setting.
    NotHere,
    /// Nothing runs there: it is an image.
    Unknown,
    /// It does not tell, for this reason.
    Unreadable(String),
}

/// How a host stands to a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// What it has will do.
    Enough,
    /// What it has will do from its next boot, or its user's next login.
    Later,
    /// It should be set.
    Better,
    /// It may be set; somebody has to decide.
    Depends,
    /// It cannot be set on this kernel.
    NotHere,
    /// What it has cannot be read or compared.
    Unclear,
}

/// All settings of the files that the program carries, in their order.
///
/// # Errors
///
/// A file that is wrong; a test sees to it that none is.
pub fn settings() -> Result<Vec<Setting>, FileError> {
    let mut settings = Vec::new();
    for conf in Conf::ALL {
        let (file, text) = conf.source();
        for block in block::parse(conf, file, text)? {
            settings.push(Setting::from_block(&block)?);
        }
    }
    Ok(settings)
}

impl Setting {
    fn from_block(block: &Block<'_>) -> Result<Self, FileError> {
        let rule = block.required(Label::Enough)?;
        let unknown = |()| block.error(Problem::Enough(rule.to_owned()));
        // How to undo it is for who takes lines by hand.
        block.required(Label::Undo)?;
        let setting = Self {
            line: block.line.clone(),
            enough: rule.parse().map_err(unknown)?,
            is_advice: block.is_advice,
            why: block.required(Label::Why)?.to_owned(),
            gained: block.required(Label::Gained)?.to_owned(),
            unit: block.text(Label::Unit).map(str::to_owned),
        };
        let wanted = setting.line.value();
        let checked = setting.enough.holds(wanted, wanted);
        checked.map_err(|error| block.error(error.into()))?;
        Ok(setting)
    }

    /// The same, with `value` wanted instead.
    ///
    /// # Errors
    ///
    /// It has not the form of the setting's values.
    pub fn wanting(&self, value: &str) -> Result<Self, NotUnderstood> {
        // Who names a word wants no other.
        let enough = match &self.enough {
            Enough::AnyBut(_) => Enough::Exactly,
            enough => enough.clone(),
        };
        enough.holds(value, value)?;
        let line = self.line.with_value(value);
        let line = line.ok_or_else(|| NotUnderstood::new(value, "a value in one line"))?;
        Ok(Self {
            line,
            enough,
            ..self.clone()
        })
    }

    /// How a host that has `current`, and keeps `kept` for its next boot, stands to it.
    #[must_use]
    pub fn standing(&self, current: &Current, kept: Option<&str>) -> Standing {
        let wanted = self.line.value();
        let will_do = |value: &str| self.enough.holds(value, wanted);
        let is_kept = kept.is_some_and(|kept| will_do(kept) == Ok(true));
        let is_later = match current {
            Current::Value(value) => match will_do(value) {
                Ok(true) => return Standing::Enough,
                // What is kept of a kernel's settings was set as well, and lost again.
                Ok(false) => is_kept && self.line.conf() == Conf::Limits,
                Err(_) => return Standing::Unclear,
            },
            Current::NotHere => return Standing::NotHere,
            Current::Unknown => is_kept,
            Current::Unreadable(_) => return Standing::Unclear,
        };
        match is_later {
            true => Standing::Later,
            false if self.is_advice => Standing::Depends,
            false => Standing::Better,
        }
    }

    /// What to set on a host that has `current`: nothing that it has is lost, where the two
    /// can be compared.
    #[must_use]
    pub fn to_set(&self, current: &Current) -> Line {
        let joined = match current {
            Current::Value(value) => self.enough.joined(value, self.line.value()).ok(),
            Current::NotHere | Current::Unknown | Current::Unreadable(_) => None,
        };
        joined
            .and_then(|value| self.line.with_value(&value))
            .unwrap_or_else(|| self.line.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A setting without a reason, a gain, a way back or a rule cannot be added: its file
    /// would not parse.
    #[test]
    fn every_setting_of_the_files_is_complete() {
        let settings = settings().unwrap_or_else(|error| panic!("{error}"));
        assert!(settings.len() >= 10, "only {}", settings.len());
        for (index, setting) in settings.iter().enumerate() {
            let name = setting.line.name();
            let same = |one: &Setting| one.line.name() == name;
            assert!(
                !settings[..index].iter().any(same),
                "{name} stands there twice"
            );
            let is_limit = setting.line.conf() == Conf::Limits;
            assert_eq!(setting.unit.is_some(), is_limit, "{name}");
        }
    }

    fn parse(text: &str) -> Result<Setting, String> {
        let blocks = block::parse(Conf::Sysctl, "f", text).expect("blocks");
        let setting = Setting::from_block(&blocks[0]);
        setting.map_err(|error| error.to_string())
    }

    const MORE: &str = "# Why: w\n# Gained: g\n# Undo: u\n# Enough: this or more\na.b = 9\n";

    #[test]
    fn incomplete_blocks_are_refused() {
        for label in ["Why", "Gained", "Undo", "Enough"] {
            let without: Vec<&str> = MORE.lines().filter(|line| !line.contains(label)).collect();
            let expected = format!("f:4: no \"# {label}:\" above the setting");
            assert_eq!(parse(&without.join("\n")).err(), Some(expected));
        }
        let wrong = parse(&MORE.replace("or more", "or less")).err();
        let expected = "f:5: \"# Enough: this or less\" is unknown";
        assert_eq!(wrong.as_deref(), Some(expected));
        let wrong = parse(&MORE.replace("= 9", "= nine")).err();
        assert_eq!(wrong.as_deref(), Some("f:5: \"nine\" is not a number"));
    }

    #[test]
    fn tells_how_a_host_stands() {
        let value = |text: &str| Current::Value(text.to_owned());
        let sysctl = parse(MORE).expect("a setting");
        let advice = parse(&MORE.replace("a.b", "# a.b")).expect("a setting");
        let limit = Setting {
            line: Line::parse(Conf::Limits, "midspan hard nofile 9").expect("a line"),
            ..sysctl.clone()
        };
        let unreadable = Current::Unreadable("no".to_owned());
        for (setting, current, kept, expected) in [
            (&sysctl, value("9"), None, Standing::Enough),
            (&sysctl, value("10"), Some("9"), Standing::Enough),
            (&sysctl, value("8"), None, Standing::Better),
            // Somebody has set it back.
            (&sysctl, value("8"), Some("9"), Standing::Better),
            (&sysctl, value("many"), None, Standing::Unclear),
            (&sysctl, unreadable, Some("9"), Standing::Unclear),
            (&sysctl, Current::NotHere, None, Standing::NotHere),
            (&sysctl, Current::Unknown, None, Standing::Better),
            (&sysctl, Current::Unknown, Some("8"), Standing::Better),
            (&sysctl, Current::Unknown, Some("9"), Standing::Later),
            (&advice, value("9"), None, Standing::Enough),
            (&advice, value("8"), None, Standing::Depends),
            (&advice, Current::Unknown, None, Standing::Depends),
            (&limit, value("8"), None, Standing::Better),
            (&limit, value("8"), Some("9"), Standing::Later),
            (&limit, value("9"), None, Standing::Enough),
        ] {
            let case = format!("{}: {current:?}, {kept:?}", setting.line);
            assert_eq!(setting.standing(&current, kept), expected, "{case}");
        }
    }

    #[test]
    fn sets_what_is_wanted() {
        let of_name = |name: &str| {
            let mut settings = settings().expect("the files").into_iter();
            let setting = settings.find(|setting| setting.line.name() == name);
            setting.expect("a setting of the files")
        };
        let check = |name: &str, wanted: Option<&str>, current: &str, expected: &str| {
            let mut setting = of_name(name);
            if let Some(wanted) = wanted {
                setting = setting.wanting(wanted).expect("a value");
            }
            let line = setting.to_set(&Current::Value(current.to_owned()));
            assert_eq!(line.value(), expected, "{name}");
        };
        check("net.core.somaxconn", None, "128", "4096");
        check("net.core.somaxconn", None, "many", "4096");
        check("net.core.somaxconn", Some("8192"), "4096", "8192");
        check("net.core.somaxconn", Some("128"), "4096", "4096");
        let range = "net.ipv4.ip_local_port_range";
        check(range, None, "500\t60999", "500 65535");
        let reserved = "net.ipv4.ip_local_reserved_ports";
        check(
            reserved,
            Some("443,8443"),
            "9000-9010",
            "9000-9010,443,8443",
        );
        let control = "net.ipv4.tcp_congestion_control";
        check(control, None, "bbr", "cubic");
        check(control, Some("reno"), "cubic", "reno");
        check("nofile", None, "1024", "1048576");

        assert_eq!(
            of_name(range).to_set(&Current::Unknown).value(),
            "1025 65535"
        );
        for (name, wanted, expected) in [
            ("net.core.somaxconn", "many", "\"many\" is not a number"),
            (control, "", "\"\" is not a value in one line"),
        ] {
            let error = of_name(name).wanting(wanted).expect_err("no value");
            assert_eq!(error.to_string(), expected);
        }
    }
}
