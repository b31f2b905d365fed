//! Calls of forwarded ports on their way to the shard that owns their port or their tunnel: a
//! connection goes over once for each.

use std::rc::Rc;

use super::caller::{Caller, CallerRequest, Kept};
use super::handoff::InTransit;
use super::http_connection::Client;
use super::peer_address::PeerAddress;
use super::rendezvous::{Message, RelayService};
use crate::runtime::executor::spawn;
use crate::runtime::stream::Stream;
use crate::session::link::Link;
use crate::tls::Session;

/// A request on its way.
#[derive(Debug)]
pub struct CallHandoff {
    socket: InTransit,
    tls: Option<Box<Session>>,
    early: Vec<u8>,
    request: CallerRequest,
    /// Who passes it on, if it says of each request whose that is.
    forwarder: Option<PeerAddress>,
}

impl RelayService {
    /// Brings a request to where its tunnel is, and serves it there; gives the connection if
    /// it is still here, and may have another one.
    pub(super) async fn place_call(
        self: &Rc<Self>,
        caller: Caller,
        client: &Client,
    ) -> Option<Kept> {
        let owner = self.owner_of(&caller.request.key());
        if owner == self.world.shard {
            return self.serve_call(caller).await;
        }
        let Caller { link, request, .. } = caller;
        let (stream, tls, early) = link.into_parts();
        let peer = request.peer;
        let message = |socket| {
            Message::Call(Box::new(CallHandoff {
                socket,
                tls,
                early,
                request,
                forwarder: client.is_forwarder.then_some(client.peer),
            }))
        };
        self.send_over(stream, peer, owner, message).await;
        None
    }

    /// A request came from another shard.
    pub(super) fn take_call(self: &Rc<Self>, handoff: CallHandoff) {
        let CallHandoff {
            socket,
            tls,
            early,
            request,
            forwarder,
        } = handoff;
        let socket = socket.arrive();
        let peer = request.peer;
        if !self.takes_over(peer) {
            return;
        }
        let stream = Stream::new(Rc::clone(&self.world.reactor), socket);
        let caller = Caller {
            link: Link::from_parts(stream, tls, early),
            request,
            unasked: Vec::new(),
        };
        let client = Client {
            peer: forwarder.unwrap_or(peer),
            is_forwarder: forwarder.is_some(),
            counted: Some(self.connections_per_address.enter(peer)),
        };
        let service = Rc::clone(self);
        let calling = self.callers.enter();
        spawn(async move {
            let kept = service.serve_call(caller).await;
            drop(calling);
            if let Some(requests) = kept.and_then(|kept| service.begin_again(kept, &client)) {
                service.serve_connection(requests, client).await;
            }
        });
    }
}
