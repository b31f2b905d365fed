//! Which addresses are this host's own, kept for a moment: the kernel is not asked for each
//! datagram.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ahash::RandomState;

use crate::time::Timestamp;

/// How long an answer is kept: a host seldom has a new address.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(5);

/// Addresses of one shard that are remembered; then all are forgotten.
const ADDRESSES_MAX: usize = 1024;

/// What one shard knows of them.
#[derive(Debug, Default)]
pub(super) struct HostAddresses {
    known: RefCell<HashMap<IpAddr, Known, RandomState>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    is_of_host: bool,
    learnt_at: Timestamp,
}

impl HostAddresses {
    /// Whether an address is the host's own; whoever is to `ask` is asked where that is not
    /// known. If it cannot be asked, the address counts as the host's this once.
    pub(super) fn contains(
        &self,
        address: IpAddr,
        now: Timestamp,
        ask: impl FnOnce(IpAddr) -> io::Result<bool>,
    ) -> bool {
        let mut known = self.known.borrow_mut();
        if let Some(known) = known.get(&address)
            && now.since(known.learnt_at) < ANSWER_AGE_MAX
        {
            return known.is_of_host;
        }
        let Ok(is_of_host) = ask(address) else {
            return true;
        };
        if known.len() >= ADDRESSES_MAX {
            known.clear();
        }
        let fresh = Known {
            is_of_host,
            learnt_at: now,
        };
        known.insert(address, fresh);
        is_of_host
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn an_answer_holds_for_a_moment() {
        let addresses = HostAddresses::default();
        let address = IpAddr::from([192, 0, 2, 1]);
        let not_asked = |_| unreachable!("it is known");
        let cannot = |_| Err(io::Error::other("no descriptor"));
        assert!(addresses.contains(address, at(0), cannot));
        assert!(!addresses.contains(address, at(0), |_| Ok(false)));
        assert!(!addresses.contains(address, at(4), not_asked));
        assert!(addresses.contains(address, at(5), |_| Ok(true)));
        assert!(addresses.contains(address, at(9), not_asked));
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let addresses = HostAddresses::default();
        for bits in 0..3000_u32 {
            let address = Ipv4Addr::from_bits(bits).into();
            assert!(addresses.contains(address, at(0), |_| Ok(true)));
            assert!(addresses.known.borrow().len() <= ADDRESSES_MAX);
        }
    }
}
