//! What the two ends of a bulk pair do with bytes.
//!
//! Every stream repeats one pattern, so that a sink which looks at bytes knows
//! what must come at which position.

use anyhow::Context;
use midspan::runtime::memory_file::MemoryFile;
use rustix::io::Errno;

use crate::args::{FlowArgs, SinkKind, SourceKind};
use crate::route::Leg;

/// Length of the pattern. Not a power of two, as pipes and buffers are: a
/// stream that lost or doubled one of those must not look right.
const PATTERN_BYTES: usize = 3 * CALL_BYTES_MAX;

/// Most that one call sends.
const CALL_BYTES_MAX: usize = 512 << 10;

/// The pattern, made the same way by everybody.
fn pattern() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0x6d69_6473_7061_6e00);
    let mut bytes = vec![0; PATTERN_BYTES];
    random.fill(&mut bytes);
    bytes
}

/// Where a stream's bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Pages that nobody copies.
    Sendfile(MemoryFile),
    /// A buffer that `send` copies.
    Copy {
        bytes: Vec<u8>,
        /// Most that one call sends where a leg has messages.
        message_bytes: usize,
    },
}

impl Source {
    /// Only a plain leg can send a file's pages.
    pub(crate) fn new(args: &FlowArgs, is_plain: bool) -> anyhow::Result<Self> {
        Ok(match args.source {
            SourceKind::Sendfile if is_plain => Self::Sendfile(
                MemoryFile::create(&pattern()).context("cannot make a file in memory")?,
            ),
            SourceKind::Sendfile | SourceKind::Copy => Self::Copy {
                bytes: pattern(),
                message_bytes: usize::try_from(args.message).unwrap_or(usize::MAX),
            },
        })
    }

    /// Sends up to `bytes_max` of what belongs at `position` in a stream.
    pub(crate) fn send(
        &self,
        leg: &mut Leg,
        position: u64,
        bytes_max: u64,
    ) -> Result<usize, Errno> {
        let (offset, bytes_max) = span(position, bytes_max);
        match self {
            Self::Sendfile(file) => {
                file.send_to(&leg.socket, u64::try_from(offset).unwrap_or(0), bytes_max)
            }
            Self::Copy {
                bytes,
                message_bytes,
            } => {
                let count = match leg.wrapped {
                    None => bytes_max,
                    Some(_) => bytes_max.min(*message_bytes),
                };
                leg.send(bytes.get(offset..offset + count).unwrap_or_default())
            }
        }
    }
}

/// Where a position falls in the pattern, and how much may be taken there in
/// one call.
fn span(position: u64, bytes_max: u64) -> (usize, usize) {
    let pattern_bytes = u64::try_from(PATTERN_BYTES).unwrap_or(u64::MAX);
    let offset = usize::try_from(position % pattern_bytes).unwrap_or(0);
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    (
        offset,
        bytes_max.min(PATTERN_BYTES - offset).min(CALL_BYTES_MAX),
    )
}

/// Where a stream's bytes go.
#[derive(Debug)]
pub(crate) struct Sink {
    kind: SinkKind,
    space: Vec<u8>,
    expected: Vec<u8>,
}

/// What a sink found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// So many bytes, all as expected where the sink looks at them.
    Bytes(usize),
    /// Some that were never sent there.
    Wrong,
}

impl Sink {
    pub(crate) fn new(args: &FlowArgs) -> Self {
        // A sink that discards never touches its space, so it costs no memory.
        let (space_bytes, expected) = match args.sink {
            SinkKind::Discard => (4 << 20, Vec::new()),
            SinkKind::Copy => (256 << 10, Vec::new()),
            SinkKind::Verify => (256 << 10, pattern()),
        };
        Self {
            kind: args.sink,
            space: vec![0; space_bytes],
            expected,
        }
    }

    /// Takes what waits, up to the sink's space; 0 bytes are the end.
    pub(crate) fn take(&mut self, leg: &mut Leg, position: u64) -> Result<Taken, Errno> {
        let count = match self.kind {
            SinkKind::Discard if leg.wrapped.is_none() => leg.socket.discard(&mut self.space)?,
            SinkKind::Discard | SinkKind::Copy | SinkKind::Verify => leg.recv(&mut self.space)?,
        };
        if self.kind == SinkKind::Verify && !self.is_expected(count, position) {
            return Ok(Taken::Wrong);
        }
        Ok(Taken::Bytes(count))
    }

    /// Whether so many bytes emptied the receive queue: there was room for more.
    pub(crate) fn is_drained_by(&self, count: usize) -> bool {
        count < self.space.len()
    }

    fn is_expected(&self, count: usize, position: u64) -> bool {
        let mut rest = self.space.get(..count).unwrap_or_default();
        let mut position = position;
        while !rest.is_empty() {
            let (offset, len) = span(position, u64::try_from(rest.len()).unwrap_or(0));
            let (now, later) = rest.split_at(len);
            if self.expected.get(offset..offset + len) != Some(now) {
                return false;
            }
            position += u64::try_from(len).unwrap_or(0);
            rest = later;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use midspan::runtime::Owner;
    use midspan::runtime::reactor::Reactor;
    use midspan::runtime::ring::RingSize;
    use midspan::runtime::socket::Socket;

    use super::*;

    fn flow(source: SourceKind, sink: SinkKind) -> FlowArgs {
        FlowArgs {
            source,
            sink,
            reverse: false,
            message: 16 << 10,
        }
    }

    /// Sends `total` bytes, skipping `skip` of them in the middle, and returns
    /// what the sink says.
    fn check(source: SourceKind, sink: SinkKind, total: u64, skip: u64) -> Option<u64> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let reactor = Reactor::new(RingSize::default()).unwrap();
        let owner = Owner { tag: 1, token: 0 };
        let [mut ours, mut theirs] = [ours, theirs]
            .map(|end| Leg::watch(&reactor, Socket::adopt(end.into()).unwrap(), owner));
        let args = flow(source, sink);
        let source = Source::new(&args, true).unwrap();
        let mut sink = Sink::new(&args);
        let (mut sent, mut received) = (0, 0);
        while sent < total || received < sent {
            if sent < total {
                let position = if sent > total / 2 { sent + skip } else { sent };
                match source.send(&mut ours, position, total - sent) {
                    Ok(count) => sent += count as u64,
                    Err(error) => assert_eq!(error, Errno::AGAIN),
                }
            }
            match sink.take(&mut theirs, received) {
                Ok(Taken::Bytes(count)) => received += count as u64,
                Ok(Taken::Wrong) => return None,
                Err(error) => assert_eq!(error, Errno::AGAIN),
            }
        }
        Some(received)
    }

    #[test]
    fn a_verifying_sink_notices_what_is_missing() {
        let total = 3 * PATTERN_BYTES as u64 + 17;
        for source in [SourceKind::Sendfile, SourceKind::Copy] {
            assert_eq!(check(source, SinkKind::Verify, total, 0), Some(total));
            assert_eq!(check(source, SinkKind::Verify, total, 1), None);
            assert_eq!(check(source, SinkKind::Verify, total, 1 << 20), None);
            assert_eq!(check(source, SinkKind::Copy, total, 1), Some(total));
        }
    }

    #[test]
    fn spans_end_with_the_pattern() {
        let pattern = PATTERN_BYTES as u64;
        for (position, bytes_max, expected) in [
            (0, 10, (0, 10)),
            (0, u64::MAX, (0, CALL_BYTES_MAX)),
            (pattern - 3, 10, (PATTERN_BYTES - 3, 3)),
            (2 * pattern + 5, 10, (5, 10)),
        ] {
            assert_eq!(span(position, bytes_max), expected, "{position}");
        }
    }
}
