//! `midspan key`: makes a key, and what the relay keeps of it.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use aws_lc_rs::rand;
use clap::{Args, Subcommand, ValueEnum};

use super::tunnel_key::{self, TunnelKeyArgs};
use super::{Advise, print, secret_file};
use crate::access::forwarding::{Client, Credentials, Reachable, Server};
use crate::access::{ApiKey, KeyEntry, Scope};
use crate::protocol::ptth_http::Name;
use crate::tls::identity::Identity;

/// Most letters of a key's name.
const NAME_BYTES_MAX: usize = 64;

/// Make a key for a relay's HTTP interface, for forwarded ports, or for tunnels of jProxy
///
/// Prints the lines for the relay's configuration, which hold only the key's hash, on
/// standard output, and the key, which nobody can print again, on standard error, or writes
/// it to --key-file. A key for tunnels of jProxy is two files: `midspan key jproxy --help`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(after_help = "\
Examples:
  midspan key signalling --scope create >> /etc/midspan/midspan.toml
  curl -H 'Authorization: Bearer KEY' http://relay.example:8080/jet/create

  midspan key home --for ptth-server --key-file home.key >> /etc/midspan/midspan.toml
  midspan expose home --to 127.0.0.1:22 --relay relay.example --key-file home.key

  midspan key alice --for ptth-client --may home:22 --key-file alice.key \\
      >> /etc/midspan/midspan.toml
  midspan forward 2222 --to home:22 --relay relay.example --key-file alice.key

  midspan key lab --for ptth-server --certificate lab.pem >> /etc/midspan/midspan.toml
  midspan expose lab --to 127.0.0.1:22 --relay relay.example --key-file lab.pem

  midspan key jproxy alice --key-file alice.dat --user-dir /etc/midspan/jproxy")]
pub struct KeyArgs {
    #[command(subcommand)]
    kind: Option<KeyKind>,

    /// Whose key it is; a server's name is the one by which clients ask for it
    #[arg(required = true)]
    name: Option<String>,

    /// Who shows it
    #[arg(long = "for", value_name = "ROLE", default_value = "rest")]
    role: Role,

    /// What it is good for, of `rest`; repeat for several [default: create]
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<Scope>,

    /// What it reaches, of `ptth-client`: a port of a server, a server, or `*`; repeat for
    /// several
    #[arg(long, value_name = "SERVER[:PORT]")]
    may: Vec<Reachable>,

    /// Have the proxy show a certificate over QUIC, instead of a key: write its private key to this
    /// new file, in PEM
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    certificate: Option<PathBuf>,

    /// Write the key alone to this new file, which its owner alone can read, instead of
    /// printing it
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// Write what the relay keeps of it to a new file in this directory, of `jproxy`
    #[arg(long, value_name = "DIR")]
    user_dir: Option<PathBuf>,
}

/// Keys that are not lines of the configuration.
#[derive(Clone, Debug, Subcommand)]
enum KeyKind {
    Jproxy(TunnelKeyArgs),
}

/// Who shows a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Who creates, lists or ends associations by HTTP requests
    Rest,
    /// A server whose ports are forwarded
    PtthServer,
    /// A client that reaches them
    PtthClient,
    /// A client with tunnels of jProxy; as `midspan key jproxy`
    Jproxy,
}

/// Makes and prints a key.
///
/// # Errors
///
/// A name that is none, what does not go together, a file that is there already, or a system
/// without randomness.
pub(super) fn run(args: &KeyArgs) -> anyhow::Result<()> {
    if let Some(KeyKind::Jproxy(args)) = &args.kind {
        return tunnel_key::run(args);
    }
    let name = args.name.as_deref().context("no NAME is given").usage()?;
    if args.role == Role::Jproxy {
        check_tunnel_options(args).usage()?;
        return tunnel_key::make(name, args.key_file.as_deref(), args.user_dir.as_deref());
    }
    let (key, credentials) = match args.certificate {
        Some(_) => private_key()?,
        None => key()?,
    };
    let lines = lines(name, args, credentials).usage()?;
    let told = match args.certificate.as_ref().or(args.key_file.as_ref()) {
        // First of all: nobody is to list a key that went nowhere.
        Some(path) => {
            secret_file::create("key", path, &key)?;
            let path = path.display();
            format!("The key of \"{name}\" is in {path}, for whoever is to have it\n")
        }
        None => {
            format!("The key of \"{name}\", shown this once, for whoever is to have it:\n{key}\n")
        }
    };
    print(&lines);
    let printed = io::stderr().lock().write_all(told.as_bytes());
    printed.context("cannot print the key")
}

/// A key, and what is kept of it.
fn key() -> anyhow::Result<(String, Credentials)> {
    let mut random = [0; 24];
    rand::fill(&mut random)
        .ok()
        .context("the system gives no random bytes")?;
    let key = ApiKey::from_random(random);
    let credentials = Credentials {
        key: Some(key.hash()),
        certificate: None,
    };
    Ok((key.to_string(), credentials))
}

/// The same of a certificate, which is made anew by whoever shows it.
fn private_key() -> anyhow::Result<(String, Credentials)> {
    let pem = Identity::make_key_pem()?;
    let credentials = Credentials {
        key: None,
        certificate: Some(Identity::of_key(&pem)?.public_key()),
    };
    Ok((pem.trim_end().to_owned(), credentials))
}

/// What the relay keeps.
fn lines(name: &str, args: &KeyArgs, credentials: Credentials) -> anyhow::Result<Box<dyn Display>> {
    let KeyArgs { scope, may, .. } = args;
    check_options(args)?;
    Ok(match args.role {
        Role::Rest => {
            let name = bearer_name(name)?;
            let scopes = scopes(scope);
            let hash = credentials
                .key
                .context("--certificate is for keys --for ptth-server and --for ptth-client")?;
            Box::new(KeyEntry { name, hash, scopes })
        }
        Role::PtthServer => {
            let name = forwarding_name(name)?;
            Box::new(Server {
                name,
                credentials,
                legacy_id: None,
            })
        }
        Role::Jproxy => bail!("its key is no line of the configuration"),
        Role::PtthClient if may.is_empty() => {
            bail!("--may says what the client reaches: SERVER:PORT, SERVER, or \"*\"")
        }
        Role::PtthClient => {
            let name = forwarding_name(name)?;
            let may = may.clone();
            Box::new(Client {
                name,
                credentials,
                legacy_id: None,
                may,
            })
        }
    })
}

/// Whether what is given is for a jProxy key.
fn check_tunnel_options(args: &KeyArgs) -> anyhow::Result<()> {
    check_options(args)?;
    ensure!(
        args.certificate.is_none(),
        "--certificate is for keys --for ptth-server and --for ptth-client"
    );
    Ok(())
}

/// Whether what is given is for the role.
fn check_options(args: &KeyArgs) -> anyhow::Result<()> {
    ensure!(
        args.scope.is_empty() || args.role == Role::Rest,
        "--scope is for keys --for rest"
    );
    ensure!(
        args.may.is_empty() || args.role == Role::PtthClient,
        "--may is for keys --for ptth-client"
    );
    ensure!(
        args.user_dir.is_none() || args.role == Role::Jproxy,
        "--user-dir is for keys --for jproxy"
    );
    Ok(())
}

fn bearer_name(name: &str) -> anyhow::Result<String> {
    let character = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@".contains(&byte);
    ensure!(
        (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(character),
        "NAME \"{}\" is not 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes, underscores and @",
        name.escape_default()
    );
    Ok(name.to_owned())
}

fn forwarding_name(name: &str) -> anyhow::Result<Name> {
    name.parse()
        .with_context(|| format!("NAME \"{}\" is none", name.escape_default()))
}

/// Each once; to create, if nothing else is said.
fn scopes(given: &[Scope]) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = Vec::new();
    for scope in given {
        if !scopes.contains(scope) {
            scopes.push(*scope);
        }
    }
    if scopes.is_empty() {
        scopes.push(Scope::Create);
    }
    scopes
}
