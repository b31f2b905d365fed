//! A connection whose request asks something of forwarded ports.

use std::fmt::Display;

use tracing::{debug, field};

use super::peer_address::PeerAddress;
use crate::metrics::counters::Label;
use crate::protocol::http_head::Persistence;
use crate::protocol::ptth_http::{self, Call, Name};
use crate::session::http::StreamedBody;
use crate::session::link::Link;
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// What somebody may say who is to listen, before it is given up.
const UNASKED_BYTES_MAX: usize = 4 << 10;

/// One request whose caller may ask what it asks.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) link: Link,
    pub(super) request: CallerRequest,
    /// What it has said while it was to wait: its next request, perhaps.
    pub(super) unasked: Vec<u8>,
}

/// A connection on which all was answered, and what has come of its next request.
pub(super) type Kept = (Link, Vec<u8>);

/// What it asks, and who.
#[derive(Debug)]
pub(super) struct CallerRequest {
    pub(super) call: Call,
    /// The server, or the client.
    pub(super) name: Name,
    pub(super) stream: Option<StreamedBody>,
    /// What the caller wants to become of the connection.
    pub(super) persistence: Persistence,
    pub(super) peer: PeerAddress,
    pub(super) since: Timestamp,
}

impl Caller {
    /// Returns when the peer has gone, or says too much of what nobody asked.
    pub(super) async fn gone(&mut self) {
        let Self { link, unasked, .. } = self;
        while unasked.len() < UNASKED_BYTES_MAX {
            match link.try_read_into::<1024>(unasked) {
                Ok(true) => {}
                Ok(false) => link.more().await,
                Err(_) => return,
            }
        }
    }
}

impl CallerRequest {
    /// What tells which shard it belongs to.
    pub(super) fn key(&self) -> Vec<u8> {
        match &self.call {
            Call::Listen { port, .. } => ptth_http::place_key(&self.name, port),
            Call::Connect { server, port } => ptth_http::place_key(server, port),
            Call::Accept(id) | Call::Reject(id) | Call::Upstream(id) | Call::Downstream(id) => {
                id.0.to_vec()
            }
        }
    }
}

/// Somebody who is refused what he asks for, for operators: as far as either is known.
pub(super) struct RefusedCall<'a> {
    pub(super) peer: PeerAddress,
    pub(super) call: &'static str,
    pub(super) client: Option<&'a dyn Display>,
    pub(super) server: Option<&'a dyn Display>,
    pub(super) port: Option<&'a dyn Display>,
    pub(super) refused: Refused,
}

impl RefusedCall<'_> {
    pub(super) fn log(&self) {
        debug!(
            peer = %self.peer,
            call = self.call,
            client = self.client.map(field::display),
            server = self.server.map(field::display),
            port = self.port.map(field::display),
            reason = self.refused.as_str(),
            "call refused"
        );
    }
}

/// Tells of one by HTTP: `name` is whose key was shown. Ids are not told, by which others could
/// come.
pub(super) fn log_refused(peer: PeerAddress, call: &Call, name: Option<&Name>, refused: Refused) {
    let (client, server, port) = match call {
        Call::Listen { port, .. } => (None, name, Some(port)),
        Call::Connect { server, port } => (name, Some(server), Some(port)),
        Call::Upstream(_) => (name, None, None),
        Call::Accept(_) | Call::Reject(_) | Call::Downstream(_) => (None, name, None),
    };
    let [client, server, port] = [client, server, port].map(|it| it.map(|it| it as &dyn Display));
    RefusedCall {
        peer,
        call: call.name(),
        client,
        server,
        port,
        refused,
    }
    .log();
}
