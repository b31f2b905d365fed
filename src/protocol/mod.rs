//! The protocols, sans-IO: bytes and `now` go in; decisions and bytes come out.
//!
//! No sockets, no clock, no threads, no logging of payload. A decoder takes
//! what has arrived so far and answers [`Progress`]: incomplete is not an
//! error, and only bytes that no continuation could repair are one.

pub mod detect;
pub mod http_head;
pub mod http_proxy;
pub mod jet;
pub mod jproxy;
pub mod proxy_protocol;
pub mod ptth_http;
pub mod ptth_name;
pub mod ptth_quic;
pub mod socks5;
pub mod websocket;
pub mod websocks;

mod progress;

pub use progress::Progress;
