//! One shard's counters, and their sums over all shards.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

/// A closed set of names that something is counted by.
///
/// The names become metric labels and keys of a log line: lower case, with
/// underscores, and few.
pub trait Label: Copy + 'static {
    /// How many there are.
    const COUNT: usize;

    /// All of them, in the order of [`index`](Self::index).
    fn all() -> impl Iterator<Item = Self>;

    /// This one's place, below [`COUNT`](Self::COUNT).
    fn index(self) -> usize;

    /// This one's name.
    fn as_str(self) -> &'static str;
}

/// Implements [`Label`](crate::metrics::counters::Label) for a fieldless enum
/// by listing its variants in order with their names.
#[macro_export]
macro_rules! labels {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $crate::metrics::counters::Label for $type {
            const COUNT: usize = [$($name),+].len();

            fn all() -> impl Iterator<Item = Self> {
                [$(Self::$variant),+].into_iter()
            }

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        // A variant out of order would be counted under another's name.
        const _: () = {
            let variants = [$($type::$variant),+];
            let mut index = 0;
            while index < variants.len() {
                assert!(variants[index] as usize == index);
                index += 1;
            }
        };
    };
}

/// What every shard counts, beside how sessions end and why they are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Connections accepted.
    Accepted,
    /// Accepts that failed for another reason than missing descriptors.
    AcceptErrors,
    /// Times that no descriptor was left for a new connection.
    DescriptorsExhausted,
    /// Legs that this shard sent to another.
    HandedOut,
    /// Legs that this shard took from another.
    HandedIn,
    /// Pairs joined.
    Paired,
    /// Pairs that the ring took over.
    MovedToRing,
    /// Turns of a bulk direction that copied, for want of a pipe.
    PipeShortages,
    /// Reads that were small, or left the bytes, for want of spill memory.
    SpillShortages,
    /// Bytes moved from one leg of a pair to the other, prefixes included.
    BytesRelayed,
    /// Those of them that were spliced through a pipe, not copied.
    BytesSpliced,
    /// HTTP requests that were answered with a page, or that it has not changed.
    PagesServed,
    /// HTTP requests that were told where else to ask.
    Redirected,
    /// Datagrams that were passed on, either way.
    DatagramsRelayed,
    /// Datagrams that were not: no room, no way there, or nobody's.
    DatagramsDropped,
    /// Datagrams to where no rule lets the relay send.
    DatagramsDenied,
    /// Datagrams of QUIC that came.
    QuicReceived,
    /// Datagrams of QUIC that left.
    QuicSent,
    /// Bursts of them that found no room.
    QuicSendsBlocked,
    /// Errors of the sockets of QUIC.
    QuicSocketErrors,
    /// Datagrams that were for no connection and began none.
    QuicUnroutable,
    /// Clients of QUIC that were asked to prove their address.
    QuicRetries,
    /// Packets of QUIC that were lost.
    QuicPacketsLost,
    /// How often a connection of QUIC was told to send less.
    QuicCongestionEvents,
    /// Datagrams that were passed on to the shard that they are for.
    QuicStrays,
    /// Those that were not, as that shard had too many of them.
    QuicStraysDropped,
    /// Packets of jProxy's that mean nothing, and were passed over.
    PacketsIgnored,
    /// Channels whose ends took too little for too long.
    ChannelsStuck,
    /// HTTP requests that an agent passed on, or began to.
    RequestsPassed,
    /// Bytes of them and of their responses.
    BytesPassed,
}

labels!(Count {
    Accepted = "accepted",
    AcceptErrors = "accept_errors",
    DescriptorsExhausted = "descriptors_exhausted",
    HandedOut = "handed_out",
    HandedIn = "handed_in",
    Paired = "paired",
    MovedToRing = "moved_to_ring",
    PipeShortages = "pipe_shortages",
    SpillShortages = "spill_shortages",
    BytesRelayed = "bytes_relayed",
    BytesSpliced = "bytes_spliced",
    PagesServed = "pages_served",
    Redirected = "redirected",
    DatagramsRelayed = "datagrams_relayed",
    DatagramsDropped = "datagrams_dropped",
    DatagramsDenied = "datagrams_denied",
    QuicReceived = "quic_received",
    QuicSent = "quic_sent",
    QuicSendsBlocked = "quic_sends_blocked",
    QuicSocketErrors = "quic_socket_errors",
    QuicUnroutable = "quic_unroutable",
    QuicRetries = "quic_retries",
    QuicPacketsLost = "quic_packets_lost",
    QuicCongestionEvents = "quic_congestion_events",
    QuicStrays = "quic_strays",
    QuicStraysDropped = "quic_strays_dropped",
    PacketsIgnored = "packets_ignored",
    ChannelsStuck = "channels_stuck",
    RequestsPassed = "requests_passed",
    BytesPassed = "bytes_passed",
});

/// One counter for each label of `L`. Counters wrap after 2⁶⁴.
pub struct Labelled<L: Label> {
    values: Box<[Cell<u64>]>,
    labels: PhantomData<fn(L)>,
}

impl<L: Label> Labelled<L> {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            values: vec![Cell::new(0); L::COUNT].into(),
            labels: PhantomData,
        }
    }

    /// Counts one more.
    pub fn increment(&self, label: L) {
        self.add(label, 1);
    }

    /// Counts `amount` more.
    pub fn add(&self, label: L, amount: u64) {
        let value = &self.values[label.index()];
        value.set(value.get().wrapping_add(amount));
    }

    /// Takes over what somebody else has counted.
    pub fn set(&self, label: L, count: u64) {
        self.values[label.index()].set(count);
    }

    /// The count so far.
    #[must_use]
    pub fn count(&self, label: L) -> u64 {
        self.values[label.index()].get()
    }

    fn read(&self) -> Box<[u64]> {
        self.values.iter().map(Cell::get).collect()
    }
}

impl<L: Label> Default for Labelled<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Label> fmt::Debug for Labelled<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(L::all().map(|label| (label.as_str(), self.count(label))))
            .finish()
    }
}

/// One shard's counters. `E` says how a session ended, `R` why a peer was
/// refused.
#[derive(Debug)]
pub struct Counters<E: Label, R: Label> {
    /// What has one name only.
    pub counts: Labelled<Count>,
    /// Sessions that ended, by how.
    pub ended: Labelled<E>,
    /// Peers refused, by why.
    pub refused: Labelled<R>,
}

impl<E: Label, R: Label> Counters<E, R> {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            counts: Labelled::new(),
            ended: Labelled::new(),
            refused: Labelled::new(),
        }
    }

    /// The counts as they are now, to be sent to whoever sums them.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<E, R> {
        Snapshot {
            counts: self.counts.read(),
            ended: self.ended.read(),
            refused: self.refused.read(),
            labels: PhantomData,
        }
    }
}

impl<E: Label, R: Label> Default for Counters<E, R> {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts at one moment, of one shard or summed over several. Displays as one
/// log line, `accepted=3 … ended.clean=2`, without ends and refusals that never
/// came.
pub struct Snapshot<E: Label, R: Label> {
    counts: Box<[u64]>,
    ended: Box<[u64]>,
    refused: Box<[u64]>,
    labels: PhantomData<fn(E, R)>,
}

impl<E: Label, R: Label> Snapshot<E, R> {
    /// Nothing counted: what a sum starts from.
    #[must_use]
    pub fn zero() -> Self {
        Counters::new().snapshot()
    }

    /// Adds another shard's counts.
    pub fn merge(&mut self, other: &Self) {
        let sums = [
            (&mut self.counts, &other.counts),
            (&mut self.ended, &other.ended),
            (&mut self.refused, &other.refused),
        ];
        for (sum, values) in sums {
            for (sum, value) in sum.iter_mut().zip(values) {
                *sum = sum.wrapping_add(*value);
            }
        }
    }

    /// One count.
    #[must_use]
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count.index()]
    }

    /// Sessions that ended in this way.
    #[must_use]
    pub fn ended(&self, how: E) -> u64 {
        self.ended[how.index()]
    }

    /// Peers refused for this reason.
    #[must_use]
    pub fn refused(&self, why: R) -> u64 {
        self.refused[why.index()]
    }

    /// All counts with one name only.
    pub fn counts(&self) -> impl Iterator<Item = (Count, u64)> {
        Count::all().zip(self.counts.iter().copied())
    }

    /// All ends of sessions.
    pub fn all_ended(&self) -> impl Iterator<Item = (E, u64)> {
        E::all().zip(self.ended.iter().copied())
    }

    /// All refusals.
    pub fn all_refused(&self) -> impl Iterator<Item = (R, u64)> {
        R::all().zip(self.refused.iter().copied())
    }
}

impl<E: Label, R: Label> Clone for Snapshot<E, R> {
    fn clone(&self) -> Self {
        Self {
            counts: self.counts.clone(),
            ended: self.ended.clone(),
            refused: self.refused.clone(),
            labels: PhantomData,
        }
    }
}

impl<E: Label, R: Label> fmt::Display for Snapshot<E, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Count::all().map(|count| ("", count.as_str()));
        let ended = E::all().map(|how| ("ended.", how.as_str()));
        let refused = R::all().map(|why| ("refused.", why.as_str()));
        let counts = counts.zip(&self.counts);
        let named = counts.chain(ended.zip(&self.ended));
        let named = named.chain(refused.zip(&self.refused));
        let counted = named.filter(|(_, value)| **value != 0);
        for (index, ((kind, name), value)) in counted.enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{kind}{name}={value}")?;
        }
        Ok(())
    }
}

impl<E: Label, R: Label> fmt::Debug for Snapshot<E, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum How {
        Clean,
        Reset,
    }

    labels!(How { Clean = "clean", Reset = "reset" });

    #[derive(Clone, Copy)]
    enum Why {
        Slow,
        Garbage,
    }

    labels!(Why { Slow = "slow", Garbage = "garbage" });

    fn counted() -> Counters<How, Why> {
        let counters = Counters::new();
        counters.counts.increment(Count::Accepted);
        counters.counts.add(Count::BytesRelayed, 1000);
        counters.ended.increment(How::Reset);
        counters.refused.increment(Why::Slow);
        counters.refused.increment(Why::Slow);
        counters
    }

    #[test]
    fn sums_over_shards() {
        let mut sum = Snapshot::zero();
        sum.merge(&counted().snapshot());
        sum.merge(&counted().snapshot());
        assert_eq!(sum.count(Count::Accepted), 2);
        assert_eq!(sum.count(Count::BytesRelayed), 2000);
        assert_eq!((sum.ended(How::Clean), sum.ended(How::Reset)), (0, 2));
        assert_eq!((sum.refused(Why::Slow), sum.refused(Why::Garbage)), (4, 0));
    }

    #[test]
    fn displays_one_line() {
        assert_eq!(
            counted().snapshot().to_string(),
            "accepted=1 bytes_relayed=1000 ended.reset=1 refused.slow=2",
        );
    }

    #[test]
    fn a_snapshot_may_leave_its_shard() {
        fn is_send<T: Send>(_: &T) {}
        is_send(&counted().snapshot());
    }

    #[test]
    fn counters_wrap_instead_of_ending_the_process() {
        let counts = Labelled::<Count>::new();
        counts.add(Count::BytesRelayed, u64::MAX);
        counts.add(Count::BytesRelayed, 2);
        assert_eq!(counts.count(Count::BytesRelayed), 1);
    }
}
