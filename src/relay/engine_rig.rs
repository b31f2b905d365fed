//! What tests drive the planes with: an edge-triggered epoll, a reactor for
//! transfers, and peers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFlags, Timespec, epoll};

use crate::config::DataPlane;
use crate::runtime::clock;
use crate::runtime::provided::BufferSize;
use crate::runtime::reactor::{Event, Reactor};
use crate::runtime::readiness::Readiness;
use crate::runtime::ring::{RingSize, Sleep};
use crate::runtime::socket::Socket;
use crate::time::Timestamp;

use super::close::{CloseReason, How};
use super::engine::{Ended, EngineSettings};
use super::leg_io::{GateHold, LegIo};
use super::pair::Side;
use super::planes::Planes;
use crate::slab::Key;

/// The planes, their polls, and a clock that stands still unless told. The
/// reactor carries the ring's transfers alone.
pub(super) struct Rig {
    pub(super) planes: Planes,
    reactor: Rc<Reactor>,
    epoll: OwnedFd,
    pub(super) now: Timestamp,
    pub(super) ended: Vec<Closed>,
}

/// A pair that ended, its sockets closed.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) pair: Key,
    pub(super) bytes: [u64; 2],
    pub(super) how: [How; 2],
    pub(super) reason: CloseReason,
}

impl Rig {
    pub(super) fn new(settings: EngineSettings) -> Self {
        let reactor = Reactor::new(RingSize::default()).unwrap();
        Self {
            planes: Planes::new(Rc::clone(&reactor), 0, DataPlane::Ring, settings).unwrap(),
            reactor,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            now: Timestamp::from_nanos(1_000_000_000),
            ended: Vec::new(),
        }
    }

    pub(super) fn join(&mut self, plane: DataPlane, left: LegIo, right: LegIo) -> Key {
        let key = self.planes.engine.start(left, right, plane, self.now);
        for side in Side::BOTH {
            let Some(socket) = self.planes.engine.socket(key, side) else {
                continue;
            };
            let data = u64::from(key.index) << 1 | side.index() as u64;
            let flags = epoll::EventFlags::IN
                | epoll::EventFlags::OUT
                | epoll::EventFlags::RDHUP
                | epoll::EventFlags::ET;
            epoll::add(&self.epoll, socket, epoll::EventData::new_u64(data), flags).unwrap();
        }
        key
    }

    /// One turn of the loop; false when nothing happened in it.
    pub(super) fn turn(&mut self) -> bool {
        let mut events = Vec::with_capacity(64);
        let at_once = Timespec::default();
        epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&at_once)).unwrap();
        for event in &events {
            let data = event.data.u64();
            let index = u32::try_from(data >> 1).unwrap();
            let side = Side::BOTH[usize::from(data & 1 == 1)];
            let bits = u16::try_from({ event.flags }.bits() & 0xffff).unwrap();
            let readiness = Readiness::from_poll(PollFlags::from_bits_retain(bits));
            self.planes.handle_readiness(index, side, readiness);
        }
        let mut busy = !events.is_empty();
        self.reactor.turn(Sleep::No, None);
        while let Some(event) = self.reactor.poll_event() {
            if let Event::Transfer { owner, progress } = event {
                self.planes.handle_progress(owner.token, progress);
            }
            busy = true;
        }
        let engine = &mut self.planes.engine;
        if engine.next_deadline().is_some_and(|due| due <= self.now) {
            engine.handle_deadline(self.now);
            busy = true;
        }
        if engine.has_work() {
            engine.run_quantum(self.now);
            busy = true;
        }
        let taken_over = self.planes.ring.taken_over;
        self.planes.move_leaving();
        busy |= self.planes.ring.taken_over > taken_over;
        while let Some(ended) = self.planes.poll_ended() {
            let closed = self.close(ended);
            self.ended.push(closed);
        }
        busy
    }

    fn close(&self, ended: Ended) -> Closed {
        let Ended {
            pair,
            bytes,
            sockets,
            how,
            reason,
        } = ended;
        for (socket, how) in sockets.into_iter().zip(how) {
            epoll::delete(&self.epoll, &socket).unwrap();
            if how == How::Reset {
                socket.set_linger_reset().unwrap();
            }
        }
        Closed {
            pair,
            bytes,
            how,
            reason,
        }
    }

    /// Turns until `done`, which is asked after each of them.
    pub(super) fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let begun = clock::now();
        loop {
            self.turn();
            if done(self) {
                return;
            }
            assert!(
                clock::now().since(begun) < Duration::from_secs(60),
                "{what}: never came; {:?} {:?}",
                self.planes.engine.usage(),
                self.planes.engine.counters()
            );
        }
    }

    /// Runs until the only pair has ended.
    pub(super) fn run_until_ended(&mut self) -> Closed {
        let ended = self.run_until_one_ended();
        self.assert_nothing_held();
        ended
    }

    /// Runs until some pair has ended.
    pub(super) fn run_until_one_ended(&mut self) -> Closed {
        self.run_until("end", |rig| !rig.ended.is_empty());
        self.ended.remove(0)
    }

    /// Everything is where it was before the first pair.
    pub(super) fn assert_nothing_held(&self) {
        let usage = self.planes.engine.usage();
        assert_eq!(
            (usage.pairs, usage.pipes_in_use, usage.spill_bytes),
            (0, 0, 0)
        );
        assert_eq!(self.planes.ring.spill_bytes, 0);
        assert!(
            BufferSize::ALL
                .iter()
                .all(|size| self.reactor.has_room(*size)),
            "buffers are left behind"
        );
    }
}

/// A peer's end of a connection, not blocking.
pub(super) struct Peer {
    pub(super) stream: TcpStream,
}

impl Peer {
    /// Writes what fits.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        match self.stream.write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("write: {error}"),
        }
    }

    /// Reads what is there: `None` when nothing is, 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.stream.read(buffer) {
            Ok(count) => Some(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("read: {error}"),
        }
    }

    /// Reads until `count` bytes are there.
    pub(super) fn read_exactly(&mut self, rig: &mut Rig, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        rig.run_until("bytes", |_| {
            if let Some(read) = self.read(&mut bytes[filled..]) {
                assert!(read > 0, "the stream ended after {filled} of {count} bytes");
                filled += read;
            }
            filled == count
        });
        bytes
    }

    pub(super) fn write_all(&mut self, rig: &mut Rig, bytes: &[u8]) {
        let mut written = 0;
        rig.run_until("room", |_| {
            written += self.write(&bytes[written..]);
            written == bytes.len()
        });
    }

    /// Reads until the stream ends, or fails with this error.
    pub(super) fn read_error(&mut self, rig: &mut Rig) -> Option<ErrorKind> {
        let mut error = None;
        rig.run_until("end of stream", |_| {
            match self.stream.read(&mut [0; 4096]) {
                Ok(0) => true,
                Ok(_) => false,
                Err(found) if found.kind() == ErrorKind::WouldBlock => false,
                Err(found) => {
                    error = Some(found.kind());
                    true
                }
            }
        });
        error
    }

    pub(super) fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    pub(super) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// A connection over loopback: the peer's end, and ours as a leg.
pub(super) fn connection() -> (Peer, LegIo) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    let socket = Socket::adopt(accepted.into()).unwrap();
    socket.set_nodelay().unwrap();
    let leg = LegIo {
        socket,
        prefix: Vec::new(),
        gate: GateHold::Open,
        codec: None,
        half: None,
    };
    (Peer { stream }, leg)
}

pub(super) fn joined(settings: EngineSettings, plane: DataPlane) -> (Rig, Key, Peer, Peer) {
    let (left, left_leg) = connection();
    let (right, right_leg) = connection();
    let mut rig = Rig::new(settings);
    let key = rig.join(plane, left_leg, right_leg);
    (rig, key, left, right)
}
