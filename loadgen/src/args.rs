//! The command line.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum, value_parser};
use midspan::access::Fingerprint;
use midspan::protocol::jet::Transport;
use midspan::protocol::jproxy::Dialect;
use serde::Serialize;

/// Load for relays and proxies: bytes, round trips, joins, idle pairs
#[derive(Clone, Debug, Parser)]
#[command(
    version,
    after_help = "\
Examples:
  midspan-loadgen bulk --jet 127.0.0.1:8080 --pairs 64 --relay-pid $(pidof midspan)
  midspan-loadgen echo --target 127.0.0.1:9000 --backend 127.0.0.1:9001 --pairs 64
  midspan-loadgen join --socks 127.0.0.1:1080 --concurrency 4
  midspan-loadgen bulk --ptth 127.0.0.1:8080 --server-key KEY --client-key KEY
  midspan-loadgen bulk --direct
  midspan-loadgen link --delay 0.02 --loss 1"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in all")]
pub(crate) enum Task {
    #[command(flatten)]
    Load(Scenario),
    /// Be a slow link from this host to itself: what is sent to one address
    /// arrives at another, later, in another order, or not at all
    Link(LinkArgs),
}

/// What load to make.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Move as many bytes as go through, in one direction
    Bulk(BulkArgs),
    /// Send messages to and fro, and time them
    Echo(EchoArgs),
    /// Open a pair, move one byte, close it, again and again
    Join(JoinArgs),
    /// Open many pairs that carry nothing, and see what memory they take
    Idle(IdleArgs),
}

impl Scenario {
    pub(crate) const fn route(&self) -> &RouteArgs {
        match self {
            Self::Bulk(args) => &args.route,
            Self::Echo(args) => &args.route,
            Self::Join(args) => &args.route,
            Self::Idle(args) => &args.route,
        }
    }

    pub(crate) const fn output(&self) -> &OutputArgs {
        match self {
            Self::Bulk(args) => &args.output,
            Self::Echo(args) => &args.output,
            Self::Join(args) => &args.output,
            Self::Idle(args) => &args.output,
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BulkArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,
    #[command(flatten)]
    pub(crate) flow: FlowArgs,
    #[command(flatten)]
    pub(crate) window: WindowArgs,
    /// How many pairs
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = value_parser!(u32).range(1..=PAIRS_MAX))]
    pub(crate) pairs: u32,
    /// Move so many bytes per pair, instead of for some time
    #[arg(long, value_name = "N", conflicts_with_all = ["seconds", "warmup"])]
    pub(crate) bytes: Option<u64>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EchoArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,
    #[command(flatten)]
    pub(crate) window: WindowArgs,
    /// How many pairs
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = value_parser!(u32).range(1..=PAIRS_MAX))]
    pub(crate) pairs: u32,
    /// Bytes of one message
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    #[arg(value_parser = value_parser!(u32).range(1..=1 << 20))]
    pub(crate) size: u32,
    /// Send so many messages per second, over all pairs, and time each from
    /// when it should have been sent; without it each pair sends as soon as it
    /// has its answer
    #[arg(long, value_name = "PER_SECOND", value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rate: Option<u32>,
    /// Meanwhile run so many bulk pairs, which are not timed
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = value_parser!(u32).range(0..=PAIRS_MAX))]
    pub(crate) beside_bulk: u32,
    #[command(flatten)]
    pub(crate) flow: FlowArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct JoinArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,
    /// So many at a time; the byte that each carries tells which one it is
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = value_parser!(u16).range(1..=256))]
    pub(crate) concurrency: u16,
    /// So many in all
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Open loop: start so many a second, spread evenly; latencies count from
    /// then [default: the next as soon as one ended]
    #[arg(long, value_name = "PER_SECOND", value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rate: Option<u32>,
    /// Do so many before measuring [default: a tenth, at most 500]
    #[arg(long, value_name = "N")]
    pub(crate) warmup: Option<u32>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,
    /// How many pairs; each takes two descriptors here and two in the relay
    #[arg(long, value_name = "N", default_value_t = 9_000)]
    #[arg(value_parser = value_parser!(u32).range(1..=PAIRS_MAX))]
    pub(crate) pairs: u32,
    /// Wait so long with all pairs open before measuring
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    pub(crate) settle: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A link from this host to itself. It takes a network device of its own, and so root or
/// `CAP_NET_ADMIN`; `unshare --net` keeps it away from everybody else.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LinkArgs {
    /// Name of the network device
    #[arg(long, value_name = "NAME", default_value = "midspan0")]
    pub(crate) device: String,
    /// Where everything arrives: an address of the device
    #[arg(long, value_name = "IPV4", default_value = "10.99.0.1")]
    pub(crate) near: Ipv4Addr,
    /// What to send to; whoever answers answers to it as well
    #[arg(long, value_name = "IPV4", default_value = "10.99.0.2")]
    pub(crate) far: Ipv4Addr,
    /// How long each packet is on its way; a round trip has it twice
    #[arg(long, value_name = "SECONDS", default_value = "0.01", value_parser = seconds)]
    pub(crate) delay: Duration,
    /// Up to so much longer, each packet for itself: later ones overtake
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub(crate) jitter: Duration,
    /// So many packets of a hundred are lost
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    pub(crate) loss: f64,
    /// At most so many packets are on their way; more are lost
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) packets_max: u32,
    /// Draw chances from here: the same packets meet the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// End after so long
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    pub(crate) seconds: Duration,
}

/// The way from one leg of a pair to the other.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RouteArgs {
    /// Nothing between: what the generator itself can do
    #[arg(long, required_unless_present_any = ["target", "socks", "jet", "ptth", "jproxy"])]
    #[arg(conflicts_with_all = ["target", "socks", "jet", "ptth", "jproxy"])]
    pub(crate) direct: bool,
    /// A proxy that dials the backend for each connection
    #[arg(
        long,
        value_name = "ADDR:PORT",
        requires = "backend",
        conflicts_with_all = ["socks", "jet", "ptth", "jproxy"]
    )]
    pub(crate) target: Option<SocketAddr>,
    /// To the proxy, all is one HTTP request and its answer: their bodies' chunks are the
    /// messages. Not for joins
    #[arg(long, requires = "target", conflicts_with = "near")]
    pub(crate) http: bool,
    /// A SOCKS5 proxy, which is asked for the backend by each connection
    #[arg(long, value_name = "ADDR:PORT", conflicts_with_all = ["jet", "ptth", "jproxy"])]
    pub(crate) socks: Option<SocketAddr>,
    /// Send a SOCKS5 proxy the request together with the greeting: a round trip
    /// less, which not every proxy takes
    #[arg(long, conflicts_with_all = ["direct", "target", "jet", "ptth", "jproxy"])]
    pub(crate) at_once: bool,
    /// Where the generator's own backend listens, to which the proxy dials
    /// [default with --socks and --jproxy: a free port of this host]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) backend: Option<SocketAddr>,
    /// A JET relay: both legs dial it
    #[arg(long, value_name = "ADDR:PORT", conflicts_with_all = ["ptth", "jproxy"])]
    pub(crate) jet: Option<SocketAddr>,
    /// A relay that forwards ports by PTTH over HTTP: each pair is a tunnel of four requests,
    /// of which each message is a chunk
    #[arg(long, value_name = "ADDR:PORT", requires_all = ["server_key", "client_key"])]
    pub(crate) ptth: Option<SocketAddr>,
    /// As whose ports they are forwarded: a server that the relay knows
    #[arg(long, value_name = "NAME", default_value = "home", requires = "ptth")]
    pub(crate) server: String,
    /// That server's key
    #[arg(long, value_name = "KEY", requires = "ptth")]
    pub(crate) server_key: Option<String>,
    /// The key of a client who may reach that server
    #[arg(long, value_name = "KEY", requires = "ptth")]
    pub(crate) client_key: Option<String>,
    /// A relay that serves jProxy: each pair is a tunnel with one channel, which is asked for the
    /// backend
    #[arg(
        long,
        value_name = "ADDR:PORT",
        requires = "key_file",
        conflicts_with = "ptth"
    )]
    pub(crate) jproxy: Option<SocketAddr>,
    /// The key of a client whom that relay knows
    #[arg(long, value_name = "FILE", requires = "jproxy")]
    pub(crate) key_file: Option<PathBuf>,
    /// The dialect of jProxy
    #[arg(long, value_enum, default_value = "spec", requires = "jproxy")]
    pub(crate) dialect: DialectWord,
    /// Version of JET; with 1 the relay makes the ids, with 2 the generator
    /// does (the relay needs --create-on-accept)
    #[arg(long, value_name = "1|2", default_value = "1", requires = "jet")]
    pub(crate) jet_version: JetVersion,
    /// What to tell a JET relay about how its reply is read
    #[arg(long, value_enum, default_value = "off", requires = "jet")]
    pub(crate) gate: GateWord,
    /// By what the near leg dials: the connector, or a proxy's client
    #[arg(long, value_enum, default_value = "tcp")]
    #[arg(conflicts_with_all = ["direct", "socks", "ptth", "jproxy"])]
    pub(crate) near: TransportWord,
    /// By what the far leg dials a JET relay: the acceptor
    #[arg(long, value_enum, default_value = "tcp", requires = "jet")]
    pub(crate) far: TransportWord,
    /// The certificate to meet over TLS: its SHA-256
    #[arg(long, value_name = "SHA256")]
    pub(crate) pin: Option<Fingerprint>,
    /// Process of the relay, whose CPU and memory are measured; repeat for
    /// several
    #[arg(long, value_name = "PID")]
    pub(crate) relay_pid: Vec<u32>,
    /// Run on this core
    #[arg(long, value_name = "CORE")]
    pub(crate) cpu: Option<usize>,
}

/// By what a leg dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportWord {
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl TransportWord {
    pub(crate) const fn transport(self) -> Transport {
        match self {
            Self::Tcp => Transport::Tcp,
            Self::Tls => Transport::Tls,
            Self::Ws => Transport::Ws,
            Self::Wss => Transport::Wss,
        }
    }
}

/// What a client of jProxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DialectWord {
    Spec,
    Original,
}

impl DialectWord {
    pub(crate) const fn dialect(self) -> Dialect {
        match self {
            Self::Spec => Dialect::Spec,
            Self::Original => Dialect::Original,
        }
    }
}

/// The version of JET that both legs speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum JetVersion {
    #[value(name = "1")]
    V1,
    #[value(name = "2")]
    V2,
}

/// What to say in `Jet-Gate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GateWord {
    /// Say `Jet-Gate: off`
    Off,
    /// Leave the header out, as foreign clients do
    Hold,
}

/// What bulk pairs do with bytes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct FlowArgs {
    /// Where bytes come from
    #[arg(long, value_enum, default_value = "sendfile")]
    pub(crate) source: SourceKind,
    /// What the receiver does with them
    #[arg(long, value_enum, default_value = "discard")]
    pub(crate) sink: SinkKind,
    /// From the acceptor to the connector, instead of the other way
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Bytes of one message, or of one call, where the sender is not plain TCP
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 10)]
    #[arg(value_parser = value_parser!(u32).range(1..=64 << 10))]
    pub(crate) message: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SourceKind {
    /// Pages of a file in memory, without a copy
    Sendfile,
    /// A buffer, copied
    Copy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SinkKind {
    /// Drop them in the kernel
    Discard,
    /// Read them into a buffer
    Copy,
    /// Read them and compare each with what was sent
    Verify,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct WindowArgs {
    /// Measure for so long
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Run for so long before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) warmup: Duration,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// Tell each second how it goes [default: on a terminal]
    #[arg(long)]
    pub(crate) progress: bool,
    /// Write the figures as JSON into this file; `-` for standard output
    /// instead of the text
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the latencies as an HDR percentile distribution into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sendfile => "sendfile",
            Self::Copy => "copy",
        })
    }
}

impl fmt::Display for SinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discard => "discard",
            Self::Copy => "copy",
            Self::Verify => "verify",
        })
    }
}

/// More pairs than any descriptor limit allows.
const PAIRS_MAX: i64 = 500_000;

/// An hour: a forgotten run ends by itself.
const SECONDS_MAX: f64 = 3600.0;

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("not a number of seconds: {text:?}"))?;
    if !(0.0..=SECONDS_MAX).contains(&seconds) {
        return Err(format!("not from 0 to {SECONDS_MAX} seconds: {text}"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text
        .parse()
        .map_err(|_| format!("not a number: {text:?}"))?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(format!("not from 0 to 100 percent: {text}"));
    }
    Ok(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(
            ["midspan-loadgen"]
                .into_iter()
                .chain(line.split_whitespace()),
        )
    }

    #[test]
    fn one_route_is_needed() {
        for (line, accepted) in [
            ("bulk --direct", true),
            ("bulk", false),
            ("bulk --direct --jet 127.0.0.1:1", false),
            ("echo --target 127.0.0.1:1", false),
            ("echo --target 127.0.0.1:1 --backend 127.0.0.1:2", true),
            ("join --socks 127.0.0.1:1", true),
            (
                "join --socks 127.0.0.1:1 --backend 127.0.0.1:2 --at-once",
                true,
            ),
            ("join --socks 127.0.0.1:1 --jet 127.0.0.1:2", false),
            ("join --socks 127.0.0.1:1 --near tls", false),
            ("bulk --jproxy 127.0.0.1:1 --key-file key.dat", true),
            ("bulk --jproxy 127.0.0.1:1", false),
            (
                "bulk --jproxy 127.0.0.1:1 --key-file k --socks 127.0.0.1:2",
                false,
            ),
            ("join --jet 127.0.0.1:1 --at-once", false),
            ("join --jet 127.0.0.1:1 --jet-version 2 --gate hold", true),
            ("join --jet 127.0.0.1:1 --concurrency 257", false),
            ("join --jet 127.0.0.1:1 --rate 0", false),
            ("idle --jet 127.0.0.1:1 --pairs 9000 --settle 0.1", true),
            ("join --ptth 127.0.0.1:1", false),
            (
                "join --ptth 127.0.0.1:1 --server-key a --client-key b",
                true,
            ),
            (
                "join --ptth 127.0.0.1:1 --server-key a --client-key b --near tls",
                false,
            ),
            ("bulk --jet 127.0.0.1:1 --http", false),
            (
                "bulk --target 127.0.0.1:1 --backend 127.0.0.1:2 --http",
                true,
            ),
            ("bulk --direct --bytes 5 --seconds 3", false),
            ("bulk --direct --seconds 4000", false),
            ("link --delay 0.02 --jitter 0.01 --loss 0.5", true),
            ("link --loss 101", false),
            ("link --near ::1", false),
        ] {
            assert_eq!(parse(line).is_ok(), accepted, "{line}");
        }
    }
}
