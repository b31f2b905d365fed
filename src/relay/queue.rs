//! Bytes that wait in order: appended at the end, taken from the front.

/// Room that is kept while nothing is in it, and by which it grows: a record of TLS that was cut
/// (RFC 8446 §5.1), and as much of the next as is read at a time.
pub const ROOM_BYTES: usize = 20 << 10;

/// Bytes that are appended, and taken from the front.
#[derive(Debug, Default)]
pub struct Queue {
    bytes: Vec<u8>,
    taken: usize,
}

impl Queue {
    /// What is in it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Takes so many bytes, which stay where they are until more is appended.
    pub fn consume(&mut self, count: usize) -> &[u8] {
        let consumed = self.taken..self.taken + count;
        debug_assert!(consumed.end <= self.bytes.len(), "no more than there is");
        self.taken = consumed.end;
        &self.bytes[consumed]
    }

    /// Where to append so many bytes, in room that is not doubled for them.
    pub fn tail(&mut self, count: usize) -> &mut Vec<u8> {
        self.give_room_back();
        self.bytes.drain(..self.taken);
        self.taken = 0;
        let needed = self.bytes.len() + count;
        if needed > self.bytes.capacity() {
            let room = needed.next_multiple_of(ROOM_BYTES);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        &mut self.bytes
    }

    /// Keeps little room where nothing is in it.
    pub fn give_room_back(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(ROOM_BYTES);
            self.taken = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_gives_what_it_was_given_and_keeps_little_room() {
        let mut queue = Queue::default();
        assert!(queue.is_empty());
        queue.tail(7).extend_from_slice(b"one two");
        assert_eq!(queue.consume(4), b"one ");
        assert_eq!(queue.as_bytes(), b"two");
        queue.tail(6).extend_from_slice(b" three");
        assert_eq!(queue.as_bytes(), b"two three");
        queue.consume(9);
        assert!(queue.is_empty());
        queue.tail(1 << 20).extend_from_slice(&vec![0; 1 << 20]);
        queue.consume(1 << 20);
        assert!(queue.tail(0).capacity() <= ROOM_BYTES);
    }

    #[test]
    fn room_grows_by_steps() {
        let mut queue = Queue::default();
        for count in 1..200 {
            queue.tail(1000).extend_from_slice(&[0; 1000]);
            assert!(queue.bytes.capacity() < 1000 * count + ROOM_BYTES);
        }
    }
}
