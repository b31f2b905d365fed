//! A proxy of PTTH over QUIC that says whatever a test wants, wherever it does.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use midspan::config::quic_settings::PathSettings;
use midspan::protocol::ptth_quic::{ALPN, Hello, Inner, Open, Role, ShownKey, Who, WireId};
use midspan::quic::calls::{Read, Write};
use midspan::quic::connection::{ConnectionKey, StreamKey};
use midspan::quic::driver::{Admission, Driver, QuicEvent};
use midspan::quic::keys::SharedKeys;
use midspan::quic::transport::Transport;
use midspan::runtime::clock;
use midspan::runtime::reactor::{Event, Reactor};
use midspan::runtime::ring::{RingSize, Sleep};
use midspan::runtime::udp_group::bind_udp;
use midspan::tls::client::{Trust, quic_client_config};
use quinn_proto::ConnectionError;

use crate::patience::Deadline;
use crate::ptth_agents::{Meeting, key};

const TRANSPORT: Transport = Transport {
    stream_window: 1 << 20,
    connection_window: 4 << 20,
    send_window: 4 << 20,
    streams_max: 100,
    idle_timeout: Duration::from_secs(20),
    keep_alive: None,
    path: PathSettings::DEFAULT,
};

/// The bytes of a message.
pub(crate) fn bytes_of(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

/// What somebody says who has the key that belongs to `name`.
pub(crate) fn hello(role: Role, name: &str) -> Vec<u8> {
    let key = key(name).to_string();
    let hello = Hello {
        role,
        who: Who::Layered {
            id: WireId::of_key(),
            key: Some(ShownKey::try_from(key.as_bytes()).expect("a key")),
        },
    };
    bytes_of(|out| hello.encode(out))
}

/// What a client says who wants port 22 of `server`.
pub(crate) fn open(server: &str) -> Vec<u8> {
    let id = |name: &str| WireId::try_from(name.as_bytes()).expect("a name");
    let open = Open::Layered {
        server: id(server),
        inner: Inner {
            client_port: 50_000,
            target: id("22"),
        },
    };
    bytes_of(|out| open.encode(out))
}

/// The proxy, and its one connection.
pub(crate) struct Proxy {
    reactor: Rc<Reactor>,
    pub(crate) driver: Driver,
    pub(crate) connection: ConnectionKey,
    events: Vec<QuicEvent>,
}

impl Proxy {
    /// Begins to connect with the relay.
    pub(crate) fn dial(meeting: &Meeting) -> Self {
        let url = meeting.url.trim_start_matches("ptth+quic://");
        let (address, pin) = url.split_once("?pin=").expect("a pin");
        let trust = Trust::Pinned(pin.parse().expect("a fingerprint"));
        let tls = quic_client_config(trust, ALPN).expect("TLS 1.3");
        let config = TRANSPORT.client(tls, 0).expect("the first cipher");
        let reactor = Reactor::new(RingSize::default()).expect("a ring");
        let keys = SharedKeys {
            reset: [1; 32],
            token: [2; 32],
        };
        let mut driver = Driver::new(Rc::clone(&reactor), 0, 0, 1, keys);
        let own = bind_udp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        driver.add_port(own, None).expect("a socket of UDP");
        let to = address.parse().expect("an address");
        let dialled = driver.connect(0, config, to, "localhost", clock::now());
        Self {
            reactor,
            driver,
            connection: dialled.expect("an address to dial"),
            events: Vec::new(),
        }
    }

    /// Connects, and says nothing.
    pub(crate) fn connect(meeting: &Meeting) -> Self {
        let mut proxy = Self::dial(meeting);
        proxy.event(|event| matches!(event, QuicEvent::Connected(_)).then_some(()));
        proxy
    }

    /// Connects, and is let in as `name`.
    pub(crate) fn join(meeting: &Meeting, role: Role, name: &str) -> (Self, StreamKey) {
        let mut proxy = Self::connect(meeting);
        let stream = proxy.open();
        proxy.say(stream, &hello(role, name));
        assert_eq!(proxy.hear(stream, 4)[0], 20);
        (proxy, stream)
    }

    /// Whether the relay lets it connect.
    #[track_caller]
    pub(crate) fn comes_about(&mut self) -> bool {
        self.event(|event| match event {
            QuicEvent::Connected(_) => Some(true),
            QuicEvent::Lost(..) => Some(false),
            _ => None,
        })
    }

    fn turn(&mut self) {
        self.driver.flush(clock::now());
        let late = clock::now() + Duration::from_millis(100);
        let deadline = self.driver.next_deadline();
        let deadline = deadline.map_or(late, |deadline| deadline.min(late));
        let sleep = match self.driver.has_work() {
            true => Sleep::No,
            false => Sleep::UntilOne,
        };
        self.reactor.turn(sleep, Some(deadline));
        while let Some(event) = self.reactor.poll_event() {
            if let Event::Ready { owner, .. } = event {
                self.driver.handle_ready(owner.token);
            }
        }
        let now = clock::now();
        self.driver.receive(now, |_, _, _| Admission::Refuse);
        self.driver.expire(now);
        while let Some(event) = self.driver.poll_event() {
            self.events.push(event);
        }
    }

    #[track_caller]
    fn until<R>(&mut self, mut is_so: impl FnMut(&mut Self) -> Option<R>) -> R {
        let deadline = Deadline::new();
        loop {
            if let Some(result) = is_so(self) {
                return result;
            }
            assert!(!deadline.is_over(), "in vain; saw {:?}", self.events);
            self.turn();
        }
    }

    /// Waits for the first event that is meant.
    #[track_caller]
    pub(crate) fn event<R>(&mut self, is_meant: impl Fn(&QuicEvent) -> Option<R>) -> R {
        self.until(|proxy| {
            let mut events = proxy.events.iter();
            let index = events.position(|event| is_meant(event).is_some())?;
            is_meant(&proxy.events.remove(index))
        })
    }

    /// Opens a stream as soon as the relay allows it.
    #[track_caller]
    pub(crate) fn open(&mut self) -> StreamKey {
        self.until(|proxy| proxy.driver.open(proxy.connection))
    }

    #[track_caller]
    pub(crate) fn say(&mut self, stream: StreamKey, bytes: &[u8]) {
        let mut bytes = Bytes::copy_from_slice(bytes);
        self.until(|proxy| (proxy.driver.write(stream, &mut bytes) == Write::Done).then_some(()));
        self.driver.flush(clock::now());
    }

    /// Waits for so many bytes.
    #[track_caller]
    pub(crate) fn hear(&mut self, stream: StreamKey, bytes: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        self.until(|proxy| {
            let mut chunks = Vec::new();
            let left = bytes - heard.len();
            let read = proxy.driver.read(stream, left, &mut chunks);
            chunks
                .iter()
                .for_each(|chunk| heard.extend_from_slice(chunk));
            assert!(
                matches!(read, Read::More | Read::Blocked),
                "{read:?} behind {heard:?}"
            );
            (heard.len() == bytes).then(|| std::mem::take(&mut heard))
        })
    }

    /// Why the relay has closed the connection.
    #[track_caller]
    pub(crate) fn closed(&mut self) -> ConnectionError {
        self.event(|event| match event {
            QuicEvent::Lost(_, why) => Some(why.clone()),
            _ => None,
        })
    }

    /// The code with which it has.
    #[track_caller]
    pub(crate) fn close_code(&mut self) -> u64 {
        match self.closed() {
            ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("{other}"),
        }
    }

    /// Does something, and sends what comes of it.
    pub(crate) fn act(&mut self, act: impl FnOnce(&mut Driver)) {
        act(&mut self.driver);
        self.driver.flush(clock::now());
    }
}
