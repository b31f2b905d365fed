//! `idle`: many pairs that carry nothing, and the memory that they take.

use anyhow::Context;
use midspan::runtime::Owner;
use midspan::runtime::reactor::Closing;
use midspan::runtime::readiness::Readiness;
use midspan::runtime::socket::Socket;
use midspan::time::Timestamp;
use std::time::Duration;

use super::{Errors, Outcome, Stage};
use crate::args::IdleArgs;
use crate::event_loop::Load;
use crate::relay_usage::{Memory, RelayUsage};
use crate::report::{Figures, IdleFigures, Report};
use crate::route::open_pairs;

const TAG: u8 = 1;

pub(super) fn run(args: &IdleArgs, stage: &mut Stage) -> anyhow::Result<Outcome> {
    let memory = |relay: &Option<RelayUsage>| relay.as_ref().map(RelayUsage::memory).transpose();
    // Before anything is dialled: the first connection may allocate too.
    let before = memory(&stage.relay)?;
    let start = stage.read()?;
    let pairs = open_pairs(&mut stage.event_loop, &stage.route, TAG, args.pairs)
        .context("each pair takes two descriptors here and two in the relay")?;
    let mut load = Idle::default();
    let until = stage.event_loop.reactor.now() + args.settle;
    stage.event_loop.run_until(&mut load, until, |_| false);
    let with_pairs = memory(&stage.relay)?;
    let window = stage.window_since(start)?;
    for pair in pairs {
        let reactor = &stage.event_loop.reactor;
        if pair.near.socket.poll_now().is_read_closed()
            || pair.far.socket.poll_now().is_read_closed()
        {
            load.errors.add("a pair ended before its time");
        }
        pair.close(reactor, Closing::Clean);
    }
    let per_pair = |bytes: fn(Memory) -> u64| {
        Some(bytes(with_pairs? - before?) as f64 / f64::from(args.pairs))
    };
    let figures = IdleFigures {
        pairs: args.pairs,
        memory_before: before,
        memory_with_pairs: with_pairs,
        rss_bytes_per_pair: per_pair(|memory| memory.rss_bytes),
        anonymous_bytes_per_pair: per_pair(|memory| memory.anonymous_bytes),
    };
    let report = Report::new(&stage.route, window, load.errors, Figures::Idle(figures));
    Ok(Outcome {
        report,
        latency: None,
    })
}

#[derive(Default)]
struct Idle {
    errors: Errors,
}

impl Load for Idle {
    fn handle_ready(&mut self, _: Owner, _: Readiness) {}

    fn handle_accepted(&mut self, _: Socket) {
        self.errors.add("an unexpected connection to the backend");
    }

    fn run(&mut self, _: Timestamp) -> bool {
        false
    }

    fn progress(&mut self, _: Duration) -> String {
        "all pairs are open".to_owned()
    }
}
