//! One request to the relay, and the head of its answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::url::PtthUrl;
use crate::agent::leg::{self, LegError};
use crate::agent::relay_host::RelayHost;
use crate::agent::settings::AgentSettings;
use crate::agent::way::WayError;
use crate::protocol::Progress;
use crate::protocol::http_head::{Body, Persistence};
use crate::protocol::ptth_http::{AnswerError, Answered, Call, Name};
use crate::protocol::ptth_quic::ShownKey;
use crate::session::approach::{ApproachError, Asking};
use crate::session::link::Link;
use crate::shard::world::World;

/// Bytes that are read of an answer at a time.
const READ_BYTES: usize = 2 << 10;

/// The longest body of an answer that is read away, so that its connection can be used again.
const BODY_BYTES_MAX: u64 = 4 << 10;

/// How long a relay may take for what it can answer at once.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The secret that says who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Arc<str>);

/// Why something is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is one word of visible ASCII, as `midspan key` prints it")]
pub struct KeyError;

/// A relay, and how it is asked.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    url: PtthUrl,
    host: RelayHost,
    /// `None` of who has a certificate instead: it can be greeted alone.
    key: Option<Key>,
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) link: Link,
}

/// Why there is no answer, or none that helps.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// There is no connection to the relay.
    #[error(transparent)]
    Leg(#[from] LegError),
    /// Nobody there whom we trust.
    #[error(transparent)]
    Approach(#[from] ApproachError),
    /// What answers is no relay.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// An answer without what it should tell.
    #[error("the answer tells no connection's id; is it a relay's?")]
    NoId,
    /// An answer without chunks.
    #[error("the answer does not say where it ends; does a proxy on the way speak HTTP/1.0?")]
    NoEnd,
    /// The key is another's than it should be.
    #[error("the relay knows this key as \"{known}\", and not as \"{name}\"")]
    OtherServer { name: Name, known: Name },
    /// The relay says no.
    #[error("the relay answers with status {status}")]
    Refused { status: u16 },
    /// Nothing came in time.
    #[error("the relay does not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The relay went.
    #[error("the connection to the relay broke")]
    Lost,
}

impl Key {
    /// The key in these words.
    ///
    /// # Errors
    ///
    /// When they are more than one, or could not stand in a request.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let is_one_word = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_one_word.then(|| Self(text.into())).ok_or(KeyError)
    }
}

/// Without itself.
impl Key {
    /// As it is shown over QUIC.
    pub(super) fn shown(&self) -> ShownKey {
        // A key that an HTTP header can carry is text, and is not that long.
        self.0.parse().expect("a key that can be shown")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Relay {
    pub(super) fn new(
        url: &PtthUrl,
        key: Option<&Key>,
        agent: &AgentSettings,
    ) -> Result<Self, WayError> {
        Ok(Self {
            url: url.clone(),
            host: RelayHost::new(&url.address, url.way.is_tls(), url.pin, agent)?,
            key: key.cloned(),
        })
    }

    /// Where it is.
    pub(super) const fn url(&self) -> &PtthUrl {
        &self.url
    }

    /// Whether it can know who asks.
    pub(super) const fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Whether it is there, and trusted.
    pub(super) async fn greet<C, M>(&self, world: &World<C, M>) -> Result<(), AskError>
    where
        C: Copy,
        M: Send + 'static,
    {
        self.say(world, Vec::new()).await?;
        Ok(())
    }

    /// Sends a request on a connection of its own.
    pub(super) async fn ask<C, M>(
        &self,
        world: &World<C, M>,
        call: &Call,
    ) -> Result<Asked, AskError>
    where
        C: Copy,
        M: Send + 'static,
    {
        self.say(world, self.words(call)).await
    }

    async fn say<C, M>(&self, world: &World<C, M>, words: Vec<u8>) -> Result<Asked, AskError>
    where
        C: Copy,
        M: Send + 'static,
    {
        let mut stream = self.host.reach(world).await?;
        let asking = Asking::new(self.host.trusted(), words)?;
        let asked: Result<_, AskError> = leg::converse(world, &mut stream, asking).await;
        let (tls, early) = asked?;
        let link = Link::from_parts(stream, tls, early);
        Ok(Asked { link })
    }

    /// Sends a request on a connection on which all was answered.
    pub(super) async fn ask_on(&self, mut link: Link, call: &Call) -> Result<Asked, AskError> {
        let sent = link.send_all(&self.words(call)).await;
        sent.map_err(|_| AskError::Lost)?;
        Ok(Asked { link })
    }

    fn words(&self, call: &Call) -> Vec<u8> {
        let key = self.key.as_ref().map_or("", |key| &key.0);
        call.encode(self.host.authority(), key)
    }
}

impl Asked {
    /// Waits for the head of the answer.
    pub(super) async fn answer<C, M>(
        &mut self,
        world: &World<C, M>,
        timeout: Duration,
    ) -> Result<Answered, AskError>
    where
        C: Copy,
        M: Send + 'static,
    {
        let reading = async {
            let mut received = Vec::new();
            loop {
                self.read_into(&mut received).await?;
                if let Progress::Complete { value, consumed } = Answered::decode(&received)? {
                    received.drain(..consumed);
                    self.link.put_back(received);
                    return Ok(value);
                }
            }
        };
        let until = world.reactor.now() + timeout;
        let answered = world.reactor.deadline(until, reading).await;
        answered.unwrap_or(Err(AskError::Silent(timeout)))
    }

    /// Waits for an answer whose body streams.
    pub(super) async fn stream<C, M>(
        mut self,
        world: &World<C, M>,
        timeout: Duration,
    ) -> Result<(Answered, Link), AskError>
    where
        C: Copy,
        M: Send + 'static,
    {
        let answered = self.answer(world, timeout).await?;
        match answered {
            Answered {
                status: 200,
                body: Body::Chunked | Body::Length(_),
                ..
            } => Ok((answered, self.link)),
            // Its end could not be told from a connection that broke.
            Answered { status: 200, .. } => Err(AskError::NoEnd),
            Answered { status, .. } => Err(AskError::Refused { status }),
        }
    }

    /// Waits for an answer that is over with its head, but for a body that nobody needs; gives
    /// the connection if it can be used again.
    pub(super) async fn finish<C, M>(
        mut self,
        world: &World<C, M>,
        timeout: Duration,
    ) -> Result<(Answered, Option<Link>), AskError>
    where
        C: Copy,
        M: Send + 'static,
    {
        let answered = self.answer(world, timeout).await?;
        let left = match (answered.body, answered.persistence) {
            (Body::Length(left @ ..=BODY_BYTES_MAX), Persistence::KeepAlive) => left,
            _ => return Ok((answered, None)),
        };
        let reading = async {
            let mut received = Vec::new();
            while (received.len() as u64) < left {
                self.read_into(&mut received).await?;
            }
            // A relay that goes on has mistaken us.
            Ok((received.len() as u64 == left).then_some(self.link))
        };
        let until = world.reactor.now() + ANSWER_TIMEOUT;
        let read = world.reactor.deadline(until, reading).await;
        let link: Result<_, AskError> = read.unwrap_or(Ok(None));
        Ok((answered, link?))
    }

    async fn read_into(&mut self, received: &mut Vec<u8>) -> Result<(), AskError> {
        let read = self.link.read_into::<READ_BYTES>(received).await;
        read.map_err(|_| AskError::Lost)
    }
}

impl AskError {
    /// What whoever started the proxy can do about it.
    pub(super) fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Leg(error) => error.next_step(),
            Self::Approach(error) => leg::approach_advice(error),
            Self::Answer(_) | Self::NoId | Self::NoEnd => {
                Some("see whether it is a relay that listens there, and check the URL's scheme")
            }
            Self::OtherServer { .. } => Some(
                "expose it by the NAME that the relay knows, or pass the key of this one: the \
                      relay lists names and keys under [[ptth.servers]]",
            ),
            Self::Refused { status: 401 } => Some(
                "check the key: the relay lists its SHA-256 under [[ptth.servers]] for \
                      `expose`, and under [[ptth.clients]] for `forward`",
            ),
            Self::Refused { status: 404 } => {
                Some("see whether the relay forwards ports ([ptth]), and knows the server's name")
            }
            Self::Lost => Some("see whether the relay still runs, and takes HTTP at this port"),
            Self::Refused { status: 502..=504 } | Self::Silent(_) => None,
            Self::Refused { .. } => Some("see the relay's log"),
        }
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt_with(&self.url, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word_that_is_not_shown() {
        let key = Key::new(" abc-_1\n").expect("a key");
        assert_eq!(&*key.0, "abc-_1");
        assert_eq!(format!("{key:?}"), "Key");
        for wrong in ["", " ", "a b", "a\r\nb", "ä"] {
            assert_eq!(Key::new(wrong), Err(KeyError), "{wrong:?}");
        }
    }
}
