//! One leg as it comes to the data plane.

use super::codec::Codec;
use super::half::Half;
use crate::runtime::socket::Socket;
use crate::time::Timestamp;

/// One leg as its handshake leaves it.
#[derive(Debug)]
pub struct LegIo {
    /// Connected, with no operation in flight but polls.
    pub socket: Socket,
    /// Bytes that were read behind the handshake; they go to the other leg
    /// before anything else.
    pub prefix: Vec<u8>,
    /// Whether this leg's reply may still be unread.
    pub gate: GateHold,
    /// What its bytes are wrapped in. The prefix is then what
    /// `Codec::keep` made of it.
    pub codec: Option<Box<Codec>>,
    /// What it is to this pair, where another one has it as well.
    pub half: Option<Half>,
}

impl LegIo {
    /// Whether something stands between its socket and its pair.
    pub(super) fn is_transformed(&self) -> bool {
        self.codec.is_some() || self.half.is_some()
    }
}

/// Whether bytes towards a leg wait for its reply to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateHold {
    /// Nothing waits: no reply, a framed one, or a client that declared
    /// `Jet-Gate: off`.
    #[default]
    Open,
    /// A reply was written at this time, see [`super::gate`].
    Replied(Timestamp),
}
