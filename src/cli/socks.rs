//! `midspan socks`: its arguments, and what it says when it listens.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, anyhow, ensure};
use clap::{Args, value_parser};
use tracing::{error, info, warn};

use super::any_relay::SocksRelay;
use super::jproxy::{self, TunnelArgs};
use super::local_listener::LocalListener;
use super::notify::Notifier;
use super::{Advise, AgentArgs, agent, host, secret_file};
use crate::access::PasswordDigest;
use crate::access::routing::{LIST_BYTES_MAX, RoutingRules};
use crate::agent::process::{BoundSocks, SocksReloader};
use crate::agent::settings::{RelaySettings, SocksSettings, WebsocksSettings};
use crate::agent::socks::url::WebsocksUrl;
use crate::config::settings::HostFacts;
use crate::protocol::socks5::Credentials;
use crate::protocol::websocks::SubProtocol;
use crate::runtime::kernel;
use crate::runtime::signal::Signals;

/// The environment variable that holds the password when no file does.
const PASSWORD_VARIABLE: &str = "MIDSPAN_PASSWORD";

/// The most connections that a shard keeps ready at each relay.
const POOL_MAX: u16 = 1024;

/// What it keeps where nothing is said.
const POOL_DEFAULT: u16 = 4;

/// Open a local SOCKS5 and HTTP proxy port whose connections go out by a relay
///
/// The relay serves WebSocks or jProxy: `[websocks] users` or `[jproxy] users` in its
/// configuration. All relays of one command serve the same.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  midspan socks 1080 --relay websocks+wss://alice@relay.example:443 --password-file password
  midspan socks 1080 --relay jproxy+tls://relay.example:443 --key-file key.dat
  curl --socks5-hostname 127.0.0.1:1080 http://example.com/
  curl -x http://127.0.0.1:1080 https://example.com/")]
pub struct SocksArgs {
    /// Where to listen; a port alone is on 127.0.0.1
    #[arg(value_name = "[ADDR:]PORT")]
    listen: LocalListener,

    /// The relay by which connections go out; repeat for several, those first that are
    /// preferred
    #[arg(
        long,
        required = true,
        value_name = "websocks+WAY://USER@HOST:PORT|jproxy+tls://HOST[:PORT]"
    )]
    relay: Vec<SocksRelay>,

    /// Of WebSocks: the file that holds the password; without it MIDSPAN_PASSWORD does
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// Of jProxy: the file with the client's key, which `midspan key jproxy --key-file` made
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    #[command(flatten)]
    tunnel: TunnelArgs,

    /// Serve only who shows the USER:PASSWORD that this file holds
    #[arg(long, value_name = "FILE")]
    local_user_file: Option<PathBuf>,

    /// Serve everybody who reaches the port, without a password; needed for addresses that
    /// other hosts can reach, unless --local-user-file is given
    #[arg(long)]
    open: bool,

    /// Lead by a relay what the rules in this file say, and dial or refuse the rest
    /// (docs/routing.md); without them all is led by a relay
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// Of WebSocks: keep so many connections ready at each relay, on each core [default: 4]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = value_parser!(u16).range(..=i64::from(POOL_MAX)))]
    pool: Option<u16>,

    /// Of WebSocks: frame and mask everything, for gateways on the way that look into
    /// WebSockets; the relay has to be ours
    #[arg(long)]
    framed: bool,

    #[command(flatten)]
    agent: AgentArgs,
}

impl SocksArgs {
    /// The settings that these arguments come to; `password` is what `MIDSPAN_PASSWORD`
    /// holds.
    ///
    /// # Errors
    ///
    /// No password, or a file that cannot be read.
    pub fn settings(
        &self,
        host: &HostFacts,
        password: Option<String>,
    ) -> anyhow::Result<SocksSettings> {
        let agent = self.agent.settings(host)?;
        let relays = self.relays(host, password)?;
        let local_user = self.local_user_file.as_ref().map(|path| {
            let path = host.current_dir.join(path);
            let written = secret_file::read("user", &path).advise_missing(
                "make it, with a line USER:PASSWORD that local programs are to show, and chmod 600 it",
            )?;
            local_user(&written).with_context(|| format!("the user file {}", path.display()))
        });
        let listen = self.listen.0;
        if !listen.is_loopback() && local_user.is_none() && !self.open {
            Err(anyhow!(
                "{listen} can be reached from other hosts, and the proxy would serve anybody \
                 without asking for a password"
            ))
            .usage()
            .advise(
                "pass --local-user-file FILE with a line USER:PASSWORD, or --open to serve \
                 anybody, or listen on 127.0.0.1",
            )?;
        }
        let rules = match &self.rules {
            Some(path) => read_rules(&host.current_dir.join(path))?,
            None => RoutingRules::default(),
        };
        Ok(SocksSettings {
            rules: Arc::new(rules),
            listen,
            relays,
            local_user: local_user.transpose()?,
            agent,
        })
    }

    /// The relays, which are all of one kind.
    fn relays(&self, host: &HostFacts, password: Option<String>) -> anyhow::Result<RelaySettings> {
        let (mut websocks, mut jproxy) = (Vec::new(), Vec::new());
        for relay in self.relay.iter().cloned() {
            match relay {
                SocksRelay::Websocks(relay) => websocks.push(relay),
                SocksRelay::Jproxy(relay) => jproxy.push(relay),
            }
        }
        match (websocks.is_empty(), jproxy.is_empty()) {
            (_, true) => Ok(RelaySettings::Websocks(
                self.websocks(websocks, host, password)?,
            )),
            (true, false) => {
                self.check_no_websocks().usage()?;
                let key_file = self.key_file.as_deref();
                let settings = self.tunnel.settings(jproxy, key_file, host)?;
                Ok(RelaySettings::Jproxy(settings))
            }
            (false, false) => Err(anyhow!("--relay names relays of WebSocks and of jProxy"))
                .usage()
                .advise("start one `midspan socks` for each kind"),
        }
    }

    fn websocks(
        &self,
        relays: Vec<WebsocksUrl>,
        host: &HostFacts,
        password: Option<String>,
    ) -> anyhow::Result<WebsocksSettings> {
        self.tunnel.check_none().usage()?;
        if self.key_file.is_some() {
            Err(anyhow!("--key-file is for relays of jProxy"))
                .usage()
                .advise("pass --password-file FILE for relays of WebSocks")?;
        }
        let password = match (&self.password_file, password) {
            (Some(path), _) => secret_file::read("password", &host.current_dir.join(path))
                .advise_missing("make it, with the password on its one line, and chmod 600 it")?,
            (None, Some(password)) => password,
            (None, None) => Err(anyhow!("no password")).usage().advise(format!(
                "pass --password-file FILE, or set {PASSWORD_VARIABLE}"
            ))?,
        };
        let password = one_line(&password).context("the password")?;
        Ok(WebsocksSettings {
            relays,
            password: PasswordDigest::of(password),
            protocol: match self.framed {
                true => SubProtocol::Framed,
                false => SubProtocol::Plain,
            },
            pool_size: usize::from(self.pool.unwrap_or(POOL_DEFAULT)),
        })
    }

    /// Refuses what a tunnel has no use for.
    fn check_no_websocks(&self) -> anyhow::Result<()> {
        if self.password_file.is_some() {
            Err(anyhow!("--password-file is for relays of WebSocks")).advise(
                "pass --key-file FILE instead, with the key that `midspan key jproxy` made: by \
                 that a relay of jProxy knows its users",
            )?;
        }
        let of_websocks = [("--pool", self.pool.is_some()), ("--framed", self.framed)];
        for (option, is_given) in of_websocks {
            if is_given {
                Err(anyhow!("{option} is for relays of WebSocks")).advise(
                    "leave it out: to a relay of jProxy there is one tunnel from each core, for all",
                )?;
            }
        }
        Ok(())
    }
}

/// The rules in a file, with the lists that they name.
///
/// # Errors
///
/// A file or list that cannot be read, or holds something else.
pub(super) fn read_rules(path: &Path) -> anyhow::Result<RoutingRules> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the rules {shown}"))
        .advise_missing("pass the file with the rules, as docs/routing.md has them")?;
    let rules = RoutingRules::parse(&text, read_list);
    let rules = rules.with_context(|| format!("the rules {shown}"))?;
    Ok(rules.read_from(path.to_owned()))
}

fn read_list(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more is enough to see that it is too long.
    let bytes_max = LIST_BYTES_MAX as u64 + 1;
    File::open(path)?
        .take(bytes_max)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// A secret without the end of its line, which may hold blanks.
fn one_line(secret: &str) -> anyhow::Result<&str> {
    let line = secret
        .strip_suffix('\n')
        .map_or(secret, |line| line.strip_suffix('\r').unwrap_or(line));
    ensure!(!line.is_empty(), "it is empty");
    ensure!(!line.contains('\n'), "it has more than one line");
    Ok(line)
}

fn local_user(written: &str) -> anyhow::Result<Credentials> {
    let (user, password) = one_line(written)?
        .split_once(':')
        .filter(|(user, password)| !user.is_empty() && !password.is_empty())
        .context("it is not USER:PASSWORD")?;
    Credentials::new(user, password).context("user and password have at most 255 bytes each")
}

/// Serves until it is told to stop.
///
/// # Errors
///
/// Arguments that are wrong, or an agent that cannot start.
pub(super) fn run(args: &SocksArgs) -> anyhow::Result<()> {
    // Before the first thread, so that every thread leaves signals to a shard.
    let signals = Signals::block().context("cannot block signals")?;
    // Raises the descriptor limit, from which limits are derived.
    kernel::probe()?;
    let password = env::var(PASSWORD_VARIABLE).ok();
    let settings = args.settings(&host::facts()?, password)?;
    let mut bound = BoundSocks::bind(&settings, signals)?;
    let report = SocksReport {
        listening: bound.address(),
        relays: settings.relays.urls(),
        is_open: settings.local_user.is_none(),
    };
    let status = format!("serves SOCKS5 at {}", bound.address());
    let shown = agent::show(&settings.agent, &mut bound.fleet, Some(report), status)?;
    if let RelaySettings::Jproxy(settings) = &settings.relays {
        jproxy::warn_of_exposed(settings);
    }
    if let Some(reloader) = bound.take_reloader() {
        watch(args.clone(), reloader, shown.notifier.clone());
    }
    for (path, list) in settings.rules.lists() {
        info!(list = %path.display(), used = list.used_count(), ignored = list.ignored_count(), "list");
    }
    shown.end(&bound.serve()?);
    Ok(())
}

/// Reads the files again when an operator asks for it, on a thread of its own.
fn watch(args: SocksArgs, reloader: SocksReloader, notifier: Notifier) {
    let watch = move || {
        while reloader.wait() {
            notifier.reloading();
            let refusal = read_again(&args, &reloader).err();
            let refusal = refusal.map(|error| format!("{error:#}"));
            match &refusal {
                None => info!("rules, password, key and local user are taken"),
                Some(error) => error!(
                    error,
                    "rules, password, key and local user are not taken, those before stay"
                ),
            }
            notifier.reloaded(refusal.as_deref());
        }
    };
    let spawned = thread::Builder::new()
        .name("reload".to_owned())
        .spawn(watch);
    if let Err(error) = spawned {
        warn!(%error, "changes of rules and passwords will take a restart");
    }
}

fn read_again(args: &SocksArgs, reloader: &SocksReloader) -> anyhow::Result<()> {
    let password = env::var(PASSWORD_VARIABLE).ok();
    reloader.apply(&args.settings(&host::facts()?, password)?);
    Ok(())
}

/// What an agent that listens says.
#[derive(Debug)]
pub struct SocksReport {
    /// The address as bound.
    pub listening: SocketAddr,
    /// The relays that are dialled.
    pub relays: Vec<String>,
    /// Whether everybody who reaches it is served.
    pub is_open: bool,
}

impl fmt::Display for SocksReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listening,
            relays,
            is_open,
        } = self;
        let reach = match (listening.ip().is_loopback(), is_open) {
            (true, _) => "this host only",
            (false, false) => "other hosts can reach it, with the user and password",
            (false, true) => "other hosts can use it, without a password",
        };
        writeln!(f, "SOCKS5 and HTTP proxy at {listening} ({reach})")?;
        for relay in relays {
            writeln!(f, "  by {relay}")?;
        }
        let (user, asked) = match is_open {
            true => ("", ""),
            false => (
                "--proxy-user USER:PASSWORD ",
                " (they ask for the user and password)",
            ),
        };
        writeln!(
            f,
            "To try it:\n  curl {user}--socks5-hostname {listening} http://example.com/\n\
             For browsers, a script to configure themselves by{asked}:\n  \
             http://{listening}/proxy.pac"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::super::failure::reported;
    use super::super::{Cli, Command};
    use super::*;

    fn settings(args: &str, variable: Option<&str>) -> Result<SocksSettings, String> {
        let host = HostFacts {
            cores_allowed: vec![0],
            ..HostFacts::example()
        };
        let words = ["midspan", "socks"].into_iter();
        let args = match Cli::try_parse_from(words.chain(args.split_whitespace())) {
            Ok(Cli {
                command: Command::Socks(args),
            }) => args,
            Ok(other) => panic!("{other:?}"),
            Err(error) => return Err(error.to_string()),
        };
        args.settings(&host, variable.map(str::to_owned))
            .map_err(|error| reported(&error))
    }

    fn websocks(settings: SocksSettings) -> WebsocksSettings {
        match settings.relays {
            RelaySettings::Websocks(websocks) => websocks,
            RelaySettings::Jproxy(jproxy) => panic!("{jproxy:?}"),
        }
    }

    fn secret(folder: &Path, text: &str) -> String {
        let path = folder.join("secret");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        path.display().to_string()
    }

    const RELAY: &str = "1080 --relay websocks+ws://alice@relay:80";

    #[test]
    fn passwords_come_by_file_or_environment() {
        let folder = tempfile::tempdir().expect("a folder");
        let expected = PasswordDigest::of("pass word ");
        for text in ["pass word ", "pass word \n", "pass word \r\n"] {
            let path = secret(folder.path(), text);
            let args = format!("{RELAY} --password-file {path}");
            let settings = settings(&args, Some("other")).expect("valid");
            assert!(websocks(settings).password == expected, "{text:?}");
        }
        let by_variable = settings(RELAY, Some("pass word ")).expect("valid");
        assert_eq!(by_variable.listen.to_string(), "127.0.0.1:1080");
        assert_eq!(by_variable.local_user, None);
        let by_variable = websocks(by_variable);
        assert!(by_variable.password == expected);
        assert_eq!(by_variable.pool_size, 4);
    }

    #[test]
    fn a_local_user_has_a_name_and_a_password() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = secret(folder.path(), "u:p:q\n");
        let args = format!("{RELAY} --local-user-file {path}");
        let local_user = settings(&args, Some("x")).expect("valid").local_user;
        assert!(local_user == Credentials::new("u", "p:q"));
        for (wrong, said) in [
            ("nobody\n", "it is not USER:PASSWORD"),
            (":x\n", "it is not USER:PASSWORD"),
            ("u:\n", "it is not USER:PASSWORD"),
            ("u:p\nv:q\n", "it has more than one line"),
            ("\n", "it is empty"),
        ] {
            secret(folder.path(), wrong);
            let error = settings(&args, Some("x")).expect_err(wrong);
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn others_are_served_by_password_or_on_purpose() {
        let folder = tempfile::tempdir().expect("a folder");
        let user = secret(folder.path(), "u:p");
        let relay = "--relay websocks+ws://alice@relay:80";
        for listen in ["0.0.0.0:1080", "[::]:1080", "192.0.2.7:1080"] {
            let args = format!("{listen} {relay}");
            let error = settings(&args, Some("x")).expect_err(listen);
            let said = format!("{listen} can be reached from other hosts, and");
            assert!(error.contains(&said), "{error}");
            assert!(
                error.contains("next: pass --local-user-file FILE"),
                "{error}"
            );
            for option in ["--open", &format!("--local-user-file {user}")] {
                settings(&format!("{args} {option}"), Some("x")).expect(option);
            }
        }
        for listen in ["127.0.0.2:1080", "[::1]:1080", "1080"] {
            settings(&format!("{listen} {relay}"), Some("x")).expect(listen);
        }
    }

    #[test]
    fn wrong_arguments_say_why() {
        for (args, variable, part) in [
            (
                RELAY,
                None,
                "no password\n  next: pass --password-file FILE",
            ),
            (
                "1080",
                Some("x"),
                "--relay <websocks+WAY://USER@HOST:PORT|jproxy+tls://HOST[:PORT]>",
            ),
            (
                "1080 --relay wss://relay",
                Some("x"),
                "is written websocks+wss://",
            ),
            (
                &format!("{RELAY} --pool 1025"),
                Some("x"),
                "1025 is not in 0..=1024",
            ),
            (RELAY, Some(""), "the password: it is empty"),
            (
                &format!("{RELAY} --admin 192.0.2.1:9"),
                Some("x"),
                "--admin: 192.0.2.1:9 can be reached from other hosts",
            ),
            (
                &format!("{RELAY} --password-file /none"),
                None,
                "cannot read the password file",
            ),
        ] {
            let error = settings(args, variable).expect_err(args);
            assert!(error.contains(part), "{args}: {error}");
        }
    }

    #[test]
    fn what_it_says_names_who_is_served() {
        let report = |listening: &str, is_open| {
            let listening = listening.parse().expect("an address");
            let report = SocksReport {
                listening,
                relays: vec!["websocks+ws://alice@relay:80".to_owned()],
                is_open,
            };
            report.to_string()
        };
        let local = report("127.0.0.1:1", true);
        assert!(local.contains("this host only"), "{local}");
        assert!(local.contains("  curl --socks5-hostname "), "{local}");
        let asking = report("127.0.0.1:1", false);
        for part in [
            "curl --proxy-user USER:PASSWORD --socks5-",
            "ask for the user and",
        ] {
            assert!(asking.contains(part), "{asking}");
        }
        let open = report("192.0.2.1:1", true);
        assert!(open.contains("can use it, without a password"), "{open}");
        assert!(open.contains("by websocks+ws://alice@relay:80"), "{open}");
    }
}
