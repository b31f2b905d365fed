//! How the two legs of a pair come about: the *near* leg dials (the connector,
//! or a proxy's client), the *far* leg is at the other end (the acceptor, or a
//! proxy's backend).
//!
//! ```text
//! direct   near ───────────────────> backend (far)
//! proxy    near ──> proxy ─────────> backend (far)
//! socks    near ──> proxy ─────────> backend (far), which the near leg names
//! jproxy   near ══> relay ─────────> backend (far), by a channel of a tunnel
//! jet      near ──> relay <────────── far
//! ptth     near ══> relay <══════════ far, a connection for each way
//! ```
//!
//! A proxy of HTTP takes the pair's bytes as the bodies of one request and its answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use midspan::protocol::socks5::Pace;
use midspan::relay::codec::Workshop;
use midspan::runtime::listener::{HandOut, Listener, claim_address};
use midspan::runtime::reactor::{Closing, Reactor};
use midspan::runtime::readiness::Readiness;
use midspan::runtime::socket::Socket;
use midspan::runtime::{Owner, PollKey};
use midspan::time::Timestamp;
use rustix::io::Errno;

use crate::args::RouteArgs;
use crate::bodies::Bodies;
use crate::event_loop::{Ended, EventLoop, Load};
use crate::exchange::{Dialogue, Exchange, Granted};
use crate::heads::Heads;
use crate::jet::{JetClient, Way, place_of};
use crate::jproxy::JproxyClient;
use crate::ptth::PtthClient;
use crate::socks::SocksClient;
use crate::wrapped::{READ_BYTES, Wrapped};

/// How long one pair may take to come about.
pub(crate) const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// The way that all pairs of a run take.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// Dial this, and be dialled at the backend: a proxy, or the backend
    /// itself.
    Dial {
        address: SocketAddr,
        name: &'static str,
        opening: Opening,
    },
    /// Dial a JET relay with both legs.
    Jet(JetClient),
    /// Dial a PTTH relay, with both legs and for either way.
    Ptth(PtthClient),
}

/// What passes between a near leg and what it dialled before anything else.
#[derive(Clone, Debug)]
pub(crate) enum Opening {
    Nothing,
    Tls(Way),
    Socks(SocksClient),
    /// A tunnel with one channel.
    Jproxy(JproxyClient, Rc<RefCell<Workshop>>),
    /// A request and its answer, whose bodies the pair's bytes are: this is its head.
    Http(String),
}

impl Opening {
    /// `None` if the leg is ready as it is.
    pub(crate) fn begin(&self) -> anyhow::Result<Option<Exchange>> {
        match self {
            Self::Nothing | Self::Http(_) => Ok(None),
            Self::Tls(way) => way.shake().map(Some),
            Self::Socks(client) => Ok(Some(client.connect())),
            Self::Jproxy(client, workshop) => {
                let dialogue = Dialogue::Tunnel(Box::new(client.connect()?));
                Ok(Some(Exchange::in_turns(dialogue, workshop)))
            }
        }
    }
}

impl Route {
    /// Takes the route that was asked for, and listens where it needs a
    /// backend.
    pub(crate) fn prepare(args: &RouteArgs, reactor: &Reactor) -> anyhow::Result<Self> {
        let workshop = Rc::new(RefCell::new(Workshop::new(READ_BYTES)));
        if let Some(relay) = args.jet {
            return Ok(Self::Jet(JetClient::new(relay, args, &workshop)?));
        }
        if let (Some(relay), Some(server_key), Some(client_key)) =
            (args.ptth, &args.server_key, &args.client_key)
        {
            return Ok(Self::Ptth(PtthClient {
                relay,
                server: args.server.clone(),
                server_key: server_key.clone(),
                client_key: client_key.clone(),
            }));
        }
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let wanted = args.backend.unwrap_or(any_port);
        let listener = claim_address(wanted)
            .and_then(|address| Listener::bind(address, HandOut::Established))
            .with_context(|| format!("cannot listen on {wanted} as the backend"))?;
        let backend = listener.address();
        reactor.listen(listener);
        if let (Some(relay), Some(key)) = (args.jproxy, &args.key_file) {
            let client = JproxyClient::new(key, args.dialect.dialect(), backend)?;
            return Ok(Self::Dial {
                address: relay,
                name: "jproxy",
                opening: Opening::Jproxy(client, workshop),
            });
        }
        let (address, name, opening) = match (args.target, args.socks) {
            (Some(proxy), _) if args.http => {
                let head = format!(
                    "POST / HTTP/1.1\r\nHost: {proxy}\r\nTransfer-Encoding: chunked\r\n\r\n"
                );
                (proxy, "http", Opening::Http(head))
            }
            (Some(proxy), _) => {
                let way = Way::new(proxy, args.near, args.pin, &workshop)?;
                (proxy, "proxy", way.map_or(Opening::Nothing, Opening::Tls))
            }
            (None, Some(proxy)) => {
                let pace = if args.at_once {
                    Pace::AtOnce
                } else {
                    Pace::StepByStep
                };
                let client = SocksClient::new(backend, pace, workshop);
                (proxy, "socks", Opening::Socks(client))
            }
            (None, None) => (backend, "direct", Opening::Nothing),
        };
        Ok(Self::Dial {
            address,
            name,
            opening,
        })
    }

    /// For reports.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Dial { name, .. } => name,
            Self::Jet(_) => "jet",
            Self::Ptth(_) => "ptth",
        }
    }
}

/// One connected socket of ours and its poll.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) socket: Socket,
    pub(crate) poll: PollKey,
    /// What is around its bytes, if anything.
    pub(crate) wrapped: Option<Box<Wrapped>>,
}

impl Leg {
    pub(crate) fn watch(reactor: &Reactor, socket: Socket, owner: Owner) -> Self {
        let poll = reactor.watch(&socket, owner);
        Self {
            socket,
            poll,
            wrapped: None,
        }
    }

    /// Sends `bytes`, or some of them.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match &mut self.wrapped {
            None => self.socket.send(bytes),
            Some(wrapped) => wrapped.send(&self.socket, bytes),
        }
    }

    /// Receives some bytes; 0 is the end.
    pub(crate) fn recv(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match &mut self.wrapped {
            None => self.socket.recv(buffer),
            Some(wrapped) => wrapped.recv(&self.socket, buffer),
        }
    }

    /// Sends what was wrapped and not taken, as far as it goes now; whether that was all.
    pub(crate) fn flush(&mut self) -> anyhow::Result<bool> {
        match self
            .wrapped
            .as_mut()
            .map(|wrapped| wrapped.flush(&self.socket))
        {
            None | Some(Ok(())) => Ok(true),
            Some(Err(Errno::AGAIN)) => Ok(false),
            Some(Err(error)) => Err(error).context("cannot send"),
        }
    }

    /// Says that nothing follows.
    pub(crate) fn end(&mut self) -> Result<(), Errno> {
        match &mut self.wrapped {
            None => self.socket.shutdown_write(),
            Some(wrapped) => wrapped.end(&self.socket),
        }
    }

    /// Starts to dial.
    pub(crate) fn dial(
        reactor: &Reactor,
        address: SocketAddr,
        owner: Owner,
    ) -> anyhow::Result<Self> {
        let socket = Socket::start_connect(address)
            .with_context(|| format!("cannot connect to {address}"))?;
        Ok(Self::watch(reactor, socket, owner))
    }

    pub(crate) fn close(self, reactor: &Reactor, closing: Closing) {
        if let Some(Wrapped::Bodies(bodies)) = self.wrapped.map(|wrapped| *wrapped) {
            bodies.close(reactor, closing);
        }
        reactor.retire(self.poll, self.socket, closing);
    }

    /// Closes the leg if what was done with it failed.
    fn keep_if<T>(self, reactor: &Reactor, done: anyhow::Result<T>) -> anyhow::Result<(Self, T)> {
        match done {
            Ok(value) => Ok((self, value)),
            Err(error) => {
                self.close(reactor, Closing::Reset);
                Err(error)
            }
        }
    }
}

/// Both legs of a pair.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) near: Leg,
    pub(crate) far: Leg,
}

impl Pair {
    pub(crate) fn close(self, reactor: &Reactor, closing: Closing) {
        self.near.close(reactor, closing);
        self.far.close(reactor, closing);
    }
}

/// The owners of a pair's legs: the near one has the even token.
pub(crate) fn owners(tag: u8, pair: u32) -> (Owner, Owner) {
    let token = pair * 2;
    let near = Owner { tag, token };
    let far = Owner {
        tag,
        token: token + 1,
    };
    (near, far)
}

/// Opens `count` pairs, one after the other, so that a backend knows which
/// connection belongs to which. Their events go to `tag`; those that came
/// while opening are lost, so whoever takes the pairs starts by trying.
pub(crate) fn open_pairs(
    event_loop: &mut EventLoop,
    route: &Route,
    tag: u8,
    count: u32,
) -> anyhow::Result<Vec<Pair>> {
    (0..count)
        .map(|pair| {
            let (near, far) = owners(tag, pair);
            open_pair(event_loop, route, near, far)
                .with_context(|| format!("pair {} of {count} did not come about", pair + 1))
        })
        .collect()
}

fn open_pair(
    event_loop: &mut EventLoop,
    route: &Route,
    near: Owner,
    far: Owner,
) -> anyhow::Result<Pair> {
    let reactor = event_loop.reactor.clone();
    match route {
        Route::Dial {
            address, opening, ..
        } => {
            let exchange = opening.begin()?;
            let mut near = Leg::dial(&reactor, *address, near)?;
            // A proxy may dial the backend before it says so.
            let mut accepted = VecDeque::new();
            if let Some(exchange) = exchange {
                let granted = finish_exchange(event_loop, &mut accepted, &near, exchange);
                let (kept, granted) = near.keep_if(&reactor, granted)?;
                near = kept;
                near.wrapped = granted.wrapped;
            }
            // A proxy of HTTP dials once it has the request's head.
            let mut request = Heads::default();
            if let Opening::Http(head) = opening {
                request.say(head.as_str());
            }
            let far_socket = attempt(event_loop, &mut accepted, |accepted| {
                if let Some(error) = near.socket.take_error() {
                    return Err(error).with_context(|| format!("cannot connect to {address}"));
                }
                request.flush(&near.socket)?;
                Ok(accepted.pop_front())
            });
            let (near, far_socket) = near.keep_if(&reactor, far_socket)?;
            let far = Leg::watch(&reactor, far_socket, far);
            let pair = Pair { near, far };
            match opening {
                Opening::Http(_) => pass_heads(event_loop, pair, request),
                _ => Ok(pair),
            }
        }
        Route::Ptth(client) => {
            let mut tunnel = client.begin(&reactor, (near, far))?;
            let opened = attempt(event_loop, &mut VecDeque::new(), |_| {
                client.advance(&reactor, &mut tunnel)
            });
            if opened.is_err() {
                tunnel.close(&reactor);
            }
            opened
        }
        Route::Jet(client) => {
            let (exchange, chosen) = client.accept()?;
            let far = Leg::dial(&reactor, client.relay, far)?;
            let nobody = &mut VecDeque::new();
            let granted = finish_exchange(event_loop, nobody, &far, exchange).and_then(|granted| {
                let place = place_of(chosen, granted.reply.as_ref())?;
                Ok((granted, place))
            });
            let (mut far, (granted, place)) = far.keep_if(&reactor, granted)?;
            far.wrapped = granted.wrapped;
            let near = Leg::dial(&reactor, client.relay, near).and_then(|near| {
                let granted = client
                    .connect(place)
                    .and_then(|exchange| finish_exchange(event_loop, nobody, &near, exchange));
                near.keep_if(&reactor, granted)
            });
            let (far, (mut near, granted)) = far.keep_if(&reactor, near)?;
            near.wrapped = granted.wrapped;
            Ok(Pair { near, far })
        }
    }
}

/// Has a request and its answer begin, whose bodies are the pair's bytes.
fn pass_heads(event_loop: &mut EventLoop, mut pair: Pair, mut near: Heads) -> anyhow::Result<Pair> {
    let mut far = Heads::default();
    let passed = attempt(event_loop, &mut VecDeque::new(), |_| {
        if far.hear(&pair.far.socket)? {
            far.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        }
        far.flush(&pair.far.socket)?;
        near.hear_success(&pair.near.socket, "")
    });
    if let Err(error) = passed {
        pair.close(&event_loop.reactor, Closing::Reset);
        return Err(error);
    }
    for leg in [&mut pair.near, &mut pair.far] {
        let bodies = Bodies::new(None, Vec::new());
        leg.wrapped = Some(Box::new(Wrapped::Bodies(bodies)));
    }
    Ok(pair)
}

fn finish_exchange(
    event_loop: &mut EventLoop,
    accepted: &mut VecDeque<Socket>,
    leg: &Leg,
    mut exchange: Exchange,
) -> anyhow::Result<Granted> {
    attempt(event_loop, accepted, |_| exchange.advance(&leg.socket))
}

/// Repeats `step` whenever something happened, until it gives a value.
fn attempt<T>(
    event_loop: &mut EventLoop,
    accepted: &mut VecDeque<Socket>,
    step: impl FnMut(&mut VecDeque<Socket>) -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let mut load = Attempt {
        step,
        accepted,
        result: None,
    };
    let until = event_loop.reactor.now() + OPENING_TIMEOUT;
    let ended = event_loop.run_until(&mut load, until, |load| load.result.is_some());
    match (ended, load.result) {
        (Ended::Finished, Some(result)) => result,
        _ => bail!("no answer within {} s", OPENING_TIMEOUT.as_secs()),
    }
}

struct Attempt<'a, S, T> {
    step: S,
    accepted: &'a mut VecDeque<Socket>,
    result: Option<anyhow::Result<T>>,
}

impl<S, T> Load for Attempt<'_, S, T>
where
    S: FnMut(&mut VecDeque<Socket>) -> anyhow::Result<Option<T>>,
{
    fn handle_ready(&mut self, _: Owner, _: Readiness) {}

    fn handle_accepted(&mut self, socket: Socket) {
        self.accepted.push_back(socket);
    }

    fn run(&mut self, _: Timestamp) -> bool {
        self.result = (self.step)(self.accepted).transpose();
        false
    }

    fn progress(&mut self, _: Duration) -> String {
        "opening pairs".to_owned()
    }
}
