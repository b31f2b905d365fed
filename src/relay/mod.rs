//! Moves bytes between the two legs of a pair.
//!
//! [`Planes`] is one shard's data plane: the shard gives it two connected
//! sockets and tells it what the reactor reports; it moves the bytes and hands
//! the sockets back when the pair has ended. Below it, in reading order:
//!
//! - [`Engine`] copies and splices, and [`ring_plane`] has the ring move bytes;
//! - [`direction`], [`pair`], [`gate`], [`streaming`] and [`close`] decide, and
//!   do no system call: `tests/sim` runs them against sockets made up from a
//!   seed;
//! - [`ring_pair`] decides likewise for pairs that [`ring_plane`] moves;
//! - `copy`, `splice` and `transform` do the system calls that [`direction`] asks
//!   for, with what `spill` and `pipe_pool` keep for the whole shard; `passing` looks at
//!   what is spliced between legs with HTTP bodies;
//! - [`stream_plane`] moves what comes or goes by streams of QUIC, which are no sockets, and
//!   over a [`bridge`] to another shard;
//! - [`codec`] knows what a leg's bytes are wrapped in.
//!
//! Rules of the room:
//!
//! - a byte is read only when there is a place for it: the destination, a pipe
//!   or the spill pool; a destination that does not take bytes stops the
//!   reading, and the source's window closes;
//! - an end of stream is passed on behind the last byte, and each direction
//!   ends for itself; a reset is passed on as a reset;
//! - an idle pair owns nothing but its slot.
//!
//! TCP's urgent data is not relayed as such: its byte is lost and what stands
//! behind the mark may wait for the peer's next segment.

pub mod bridge;
pub mod close;
pub mod codec;
pub mod direction;
pub mod engine;
pub mod gate;
pub mod keepalive;
pub mod mux;
pub mod pair;
pub mod planes;
pub mod queue;
pub mod ring_pair;
pub mod stream_plane;
pub mod streaming;

mod action;
mod copy;
mod deadline;
mod half;
mod leaving;
mod leg_io;
mod means;
mod passing;
mod pipe_pool;
pub mod ring_plane;
mod spill;
mod splice;
pub mod stream_way;
mod transform;

#[cfg(test)]
mod direction_tests;
#[cfg(test)]
mod engine_rig;
#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod half_tests;
#[cfg(test)]
mod passing_tests;
#[cfg(test)]
mod ring_pair_tests;
#[cfg(test)]
mod stream_tests;

pub use crate::slab::Key as PairKey;
pub use close::{CloseReason, How};
pub use engine::{Ended, Engine, EngineSettings, Usage};
pub use half::Half;
pub use leg_io::{GateHold, LegIo};
pub use pair::Side;
pub use planes::{Planes, PlanesCounts};
