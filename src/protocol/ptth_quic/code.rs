//! By which numbers something is refused or ended: statuses of answers, codes of streams
//! (RFC 9000 §4.3, RESET_STREAM and STOP_SENDING) and of connections (CONNECTION_CLOSE).

use std::fmt;

/// The status of an answer by which something is granted.
pub(super) const OK: u8 = 20;

/// Why something is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// What came is no message.
    Malformed,
    /// It is not proven who asks.
    Unauthenticated,
    /// Whoever asks may not; a server that there is not looks the same.
    Forbidden,
    /// The server-side proxy is not there.
    NotConnected,
    /// The target, or the server-side proxy, has not answered in time.
    TimedOut,
    /// The fault of whoever answers.
    Internal,
    /// The target refuses the connection.
    TargetRefused,
    /// There are too many of something already.
    LimitReached,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotConnected,
        Self::TimedOut,
        Self::Internal,
        Self::TargetRefused,
        Self::LimitReached,
    ];

    /// Its number.
    #[must_use]
    pub const fn status(self) -> u8 {
        match self {
            Self::Malformed => 40,
            Self::Unauthenticated => 41,
            Self::Forbidden => 43,
            Self::NotConnected => 44,
            Self::TimedOut => 48,
            Self::Internal => 50,
            Self::TargetRefused => 52,
            Self::LimitReached => 53,
        }
    }

    /// Its name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotConnected => "not_connected",
            Self::TimedOut => "timed_out",
            Self::Internal => "internal",
            Self::TargetRefused => "target_refused",
            Self::LimitReached => "limit_reached",
        }
    }

    /// What a status other than 20 means: one that nobody knows says that something went wrong.
    pub(super) fn from_status(status: u8) -> Self {
        let known = Self::ALL.into_iter().find(|one| one.status() == status);
        known.unwrap_or(Self::Internal)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status(), self.as_str())
    }
}

/// Why one direction of a stream ends before its end. What a relay hears on one leg it passes on
/// to the other, known or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamCode(u64);

impl StreamCode {
    /// The TCP connection at the other end was reset, or has failed.
    pub const RESET: Self = Self(1);
    /// The QUIC connection of the other proxy is lost.
    pub const PEER_LOST: Self = Self(2);
    /// Whoever says so is about to stop.
    pub const SHUTDOWN: Self = Self(3);

    /// The code that a peer has sent, which has at most 62 bits (RFC 9000 §16).
    #[must_use]
    pub const fn from_wire(code: u64) -> Self {
        Self(code)
    }

    /// Its number.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

/// The code of a stream whose message was answered so.
impl From<Refusal> for StreamCode {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.status().into())
    }
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// There is nothing more to do.
    Clean,
    /// Another connection of the same name and role has come.
    Replaced,
    /// It is not, or no longer, proven whose it is.
    Unauthenticated,
    /// The peer does not keep to this protocol.
    Protocol,
    /// Whoever says so is about to stop: dial again.
    Shutdown,
}

impl CloseCode {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Clean,
        Self::Replaced,
        Self::Unauthenticated,
        Self::Protocol,
        Self::Shutdown,
    ];

    /// Its number.
    #[must_use]
    pub const fn value(self) -> u32 {
        match self {
            Self::Clean => 0,
            Self::Replaced => 0x10,
            Self::Unauthenticated => 0x11,
            Self::Protocol => 0x12,
            Self::Shutdown => 0x13,
        }
    }

    /// What a peer has closed with, if this protocol knows it.
    #[must_use]
    pub fn from_wire(code: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|one| u64::from(one.value()) == code)
    }

    /// Its name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Replaced => "replaced",
            Self::Unauthenticated => "unauthenticated",
            Self::Protocol => "protocol",
            Self::Shutdown => "shutdown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_document() {
        let statuses = Refusal::ALL.map(Refusal::status);
        assert_eq!(statuses, [40, 41, 43, 44, 48, 50, 52, 53]);
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_status(refusal.status()), refusal);
            let code = StreamCode::from(refusal);
            assert_eq!(code.value(), u64::from(refusal.status()));
        }
        for unknown in [0, 1, 42, 99, 255] {
            assert_eq!(Refusal::from_status(unknown), Refusal::Internal);
        }
        assert_eq!(Refusal::TimedOut.to_string(), "48 timed_out");

        let codes = [
            StreamCode::RESET,
            StreamCode::PEER_LOST,
            StreamCode::SHUTDOWN,
        ];
        assert_eq!(codes.map(StreamCode::value), [1, 2, 3]);
        assert_eq!(StreamCode::from_wire(1 << 40).value(), 1 << 40);

        let codes = CloseCode::ALL.map(CloseCode::value);
        assert_eq!(codes, [0, 0x10, 0x11, 0x12, 0x13]);
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_wire(code.value().into()), Some(code));
        }
        for unknown in [1, 0x14, 1 << 32 | 0x10] {
            assert_eq!(CloseCode::from_wire(unknown), None);
        }
    }
}
