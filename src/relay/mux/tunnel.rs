//! A tunnel's connection: bytes into packets, and packets into bytes, as many as a read brings at
//! once.

use std::collections::{HashMap, VecDeque};
use std::mem;

use ahash::RandomState;
use rustix::io::Errno;

use super::channel::Channel;
use super::link::Link;
use super::{Role, TunnelStart};
use crate::protocol::jproxy::{
    ChannelId, ChannelKind, Dialect, FromClient, FromServer, Opener, Sealer,
};
use crate::relay::close::CloseReason;
use crate::relay::codec::{Heard, Workshop};
use crate::runtime::readiness::Readiness;
use crate::slab::Key;
use crate::time::Timestamp;

/// Bytes that are read at a time, of a tunnel or of a channel's end.
pub(super) const STEP_BYTES: usize = 64 << 10;

/// A packet that is not whole: its length and 255 blocks.
const PACKET_BYTES_MAX: usize = 1 + 255 * 16;

/// Bytes that are sealed at a time before they are sent.
pub(super) const WIRE_BYTES: usize = 128 << 10;

/// Bytes that wait for a tunnel, from which on nothing that may have to be answered is read.
const UNSENT_BYTES_MAX: usize = 256 << 10;

/// A tunnel, but for what it receives.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) link: Link,
    pub(super) role: Role,
    pub(super) dialect: Dialect,
    sealer: Sealer,
    pub(super) by_id: HashMap<(ChannelKind, ChannelId), Key, RandomState>,
    /// Those whose numbers are used again, while their ends take the last of what came.
    outlived: Vec<Key>,
    pub(super) channels_max: usize,
    /// Channels that may have something to do.
    pub(super) ready: VecDeque<Key>,
    /// Those that have something to send, for which there was no room.
    pub(super) starved: Vec<Key>,
    /// Nothing is read while this channel takes too little, since then.
    pub(super) held: Option<(Key, Timestamp)>,
    /// It is listed with those that are held up.
    pub(super) is_among_held: bool,
    /// What waits in all channels together.
    pub(super) queued_bytes: usize,
    pub(super) is_queued: bool,
    /// A packet could be decrypted, so that both sides have one key.
    pub(super) has_decrypted: bool,
    /// It has said something in another dialect.
    pub(super) is_foreign: bool,
    /// It is to end for this reason as soon as what was said has gone out.
    pub(super) leaving: Option<CloseReason>,
    /// By then that has gone out, or does not matter any more: no channel is left.
    pub(super) rest_until: Option<Timestamp>,
}

/// What a tunnel receives.
pub(super) struct Inbound {
    pub(super) opener: Opener,
    /// The beginning of a packet.
    begun: Vec<u8>,
    pub(super) is_readable: bool,
    has_hung_up: bool,
    /// What came behind the handshake has not been looked at.
    is_early: bool,
    /// Nothing comes any more.
    has_ended: bool,
}

/// Where a shard's tunnels have their bytes while they pass.
pub(super) struct Means {
    pub(super) workshop: Workshop,
    received: Vec<u8>,
    /// Packets that are to be sent, in order.
    pub(super) wire: Vec<u8>,
    /// What a channel's end has said.
    pub(super) chunk: Vec<u8>,
    /// A packet, but for its data.
    head: Vec<u8>,
}

/// What either side sends.
#[derive(Clone, Debug)]
pub(super) enum Packet<'a> {
    Client(FromClient<'a>),
    Server(FromServer<'a>),
}

impl Means {
    pub(super) fn new() -> Self {
        Self {
            workshop: Workshop::new(STEP_BYTES),
            received: Vec::with_capacity(PACKET_BYTES_MAX + STEP_BYTES),
            wire: Vec::new(),
            chunk: Vec::with_capacity(STEP_BYTES),
            head: Vec::new(),
        }
    }
}

impl Packet<'_> {
    fn encode_head(&self, dialect: Dialect, out: &mut Vec<u8>) -> &[u8] {
        match self {
            Self::Client(packet) => packet.encode_head(dialect, out),
            Self::Server(packet) => packet.encode_head(dialect, out),
        }
    }
}

impl Tunnel {
    pub(super) fn new(start: TunnelStart) -> (Self, Inbound) {
        let tunnel = Self {
            link: Link::new(start.socket, start.codec),
            role: start.role,
            dialect: start.dialect,
            sealer: Sealer::new(&start.key),
            by_id: HashMap::default(),
            outlived: Vec::new(),
            channels_max: start.channels_max,
            ready: VecDeque::new(),
            starved: Vec::new(),
            held: None,
            is_among_held: false,
            queued_bytes: 0,
            is_queued: false,
            has_decrypted: false,
            is_foreign: false,
            leaving: None,
            rest_until: None,
        };
        let inbound = Inbound {
            opener: Opener::new(&start.key),
            is_early: !start.early.is_empty(),
            begun: start.early,
            is_readable: true,
            has_hung_up: false,
            has_ended: false,
        };
        (tunnel, inbound)
    }

    /// How many channels it has.
    pub(super) fn channel_count(&self) -> usize {
        self.by_id.len() + self.outlived.len()
    }

    pub(super) fn channels(&self) -> impl Iterator<Item = Key> {
        self.by_id.values().chain(&self.outlived).copied()
    }

    /// Its number is another's from now on.
    pub(super) fn outlive(&mut self, channel: &Channel) {
        let key = self.by_id.remove(&(channel.kind, channel.id));
        self.outlived.extend(key);
    }

    /// A channel is gone: nothing of it waits, and it holds up nobody.
    pub(super) fn forget(&mut self, key: Key, channel: &Channel) {
        let place = (channel.kind, channel.id);
        match self.by_id.get(&place) == Some(&key) {
            true => drop(self.by_id.remove(&place)),
            false => self.outlived.retain(|outlived| *outlived != key),
        }
        self.queued_bytes -= channel.queued_bytes();
        self.held = self.held.filter(|(by, _)| *by != key);
    }

    /// Whether there may be something that may be read, while so many bytes more are to be sent. A
    /// peer that asks for much and does not read the answers is not answered without bound.
    pub(super) fn may_receive(&self, inbound: &Inbound, wire_bytes: usize) -> bool {
        let unsent = self.link.outlet.unsent_bytes() + wire_bytes;
        let is_open = !self.is_foreign && self.held.is_none();
        inbound.is_readable && is_open && unsent < UNSENT_BYTES_MAX
    }

    /// Has a packet sent behind those that wait.
    pub(super) fn seal(&mut self, means: &mut Means, packet: &Packet<'_>) {
        means.head.clear();
        let data = packet.encode_head(self.dialect, &mut means.head);
        self.sealer.seal(&[&means.head, data], &mut means.wire);
    }
}

impl Inbound {
    pub(super) fn note(&mut self, readiness: Readiness) {
        self.is_readable |= readiness.is_readable();
        self.has_hung_up |= readiness.is_read_closed();
    }

    /// Reads once and decrypts what came; [`Self::opener`] has it. False when there was nothing.
    pub(super) fn receive(&mut self, link: &mut Link, means: &mut Means) -> Result<bool, Stop> {
        if self.has_ended {
            return Err(Stop::Ended);
        }
        let received = &mut means.received;
        received.clear();
        received.append(&mut self.begun);
        match &mut link.codec {
            _ if mem::take(&mut self.is_early) => {}
            None => {
                received.reserve(STEP_BYTES);
                match link.outlet.socket.recv_behind(received) {
                    Ok(0) => return Err(Stop::Ended),
                    Ok(count) => self.is_readable = count >= STEP_BYTES || self.has_hung_up,
                    Err(error) => return self.no_more(received, error),
                }
            }
            Some(codec) => {
                let landing = means.workshop.landing(Some(codec), STEP_BYTES);
                let room = landing.len();
                let heard = match link.outlet.socket.recv(landing) {
                    Ok(0) => codec.end_of_input().map_err(|_| Stop::Broken)?,
                    Ok(count) => {
                        self.is_readable = count >= room || self.has_hung_up;
                        let heard = means.workshop.decode(Some(codec), count);
                        let heard = heard.map_err(|_| Stop::Broken)?;
                        means.workshop.copy_decoded(received);
                        heard
                    }
                    Err(error) => return self.no_more(received, error),
                };
                if codec.has_words() {
                    let taken = means.workshop.take_words(codec, false);
                    taken.map_err(|_| Stop::Broken)?;
                    link.outlet.keep(means.workshop.wire());
                }
                self.has_ended = heard != Heard::Open;
                self.is_readable |= self.has_ended;
            }
        }
        let consumed = self.opener.open(received);
        self.begun.extend_from_slice(&received[consumed..]);
        Ok(true)
    }

    fn no_more(&mut self, received: &mut Vec<u8>, error: Errno) -> Result<bool, Stop> {
        self.begun.append(received);
        self.is_readable = false;
        match error {
            Errno::AGAIN => Ok(false),
            error => Err(Stop::Failed(error)),
        }
    }
}

/// Why nothing more comes by a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It has ended.
    Ended,
    /// What came was none of its packets.
    Broken,
    Failed(Errno),
    /// It was to end.
    Left(CloseReason),
    /// It was to end, and its peer has not taken in time what was said last.
    Untaken(CloseReason),
}

impl Stop {
    pub(super) const fn reason(self, side: crate::relay::Side) -> CloseReason {
        match self {
            Self::Ended => CloseReason::Finished(side),
            Self::Broken => CloseReason::Broken(side),
            Self::Failed(error) => CloseReason::from_error(side, error),
            Self::Left(reason) | Self::Untaken(reason) => reason,
        }
    }
}

impl Means {
    /// Forgets packets of a tunnel that is lost.
    pub(super) fn clear(&mut self) {
        mem::take(&mut self.wire);
    }
}
