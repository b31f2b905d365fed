//! Why a client does not reach a server by QUIC: what it is told, and what is counted.

use crate::protocol::ptth_quic::{Answer, Refusal};
use crate::session::refused::Refused;

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReached {
    refusal: Refusal,
    /// All was granted but the inner message, which is the server's to grant.
    is_of_inner: bool,
    counted: Refused,
}

impl NotReached {
    /// A server that listens by HTTP has rejected it.
    pub(super) const REJECTED: Self = Self {
        refusal: Refusal::TargetRefused,
        is_of_inner: true,
        counted: Refused::RejectedByServer,
    };

    /// The relay, or the server's connection, has no room, for this reason.
    pub(super) const fn limited(counted: Refused) -> Self {
        Self {
            refusal: Refusal::LimitReached,
            is_of_inner: false,
            counted,
        }
    }

    /// What a server's answer means to its client. A server refuses for itself alone: that a
    /// client is unknown, or a server not there, is for the relay to say.
    pub(super) const fn check(answer: Answer) -> Result<(), Self> {
        let (refusal, is_of_inner) = match answer {
            Answer::Accepted => return Ok(()),
            Answer::Refused(refusal) => (refusal, false),
            Answer::InnerRefused(refusal) => (refusal, true),
        };
        Err(match refusal {
            Refusal::Unauthenticated | Refusal::NotConnected | Refusal::Malformed => Self {
                refusal: Refusal::Internal,
                is_of_inner: false,
                counted: Refused::RejectedByServer,
            },
            Refusal::TimedOut => Self {
                refusal,
                is_of_inner,
                counted: Refused::NotAcceptedInTime,
            },
            Refusal::Forbidden
            | Refusal::TargetRefused
            | Refusal::Internal
            | Refusal::LimitReached => Self {
                refusal,
                is_of_inner,
                counted: Refused::RejectedByServer,
            },
        })
    }

    pub(super) const fn refusal(self) -> Refusal {
        self.refusal
    }

    /// By which it is counted.
    pub(super) const fn counted(self) -> Refused {
        self.counted
    }

    /// What a client that speaks QUIC is told.
    pub(super) const fn answer(self) -> Answer {
        match self.is_of_inner {
            true => Answer::InnerRefused(self.refusal),
            false => Answer::Refused(self.refusal),
        }
    }

    /// What one that speaks HTTP is.
    pub(super) const fn over_http(self) -> Refused {
        match self.refusal {
            Refusal::Forbidden => Refused::NotFound,
            Refusal::NotConnected | Refusal::TimedOut => Refused::NotAcceptedInTime,
            Refusal::LimitReached => Refused::PortBusy,
            Refusal::TargetRefused
            | Refusal::Internal
            | Refusal::Malformed
            | Refusal::Unauthenticated => Refused::RejectedByServer,
        }
    }
}

/// What the relay refuses itself.
impl From<Refusal> for NotReached {
    fn from(refusal: Refusal) -> Self {
        let counted = match refusal {
            Refusal::Malformed => Refused::NotAMessage,
            Refusal::Unauthenticated => Refused::UnknownKey,
            Refusal::Forbidden => Refused::OutOfScope,
            Refusal::NotConnected => Refused::ServerAbsent,
            Refusal::TimedOut => Refused::NotAcceptedInTime,
            Refusal::TargetRefused | Refusal::Internal => Refused::RejectedByServer,
            Refusal::LimitReached => Refused::TooManyConnections,
        };
        Self {
            refusal,
            is_of_inner: false,
            counted,
        }
    }
}
