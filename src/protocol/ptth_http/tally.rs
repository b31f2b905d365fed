//! What a switchboard holds, and what became of the connections that were asked for.

use std::ops::AddAssign;

/// What became of connections since a switchboard was made. Each that was asked for is one of
/// the others in the end, but for `offered_again` and `accepted`, which come before some of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelTally {
    /// Those that clients asked for, and that were let wait.
    pub asked: u64,
    /// Offers that a server did not accept in time, and after which the connection waited on.
    pub offered_again: u64,
    /// Those that a server accepted.
    pub accepted: u64,
    /// Those that a server did not want.
    pub rejected: u64,
    /// Those for which nobody listened in time.
    pub not_offered: u64,
    /// Those that a server was told of, and that nobody accepted in time.
    pub not_accepted: u64,
    /// Those of which a request went, or did not come in time.
    pub broken: u64,
    /// Those of which all four requests came.
    pub whole: u64,
}

/// What a switchboard holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelCensus {
    /// Servers' requests that listen.
    pub listens_waiting: u64,
    /// Clients' requests whose connection nobody has accepted.
    pub connects_waiting: u64,
}

impl TunnelTally {
    /// With the names that counters have.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("asked", self.asked),
            ("offered_again", self.offered_again),
            ("accepted", self.accepted),
            ("rejected", self.rejected),
            ("not_offered", self.not_offered),
            ("not_accepted", self.not_accepted),
            ("broken", self.broken),
            ("whole", self.whole),
        ]
    }
}

impl AddAssign for TunnelTally {
    fn add_assign(&mut self, other: Self) {
        self.asked += other.asked;
        self.offered_again += other.offered_again;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.not_offered += other.not_offered;
        self.not_accepted += other.not_accepted;
        self.broken += other.broken;
        self.whole += other.whole;
    }
}

impl AddAssign for TunnelCensus {
    fn add_assign(&mut self, other: Self) {
        self.listens_waiting += other.listens_waiting;
        self.connects_waiting += other.connects_waiting;
    }
}
