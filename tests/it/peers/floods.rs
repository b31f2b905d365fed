//! A peer that sends and sends, whatever it is told.

use std::io::{Error, Write};
use std::net::TcpStream;

use crate::patience::Deadline;

/// Sends until that fails, before so many bytes were taken, and gives the error.
#[track_caller]
pub(crate) fn flood(mut stream: TcpStream, bytes_max: u64) -> Error {
    let deadline = Deadline::new();
    let bytes = vec![b'x'; 64 << 10];
    let mut taken = 0;
    loop {
        match stream.write(&bytes) {
            Ok(count) => taken += count as u64,
            Err(error) => return error,
        }
        let is_endless = taken >= bytes_max || deadline.is_over();
        assert!(!is_endless, "{taken} bytes of the flood are taken in");
    }
}
