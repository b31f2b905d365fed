//! `midspan check`: what the relay would make of a file, or an agent of its rules.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{Advise, host, print, socks};
use crate::access::routing::{Destination, Host};
use crate::agent::target::{self, HostPort};
use crate::config::file::ConfigFile;
use crate::config::settings::{Flags, RelaySettings};
use crate::runtime::kernel;

/// Check a relay's configuration file, or a local proxy's rules
///
/// Prints the settings that the relay would run with on this host, every default
/// filled in, as a file that says the same. Nothing is started, opened or made.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  midspan check /etc/midspan.toml && systemctl restart midspan
  midspan check --rules /etc/midspan/rules www.example.com:443 10.1.2.3:22")]
pub struct CheckArgs {
    /// The file that is to be passed to `midspan relay --config`
    #[arg(value_name = "FILE", required_unless_present = "rules")]
    #[arg(conflicts_with = "rules")]
    file: Option<PathBuf>,

    /// The file that is to be passed to `midspan socks --rules`; and destinations, to see
    /// which rule decides about each
    #[arg(long, num_args = 1.., value_names = ["FILE", "HOST:PORT"])]
    rules: Vec<String>,
}

/// Checks what is given.
///
/// # Errors
///
/// What is wrong with it, and where.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    match (&args.file, &*args.rules) {
        (_, [path, destinations @ ..]) => check_rules(Path::new(path), destinations),
        (Some(file), []) => check_file(file),
        (None, []) => unreachable!("clap asks for one of them"),
    }
}

fn check_file(path: &Path) -> anyhow::Result<()> {
    // For the descriptor limit that it raises. Whether a relay can run here is
    // another question.
    let _ = kernel::probe();
    let file = ConfigFile::read(path)?;
    let settings = RelaySettings::resolve(&Flags::default(), Some(&file), &host::facts()?)?;
    print(&format_args!(
        "# {} is valid. On this host the relay would run with:\n{settings}",
        path.display()
    ));
    for note in settings.notes() {
        print(&format_args!("# note: {note}\n"));
    }
    Ok(())
}

/// Says of each destination what an agent would do with it, and by which rule.
fn check_rules(path: &Path, destinations: &[String]) -> anyhow::Result<()> {
    let parse = |written: &String| {
        let destination = written.parse::<HostPort>();
        destination.with_context(|| format!("the destination \"{}\"", written.escape_debug()))
    };
    let destinations: anyhow::Result<Vec<_>> = destinations.iter().map(parse).collect();
    let destinations = destinations.usage()?;
    let rules = socks::read_rules(path)?;
    let (shown, count) = (path.display(), rules.rules().len());
    print(&format_args!("{shown} is valid; rules: {count}\n"));
    for (path, list) in rules.lists() {
        let (used, ignored) = (list.used_count(), list.ignored_count());
        let path = path.display();
        print(&format_args!(
            "  lines of {path}: {used} used, {ignored} ignored\n"
        ));
    }
    for destination in &destinations {
        let host = match &destination.host {
            target::Host::Address(address) => Host::Address(*address),
            target::Host::Name(name) => Host::Name(name),
        };
        let port = destination.port;
        let ruling = rules.judge(&Destination { host, port });
        let (action, cited) = (ruling.action(), ruling.cite());
        print(&format_args!("{destination}  {action}  {cited}\n"));
    }
    Ok(())
}
