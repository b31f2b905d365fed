//! Both peers' side of PTTH over HTTP: the requests that one tunnel takes.
//!
//! ```text
//!   near   upstream ─────> accept     far
//!          connect  <───── downstream
//! ```

use std::net::SocketAddr;

use anyhow::Context;
use midspan::runtime::reactor::{Closing, Reactor};
use midspan::runtime::socket::Socket;
use midspan::runtime::{Owner, PollKey};

use crate::bodies::Bodies;
use crate::heads::{Heads, Success};
use crate::route::{Leg, Pair};
use crate::wrapped::Wrapped;

const ID_HEADER: &str = "X-PTTH-Connection-Id";

/// What makes a body one that streams.
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// Who calls the relay.
#[derive(Clone, Debug)]
pub(crate) struct PtthClient {
    pub(crate) relay: SocketAddr,
    /// The server's name, as its key is known to the relay.
    pub(crate) server: String,
    pub(crate) server_key: String,
    pub(crate) client_key: String,
}

/// A tunnel that comes about.
#[derive(Debug)]
pub(crate) struct Tunnel {
    near: Owner,
    far: Owner,
    listen: Option<Call>,
    connect: Option<Call>,
    accept: Option<Call>,
    /// Upstream and downstream, whose heads are on their way.
    requests: Option<[Leg; 2]>,
}

/// One request on a connection of its own.
#[derive(Debug)]
struct Call {
    socket: Socket,
    poll: PollKey,
    heads: Heads,
}

impl PtthClient {
    /// Begins a tunnel, with a port of its own, so that nobody is offered another's.
    pub(crate) fn begin(
        &self,
        reactor: &Reactor,
        (near, far): (Owner, Owner),
    ) -> anyhow::Result<Tunnel> {
        let (server, port) = (&self.server, format!("{}-{}", near.tag, near.token));
        let [listen, connect] = [self.dial()?, self.dial()?];
        let listen = self.call(reactor, far, listen, &format!("listen/{port}"));
        let connect = self.call(reactor, near, connect, &format!("connect/{server}/{port}"));
        Ok(Tunnel {
            near,
            far,
            listen: Some(listen),
            connect: Some(connect),
            accept: None,
            requests: None,
        })
    }

    /// Goes as far with a tunnel as its sockets allow; both legs when it is there.
    pub(crate) fn advance(
        &self,
        reactor: &Reactor,
        tunnel: &mut Tunnel,
    ) -> anyhow::Result<Option<Pair>> {
        if let Some(listen) = &mut tunnel.listen {
            if let Some(connect) = &mut tunnel.connect {
                connect.hear()?;
            }
            let Some(offer) = listen.hear()? else {
                return Ok(None);
            };
            let id = offer.value.context("nobody connected in time")?;
            let accept = self.dial()?;
            tunnel.accept = Some(self.call(reactor, tunnel.far, accept, &format!("accept/{id}")));
            if let Some(listen) = tunnel.listen.take() {
                listen.close(reactor, Closing::Clean);
            }
        }
        if let (Some(connect), Some(accept)) = (&mut tunnel.connect, &mut tunnel.accept) {
            let (Some(connected), Some(_)) = (connect.hear()?, accept.hear()?) else {
                return Ok(None);
            };
            let id = connected.value.context("a tunnel without an id")?;
            let [upstream, downstream] = [self.dial()?, self.dial()?];
            if let (Some(connect), Some(accept)) = (tunnel.connect.take(), tunnel.accept.take()) {
                let leg = |owner, socket, what: &str, answer: Call| {
                    let head = self.head(what, CHUNKED).into_bytes();
                    let bodies = Bodies::new(Some((answer.socket, answer.poll)), head);
                    let mut leg = Leg::watch(reactor, socket, owner);
                    leg.wrapped = Some(Box::new(Wrapped::Bodies(bodies)));
                    leg
                };
                tunnel.requests = Some([
                    leg(tunnel.near, upstream, &format!("upstream/{id}"), connect),
                    leg(tunnel.far, downstream, &format!("downstream/{id}"), accept),
                ]);
            }
        }
        for leg in tunnel.requests.iter_mut().flatten() {
            if !leg.flush()? {
                return Ok(None);
            }
        }
        Ok(tunnel.requests.take().map(|[near, far]| Pair { near, far }))
    }

    fn dial(&self) -> anyhow::Result<Socket> {
        let relay = self.relay;
        Socket::start_connect(relay).with_context(|| format!("cannot connect to {relay}"))
    }

    fn call(&self, reactor: &Reactor, owner: Owner, socket: Socket, what: &str) -> Call {
        let poll = reactor.watch(&socket, owner);
        let mut heads = Heads::default();
        heads.say(self.head(what, ""));
        Call {
            socket,
            poll,
            heads,
        }
    }

    fn head(&self, what: &str, headers: &str) -> String {
        let is_clients = what.starts_with("connect/") || what.starts_with("upstream/");
        let key = match is_clients {
            true => &self.client_key,
            false => &self.server_key,
        };
        format!(
            "POST /ptth/v1/{what} HTTP/1.1\r\nHost: {}\r\nX-ApiKey: {key}\r\n{headers}\r\n",
            self.relay
        )
    }
}

impl Tunnel {
    /// Gives it up.
    pub(crate) fn close(self, reactor: &Reactor) {
        for call in [self.listen, self.connect, self.accept]
            .into_iter()
            .flatten()
        {
            call.close(reactor, Closing::Reset);
        }
        for leg in self.requests.into_iter().flatten() {
            leg.close(reactor, Closing::Reset);
        }
    }
}

impl Call {
    fn hear(&mut self) -> anyhow::Result<Option<Success>> {
        self.heads.hear_success(&self.socket, ID_HEADER)
    }

    fn close(self, reactor: &Reactor, closing: Closing) {
        reactor.retire(self.poll, self.socket, closing);
    }
}
