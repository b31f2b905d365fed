//! Going out by a tunnel of jProxy: one of each shard, to the first relay that lets it in, and in
//! it a channel for each connection, and for each destination of a client's datagrams.
//!
//! ```text
//! keeper.rs ── gateway.rs ── tunnel ─┬─ channel.rs ──────── a local connection
//!   opens it, and again              ├─ channel.rs ──────── another one
//!                           ids.rs ──┼─ associations.rs ─── a local client's datagrams
//!                                    └─ doubt.rs ────────── is it of the other dialect?
//! ```
//!
//! The bytes in it are the data plane's. A tunnel that is there stays, whichever relay it leads
//! to, as its channels cannot move; the next one is tried from the first relay on.
//!
//! Left out: awaiting somebody (BIND), which jProxy does not know, and echo requests, for which
//! SOCKS5 has no command.

mod associations;
mod channel;
mod doubt;
mod gateway;
mod ids;
mod keeper;
pub mod url;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;

use super::SocksWorld;
use super::refusal::{Refusal, said_by_relay};
use crate::access::jproxy::ClientKey;
use crate::protocol::jproxy::{ChannelId, ChannelKind, ConnectStatus, Dialect};
use crate::protocol::socks5::ReplyCode;
use crate::relay::CloseReason;
use crate::relay::mux::{Answer, Asked, ChannelEnded, MuxEvent};
use crate::runtime::flag::Flag;
use crate::runtime::watch::Watch;
use crate::session::refused::Refused;
use crate::shard::streams::Lifetime;
use crate::slab::Key;
pub(super) use associations::{Associations, Taken};
use associations::{Came, Mailbag};
use channel::Heard;
pub(super) use channel::{Channel, Within};
use doubt::Doubt;
pub(in crate::agent) use gateway::TunnelGateway;
use ids::{IdPool, Known};
use keeper::{Live, Lost, Phase, RelayRecord};

/// Channels of a tunnel: as many as programs keep that exist.
const CHANNELS_MAX: usize = 1024;

/// Those of them that are for datagrams, so that there is room for connections.
const ASSOCIATIONS_MAX: usize = 512;

/// Of associations more numbers than live at a time, as each rests: their server says no end.
const ASSOCIATION_IDS: usize = 1 << 16;

/// How long a local program that takes nothing may hold up its tunnel. The relay waits for its
/// ends for less: here all of them are of one user, who may have stopped one on purpose.
const STUCK: Duration = Duration::from_secs(10);

/// What all shards go out by.
#[derive(Clone, Debug)]
pub(super) struct TunnelOptions {
    /// At least one.
    pub(super) gateways: Vec<TunnelGateway>,
    pub(super) dialect: Dialect,
}

/// One shard's way out by a tunnel.
#[derive(Debug)]
pub(super) struct Tunnels {
    world: Rc<SocksWorld>,
    /// Those first that are preferred.
    relays: Vec<RelayRecord>,
    dialect: Dialect,
    key: RefCell<Arc<ClientKey>>,
    /// Raised when there is another key; a fresh one for each attempt.
    renewed: RefCell<Rc<Flag>>,
    phase: Watch<Phase>,
    /// The relay's place in the order of preference, of each tunnel that is there: of those by keys
    /// before, too.
    places: RefCell<HashMap<Key, usize, RandomState>>,
    numbers: RefCell<Numbers>,
    answers: Cell<Answers>,
    /// The tunnel before, until that is told.
    lost: Cell<Option<Lost>>,
    /// Channels for which somebody waits, or who takes what comes.
    listening: RefCell<HashMap<Key, Listening, RandomState>>,
    /// Of those that are streams of ours, whether they were broken off.
    looked_into: RefCell<HashMap<Key, Rc<Cell<bool>>, RandomState>>,
    associations: Cell<usize>,
    stop: Rc<Flag>,
}

/// The numbers of one tunnel's channels.
#[derive(Debug)]
struct Numbers {
    connections: IdPool,
    associations: IdPool,
}

/// What the relay has said in one tunnel.
#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    /// Something was asked.
    is_awaited: bool,
    is_heard: bool,
    doubt: Doubt,
}

/// Who is told of a channel.
#[derive(Debug)]
struct Listening {
    tunnel: Key,
    id: ChannelId,
    listener: Listener,
}

#[derive(Debug)]
enum Listener {
    Connection(Rc<Watch<Heard>>),
    Datagrams(Rc<Mailbag>),
}

impl Numbers {
    const fn new() -> Self {
        Self {
            connections: IdPool::new(CHANNELS_MAX),
            associations: IdPool::new(ASSOCIATION_IDS),
        }
    }

    const fn of(&mut self, kind: ChannelKind) -> &mut IdPool {
        match kind {
            ChannelKind::Tcp => &mut self.connections,
            ChannelKind::Udp | ChannelKind::Icmp => &mut self.associations,
        }
    }
}

impl Tunnels {
    pub(super) fn new(
        world: &Rc<SocksWorld>,
        options: TunnelOptions,
        key: Arc<ClientKey>,
        stop: &Rc<Flag>,
    ) -> Rc<Self> {
        world.muxes.set_limits(Lifetime::default(), STUCK);
        let relays = options.gateways.into_iter().map(RelayRecord::new);
        Rc::new(Self {
            world: Rc::clone(world),
            relays: relays.collect(),
            dialect: options.dialect,
            key: RefCell::new(key),
            renewed: RefCell::default(),
            phase: Watch::new(Phase::Opening),
            places: RefCell::default(),
            numbers: RefCell::new(Numbers::new()),
            answers: Cell::default(),
            lost: Cell::default(),
            listening: RefCell::default(),
            looked_into: RefCell::default(),
            associations: Cell::default(),
            stop: Rc::clone(stop),
        })
    }

    /// Asks for a channel with the next number; `None` where there are as many as there may be.
    fn ask(
        &self,
        live: Live,
        kind: ChannelKind,
        asked: impl FnOnce(ChannelId) -> Asked,
        listener: Listener,
    ) -> Option<Key> {
        if kind == ChannelKind::Udp && self.associations.get() >= ASSOCIATIONS_MAX {
            return None;
        }
        let now = self.world.reactor.now();
        let mut numbers = self.numbers.borrow_mut();
        let id = numbers.of(kind).take(now)?;
        let Some(channel) = self.world.muxes.ask(live.tunnel, &asked(id)) else {
            numbers.of(kind).let_go(id, Known::Yes, now);
            return None;
        };
        self.answers.set(Answers {
            is_awaited: true,
            ..self.answers.get()
        });
        let listening = Listening {
            tunnel: live.tunnel,
            id,
            listener,
        };
        self.listening.borrow_mut().insert(channel, listening);
        if kind == ChannelKind::Udp {
            self.associations.set(self.associations.get() + 1);
        }
        Some(channel)
    }

    /// Nobody waits for a channel any more, or takes what comes.
    fn give_up(&self, channel: Key, reason: CloseReason) {
        self.listening.borrow_mut().remove(&channel);
        self.world.muxes.give_up(channel, reason);
    }

    /// Something has come of a channel.
    pub(super) fn handle_event(&self, event: MuxEvent) {
        match event {
            MuxEvent::Answered { channel, answer } => {
                self.handle_answer(channel, answer);
                // One that was refused may have been the last.
                self.leave_if_idle();
            }
            MuxEvent::Datagram { channel, data } => {
                if let Some(Listening {
                    listener: Listener::Datagrams(bag),
                    ..
                }) = self.listening.borrow().get(&channel)
                {
                    bag.push(Came::Datagram(channel, data));
                }
            }
            MuxEvent::Ended(ended) => self.handle_ended(&ended),
            MuxEvent::Forgotten { tunnel, kind, id } => {
                if self.is_live(tunnel) {
                    self.numbers.borrow_mut().of(kind).handle_end(id);
                }
            }
            MuxEvent::OtherDialect { tunnel, error } => {
                if let Some(relay) = self.relay_of(tunnel) {
                    relay.refute_dialect(self.dialect, error);
                }
            }
            // A server's, or of echoes that nobody asks for. That nothing can be decrypted is seen
            // by the end that follows.
            MuxEvent::Asked { .. }
            | MuxEvent::TurnedAway { .. }
            | MuxEvent::Undecrypted { .. }
            | MuxEvent::Lost(_) => {}
        }
    }

    /// The relay has the key by which we read what it says, and the other way round.
    fn note_heard(&self, live: Live) {
        let answers = self.answers.get();
        if !answers.is_heard {
            self.relays[live.relay].handle_heard();
            self.answers.set(Answers {
                is_heard: true,
                ..answers
            });
        }
    }

    fn note_status(&self, live: Live, status: ConnectStatus) {
        let answers = self.answers.get();
        let (doubt, is_to_be_said) = answers.doubt.after(status);
        self.answers.set(Answers { doubt, ..answers });
        if is_to_be_said {
            self.relays[live.relay].doubt_dialect(self.dialect);
        }
    }

    fn handle_answer(&self, channel: Key, answer: Answer) {
        let mut listening = self.listening.borrow_mut();
        let Some(Listening {
            tunnel,
            id,
            listener,
        }) = listening.get(&channel)
        else {
            return;
        };
        let live = self.live_now().filter(|live| live.tunnel == *tunnel);
        if let Some(live) = live {
            self.note_heard(live);
            if let Answer::Connect { status, .. } = answer {
                self.note_status(live, status);
            }
        }
        let kind = match listener {
            Listener::Connection(heard) => {
                heard.set(match answer {
                    Answer::Connect { status, .. } => Heard::Answer(status),
                    Answer::Associate { .. } | Answer::Echoes(_) => Heard::Nothing,
                });
                ChannelKind::Tcp
            }
            Listener::Datagrams(bag) => {
                bag.push(match answer {
                    Answer::Associate { status, .. } if !answer.is_granted() => {
                        Came::Refused(channel, status)
                    }
                    // No other kind answers what is asked for datagrams.
                    _ => Came::Granted(channel),
                });
                ChannelKind::Udp
            }
        };
        if !answer.is_granted() {
            if live.is_some() {
                // It never was there, so that nobody ends it.
                let now = self.world.reactor.now();
                let mut numbers = self.numbers.borrow_mut();
                numbers.of(kind).let_go(*id, Known::Yes, now);
            }
            self.count_out(kind);
        }
        if !answer.is_granted() || kind == ChannelKind::Tcp {
            listening.remove(&channel);
        }
    }

    fn handle_ended(&self, ended: &ChannelEnded) {
        self.count_out(ended.kind);
        let is_cut = self.looked_into.borrow_mut().remove(&ended.channel);
        if let Some(is_cut) = is_cut {
            is_cut.set(!matches!(ended.reason, CloseReason::Finished(_)));
        }
        match self.listening.borrow_mut().remove(&ended.channel) {
            Some(Listening {
                listener: Listener::Connection(heard),
                ..
            }) => heard.set(Heard::Gone),
            Some(Listening {
                listener: Listener::Datagrams(bag),
                ..
            }) => bag.push(Came::Ended(ended.channel)),
            None => {}
        }
        if self.is_live(ended.tunnel) {
            let known = match ended.is_free {
                true => Known::Yes,
                false => Known::NotYet,
            };
            let now = self.world.reactor.now();
            let mut numbers = self.numbers.borrow_mut();
            numbers.of(ended.kind).let_go(ended.id, known, now);
            drop(numbers);
            self.leave_if_idle();
        }
    }

    fn count_out(&self, kind: ChannelKind) {
        if kind == ChannelKind::Udp {
            self.associations.set(self.associations.get() - 1);
        }
    }
}

/// What a client of SOCKS5 is told for a status; `None`: it is connected.
const fn reply_code(status: ConnectStatus) -> Option<ReplyCode> {
    Some(match status {
        ConnectStatus::Connected => return None,
        ConnectStatus::Failed | ConnectStatus::Limit => ReplyCode::GeneralFailure,
        ConnectStatus::Refused => ReplyCode::ConnectionRefused,
        ConnectStatus::TimedOut => ReplyCode::TtlExpired,
        ConnectStatus::Unreachable => ReplyCode::NetworkUnreachable,
        ConnectStatus::UnknownHost => ReplyCode::HostUnreachable,
        ConnectStatus::Denied => ReplyCode::NotAllowed,
    })
}

/// What it is told in words, where it may read some.
const fn said(status: ConnectStatus, code: ReplyCode, dialect: Dialect) -> &'static str {
    match (status, dialect) {
        (ConnectStatus::Failed, Dialect::Spec) => "has failed to connect; its log says why",
        // It has no status of its own for what is denied.
        (ConnectStatus::Failed, Dialect::Original) => {
            "has failed to connect, or does not allow it, as where this key is no user's any more; \
             its log says which"
        }
        (ConnectStatus::Denied, _) => {
            "does not allow it, by its [egress] or its rules for the user of this proxy, or as \
             this key is no user's any more"
        }
        _ => said_by_relay(code),
    }
}

/// That a tunnel has as many channels as it may have.
const fn no_channel() -> Refusal {
    Refusal::by_proxy(Refused::TooManyConnections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_in_the_numbers_of_socks5() {
        for (status, code) in [
            (ConnectStatus::Failed, 1),
            (ConnectStatus::Refused, 5),
            (ConnectStatus::TimedOut, 6),
            (ConnectStatus::Unreachable, 3),
            (ConnectStatus::UnknownHost, 4),
            (ConnectStatus::Limit, 1),
            (ConnectStatus::Denied, 2),
        ] {
            let told = reply_code(status).expect("a failure");
            assert_eq!(told.code(), code, "{status:?}");
        }
        assert_eq!(reply_code(ConnectStatus::Connected), None);
    }

    #[test]
    fn a_status_says_no_more_than_its_dialect_does() {
        let failure = ReplyCode::GeneralFailure;
        for (status, dialect, words) in [
            (
                ConnectStatus::Failed,
                Dialect::Spec,
                "has failed to connect; ",
            ),
            (
                ConnectStatus::Failed,
                Dialect::Original,
                "or does not allow it",
            ),
            (
                ConnectStatus::Denied,
                Dialect::Spec,
                "is no user's any more",
            ),
            (ConnectStatus::Limit, Dialect::Spec, "is at a limit"),
            (ConnectStatus::Limit, Dialect::Original, "is at a limit"),
        ] {
            let said = said(status, failure, dialect);
            assert!(said.contains(words), "{status:?}, {dialect}: {said}");
        }
    }
}
