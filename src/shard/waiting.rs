//! Acceptors that wait for their connector, watched so that a dead one is
//! noticed.

use rustix::io::Errno;

use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use crate::association::table::CandidateRef;
use crate::relay::GateHold;
use crate::relay::slab::Key;
use crate::runtime::PollKey;
use crate::runtime::reactor::Closing;
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

impl RelayService {
    pub(super) fn is_dead(&self, leg: Key) -> bool {
        let waiting = self.waiting.borrow();
        waiting.get(leg).is_some_and(WaitingLeg::is_dead)
    }

    pub(super) fn has_gone(&self, leg: Key, readiness: Readiness) -> bool {
        self.waiting
            .borrow()
            .get(leg)
            .is_some_and(|waiting| waiting.is_gone(readiness))
    }

    /// An acceptor died while it waited, or was never told that it waits.
    pub(super) fn lose_waiting(&self, leg: Key) {
        if let Some(waiting) = self.close_waiting(leg) {
            let now = self.world.reactor.now();
            // Stale only if the table gave it up in the same breath.
            let _ = self.rendezvous.borrow_mut().waiting_leg_gone(waiting, now);
        }
    }

    /// Closes an acceptor without a word.
    pub(super) fn close_waiting(&self, leg: Key) -> Option<CandidateRef> {
        let waiting = self.take_waiting(leg)?;
        self.world
            .reactor
            .retire(waiting.poll, waiting.socket, Closing::Clean);
        Some(waiting.candidate)
    }

    pub(super) fn take_waiting(&self, leg: Key) -> Option<WaitingLeg> {
        let waiting = self.waiting.borrow_mut().remove(leg)?;
        if let Some(ip) = waiting.peer.ip() {
            let mut by_address = self.waiting_by_address.borrow_mut();
            if let Some(count) = by_address.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    by_address.remove(&ip);
                }
            }
        }
        Some(waiting)
    }

    pub(super) fn admits_waiting(&self, peer: &PeerAddress) -> bool {
        let by_address = self.waiting_by_address.borrow();
        let count = peer
            .ip()
            .and_then(|ip| by_address.get(&ip).copied())
            .unwrap_or(0);
        count < self.settings.waiting_per_address_max
    }

    /// Closes acceptors whose association is gone.
    pub(super) fn close_expired(&self) {
        let now = self.world.reactor.now();
        loop {
            let closing = self.rendezvous.borrow_mut().poll_close(now);
            match closing {
                Some(closing) => self.close_waiting(closing.leg),
                None => break,
            };
        }
    }
}
