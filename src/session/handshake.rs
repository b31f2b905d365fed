//! Reads what a connection opens with, however it is cut, and ends connections
//! politely.

use std::cell::RefCell;
use std::time::Duration;

use super::link::Link;
use super::refused::Refused;
use crate::protocol::Progress;
use crate::protocol::detect::{Detection, Spoken, detect};
use crate::protocol::jet::{PACKET_BYTES_MAX, Packet, Request};
use crate::runtime::reactor::Reactor;
use crate::runtime::stream::Stream;
use crate::time::Timestamp;

/// How long a refused peer may go on sending before its connection is closed
/// over its words.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Bytes of its words that are read away meanwhile. A peer that floods would
/// otherwise never let go of the shard, whose clock stands still for its task.
const FAREWELL_BYTES_MAX: usize = 64 << 10;

/// What requests are read into: one buffer for a whole shard, as none is in use
/// while a handshake waits. What is read behind a request is kept, so its size
/// also bounds a leg's prefix.
#[derive(Debug)]
pub struct ReadBuffer(RefCell<Box<[u8; PACKET_BYTES_MAX]>>);

impl Default for ReadBuffer {
    fn default() -> Self {
        Self(RefCell::new(Box::new([0; PACKET_BYTES_MAX])))
    }
}

/// What a connection opens with.
#[derive(Debug)]
pub enum Opening {
    /// One JET request, and what came behind it.
    Jet(Jet),
    /// HTTP, of which these bytes have come.
    Http(Vec<u8>),
    /// jProxy, of which these bytes have come.
    Jproxy(Vec<u8>),
    /// TLS, of which these bytes have come.
    Tls(Vec<u8>),
}

/// A connection's only request.
#[derive(Debug)]
pub struct Jet {
    pub request: Request,
    /// Application bytes of an eager peer.
    pub prefix: Vec<u8>,
    /// The last read filled its buffer, so more may be there unannounced.
    pub was_full: bool,
}

/// Why there is none of them.
#[derive(Debug)]
pub struct Failure {
    pub refused: Refused,
    /// What to tell the peer before closing; `None`: close without a word.
    pub reply: Option<Packet>,
}

/// Reads from `link` until it holds one JET request, or is known to be HTTP or TLS,
/// or cannot become any, at most until `deadline`.
///
/// # Errors
///
/// Why the connection is to be closed.
pub async fn read_opening(
    reactor: &Reactor,
    link: &mut Link,
    buffer: &ReadBuffer,
    deadline: Timestamp,
) -> Result<Opening, Failure> {
    let mut received = Vec::new();
    // Most requests arrive whole, and then no timer is needed.
    if let Some(outcome) = try_read(link, buffer, &mut received) {
        return outcome;
    }
    let rest = async {
        loop {
            link.more().await;
            if let Some(outcome) = try_read(link, buffer, &mut received) {
                return outcome;
            }
        }
    };
    match reactor.deadline(deadline, rest).await {
        Some(outcome) => outcome,
        None if received.is_empty() => Err(Failure::silent(Refused::Silent)),
        None => Err(Failure::silent(Refused::TooSlow)),
    }
}

/// Tells a peer in a few words why it is refused, and parts with it.
pub async fn refuse(reactor: &Reactor, stream: Stream, words: &[u8]) {
    if stream.socket().send(words) == Ok(words.len()) {
        part_with(reactor, stream).await;
    }
}

/// Closes a connection on which all is said: the FIN, and what the peer still sends
/// is read away for a while and up to a limit, since closing over unread bytes would
/// turn into a reset that overtakes the words.
pub async fn part_with(reactor: &Reactor, mut stream: Stream) {
    if stream.socket().shutdown_write().is_err() {
        return;
    }
    let until = reactor.now() + FAREWELL_MAX;
    let read_away = async {
        let mut waste = [0; 512];
        let mut left = FAREWELL_BYTES_MAX;
        while left > 0
            && let Ok(count @ 1..) = stream.recv(&mut waste).await
        {
            left = left.saturating_sub(count);
        }
    };
    reactor.deadline(until, read_away).await;
}

/// Reads what is there. `None`: it is not complete yet.
fn try_read(
    link: &mut Link,
    buffer: &ReadBuffer,
    received: &mut Vec<u8>,
) -> Option<Result<Opening, Failure>> {
    let mut buffer = buffer.0.borrow_mut();
    loop {
        let count = match link.try_recv(&mut buffer[..]) {
            Ok(count) => count,
            Err(not_read) => return not_read.refusal().map(Failure::silent).map(Err),
        };
        let fresh = &buffer[..count];
        let bytes = if received.is_empty() {
            fresh
        } else {
            received.extend_from_slice(fresh);
            &received[..]
        };
        let decoded = match detect(bytes) {
            Detection::Is(Spoken::Http) => {
                return Some(Ok(Opening::Http(bytes.to_vec())));
            }
            Detection::Is(Spoken::Jproxy) => {
                return Some(Ok(Opening::Jproxy(bytes.to_vec())));
            }
            Detection::Is(Spoken::Tls) if !link.is_tls() => {
                return Some(Ok(Opening::Tls(bytes.to_vec())));
            }
            Detection::Undecided => Ok(Progress::Partial { more_bytes_min: 1 }),
            Detection::Is(Spoken::Jet | Spoken::Tls) | Detection::Unknown => Request::decode(bytes),
        };
        match decoded {
            Ok(Progress::Complete { value, consumed }) => {
                let prefix = bytes[consumed..].to_vec();
                let was_full = count == buffer.len();
                return Some(Ok(Opening::Jet(Jet {
                    request: value,
                    prefix,
                    was_full,
                })));
            }
            Ok(Progress::Partial { .. }) => {
                if received.is_empty() {
                    received.extend_from_slice(fresh);
                }
            }
            Err(error) => {
                let refused = error.reason().into();
                return Some(Err(Failure {
                    refused,
                    reply: error.reply(),
                }));
            }
        }
    }
}

impl Failure {
    #[must_use]
    pub const fn silent(refused: Refused) -> Self {
        Self {
            refused,
            reply: None,
        }
    }
}
