//! `midspan key`: makes a key, and what the relay keeps of it.

use std::io::{self, Write};

use anyhow::{Context, ensure};
use aws_lc_rs::rand;
use clap::Args;

use super::{Advise, print};
use crate::access::{ApiKey, KeyEntry, Scope};

/// Most letters of a key's name.
const NAME_BYTES_MAX: usize = 64;

/// Make a key for a relay's HTTP interface
///
/// Prints the lines for the relay's configuration, which hold only the key's hash, on
/// standard output, and the key, which nobody can print again, on standard error.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  midspan key signalling --scope create >> /etc/midspan/midspan.toml
  curl -H 'Authorization: Bearer KEY' http://relay.example:8080/jet/create")]
pub struct KeyArgs {
    /// Whose key it is
    name: String,

    /// What it is good for; repeat for several
    #[arg(long, value_name = "SCOPE", default_value = "create")]
    scope: Vec<Scope>,
}

/// Makes and prints a key.
///
/// # Errors
///
/// A name that is none, or a system without randomness.
pub(super) fn run(args: &KeyArgs) -> anyhow::Result<()> {
    let character = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@".contains(&byte);
    let check = || {
        ensure!(
            (1..=NAME_BYTES_MAX).contains(&args.name.len()) && args.name.bytes().all(character),
            "NAME \"{}\" is not 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes, underscores and @",
            args.name.escape_default()
        );
        Ok(())
    };
    check().usage()?;
    let mut random = [0; 24];
    rand::fill(&mut random)
        .ok()
        .context("the system gives no random bytes")?;
    let mut scopes: Vec<Scope> = Vec::new();
    for scope in &args.scope {
        if !scopes.contains(scope) {
            scopes.push(*scope);
        }
    }
    let key = ApiKey::from_random(random);
    print(&KeyEntry {
        name: args.name.clone(),
        hash: key.hash(),
        scopes,
    });
    writeln!(
        io::stderr().lock(),
        "The key of \"{}\", shown this once, for whoever is to have it:\n{key}",
        args.name
    )
    .context("cannot print the key")
}
