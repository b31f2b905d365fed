//! The relay's engine with one pair, its polls, and a clock that stands still unless
//! it is told.

use std::os::fd::OwnedFd;
use std::time::Duration;

use midspan::config::DataPlane;
use midspan::relay::gate::CHECK_INTERVAL;
use midspan::relay::streaming::TICK;
use midspan::relay::{
    CloseReason, Ended, Engine, EngineSettings, How, LegIo, PairKey, Side, Usage,
};
use midspan::runtime::readiness::Readiness;
use midspan::runtime::socket::Socket;
use midspan::time::Timestamp;
use midspan::tls::SEALED_BYTES_MIN;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFlags, Timespec, epoll};

/// What a direction holds is what one read brought, and its headers.
const HELD_BYTES_MAX: u64 = 2 * ((64 << 10) + SEALED_BYTES_MIN as u64);

/// A gate that nothing else opens is open after so many looks at it.
const GATE_CHECKS: u32 = 20;

/// The sweep looks at one part of the pairs at a time.
const SWEEP_PARTS: u32 = 16;

/// When every pair begins.
pub(super) const BEGINNING: Timestamp = Timestamp::from_nanos(1_000_000_000);

pub(super) struct Relay {
    engine: Engine,
    ping_interval: Duration,
    epoll: OwnedFd,
    now: Timestamp,
    pair: PairKey,
    pub(super) ended: Option<Outcome>,
    /// Sockets whose peers have the last word.
    parting: Vec<Socket>,
}

/// What the engine told of the pair's end.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) reason: CloseReason,
    pub(super) bytes: [u64; 2],
}

impl Relay {
    pub(super) fn new(settings: EngineSettings, left: LegIo, right: LegIo) -> Self {
        let mut engine = Engine::new(settings);
        let now = BEGINNING;
        let pair = engine.start(left, right, DataPlane::Auto, now);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        for side in Side::BOTH {
            // As edges, which is how the reactor tells them.
            let flags = epoll::EventFlags::IN
                | epoll::EventFlags::OUT
                | epoll::EventFlags::RDHUP
                | epoll::EventFlags::ET;
            let data = epoll::EventData::new_u64(side.index() as u64);
            if let Some(socket) = engine.socket(pair, side) {
                epoll::add(&epoll, socket, data, flags).expect("a poll");
            }
        }
        Self {
            engine,
            ping_interval: settings.ping.interval,
            epoll,
            now,
            pair,
            ended: None,
            parting: Vec::new(),
        }
    }

    /// One turn of the shard's loop, in which so many events are heard; false when
    /// nothing happened.
    pub(super) fn turn(&mut self, events_max: usize) -> bool {
        let mut events = Vec::with_capacity(events_max);
        let at_once = Timespec::default();
        epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&at_once)).expect("events");
        for event in &events {
            let side = Side::BOTH[usize::from(event.data.u64() == 1)];
            let bits = u16::try_from({ event.flags }.bits() & 0xffff).expect("16 bits");
            let readiness = Readiness::from_poll(PollFlags::from_bits_retain(bits));
            self.engine.handle_readiness(self.pair, side, readiness);
        }
        let has_work = self.engine.has_work();
        if has_work {
            self.engine.run_quantum(self.now);
        }
        while self.engine.poll_begun().is_some() {}
        if let Some(ended) = self.engine.poll_ended() {
            self.close(ended);
        }
        self.parting.retain(is_talking);
        assert!(self.engine.usage().spill_bytes <= HELD_BYTES_MAX);
        has_work || !events.is_empty()
    }

    fn close(&mut self, ended: Ended) {
        assert_eq!(ended.pair, self.pair);
        for (socket, how) in ended.sockets.into_iter().zip(ended.how) {
            // The polls go first.
            let _ = epoll::delete(&self.epoll, &socket);
            match how {
                How::Clean => {}
                How::Reset => socket.set_linger_reset().expect("an open socket"),
                How::Parting if socket.shutdown_write().is_ok() => self.parting.push(socket),
                How::Parting => {}
            }
        }
        let outcome = Outcome {
            reason: ended.reason,
            bytes: ended.bytes,
        };
        assert!(self.ended.replace(outcome).is_none(), "a second end");
    }

    /// Ends the pair, if it has not ended before.
    pub(super) fn terminate(&mut self) {
        self.engine.abort(self.pair, CloseReason::Terminated);
    }

    /// Whether the pair has ended and no socket of it is left.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some() && self.parting.is_empty()
    }

    /// An idle pair owns its slot and its codecs alone, and gives the loop nothing to
    /// do; one that has ended does not even own these.
    pub(super) fn assert_nothing_held(&self) {
        let usage = self.engine.usage();
        let expected = Usage {
            pairs: usize::from(self.ended.is_none()),
            pipes_idle: usage.pipes_idle,
            ..Usage::default()
        };
        assert_eq!(usage, expected);
        assert!(!self.engine.has_work());
    }

    /// Without a pair no time is waited for.
    pub(super) fn assert_nothing_due(&self) {
        assert_eq!(self.engine.next_deadline(), None);
    }

    /// Bytes that were never copied.
    pub(super) fn spliced_bytes(&self) -> u64 {
        self.engine.counters().spliced_bytes
    }

    /// Lets so much time pass that streams are looked at.
    pub(super) fn pass_tick(&mut self) {
        self.now = self.now + TICK;
        self.engine.handle_deadline(self.now);
    }

    /// Lets so much time pass that no leg may still have to read its reply.
    pub(super) fn open_gates(&mut self) {
        for _ in 0..GATE_CHECKS {
            self.now = self.now + CHECK_INTERVAL;
            self.engine.handle_deadline(self.now);
        }
    }

    /// Lets so much time pass that each leg is looked at once, in which nothing comes.
    pub(super) fn pass_ping_interval(&mut self) {
        for _ in 0..SWEEP_PARTS {
            self.now = self.now + self.ping_interval / SWEEP_PARTS;
            self.engine.handle_deadline(self.now);
        }
    }
}

/// Reads away what comes; false at the end.
fn is_talking(socket: &Socket) -> bool {
    let mut waste = [0; 4096];
    loop {
        match socket.recv(&mut waste) {
            Ok(1..) => {}
            Ok(0) => return false,
            Err(error) => return error == rustix::io::Errno::AGAIN,
        }
    }
}
