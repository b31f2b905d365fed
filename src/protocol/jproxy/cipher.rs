//! Packets as they go over the wire: AES-128-ECB of what is in them, with PKCS #7's padding.
//!
//! ```text
//! | n: 1 byte | n * 16 bytes: AES( payload, 1 to 16 bytes of padding ) |
//! ```
//!
//! One key is for both directions, and nothing is authenticated: what keeps others from reading
//! or changing it is TLS around the tunnel.
//!
//! A cipher of the library's takes a stream, of which blocks come out as they are whole. All
//! packets of a direction are one such stream, as no block depends on another: each packet costs
//! one call, wherever its bytes are, and nothing is set up for it.

use std::fmt;

use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, StreamingDecryptingKey, StreamingEncryptingKey, UnboundCipherKey,
};
use thiserror::Error;

/// Of AES-128.
pub const SESSION_KEY_BYTES: usize = 16;

const BLOCK_BYTES: usize = 16;

/// The longest packet: 255 blocks, of which one byte at least is padding.
pub const PAYLOAD_BYTES_MAX: usize = 255 * BLOCK_BYTES - 1;

/// Of each length, from 1 on: PKCS #7, as many bytes as each of them says.
const PADDINGS: [&[u8]; BLOCK_BYTES] = [
    &[1; 1], &[2; 2], &[3; 3], &[4; 4], &[5; 5], &[6; 6], &[7; 7], &[8; 8], &[9; 9], &[10; 10],
    &[11; 11], &[12; 12], &[13; 13], &[14; 14], &[15; 15], &[16; 16],
];

/// The most that one packet has of a channel's bytes: behind opcode, id and length.
pub const DATA_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - 5;

/// The key of one tunnel, which the server chooses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionKey(pub [u8; SESSION_KEY_BYTES]);

/// Why bytes are no packet: another key was used, or they were changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CipherError {
    #[error("a packet's padding is none")]
    Padding,
}

impl SessionKey {
    fn unbound(&self) -> UnboundCipherKey {
        UnboundCipherKey::new(&AES_128, &self.0).expect("a key of 128 bits")
    }
}

/// Without the key.
impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey")
    }
}

/// Encrypts packets of one direction.
pub struct Sealer {
    key: StreamingEncryptingKey,
}

impl Sealer {
    #[must_use]
    pub fn new(key: &SessionKey) -> Self {
        let key = StreamingEncryptingKey::ecb_pkcs7(key.unbound()).expect("AES has this mode");
        Self { key }
    }

    /// Appends a packet of these pieces, one after the other.
    ///
    /// # Panics
    ///
    /// When they are longer than [`PAYLOAD_BYTES_MAX`].
    pub fn seal(&mut self, pieces: &[&[u8]], out: &mut Vec<u8>) {
        let payload: usize = pieces.iter().map(|piece| piece.len()).sum();
        let blocks = payload / BLOCK_BYTES + 1;
        let count = u8::try_from(blocks);
        out.push(count.unwrap_or_else(|_| panic!("{payload} bytes in a packet")));
        let start = out.len();
        let end = start + blocks * BLOCK_BYTES;
        // The library asks for room for a block more than comes.
        out.resize(end + BLOCK_BYTES, 0);
        let mut filled = start;
        let padding = PADDINGS[blocks * BLOCK_BYTES - payload - 1];
        for piece in pieces.iter().copied().chain([padding]) {
            let update = self.key.update(piece, &mut out[filled..]);
            filled += update.expect("there is room").written().len();
        }
        debug_assert_eq!(filled, end, "whole blocks come out whole");
        out.truncate(end);
    }
}

/// Decrypts packets of one direction, many at once.
pub struct Opener {
    key: StreamingDecryptingKey,
    /// Packets of the last call, with their padding.
    plain: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// The library keeps back a block until another one follows, as it may be the last.
    has_kept: bool,
}

impl Opener {
    #[must_use]
    pub fn new(key: &SessionKey) -> Self {
        let key = StreamingDecryptingKey::ecb_pkcs7(key.unbound(), DecryptionContext::None);
        Self {
            key: key.expect("AES has this mode"),
            plain: Vec::new(),
            ends: Vec::new(),
            has_kept: false,
        }
    }

    /// Decrypts all packets at the start of `bytes` that are whole; how many bytes they are.
    pub fn open(&mut self, bytes: &[u8]) -> usize {
        self.ends.clear();
        // What was kept back the last time, and what the library asks for.
        self.plain.resize(bytes.len() + 3 * BLOCK_BYTES, 0);
        let mut consumed = 0;
        let mut filled = 0;
        let mut end = 0;
        while let Some((blocks, rest)) = bytes[consumed..].split_first()
            && let Some(packet) = rest.get(..usize::from(*blocks) * BLOCK_BYTES)
        {
            filled += self.update(packet, filled);
            end += packet.len();
            self.ends.push(end);
            consumed += 1 + packet.len();
        }
        if end > 0 {
            // It pushes out what was kept back, and is kept back itself.
            filled += self.update(&[0; BLOCK_BYTES], filled);
            self.has_kept = true;
        }
        debug_assert_eq!(filled, end, "all of them came out");
        consumed
    }

    /// Decrypts to behind so many bytes; how many came out, but for what was kept back.
    fn update(&mut self, bytes: &[u8], filled: usize) -> usize {
        let room = &mut self.plain[filled..];
        let update = self.key.update(bytes, room).expect("there is room");
        let came = update.written().len();
        if came == 0 || !std::mem::take(&mut self.has_kept) {
            return came;
        }
        self.plain
            .copy_within(filled + BLOCK_BYTES..filled + came, filled);
        came - BLOCK_BYTES
    }

    /// What was in the packets of the last [`Self::open`], one after the other. One without a
    /// block is empty, as programs take it.
    pub fn payloads(&self) -> impl Iterator<Item = Result<&[u8], CipherError>> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let packets = starts.zip(&self.ends);
        packets.map(|(start, end)| unpadded(&self.plain[start..*end]))
    }
}

fn unpadded(packet: &[u8]) -> Result<&[u8], CipherError> {
    let Some(last) = packet.last() else {
        return Ok(packet);
    };
    let padding = usize::from(*last);
    let payload = packet.len().checked_sub(padding);
    match payload.and_then(|payload| packet.split_at_checked(payload)) {
        Some((payload, pad))
            if (1..=BLOCK_BYTES).contains(&padding) && pad.iter().all(|byte| byte == last) =>
        {
            Ok(payload)
        }
        _ => Err(CipherError::Padding),
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("packets", &self.ends.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SessionKey = SessionKey([7; SESSION_KEY_BYTES]);

    fn sealed(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut sealer = Sealer::new(&KEY);
        let mut out = Vec::new();
        for payload in payloads {
            let (head, tail) = payload.split_at(payload.len().min(5));
            sealer.seal(&[head, tail], &mut out);
        }
        out
    }

    fn of_all_lengths() -> Vec<Vec<u8>> {
        let lengths = (0..100).chain([PAYLOAD_BYTES_MAX - 1, PAYLOAD_BYTES_MAX]);
        let payload = |length| (0..length).map(|at: usize| at.to_le_bytes()[0]).collect();
        lengths.map(payload).collect()
    }

    #[test]
    fn packets_come_out_as_they_went_in_however_they_are_cut() {
        let payloads = of_all_lengths();
        let wire = sealed(&payloads);
        for piece in [1, 15, 16, 17, 100, 4081, wire.len()] {
            let mut opener = Opener::new(&KEY);
            let mut held = Vec::new();
            let mut got = Vec::new();
            for bytes in wire.chunks(piece) {
                held.extend_from_slice(bytes);
                let consumed = opener.open(&held);
                held.drain(..consumed);
                got.extend(opener.payloads().map(|it| it.expect("a packet").to_vec()));
            }
            assert!(held.is_empty() && got == payloads, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_packet_without_a_block_is_empty_and_those_around_it_are_whole() {
        let one = sealed(&[b"one".to_vec()]);
        let wire = [&one[..], &[0], &one, &[0]].concat();
        let mut opener = Opener::new(&KEY);
        for _ in 0..2 {
            assert_eq!(opener.open(&wire), wire.len());
            let got: Result<Vec<_>, _> = opener.payloads().collect();
            let expected: [&[u8]; 4] = [b"one", b"", b"one", b""];
            assert_eq!(got.expect("packets"), expected);
        }
        assert_eq!(opener.open(&[0]), 1);
        assert_eq!(opener.payloads().count(), 1);
        assert_eq!(opener.open(&[]), 0);
        assert_eq!(opener.payloads().count(), 0);
    }

    #[test]
    fn another_key_is_known_by_the_padding() {
        let wire = sealed(&of_all_lengths());
        let mut opener = Opener::new(&SessionKey([8; SESSION_KEY_BYTES]));
        assert_eq!(opener.open(&wire), wire.len());
        let bad = opener.payloads().filter(Result::is_err).count();
        assert!(bad > 90, "{bad} of 102");
    }

    #[test]
    fn paddings_that_are_none_are_refused() {
        for (last, is_padding) in [
            ([9; 16], true),
            ([16; 16], true),
            ([1; 16], true),
            ([0; 16], false),
            ([17; 16], false),
        ] {
            assert_eq!(unpadded(&last).is_ok(), is_padding, "{last:?}");
        }
        let mut two = [2; 16];
        two[14] = 3;
        assert_eq!(unpadded(&two), Err(CipherError::Padding));
    }
}
