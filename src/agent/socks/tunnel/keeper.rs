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
//! By another key another tunnel is opened, and the one before left once that is there.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::channel::TUNNEL_TIMEOUT;
use super::gateway::{TunnelError, TunnelGateway};
use super::{Answers, CHANNELS_MAX, Numbers, Tunnels};
use crate::access::jproxy::ClientKey;
use crate::agent::random::random_number;
use crate::agent::reconnect::{Backoff, DELAY_MAX};
use crate::agent::relay_trouble::{Trouble, Troubles};
use crate::agent::socks::refusal::Refusal;
use crate::config::shell_word::quoted;
use crate::protocol::jproxy::{Dialect, PacketError};
use crate::relay::CloseReason;
use crate::relay::mux::Role;
use crate::runtime::executor::spawn;
use crate::runtime::flag::Flag;
use crate::session::refused::Refused;
use crate::shard::errand::one_word;
use crate::shard::mux::MuxStart;
use crate::shard::peer_address::PeerAddress;
use crate::shard::session_log::millis;
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

/// A tunnel that was lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// As in [`Live`].
    relay: usize,
    reason: CloseReason,
    /// The relay has ended it, and has answered nothing of what was asked by it.
    is_unanswered: bool,
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

    /// A tunnel is there, from which nobody has anything before the relay replies in it.
    fn handle_opened(&self) {
        if self.is_mute() {
            debug!(relay = %self.gateway, "the tunnel is open");
        } else {
            self.found.set(Found::Up);
            info!(relay = %self.gateway, "the tunnel is open");
        }
    }

    /// The relay replies.
    pub(super) fn handle_heard(&self) {
        if self.found.replace(Found::Up) != Found::Up {
            info!(relay = %self.gateway, "the relay replies");
        }
    }

    /// A tunnel is over, and the next one is tried after a pause.
    fn handle_lost(&self, lost: Lost, pause: Duration, now: Timestamp) {
        let (relay, reason) = (&self.gateway, lost.reason.label());
        let next_try_ms = millis(pause);
        match self.is_mute() {
            true => debug!(%relay, reason, next_try_ms, "the tunnel is lost"),
            false => info!(%relay, reason, next_try_ms, "the tunnel is lost"),
        }
        if lost.is_unanswered {
            self.handle_failure(now, &TunnelError::FirstPacket { reason });
        }
    }

    /// Nothing could be reached by a tunnel to it.
    pub(super) fn doubt_dialect(&self, dialect: Dialect) {
        let relay = &self.gateway;
        let next = self.dialect_advice(dialect);
        warn!(
            %relay, %dialect, next,
            "nothing that was asked for could be reached by this tunnel, as it is where the relay \
             speaks another dialect, and connects with other ports"
        );
    }

    /// It has said something in the other dialect than this one of ours.
    pub(super) fn refute_dialect(&self, dialect: Dialect, error: PacketError) {
        let relay = &self.gateway;
        let next = self.dialect_advice(dialect);
        warn!(%relay, %error, next, "the relay speaks the other dialect, and its tunnel is closed");
    }

    /// What to do where it may speak another dialect than this one of ours.
    fn dialect_advice(&self, dialect: Dialect) -> String {
        let (url, other) = (self.gateway.url(), dialect.other());
        format!(
            "if the relay has dialect = \"{other}\", in [jproxy], in its rule for this user or as \
             ?dialect={other} of its listener, go there with --relay {} --dialect {other}; or have \
             it listen at {}://ADDR:PORT?dialect={dialect}",
            quoted(&url.with_pin()),
            url.scheme()
        )
    }

    /// What it said to the key before says nothing of another.
    fn handle_renewed(&self) {
        if let Found::Down(Trouble::Refuses | Trouble::Mute) = self.found.get() {
            self.found.set(Found::New);
        }
    }

    fn is_mute(&self) -> bool {
        self.found.get() == Found::Down(Trouble::Mute)
    }

    fn handle_failure(&self, now: Timestamp, error: &TunnelError) {
        let trouble = error.trouble();
        self.troubles.add(now, trouble, error);
        if self.found.replace(Found::Down(trouble)) != Found::Down(trouble) {
            let (relay, next) = (&self.gateway, error.next_step().unwrap_or_default());
            match trouble {
                Trouble::Unreachable => warn!(%relay, %error, next, "the relay is not reached"),
                Trouble::Refuses => warn!(%relay, %error, next, "the relay lets nobody in"),
                Trouble::Mute => warn!(%relay, %error, next, "the relay does not reply"),
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
            let Some(opened) = renewed.or_raised(self.open(&key)).await else {
                // What has not led in by this key does not matter any more.
                continue;
            };
            let opened_at = reactor.now();
            match opened {
                Ok(live) => {
                    self.begin(live);
                    let is_lost = |phase| (!matches!(phase, Phase::Up(_))).then_some(());
                    renewed.or_raised(self.phase.until(is_lost)).await;
                    if self.live_now().is_some() {
                        // By another key.
                        continue;
                    }
                    // A relay that takes tunnels and drops them is not to be hammered.
                    if reactor.now().since(opened_at) >= DELAY_MAX {
                        backoff.handle_success();
                    }
                }
                Err(refusing) if self.live_now().is_none() => {
                    self.phase.set(Phase::Down { refusing });
                }
                // There is one by the key before.
                Err(_) => {}
            }
            let pause = backoff.handle_failure(random_number());
            self.tell_lost(pause);
            let until = reactor.now() + pause;
            reactor.deadline(until, renewed.raised()).await;
        }
    }

    /// Clients go by this tunnel from now on. One by the key before ends with its last channel.
    fn begin(&self, live: Live) {
        self.tell_lost(Duration::ZERO);
        let before = self.live_now();
        self.numbers.replace(Numbers::new());
        self.answers.set(Answers::default());
        self.phase.set(Phase::Up(live));
        if let Some(before) = before {
            let relay = &self.relays[before.relay].gateway;
            info!(%relay, "the tunnel by the key before ends once nothing runs in it");
            self.world.muxes.leave(before.tunnel, CloseReason::Drained);
        }
    }

    fn tell_lost(&self, pause: Duration) {
        if let Some(lost) = self.lost.take() {
            let now = self.world.reactor.now();
            self.relays[lost.relay].handle_lost(lost, pause, now);
        }
    }

    /// Goes in at the first relay that can be had; else tells which one could be reached.
    async fn open(&self, key: &ClientKey) -> Result<Live, Option<usize>> {
        let mut refusing = None;
        for (index, relay) in self.relays.iter().enumerate() {
            match relay.gateway.enter(&self.world, key).await {
                Ok((stream, session_key)) => {
                    relay.handle_opened();
                    let peer = stream.peer_address().into();
                    let start = MuxStart {
                        key: session_key,
                        role: Role::Client,
                        dialect: self.dialect,
                        channels_max: CHANNELS_MAX,
                    };
                    let tunnel = self.world.begin_mux(stream, start);
                    self.places.borrow_mut().insert(tunnel, index);
                    return Ok(Live {
                        tunnel,
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

    /// Whose a tunnel is, until that is lost.
    pub(super) fn relay_of(&self, tunnel: Key) -> Option<&RelayRecord> {
        let place = self.places.borrow().get(&tunnel).copied();
        place.map(|place| &self.relays[place])
    }

    pub(super) fn is_live(&self, tunnel: Key) -> bool {
        self.live_now().is_some_and(|live| live.tunnel == tunnel)
    }

    /// Goes in by another key from now on, at once. The tunnel that is there is left once there
    /// is one by that.
    pub(in crate::agent::socks) fn renew_key(&self, key: &Arc<ClientKey>) {
        if *self.key.borrow() != *key {
            self.key.replace(Arc::clone(key));
            self.relays.iter().for_each(RelayRecord::handle_renewed);
            self.renewed.borrow().raise();
        }
    }

    /// A tunnel is over. Its channels have ended before, but for those whose ends have not taken
    /// yet all that came for them.
    pub(in crate::agent::socks) fn handle_lost(&self, tunnel: Key, reason: CloseReason) {
        self.places.borrow_mut().remove(&tunnel);
        let Some(live) = self.live_now().filter(|live| live.tunnel == tunnel) else {
            return;
        };
        let answers = self.answers.get();
        // What the network or we do to a tunnel says nothing of what can be read in it.
        let is_by_relay = matches!(
            reason,
            CloseReason::Finished(_) | CloseReason::Reset(_) | CloseReason::Broken(_)
        );
        self.lost.set(Some(Lost {
            relay: live.relay,
            reason,
            is_unanswered: is_by_relay && answers.is_awaited && !answers.is_heard,
        }));
        self.phase.set(Phase::Opening);
    }

    /// The agent stops: the tunnel ends with its last channel.
    pub(in crate::agent::socks) fn stop(&self) {
        self.leave_if_idle();
    }

    pub(super) fn leave_if_idle(&self) {
        if let Some(live) = self.live_now().filter(|_| self.stop.is_raised())
            && self.world.muxes.channels_of(live.tunnel) == Some(0)
        {
            self.world.muxes.leave(live.tunnel, CloseReason::Drained);
        }
    }

    /// How the relays are, for operators.
    pub(in crate::agent::socks) fn statuses(&self) -> Vec<RelayStatus> {
        self.relays.iter().map(RelayRecord::status).collect()
    }
}
