//! What a shard says about itself to those who watch the process.

use std::ops::AddAssign;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::control::Envelope;
use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use super::streams::QuicStatus;
use super::world::{Service, ShardSnapshot};
use crate::association::census::{Census, Tally};
use crate::metrics::latency::Latencies;
use crate::protocol::ptth_http::{Name, Place, TunnelCensus, TunnelTally};
use crate::relay::Usage;
use crate::runtime::inbox::Mailbox;

/// Sessions of one shard that are told one by one: more than anybody reads, and as much as is
/// asked for again and again without the shard's connections noticing.
pub const SESSIONS_TOLD_MAX: usize = 1000;

/// How long a shard may take to answer. One that does not has ended, or hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    Counts,
    /// An agent's sessions, or a relay's tunnels, and either's QUIC, as well, one by one.
    Sessions,
}

/// Somebody asks how a shard is.
#[derive(Clone, Debug)]
pub struct StatusQuestion {
    detail: Detail,
    asker: Sender<ShardStatus>,
}

/// One shard at one moment.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    pub shard: u16,
    pub is_draining: bool,
    /// It has ended, and this is what it counted until then.
    pub has_ended: bool,
    /// Connections that have not said what they want, HTTP ones among them.
    pub handshakes: u64,
    /// Visitors, or clients of an agent's, that await somebody.
    pub binds: Option<u64>,
    /// Connections that are open: of a proxy, to relays, of local programs, and to what it dials.
    pub connections: u64,
    /// Clients whose datagrams are passed on.
    pub datagram_associations: Option<u64>,
    /// Tunnels of jProxy, of who speaks it.
    pub jproxy_tunnels: Option<u64>,
    /// Their channels.
    pub jproxy_channels: Option<u64>,
    /// Users' files of a relay that it does not take: all shards say the same.
    pub jproxy_files_wrong: Option<u64>,
    /// HTTP requests that an agent passes on.
    pub exchanges: Option<u64>,
    pub usage: Usage,
    pub counters: ShardSnapshot,
    pub latencies: Latencies,
    /// Of a relay's shard.
    pub meetings: Option<Meetings>,
    /// Of a relay's shard.
    pub forwarded: Option<Forwarded>,
    /// Of a relay's, where they are asked for.
    pub tunnels: Option<Vec<TunnelStatus>>,
    /// As `tunnels`.
    pub places: Vec<PlaceStatus>,
    /// Of an agent's that knows where they go, where they are asked for.
    pub sessions: Option<SessionStatuses>,
    /// Those by which an agent goes out.
    pub relays: Vec<RelayStatus>,
    /// Of who speaks it.
    pub quic: Option<QuicStatus>,
}

/// One forwarded connection that runs.
#[derive(Clone, Debug)]
pub struct TunnelStatus {
    pub client: Name,
    /// The server and its port.
    pub place: Place,
    /// The client's and the server's.
    pub peers: [PeerAddress; 2],
    /// Those that came from either.
    pub bytes: [u64; 2],
    pub lasted: Duration,
}

/// A forwarded port at which somebody waits. Up to [`SESSIONS_TOLD_MAX`] of a shard's are told.
#[derive(Clone, Debug)]
pub struct PlaceStatus {
    pub place: Place,
    /// Requests of its server that listen.
    pub listens: u64,
    /// Connections that wait for one.
    pub connects: u64,
}

/// Sessions that run.
#[derive(Clone, Debug, Default)]
pub struct SessionStatuses {
    /// Up to [`SESSIONS_TOLD_MAX`] of a shard's.
    pub told: Vec<SessionStatus>,
    /// All of them.
    pub count: u64,
}

/// One session that runs.
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// How its bytes are moved: one of a closed set.
    pub kind: &'static str,
    /// Whose it is.
    pub peer: PeerAddress,
    /// Where to, as it was asked, or else as it is dialled.
    pub target: Option<Box<str>>,
    /// By which way.
    pub way: Option<Box<str>>,
    /// Those that came from the peer, and from the other side.
    pub bytes: [u64; 2],
    pub lasted: Duration,
}

/// One relay by which an agent goes out, as one shard sees it.
#[derive(Clone, Debug)]
pub struct RelayStatus {
    pub url: Box<str>,
    /// It could not be had, and has not been had since.
    pub is_down: bool,
    /// Of an agent that keeps some.
    pub entrances: Option<Entrances>,
    /// How often it could not be had, by why: a closed set.
    pub failures: Vec<(&'static str, u64)>,
    pub last_failure: Option<RelayFailure>,
}

/// Connections into a relay that are asked for something later.
#[derive(Clone, Copy, Debug)]
pub struct Entrances {
    /// Those that are kept ready.
    pub ready: u64,
    /// Those that the relay has given.
    pub opened: u64,
    /// Those that served somebody: ready ones, and others.
    pub used: [u64; 2],
}

/// Why a relay could not be had.
#[derive(Clone, Debug)]
pub struct RelayFailure {
    /// One of a closed set.
    pub why: &'static str,
    pub error: Box<str>,
    pub ago: Duration,
}

/// Who waits for whom on one shard, or on all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meetings {
    /// Acceptors that wait.
    pub waiting: u64,
    pub census: Census,
    pub tally: Tally,
}

/// The forwarded connections of one shard, or of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forwarded {
    /// Tunnels that are whole.
    pub tunnels: u64,
    pub census: TunnelCensus,
    pub tally: TunnelTally,
}

/// What shards leave behind that have ended, by shard: what was counted stays so.
#[derive(Clone, Debug)]
pub struct Legacies(Arc<[OnceLock<ShardStatus>]>);

/// Asks the shards, from a thread that may wait.
#[derive(Debug)]
pub struct Inquirer<M> {
    shards: Vec<Mailbox<Envelope<M>>>,
    legacies: Legacies,
}

impl AddAssign for Meetings {
    fn add_assign(&mut self, other: Self) {
        self.waiting += other.waiting;
        self.census += other.census;
        self.tally += other.tally;
    }
}

impl AddAssign for Forwarded {
    fn add_assign(&mut self, other: Self) {
        self.tunnels += other.tunnels;
        self.census += other.census;
        self.tally += other.tally;
    }
}

impl Legacies {
    /// Of so many shards, none of which has ended.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| OnceLock::new()).collect())
    }

    /// Keeps what is left of a shard, which has ended.
    pub(super) fn take<S: Service>(&self, service: &S) {
        let mut legacy = common(service, Detail::Counts);
        legacy.has_ended = true;
        // Nobody hears of what is left of it any more.
        legacy.quic = None;
        service.add_status(&mut legacy, Detail::Counts);
        // It ends once.
        let _ = self.0[usize::from(legacy.shard)].set(legacy);
    }
}

impl<M> Inquirer<M> {
    #[must_use]
    pub const fn new(shards: Vec<Mailbox<Envelope<M>>>, legacies: Legacies) -> Self {
        Self { shards, legacies }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// What every shard says that answers, or has left behind, in order.
    #[must_use]
    pub fn ask(&self, detail: Detail) -> Vec<ShardStatus> {
        let (sender, answers) = channel();
        for shard in &self.shards {
            // A shard that has ended says nothing.
            let asker = sender.clone();
            let _ = shard.send(Envelope::Status(StatusQuestion { detail, asker }));
        }
        drop(sender);
        let mut statuses: Vec<ShardStatus> = Vec::new();
        while statuses.len() < self.shards.len()
            && let Ok(status) = answers.recv_timeout(ANSWER_TIMEOUT)
        {
            statuses.push(status);
        }
        for legacy in self.legacies.0.iter().filter_map(OnceLock::get) {
            if statuses.iter().all(|status| status.shard != legacy.shard) {
                statuses.push(legacy.clone());
            }
        }
        statuses.sort_by_key(|status| status.shard);
        statuses
    }
}

/// Says how the shard of this service is.
pub(super) fn tell<S: Service>(service: &S, question: &StatusQuestion) {
    let mut status = common(service, question.detail);
    service.add_status(&mut status, question.detail);
    // Whoever asked may have given up waiting.
    let _ = question.asker.send(status);
}

/// What every shard has.
fn common<S: Service>(service: &S, detail: Detail) -> ShardStatus {
    let world = service.world();
    let quic = world
        .streams
        .status(detail, |connection| service.whose_quic(connection));
    let by_role = quic.iter().flat_map(|quic| quic.census.connections());
    let in_quic: u64 = by_role.map(|(_, count)| count).sum();
    ShardStatus {
        shard: world.shard.0,
        is_draining: world.is_draining(),
        has_ended: false,
        handshakes: 0,
        binds: None,
        connections: world.reactor.connections() as u64 + in_quic,
        datagram_associations: None,
        jproxy_tunnels: None,
        jproxy_channels: None,
        jproxy_files_wrong: None,
        exchanges: None,
        usage: world.usage(),
        counters: world.snapshot(),
        latencies: world.latencies(),
        meetings: None,
        forwarded: None,
        tunnels: None,
        places: Vec::new(),
        sessions: None,
        relays: Vec::new(),
        quic,
    }
}

impl RelayService {
    pub(super) fn add_relay_status(&self, status: &mut ShardStatus, detail: Detail) {
        if !status.has_ended {
            // Nothing that is due is told.
            self.close_expired();
        }
        let rendezvous = self.rendezvous.borrow();
        let table = rendezvous.table();
        status.handshakes = self.handshakes() as u64;
        status.binds = Some(self.binds.count() as u64);
        status.connections = self.connections() as u64;
        status.datagram_associations = Some(self.datagram_visits.count() as u64);
        status.jproxy_tunnels = Some(self.world.muxes.tunnels() as u64);
        status.jproxy_channels = Some(self.world.muxes.channels() as u64);
        status.jproxy_files_wrong = Some(self.settings().tunnels.files_wrong as u64);
        status.meetings = Some(Meetings {
            waiting: self.waiting.borrow().len() as u64,
            census: table.census(self.world.reactor.now()),
            tally: table.tally(),
        });
        status.forwarded = Some(self.forwards.status());
        if detail == Detail::Sessions {
            status.tunnels = Some(self.tunnel_statuses());
            status.places = self.forwards.place_statuses();
        }
    }
}
