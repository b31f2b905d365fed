//! `midspan socks` and `midspan forward` by jProxy: what they share, and what a forwarded port
//! says.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use tracing::warn;

use super::forward::ForwardReport;
use super::{Advise, agent, secret_file};
use crate::access::jproxy::{ClientKey, TunnelUser};
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
            "pass --key-file FILE with the key that `midspan key jproxy` made, and whose \
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
    let bytes = secret_file::read_bytes("key", path).advise_missing(
        "pass the file that `midspan key jproxy` wrote to its --key-file; whoever runs the relay \
         makes it, and gives it to you",
    )?;
    let reading = || format!("the key file {}", path.display());
    let key = ClientKey::decode(&bytes).with_context(reading).usage();
    if key.is_err() && TunnelUser::is_file(&bytes) {
        Err(anyhow!(
            "this is a user's file, of the relay's side, and wanted is the client's key"
        ))
        .with_context(reading)
        .usage()
        .advise(
            "pass what `midspan key jproxy` wrote to its --key-file; a user's file is for the \
                 directory that the relay has under [jproxy] users, and for nobody else",
        )?;
    }
    key.advise("a relay of jProxy has keys of its own kind, which `midspan key jproxy` makes")
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
        // Nothing is exposed by jProxy.
        ssh_server: (settings.destination.port == 22).then_some("listens"),
    });
    let shown = agent::show(&settings.agent, &mut bound.fleet, report, status)?;
    warn_of_exposed(&settings.relay);
    shown.end(&bound.serve()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::super::any_relay::AnyRelay;
    use super::super::failure::reported;
    use super::super::{Cli, Command};
    use super::*;
    use crate::agent::settings::RelaySettings;

    const KEY: &[u8] = include_bytes!("../../tests/vectors/jproxy/jproxy_key.dat");

    const USER: &[u8] = include_bytes!(
        "../../tests/vectors/jproxy/FE2B4AD50CCB8261A64F9017E487026D7A4FE6F2A1AC7D416BED71679B71715D.dat"
    );

    /// What these arguments come to, `KEY` among them being alice's file.
    fn settings(args: &str) -> Result<JproxySettings, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = |name: &str, secret: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, secret).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
            path.display().to_string()
        };
        let args = args.replace("KEY", &secret("key.dat", KEY));
        let args = args.replace("USER", &secret("user.dat", USER));
        let args = args.replace("TEXT", &secret("text", b"a password\n"));
        let host = HostFacts {
            cores_allowed: vec![0],
            ..HostFacts::example()
        };
        let words = ["midspan"].into_iter().chain(args.split_whitespace());
        let settings = match Cli::try_parse_from(words) {
            Ok(Cli {
                command: Command::Socks(args),
            }) => {
                args.settings(&host, Some("x".to_owned()))
                    .map(|settings| match settings.relays {
                        RelaySettings::Jproxy(settings) => settings,
                        RelaySettings::Websocks(other) => panic!("{other:?}"),
                    })
            }
            Ok(Cli {
                command: Command::Forward(args),
            }) => match args.relay() {
                Some(AnyRelay::Jproxy(relay)) => args
                    .tunnel_settings(relay, &host)
                    .map(|settings| settings.relay),
                _ => args
                    .settings(&host, None)
                    .map(|settings| panic!("{settings:?}")),
            },
            Ok(other) => panic!("{other:?}"),
            Err(error) => return Err(error.to_string()),
        };
        settings.map_err(|error| reported(&error))
    }

    #[test]
    fn tunnels_have_a_key_and_a_dialect() {
        let tls = "--relay jproxy+tls://relay:1 --key-file KEY";
        for (args, dialect, relays) in [
            (format!("socks 1080 {tls}"), Dialect::Spec, 1),
            (
                format!("socks 1080 {tls} --relay jproxy://127.0.0.1 --dialect original"),
                Dialect::Original,
                2,
            ),
            (
                "socks 1 --relay jproxy://192.0.2.1 --key-file KEY --insecure".to_owned(),
                Dialect::Spec,
                1,
            ),
            (
                format!("forward 1 --to [::1]:22 {tls} --dialect spec"),
                Dialect::Spec,
                1,
            ),
        ] {
            let settings = settings(&args).expect(&args);
            assert_eq!(
                (settings.dialect, settings.relays.len()),
                (dialect, relays),
                "{args}"
            );
            let key = ClientKey::decode(KEY).expect("a key");
            assert_eq!(settings.key.hash(), key.hash());
        }
        let bracketed = destination(Some("[::1]:22")).expect("a destination");
        assert_eq!(
            bracketed,
            "[::1]:22"
                .parse::<std::net::SocketAddr>()
                .expect("one")
                .into()
        );
    }

    #[test]
    fn wrong_arguments_say_why() {
        let (tls, plain) = ("--relay jproxy+tls://relay:1", "--relay jproxy://192.0.2.1");
        let websocks = "--relay websocks+ws://alice@relay:80";
        for (args, part) in [
            (
                format!("socks 1 {tls}"),
                "no key\n  next: pass --key-file FILE",
            ),
            (
                format!("socks 1 {tls} --key-file TEXT"),
                "ends within the key\n  next: a relay of jProxy has keys of its own kind",
            ),
            (
                format!("socks 1 {tls} --key-file USER"),
                "this is a user's file, of the relay's side",
            ),
            (
                format!("socks 1 {tls} {websocks} --key-file KEY"),
                "of WebSocks and of jProxy\n  next: start one `midspan socks` for each",
            ),
            (
                format!("socks 1 {plain} --key-file KEY"),
                "without TLS and leads to another host",
            ),
            (
                format!("socks 1 {tls} --key-file KEY --pool 4"),
                "--pool is for relays of WebSocks\n  next: leave it out",
            ),
            (
                format!("socks 1 {tls} --key-file KEY --framed"),
                "--framed is for relays of WebSocks\n  next: leave it out",
            ),
            (
                format!("socks 1 {tls} --key-file KEY --password-file TEXT"),
                "--password-file is for relays of WebSocks\n  next: pass --key-file FILE instead",
            ),
            (
                format!("socks 1 {websocks} --key-file KEY"),
                "--key-file is for relays of jProxy",
            ),
            (
                format!("socks 1 {websocks} --dialect spec"),
                "--dialect and --insecure are for relays of jProxy",
            ),
            (
                format!("socks 1 {tls} --dialect java"),
                "a dialect is spec or original",
            ),
            (
                format!("forward 1 {tls} --key-file KEY"),
                "no destination\n  next: pass --to HOST:PORT",
            ),
            (
                format!("forward 1 --to home {tls} --key-file KEY"),
                "--to: \"home\" has no port",
            ),
            (
                format!("forward 1 --to a:1 {plain} --key-file KEY"),
                "next: write jproxy+tls://HOST:PORT",
            ),
            (
                format!("forward 1 --to a:1 {tls} --key-file KEY --mtu-max 1400"),
                "--mtu-max are for ptth+quic://",
            ),
            (
                "forward 1 --to x --insecure".to_owned(),
                "--dialect and --insecure are for relays of jProxy",
            ),
        ] {
            let error = settings(&args).expect_err(&args);
            assert!(error.contains(part), "{args}: {error}");
        }
    }
}
