//! What a shard remembers of a session until it ends, and the one line that it
//! then writes.

use std::time::Duration;

use tracing::{field, info};

use super::errand::Errand;
use super::peer_address::PeerAddress;
use crate::metrics::ACCESS_LOG;
use crate::protocol::ptth_http::{Name, Place};
use crate::relay::{CloseReason, Ended, Side};
use crate::runtime::PollKey;
use crate::runtime::clock;
use crate::time::Timestamp;

/// What went one way as datagrams, headers not included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub datagrams: u64,
    pub bytes: u64,
}

impl Carried {
    pub const fn add(&mut self, bytes: usize) {
        self.datagrams += 1;
        self.bytes += bytes as u64;
    }
}

/// One client's datagrams, which are passed on no more.
#[derive(Debug)]
pub struct DatagramsEnded<'a> {
    pub peer: PeerAddress,
    pub sent: Carried,
    pub passed_back: Carried,
    pub since: Timestamp,
    pub reason: &'static str,
    /// As in an [`Errand`].
    pub user: Option<&'a str>,
    /// As in an [`Errand`].
    pub way: Option<&'a str>,
}

impl DatagramsEnded<'_> {
    /// Writes their line to the access log.
    pub fn log(&self) {
        info!(
            target: ACCESS_LOG,
            peer = %self.peer,
            sent = self.sent.datagrams,
            sent_bytes = self.sent.bytes,
            passed_back = self.passed_back.datagrams,
            passed_back_bytes = self.passed_back.bytes,
            lasted_ms = millis(clock::now().since(self.since)),
            reason = self.reason,
            user = self.user.map(field::display),
            way = self.way.map(field::display),
            "datagrams ended"
        );
    }
}

/// A tunnel, which carries nothing any more.
#[derive(Debug)]
pub(super) struct TunnelEnded<'a> {
    pub(super) client: &'a Name,
    pub(super) place: &'a Place,
    /// The client's and the server's.
    pub(super) peers: [PeerAddress; 2],
    /// That came from either.
    pub(super) bytes: [u64; 2],
    pub(super) waiting_since: Timestamp,
    pub(super) joined_at: Timestamp,
    pub(super) reason: CloseReason,
}

impl TunnelEnded<'_> {
    /// Writes its line to the access log: as a session's whose left leg is the client.
    pub(super) fn log(&self) {
        let [left, right] = self.peers;
        let [left_bytes, right_bytes] = self.bytes;
        info!(
            target: ACCESS_LOG,
            %left,
            %right,
            left_bytes,
            right_bytes,
            waited_ms = millis(self.joined_at.since(self.waiting_since)),
            lasted_ms = millis(clock::now().since(self.joined_at)),
            reason = self.reason.label(),
            ended_by = ended_by(self.reason),
            client = %self.client,
            server = %self.place.server,
            port = %self.place.port,
            "tunnel ended"
        );
    }
}

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

// Each idle pair has one, of a relay or of an agent that numbers them.
const _: () = assert!(size_of::<Session<[u32; 3]>>() <= 88);
const _: () = assert!(size_of::<Session<u64>>() <= 88);

impl<C> Session<C> {
    /// Writes the session's line to the access log.
    pub(crate) fn log(&self, ended: &Ended, now: Timestamp, errand: Option<&Errand>) {
        let line = SessionLine {
            peers: [self.parties[0].peer, self.parties[1].peer],
            bytes: ended.bytes,
            waiting_since: self.waiting_since,
            joined_at: self.joined_at,
            now,
            reason: ended.reason,
            errand,
        };
        line.log();
    }
}

/// What there is to say of a session that is over.
#[derive(Debug)]
pub(super) struct SessionLine<'a> {
    pub(super) peers: [PeerAddress; 2],
    /// That came from either.
    pub(super) bytes: [u64; 2],
    pub(super) waiting_since: Timestamp,
    pub(super) joined_at: Timestamp,
    pub(super) now: Timestamp,
    pub(super) reason: CloseReason,
    pub(super) errand: Option<&'a Errand>,
}

impl SessionLine<'_> {
    /// Writes it to the access log.
    pub(super) fn log(&self) {
        let [left, right] = self.peers;
        let [left_bytes, right_bytes] = self.bytes;
        let errand = self.errand;
        info!(
            target: ACCESS_LOG,
            %left,
            %right,
            left_bytes,
            right_bytes,
            waited_ms = millis(self.joined_at.since(self.waiting_since)),
            lasted_ms = millis(self.now.since(self.joined_at)),
            reason = self.reason.label(),
            ended_by = ended_by(self.reason),
            user = errand.and_then(|errand| errand.user.as_ref()).map(field::display),
            target = errand.map(|errand| field::display(&errand.target)),
            way = errand.and_then(|errand| errand.way.as_ref()).map(field::display),
            command = errand.map(|errand| errand.command),
            "session ended"
        );
    }
}

pub(super) fn ended_by(reason: CloseReason) -> &'static str {
    match reason.ended_by() {
        Some(Side::Left) => "left",
        Some(Side::Right) => "right",
        None => "relay",
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
