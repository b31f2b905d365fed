//! The server-side proxy: it leads each stream that the relay opens to a service, and has the
//! one by HTTPS listen while UDP is blocked.

use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use tracing::{debug, warn};

use super::link::{Link, State};
use crate::agent::leg;
use crate::agent::proxy::Proxy;
use crate::agent::ptth::expose::ExposeService as ByHttps;
use crate::agent::ptth::room::Room;
use crate::agent::ptth::tunnel::{TunnelWorld, Way};
use crate::agent::settings::PtthService;
use crate::protocol::ptth_quic::{
    Answer, Inner, LateInner, MessageError, Offer, Question, Refusal, WireId,
};
use crate::quic::driver::QuicEvent;
use crate::runtime::clock;
use crate::runtime::executor::{run_or_spawn, spawn};
use crate::runtime::stream::Stream;
use crate::session::refused::Refused;
use crate::shard::peer_address::PeerAddress;
use crate::shard::status::{Detail, ShardStatus};
use crate::shard::streams::{NoMessage, QuicStream, StreamEnd, StreamSession};
use crate::shard::tally::Tally;

/// How long an offer may take until it is whole.
const OFFER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client that asks behind the relay's back may take to end what it was refused.
const LAST_WORDS_TIME: Duration = Duration::from_secs(2);
/// How long a service may take to be connected.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(5);

type OfferStream = QuicStream<Way, Infallible>;

/// The proxy, on its one core.
#[derive(Debug)]
pub(in crate::agent::ptth) struct ExposeService {
    world: Rc<TunnelWorld<Infallible>>,
    link: Rc<Link>,
    services: Vec<PtthService>,
    room: Room,
    serving: Tally,
}

impl ExposeService {
    pub(in crate::agent::ptth) fn new(
        world: Rc<TunnelWorld<Infallible>>,
        link: Rc<Link>,
        services: Vec<PtthService>,
        room: Room,
    ) -> Rc<Self> {
        Rc::new(Self {
            world,
            link,
            services,
            room,
            serving: Tally::default(),
        })
    }

    /// Has the relay's connections come by HTTPS whenever, and as long as, UDP is blocked.
    pub(in crate::agent::ptth) fn fall_back_to(&self, https: Rc<ByHttps>) {
        let link = Rc::clone(&self.link);
        spawn(async move {
            let until = |is_blocked| {
                let meant = move |state| ((state == State::Blocked) == is_blocked).then_some(());
                link.state().until(meant)
            };
            let following = async {
                loop {
                    until(true).await;
                    https.listen_if(true);
                    until(false).await;
                    https.listen_if(false);
                }
            };
            let _: Option<()> = link.stopping().or_raised(following).await;
        });
    }

    async fn serve(self: Rc<Self>, stream: OfferStream) {
        let _serving = self.serving.enter();
        let since = self.world.reactor.now();
        let reading = self.ask(&stream);
        let read = self.world.reactor.deadline(since + OFFER_TIMEOUT, reading);
        let asked = match read.await {
            Some(Ok(asked)) => asked,
            Some(Err(NoMessage::Wrong(error))) => {
                self.world.count_refused(Refused::NotAMessage);
                stream.write(&error.answer()).await;
                self.let_read(&stream).await;
                return stream.finish(Refusal::Malformed.into());
            }
            Some(Err(_)) => return,
            None => return stream.break_off(Refusal::TimedOut.into()),
        };
        let question = asked.question;
        match self.connect(&asked).await {
            Ok((local, service)) => {
                stream
                    .say(|words| Answer::Accepted.encode(question, words))
                    .await;
                let relay = self.world.streams.peer_address(stream.key().connection);
                let at = PeerAddress::from(local.socket().peer_address());
                let session = StreamSession {
                    peers: [PeerAddress::from(relay), at],
                    client: asked.client,
                    client_port: asked.client_port,
                    server: None,
                    target: Some(service.port.as_str().into()),
                    waiting_since: since,
                    joined_at: clock::now(),
                    is_far: false,
                    tunnel: None,
                };
                let ends = [StreamEnd::Stream(stream), StreamEnd::Socket(local)];
                self.world.join_streams(ends, session);
            }
            Err(refusal) => {
                // One that stands alone says the same.
                let answer = Answer::InnerRefused(refusal);
                stream.say(|words| answer.encode(question, words)).await;
                if question == Question::Inner {
                    self.let_read(&stream).await;
                }
                stream.finish(refusal.into());
            }
        }
    }

    /// Ends what we say to a client that reads it behind the relay's back, and waits for its end:
    /// were it told before that nobody reads what it says, the relay would break off both ways,
    /// and what is on its way to it with them.
    async fn let_read(&self, stream: &OfferStream) {
        let reactor = &self.world.reactor;
        let streams = &self.world.streams;
        streams.with_driver(|driver| driver.finish(stream.key()));
        let until = reactor.now() + LAST_WORDS_TIME;
        reactor.deadline(until, stream.more()).await;
    }

    /// Reads what the relay offers, and what its client asks for if that stands behind it.
    async fn ask(&self, stream: &OfferStream) -> Result<Asked, NoMessage<MessageError>> {
        let offer = stream.read_message(Offer::decode).await?;
        let question = offer.question();
        let client = match offer {
            Offer::Layered { client, inner } => {
                let client = Some(client.as_str().into());
                return Ok(Asked::of(inner, question, client));
            }
            // Without a number.
            Offer::Legacy { client: 0 } => None,
            Offer::Legacy { client } => Some(client.to_string().into()),
        };
        stream
            .say(|words| Answer::Accepted.encode(question, words))
            .await;
        let question = Question::Inner;
        Ok(match stream.read_message(LateInner::decode).await? {
            LateInner::Layered(inner) => Asked::of(inner, question, client),
            LateInner::Legacy { target } => Asked {
                question,
                client,
                client_port: 0,
                target: Wanted::Numbered(target),
            },
        })
    }

    /// Connects to what is asked for.
    async fn connect(&self, asked: &Asked) -> Result<(Stream, &PtthService), Refusal> {
        let Some(service) = self.service(&asked.target) else {
            self.world.count_refused(Refused::NotFound);
            warn!(
                client = asked.client,
                port = %asked.target,
                "a client asks for a port that is not exposed"
            );
            return Err(Refusal::Forbidden);
        };
        if !self.room.is_left(&self.world, self.serving.count() - 1) {
            return Err(Refusal::LimitReached);
        }
        let until = self.world.reactor.now() + SERVICE_TIMEOUT;
        let dialling = leg::dial_target(&self.world, &service.target);
        let target = &service.target;
        match self.world.reactor.deadline(until, dialling).await {
            Some(Ok(local)) => Ok((local.into_parts().0, service)),
            Some(Err(error)) => {
                self.world.count_refused(Refused::DialFailed);
                warn!(%target, %error, "cannot reach the service");
                Err(Refusal::TargetRefused)
            }
            None => {
                self.world.count_refused(Refused::DialFailed);
                warn!(%target, "the service does not answer");
                Err(Refusal::TimedOut)
            }
        }
    }

    fn service(&self, wanted: &Wanted) -> Option<&PtthService> {
        match wanted {
            Wanted::Named(name) => {
                let mut services = self.services.iter();
                services.find(|service| service.port.as_str() == name.as_str())
            }
            Wanted::Numbered(number) => self.services.get(usize::from(*number).checked_sub(1)?),
        }
    }
}

/// What a client asks for.
struct Asked {
    /// What is to be answered.
    question: Question,
    /// Who asks, by its name or number.
    client: Option<Box<str>>,
    client_port: u16,
    target: Wanted,
}

/// One of our services.
enum Wanted {
    Named(WireId),
    /// From 1 on, as they were listed.
    Numbered(u8),
}

impl Asked {
    fn of(inner: Inner, question: Question, client: Option<Box<str>>) -> Self {
        Self {
            question,
            client,
            client_port: inner.client_port,
            target: Wanted::Named(inner.target),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name.as_str()),
            Self::Numbered(number) => number.fmt(f),
        }
    }
}

impl Proxy for ExposeService {
    type Session = Way;
    type Message = Infallible;

    fn own_world(&self) -> &Rc<TunnelWorld<Infallible>> {
        &self.world
    }

    fn take_message(&self, message: Infallible) {
        match message {}
    }

    fn take_quic(self: &Rc<Self>, event: QuicEvent) {
        match event {
            QuicEvent::Opened(key) => {
                let stream = OfferStream::new(Rc::clone(&self.world), key);
                if self.link.stopping().is_raised() {
                    debug!("an offer while the proxy stops");
                    return stream.break_off(Refusal::LimitReached.into());
                }
                run_or_spawn(Rc::clone(self).serve(stream));
            }
            event => self.link.handle(event),
        }
    }

    fn add_status(&self, status: &mut ShardStatus, _detail: Detail) {
        status.relays.push(self.link.status());
    }

    fn stop(&self) {
        self.link.stop();
    }

    fn has_work(&self) -> bool {
        self.serving.count() > 0
    }
}
