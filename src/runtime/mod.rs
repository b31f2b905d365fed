//! One shard's kernel interface: executor, ring, sockets, timers, messages.
//!
//! The only room with `unsafe`, and the only one that names the ring or the
//! executor. It knows nothing of protocols or pairs: sockets go in with an
//! owner, events come out with that owner.
//!
//! A shard's loop is three lines:
//!
//! ```text
//! reactor.turn(..)                        sleep in the ring
//! while let Some(event) = reactor.poll_event() { .. }    state machines run
//! run_woken_tasks().await                 handshakes that waited and agents run
//! ```

pub mod allocator;
pub mod clock;
pub mod connected_datagram;
pub mod cores;
pub mod datagram;
pub mod dial;
pub mod executor;
pub mod flag;
pub mod host_address;
pub mod inbox;
pub mod inherited;
pub mod kernel;
pub mod listener;
pub mod memory_file;
pub mod peer_listener;
pub mod pipe;
pub(crate) mod poll_table;
pub mod provided;
pub mod question;
pub mod reactor;
pub mod readiness;
pub mod resolver;
pub mod ring;
pub mod signal;
pub mod slot_key;
pub mod socket;
pub mod stream;
mod task_socket;
pub mod timer_wheel;
pub mod transfer;
pub mod udp_group;
pub mod watch;

pub use poll_table::{Owner, PollKey};

#[cfg(test)]
mod tests;
