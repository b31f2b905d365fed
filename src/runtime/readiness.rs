//! What a poll reported about one socket.
//!
//! The bits are those of `poll(2)`, as the ring's `POLL_ADD` returns them.
//! With a multishot poll an event carries only the bits that triggered it, so
//! a clear bit proves nothing: whoever takes events latches what was set.

use std::ops::{BitOr, BitOrAssign};

use rustix::event::PollFlags;

/// A set of readiness bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Readiness(PollFlags);

/// What a watched socket is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Interest {
    /// Both directions of a connection.
    Both,
    /// The same of one that leads no further than this program.
    Within,
    /// What comes in: of a datagram socket, which would else tell of room each time that a
    /// datagram has left it.
    Input,
    /// Room for what goes out: of the same, for as long as there was none.
    Output,
}

impl Interest {
    /// What a poll asks for; the kernel adds hangup and error by itself.
    pub(crate) const fn flags(self) -> PollFlags {
        match self {
            Self::Both | Self::Within => Readiness::INTEREST,
            Self::Input => PollFlags::IN,
            Self::Output => PollFlags::OUT,
        }
    }
}

impl Readiness {
    /// Nothing.
    pub const NONE: Self = Self(PollFlags::empty());
    /// There is something to read, or the end of the stream is.
    pub const READABLE: Self = Self(PollFlags::IN);
    /// There is room in the send buffer again.
    pub const WRITABLE: Self = Self(PollFlags::OUT);
    /// The peer sent its FIN.
    pub const READ_CLOSED: Self = Self(PollFlags::RDHUP);
    /// Both directions are shut, or the connection is gone.
    pub const HANGUP: Self = Self(PollFlags::HUP);
    /// An error waits in `SO_ERROR`.
    pub const ERROR: Self = Self(PollFlags::ERR);

    /// What a poll for a relayed socket asks for; the kernel adds hangup and
    /// error by itself.
    pub const INTEREST: PollFlags = PollFlags::IN.union(PollFlags::OUT).union(PollFlags::RDHUP);

    /// The readiness in a poll's `revents`; bits without a meaning here are
    /// dropped.
    #[must_use]
    pub const fn from_poll(revents: PollFlags) -> Self {
        Self(revents.intersection(Self::INTEREST.union(PollFlags::HUP).union(PollFlags::ERR)))
    }

    /// The readiness in the result of a completed `POLL_ADD`. A failed poll
    /// counts as an error of the socket; a cancelled one says nothing.
    pub(crate) fn from_completion(result: i32) -> Self {
        match u16::try_from(result & 0xffff) {
            Ok(bits) if result >= 0 => Self::from_poll(PollFlags::from_bits_retain(bits)),
            _ if result == -libc::ECANCELED => Self::NONE,
            _ => Self::ERROR | Self::HANGUP,
        }
    }

    /// No bit is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Data or the end of the stream may be read.
    #[must_use]
    pub const fn is_readable(self) -> bool {
        self.0.intersects(
            PollFlags::IN
                .union(PollFlags::RDHUP)
                .union(PollFlags::HUP)
                .union(PollFlags::ERR),
        )
    }

    /// Writing may make progress, or fail.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0
            .intersects(PollFlags::OUT.union(PollFlags::HUP).union(PollFlags::ERR))
    }

    /// The peer's side of the stream ended: what is left to read ends soon.
    #[must_use]
    pub const fn is_read_closed(self) -> bool {
        self.0
            .intersects(PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR))
    }

    /// Those bits that tell of an end or an error.
    #[must_use]
    pub const fn ends(self) -> Self {
        Self(
            self.0
                .intersection(PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR)),
        )
    }

    /// The hangup bit.
    #[must_use]
    pub const fn is_hangup(self) -> bool {
        self.0.contains(PollFlags::HUP)
    }

    /// The error bit.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0.contains(PollFlags::ERR)
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::NONE
    }
}

impl BitOr for Readiness {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Readiness {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
