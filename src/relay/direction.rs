//! One direction of a pair: what to do next, decided without a system call.
//!
//! A turn goes like this: [`Direction::begin_turn`], then for every
//! [`Action`] of [`Direction::poll_action`] its [`Outcome`] is given to
//! [`Direction::handle_outcome`], until no action is left. Where the turn
//! stopped is then the direction's [`State`]:
//!
//! ```text
//!             event: source readable
//!   AwaitSource ────────────────────────▶ Running ──▶ Ended
//!        ▲  ▲                             │ │ ▲ │
//!        │  └──────── nothing to read ────┘ │ │ └──▶ Queued (budget used up;
//!        │                                  │ │        the engine's queue
//!        │            destination full ─────┘ │        begins the next turn)
//!        │                  ▼                 │
//!      (start)      AwaitDestination ─────────┘
//!                             event: destination writable
//! ```
//!
//! A stream that caught up with its sender goes from Running to WritingOut,
//! and when what it holds is out, to AwaitSource without another read.
//!
//! The rule for moving: copy through the shard's scratch buffer; after
//! [`FULL_READS_TO_PROMOTE`] full reads in a row splice through a pipe; after
//! [`SMALL_SPLICES_TO_DEMOTE`] splices under [`SMALL_SPLICE_BYTES`] in a row
//! copy again. What was read is written out before anything more is read, and
//! the end of the stream is passed on behind it. Between codecs that let what comes
//! pass as it is, it is the same.
//!
//! While a fast stream's destination is slower than its source, the stream is
//! read whole: into a chain of pipes, as far as [`Direction::set_chain_pipes`]
//! allows, which is then drained to its end. For a sender on the same host this
//! decides who does its work. A read opens the window, and the sender's transmit
//! path runs at once, on the reader's core, for all that had waited for it. Of a
//! queue that is read whole nothing waits: its bytes are on their way before, and
//! the sender transmitted them itself.

use super::codec::Heard;

pub use super::action::{Action, ChainKey, Failure, Outcome, SpillKey};

/// Size of the shard's scratch buffer, and what counts as a full read.
pub const SCRATCH_BYTES: u32 = 64 << 10;
/// Full reads in a row after which a direction splices.
pub const FULL_READS_TO_PROMOTE: u8 = 2;
/// A splice below this many bytes is small.
pub const SMALL_SPLICE_BYTES: u32 = 8 << 10;
/// Small splices in a row after which a direction copies again.
pub const SMALL_SPLICES_TO_DEMOTE: u8 = 4;
/// A splice of a stream that brings less than one part in this many of what was
/// asked for has caught up with its sender. To read on at once would be to take
/// every segment by itself, so the turn ends, and the low-water mark tells when
/// there is more. Not a larger part: a pipe has a slot for each page, and
/// fragments of 1448 bytes fill the slots with a third of the bytes.
pub const CAUGHT_UP_SHARE: u32 = 4;

/// How a direction moves bytes now, and whether that may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Copying; full reads promote it.
    Small,
    /// Splicing; small splices demote it.
    Bulk,
    /// Copying, always.
    CopyAlways,
    /// Splicing, always, as long as a pipe is to be had.
    SpliceAlways,
    /// Copying through the codec of a leg, or of both.
    Transform {
        /// The destination's codec has words, or is to be told that nothing
        /// follows.
        has_words: bool,
    },
    /// Splicing what passes the codecs of both legs as it is; small splices and what does
    /// not pass end that.
    Passing,
}

impl Mode {
    /// Whether it began to splice by itself, and may end that.
    #[must_use]
    pub const fn is_promoted(self) -> bool {
        matches!(self, Self::Bulk | Self::Passing)
    }

    /// Whether a leg has a codec, or both have.
    const fn has_codec(self) -> bool {
        matches!(self, Self::Transform { .. } | Self::Passing)
    }
}

/// What a direction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The source has nothing to read.
    AwaitSource,
    /// The destination takes nothing; what was read is held.
    AwaitDestination,
    /// In a turn.
    Running,
    /// In a turn that reads no more: what is held is written out.
    WritingOut,
    /// The turn's budget is used up; more may wait.
    Queued,
    /// The end of the stream was passed on.
    Ended,
    /// Another plane moves the bytes; nothing happens here any more.
    Elsewhere,
}

/// Bytes that were read and not yet written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// None.
    Nothing,
    /// In the spill pool: the rest of a copy, or the prefix.
    Spill(SpillKey),
    /// In a chain, or an empty one kept from one splice to the next.
    Chain(ChainKey),
}

/// What is known about the end of the source's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SourceEnd {
    /// Nothing.
    Open,
    /// Its FIN was reported: read on until the end, whatever comes.
    FinReported,
    /// It was reported gone in both directions.
    HungUp,
    /// It was read.
    Read,
    /// What it may still send is not wanted: the other leg takes no more.
    GivenUp,
}

/// One direction of a pair, at rest 32 bytes.
#[derive(Debug)]
pub struct Direction {
    relayed_bytes: u64,
    /// INVARIANT: 0 unless `hold` is a spill or a chain; not 0 with a spill.
    held_bytes: u32,
    hold: Hold,
    mode: Mode,
    state: State,
    /// Full reads, or small splices, in a row.
    streak: u8,
    moves_left: u8,
    /// Pipes of a chain while the destination is slow.
    chain_pipes: u8,
    /// Pipes that the chain in hand may still get.
    extensions_left: u8,
    source_end: SourceEnd,
    gated: bool,
    /// The destination was found full lately.
    slow: bool,
    no_pipe: bool,
    low_water_raised: bool,
    /// Set while the streaming rule watches this direction.
    pub(super) watched: bool,
}

const _: () = assert!(size_of::<Direction>() <= 32);

impl Direction {
    /// A direction that has moved nothing yet and waits for its source.
    #[must_use]
    pub const fn new(mode: Mode) -> Self {
        Self {
            relayed_bytes: 0,
            held_bytes: 0,
            hold: Hold::Nothing,
            mode,
            state: State::AwaitSource,
            streak: 0,
            moves_left: 0,
            chain_pipes: 1,
            extensions_left: 0,
            source_end: SourceEnd::Open,
            gated: false,
            slow: false,
            no_pipe: false,
            low_water_raised: false,
            watched: false,
        }
    }

    /// Puts the source's prefix before everything else; `bytes` is not 0.
    pub fn set_prefix(&mut self, spill: SpillKey, bytes: u32) {
        debug_assert!(bytes > 0 && self.hold == Hold::Nothing && self.relayed_bytes == 0);
        self.hold = Hold::Spill(spill);
        self.held_bytes = bytes;
        self.invariants();
    }

    /// Holds the direction until [`Direction::open_gate`].
    pub const fn close_gate(&mut self) {
        self.gated = true;
    }

    /// Lets a held direction run; false when it was not held.
    pub const fn open_gate(&mut self) -> bool {
        std::mem::replace(&mut self.gated, false)
    }

    /// Whether the gate holds the direction.
    #[must_use]
    pub const fn is_gated(&self) -> bool {
        self.gated
    }

    /// What the direction waits for.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// How the direction moves bytes now.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether it splices.
    #[must_use]
    pub const fn is_bulk(&self) -> bool {
        self.mode.is_promoted() || matches!(self.mode, Mode::SpliceAlways)
    }

    /// Whether its moves take long and belong into the queue: also those of a
    /// direction that is to copy once its pipes are empty.
    #[must_use]
    pub const fn has_long_moves(&self) -> bool {
        self.is_bulk() || matches!(self.hold, Hold::Chain(_))
    }

    /// Bytes that the destination took.
    #[must_use]
    pub const fn relayed_bytes(&self) -> u64 {
        self.relayed_bytes
    }

    /// Bytes read and not yet written.
    #[must_use]
    pub const fn held_bytes(&self) -> u32 {
        self.held_bytes
    }

    /// Whether no end of the source was read or reported.
    #[must_use]
    pub const fn source_is_open(&self) -> bool {
        matches!(self.source_end, SourceEnd::Open)
    }

    /// Whether nothing of the source is read any more.
    #[must_use]
    pub const fn source_ended(&self) -> bool {
        matches!(self.source_end, SourceEnd::Read | SourceEnd::GivenUp)
    }

    /// Whether the source may still send what nobody wants.
    #[must_use]
    pub const fn source_is_given_up(&self) -> bool {
        matches!(self.source_end, SourceEnd::GivenUp)
    }

    /// Reads no more, and passes on an end. Transforms only.
    pub const fn give_source_up(&mut self) {
        if !self.source_ended() {
            self.source_end = SourceEnd::GivenUp;
            self.add_words();
        }
    }

    /// Notes that the destination's codec has words.
    pub const fn add_words(&mut self) {
        if self.mode.has_codec() {
            self.mode = Mode::Transform { has_words: true };
        }
    }

    /// Whether words wait that a turn would send.
    #[must_use]
    pub const fn wakes_for_words(&self) -> bool {
        matches!(self.mode, Mode::Transform { has_words: true })
            && matches!(self.state, State::AwaitSource)
            && !self.gated
    }

    /// Whether the source's low-water mark stands above 1.
    #[must_use]
    pub const fn low_water_raised(&self) -> bool {
        self.low_water_raised
    }

    /// Whether the low-water mark may be raised: not on a stream that ends.
    #[must_use]
    pub const fn may_raise_low_water(&self) -> bool {
        self.mode.is_promoted() && self.source_is_open()
    }

    /// Notes what the source's low-water mark was set to.
    pub const fn set_low_water(&mut self, bytes: u32) {
        self.low_water_raised = bytes > 1;
    }

    /// Sets how many pipes a chain may have while the destination is slow.
    pub const fn set_chain_pipes(&mut self, pipes: u8) {
        self.chain_pipes = pipes;
    }

    /// Notes that the source's end was reported, and whether with a hangup.
    pub const fn close_source(&mut self, hung_up: bool) {
        match self.source_end {
            SourceEnd::Open | SourceEnd::FinReported if hung_up => {
                self.source_end = SourceEnd::HungUp;
            }
            SourceEnd::Open => self.source_end = SourceEnd::FinReported,
            SourceEnd::FinReported | SourceEnd::HungUp | SourceEnd::Read | SourceEnd::GivenUp => {}
        }
    }

    /// Whether a read of 0 is the FIN that was reported. With a hangup it may
    /// be a reset, unless our own half is closed as well.
    #[must_use]
    pub const fn is_fin_reported(&self, our_half_ended: bool) -> bool {
        match self.source_end {
            SourceEnd::FinReported => true,
            SourceEnd::HungUp => our_half_ended,
            SourceEnd::Open | SourceEnd::Read | SourceEnd::GivenUp => false,
        }
    }

    /// Whether an event at the source begins a turn.
    #[must_use]
    pub const fn wakes_on_source(&self) -> bool {
        matches!(self.state, State::AwaitSource) && !self.gated
    }

    /// Whether an event at the destination begins a turn.
    #[must_use]
    pub const fn wakes_on_destination(&self) -> bool {
        matches!(self.state, State::AwaitDestination)
    }

    /// Whether nothing of the stream is held here, so that another plane may
    /// take the direction over between two bytes.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        matches!(self.state, State::AwaitSource)
            && self.hold == Hold::Nothing
            && !self.gated
            && self.source_is_open()
    }

    /// Leaves the direction to another plane.
    pub fn leave(&mut self) {
        debug_assert!(self.is_at_rest());
        self.state = State::Elsewhere;
    }

    /// Counts bytes that another plane delivered.
    pub const fn add_relayed_bytes(&mut self, bytes: u64) {
        self.relayed_bytes += bytes;
    }

    /// Leaves the turn to the queue.
    pub fn enqueue(&mut self) {
        debug_assert!(!self.gated && self.state != State::Ended);
        self.state = State::Queued;
    }

    /// Copies from now on, until full reads promote it again.
    pub const fn demote(&mut self) {
        self.mode = match self.mode {
            Mode::Bulk => Mode::Small,
            Mode::Passing => Mode::Transform { has_words: false },
            _ => return,
        };
        self.streak = 0;
        // How fast it will be once it is promoted again, nobody knows.
        self.chain_pipes = 1;
    }

    /// Begins a turn of at most `moves_max` moves: a copy is one, and so is a
    /// splice in either way, but for the last of a stream that caught up.
    pub fn begin_turn(&mut self, moves_max: u8) {
        debug_assert!(!self.gated && self.state != State::Ended);
        self.state = State::Running;
        self.moves_left = moves_max;
        self.no_pipe = false;
    }

    /// The next thing to do in this turn; `None` when it is over.
    #[inline]
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.low_water_raised && !self.may_raise_low_water() {
            return Some(Action::ResetLowWater);
        }
        match self.state {
            State::Running => self.poll_running(),
            State::WritingOut => match self.hold {
                // No move of the turn's: it is a part of a pipe, and a turn that
                // ended here would begin the next one with a read.
                Hold::Chain(chain) if self.held_bytes > 0 => Some(self.drain(chain)),
                _ => {
                    self.state = State::AwaitSource;
                    self.poll_action()
                }
            },
            // Waiting for the source, nothing is held: the pipe is for others.
            State::AwaitSource => match self.hold {
                Hold::Chain(chain) => Some(Action::ReleaseChain { chain }),
                _ => None,
            },
            State::AwaitDestination | State::Queued | State::Ended | State::Elsewhere => None,
        }
    }

    fn poll_running(&mut self) -> Option<Action> {
        match self.hold {
            Hold::Spill(spill) => return Some(Action::SendSpill { spill }),
            Hold::Chain(chain) if self.held_bytes > 0 => {
                self.take_move()?;
                if self.extensions_left == 0 || self.source_ended() || !self.splices() {
                    return Some(self.drain(chain));
                }
                self.extensions_left -= 1;
                return Some(Action::Extend { chain });
            }
            Hold::Chain(chain) if self.source_ended() || !self.splices() => {
                return Some(Action::ReleaseChain { chain });
            }
            Hold::Chain(_) | Hold::Nothing => {}
        }
        if let Mode::Transform { has_words: true } = self.mode {
            return Some(Action::Say {
                is_end: self.source_ended(),
            });
        }
        if self.source_ended() {
            return Some(Action::ShutdownWrite);
        }
        self.take_move()?;
        Some(if self.splices() {
            let chain = match self.hold {
                Hold::Chain(chain) => Some(chain),
                _ => None,
            };
            Action::Fill { chain }
        } else {
            Action::Copy { slow: self.slow }
        })
    }

    const fn drain(&self, chain: ChainKey) -> Action {
        Action::Drain {
            chain,
            bytes: self.held_bytes,
        }
    }

    /// Takes one of the turn's moves; `None` ends the turn.
    const fn take_move(&mut self) -> Option<()> {
        if self.moves_left == 0 {
            self.state = State::Queued;
            return None;
        }
        self.moves_left -= 1;
        Some(())
    }

    const fn splices(&self) -> bool {
        self.is_bulk() && !self.no_pipe
    }

    /// Takes the outcome of the action that was given last.
    ///
    /// # Errors
    ///
    /// The failure that ends the whole pair.
    #[inline]
    pub fn handle_outcome(&mut self, action: Action, outcome: Outcome) -> Result<(), Failure> {
        match outcome {
            Outcome::Copied {
                received,
                sent,
                source_drained,
                destination_full,
                spill,
            } => {
                self.handle_copied(received, sent, spill);
                if destination_full {
                    self.slow = true;
                    self.state = State::AwaitDestination;
                } else {
                    self.slow = false;
                    if source_drained && self.source_is_open() {
                        self.state = State::AwaitSource;
                    } else if self.splices() {
                        // Promoted: splicing is work for the queue.
                        self.state = State::Queued;
                    }
                }
            }
            Outcome::Transformed {
                bytes,
                source_drained,
                spill,
                heard,
                passes,
            } => {
                // Counted when they are taken: encoded they are not the same.
                self.relayed_bytes += u64::from(bytes);
                self.slow = spill.is_some();
                self.note_transformed(bytes, passes);
                if source_drained && self.source_is_open() {
                    self.state = State::AwaitSource;
                } else if self.splices() {
                    self.state = State::Queued;
                }
                self.hold_spill(spill);
                if heard != Heard::Open {
                    self.end_source();
                }
            }
            Outcome::Said { spill } => {
                self.mode = Mode::Transform { has_words: false };
                self.hold_spill(spill);
            }
            Outcome::Sent(bytes) => self.handle_sent(action, bytes),
            Outcome::Filled {
                chain,
                bytes,
                caught_up,
                heard,
            } => {
                if heard != Heard::Open {
                    self.end_source();
                }
                self.handle_filled(action, chain, bytes, caught_up);
            }
            Outcome::SourceEmpty if self.held_bytes > 0 => self.extensions_left = 0,
            Outcome::SourceEmpty => self.state = State::AwaitSource,
            Outcome::SourceEnded => self.end_source(),
            Outcome::DestinationFull => {
                debug_assert!(self.held_bytes > 0 || self.mode.has_codec());
                self.slow = true;
                self.state = State::AwaitDestination;
            }
            Outcome::NoPipe => {
                // The read did not happen.
                self.moves_left += 1;
                self.extensions_left = 0;
                self.no_pipe = self.held_bytes == 0;
            }
            Outcome::Done => match action {
                Action::ReleaseChain { .. } => self.hold = Hold::Nothing,
                Action::ResetLowWater => self.low_water_raised = false,
                _ => self.state = State::Ended,
            },
            Outcome::SourceFailed(error) => return Err(Failure::Source(error)),
            Outcome::SourceBroken => return Err(Failure::Broken),
            Outcome::DestinationFailed(error) => return Err(Failure::Destination(error)),
        }
        self.invariants();
        Ok(())
    }

    /// Gives up what is held, when the pair ends before it was written.
    pub const fn take_hold(&mut self) -> Hold {
        self.held_bytes = 0;
        std::mem::replace(&mut self.hold, Hold::Nothing)
    }

    fn handle_copied(&mut self, received: u32, sent: u32, spill: Option<SpillKey>) {
        debug_assert!(sent <= received && self.hold == Hold::Nothing);
        debug_assert_eq!(spill.is_some(), sent < received);
        self.relayed_bytes += u64::from(sent);
        self.held_bytes = received - sent;
        if let Some(spill) = spill {
            self.hold = Hold::Spill(spill);
        }
        match self.mode {
            Mode::Small if received >= SCRATCH_BYTES => {
                self.streak += 1;
                if self.streak >= FULL_READS_TO_PROMOTE {
                    self.mode = Mode::Bulk;
                    self.streak = 0;
                }
            }
            Mode::Small => self.streak = 0,
            // Copying for want of a pipe.
            Mode::Bulk => self.note_bulk_read(received),
            Mode::CopyAlways | Mode::SpliceAlways | Mode::Transform { .. } | Mode::Passing => {}
        }
    }

    /// As after a copy: full reads of what passes promote, what does not pass demotes.
    fn note_transformed(&mut self, bytes: u32, passes: bool) {
        match self.mode {
            Mode::Transform { .. } if passes && bytes >= SCRATCH_BYTES => {
                self.streak += 1;
                if self.streak >= FULL_READS_TO_PROMOTE {
                    self.mode = Mode::Passing;
                    self.streak = 0;
                }
            }
            Mode::Transform { .. } => self.streak = 0,
            Mode::Passing if !passes => self.demote(),
            // Copying for want of a pipe.
            Mode::Passing => self.note_bulk_read(bytes),
            Mode::Small | Mode::Bulk | Mode::CopyAlways | Mode::SpliceAlways => {}
        }
    }

    /// Notes that nothing more is read; in a transform the destination is to be
    /// told.
    const fn end_source(&mut self) {
        self.source_end = SourceEnd::Read;
        self.add_words();
        if matches!(self.state, State::AwaitSource) {
            self.state = State::Running;
        }
    }

    /// Waits for the destination to take what it did not.
    fn hold_spill(&mut self, spill: Option<(SpillKey, u32)>) {
        if let Some((spill, bytes)) = spill {
            self.hold = Hold::Spill(spill);
            self.held_bytes = bytes;
            self.state = State::AwaitDestination;
        }
    }

    fn handle_filled(&mut self, action: Action, chain: ChainKey, bytes: u32, caught_up: bool) {
        debug_assert!(bytes > 0);
        self.hold = Hold::Chain(chain);
        self.held_bytes += bytes;
        if let Action::Fill { .. } = action {
            let slow = std::mem::replace(&mut self.slow, false);
            self.extensions_left = if slow { self.chain_pipes - 1 } else { 0 };
            if caught_up && self.low_water_raised && self.source_is_open() {
                self.state = State::WritingOut;
            }
        }
        if caught_up {
            self.extensions_left = 0;
        }
        self.note_bulk_read(bytes);
    }

    fn handle_sent(&mut self, action: Action, bytes: u32) {
        debug_assert!(bytes > 0 && bytes <= self.held_bytes);
        let was_counted = self.mode.has_codec() && matches!(action, Action::SendSpill { .. });
        if !was_counted {
            self.relayed_bytes += u64::from(bytes);
        }
        self.held_bytes -= bytes;
        if let Action::SendSpill { .. } = action {
            if self.held_bytes == 0 {
                self.hold = Hold::Nothing;
            } else {
                self.state = State::AwaitDestination;
            }
        }
        // A chain is drained until it is empty or the destination says full: a
        // splice may stop short for reasons of its own.
    }

    fn note_bulk_read(&mut self, bytes: u32) {
        if !self.mode.is_promoted() || bytes >= SMALL_SPLICE_BYTES {
            self.streak = 0;
            return;
        }
        self.streak += 1;
        if self.streak >= SMALL_SPLICES_TO_DEMOTE {
            self.demote();
        }
    }

    fn invariants(&self) {
        match self.hold {
            Hold::Nothing => debug_assert_eq!(self.held_bytes, 0),
            Hold::Spill(_) => debug_assert!(self.held_bytes > 0),
            Hold::Chain(_) => {}
        }
        debug_assert!(
            self.state != State::Ended || (self.source_ended() && self.hold == Hold::Nothing)
        );
    }
}
