//! A local client's datagrams by a tunnel: for each destination an association of the relay's,
//! which is asked for when the first datagram goes there.
//!
//! ```text
//!       ask               granted               60 s without any, or the tunnel is lost
//! ──▶ Asked, some wait ─────────────▶ There ─────────────────────────────────────────▶ gone
//!             └── refused ──▶ Refused, for some seconds: what goes there is dropped, or denied
//! ```
//!
//! What comes back has the address to which the client has sent, as it was written: the relay
//! tells none.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ahash::RandomState;
use tracing::debug;

use super::keeper::Live;
use super::{Listener, Tunnels};
use crate::agent::socks::refusal::Refusal;
use crate::metrics::counters::{Count, Label};
use crate::protocol::jproxy::{BindStatus, ChannelKind, DATA_BYTES_MAX};
use crate::protocol::socks5::{Destination, ReplyCode, udp};
use crate::relay::mux::{Asked, Role};
use crate::relay::{CloseReason, Side};
use crate::runtime::executor::wake;
use crate::session::datagram_stream::{Left, TURN_DATAGRAMS};
use crate::shard::errand::{Errand, target};
use crate::shard::mux::{ChannelEnd, ChannelSession};
use crate::shard::peer_address::PeerAddress;
use crate::shard::session_log::Carried;
use crate::slab::Key;
use crate::time::Timestamp;

/// Destinations of one client at a time.
const DESTINATIONS_MAX: usize = 256;

/// Datagrams that wait for one association.
const WAITING_MAX: usize = 16;

/// Bytes of datagrams that came for one client, and that it has not taken, with what each takes by
/// itself: those that are empty as well.
const BAG_BYTES_MAX: usize = 64 << 10;

/// How long what goes to a destination is dropped after the relay has refused it.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// One client's.
#[derive(Debug)]
pub(in crate::agent::socks) struct Associations {
    tunnels: Rc<Tunnels>,
    client: PeerAddress,
    bag: Rc<Mailbag>,
    by_destination: HashMap<Destination, Association, RandomState>,
    destinations: HashMap<Key, Destination, RandomState>,
}

#[derive(Debug)]
enum Association {
    Asked {
        channel: Key,
        /// The tunnel in which, as by another key there may be another one since.
        live: Live,
        since: Timestamp,
        waiting: Vec<Vec<u8>>,
        /// What the relay has said when it was asked before.
        said: Option<BindStatus>,
    },
    There {
        channel: Key,
    },
    Refused {
        until: Timestamp,
        status: BindStatus,
    },
}

/// What became of a datagram that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent::socks) enum Taken {
    /// It goes to the relay.
    Sent,
    /// It goes there once there is an association, and is counted then.
    Waits,
    Dropped,
    /// The relay does not let it go where it should.
    Denied,
}

/// What came for one client, until it looks.
#[derive(Debug, Default)]
pub(super) struct Mailbag {
    came: RefCell<VecDeque<Came>>,
    bytes: Cell<usize>,
    dropped: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

/// What came of an association.
#[derive(Debug)]
pub(super) enum Came {
    Granted(Key),
    Refused(Key, BindStatus),
    Datagram(Key, Vec<u8>),
    Ended(Key),
}

impl Came {
    fn bytes(&self) -> usize {
        let data = match self {
            Self::Datagram(_, data) => data.len(),
            Self::Granted(_) | Self::Refused(..) | Self::Ended(_) => 0,
        };
        size_of::<Self>() + data
    }
}

impl Mailbag {
    /// Puts something in; a datagram for which there is no room is dropped.
    pub(super) fn push(&self, came: Came) {
        let bytes = self.bytes.get() + came.bytes();
        if bytes > BAG_BYTES_MAX && matches!(came, Came::Datagram(..)) {
            return self.dropped.set(self.dropped.get() + 1);
        }
        self.bytes.set(bytes);
        self.came.borrow_mut().push_back(came);
        if let Some(waker) = self.waker.take() {
            wake(waker);
        }
    }

    fn take(&self) -> Option<Came> {
        let came = self.came.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - came.bytes());
        Some(came)
    }

    fn poll_ready(&self, context: &Context<'_>) -> Poll<()> {
        if !self.came.borrow().is_empty() {
            return Poll::Ready(());
        }
        self.waker.replace(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Associations {
    /// None yet, of a client that is there.
    pub(in crate::agent::socks) fn new(tunnels: &Rc<Tunnels>, client: PeerAddress) -> Self {
        Self {
            tunnels: Rc::clone(tunnels),
            client,
            bag: Rc::default(),
            by_destination: HashMap::default(),
            destinations: HashMap::default(),
        }
    }

    /// Sends a datagram, as soon as there is an association.
    pub(in crate::agent::socks) fn send(&mut self, to: &Destination, data: &[u8]) -> Taken {
        if data.len() > DATA_BYTES_MAX {
            return Taken::Dropped;
        }
        let now = self.tunnels.world.reactor.now();
        match self.by_destination.get_mut(to) {
            Some(Association::There { channel }) => {
                match self.tunnels.world.muxes.send_datagram(*channel, data) {
                    true => Taken::Sent,
                    false => Taken::Dropped,
                }
            }
            Some(Association::Asked { waiting, .. }) if waiting.len() < WAITING_MAX => {
                waiting.push(data.to_vec());
                Taken::Waits
            }
            Some(Association::Asked { .. }) => Taken::Dropped,
            Some(Association::Refused { until, status }) if *until > now => match status {
                BindStatus::Denied => Taken::Denied,
                _ => Taken::Dropped,
            },
            Some(Association::Refused { status, .. }) => {
                let said = *status;
                self.ask(to, data, now, Some(said))
            }
            None => self.ask(to, data, now, None),
        }
    }

    fn ask(
        &mut self,
        to: &Destination,
        data: &[u8],
        now: Timestamp,
        said: Option<BindStatus>,
    ) -> Taken {
        if self.by_destination.len() >= DESTINATIONS_MAX {
            self.by_destination.retain(
                |_, one| !matches!(one, Association::Refused { until, .. } if *until <= now),
            );
        }
        if self.by_destination.len() >= DESTINATIONS_MAX {
            return Taken::Dropped;
        }
        let asked = |id| Asked::Associate {
            id,
            local_port: 0,
            with: to.clone(),
        };
        let listener = Listener::Datagrams(Rc::clone(&self.bag));
        let Some(live) = self.tunnels.live_now() else {
            return Taken::Dropped;
        };
        let kind = ChannelKind::Udp;
        let Some(channel) = self.tunnels.ask(live, kind, asked, listener) else {
            return Taken::Dropped;
        };
        self.destinations.insert(channel, to.clone());
        let asked = Association::Asked {
            channel,
            live,
            since: now,
            waiting: vec![data.to_vec()],
            said,
        };
        self.by_destination.insert(to.clone(), asked);
        Taken::Waits
    }

    /// Whether something came; has the task woken when it does.
    pub(in crate::agent::socks) fn poll_ready(&self, context: &Context<'_>) -> Poll<()> {
        self.bag.poll_ready(context)
    }

    /// Has what came handled, datagram by datagram with their headers, but not too much of it.
    /// `sent` counts what has waited, and goes out.
    pub(in crate::agent::socks) fn take_turn(
        &mut self,
        sent: &mut Carried,
        mut handle: impl FnMut(&[u8]),
    ) -> Left {
        self.count_dropped(self.bag.dropped.take());
        let mut datagram = Vec::new();
        for _ in 0..TURN_DATAGRAMS {
            match self.bag.take() {
                None => return Left::Nothing,
                Some(Came::Granted(channel)) => self.begin(channel, sent),
                Some(Came::Refused(channel, status)) => self.handle_refused(channel, status),
                Some(Came::Ended(channel)) => self.handle_ended(channel),
                Some(Came::Datagram(channel, data)) => {
                    if let Some(from) = self.destinations.get(&channel) {
                        datagram.clear();
                        udp::encode_header(from, &mut datagram);
                        datagram.extend_from_slice(&data);
                        handle(&datagram);
                    }
                }
            }
        }
        Left::More
    }

    /// An association is there: what waits for it goes out.
    fn begin(&mut self, channel: Key, sent: &mut Carried) {
        let Some(to) = self.destinations.get(&channel) else {
            return;
        };
        let Some(association) = self.by_destination.get_mut(to) else {
            return;
        };
        let there = Association::There { channel };
        let Association::Asked {
            live,
            since,
            waiting,
            ..
        } = std::mem::replace(association, there)
        else {
            return;
        };
        let world = &self.tunnels.world;
        let session = ChannelSession {
            role: Role::Client,
            peers: [self.client, live.peer],
            errand: Rc::new(Errand {
                user: None,
                target: target(to),
                way: Some(Rc::clone(self.tunnels.relays[live.relay].way())),
                command: "udp_associate",
            }),
            waiting_since: since,
            joined_at: world.reactor.now(),
        };
        if world.join_channel(channel, ChannelEnd::Task, None, session) {
            let mut dropped = 0;
            for data in waiting {
                match world.muxes.send_datagram(channel, &data) {
                    true => sent.add(data.len()),
                    false => dropped += 1,
                }
            }
            self.count_dropped(dropped);
        } else {
            // Its tunnel is lost since.
            self.count_dropped(waiting.len());
        }
    }

    /// There is no association; what waited for it is lost.
    fn handle_refused(&mut self, channel: Key, status: BindStatus) {
        let Some(to) = self.destinations.remove(&channel) else {
            return;
        };
        let until = self.tunnels.world.reactor.now() + REFUSED_FOR;
        let refused = Association::Refused { until, status };
        let Some(Association::Asked {
            live,
            waiting,
            said,
            ..
        }) = self.by_destination.insert(to.clone(), refused)
        else {
            return;
        };
        let count = match status {
            BindStatus::Denied => Count::DatagramsDenied,
            _ => Count::DatagramsDropped,
        };
        let world = &self.tunnels.world;
        world.counters.counts.add(count, waiting.len() as u64);
        let code = reply_code(status);
        let relay = self.tunnels.relays[live.relay].authority();
        let Refusal { refused, why, .. } = Refusal::by_relay(relay, code);
        world.count_refused(refused);
        // Whoever goes on sending there has the relay asked again and again.
        if said != Some(status) {
            debug!(
                peer = %self.client,
                reason = refused.as_str(),
                code = code.code(),
                target = %target(&to),
                %why,
                "refused"
            );
        }
    }

    /// An association is no more; what waited for it is lost.
    fn handle_ended(&mut self, channel: Key) {
        let Some(to) = self.destinations.remove(&channel) else {
            return;
        };
        if let Some(Association::Asked { waiting, .. }) = self.by_destination.remove(&to) {
            self.count_dropped(waiting.len());
        }
    }

    fn count_dropped(&self, datagrams: usize) {
        let counts = &self.tunnels.world.counters.counts;
        counts.add(Count::DatagramsDropped, datagrams as u64);
    }
}

impl Drop for Associations {
    fn drop(&mut self) {
        let reason = CloseReason::Finished(Side::Left);
        self.count_dropped(self.bag.dropped.take());
        for association in self.by_destination.values() {
            match association {
                Association::Asked {
                    channel, waiting, ..
                } => {
                    self.count_dropped(waiting.len());
                    self.tunnels.give_up(*channel, reason);
                }
                Association::There { channel } => self.tunnels.give_up(*channel, reason),
                Association::Refused { .. } => {}
            }
        }
    }
}

/// What a client of SOCKS5 would be told, if there were somewhere to say it.
const fn reply_code(status: BindStatus) -> ReplyCode {
    match status {
        BindStatus::Denied => ReplyCode::NotAllowed,
        BindStatus::UnknownHost => ReplyCode::HostUnreachable,
        // Any port does: one that is taken is as good as a limit.
        BindStatus::Limit | BindStatus::PortTaken | BindStatus::Bound => ReplyCode::GeneralFailure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_that_nobody_takes_find_no_room_at_last_however_short() {
        let channel = Key {
            index: 0,
            generation: 0,
        };
        for bytes in [0, 1, DATA_BYTES_MAX] {
            let bag = Mailbag::default();
            let fit = BAG_BYTES_MAX / (size_of::<Came>() + bytes);
            for _ in 0..fit + 3 {
                bag.push(Came::Datagram(channel, vec![7; bytes]));
            }
            assert_eq!(bag.dropped.take(), 3, "of {bytes} bytes");
            // What is no datagram is never lost.
            bag.push(Came::Ended(channel));
            let came = std::iter::from_fn(|| bag.take());
            assert_eq!(came.count(), fit + 1, "of {bytes} bytes");
            assert_eq!(bag.bytes.get(), 0);
        }
    }
}
