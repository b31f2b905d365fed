//! What is remembered of two streams that are joined, or of a stream and a socket.

use tracing::{field, info};

use crate::metrics::ACCESS_LOG;
use crate::relay::CloseReason;
use crate::runtime::clock;
use crate::shard::peer_address::PeerAddress;
use crate::shard::session_log::{ended_by, millis};
use crate::time::Timestamp;

/// A connection of the user's, by the four data that tell it from others: who wants it, from
/// which port, of whom, and which of its ports. Each party knows those that it has to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSession {
    /// The client's and the server's end.
    pub peers: [PeerAddress; 2],
    /// The client; `None` where it is the one that remembers.
    pub client: Option<Box<str>>,
    /// The port of the program that connected to the client-side proxy.
    pub client_port: u16,
    /// The server; `None` where it is the one that remembers.
    pub server: Option<Box<str>>,
    /// What it was asked for; `None` where it was asked behind the relay's back.
    pub target: Option<Box<str>>,
    /// Since when it was wanted.
    pub waiting_since: Timestamp,
    pub joined_at: Timestamp,
    /// What is joined here is a part of something that another shard, or the tunnel, tells of.
    pub is_far: bool,
    /// The tunnel at the other side of its seam, by its number.
    pub tunnel: Option<u32>,
}

impl StreamSession {
    /// What is joined on one shard of something that another shard tells of.
    #[must_use]
    pub fn far(peers: [PeerAddress; 2], waiting_since: Timestamp, joined_at: Timestamp) -> Self {
        Self {
            peers,
            client: None,
            client_port: 0,
            server: None,
            target: None,
            waiting_since,
            joined_at,
            is_far: true,
            tunnel: None,
        }
    }

    /// Writes its line to the access log.
    pub(super) fn log(&self, reason: CloseReason, bytes: [u64; 2]) {
        debug_assert!(!self.is_far, "it has no line");
        let [left, right] = self.peers;
        let [left_bytes, right_bytes] = bytes;
        info!(
            target: ACCESS_LOG,
            %left,
            %right,
            left_bytes,
            right_bytes,
            waited_ms = millis(self.joined_at.since(self.waiting_since)),
            lasted_ms = millis(clock::now().since(self.joined_at)),
            reason = reason.label(),
            ended_by = ended_by(reason),
            client = self.client.as_deref().map(field::display),
            client_port = self.client_port,
            server = self.server.as_deref().map(field::display),
            port = self.target.as_deref().map(field::display),
            "stream ended"
        );
    }
}
