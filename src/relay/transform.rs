//! Moving bytes through the codecs of a pair's legs.
//!
//! Everything happens in the shard's work buffer, within one action: read, decode
//! in place, encode in place, send with one call. What the destination does not
//! take is spilled as it goes on the wire, so that a codec never has to go back.

use rustix::io::Errno;
use tracing::debug;

use super::close::CloseReason;
use super::codec::{Chunk, Codec, CodecError, Gather, Heard, MaskKeys, ROOM_BYTES};
use super::direction::{Action, Outcome, SCRATCH_BYTES, SpillKey};
use super::engine::{Ends, Means};
use super::pair::{Pair, Side};
use super::spill::{CAREFUL_READ_BYTES, SpillPool};
use crate::protocol::websocket::CloseCode;
use crate::runtime::socket::Socket;

/// What a pair has beside its sockets when one of its legs has a codec.
#[derive(Debug)]
pub(super) struct Transforms {
    /// By side.
    codecs: [Option<Box<Codec>>; 2],
    /// What was read before there was a pair: plain bytes, or what
    /// [`Codec::keep`] made of them.
    kept: [Option<SpillKey>; 2],
}

/// What the transforms of a shard share.
#[derive(Debug)]
pub(super) struct Workshop {
    /// Room for a header, and what is read at a time.
    bytes: Box<[u8]>,
    chunks: Vec<Chunk>,
    masks: MaskKeys,
    /// Words on their way.
    wire: Vec<u8>,
}

impl Workshop {
    pub(super) fn new() -> Self {
        Self {
            // Not touched before it is needed, so not there before.
            bytes: vec![0; ROOM_BYTES + SCRATCH_BYTES as usize].into(),
            chunks: Vec::new(),
            masks: MaskKeys::new(),
            wire: Vec::new(),
        }
    }
}

impl Transforms {
    pub(super) fn new(codecs: [Option<Box<Codec>>; 2], kept: [Option<SpillKey>; 2]) -> Self {
        Self { codecs, kept }
    }

    /// Whether something of the leg was read before there was a pair.
    pub(super) fn is_begun(&self, side: Side) -> bool {
        self.kept[side.index()].is_some() || self.heard(side) != Heard::Open
    }

    /// How the leg's stream stands, as far as its codec knows.
    fn heard(&self, side: Side) -> Heard {
        self.codec(side).map_or(Heard::Open, Codec::heard)
    }

    /// Whether the leg's codec has words for it.
    pub(super) fn has_words(&self, side: Side) -> bool {
        self.codec(side).is_some_and(Codec::has_words)
    }

    fn codec(&self, side: Side) -> Option<&Codec> {
        self.codecs[side.index()].as_deref()
    }

    /// The leg's codec.
    pub(super) fn codec_mut(&mut self, side: Side) -> Option<&mut Codec> {
        self.codecs[side.index()].as_deref_mut()
    }

    /// Gives up what was kept.
    pub(super) fn discard(&mut self, spills: &mut SpillPool) {
        for kept in &mut self.kept {
            if let Some(kept) = kept.take() {
                spills.discard(kept);
            }
        }
    }
}

/// One direction's part of a transform.
pub(super) struct Route<'a> {
    pub(super) pair: &'a Pair,
    pub(super) transforms: &'a mut Transforms,
    pub(super) ends: Ends<'a>,
    pub(super) source: Side,
}

impl Means {
    /// Does what a direction asks for whose pair has codecs.
    pub(super) fn transform(&mut self, mut route: Route<'_>, action: Action) -> Outcome {
        match action {
            Action::Copy { slow } => copy(self, &mut route, slow),
            Action::Say { is_end } => say(self, &mut route, is_end),
            Action::ShutdownWrite
                if route
                    .transforms
                    .codec(route.source.other())
                    .is_some_and(Codec::leaves_end_to_peer) =>
            {
                Outcome::Done
            }
            _ => {
                let Route {
                    pair, ends, source, ..
                } = route;
                self.perform(ends, action, |ends| {
                    pair.judge_end(source, || ends.evidence())
                })
            }
        }
    }

    /// Tells the legs of a pair that the relay ends what they have not ended, as
    /// far as they can be told.
    pub(super) fn part(
        &mut self,
        pair: &Pair,
        transforms: &mut Transforms,
        sockets: &[Socket; 2],
        reason: CloseReason,
    ) {
        if reason != CloseReason::Terminated {
            return;
        }
        for side in Side::BOTH {
            if let Some(codec) = transforms.codec_mut(side)
                && pair.from(side.other()).held_bytes() == 0
            {
                self.workshop
                    .bid_farewell(codec, &sockets[side.index()], CloseCode::GOING_AWAY);
            }
        }
    }
}

impl Workshop {
    /// Says the last words to a leg whose stream is not within a frame. Nobody
    /// waits until it takes them.
    fn bid_farewell(&mut self, codec: &mut Codec, socket: &Socket, code: CloseCode) {
        self.wire.clear();
        codec.take_farewell(code, &mut self.masks, &mut self.wire);
        let _ = socket.send(&self.wire);
    }
}

/// Reads once, or takes of what was kept, and sends on what comes of it.
fn copy(means: &mut Means, route: &mut Route<'_>, slow: bool) -> Outcome {
    let source = route.source.index();
    let asked = match means.spills.read_max(slow, SCRATCH_BYTES) {
        // What is sent now has to be taken: it cannot be left with the source.
        0 if !route.ends.destination.poll_now().is_writable() => return Outcome::DestinationFull,
        0 => CAREFUL_READ_BYTES,
        asked => asked,
    } as usize;
    means.workshop.chunks.clear();
    let (heard, source_drained) = if let Some(kept) = route.transforms.kept[source] {
        match take_kept(means, route, kept, asked) {
            Ok(()) => (Heard::Open, false),
            Err(error) => return fail(means, route, error),
        }
    } else if route.transforms.heard(route.source) == Heard::Closed {
        (Heard::Closed, true)
    } else {
        let workshop = &mut means.workshop;
        means.counters.receives += 1;
        let place = ROOM_BYTES..ROOM_BYTES + asked;
        match route.ends.source.recv(&mut workshop.bytes[place]) {
            Ok(0) => return end_of_input(means, route),
            Err(Errno::AGAIN) => return Outcome::SourceEmpty,
            Err(error) => return Outcome::SourceFailed(error),
            Ok(received) => {
                let fresh = ROOM_BYTES..ROOM_BYTES + received;
                let heard = match route.transforms.codec_mut(route.source) {
                    Some(codec) => {
                        codec.note_life();
                        codec.decode(
                            &mut workshop.bytes,
                            fresh,
                            &mut workshop.chunks,
                            &mut workshop.masks,
                        )
                    }
                    None => {
                        workshop.chunks.push(Chunk::plain(fresh));
                        Ok(Heard::Open)
                    }
                };
                match heard {
                    Ok(heard) => (heard, received < asked),
                    Err(error) => return fail(means, route, error),
                }
            }
        }
    };
    let bytes: usize = means
        .workshop
        .chunks
        .iter()
        .map(|chunk| chunk.range.len())
        .sum();
    match send_chunks(means, route) {
        Ok(spill) => Outcome::Transformed {
            bytes: size(bytes),
            source_drained,
            spill,
            heard,
        },
        Err(error) => Outcome::DestinationFailed(error),
    }
}

/// Decodes a part of what was kept.
fn take_kept(
    means: &mut Means,
    route: &mut Route<'_>,
    kept: SpillKey,
    asked: usize,
) -> Result<(), CodecError> {
    let Means {
        spills, workshop, ..
    } = means;
    let bytes = spills.bytes(kept);
    let count = bytes.len().min(asked);
    let is_last = count == bytes.len();
    let place = ROOM_BYTES..ROOM_BYTES + count;
    workshop.bytes[place.clone()].copy_from_slice(&bytes[..count]);
    spills.consume(kept, count);
    if is_last {
        route.transforms.kept[route.source.index()] = None;
    }
    let Some(codec) = route.transforms.codec_mut(route.source) else {
        workshop.chunks.push(Chunk::plain(place));
        return Ok(());
    };
    codec.decode_kept(&mut workshop.bytes, place, &mut workshop.chunks)?;
    if is_last {
        codec.end_kept();
    }
    Ok(())
}

/// Encodes the chunks and sends them; gives back what was not taken.
fn send_chunks(
    means: &mut Means,
    route: &mut Route<'_>,
) -> Result<Option<(SpillKey, u32)>, Errno> {
    let Workshop {
        bytes,
        chunks,
        masks,
        ..
    } = &mut means.workshop;
    let mut codec = route.transforms.codec_mut(route.source.other());
    let mut gather = Gather::new();
    for chunk in chunks.iter() {
        let place = match &mut codec {
            Some(codec) => codec.encode(bytes, chunk, masks),
            None => chunk.range.clone(),
        };
        gather.push(bytes, place);
    }
    let total = gather.bytes();
    if total == 0 {
        return Ok(None);
    }
    means.counters.sends += 1;
    let (slices, count) = gather.slices(bytes);
    let sent = match route.ends.destination.send_gathered(&slices[..count]) {
        Ok(sent) => sent,
        Err(Errno::AGAIN) => 0,
        Err(error) => return Err(error),
    };
    Ok((sent < total).then(|| {
        let rest = gather.rest(bytes, sent);
        (means.spills.insert(rest), size(total - sent))
    }))
}

/// Sends the words of the destination's codec.
fn say(means: &mut Means, route: &mut Route<'_>, is_end: bool) -> Outcome {
    let Workshop { masks, wire, .. } = &mut means.workshop;
    wire.clear();
    if let Some(codec) = route.transforms.codec_mut(route.source.other()) {
        codec.take_words(is_end, masks, wire);
    }
    if wire.is_empty() {
        return Outcome::Said { spill: None };
    }
    means.counters.sends += 1;
    let sent = match route.ends.destination.send(wire) {
        Ok(sent) => sent,
        Err(Errno::AGAIN) => 0,
        Err(error) => return Outcome::DestinationFailed(error),
    };
    let rest = &wire[sent..];
    Outcome::Said {
        spill: (!rest.is_empty())
            .then(|| (means.spills.insert(rest.into()), size(rest.len()))),
    }
}

fn end_of_input(means: &mut Means, route: &mut Route<'_>) -> Outcome {
    let ends = route.ends;
    let judged = route.pair.judge_end(route.source, || ends.evidence());
    match (route.transforms.codec_mut(route.source), judged) {
        (Some(codec), Outcome::SourceEnded) => match codec.end_of_input() {
            Ok(heard) => Outcome::Transformed {
                bytes: 0,
                source_drained: true,
                spill: None,
                heard,
            },
            Err(error) => fail(means, route, error),
        },
        (_, judged) => judged,
    }
}

/// The source sends what cannot be decoded, and is told so.
fn fail(means: &mut Means, route: &mut Route<'_>, error: CodecError) -> Outcome {
    debug!(side = ?route.source, %error, "a leg broke its protocol");
    if route.pair.from(route.source.other()).held_bytes() == 0
        && let Some(codec) = route.transforms.codec_mut(route.source)
    {
        means
            .workshop
            .bid_farewell(codec, route.ends.source, error.close_code());
    }
    Outcome::SourceBroken
}

/// A count of bytes within the work buffer, headers included.
fn size(count: usize) -> u32 {
    u32::try_from(count).expect("bounded by a buffer of less than 4 GiB")
}
