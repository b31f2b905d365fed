//! Another site, to which requests are redirected: scheme, host and port, RFC 6454.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use thiserror::Error;

use super::path::push_target;

/// Where another site is, as it begins a URL: `https://example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Not where a site is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "\"{}\" is not a site such as https://example.com or http://example.com:8080, without a path",
    written.escape_default()
)]
pub struct OriginError {
    /// What was written.
    pub written: String,
}

impl Origin {
    /// The URL there with the path and query of a request's target, which begins with a
    /// slash. Whatever stands in it, the host stays.
    #[must_use]
    pub fn location(&self, target: &str) -> String {
        debug_assert!(target.starts_with('/'), "it would go on with the host");
        let mut location = self.0.clone();
        push_target(&mut location, target);
        location
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    /// One slash may follow. A user before the host is none of it.
    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (scheme, rest) = written.split_once("://")?;
            let is_known = matches!(scheme, "http" | "https");
            let authority = rest.strip_suffix('/').unwrap_or(rest);
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, port)) if !port.contains(']') => (host, Some(port)),
                _ => (authority, None),
            };
            let is_port = port.is_none_or(|port| {
                let has_digits = port.bytes().all(|byte| byte.is_ascii_digit());
                has_digits && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            let origin = format!("{scheme}://{}", authority.to_ascii_lowercase());
            (is_known && is_host(host) && is_port).then_some(Self(origin))
        };
        parse().ok_or_else(|| OriginError {
            written: written.to_owned(),
        })
    }
}

/// A name, an address, or one of IPv6 in brackets.
fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[') {
        let address = address.strip_suffix(']');
        return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_scheme_host_and_port() {
        let check = |written: &str, expected: Option<&str>| {
            let got = written.parse::<Origin>().map(|origin| origin.to_string());
            assert_eq!(got.ok().as_deref(), expected, "{written}");
        };
        check("https://example.com", Some("https://example.com"));
        check("https://Example.com/", Some("https://example.com"));
        check("http://10.0.0.1:8080", Some("http://10.0.0.1:8080"));
        check("http://[::1]:8080", Some("http://[::1]:8080"));
        check("http://[2001:DB8::1]", Some("http://[2001:db8::1]"));
        for written in [
            "",
            "example.com",
            "https://",
            "https:///",
            "//example.com",
            "ftp://example.com",
            "https://example.com/path",
            "https://example.com//",
            "https://example.com?x",
            "https://example.com#x",
            "https://user@example.com",
            "https://example.com:",
            "https://example.com:0",
            "https://example.com:+1",
            "https://example.com:65536",
            "https://exam ple.com",
            "https://example.com\r\n",
            "https://[::1",
            "https://::1",
            "https://caf\u{e9}.example",
        ] {
            check(written, None);
        }
    }
}
