//! What goes out by a tunnel's connection.

use rustix::io::Errno;

use super::tunnel::{Means, STEP_BYTES, Stop};
use crate::protocol::websocket::CloseCode;
use crate::relay::codec::Codec;
use crate::relay::queue::Queue;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;

/// The connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) codec: Option<Box<Codec>>,
    pub(super) outlet: Outlet,
}

/// Its socket, and what waits for that.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) socket: Socket,
    /// As it goes over the connection.
    unsent: Queue,
    is_writable: bool,
    /// Nothing more goes out. What came before may still be read.
    failed: Option<Errno>,
}

impl Link {
    pub(super) fn new(socket: Socket, codec: Option<Box<Codec>>) -> Self {
        Self {
            codec,
            outlet: Outlet {
                socket,
                unsent: Queue::default(),
                is_writable: true,
                failed: None,
            },
        }
    }

    /// Sends these packets; what finds no room waits.
    pub(super) fn send_wire(&mut self, means: &mut Means) -> Result<(), Stop> {
        let Means { workshop, wire, .. } = means;
        match &mut self.codec {
            None => self.outlet.send(wire),
            Some(codec) => {
                for piece in wire.chunks(STEP_BYTES) {
                    let wrapped = workshop.wrap(codec, piece).map_err(|_| Stop::Broken)?;
                    self.outlet.send(wrapped);
                }
            }
        }
        wire.clear();
        Ok(())
    }

    /// Has the codec say its last.
    pub(super) fn say_farewell(&mut self, means: &mut Means) {
        if let Some(codec) = &mut self.codec {
            means.workshop.take_farewell(codec, CloseCode::NORMAL);
            self.outlet.keep(means.workshop.wire());
        }
        self.outlet.flush();
    }
}

impl Outlet {
    pub(super) fn note(&mut self, readiness: Readiness) {
        self.is_writable |= readiness.is_writable();
    }

    /// Whether everything has gone out.
    pub(super) fn has_room(&self) -> bool {
        self.unsent.is_empty() && self.failed.is_none()
    }

    /// Whether more of it would go out.
    pub(super) fn may_flush(&self) -> bool {
        self.is_writable && !self.unsent.is_empty()
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.unsent.as_bytes().len()
    }

    /// Why nothing more goes out.
    pub(super) const fn failed(&self) -> Option<Errno> {
        self.failed
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        while self.may_flush() {
            match self.socket.send(self.unsent.as_bytes()) {
                Ok(sent) => drop(self.unsent.consume(sent)),
                Err(error) => self.handle_error(error),
            }
        }
        self.unsent.give_room_back();
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while self.has_room() && self.is_writable && !rest.is_empty() {
            match self.socket.send(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) => self.handle_error(error),
            }
        }
        self.keep(rest);
    }

    /// Has this wait.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.failed.is_none() && !bytes.is_empty() {
            self.unsent.tail(bytes.len()).extend_from_slice(bytes);
        }
    }

    fn handle_error(&mut self, error: Errno) {
        self.is_writable = false;
        if error != Errno::AGAIN {
            self.failed = Some(error);
            self.unsent = Queue::default();
        }
    }
}
