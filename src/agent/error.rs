//! Why a proxy does not start, or gives up.

use std::io;
use std::net::SocketAddr;

use super::ticket::RelayUrl;
use super::way::WayError;
use crate::protocol::jet::{ReplyError, Status};
use crate::protocol::ptth_http::Name;
use crate::runtime::cores::CoresError;
use crate::runtime::executor::ExecutorError;
use crate::runtime::listener::listen_advice;

/// Why a proxy does not start, or gives up: what trying again would not change.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The local port cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    /// The relay knows no association that was not made by others before.
    #[error("{relay} refuses to create associations for acceptors (status {})", status.as_u16())]
    CreationRefused { relay: RelayUrl, status: Status },
    /// The relay forgot an association that only it could make.
    #[error("{relay} gave the association up before anybody came (status {})", status.as_u16())]
    Forgotten { relay: RelayUrl, status: Status },
    /// The relay does not want this peer.
    #[error("{relay} turns this proxy away (status {})", status.as_u16())]
    TurnedAway { relay: RelayUrl, status: Status },
    /// Something else answers there.
    #[error("what answers at {relay} is not a JET relay")]
    NotJet { relay: RelayUrl, source: ReplyError },
    /// The relay does not let this proxy listen.
    #[error("{relay} does not let this proxy listen (status {status})")]
    NotListed {
        relay: String,
        status: u16,
        next: Option<&'static str>,
    },
    /// The relay does not let this proxy in.
    #[error("{relay} does not let this proxy in: {why}")]
    NotJoined {
        relay: String,
        why: String,
        next: Option<&'static str>,
    },
    /// The key is another server's.
    #[error("{relay} knows this key as \"{known}\", and not as \"{name}\"")]
    OtherServer {
        relay: String,
        name: Name,
        known: Name,
        next: Option<&'static str>,
    },
    /// The relay cannot be reached by anybody whom we trust.
    #[error(transparent)]
    Way(#[from] WayError),
    #[error(transparent)]
    Cores(#[from] CoresError),
    #[error("cannot ask which cores this process may use")]
    Affinity(#[source] io::Error),
    #[error(transparent)]
    Executor(#[from] ExecutorError),
}

impl AgentError {
    /// What the operator can do about it.
    #[must_use]
    pub fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Listen { source, .. } => listen_advice(source)?.into(),
            Self::CreationRefused { .. } => {
                "start the relay with --create-on-accept, or where it invents associations (--jet-v1 \
                 allow) expose for one session with --once, over jet+tcp or jet+tls"
                    .into()
            }
            Self::Forgotten { .. } => "run it again for a new ticket".into(),
            Self::TurnedAway { .. } => {
                "have the relay invent associations (--jet-v1 allow), or let acceptors create them \
                 (--create-on-accept)"
                    .into()
            }
            Self::NotListed { next, .. }
            | Self::NotJoined { next, .. }
            | Self::OtherServer { next, .. } => (*next)?.into(),
            Self::NotJet { .. } => "check the scheme, the host and the port of the relay".into(),
            Self::Way(WayError::NoAuthorities) => {
                "install ca-certificates, pass --relay-ca FILE, or pin the relay's certificate \
                 with ?pin=…, as the relay tells it at its start"
                    .into()
            }
            Self::Executor(error) => error.next_step()?.into(),
            Self::Way(WayError::Authorities { .. }) => {
                "pass a file with certificates of authorities, in PEM, as --relay-ca".into()
            }
            Self::Way(_)
            | Self::Cores(_)
            | Self::Affinity(_) => return None,
        })
    }
}
