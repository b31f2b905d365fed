//! Two drivers, or three, on one ring over loopback.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn_proto::ConnectionError;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::SockRef;

use super::calls::{Read, Write};
use super::connection::{ConnectionKey, StreamKey};
use super::driver::{Driver, QuicEvent};
use super::intake::Admission;
use super::keys::SharedKeys;
use super::transport::{Transport, Windows};
use crate::config::Congestion;
use crate::config::quic_settings::{MTU_MAX, MTU_MIN, PathSettings};
use crate::runtime::Owner;
use crate::runtime::clock;
use crate::runtime::reactor::{Event, Reactor};
use crate::runtime::ring::{RingSize, Sleep};
use crate::runtime::socket::Socket;
use crate::runtime::udp_group::{bind_udp, bind_udp_group, claim_udp_address};

const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const KEYS: SharedKeys = SharedKeys {
    reset: [7; 32],
    token: [8; 32],
};
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

const fn transport(path: PathSettings) -> Transport {
    Transport {
        stream_window: 1 << 20,
        connection_window: 4 << 20,
        send_window: 4 << 20,
        streams_max: 100,
        idle_timeout: IDLE_TIMEOUT,
        keep_alive: None,
        path,
    }
}
/// Owner tag of a router's sockets.
const TAG_ROUTER: u8 = u8::MAX;
/// A test that waits longer than this waits for ever.
const PATIENCE: Duration = Duration::from_secs(20);

struct Identity {
    certificate: CertificateDer<'static>,
    server: Arc<rustls::ServerConfig>,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        server.alpn_protocols = vec![b"test".to_vec()];
        Self {
            certificate,
            server: Arc::new(server),
        }
    }

    fn client(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"test".to_vec()];
        Arc::new(client)
    }
}

/// Drivers by index; the last is the client.
struct Rig {
    reactor: Rc<Reactor>,
    drivers: Vec<Driver>,
    identity: Identity,
    address: SocketAddr,
    admission: Admission,
    router: Option<Router>,
    path: PathSettings,
    /// What happened, with whose it was.
    events: Vec<(usize, QuicEvent)>,
}

impl Rig {
    /// A server of so many shards, whose group is not steered, and a client.
    fn new(shards: u16) -> Self {
        Self::over(shards, PathSettings::DEFAULT)
    }

    fn over(shards: u16, path: PathSettings) -> Self {
        Self::prepared(shards, path, |_| {})
    }

    /// As [`Self::over`], after something was done with the server's sockets.
    fn prepared(shards: u16, path: PathSettings, prepare: impl Fn(&Socket)) -> Self {
        let reactor = Reactor::new(RingSize::default()).unwrap();
        let identity = Identity::new();
        let address = claim_udp_address(LOCALHOST).unwrap();
        let sockets = bind_udp_group(address, usize::from(shards)).unwrap();
        let mut drivers: Vec<Driver> = Vec::new();
        for (shard, socket) in (0..shards).zip(sockets) {
            let tag = u8::try_from(shard).unwrap();
            let mut driver = Driver::new(Rc::clone(&reactor), tag, shard, shards, KEYS);
            let server = transport(path)
                .server(Arc::clone(&identity.server), &KEYS)
                .unwrap();
            prepare(&socket);
            driver.add_port(socket, Some(server)).unwrap();
            drivers.push(driver);
        }
        let tag = u8::try_from(shards).unwrap();
        let mut client = Driver::new(Rc::clone(&reactor), tag, 0, 1, KEYS);
        client.add_port(bind_udp(LOCALHOST).unwrap(), None).unwrap();
        drivers.push(client);
        Self {
            reactor,
            drivers,
            identity,
            address,
            admission: Admission::Accept,
            router: None,
            path,
            events: Vec::new(),
        }
    }

    fn client(&mut self) -> &mut Driver {
        self.drivers.last_mut().unwrap()
    }

    fn connect(&mut self) -> ConnectionKey {
        let transport = transport(self.path);
        let config = transport.client(self.identity.client(), 0).unwrap();
        let address = self.address;
        let now = clock::now();
        let connection = self.client().connect(0, config, address, "relay.test", now);
        connection.unwrap()
    }

    /// Connects, and opens a stream on which something is said.
    fn begin(&mut self) -> (ConnectionKey, StreamKey) {
        let client = self.drivers.len() - 1;
        let connection = self.connect();
        assert_eq!(self.event(client, connected), connection);
        let stream = self.client().open(connection).unwrap();
        self.write_all(client, stream, b"hello");
        (connection, stream)
    }

    /// One turn of the loop.
    fn turn(&mut self) {
        for driver in &mut self.drivers {
            driver.flush(clock::now());
        }
        let deadline = self.drivers.iter().filter_map(Driver::next_deadline).min();
        let late = clock::now() + Duration::from_millis(100);
        let deadline = deadline.map_or(late, |deadline| deadline.min(late));
        let sleep = match self.drivers.iter().any(Driver::has_work) {
            true => Sleep::No,
            false => Sleep::UntilOne,
        };
        self.reactor.turn(sleep, Some(deadline));
        while let Some(event) = self.reactor.poll_event() {
            if let Event::Ready { owner, .. } = event
                && let Some(driver) = self.drivers.get_mut(usize::from(owner.tag))
            {
                driver.handle_ready(owner.token);
            }
        }
        self.router.iter_mut().for_each(Router::pass);
        let now = clock::now();
        let admission = self.admission;
        let mut strays = Vec::new();
        for driver in &mut self.drivers {
            driver.receive(now, |_, is_validated, _| match is_validated {
                true => Admission::Accept,
                false => admission,
            });
            driver.expire(now);
            strays.append(&mut driver.take_strays());
        }
        for stray in strays {
            let shard = usize::from(stray.shard);
            self.drivers[shard].handle_strays(vec![stray], now);
        }
        for (index, driver) in self.drivers.iter_mut().enumerate() {
            while let Some(event) = driver.poll_event() {
                self.events.push((index, event));
            }
        }
    }

    /// Turns until something is so.
    fn until<R>(&mut self, mut is_so: impl FnMut(&mut Self) -> Option<R>) -> R {
        let end = clock::now() + PATIENCE;
        loop {
            if let Some(result) = is_so(self) {
                return result;
            }
            assert!(clock::now() < end, "waited in vain; saw {:?}", self.events);
            self.turn();
        }
    }

    /// Waits for the first event of a driver that is meant.
    fn event<R>(&mut self, whose: usize, is_meant: impl Fn(&QuicEvent) -> Option<R>) -> R {
        self.until(|rig| {
            let position = rig
                .events
                .iter()
                .position(|(index, event)| *index == whose && is_meant(event).is_some())?;
            let (_, event) = rig.events.remove(position);
            is_meant(&event)
        })
    }

    fn write_all(&mut self, whose: usize, stream: StreamKey, bytes: &[u8]) {
        let mut bytes = Bytes::copy_from_slice(bytes);
        self.until(|rig| match rig.drivers[whose].write(stream, &mut bytes) {
            Write::Done => Some(()),
            Write::Blocked => None,
            other => panic!("{other:?}"),
        });
    }

    /// Sends more than all windows hold and ends the stream, and reads it there, where it has
    /// the name that it gives.
    fn send(&mut self, stream: StreamKey) -> StreamKey {
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut left = Bytes::from(sent.clone());
        self.client().write(stream, &mut left);
        let there = self.event(0, opened);
        let mut got = Vec::new();
        self.until(|rig| {
            if !left.is_empty() {
                rig.drivers[1].write(stream, &mut left);
                if left.is_empty() {
                    rig.drivers[1].finish(stream);
                }
            }
            let mut chunks = Vec::new();
            let read = rig.drivers[0].read(there, 64 << 10, &mut chunks);
            chunks.iter().for_each(|chunk| got.extend_from_slice(chunk));
            (read == Read::Ended).then_some(())
        });
        assert!(got == sent, "bytes differ");
        there
    }

    /// Reads until a stream has ended, or as many bytes as are wanted.
    fn read(&mut self, whose: usize, stream: StreamKey, bytes: usize) -> (Vec<u8>, Read) {
        let mut got = Vec::new();
        self.until(|rig| {
            let mut chunks = Vec::new();
            let left = bytes - got.len();
            let read = rig.drivers[whose].read(stream, left, &mut chunks);
            chunks.iter().for_each(|chunk| got.extend_from_slice(chunk));
            match read {
                Read::More if got.len() == bytes => Some((std::mem::take(&mut got), read)),
                Read::More | Read::Blocked => None,
                _ => Some((std::mem::take(&mut got), read)),
            }
        })
    }
}

fn connected(event: &QuicEvent) -> Option<ConnectionKey> {
    match event {
        QuicEvent::Connected(key) => Some(*key),
        _ => None,
    }
}

fn opened(event: &QuicEvent) -> Option<StreamKey> {
    match event {
        QuicEvent::Opened(stream) => Some(*stream),
        _ => None,
    }
}

fn lost(event: &QuicEvent) -> Option<ConnectionError> {
    match event {
        QuicEvent::Lost(_, why) => Some(why.clone()),
        _ => None,
    }
}

#[test]
fn a_stream_carries_bytes_both_ways_and_ends_each_by_itself() {
    let mut rig = Rig::new(1);
    let connection = rig.connect();
    assert_eq!(rig.event(1, connected), connection);
    let stream = rig.client().open(connection).unwrap();
    assert!(stream.is_first_of_client());
    let there = rig.send(stream);
    rig.write_all(0, there, b"and back");
    rig.drivers[0].finish(there);
    assert_eq!(
        rig.read(1, stream, 100),
        (b"and back".to_vec(), Read::Ended)
    );
    rig.event(0, |event| {
        (*event == QuicEvent::Finished(there)).then_some(())
    });
    assert!(rig.drivers[0].counts().datagrams_received > 2000);
    assert!(
        rig.drivers[0].counts().batches_received < 2000,
        "datagrams come in batches"
    );
}

#[test]
fn each_way_of_congestion_control_carries_datagrams_as_long_as_the_path_does() {
    for congestion in [Congestion::Cubic, Congestion::NewReno, Congestion::Bbr] {
        for mtu_max in [MTU_MIN, MTU_MAX] {
            let mut rig = Rig::over(
                1,
                PathSettings {
                    congestion,
                    mtu_max,
                },
            );
            let connection = rig.connect();
            rig.event(1, connected);
            let stream = rig.client().open(connection).unwrap();
            rig.send(stream);
            // What is probed for last comes through, as bursts of it do.
            rig.until(|rig| {
                let health = rig.client().health(connection).unwrap();
                (health.mtu == mtu_max).then_some(())
            });
            let health = rig.client().health(connection).unwrap();
            assert!(
                health.packets_sent >= 3_000_000 / u64::from(mtu_max),
                "{health:?}"
            );
            assert_eq!(rig.client().counts().socket_errors, 0);
        }
    }
}

#[test]
fn what_was_lost_stays_counted_when_its_connection_ends() {
    // The client sends several bursts before the server reads: more than has room.
    let mut rig = Rig::prepared(1, PathSettings::DEFAULT, |socket| {
        SockRef::from(socket)
            .set_recv_buffer_size(16 << 10)
            .unwrap();
    });
    let connection = rig.connect();
    rig.event(1, connected);
    let stream = rig.client().open(connection).unwrap();
    rig.send(stream);
    let health = rig.client().health(connection).unwrap();
    let lost = |rig: &mut Rig| {
        let counts = rig.client().counts();
        (counts.packets_lost, counts.congestion_events)
    };
    let while_it_ran = lost(&mut rig);
    assert!(while_it_ran.0 > 0 && while_it_ran.1 > 0, "{while_it_ran:?}");
    assert_eq!(
        while_it_ran,
        (health.packets_lost, health.congestion_events)
    );
    rig.client().close(connection, 0, "", clock::now());
    assert!(rig.client().health(connection).unwrap().is_closed);
    rig.until(|rig| rig.client().is_empty().then_some(()));
    assert!(lost(&mut rig).0 >= while_it_ran.0);
    assert!(lost(&mut rig).1 >= while_it_ran.1);
}

#[test]
fn both_kinds_of_breaking_off_carry_their_code() {
    let mut rig = Rig::new(1);
    let (_, stream) = rig.begin();
    let there = rig.event(0, opened);
    assert_eq!(rig.read(0, there, 5).0, b"hello");
    rig.client().reset(stream, 43);
    assert_eq!(rig.read(0, there, 1).1, Read::Reset(43));
    rig.client().stop(stream, 52);
    rig.event(0, |event| {
        (*event == QuicEvent::Stopped(there, 52)).then_some(())
    });
    assert_eq!(
        rig.drivers[0].write(there, &mut Bytes::from_static(b"x")),
        Write::Stopped(52)
    );
}

#[test]
fn a_close_tells_the_other_side_why() {
    let mut rig = Rig::new(1);
    // Until the handshake is confirmed, a close does not say why (RFC 9000 §10.2.3).
    let (connection, stream) = rig.begin();
    let there = rig.event(0, opened);
    rig.write_all(0, there, b"hello");
    rig.read(1, stream, 5);
    rig.client()
        .close(connection, 0x13, "stopping", clock::now());
    match rig.event(0, lost) {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code.into_inner(), 0x13);
            assert_eq!(&close.reason[..], b"stopping");
        }
        other => panic!("{other:?}"),
    }
    rig.until(|rig| rig.drivers.iter().all(Driver::is_empty).then_some(()));
    assert_eq!(rig.drivers[0].next_deadline(), None);
}

#[test]
fn what_may_come_unread_has_a_limit_however_often_some_are_not_read() {
    const CONNECTION: u32 = 4 << 20;
    const STALLED_MAX: u64 = 2 << 20;
    const LIMIT: usize = (4 + 2) << 20;
    let mut rig = Rig::new(1);
    let (connection, _) = rig.begin();
    let there = rig.event(0, opened).connection;
    rig.drivers[0].set_windows(Windows {
        stream: 1 << 20,
        connection: CONNECTION,
        stalled_max: STALLED_MAX,
        sent_max: 1 << 20,
    });
    for _ in 0..50 {
        rig.drivers[0].set_stalled(there, 10);
        rig.drivers[0].set_stalled(there, 1);
    }
    let mut streams = Vec::new();
    for _ in 0..20 {
        let stream = rig.client().open(connection).unwrap();
        streams.push((stream, Bytes::from_static(&[7; 1 << 20])));
    }
    let left = |streams: &[(StreamKey, Bytes)]| -> usize {
        streams.iter().map(|(_, bytes)| bytes.len()).sum()
    };
    let all = left(&streams);
    // So many turns more say that nothing follows.
    let mut turns = 100;
    rig.until(|rig| {
        for (stream, bytes) in &mut streams {
            rig.client().write(*stream, bytes);
        }
        let is_all = all - left(&streams) >= LIMIT - b"hello".len();
        turns -= usize::from(is_all);
        (turns == 0).then_some(())
    });
    let sent = all - left(&streams);
    assert!(sent <= LIMIT, "{sent} bytes");
}

#[test]
fn who_has_to_prove_his_address_does_so_once() {
    let mut rig = Rig::new(1);
    rig.admission = Admission::Retry;
    rig.connect();
    rig.event(1, connected);
    assert_eq!(rig.drivers[0].counts().retries, 1);
}

#[test]
fn who_is_refused_learns_it_at_once() {
    let mut rig = Rig::new(1);
    rig.admission = Admission::Refuse;
    rig.connect();
    assert!(matches!(
        rig.event(1, lost),
        ConnectionError::ConnectionClosed(_)
    ));
    assert!(rig.drivers[0].is_empty());
}

#[test]
fn a_handshake_has_its_time() {
    let mut rig = Rig::new(1);
    rig.drivers[0].set_handshake_timeout(Duration::from_millis(200));
    let since = clock::now();
    rig.connect();
    rig.client().flush(since);
    // It hears nothing more, and says nothing.
    let mute = rig.drivers.pop();
    assert_eq!(rig.event(0, lost), ConnectionError::TimedOut);
    let lasted = clock::now().since(since);
    assert!(lasted >= Duration::from_millis(200), "{lasted:?}");
    assert!(lasted < IDLE_TIMEOUT / 2, "{lasted:?}");
    rig.until(|rig| rig.drivers[0].is_empty().then_some(()));
    drop(mute);
}

#[test]
fn a_handshake_that_is_over_has_no_end() {
    let mut rig = Rig::new(1);
    let timeout = Duration::from_millis(300);
    rig.drivers[0].set_handshake_timeout(timeout);
    let (_, stream) = rig.begin();
    let there = rig.event(0, opened);
    let later = clock::now() + timeout * 2;
    rig.until(|_| (clock::now() > later).then_some(()));
    rig.write_all(0, there, b"hello");
    assert_eq!(rig.read(1, stream, 5).0, b"hello");
}

#[test]
fn what_only_acknowledges_waits_for_no_answer() {
    fn is_awaited(rig: &mut Rig, (whose, connection): (usize, ConnectionKey)) -> bool {
        let health = rig.drivers[whose].health(connection).unwrap();
        health.unanswered_since.is_some()
    }
    let mut rig = Rig::new(1);
    let (connection, _) = rig.begin();
    let [here, there] = [(1, connection), (0, rig.event(0, opened).connection)];
    let settle = |rig: &mut Rig| {
        rig.until(|rig| {
            let is_over = ![here, there]
                .map(|one| is_awaited(rig, one))
                .contains(&true);
            is_over.then_some(())
        });
    };
    settle(&mut rig);
    rig.client().ping(connection);
    rig.client().flush(clock::now());
    assert!(is_awaited(&mut rig, here));
    settle(&mut rig);
}

#[test]
fn a_relay_that_has_forgotten_a_connection_says_so() {
    let mut rig = Rig::new(1);
    let (_, stream) = rig.begin();
    rig.event(0, opened);
    // As after a kill: the socket is the same, the connections are gone, the keys are kept.
    let mut fresh = Driver::new(Rc::clone(&rig.reactor), 0, 0, 1, KEYS);
    let former = rig.drivers.remove(0);
    drop(former);
    // The ring lets go of the socket.
    for _ in 0..2 {
        rig.reactor.turn(Sleep::No, None);
    }
    let server = transport(rig.path)
        .server(Arc::clone(&rig.identity.server), &KEYS)
        .unwrap();
    let socket = bind_udp(rig.address).unwrap();
    fresh.add_port(socket, Some(server)).unwrap();
    rig.drivers.insert(0, fresh);
    rig.write_all(1, stream, b"are you there?");
    assert_eq!(rig.event(1, lost), ConnectionError::Reset);
    // The next one has the same handle, and comes about all the same.
    let successor = rig.connect();
    assert_eq!(rig.event(1, connected), successor);
}

/// A router between the client and the server, which forgets from where it sends for whom.
struct Router {
    inside: UdpSocket,
    outside: UdpSocket,
    client: Option<SocketAddr>,
    server: SocketAddr,
}

impl Router {
    fn new(reactor: &Reactor, server: SocketAddr) -> Self {
        Self {
            inside: Self::bind(reactor),
            outside: Self::bind(reactor),
            client: None,
            server,
        }
    }

    fn bind(reactor: &Reactor) -> UdpSocket {
        let socket = UdpSocket::bind(LOCALHOST).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (tag, token) = (TAG_ROUTER, 0);
        reactor.watch_fd(socket.as_fd(), Owner { tag, token });
        socket
    }

    /// Sends from another port from now on; where that is.
    fn forget(&mut self, reactor: &Reactor) -> SocketAddr {
        self.outside = Self::bind(reactor);
        self.outside.local_addr().unwrap()
    }

    fn pass(&mut self) {
        let mut space = [0; 2048];
        while let Ok((bytes, client)) = self.inside.recv_from(&mut space) {
            self.client = Some(client);
            // What finds no room is lost, as anywhere.
            let _ = self.outside.send_to(&space[..bytes], self.server);
        }
        while let (Ok(bytes), Some(client)) = (self.outside.recv(&mut space), self.client) {
            let _ = self.inside.send_to(&space[..bytes], client);
        }
    }
}

#[test]
fn datagrams_find_their_shard_from_any_other() {
    let mut rig = Rig::new(2);
    let router = Router::new(&rig.reactor, rig.address);
    rig.address = router.inside.local_addr().unwrap();
    rig.router = Some(router);
    let (_, stream) = rig.begin();
    let shard = rig.until(|rig| {
        let mut events = rig.events.iter();
        let (shard, _) = events.find(|(_, event)| opened(event).is_some())?;
        Some(*shard)
    });
    // From another port, which the kernel may give to the other shard: sooner or later it does.
    for _ in 0..64 {
        let reactor = Rc::clone(&rig.reactor);
        let address = rig.router.as_mut().unwrap().forget(&reactor);
        rig.write_all(2, stream, b" again");
        rig.until(|rig| {
            let driver = &rig.drivers[shard];
            let mut connections = driver.connections();
            connections
                .any(|key| driver.peer_address(key) == Some(address))
                .then_some(())
        });
        if rig.drivers[shard].counts().strays_taken > 0 {
            return;
        }
    }
    panic!("no datagram has come to another shard in 64 times");
}

#[test]
fn garbage_is_counted_and_costs_nothing() {
    let mut rig = Rig::new(1);
    let stranger = UdpSocket::bind(LOCALHOST).unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    for length in 0..200 {
        let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        stranger.send_to(&bytes, rig.address).unwrap();
    }
    rig.until(|rig| (rig.drivers[0].counts().datagrams_received >= 199).then_some(()));
    assert!(rig.drivers[0].is_empty());
    assert!(rig.drivers[0].counts().unroutable > 150);
    rig.connect();
    rig.event(1, connected);
}

#[test]
fn a_deadline_is_not_rounded_and_wakes_its_driver() {
    let mut rig = Rig::new(1);
    rig.begin();
    rig.client().flush(clock::now());
    // Something is on its way, and nobody answers: each probe has its deadline.
    let mut late = Duration::MAX;
    let mut rounded = 0;
    for _ in 0..4 {
        let deadline = rig.client().next_deadline().unwrap();
        rounded += u32::from(deadline.as_nanos().is_multiple_of(1_000_000));
        while clock::now() < deadline {
            rig.reactor.turn(Sleep::UntilOne, Some(deadline));
            while rig.reactor.poll_event().is_some() {}
        }
        let now = clock::now();
        late = late.min(now.since(deadline));
        rig.client().expire(now);
        rig.client().flush(now);
    }
    assert!(rounded < 4, "to whole milliseconds");
    assert!(late < Duration::from_millis(5), "{late:?}");
}
