//! Echo requests by sockets that need no privilege (`net.ipv4.ping_group_range`): the kernel gives
//! each socket its identifier, and computes the checksums.

use rustix::io::Errno;

use crate::runtime::socket::Socket;

/// Of the header of a request or a reply: type, code, checksum, identifier, sequence
/// (RFC 792, RFC 4443 §4.1).
const HEADER_BYTES: usize = 8;

/// Types of requests and replies.
const V4: (u8, u8) = (8, 0);
const V6: (u8, u8) = (128, 129);

/// A socket that is connected with whom it sends echo requests to.
#[derive(Debug)]
pub struct EchoSocket {
    socket: Socket,
    is_v6: bool,
}

impl EchoSocket {
    #[must_use]
    pub const fn new(socket: Socket, is_v6: bool) -> Self {
        Self { socket, is_v6 }
    }

    pub(super) fn send(&self, sequence: u16, data: &[u8]) -> Result<(), Errno> {
        let (request, _) = self.types();
        let [high, low] = sequence.to_be_bytes();
        let header = [request, 0, 0, 0, 0, 0, high, low];
        self.socket.send(&[&header, data].concat()).map(drop)
    }

    /// Takes what came: the sequence and the data of a reply, `None` for anything else.
    pub(super) fn receive<'a>(
        &self,
        space: &'a mut Vec<u8>,
    ) -> Result<Option<(u16, &'a [u8])>, Errno> {
        space.clear();
        self.socket.recv_behind(space)?;
        let (_, reply) = self.types();
        let Some((header, data)) = space.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [kind, 0, _, _, _, _, high, low] = *header else {
            return Ok(None);
        };
        Ok((kind == reply).then_some((u16::from_be_bytes([high, low]), data)))
    }

    const fn types(&self) -> (u8, u8) {
        if self.is_v6 { V6 } else { V4 }
    }

    /// For those who watch it.
    #[must_use]
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }
}
