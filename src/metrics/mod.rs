//! Counters that any room adds to.
//!
//! Plain memory of one shard, without atomics: what is asked about the whole
//! process is summed from each shard's snapshot. Imports no other room; the
//! labels by which sessions end or are refused are given by their owners.

pub mod counters;
pub mod distribution;
pub mod latency;

/// The `tracing` target of the one line that is logged for each session. It
/// has a name of its own so that a filter can choose it, as in
/// `MIDSPAN_LOG=warn,access=info`.
pub const ACCESS_LOG: &str = "access";

/// That of lines why what a relay dials for its users is not reached, by whichever system they
/// come, as in `MIDSPAN_LOG=info,dial=debug`.
pub const DIAL_LOG: &str = "dial";
