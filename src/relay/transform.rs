//! Moving bytes through the codecs of a pair's legs.
//!
//! Everything happens in the shard's work buffer, within one action: read, decode
//! in place, encode in place, send with one call. What the destination does not
//! take is spilled as it goes on the wire, so that a codec never has to go back. Where a
//! codec says that long stretches pass as they are, these are spliced (`passing`).

use rustix::io::Errno;
use tracing::debug;

use super::close::CloseReason;
use super::codec::{Codec, CodecError, Heard, Outgoing, Workshop};
use super::direction::{Action, Outcome, SCRATCH_BYTES, SpillKey};
use super::half::Half;
use super::means::{Ends, Means};
use super::pair::{EndEvidence, Pair, Side};
use super::spill::{CAREFUL_READ_BYTES, SpillPool};
use super::splice;
use crate::protocol::websocket::CloseCode;
use crate::runtime::socket::Socket;

/// What a pair has beside its sockets when one of its legs has a codec.
#[derive(Debug)]
pub(super) struct Transforms {
    /// By side.
    codecs: [Option<Box<Codec>>; 2],
    /// By side: see [`Half`].
    halves: [Option<Half>; 2],
    /// What was read before there was a pair: plain bytes, or what
    /// [`Codec::keep`] made of them.
    kept: [Option<SpillKey>; 2],
    /// What passes as it is may be spliced.
    may_splice: bool,
}

impl Transforms {
    pub(super) fn new(
        codecs: [Option<Box<Codec>>; 2],
        halves: [Option<Half>; 2],
        kept: [Option<SpillKey>; 2],
        may_splice: bool,
    ) -> Self {
        Self {
            codecs,
            halves,
            kept,
            may_splice,
        }
    }

    /// Whether what the leg at `source` sends now is to be spliced.
    fn passes(&self, source: Side) -> bool {
        let passes = |from: &Codec| {
            self.codec(source.other())
                .is_some_and(|other| from.passes_to(other))
        };
        self.may_splice
            && self.kept[source.index()].is_none()
            && self.codec(source).is_some_and(passes)
    }

    /// Whether something of the leg was read before there was a pair.
    pub(super) fn is_begun(&self, side: Side) -> bool {
        self.kept[side.index()].is_some() || self.heard(side) != Heard::Open
    }

    /// How the leg's stream stands, as far as its codec knows.
    fn heard(&self, side: Side) -> Heard {
        match self.half(side) {
            Some(half) if half.is_sink() => Heard::Ended,
            _ => self.codec(side).map_or(Heard::Open, Codec::heard),
        }
    }

    /// Whether the leg has all that there is for it, so that a reset is as good as an end.
    pub(super) fn may_go(&self, side: Side) -> bool {
        self.codec(side).is_some_and(Codec::may_go)
    }

    /// Whether the end of its stream is no affair of the pair's.
    fn leaves_end(&self, side: Side) -> bool {
        self.codec(side).is_some_and(Codec::leaves_end_to_peer)
            || self.half(side).is_some_and(Half::is_source)
    }

    fn half(&self, side: Side) -> Option<&Half> {
        self.halves[side.index()].as_ref()
    }

    /// What a source looks like whose read gave 0.
    fn evidence(&self, source: Side, ends: Ends<'_>) -> EndEvidence {
        let evidence = ends.evidence();
        let is_shut = self.half(source).is_some_and(Half::is_shut);
        EndEvidence {
            // By our end and the peer's.
            gone: evidence.gone && !is_shut,
            ..evidence
        }
    }

    /// Whether a leg can be asked for a sign of life.
    pub(super) fn can_be_asked(&self) -> bool {
        self.codecs
            .iter()
            .flatten()
            .any(|codec| codec.can_be_asked())
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
            Action::Fill { .. } | Action::Extend { .. } => splice_in(self, &mut route, action),
            Action::Say { is_end } => say(self, &mut route, is_end),
            Action::ShutdownWrite if route.transforms.leaves_end(route.source.other()) => {
                Outcome::Done
            }
            Action::ShutdownWrite if route.transforms.may_go(route.source.other()) => {
                // It may have gone at once.
                let _ = route.ends.destination.shutdown_write();
                Outcome::Done
            }
            _ => {
                let Route {
                    pair,
                    transforms,
                    ends,
                    source,
                } = route;
                if let (Action::ShutdownWrite, Some(half)) =
                    (action, transforms.half(source.other()))
                {
                    half.handle_shut();
                }
                self.perform(ends, action, |ends| {
                    pair.judge_end(source, || transforms.evidence(source, *ends))
                })
            }
        }
    }

    /// Tells the legs of a pair, as it ends, what they have not been told yet, as far
    /// as they can be told.
    pub(super) fn part(
        &mut self,
        pair: &Pair,
        transforms: &mut Transforms,
        sockets: &[Socket; 2],
        reason: CloseReason,
    ) {
        let code = match reason {
            CloseReason::Finished(_) => CloseCode::NORMAL,
            CloseReason::Terminated => CloseCode::GOING_AWAY,
            _ => return,
        };
        for side in Side::BOTH {
            if let Some(codec) = transforms.codec_mut(side)
                && pair.from(side.other()).held_bytes() == 0
            {
                let socket = &sockets[side.index()];
                bid_farewell(&mut self.workshop, codec, socket, code);
            }
            if let Some(half) = transforms.half(side).filter(|half| half.is_sink()) {
                // Closing does not say it; one that its peer has closed needs none.
                let _ = sockets[side.index()].shutdown_write();
                half.handle_shut();
            }
        }
    }
}

/// Says the last words to a leg whose stream is not within a frame. Nobody waits
/// until it takes them.
fn bid_farewell(workshop: &mut Workshop, codec: &mut Codec, socket: &Socket, code: CloseCode) {
    workshop.take_farewell(codec, code);
    let _ = socket.send(workshop.wire());
}

/// Splices what passes as it is.
fn splice_in(means: &mut Means, route: &mut Route<'_>, action: Action) -> Outcome {
    let Route {
        pair, ends, source, ..
    } = *route;
    // What does not, or no more, is copied.
    if !route.transforms.passes(source) {
        return Outcome::NoPipe;
    }
    let codec = route.transforms.codec_mut(source);
    let judge_end = |ends: &Ends<'_>| pair.judge_end(source, || ends.evidence());
    let outcome = match action {
        Action::Extend { chain } => splice::extend(means, ends, chain, codec, judge_end),
        Action::Fill { chain } => splice::fill(means, ends, chain, codec, judge_end),
        _ => Outcome::NoPipe,
    };
    match outcome {
        Outcome::SourceEnded => end_of_input(means, route),
        other => other,
    }
}

/// Reads once, or takes of what was kept, and sends on what comes of it.
fn copy(means: &mut Means, route: &mut Route<'_>, slow: bool) -> Outcome {
    let asked = match means.spills.read_max(slow, SCRATCH_BYTES) {
        // What is sent now has to be taken: it cannot be left with the source.
        0 if !route.ends.destination.poll_now().is_writable() => return Outcome::DestinationFull,
        0 => CAREFUL_READ_BYTES,
        asked => asked,
    } as usize;
    let (heard, source_drained) = if let Some(kept) = route.transforms.kept[route.source.index()] {
        match take_kept(means, route, kept, asked) {
            Ok(()) => (Heard::Open, false),
            Err(error) => return fail(means, route, &error),
        }
    } else if route.transforms.heard(route.source) != Heard::Open {
        means.workshop.clear();
        (route.transforms.heard(route.source), true)
    } else {
        let codec = route.transforms.codec_mut(route.source);
        let may_go = codec.as_deref().is_some_and(Codec::may_go);
        let landing = means.workshop.landing(codec.as_deref(), asked);
        let asked = landing.len();
        means.counters.receives += 1;
        let received = match route.ends.source.recv(landing) {
            Err(Errno::AGAIN) => return Outcome::SourceEmpty,
            Ok(0) if may_go => return end_of_input(means, route),
            // What was not even sent has not arrived.
            Err(Errno::CONNRESET) if may_go && route.ends.source.queued_bytes() == Ok(0) => {
                return end_of_input(means, route);
            }
            Ok(0) => {
                let ends = route.ends;
                let evidence = || route.transforms.evidence(route.source, ends);
                return match route.pair.judge_end(route.source, evidence) {
                    Outcome::SourceEnded => end_of_input(means, route),
                    judged => judged,
                };
            }
            Ok(received) => received,
            Err(error) => return Outcome::SourceFailed(error),
        };
        match means.workshop.decode(codec, received) {
            Ok(heard) => (heard, received < asked),
            Err(error) => return fail(means, route, &error),
        }
    };
    let bytes = size(means.workshop.decoded_bytes());
    match send_decoded(means, route) {
        Ok(spill) => Outcome::Transformed {
            bytes,
            source_drained,
            spill,
            heard,
            passes: route.transforms.passes(route.source),
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
    let bytes = means.spills.bytes(kept);
    let count = bytes.len().min(asked);
    let is_last = count == bytes.len();
    let mut codec = route.transforms.codec_mut(route.source);
    means
        .workshop
        .decode_kept(codec.as_deref_mut(), &bytes[..count])?;
    means.spills.consume(kept, count);
    if is_last {
        if let Some(codec) = codec {
            codec.end_kept();
        }
        route.transforms.kept[route.source.index()] = None;
    }
    Ok(())
}

/// Encodes what was decoded and sends it; gives back what was not taken.
fn send_decoded(
    means: &mut Means,
    route: &mut Route<'_>,
) -> Result<Option<(SpillKey, u32)>, Errno> {
    let codec = route.transforms.codec_mut(route.source.other());
    let workshop = &mut means.workshop;
    let Ok(outgoing) = workshop.encode(codec) else {
        return Err(Errno::PROTO);
    };
    let destination = route.ends.destination;
    if outgoing == Outgoing::Sealed {
        return send_wire(means, destination);
    }
    let (gather, bytes) = workshop.gathered();
    let total = gather.bytes();
    if total == 0 {
        return Ok(None);
    }
    means.counters.sends += 1;
    let (slices, count) = gather.slices(bytes);
    let sent = match destination.send_gathered(&slices[..count]) {
        Ok(sent) => sent,
        Err(Errno::AGAIN) => 0,
        Err(error) => return Err(error),
    };
    Ok((sent < total).then(|| {
        let rest = gather.rest(bytes, sent);
        (means.spills.insert(rest), size(total - sent))
    }))
}

/// Sends what is in the workshop's wire; gives back what was not taken.
fn send_wire(means: &mut Means, destination: &Socket) -> Result<Option<(SpillKey, u32)>, Errno> {
    let wire = means.workshop.wire();
    if wire.is_empty() {
        return Ok(None);
    }
    means.counters.sends += 1;
    let sent = match destination.send(wire) {
        Ok(sent) => sent,
        Err(Errno::AGAIN) => 0,
        Err(error) => return Err(error),
    };
    let rest = &wire[sent..];
    Ok((!rest.is_empty()).then(|| (means.spills.insert(rest.into()), size(rest.len()))))
}

/// Sends the words of the destination's codec.
fn say(means: &mut Means, route: &mut Route<'_>, is_end: bool) -> Outcome {
    let Some(codec) = route.transforms.codec_mut(route.source.other()) else {
        return Outcome::Said { spill: None };
    };
    if means.workshop.take_words(codec, is_end).is_err() {
        return Outcome::DestinationFailed(Errno::PROTO);
    }
    match send_wire(means, route.ends.destination) {
        Ok(spill) => Outcome::Said { spill },
        Err(error) => Outcome::DestinationFailed(error),
    }
}

/// The source's connection came to a clean end.
fn end_of_input(means: &mut Means, route: &mut Route<'_>) -> Outcome {
    let Some(codec) = route.transforms.codec_mut(route.source) else {
        return Outcome::SourceEnded;
    };
    match codec.end_of_input() {
        Ok(heard) => Outcome::Transformed {
            bytes: 0,
            source_drained: true,
            spill: None,
            heard,
            passes: false,
        },
        Err(error) => fail(means, route, &error),
    }
}

/// The source sends what cannot be decoded, and is told so.
fn fail(means: &mut Means, route: &mut Route<'_>, error: &CodecError) -> Outcome {
    debug!(side = ?route.source, %error, "a leg broke its protocol");
    if route.pair.from(route.source.other()).held_bytes() == 0
        && let Some(codec) = route.transforms.codec_mut(route.source)
    {
        let code = error.close_code();
        bid_farewell(&mut means.workshop, codec, route.ends.source, code);
    }
    Outcome::SourceBroken
}

/// A count of bytes within the work buffer, headers included.
fn size(count: usize) -> u32 {
    u32::try_from(count).expect("bounded by a buffer of less than 4 GiB")
}
