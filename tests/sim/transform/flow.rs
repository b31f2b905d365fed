//! The shadow model of one direction: a stream whose bytes anybody can compute, and
//! where its messages end.

use std::collections::VecDeque;

use super::websocket::Opcode;

/// One stream, from the peer that writes it to the one that reads it.
#[derive(Debug)]
pub(super) struct Flow {
    seed: u64,
    /// The bits that a byte may have: all of them, or those of text.
    mask: u8,
    /// Bytes that are sent until the peers have a word with each other.
    pub(super) limit: u64,
    pub(super) total: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// A message is under way.
    in_message: bool,
    /// Where messages end; nobody knows unless both peers have messages.
    bounds: Option<VecDeque<(Opcode, u64)>>,
}

impl Flow {
    pub(super) fn new(rng: &mut fastrand::Rng, has_messages: bool, is_text: bool) -> Self {
        let largest = 1 << rng.u32(0..=18);
        Self {
            seed: rng.u64(..),
            mask: if is_text { 0x7f } else { 0xff },
            limit: 0,
            total: rng.u64(0..=largest),
            sent: 0,
            received: 0,
            in_message: false,
            bounds: has_messages.then(VecDeque::new),
        }
    }

    /// Whether all that may be sent now has arrived.
    pub(super) const fn is_quiet(&self) -> bool {
        self.sent == self.limit && self.received == self.limit
    }

    /// Whether all there is has arrived, and no message is under way.
    pub(super) fn is_complete(&self) -> bool {
        self.received == self.total
            && !self.in_message
            && self.bounds.as_ref().is_none_or(VecDeque::is_empty)
    }

    pub(super) fn may_be_text(&self) -> bool {
        self.mask == 0x7f
    }

    /// The next bytes to be sent, at most so many.
    pub(super) fn send(&mut self, bytes_max: u64) -> Vec<u8> {
        let from = self.sent;
        self.sent = self.limit.min(from + bytes_max);
        (from..self.sent).map(|place| self.byte(place)).collect()
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(*byte, self.byte(self.received), "at {}", self.received);
            self.received += 1;
        }
        assert!(self.received <= self.sent, "bytes that nobody sent");
    }

    pub(super) const fn begin_message(&mut self) {
        self.in_message = true;
    }

    /// A message ends with what was sent last.
    pub(super) fn end_message(&mut self, kind: Opcode) {
        self.in_message = false;
        let place = self.sent;
        if let Some(bounds) = &mut self.bounds {
            bounds.push_back((kind, place));
        }
    }

    /// A message ended with what was received last.
    pub(super) fn handle_message_end(&mut self, kind: Opcode) {
        if let Some(bounds) = &mut self.bounds {
            assert_eq!(bounds.pop_front(), Some((kind, self.received)));
        }
    }

    fn byte(&self, place: u64) -> u8 {
        let mixed = (place / 8 + self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed.to_le_bytes()[(place % 8) as usize] & self.mask
    }
}
