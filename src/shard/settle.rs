//! What a leg comes to at its association's home: it waits, is joined with who waits, is
//! told who is there, or is turned away.

use std::rc::Rc;

use uuid::Uuid;

use super::leg::{Leg, Remains};
use super::peer_address::PeerAddress;
use super::rendezvous::{Newcomer, RelayService, TAG_WAITING, rendezvous_key};
use super::sessions::Origin;
use super::waiting::WaitingLeg;
use crate::association::key::{AssociationKey, RendezvousKey};
use crate::association::table::{Accepted, Joined, OnUnknown};
use crate::protocol::jet::{self, Accept, AcceptPlace, Connect, Place};
use crate::runtime::Owner;
use crate::session::handshake::refuse;
use crate::session::refused::Refused;
use crate::slab::Key;

/// What became of a request in the table.
enum Settled {
    Accepted(Admission),
    Joined(Joined<Key>),
    Known,
}

/// An acceptor's place in the table and among those that wait.
struct Admission {
    leg: Key,
    association: AssociationKey,
    accepted: Accepted<Key>,
}

impl RelayService {
    /// Acts on a request at its association's home.
    pub(super) async fn settle(self: &Rc<Self>, mut newcomer: Newcomer) {
        // First: an acceptor's key is known before it is stored, so nothing may
        // leave its slot in between.
        self.close_expired();
        let settled = match newcomer.arrival.message {
            jet::Message::Accept(accept) => {
                // Acceptors are counted by address, logged or not.
                if newcomer.peer == PeerAddress::UNKNOWN {
                    newcomer.peer = newcomer.stream.socket().peer_address().into();
                }
                self.admit_acceptor(accept, newcomer.peer)
                    .map(Settled::Accepted)
            }
            jet::Message::Connect(connect) => self.find_acceptor(connect).map(Settled::Joined),
            jet::Message::Test(test) => self.look_up(test.place).map(|()| Settled::Known),
        };
        match settled {
            Ok(Settled::Accepted(admission)) => self.store_acceptor(newcomer, admission),
            Ok(Settled::Joined(joined)) => self.join(newcomer, joined),
            Ok(Settled::Known) => {
                let words = newcomer.arrival.confirm();
                refuse(&self.world.reactor, newcomer.stream, words.as_bytes()).await;
            }
            Err(refused) => self.turn_away(newcomer, refused).await,
        }
    }

    /// Enters an acceptor in the table, or says why not.
    fn admit_acceptor(&self, accept: Accept, peer: PeerAddress) -> Result<Admission, Refused> {
        if !self.admits_waiting(peer) {
            return Err(Refused::TooManyWaiting);
        }
        let mut rendezvous = self.rendezvous.borrow_mut();
        let (key, on_unknown) = match accept.place {
            AcceptPlace::Named(place) => (rendezvous_key(place), self.settings().on_unknown),
            AcceptPlace::Minted => {
                let minted = rendezvous
                    .mint(self.random)
                    .map_err(|_| Refused::TableFull)?;
                (
                    RendezvousKey {
                        association: minted,
                        candidate: None,
                    },
                    OnUnknown::Create,
                )
            }
        };
        let leg = self.waiting.borrow().next_key();
        let accepted = rendezvous.accept(key, leg, on_unknown, self.world.reactor.now())?;
        Ok(Admission {
            leg,
            association: key.association,
            accepted,
        })
    }

    fn find_acceptor(&self, connect: Connect) -> Result<Joined<Key>, Refused> {
        let key = rendezvous_key(connect.place);
        let now = self.world.reactor.now();
        // An acceptor may have died so lately that the ring has not said so yet.
        let must_ask = !self.world.reactor.is_caught_up();
        loop {
            let leg = self.rendezvous.borrow().waiting_leg(key, now);
            match leg.filter(|leg| must_ask && self.is_dead(*leg)) {
                Some(leg) => self.lose_waiting(leg),
                None => break,
            }
        }
        Ok(self.rendezvous.borrow_mut().connect(key, now)?)
    }

    fn look_up(&self, place: Place) -> Result<(), Refused> {
        Ok(self
            .rendezvous
            .borrow()
            .test(rendezvous_key(place), self.world.reactor.now())?)
    }

    /// Has an acceptor wait: stored first, answered second.
    fn store_acceptor(&self, newcomer: Newcomer, admission: Admission) {
        let Newcomer {
            stream,
            mut arrival,
            peer,
            since,
        } = newcomer;
        let leg = admission.leg;
        let left_unread = arrival.left_unread();
        let gate = arrival.gate_hold(self.world.reactor.now());
        let reply = arrival.welcome(|| self.accept_details(admission.association.0));
        let watched = stream.into_watched(Owner {
            tag: TAG_WAITING,
            token: leg.index,
        });
        let readiness = watched.readiness | left_unread;
        let candidate = admission.accepted.candidate;
        let can_be_asked = arrival
            .codec
            .as_ref()
            .is_some_and(|codec| codec.can_be_asked());
        if can_be_asked && self.next_look.get().is_none() {
            let interval = self.world.settings.engine.ping.interval;
            self.next_look
                .set(Some(self.world.reactor.now() + interval));
        }
        let mut waiting = self.waiting.borrow_mut();
        let stored = waiting.insert(WaitingLeg {
            socket: watched.socket,
            poll: watched.poll,
            candidate,
            prefix: arrival.prefix,
            codec: arrival.codec,
            talks: false,
            gate,
            peer,
            since,
            readiness,
        });
        debug_assert_eq!(stored, leg, "nothing was stored in between");
        self.waiting_per_address.add(peer);
        self.connections_per_address.add(peer);
        let sent = waiting
            .get(leg)
            .map(|stored| stored.socket.send(reply.as_bytes()));
        drop(waiting);
        if let Some(replaced) = admission.accepted.replaced {
            self.close_waiting(replaced);
        }
        if sent != Some(Ok(reply.as_bytes().len())) {
            self.count_refused(peer, Refused::ReplyFailed);
            self.lose_waiting(leg);
        } else if self.has_gone(leg, readiness) {
            // It ended while the handshake still owned the socket.
            self.lose_waiting(leg);
        }
    }

    /// Joins a connector with the acceptor that waited for it.
    fn join(&self, newcomer: Newcomer, joined: Joined<Key>) {
        let Some(acceptor) = self.take_waiting(joined.acceptor) else {
            unreachable!("the table names only acceptors that wait");
        };
        let Newcomer {
            stream,
            mut arrival,
            peer,
            since,
        } = newcomer;
        let gate = arrival.gate_hold(self.world.reactor.now());
        let reply = arrival.welcome(|| self.accept_details(Uuid::nil()));
        let watched = stream.into_watched(Owner::TASK);
        // A connector that is gone already ends the pair like any other that
        // goes at once: the engine finds out.
        let _ = watched.socket.send(reply.as_bytes());
        let remains = Remains {
            left_unread: arrival.left_unread(),
            codec: arrival.codec,
            prefix: arrival.prefix,
            gate,
        };
        let right = Leg::new(watched, peer, since, remains);
        let session = Origin::Met(joined.candidate);
        self.begin_session(acceptor.into_leg(), right, session, joined.session_limit);
    }
}
