//! Where the relay may dial for others.
//!
//! Rules are asked in order, and the first that fits decides; where none does, the
//! default does: everything public. Addresses are judged as
//! they were resolved, so that no name leads where its address may not.
//!
//! A user's own rules are asked before the relay's, as one list.
//!
//! Left out: who asks, resolving, and which addresses are this host's own: whoever asks says so.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// Whether a rule lets a destination pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be dialled.
    Allow,
    /// It may not.
    Deny,
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matcher {
    /// Every destination.
    Any,
    /// Addresses.
    Network(IpNet),
    /// A name and everything below it, in lower case and without a dot at either end.
    Domain(String),
}

/// A destination or several: `10.0.0.0/8`, `example.com`, `*:25` or `:25`, `[::1]:22`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(super) matcher: Matcher,
    pub(super) port: Option<u16>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// About what.
    pub pattern: Pattern,
    /// What it says.
    pub verdict: Verdict,
}

/// Not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{}\" is no destination, such as 10.0.0.0/8, 192.0.2.7, example.com, *, a port alone \
     (:25), or one of these with a port, such as example.com:443 or [2001:db8::]/32:443",
    .written.escape_default()
)]
pub struct PatternError {
    /// What was written.
    pub written: String,
}

/// All rules of a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    rules: Vec<Rule>,
    reach: Reach,
}

/// What may be dialled where no rule says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// What is public: nothing that only this host or its network reaches, and no address of
    /// the host's own.
    #[default]
    Public,
    /// Everything.
    Everything,
}

/// A destination as it was asked for, and one address of it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The name, if it was one.
    pub name: Option<&'a str>,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl Egress {
    /// These rules, in order.
    #[must_use]
    pub const fn new(rules: Vec<Rule>, reach: Reach) -> Self {
        Self { rules, reach }
    }

    /// What may be dialled where no rule says so.
    #[must_use]
    pub const fn reach(&self) -> Reach {
        self.reach
    }

    /// Every rule.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether the destination may be dialled at this address, by somebody whose `own`
    /// rules come first. `is_of_host` is asked where it matters.
    #[must_use]
    pub fn judge(
        &self,
        own: &[Rule],
        candidate: &Candidate<'_>,
        is_of_host: impl Fn(IpAddr) -> bool,
    ) -> Verdict {
        // A mapped address is that of IPv4 itself, to which the kernel connects.
        let candidate = Candidate {
            address: candidate.address.to_canonical(),
            ..*candidate
        };
        // A gateway leads from others to what they hold: who may not go there may not go
        // by them, and who may is not bound to be led there.
        let held = Candidate {
            address: embedded(candidate.address),
            ..candidate
        };
        let fits = |pattern: &Pattern, candidate: &Candidate<'_>| {
            pattern.fits(candidate.name, Some(candidate.address), candidate.port)
        };
        let fits = |rule: &&Rule| {
            fits(&rule.pattern, &candidate)
                || rule.verdict == Verdict::Deny && fits(&rule.pattern, &held)
        };
        let decides = own.iter().chain(&self.rules).find(fits);
        if let Some(rule) = decides {
            return rule.verdict;
        }
        let is_reached = self.reach == Reach::Everything
            || is_public(candidate.address)
                && !is_of_host(candidate.address)
                && (held.address == candidate.address || !is_of_host(held.address));
        match is_reached {
            true => Verdict::Allow,
            false => Verdict::Deny,
        }
    }
}

impl Pattern {
    /// Whether it is about a destination of which this much is known.
    pub(super) fn fits(&self, name: Option<&str>, address: Option<IpAddr>, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
            && match &self.matcher {
                Matcher::Any => true,
                Matcher::Network(network) => {
                    address.is_some_and(|address| network.contains(&address))
                }
                Matcher::Domain(domain) => name.is_some_and(|name| {
                    let name = name.strip_suffix('.').unwrap_or(name);
                    is_within(name, domain)
                }),
            }
    }
}

/// Whether a name is a domain or below it, at a dot.
fn is_within(name: &str, domain: &str) -> bool {
    let Some(start) = name.len().checked_sub(domain.len()) else {
        return false;
    };
    name.is_char_boundary(start)
        && name[start..].eq_ignore_ascii_case(domain)
        && (start == 0 || name[..start].ends_with('.'))
}

/// The IPv4 address that one of IPv6 stands for: mapped (RFC 4291 §2.5.5.2), by NAT64
/// (RFC 6052 §2.1), or 6to4 (RFC 3056 §2). All else is itself.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d).into()
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => v4(high, low),
        // Compatible addresses, which nobody uses: RFC 4291 §2.5.5.1.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        _ => address,
    }
}

/// Whether an address is one that everybody reaches: of the registries of special-purpose
/// addresses (RFC 6890), those that are global, and no group.
fn is_public(address: IpAddr) -> bool {
    match embedded(address) {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = matches!(
        (a, b, c),
        // This network, loopback, private, shared (RFC 6598), link-local with the clouds'
        // metadata, protocol assignments, documentation, benchmarks (RFC 2544).
        (0 | 10 | 127, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            // Groups, what is reserved, and everybody.
            | (224..=255, ..)
    );
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Only 2000::/3 is given out; of that, documentation (RFC 3849, RFC 9637), and what
    // protocols have for themselves (RFC 2928), Teredo among it.
    let is_given_out = segments[0] & 0xe000 == 0x2000;
    let is_special = matches!(
        segments,
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..]
    );
    is_given_out && !is_special
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(written: &str) -> Result<Self, PatternError> {
        let wrong = || PatternError {
            written: written.to_owned(),
        };
        if let Some(matcher) = network(written) {
            return Ok(Self {
                matcher,
                port: None,
            });
        }
        let (host, port) = match written.rsplit_once(':') {
            Some((host, port)) => {
                let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse::<u16>().ok().filter(|_| is_number);
                (host, Some(port.ok_or_else(wrong)?))
            }
            None => (written, None),
        };
        // A port alone is that of every destination.
        if host == "*" || host.is_empty() && port.is_some() {
            return Ok(Self {
                matcher: Matcher::Any,
                port,
            });
        }
        let matcher = network(host).or_else(|| domain(host)).ok_or_else(wrong)?;
        Ok(Self { matcher, port })
    }
}

/// `192.0.2.0/24`, `192.0.2.7`, `2001:db8::/32`, `[2001:db8::]/32`, `[::1]`.
fn network(written: &str) -> Option<Matcher> {
    let plain = match written.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, length))) if length.is_empty() || length.starts_with('/') => {
            format!("{address}{length}")
        }
        Some(_) => return None,
        None => written.to_owned(),
    };
    let network = match plain.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => IpNet::from(plain.parse::<IpAddr>().ok()?),
    };
    Some(Matcher::Network(network))
}

fn domain(written: &str) -> Option<Matcher> {
    let name = written.strip_prefix("*.").unwrap_or(written);
    host_name(name).map(Matcher::Domain)
}

/// A name in lower case and without a dot at its end, if it is one in ASCII.
pub(super) fn host_name(written: &str) -> Option<String> {
    let name = written.strip_suffix('.').unwrap_or(written);
    let is_character =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_name = !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(is_character)
        // What looks like an address and is none is a slip.
        && name.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name.then(|| name.to_ascii_lowercase())
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.matcher, self.port) {
            (Matcher::Any, _) => f.write_str("*")?,
            (Matcher::Domain(domain), _) => f.write_str(domain)?,
            (Matcher::Network(IpNet::V6(network)), Some(_)) => {
                write!(f, "[{}]/{}", network.addr(), network.prefix_len())?;
            }
            (Matcher::Network(network), _) => network.fmt(f)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, verdict: Verdict) -> Rule {
        Rule {
            pattern: pattern.parse().expect(pattern),
            verdict,
        }
    }

    fn judge(egress: &Egress, name: Option<&str>, address: &str, port: u16) -> Verdict {
        let address = address.parse().expect("an address");
        judge_of(&[], egress, name, address, port)
    }

    fn judge_of(
        own: &[Rule],
        egress: &Egress,
        name: Option<&str>,
        address: IpAddr,
        port: u16,
    ) -> Verdict {
        let candidate = Candidate {
            name,
            address,
            port,
        };
        let of_host = [[8, 8, 4, 4], [127, 0, 0, 1]].map(IpAddr::from);
        egress.judge(own, &candidate, |address| of_host.contains(&address))
    }

    #[test]
    fn the_hosts_own_addresses_are_not_public_unless_a_rule_says_so() {
        let (own, mapped) = ("8.8.4.4", "::ffff:8.8.4.4");
        let egress = Egress::default();
        for address in [own, mapped, "64:ff9b::808:404"] {
            let got = judge(&egress, None, address, 80);
            assert_eq!(got, Verdict::Deny, "{address}");
        }
        assert_eq!(judge(&egress, None, "8.8.4.5", 80), Verdict::Allow);
        let allowed = Egress::new(vec![rule("8.8.4.4:80", Verdict::Allow)], Reach::Public);
        for address in [own, mapped] {
            let got = [80, 81].map(|port| judge(&allowed, None, address, port));
            assert_eq!(got, [Verdict::Allow, Verdict::Deny], "{address}");
        }
        let open = Egress::new(Vec::new(), Reach::Everything);
        assert_eq!(judge(&open, None, own, 80), Verdict::Allow);
    }

    #[test]
    fn what_is_not_public_is_not_dialled() {
        let egress = Egress::default();
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ] {
            assert_eq!(
                judge(&egress, None, address, 80),
                Verdict::Deny,
                "{address}"
            );
        }
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert_eq!(
                judge(&egress, None, address, 80),
                Verdict::Allow,
                "{address}"
            );
        }
        let open = Egress::new(Vec::new(), Reach::Everything);
        assert_eq!(judge(&open, None, "127.0.0.1", 80), Verdict::Allow);
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        use Verdict::{Allow, Deny};
        let egress = Egress::new(
            vec![
                rule("*:25", Deny),
                rule("nas.example:443", Allow),
                rule("example.com", Deny),
                rule("10.1.0.0/16", Allow),
                rule("[fd00::]/8:22", Allow),
                rule("1.1.1.1", Deny),
            ],
            Reach::Public,
        );
        for (name, address, port, expected) in [
            (None, "9.9.9.9", 25, Deny),
            (Some("nas.example"), "10.0.0.9", 443, Allow),
            (Some("NAS.example."), "10.0.0.9", 443, Allow),
            (Some("nas.example"), "10.0.0.9", 80, Deny),
            (Some("a.nas.example"), "10.0.0.9", 443, Allow),
            (Some("anas.example"), "10.0.0.9", 443, Deny),
            (Some("www.example.com"), "9.9.9.9", 80, Deny),
            (Some("notexample.com"), "9.9.9.9", 80, Allow),
            (None, "10.1.2.3", 80, Allow),
            (None, "::ffff:10.1.2.3", 80, Allow),
            (None, "10.2.2.3", 80, Deny),
            (None, "fd00::7", 22, Allow),
            (None, "fd00::7", 23, Deny),
            (None, "1.1.1.1", 80, Deny),
            (Some("one.example"), "1.1.1.1", 80, Deny),
            (None, "::ffff:1.1.1.1", 80, Deny),
            (None, "64:ff9b::101:101", 80, Deny),
            (None, "64:ff9b::a01:203", 80, Deny),
        ] {
            let got = judge(&egress, name, address, port);
            assert_eq!(got, expected, "{name:?} {address} {port}");
        }
    }

    #[test]
    fn a_users_own_rules_are_asked_before_the_relays() {
        use Verdict::{Allow, Deny};
        let rules = vec![rule("10.9.0.0/16", Deny), rule("nas.example", Allow)];
        let egress = Egress::new(rules, Reach::Public);
        let own = [
            rule("*:25", Deny),
            rule("10.0.0.0/8", Allow),
            rule("1.1.1.1", Deny),
            rule("nas.example:22", Deny),
        ];
        for (name, address, port, alone, of_user) in [
            // Only the user's fits, either way.
            (None, "9.9.9.9", 25, Allow, Deny),
            (None, "10.1.2.3", 80, Deny, Allow),
            (None, "::ffff:10.1.2.3", 80, Deny, Allow),
            (None, "::ffff:1.1.1.1", 80, Allow, Deny),
            (None, "64:ff9b::101:101", 80, Allow, Deny),
            // Who may go there may not be led there by a gateway.
            (None, "64:ff9b::a01:203", 80, Deny, Deny),
            // Both fit: the user's, and of these the first.
            (None, "10.9.0.1", 80, Deny, Allow),
            (None, "10.9.0.1", 25, Deny, Deny),
            (Some("nas.example"), "192.168.0.9", 22, Allow, Deny),
            // Only the relay's, and none.
            (Some("nas.example"), "192.168.0.9", 443, Allow, Allow),
            (None, "192.168.0.9", 443, Deny, Deny),
            (None, "9.9.9.9", 443, Allow, Allow),
        ] {
            let got = judge(&egress, name, address, port);
            assert_eq!(got, alone, "{name:?} {address} {port}");
            let address = address.parse().expect("an address");
            let got = judge_of(&own, &egress, name, address, port);
            assert_eq!(got, of_user, "{name:?} {address} {port} of the user");
        }
    }

    #[test]
    fn an_address_of_ipv4_is_none_of_ipv6() {
        let rules = vec![
            rule("::/0", Verdict::Allow),
            rule("10.0.0.0/8", Verdict::Deny),
        ];
        let egress = Egress::new(rules, Reach::Public);
        assert_eq!(judge(&egress, None, "::ffff:10.0.0.1", 80), Verdict::Deny);
        assert_eq!(judge(&egress, None, "fd00::1", 80), Verdict::Allow);
    }

    #[test]
    fn patterns_round_trip() {
        for (written, canonical) in [
            ("*", "*"),
            ("*:25", "*:25"),
            (":25", "*:25"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7:80", "192.0.2.7/32:80"),
            ("::1", "::1/128"),
            ("[::1]:22", "[::1]/128:22"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("[2001:db8::]/32:443", "[2001:db8::]/32:443"),
            ("Example.com", "example.com"),
            ("*.example.com.", "example.com"),
            ("example.com:443", "example.com:443"),
        ] {
            let pattern: Pattern = written.parse().expect(written);
            assert_eq!(pattern.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(pattern), "{canonical}");
        }
        for wrong in [
            "",
            ":",
            ":x",
            ":70000",
            "::80:",
            "10.0.0.0/33",
            "10.0.0.256",
            "a b",
            "example.com:x",
            "example.com:70000",
            "example.com:+1",
            ".example.com",
            "*:",
            "1:2:3",
        ] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
        }
    }
}
