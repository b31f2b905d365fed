//! The scenarios, and what they have in common: a window that is measured.

mod bulk;
mod echo;
mod idle;
mod join;

use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use midspan::runtime::{clock, cores, kernel};
use midspan::time::Timestamp;

use crate::args::Scenario;
use crate::event_loop::EventLoop;
use crate::relay_usage::RelayUsage;
use crate::report::{Report, Window};
use crate::route::Route;

/// How long pairs may take to end after the measured window.
const ENDING_TIMEOUT: Duration = Duration::from_secs(30);

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) report: Report,
    pub(crate) latency: Option<Histogram<u64>>,
}

/// Everything that a scenario works with.
struct Stage {
    event_loop: EventLoop,
    route: Route,
    relay: Option<RelayUsage>,
    generator: Option<RelayUsage>,
}

/// Runs the scenario that was asked for.
pub(crate) fn run(scenario: &Scenario) -> anyhow::Result<Outcome> {
    let route_args = scenario.route();
    if let Some(core) = route_args.cpu {
        cores::pin_thread(core).with_context(|| format!("cannot run on core {core}"))?;
    }
    // Raises the descriptor limit, and says what is missing.
    kernel::probe()?;
    let event_loop = EventLoop::new(scenario.output().progress)?;
    let mut stage = Stage {
        route: Route::prepare(route_args, &event_loop.reactor)?,
        event_loop,
        relay: RelayUsage::of(&route_args.relay_pid),
        generator: RelayUsage::of(&[std::process::id()]),
    };
    let outcome = match scenario {
        Scenario::Bulk(args) => bulk::run(args, &mut stage),
        Scenario::Echo(args) => echo::run(args, &mut stage),
        Scenario::Join(args) => join::run(args, &mut stage),
        Scenario::Idle(args) => idle::run(args, &mut stage),
    };
    stage.event_loop.close();
    outcome
}

/// The clock and the CPU counters at one end of a window.
#[derive(Clone, Debug)]
struct Reading {
    at: Timestamp,
    /// Of each process.
    relay_ns: Option<Vec<u64>>,
    generator_ns: Option<Vec<u64>>,
}

impl Stage {
    fn read(&self) -> anyhow::Result<Reading> {
        let cpu_ns = |usage: &Option<RelayUsage>| usage.as_ref().map(RelayUsage::cpu_ns);
        Ok(Reading {
            relay_ns: cpu_ns(&self.relay).transpose()?,
            generator_ns: cpu_ns(&self.generator).transpose()?,
            at: clock::now(),
        })
    }

    /// What passed since `start`.
    fn window_since(&self, start: Reading) -> anyhow::Result<Window> {
        let end = self.read()?;
        let cpu_s = |from: Option<Vec<u64>>, to: Option<Vec<u64>>| -> Option<Vec<f64>> {
            let each = from?.into_iter().zip(to?);
            let passed = each.map(|(from, to)| Duration::from_nanos(to.saturating_sub(from)));
            Some(passed.map(|passed| passed.as_secs_f64()).collect())
        };
        let sum = |each: &Vec<f64>| each.iter().sum();
        let relay_cpu_s_each = cpu_s(start.relay_ns, end.relay_ns);
        Ok(Window {
            seconds: end.at.since(start.at).as_secs_f64(),
            relay_cpu_s: relay_cpu_s_each.as_ref().map(sum),
            relay_cpu_s_each,
            generator_cpu_s: cpu_s(start.generator_ns, end.generator_ns)
                .as_ref()
                .map(sum),
        })
    }
}

/// What went wrong: the count, and the first few in words.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    pub(crate) count: u64,
    pub(crate) first: Vec<String>,
}

impl Errors {
    /// Errors told in words; the rest is only counted.
    const TOLD_MAX: usize = 5;

    fn append(&mut self, other: Self) {
        self.count += other.count;
        self.first.extend(other.first);
        self.first.truncate(Self::TOLD_MAX);
    }

    fn add(&mut self, error: impl ToString) {
        self.count += 1;
        if self.first.len() < Self::TOLD_MAX {
            self.first.push(error.to_string());
        }
    }
}
