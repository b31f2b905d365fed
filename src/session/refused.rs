//! Why a connection did not become a leg: one name for each reason, and the
//! one place that turns it into an answer.

use super::wrapped_stream::Departure;
use crate::access::Denied;
use crate::association::Refusal;
use crate::protocol::jet::{RefusalReason, RestError, Status};
use crate::protocol::socks5::ReplyCode;
use crate::protocol::websocket::UpgradeError;
use crate::web::WebRefusal;

/// Every reason for which a connection is turned away. Stable names: they are
/// counters' labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    BadSignature,
    PacketTooShort,
    PacketTooLong,
    NotHttp,
    TooManyHeaders,
    BadMethod,
    NoHost,
    NoJetVersion,
    UnsupportedVersion,
    BadPath,
    /// No page could have the path.
    MalformedPath,
    NoJetMethod,
    BadAssociation,
    BadCandidate,
    /// An HTTP head is longer than we take.
    HeadTooLong,
    /// It is not certain where an HTTP request's body ends.
    AmbiguousBody,
    /// An HTTP request's body is longer than we take.
    BodyTooLong,
    /// An HTTP request's body does not tell its length.
    NoLength,
    /// A key is needed, and none was shown.
    NoKey,
    /// Nobody has the key that was shown.
    UnknownKey,
    /// The token that was shown is good no more, or not yet.
    ExpiredToken,
    /// The token that was shown is good for another association.
    OtherAssociation,
    /// The token that was shown serves once, and was used.
    SpentToken,
    /// More tokens were used than are remembered.
    TooManySpent,
    /// The key's bearer asks more often than it may.
    TooFast,
    /// The key that was shown is good for something else.
    OutOfScope,
    /// A leg asks over HTTP without an upgrade to WebSocket, or to a version that we
    /// do not speak.
    UpgradeRequired,
    /// The upgrade has no key to answer.
    NoWebSocketKey,
    /// What came behind an upgrade is no WebSocket.
    NotWebSocket,
    /// TLS came to nothing: not TLS, no version or suite in common, or no
    /// certificate that we take.
    TlsFailed,
    /// Whoever may pass on others' connections does not say whose this is.
    NoProxyHeader,
    /// Only those are served who come over TLS, and show a certificate there.
    TlsRequired,
    /// The listener is for something else.
    OtherListener,
    /// A user has to say who it is, and did not.
    NoPassword,
    /// Nobody has this name, or another password.
    WrongPassword,
    /// No sub-protocol that is offered is spoken here.
    NoSubProtocol,
    /// What comes before SOCKS5 is neither a sign of life nor its beginning.
    BadPrelude,
    /// It does not speak SOCKS5 as it should.
    BadSocks,
    /// What it asks for is not served.
    CommandNotSupported,
    /// No rule lets the relay dial there.
    EgressDenied,
    /// The name leads nowhere, or did not in time.
    NotResolved,
    /// No relay can be reached by which to go.
    NoRelay,
    /// A relay is reached, and does not let us in, or is not whom we trust.
    RelayRefuses,
    /// Datagrams were to come to a port that is the host's own.
    PrivilegedPort,
    /// Nobody answers where it wants to go.
    DialFailed,
    /// The relay has no address of the family at which somebody could come.
    AddressTypeNotSupported,
    /// The relay cannot listen for whom it awaits, or accept who has come.
    ListenFailed,
    /// Whom it awaits has not come in time.
    NobodyCame,
    /// It comes where somebody else is awaited.
    NotAwaited,
    /// Not one byte came before the handshake's deadline.
    Silent,
    /// The request was not complete at the handshake's deadline.
    TooSlow,
    /// The peer closed before its request was complete.
    ClosedEarly,
    /// The peer reset the connection before its request was complete.
    ResetEarly,
    /// The association or candidate is unknown.
    NotFound,
    /// No acceptor waits there.
    NotWaiting,
    /// The session there has ended.
    SessionEnded,
    /// A pair is joined there.
    AlreadyConnected,
    /// The association table is at its limit.
    TableFull,
    /// An acceptor that names no association, where version 1 is switched off.
    V1Denied,
    /// Connections are at their limit.
    TooManyConnections,
    /// The connections from this address are at their limit.
    TooManyFromAddress,
    /// Handshakes are at their limit.
    TooManyHandshakes,
    /// The key's bearer holds as many associations as it may.
    TooManyOfBearer,
    /// That part of a forwarded connection is in use.
    LegInUse,
    /// As many wait for a forwarded port as may.
    PortBusy,
    /// As many requests of the server listen as may.
    TooManyListens,
    /// The key that was shown is another server's than the one that it says it is.
    OtherServer,
    /// The server did not accept a connection in time.
    NotAcceptedInTime,
    /// The server did not want it.
    RejectedByServer,
    /// Another part of the connection has gone.
    TunnelBroken,
    /// A stream of QUIC began with no message of PTTH.
    NotAMessage,
    /// No connection of the server's is there.
    ServerAbsent,
    OldHttp,
    /// The user has as many sessions as it may.
    TooManyOfUser,
    /// The user has more dialled than it may in a minute.
    TooManyDials,
    /// As many of the user, or of all, await somebody as may.
    TooManyBinds,
    /// As many names of the user are being resolved as may, or of all.
    TooManyNames,
    /// Tunnels are at their limit.
    TooManyTunnels,
    /// The tunnel has as many channels as it may.
    TooManyChannels,
    /// More wrong passwords came from this address than may in a minute.
    TooManyWrong,
    /// The legs that wait from this address are at their limit.
    TooManyWaiting,
    /// Memory is at its budget.
    OverMemory,
    /// No descriptor was left.
    NoDescriptor,
    /// The relay is shutting down.
    Draining,
    /// The reply could not be written.
    ReplyFailed,
}

crate::labels!(Refused {
    BadSignature = "bad_signature",
    PacketTooShort = "packet_too_short",
    PacketTooLong = "packet_too_long",
    NotHttp = "not_http",
    TooManyHeaders = "too_many_headers",
    BadMethod = "bad_method",
    NoHost = "no_host",
    NoJetVersion = "no_jet_version",
    UnsupportedVersion = "unsupported_version",
    BadPath = "bad_path",
    MalformedPath = "malformed_path",
    NoJetMethod = "no_jet_method",
    BadAssociation = "bad_association",
    BadCandidate = "bad_candidate",
    HeadTooLong = "head_too_long",
    AmbiguousBody = "ambiguous_body",
    BodyTooLong = "body_too_long",
    NoLength = "no_length",
    NoKey = "no_key",
    UnknownKey = "unknown_key",
    ExpiredToken = "expired_token",
    OtherAssociation = "other_association",
    SpentToken = "spent_token",
    TooManySpent = "too_many_spent",
    TooFast = "too_fast",
    OutOfScope = "out_of_scope",
    UpgradeRequired = "upgrade_required",
    NoWebSocketKey = "no_websocket_key",
    NotWebSocket = "not_websocket",
    TlsFailed = "tls_failed",
    NoProxyHeader = "no_proxy_header",
    TlsRequired = "tls_required",
    OtherListener = "other_listener",
    NoPassword = "no_password",
    WrongPassword = "wrong_password",
    NoSubProtocol = "no_sub_protocol",
    BadPrelude = "bad_prelude",
    BadSocks = "bad_socks",
    CommandNotSupported = "command_not_supported",
    EgressDenied = "egress_denied",
    NotResolved = "not_resolved",
    NoRelay = "no_relay",
    RelayRefuses = "relay_refuses",
    PrivilegedPort = "privileged_port",
    DialFailed = "dial_failed",
    AddressTypeNotSupported = "address_type_not_supported",
    ListenFailed = "listen_failed",
    NobodyCame = "nobody_came",
    NotAwaited = "not_awaited",
    Silent = "silent",
    TooSlow = "too_slow",
    ClosedEarly = "closed_early",
    ResetEarly = "reset_early",
    NotFound = "not_found",
    NotWaiting = "not_waiting",
    SessionEnded = "session_ended",
    AlreadyConnected = "already_connected",
    TableFull = "table_full",
    V1Denied = "v1_denied",
    TooManyConnections = "too_many_connections",
    TooManyFromAddress = "too_many_from_address",
    TooManyHandshakes = "too_many_handshakes",
    TooManyOfBearer = "too_many_of_bearer",
    LegInUse = "leg_in_use",
    PortBusy = "port_busy",
    TooManyListens = "too_many_listens",
    OtherServer = "other_server",
    NotAcceptedInTime = "not_accepted_in_time",
    RejectedByServer = "rejected_by_server",
    TunnelBroken = "tunnel_broken",
    NotAMessage = "not_a_message",
    ServerAbsent = "server_absent",
    OldHttp = "old_http",
    TooManyOfUser = "too_many_of_user",
    TooManyDials = "too_many_dials",
    TooManyBinds = "too_many_binds",
    TooManyNames = "too_many_names",
    TooManyTunnels = "too_many_tunnels",
    TooManyChannels = "too_many_channels",
    TooManyWrong = "too_many_wrong",
    TooManyWaiting = "too_many_waiting",
    OverMemory = "over_memory",
    NoDescriptor = "no_descriptor",
    Draining = "draining",
    ReplyFailed = "reply_failed",
});

impl Refused {
    /// What a well-formed JET request is answered when it is refused.
    #[must_use]
    pub fn jet_status(self) -> Status {
        match self {
            Self::NotFound => Status::NOT_FOUND,
            Self::V1Denied => Status::FORBIDDEN,
            Self::TooManyWaiting => Status::TOO_MANY_REQUESTS,
            Self::TableFull | Self::Draining => Status::SERVICE_UNAVAILABLE,
            _ => Status::BAD_REQUEST,
        }
    }
}

impl Refused {
    /// What an HTTP request is answered when it is refused.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::NoKey
            | Self::UnknownKey
            | Self::ExpiredToken
            | Self::SpentToken
            | Self::NoPassword
            | Self::WrongPassword => 401,
            Self::V1Denied
            | Self::OutOfScope
            | Self::OtherAssociation
            | Self::OtherServer
            | Self::TlsRequired => 403,
            Self::NotFound | Self::BadPath => 404,
            Self::BadMethod => 405,
            Self::AlreadyConnected | Self::LegInUse => 409,
            Self::SessionEnded => 410,
            Self::NoLength => 411,
            Self::BodyTooLong => 413,
            Self::UpgradeRequired => 426,
            Self::NotWaiting => 428,
            Self::TooManyWaiting
            | Self::TooManyFromAddress
            | Self::TooManyOfBearer
            | Self::TooFast
            | Self::TooManyWrong => 429,
            Self::TooManyHeaders | Self::HeadTooLong => 431,
            Self::RejectedByServer | Self::TunnelBroken => 502,
            Self::OldHttp => 505,
            Self::TableFull
            | Self::TooManySpent
            | Self::OverMemory
            | Self::PortBusy
            | Self::TooManyListens
            | Self::Draining => 503,
            Self::NotAcceptedInTime => 504,
            _ => 400,
        }
    }
}

impl Refused {
    /// What a request of SOCKS5 is answered when it is refused, where no more is known of it:
    /// RFC 1928 §6.
    #[must_use]
    pub const fn socks_reply(self) -> ReplyCode {
        match self {
            Self::EgressDenied => ReplyCode::NotAllowed,
            Self::NoRelay => ReplyCode::NetworkUnreachable,
            Self::NotResolved => ReplyCode::HostUnreachable,
            Self::NobodyCame => ReplyCode::TtlExpired,
            Self::CommandNotSupported => ReplyCode::CommandNotSupported,
            Self::AddressTypeNotSupported => ReplyCode::AddressTypeNotSupported,
            // What is no rule's may be had later, or from another relay.
            _ => ReplyCode::GeneralFailure,
        }
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NoKey => Self::NoKey,
            Denied::UnknownKey => Self::UnknownKey,
            Denied::OutOfScope => Self::OutOfScope,
            Denied::Expired => Self::ExpiredToken,
            Denied::OtherAssociation => Self::OtherAssociation,
            Denied::TooFast => Self::TooFast,
            Denied::Spent => Self::SpentToken,
            Denied::TooManySpent => Self::TooManySpent,
        }
    }
}

impl From<Departure> for Refused {
    fn from(departure: Departure) -> Self {
        match departure {
            Departure::Gone => Self::ClosedEarly,
            Departure::SaysTooMuch => Self::BadSocks,
        }
    }
}

impl From<UpgradeError> for Refused {
    fn from(error: UpgradeError) -> Self {
        match error {
            UpgradeError::NotAsked | UpgradeError::UnsupportedVersion => Self::UpgradeRequired,
            UpgradeError::NoKey => Self::NoWebSocketKey,
        }
    }
}

impl From<RestError> for Refused {
    fn from(error: RestError) -> Self {
        match error {
            RestError::UnknownPath => Self::BadPath,
            RestError::WrongMethod { .. } => Self::BadMethod,
            RestError::BadId => Self::BadAssociation,
        }
    }
}

impl From<WebRefusal> for Refused {
    fn from(refusal: WebRefusal) -> Self {
        match refusal {
            WebRefusal::NotFound => Self::BadPath,
            WebRefusal::MalformedPath => Self::MalformedPath,
            WebRefusal::WrongMethod => Self::BadMethod,
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => Self::NotFound,
            Refusal::NotWaiting => Self::NotWaiting,
            Refusal::Ended => Self::SessionEnded,
            Refusal::AlreadyConnected => Self::AlreadyConnected,
            Refusal::Full => Self::TableFull,
            Refusal::TooMany => Self::TooManyOfBearer,
        }
    }
}

impl From<RefusalReason> for Refused {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::BadSignature => Self::BadSignature,
            RefusalReason::PacketTooShort => Self::PacketTooShort,
            RefusalReason::PacketTooLong => Self::PacketTooLong,
            RefusalReason::NotHttp => Self::NotHttp,
            RefusalReason::TooManyHeaders => Self::TooManyHeaders,
            RefusalReason::BadMethod => Self::BadMethod,
            RefusalReason::NoHost => Self::NoHost,
            RefusalReason::NoJetVersion => Self::NoJetVersion,
            RefusalReason::UnsupportedVersion => Self::UnsupportedVersion,
            RefusalReason::BadPath => Self::BadPath,
            RefusalReason::NoJetMethod => Self::NoJetMethod,
            RefusalReason::BadAssociation => Self::BadAssociation,
            RefusalReason::BadCandidate => Self::BadCandidate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::counters::Label;

    #[test]
    fn a_protocols_reason_keeps_its_name() {
        for reason in RefusalReason::ALL {
            assert_eq!(Refused::from(reason).as_str(), reason.as_str());
        }
    }
}
