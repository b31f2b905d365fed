//! `midspan socks` and `midspan forward` by jProxy: what they share, and what a forwarded port
//! says.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use tracing::warn;

use super::forward::ForwardReport;
use super::{Advise, agent, secret_file};
use crate::access::jproxy::ClientKey;
use crate::agent::process::BoundSocks;
use crate::agent::settings::{JproxySettings, TunnelForwardSettings};
use crate::agent::socks::tunnel::url::JproxyUrl;
use crate::agent::target::HostPort;
use crate::config::settings::HostFacts;
use crate::protocol::jproxy::Dialect;
use crate::protocol::socks5::Destination;
use crate::runtime::signal::Signals;

/// How a relay of jProxy is spoken with.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct TunnelArgs {
    /// Of a jProxy relay: write packets in this way: spec, as its document has it, or original,
    /// as the Java server does [default: spec]
    #[arg(long, value_name = "DIALECT", value_parser = parse_dialect)]
    dialect: Option<Dialect>,

    /// Go to jproxy:// on other hosts, where everybody on the way can read what goes there, and
    /// change it
    #[arg(long)]
    insecure: bool,
}

impl TunnelArgs {
    /// The settings for these relays.
    pub(super) fn settings(
        self,
        relays: Vec<JproxyUrl>,
        key_file: Option<&Path>,
        host: &HostFacts,
    ) -> anyhow::Result<JproxySettings> {
        let exposed = relays.iter().find(|relay| relay.is_exposed());
        if let Some(relay) = exposed.filter(|_| !self.insecure) {
            Err(anyhow!(
                "{relay} is without TLS and leads to another host for all that is known: who is \
                 on the way could read what goes there, and change it"
            ))
            .usage()
            .advise(
                "write jproxy+tls://HOST:PORT, or an address of this host, or pass --insecure",
            )?;
        }
        let path = key_file.context("no key").usage().advise(
            "pass --key-file FILE with the key that `midspan key` made for jProxy, and whose \
             user file the relay has",
        )?;
        Ok(JproxySettings {
            relays,
            key: Arc::new(read_key(&host.current_dir.join(path))?),
            dialect: self.dialect.unwrap_or_default(),
        })
    }

    /// Refuses them where no relay is of jProxy.
    pub(super) fn check_none(self) -> anyhow::Result<()> {
        ensure!(
            self.dialect.is_none() && !self.insecure,
            "--dialect and --insecure are for relays of jProxy"
        );
        Ok(())
    }
}

fn parse_dialect(written: &str) -> Result<Dialect, String> {
    [Dialect::Spec, Dialect::Original]
        .into_iter()
        .find(|dialect| dialect.as_str() == written)
        .ok_or_else(|| "a dialect is spec or original".to_owned())
}

fn read_key(path: &Path) -> anyhow::Result<ClientKey> {
    let bytes = secret_file::read_bytes("key", path)?;
    let reading = || format!("the key file {}", path.display());
    let key = ClientKey::decode(&bytes).with_context(reading).usage();
    key.advise("a relay of jProxy has keys of its own kind, which `midspan key` makes for it")
}

/// A port that leads to `to`.
pub(super) fn destination(to: Option<&str>) -> anyhow::Result<Destination> {
    let to = to.context("no destination").usage();
    let to = to.advise("pass --to HOST:PORT, where the relay is to connect to")?;
    let HostPort { host, port } = to.parse().context("--to").usage()?;
    let host = host.to_string();
    let host = host.trim_matches(['[', ']']);
    Destination::named(host, port).context("--to").usage()
}

/// Tells where what goes to a relay could be read on the way.
pub(super) fn warn_of_exposed(settings: &JproxySettings) {
    for relay in settings.relays.iter().filter(|relay| relay.is_exposed()) {
        warn!(%relay, "who is on the way can read what goes to this relay, and change it");
    }
}

/// Forwards until it is told to stop.
///
/// # Errors
///
/// A proxy that cannot start.
pub(super) fn forward(settings: &TunnelForwardSettings, signals: Signals) -> anyhow::Result<()> {
    let to = crate::shard::errand::target(&settings.destination);
    let relays = settings.relay.relays.iter();
    let relays: Vec<_> = relays.map(JproxyUrl::to_string).collect();
    let through = format!("to {to} through {}", relays.join(", "));
    let mut bound = BoundSocks::bind_forward(settings, signals)?;
    let listening = bound.address();
    let status = format!("forwards {listening} {through}");
    let report = Some(ForwardReport {
        listening,
        through,
        may_be_ssh: settings.destination.port == 22,
    });
    let shown = agent::show(&settings.agent, &mut bound.fleet, report, status)?;
    warn_of_exposed(&settings.relay);
    shown.end(&bound.serve()?);
    Ok(())
}
