//! Why a WebSocket connection ends: RFC 6455 §7.4.

/// A status code that a Close frame may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// An endpoint goes away: it shuts down, or was replaced.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// The peer sent a kind of data that cannot be taken.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// Text was not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// A policy is violated that no other code names.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// A message is too big.
    pub const TOO_BIG: Self = Self(1009);
    /// What the connection needs has failed, on this side.
    pub const INTERNAL_ERROR: Self = Self(1011);

    /// A code as it came in a frame, if it may come in one: §7.4.1 and §7.4.2,
    /// and 1012 to 1014, which IANA's registry has added.
    #[must_use]
    pub const fn from_wire(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_may_be_sent_are_taken() {
        let taken = [
            1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999,
            4000, 4999,
        ];
        let refused = [
            0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
        ];
        for code in taken {
            assert_eq!(
                CloseCode::from_wire(code).map(CloseCode::as_u16),
                Some(code)
            );
        }
        for code in refused {
            assert_eq!(CloseCode::from_wire(code), None, "{code}");
        }
    }
}
