//! The budget of memory: what may still be allocated for whoever was let in is kept for it.
//!
//! Left out: what a leg or a pair may grow by, which is small, and spills, which have a pool.

use super::datagrams::budget::VISIT_BYTES_MAX;
use super::jproxy::HELD_BYTES_MAX as TUNNEL_BYTES;
use super::rendezvous::RelayService;
use crate::relay::bridge::CREDIT_BYTES_FIRST;
use crate::relay::stream_way::STEP_BYTES;
use crate::runtime::allocator::allocated_bytes;

/// Bytes that a connection's handshake may allocate: a head of 16 KiB and a body of
/// 4 KiB in a buffer that grew by doubling, what TLS keeps, and a record that it opens.
const HANDSHAKE_BYTES_MAX: u64 = 96 << 10;

/// Bytes that a stream may hold as soon as it is joined, be it over a bridge: of each way a step,
/// and the first credit. What it may grow by is bounded by its connection's window.
pub(super) const STREAM_BYTES_MIN: u64 = 2 * (STEP_BYTES + CREDIT_BYTES_FIRST) as u64;

impl RelayService {
    /// Whether the budget has room for another connection, or what a request asks for.
    pub(super) fn has_memory(&self) -> bool {
        self.has_memory_for(HANDSHAKE_BYTES_MAX)
    }

    /// Whether it has room for so many bytes, whatever the handshakes and the visits that are
    /// under way still allocate. Of these the other shards have as many, since the kernel
    /// spreads connections evenly.
    pub(super) fn has_memory_for(&self, bytes: u64) -> bool {
        let handshakes = HANDSHAKE_BYTES_MAX * self.handshakes() as u64;
        let visits = VISIT_BYTES_MAX * self.datagram_visits.count() as u64;
        let tunnels = TUNNEL_BYTES * self.world.muxes.tunnels() as u64;
        let reserved = (handshakes + visits + tunnels + bytes) * self.world.shards.len() as u64;
        allocated_bytes() + reserved <= self.settings().memory_bytes_max
    }
}
