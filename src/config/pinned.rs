//! The one thing that a listener may be for, as its scheme says it.

use std::fmt;

use clap::ValueEnum;

use super::ValueError;
use crate::protocol::jet::Transport;
use crate::protocol::jproxy::Dialect;

const JET_PREFIX: &str = "jet+";
const JPROXY: &str = "jproxy";
const JPROXY_TLS: &str = "jproxy+tls";
const DIALECT_KEY: &str = "dialect=";

/// The one thing that a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// JET over this transport. `ws` and `wss` stand for HTTP, with its requests and its
    /// upgrades.
    Jet(Transport),
    /// Tunnels of jProxy.
    Jproxy {
        /// Within TLS, or as they are.
        is_tls: bool,
        /// How packets are written, of users whose rules do not say it; `None` as everywhere.
        dialect: Option<Dialect>,
    },
}

impl Pinned {
    /// Whether those who come have to come over TLS.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        match self {
            Self::Jet(transport) => transport.is_tls(),
            Self::Jproxy { is_tls, .. } => is_tls,
        }
    }

    /// Whether it is for jProxy, with TLS or without.
    #[must_use]
    pub fn is_jproxy_over(self, is_tls: bool) -> bool {
        matches!(self, Self::Jproxy { .. }) && self.is_tls() == is_tls
    }

    /// The transport of JET.
    #[must_use]
    pub const fn jet(self) -> Option<Transport> {
        match self {
            Self::Jet(transport) => Some(transport),
            Self::Jproxy { .. } => None,
        }
    }

    /// How packets of tunnels are written, if the listener says so.
    #[must_use]
    pub const fn dialect(self) -> Option<Dialect> {
        match self {
            Self::Jet(_) => None,
            Self::Jproxy { dialect, .. } => dialect,
        }
    }

    /// What stands before the address.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Jet(transport) => transport.scheme(),
            Self::Jproxy { is_tls: true, .. } => JPROXY_TLS,
            Self::Jproxy { is_tls: false, .. } => JPROXY,
        }
    }

    /// Whether this, given by the name of a socket, can be what is written as the other one:
    /// a name has no dialect.
    pub(super) fn is_named(self, written: Self) -> bool {
        self.scheme() == written.scheme()
    }

    /// What the name of a socket pins it to, if it is not somebody's who thinks of nothing like
    /// that.
    pub(super) fn named(name: &str) -> Result<Option<Self>, ValueError> {
        let is_meant =
            name.starts_with(JET_PREFIX) || name.strip_prefix(JPROXY).is_some_and(is_end_of_scheme);
        is_meant.then(|| Self::from_scheme(name)).transpose()
    }

    /// What a listener is pinned to that is written so, and its address.
    pub(super) fn parse<'a>(scheme: &str, rest: &'a str) -> Result<(Self, &'a str), ValueError> {
        match (Self::from_scheme(scheme)?, rest.split_once('?')) {
            (Self::Jproxy { is_tls, .. }, Some((address, query))) => {
                let word = query.strip_prefix(DIALECT_KEY);
                let dialect = word.and_then(|word| Dialect::from_str(word, false).ok());
                match dialect {
                    Some(_) => Ok((Self::Jproxy { is_tls, dialect }, address)),
                    None => Err(ValueError::ListenQuery {
                        query: query.to_owned(),
                    }),
                }
            }
            (pinned, _) => Ok((pinned, rest)),
        }
    }

    fn from_scheme(scheme: &str) -> Result<Self, ValueError> {
        let dialect = None;
        match scheme {
            JPROXY => Ok(Self::Jproxy {
                is_tls: false,
                dialect,
            }),
            JPROXY_TLS => Ok(Self::Jproxy {
                is_tls: true,
                dialect,
            }),
            scheme => match Transport::from_scheme(scheme) {
                Some(transport) => Ok(Self::Jet(transport)),
                None => Err(ValueError::ListenScheme {
                    scheme: scheme.to_owned(),
                }),
            },
        }
    }
}

/// Whether a name goes on as schemes do, and not as that of a unit, such as `jproxy.socket`.
fn is_end_of_scheme(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('+')
}

/// What stands behind the address.
pub(super) struct Query(pub(super) Pinned);

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.dialect() {
            Some(dialect) => write!(f, "?{DIALECT_KEY}{dialect}"),
            None => Ok(()),
        }
    }
}
