//! Seeded simulation: random actions against the pure rooms, and against codecs
//! in the engine over real sockets, under a fake clock, compared with a naive
//! model after each.
//!
//! `MIDSPAN_SIM_SEEDS` sets how many seeds run, and `MIDSPAN_SIM_SEED` replays
//! one. A failure names both its seed and the command.

#![expect(
    clippy::disallowed_types,
    reason = "tests of one process take turns, and no shard waits"
)]

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

mod mux;
mod pair;
mod rendezvous;
mod ring_pair;
mod transform;

const SEEDS: u64 = 256;

/// Held by whoever opens sockets, as one of them counts what is open.
static SOCKETS: Mutex<()> = Mutex::new(());

/// Runs the simulation called `name` once for each seed.
fn for_each_seed(name: &str, mut run: impl FnMut(fastrand::Rng)) {
    let seeds = match number("MIDSPAN_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MIDSPAN_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let result = catch_unwind(AssertUnwindSafe(|| run(fastrand::Rng::with_seed(seed))));
        assert!(
            result.is_ok(),
            "seed {seed} failed; replay it: MIDSPAN_SIM_SEED={seed} cargo test --test sim {name}"
        );
    }
}

/// While this is held, nobody else opens sockets.
fn alone_with_sockets() -> MutexGuard<'static, ()> {
    SOCKETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether all seeds of a usual run were run, so that every case must have come
/// up.
fn is_full_run() -> bool {
    number("MIDSPAN_SIM_SEED").is_none() && number("MIDSPAN_SIM_SEEDS").is_none_or(|n| n >= SEEDS)
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")),
    )
}
