//! `midspan forward`: its arguments, and what it says when it listens.

use std::env;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::Args;

use super::any_relay::AnyRelay;
use super::jproxy::{self, TunnelArgs};
use super::local_listener::LocalListener;
use super::ptth::{self, PathArgs, ProxyKeyArgs};
use super::{Advise, AgentArgs, agent, host, secret_file};
use crate::agent::process::BoundForward;
use crate::agent::ptth::url::PtthUrl;
use crate::agent::settings::{ForwardSettings, PtthForwardSettings, TunnelForwardSettings};
use crate::agent::socks::tunnel::url::JproxyUrl;
use crate::agent::ticket::Ticket;
use crate::config::settings::HostFacts;
use crate::runtime::kernel;
use crate::runtime::signal::Signals;

/// The environment variable that holds the ticket when no argument does.
const TICKET_VARIABLE: &str = "MIDSPAN_TICKET";

/// What the key file is, which elsewhere is of a PTTH relay alone.
const KEY_FILE_HELP: &str = "Of a PTTH relay: the file that holds this proxy's key, or, over QUIC, \
    the private key of its certificate in PEM; without it MIDSPAN_KEY does. Of a jProxy relay: the \
    client's key, which `midspan key jproxy --key-file` made";

/// Open a local port that leads to an exposed service, or to where a relay can connect
///
/// By a ticket or a server's name it leads to what `midspan expose` exposes; by a relay of jProxy
/// to any HOST:PORT that this lets its user reach, where nothing of midspan runs.
///
/// The ticket is a secret, and other users of this machine can see a program's
/// arguments: there, write it to a file and pass --to @FILE, or set
/// MIDSPAN_TICKET instead of --to.
#[derive(Clone, Debug, Args)]
#[command(mut_arg("key_file", |arg| arg.help(KEY_FILE_HELP)))]
#[command(after_help = "\
Examples:
  By a ticket:
  midspan forward 2222 --to jet+tcp://relay.example:8080/ticket/AAECAwQFBgcICQoLDA0ODw/22
  ssh -p 2222 127.0.0.1

  To a server by its name, by PTTH:
  midspan forward 2222 --to home:22 --relay relay.example --key-file alice.key

  To what the relay connects with, by jProxy, with a key of `midspan key jproxy`:
  midspan forward 5432 --to db:5432 --relay jproxy+tls://relay.example --key-file alice.dat
  psql -h 127.0.0.1")]
pub struct ForwardArgs {
    /// Where to listen; a port alone is on 127.0.0.1
    #[arg(value_name = "[ADDR:]PORT")]
    listen: LocalListener,

    /// The ticket that `midspan expose` printed, or @FILE that holds it; at a relay of PTTH
    /// a server's NAME[:PORT]; by one of jProxy HOST:PORT, as the relay resolves it
    #[arg(long, value_name = "TICKET|NAME[:PORT]|HOST:PORT")]
    to: Option<String>,

    /// Meet at this address of the relay instead of the ticket's, jet+WAY://HOST:PORT; or the
    /// relay of PTTH: HOST[:PORT], which is ptth+quic://, or ptth+https://HOST[:PORT]; or the
    /// relay of jProxy: jproxy+tls://HOST[:PORT], or jproxy:// without TLS, with --key-file
    #[arg(long, value_name = "URL")]
    relay: Option<AnyRelay>,

    #[command(flatten)]
    key: ProxyKeyArgs,

    #[command(flatten)]
    path: PathArgs,

    #[command(flatten)]
    tunnel: TunnelArgs,

    #[command(flatten)]
    agent: AgentArgs,
}

impl ForwardArgs {
    /// The settings that these arguments come to; `ticket` is what
    /// `MIDSPAN_TICKET` holds.
    ///
    /// # Errors
    ///
    /// No ticket, or one that cannot be read.
    pub fn settings(
        &self,
        host: &HostFacts,
        ticket: Option<String>,
    ) -> anyhow::Result<ForwardSettings> {
        self.key.check_none().usage()?;
        self.path.settings(None).usage()?;
        self.tunnel.check_none().usage()?;
        let agent = self.agent.settings(host)?;
        let ticket = match (&self.to, ticket) {
            (Some(to), _) => match to.strip_prefix('@') {
                Some(path) => read_ticket(&host.current_dir.join(path))?,
                None => read_to(to)?,
            },
            (None, Some(ticket)) => ticket.trim().parse().context(TICKET_VARIABLE).usage()?,
            (None, None) => Err(anyhow!("no ticket")).usage().advise(format!(
                "pass --to TICKET or --to @FILE, or set {TICKET_VARIABLE}"
            ))?,
        };
        Ok(ForwardSettings {
            listen: self.listen.0,
            ticket: match &self.relay {
                Some(AnyRelay::Jet(relay)) => ticket.with_relay(relay.clone()),
                Some(AnyRelay::Ptth(_) | AnyRelay::Jproxy(_)) | None => ticket,
            },
            agent,
        })
    }

    /// The settings for a relay of PTTH; `key` is what `MIDSPAN_KEY` holds.
    ///
    /// # Errors
    ///
    /// No destination, or no key.
    fn ptth_settings(
        &self,
        relay: &PtthUrl,
        host: &HostFacts,
        key: Option<&str>,
    ) -> anyhow::Result<PtthForwardSettings> {
        self.tunnel.check_none().usage()?;
        let to = self.to.as_deref().context("no server").usage();
        let to = to.advise("pass --to NAME[:PORT], as the relay lists the server")?;
        let destination = to.parse().context("--to").usage();
        Ok(PtthForwardSettings {
            listen: self.listen.0,
            relay: relay.clone(),
            destination: match to.contains("://") || to.starts_with('@') {
                false => destination?,
                true => destination
                    .advise("the relay of a ticket is of JET: --relay jet+tcp://HOST:PORT")?,
            },
            proof: self.key.proof(relay, host, key)?,
            path: self.path.settings(Some(relay)).usage()?,
            agent: ptth::agent(&self.agent, relay, host)?,
        })
    }
}

impl ForwardArgs {
    /// The relay, if it is named apart from a ticket.
    pub(super) const fn relay(&self) -> Option<&AnyRelay> {
        self.relay.as_ref()
    }

    /// The settings for a relay of jProxy.
    ///
    /// # Errors
    ///
    /// No destination, or no key.
    pub(super) fn tunnel_settings(
        &self,
        relay: &JproxyUrl,
        host: &HostFacts,
    ) -> anyhow::Result<TunnelForwardSettings> {
        self.path.settings(None).usage()?;
        let key_file = self.key.key_file.as_deref();
        Ok(TunnelForwardSettings {
            listen: self.listen.0,
            destination: jproxy::destination(self.to.as_deref())?,
            relay: self.tunnel.settings(vec![relay.clone()], key_file, host)?,
            agent: self.agent.settings(host)?,
        })
    }
}

fn read_to(to: &str) -> anyhow::Result<Ticket> {
    let ticket = to.parse().context("--to").usage();
    match to.contains("://") {
        true => ticket,
        // It looks like a name.
        false => ticket.advise("for a server's name pass --relay HOST[:PORT] as well"),
    }
}

fn read_ticket(path: &Path) -> anyhow::Result<Ticket> {
    let ticket = secret_file::read("ticket", path)
        .advise_missing("make it, with the ticket that `midspan expose` printed")?;
    let reading = || format!("the ticket file {}", path.display());
    ticket.trim().parse().with_context(reading)
}

/// Forwards until it is told to stop.
///
/// # Errors
///
/// Arguments that are wrong, or a proxy that cannot start.
pub(super) fn run(args: &ForwardArgs) -> anyhow::Result<()> {
    // Before the first thread, so that every thread leaves signals to a shard.
    let signals = Signals::block().context("cannot block signals")?;
    // Raises the descriptor limit, from which limits are derived.
    kernel::probe()?;
    let host = host::facts()?;
    match args.relay() {
        Some(AnyRelay::Ptth(relay)) => {
            let key = env::var(ptth::KEY_VARIABLE).ok();
            return ptth::forward(&args.ptth_settings(relay, &host, key.as_deref())?, signals);
        }
        Some(AnyRelay::Jproxy(relay)) => {
            return jproxy::forward(&args.tunnel_settings(relay, &host)?, signals);
        }
        Some(AnyRelay::Jet(_)) | None => {}
    }
    let ticket = env::var(TICKET_VARIABLE).ok();
    let settings = args.settings(&host, ticket)?;
    let mut bound = BoundForward::bind(&settings, signals)?;
    let relay = settings.ticket.relay();
    let report = ForwardReport {
        listening: bound.address(),
        through: format!("through {relay}"),
        ssh_server: (settings.ticket.port().is_none_or(|port| port == 22)).then_some("is exposed"),
    };
    let status = format!("forwards {} through {relay}", bound.address());
    let shown = agent::show(&settings.agent, &mut bound.fleet, Some(report), status)?;
    shown.end(&bound.serve()?);
    Ok(())
}

/// What a forwarding proxy that listens says.
#[derive(Debug)]
pub struct ForwardReport {
    /// The address as bound.
    pub listening: SocketAddr,
    /// The way, as `through RELAY`.
    pub through: String,
    /// How an SSH server comes to be there, as `is exposed`, where SSH may answer: the port that is
    /// asked for is SSH's, or tells nothing.
    pub ssh_server: Option<&'static str>,
}

impl fmt::Display for ForwardReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listening,
            through,
            ssh_server,
        } = self;
        let ip = listening.ip();
        let reach = match ip.is_loopback() {
            true => "this host only",
            false => "other hosts can reach it",
        };
        writeln!(f, "forwarding {listening} ({reach}) {through}")?;
        let Some(is_there) = ssh_server else {
            return Ok(());
        };
        let port = listening.port();
        let ip = match ip.is_unspecified() {
            true => IpAddr::from(Ipv4Addr::LOCALHOST),
            false => ip,
        };
        writeln!(
            f,
            "If an SSH server {is_there} there:\n  ssh -p {port} {ip}"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::super::failure::reported;
    use super::super::{Cli, Command};
    use super::*;

    const TICKET: &str = "jet+tcp://relay:1/ticket/AAECAwQFBgcICQoLDA0ODw/22";

    fn host() -> HostFacts {
        HostFacts {
            cores_allowed: vec![0],
            state_dir: None,
            ..HostFacts::example()
        }
    }

    fn parsed(args: &str) -> Result<ForwardArgs, String> {
        let words = ["midspan", "forward"]
            .into_iter()
            .chain(args.split_whitespace());
        match Cli::try_parse_from(words) {
            Ok(Cli {
                command: Command::Forward(args),
            }) => Ok(args),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    fn settings(args: &str, variable: Option<&str>) -> Result<ForwardSettings, String> {
        let settings = parsed(args)?.settings(&host(), variable.map(str::to_owned));
        settings.map_err(|error| reported(&error))
    }

    fn ptth_settings(args: &str) -> Result<PtthForwardSettings, String> {
        let args = parsed(args)?;
        let Some(AnyRelay::Ptth(relay)) = &args.relay else {
            panic!("{args:?}");
        };
        let settings = args.ptth_settings(relay, &host(), Some("key"));
        settings.map_err(|error| reported(&error))
    }

    fn check_error(args: &str, part: &str) {
        let error = match parsed(args).map(|args| args.relay.clone()) {
            Ok(Some(AnyRelay::Ptth(_))) => ptth_settings(args).expect_err(args),
            _ => settings(args, None).expect_err(args),
        };
        assert!(error.contains(part), "{args}: {error}");
        assert!(!error.contains("AAECAw"), "{error}");
    }

    #[test]
    fn tickets_come_by_argument_file_or_environment() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ticket");
        fs::write(&path, format!("{TICKET}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        let by_file = format!("2222 --to @{}", path.display());
        for (args, variable) in [
            (&*format!("2222 --to {TICKET}"), None),
            (&by_file, Some("ignored")),
            ("2222", Some(TICKET)),
        ] {
            let settings = settings(args, variable).expect(args);
            assert_eq!(settings.ticket.to_string(), TICKET);
            assert_eq!(settings.listen.to_string(), "127.0.0.1:2222");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        check_error(&by_file, "can be read by others (mode 0644)");
        check_error(&by_file, "next: if nobody else has read it: chmod 600");
    }

    #[test]
    fn another_address_of_the_relay_may_be_given() {
        let args = format!("[::1]:0 --to {TICKET} --relay jet+tcp://[::1]:9");
        let moved = settings(&args, None).expect("valid");
        assert_eq!(moved.ticket.relay().to_string(), "jet+tcp://[::1]:9");
        assert_eq!(moved.listen.to_string(), "[::1]:0");
        let id = "300f1c82-d33b-11e9-bb65-2a2ae2dbcce5";
        let plain = settings(&format!("1 --to jet+tcp://relay:1/{id}/{id}"), None);
        assert!(matches!(plain.expect("valid").ticket, Ticket::Once(_)));
    }

    #[test]
    fn a_name_is_asked_for_over_quic_if_no_scheme_says_otherwise() {
        let check = |relay: &str, expected: &str| {
            let settings = ptth_settings(&format!("1 --to home:22 --relay {relay}"));
            let settings = settings.expect("valid");
            assert_eq!(settings.relay.to_string(), expected);
            assert_eq!(settings.destination.to_string(), "home:22");
        };
        check("relay.example", "ptth+quic://relay.example:443");
        check("127.0.0.1:8080", "ptth+quic://127.0.0.1:8080");
        check("ptth+https://relay", "ptth+https://relay:443");
        for ticket in [TICKET, "@file"] {
            let args = format!("1 --to {ticket} --relay relay:1");
            check_error(
                &args,
                "next: the relay of a ticket is of JET: --relay jet+tcp",
            );
        }
        check_error(
            "1 --to home --relay relay --via proxy:3128",
            "next: pass --relay ptth+https://relay:443",
        );
    }

    #[test]
    fn ssh_is_named_where_it_may_answer() {
        let check = |ssh_server, expected: &str| {
            let report = ForwardReport {
                listening: ([127, 0, 0, 1], 2222).into(),
                through: "through jet+tcp://relay:1".into(),
                ssh_server,
            };
            let told = report.to_string();
            let (_, behind) = told.split_once('\n').expect("a line");
            assert_eq!(behind, expected);
        };
        check(
            Some("is exposed"),
            "If an SSH server is exposed there:\n  ssh -p 2222 127.0.0.1\n",
        );
        check(
            Some("listens"),
            "If an SSH server listens there:\n  ssh -p 2222 127.0.0.1\n",
        );
        check(None, "");
    }

    #[test]
    fn wrong_arguments_say_why_and_keep_secrets() {
        check_error("2222", "no ticket\n  next: pass --to TICKET");
        check_error(
            "2222 --to https://relay/x",
            "--to: scheme \"https\" is none of jet+tcp, jet+tls",
        );
        check_error(
            "2222 --to jet+tcp://relay:1/ticket/AAECAw",
            "was it copied whole?",
        );
        check_error(
            "2222 --to @/nonexistent",
            "cannot read the ticket file /nonexistent: ",
        );
        check_error(
            &format!("host:22 --to {TICKET}"),
            "is a name; a listener needs",
        );
        check_error(
            &format!("70000 --to {TICKET}"),
            "is not an address and a port",
        );
        check_error(
            &format!("1 --to {TICKET} --cores 2"),
            "--cores: 2 cores asked for",
        );
        check_error("1 --to home:22", "pass --relay HOST[:PORT] as well");
    }
}
