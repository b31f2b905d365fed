//! A peer that sends one byte at a time.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Sends each byte with a write of its own, as fast as that goes.
#[track_caller]
pub(crate) fn dribble(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes {
        stream.write_all(&[*byte]).expect("sent");
    }
}

/// Sends one byte after each `pause` until the other side says or does anything, and returns how
/// many bytes that took.
#[track_caller]
pub(crate) fn dribble_slowly(stream: &mut TcpStream, bytes: &[u8], pause: Duration) -> usize {
    let pause = Timespec::try_from(pause).expect("in range");
    for (sent, byte) in bytes.iter().enumerate() {
        let mut events = [PollFd::new(&*stream, PollFlags::IN)];
        if poll(&mut events, Some(&pause)).expect("poll waits") > 0 {
            return sent;
        }
        if stream.write_all(&[*byte]).is_err() {
            return sent;
        }
    }
    bytes.len()
}
