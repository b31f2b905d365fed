//! Where the relay awaits others on behalf of its users, by SOCKS5's BIND.
//!
//! Left out: which of them may come, which is [`super::egress`]'s: whoever may be dialled.

use std::net::IpAddr;

/// What there is for visitors who await somebody; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Awaiting {
    /// This host's addresses at which it may listen, one of a family at most.
    pub addresses: Vec<IpAddr>,
    /// Whether a visitor may leave open whom it awaits.
    pub anybody: bool,
}

impl Awaiting {
    /// Where somebody is awaited who comes from an address such as this.
    #[must_use]
    pub fn of_family(&self, peer: IpAddr) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|address| address.is_ipv4() == peer.is_ipv4())
    }
}
