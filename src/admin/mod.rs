//! What an operator sees of a running relay or agent: `/metrics`, `/status`, `/healthz`,
//! `/readyz`, histograms to take away, and a page for people.
//!
//! A thread of its own asks the shards and may wait for them; they answer in their
//! turn, and whoever is slow to read holds up nobody else.
//!
//! Left out: who may look. It listens on loopback alone.

mod overview;
mod prometheus;
mod quic_view;
mod server;

pub use overview::{ForwardedView, Overview, RelayView, SessionView};
pub use quic_view::{QuicConnectionView, QuicView, StreamView};
pub use server::{Admin, AdminError};
