//! A leg with TLS, WebSocket, HTTP bodies or a channel around its bytes.

use std::cell::RefCell;
use std::rc::Rc;

use midspan::relay::codec::{Codec, Heard, Workshop};
use midspan::runtime::socket::Socket;
use rustix::io::Errno;

use crate::bodies::Bodies;
use crate::jproxy::Channel;

/// Bytes that are read at a time.
pub(crate) const READ_BYTES: usize = 64 << 10;

/// What is around a leg's bytes.
#[derive(Debug)]
pub(crate) enum Wrapped {
    Coded(Coded),
    Bodies(Bodies),
    Channel(Channel),
}

impl Wrapped {
    /// Sends `bytes`, or as many of them as fit, as one message.
    pub(crate) fn send(&mut self, socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
        let bytes = bytes.get(..READ_BYTES).unwrap_or(bytes);
        match self {
            Self::Coded(coded) => coded.send(socket, bytes),
            Self::Bodies(bodies) => bodies.send(socket, bytes),
            Self::Channel(channel) => channel.send(socket, bytes),
        }
    }

    /// Says that nothing follows. Call again after `EAGAIN`.
    pub(crate) fn end(&mut self, socket: &Socket) -> Result<(), Errno> {
        match self {
            Self::Coded(coded) => coded.end(socket),
            Self::Bodies(bodies) => bodies.end(socket),
            Self::Channel(channel) => channel.end(socket),
        }
    }

    /// Sends what the socket did not take.
    pub(crate) fn flush(&mut self, socket: &Socket) -> Result<(), Errno> {
        match self {
            Self::Coded(coded) => coded.flush(socket),
            Self::Bodies(bodies) => bodies.flush(socket),
            Self::Channel(channel) => channel.flush(socket),
        }
    }

    /// Reads application bytes; 0 is the end.
    pub(crate) fn recv(&mut self, socket: &Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Coded(coded) => coded.recv(socket, buffer),
            Self::Bodies(bodies) => bodies.recv(socket, buffer),
            Self::Channel(channel) => channel.recv(socket, buffer),
        }
    }
}

/// TLS, WebSocket, or the second within the first.
#[derive(Debug)]
pub(crate) struct Coded {
    codec: Box<Codec>,
    /// All legs' own.
    workshop: Rc<RefCell<Workshop>>,
    /// Of what is wrapped, that which the socket did not take.
    unsent: Vec<u8>,
    /// Of what was read, that which nobody took.
    unread: Vec<u8>,
}

impl Coded {
    pub(crate) const fn new(codec: Box<Codec>, workshop: Rc<RefCell<Workshop>>) -> Self {
        Self {
            codec,
            workshop,
            unsent: Vec::new(),
            unread: Vec::new(),
        }
    }

    fn send(&mut self, socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
        self.flush(socket)?;
        let mut workshop = self.workshop.borrow_mut();
        let wire = workshop
            .wrap(&mut self.codec, bytes)
            .map_err(|_| Errno::PROTO)?;
        send_or_keep(socket, wire, &mut self.unsent)?;
        Ok(bytes.len())
    }

    fn end(&mut self, socket: &Socket) -> Result<(), Errno> {
        {
            let mut workshop = self.workshop.borrow_mut();
            workshop
                .take_words(&mut self.codec, true)
                .map_err(|_| Errno::PROTO)?;
            self.unsent.extend_from_slice(workshop.wire());
        }
        match self.flush(socket) {
            Ok(()) if self.codec.leaves_end_to_peer() => Ok(()),
            Ok(()) => socket.shutdown_write(),
            Err(error) => Err(error),
        }
    }

    fn flush(&mut self, socket: &Socket) -> Result<(), Errno> {
        send_unsent(socket, &mut self.unsent)
    }

    fn recv(&mut self, socket: &Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
        while self.unread.is_empty() {
            if self.codec.heard() != Heard::Open {
                return Ok(0);
            }
            self.read(socket)?;
        }
        Ok(take_unread(&mut self.unread, buffer))
    }

    fn read(&mut self, socket: &Socket) -> Result<(), Errno> {
        let mut workshop = self.workshop.borrow_mut();
        let landing = workshop.landing(Some(&self.codec), READ_BYTES);
        let heard = match socket.recv(landing)? {
            0 => self.codec.end_of_input(),
            count => {
                let heard = workshop.decode(Some(&mut self.codec), count);
                workshop.copy_decoded(&mut self.unread);
                heard
            }
        };
        heard.map_err(|_| Errno::PROTO)?;
        workshop
            .take_words(&mut self.codec, false)
            .map_err(|_| Errno::PROTO)?;
        send_or_keep(socket, workshop.wire(), &mut self.unsent)
    }
}

/// Sends what follows `unsent`, or keeps it there.
pub(crate) fn send_or_keep(
    socket: &Socket,
    wire: &[u8],
    unsent: &mut Vec<u8>,
) -> Result<(), Errno> {
    if wire.is_empty() {
        return Ok(());
    }
    let sent = match unsent.is_empty() {
        false => 0,
        true => match socket.send(wire) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(error) => return Err(error),
        },
    };
    unsent.extend_from_slice(&wire[sent..]);
    Ok(())
}

/// Sends what a socket did not take before.
pub(crate) fn send_unsent(socket: &Socket, unsent: &mut Vec<u8>) -> Result<(), Errno> {
    while !unsent.is_empty() {
        let sent = socket.send(unsent)?;
        unsent.drain(..sent);
    }
    Ok(())
}

/// Moves what was read and not taken into the buffer, as far as that has room; how much it was.
pub(crate) fn take_unread(unread: &mut Vec<u8>, buffer: &mut [u8]) -> usize {
    let count = unread.len().min(buffer.len());
    buffer[..count].copy_from_slice(&unread[..count]);
    unread.drain(..count);
    count
}
