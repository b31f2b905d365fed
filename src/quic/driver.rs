//! Drives the QUIC endpoints of one shard, turn by turn.
//!
//! ```text
//! receive   datagrams into connections
//! expire    deadlines that have come
//! poll_event                               what the shard has to act on
//! (read, write, open, close …)             what it does
//! flush     what all connections have to send, in bursts
//! ```
//!
//! Each step does what there is for all connections before the next begins: what comes on one
//! connection and goes out on another leaves in the same turn, and acknowledgements ride on
//! it. Whoever uses a connection between two steps makes it *dirty*; [`Driver::flush`] asks
//! all dirty ones what they have to send and when they next want to be asked.
//!
//! A connection sends at most [`BURSTS_MAX`] bursts before the others have had their turn.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionError, ConnectionHandle, Dir, EndpointConfig, Event,
    ServerConfig, StreamEvent, Transmit, VarInt,
};

use super::connection::{Connection, ConnectionKey, StreamKey};
use super::connection_id::SteeredIds;
use super::counts::Counts;
use super::intake::Stray;
use super::keys::SharedKeys;
use super::port::{Batch, Port};
use super::transport::Windows;
use crate::runtime::Owner;
use crate::runtime::clock::Epoch;
use crate::runtime::reactor::Reactor;
use crate::runtime::socket::Socket;
use crate::slab::Slab;
use crate::time::Timestamp;

/// Bursts of one connection before the others have their turn.
pub const BURSTS_MAX: usize = 8;
/// The longest UDP payload that is taken, in bytes: as long as they come. The sender's limit is
/// what decides.
const PAYLOAD_BYTES_MAX: u16 = 65_527;
/// Between two stateless resets of an endpoint. After a restart every client needs one.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// What the shard has to act on.
#[derive(Clone, Debug, PartialEq)]
pub enum QuicEvent {
    /// The handshake is over.
    Connected(ConnectionKey),
    /// The connection is gone; its key names nothing from now on.
    Lost(ConnectionKey, ConnectionError),
    /// Somebody was let, and yet no connection began with the first packet.
    NotBegun(SocketAddr, ConnectionError),
    /// The peer has opened a stream, which may have bytes already.
    Opened(StreamKey),
    /// There may be something to read.
    Readable(StreamKey),
    /// There may be room to write.
    Writable(StreamKey),
    /// The peer reads no more; why, in its own numbers.
    Stopped(StreamKey, u64),
    /// The peer has all that was written, to the end.
    Finished(StreamKey),
    /// Streams may be opened again.
    Available(ConnectionKey),
}

/// The QUIC endpoints of one shard, and their connections.
pub struct Driver {
    reactor: Rc<Reactor>,
    pub(super) epoch: Epoch,
    /// The sockets' owner tag; the token is twice the port's index, and one more for room.
    tag: u8,
    pub(super) shard: u16,
    pub(super) shards: u16,
    keys: SharedKeys,
    pub(super) ids: SteeredIds,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) connections: Slab<Connection>,
    dirty: VecDeque<ConnectionKey>,
    deadlines: BTreeSet<(Instant, ConnectionKey)>,
    pub(super) events: VecDeque<QuicEvent>,
    /// Connections whose last events are among these.
    forgotten: Vec<ConnectionKey>,
    pub(super) strays: Vec<Stray>,
    pub(super) counts: Counts,
    /// For those who connect to us.
    pub(super) handshake_timeout: Option<Duration>,
    pub(super) windows: Option<Windows>,
    pub(super) batch: Option<Box<Batch>>,
    /// Room for one burst, or for one answer of an endpoint.
    pub(super) burst: Vec<u8>,
}

pub(super) struct Endpoint {
    pub(super) proto: quinn_proto::Endpoint,
    pub(super) port: Port,
    pub(super) by_handle: HashMap<ConnectionHandle, ConnectionKey, ahash::RandomState>,
    /// Answers to no connection's datagrams, while a burst waits for room.
    pub(super) answers: VecDeque<(Transmit, Vec<u8>)>,
}

impl Driver {
    /// The driver of one of so many shards. Its sockets are watched under `tag`.
    #[must_use]
    pub fn new(reactor: Rc<Reactor>, tag: u8, shard: u16, shards: u16, keys: SharedKeys) -> Self {
        Self {
            reactor,
            epoch: Epoch::read(),
            tag,
            shard,
            shards,
            ids: SteeredIds::new(shard, shards, &keys),
            keys,
            endpoints: Vec::new(),
            connections: Slab::new(),
            dirty: VecDeque::new(),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
            forgotten: Vec::new(),
            strays: Vec::new(),
            counts: Counts::default(),
            handshake_timeout: None,
            windows: None,
            batch: None,
            burst: Vec::new(),
        }
    }

    /// How long the handshake of whoever connects from now on may take.
    pub const fn set_handshake_timeout(&mut self, timeout: Duration) {
        self.handshake_timeout = Some(timeout);
    }

    /// From now on connections hold at most this.
    pub const fn set_windows(&mut self, windows: Windows) {
        self.windows = Some(windows);
    }

    /// Those who connect from now on are served so.
    pub fn set_server_config(&mut self, server: &Arc<ServerConfig>) {
        for endpoint in &mut self.endpoints {
            let server = Some(Arc::clone(server));
            endpoint.proto.set_server_config(server);
        }
    }

    /// Adds a socket, which also serves those who connect to it, if there is a configuration
    /// for them. Returns the port's index.
    ///
    /// # Errors
    ///
    /// When the socket cannot be set up.
    pub fn add_port(
        &mut self,
        socket: Socket,
        server: Option<Arc<ServerConfig>>,
    ) -> io::Result<usize> {
        let index = self.endpoints.len();
        let token = u32::try_from(index * 2).unwrap_or(u32::MAX);
        let owner = |token| Owner {
            tag: self.tag,
            token,
        };
        let port = Port::new(
            Rc::clone(&self.reactor),
            socket,
            owner(token),
            owner(token + 1),
        )?;
        let mut config = EndpointConfig::new(self.keys.reset_key());
        let ids = self.ids.clone();
        config
            .cid_generator(move || Box::new(ids.clone()))
            .min_reset_interval(RESET_INTERVAL)
            .supported_versions(vec![1]);
        config
            .max_udp_payload_size(PAYLOAD_BYTES_MAX)
            .expect("a payload that UDP can carry");
        let may_probe = !port.may_fragment();
        self.endpoints.push(Endpoint {
            proto: quinn_proto::Endpoint::new(Arc::new(config), server, may_probe, None),
            port,
            by_handle: HashMap::default(),
            answers: VecDeque::new(),
        });
        Ok(index)
    }

    /// Begins to connect from a port.
    ///
    /// # Errors
    ///
    /// When name or address cannot be connected to.
    pub fn connect(
        &mut self,
        port: usize,
        config: ClientConfig,
        to: SocketAddr,
        name: &str,
        now: Timestamp,
    ) -> Result<ConnectionKey, ConnectError> {
        let now = self.epoch.instant(now);
        let (handle, proto) = self.endpoints[port].proto.connect(now, config, to, name)?;
        Ok(self.take_in(port, handle, proto, now))
    }

    pub(super) fn take_in(
        &mut self,
        port: usize,
        handle: ConnectionHandle,
        proto: quinn_proto::Connection,
        now: Instant,
    ) -> ConnectionKey {
        let since = self.epoch.timestamp(now);
        let key = self
            .connections
            .insert(Connection::new(proto, handle, port, since));
        self.endpoints[port].by_handle.insert(handle, key);
        self.mark_dirty(key);
        key
    }

    /// A socket of the driver's triggered.
    pub fn handle_ready(&mut self, token: u32) {
        let Some(endpoint) = self.endpoints.get_mut(token as usize / 2) else {
            return;
        };
        match token % 2 {
            0 => endpoint.port.is_readable = true,
            _ => endpoint.port.handle_room(&mut self.counts),
        }
    }

    /// Tells connections whose deadlines have come.
    pub fn expire(&mut self, now: Timestamp) {
        let now = self.epoch.instant(now);
        while let Some((deadline, key)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            connection.deadline = None;
            if connection.is_too_slow(now) {
                let reason = Bytes::from_static(b"the handshake takes too long");
                connection.proto.close(now, VarInt::from_u32(0), reason);
                let event = QuicEvent::Lost(key, ConnectionError::TimedOut);
                self.events.push_back(event);
            }
            connection.proto.handle_timeout(now);
            self.mark_dirty(key);
        }
        self.settle();
    }

    /// Takes the next event; call until `None`. Whose connection is gone may read what came
    /// before until then.
    pub fn poll_event(&mut self) -> Option<QuicEvent> {
        let event = self.events.pop_front();
        if event.is_none() {
            for key in std::mem::take(&mut self.forgotten) {
                if let Some(connection) = self.connections.remove(key) {
                    connection.add_to(&mut self.counts);
                }
            }
        }
        event
    }

    /// Passes on what dirty connections have to say to their endpoints and to the shard.
    pub(super) fn settle(&mut self) {
        for index in 0..self.dirty.len() {
            self.settle_one(self.dirty[index]);
        }
    }

    fn settle_one(&mut self, key: ConnectionKey) {
        let known = self.connections.get_mut(key).filter(|it| !it.is_forgotten);
        let Some(connection) = known else {
            return;
        };
        let endpoint = &mut self.endpoints[connection.port];
        while let Some(event) = connection.proto.poll_endpoint_events() {
            if let Some(event) = endpoint.proto.handle_event(connection.handle, event) {
                connection.proto.handle_event(event);
            }
        }
        let stream = |id| StreamKey {
            connection: key,
            id,
        };
        while let Some(event) = connection.proto.poll() {
            if let Event::Connected | Event::ConnectionLost { .. } = event {
                connection.handshake_until = None;
            }
            let event = match event {
                Event::Connected => QuicEvent::Connected(key),
                Event::ConnectionLost { reason } => QuicEvent::Lost(key, reason),
                Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    while let Some(id) = connection.proto.streams().accept(Dir::Bi) {
                        self.events.push_back(QuicEvent::Opened(stream(id)));
                    }
                    continue;
                }
                Event::Stream(StreamEvent::Readable { id }) => QuicEvent::Readable(stream(id)),
                Event::Stream(StreamEvent::Writable { id }) => QuicEvent::Writable(stream(id)),
                Event::Stream(StreamEvent::Finished { id }) => QuicEvent::Finished(stream(id)),
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    QuicEvent::Stopped(stream(id), error_code.into_inner())
                }
                Event::Stream(StreamEvent::Available { dir: Dir::Bi }) => QuicEvent::Available(key),
                // Neither streams of one direction nor datagrams are on offer.
                Event::Stream(_)
                | Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => continue,
            };
            // A stream tells of each frame that came, and nobody has read since the last one.
            if self.events.back() != Some(&event) {
                self.events.push_back(event);
            }
        }
        // Its endpoint may give its handle to another one from now on.
        if connection.proto.is_drained() {
            self.forget(key);
        }
    }

    /// Sends what connections have to send, and notes when they want to be asked again.
    pub fn flush(&mut self, now: Timestamp) {
        let instant = self.epoch.instant(now);
        for endpoint in &mut self.endpoints {
            if endpoint.port.has_to_look_for_room() {
                endpoint.port.handle_room(&mut self.counts);
            }
            while !endpoint.port.is_blocked()
                && let Some((transmit, bytes)) = endpoint.answers.pop_front()
            {
                endpoint.port.send(transmit, &bytes, &mut self.counts);
            }
        }
        for _ in 0..self.dirty.len() {
            let Some(key) = self.dirty.pop_front() else {
                break;
            };
            self.settle_one(key);
            self.flush_one(key, instant, now);
        }
    }

    fn flush_one(&mut self, key: ConnectionKey, instant: Instant, now: Timestamp) {
        let known = self.connections.get_mut(key).filter(|it| !it.is_forgotten);
        let Some(connection) = known else {
            return;
        };
        connection.is_dirty = false;
        if let Some(windows) = self.windows {
            connection.adapt_send_window(windows.sent_max);
        }
        let endpoint = &mut self.endpoints[connection.port];
        let mut has_more = true;
        for _ in 0..BURSTS_MAX {
            if endpoint.port.is_blocked() {
                break;
            }
            self.burst.clear();
            let mtu = connection.proto.current_mtu();
            let datagrams = endpoint.port.burst_datagrams(mtu);
            let burst = &mut self.burst;
            let Some(transmit) = connection.poll_transmit((instant, now), datagrams, burst) else {
                has_more = false;
                break;
            };
            endpoint.port.send(transmit, &self.burst, &mut self.counts);
        }
        if has_more {
            connection.is_dirty = true;
            self.dirty.push_back(key);
        }
        // What was sent may have ended it.
        self.settle_one(key);
        let known = self.connections.get_mut(key).filter(|it| !it.is_forgotten);
        let Some(connection) = known else {
            return;
        };
        let deadline = connection.next_deadline();
        if deadline != connection.deadline {
            if let Some(former) = connection.deadline {
                self.deadlines.remove(&(former, key));
            }
            connection.deadline = deadline;
            self.deadlines
                .extend(deadline.map(|deadline| (deadline, key)));
        }
    }

    fn forget(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.is_forgotten = true;
        self.endpoints[connection.port]
            .by_handle
            .remove(&connection.handle);
        if let Some(deadline) = connection.deadline.take() {
            self.deadlines.remove(&(deadline, key));
        }
        self.forgotten.push(key);
    }

    /// Whether there is something to do before the next sleep.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let is_waiting = |key: &ConnectionKey| {
            self.connections
                .get(*key)
                .is_some_and(|connection| !self.endpoints[connection.port].port.is_blocked())
        };
        self.endpoints
            .iter()
            .any(|endpoint| endpoint.port.is_readable || endpoint.port.has_to_look_for_room())
            || !self.events.is_empty()
            || !self.forgotten.is_empty()
            || self.dirty.iter().any(is_waiting)
    }

    /// When [`Self::expire`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let (deadline, _) = self.deadlines.first()?;
        Some(self.epoch.timestamp(*deadline))
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts;
        for key in self.connections.keys() {
            if let Some(connection) = self.connections.get(key) {
                connection.add_to(&mut counts);
            }
        }
        counts
    }

    /// Connections, those that are closing too.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.connections.len() == 0
    }

    /// A port from which an address can be dialled.
    #[must_use]
    pub fn port_of_family(&self, to: SocketAddr) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| {
            let local = endpoint.port.socket().local_address();
            local.is_some_and(|local| local.is_ipv4() == to.is_ipv4())
        })
    }

    /// The connections, those that are closing too.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionKey> {
        self.connections.keys()
    }

    /// Where a port's socket is.
    #[must_use]
    pub fn local_address(&self, port: usize) -> Option<SocketAddr> {
        self.endpoints.get(port)?.port.socket().local_address()
    }

    pub(super) fn mark_dirty(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get_mut(key)
            && !std::mem::replace(&mut connection.is_dirty, true)
        {
            self.dirty.push_back(key);
        }
    }

    /// Something with a connection that may have it send.
    pub(super) fn with<R>(
        &mut self,
        key: ConnectionKey,
        act: impl FnOnce(&mut quinn_proto::Connection) -> R,
    ) -> Option<R> {
        let result = act(&mut self.connections.get_mut(key)?.proto);
        self.mark_dirty(key);
        Some(result)
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("shard", &self.shard)
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}
