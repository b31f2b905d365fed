//! A fleet: the shards of an agent, one for each core, from when all that they need is claimed.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::error::AgentError;
use super::random::seed_randomness;
use super::settings::AgentSettings;
use crate::association::key::ShardId;
use crate::runtime::cores::{Cores, CoresError};
use crate::runtime::executor::{ExecutorError, Start, run_shards};
use crate::runtime::inbox::{Inbox, Mailbox, inbox};
use crate::runtime::listener::{HandOut, Listener, bind_group, claim_address};
use crate::runtime::resolver::Resolver;
use crate::runtime::signal::Signals;
use crate::shard::control::{Envelope, Operator};
use crate::shard::drive::drive;
use crate::shard::pulse::Pulse;
use crate::shard::share::{engine_share, share, to_usize};
use crate::shard::status::{Inquirer, Legacies};
use crate::shard::world::{Service, ShardSnapshot, World, WorldSettings};

/// The shards of an agent that does not serve yet. `M` is what they are told while it does.
#[derive(Debug)]
pub struct Fleet<M = Infallible> {
    cores: Cores,
    seeds: Vec<Seed<M>>,
    mailboxes: Vec<Mailbox<Envelope<M>>>,
    legacies: Legacies,
    pulse: Option<Pulse<M>>,
}

/// What every shard starts with.
#[derive(Debug)]
pub(super) struct Seed<M = Infallible> {
    world: WorldSettings,
    pub(super) connections_max: usize,
    resolver: Resolver,
    inbox: Inbox<Envelope<M>>,
    mailboxes: Vec<Mailbox<Envelope<M>>>,
    operator: Option<Operator>,
    legacies: Legacies,
}

/// What a shard counted, and why it gave up, if it did.
pub(super) type Ended = Result<(ShardSnapshot, Option<AgentError>), ExecutorError>;

impl<M: Send + 'static> Fleet<M> {
    /// Makes what the shards need. `reload` is told of a `SIGHUP`, which else ends the agent.
    pub(super) fn new(
        settings: &AgentSettings,
        signals: Signals,
        reload: Option<Sender<()>>,
    ) -> Result<Self, AgentError> {
        let cores = Cores::usable()
            .map_err(AgentError::Affinity)?
            .select(&settings.cores)?;
        let shard_count = u16::try_from(cores.count()).ok().and_then(NonZeroU16::new);
        let Some(shard_count) = shard_count else {
            return Err(CoresError::None.into());
        };
        let world = WorldSettings {
            data_plane: settings.data_plane,
            engine: engine_share(&settings.limits, shard_count),
            drain_timeout: settings.drain_timeout,
            spin: Duration::ZERO,
        };
        let resolver = Resolver::start().map_err(ExecutorError::Setup)?;
        let mut mailboxes = Vec::new();
        let mut inboxes = Vec::new();
        for _ in 0..shard_count.get() {
            let (mailbox, inbox) = inbox().map_err(ExecutorError::Setup)?;
            mailboxes.push(mailbox);
            inboxes.push(inbox);
        }
        // One shard reads the signals and tells the others.
        let (stopping, told_to_stop) = channel();
        let mut operator = Some(Operator {
            signals,
            reload,
            stopping,
        });
        let legacies = Legacies::new(inboxes.len());
        let seeds = inboxes
            .into_iter()
            .map(|inbox| Seed {
                world,
                connections_max: to_usize(share(settings.limits.connections_max, shard_count)),
                resolver: resolver.clone(),
                inbox,
                mailboxes: mailboxes.clone(),
                operator: operator.take(),
                legacies: legacies.clone(),
            })
            .collect();
        let pulse = Pulse {
            shards: mailboxes.clone(),
            stopping: told_to_stop,
        };
        Ok(Self {
            cores,
            seeds,
            mailboxes,
            legacies,
            pulse: Some(pulse),
        })
    }

    /// Claims an address, for which each shard has a listener. Gives it with the port that the
    /// kernel chose.
    pub(super) fn listen(
        &self,
        address: SocketAddr,
        hand_out: HandOut,
    ) -> Result<(SocketAddr, Vec<Listener>), AgentError> {
        let claim_and_bind = || {
            // Settles the port for all of them.
            let claimed = claim_address(address)?;
            Ok((claimed, bind_group(claimed, hand_out, self.seeds.len())?))
        };
        claim_and_bind().map_err(|source| AgentError::Listen { address, source })
    }

    /// The way to tell the shards something, by shard.
    pub(super) fn mailboxes(&self) -> Vec<Mailbox<Envelope<M>>> {
        self.mailboxes.clone()
    }

    /// What watches the shards, to be kept on another thread; once.
    pub const fn take_pulse(&mut self) -> Option<Pulse<M>> {
        self.pulse.take()
    }

    /// What asks the shards how they are.
    #[must_use]
    pub fn inquirer(&self) -> Inquirer<M> {
        Inquirer::new(self.mailboxes(), self.legacies.clone())
    }

    /// Runs every shard with one of `own`, of which there are enough, until all have ended;
    /// returns what they counted.
    pub(super) fn run<S, F>(
        self,
        own: impl IntoIterator<Item = S>,
        shard: fn(u16, (Seed<M>, S), Start) -> F,
    ) -> Result<ShardSnapshot, AgentError>
    where
        S: Send + 'static,
        F: Future<Output = Ended> + 'static,
    {
        let seeds = self.seeds.into_iter().zip(own).collect();
        let mut total = ShardSnapshot::zero();
        for (snapshot, failure) in run_shards(&self.cores, seeds, shard)? {
            if let Some(failure) = failure {
                return Err(failure);
            }
            total.merge(&snapshot);
        }
        Ok(total)
    }
}

impl<M: Send + 'static> Seed<M> {
    /// Makes the calling thread's world.
    pub(super) fn world<C: Copy>(&self, index: u16) -> io::Result<Rc<World<C, M>>> {
        seed_randomness();
        let resolver = Some(self.resolver.clone());
        World::new(ShardId(index), self.world, self.mailboxes.clone(), resolver)
    }

    /// How many shards there are.
    pub(super) fn shards(&self) -> u64 {
        self.mailboxes.len() as u64
    }

    /// Runs the shard until it has ended.
    ///
    /// # Errors
    ///
    /// When another shard could not start.
    pub(super) async fn drive<S: Service<Message = M>>(
        self,
        start: Start,
        service: &Rc<S>,
    ) -> Result<ShardSnapshot, ExecutorError> {
        start.meet_others()?;
        let service = Rc::clone(service);
        Ok(drive(service, self.inbox, self.operator, &self.legacies).await)
    }
}
