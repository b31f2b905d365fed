//! Bytes that wait in order: appended at the end, taken from the front.

/// Room that is kept while nothing is in it, and by which it grows: a record of TLS that was cut
/// (RFC 8446 §5.1), and as much of the next as is read at a time.
pub const ROOM_BYTES: usize = 20 << 10;

/// The same of a queue that is one of many, most of which are empty: it keeps none.
const SPARE_ROOM_BYTES: usize = 1 << 10;

/// Bytes that are appended, and taken from the front.
#[derive(Debug)]
pub struct Queue {
    bytes: Vec<u8>,
    taken: usize,
    /// Room grows by so much.
    step: usize,
    /// Room that is kept.
    kept: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            taken: 0,
            step: ROOM_BYTES,
            kept: ROOM_BYTES,
        }
    }
}

impl Queue {
    /// One of many.
    #[must_use]
    pub const fn spare() -> Self {
        Self {
            bytes: Vec::new(),
            taken: 0,
            step: SPARE_ROOM_BYTES,
            kept: 0,
        }
    }

    /// Room that it has.
    #[must_use]
    pub const fn room_bytes(&self) -> usize {
        self.bytes.capacity()
    }

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
        if self.is_empty() {
            self.give_room_back();
        }
        self.compact();
        let needed = self.bytes.len() + count;
        if needed > self.bytes.capacity() {
            let room = needed.next_multiple_of(self.step);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        &mut self.bytes
    }

    /// Keeps little room where little or nothing is in it: twice as much, and a step.
    pub fn give_room_back(&mut self) {
        let rest = self.bytes.len() - self.taken;
        if self.is_empty() {
            self.compact();
            self.bytes.shrink_to(self.kept);
        } else if self.bytes.capacity() > 2 * rest + self.step {
            self.compact();
            self.bytes.shrink_to(rest.next_multiple_of(self.step));
        }
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
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
    fn a_spare_one_keeps_no_room() {
        let mut queue = Queue::spare();
        queue.tail(1).push(1);
        assert_eq!(queue.room_bytes(), SPARE_ROOM_BYTES);
        queue.consume(1);
        queue.give_room_back();
        assert_eq!(queue.room_bytes(), 0);
        queue.tail(100_000).extend_from_slice(&[7; 100_000]);
        queue.consume(99_998);
        queue.give_room_back();
        assert_eq!(queue.as_bytes(), [7; 2]);
        assert!(queue.room_bytes() <= SPARE_ROOM_BYTES);
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
