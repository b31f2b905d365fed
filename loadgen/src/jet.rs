//! The client's side of JET: what both legs ask for, and by which way.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context;
use midspan::access::Fingerprint;
use midspan::protocol::jet::{
    Accept, AcceptPlace, Connect, Gate, HostName, MASK_DEFAULT, Message, Place, Reply, Request,
    Transport, Version,
};
use midspan::relay::codec::Workshop;
use midspan::session::introduction::{Introduction, Speech};
use midspan::tls::client::{Trust, client_config};
use midspan::tls::{Session, Wire};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use uuid::Uuid;

use crate::args::{GateWord, JetVersion, RouteArgs, TransportWord};
use crate::exchange::{Dialogue, Exchange};

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
        Exchange::in_turns(dialogue, &self.workshop)
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
