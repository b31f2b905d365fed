//! What the two dialects write differently.
//!
//! | | `spec`: the document as it is written | `original`: the programs that exist |
//! |---|---|---|
//! | integers | little-endian | big-endian |
//! | opcodes of data, and of ends | 21 to 23, 41 to 43 | 0x21 to 0x23, 0x41 to 0x43 |
//! | codes | the document's, and ours behind them | the programs' |

use std::fmt;

use serde::Deserialize;

/// How packets are written; in lower case in a configuration, and on a command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// As the document has it.
    #[default]
    Spec,
    /// As the Java client and server have it.
    Original,
}

/// What a packet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    TcpConnect,
    TcpData,
    TcpEnd,
    UdpAssociate,
    UdpData,
    UdpEnd,
    IcmpAssociate,
    IcmpEcho,
    IcmpEnd,
}

const OPCODES: [(Opcode, u8, u8); 9] = [
    (Opcode::TcpConnect, 1, 0x01),
    (Opcode::TcpData, 21, 0x21),
    (Opcode::TcpEnd, 41, 0x41),
    (Opcode::UdpAssociate, 2, 0x02),
    (Opcode::UdpData, 22, 0x22),
    (Opcode::UdpEnd, 42, 0x42),
    (Opcode::IcmpAssociate, 3, 0x03),
    (Opcode::IcmpEcho, 23, 0x23),
    (Opcode::IcmpEnd, 43, 0x43),
];

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What became of a TCP connection that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectStatus {
    /// It is there.
    Connected,
    /// Something that has no code of its own.
    Failed,
    /// Nobody listens there.
    Refused,
    /// Nobody answered in time.
    TimedOut,
    /// No way leads there.
    Unreachable,
    /// The name leads nowhere.
    UnknownHost,
    /// There are as many channels as there may be.
    Limit,
    /// The user may not go there.
    Denied,
}

/// What became of a UDP or ICMP association that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindStatus {
    /// It is there.
    Bound,
    /// The local port is not to be had.
    PortTaken,
    /// The user may not, or nobody may.
    Denied,
    /// There are as many channels as there may be.
    Limit,
    /// The name leads nowhere.
    UnknownHost,
}

/// Why a TCP connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Nobody says.
    Unknown,
    /// It was reset.
    Reset,
    /// It came to its end.
    Finished,
    /// It was silent, or stuck, for too long.
    TimedOut,
    /// There are as many as there may be.
    Limit,
    /// Whoever says so is stopping.
    Stopping,
}

/// In `spec`, then in `original`, which has no code for a denial.
const CONNECT_STATUSES: [(ConnectStatus, u8, u8); 8] = [
    (ConnectStatus::Connected, 0, 0),
    (ConnectStatus::Refused, 1, 2),
    (ConnectStatus::TimedOut, 2, 3),
    (ConnectStatus::Failed, 3, 1),
    (ConnectStatus::Unreachable, 4, 4),
    (ConnectStatus::UnknownHost, 5, 5),
    (ConnectStatus::Limit, 6, 6),
    (ConnectStatus::Denied, 7, 1),
];

/// The same in both.
const BIND_STATUSES: [(BindStatus, u8, u8); 5] = [
    (BindStatus::Bound, 0, 0),
    (BindStatus::PortTaken, 1, 1),
    (BindStatus::Denied, 2, 2),
    (BindStatus::Limit, 3, 3),
    (BindStatus::UnknownHost, 4, 4),
];

/// In `spec`, then in `original`, whose programs say 4 of every orderly end.
const END_REASONS: [(EndReason, u8, u8); 6] = [
    (EndReason::Unknown, 0, 1),
    (EndReason::Reset, 1, 4),
    (EndReason::Finished, 2, 4),
    (EndReason::TimedOut, 3, 1),
    (EndReason::Limit, 4, 1),
    (EndReason::Stopping, 5, 1),
];

impl ConnectStatus {
    /// One word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::UnknownHost => "unknown_host",
            Self::Limit => "limit",
            Self::Denied => "denied",
        }
    }
}

impl BindStatus {
    /// One word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::PortTaken => "port_taken",
            Self::Denied => "denied",
            Self::Limit => "limit",
            Self::UnknownHost => "unknown_host",
        }
    }
}

impl Dialect {
    /// Its name, as configurations have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spec => "spec",
            Self::Original => "original",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Spec => Self::Original,
            Self::Original => Self::Spec,
        }
    }

    const fn pick(self, spec: u8, original: u8) -> u8 {
        match self {
            Self::Spec => spec,
            Self::Original => original,
        }
    }

    /// What a byte means, of what a table has: each with its byte in `spec` and in `original`.
    fn meaning<T: Copy>(self, table: &[(T, u8, u8)], byte: u8) -> Option<T> {
        let is_it = |(_, spec, original): &&(T, u8, u8)| self.pick(*spec, *original) == byte;
        table.iter().find(is_it).map(|(meaning, ..)| *meaning)
    }

    /// The other way round.
    fn byte<T: Copy + PartialEq>(self, table: &[(T, u8, u8)], meaning: T) -> u8 {
        let (_, spec, original) = table
            .iter()
            .find(|(one, ..)| *one == meaning)
            .expect("a table has all of them");
        self.pick(*spec, *original)
    }

    pub(super) const fn number(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Spec => u16::from_le_bytes(bytes),
            Self::Original => u16::from_be_bytes(bytes),
        }
    }

    pub(super) const fn bytes(self, number: u16) -> [u8; 2] {
        match self {
            Self::Spec => number.to_le_bytes(),
            Self::Original => number.to_be_bytes(),
        }
    }

    pub(super) fn opcode(self, byte: u8) -> Option<Opcode> {
        self.meaning(&OPCODES, byte)
    }

    pub(super) fn opcode_byte(self, opcode: Opcode) -> u8 {
        self.byte(&OPCODES, opcode)
    }

    pub(super) fn connect_status(self, byte: u8) -> ConnectStatus {
        let status = self.meaning(&CONNECT_STATUSES, byte);
        status.unwrap_or(ConnectStatus::Failed)
    }

    pub(super) fn connect_status_byte(self, status: ConnectStatus) -> u8 {
        self.byte(&CONNECT_STATUSES, status)
    }

    pub(super) fn bind_status(self, byte: u8) -> BindStatus {
        let status = self.meaning(&BIND_STATUSES, byte);
        status.unwrap_or(BindStatus::Denied)
    }

    pub(super) fn bind_status_byte(self, status: BindStatus) -> u8 {
        self.byte(&BIND_STATUSES, status)
    }

    pub(super) fn end_reason(self, byte: u8) -> EndReason {
        match (self, byte) {
            // Also of an end that nothing was wrong with; the bytes are all there.
            (Self::Original, 2 | 4) => EndReason::Finished,
            (Self::Original, 3) => EndReason::Reset,
            (Self::Original, _) => EndReason::Unknown,
            (Self::Spec, _) => {
                let reason = self.meaning(&END_REASONS, byte);
                reason.unwrap_or(EndReason::Unknown)
            }
        }
    }

    pub(super) fn end_reason_byte(self, reason: EndReason) -> u8 {
        self.byte(&END_REASONS, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_opcode_of_one_dialect_is_another_one_of_the_other() {
        for (opcode, spec, original) in OPCODES {
            assert_eq!(Dialect::Spec.opcode(spec), Some(opcode));
            assert_eq!(Dialect::Original.opcode(original), Some(opcode));
            assert_eq!(Dialect::Spec.opcode_byte(opcode), spec);
            assert_eq!(Dialect::Original.opcode_byte(opcode), original);
            for (byte, other) in [(spec, Dialect::Original), (original, Dialect::Spec)] {
                assert!([None, Some(opcode)].contains(&other.opcode(byte)), "{byte}");
            }
        }
    }

    #[test]
    fn codes_are_read_as_they_are_written() {
        for (status, ..) in CONNECT_STATUSES {
            let spec = Dialect::Spec;
            let byte = spec.connect_status_byte(status);
            assert_eq!(spec.connect_status(byte), status);
        }
        for (reason, ..) in END_REASONS {
            let byte = Dialect::Spec.end_reason_byte(reason);
            assert_eq!(Dialect::Spec.end_reason(byte), reason);
        }
        for dialect in [Dialect::Spec, Dialect::Original] {
            for (status, code, _) in BIND_STATUSES {
                let byte = dialect.bind_status_byte(status);
                assert_eq!((dialect.bind_status(code), byte), (status, code));
            }
        }
    }

    #[test]
    fn what_nobody_has_a_code_for_is_the_plainest_failure() {
        let original = Dialect::Original;
        assert_eq!(original.connect_status_byte(ConnectStatus::Denied), 1);
        assert_eq!(original.connect_status(200), ConnectStatus::Failed);
        assert_eq!(original.end_reason(200), EndReason::Unknown);
        assert_eq!(Dialect::Spec.end_reason(200), EndReason::Unknown);
        assert_eq!(original.bind_status(200), BindStatus::Denied);
    }
}
