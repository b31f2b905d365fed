//! From the first byte of a connection to one outcome.
//!
//! Reads through a [`crate::runtime::stream::Stream`] into one protocol core
//! until that core has decided. Knows nothing of other connections: who waits
//! for whom is `association`'s, where a leg goes is `shard`'s.

pub mod approach;
pub mod arrival;
pub mod buffered_stream;
pub mod datagram_stream;
pub mod entry;
pub mod handshake;
pub mod http;
pub mod introduction;
pub mod link;
pub mod proxied;
pub mod refused;
pub mod tunnel_entry;
pub mod wrapped_stream;
