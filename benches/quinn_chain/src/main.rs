//! A port forwarded by quinn and tokio: what an ordinary program of the kind costs.
//!
//! ```text
//! P1 ── TCP ──> client ── QUIC ──> relay ── QUIC ──> server ── TCP ──> P5
//! ```
//!
//! Three roles, one thread each. Client and server have one QUIC connection each to the relay,
//! and every TCP connection one bidirectional stream on each of the two. Such a stream begins
//! with one byte each way: the open, and its answer once the server is connected with P5.

mod endpoint;
mod proxies;
mod pump;
mod relay;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Forward a port by quinn and tokio
#[derive(Debug, Parser)]
#[command(name = "quinn_chain")]
struct Args {
    #[command(flatten)]
    quic: QuicArgs,
    #[command(subcommand)]
    role: Role,
}

/// What all roles' QUIC is set to.
#[derive(Debug, clap::Args)]
struct QuicArgs {
    /// The relay's certificate and its key, in one file; the proxies trust it
    #[arg(long, value_name = "FILE")]
    pem: PathBuf,
    /// The longest UDP payload to try for, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1452)]
    mtu: u16,
    /// Prefer AES of 128 bits and keep 1 MiB unacknowledged, as midspan does on loopback; else
    /// what rustls prefers, and 8 MiB
    #[arg(long)]
    as_ours: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Join the client's streams with the server's
    Relay {
        /// Where to listen, UDP
        listen: SocketAddr,
    },
    /// Connect each of the relay's streams with a target
    Server {
        relay: SocketAddr,
        /// What to connect with, TCP
        target: SocketAddr,
    },
    /// Open a stream for each connection
    Client {
        relay: SocketAddr,
        /// Where to listen, TCP
        listen: SocketAddr,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Args { quic, role } = Args::parse();
    match role {
        Role::Relay { listen } => relay::run(&quic, listen).await,
        Role::Server { relay, target } => proxies::serve(&quic, relay, target).await,
        Role::Client { relay, listen } => proxies::listen(&quic, relay, listen).await,
    }
}

/// Tells whoever has started it that it is ready, or what went wrong.
fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
