//! `midspan expose` and `midspan forward` by PTTH: their settings, and what they say.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, anyhow, ensure};
use clap::Args;

use super::forward::ForwardReport;
use super::{Advise, agent, quoted, secret_file};
use crate::agent::ptth::asking::Key;
use crate::agent::ptth::process::{BoundExpose, BoundForward};
use crate::agent::ptth::url::{PtthUrl, PtthWay};
use crate::agent::ptth::{DEFAULT_PORT, quic};
use crate::agent::settings::{PtthExposeSettings, PtthForwardSettings, PtthService};
use crate::agent::target::Service;
use crate::config::settings::HostFacts;
use crate::protocol::ptth_http::Name;
use crate::runtime::signal::Signals;

/// The environment variable that holds the key when no file does.
pub(super) const KEY_VARIABLE: &str = "MIDSPAN_KEY";

/// What a relay of PTTH knows a proxy by.
#[derive(Clone, Debug, Args)]
pub(super) struct ProxyKeyArgs {
    /// Of a PTTH relay: the file that holds this proxy's key; without it MIDSPAN_KEY does
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
}

impl ProxyKeyArgs {
    /// The key; `variable` is what `MIDSPAN_KEY` holds.
    pub(super) fn key(&self, host: &HostFacts, variable: Option<&str>) -> anyhow::Result<Key> {
        let text = match (&self.key_file, variable) {
            (Some(path), _) => secret_file::read("key", &host.current_dir.join(path))?,
            (None, Some(key)) => key.to_owned(),
            (None, None) => Err(anyhow!("no key")).usage().advise(format!(
                "pass --key-file FILE, or set {KEY_VARIABLE}; `midspan key NAME --for ptth-server`, \
                 or `ptth-client`, makes one, and prints what the relay's file lists of it"
            ))?,
        };
        let from = match &self.key_file {
            Some(path) => format!("the key file {}", path.display()),
            None => KEY_VARIABLE.to_owned(),
        };
        Key::new(&text).context(from).usage().advise(
            "have it hold the key alone, which is the last line that `midspan key` prints; \
             `midspan key … --key-file FILE` writes such a file",
        )
    }

    /// Refuses a key where none is asked for.
    pub(super) fn check_none(&self) -> anyhow::Result<()> {
        ensure!(
            self.key_file.is_none(),
            "--key-file is for relays of PTTH; a relay of JET asks for none"
        );
        Ok(())
    }
}

/// What listens for these services: each at its port, and one that is alone at the default as
/// well.
pub(super) fn services(services: &[Service<Name>]) -> Vec<PtthService> {
    let at = |port: &Name, service: &Service<Name>| PtthService {
        port: port.clone(),
        target: service.target.clone(),
    };
    let mut listened: Vec<PtthService> = services
        .iter()
        .filter_map(|service| Some(at(service.port.as_ref()?, service)))
        .collect();
    let default = DEFAULT_PORT.parse().expect("letters are a name");
    if let [alone] = services
        && alone.port.as_ref() != Some(&default)
    {
        listened.push(at(&default, alone));
    }
    listened
}

/// The server's name at the relay.
pub(super) fn server_name(written: &str) -> anyhow::Result<Name> {
    written.parse().context("NAME").usage()
}

/// Exposes until it is told to stop.
///
/// # Errors
///
/// A proxy that cannot start, or that the relay does not let listen.
pub(super) fn expose(settings: &PtthExposeSettings, signals: Signals) -> anyhow::Result<()> {
    let status = format!("exposes \"{}\" through {}", settings.name, settings.relay);
    let report = Some(ExposeReport(settings));
    if settings.relay.way == PtthWay::Quic {
        let mut bound = quic::process::BoundExpose::bind(settings, signals)?;
        let shown = agent::show(&settings.agent, &mut bound.fleet, report, status)?;
        shown.end(&bound.serve()?);
    } else {
        let mut bound = BoundExpose::bind(settings, signals)?;
        let shown = agent::show(&settings.agent, &mut bound.fleet, report, status)?;
        shown.end(&bound.serve()?);
    }
    Ok(())
}

/// Forwards until it is told to stop.
///
/// # Errors
///
/// A proxy that cannot start.
pub(super) fn forward(settings: &PtthForwardSettings, signals: Signals) -> anyhow::Result<()> {
    let (to, relay) = (&settings.destination, &settings.relay);
    let through = format!("to {to} through {relay}");
    let status = |listening| format!("forwards {listening} {through}");
    let report = |listening| {
        Some(ForwardReport {
            listening,
            through: through.clone(),
            may_be_ssh: matches!(to.port.as_str(), "22" | "ssh" | DEFAULT_PORT),
        })
    };
    if relay.way == PtthWay::Quic {
        let mut bound = quic::process::BoundForward::bind(settings, signals)?;
        let at = bound.address();
        let shown = agent::show(&settings.agent, &mut bound.fleet, report(at), status(at))?;
        shown.end(&bound.serve()?);
    } else {
        let mut bound = BoundForward::bind(settings, signals)?;
        let at = bound.address();
        let shown = agent::show(&settings.agent, &mut bound.fleet, report(at), status(at))?;
        shown.end(&bound.serve()?);
    }
    Ok(())
}

/// What an exposing proxy says, and what to do where it is wanted.
#[derive(Debug)]
pub(super) struct ExposeReport<'a>(pub(super) &'a PtthExposeSettings);

impl fmt::Display for ExposeReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PtthExposeSettings {
            name,
            relay,
            services,
            ..
        } = self.0;
        writeln!(f, "exposing \"{name}\" through {relay}")?;
        for PtthService { port, target } in services {
            writeln!(f, "  port {port} leads to {target}")?;
        }
        writeln!(
            f,
            "\nWhere it is wanted, with the key of a client that the relay lists:"
        )?;
        // One that is alone has two ports, and is named by its own.
        let is_named = |service: &&PtthService| {
            service.port.as_str() != DEFAULT_PORT
                || !services
                    .iter()
                    .any(|other| other.port != service.port && other.target == service.target)
        };
        for PtthService { port, target } in services.iter().filter(is_named) {
            let to = match port.as_str() {
                DEFAULT_PORT => name.to_string(),
                port => format!("{name}:{port}"),
            };
            let number = port.as_str().parse().ok().or(target.port());
            let local = super::expose::local_port(number);
            let relay = quoted(&full_url(relay));
            writeln!(
                f,
                "  midspan forward {local} --to {to} --relay {relay} --key-file FILE"
            )?;
            if number == Some(22) {
                writeln!(f, "  ssh -p {local} 127.0.0.1")?;
            }
        }
        Ok(())
    }
}

/// The relay's URL with its pin, for others to use.
fn full_url(relay: &PtthUrl) -> String {
    match relay.pin {
        Some(pin) => format!("{relay}?pin={pin}"),
        None => relay.to_string(),
    }
}
