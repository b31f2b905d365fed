//! One connection by a tunnel: asked for, and then the data plane's.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::keeper::Live;
use super::{Listener, Tunnels, no_channel, reply_code, said};
use crate::agent::leg::{CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT};
use crate::agent::socks::entrance::REPLY_TIMEOUT;
use crate::agent::socks::refusal::Refusal;
use crate::protocol::jproxy::{ChannelKind, ConnectStatus};
use crate::protocol::socks5::{Destination, ReplyCode};
use crate::relay::CloseReason;
use crate::relay::mux::{Asked, Role};
use crate::runtime::stream::Stream;
use crate::runtime::watch::Watch;
use crate::session::wrapped_stream::WrappedStream;
use crate::shard::errand::Errand;
use crate::shard::mux::{ChannelEnd, ChannelSession};
use crate::shard::peer_address::PeerAddress;
use crate::slab::Key;
use crate::time::Timestamp;

/// How long a client waits for a tunnel that is being opened: as long as the first relay may
/// take to be reached and to let us in.
pub(super) const TUNNEL_TIMEOUT: Duration =
    Duration::from_secs(CONNECT_TIMEOUT.as_secs() + HANDSHAKE_TIMEOUT.as_secs());

/// What was heard of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Heard {
    #[default]
    Nothing,
    Answer(ConnectStatus),
    /// Its tunnel is gone.
    Gone,
}

/// A connection to a destination, which is given up when this is dropped.
#[derive(Debug)]
pub(in crate::agent::socks) struct Channel {
    tunnels: Rc<Tunnels>,
    live: Live,
    key: Key,
    since: Timestamp,
    is_joined: bool,
}

impl Tunnels {
    /// Has the relay connect with a destination.
    pub(in crate::agent::socks) async fn connect(
        self: &Rc<Self>,
        destination: &Destination,
    ) -> Result<Channel, Refusal> {
        let since = self.world.reactor.now();
        let live = self.live(since + TUNNEL_TIMEOUT).await?;
        let heard = Rc::new(Watch::new(Heard::Nothing));
        let asked = |id| Asked::Connect(id, destination.clone());
        let listener = Listener::Connection(Rc::clone(&heard));
        let key = self.ask(live, ChannelKind::Tcp, asked, listener);
        let channel = Channel {
            tunnels: Rc::clone(self),
            live,
            key: key.ok_or_else(no_channel)?,
            since,
            is_joined: false,
        };
        let until = self.world.reactor.now() + REPLY_TIMEOUT;
        let hearing = heard.until(|heard| (heard != Heard::Nothing).then_some(heard));
        let relay = self.relays[live.relay].authority();
        match self.world.reactor.deadline(until, hearing).await {
            Some(Heard::Answer(status)) => match reply_code(status) {
                None => Ok(channel),
                Some(code) => {
                    let said = said(status, code, self.dialect);
                    Err(Refusal::in_words(relay, code, said))
                }
            },
            Some(Heard::Gone | Heard::Nothing) => {
                Err(Refusal::mute(relay, ReplyCode::GeneralFailure))
            }
            None => Err(Refusal::mute(relay, ReplyCode::TtlExpired)),
        }
    }
}

impl Channel {
    /// The relay, as a session's way.
    pub(in crate::agent::socks) fn way(&self) -> Rc<str> {
        Rc::clone(self.tunnels.relays[self.live.relay].way())
    }

    /// The relay's address.
    pub(in crate::agent::socks) const fn peer(&self) -> PeerAddress {
        self.live.peer
    }

    /// Leads a local connection there, with what it has said before.
    pub(in crate::agent::socks) fn join(self, client: WrappedStream, errand: Errand) {
        let peer = client.peer_address().into();
        // A local client comes as it is.
        let (stream, _, early) = client.into_parts();
        self.tunnels.world.muxes.send_early(self.key, &early);
        let session = ChannelSession {
            role: Role::Client,
            peers: [peer, self.live.peer],
            errand: Rc::new(errand),
            waiting_since: self.since,
            joined_at: self.tunnels.world.reactor.now(),
        };
        self.join_stream(stream, Some(session));
    }

    /// The connection as a stream of ours, for one that is looked into, and whose session is
    /// whoever looks into it's to tell of.
    pub(in crate::agent::socks) fn into_stream(self) -> io::Result<(WrappedStream, Within)> {
        let [here, there] = Stream::pair(&self.tunnels.world.reactor)?;
        let within = Within {
            tunnels: Rc::clone(&self.tunnels),
            key: self.key,
            is_cut: Rc::new(Cell::new(false)),
        };
        let is_joined = self.join_stream(there, None);
        within.is_cut.set(!is_joined);
        if is_joined {
            let mut looked_into = within.tunnels.looked_into.borrow_mut();
            looked_into.insert(within.key, Rc::clone(&within.is_cut));
        }
        Ok((WrappedStream::plain(here), within))
    }

    fn join_stream(mut self, stream: Stream, session: Option<ChannelSession>) -> bool {
        self.is_joined = true;
        let end = ChannelEnd::Stream(stream);
        // Of a tunnel that is lost meanwhile the client hears by a reset.
        self.tunnels
            .world
            .join_channel(self.key, end, None, session)
    }
}

/// A connection that comes by a stream of ours. Between two sockets of this program no reset is
/// heard, as each end looks like one in order: what breaks off is told here.
#[derive(Debug)]
pub(in crate::agent::socks) struct Within {
    tunnels: Rc<Tunnels>,
    key: Key,
    is_cut: Rc<Cell<bool>>,
}

impl Within {
    /// Whether it was broken off; then the end of its stream is none.
    pub(in crate::agent::socks) fn is_cut(&self) -> bool {
        self.is_cut.get()
    }

    /// Breaks it off.
    pub(in crate::agent::socks) fn cut(&self) {
        self.tunnels.give_up(self.key, CloseReason::Severed);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if !self.is_joined {
            self.tunnels.give_up(self.key, CloseReason::Severed);
        }
    }
}
