//! Test: a client-side peer asks whether a candidate can be reached, and
//! closes after the reply. Only on `/jet/test/…`; there is no form of it on
//! `/`. `[JET-PROTO]` does not have it; `docs/protocols/jet.md` does.

use super::message::PacketWriter;
use super::place::{Place, Verb};

/// A question whether a place exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectivityTest {
    /// The place.
    pub place: Place,
}

impl ConnectivityTest {
    pub(super) fn encode_request_line(&self, writer: &mut PacketWriter) {
        self.place.encode_request_line(Verb::Test, writer);
    }
}
