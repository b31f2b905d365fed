//! One direction of a pair that has a stream: what it reads, holds and writes in one step.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;

use super::bridge::{BridgeEndId, BridgeRead, Bridges};
use super::close::CloseReason;
use super::pair::Side;
use super::stream_plane::End;
use crate::protocol::ptth_quic::StreamCode;
use crate::quic::calls::{Read, Write};
use crate::quic::connection::StreamKey;
use crate::quic::driver::Driver;
use crate::runtime::socket::Socket;

/// Bytes that a direction moves at once, and the most that it holds, but for what follows.
pub const STEP_BYTES: usize = 64 << 10;
/// The same from a stream into a socket: fewer calls, each of which may wake whoever reads there.
const SOCKET_STEP_BYTES: usize = 256 << 10;
/// Pieces that one call sends into a socket: as many as that are in datagrams of 1,200 bytes.
const PIECES_MAX: usize = 256;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub(super) pending: VecDeque<Bytes>,
    /// What is pending is in memory of its own: a piece as it came, be it the only one, holds
    /// the whole batch of datagrams in which it did.
    pub(super) is_gathered: bool,
    pub(super) bytes: u64,
    pub(super) source_ended: bool,
    pub(super) is_over: bool,
    pub(super) is_queued: bool,
    /// What came by its stream waits for room at its other end.
    pub(super) is_stalled: bool,
    /// Its source is a socket whose end says nothing until its other side's word has come.
    pub(super) awaits_word: bool,
}

/// Where a step stopped.
pub(super) enum Step {
    /// There may be more.
    More,
    /// An event of the source or of the sink goes on with it.
    Wait,
    /// Everything was passed on, to the end.
    Over,
    Broken(Break),
}

pub(super) struct Break {
    pub(super) reason: CloseReason,
    pub(super) code: StreamCode,
}

impl Way {
    /// Reads a stream to its end, if that has come.
    pub(super) fn read_rest(
        &mut self,
        driver: &mut Driver,
        stream: StreamKey,
        chunks: &mut Vec<Bytes>,
    ) -> bool {
        if !self.source_ended {
            // What flow control has allowed is in memory already.
            self.source_ended = driver.read(stream, usize::MAX, chunks) == Read::Ended;
            self.pending.extend(chunks.drain(..));
            self.is_gathered = false;
        }
        self.source_ended
    }

    pub(super) fn read_stream(
        &mut self,
        driver: &mut Driver,
        stream: StreamKey,
        side: Side,
        sink: &End,
        chunks: &mut Vec<Bytes>,
    ) -> Result<(), Step> {
        let bytes_max = match sink {
            End::Socket(_) => SOCKET_STEP_BYTES,
            End::Stream(_) | End::Bridge(_) => STEP_BYTES,
        };
        let read = driver.read(stream, bytes_max, chunks);
        self.pending.extend(chunks.drain(..));
        self.is_gathered = false;
        if let End::Stream(_) | End::Bridge(_) = sink {
            // A stream looks through all that it was given for each packet, and keeps it until
            // it is acknowledged. To another shard one message is enough.
            self.gather();
        }
        match read {
            Read::More | Read::Blocked if !self.pending.is_empty() => Ok(()),
            Read::More | Read::Blocked => Err(Step::Wait),
            Read::Ended => {
                self.source_ended = true;
                Ok(())
            }
            Read::Reset(code) => Err(broken(
                CloseReason::Reset(side),
                StreamCode::from_wire(code),
            )),
            Read::Gone => Err(broken(CloseReason::Reset(side), StreamCode::PEER_LOST)),
        }
    }

    pub(super) fn read_socket(
        &mut self,
        socket: &Socket,
        side: Side,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Step> {
        match socket.recv_behind(scratch) {
            Ok(0) => match socket.take_error() {
                Some(error) => Err(broken(
                    CloseReason::from_error(side, error),
                    StreamCode::RESET,
                )),
                None if self.awaits_word => Err(Step::Wait),
                None => {
                    self.source_ended = true;
                    Ok(())
                }
            },
            Ok(_) => {
                self.pending.push_back(take_received(scratch));
                self.is_gathered = true;
                Ok(())
            }
            Err(Errno::AGAIN) => Err(Step::Wait),
            Err(error) => Err(broken(
                CloseReason::from_error(side, error),
                StreamCode::RESET,
            )),
        }
    }

    pub(super) fn read_bridge(
        &mut self,
        bridges: &mut Bridges,
        bridge: BridgeEndId,
        side: Side,
    ) -> Result<(), Step> {
        match bridges.read(bridge) {
            BridgeRead::Bytes(bytes) => {
                self.pending.push_back(bytes);
                Ok(())
            }
            BridgeRead::Blocked => Err(Step::Wait),
            BridgeRead::Ended => {
                self.source_ended = true;
                Ok(())
            }
            BridgeRead::Aborted(code, reason) => Err(broken(reason, code)),
            BridgeRead::Gone => Err(broken(CloseReason::Reset(side), StreamCode::SHUTDOWN)),
        }
    }

    pub(super) fn write_bridge(&mut self, bridges: &mut Bridges, bridge: BridgeEndId) -> Step {
        while let Some(bytes) = self.pending.front_mut() {
            let before = bytes.len();
            bridges.write(bridge, bytes);
            self.bytes += (before - bytes.len()) as u64;
            if !bytes.is_empty() {
                return Step::Wait;
            }
            self.pending.pop_front();
        }
        if !self.source_ended {
            return Step::More;
        }
        bridges.finish(bridge);
        Step::Over
    }

    pub(super) fn write_stream(
        &mut self,
        driver: &mut Driver,
        stream: StreamKey,
        side: Side,
    ) -> Step {
        while let Some(bytes) = self.pending.front_mut() {
            let before = bytes.len();
            let written = driver.write(stream, bytes);
            self.bytes += (before - bytes.len()) as u64;
            match written {
                Write::Done => drop(self.pending.pop_front()),
                Write::Blocked => return Step::Wait,
                Write::Stopped(code) => {
                    return broken(CloseReason::Reset(side), StreamCode::from_wire(code));
                }
                Write::Gone => return broken(CloseReason::Reset(side), StreamCode::PEER_LOST),
            }
        }
        if !self.source_ended {
            return Step::More;
        }
        driver.finish(stream);
        Step::Over
    }

    pub(super) fn write_socket(&mut self, socket: &Socket, side: Side) -> Step {
        while !self.pending.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let held = self.pending.iter().zip(&mut pieces);
            let count = held
                .map(|(piece, place)| *place = IoSlice::new(piece))
                .count();
            match socket.send_gathered(&pieces[..count]) {
                Ok(sent) => {
                    self.bytes += sent as u64;
                    self.advance(sent);
                }
                Err(Errno::AGAIN) => {
                    self.gather();
                    return Step::Wait;
                }
                Err(error) => {
                    return broken(CloseReason::from_error(side, error), StreamCode::RESET);
                }
            }
        }
        if !self.source_ended {
            return Step::More;
        }
        match socket.shutdown_write() {
            Ok(()) => Step::Over,
            Err(error) => broken(CloseReason::from_error(side, error), StreamCode::RESET),
        }
    }

    fn advance(&mut self, mut sent: usize) {
        while sent > 0
            && let Some(piece) = self.pending.front_mut()
        {
            let taken = sent.min(piece.len());
            // Advances within the piece; at its end it is dropped.
            drop(piece.split_to(taken));
            sent -= taken;
            if piece.is_empty() {
                self.pending.pop_front();
            }
        }
    }

    /// Puts what has to wait together.
    fn gather(&mut self) {
        if self.pending.is_empty() || std::mem::replace(&mut self.is_gathered, true) {
            return;
        }
        let bytes = self.pending.iter().map(Bytes::len).sum();
        let mut together = BytesMut::with_capacity(bytes);
        self.pending
            .drain(..)
            .for_each(|piece| together.extend_from_slice(&piece));
        self.pending.push_back(together.freeze());
    }
}

/// What has come into a buffer of [`STEP_BYTES`]: little of it as a copy, as else it would hold
/// all of the buffer until it is acknowledged.
fn take_received(scratch: &mut Vec<u8>) -> Bytes {
    if scratch.len() >= STEP_BYTES / 2 {
        return std::mem::replace(scratch, Vec::with_capacity(STEP_BYTES)).into();
    }
    let bytes = Bytes::copy_from_slice(scratch);
    scratch.clear();
    bytes
}

const fn broken(reason: CloseReason, code: StreamCode) -> Step {
    Step::Broken(Break { reason, code })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_that_came_holds_no_buffer() {
        for (bytes, is_handed_on) in [(1, false), (STEP_BYTES / 2 - 1, false), (STEP_BYTES, true)] {
            let mut scratch = Vec::with_capacity(STEP_BYTES);
            scratch.resize(bytes, 7);
            let place = scratch.as_ptr();
            let taken = take_received(&mut scratch);
            assert_eq!(taken, vec![7; bytes]);
            assert_eq!(taken.as_ptr() == place, is_handed_on, "{bytes}");
            assert!(scratch.is_empty() && scratch.capacity() >= STEP_BYTES);
        }
    }

    #[test]
    fn what_waits_holds_no_batch_that_it_came_in() {
        for sizes in [&[1][..], &[1200, 3]] {
            let batch = Bytes::from(vec![7; 64 << 10]);
            let mut way = Way::default();
            way.pending
                .extend(sizes.iter().map(|size| batch.slice(..*size)));
            assert!(!batch.is_unique());
            way.gather();
            assert!(batch.is_unique(), "{sizes:?}");
            let waiting: Vec<usize> = way.pending.iter().map(Bytes::len).collect();
            assert_eq!(waiting, [sizes.iter().sum::<usize>()]);
        }
        let mut way = Way::default();
        way.gather();
        assert!(way.pending.is_empty());
    }
}
