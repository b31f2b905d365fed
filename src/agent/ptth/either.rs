//! A proxy over QUIC, and the same by HTTPS for where UDP is blocked: one shard's.
//!
//! ```text
//!   quic/link/      knows whether UDP passes
//!   quic/forward.rs leaves local connections to forward.rs while it does not
//!   quic/expose.rs  has expose.rs listen as long
//! ```
//!
//! What runs by either way stays with it.

use std::convert::Infallible;
use std::rc::Rc;

use super::quic::link::Link;
use super::tunnel::{TunnelWorld, Way};
use crate::agent::proxy::Proxy;
use crate::quic::driver::QuicEvent;
use crate::relay::CloseReason;
use crate::runtime::socket::Socket;
use crate::shard::status::{Detail, ShardStatus};

/// Both of them.
#[derive(Debug)]
pub(super) struct EitherService<Q, H> {
    pub(super) link: Rc<Link>,
    pub(super) quic: Rc<Q>,
    pub(super) https: Rc<H>,
}

impl<Q, H> Proxy for EitherService<Q, H>
where
    Q: Proxy<Session = Way, Message = Infallible>,
    H: Proxy<Session = Way, Message = Infallible>,
{
    type Session = Way;
    type Message = Infallible;

    fn own_world(&self) -> &Rc<TunnelWorld<Infallible>> {
        self.quic.own_world()
    }

    fn take_message(&self, message: Infallible) {
        match message {}
    }

    fn accept_local(self: &Rc<Self>, socket: Socket) {
        self.quic.accept_local(socket);
    }

    fn add_status(&self, status: &mut ShardStatus, detail: Detail) {
        self.quic.add_status(status, detail);
        let mut by_https = status.clone();
        self.https.add_status(&mut by_https, detail);
        // While UDP passes nobody asks it, and it would say how it was long ago.
        if self.link.is_blocked() {
            status.relays = by_https.relays;
        }
        let sessions = by_https.sessions;
        status.sessions = sessions.filter(|one| self.link.is_blocked() || one.count > 0);
    }

    fn end_session(&self, way: Way, reason: CloseReason, bytes: [u64; 2]) {
        self.https.end_session(way, reason, bytes);
    }

    fn take_quic(self: &Rc<Self>, event: QuicEvent) {
        self.quic.take_quic(event);
    }

    fn stop(&self) {
        self.quic.stop();
        self.https.stop();
    }

    fn has_work(&self) -> bool {
        self.quic.has_work() || self.https.has_work()
    }
}
