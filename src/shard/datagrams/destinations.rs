//! To whom a client has sent lately: from nobody else is anything passed back to it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;

/// Destinations that are remembered at least, the last ones.
pub(super) const DESTINATIONS_MAX: usize = 256;

/// Bytes that they may have allocated: a table is full at seven eighths of a power of two, and
/// has a byte more for each place.
pub(super) const HELD_BYTES_MAX: usize =
    2 * 2 * DESTINATIONS_MAX * (size_of::<(IpAddr, u16)>() + 1) + 64;

/// The last destinations, in two generations: whoever is met in the older one moves to the
/// younger, and when that is full, what is left of the older is forgotten. Both hold
/// [`DESTINATIONS_MAX`].
#[derive(Debug, Default)]
pub(super) struct Destinations {
    younger: HashSet<(IpAddr, u16), RandomState>,
    older: HashSet<(IpAddr, u16), RandomState>,
}

impl Destinations {
    /// Something was sent there.
    pub(super) fn note(&mut self, to: SocketAddr) {
        if self.younger.contains(&key(to)) {
            return;
        }
        if self.younger.len() == DESTINATIONS_MAX {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(key(to));
    }

    /// Whether something was sent there lately.
    pub(super) fn contains(&self, from: SocketAddr) -> bool {
        self.younger.contains(&key(from)) || self.older.contains(&key(from))
    }
}

/// Without the zone and the label of IPv6, which a client cannot say.
const fn key(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: usize) -> SocketAddr {
        let port = u16::try_from(port).expect("a port");
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn the_last_are_known_and_no_more_than_twice_as_many() {
        let mut destinations = Destinations::default();
        for count in 1..=4 * DESTINATIONS_MAX {
            destinations.note(at(count));
            let first = count.saturating_sub(DESTINATIONS_MAX) + 1;
            assert!((first..=count).all(|port| destinations.contains(at(port))));
            let known = (0..=count).filter(|port| destinations.contains(at(*port)));
            assert!(known.count() <= 2 * DESTINATIONS_MAX);
        }
        assert!(!destinations.contains(at(1)));
    }

    #[test]
    fn who_is_written_to_again_and_again_is_never_forgotten() {
        let mut destinations = Destinations::default();
        for port in 1..4 * DESTINATIONS_MAX {
            destinations.note(at(0));
            destinations.note(at(port));
            assert!(destinations.contains(at(0)));
        }
    }

    #[test]
    fn address_and_port_count_and_nothing_else() {
        let mut destinations = Destinations::default();
        let zoned = |zone| {
            let address = "fe80::1".parse().expect("an address");
            SocketAddr::V6(std::net::SocketAddrV6::new(address, 53, 0, zone))
        };
        destinations.note(zoned(0));
        assert!(destinations.contains(zoned(7)));
        assert!(!destinations.contains(at(53)));
    }
}
