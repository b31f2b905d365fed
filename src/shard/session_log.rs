//! What a shard remembers of a session until it ends, and the one line that it
//! then writes.

use std::time::Duration;

use tracing::{field, info};

use super::peer_address::PeerAddress;
use crate::metrics::ACCESS_LOG;
use crate::relay::{CloseReason, Ended, Side};
use crate::runtime::PollKey;
use crate::time::Timestamp;

/// One side of a session.
#[derive(Clone, Copy, Debug)]
pub struct Party {
    pub poll: PollKey,
    pub peer: PeerAddress,
}

/// A session from pairing to its end. `C` is what its service remembers.
#[derive(Clone, Copy, Debug)]
pub struct Session<C> {
    /// Left and right, as the engine has them.
    pub parties: [Party; 2],
    /// When the left leg came.
    pub waiting_since: Timestamp,
    /// When the right leg joined it.
    pub joined_at: Timestamp,
    pub context: C,
}

/// For whom a relay dialled, and where to, as it was asked; each one word of a line.
#[derive(Debug)]
pub struct Errand {
    pub user: Box<str>,
    pub target: Box<str>,
}

// Each idle pair has one.
const _: () = assert!(size_of::<Session<[u32; 3]>>() <= 88);

impl<C> Session<C> {
    /// Writes the session's line to the access log.
    pub(crate) fn log(&self, ended: &Ended, now: Timestamp, errand: Option<&Errand>) {
        let [left, right] = &self.parties;
        info!(
            target: ACCESS_LOG,
            left = %left.peer,
            right = %right.peer,
            left_bytes = ended.bytes[0],
            right_bytes = ended.bytes[1],
            waited_ms = millis(self.joined_at.since(self.waiting_since)),
            lasted_ms = millis(now.since(self.joined_at)),
            reason = ended.reason.label(),
            ended_by = ended_by(ended.reason),
            user = errand.map(|errand| field::display(&errand.user)),
            target = errand.map(|errand| field::display(&errand.target)),
            "session ended"
        );
    }
}

fn ended_by(reason: CloseReason) -> &'static str {
    match reason.ended_by() {
        Some(Side::Left) => "left",
        Some(Side::Right) => "right",
        None => "relay",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
