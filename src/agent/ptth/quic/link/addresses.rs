//! Which of the relay's addresses is dialled next.

use std::net::SocketAddr;

/// Addresses, of those that a name leads to, of which it has to be shown that nothing comes
/// from them, until UDP counts as blocked.
const SHOWN_MAX: usize = 4;

/// What attempts have found. They begin with the address that let us in last, and go by all
/// others, of both families in turn, before one is tried again.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    good: Option<SocketAddr>,
    /// In vain, since all were.
    tried: Vec<SocketAddr>,
}

impl Addresses {
    /// The next of those that were found, in the order in which to try them.
    pub(super) fn next(&mut self, found: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut order = in_turn(found);
        order.sort_by_key(|address| Some(*address) != self.good);
        let is_untried = |address: &SocketAddr| !self.tried.contains(address);
        if !order.iter().any(is_untried) {
            self.tried.clear();
        }
        order.sort_by_key(|address| self.tried.contains(address));
        order
    }

    /// An attempt has failed.
    pub(super) fn handle_failure(&mut self, address: SocketAddr) {
        if !self.tried.contains(&address) {
            self.tried.push(address);
        }
    }

    /// The relay has let us in.
    pub(super) fn handle_success(&mut self, address: SocketAddr) {
        self.good = Some(address);
        self.tried.clear();
    }
}

/// How many attempts in a row without a datagram show that none comes, if `attempts_min` do
/// for one address.
pub(super) fn silent_attempts_max(found: usize, attempts_min: usize) -> usize {
    attempts_min.max(found.min(SHOWN_MAX))
}

/// The same addresses, those of one family behind one of the other for as long as there are
/// both; the first stays the first.
fn in_turn(found: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_first_family = |address: &SocketAddr| address.is_ipv4() == found[0].is_ipv4();
    let (first, second): (Vec<_>, Vec<_>) = found.iter().copied().partition(is_first_family);
    let [mut first, mut second] = [first, second].map(Vec::into_iter);
    let mut all = Vec::with_capacity(found.len());
    while all.len() < found.len() {
        all.extend(first.next().into_iter().chain(second.next()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        format!("{text}:443").parse().expect("an address")
    }

    /// The addresses of so many attempts that all fail.
    fn fail(addresses: &mut Addresses, found: &[SocketAddr], attempts: usize) -> Vec<SocketAddr> {
        let mut dialled = Vec::new();
        for _ in 0..attempts {
            let next = addresses.next(found);
            assert_eq!(next.len(), found.len());
            addresses.handle_failure(next[0]);
            dialled.push(next[0]);
        }
        dialled
    }

    #[test]
    fn families_take_turns_and_all_are_tried_before_one_is_again() {
        let [a, b, c, d] = ["[::1]", "[::2]", "[::3]", "127.0.0.1"].map(at);
        let mut addresses = Addresses::default();
        let dialled = fail(&mut addresses, &[a, b, c, d], 6);
        assert_eq!(dialled, [a, d, b, c, a, d]);
    }

    #[test]
    fn what_let_us_in_last_is_dialled_first() {
        let [a, b, c] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(at);
        let mut addresses = Addresses::default();
        assert_eq!(fail(&mut addresses, &[a, b, c], 1), [a]);
        addresses.handle_success(b);
        for _ in 0..3 {
            assert_eq!(addresses.next(&[a, b, c])[0], b);
        }
        // The resolver may give them in another order each time.
        assert_eq!(fail(&mut addresses, &[c, a, b], 1), [b]);
        assert_eq!(fail(&mut addresses, &[b, a, c], 1), [a]);
        assert_eq!(fail(&mut addresses, &[a, b, c], 1), [c]);
        assert_eq!(fail(&mut addresses, &[a, b, c], 1), [b]);
        // One that is not there any more does no harm.
        assert_eq!(fail(&mut addresses, &[a, c], 2), [a, c]);
        assert_eq!(addresses.next(&[]), []);
    }

    #[test]
    fn each_address_has_to_be_silent_but_not_of_very_many() {
        let check = |found, expected| assert_eq!(silent_attempts_max(found, 2), expected);
        check(0, 2);
        check(1, 2);
        check(3, 3);
        check(50, SHOWN_MAX);
    }
}
