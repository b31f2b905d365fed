//! One UDP socket of a shard: datagrams in batches in, and in bursts out.
//!
//! A burst that finds no room is kept, and nothing else is asked of any connection of the
//! port until it is out: for the protocol it has been sent already.

use std::io::{self, IoSliceMut};
use std::rc::Rc;

use quinn_proto::Transmit;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};

use super::counts::Counts;
use crate::runtime::reactor::{Closing, Reactor};
use crate::runtime::readiness::Interest;
use crate::runtime::socket::Socket;
use crate::runtime::{Owner, PollKey};

/// The longest burst that one call may send, in bytes: what a UDP datagram can hold.
const BURST_BYTES_MAX: usize = 65_507;
/// The most datagrams in a burst that the kernel takes (`UDP_MAX_SEGMENTS`).
const BURST_DATAGRAMS_MAX: usize = 64;
/// Room for what the kernel has put together from datagrams of one sender.
const RECEIVE_BYTES: usize = 64 << 10;
/// Buffers that one call fills where the kernel puts datagrams together. Where it does not, a
/// call brings little, and fills all that there are.
const LONG_BUFFERS_MAX: usize = 4;
/// From how many bytes on it does.
const LONG_BYTES_MIN: usize = RECEIVE_BYTES / 4;

/// Errors in a row that are passed over for what is behind them.
const ERRORS_MAX: usize = 16;

/// Room for one batch of datagrams, for all ports of a shard.
pub(super) struct Batch {
    space: Box<[u8]>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            // Pages that no datagram was long enough for are never touched.
            space: vec![0; RECEIVE_BYTES * BATCH_SIZE].into(),
            metas: [RecvMeta::default(); BATCH_SIZE],
        }
    }

    /// What came in one buffer: datagrams of `stride` bytes, but for the last.
    pub(super) fn received(&self, index: usize) -> (&RecvMeta, &[u8]) {
        let meta = &self.metas[index];
        let start = index * RECEIVE_BYTES;
        (meta, &self.space[start..start + meta.len])
    }
}

/// A socket and what waits to leave through it.
pub(super) struct Port {
    reactor: Rc<Reactor>,
    socket: Option<(Socket, PollKey)>,
    state: UdpSocketState,
    /// There may be more to read: its poll tells each thing once.
    pub(super) is_readable: bool,
    /// Of the next batch.
    buffers_max: usize,
    kept: Option<Kept>,
    owner_of_room: Owner,
}

/// A burst that found no room, and the second descriptor by which room is waited for.
struct Kept {
    transmit: Transmit,
    bytes: Vec<u8>,
    room: Option<(Socket, PollKey)>,
}

impl Port {
    /// `owner` hears of what comes in, `owner_of_room` of room for what goes out.
    pub(super) fn new(
        reactor: Rc<Reactor>,
        socket: Socket,
        owner: Owner,
        owner_of_room: Owner,
    ) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let poll = reactor.watch_datagrams(&socket, owner, Interest::Input);
        Ok(Self {
            reactor,
            socket: Some((socket, poll)),
            state,
            is_readable: true,
            buffers_max: BATCH_SIZE,
            kept: None,
            owner_of_room,
        })
    }

    pub(super) fn socket(&self) -> &Socket {
        match &self.socket {
            Some((socket, _)) => socket,
            None => unreachable!("only its drop takes it"),
        }
    }

    /// Whether the network may cut datagrams into pieces, so that their size says nothing.
    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Whether a burst waits for room.
    pub(super) const fn is_blocked(&self) -> bool {
        self.kept.is_some()
    }

    /// How many datagrams of such a size one burst may have.
    pub(super) fn burst_datagrams(&self, mtu: u16) -> usize {
        let fitting = BURST_BYTES_MAX / usize::from(mtu.max(1));
        let most = self.state.max_gso_segments().min(BURST_DATAGRAMS_MAX);
        fitting.min(most).max(1)
    }

    /// Reads one batch; how many buffers of it are in use.
    pub(super) fn receive(&mut self, batch: &mut Batch, counts: &mut Counts) -> usize {
        let mut buffers = batch.space.chunks_mut(RECEIVE_BYTES).map(IoSliceMut::new);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| buffers.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        for _ in 0..ERRORS_MAX {
            match self.state.recv(
                self.socket().into(),
                &mut buffers[..self.buffers_max],
                &mut batch.metas,
            ) {
                Ok(count) => {
                    counts.batches_received += 1;
                    self.is_readable = count == self.buffers_max;
                    self.buffers_max = match batch.metas[0].len {
                        LONG_BYTES_MIN.. => LONG_BUFFERS_MAX,
                        _ => BATCH_SIZE,
                    };
                    return count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return 0;
                }
                // It tells of a datagram that was sent before, and is told once.
                Err(_) => counts.socket_errors += 1,
            }
        }
        // One that stays: the next datagram's event is soon enough.
        self.is_readable = false;
        0
    }

    /// Sends a burst, or keeps it until there is room.
    pub(super) fn send(&mut self, transmit: Transmit, bytes: &[u8], counts: &mut Counts) {
        debug_assert!(self.kept.is_none(), "what is kept goes first");
        let bytes = &bytes[..transmit.size];
        if self.try_send(&transmit, bytes, counts).is_blocked() {
            counts.sends_blocked += 1;
            let bytes = bytes.to_vec();
            let room = self.watch_room();
            self.kept = Some(Kept {
                transmit,
                bytes,
                room,
            });
        }
    }

    /// There may be room.
    pub(super) fn handle_room(&mut self, counts: &mut Counts) {
        let Some(mut kept) = self.kept.take() else {
            return;
        };
        if self
            .try_send(&kept.transmit, &kept.bytes, counts)
            .is_blocked()
        {
            kept.room = kept.room.or_else(|| self.watch_room());
            self.kept = Some(kept);
        } else if let Some((socket, poll)) = kept.room.take() {
            self.reactor.retire(poll, socket, Closing::Clean);
        }
    }

    /// Without a descriptor for it, each turn of the loop looks whether there is room.
    fn watch_room(&self) -> Option<(Socket, PollKey)> {
        let socket = self.socket().duplicate().ok()?;
        let owner = self.owner_of_room;
        let poll = self
            .reactor
            .watch_datagrams(&socket, owner, Interest::Output);
        Some((socket, poll))
    }

    /// Whether it is to be tried again without an event.
    pub(super) fn has_to_look_for_room(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.room.is_none())
    }

    fn try_send(&mut self, transmit: &Transmit, bytes: &[u8], counts: &mut Counts) -> Sent {
        let datagrams = match transmit.segment_size {
            Some(size) => bytes.len().div_ceil(size),
            None => 1,
        };
        let had_bursts = self.state.max_gso_segments() > 1;
        match self.send_once(transmit, bytes, transmit.segment_size) {
            Ok(()) => {
                counts.batches_sent += 1;
                counts.datagrams_sent += datagrams as u64;
                Sent::Done
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Blocked,
            // The device does not take bursts, which is known by now: this one goes in pieces.
            Err(_) if datagrams > 1 && had_bursts && self.state.max_gso_segments() == 1 => {
                let size = transmit.segment_size.unwrap_or(bytes.len());
                for piece in bytes.chunks(size) {
                    match self.send_once(transmit, piece, None) {
                        Ok(()) => counts.datagrams_sent += 1,
                        Err(_) => counts.socket_errors += 1,
                    }
                }
                Sent::Done
            }
            // One that asks how long datagrams may be, and was too long.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) && datagrams == 1 => {
                Sent::Done
            }
            // As good as lost on its way: what it held is sent again.
            Err(_) => {
                counts.socket_errors += 1;
                Sent::Done
            }
        }
    }

    fn send_once(
        &self,
        transmit: &Transmit,
        bytes: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let ecn = transmit
            .ecn
            .and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8));
        let transmit = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn,
            contents: bytes,
            segment_size: segment,
            src_ip: transmit.src_ip,
        };
        self.state.try_send(self.socket().into(), &transmit)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let room = self.kept.take().and_then(|kept| kept.room);
        for (socket, poll) in [self.socket.take(), room].into_iter().flatten() {
            self.reactor.retire(poll, socket, Closing::Clean);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It is out, or lost.
    Done,
    Blocked,
}

impl Sent {
    const fn is_blocked(self) -> bool {
        matches!(self, Self::Blocked)
    }
}
