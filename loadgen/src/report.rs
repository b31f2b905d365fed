//! What a run tells: text for people, JSON for programs.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::args::{SinkKind, SourceKind};
use crate::histogram::Latency;
use crate::relay_usage::Memory;
use crate::route::Route;
use crate::scenario::Errors;

/// Bytes of one GiB.
pub(crate) const GIB: f64 = 1_073_741_824.0;

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) route: &'static str,
    /// What went wrong: with any, the figures are not to be trusted.
    pub(crate) errors: u64,
    /// The first errors in words.
    pub(crate) errors_first: Vec<String>,
    #[serde(flatten)]
    pub(crate) window: Window,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// The time that was measured, and whose CPU it took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Window {
    pub(crate) seconds: f64,
    /// `None` without `--relay-pid`.
    pub(crate) relay_cpu_s: Option<f64>,
    /// The same of each process, in the order in which they were named.
    pub(crate) relay_cpu_s_each: Option<Vec<f64>>,
    pub(crate) generator_cpu_s: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "scenario", rename_all = "lowercase")]
pub(crate) enum Figures {
    Bulk(BulkFigures),
    Echo(EchoFigures),
    Join(JoinFigures),
    Idle(IdleFigures),
}

#[derive(Debug, Serialize)]
pub(crate) struct BulkFigures {
    pub(crate) pairs: u32,
    pub(crate) source: SourceKind,
    pub(crate) sink: SinkKind,
    pub(crate) bytes: u64,
    pub(crate) gib_per_s: f64,
    pub(crate) relay_cpu_s_per_gib: Option<f64>,
    /// The same of each process.
    pub(crate) relay_cpu_s_per_gib_each: Option<Vec<f64>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct EchoFigures {
    pub(crate) pairs: u32,
    pub(crate) size_bytes: u32,
    pub(crate) rate_per_s: Option<u32>,
    pub(crate) beside_bulk_pairs: u32,
    pub(crate) round_trips: u64,
    pub(crate) round_trips_per_s: f64,
    /// With bulk pairs beside, their share is in it.
    pub(crate) relay_cpu_us_per_round_trip: Option<f64>,
    pub(crate) latency: Latency,
    pub(crate) bulk_gib_per_s: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct JoinFigures {
    pub(crate) concurrency: u16,
    pub(crate) rate_per_s: Option<u32>,
    pub(crate) joins: u64,
    pub(crate) joins_per_s: f64,
    pub(crate) relay_cpu_us_per_join: Option<f64>,
    /// From the first dial, or when it was intended, to the byte's arrival.
    pub(crate) latency: Latency,
}

#[derive(Debug, Serialize)]
pub(crate) struct IdleFigures {
    pub(crate) pairs: u32,
    pub(crate) memory_before: Option<Memory>,
    pub(crate) memory_with_pairs: Option<Memory>,
    pub(crate) rss_bytes_per_pair: Option<f64>,
    pub(crate) anonymous_bytes_per_pair: Option<f64>,
}

impl Report {
    pub(crate) fn new(route: &Route, window: Window, errors: Errors, figures: Figures) -> Self {
        Self {
            route: route.name(),
            errors: errors.count,
            errors_first: errors.first,
            window,
            figures,
        }
    }
}

/// Tells the report: as text, and as JSON where asked for.
pub(crate) fn write(report: &Report, json: Option<&Path>) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match json {
        Some(path) if path.as_os_str() == "-" => {
            serde_json::to_writer_pretty(&mut stdout, report)?;
            writeln!(stdout)?;
            return Ok(());
        }
        Some(path) => {
            let file =
                File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            serde_json::to_writer_pretty(file, report)?;
        }
        None => {}
    }
    write!(stdout, "{report}").context("cannot write the report")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Window {
            seconds,
            relay_cpu_s,
            generator_cpu_s,
            ..
        } = self.window;
        match &self.figures {
            Figures::Bulk(figures) => figures.fmt(f)?,
            Figures::Echo(figures) => figures.fmt(f)?,
            Figures::Join(figures) => figures.fmt(f)?,
            Figures::Idle(figures) => figures.fmt(f)?,
        }
        write!(f, "measured     {seconds:.2} s")?;
        for (who, cpu_s) in [("relay", relay_cpu_s), ("generator", generator_cpu_s)] {
            if let Some(cpu_s) = cpu_s {
                write!(f, ", {who} {cpu_s:.3} CPU-s")?;
            }
        }
        writeln!(f, ", {} errors", self.errors)?;
        for error in &self.errors_first {
            writeln!(f, "  error      {error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for BulkFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pairs,
            source,
            sink,
            ..
        } = self;
        writeln!(
            f,
            "bulk         {pairs} pairs, source {source}, sink {sink}"
        )?;
        writeln!(f, "throughput   {:.3} GiB/s", self.gib_per_s)?;
        cost(f, self.relay_cpu_s_per_gib, "CPU-s per GiB")?;
        match self.relay_cpu_s_per_gib_each.as_deref() {
            None | Some([] | [_]) => Ok(()),
            Some(each) => {
                let each: Vec<_> = each.iter().map(|cpu_s| format!("{cpu_s:.4}")).collect();
                writeln!(f, "each         {}", each.join(", "))
            }
        }
    }
}

impl fmt::Display for EchoFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pairs, size_bytes, ..
        } = self;
        write!(f, "echo         {pairs} pairs, {size_bytes} bytes")?;
        match self.rate_per_s {
            Some(rate) => write!(f, ", intended {rate}/s")?,
            None => write!(f, ", closed loop")?,
        }
        if self.beside_bulk_pairs > 0 {
            let (pairs, rate) = (self.beside_bulk_pairs, self.bulk_gib_per_s);
            write!(f, ", beside {pairs} bulk pairs with {rate:.3} GiB/s")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "round trips  {:.0}/s, {} in all",
            self.round_trips_per_s, self.round_trips
        )?;
        writeln!(f, "latency      {}", self.latency)?;
        cost(f, self.relay_cpu_us_per_round_trip, "CPU µs per round trip")
    }
}

impl fmt::Display for JoinFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            concurrency, joins, ..
        } = self;
        write!(f, "join         {joins} joins, {concurrency} at a time")?;
        match self.rate_per_s {
            Some(rate) => writeln!(f, ", intended {rate}/s")?,
            None => writeln!(f, ", closed loop")?,
        }
        writeln!(f, "joins        {:.0}/s", self.joins_per_s)?;
        writeln!(f, "latency      {}", self.latency)?;
        cost(f, self.relay_cpu_us_per_join, "CPU µs per join")
    }
}

impl fmt::Display for IdleFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "idle         {} pairs", self.pairs)?;
        if let (Some(before), Some(with_pairs)) = (self.memory_before, self.memory_with_pairs) {
            let (before, with_pairs) = (before.rss_bytes >> 10, with_pairs.rss_bytes >> 10);
            writeln!(
                f,
                "relay RSS    {before} KiB before, {with_pairs} KiB with pairs"
            )?;
        }
        cost(f, self.rss_bytes_per_pair, "bytes of user memory per pair")?;
        cost(f, self.anonymous_bytes_per_pair, "of them anonymous")
    }
}

fn cost(f: &mut fmt::Formatter<'_>, figure: Option<f64>, unit: &str) -> fmt::Result {
    match figure {
        Some(figure) if figure < 10.0 => writeln!(f, "relay        {figure:.4} {unit}"),
        Some(figure) => writeln!(f, "relay        {figure:.1} {unit}"),
        None => Ok(()),
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.1} µs, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}",
            self.p50_us, self.p90_us, self.p99_us, self.p99_9_us, self.max_us
        )
    }
}
