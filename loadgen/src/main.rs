//! `midspan-loadgen`: load for relays and proxies, and what it costs them.
//!
//! One thread and one io_uring make both ends of every pair: the connector
//! dials the relay, the acceptor dials it too (JET) or is dialled by it (any
//! other proxy), or nobody stands between them. So every byte and every
//! latency is checked and timed against one clock, and with the relay's
//! process id its CPU and memory are told per unit of work.
//!
//! | module | what it holds |
//! |---|---|
//! | `args` | the command line |
//! | `scenario` | `bulk`, `echo`, `join`, `idle` |
//! | `route` | how the two legs of a pair come about |
//! | `exchange` | what a leg says before it is one |
//! | `jet`, `socks`, `jproxy` | the client's side of each |
//! | `ptth`, `heads`, `bodies` | the peers' side of PTTH over HTTP, and HTTP for it |
//! | `event_loop` | the loop that all scenarios run in |
//! | `peer` | what a leg does with bytes: sources and sinks |
//! | `schedule` | when an open loop intends to send |
//! | `link` | a slow link from this host to itself, to put between |
//! | `histogram`, `relay_usage`, `report` | what was measured, and how it is told |
//!
//! Left out: more than one thread. Start a second one for a second relay core.

mod args;
mod bodies;
mod event_loop;
mod exchange;
mod heads;
mod histogram;
mod jet;
mod jproxy;
mod link;
mod peer;
mod ptth;
mod relay_usage;
mod report;
mod route;
mod scenario;
mod schedule;
mod socks;
mod wrapped;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Scenario, Task};

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Load(scenario) => run(&scenario),
        Task::Link(args) => link::run(&args).map(|()| 0),
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to tell it to when this fails.
            let _ = writeln!(io::stderr(), "midspan-loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one scenario and returns how many errors it counted.
fn run(scenario: &Scenario) -> anyhow::Result<u64> {
    let outcome = scenario::run(scenario)?;
    let output = scenario.output();
    report::write(&outcome.report, output.json.as_deref())?;
    if let (Some(path), Some(latency)) = (&output.hgrm, &outcome.latency) {
        histogram::write_hgrm(path, latency)?;
    }
    Ok(outcome.report.errors)
}
