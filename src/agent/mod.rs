//! The server-side and client-side proxies.
//!
//! A proxy is a shard like the relay's, with a service of its own: [`expose`]
//! and [`once`] make local services reachable, [`forward`] opens a local port
//! that leads to one. [`meeting`] says how two of them find each other under a
//! [`ticket`], [`process`] starts them.
//!
//! Left out: anything but TCP and unix sockets, and security between the two
//! proxies beyond the ticket: what runs inside, such as SSH or TLS, brings it.

mod direct;
pub mod error;
pub mod expose;
pub mod fleet;
pub mod forward;
pub mod leg;
pub mod meeting;
pub mod once;
pub mod pin;
pub mod process;
pub mod ptth;
pub mod reconnect;
pub mod settings;
pub mod socks;
pub mod target;
pub mod ticket;
pub mod url_parts;
pub mod way;

mod proxy;
mod random;
mod relay_host;
mod relay_trouble;
mod relay_watch;
