//! What one visit may have allocated at most.

use super::{by_name, destinations};
use crate::session::datagram_stream;

/// Bytes that wait on the connection and for names, and whom the client has written to.
pub(in crate::shard) const VISIT_BYTES_MAX: u64 = (datagram_stream::HELD_BYTES_MAX
    + by_name::HELD_BYTES_MAX
    + destinations::HELD_BYTES_MAX) as u64;

// As `docs/operating.md` and `ARCHITECTURE.md` have it.
const _: () = assert!(VISIT_BYTES_MAX <= 424 << 10);
