//! What shards tell each other beside their services' own messages.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;

use super::pulse::Beat;
use super::status::StatusQuestion;
use crate::association::key::ShardId;
use crate::quic::intake::Stray;
use crate::relay::bridge::BridgeMessage;
use crate::runtime::signal::Signals;

/// A message in a shard's inbox.
#[derive(Debug)]
pub enum Envelope<M> {
    /// For the service.
    Service(M),
    /// For the shard itself.
    Control(Control),
    /// Somebody asks whether the shard still turns.
    Pulse(Sender<Beat>),
    /// Somebody asks how the shard is.
    Status(StatusQuestion),
    /// Datagrams of QUIC came to another shard.
    Strays { from: ShardId, strays: Vec<Stray> },
    /// So many of them were taken in.
    StraysTaken { by: ShardId, count: usize },
    /// Ends of bridges there have said something to ends here.
    Bridge(Vec<BridgeMessage>),
    /// A name was resolved.
    Resolved {
        question: u64,
        answer: io::Result<Vec<SocketAddr>>,
    },
}

/// What an operator says to the process, heard by one shard.
#[derive(Debug)]
pub struct Operator {
    pub signals: Signals,
    /// Where a `SIGHUP` goes. A process that has nothing to read again is ended by
    /// it, as by the end of its terminal.
    pub reload: Option<Sender<()>>,
    /// Who is told that the process has begun to stop.
    pub stopping: Sender<()>,
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
