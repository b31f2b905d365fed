//! WebSocks: SOCKS5 within a connection that was upgraded to WebSocket. `[WEBSOCKS]` is
//! its document; `docs/protocols/websocks.md` says what known peers do.
//!
//! ```text
//! client                                server
//!   upgrade, user, hash      ───────>             knock.rs
//!                            <───────   101
//!   PONG, while it is pooled ───────>             prelude.rs
//!   ten bytes                ───────>
//!                            <───────   ten bytes
//!   SOCKS5 (RFC 1928)        <──────>             protocol/socks5
//!   bytes                    <──────>
//! ```
//!
//! The ten bytes begin a frame of 2^63 - 1 bytes, so that everything behind them is that
//! frame's payload, in which nothing is framed or masked any more.
//!
//! Behind the reply to UDP ASSOCIATE the bytes are datagrams: [`datagram_frame`].
//!
//! Left out: whether the hash is a user's (that is `access`), and transports other than
//! TCP and TLS.

pub mod datagram_frame;
mod knock;
mod prelude;

pub use knock::{FRAMED_PROTOCOL, Knock, PLAIN_PROTOCOL, SubProtocol, authorization};
pub use prelude::{MAX_FRAME, PONG, Prelude, PreludeError};
