//! The relay as it is dialled over QUIC, and why it may not let a proxy in.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use quinn_proto::{ClientConfig, ConnectionError};
use rustls::AlertDescription;
use rustls::pki_types::ServerName;

use crate::agent::leg::{NOT_PINNED, NOT_VOUCHED_FOR};
use crate::agent::ptth::asking::{self, AskError};
use crate::agent::ptth::proof::Proof;
use crate::agent::ptth::url::PtthUrl;
use crate::agent::relay_trouble::Trouble;
use crate::agent::settings::AgentSettings;
use crate::agent::way::{self, WayError};
use crate::config::quic_settings::PathSettings;
use crate::protocol::ptth_name::Name;
use crate::protocol::ptth_quic::{ALPN, AnswerError, CloseCode, Hello, Refusal};
use crate::quic::transport::{Transport, Windows};
use crate::shard::streams::NoMessage;
use crate::tls::client::quic_client_config;

/// What a proxy's connection holds.
pub(super) const WINDOWS: Windows = Windows {
    stream: 4 << 20,
    connection: 16 << 20,
    stalled_max: 256 << 20,
    sent_max: SEND_WINDOW_BYTES as u64,
};
const SEND_WINDOW_BYTES: u32 = 8 << 20;

/// What a proxy's connection is set to. The relay may open as many streams as it is asked for.
const fn transport(path: PathSettings) -> Transport {
    Transport {
        stream_window: WINDOWS.stream,
        connection_window: WINDOWS.connection,
        send_window: SEND_WINDOW_BYTES,
        streams_max: 4096,
        idle_timeout: Duration::from_secs(20),
        keep_alive: Some(Duration::from_secs(5)),
        path,
    }
}

/// Why the relay does not let us in.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    #[error("cannot find {host}: {source}")]
    Resolve {
        host: String,
        source: std::io::Error,
    },
    #[error("cannot find {host}: the resolver has not answered within {} s", .timeout.as_secs())]
    ResolverSilent { host: String, timeout: Duration },
    #[error("{0} cannot be dialled from here")]
    NoWay(SocketAddr),
    #[error("{}", told(.0))]
    Connection(ConnectionError),
    #[error("no answer in time")]
    TimedOut,
    /// Not a single datagram has come.
    #[error("no answer over UDP")]
    Silent,
    /// As before, and its host says why, or whoever rejects datagrams in its name.
    #[error("its host, or a firewall, takes no UDP at this port")]
    Closed,
    /// As before, and the same relay is not to be had over HTTPS.
    #[error("no answer over UDP, and none over HTTPS: {0}")]
    Away(#[from] Box<AskError>),
    /// Not a single datagram has come; by HTTPS there is the relay, but no certificate.
    #[error("no answer over UDP, and by HTTPS the relay would need a key")]
    OnlyOverUdp,
    #[error("the relay answers {0}")]
    Refused(Refusal),
    #[error("what the relay answers is no answer: {0}")]
    Answer(#[from] NoMessage<AnswerError>),
    #[error("the relay lets no stream be opened")]
    NoStream,
}

/// With which alert of TLS we have ended a handshake: RFC 9001 §4.8.
fn own_alert(error: &ConnectionError) -> Option<AlertDescription> {
    match error {
        ConnectionError::TransportError(error) => match u64::from(error.code).to_be_bytes() {
            [0, 0, 0, 0, 0, 0, 1, alert] => Some(alert.into()),
            _ => None,
        },
        _ => None,
    }
}

/// In the words of [`crate::session::approach::ApproachError`] where it is the same.
fn told(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TransportError(why) if own_alert(error).is_some() => {
            format!("tls: {}", why.reason)
        }
        error => error.to_string(),
    }
}

/// The same as over TCP; which of rustls' errors it was, its alert says.
const fn certificate_advice(alert: AlertDescription) -> Option<&'static str> {
    match alert {
        AlertDescription::AccessDenied => Some(NOT_PINNED),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA => Some(NOT_VOUCHED_FOR),
        _ => None,
    }
}

/// A kind of failure, of which there are few: what is wrong, and what the relay answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(pub(super) Trouble, Option<Refusal>);

impl JoinError {
    /// What whoever started the proxy can do about it.
    pub(super) fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Resolve { .. } => Some("check the name in --relay"),
            Self::ResolverSilent { .. } => Some("does this host's resolver work?"),
            Self::TimedOut
            | Self::Silent
            | Self::Closed
            | Self::Away(_)
            | Self::Connection(ConnectionError::TimedOut) => {
                Some("is the relay running, with quic.listen at this port, and does UDP get there?")
            }
            Self::OnlyOverUdp => Some(
                "does UDP get to the relay? A key in the certificate's place is good by HTTPS too",
            ),
            error if error.is_final() => Some(
                "the relay's [[ptth.servers]] or [[ptth.clients]] has to list this name with the \
                 SHA-256 of this key, which is certificate_sha256 for a certificate",
            ),
            Self::Connection(error) => certificate_advice(own_alert(error)?),
            _ => None,
        }
    }

    /// What operators are told of it.
    pub(super) const fn trouble(&self) -> Trouble {
        match self {
            Self::Resolve { .. }
            | Self::ResolverSilent { .. }
            | Self::NoWay(_)
            | Self::Silent
            | Self::Closed
            | Self::Away(_)
            | Self::OnlyOverUdp => Trouble::Unreachable,
            Self::Connection(ConnectionError::TimedOut) | Self::TimedOut => Trouble::Mute,
            Self::Connection(_) | Self::Refused(_) | Self::Answer(_) | Self::NoStream => {
                Trouble::Refuses
            }
        }
    }

    /// As what it is news.
    pub(super) const fn kind(&self) -> Kind {
        let refusal = match self {
            Self::Refused(refusal) => Some(*refusal),
            _ => None,
        };
        Kind(self.trouble(), refusal)
    }

    /// Whether trying again changes nothing for a proxy that was never let in.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Refused(refusal) => *refusal == Refusal::Unauthenticated,
            Self::Connection(ConnectionError::ApplicationClosed(close)) => {
                let code = CloseCode::from_wire(close.error_code.into_inner());
                code == Some(CloseCode::Unauthenticated)
            }
            _ => false,
        }
    }
}

/// The relay, as it is dialled.
#[derive(Clone, Debug)]
pub(in crate::agent::ptth) struct Relay {
    pub(super) url: PtthUrl,
    /// What its certificate has to name.
    pub(super) name: String,
    /// What is said first.
    pub(super) hello: Hello,
    /// The same by HTTPS.
    pub(in crate::agent::ptth) https: asking::Relay,
    tls: Arc<rustls::ClientConfig>,
    /// See [`Transport::client`].
    steer: u8,
    path: PathSettings,
}

impl Relay {
    /// The relay at `url`, to which this is said and shown. Proxies of one `server`, and its
    /// clients, come to one shard of the relay, however many it has.
    pub(in crate::agent::ptth) fn new(
        url: &PtthUrl,
        (hello, server): (Hello, &Name),
        proof: &Proof,
        https: asking::Relay,
        path: PathSettings,
        agent: &AgentSettings,
    ) -> Result<Self, WayError> {
        let authorities = agent.relay_ca.as_deref();
        let (trust, name) = way::trust(url.pin, &url.address.host, authorities)?;
        let name = match name {
            ServerName::DnsName(name) => name.as_ref().to_owned(),
            // Without the brackets of a URL.
            ServerName::IpAddress(ip) => IpAddr::from(ip).to_string(),
            _ => url.address.host.to_string(),
        };
        Ok(Self {
            url: url.clone(),
            name,
            hello,
            https,
            tls: quic_client_config(trust, ALPN, proof.identity())?,
            steer: url.steer.unwrap_or_else(|| steer(server)),
            path,
        })
    }

    /// What a connection to it is begun with; `None` where QUIC cannot be spoken.
    pub(super) fn config(&self) -> Option<ClientConfig> {
        let transport = transport(self.path);
        transport.client(Arc::clone(&self.tls), self.steer).ok()
    }
}

/// By which a server's proxy and all of its clients come to one shard.
fn steer(server: &Name) -> u8 {
    digest(&SHA256, server.as_str().as_bytes()).as_ref()[0]
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::{ApplicationClose, TransportError, TransportErrorCode, VarInt};
    use rustls::CertificateError;

    use super::*;
    use crate::agent::leg::approach_advice;
    use crate::session::approach::ApproachError;

    #[test]
    fn a_proxy_that_the_relay_does_not_know_need_not_try_again() {
        let closed = |code: CloseCode| {
            JoinError::Connection(ConnectionError::ApplicationClosed(ApplicationClose {
                error_code: VarInt::from_u32(code.value()),
                reason: Vec::new().into(),
            }))
        };
        let check = |error: JoinError, expected: bool| {
            assert_eq!(error.is_final(), expected, "{error}");
            let is_advised = |next: &str| next.contains("has to list this name");
            assert_eq!(error.next_step().is_some_and(is_advised), expected);
        };
        check(JoinError::Refused(Refusal::Unauthenticated), true);
        check(closed(CloseCode::Unauthenticated), true);
        check(JoinError::Refused(Refusal::LimitReached), false);
        check(closed(CloseCode::Replaced), false);
        check(JoinError::Silent, false);
    }

    #[test]
    fn whoever_is_not_trusted_is_told_of_as_over_tcp() {
        for error in [
            CertificateError::ApplicationVerificationFailure,
            CertificateError::UnknownIssuer,
            CertificateError::NotValidForName,
            CertificateError::Expired,
        ] {
            let alert = AlertDescription::from(error.clone());
            let error = rustls::Error::from(error);
            let by_quic = JoinError::Connection(ConnectionError::TransportError(TransportError {
                code: TransportErrorCode::crypto(alert.into()),
                frame: None,
                reason: error.to_string(),
            }));
            let by_tcp = ApproachError::Tls(error);
            assert_eq!(by_quic.to_string(), by_tcp.to_string());
            assert!(by_quic.next_step().is_some(), "{by_quic}");
            assert_eq!(by_quic.next_step(), approach_advice(&by_tcp), "{by_quic}");
        }
    }

    #[test]
    fn what_is_refused_makes_a_kind_of_its_own() {
        let refused = |refusal| JoinError::Refused(refusal).kind();
        let unknown = refused(Refusal::Unauthenticated);
        assert_eq!(unknown, refused(Refusal::Unauthenticated));
        assert_ne!(unknown, refused(Refusal::LimitReached));
        assert_ne!(unknown, JoinError::NoStream.kind());
        assert_eq!(JoinError::Silent.kind(), JoinError::Closed.kind());
    }
}
