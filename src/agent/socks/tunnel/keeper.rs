//! Opens the tunnel, and again when it is lost.
//!
//! ```text
//!              a relay lets us in
//! Opening ─────────────────────────▶ Up ── lost ──▶ Opening, after a pause
//!    │ none does                      ▲
//!    └────────▶ Down ── tried again ──┘
//! ```
//!
//! Clients wait while it is opening, for it may be there soon; while it is down they are told so.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tracing::{info, warn};

use super::channel::TUNNEL_TIMEOUT;
use super::gateway::{TunnelError, TunnelGateway};
use super::{CHANNELS_MAX, Numbers, Tunnels};
use crate::access::jproxy::ClientKey;
use crate::agent::random::random_number;
use crate::agent::reconnect::{Backoff, DELAY_MAX};
use crate::agent::relay_trouble::{Trouble, Troubles};
use crate::agent::socks::refusal::Refusal;
use crate::relay::CloseReason;
use crate::relay::mux::Role;
use crate::runtime::executor::spawn;
use crate::runtime::flag::Flag;
use crate::session::refused::Refused;
use crate::shard::errand::one_word;
use crate::shard::mux::MuxStart;
use crate::shard::peer_address::PeerAddress;
use crate::shard::status::RelayStatus;
use crate::slab::Key;
use crate::time::Timestamp;

/// How the tunnel is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// It may be there soon.
    Opening,
    Up(Live),
    /// No relay could be had; this one, if any, could be reached.
    Down {
        refusing: Option<usize>,
    },
}

/// A tunnel that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) tunnel: Key,
    /// Its relay's place in the order of preference.
    pub(super) relay: usize,
    pub(super) peer: PeerAddress,
}

/// One relay, and how it was found.
#[derive(Debug)]
pub(super) struct RelayRecord {
    gateway: TunnelGateway,
    /// The relay, as a session's way.
    way: Rc<str>,
    found: Cell<Found>,
    troubles: Troubles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It was not tried.
    New,
    Up,
    Down(Trouble),
}

impl RelayRecord {
    pub(super) fn new(gateway: TunnelGateway) -> Self {
        Self {
            way: one_word(&gateway.url().to_string()).into(),
            gateway,
            found: Cell::new(Found::New),
            troubles: Troubles::default(),
        }
    }

    pub(super) const fn way(&self) -> &Rc<str> {
        &self.way
    }

    pub(super) fn authority(&self) -> &str {
        self.gateway.authority()
    }

    fn status(&self) -> RelayStatus {
        RelayStatus {
            url: (*self.way).into(),
            is_down: matches!(self.found.get(), Found::Down(_)),
            entrances: None,
            failures: self.troubles.counts(),
            last_failure: self.troubles.last(),
        }
    }

    fn handle_success(&self) {
        if self.found.replace(Found::Up) != Found::Up {
            info!(relay = %self.gateway, "the relay lets us in");
        }
    }

    fn handle_failure(&self, now: Timestamp, error: &TunnelError) {
        let trouble = error.trouble();
        self.troubles.add(now, trouble, error);
        if self.found.replace(Found::Down(trouble)) != Found::Down(trouble) {
            let (relay, next) = (&self.gateway, error.next_step().unwrap_or_default());
            match trouble {
                Trouble::Unreachable => warn!(%relay, %error, next, "the relay is not reached"),
                Trouble::Refuses | Trouble::Mute => {
                    warn!(%relay, %error, next, "the relay lets nobody in");
                }
            }
        }
    }
}

impl Tunnels {
    /// Starts keeping the tunnel.
    pub(in crate::agent::socks) fn start(self: &Rc<Self>) {
        let tunnels = Rc::clone(self);
        spawn(async move {
            tunnels.stop.or_raised(tunnels.keep()).await;
        });
    }

    async fn keep(&self) {
        let reactor = &self.world.reactor;
        let mut backoff = Backoff::default();
        loop {
            let renewed = Rc::new(Flag::default());
            self.renewed.replace(Rc::clone(&renewed));
            let key = Arc::clone(&self.key.borrow());
            let opened = self.open(&key).await;
            let opened_at = reactor.now();
            self.phase.set(match opened {
                Ok(live) => Phase::Up(live),
                Err(refusing) => Phase::Down { refusing },
            });
            let is_lost = |phase| (!matches!(phase, Phase::Up(_))).then_some(());
            if opened.is_err() {
                let until = opened_at + backoff.handle_failure(random_number());
                reactor.deadline(until, renewed.raised()).await;
            } else {
                self.phase.until(is_lost).await;
                // A relay that takes tunnels and drops them is not to be hammered.
                if reactor.now().since(opened_at) >= DELAY_MAX {
                    backoff.handle_success();
                }
                backoff.rest(reactor).await;
            }
        }
    }

    /// Goes in at the first relay that can be had; else tells which one could be reached.
    async fn open(&self, key: &ClientKey) -> Result<Live, Option<usize>> {
        let mut refusing = None;
        for (index, relay) in self.relays.iter().enumerate() {
            match relay.gateway.enter(&self.world, key).await {
                Ok((stream, session_key)) => {
                    relay.handle_success();
                    let peer = stream.peer_address().into();
                    let start = MuxStart {
                        key: session_key,
                        role: Role::Client,
                        dialect: self.dialect,
                        channels_max: CHANNELS_MAX,
                    };
                    self.numbers.replace(Numbers::new());
                    return Ok(Live {
                        tunnel: self.world.begin_mux(stream, start),
                        relay: index,
                        peer,
                    });
                }
                Err(error) => {
                    relay.handle_failure(self.world.reactor.now(), &error);
                    if error.trouble() != Trouble::Unreachable {
                        refusing.get_or_insert(index);
                    }
                }
            }
        }
        Err(refusing)
    }

    /// The tunnel, if it is there `until` then.
    pub(super) async fn live(&self, until: Timestamp) -> Result<Live, Refusal> {
        let known = |phase| match phase {
            Phase::Opening => None,
            Phase::Up(live) => Some(Ok(live)),
            Phase::Down { refusing } => Some(Err(refusing)),
        };
        let knowing = self.stop.or_raised(self.phase.until(known));
        match self.world.reactor.deadline(until, knowing).await {
            Some(Some(Ok(live))) => Ok(live),
            Some(Some(Err(Some(index)))) => {
                Err(Refusal::not_let_in(self.relays[index].authority()))
            }
            Some(Some(Err(None))) | None => Err(Refusal::no_relay()),
            Some(None) => Err(Refusal::by_proxy(Refused::Draining)),
        }
    }

    /// The relay by which a client's datagrams go, as soon as there is a tunnel.
    pub(in crate::agent::socks) async fn way_of_datagrams(&self) -> Result<Rc<str>, Refusal> {
        let live = self.live(self.world.reactor.now() + TUNNEL_TIMEOUT).await?;
        Ok(Rc::clone(self.relays[live.relay].way()))
    }

    /// As [`Self::live`], if it is there now.
    pub(super) fn live_now(&self) -> Option<Live> {
        match self.phase.get() {
            Phase::Up(live) => Some(live),
            Phase::Opening | Phase::Down { .. } => None,
        }
    }

    pub(super) fn is_live(&self, tunnel: Key) -> bool {
        self.live_now().is_some_and(|live| live.tunnel == tunnel)
    }

    /// Goes in by another key from now on. The tunnel that is there stays, and a relay that
    /// refused the one before is tried at once.
    pub(in crate::agent::socks) fn renew_key(&self, key: &Arc<ClientKey>) {
        if self.key.borrow().hash() != key.hash() {
            self.key.replace(Arc::clone(key));
            self.renewed.borrow().raise();
        }
    }

    /// A tunnel is over, and its channels have ended.
    pub(in crate::agent::socks) fn handle_lost(&self, tunnel: Key, reason: CloseReason) {
        let Some(live) = self.live_now().filter(|live| live.tunnel == tunnel) else {
            return;
        };
        self.phase.set(Phase::Opening);
        if !self.stop.is_raised() {
            let relay = &self.relays[live.relay].gateway;
            info!(%relay, reason = reason.label(), "the tunnel is lost, and opened again");
        }
    }

    /// The agent stops: the tunnel ends with its last channel.
    pub(in crate::agent::socks) fn stop(&self) {
        self.leave_if_idle();
    }

    pub(super) fn leave_if_idle(&self) {
        if let Some(live) = self.live_now().filter(|_| self.stop.is_raised())
            && self.world.muxes.channels_of(live.tunnel) == Some(0)
        {
            self.world.muxes.leave(live.tunnel);
        }
    }

    /// How the relays are, for operators.
    pub(in crate::agent::socks) fn statuses(&self) -> Vec<RelayStatus> {
        self.relays.iter().map(RelayRecord::status).collect()
    }
}
