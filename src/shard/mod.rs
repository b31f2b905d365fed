//! One core's world: accept, associate, pair, hand off, shut down.
//!
//! [`world`] is what every shard has, whatever it serves: the reactor, the
//! relay engine, the sessions; [`mod@drive`] is its loop. A [`world::Service`] says what to do
//! with a connection: [`rendezvous`] is the relay's; the agents bring their
//! own.
//!
//! A connection's path through the relay, downhill:
//!
//! ```text
//! accepted ─ handshake (task) ─ route ──here──────────── associate ─ waiting
//!                                 └─ handoff ─ inbox ─┘      └────── pair
//! ```

mod bind;
mod call_handoff;
mod caller;
pub mod control;
mod datagrams;
pub mod drive;
mod ear;
pub mod errand;
mod forwarding;
mod gathering;
mod handoff;
mod host_addresses;
mod http_connection;
mod jproxy;
pub mod leg;
mod listeners;
mod listing;
mod memory;
pub mod mux;
pub mod names;
mod not_reached;
mod opening;
pub mod peer_address;
pub mod per_address;
pub mod pulse;
mod quic_far;
mod quic_guests;
mod quic_opens;
mod quic_servers;
pub mod reload;
pub mod rendezvous;
pub mod rendezvous_settings;
pub mod rest;
pub mod serve;
mod server_listens;
pub mod session_log;
pub mod sessions;
mod settle;
pub mod sever;
pub mod share;
pub mod status;
pub mod streams;
mod stretch;
pub mod tally;
mod tunnel_channels;
mod tunnel_log;
mod tunnels;
pub mod udp_listeners;
mod user_lines;
pub mod user_sessions;
pub mod users;
pub mod waiting;
mod web;
mod websocks;
pub mod world;
