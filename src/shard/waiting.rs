//! Acceptors that wait for their connector, watched so that a dead one is
//! noticed.

use rustix::io::Errno;

use super::peer_address::PeerAddress;
use crate::association::table::CandidateRef;
use crate::relay::GateHold;
use crate::runtime::PollKey;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::time::Timestamp;

/// One acceptor that waits.
#[derive(Debug)]
pub struct WaitingLeg {
    pub socket: Socket,
    pub poll: PollKey,
    pub candidate: CandidateRef,
    /// Application bytes that came behind its request.
    pub prefix: Vec<u8>,
    pub gate: GateHold,
    pub peer: PeerAddress,
    pub since: Timestamp,
    /// All that was reported of it so far; the pair that it joins must know.
    pub readiness: Readiness,
}

impl WaitingLeg {
    /// Whether nobody waits any more, whatever the ring has said until now.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.is_gone(self.socket.poll_now())
    }

    /// Whether what happened on the socket means that nobody waits any more.
    ///
    /// Bytes that the acceptor sends early stay in the kernel. A FIN behind
    /// unread bytes is a half-close: those bytes are still to be delivered. A
    /// FIN behind nothing is an acceptor that went away.
    #[must_use]
    pub fn is_gone(&self, readiness: Readiness) -> bool {
        if readiness.is_error() || readiness.is_hangup() {
            return true;
        }
        if !readiness.is_read_closed() {
            return false;
        }
        match self.socket.peek(&mut [0]) {
            Ok(0) => self.prefix.is_empty(),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => true,
        }
    }
}
