//! `midspan status`: how a running relay or agent is, in the terminal.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::{Advise, print};
use crate::admin::{ForwardedView, Overview, QuicView, RelayView, SessionView};

/// How long the relay may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tell how a running relay is, or one of its two ends, or a local proxy port
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  midspan relay --admin 127.0.0.1:9090        # or expose, forward or socks
  midspan status --admin 127.0.0.1:9090")]
pub struct StatusArgs {
    /// Where it shows itself to operators
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
        .with_context(|| format!("nothing shows itself at {}", args.admin))
        .advise("start it with --admin ADDR:PORT, or set `admin` in a relay's file")?;
    if args.json {
        print(&format_args!("{body}\n"));
        return Ok(());
    }
    let overview: Overview =
        serde_json::from_str(&body).context("what answers there is no midspan of this version")?;
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
        let others = [
            (overview.exchanges, "http exchanges"),
            (overview.datagram_associations, "datagram associations"),
            (overview.jproxy_tunnels, "jproxy tunnels"),
            (overview.jproxy_channels, "jproxy channels"),
            (overview.binds, "binds that await somebody"),
        ];
        if others
            .iter()
            .any(|(count, _)| count.is_some_and(|count| count > 0))
        {
            let known = others
                .iter()
                .filter_map(|(count, what)| Some(((*count)?, what)));
            let told: Vec<_> = known
                .map(|(count, what)| format!("{count} {what}"))
                .collect();
            writeln!(f, "  others       {}", told.join(", "))?;
        }
        if let Some(wrong @ 1..) = overview.jproxy_files_wrong {
            writeln!(
                f,
                "  wrong        {wrong} users' files of jproxy; the log says which"
            )?;
        }
        if let Some(of) = &overview.associations {
            writeln!(
                f,
                "  associations {} known, {} waiting, {} connected; {} created, {} expired, \
                 {} ended, {} deleted",
                of.live, of.waiting, of.connected, of.created, of.expired, of.ended, of.deleted
            )?;
        }
        if let Some(of) = overview.forwarded.as_ref().filter(|of| of.is_in_use()) {
            show_forwarded(f, of)?;
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
        for relay in &overview.relays {
            show_relay(f, relay)?;
        }
        if let Some(quic) = overview.quic.as_ref().filter(|quic| quic.is_in_use()) {
            show_quic(f, quic)?;
        }
        for session in overview.sessions.iter().flatten() {
            show_session(f, session)?;
        }
        let told = overview.sessions.as_ref().map_or(0, Vec::len) as u64;
        let untold = overview
            .sessions_count
            .unwrap_or_default()
            .saturating_sub(told);
        if untold > 0 {
            writeln!(f, "  and {untold} sessions more")?;
        }
        Ok(())
    }
}

fn show_forwarded(f: &mut fmt::Formatter<'_>, of: &ForwardedView) -> fmt::Result {
    writeln!(
        f,
        "  tunnels      {} whole, {} listens waiting, {} connects waiting",
        of.tunnels, of.listens_waiting, of.connects_waiting
    )?;
    for one in of.events.iter().filter(|one| one.count > 0) {
        writeln!(f, "  tunnels      {} {}", one.count, one.name)?;
    }
    for port in &of.ports {
        writeln!(
            f,
            "  port         {}:{}, {} listens waiting, {} connects waiting",
            port.server, port.port, port.listens_waiting, port.connects_waiting
        )?;
    }
    for tunnel in &of.running {
        writeln!(
            f,
            "  tunnel       {} at {} to {}:{} at {}, {} and {} bytes, {} s",
            tunnel.client,
            tunnel.left,
            tunnel.server,
            tunnel.port,
            tunnel.right,
            tunnel.left_bytes,
            tunnel.right_bytes,
            tunnel.lasted_s
        )?;
    }
    Ok(())
}

fn show_quic(f: &mut fmt::Formatter<'_>, quic: &QuicView) -> fmt::Result {
    let counts = quic.connections_count.iter().filter(|one| one.count > 0);
    let counts: Vec<_> = counts
        .map(|one| format!("{} {}", one.count, one.name))
        .collect();
    writeln!(
        f,
        "  quic         {} at the other end, {} streams, longest round trip {} us",
        counts.join(", "),
        quic.streams_count,
        quic.round_trip_max_us
    )?;
    for one in &quic.connections {
        writeln!(
            f,
            "  connection   {} {} at {}, round trip {} us, window {} bytes, {} of {} packets lost, \
             datagrams of {} bytes, {} s",
            one.role,
            one.name.as_deref().unwrap_or("-"),
            one.peer,
            one.round_trip_us,
            one.congestion_window_bytes,
            one.packets_lost,
            one.packets_sent,
            one.mtu_bytes,
            one.lasted_s
        )?;
    }
    for stream in &quic.streams {
        let or_here = |name: &Option<String>| name.clone().unwrap_or_else(|| "here".to_owned());
        writeln!(
            f,
            "  stream       {} from port {} at {} to {}:{} at {}, {} and {} bytes, {} s",
            or_here(&stream.client),
            stream.client_port,
            stream.left,
            or_here(&stream.server),
            stream.port.as_deref().unwrap_or("-"),
            stream.right,
            stream.left_bytes,
            stream.right_bytes,
            stream.lasted_s
        )?;
    }
    Ok(())
}

fn show_relay(f: &mut fmt::Formatter<'_>, relay: &RelayView) -> fmt::Result {
    write!(f, "  relay        {}: ", relay.relay)?;
    if let Some(of) = relay.entrances {
        write!(
            f,
            "{} entrances ready, {} opened, {} used that were ready and {} fresh; ",
            of.entrances_ready,
            of.entrances_opened,
            of.entrances_used_ready,
            of.entrances_used_fresh
        )?;
    }
    match relay.shards_down {
        0 => write!(f, "not down")?,
        1 => write!(f, "down for 1 core")?,
        down => write!(f, "down for {down} cores")?,
    }
    if let Some(last) = &relay.last_failure {
        // Others' words may be in it.
        let error = last.error.escape_debug();
        write!(
            f,
            "; last failure {} s ago: {} ({error})",
            last.ago_s, last.why
        )?;
    }
    writeln!(f)
}

fn show_session(f: &mut fmt::Formatter<'_>, session: &SessionView) -> fmt::Result {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    writeln!(
        f,
        "  {:<12} {} to {} by {}, {} and {} bytes, {} s",
        session.kind,
        session.peer,
        or_none(&session.target),
        or_none(&session.way),
        session.left_bytes,
        session.right_bytes,
        session.lasted_s
    )
}
