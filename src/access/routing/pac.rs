//! The rules as browsers read them: a proxy auto-config file, `FindProxyForURL`.
//!
//! Browsers then dial themselves what rules say is dialled directly, and come to the agent
//! with all else. The script need not know every rule: the agent asks them all again about
//! what comes to it. So it holds what is sure to be direct. A rule that a script cannot tell
//! (a regular expression, a list, a network of IPv6) stands there for all that it may be
//! about, which is left to the agent; where it says `direct`, it is left out.
//!
//! Without a password `SOCKS5` comes first, and `PROXY` behind it for what browsers ask of an
//! HTTP proxy by CONNECT: all but `http:`. `SOCKS` is left out, since it means SOCKS4 to most,
//! for which they would resolve the name themselves. So is `DIRECT` behind a proxy: what no
//! relay can lead would go out in the open. Where a password is asked for, `PROXY` comes first:
//! browsers ask their user for that of an HTTP proxy, and can show none by SOCKS5.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::pattern::Pattern;
use super::{Action, NAME_BYTES_MAX, RoutingRules, written_out};
use crate::access::egress::{self, Matcher, host_name};

/// The type that browsers expect a script to be served as.
pub const PAC_CONTENT_TYPE: &str = "application/x-ns-proxy-autoconfig";

/// How long the rules' part may become, in bytes: browsers load 1 MiB. What no longer fits
/// goes to the agent.
const CONDITIONS_BYTES_MAX: usize = 256 << 10;

/// Whether the agent serves whoever reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyAccess {
    /// It does.
    Open,
    /// It asks for a user and a password.
    Password,
}

/// Where a browser finds the agent: a name or an address, and a port. It holds no character
/// that means something in a script or a list of proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyAddress {
    /// An address of IPv6 in brackets.
    host: String,
    port: u16,
}

/// Not the address of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a host and a port of a proxy, such as 127.0.0.1:1080, [::1]:1080 or agent.example:1080"
)]
pub struct ProxyAddressError;

impl ProxyAddress {
    /// An agent on this host, such as a request's `Host` names, and this port.
    ///
    /// # Errors
    ///
    /// A host that is neither a name in ASCII of 253 bytes at most, nor an address, in
    /// brackets or without; port 0.
    pub fn new(host: &str, port: u16) -> Result<Self, ProxyAddressError> {
        let host = match written_out(host) {
            Some(IpAddr::V4(v4)) => Some(v4.to_string()),
            Some(IpAddr::V6(v6)) => Some(format!("[{v6}]")),
            None => host_name(host).filter(|name| name.len() <= NAME_BYTES_MAX),
        };
        let host = host.filter(|_| port != 0).ok_or(ProxyAddressError)?;
        Ok(Self { host, port })
    }
}

impl FromStr for ProxyAddress {
    type Err = ProxyAddressError;

    fn from_str(written: &str) -> Result<Self, ProxyAddressError> {
        let (host, port) = written.rsplit_once(':').ok_or(ProxyAddressError)?;
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        // An address of IPv6 without brackets has its last group for a port.
        if !is_number || host.contains(':') && !host.starts_with('[') {
            return Err(ProxyAddressError);
        }
        Self::new(host, port.parse().map_err(|_| ProxyAddressError)?)
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl RoutingRules {
    /// A script that sends to `proxy` all but what these rules say is dialled directly, to be
    /// served as [`PAC_CONTENT_TYPE`]. It is in ASCII, and has 300 KiB at most.
    #[must_use]
    pub fn auto_config(&self, proxy: &ProxyAddress, access: ProxyAccess) -> String {
        let (conditions, otherwise) = self.conditions();
        let (plain, connect) = match access {
            ProxyAccess::Open => (
                format!("SOCKS5 {proxy}"),
                format!("SOCKS5 {proxy}; PROXY {proxy}"),
            ),
            ProxyAccess::Password => {
                let proxies = format!("PROXY {proxy}; SOCKS5 {proxy}");
                (proxies.clone(), proxies)
            }
        };
        let (plain, connect) = (quoted(&plain), quoted(&connect));
        // Addresses of IPv6 and unknown ports are the agent's: a mapped address is one of
        // IPv4, and a scheme may have any port. The script must not fail either, for then
        // browsers go directly.
        format!(
            r#"function FindProxyForURL(url, host) {{
  url = url.toLowerCase();
  host = host.toLowerCase().replace(/\.$/, "");
  var proxy = /^http:/.test(url) ? {plain} : {connect};
  var ports = {{ ftp: 21, http: 80, https: 443, ws: 80, wss: 443 }};
  var parts = /^([a-z]+):\/\/[^\/?#]*?(?::(\d+))?(?:[\/?#]|$)/.exec(url);
  var port = parts ? Number(parts[2] || ports[parts[1]]) : 0;
  if (!port || host.indexOf(":") >= 0) return proxy;
  var isAddress = /^\d+\.\d+\.\d+\.\d+$/.test(host);
  function isWithin(domain) {{
    return host == domain || host.slice(-domain.length - 1) == "." + domain;
  }}
{conditions}  return {otherwise};
}}
"#
        )
    }

    /// A line for each rule that matters, and what comes of all else.
    fn conditions(&self) -> (String, &'static str) {
        let mut conditions = String::new();
        // What stands behind the last `DIRECT` only leads where all else does.
        let mut needed_bytes = 0;
        for rule in &self.rules {
            let is_direct = rule.action == Action::Direct;
            let condition = match &rule.pattern {
                Pattern::Place(place) => match condition(place) {
                    Condition::Always if is_direct => return (conditions, DIRECT),
                    Condition::Always => break,
                    // It does not come to where conditions are.
                    Condition::Never => continue,
                    Condition::If(condition) => condition,
                },
                Pattern::Name(_) | Pattern::List { .. } if is_direct => continue,
                Pattern::Name(_) => "!isAddress".to_owned(),
                Pattern::List { .. } => break,
            };
            let result = if is_direct { DIRECT } else { PROXY };
            let line = format!("  if ({condition}) return {result};\n");
            if conditions.len() + line.len() > CONDITIONS_BYTES_MAX {
                break;
            }
            conditions.push_str(&line);
            if is_direct {
                needed_bytes = conditions.len();
            }
        }
        conditions.truncate(needed_bytes);
        (conditions, PROXY)
    }
}

const DIRECT: &str = "\"DIRECT\"";
const PROXY: &str = "proxy";

enum Condition {
    Always,
    Never,
    If(String),
}

fn condition(place: &egress::Pattern) -> Condition {
    let host = match &place.matcher {
        Matcher::Any => None,
        Matcher::Domain(domain) => Some(format!("isWithin({})", quoted(domain))),
        // Of a name, isInNet would resolve it.
        Matcher::Network(IpNet::V4(network)) => Some(format!(
            "isAddress && isInNet(host, \"{}\", \"{}\")",
            network.network(),
            network.netmask()
        )),
        Matcher::Network(IpNet::V6(_)) => return Condition::Never,
    };
    let port = place.port.map(|port| format!("port == {port}"));
    match (host, port) {
        (None, None) => Condition::Always,
        (Some(condition), None) | (None, Some(condition)) => Condition::If(condition),
        (Some(host), Some(port)) => Condition::If(format!("{port} && {host}")),
    }
}

/// A string of the script. JSON's are strings there too (ECMA-262 §12.9.4).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn script(rules: &str, proxy: &str) -> String {
        let rules = RoutingRules::parse(rules, |_| Ok::<_, io::Error>("||l.example".to_owned()));
        let proxy = proxy.parse().expect(proxy);
        rules.expect("rules").auto_config(&proxy, ProxyAccess::Open)
    }

    /// The lines that rules make, and the last.
    fn conditions(rules: &str) -> Vec<String> {
        let script = script(rules, "127.0.0.1:1080");
        let lines = script.lines().map(str::trim);
        let lines = lines.skip_while(|line| !line.starts_with("function isWithin"));
        let lines = lines.skip(3).take_while(|line| *line != "}");
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn what_is_direct_skips_the_agent() {
        for (rules, expected) in [
            ("", &["return proxy;"][..]),
            ("deny evil.example\nrelay *", &["return proxy;"]),
            ("direct *", &["return \"DIRECT\";"]),
            (
                "direct example.com\nrelay-or-direct *\ndirect never.example",
                &[
                    "if (isWithin(\"example.com\")) return \"DIRECT\";",
                    "return proxy;",
                ],
            ),
            (
                "relay a.example.com\ndirect example.com\ndeny b.example",
                &[
                    "if (isWithin(\"a.example.com\")) return proxy;",
                    "if (isWithin(\"example.com\")) return \"DIRECT\";",
                    "return proxy;",
                ],
            ),
            (
                "deny :25\ndirect 10.1.2.3/8\ndirect 192.0.2.7:443",
                &[
                    "if (port == 25) return proxy;",
                    "if (isAddress && isInNet(host, \"10.0.0.0\", \"255.0.0.0\")) \
                     return \"DIRECT\";",
                    "if (port == 443 && isAddress && isInNet(host, \"192.0.2.7\", \
                     \"255.255.255.255\")) return \"DIRECT\";",
                    "return proxy;",
                ],
            ),
            // What a script cannot tell.
            (
                "direct /.*x/\ndirect abp:/list\ndirect ::/0\ndirect a.example\ndirect *",
                &[
                    "if (isWithin(\"a.example\")) return \"DIRECT\";",
                    "return \"DIRECT\";",
                ],
            ),
            (
                "deny ::/0\ndeny /.*x/\ndirect 10.0.0.0/8\nrelay abp:/list\ndirect *",
                &[
                    "if (!isAddress) return proxy;",
                    "if (isAddress && isInNet(host, \"10.0.0.0\", \"255.0.0.0\")) \
                     return \"DIRECT\";",
                    "return proxy;",
                ],
            ),
        ] {
            assert_eq!(conditions(rules), expected, "{rules}");
        }
    }

    #[test]
    fn a_proxy_never_has_direct_behind_it() {
        let script = script("", "[::1]:1080");
        let proxies = "/^http:/.test(url) ? \"SOCKS5 [::1]:1080\" : \
                       \"SOCKS5 [::1]:1080; PROXY [::1]:1080\";";
        assert!(script.contains(proxies), "{script}");
        assert!(!script.contains("DIRECT"), "{script}");
    }

    #[test]
    fn a_password_is_asked_for_as_browsers_can_show_one() {
        let proxy = "[::1]:1080".parse().expect("a proxy");
        let script = RoutingRules::default().auto_config(&proxy, ProxyAccess::Password);
        let proxies = "/^http:/.test(url) ? \"PROXY [::1]:1080; SOCKS5 [::1]:1080\" : \
                       \"PROXY [::1]:1080; SOCKS5 [::1]:1080\";";
        assert!(script.contains(proxies), "{script}");
    }

    #[test]
    fn proxies_round_trip() {
        for (written, canonical) in [
            ("127.0.0.1:1080", "127.0.0.1:1080"),
            ("[::1]:1080", "[::1]:1080"),
            ("[0:0::1]:1", "[::1]:1"),
            ("Agent.example.:65535", "agent.example:65535"),
            ("localhost:1080", "localhost:1080"),
        ] {
            let proxy: ProxyAddress = written.parse().expect(written);
            assert_eq!(proxy.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(proxy));
        }
        let bare = ProxyAddress::new("::1", 1080).map(|proxy| proxy.to_string());
        assert_eq!(bare, Ok("[::1]:1080".to_owned()));
    }

    #[test]
    fn hostile_hosts_are_no_proxies() {
        let long = format!("{}:1080", "a".repeat(254));
        for hostile in [
            "",
            "agent.example",
            ":1080",
            "::1:1080",
            "[::1:1080",
            "[agent.example]:1080",
            "[127.0.0.1]:1080",
            "agent.example:0",
            "agent.example:+80",
            "agent.example:65536",
            "*.agent.example:1080",
            "a; DIRECT:1080",
            "a;DIRECT; SOCKS5 b:1080",
            "a\"+alert(1)+\":1080",
            "a\\\":1080",
            "a\n:1080",
            "a\u{2028}:1080",
            "</script>:1080",
            "user@a:1080",
            "a/b:1080",
            "a\0:1080",
            &long,
        ] {
            assert!(hostile.parse::<ProxyAddress>().is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn hostile_rules_stay_out_of_the_script() {
        let script = script(
            "direct /\"; return \"DIRECT\"; \\/\\//\n\
             direct abp:/\"+x+\"\\\n\
             direct a_b-c.example\n",
            "127.0.0.1:1080",
        );
        assert!(
            !script.contains("+x+") && !script.contains("\"; return"),
            "{script}"
        );
        assert!(script.is_ascii());
        for hostile in [
            "\"",
            "\\",
            "'",
            "a\"b.example",
            "a\\u0022.example",
            "a`b",
            "a;b",
            "a\u{2028}b",
        ] {
            let rules = RoutingRules::parse(&format!("direct {hostile}"), |_| Ok(String::new()));
            assert!(rules.is_err(), "{hostile:?}");
        }
        assert_eq!(quoted("\"\\\n\0</"), r#""\"\\\n\u0000</""#);
    }

    #[test]
    fn thousands_of_rules_end_where_browsers_would_read_no_further() {
        let name = "long".repeat(30);
        let line = |index: usize| format!("direct {name}{index}.example\n");
        let rules: String = (0..5_000).map(line).collect();
        let script = script(&(rules + "direct *"), "127.0.0.1:1080");
        assert!(script.len() < 300 << 10, "{} bytes", script.len());
        assert!(script.ends_with("return proxy;\n}\n"), "{}", script.len());
    }
}
