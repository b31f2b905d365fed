//! SOCKS version 5 (RFC 1928) and its user name and password (RFC 1929): both roles,
//! from the greeting to the reply, and the header of UDP datagrams.
//!
//! ```text
//! client                         server
//!   greeting: methods   ───────>            greeting.rs
//!                       <───────  method
//!   user, password      ───────>            auth.rs, if that is the method
//!                       <───────  verdict
//!   request             ───────>            request.rs
//!                       <───────  reply     reply.rs
//!                       <───────  reply, of BIND: somebody has come
//!   bytes               <──────>  bytes
//! ```
//!
//! [`Server`] and [`Client`] are the two roles, whose input may be cut anywhere. What a
//! client sends behind its request is kept.
//!
//! Left out: GSS-API (RFC 1961), fragments of datagrams (RFC 1928 §7 lets them be
//! dropped), and who may do what.

mod address;
mod auth;
mod client;
mod frame;
mod greeting;
mod reply;
mod request;
mod server;
pub mod udp;

pub use address::{AddressError, Destination, Host};
pub use auth::{AUTH_VERSION, AuthError, Credentials};
pub use client::{Client, ClientError, Pace};
pub use frame::FrameError;
pub use greeting::{Greeting, GreetingError, Method};
pub use reply::{Reply, ReplyCode};
pub use request::{Command, Request, RequestError};
pub use server::{Asked, MethodPolicy, Server, Violation};

/// The protocol's version, first byte of most messages.
pub const VERSION: u8 = 5;
