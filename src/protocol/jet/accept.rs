//! Accept: a server-side peer asks to wait for a client-side one.
//! `[JET-PROTO]` 2.2.2.2.1 has the form in which the relay makes the id.

use super::message::PacketWriter;
use super::place::{Place, Verb};
use super::request::Gate;

/// A request to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Where to wait.
    pub place: AcceptPlace,
    /// What the peer says about its reading of the reply.
    pub gate: Gate,
}

/// Where an acceptor asks to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptPlace {
    /// `Jet-Method: Accept` on `/`: in a new association, whose id the relay
    /// makes and tells in its reply.
    Minted,
    /// `/jet/accept/…`: at a place that the peer names.
    Named(Place),
}

impl Accept {
    pub(super) fn encode_request_line(&self, writer: &mut PacketWriter) {
        match self.place {
            AcceptPlace::Minted => {
                writer.text("GET / HTTP/1.1").end_line();
            }
            AcceptPlace::Named(place) => place.encode_request_line(Verb::Accept, writer),
        }
    }

    pub(super) fn encode_headers(&self, writer: &mut PacketWriter) {
        if self.place == AcceptPlace::Minted {
            writer.header("Jet-Method", "Accept");
        }
    }
}
