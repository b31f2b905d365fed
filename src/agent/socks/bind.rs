//! BIND: a relay awaits somebody for a local client, and tells when that one has come.
//!
//! ```text
//! client ── request ── the same ── relay, which listens
//!        ── two replies, as they come; the end of either connection ends the other
//! ```
//!
//! Left out: listening here. Whom a rule keeps from the relays is awaited nowhere.

use std::rc::Rc;
use std::sync::Arc;

use super::local::Local;
use super::refusal::Refusal;
use super::{Granted, SocksService, accepted, as_routed};
use crate::access::routing::{Action, Rule};
use crate::agent::leg;
use crate::protocol::socks5::{ReplyCode, Request};
use crate::runtime::flag::{Either, either};
use crate::session::refused::Refused;
use crate::shard::errand::{Errand, target};
use crate::shard::tally::Counted;
use crate::time::Timestamp;

impl SocksService {
    /// Has a relay await somebody for a client, which counts as one that is being served until
    /// the two are joined.
    pub(super) async fn await_peer(
        &self,
        mut local: Local,
        request: &Request,
        (serving, since): (Counted, Timestamp),
    ) {
        let destination = &request.destination;
        let Granted {
            mut exchange,
            bound,
            pool,
        } = match self.ask_for_peer(request).await {
            Ok(granted) => granted,
            Err(refusal) => return self.refuse(local, Some(destination), &refusal).await,
        };
        if local.answer(Ok(bound)).await.is_err() {
            return;
        }
        let waiting = either(local.departure(), exchange.next_reply());
        let come = match self.stop.or_raised(waiting).await {
            Some(Either::Second(Ok(reply))) => accepted(pool, &reply),
            Some(Either::Second(Err(error))) => Err(error.refusal(pool.gateway())),
            Some(Either::First(departure)) => Err(Refusal::failed(departure.into())),
            None => Err(Refusal::failed(Refused::Draining)),
        };
        let peer = match come {
            Ok(peer) => peer,
            Err(refusal) => {
                exchange.into_stream().part(&self.world.reactor, &[]).await;
                return self.refuse(local, Some(destination), &refusal).await;
            }
        };
        if local.answer(Ok(peer)).await.is_err() {
            return;
        }
        drop(serving);
        let left = leg::into_leg(local.into_stream(), since);
        let right = leg::into_leg(exchange.into_stream(), since);
        let number = self.journal.begin_pair(Errand {
            user: None,
            target: target(destination),
            way: Some(Rc::clone(pool.way())),
            command: request.command,
        });
        self.world.join(left, right, number);
    }

    /// Asks as the rules say.
    async fn ask_for_peer(&self, request: &Request) -> Result<Granted<'_>, Refusal> {
        let rules = Arc::clone(&self.rules.borrow());
        let rule = rules.deciding(&as_routed(&request.destination));
        let cited = || rule.map_or_else(String::new, |rule| rules.cite(rule));
        match rule.map_or_else(Action::default, Rule::action) {
            Action::Relay | Action::RelayOrDirect => self.ask(request).await,
            Action::Deny => Err(Refusal::by_rule(cited())),
            Action::Direct => Err(Refusal::by_proxy(
                ReplyCode::CommandNotSupported,
                Refused::CommandNotSupported,
            )),
        }
    }
}
