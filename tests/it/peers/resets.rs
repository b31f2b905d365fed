//! A peer that goes without a goodbye.

use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

/// Closes with a RST.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("a socket");
}
