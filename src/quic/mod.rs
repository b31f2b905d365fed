//! QUIC (RFC 9000) on a shard's loop: datagrams, connections, streams.
//!
//! The protocol itself is `quinn-proto`'s, which does no I/O. Here it gets what it has none
//! of: sockets, a clock, connection IDs that say which shard they are for, and turns.
//!
//! ```text
//! socket ──▶ port ──▶ driver ──▶ events, to whoever has the streams
//!              ▲         │
//!              └─ bursts ┘◀── reads and writes of streams
//! ```
//!
//! A stream is not a descriptor: what comes on it is memory already, and what it may hold is
//! bounded by flow control. Whoever does not read has the peer wait.

pub mod calls;
pub mod connection;
pub mod connection_id;
pub mod counts;
pub mod driver;
pub mod intake;
pub mod keys;
mod port;
pub mod transport;

#[cfg(test)]
mod driver_tests;
