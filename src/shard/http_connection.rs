//! A connection over HTTP, for as long as it lives: its requests, and what some of them make
//! of it.
//!
//! ```text
//! requests: rest.rs ──┬── a visitor: websocks.rs
//!    ^                └── a call of forwarded ports: forwarding.rs ──┬── a leg
//!    └───────────────── answered, here or on another shard ──────────┘
//! ```

use std::rc::Rc;

use super::caller::Kept;
use super::peer_address::PeerAddress;
use super::per_address::CountedAddress;
use super::rendezvous::{HandshakePermit, RelayService};
use super::rest::Leaving;
use crate::runtime::clock;
use crate::runtime::executor::yield_now;
use crate::session::link::Link;
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// Whose a connection is whose requests are read.
pub(super) struct Client {
    pub(super) peer: PeerAddress,
    /// It says of each request whose that is, and is believed.
    pub(super) is_forwarder: bool,
    /// For whom it counts, once that is known.
    pub(super) counted: Option<CountedAddress>,
}

/// A connection of which requests are to be read.
pub(super) struct Requests {
    pub(super) link: Link,
    /// What has come of them.
    pub(super) received: Vec<u8>,
    pub(super) since: Timestamp,
    pub(super) permit: HandshakePermit,
}

impl RelayService {
    /// Serves a connection until it ends, or is somebody else's.
    pub(super) async fn serve_connection(self: &Rc<Self>, requests: Requests, mut client: Client) {
        let mut next = Some(requests);
        while let Some(requests) = next.take() {
            let Requests {
                link,
                received,
                since,
                permit,
            } = requests;
            // Either may wait for long, and is no handshake.
            match Box::pin(self.serve_http(link, received, &mut client, since)).await {
                None => drop(permit),
                Some(Leaving::Visitor(visitor)) => {
                    let _visiting = self.visitors.enter();
                    drop(permit);
                    Box::pin(self.serve_visitor(visitor)).await;
                }
                Some(Leaving::Caller(caller)) => {
                    let calling = self.callers.enter();
                    drop(permit);
                    let kept = Box::pin(self.place_call(caller, &client)).await;
                    drop(calling);
                    // A client that never lets us wait would keep the shard to itself.
                    yield_now().await;
                    next = kept.and_then(|kept| self.begin_again(kept, &client));
                }
            }
        }
    }

    /// Has a connection begin anew on which all was answered.
    pub(super) fn begin_again(
        self: &Rc<Self>,
        (link, received): Kept,
        client: &Client,
    ) -> Option<Requests> {
        if self.handshakes() >= self.settings().handshakes_max {
            self.count_refused(client.peer, Refused::TooManyHandshakes);
            return None;
        }
        Some(Requests {
            link,
            received,
            since: clock::now(),
            permit: self.permit(),
        })
    }
}
