//! What one shard of the agent does for its clients now: for its log, and for operators.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;

use ahash::RandomState;
use tracing::{field, info};

use super::SocksWorld;
use crate::metrics::ACCESS_LOG;
use crate::relay::Side;
use crate::runtime::clock;
use crate::shard::errand::Errand;
use crate::shard::peer_address::PeerAddress;
use crate::shard::session_log::{Session, millis};
use crate::shard::status::{SESSIONS_TOLD_MAX, SessionStatus, SessionStatuses};
use crate::time::Timestamp;

/// All that runs, by number.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pairs: RefCell<HashMap<u64, Rc<Errand>, RandomState>>,
    tasks: RefCell<HashMap<u64, Rc<Task>, RandomState>>,
    last: Cell<u64>,
}

/// What is done for a client by a task, and not as a pair.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) kind: TaskKind,
    /// The client.
    pub(super) peer: PeerAddress,
    pub(super) since: Timestamp,
    /// Where to; datagrams each have their own.
    pub(super) target: Option<Box<str>>,
    pub(super) way: Rc<str>,
    /// Bytes that came from the client, and from the other side, and were passed on.
    pub(super) bytes: [Cell<u64>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskKind {
    /// An HTTP request is passed on.
    Exchange,
    /// Datagrams are.
    Datagrams,
    /// A relay awaits somebody.
    Bind,
}

/// A task that runs, until this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    journal: Rc<Journal>,
    number: u64,
    task: Rc<Task>,
}

impl Journal {
    /// Enters what a pair is for; gives the number that is to be its context.
    pub(super) fn begin_pair(&self, errand: Errand) -> u64 {
        let number = self.next_number();
        self.pairs.borrow_mut().insert(number, Rc::new(errand));
        number
    }

    /// What a pair is for.
    pub(super) fn pair(&self, number: u64) -> Option<Rc<Errand>> {
        self.pairs.borrow().get(&number).cloned()
    }

    /// A pair has ended.
    pub(super) fn end_pair(&self, number: u64) {
        self.pairs.borrow_mut().remove(&number);
    }

    /// Enters a task.
    pub(super) fn begin(self: &Rc<Self>, task: Task) -> Running {
        let (number, task) = (self.next_number(), Rc::new(task));
        self.tasks.borrow_mut().insert(number, Rc::clone(&task));
        Running {
            journal: Rc::clone(self),
            number,
            task,
        }
    }

    /// Tasks of this kind that run.
    pub(super) fn count(&self, kind: TaskKind) -> usize {
        let tasks = self.tasks.borrow();
        tasks.values().filter(|task| task.kind == kind).count()
    }

    /// What runs, with the bytes that came from each side.
    pub(super) fn statuses(&self, world: &SocksWorld) -> SessionStatuses {
        let now = clock::now();
        let pairs = self.pairs.borrow();
        let pair = |(session, bytes): (Session<u64>, [u64; 2])| {
            let errand = pairs.get(&session.context)?;
            Some(SessionStatus {
                kind: "pair",
                peer: session.parties[0].peer,
                target: Some(errand.target.clone()),
                way: errand.way.as_deref().map(Box::from),
                bytes,
                lasted: now.since(session.joined_at),
            })
        };
        let told = world
            .sessions_up_to(SESSIONS_TOLD_MAX, |_| true)
            .into_iter();
        let tasks = self.tasks.borrow();
        let task = |task: &Rc<Task>| SessionStatus {
            kind: task.kind.as_str(),
            peer: task.peer,
            target: task.target.clone(),
            way: Some((*task.way).into()),
            bytes: task.bytes.each_ref().map(Cell::get),
            lasted: now.since(task.since),
        };
        let told = told.filter_map(pair).chain(tasks.values().map(task));
        let mut told: Vec<_> = told.take(SESSIONS_TOLD_MAX).collect();
        let mut channels = 0;
        world.muxes.for_each_joined(|channel, bytes| {
            channels += 1;
            if told.len() < SESSIONS_TOLD_MAX {
                told.push(SessionStatus {
                    kind: "channel",
                    peer: channel.peers[0],
                    target: Some(channel.errand.target.clone()),
                    way: channel.errand.way.as_deref().map(Box::from),
                    bytes,
                    lasted: now.since(channel.joined_at),
                });
            }
        });
        SessionStatuses {
            told,
            count: (world.usage().pairs + tasks.len() + channels) as u64,
        }
    }

    fn next_number(&self) -> u64 {
        let next = self.last.get() + 1;
        self.last.set(next);
        next
    }
}

impl Task {
    /// One that begins now, and leads to no one target.
    pub(super) fn new(kind: TaskKind, peer: Option<SocketAddr>, way: Rc<str>) -> Self {
        Self {
            kind,
            peer: peer.into(),
            since: clock::now(),
            target: None,
            way,
            bytes: Default::default(),
        }
    }

    /// Counts what was passed on, from the client or else from the other side.
    pub(super) fn add(&self, side: Side, bytes: usize) {
        let count = &self.bytes[side.index()];
        count.set(count.get() + bytes as u64);
    }

    /// Writes the line of an exchange, which has ended, to the access log.
    pub(super) fn log_exchange(&self, right: PeerAddress, reason: &'static str) {
        let [left_bytes, right_bytes] = self.bytes.each_ref().map(Cell::get);
        info!(
            target: ACCESS_LOG,
            left = %self.peer,
            %right,
            left_bytes,
            right_bytes,
            lasted_ms = millis(clock::now().since(self.since)),
            reason,
            target = self.target.as_ref().map(field::display),
            way = %self.way,
            "exchange ended"
        );
    }
}

impl TaskKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Datagrams => "datagrams",
            Self::Bind => "bind",
        }
    }
}

impl Deref for Running {
    type Target = Task;

    fn deref(&self) -> &Task {
        &self.task
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.journal.tasks.borrow_mut().remove(&self.number);
    }
}
