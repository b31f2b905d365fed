//! Why a request is not one, what the peer is told, and under which name it
//! is counted.

use thiserror::Error;

use super::message::{Packet, PacketError};
use super::reply::{Reply, Status};
use super::request::Version;
use crate::protocol::http_head::HeadError;

/// Why bytes are not a request that the relay could serve. The connection is
/// closed in every case; [`RequestError::reply`] says whether in silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Not a packet. No reply: the peer may speak anything.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A packet without an HTTP head in it. No reply.
    #[error("payload: {0}")]
    NotHttp(HeadError),
    /// A packet that ends before its head does. No reply.
    #[error("payload ends before its http head does")]
    HeadCutShort,
    /// Another method than `GET`. No reply.
    #[error("http method is not GET")]
    BadMethod,
    /// `Host` is missing. No reply.
    #[error("header Host is missing")]
    NoHost,
    /// `Jet-Version` is missing. No reply.
    #[error("header Jet-Version is missing")]
    NoJetVersion,
    /// A well-formed request that asks for nothing we know. It is answered.
    #[error("{fault}")]
    Refused {
        /// What is wrong with it.
        fault: RequestFault,
        /// The version for the reply.
        version: Version,
        /// The mask for the reply.
        mask: u8,
    },
}

/// What is wrong with a well-formed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestFault {
    /// `Jet-Version` is neither 1 nor 2.
    #[error("header Jet-Version is neither 1 nor 2")]
    UnsupportedVersion,
    /// The target is neither `/` nor `/jet/{accept,connect,test}/…`.
    #[error("request target is not a jet path")]
    BadPath,
    /// A request on `/` that does not say what it wants.
    #[error("header Jet-Method is missing")]
    NoJetMethod,
    /// The association is missing or not a UUID.
    #[error("association is not a uuid")]
    BadAssociation,
    /// The candidate is not a UUID.
    #[error("candidate is not a uuid")]
    BadCandidate,
}

/// A name for each kind of refusal, for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The first bytes are not the signature.
    BadSignature,
    /// The size field is below 8.
    PacketTooShort,
    /// The size field is above the limit.
    PacketTooLong,
    /// The payload is not one whole HTTP head.
    NotHttp,
    /// The HTTP head has more headers than we take.
    TooManyHeaders,
    /// The method is not `GET`.
    BadMethod,
    /// `Host` is missing.
    NoHost,
    /// `Jet-Version` is missing.
    NoJetVersion,
    /// `Jet-Version` is neither 1 nor 2.
    UnsupportedVersion,
    /// The request target is not a JET path.
    BadPath,
    /// `Jet-Method` is missing on `/`.
    NoJetMethod,
    /// The association is missing or not a UUID.
    BadAssociation,
    /// The candidate is not a UUID.
    BadCandidate,
}

impl RequestError {
    /// The name under which this is counted.
    pub fn reason(&self) -> RefusalReason {
        match self {
            Self::Packet(PacketError::BadSignature) => RefusalReason::BadSignature,
            Self::Packet(PacketError::TooShort { .. }) => RefusalReason::PacketTooShort,
            Self::Packet(PacketError::TooLong { .. }) => RefusalReason::PacketTooLong,
            Self::NotHttp(HeadError::TooManyHeaders { .. }) => RefusalReason::TooManyHeaders,
            Self::NotHttp(_) | Self::HeadCutShort => RefusalReason::NotHttp,
            Self::BadMethod => RefusalReason::BadMethod,
            Self::NoHost => RefusalReason::NoHost,
            Self::NoJetVersion => RefusalReason::NoJetVersion,
            Self::Refused { fault, .. } => match fault {
                RequestFault::UnsupportedVersion => RefusalReason::UnsupportedVersion,
                RequestFault::BadPath => RefusalReason::BadPath,
                RequestFault::NoJetMethod => RefusalReason::NoJetMethod,
                RequestFault::BadAssociation => RefusalReason::BadAssociation,
                RequestFault::BadCandidate => RefusalReason::BadCandidate,
            },
        }
    }

    /// What to write before the close. `None`: close without a word.
    pub fn reply(&self) -> Option<Packet> {
        match *self {
            Self::Refused { version, mask, .. } => {
                Some(Reply::new(Status::BAD_REQUEST, version).encode(mask))
            }
            _ => None,
        }
    }
}

impl RefusalReason {
    /// How many there are.
    pub const COUNT: usize = 13;

    /// All of them, each at its [`RefusalReason::index`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::BadSignature,
        Self::PacketTooShort,
        Self::PacketTooLong,
        Self::NotHttp,
        Self::TooManyHeaders,
        Self::BadMethod,
        Self::NoHost,
        Self::NoJetVersion,
        Self::UnsupportedVersion,
        Self::BadPath,
        Self::NoJetMethod,
        Self::BadAssociation,
        Self::BadCandidate,
    ];

    /// Its place in an array of counters: below [`RefusalReason::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The label of its counter. Stable: dashboards depend on it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::PacketTooShort => "packet_too_short",
            Self::PacketTooLong => "packet_too_long",
            Self::NotHttp => "not_http",
            Self::TooManyHeaders => "too_many_headers",
            Self::BadMethod => "bad_method",
            Self::NoHost => "no_host",
            Self::NoJetVersion => "no_jet_version",
            Self::UnsupportedVersion => "unsupported_version",
            Self::BadPath => "bad_path",
            Self::NoJetMethod => "no_jet_method",
            Self::BadAssociation => "bad_association",
            Self::BadCandidate => "bad_candidate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_place_and_its_own_label() {
        let mut labels = Vec::new();
        for (index, reason) in RefusalReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(!labels.contains(&reason.as_str()), "{reason:?}");
            labels.push(reason.as_str());
        }
    }
}
