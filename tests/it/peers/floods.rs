//! A peer that sends and sends, whatever it is told.

use std::io::{Error, Write};
use std::net::TcpStream;

use crate::patience::Deadline;

/// Sends until that fails, and gives the bytes that were taken and the error.
#[track_caller]
pub(crate) fn flood(mut stream: TcpStream) -> (u64, Error) {
    let deadline = Deadline::new();
    let bytes = vec![b'x'; 64 << 10];
    let mut taken = 0;
    loop {
        match stream.write(&bytes) {
            Ok(count) => taken += count as u64,
            Err(error) => return (taken, error),
        }
        assert!(!deadline.is_over(), "the flood is taken in without an end");
    }
}
