//! What every proxy is to its shard, and what it adds.
//!
//! A proxy's work is in its tasks: its shards have nothing to tell each other,
//! it watches no socket outside its tasks, and it needs no turn of its own.

use std::rc::Rc;

use crate::quic::driver::QuicEvent;
use crate::relay::CloseReason;
use crate::relay::mux::MuxEvent;
use crate::runtime::Owner;
use crate::runtime::readiness::Readiness;
use crate::runtime::socket::Socket;
use crate::shard::errand::Errand;
use crate::shard::session_log::Session;
use crate::shard::status::{Detail, ShardStatus};
use crate::shard::world::{Service, World};
use crate::slab::Key;
use crate::time::Timestamp;

/// What one shard of a proxy adds.
pub trait Proxy: 'static {
    /// What it remembers of a session.
    type Session: Copy + 'static;
    /// What it is told while it runs.
    type Message: Send + 'static;

    fn own_world(&self) -> &Rc<World<Self::Session, Self::Message>>;

    /// It is told something.
    fn take_message(&self, message: Self::Message);

    /// A local connection came in, for a proxy that listens.
    fn accept_local(self: &Rc<Self>, _socket: Socket) {
        unreachable!("this proxy listens nowhere")
    }

    /// See [`Service::is_session`].
    fn is_session(&self, _session: Self::Session, _reason: CloseReason, _bytes: [u64; 2]) -> bool {
        true
    }

    /// See [`Service::errand`].
    fn errand(&self, _session: Self::Session) -> Option<Rc<Errand>> {
        None
    }

    /// See [`Service::add_status`].
    fn add_status(&self, _status: &mut ShardStatus, _detail: Detail) {}

    /// A session ended, see [`Service::handle_session_ended`].
    fn end_session(&self, _session: Self::Session, _reason: CloseReason, _bytes: [u64; 2]) {}

    /// See [`Service::handle_quic`].
    fn take_quic(self: &Rc<Self>, _event: QuicEvent) {}

    /// See [`Service::handle_mux`].
    fn take_mux(self: &Rc<Self>, _event: MuxEvent) {}

    /// See [`Service::handle_mux_lost`].
    fn lose_mux(self: &Rc<Self>, _tunnel: Key, _reason: CloseReason) {}

    /// Give up what only waits.
    fn stop(&self) {}

    /// Whether a task has something to finish before the shard may end.
    fn has_work(&self) -> bool;
}

impl<P: Proxy> Service for P {
    type Context = P::Session;
    type Message = P::Message;

    fn world(&self) -> &Rc<World<P::Session, P::Message>> {
        self.own_world()
    }

    fn handle_accepted(self: &Rc<Self>, _listener: usize, socket: Socket) {
        self.accept_local(socket);
    }

    fn handle_ready(self: &Rc<Self>, _owner: Owner, _readiness: Readiness) {
        unreachable!("a proxy watches no socket outside its tasks")
    }

    fn handle_message(self: &Rc<Self>, message: P::Message) {
        self.take_message(message);
    }

    fn is_session(&self, session: P::Session, reason: CloseReason, bytes: [u64; 2]) -> bool {
        Proxy::is_session(self, session, reason, bytes)
    }

    fn errand(&self, session: P::Session) -> Option<Rc<Errand>> {
        Proxy::errand(self, session)
    }

    fn add_status(&self, status: &mut ShardStatus, detail: Detail) {
        Proxy::add_status(self, status, detail);
    }

    fn handle_session_ended(
        self: &Rc<Self>,
        session: &Session<P::Session>,
        reason: CloseReason,
        bytes: [u64; 2],
    ) {
        self.end_session(session.context, reason, bytes);
    }

    fn handle_quic(self: &Rc<Self>, event: QuicEvent) {
        self.take_quic(event);
    }

    fn handle_mux(self: &Rc<Self>, event: MuxEvent) {
        self.take_mux(event);
    }

    fn handle_mux_lost(self: &Rc<Self>, tunnel: Key, reason: CloseReason) {
        self.lose_mux(tunnel, reason);
    }

    fn handle_turn(self: &Rc<Self>, _now: Timestamp) {}

    fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    fn handle_drain(self: &Rc<Self>) {
        self.stop();
    }

    fn is_busy(&self) -> bool {
        self.has_work()
    }
}
