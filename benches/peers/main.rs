//! `midspan relay` beside HAProxy and nginx: CPU, latency and memory of each,
//! in the same run, on the same cores, under the same load.
//!
//! Each cell runs in a network namespace of its own with reno.
//! `benches/README.md` says what rows and columns mean.

mod chain;
mod column;
mod host;
mod jproxy;
mod namespace;
mod quic;
mod row;
mod socks;
mod table;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;

use crate::column::{Column, Figure, Length};
use crate::host::Host;
use crate::namespace::Namespace;
use crate::row::Row;
use crate::table::Table;

/// Measure midspan beside HAProxy and nginx
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Args {
    /// Only these rows, by what their names contain; repeat for several
    #[arg(long, value_name = "TEXT")]
    rows: Vec<String>,
    /// Only these columns, by what their names contain; repeat for several
    #[arg(long, value_name = "TEXT")]
    columns: Vec<String>,
    /// Only these tables, by what their titles contain; repeat for several
    #[arg(long, value_name = "TEXT")]
    tables: Vec<String>,
    /// Measure every cell so many times
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: u32,
    /// Measure for so long each time
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    seconds: f64,
    /// One short run of each: does it work? Its figures mean nothing
    #[arg(long, alias = "test")]
    quick: bool,
    /// Write the tables and the host into this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// The relay runs on this core
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    relay_core: usize,
    /// The load generator runs on this core
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    generator_core: usize,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut sections = sections(&args);
    let rows: Vec<_> = sections.iter().flat_map(|section| &section.rows).collect();
    host::find_peers(&rows)?;
    if rows.iter().any(|row| matches!(row, Row::QuinnChain { .. })) {
        quic::build_quinn_chain()?;
    }
    do_without_rathole_unless_found(&mut sections)?;
    namespace::become_root()?;
    let host = Host::prepare(args.relay_core, args.generator_core)?;
    let (runs, length) = match args.quick {
        true => (1, Length::SHORTEST),
        false => (args.runs, Length::of(args.seconds)),
    };

    let mut text = String::new();
    let mut has_failure_of_ours = false;
    for Section {
        title,
        rows,
        columns,
    } in sections
    {
        let mut table = Table::new(&rows, &columns);
        for run in 1..=runs {
            for row in &rows {
                progress(&format!("{title}, run {run} of {runs}: {}", row.name()))?;
                let measured = |column: &&Column| row.is_measured_by(**column);
                for column in columns.iter().filter(measured) {
                    match measure(&host, row, *column, length) {
                        Ok(figures) => table.add(row, &figures),
                        Err(error) => {
                            progress(&format!("failed: {error:#}"))?;
                            table.add_failure(row, *column);
                        }
                    }
                }
            }
        }
        let note = match rows.iter().any(Row::is_jproxy) {
            true => format!(
                "\nopenssl's aes-128-ecb by itself: {:.4} CPU-s/GiB\n",
                jproxy::cipher_cpu_s_per_gib()?
            ),
            false => String::new(),
        };
        let section = format!("### {title}\n\n{table}{note}");
        write!(io::stdout(), "{section}")?;
        text += &section;
        has_failure_of_ours |= table.has_failure_of_ours();
    }
    if let Some(path) = &args.markdown {
        text += &host.report()?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(
        !has_failure_of_ours,
        "a cell without a peer in it failed; why is told above"
    );
    Ok(())
}

/// rathole is beside the tables for who has it, and no part of what they compare: without it they
/// are whole.
fn do_without_rathole_unless_found(sections: &mut [Section]) -> anyhow::Result<()> {
    let is_rathole = |row: &Row| matches!(row, Row::Rathole { .. });
    let is_wanted = sections
        .iter()
        .any(|section| section.rows.iter().any(is_rathole));
    if is_wanted && let Err(error) = quic::find_rathole() {
        progress(&format!("no rows with rathole: {error:#}"))?;
        for section in sections {
            section.rows.retain(|row| !is_rathole(row));
        }
    }
    Ok(())
}

/// One table, as far as it is asked for.
#[derive(Clone)]
struct Section {
    title: &'static str,
    rows: Vec<Row>,
    columns: Vec<Column>,
}

fn sections(args: &Args) -> Vec<Section> {
    let sections = [
        ("plain", Row::all(), &Column::ALL[..]),
        ("over tls", Row::over_tls(), &Column::WRAPPED),
        ("over websocket", Row::over_websocket(), &Column::WRAPPED),
        ("over http", Row::over_http(), &Column::HTTP),
        ("forwarded over quic", Row::over_quic(), &Column::QUIC),
        ("across cores", Row::across_cores(), &Column::ACROSS),
        ("through socks", Row::through_socks(), &Column::SOCKS),
        ("by jproxy", Row::by_jproxy(), &Column::JPROXY),
        (
            "through socks, far away",
            Row::through_socks_far_away(),
            &Column::FAR_AWAY,
        ),
    ]
    .map(|(title, rows, columns)| Section {
        title,
        rows: chosen(&rows, &args.rows, Row::name),
        columns: chosen(columns, &args.columns, |column| column.name().to_owned()),
    });
    chosen(&sections, &args.tables, |section| section.title.to_owned())
}

/// One cell once, with a relay and a namespace of its own, so that no cell
/// inherits another one's memory or connections.
fn measure(
    host: &Host,
    row: &Row,
    column: Column,
    length: Length,
) -> anyhow::Result<Vec<(Figure, f64)>> {
    let namespace = Namespace::new()?;
    let mut chain = row.start(host, &namespace)?;
    let route = row.route(host);
    let figures = host
        .load(&namespace, &column.load(length), &route, &chain.pids()?)
        .and_then(|report| column.figures(&report));
    chain.check().with_context(|| row.name())?;
    figures.with_context(|| format!("{}: {}", row.name(), column.name()))
}

/// All, or those whose name contains one of the texts.
fn chosen<T: Clone>(all: &[T], texts: &[String], name: impl Fn(&T) -> String) -> Vec<T> {
    let is_wanted =
        |one: &&T| texts.is_empty() || texts.iter().any(|text| name(one).contains(text.as_str()));
    all.iter().filter(is_wanted).cloned().collect()
}

fn progress(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "{text}")
}
