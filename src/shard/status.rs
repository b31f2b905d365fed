//! What a shard says about itself to those who watch the relay.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::control::Envelope;
use super::rendezvous::{Message, RelayService};
use super::world::ShardSnapshot;
use crate::association::census::{Census, Tally};
use crate::metrics::latency::Latencies;
use crate::relay::Usage;
use crate::runtime::inbox::Mailbox;

/// How long a shard may take to answer. One that does not has ended, or hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// One shard at one moment.
#[derive(Debug)]
pub struct ShardStatus {
    pub shard: u16,
    pub is_draining: bool,
    /// Connections that have not said what they want, HTTP ones among them.
    pub handshakes: u64,
    /// Acceptors that wait.
    pub waiting: u64,
    /// Sockets that are open.
    pub connections: u64,
    pub usage: Usage,
    pub census: Census,
    pub tally: Tally,
    pub counters: ShardSnapshot,
    pub latencies: Latencies,
}

/// Asks the shards, from a thread that may wait.
#[derive(Clone, Debug)]
pub struct Inquirer {
    pub(super) shards: Vec<Mailbox<Envelope<Message>>>,
}

impl Inquirer {
    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// What every shard says that answers, in order.
    #[must_use]
    pub fn ask(&self) -> Vec<ShardStatus> {
        let (sender, answers) = channel();
        for shard in &self.shards {
            // A shard that has ended says nothing.
            let _ = shard.send(Envelope::Service(Message::Report(sender.clone())));
        }
        drop(sender);
        let mut statuses: Vec<ShardStatus> = Vec::new();
        while statuses.len() < self.shards.len()
            && let Ok(status) = answers.recv_timeout(ANSWER_TIMEOUT)
        {
            statuses.push(status);
        }
        statuses.sort_by_key(|status| status.shard);
        statuses
    }
}

impl RelayService {
    /// Says how this shard is.
    pub(super) fn report(&self, asker: &Sender<ShardStatus>) {
        // Nothing that is due is told.
        self.close_expired();
        let world = &self.world;
        let rendezvous = self.rendezvous.borrow();
        let table = rendezvous.table();
        let status = ShardStatus {
            shard: world.shard.0,
            is_draining: world.is_draining(),
            handshakes: self.handshakes() as u64,
            waiting: self.waiting.borrow().len() as u64,
            connections: self.connections() as u64,
            usage: world.usage(),
            census: table.census(world.reactor.now()),
            tally: table.tally(),
            counters: world.snapshot(),
            latencies: world.latencies(),
        };
        // Whoever asked may have given up waiting.
        let _ = asker.send(status);
    }
}
