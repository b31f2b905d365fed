//! `midspan expose`: its arguments, and the ticket that it prints.

use std::env;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;

use super::any_relay::AnyRelay;
use super::ptth::{self, PathArgs, ProxyKeyArgs};
use super::{Advise, AgentArgs, StateDir, agent, host, print};
use crate::agent::expose::SERVICES_MAX;
use crate::agent::process::BoundExpose;
use crate::agent::ptth::url::PtthUrl;
use crate::agent::settings::{Direct, ExposeSettings, PtthExposeSettings, Sessions};
use crate::agent::target::{HostPort, Service};
use crate::agent::ticket::{OnceTicket, RelayUrl, ReusableTicket, Secret, Ticket};
use crate::config::ListenAddress;
use crate::config::settings::HostFacts;
use crate::config::shell_word::quoted;
use crate::protocol::ptth_http::Name;
use crate::runtime::kernel;
use crate::runtime::signal::Signals;

/// The longest name of an exposed proxy.
const NAME_BYTES_MAX: usize = 64;

/// Make services on this machine reachable through a relay
///
/// Prints a ticket: whoever has it can connect with `midspan forward`. The
/// ticket stays the same for the same NAME. A relay of PTTH needs no ticket: it lists who
/// may connect to NAME.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  midspan expose home --to 127.0.0.1:22 --to 80=nas:8080 --relay jet+tcp://relay.example:8080
  midspan expose home --to 127.0.0.1:22 --relay relay.example --key-file home.key")]
pub struct ExposeArgs {
    /// What to call it; names the file that keeps the ticket's secret
    name: String,

    /// A service to expose, as HOST:PORT or unix:/path; PORT= is the port by
    /// which the other side asks for it, at a relay of PTTH a number or a name; repeat for
    /// several
    #[arg(long, required = true, value_name = "[PORT=]TARGET")]
    to: Vec<Service<Name>>,

    /// The relay at which to meet: jet+WAY://HOST:PORT; or one of PTTH, which lists NAME and its
    /// key: HOST[:PORT], which is ptth+quic://, or ptth+https://HOST[:PORT]
    #[arg(long, value_name = "URL")]
    relay: AnyRelay,

    #[command(flatten)]
    key: ProxyKeyArgs,

    #[command(flatten)]
    path: PathArgs,

    /// Serve one session, print its plain ids for any JET client, and end. One in which
    /// the client says nothing and hangs up does not count
    #[arg(long)]
    once: bool,

    /// Listen here as well, for clients that can reach this machine: they are served
    /// without the relay. Without TLS: have what is exposed bring its own
    #[arg(long, value_name = "ADDR:PORT")]
    direct: Option<ListenAddress>,

    /// Tell clients to use this address for it [default: the one of --direct]
    #[arg(long, value_name = "HOST:PORT", requires = "direct")]
    direct_as: Option<HostPort>,

    /// Keep the ticket's secret in this directory [default: $STATE_DIRECTORY,
    /// /var/lib/midspan for root, else $XDG_STATE_HOME/midspan or
    /// ~/.local/state/midspan]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    #[command(flatten)]
    agent: AgentArgs,
}

impl ExposeArgs {
    /// The settings that these arguments come to. Makes the ticket's secret,
    /// in the state directory, when the name is new.
    ///
    /// # Errors
    ///
    /// Arguments that contradict each other, or a secret that cannot be kept.
    fn settings(&self, relay: &RelayUrl, host: &HostFacts) -> anyhow::Result<ExposeSettings> {
        self.key.check_none().usage()?;
        self.path.settings(None).usage()?;
        self.check().usage()?;
        let services = self.numbered_services()?;
        check_ports(&services).usage()?;
        let agent = self.agent.settings(host)?;
        let sessions = match self.once {
            true => Sessions::Once,
            false => {
                let secret = self.state_dir(host)?.ticket_secret(&self.name)?;
                Sessions::Reusable(Secret::from_bytes(secret))
            }
        };
        Ok(ExposeSettings {
            name: self.name.clone(),
            relay: relay.clone(),
            services,
            sessions,
            direct: self.direct.map(|listen| Direct {
                listen,
                told: self.direct_as.clone(),
            }),
            agent,
        })
    }

    /// The settings for a relay of PTTH; `key` is what `MIDSPAN_KEY` holds.
    ///
    /// # Errors
    ///
    /// Arguments that contradict each other, or no key.
    fn ptth_settings(
        &self,
        relay: &PtthUrl,
        host: &HostFacts,
        key: Option<&str>,
    ) -> anyhow::Result<PtthExposeSettings> {
        let check = || {
            ensure!(
                !self.once && self.direct.is_none(),
                "--once and --direct are for relays of JET (jet+tcp://…): who may connect, a relay of \
                 PTTH decides"
            );
            self.check()?;
            check_ports(&self.to)
        };
        check().usage()?;
        Ok(PtthExposeSettings {
            name: ptth::server_name(&self.name)?,
            relay: relay.clone(),
            proof: self.key.proof(relay, host, key)?,
            path: self.path.settings(Some(relay)).usage()?,
            services: ptth::services(&self.to),
            agent: ptth::agent(&self.agent, relay, host)?,
        })
    }

    /// What is exposed by JET.
    fn numbered_services(&self) -> anyhow::Result<Vec<Service>> {
        let numbered = |service: &Service<Name>| {
            let numbered = service.numbered();
            let numbered = numbered.with_context(|| format!("--to {service}")).usage();
            numbered.advise("call the port by its number: names are for relays of PTTH")
        };
        self.to.iter().map(numbered).collect()
    }

    /// Claims the ticket, see [`StateDir::claim_ticket`]. One session has one of
    /// its own.
    fn claim(&self, host: &HostFacts) -> anyhow::Result<Option<File>> {
        if self.once {
            return Ok(None);
        }
        Ok(Some(self.state_dir(host)?.claim_ticket(&self.name)?))
    }

    fn state_dir(&self, host: &HostFacts) -> anyhow::Result<StateDir> {
        let given = self
            .state_dir
            .as_ref()
            .map(|dir| host.current_dir.join(dir));
        let state_dir = given
            .or_else(|| host.state_dir.clone())
            .context("nowhere to keep the ticket's secret")
            .advise("pass --state-dir DIR, or set $HOME")?;
        Ok(StateDir::open(&state_dir)?)
    }

    fn check(&self) -> anyhow::Result<()> {
        let character = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        ensure!(
            !self.name.is_empty()
                && self.name.len() <= NAME_BYTES_MAX
                && !self.name.starts_with(['.', '-'])
                && self.name.bytes().all(character),
            "NAME \"{}\" is not 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes and underscores",
            self.name.escape_default()
        );
        ensure!(
            !self.once || self.to.len() == 1,
            "--once serves one session and so one --to; {} were given",
            self.to.len()
        );
        if let Some(direct) = self.direct {
            ensure!(
                !direct.0.ip().is_unspecified() || self.direct_as.is_some(),
                "--direct {direct} is every address of this machine; say with --direct-as HOST:PORT \
                 by which one clients reach it"
            );
        }
        ensure!(
            self.to.len() <= SERVICES_MAX,
            "at most {SERVICES_MAX} services have one ticket; {} were given",
            self.to.len()
        );
        Ok(())
    }
}

/// Several services each have a port of their own.
fn check_ports<P: fmt::Display + PartialEq>(services: &[Service<P>]) -> anyhow::Result<()> {
    for (index, service) in services.iter().enumerate() {
        let is_taken = |port| {
            services[..index]
                .iter()
                .any(|other| other.port.as_ref() == Some(port))
        };
        match &service.port {
            None if services.len() > 1 => {
                bail!("--to {service}: with several services each needs its PORT=")
            }
            Some(port) if is_taken(port) => {
                bail!("--to {service}: port {port} is exposed already; choose another as PORT=")
            }
            _ => {}
        }
    }
    Ok(())
}

/// Exposes until it is told to stop.
///
/// # Errors
///
/// Arguments that are wrong, or a proxy that cannot start.
pub(super) fn run(args: &ExposeArgs) -> anyhow::Result<()> {
    // Before the first thread, so that every thread leaves signals to a shard.
    let signals = Signals::block().context("cannot block signals")?;
    // Raises the descriptor limit, from which limits are derived.
    kernel::probe()?;
    let host = host::facts()?;
    match &args.relay {
        AnyRelay::Jet(relay) => run_jet(args, relay, &host, signals),
        AnyRelay::Ptth(relay) => {
            let key = env::var(ptth::KEY_VARIABLE).ok();
            ptth::expose(&args.ptth_settings(relay, &host, key.as_deref())?, signals)
        }
        AnyRelay::Jproxy(_) => Err(anyhow!("by jProxy nothing is exposed"))
            .usage()
            .advise("pass a relay of JET, jet+tls://HOST:PORT, or of PTTH, HOST[:PORT]"),
    }
}

fn run_jet(
    args: &ExposeArgs,
    relay: &RelayUrl,
    host: &HostFacts,
    signals: Signals,
) -> anyhow::Result<()> {
    let settings = args.settings(relay, host)?;
    let _claim = args.claim(host)?;
    let mut bound = BoundExpose::bind(&settings, signals)?;
    let report = ExposeReport::reusable(&settings, bound.direct());
    let status = format!("exposes \"{}\" through {}", settings.name, settings.relay);
    let shown = agent::show(&settings.agent, &mut bound.fleet, report, status)?;
    let told = settings.clone();
    let announce = Box::new(move |ticket| {
        print(&ExposeReport::once(&told, Ticket::Once(ticket)));
    });
    shown.end(&bound.serve(announce)?);
    Ok(())
}

/// Where a client may listen for a service: ports below 1024 are root's, and 22 is often
/// taken.
pub(super) const fn local_port(port: Option<u16>) -> u16 {
    match port {
        Some(22) | None => 2222,
        Some(port @ ..1024) => 8000 + port,
        Some(port) => port,
    }
}

/// What an exposing proxy says: the ticket, and what to do with it.
#[derive(Debug)]
pub struct ExposeReport<'a> {
    settings: &'a ExposeSettings,
    ticket: Ticket,
}

impl<'a> ExposeReport<'a> {
    /// For the reusable ticket of `settings`; `None` where they ask for one
    /// session.
    #[must_use]
    pub fn reusable(settings: &'a ExposeSettings, direct: Option<&HostPort>) -> Option<Self> {
        let Sessions::Reusable(secret) = &settings.sessions else {
            return None;
        };
        let (relay, secret) = (settings.relay.clone(), secret.clone());
        let ticket = Ticket::Reusable(ReusableTicket {
            relay,
            secret,
            port: None,
            direct: direct.cloned(),
        });
        Some(Self { settings, ticket })
    }

    /// For one session, which `ticket` names.
    #[must_use]
    pub fn once(settings: &'a ExposeSettings, ticket: Ticket) -> Self {
        Self { settings, ticket }
    }
}

impl fmt::Display for ExposeReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, ticket } = self;
        writeln!(
            f,
            "exposing \"{}\" through {}",
            settings.name, settings.relay
        )?;
        for service in &settings.services {
            match service.port {
                Some(port) => writeln!(f, "  port {port} leads to {}", service.target)?,
                None => writeln!(f, "  leads to {}", service.target)?,
            }
        }
        if let Some(direct) = ticket.direct() {
            writeln!(f, "  clients that can reach it come to {direct} directly")?;
        }
        let serves = match &settings.sessions {
            Sessions::Reusable(_) => "whoever has it can connect: keep it secret",
            Sessions::Once => "for one session",
        };
        writeln!(f, "ticket ({serves}):\n  {ticket}")?;
        if settings.services.len() > 1 {
            writeln!(f, "  (with the port of a service behind it, as below)")?;
        }
        writeln!(f)?;
        if let (Ticket::Once(ticket), Some(direct)) = (ticket, ticket.direct()) {
            let candidates = [&RelayUrl::direct(direct.clone()), &ticket.relay];
            writeln!(f, "For other JET clients, the first that can be reached:")?;
            for relay in candidates {
                let candidate = OnceTicket {
                    relay: relay.clone(),
                    key: ticket.key,
                    direct: None,
                };
                writeln!(f, "  {candidate}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "Where it is wanted:")?;
        for service in &settings.services {
            let ticket = match (ticket, service.port) {
                (Ticket::Reusable(ticket), Some(port)) if settings.services.len() > 1 => {
                    Ticket::Reusable(ReusableTicket {
                        port: Some(port),
                        ..ticket.clone()
                    })
                }
                (ticket, _) => ticket.clone(),
            };
            let local = local_port(service.port);
            writeln!(
                f,
                "  midspan forward {local} --to {}",
                quoted(&ticket.to_string())
            )?;
            if service.port == Some(22) {
                writeln!(f, "  ssh -p {local} 127.0.0.1")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::failure::reported;
    use super::super::{Cli, Command};
    use super::*;

    fn host(state_dir: Option<PathBuf>) -> HostFacts {
        HostFacts {
            state_dir,
            ..HostFacts::example()
        }
    }

    fn parse(args: &str) -> Result<ExposeArgs, clap::Error> {
        let words = ["midspan", "expose"]
            .into_iter()
            .chain(args.split_whitespace());
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Expose(args) => args,
            other => panic!("{other:?}"),
        })
    }

    fn jet_settings(args: &ExposeArgs, host: &HostFacts) -> anyhow::Result<ExposeSettings> {
        match &args.relay {
            AnyRelay::Jet(relay) => args.settings(relay, host),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_keeps_its_ticket() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = |args: &str| {
            let host = host(Some(folder.path().join("state")));
            jet_settings(&parse(args).expect("valid"), &host).expect("valid")
        };
        let home = settings("home --to localhost:22 --relay jet+tcp://relay:1");
        let again = settings("home --to localhost:80 --to 1=unix:/s --relay jet+tcp://relay:1");
        let other = settings("other --to localhost:22 --relay jet+tcp://relay:1");
        assert_eq!(home.sessions, again.sessions);
        assert_ne!(home.sessions, other.sessions);
        assert_eq!(home.agent.cores, [0]);
        let once = settings("once --to localhost:22 --relay jet+tcp://relay:1 --once --cores 1-1");
        assert_eq!((once.sessions, once.agent.cores), (Sessions::Once, vec![1]));
        assert!(!folder.path().join("state/ticket-once.key").exists());
    }

    #[test]
    fn wrong_arguments_say_why() {
        let check = |args: &str, part: &str| {
            let text = match parse(args) {
                Err(error) => error.to_string(),
                Ok(args) => {
                    let error = jet_settings(&args, &host(None)).expect_err("wrong");
                    reported(&error)
                }
            };
            assert!(text.contains(part), "{args}: {text}");
        };
        let relay = "--relay jet+tcp://relay:1";
        check(&format!("../x --to a:1 {relay}"), "NAME \"../x\" is not");
        check(&format!("x {relay}"), "--to");
        check("x --to a:1", "--relay");
        check(
            "x --to a:1 --relay https://relay",
            "scheme \"https\" is none of jet+tcp, jet+tls",
        );
        check("x --to a:1 --relay jet+tcp://relay", "has no port");
        check(
            &format!("x --to web=a:1 {relay}"),
            "--to web=a:1: port \"web\" is not a number from 1 to 65535\n  next: call the port by \
             its number",
        );
        check(
            &format!("x --to 22=a:1 --to 022=b:1 {relay}"),
            "port 22 is exposed already",
        );
        check(&format!("x --to a {relay}"), "has no port");
        check(
            &format!("x --to a:1 --to b:1 {relay}"),
            "port 1 is exposed already",
        );
        check(
            &format!("x --to a:1 --to unix:/b {relay}"),
            "each needs its PORT=",
        );
        check(
            &format!("x --to a:1 --to b:2 --once {relay}"),
            "one --to; 2 were given",
        );
        check(
            &format!("x --to a:1 --cores 3 {relay}"),
            "--cores: 3 cores asked for",
        );
        check(
            &format!("x --to a:1 --direct 0.0.0.0:4000 {relay}"),
            "say with --direct-as HOST:PORT",
        );
        check(&format!("x --to a:1 --direct-as a:1 {relay}"), "--direct");
        check(&format!("x --to a:1 {relay}"), "next: pass --state-dir DIR");
    }

    fn check_ptth(args: &str, expected: &str) {
        check_ptth_at("ptth+http://relay:1", args, expected);
    }

    fn check_ptth_at(relay: &str, args: &str, expected: &str) {
        let args = parse(&format!("home {args} --relay {relay}")).expect("valid");
        let AnyRelay::Ptth(relay) = &args.relay else {
            panic!("{args:?}");
        };
        let settings = args.ptth_settings(relay, &host(None), Some("key"));
        let told = match settings {
            Ok(settings) => ptth::ExposeReport(&settings).to_string(),
            Err(error) => reported(&error),
        };
        assert!(told.contains(expected), "{told}");
    }

    #[test]
    fn a_relay_of_ptth_takes_names_as_ports() {
        check_ptth(
            "--to web=unix:/s --to ssh=nas:22 --to 8080=nas:80",
            "
  port web leads to unix:/s
  port ssh leads to nas:22
  port 8080 leads to nas:80

Where it is wanted, with the key of a client that the relay lists:
  midspan forward 2222 --to home:web --relay ptth+http://relay:1 --key-file FILE
  midspan forward 2222 --to home:ssh --relay ptth+http://relay:1 --key-file FILE
  ssh -p 2222 127.0.0.1
  midspan forward 8080 --to home:8080 --relay ptth+http://relay:1 --key-file FILE
",
        );
        check_ptth(
            "--to 22=nas:27022",
            "
  port 22 leads to nas:27022
  port default leads to nas:27022

Where it is wanted, with the key of a client that the relay lists:
  midspan forward 2222 --to home:22 --relay ptth+http://relay:1 --key-file FILE
  ssh -p 2222 127.0.0.1
",
        );
        check_ptth(
            "--to default=nas:80",
            "
  port default leads to nas:80

Where it is wanted, with the key of a client that the relay lists:
  midspan forward 8080 --to home --relay ptth+http://relay:1 --key-file FILE
",
        );
        check_ptth(
            "--to web=a:1 --to web=b:1",
            "port web is exposed already; choose another",
        );
    }

    #[test]
    fn a_relay_without_a_scheme_is_of_ptth() {
        check_ptth_at(
            "relay.example",
            "--to nas:22",
            "home:22 --relay ptth+quic://relay.example:443 --key-file FILE",
        );
        check_ptth_at(
            "relay.example:1",
            "--to nas:22 --once",
            "--once and --direct are for relays of JET (jet+tcp://…)",
        );
        check_ptth_at(
            "relay.example:1",
            "--to nas:22 --via proxy:3128",
            "next: pass --relay ptth+https://relay.example:1",
        );
    }

    #[test]
    fn the_report_tells_what_to_run() {
        let args = parse("home --to 127.0.0.1:22 --to 80=nas:8080 --relay jet+tcp://relay:1")
            .expect("valid");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let host = host(Some(folder.path().to_owned()));
        let mut settings = jet_settings(&args, &host).expect("valid");
        settings.sessions = Sessions::Reusable(Secret::from_bytes([0; 16]));
        let report = ExposeReport::reusable(&settings, None)
            .expect("reusable")
            .to_string();
        assert_eq!(
            report,
            "exposing \"home\" through jet+tcp://relay:1
  port 22 leads to 127.0.0.1:22
  port 80 leads to nas:8080
ticket (whoever has it can connect: keep it secret):
  jet+tcp://relay:1/ticket/AAAAAAAAAAAAAAAAAAAAAA
  (with the port of a service behind it, as below)

Where it is wanted:
  midspan forward 2222 --to jet+tcp://relay:1/ticket/AAAAAAAAAAAAAAAAAAAAAA/22
  ssh -p 2222 127.0.0.1
  midspan forward 8080 --to jet+tcp://relay:1/ticket/AAAAAAAAAAAAAAAAAAAAAA/80
"
        );
    }
}
