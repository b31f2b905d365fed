//! Acceptors that wait for their connector, watched so that a dead one is
//! noticed.

use rustix::io::Errno;

use super::ear::{Ear, PREFIX_BYTES_MAX, Waits};
use super::leg::Leg;
use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use super::session_log::Party;
use crate::association::table::CandidateRef;
use crate::protocol::websocket::CloseCode;
use crate::relay::codec::{Codec, Heard};
use crate::relay::keepalive::PingSettings;
use crate::relay::{GateHold, LegIo};
use crate::runtime::PollKey;
use crate::runtime::reactor::Closing;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::slab::Key;
use crate::time::Timestamp;

/// One acceptor that waits.
#[derive(Debug)]
pub struct WaitingLeg {
    pub socket: Socket,
    pub poll: PollKey,
    pub candidate: CandidateRef,
    /// Application bytes that came behind its request. With a codec, as
    /// `Codec::keep` has them.
    pub prefix: Vec<u8>,
    pub codec: Option<Box<Codec>>,
    /// It had more to say than was listened to at once.
    pub talks: bool,
    pub gate: GateHold,
    pub peer: PeerAddress,
    pub since: Timestamp,
    /// All that was reported of it so far; the pair that it joins must know.
    pub readiness: Readiness,
}

impl WaitingLeg {
    /// The left leg of the pair that it joins.
    #[must_use]
    pub fn into_leg(self) -> Leg {
        Leg {
            io: LegIo {
                socket: self.socket,
                prefix: self.prefix,
                gate: self.gate,
                codec: self.codec,
                half: None,
            },
            party: Party {
                poll: self.poll,
                peer: self.peer,
            },
            since: self.since,
            readiness: self.readiness,
        }
    }

    /// Whether nobody waits any more, whatever the ring has said until now.
    #[must_use]
    pub fn is_dead(&mut self, ear: &mut Ear) -> bool {
        self.is_gone(self.socket.poll_now(), ear)
    }

    /// Whether what happened on the socket means that nobody waits any more.
    ///
    /// Bytes that the acceptor sends early stay in the kernel. A FIN behind
    /// unread bytes is a half-close: those bytes are still to be delivered. A
    /// FIN behind nothing is an acceptor that went away.
    #[must_use]
    pub fn is_gone(&mut self, readiness: Readiness, ear: &mut Ear) -> bool {
        if readiness.is_error() || readiness.is_hangup() {
            return true;
        }
        if let Some(codec) = &mut self.codec {
            let waits = ear.listen(&self.socket, codec, &mut self.prefix);
            self.talks = waits == Waits::AndTalks;
            return waits == Waits::NoMore;
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
        let ear = &mut self.ear.borrow_mut();
        let mut waiting = self.waiting.borrow_mut();
        waiting.get_mut(leg).is_some_and(|leg| leg.is_dead(ear))
    }

    pub(super) fn has_gone(&self, leg: Key, readiness: Readiness) -> bool {
        let ear = &mut self.ear.borrow_mut();
        let mut waiting = self.waiting.borrow_mut();
        let Some(found) = waiting.get_mut(leg) else {
            return false;
        };
        let is_gone = found.is_gone(readiness, ear);
        if found.talks && !is_gone {
            self.unheard.borrow_mut().push(leg);
        }
        is_gone
    }

    /// An acceptor died while it waited, or was never told that it waits.
    pub(super) fn lose_waiting(&self, leg: Key) {
        if let Some(waiting) = self.close_waiting(leg) {
            let now = self.world.reactor.now();
            // Stale only if the table gave it up in the same breath.
            let _ = self.rendezvous.borrow_mut().waiting_leg_gone(waiting, now);
        }
    }

    /// Closes an acceptor, with a word if its protocol has one.
    pub(super) fn close_waiting(&self, leg: Key) -> Option<CandidateRef> {
        let mut waiting = self.take_waiting(leg)?;
        if let Some(codec) = &mut waiting.codec {
            let ear = &mut self.ear.borrow_mut();
            ear.bid_farewell(&waiting.socket, codec, CloseCode::GOING_AWAY);
        }
        self.world
            .reactor
            .retire(waiting.poll, waiting.socket, Closing::Clean);
        Some(waiting.candidate)
    }

    pub(super) fn take_waiting(&self, leg: Key) -> Option<WaitingLeg> {
        let waiting = self.waiting.borrow_mut().remove(leg)?;
        self.waiting_per_address.remove(waiting.peer);
        self.connections_per_address.remove(waiting.peer);
        Some(waiting)
    }

    pub(super) fn admits_waiting(&self, peer: PeerAddress) -> bool {
        self.waiting_per_address.count(peer) < self.settings().waiting_per_address_max
    }

    /// Listens on to acceptors that had more to say.
    pub(super) fn listen_on(&self) {
        let unheard = self.unheard.take();
        for leg in unheard {
            if self.has_gone(leg, Readiness::NONE) {
                self.lose_waiting(leg);
            }
        }
    }

    /// Looks for a sign of life of every acceptor that can be asked for one. One
    /// whose prefix is full is not read, so that nothing can come of it.
    pub(super) fn look_for_life(&self) {
        let now = self.world.reactor.now();
        if self.next_look.get().is_none_or(|due| due > now) {
            return;
        }
        let ping = self.world.settings.engine.ping;
        let (dead, is_any) = self.find_dead(ping);
        self.next_look.set(is_any.then(|| now + ping.interval));
        for key in dead {
            self.lose_waiting(key);
        }
    }

    /// The acceptors that showed no sign of life, and whether there are any that can
    /// be asked.
    fn find_dead(&self, ping: PingSettings) -> (Vec<Key>, bool) {
        let mut ear = self.ear.borrow_mut();
        let mut waiting = self.waiting.borrow_mut();
        let keys: Vec<Key> = waiting.keys().collect();
        let (mut dead, mut is_any) = (Vec::new(), false);
        for key in keys {
            let Some(leg) = waiting.get_mut(key) else {
                continue;
            };
            let Some(codec) = &mut leg.codec else {
                continue;
            };
            is_any |= codec.can_be_asked();
            // Of one that is not read nothing can come.
            let is_read = leg.prefix.len() < PREFIX_BYTES_MAX && codec.heard() == Heard::Open;
            if is_read && ear.look(&leg.socket, codec, ping) == Waits::NoMore {
                dead.push(key);
            }
        }
        (dead, is_any)
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
