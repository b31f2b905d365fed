//! A peer that begins and then does nothing more.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use crate::jet_client::dial;

/// Connects, sends these bytes, and falls silent.
#[track_caller]
pub(crate) fn stall(relay: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = dial(relay);
    stream.write_all(bytes).expect("sent");
    stream
}
