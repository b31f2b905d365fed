//! The client's side of JET: requests, and replies as they come in.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, bail};
use midspan::protocol::Progress;
use midspan::protocol::jet::{
    Accept, AcceptPlace, Connect, Gate, HostName, MASK_DEFAULT, Message, PACKET_BYTES_MAX, Packet,
    Place, Reply, Request, Status, Transport, Version,
};
use midspan::relay::codec::{Codec, Workshop};
use midspan::runtime::socket::Socket;
use midspan::session::introduction::{Introduction, Speech};
use midspan::tls::client::{Trust, client_config};
use midspan::tls::identity::Fingerprint;
use midspan::tls::{Session, Wire};
use rustix::io::Errno;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use uuid::Uuid;

use crate::args::{GateWord, JetVersion, RouteArgs, TransportWord};
use crate::wrapped::Wrapped;

/// What both legs of a pair say to one relay.
#[derive(Clone, Debug)]
pub(crate) struct JetClient {
    pub(crate) relay: SocketAddr,
    host: HostName,
    version: Version,
    gate: Gate,
    near: Option<Way>,
    far: Option<Way>,
}

impl JetClient {
    pub(crate) fn new(
        relay: SocketAddr,
        args: &RouteArgs,
        workshop: &Rc<RefCell<Workshop>>,
    ) -> anyhow::Result<Self> {
        let gate = args.gate;
        Ok(Self {
            relay,
            host: HostName::new(&relay.to_string())?,
            near: Way::new(relay, args.near, args.pin, workshop)?,
            far: Way::new(relay, args.far, args.pin, workshop)?,
            version: match args.jet_version {
                JetVersion::V1 => Version::V1,
                JetVersion::V2 => Version::V2,
            },
            gate: match gate {
                GateWord::Off => Gate::Off,
                GateWord::Hold => Gate::Hold,
            },
        })
    }

    /// The acceptor's exchange, and where it waits if that is ours to choose.
    pub(crate) fn accept(&self) -> anyhow::Result<(Exchange, Option<Place>)> {
        let is_packet = self.far.as_ref().is_none_or(Way::asks_by_packet);
        let chosen = match self.version {
            Version::V1 if is_packet => None,
            Version::V1 | Version::V2 => Some(Place {
                association: random_id(),
                candidate: Some(random_id()),
            }),
        };
        let accept = Accept {
            place: chosen.map_or(AcceptPlace::Minted, AcceptPlace::Named),
            gate: self.gate,
        };
        let exchange = self.exchange(Message::Accept(accept), self.far.as_ref())?;
        Ok((exchange, chosen))
    }

    /// The connector's exchange.
    pub(crate) fn connect(&self, place: Place) -> anyhow::Result<Exchange> {
        let gate = self.gate;
        self.exchange(
            Message::Connect(Connect { place, gate }),
            self.near.as_ref(),
        )
    }

    fn exchange(&self, message: Message, way: Option<&Way>) -> anyhow::Result<Exchange> {
        let request = Request {
            message,
            version: self.version,
            mask: MASK_DEFAULT,
        };
        match way {
            None => Ok(Exchange::Plain {
                request: Some(Box::new(request.encode(&self.host))),
                reply: Vec::new(),
            }),
            Some(way) => way.introduce(&request),
        }
    }
}

/// Ids of a load are not credentials: any generator will do.
fn random_id() -> Uuid {
    Uuid::from_u128(fastrand::u128(..))
}

/// What a leg says before it is one, on a socket that may still be connecting.
#[derive(Debug)]
pub(crate) enum Exchange {
    /// One request and its reply.
    Plain {
        /// `None` once it is out.
        request: Option<Box<Packet>>,
        reply: Vec<u8>,
    },
    /// The same over another transport.
    Wrapped(Box<WrappedExchange>),
}

#[derive(Debug)]
pub(crate) struct WrappedExchange {
    dialogue: Dialogue,
    /// Bytes of the output that are out.
    sent: usize,
    workshop: Rc<RefCell<Workshop>>,
}

#[derive(Debug)]
enum Dialogue {
    Introduction(Introduction),
    /// TLS, and nothing to ask for.
    Tls {
        session: Option<Box<Session>>,
        output: Wire,
    },
}

/// What an exchange comes to.
#[derive(Debug, Default)]
pub(crate) struct Granted {
    pub(crate) reply: Option<Reply>,
    pub(crate) wrapped: Option<Box<Wrapped>>,
}

impl Exchange {
    /// Goes as far as the socket allows; what was granted when it is there,
    /// `None` when the socket has to become ready first.
    ///
    /// # Errors
    ///
    /// When the connection fails, the reply is none, or it is a refusal.
    pub(crate) fn advance(&mut self, socket: &Socket) -> anyhow::Result<Option<Granted>> {
        let (request, reply) = match self {
            Self::Plain { request, reply } => (request, reply),
            Self::Wrapped(wrapped) => return wrapped.advance(socket),
        };
        if let Some(packet) = request {
            match socket.send(packet.as_bytes()) {
                Ok(count) if count == packet.as_bytes().len() => *request = None,
                Ok(count) => bail!("only {count} bytes of a jet request went out"),
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error).context("cannot send a jet request"),
            }
        }
        let mut buffer = [0; PACKET_BYTES_MAX];
        let Some(count) = receive(socket, &mut buffer)? else {
            return Ok(None);
        };
        reply.extend_from_slice(buffer.get(..count).unwrap_or_default());
        match Reply::decode(reply)? {
            Progress::Partial { .. } => Ok(None),
            Progress::Complete { value, consumed } if consumed == reply.len() => {
                if value.status != Status::OK {
                    bail!("the relay answered with status {}", value.status.as_u16());
                }
                Ok(Some(Granted {
                    reply: Some(value),
                    wrapped: None,
                }))
            }
            // Nobody has sent anything yet on the other leg.
            Progress::Complete { consumed, .. } => {
                bail!("{} bytes came behind a jet reply", reply.len() - consumed)
            }
        }
    }
}

impl WrappedExchange {
    fn advance(&mut self, socket: &Socket) -> anyhow::Result<Option<Granted>> {
        loop {
            if !self.send(socket)? {
                return Ok(None);
            }
            let mut buffer = [0; PACKET_BYTES_MAX];
            let Some(count) = receive(socket, &mut buffer)? else {
                return Ok(None);
            };
            let received = buffer.get_mut(..count).unwrap_or_default();
            let granted = self.dialogue.receive(received)?;
            if let Some((reply, codec)) = granted {
                // The last words of a handshake: few, and the socket is empty.
                if !self.send(socket)? {
                    bail!("the last words of a handshake do not go out");
                }
                let wrapped =
                    codec.map(|codec| Box::new(Wrapped::new(codec, self.workshop.clone())));
                return Ok(Some(Granted { reply, wrapped }));
            }
        }
    }

    /// Sends what is to be said now; false when the socket takes no more.
    fn send(&mut self, socket: &Socket) -> anyhow::Result<bool> {
        let output = self.dialogue.output();
        while self.sent < output.len() {
            match socket.send(output.get(self.sent..).unwrap_or_default()) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error).context("cannot send a request"),
            }
        }
        self.sent = 0;
        self.dialogue.handle_sent();
        Ok(true)
    }
}

impl Dialogue {
    fn output(&self) -> &[u8] {
        match self {
            Self::Introduction(introduction) => introduction.output(),
            Self::Tls { output, .. } => output.as_bytes(),
        }
    }

    const fn handle_sent(&mut self) {
        match self {
            Self::Introduction(introduction) => introduction.handle_sent(),
            Self::Tls { output, .. } => output.clear(),
        }
    }

    #[expect(
        clippy::type_complexity,
        reason = "an end of a handshake, for one caller"
    )]
    fn receive(
        &mut self,
        bytes: &mut [u8],
    ) -> anyhow::Result<Option<(Option<Reply>, Option<Box<Codec>>)>> {
        match self {
            Self::Introduction(introduction) => Ok(introduction
                .receive(bytes)?
                .map(|introduced| (introduced.reply, introduced.codec))),
            Self::Tls { session, output } => {
                let tls = session.as_mut().context("tls is over")?;
                let mut sealed = tls.take_begun();
                sealed.extend_from_slice(bytes);
                let mut plain = vec![0; sealed.len()];
                let opened = tls.open(&mut sealed, &mut plain)?;
                tls.take_words(output);
                if opened.bytes > 0 {
                    bail!("{} bytes came behind a handshake", opened.bytes);
                }
                Ok((!tls.is_handshaking()).then(|| (None, Codec::new(session.take(), None))))
            }
        }
    }
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> anyhow::Result<Option<usize>> {
    match socket.recv(buffer) {
        Ok(0) => bail!("the relay closed before its reply was complete"),
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error).context("cannot read a reply"),
    }
}

/// How a leg dials that is not plain TCP.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    speech: Speech,
    workshop: Rc<RefCell<Workshop>>,
}

impl Way {
    /// `None` for plain TCP.
    pub(crate) fn new(
        address: SocketAddr,
        transport: TransportWord,
        pin: Option<Fingerprint>,
        workshop: &Rc<RefCell<Workshop>>,
    ) -> anyhow::Result<Option<Self>> {
        let transport = transport.transport();
        if transport == Transport::Tcp {
            return Ok(None);
        }
        let tls = match transport.is_tls() {
            false => None,
            true => {
                let pin = pin.context("--pin is needed over tls: as the relay tells it")?;
                let mut config = client_config(Trust::Pinned(pin))?;
                // What is measured are whole handshakes.
                Arc::make_mut(&mut config).resumption = Resumption::disabled();
                Some((config, ServerName::from(address.ip())))
            }
        };
        Ok(Some(Self {
            speech: Speech {
                transport,
                authority: address.to_string(),
                tls,
            },
            workshop: Rc::clone(workshop),
        }))
    }

    const fn asks_by_packet(&self) -> bool {
        matches!(self.speech.transport, Transport::Tcp | Transport::Tls)
    }

    /// To a proxy, which is asked for nothing.
    pub(crate) fn shake(&self) -> anyhow::Result<Exchange> {
        let (config, name) = self
            .speech
            .tls
            .clone()
            .context("a proxy is dialled by tls")?;
        let mut session = Session::client(config, name)?;
        let mut output = Wire::default();
        session.open(&mut [], &mut [])?;
        session.take_words(&mut output);
        Ok(self.exchange(Dialogue::Tls {
            session: Some(Box::new(session)),
            output,
        }))
    }

    fn introduce(&self, request: &Request) -> anyhow::Result<Exchange> {
        let random = fastrand::u128(..).to_be_bytes();
        let introduction = Introduction::new(&self.speech, request, random)?;
        Ok(self.exchange(Dialogue::Introduction(introduction)))
    }

    fn exchange(&self, dialogue: Dialogue) -> Exchange {
        Exchange::Wrapped(Box::new(WrappedExchange {
            dialogue,
            sent: 0,
            workshop: Rc::clone(&self.workshop),
        }))
    }
}

/// Where an acceptor waits, once it was told so.
pub(crate) fn place_of(chosen: Option<Place>, reply: Option<&Reply>) -> anyhow::Result<Place> {
    let details = reply.and_then(|reply| reply.details.as_ref());
    let minted = details.map(|details| Place {
        association: details.association,
        candidate: None,
    });
    chosen
        .or(minted)
        .context("the relay's accept reply names no association")
}
