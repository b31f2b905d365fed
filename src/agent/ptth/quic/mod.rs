//! Forwarded ports over QUIC: one connection to the relay, one stream for each connection of
//! the user's. [`crate::protocol::ptth_quic`] has what both sides say.
//!
//! A proxy runs on one core, as its connection does.

mod expose;
mod forward;
mod link;
pub mod process;
