//! What a direction asks for, and what comes of it.

use rustix::io::Errno;

use super::codec::Heard;

/// Names a chain of pipes that is out of its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChainKey(pub u32);

/// Names a spill in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpillKey(pub u32);

/// What a direction asks for; each is answered by one [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the rest of a spill: [`Outcome::Sent`]. A spill that is sent to
    /// its end is freed by the pool.
    SendSpill {
        /// The spill.
        spill: SpillKey,
    },
    /// Read into the scratch buffer and send it on: [`Outcome::Copied`].
    Copy {
        /// The destination was found full lately: near the end of the spill
        /// budget such a direction reads little at a time.
        slow: bool,
    },
    /// Send the words of the destination's codec: [`Outcome::Said`].
    Say {
        /// Behind them nothing follows.
        is_end: bool,
    },
    /// Splice from the source into an empty pipe: [`Outcome::Filled`].
    Fill {
        /// The chain in hand, of one pipe; without one, take one from the pool,
        /// which may say [`Outcome::NoPipe`].
        chain: Option<ChainKey>,
    },
    /// Splice from the source into one pipe more: [`Outcome::Filled`]. The
    /// pool may say [`Outcome::NoPipe`].
    Extend {
        /// The chain; it holds bytes.
        chain: ChainKey,
    },
    /// Splice from the chain's first pipe into the destination:
    /// [`Outcome::Sent`].
    Drain {
        /// The chain.
        chain: ChainKey,
        /// What all of it holds; never 0.
        bytes: u32,
    },
    /// Give an empty chain back: [`Outcome::Done`].
    ReleaseChain {
        /// The chain.
        chain: ChainKey,
    },
    /// Set the source's low-water mark to 1 byte: [`Outcome::Done`].
    ResetLowWater,
    /// Pass the end of the stream on: [`Outcome::Done`].
    ShutdownWrite,
}

/// What came of an [`Action`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Bytes left the spill or the chain.
    Sent(u32),
    /// Bytes were read, and some of them sent.
    Copied {
        /// Bytes read.
        received: u32,
        /// Of those, bytes sent; the rest is in `spill`.
        sent: u32,
        /// The source had less than was asked for.
        source_drained: bool,
        /// The destination took less than was offered.
        destination_full: bool,
        /// Where the rest is, when there is one.
        spill: Option<SpillKey>,
    },
    /// Bytes were read, decoded, encoded, and as many of them sent as possible.
    Transformed {
        /// Application bytes among them.
        bytes: u32,
        /// The source had less than was asked for.
        source_drained: bool,
        /// What was not sent, in encoded bytes: never 0.
        spill: Option<(SpillKey, u32)>,
        /// How the source's stream stands behind them.
        heard: Heard,
        /// What comes next passes the codecs as it is, so that it may be spliced.
        passes: bool,
    },
    /// Words were sent, or are in the spill.
    Said {
        /// What was not sent, in bytes: never 0.
        spill: Option<(SpillKey, u32)>,
    },
    /// A pipe was filled.
    Filled {
        /// The chain that it belongs to.
        chain: ChainKey,
        /// What came in, at least 1.
        bytes: u32,
        /// That is less than one part in `CAUGHT_UP_SHARE` of what was asked for.
        caught_up: bool,
        /// How the source's stream stands behind that, as far as a codec knows.
        heard: Heard,
    },
    /// The source has nothing to read; for a fill without a pipe in hand, no
    /// pipe was kept.
    SourceEmpty,
    /// The source's stream ended, and cleanly.
    SourceEnded,
    /// The destination takes nothing now.
    DestinationFull,
    /// The pool has no pipe to give, or what comes next does not pass the codecs as it
    /// is.
    NoPipe,
    /// It is done and cannot fail.
    Done,
    /// The source's socket failed.
    SourceFailed(Errno),
    /// The source broke its protocol.
    SourceBroken,
    /// The destination's socket failed.
    DestinationFailed(Errno),
}

/// Which end of a direction failed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Reading failed.
    Source(Errno),
    /// What was read is not what the source's protocol allows.
    Broken,
    /// Writing failed.
    Destination(Errno),
}
