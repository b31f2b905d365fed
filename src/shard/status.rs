//! What a shard says about itself to those who watch the relay.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
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
#[derive(Clone, Debug)]
pub struct ShardStatus {
    pub shard: u16,
    pub is_draining: bool,
    /// It has ended, and this is what it counted until then.
    pub has_ended: bool,
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

/// What shards leave behind that have ended, by shard: what was counted stays so.
pub(super) type Legacies = Arc<[OnceLock<ShardStatus>]>;

/// Asks the shards, from a thread that may wait.
#[derive(Clone, Debug)]
pub struct Inquirer {
    pub(super) shards: Vec<Mailbox<Envelope<Message>>>,
    pub(super) legacies: Legacies,
}

impl Inquirer {
    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// What every shard says that answers, or has left behind, in order.
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
        for legacy in self.legacies.iter().filter_map(OnceLock::get) {
            if statuses.iter().all(|status| status.shard != legacy.shard) {
                statuses.push(legacy.clone());
            }
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
        // Whoever asked may have given up waiting.
        let _ = asker.send(self.status());
    }

    /// What is left of this shard, which has ended.
    pub(super) fn legacy(&self) -> ShardStatus {
        ShardStatus {
            has_ended: true,
            ..self.status()
        }
    }

    fn status(&self) -> ShardStatus {
        let world = &self.world;
        let rendezvous = self.rendezvous.borrow();
        let table = rendezvous.table();
        ShardStatus {
            shard: world.shard.0,
            is_draining: world.is_draining(),
            has_ended: false,
            handshakes: self.handshakes() as u64,
            waiting: self.waiting.borrow().len() as u64,
            connections: self.connections() as u64,
            usage: world.usage(),
            census: table.census(world.reactor.now()),
            tally: table.tally(),
            counters: world.snapshot(),
            latencies: world.latencies(),
        }
    }
}
