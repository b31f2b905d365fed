//! What a local agent does with a destination: leads it by a relay, dials it, or refuses.
//!
//! Rules are lines of a file, an action and a pattern each. They are asked in order, and
//! the first that fits decides; where none does, a relay it is. `docs/routing.md` is for
//! who writes them.
//!
//! Destinations are judged as they were asked for, and no name is resolved here: to ask a
//! resolver would tell it where one goes. So a network fits what was asked for by its
//! address, and nothing that was asked for by name. Names are compared in their ASCII form,
//! in either case, and with or without the dot at the end.
//!
//! Left out: reading files, which the caller does, and what may be dialled for others, which
//! is [`egress`](super::egress).

mod error;
mod host_list;
mod pac;
mod pattern;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use error::{RoutingError, RoutingProblem};
pub use host_list::{HostList, HostListError, LIST_BYTES_MAX};
pub use pac::{PAC_CONTENT_TYPE, ProxyAccess, ProxyAddress, ProxyAddressError};
use pattern::Pattern;

/// How many rules a file may hold. They are asked one by one: names in thousands belong in
/// a list, which is asked at once.
pub const RULES_MAX: usize = 10_000;

/// The longest name, in bytes: RFC 1035 §2.3.4, as it is written.
const NAME_BYTES_MAX: usize = 253;

/// What to do with a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// By a relay, and not at all when none leads there.
    #[default]
    Relay,
    /// By a relay, and directly only when none can be reached.
    RelayOrDirect,
    /// Directly.
    Direct,
    /// Not at all.
    Deny,
}

/// One rule; displays as it is written.
#[derive(Clone, Debug)]
pub struct Rule {
    action: Action,
    pattern: Pattern,
    line: usize,
}

/// All rules, in order. Without any, everything is led by a relay.
#[derive(Clone, Debug, Default)]
pub struct RoutingRules {
    rules: Vec<Rule>,
    /// Where they were read; empty where they stand nowhere.
    path: PathBuf,
}

/// What rules say, and which of them does.
#[derive(Clone, Copy, Debug)]
pub struct Ruling<'a> {
    rules: &'a RoutingRules,
    rule: Option<&'a Rule>,
}

/// Where somebody wants to go, as they said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination<'a> {
    /// The host.
    pub host: Host<'a>,
    /// The port.
    pub port: u16,
}

/// A host, by name or by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// A name of any bytes. One that is an address written out, in brackets or without, is
    /// that address.
    Name(&'a str),
    /// An address. A mapped one (RFC 4291 §2.5.5.2) is that of IPv4.
    Address(IpAddr),
}

/// A host as patterns compare it: a name in lower case and without a dot at its end, or an
/// address that is not mapped.
#[derive(Debug)]
enum Asked {
    Name(String),
    Address(IpAddr),
}

impl RoutingRules {
    /// The rules in `text`: one a line, `#` before a comment. `read_list` gives the text of
    /// the file that a pattern `abp:/path` names; it should read no more than
    /// [`LIST_BYTES_MAX`] and a byte.
    ///
    /// # Errors
    ///
    /// The first line that is no rule, with what to write instead; a list that cannot be
    /// read, or holds no host; more than [`RULES_MAX`] rules.
    pub fn parse(
        text: &str,
        mut read_list: impl FnMut(&Path) -> io::Result<String>,
    ) -> Result<Self, RoutingError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let written = line.trim_ascii();
            if written.is_empty() || written.starts_with('#') {
                continue;
            }
            let rule = if rules.len() < RULES_MAX {
                Rule::parse(written, index + 1, &mut read_list)
            } else {
                Err(RoutingProblem::TooManyRules)
            };
            rules.push(rule.map_err(|problem| RoutingError::new(index + 1, problem))?);
        }
        let path = PathBuf::new();
        Ok(Self { rules, path })
    }

    /// The same rules, read from this file.
    #[must_use]
    pub fn read_from(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// What to do with a destination.
    #[must_use]
    pub fn decide(&self, destination: &Destination<'_>) -> Action {
        self.judge(destination).action()
    }

    /// What to do with a destination, and why.
    #[must_use]
    pub fn judge(&self, destination: &Destination<'_>) -> Ruling<'_> {
        let asked = Asked::from(destination.host);
        self.first(|pattern| pattern.fits(&asked, destination.port))
    }

    /// What to do with somebody who comes from an address, and whom `awaited` names. The
    /// first rule decides that fits either: by a name no address is known.
    #[must_use]
    pub fn judge_peer(&self, awaited: &Destination<'_>, address: IpAddr) -> Ruling<'_> {
        let hosts = [awaited.host, Host::Address(address)].map(Asked::from);
        self.first(|pattern| hosts.iter().any(|host| pattern.fits(host, awaited.port)))
    }

    fn first(&self, fits: impl Fn(&Pattern) -> bool) -> Ruling<'_> {
        Ruling {
            rules: self,
            rule: self.rules.iter().find(|rule| fits(&rule.pattern)),
        }
    }

    /// Every rule.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Every list that a rule names, and the path of its file: for a log to say how much of
    /// each is used.
    pub fn lists(&self) -> impl Iterator<Item = (&Path, &HostList)> {
        self.rules.iter().filter_map(|rule| match &rule.pattern {
            Pattern::List { path, list } => Some((path.as_path(), &**list)),
            _ => None,
        })
    }
}

impl Rule {
    /// What it says.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    fn parse(
        written: &str,
        line: usize,
        read_list: &mut impl FnMut(&Path) -> io::Result<String>,
    ) -> Result<Self, RoutingProblem> {
        let is_space = |c: char| c.is_ascii_whitespace();
        let (action, pattern) = written.split_once(is_space).unwrap_or((written, ""));
        let action = action.parse()?;
        let pattern = match pattern.trim_ascii() {
            "" => return Err(RoutingProblem::NoPattern { action }),
            pattern => Pattern::parse(pattern, read_list)?,
        };
        Ok(Self {
            action,
            pattern,
            line,
        })
    }
}

impl Ruling<'_> {
    /// What is to be done.
    #[must_use]
    pub fn action(&self) -> Action {
        self.rule.map_or_else(Action::default, Rule::action)
    }

    /// Which rule says so, to whoever has to find it: `/etc/midspan/rules:7 (deny *:25)`.
    #[must_use]
    pub fn cite(&self) -> String {
        let Some(rule) = self.rule else {
            return "no rule fits".to_owned();
        };
        let written = error::excerpt(&rule.to_string());
        format!("{}:{} ({written})", self.rules.path.display(), rule.line)
    }
}

impl From<Host<'_>> for Asked {
    fn from(host: Host<'_>) -> Self {
        let name = match host {
            Host::Address(address) => return Self::Address(address.to_canonical()),
            Host::Name(name) => name,
        };
        if let Some(address) = written_out(name) {
            return Self::Address(address.to_canonical());
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        Self::Name(name.to_ascii_lowercase())
    }
}

/// The address that a host is: `192.0.2.7`, `2001:db8::7`, `[2001:db8::7]`.
fn written_out(host: &str) -> Option<IpAddr> {
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    match bracketed {
        Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::from).ok(),
        None => host.parse().ok(),
    }
}

impl FromStr for Action {
    type Err = RoutingProblem;

    fn from_str(written: &str) -> Result<Self, RoutingProblem> {
        match written {
            "relay" => Ok(Self::Relay),
            "relay-or-direct" => Ok(Self::RelayOrDirect),
            "direct" => Ok(Self::Direct),
            "deny" => Ok(Self::Deny),
            _ => Err(RoutingProblem::action(written)),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::RelayOrDirect => "relay-or-direct",
            Self::Direct => "direct",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action, self.pattern)
    }
}

/// A line for each rule.
impl fmt::Display for RoutingRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.iter().try_for_each(|rule| writeln!(f, "{rule}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "[AutoProxy 0.2.9]\n||listed.example\n@@||not.listed.example\n";

    fn read_list(path: &Path) -> io::Result<String> {
        match path.to_str() {
            Some("/list") => Ok(LIST.to_owned()),
            Some("/page") => Ok("<html>\n<p>moved</p>\n".to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rules(text: &str) -> RoutingRules {
        RoutingRules::parse(text, read_list).unwrap_or_else(|error| panic!("{error}"))
    }

    fn refusal(text: &str) -> String {
        match RoutingRules::parse(text, read_list) {
            Ok(rules) => panic!("{text:?} is taken as {rules}"),
            Err(error) => error.to_string(),
        }
    }

    fn decide(rules: &RoutingRules, host: &str, port: u16) -> Action {
        let host = Host::Name(host);
        rules.decide(&Destination { host, port })
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        use Action::{Deny, Direct, Relay, RelayOrDirect};
        let rules = rules(
            "\u{feff}# of a laptop\r\n\
             deny :25\r\n\
             \r\n\
             \t relay\t nas.example.com:443 \r\n\
             direct example.com\n\
             relay *.example.com\n\
             direct 10.0.0.0/8\n\
             deny 2001:db8::1\n\
             direct [2001:db8::]/32:443\n\
             relay-or-direct /(www|m)[0-9]*\\.shop\\.example/\n\
             relay-or-direct abp:/list\n\
             deny 1.1.1.1:53\n\
             direct xn--bcher-kva.example\n\
             deny *:8080",
        );
        for (host, port, expected) in [
            ("anything.example", 25, Deny),
            ("10.1.2.3", 25, Deny),
            ("nas.example.com", 443, Relay),
            ("x.nas.example.com", 443, Relay),
            ("nas.example.com", 80, Direct),
            ("Example.COM.", 80, Direct),
            ("www.example.com", 80, Direct),
            ("notexample.com", 80, Relay),
            ("example.com.evil.example", 80, Relay),
            ("bücher.example.com", 80, Direct),
            ("10.1.2.3", 80, Direct),
            ("::ffff:10.1.2.3", 80, Direct),
            ("[::ffff:a01:203]", 80, Direct),
            ("10.1.2.3.example", 80, Relay),
            ("2001:db8::1", 443, Deny),
            ("[2001:db8::1]", 443, Deny),
            ("2001:db8::2", 443, Direct),
            ("2001:db8::2", 80, Relay),
            ("WWW7.shop.example.", 80, RelayOrDirect),
            ("m.shop.example", 80, RelayOrDirect),
            ("www.shop.example.com.evil", 80, Relay),
            ("a.www.shop.example", 80, Relay),
            ("www.shopXexample", 80, Relay),
            ("www.listed.example", 80, RelayOrDirect),
            ("not.listed.example", 80, Relay),
            ("not.listed.example", 8080, Deny),
            ("1.1.1.1", 53, Deny),
            ("1.1.1.1", 54, Relay),
            ("XN--BCHER-KVA.example", 1, Direct),
            ("bücher.example", 1, Relay),
        ] {
            assert_eq!(decide(&rules, host, port), expected, "{host} {port}");
        }
        let host = Host::Address("::ffff:10.9.9.9".parse().expect("an address"));
        assert_eq!(rules.decide(&Destination { host, port: 1 }), Direct);
    }

    #[test]
    fn without_rules_all_is_led_by_a_relay() {
        for text in ["", "\n\r\n# relay nothing\n   # deny *\n"] {
            let rules = rules(text);
            assert_eq!(decide(&rules, "example.com", 443), Action::Relay);
            let host = Host::Name("example.com");
            let ruling = rules.judge(&Destination { host, port: 443 });
            assert!(ruling.rule.is_none());
        }
    }

    #[test]
    fn rules_round_trip() {
        let text = "relay *\n\
            deny *:25\n\
            direct example.com\n\
            direct example.com:443\n\
            relay-or-direct 10.0.0.0/8\n\
            deny [2001:db8::]/32:443\n\
            deny ::1/128\n\
            relay /a/b #\\.[a-z]+/\n\
            deny /([a-z0-9-]{1,63}\\.){4}example/\n\
            relay abp:/list\n";
        assert_eq!(rules(text).to_string(), text);
        for (written, canonical) in [
            ("deny :25", "deny *:25\n"),
            ("deny\t*.Example.com.", "deny example.com\n"),
            ("direct 192.0.2.7", "direct 192.0.2.7/32\n"),
        ] {
            assert_eq!(rules(written).to_string(), canonical);
        }
    }

    #[test]
    fn the_rule_that_decides_is_named() {
        let rules = rules("direct 10.0.0.0/8\n\n# no mail\ndeny :25\nrelay *.example.com");
        let rules = rules.read_from("/rules".into());
        for (host, port, expected) in [
            ("10.0.0.1", 25, "/rules:1 (direct 10.0.0.0/8)"),
            ("www.example.com", 25, "/rules:4 (deny *:25)"),
            ("www.example.com", 80, "/rules:5 (relay example.com)"),
            ("www.example.org", 80, "no rule fits"),
        ] {
            let host = Host::Name(host);
            let ruling = rules.judge(&Destination { host, port });
            assert_eq!(ruling.cite(), expected, "{host:?} {port}");
        }
    }

    #[test]
    fn whoever_comes_is_judged_by_its_name_and_by_its_address() {
        let check = |text: &str, expected| {
            let host = Host::Name("ftp.example.com");
            let awaited = Destination { host, port: 20 };
            let from = "10.0.0.1".parse().expect("an address");
            let action = rules(text).judge_peer(&awaited, from).action();
            assert_eq!(action, expected, "{text}");
        };
        check("", Action::Relay);
        check("deny 10.0.0.0/8\nrelay *", Action::Deny);
        check("relay example.com\ndeny 10.0.0.0/8", Action::Relay);
        check("relay example.com\ndeny *", Action::Relay);
        check("deny 10.0.0.0/8:21\ndeny 10.0.0.2", Action::Relay);
        check("deny 10.0.0.0/8:20", Action::Deny);
    }

    #[test]
    fn a_refusal_names_the_line_and_what_to_write() {
        for (text, expected) in [
            (
                "\n# x\nallow *",
                "line 3: \"allow\" is no action; write relay, relay-or-direct, direct or deny, \
                 and then a pattern",
            ),
            (
                "deny",
                "line 1: deny what? write a pattern behind it, such as * or example.com",
            ),
            (
                "deny *\r\ndirect home.example # the house",
                "line 2: a comment takes a line of its own; move \"# the house\" there",
            ),
            (
                "relay bücher.example",
                "line 1: \"b\\u{fc}cher.example\" is not in ASCII; write its name as \
                 resolvers know it, such as xn--bcher-kva.example",
            ),
            (
                "relay /a(b/",
                "line 1: /a(b/ is no regular expression: unclosed group",
            ),
            (
                "relay /(?=a)b/",
                "line 1: /(?=a)b/ is no regular expression: look-around, including look-ahead \
                 and look-behind, is not supported",
            ),
            (
                "relay /a)|(b/",
                "line 1: /a)|(b/ is no regular expression: unopened group",
            ),
            (
                "relay /(a{1000}){1000}/",
                "line 1: /(a{1000}){1000}/ is too large: more than 262144 bytes are needed to \
                 match it; write several",
            ),
            (
                "relay /abc",
                "line 1: \"/abc\" is not closed; write a regular expression between two \
                 slashes, such as /.*\\.example\\.com/",
            ),
            (
                "relay abp:list",
                "line 1: \"list\" is no absolute path; write abp: and one, such as \
                 abp:/etc/midspan/gfwlist.txt",
            ),
            (
                "relay abp:/nowhere",
                "line 1: cannot read the list /nowhere: entity not found",
            ),
            (
                "relay abp:/page",
                "line 1: the list /page cannot be used: none of its 2 lines names a host; \
                 write one of Adblock Plus's kind, such as ||example.com",
            ),
        ] {
            assert_eq!(refusal(text), expected);
        }
        for pattern in [
            ":",
            ":x",
            ":70000",
            ":+1",
            "//",
            "/",
            "10.0.0.0/33",
            "a b",
            ".example.com",
            "exa\0mple.com",
            "*.*.example.com",
            "http://example.com/",
        ] {
            let refusal = refusal(&format!("deny {pattern}"));
            assert!(refusal.starts_with("line 1: "), "{refusal}");
        }
        let refusal = refusal(&format!("deny {}", "(".repeat(1 << 20)));
        assert!(refusal.len() < 500, "{} bytes", refusal.len());
    }

    #[test]
    fn hostile_names_are_judged_like_others() {
        let rules = rules("deny evil.example\ndeny /.*\\.bad/\nrelay abp:/list\ndirect *");
        let dots = ".".repeat(100_000);
        let labels = "a.".repeat(100_000);
        for (host, expected) in [
            ("", Action::Direct),
            (".", Action::Direct),
            ("\0", Action::Direct),
            ("x.example\0.evil.example", Action::Deny),
            ("evil.example\0.x.example", Action::Direct),
            ("a\nb.bad", Action::Deny),
            ("\u{fffd}ü.BAD", Action::Deny),
            ("a.bad\n", Action::Direct),
            ("[evil.example]", Action::Direct),
            ("[10.0.0.1]", Action::Direct),
            ("evil.example/", Action::Direct),
            (&dots, Action::Direct),
            (&format!("{labels}evil.example"), Action::Deny),
            (&format!("{labels}listed.example."), Action::Relay),
            (&format!("{labels}bad"), Action::Deny),
        ] {
            let shown: String = host.chars().take(20).collect();
            assert_eq!(decide(&rules, host, 80), expected, "{shown:?}");
        }
    }

    #[test]
    fn rules_in_thousands_are_taken_up_to_their_limit() {
        let line = |index: usize| format!("deny host{index}.example\n");
        let text: String = (0..RULES_MAX).map(line).collect();
        let rules = rules(&text);
        assert_eq!(decide(&rules, "host9999.example", 1), Action::Deny);
        assert_eq!(rules.rules().len(), RULES_MAX);
        assert_eq!(
            refusal(&(text + "relay *")),
            "line 10001: more than 10000 rules; names in thousands belong in a list, \
             such as abp:/etc/midspan/names.txt"
        );
    }

    #[test]
    fn lists_say_how_much_of_them_is_used() {
        let rules = rules("deny *:25\nrelay abp:/list");
        let lists: Vec<_> = rules.lists().collect();
        let [(path, list)] = lists[..] else {
            panic!("{lists:?}");
        };
        assert_eq!(path, Path::new("/list"));
        assert_eq!((list.used_count(), list.ignored_count()), (2, 0));
    }
}
