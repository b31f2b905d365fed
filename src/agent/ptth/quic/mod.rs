//! Forwarded ports over QUIC: one connection to the relay, one stream for each connection of
//! the user's. [`crate::protocol::ptth_quic`] has what both sides say.
//!
//! A proxy runs on one core, as its connection does.

pub(super) mod expose;
pub(super) mod forward;
pub(super) mod link;
pub(super) mod relay;
