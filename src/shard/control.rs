//! What shards tell each other beside their services' own messages.

use std::io;
use std::net::SocketAddr;

/// A message in a shard's inbox.
#[derive(Debug)]
pub enum Envelope<M> {
    /// For the service.
    Service(M),
    /// For the shard itself.
    Control(Control),
    /// A name was resolved.
    Resolved {
        question: u64,
        answer: io::Result<Vec<SocketAddr>>,
    },
}

/// What an operator's signal asks of every shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Stop accepting, let pairs finish until the drain's deadline, then end.
    Drain,
    /// End at once.
    End,
    /// Log the counters.
    Report,
    /// The sender has ended. The shard that reads the signals stays until all
    /// others have, or a second signal would reach nobody.
    Ended,
}
