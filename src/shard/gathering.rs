//! The requests of a tunnel come together, once all are there.
//!
//! A pair is a request with a body and an answer with one. What breaks one pair breaks the
//! other.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use tracing::debug;

use super::caller::{Caller, CallerRequest};
use super::forwarding::News;
use super::leg::Leg;
use super::rendezvous::RelayService;
use super::sessions::Origin;
use super::tunnels::Tunnel;
use crate::protocol::ptth_http::{Call, ConnectionId, Place, Whole};
use crate::relay::CloseReason;
use crate::relay::codec::HttpBody;
use crate::runtime::clock;

/// What a request is to its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Connect,
    Accept,
    Upstream,
    Downstream,
}

/// The requests of a tunnel, as they come together.
#[derive(Debug, Default)]
pub(super) struct Gathering(RefCell<Vec<(Role, Caller)>>);

/// Those of a tunnel that came to nothing after all.
impl Drop for Gathering {
    fn drop(&mut self) {
        for (_, caller) in self.0.take() {
            caller.link.reset();
        }
    }
}

impl RelayService {
    pub(super) fn begin_if_whole(&self, id: ConnectionId) {
        let whole = self.forwards.board.borrow_mut().take_whole(id);
        let Some(Whole {
            connect,
            upstream,
            accept,
            downstream,
        }) = whole
        else {
            return;
        };
        let gathering = Rc::new(Gathering::default());
        for (waiter, role) in [
            (connect, Role::Connect),
            (upstream, Role::Upstream),
            (accept, Role::Accept),
            (downstream, Role::Downstream),
        ] {
            self.forwards
                .waiting
                .deliver(waiter, News::Whole(Rc::clone(&gathering), role));
        }
    }

    /// A request joins the others; the last one has the bytes begin to flow.
    pub(super) fn come_together(
        self: &Rc<Self>,
        gathering: &Gathering,
        role: Role,
        caller: Caller,
    ) {
        gathering.0.borrow_mut().push((role, caller));
        if gathering.0.borrow().len() < 4 {
            return;
        }
        let mut callers = gathering.0.take();
        let mut take = |wanted| {
            let at = callers.iter().position(|(role, _)| *role == wanted);
            callers.swap_remove(at.expect("each comes once")).1
        };
        let (connect, accept) = (take(Role::Connect), take(Role::Accept));
        let tunnel = self.begin_tunnel(Tunnel::of(&connect.request, &accept.request));
        let ways = [
            (take(Role::Upstream), accept, tunnel),
            (take(Role::Downstream), connect, tunnel + 1),
        ];
        // Both are begun before one is ended, so that the other is there to be ended.
        let failed = ways.map(|(request, answer, number)| {
            let joined = self.join_bodies(request, answer, number);
            joined.err().map(|error| (number, error))
        });
        for (number, error) in failed.into_iter().flatten() {
            debug!(%error, "a body did not begin");
            self.end_way(number, CloseReason::Severed, [0; 2]);
        }
    }

    fn join_bodies(&self, request: Caller, answer: Caller, number: u32) -> io::Result<()> {
        let stream = request.request.stream;
        let body = stream.expect("its call streams").body;
        let [of_request, of_answer] = HttpBody::both(body);
        let left = match self.body_leg(request, of_request) {
            Ok(left) => left,
            Err(error) => {
                answer.link.reset();
                return Err(error);
            }
        };
        match self.body_leg(answer, of_answer) {
            Ok(right) => self.begin_session(left, right, Origin::Forwarded(number), None),
            Err(error) => {
                left.give_up(&self.world.reactor);
                return Err(error);
            }
        }
        Ok(())
    }

    fn body_leg(&self, caller: Caller, body: HttpBody) -> io::Result<Leg> {
        let Caller { link, request, .. } = caller;
        let workshop = &self.world.workshop;
        Leg::with_body(link, body, workshop, request.peer, request.since)
    }
}

impl Tunnel {
    /// What is known of it once it is whole.
    fn of(connect: &CallerRequest, accept: &CallerRequest) -> Self {
        let Call::Connect { server, port } = connect.call.clone() else {
            unreachable!("its role says what it asks");
        };
        Self {
            client: connect.name.clone(),
            place: Place { server, port },
            peers: [connect.peer, accept.peer],
            waiting_since: connect.since,
            joined_at: clock::now(),
        }
    }
}
