//! Why a pair ended, and how each of its sockets is to be closed.

use rustix::io::Errno;

use super::pair::Side;
use crate::metrics::counters::Label;

/// Why a pair ended; counted, and named in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Both directions came to their end; this leg's stream ended first.
    Finished(Side),
    /// The leg's peer reset the connection, or vanished with data on its way.
    Reset(Side),
    /// The leg's peer stopped answering: keepalive or user timeout.
    TimedOut(Side),
    /// The leg's socket failed in another way, such as a route that is gone.
    Failed(Side, Errno),
    /// The leg never acknowledged its reply, see [`super::gate`].
    ReplyUnacknowledged(Side),
    /// The leg's peer broke the protocol of its leg.
    Broken(Side),
    /// An operator or the peer's credential ended the session.
    Terminated,
    /// The session lived, or carried nothing, as long as it may.
    Expired,
    /// What the session is a part of has broken.
    Severed,
    /// The relay stops and the deadline of its drain has come.
    Drained,
}

/// How a socket of an ended pair is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// Just close: of a pair that finished nothing is unread, so the peer gets our
    /// FIN, unless it had it before.
    Clean,
    /// As [`How::Clean`], once what the peer still sends was read away for a while:
    /// unread it would turn the close into a reset, which overtakes what was sent.
    Parting,
    /// With a RST, so that the peer does not take the cut for an end.
    Reset,
}

impl CloseReason {
    /// Every label that [`CloseReason::label`] gives, for counters.
    pub const LABELS: [&'static str; 16] = [
        "finished_by_left",
        "finished_by_right",
        "reset_by_left",
        "reset_by_right",
        "left_timed_out",
        "right_timed_out",
        "left_failed",
        "right_failed",
        "left_reply_unacknowledged",
        "right_reply_unacknowledged",
        "left_broke_protocol",
        "right_broke_protocol",
        "terminated",
        "expired",
        "drained",
        "severed",
    ];

    /// The reason for an error on one leg's socket.
    #[must_use]
    pub const fn from_error(side: Side, error: Errno) -> Self {
        match error {
            // EPIPE and ENOTCONN: the reset was reported before, to a call
            // that had already moved bytes.
            Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN | Errno::CONNABORTED => {
                Self::Reset(side)
            }
            Errno::TIMEDOUT => Self::TimedOut(side),
            other => Self::Failed(side, other),
        }
    }

    /// The position of this reason's label in [`CloseReason::LABELS`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Finished(side) => side.index(),
            Self::Reset(side) => 2 + side.index(),
            Self::TimedOut(side) => 4 + side.index(),
            Self::Failed(side, _) => 6 + side.index(),
            Self::ReplyUnacknowledged(side) => 8 + side.index(),
            Self::Broken(side) => 10 + side.index(),
            Self::Terminated => 12,
            Self::Expired => 13,
            Self::Drained => 14,
            Self::Severed => 15,
        }
    }

    /// The reason as counters and logs name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// The same, where left and right are called the other way round.
    #[must_use]
    pub const fn mirrored(self) -> Self {
        match self {
            Self::Finished(side) => Self::Finished(side.other()),
            Self::Reset(side) => Self::Reset(side.other()),
            Self::TimedOut(side) => Self::TimedOut(side.other()),
            Self::Failed(side, error) => Self::Failed(side.other(), error),
            Self::ReplyUnacknowledged(side) => Self::ReplyUnacknowledged(side.other()),
            Self::Broken(side) => Self::Broken(side.other()),
            Self::Terminated | Self::Expired | Self::Severed | Self::Drained => self,
        }
    }

    /// Who ended the pair: a leg, or `None` for the relay itself.
    #[must_use]
    pub const fn ended_by(self) -> Option<Side> {
        match self {
            Self::Finished(side)
            | Self::Reset(side)
            | Self::TimedOut(side)
            | Self::Failed(side, _)
            | Self::ReplyUnacknowledged(side)
            | Self::Broken(side) => Some(side),
            Self::Terminated | Self::Expired | Self::Severed | Self::Drained => None,
        }
    }

    /// How the socket of the leg at `side` is closed.
    ///
    /// A session that an operator ended shows its peers an end of stream; all
    /// else that cuts a stream short is a reset, also towards the leg that
    /// failed, of which nothing is expected any more. Only a leg that broke its
    /// protocol is left to read what it was told.
    #[must_use]
    pub fn how(self, side: Side) -> How {
        match self {
            Self::Finished(_) | Self::Terminated => How::Clean,
            Self::Broken(broken) if broken == side => How::Parting,
            _ => How::Reset,
        }
    }
}

impl Label for CloseReason {
    const COUNT: usize = Self::LABELS.len();

    fn all() -> impl Iterator<Item = Self> {
        let of_side = [
            Self::Finished as fn(Side) -> Self,
            Self::Reset,
            Self::TimedOut,
            |side| Self::Failed(side, Errno::IO),
            Self::ReplyUnacknowledged,
            Self::Broken,
        ];
        of_side
            .into_iter()
            .flat_map(|reason| Side::BOTH.map(reason))
            .chain([
                Self::Terminated,
                Self::Expired,
                Self::Drained,
                Self::Severed,
            ])
    }

    fn index(self) -> usize {
        Self::index(self)
    }

    fn as_str(self) -> &'static str {
        self.label()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_label() {
        let of_a_side = |side| {
            [
                CloseReason::Finished(side),
                CloseReason::Reset(side),
                CloseReason::TimedOut(side),
                CloseReason::Failed(side, Errno::HOSTUNREACH),
                CloseReason::ReplyUnacknowledged(side),
                CloseReason::Broken(side),
            ]
        };
        let mut seen: Vec<usize> = of_a_side(Side::Left)
            .into_iter()
            .chain(of_a_side(Side::Right))
            .chain([
                CloseReason::Terminated,
                CloseReason::Expired,
                CloseReason::Drained,
                CloseReason::Severed,
            ])
            .map(CloseReason::index)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..CloseReason::LABELS.len()).collect::<Vec<_>>());
        assert_eq!(CloseReason::Reset(Side::Right).label(), "reset_by_right");
    }

    #[test]
    fn a_mirrored_reason_is_the_other_sides() {
        for reason in CloseReason::all() {
            let mirrored = reason.mirrored();
            assert_eq!(mirrored.mirrored(), reason);
            assert_eq!(mirrored.ended_by(), reason.ended_by().map(Side::other));
        }
    }

    #[test]
    fn errors_have_their_reason() {
        let check = |error, expected| {
            assert_eq!(CloseReason::from_error(Side::Left, error), expected);
        };
        check(Errno::CONNRESET, CloseReason::Reset(Side::Left));
        check(Errno::PIPE, CloseReason::Reset(Side::Left));
        check(Errno::TIMEDOUT, CloseReason::TimedOut(Side::Left));
        check(
            Errno::HOSTUNREACH,
            CloseReason::Failed(Side::Left, Errno::HOSTUNREACH),
        );
    }
}
