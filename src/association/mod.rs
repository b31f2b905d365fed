//! Who waits for whom, and on which shard. Pure: no I/O, no clock.
//!
//! Two legs meet under a [`key`]. Every key has one [`owner`] shard, which
//! keeps it in its [`table`]; [`rendezvous`] is both of these as one shard
//! sees them, and what the shard itself and the simulation run.
//!
//! Left out on purpose: sockets and replies (a leg is the caller's handle, and
//! a refusal becomes a status where the protocol is known), and who may accept
//! or connect, which is asked before a key comes here.

mod answer;
mod candidate;
pub mod census;
pub mod creators;
mod expiry;
pub mod idle;
pub mod key;
pub mod owner;
pub mod rendezvous;
pub mod session_ends;
mod slab;
pub mod table;
#[cfg(test)]
mod table_tests;

pub use answer::Refusal;
