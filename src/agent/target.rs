//! What a proxy dials: the relay, or the service that it exposes.
//!
//! Left out: resolving names, which the runtime does.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::protocol::ptth_http::{Name, NameError};

/// The longest host name (RFC 1035 §2.3.4).
const HOST_NAME_BYTES_MAX: usize = 253;

/// The longest path of a unix socket: `sun_path` less its final zero
/// (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Why a target is not one. Never holds a whole URL, which may be secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No port at all, or nothing else.
    #[error(
        "\"{written}\" has no {}; write HOST:PORT",
        if .written.parse::<u16>().is_ok() { "host" } else { "port" }
    )]
    NoPort { written: String },
    /// A URL, of which this is the scheme.
    #[error("that is a URL; write HOST:PORT, without {scheme}:// before it or a path behind it")]
    Url { scheme: String },
    /// A port that is no number from 1 to 65535.
    #[error("port \"{port}\" is not a number from 1 to 65535")]
    Port { port: String },
    /// What stands before a service is no name of a port.
    #[error("port \"{port}\" is none: {error}")]
    PortName { port: String, error: NameError },
    /// An empty or impossible host.
    #[error("\"{host}\" is not a host name or an address")]
    Host { host: String },
    /// An IPv6 address whose end cannot be told from the port.
    #[error("an IPv6 address goes in brackets, such as [::1]:8080")]
    Brackets,
    /// A path that no socket can have.
    #[error("the path of a unix socket is absolute and at most {UNIX_PATH_BYTES_MAX} bytes long")]
    UnixPath,
}

/// A host by name or by address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// To be resolved; in lower case.
    Name(String),
    /// As it is.
    Address(IpAddr),
}

/// A host and a port, which is not 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

/// Where an exposed service answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// `HOST:PORT`
    Tcp(HostPort),
    /// `unix:/path`
    Unix(PathBuf),
}

/// One exposed service: `[PORT=]TARGET`. Its port is a number by JET, and a name, of which
/// numbers are some, by PTTH.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service<P = u16> {
    /// The port by which the other side asks for it; without one, the service
    /// is the only one exposed.
    pub port: Option<P>,
    /// Where it answers.
    pub target: Target,
}

impl FromStr for Host {
    type Err = TargetError;

    fn from_str(written: &str) -> Result<Self, TargetError> {
        let wrong = || TargetError::Host {
            host: written.to_owned(),
        };
        if let Some(inner) = written.strip_prefix('[') {
            let address = inner
                .strip_suffix(']')
                .and_then(|inner| inner.parse::<Ipv6Addr>().ok());
            return address
                .map(|address| Self::Address(address.into()))
                .ok_or_else(wrong);
        }
        if let Ok(address) = written.parse::<std::net::Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        if written.contains(':') {
            return Err(TargetError::Brackets);
        }
        let character = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let valid = !written.is_empty()
            && written.len() <= HOST_NAME_BYTES_MAX
            && written.bytes().all(character);
        if valid {
            Ok(Self::Name(written.to_ascii_lowercase()))
        } else {
            Err(wrong())
        }
    }
}

impl FromStr for HostPort {
    type Err = TargetError;

    fn from_str(written: &str) -> Result<Self, TargetError> {
        if let Some((scheme, _)) = written.split_once("://") {
            return Err(TargetError::Url {
                scheme: scheme.to_owned(),
            });
        }
        let Some((host, port)) = written
            .rsplit_once(':')
            .filter(|(_, port)| !port.ends_with(']'))
        else {
            return Err(TargetError::NoPort {
                written: written.to_owned(),
            });
        };
        Ok(Self {
            host: host.parse()?,
            port: parse_port(port)?,
        })
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: Host::Address(address.ip()),
            port: address.port(),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(written: &str) -> Result<Self, TargetError> {
        let Some(path) = written.strip_prefix("unix:") else {
            return Ok(Self::Tcp(written.parse()?));
        };
        let valid = path.starts_with('/') && path.len() <= UNIX_PATH_BYTES_MAX;
        if valid && !path.contains('\0') {
            Ok(Self::Unix(path.into()))
        } else {
            Err(TargetError::UnixPath)
        }
    }
}

impl FromStr for Service<Name> {
    type Err = TargetError;

    fn from_str(written: &str) -> Result<Self, TargetError> {
        // A socket's path may hold an equals sign too.
        let named = written
            .split_once('=')
            .filter(|_| !written.starts_with("unix:"));
        if let Some((port, target)) = named {
            let wrong = |error| TargetError::PortName {
                port: port.to_owned(),
                error,
            };
            return Ok(Self {
                port: Some(port.parse().map_err(wrong)?),
                target: target.parse()?,
            });
        }
        let target: Target = written.parse()?;
        let port = target.port().map(Name::from);
        Ok(Self { port, target })
    }
}

impl Service<Name> {
    /// The same by JET.
    ///
    /// # Errors
    ///
    /// When its port has a name that is no number.
    pub fn numbered(&self) -> Result<Service, TargetError> {
        let port = self.port.as_ref().map(|port| parse_port(port.as_str()));
        Ok(Service {
            port: port.transpose()?,
            target: self.target.clone(),
        })
    }
}

impl Target {
    /// Its TCP port.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port),
            Self::Unix(_) => None,
        }
    }
}

/// A port from 1 to 65535, in digits alone.
pub(super) fn parse_port(written: &str) -> Result<u16, TargetError> {
    let digits = !written.is_empty() && written.bytes().all(|b| b.is_ascii_digit());
    let port = if digits { written.parse().ok() } else { None };
    port.filter(|port| *port != 0)
        .ok_or_else(|| TargetError::Port {
            port: written.to_owned(),
        })
}

impl fmt::Display for Host {
    /// An IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl<P: fmt::Display> fmt::Display for Service<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            Some(port) => write!(f, "{port}={}", self.target),
            None => self.target.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(written: &str, expected: Result<&str, &str>)
    where
        T: FromStr<Err = TargetError> + fmt::Display,
    {
        let got = written.parse::<T>().map(|value| value.to_string());
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{written}"),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{written}: {error}");
            }
            (got, _) => panic!("{written}: {got:?}"),
        }
    }

    #[test]
    fn hosts_and_ports() {
        check::<HostPort>("relay.example:8080", Ok("relay.example:8080"));
        check::<HostPort>("Relay.Example:1", Ok("relay.example:1"));
        check::<HostPort>("127.0.0.1:22", Ok("127.0.0.1:22"));
        check::<HostPort>("[::1]:8080", Ok("[::1]:8080"));
        check::<HostPort>("[0:0:0:0:0:0:0:1]:1", Ok("[::1]:1"));
        check::<HostPort>("::1:8080", Err("in brackets"));
        check::<HostPort>("[::1]", Err("has no port"));
        check::<HostPort>("relay", Err("has no port"));
        check::<HostPort>("22", Err("has no host"));
        check::<HostPort>("http://web:8000", Err("without http://"));
        check::<HostPort>("http://web/", Err("without http://"));
        check::<HostPort>("relay:", Err("is not a number from 1"));
        check::<HostPort>("relay:0", Err("is not a number from 1"));
        check::<HostPort>("relay:+1", Err("is not a number from 1"));
        check::<HostPort>("relay:65536", Err("is not a number from 1"));
        check::<HostPort>(":80", Err("is not a host name"));
        check::<HostPort>("a b:80", Err("is not a host name"));
        check::<HostPort>("user@relay:80", Err("is not a host name"));
        check::<HostPort>("[relay]:80", Err("is not a host name"));
        check::<HostPort>("[::1:80", Err("is not a host name"));
    }

    #[test]
    fn services() {
        check::<Service<Name>>("127.0.0.1:22", Ok("22=127.0.0.1:22"));
        check::<Service<Name>>("80=nas:8080", Ok("80=nas:8080"));
        check::<Service<Name>>("80=[::1]:8080", Ok("80=[::1]:8080"));
        check::<Service<Name>>("ssh=a:1", Ok("ssh=a:1"));
        check::<Service<Name>>("unix:/run/a=b.sock", Ok("unix:/run/a=b.sock"));
        check::<Service<Name>>("5432=unix:/run/db.sock", Ok("5432=unix:/run/db.sock"));
        check::<Service<Name>>("=a:1", Err("port \"\" is none: a name has 1 to 63"));
        check::<Service<Name>>("a/b=a:1", Err("port \"a/b\" is none: a name is of"));
        check::<Service<Name>>("unix:run", Err("absolute"));
        check::<Service<Name>>(&format!("unix:/{}", "a".repeat(107)), Err("absolute"));
        check::<Service<Name>>("80=", Err("has no port"));
    }

    #[test]
    fn some_ports_are_numbers() {
        let numbered = |written: &str| written.parse::<Service<Name>>().expect(written).numbered();
        for (written, port) in [("22=a:1", Some(22)), ("a:1", Some(1)), ("unix:/s", None)] {
            assert_eq!(numbered(written).expect(written).port, port);
        }
        for written in ["ssh=a:1", "0=a:1", "65536=a:1"] {
            let error = numbered(written).expect_err(written);
            assert!(matches!(error, TargetError::Port { .. }), "{error}");
        }
    }
}
