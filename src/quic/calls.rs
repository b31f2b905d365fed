//! What may be done with connections and streams.

use std::net::SocketAddr;

use bytes::Bytes;
use quinn_proto::{Dir, FinishError, VarInt};
use rustls::pki_types::CertificateDer;

use super::connection::{ConnectionKey, Health, StreamKey};
use super::driver::Driver;
use crate::time::Timestamp;

/// Where a read stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// At the limit: there may be more.
    More,
    /// There is no more now.
    Blocked,
    /// The stream has ended, and all of it was read.
    Ended,
    /// The peer broke it off, with its code.
    Reset(u64),
    /// There is no such stream any more.
    Gone,
}

/// How a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// All is written.
    Done,
    /// There is no room for the rest.
    Blocked,
    /// The peer reads no more, with its code.
    Stopped(u64),
    /// There is no such stream any more.
    Gone,
}

impl Driver {
    /// Opens a stream; `None` when the peer allows no more, or is gone.
    pub fn open(&mut self, connection: ConnectionKey) -> Option<StreamKey> {
        let id = self.with(connection, |proto| proto.streams().open(Dir::Bi))??;
        Some(StreamKey { connection, id })
    }

    /// Lets a connection's peer have so many streams open, and send so many bytes before they
    /// are read, where it was allowed less.
    pub fn widen(&mut self, connection: ConnectionKey, streams_max: u32, window: u32) {
        if let Some(one) = self.connections.get_mut(connection) {
            let streams_max = streams_max.into();
            one.proto.set_max_concurrent_streams(Dir::Bi, streams_max);
            one.widen(window.into());
            self.mark_dirty(connection);
        }
    }

    /// Notes how many streams of a connection are not read, as their other ends have no room.
    pub fn set_stalled(&mut self, connection: ConnectionKey, streams: usize) {
        if let Some(windows) = self.windows
            && let Some(one) = self.connections.get_mut(connection)
        {
            one.widen(windows.while_stalled(streams));
            self.mark_dirty(connection);
        }
    }

    /// Reads what has come in order, at most so many bytes, as they came: into `chunks`.
    pub fn read(&mut self, stream: StreamKey, bytes_max: usize, chunks: &mut Vec<Bytes>) -> Read {
        let Some(connection) = self.connections.get_mut(stream.connection) else {
            return Read::Gone;
        };
        let (read, is_to_tell) = connection.read(stream.id, bytes_max, chunks);
        if is_to_tell {
            self.mark_dirty(stream.connection);
        }
        read
    }

    /// Writes as much as there is room for, which `bytes` loses.
    pub fn write(&mut self, stream: StreamKey, bytes: &mut Bytes) -> Write {
        let Some(connection) = self.connections.get_mut(stream.connection) else {
            return Write::Gone;
        };
        let write = connection.write(stream.id, bytes);
        self.mark_dirty(stream.connection);
        write
    }

    /// Nothing more is written: the peer will read an end.
    pub fn finish(&mut self, stream: StreamKey) {
        self.with(stream.connection, |proto| {
            let mut half = proto.send_stream(stream.id);
            if let Err(FinishError::Stopped(code)) = half.finish() {
                // Whoever reads no more is told that it ends all the same, or it would count
                // the stream for ever.
                let _ = half.reset(code);
            }
        });
    }

    /// Breaks off what is written; `code` tells why, in at most 62 bits.
    pub fn reset(&mut self, stream: StreamKey, code: u64) {
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        // An error means that it has ended already.
        let _ = self.with(stream.connection, |proto| {
            proto.send_stream(stream.id).reset(code)
        });
    }

    /// Has the peer break off what it writes; `code` tells why, in at most 62 bits.
    pub fn stop(&mut self, stream: StreamKey, code: u64) {
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        // As for `reset`.
        let _ = self.with(stream.connection, |proto| {
            proto.recv_stream(stream.id).stop(code)
        });
    }

    /// The code with which the peer broke a stream off, also before what came ahead of it was
    /// read; `None` when it did not.
    pub fn received_reset(&mut self, stream: StreamKey) -> Option<u64> {
        let connection = self.connections.get_mut(stream.connection)?;
        let reset = connection.proto.recv_stream(stream.id).received_reset();
        Some(reset.ok()??.into_inner())
    }

    /// The code with which the peer reads no more of a stream; `None` while it does.
    pub fn received_stop(&mut self, stream: StreamKey) -> Option<u64> {
        let connection = self.connections.get_mut(stream.connection)?;
        let stopped = connection.proto.send_stream(stream.id).stopped();
        Some(stopped.ok()??.into_inner())
    }

    /// Asks the peer whether it is still there.
    pub fn ping(&mut self, connection: ConnectionKey) {
        self.with(connection, quinn_proto::Connection::ping);
    }

    /// Streams of a connection of which something that was written, or its end, is not
    /// acknowledged; one that has no end yet is among them. `None` when it is gone.
    pub fn unfinished_streams(&mut self, connection: ConnectionKey) -> Option<usize> {
        let connection = self.connections.get_mut(connection)?;
        (!connection.proto.is_closed()).then(|| connection.proto.streams().send_streams())
    }

    /// Closes a connection, which is told to the peer but not as an event. What is written and
    /// not acknowledged is lost.
    pub fn close(
        &mut self,
        connection: ConnectionKey,
        code: u32,
        reason: &'static str,
        now: Timestamp,
    ) {
        let now = self.epoch.instant(now);
        let reason = Bytes::from_static(reason.as_bytes());
        self.with(connection, |proto| {
            proto.close(now, VarInt::from_u32(code), reason);
        });
    }

    /// Where the peer is now.
    #[must_use]
    pub fn peer_address(&self, connection: ConnectionKey) -> Option<SocketAddr> {
        Some(self.connections.get(connection)?.proto.remote_address())
    }

    /// The certificate that the peer has shown, with the proof that it has its key; `None` when
    /// it has shown none, or its handshake is not over.
    #[must_use]
    pub fn certificate(&self, connection: ConnectionKey) -> Option<CertificateDer<'static>> {
        let proto = &self.connections.get(connection)?.proto;
        if proto.is_handshaking() {
            return None;
        }
        let shown = proto.crypto_session().peer_identity()?;
        let chain: Box<Vec<CertificateDer<'static>>> = shown.downcast().ok()?;
        chain.into_iter().next()
    }

    /// How a connection fares.
    #[must_use]
    pub fn health(&self, connection: ConnectionKey) -> Option<Health> {
        Some(self.connections.get(connection)?.health())
    }
}
