//! `midspan expose` and `midspan forward` by PTTH: their settings, and what they say.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use clap::Args;

use super::forward::ForwardReport;
use super::{Advise, AgentArgs, agent, secret_file};
use crate::access::jproxy::{ClientKey, TunnelUser};
use crate::agent::ptth::DEFAULT_PORT;
use crate::agent::ptth::process::{BoundExpose, BoundForward};
use crate::agent::ptth::proof::Proof;
use crate::agent::ptth::url::{PtthUrl, PtthWay};
use crate::agent::settings::{AgentSettings, PtthExposeSettings, PtthForwardSettings, PtthService};
use crate::agent::target::Service;
use crate::config::Congestion;
use crate::config::quic_settings::{MTU_MAX, MTU_MIN, PathSettings};
use crate::config::settings::HostFacts;
use crate::config::shell_word::quoted;
use crate::protocol::ptth_http::Name;
use crate::runtime::signal::Signals;

/// The environment variable that holds the key when no file does.
pub(super) const KEY_VARIABLE: &str = "MIDSPAN_KEY";

/// What to do about a key that is none.
const KEY_ADVICE: &str = "have it hold the key alone, which is the last line that `midspan key` \
    prints; `midspan key … --key-file FILE` writes such a file, and with --certificate FILE one of \
    a private key";

/// What a relay of PTTH knows a proxy by.
#[derive(Clone, Debug, Args)]
pub(super) struct ProxyKeyArgs {
    /// Of a PTTH relay: the file that holds this proxy's key, or, over QUIC, the private key of
    /// its certificate in PEM; without it MIDSPAN_KEY does
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
}

/// How a connection by QUIC goes.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct PathArgs {
    /// Over QUIC: find out so how much may be sent: cubic, newreno, or bbr, which is experimental
    /// [default: cubic]
    #[arg(long, value_enum, value_name = "WAY", hide_possible_values = true)]
    congestion: Option<Congestion>,

    /// Over QUIC: try for datagrams of so many bytes; longer ones than 1452, up to 8952, need a
    /// relay with such a quic.mtu_max [default: 1452]
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u16).range(i64::from(MTU_MIN)..=i64::from(MTU_MAX))
    )]
    mtu_max: Option<u16>,
}

impl PathArgs {
    /// The settings for such a relay; `None` is one that is not of PTTH.
    pub(super) fn settings(self, relay: Option<&PtthUrl>) -> anyhow::Result<PathSettings> {
        let is_quic = relay.is_some_and(|relay| relay.way == PtthWay::Quic);
        let is_silent = self.congestion.is_none() && self.mtu_max.is_none();
        ensure!(
            is_quic || is_silent,
            "--congestion and --mtu-max are for ptth+quic://: over TCP, the host's settings hold"
        );
        Ok(PathSettings {
            congestion: self.congestion.unwrap_or_default(),
            mtu_max: self.mtu_max.unwrap_or(PathSettings::DEFAULT.mtu_max),
        })
    }
}

impl ProxyKeyArgs {
    /// What this relay knows the proxy by; `variable` is what `MIDSPAN_KEY` holds.
    pub(super) fn proof(
        &self,
        relay: &PtthUrl,
        host: &HostFacts,
        variable: Option<&str>,
    ) -> anyhow::Result<Proof> {
        let text = match (&self.key_file, variable) {
            (Some(path), _) => read_key(&host.current_dir.join(path))?,
            (None, Some(key)) => key.to_owned(),
            (None, None) => Err(anyhow!("no key")).usage().advise(format!(
                "pass --key-file FILE, or set {KEY_VARIABLE}; `midspan key NAME --for \
                 ptth-server`, or `ptth-client`, makes one, and prints what the relay's file \
                 lists of it. A relay of JET, which asks for none, is --relay jet+tcp://HOST:PORT"
            ))?,
        };
        let from = match &self.key_file {
            Some(path) => format!("the key file {}", path.display()),
            None => KEY_VARIABLE.to_owned(),
        };
        let proof = Proof::parse(&text)
            .context(from)
            .usage()
            .advise(KEY_ADVICE)?;
        if proof.identity().is_some() && relay.way != PtthWay::Quic {
            Err(anyhow!("a certificate is for ptth+quic:// alone"))
                .usage()
                .advise("make a key without --certificate, and list its SHA-256")?;
        }
        Ok(proof)
    }

    /// Refuses a key where none is asked for.
    pub(super) fn check_none(&self) -> anyhow::Result<()> {
        ensure!(
            self.key_file.is_none(),
            "--key-file is for relays of PTTH and of jProxy; a relay of JET asks for none"
        );
        Ok(())
    }
}

fn read_key(path: &Path) -> anyhow::Result<String> {
    let bytes = secret_file::read_bytes("key", path).advise_missing(
        "pass the file that `midspan key NAME --for ptth-server`, or `ptth-client`, wrote to its \
         --key-file",
    )?;
    let reading = || format!("the key file {}", path.display());
    if ClientKey::decode(&bytes).is_ok() || TunnelUser::is_file(&bytes) {
        Err(anyhow!(
            "this is a key for tunnels of jProxy, and a relay of PTTH knows nobody by it"
        ))
        .with_context(reading)
        .usage()
        .advise(
            "for a relay of jProxy write `midspan socks` or `midspan forward` with --relay \
             jproxy+tls://HOST[:PORT]; for one of PTTH have a key made by `midspan key NAME --for \
             ptth-server`, or `ptth-client`",
        )?;
    }
    let text = String::from_utf8(bytes).context("it is no text");
    text.with_context(reading).usage().advise(KEY_ADVICE)
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

/// What the proxy of this relay runs with.
pub(super) fn agent(
    args: &AgentArgs,
    relay: &PtthUrl,
    host: &HostFacts,
) -> anyhow::Result<AgentSettings> {
    let settings = args.settings(host)?;
    if relay.way == PtthWay::Quic && settings.via.is_some() {
        Err(anyhow!("--via: an HTTP proxy does not pass QUIC on"))
            .usage()
            .advise(format!(
                "pass --relay {}",
                quoted(&full_url(&relay.by_https()))
            ))?;
    }
    Ok(settings)
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
    let mut bound = BoundExpose::bind(settings, signals)?;
    let shown = agent::show(&settings.agent, &mut bound.fleet, report, status)?;
    shown.end(&bound.serve()?);
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
    let mut bound = BoundForward::bind(settings, signals)?;
    let listening = bound.address();
    let status = format!("forwards {listening} {through}");
    let report = Some(ForwardReport {
        listening,
        through,
        ssh_server: matches!(to.port.as_str(), "22" | "ssh" | DEFAULT_PORT).then_some("is exposed"),
    });
    let shown = agent::show(&settings.agent, &mut bound.fleet, report, status)?;
    shown.end(&bound.serve()?);
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        path: PathArgs,
    }

    fn settings(args: &str, relay: Option<&str>) -> Result<PathSettings, String> {
        let relay: Option<PtthUrl> = relay.map(|relay| relay.parse().expect("a URL"));
        let words = ["midspan"].into_iter().chain(args.split_whitespace());
        let only = Only::try_parse_from(words).map_err(|error| error.to_string())?;
        let settings = only.path.settings(relay.as_ref());
        settings.map_err(|error| error.to_string())
    }

    #[test]
    fn a_path_is_chosen_for_quic_alone() {
        let quic = Some("ptth+quic://relay:1");
        let others = [None, Some("ptth+https://relay:1")];
        for relay in others.into_iter().chain([quic]) {
            assert_eq!(settings("", relay), Ok(PathSettings::DEFAULT));
        }
        let chosen = settings("--congestion bbr --mtu-max 8952", quic).expect("valid");
        assert_eq!(
            (chosen.congestion, chosen.mtu_max),
            (Congestion::Bbr, MTU_MAX)
        );
        for (args, relay, part) in [
            ("--congestion newreno", others[0], "are for ptth+quic://"),
            ("--mtu-max 1200", others[1], "are for ptth+quic://"),
            ("--mtu-max 1199", quic, "1199 is not in 1200..=8952"),
            ("--mtu-max 8953", quic, "8953 is not in 1200..=8952"),
            (
                "--congestion reno",
                quic,
                "possible values: cubic, bbr, newreno",
            ),
        ] {
            let error = settings(args, relay).expect_err(args);
            assert!(error.contains(part), "{args}: {error}");
        }
    }
}
