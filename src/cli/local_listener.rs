//! Where a proxy listens for programs on its own machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::config::{ListenAddress, ValueError};

/// `[ADDR:]PORT`, on loopback where no address is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalListener(pub(super) ListenAddress);

impl FromStr for LocalListener {
    type Err = ValueError;

    fn from_str(written: &str) -> Result<Self, ValueError> {
        let digits = !written.is_empty() && written.bytes().all(|b| b.is_ascii_digit());
        match written.parse::<u16>() {
            Ok(port) if digits => Ok(Self(ListenAddress(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                port,
            ))))),
            _ => Ok(Self(written.parse()?)),
        }
    }
}
