//! Datagrams that came to a shard other than their connection's: passed on by message, as
//! many at a time as the other shard has taken in.
//!
//! Where the kernel steers there are hardly any. Without it they are those of clients whose
//! address has changed.

use std::collections::HashMap;

use crate::association::key::ShardId;
use crate::metrics::counters::Count;
use crate::quic::intake::Stray;
use crate::runtime::clock;
use crate::shard::control::Envelope;
use crate::shard::world::World;

/// Datagrams on their way to one shard. More are lost, as they may be anywhere.
pub(super) const STRAYS_MAX: usize = 256;

/// Strays that were sent, by the shards that have not said that they took them in.
#[derive(Debug, Default)]
pub(super) struct Outstanding(HashMap<u16, usize, ahash::RandomState>);

impl Outstanding {
    /// Takes as many of `strays` as may be sent to `shard` now.
    fn admit(&mut self, shard: u16, strays: &mut Vec<Stray>) {
        let outstanding = self.0.entry(shard).or_default();
        strays.truncate(STRAYS_MAX.saturating_sub(*outstanding));
        *outstanding += strays.len();
    }

    fn handle_taken(&mut self, shard: u16, count: usize) {
        if let Some(outstanding) = self.0.get_mut(&shard) {
            *outstanding = outstanding.saturating_sub(count);
        }
    }
}

impl<C: Copy + 'static, M: Send + 'static> World<C, M> {
    /// Passes on what has come for other shards.
    pub(super) fn pass_strays_on(&self) {
        let mut strays = match &mut *self.streams.inner.borrow_mut() {
            Some(inner) => inner.driver.take_strays(),
            None => return,
        };
        while let Some(first) = strays.first() {
            let shard = first.shard;
            let (mut here, elsewhere) = strays.into_iter().partition(|one| one.shard == shard);
            strays = elsewhere;
            let came = Vec::len(&here);
            if let Some(inner) = &mut *self.streams.inner.borrow_mut() {
                inner.outstanding.admit(shard, &mut here);
            }
            let counts = &self.counters.counts;
            counts.add(Count::QuicStraysDropped, (came - here.len()) as u64);
            counts.add(Count::QuicStrays, here.len() as u64);
            if here.is_empty() {
                continue;
            }
            let strays = Envelope::Strays {
                from: self.shard,
                strays: here,
            };
            // A shard that has ended has no connections.
            let _ = self.shards[usize::from(shard)].send_from(&self.reactor, strays);
        }
    }

    /// Takes in what has come to another shard.
    pub(in crate::shard) fn take_strays(&self, from: ShardId, strays: Vec<Stray>) {
        let count = strays.len();
        if let Some(inner) = &mut *self.streams.inner.borrow_mut() {
            inner.driver.handle_strays(strays, clock::now());
        }
        let taken = Envelope::StraysTaken {
            by: self.shard,
            count,
        };
        // As above.
        let _ = self.shards[usize::from(from.0)].send_from(&self.reactor, taken);
    }

    pub(in crate::shard) fn handle_strays_taken(&self, by: ShardId, count: usize) {
        if let Some(inner) = &mut *self.streams.inner.borrow_mut() {
            inner.outstanding.handle_taken(by.0, count);
        }
    }
}
