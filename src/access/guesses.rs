//! Where wrong passwords come from, so that whoever guesses is not listened to for a while.
//!
//! Each address may be wrong so often a minute, and all of that at once. An address of IPv6
//! stands for its /64, all of which one host has.
//!
//! Left out: whose password it was. A user whom somebody else guesses at is not shut out.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ahash::RandomState;

use super::rate::after_one_more;
use crate::time::Timestamp;

/// Sources that one shard remembers, in some 1.5 MiB. Beyond that, the one that would be
/// calm first is forgotten, which has guessed least or longest ago.
const SOURCES_MAX: usize = 16 << 10;

/// The low 64 bits of an address of IPv6, which its host may choose.
const HOST_BITS: u128 = u64::MAX as u128;

/// An address as 128 bits: IPv4 mapped, of IPv6 the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Source(u128);

/// Sources of wrong passwords.
///
/// INVARIANT: both hold the same pairs.
#[derive(Debug, Default)]
pub struct Guesses {
    calm_at: HashMap<Source, Timestamp, RandomState>,
    in_order: BTreeSet<(Timestamp, Source)>,
}

impl Guesses {
    /// Whether somebody from there may be wrong again, of so many times a minute.
    #[must_use]
    pub fn is_calm(&self, ip: IpAddr, per_minute: u32, now: Timestamp) -> bool {
        let calm_at = self.calm_at.get(&Source::from(ip)).copied();
        calm_at.is_none_or(|calm_at| after_one_more(calm_at, per_minute, now).is_some())
    }

    /// Somebody from there was wrong, who might be.
    pub fn add(&mut self, ip: IpAddr, per_minute: u32, now: Timestamp) {
        let source = Source::from(ip);
        let before = self.calm_at.get(&source).copied();
        let Some(calm_at) = after_one_more(before.unwrap_or(now), per_minute, now) else {
            return;
        };
        if let Some(before) = before {
            self.in_order.remove(&(before, source));
        }
        self.calm_at.insert(source, calm_at);
        self.in_order.insert((calm_at, source));
        self.forget(now);
    }

    fn forget(&mut self, now: Timestamp) {
        while let Some(&(calm_at, source)) = self.in_order.first() {
            if calm_at > now && self.calm_at.len() <= SOURCES_MAX {
                return;
            }
            self.in_order.pop_first();
            self.calm_at.remove(&source);
        }
    }
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits() & !HOST_BITS,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PER_MINUTE: u32 = 6;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000 * (1_000_000 + ms))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    /// Guesses `count` times from there; whether another would be listened to.
    fn guess(guesses: &mut Guesses, from: &str, count: u32, ms: u64) -> bool {
        for _ in 0..count {
            guesses.add(ip(from), PER_MINUTE, at(ms));
        }
        guesses.is_calm(ip(from), PER_MINUTE, at(ms))
    }

    #[test]
    fn whoever_is_wrong_too_often_is_not_heard_until_it_has_rested() {
        let mut guesses = Guesses::default();
        for (from, count, ms, is_calm) in [
            ("192.0.2.1", 5, 0, true),
            ("192.0.2.1", 1, 0, false),
            // What is not heard makes nothing worse.
            ("192.0.2.1", 500, 0, false),
            ("192.0.2.1", 0, 9_999, false),
            ("192.0.2.1", 0, 10_000, true),
            ("192.0.2.1", 1, 10_000, false),
            ("::ffff:192.0.2.1", 0, 10_000, false),
            ("192.0.2.2", 0, 10_000, true),
            ("192.0.2.1", 5, 200_000, true),
            ("2001:db8:0:1::1", 6, 200_000, false),
            ("2001:db8:0:1:ffff::7", 0, 200_000, false),
            ("2001:db8:0:2::1", 0, 200_000, true),
        ] {
            let got = guess(&mut guesses, from, count, ms);
            assert_eq!(got, is_calm, "{from} {count} {ms}");
        }
        // Whoever is calm again is forgotten with the next wrong one.
        guess(&mut guesses, "198.51.100.1", 1, 900_000);
        assert_eq!((guesses.calm_at.len(), guesses.in_order.len()), (1, 1));
    }

    #[test]
    fn there_are_only_so_many_and_the_worst_are_remembered() {
        let mut guesses = Guesses::default();
        assert!(!guess(&mut guesses, "192.0.2.1", PER_MINUTE, 0));
        for number in 0..100_000 {
            let from = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
            guesses.add(from, PER_MINUTE, at(1));
            assert!(guesses.calm_at.len() <= SOURCES_MAX);
        }
        assert_eq!(guesses.calm_at.len(), guesses.in_order.len());
        assert!(!guess(&mut guesses, "192.0.2.1", 0, 1));
    }
}
