//! Ways into a WebSocks relay: dialled, let in, and then asked for one connection.

use std::fmt;
use std::io;
use std::time::Duration;

use super::SocksWorld;
use super::refusal::{Refusal, Why};
use crate::access::PasswordDigest;
use crate::agent::leg::{self, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, LegError};
use crate::agent::random::random_bytes;
use crate::agent::relay_host::RelayHost;
use crate::agent::relay_trouble::Trouble;
use crate::agent::settings::AgentSettings;
use crate::agent::socks::url::WebsocksUrl;
use crate::agent::way::WayError;
use crate::protocol::socks5::{Client, ClientError, Pace, Reply, ReplyCode, Request};
use crate::protocol::websocket::AnswerError;
use crate::protocol::websocks::{MAX_FRAME, PONG, SubProtocol};
use crate::runtime::clock;
use crate::session::entry::{Entered, Entry, EntryError, Visitor};
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;
use crate::time::Timestamp;

/// Until a relay must have said what came of a request: it resolves the name and dials,
/// for which it takes 10 s each at most.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(25);

/// Until a client must have its reply, whichever relays are asked for it: what the first one
/// may take to be dialled, to let us in and to reply.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(45);

const _: () = assert!(
    ASK_TIMEOUT.as_secs()
        == CONNECT_TIMEOUT.as_secs() + HANDSHAKE_TIMEOUT.as_secs() + REPLY_TIMEOUT.as_secs()
);

/// One relay, and how it is asked.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Gateway {
    url: WebsocksUrl,
    host: RelayHost,
}

/// A connection that a relay has let in, and that was asked for nothing yet.
#[derive(Debug)]
pub(super) struct Entrance {
    stream: WrappedStream,
    protocol: SubProtocol,
}

/// A request that was made, and the way by which its replies come.
#[derive(Debug)]
pub(super) struct Inquiry {
    stream: WrappedStream,
    client: Client,
    /// Of the ten bytes that a relay answers with, which mean nothing.
    frame_left: usize,
}

/// Why there is no way into a relay.
#[derive(Debug, thiserror::Error)]
pub(in crate::agent) enum EnterError {
    #[error(transparent)]
    Leg(#[from] LegError),
    #[error(transparent)]
    Entry(#[from] EntryError),
}

/// Why a relay gave no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// There is no way into it.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// It said nothing, and went.
    #[error("the relay closed the connection")]
    Dead,
    /// It went on the way, or speaks something else.
    #[error("the relay: {0}")]
    Socks(#[from] ClientError),
    /// Nothing came in time.
    #[error("no reply from the relay in time")]
    Silent,
    /// The client's time was over before the relay's.
    #[error("no time is left for the relay to reply")]
    OutOfTime,
    /// It was not asked, as its pause is not over.
    #[error("it is tried again later")]
    Resting(Trouble),
}

impl Gateway {
    pub(super) fn new(url: &WebsocksUrl, agent: &AgentSettings) -> Result<Self, WayError> {
        Ok(Self {
            url: url.clone(),
            host: RelayHost::new(&url.address, url.is_tls, url.pin, agent)?,
        })
    }

    /// The relay.
    pub(super) const fn url(&self) -> &WebsocksUrl {
        &self.url
    }

    /// Its host and port.
    pub(super) fn authority(&self) -> &str {
        self.host.authority()
    }

    /// Goes in, by a password of which `password` was kept.
    pub(super) async fn enter(
        &self,
        world: &SocksWorld,
        protocol: SubProtocol,
        password: &PasswordDigest,
    ) -> Result<Entrance, EnterError> {
        let mut stream = self.host.reach(world).await?;
        let visitor = Visitor {
            authority: self.authority(),
            user: &self.url.user,
            proof: &password.proof(clock::unix_time()),
            protocol,
        };
        let entry = Entry::new(self.host.trusted(), visitor, random_bytes())?;
        let entered: Result<_, EnterError> = leg::converse(world, &mut stream, entry).await;
        let Entered { codec, early } = entered?;
        let stream = WrappedStream::new(stream, codec, early, &world.workshop);
        Ok(Entrance {
            stream: stream.map_err(LegError::Broken)?,
            protocol,
        })
    }
}

impl Entrance {
    /// Whether the relay has closed it.
    pub(super) fn is_lost(&mut self) -> bool {
        self.stream.is_lost()
    }

    /// Shows the relay, and whatever is between, that somebody is still there.
    pub(super) async fn keep_alive(&mut self) -> io::Result<()> {
        match self.protocol {
            SubProtocol::Plain => self.stream.send_all(&PONG).await,
            SubProtocol::Framed => self.stream.ping().await,
        }
    }

    /// Asks for something; gives what the relay says, which has to come `until` then, and the
    /// way there.
    pub(super) async fn ask(
        self,
        world: &SocksWorld,
        request: &Request,
        until: Timestamp,
    ) -> Result<(Inquiry, Reply), AskError> {
        let relays_until = world.reactor.now() + REPLY_TIMEOUT;
        let late = match until < relays_until {
            true => AskError::OutOfTime,
            false => AskError::Silent,
        };
        let until = until.min(relays_until);
        let asked = world.reactor.deadline(until, self.inquire(request)).await;
        asked.unwrap_or(Err(late))
    }

    async fn inquire(mut self, request: &Request) -> Result<(Inquiry, Reply), AskError> {
        let mut client = Client::new(request, None, Pace::AtOnce);
        let (mut words, frame_left) = match self.protocol {
            SubProtocol::Plain => (MAX_FRAME.to_vec(), MAX_FRAME.len()),
            SubProtocol::Framed => (Vec::new(), 0),
        };
        words.extend_from_slice(&client.take_output());
        self.stream
            .send_all(&words)
            .await
            .map_err(|_| AskError::Dead)?;
        let mut inquiry = Inquiry {
            stream: self.stream,
            client,
            frame_left,
        };
        let reply = inquiry.next_reply().await?;
        Ok((inquiry, reply))
    }
}

impl Inquiry {
    /// Waits for what the relay says next: BIND has two replies.
    pub(super) async fn next_reply(&mut self) -> Result<Reply, AskError> {
        let mut received = Vec::new();
        loop {
            let skipped = self.frame_left.min(received.len());
            self.frame_left -= skipped;
            if let Some(reply) = self.client.receive(&received[skipped..])? {
                return Ok(reply);
            }
            received.clear();
            match self.stream.read_into(&mut received).await {
                Ok(0) | Err(_) => return Err(AskError::Dead),
                Ok(_) => {}
            }
        }
    }

    /// The way there, with what came behind the replies.
    pub(super) fn into_stream(mut self) -> WrappedStream {
        self.stream.put_back(self.client.into_rest());
        self.stream
    }
}

impl AskError {
    /// What it says of the relay, if anything.
    pub(super) const fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Enter(EnterError::Leg(error)) if error.is_unreachable() => {
                Some(Trouble::Unreachable)
            }
            Self::Enter(_) => Some(Trouble::Refuses),
            Self::Dead | Self::Socks(_) | Self::Silent => Some(Trouble::Mute),
            Self::Resting(trouble) => Some(*trouble),
            Self::OutOfTime => None,
        }
    }

    /// What the local client is told, and what is counted. `relay` is its host and port.
    pub(super) fn refusal(&self, relay: &str) -> Refusal {
        match (self, self.trouble()) {
            (_, Some(Trouble::Unreachable)) => Refusal::no_relay(),
            (_, Some(Trouble::Refuses)) => Refusal::not_let_in(relay),
            (_, None) => Refusal {
                code: ReplyCode::TtlExpired,
                refused: Refused::DialFailed,
                why: Why::OutOfTime,
            },
            (Self::Silent, Some(Trouble::Mute)) => Refusal::mute(relay, ReplyCode::TtlExpired),
            (_, Some(Trouble::Mute)) => Refusal::mute(relay, ReplyCode::GeneralFailure),
        }
    }

    /// What whoever started the agent can do about it.
    pub(super) fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Enter(error) => error.next_step(),
            Self::Dead | Self::Socks(_) | Self::Silent => Some(
                "see whether the relay is overloaded, or a gateway on the way looks into \
                 WebSockets: --framed is for these",
            ),
            Self::OutOfTime | Self::Resting(_) => None,
        }
    }
}

impl EnterError {
    /// What whoever started the agent can do about it.
    fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Leg(error) => error.next_step(),
            Self::Entry(EntryError::WrongPassword) => Some(
                "check user and password, and this machine's clock, which may be a minute off at \
                 most",
            ),
            Self::Entry(EntryError::Approach(error)) => leg::approach_advice(error),
            Self::Entry(EntryError::Answer(AnswerError::Refused { status })) => {
                Some(status_advice(*status))
            }
            Self::Entry(EntryError::Answer(_)) => Some(NO_WEBSOCKS),
            Self::Entry(_) => None,
        }
    }
}

const NO_WEBSOCKS: &str = "see whether the relay serves WebSocks at this port ([websocks] users), \
    and whether a gateway before it passes on the path /";

/// What can be done about an answer other than 101.
const fn status_advice(status: u16) -> &'static str {
    match status {
        400 => "if the port takes TLS alone, write websocks+wss",
        429 => {
            "too many wrong passwords, or connections, came from this address: wait a minute, and \
             see which client of it has an old password"
        }
        502..=504 => "a gateway answers: see whether the relay behind it runs",
        _ => NO_WEBSOCKS,
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt_with(&self.url, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_relay_that_cannot_be_reached_is_none() {
        let check = |error: AskError, trouble, code, refused| {
            assert_eq!(error.trouble(), trouble, "{error}");
            let refusal = error.refusal("r:1");
            assert_eq!((refusal.code, refusal.refused), (code, refused), "{error}");
        };
        let enter = |error: EnterError| AskError::Enter(error);
        let (unreachable, refuses) = (Some(Trouble::Unreachable), Some(Trouble::Refuses));
        let mute = Some(Trouble::Mute);
        let no_network = ReplyCode::NetworkUnreachable;
        let failure = ReplyCode::GeneralFailure;
        let late = enter(LegError::AnswerTimeout.into());
        check(late, unreachable, no_network, Refused::NoRelay);
        let closed = enter(LegError::Closed.into());
        check(closed, refuses, failure, Refused::RelayRefuses);
        check(AskError::Dead, mute, failure, Refused::DialFailed);
        let expired = ReplyCode::TtlExpired;
        check(AskError::Silent, mute, expired, Refused::DialFailed);
        check(AskError::OutOfTime, None, expired, Refused::DialFailed);
    }
}
