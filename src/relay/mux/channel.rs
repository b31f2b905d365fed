//! One channel of a tunnel: what waits for its local end, and how that is read.

use std::io::IoSlice;

use rustix::io::Errno;

use super::Asked;
use super::echo::EchoSocket;
use crate::protocol::jproxy::{ChannelId, ChannelKind};
use crate::relay::pair::Side;
use crate::relay::queue::Queue;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::slab::Key;
use crate::time::Timestamp;

/// What a channel leads to on this side.
#[derive(Debug)]
pub enum LocalEnd {
    /// A connection.
    Stream(Socket),
    /// A socket for datagrams, which is connected with whom they are exchanged with.
    Datagrams(Socket),
    /// A socket for echo requests, connected likewise.
    Echoes(EchoSocket),
    /// Whoever takes [`super::MuxEvent::Datagram`].
    Task,
}

impl LocalEnd {
    /// Its socket, where it has one.
    #[must_use]
    pub fn into_socket(self) -> Option<Socket> {
        match self {
            Self::Stream(socket) | Self::Datagrams(socket) => Some(socket),
            Self::Echoes(socket) => Some(socket.into_socket()),
            Self::Task => None,
        }
    }
}

/// One channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) tunnel: Key,
    /// The tunnel is gone, and was at this side.
    pub(super) orphan_of: Option<Side>,
    pub(super) kind: ChannelKind,
    pub(super) id: ChannelId,
    /// `None` until what was asked for is there.
    pub(super) end: Option<LocalEnd>,
    /// The server has said so; its end may take a moment more.
    pub(super) is_granted: bool,
    /// What came by the tunnel and its end has not taken.
    pub(super) queue: Queue,
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    /// Its peer has hung up: it is read to the end.
    pub(super) has_hung_up: bool,
    /// It has its place among those of its tunnel that have something to do.
    pub(super) is_queued: bool,
    /// It has its place among those for which there was no room.
    pub(super) is_starved: bool,
    /// The tunnel's peer was told that nothing more comes from here.
    pub(super) has_said_end: bool,
    /// It has said the same.
    pub(super) has_heard_end: bool,
    /// That is the end of both directions.
    pub(super) ends_both: bool,
    /// Its end has been told that.
    pub(super) is_shut: bool,
    /// Bytes that came by the tunnel and were delivered, and that went by it.
    pub(super) bytes: Carried,
    /// When a datagram passed last.
    pub(super) used_at: Timestamp,
    /// What waited for its end when its tunnel was held up last.
    pub(super) held_bytes: usize,
    /// Whoever sent that has nothing more to do with it, and its end may take the rest until then.
    pub(super) rest_until: Option<Timestamp>,
}

/// What a channel has carried, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// To the local end.
    pub delivered: u64,
    /// From it.
    pub sent: u64,
}

impl Channel {
    pub(super) fn new(tunnel: Key, asked: &Asked, now: Timestamp) -> Self {
        Self {
            tunnel,
            orphan_of: None,
            kind: asked.kind(),
            id: asked.id(),
            end: None,
            is_granted: false,
            queue: Queue::spare(),
            is_readable: false,
            is_writable: false,
            has_hung_up: false,
            is_queued: false,
            is_starved: false,
            has_said_end: false,
            has_heard_end: false,
            ends_both: false,
            is_shut: false,
            bytes: Carried::default(),
            used_at: now,
            held_bytes: 0,
            rest_until: None,
        }
    }

    /// Its end is there.
    pub(super) fn open(&mut self, end: LocalEnd) {
        self.end = Some(end);
        // What was reported before is found out by the first calls.
        self.is_readable = true;
        self.is_writable = true;
    }

    pub(super) fn note(&mut self, readiness: Readiness) {
        self.is_readable |= readiness.is_readable();
        self.is_writable |= readiness.is_writable();
        self.has_hung_up |= readiness.is_read_closed();
    }

    /// Has its end take these bytes, as far as it does; the rest waits.
    pub(super) fn deliver(&mut self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        let mut taken = 0;
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.queue.is_empty()
            && self.is_writable
            && let Some(LocalEnd::Stream(socket)) = &self.end
        {
            match socket.send_gathered(pieces) {
                Ok(sent) => {
                    self.bytes.delivered += sent as u64;
                    taken = sent;
                    self.is_writable = sent == bytes;
                }
                Err(Errno::AGAIN) => self.is_writable = false,
                Err(error) => return Err(error),
            }
        }
        if taken < bytes {
            let room = self.queue.tail(bytes - taken);
            for piece in pieces {
                let skipped = taken.min(piece.len());
                taken -= skipped;
                room.extend_from_slice(&piece[skipped..]);
            }
        }
        Ok(())
    }

    /// Whether its end has all that the tunnel's peer had to say, to the end.
    pub(super) fn has_said_all(&self) -> bool {
        self.has_heard_end && self.queue.is_empty()
    }

    /// Whether what its end has to say is still asked for.
    pub(super) const fn may_say_more(&self) -> bool {
        !(self.has_said_end || self.has_heard_end && self.ends_both)
    }

    /// Reads once what its end says to nobody: unread, it may keep that from taking the rest.
    pub(super) fn read_away(&mut self, space: &mut Vec<u8>) -> Result<(), Errno> {
        let Some(LocalEnd::Stream(socket)) = &self.end else {
            return Ok(());
        };
        space.clear();
        match socket.recv_behind(space) {
            Ok(0) | Err(Errno::AGAIN) => self.is_readable = false,
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether something of it may come to a client: its server has granted it.
    pub(super) const fn is_expected(&self) -> bool {
        self.end.is_some() || self.is_granted
    }

    /// What waits for its end.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queue.as_bytes().len()
    }

    /// Has its end take what waits, as far as it does.
    pub(super) fn drain(&mut self) -> Result<(), Errno> {
        let Some(LocalEnd::Stream(socket)) = &self.end else {
            return Ok(());
        };
        while self.is_writable && !self.queue.is_empty() {
            match socket.send(self.queue.as_bytes()) {
                Ok(sent) => {
                    self.queue.consume(sent);
                    self.bytes.delivered += sent as u64;
                }
                Err(Errno::AGAIN) => self.is_writable = false,
                Err(error) => return Err(error),
            }
        }
        self.queue.give_room_back();
        Ok(())
    }
}
