//! TLS 1.2 and 1.3 by rustls, in buffers of the caller's.
//!
//! [`Session`] is one connection's, and does no I/O; [`server`] says who we are to
//! those who come, [`identity`] where a certificate and its key come from, and
//! [`client_identity`] who those are.
//!
//! Left out: early data (RFC 8446 §8: it can be replayed), and records in the kernel
//! (kTLS).

pub mod client;
pub mod client_identity;
pub mod identity;
mod records;
pub mod server;

pub use records::{Opened, SEALED_BYTES_MIN, SealError, Session, Wire};

#[cfg(test)]
mod records_tests;
