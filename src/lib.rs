//! `midspan` is a relay for Linux: two programs that can only dial out meet at
//! it, and it moves the bytes between them at the speed of the kernel.
//!
//! The modules below are in reading order. Those of the first block hold decisions
//! and do no I/O; the rest is the path of one connection, from the kernel up to
//! the command line. `ARCHITECTURE.md` draws the map.

pub mod access;
pub mod association;
pub mod config;
pub mod protocol;
pub mod slab;
pub mod time;
pub mod tuning;
pub mod web;

pub mod metrics;

pub mod runtime;

pub mod quic;
pub mod tls;

pub mod relay;
pub mod session;
pub mod shard;

pub mod admin;

pub mod agent;
pub mod cli;
