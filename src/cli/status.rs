//! `midspan status`: how a running relay is, in the terminal.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::{Advise, print};
use crate::admin::Overview;

/// How long the relay may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tell how a running relay is
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  midspan relay --admin 127.0.0.1:9090
  midspan status --admin 127.0.0.1:9090")]
pub struct StatusArgs {
    /// Where the relay shows itself to operators
    #[arg(long, value_name = "ADDR:PORT")]
    admin: SocketAddr,

    /// As JSON, as `/status` has it
    #[arg(long)]
    json: bool,
}

/// Asks and tells.
///
/// # Errors
///
/// When nobody answers there, or somebody else.
pub(super) fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let body = fetch(args.admin)
        .with_context(|| format!("no relay shows itself at {}", args.admin))
        .advise("start it with --admin ADDR:PORT, or set `admin` in its file")?;
    if args.json {
        print(&format_args!("{body}\n"));
        return Ok(());
    }
    let overview: Overview =
        serde_json::from_str(&body).context("what answers there is no relay of this version")?;
    print(&Shown(&overview));
    Ok(())
}

fn fetch(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = format!("GET /status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        Some((head, _)) => bail!("it answers: {}", head.lines().next().unwrap_or_default()),
        None => bail!("it does not answer as HTTP"),
    }
}

struct Shown<'a>(&'a Overview);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(overview) = self;
        let draining = match (overview.draining, overview.shards_ended) {
            (false, _) => String::new(),
            (true, 0) => ", draining".to_owned(),
            (true, ended) => format!(", draining, {ended} have drained"),
        };
        writeln!(
            f,
            "midspan {}, up {} s, {} of {} cores answer{draining}",
            overview.version, overview.uptime_s, overview.shards_answering, overview.shards
        )?;
        let waiting = overview
            .waiting
            .map(|waiting| format!("{waiting} acceptors waiting, "));
        let waiting = waiting.unwrap_or_default();
        writeln!(
            f,
            "  pairs        {} joined, {waiting}{} connections, {} handshakes",
            overview.pairs, overview.connections, overview.handshakes
        )?;
        if let Some(of) = &overview.associations {
            writeln!(
                f,
                "  associations {} known, {} waiting, {} connected; {} created, {} expired, \
                 {} ended, {} deleted",
                of.live, of.waiting, of.connected, of.created, of.expired, of.ended, of.deleted
            )?;
        }
        writeln!(
            f,
            "  memory       {} bytes allocated, {} of them wait to be sent; {} pipes in use, {} idle",
            overview.memory_bytes, overview.spill_bytes, overview.pipes_in_use, overview.pipes_idle
        )?;
        for one in overview.latency.iter().filter(|one| one.count > 0) {
            writeln!(
                f,
                "  {:<12} {} times: median {} us, 99 % {} us, 99.9 % {} us, longest {} us",
                one.name, one.count, one.p50_us, one.p99_us, one.p999_us, one.max_us
            )?;
        }
        for (title, counts) in [
            ("counted", &overview.counts),
            ("ended", &overview.ended),
            ("refused", &overview.refused),
        ] {
            for one in counts.iter().filter(|one| one.count > 0) {
                writeln!(f, "  {title:<12} {} {}", one.count, one.name)?;
            }
        }
        Ok(())
    }
}
