//! Single written values that need more than a number or a word.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

/// The longest [`Period`] that may be written.
const PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest host name (RFC 1035 §2.3.4).
const HOST_NAME_BYTES_MAX: usize = 253;

/// Why a written value is not one. The text names what came and what is
/// allowed; the key is told by whoever knows where the value stood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not an address to listen on.
    #[error("\"{written}\" is not an address and a port, such as 127.0.0.1:8080 or [::1]:8080")]
    ListenAddress { written: String },
    /// A port for every address of the host, in a form that is not an address.
    #[error(
        "\"{written}\" names no address: for every IPv4 address write 0.0.0.0:{port}, for IPv6 [::]:{port}"
    )]
    ListenWildcard { written: String, port: u16 },
    /// A name where an address is needed.
    #[error("\"{written}\" is a name; a listener needs an address, such as 127.0.0.1:{port}")]
    ListenName { written: String, port: u16 },
    /// A scheme that no listener has.
    #[error(
        "a listener for one thing is written jet+tls://ADDR:PORT; \"{scheme}\" is none of jet+tcp, jet+tls, \
         jet+ws, jet+wss, jproxy and jproxy+tls"
    )]
    ListenScheme { scheme: String },
    /// Something else than a dialect behind the address.
    #[error(
        "a listener for jProxy may end in ?dialect=spec or ?dialect=original; \"{query}\" is neither"
    )]
    ListenQuery { query: String },
    /// Not a length of time.
    #[error("\"{written}\" is not a length of time, such as \"30s\", \"5m\", \"1h\" or \"500ms\"")]
    Period { written: String },
    /// A longer time than allowed.
    #[error("\"{written}\" is longer than 24h")]
    PeriodTooLong { written: String },
    /// Not a set of cores.
    #[error("\"{written}\" is neither a number of cores, such as 2, nor a list, such as 0,2-3")]
    Cores { written: String },
    /// A core named twice.
    #[error("core {core} is listed twice")]
    CoreTwice { core: usize },
    /// Not a name under which peers can reach this relay.
    #[error("\"{}\" is not a host name with an optional port, such as relay.example or relay.example:8080", .written.escape_default())]
    Instance { written: String },
    /// Not `NAME=VALUE`.
    #[error("\"{written}\" is not NAME=VALUE, such as association_ttl_s=300")]
    LimitForm { written: String },
    /// No limit has this name.
    #[error("no limit is called \"{written}\"; {}", LimitNames(.similar))]
    LimitName {
        written: String,
        similar: Option<&'static str>,
    },
    /// A limit outside its range.
    #[error("{name} = {value} is outside {min} to {max}")]
    LimitRange {
        name: &'static str,
        value: u64,
        min: u64,
        max: u64,
    },
}

struct LimitNames<'a>(&'a Option<&'static str>);

impl fmt::Display for LimitNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(similar) = self.0 {
            return write!(f, "did you mean \"{similar}\"?");
        }
        f.write_str("there are")?;
        for (index, limit) in super::limits::LIMITS.iter().enumerate() {
            write!(f, "{} {}", if index == 0 { "" } else { "," }, limit.name)?;
        }
        Ok(())
    }
}

/// An address and port to listen on. Port 0 lets the kernel choose one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl ListenAddress {
    /// Whether only this host can reach the address.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }
}

impl FromStr for ListenAddress {
    type Err = ValueError;

    fn from_str(written: &str) -> Result<Self, ValueError> {
        if let Ok(address) = written.parse() {
            return Ok(Self(address));
        }
        let written = written.to_owned();
        let (host, port) = written.rsplit_once(':').unwrap_or(("", &written));
        let Ok(port) = port.parse::<u16>() else {
            return Err(ValueError::ListenAddress { written });
        };
        if matches!(host, "" | "*") {
            return Err(ValueError::ListenWildcard { written, port });
        }
        let is_name = host.chars().any(|c| c.is_ascii_alphabetic()) && !host.contains([':', '[']);
        if is_name {
            return Err(ValueError::ListenName { written, port });
        }
        Err(ValueError::ListenAddress { written })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A length of time as people write it: a whole number and one of `ms`, `s`,
/// `m`, `h`. From nothing to 24 hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = ValueError;

    fn from_str(written: &str) -> Result<Self, ValueError> {
        let unit_at = written
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(written.len());
        let (number, unit) = written.split_at(unit_at);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => {
                return Err(ValueError::Period {
                    written: written.to_owned(),
                });
            }
        };
        if number.is_empty() {
            return Err(ValueError::Period {
                written: written.to_owned(),
            });
        }
        // Digits only: what does not fit is too long.
        let period = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_ms));
        period
            .map(Duration::from_millis)
            .filter(|period| *period <= PERIOD_MAX)
            .map(Self)
            .ok_or_else(|| ValueError::PeriodTooLong {
                written: written.to_owned(),
            })
    }
}

impl fmt::Display for Period {
    /// The largest unit that gives a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units: [(u128, &str); 3] = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        for (unit_ms, unit) in units {
            if ms >= unit_ms && ms.is_multiple_of(unit_ms) {
                return write!(f, "{}{unit}", ms / unit_ms);
            }
        }
        if ms == 0 {
            f.write_str("0s")
        } else {
            write!(f, "{ms}ms")
        }
    }
}

/// The name, and perhaps port, by which peers reach this relay. It goes into
/// protocol heads as it is, so it holds nothing but the characters of a host
/// name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance(String);

impl Instance {
    /// As written: `HOST` or `HOST:PORT`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host alone, in brackets where it is an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.split().0
    }

    /// The port, where one is written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.split().1.and_then(|port| port.parse().ok())
    }

    fn split(&self) -> (&str, Option<&str>) {
        split_instance(&self.0)
    }
}

fn split_instance(written: &str) -> (&str, Option<&str>) {
    match written.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.ends_with(']') => (host, Some(port)),
        _ => (written, None),
    }
}

impl FromStr for Instance {
    type Err = ValueError;

    fn from_str(written: &str) -> Result<Self, ValueError> {
        let (host, port) = split_instance(written);
        let host_valid = match host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let character =
                    |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
                !host.is_empty() && host.bytes().all(character)
            }
        };
        let port_valid = port.is_none_or(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p != 0)
        });
        if !host_valid || !port_valid || host.len() > HOST_NAME_BYTES_MAX {
            return Err(ValueError::Instance {
                written: written.to_owned(),
            });
        }
        Ok(Self(written.to_owned()))
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads a value from a string in the file, as `FromStr` reads it from the
/// command line; any other type of value is told what belongs there.
macro_rules! deserialize_from_str {
    ($type:ident, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Written;

                impl Visitor<'_> for Written {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: serde::de::Error>(self, written: &str) -> Result<$type, E> {
                        written.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Written)
            }
        }
    };
}

deserialize_from_str!(Period, "a length of time, such as \"30s\"");
deserialize_from_str!(Instance, "a host name, such as \"relay.example\"");

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(written: &str, expected: Result<&str, &str>)
    where
        T: FromStr<Err = ValueError> + fmt::Display,
    {
        let got = written
            .parse::<T>()
            .map(|v| v.to_string())
            .map_err(|e| e.to_string());
        let got = got.as_deref().map_err(String::as_str);
        match (got, expected) {
            (Err(got), Err(part)) => assert!(got.contains(part), "{written:?}: {got}"),
            _ => assert_eq!(got, expected, "{written:?}"),
        }
    }

    #[test]
    fn listen_addresses() {
        check::<ListenAddress>("127.0.0.1:8080", Ok("127.0.0.1:8080"));
        check::<ListenAddress>("[::]:0", Ok("[::]:0"));
        check::<ListenAddress>("*:80", Err("for every IPv4 address write 0.0.0.0:80"));
        check::<ListenAddress>(":80", Err("names no address"));
        check::<ListenAddress>("8080", Err("write 0.0.0.0:8080"));
        check::<ListenAddress>("localhost:80", Err("is a name"));
        check::<ListenAddress>("::1:80", Err("[::1]:8080"));
        check::<ListenAddress>("127.0.0.1:65536", Err("is not an address and a port"));
        check::<ListenAddress>("127.0.0.1", Err("is not an address and a port"));
        check::<ListenAddress>("", Err("is not an address and a port"));
    }

    #[test]
    fn loopback_also_in_ipv6_clothes() {
        for (written, loopback) in [
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            let address: ListenAddress = written.parse().unwrap();
            assert_eq!(address.is_loopback(), loopback, "{written}");
        }
    }

    #[test]
    fn periods() {
        check::<Period>("30s", Ok("30s"));
        check::<Period>("300s", Ok("5m"));
        check::<Period>("90s", Ok("90s"));
        check::<Period>("1500ms", Ok("1500ms"));
        check::<Period>("0s", Ok("0s"));
        check::<Period>("24h", Ok("24h"));
        check::<Period>("25h", Err("longer than 24h"));
        check::<Period>("99999999999999999999999s", Err("longer than 24h"));
        for wrong in ["", "s", "30", "-1s", "1.5s", "1 s", "30S", "1d", "1m30s"] {
            check::<Period>(wrong, Err("is not a length of time"));
        }
    }

    #[test]
    fn instances() {
        for right in [
            "relay",
            "relay.example:8080",
            "10.0.0.1:1",
            "[::1]",
            "[::1]:8080",
        ] {
            check::<Instance>(right, Ok(right));
        }
        for wrong in [
            "",
            ":80",
            "a b",
            "a\r\nX: y",
            "relay:0",
            "relay:+1",
            "relay:",
            "::1",
            "[x]:1",
        ] {
            check::<Instance>(wrong, Err("is not a host name"));
        }
        assert_eq!("[::1]:80".parse::<Instance>().unwrap().host(), "[::1]");
        assert_eq!("[::1]".parse::<Instance>().unwrap().host(), "[::1]");
        assert_eq!("relay:80".parse::<Instance>().unwrap().host(), "relay");
    }
}
