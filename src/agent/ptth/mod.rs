//! `expose` and `forward` by PTTH, over HTTP (`docs/protocols/ptth-http.md`) and over QUIC
//! (`quic/`), and both where UDP may be blocked (`either.rs`). By HTTP:
//!
//! ```text
//!   expose.rs    listens, several times for each port ── dials the service ── accepts
//!   forward.rs   a local connection comes ── connects ── goes up
//! ```
//!
//! A tunnel's two connections go one way each, so a local connection is two pairs' as well:
//! `tunnel.rs`. [`asking`] is one request to the relay, [`url`] where that is,
//! `relay_health.rs` whether it can be had, and `room.rs` how many connections there may be.

pub mod asking;
mod either;
mod expose;
mod forward;
pub mod process;
pub mod proof;
mod quic;
mod relay_health;
mod room;
mod tunnel;
pub mod url;

/// The port of a server that has one service alone, for clients that name none.
pub const DEFAULT_PORT: &str = "default";
