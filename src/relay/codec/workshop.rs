//! Where bytes are while codecs work on them.

use std::fmt;
use std::ops::Range;

use super::chunk::{Chunk, ROOM_BYTES};
use super::gather::Gather;
use super::masks::MaskKeys;
use super::{Codec, CodecError, Heard, Life};
use crate::protocol::websocket::CloseCode;
use crate::relay::keepalive::PingSettings;
use crate::tls::{SEALED_BYTES_MIN, SealError, Wire};

/// The buffers of one shard's codecs. Nothing in them outlives an action.
pub struct Workshop {
    /// Room for a header, then plain bytes.
    bytes: Box<[u8]>,
    /// Bytes as TLS has them.
    sealed: Box<[u8]>,
    /// Where [`Self::landing`] was.
    landing: Range<usize>,
    chunks: Vec<Chunk>,
    gather: Gather,
    masks: MaskKeys,
    wire: Wire,
}

/// How many bytes, not which: they are peers'.
impl fmt::Debug for Workshop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workshop")
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Where in a workshop that is which is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// [`Workshop::gathered`].
    Gathered,
    /// [`Workshop::wire`].
    Sealed,
}

impl Workshop {
    /// A workshop in which up to `asked_max` bytes are read at a time.
    #[must_use]
    pub fn new(asked_max: usize) -> Self {
        // Not touched before it is needed, so not there before.
        let room = asked_max + SEALED_BYTES_MIN;
        Self {
            bytes: vec![0; ROOM_BYTES + room].into(),
            sealed: vec![0; room].into(),
            landing: 0..0,
            chunks: Vec::new(),
            gather: Gather::new(),
            masks: MaskKeys::new(),
            wire: Wire::default(),
        }
    }

    /// Where to read what comes from a leg, about `asked` bytes of it.
    pub fn landing(&mut self, codec: Option<&Codec>, asked: usize) -> &mut [u8] {
        match codec.and_then(|codec| codec.tls.as_ref()) {
            Some(tls) => {
                self.landing = tls.lead_in(&mut self.sealed, asked);
                &mut self.sealed[self.landing.clone()]
            }
            None => {
                self.landing = ROOM_BYTES..ROOM_BYTES + asked;
                &mut self.bytes[self.landing.clone()]
            }
        }
    }

    /// Decodes the `received` bytes that were read into the landing.
    ///
    /// # Errors
    ///
    /// When nothing that the leg sends counts any more.
    pub fn decode(
        &mut self,
        codec: Option<&mut Codec>,
        received: usize,
    ) -> Result<Heard, CodecError> {
        self.chunks.clear();
        let start = self.landing.start;
        let Some(codec) = codec else {
            self.chunks.push(Chunk::plain(start..start + received));
            return Ok(Heard::Open);
        };
        codec.note_life();
        let mut is_end = false;
        let fresh = match &mut codec.tls {
            Some(tls) => {
                let sealed = &mut self.sealed[..start + received];
                let opened = tls.open(sealed, &mut self.bytes[ROOM_BYTES..])?;
                is_end = opened.is_end;
                ROOM_BYTES..ROOM_BYTES + opened.bytes
            }
            None => start..start + received,
        };
        codec.decode(&mut self.bytes, fresh, &mut self.chunks, &mut self.masks)?;
        // Without a Close, the end of TLS is the end of a WebSocket too.
        if is_end && codec.heard == Heard::Open {
            codec.end_of_input()?;
        }
        Ok(codec.heard)
    }

    /// Decodes what [`Self::keep`] kept, or a part of it.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`].
    pub fn decode_kept(
        &mut self,
        codec: Option<&mut Codec>,
        kept: &[u8],
    ) -> Result<(), CodecError> {
        self.chunks.clear();
        let place = ROOM_BYTES..ROOM_BYTES + kept.len();
        self.bytes[place.clone()].copy_from_slice(kept);
        match codec {
            Some(codec) => codec.decode_kept(&mut self.bytes, place, &mut self.chunks),
            None => {
                self.chunks.push(Chunk::plain(place));
                Ok(())
            }
        }
    }

    /// Appends what was decoded to `kept`, for a leg that is read before there is
    /// anybody to send it to.
    pub fn keep(&self, codec: &Codec, kept: &mut Vec<u8>) {
        codec.keep(&self.bytes, &self.chunks, kept);
    }

    /// Appends what was decoded to `bytes`, without its messages' bounds.
    pub fn copy_decoded(&self, bytes: &mut Vec<u8>) {
        for chunk in &self.chunks {
            bytes.extend_from_slice(&self.bytes[chunk.range.clone()]);
        }
    }

    /// A few bytes of data as a codec has them, ready to be sent.
    ///
    /// # Errors
    ///
    /// When they cannot be sealed.
    ///
    /// # Panics
    ///
    /// When they are more than is read at a time.
    pub fn wrap(&mut self, codec: &mut Codec, bytes: &[u8]) -> Result<&[u8], SealError> {
        self.chunks.clear();
        let place = ROOM_BYTES..ROOM_BYTES + bytes.len();
        self.bytes[place.clone()].copy_from_slice(bytes);
        self.chunks.push(Chunk::plain(place));
        if self.encode(Some(codec))? == Outgoing::Gathered {
            self.wire.clear();
            for place in self.gather.places() {
                self.wire.push(&self.bytes[place.clone()]);
            }
        }
        Ok(self.wire.as_bytes())
    }

    /// Nothing is decoded.
    pub fn clear(&mut self) {
        self.chunks.clear();
    }

    /// Application bytes that were decoded.
    #[must_use]
    pub fn decoded_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.range.len()).sum()
    }

    /// Encodes what was decoded for another leg.
    ///
    /// # Errors
    ///
    /// When it cannot be sealed.
    pub(crate) fn encode(&mut self, mut codec: Option<&mut Codec>) -> Result<Outgoing, SealError> {
        let gather = &mut self.gather;
        gather.clear();
        for chunk in &self.chunks {
            let place = match &mut codec {
                Some(codec) => codec.encode(&mut self.bytes, chunk, &mut self.masks),
                None => chunk.range.clone(),
            };
            gather.push(&mut self.bytes, place);
        }
        let Some(tls) = codec.and_then(|codec| codec.tls.as_mut()) else {
            return Ok(Outgoing::Gathered);
        };
        self.wire.clear();
        for place in gather.places() {
            tls.seal(&self.bytes[place.clone()], &mut self.wire)?;
        }
        Ok(Outgoing::Sealed)
    }

    /// Has the words of a codec in [`Self::wire`], see `Codec::take_words`.
    ///
    /// # Errors
    ///
    /// When they cannot be sealed.
    pub fn take_words(&mut self, codec: &mut Codec, is_end: bool) -> Result<(), SealError> {
        self.wire.clear();
        codec.take_words(is_end, &mut self.masks, &mut self.wire)
    }

    /// Has a ping, and what else a WebSocket has to say, in [`Self::wire`].
    ///
    /// # Errors
    ///
    /// When they cannot be sealed.
    pub fn ping(&mut self, codec: &mut Codec) -> Result<(), SealError> {
        if let Some(websocket) = &mut codec.websocket {
            websocket.ping(&mut self.masks);
        }
        self.take_words(codec, false)
    }

    /// Has a codec's last words in [`Self::wire`], see `Codec::take_farewell`.
    pub fn take_farewell(&mut self, codec: &mut Codec, code: CloseCode) {
        self.wire.clear();
        codec.take_farewell(code, &mut self.masks, &mut self.wire);
    }

    /// Looks whether anything came since the last look, and if not, has words that
    /// ask for it; after some such looks in a row the leg is dead. A leg that cannot
    /// be asked is left alone.
    pub fn look_for_life(&mut self, codec: &mut Codec, ping: PingSettings) -> Life {
        codec.look_for_life(ping, &mut self.masks)
    }

    /// Plain bytes, and which of them are to be sent.
    pub(crate) fn gathered(&self) -> (&Gather, &[u8]) {
        (&self.gather, &self.bytes)
    }

    /// What is sealed, and words.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        self.wire.as_bytes()
    }
}
