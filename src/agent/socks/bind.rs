//! BIND: a relay awaits somebody for a local client, and tells when that one has come.
//!
//! ```text
//! client ── request ── the same ── relay, which listens
//!        ── two replies, as they come; the end of either connection ends the other
//! ```
//!
//! Left out: listening here. Whom a rule keeps from the relays is awaited nowhere; by a tunnel
//! nobody is, as jProxy has no word for it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::entrance::Inquiry;
use super::journal::{Task, TaskKind};
use super::local::Local;
use super::pool::Pool;
use super::pools::{Granted, accepted};
use super::refusal::Refusal;
use super::ways_out::WaysOut;
use super::{SocksService, as_routed};
use crate::access::routing::Action;
use crate::agent::leg;
use crate::protocol::socks5::{Destination, Request};
use crate::runtime::flag::{Either, both, either};
use crate::session::refused::Refused;
use crate::shard::errand::{Errand, target};
use crate::shard::tally::Counted;
use crate::time::Timestamp;

/// Clients of one shard for whom somebody is awaited at a time.
const AWAITING_MAX: usize = 256;

impl SocksService {
    /// Has a relay await somebody for a client, which counts as one that is being served until
    /// it knows where.
    pub(super) async fn await_peer(
        &self,
        mut local: Local,
        request: &Request,
        (serving, since): (Counted, Timestamp),
    ) {
        let destination = &request.destination;
        let _awaiting = self.awaiting.enter();
        let asked = match self.awaiting.count() <= AWAITING_MAX {
            true => self.ask_for_peer(request).await,
            false => Err(Refusal::by_proxy(Refused::TooManyBinds)),
        };
        let Granted {
            mut inquiry,
            bound,
            pool,
        } = match asked {
            Ok(granted) => granted,
            Err(refusal) => return self.refuse(local, Some(destination), &refusal).await,
        };
        if local.answer(Ok(bound)).await.is_err() {
            return;
        }
        drop(serving);
        let way = pool.way();
        let running = self.journal.begin(Task {
            target: Some(target(destination)),
            ..Task::new(TaskKind::Bind, local.peer_address(), Rc::clone(way))
        });
        let come = self.await_second_reply(&mut local, &mut inquiry, pool);
        let come = come.await.and_then(|peer| self.judge(destination, peer));
        let peer = match come {
            Ok(peer) => peer,
            Err(refusal) => {
                let relay = inquiry.into_stream();
                let told = self.refuse(local, Some(destination), &refusal);
                // Neither waits for the other to close.
                both(told, relay.part(&self.world.reactor, &[])).await;
                return;
            }
        };
        if local.answer(Ok(peer)).await.is_err() {
            return;
        }
        drop(running);
        let left = leg::into_leg(local.into_stream(), since);
        let right = leg::into_leg(inquiry.into_stream(), since);
        let number = self.journal.begin_pair(Errand {
            user: None,
            target: target(destination),
            way: Some(Rc::clone(way)),
            command: request.command.as_str(),
        });
        self.world.join(left, right, number);
    }

    /// Asks as the rules say.
    async fn ask_for_peer(&self, request: &Request) -> Result<Granted<'_>, Refusal> {
        let rules = Arc::clone(&self.rules.borrow());
        let ruling = rules.judge(&as_routed(&request.destination));
        match ruling.action() {
            Action::Relay | Action::RelayOrDirect => match &self.ways_out {
                WaysOut::Pools(pools) => pools.ask(request).await,
                WaysOut::Tunnels(_) => Err(Refusal::by_proxy(Refused::CommandNotSupported)),
            },
            Action::Deny => Err(Refusal::by_rule(&ruling)),
            Action::Direct => Err(Refusal::by_proxy(Refused::CommandNotSupported)),
        }
    }

    /// Waits until somebody has come, and as long as the client waits; gives who it is.
    async fn await_second_reply(
        &self,
        local: &mut Local,
        inquiry: &mut Inquiry,
        pool: &Pool,
    ) -> Result<SocketAddr, Refusal> {
        let waiting = either(local.departure(), inquiry.next_reply());
        match self.stop.or_raised(waiting).await {
            Some(Either::Second(Ok(reply))) => accepted(pool, &reply),
            Some(Either::Second(Err(error))) => Err(error.refusal(pool.gateway().authority())),
            Some(Either::First(departure)) => Err(Refusal::by_proxy(departure.into())),
            None => Err(Refusal::by_proxy(Refused::Draining)),
        }
    }

    /// Lets whoever has come in, unless a rule denies it. What was asked for need not have
    /// told: it may have been a name, or anybody.
    fn judge(&self, destination: &Destination, peer: SocketAddr) -> Result<SocketAddr, Refusal> {
        let rules = self.rules.borrow();
        let ruling = rules.judge_peer(&as_routed(destination), peer.ip());
        match ruling.action() {
            Action::Deny => Err(Refusal::by_rule(&ruling)),
            Action::Relay | Action::RelayOrDirect | Action::Direct => Ok(peer),
        }
    }
}
