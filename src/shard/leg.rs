//! A connection whose handshake is over, as the world takes it.

use std::io;

use super::peer_address::PeerAddress;
use super::session_log::Party;
use crate::relay::codec::{Codec, HttpBody};
use crate::relay::{GateHold, Half, LegIo};
use crate::runtime::Owner;
use crate::runtime::reactor::{Closing, Reactor};
use crate::runtime::readiness::Readiness;
use crate::runtime::stream::{Stream, Watched};
use crate::session::link::Link;
use crate::session::wrapped_stream::{SharedWorkshop, WrappedStream};
use crate::time::Timestamp;

/// One leg of a pair to be: watched, its handshake over.
#[derive(Debug)]
pub struct Leg {
    pub io: LegIo,
    pub party: Party,
    /// Its first moment.
    pub since: Timestamp,
    /// What was reported of it, and what its handshake may have left unread: an
    /// event tells each thing once.
    pub readiness: Readiness,
}

/// What a handshake leaves to its leg; by default nothing.
#[derive(Debug, Default)]
pub struct Remains {
    pub codec: Option<Box<Codec>>,
    /// Bytes to be relayed first. With a codec, as `Codec::keep` has them.
    pub prefix: Vec<u8>,
    pub gate: GateHold,
    /// What the socket may have ready without saying so again.
    pub left_unread: Readiness,
}

impl Leg {
    /// A connection as its handshake, which began at `since`, left it.
    #[must_use]
    pub fn from_stream(
        stream: WrappedStream,
        peer: PeerAddress,
        since: Timestamp,
        gate: GateHold,
    ) -> Self {
        let (stream, codec, prefix) = stream.into_parts();
        let remains = Remains {
            codec,
            prefix,
            gate,
            // What was read may not have been all.
            left_unread: Readiness::READABLE,
        };
        Self::new(stream.into_watched(Owner::TASK), peer, since, remains)
    }

    /// A connection that goes one way, behind its head, if there is one.
    ///
    /// # Errors
    ///
    /// When what has come of the body is none.
    pub fn with_body(
        link: Link,
        body: HttpBody,
        workshop: &SharedWorkshop,
        peer: PeerAddress,
        since: Timestamp,
    ) -> io::Result<Self> {
        let (stream, tls, early) = link.into_parts();
        let (codec, early) = match Codec::begin_http(tls, body, early) {
            Ok(begun) => begun,
            Err(error) => {
                // Not a FIN, which would look like an end.
                stream.reset();
                return Err(io::Error::other(error));
            }
        };
        let stream = WrappedStream::new(stream, Some(codec), early, workshop)?;
        Ok(Self::from_stream(stream, peer, since, GateHold::Open))
    }

    /// Resets the connection of a leg that comes to no pair.
    pub fn give_up(self, reactor: &Reactor) {
        reactor.retire(self.party.poll, self.io.socket, Closing::Reset);
    }

    /// A connection that another pair has as well.
    #[must_use]
    pub fn of_half(stream: Stream, half: Half, peer: PeerAddress, since: Timestamp) -> Self {
        let stream = WrappedStream::plain(stream);
        let mut leg = Self::from_stream(stream, peer, since, GateHold::Open);
        leg.io.half = Some(half);
        leg
    }

    #[must_use]
    pub fn new(watched: Watched, peer: PeerAddress, since: Timestamp, remains: Remains) -> Self {
        let Watched {
            socket,
            poll,
            readiness,
        } = watched;
        let Remains {
            codec,
            prefix,
            gate,
            left_unread,
        } = remains;
        Self {
            io: LegIo {
                socket,
                prefix,
                gate,
                codec,
                half: None,
            },
            party: Party { poll, peer },
            since,
            readiness: readiness | left_unread,
        }
    }
}
