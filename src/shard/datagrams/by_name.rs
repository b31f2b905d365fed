//! Datagrams to names that are being asked for: few, and one name at a time.

use std::collections::VecDeque;

/// Datagrams of one client that wait for a name. Somebody who asks for one by UDP is
/// answered within that many, or asks again.
const WAITING_MAX: usize = 16;

/// Bytes of them: one of any length has room.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// Bytes that they may have allocated, with their names (RFC 1928 §5) and places.
pub(super) const HELD_BYTES_MAX: usize =
    WAITING_BYTES_MAX + WAITING_MAX * (255 + 2 * size_of::<Waiting>());

/// One client's, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct ByName {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

/// A datagram, without its header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) name: Box<str>,
    pub(super) port: u16,
    pub(super) data: Box<[u8]>,
}

impl ByName {
    /// Keeps a datagram; tells whether there was room.
    #[must_use]
    pub(super) fn push(&mut self, name: &str, port: u16, data: &[u8]) -> bool {
        let has_room =
            self.waiting.len() < WAITING_MAX && self.bytes + data.len() <= WAITING_BYTES_MAX;
        if has_room {
            self.bytes += data.len();
            self.waiting.push_back(Waiting {
                name: name.into(),
                port,
                data: data.into(),
            });
        }
        has_room
    }

    /// The name that has waited longest.
    pub(super) fn first_name(&self) -> Option<&str> {
        self.waiting.front().map(|waiting| &*waiting.name)
    }

    /// Takes all that wait for a name.
    pub(super) fn take(&mut self, name: &str) -> Vec<Waiting> {
        let (taken, left) = self
            .waiting
            .drain(..)
            .partition::<Vec<_>, _>(|waiting| &*waiting.name == name);
        self.waiting = left.into();
        self.bytes = self.waiting.iter().map(|waiting| waiting.data.len()).sum();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_one_name_are_taken_in_their_order() {
        let mut queue = ByName::default();
        for (name, data) in [("a", b"1"), ("b", b"2"), ("a", b"3")] {
            assert!(queue.push(name, 53, data));
        }
        assert_eq!(queue.first_name(), Some("a"));
        let taken = queue.take("a");
        let data: Vec<&[u8]> = taken.iter().map(|waiting| &*waiting.data).collect();
        assert_eq!(data, [b"1", b"3"]);
        assert_eq!((queue.first_name(), queue.bytes), (Some("b"), 1));
        assert_eq!(queue.take("a"), []);
        assert_eq!(queue.take("b").len(), 1);
        assert_eq!((queue.first_name(), queue.bytes), (None, 0));
    }

    #[test]
    fn few_wait_and_one_of_any_size() {
        let mut queue = ByName::default();
        assert!(queue.push("a", 1, &[0; 65_000]));
        assert!(!queue.push("a", 1, &[0; 1000]));
        queue.take("a");
        for _ in 0..WAITING_MAX {
            assert!(queue.push("a", 1, b""));
        }
        assert!(!queue.push("b", 1, b""));
    }
}
