//! A peer that ends its own direction first and goes on listening.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

/// Sends `last_words` and the end of the stream behind them.
#[track_caller]
pub(crate) fn half_close(stream: &mut TcpStream, last_words: &[u8]) {
    stream.write_all(last_words).expect("sent");
    stream.shutdown(Shutdown::Write).expect("connected");
}
