//! Counts by source address, for limits that hold for each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use ahash::RandomState;

use super::peer_address::PeerAddress;

/// How many of something each address has on one shard. A peer whose address is
/// unknown is not counted, when it comes and when it goes.
#[derive(Clone, Debug, Default)]
pub struct PerAddress(Rc<RefCell<HashMap<IpAddr, u32, RandomState>>>);

/// One of the counted.
#[derive(Debug)]
pub struct CountedAddress {
    counts: PerAddress,
    peer: PeerAddress,
}

impl PerAddress {
    pub fn count(&self, peer: PeerAddress) -> u32 {
        let count = peer.ip().and_then(|ip| self.0.borrow().get(&ip).copied());
        count.unwrap_or(0)
    }

    pub fn add(&self, peer: PeerAddress) {
        if let Some(ip) = peer.ip() {
            *self.0.borrow_mut().entry(ip).or_insert(0) += 1;
        }
    }

    /// Takes back what [`Self::add`] counted for the same peer.
    pub fn remove(&self, peer: PeerAddress) {
        let Some(ip) = peer.ip() else {
            return;
        };
        let mut counts = self.0.borrow_mut();
        let Some(count) = counts.get_mut(&ip) else {
            debug_assert!(false, "{ip} was never counted");
            return;
        };
        *count -= 1;
        if *count == 0 {
            counts.remove(&ip);
        }
    }

    /// One more, until the guard is dropped.
    pub fn enter(&self, peer: PeerAddress) -> CountedAddress {
        self.add(peer);
        CountedAddress {
            counts: self.clone(),
            peer,
        }
    }
}

impl Drop for CountedAddress {
    fn drop(&mut self) {
        self.counts.remove(self.peer);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn peer(text: &str) -> PeerAddress {
        let address: SocketAddr = text.parse().unwrap();
        PeerAddress::from(Some(address))
    }

    #[test]
    fn each_address_is_counted_for_itself_until_nothing_is_left() {
        let counts = PerAddress::default();
        let (one, same, other) = (peer("192.0.2.1:1"), peer("192.0.2.1:2"), peer("[::1]:1"));
        counts.add(one);
        let guard = counts.enter(same);
        counts.add(other);
        assert_eq!(counts.count(one), 2);
        assert_eq!(counts.count(other), 1);
        drop(guard);
        assert_eq!(counts.count(same), 1);
        counts.remove(same);
        counts.remove(other);
        assert!(counts.0.borrow().is_empty());
    }

    #[test]
    fn ipv4_is_one_address_however_it_is_written() {
        let counts = PerAddress::default();
        counts.add(peer("192.0.2.1:1"));
        assert_eq!(counts.count(peer("[::ffff:192.0.2.1]:2")), 1);
    }

    #[test]
    fn who_is_unknown_is_not_counted() {
        let counts = PerAddress::default();
        drop(counts.enter(PeerAddress::UNKNOWN));
        counts.add(PeerAddress::UNKNOWN);
        assert_eq!(counts.count(PeerAddress::UNKNOWN), 0);
    }
}
