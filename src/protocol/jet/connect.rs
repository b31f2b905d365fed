//! Connect: a client-side peer asks to be joined with the acceptor that waits.
//! `[JET-PROTO]` 2.2.2.2.2 has the form with the id in a header.

use uuid::Uuid;

use super::message::PacketWriter;
use super::place::{Place, Verb};
use super::refusal::RequestFault;
use super::request::{Gate, Version};
use crate::protocol::http_head::Headers;

/// A request to be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Where the other one waits.
    pub place: Place,
    /// What the peer says about its reading of the reply.
    pub gate: Gate,
}

impl Connect {
    /// From a request on `/`, where the association stands in a header.
    pub(super) fn from_headers(
        headers: &Headers<'_, '_>,
        gate: Gate,
    ) -> Result<Self, RequestFault> {
        let association = headers
            .find("Jet-Association")
            .and_then(|value| Uuid::try_parse_ascii(value).ok())
            .ok_or(RequestFault::BadAssociation)?;
        Ok(Self {
            place: Place {
                association,
                candidate: None,
            },
            gate,
        })
    }

    /// Version 1 has no candidates in its own form, so one that names
    /// a candidate uses the path.
    fn uses_header(&self, version: Version) -> bool {
        version == Version::V1 && self.place.candidate.is_none()
    }

    pub(super) fn encode_request_line(&self, version: Version, writer: &mut PacketWriter) {
        if self.uses_header(version) {
            writer.text("GET / HTTP/1.1").end_line();
        } else {
            self.place.encode_request_line(Verb::Connect, writer);
        }
    }

    pub(super) fn encode_headers(&self, version: Version, writer: &mut PacketWriter) {
        if self.uses_header(version) {
            writer.header("Jet-Method", "Connect");
            writer
                .text("Jet-Association: ")
                .id(self.place.association)
                .end_line();
        }
    }
}
