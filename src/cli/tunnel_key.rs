//! `midspan key jproxy`: makes a client's key for jProxy, and the file by which a relay knows it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;

use super::{Advise, secret_file};
use crate::access::jproxy::{KeyPair, PairError};
use crate::config::shell_word::quoted_path;
use crate::config::tunnel_user_of;

/// Make a key for tunnels of jProxy
///
/// Writes the client's key to --key-file, and to --user-dir what the relay keeps of it, both for
/// their owner alone: who has either can play one side to the other. The relay needs to read the
/// latter; it takes new ones within five seconds.
#[derive(Clone, Debug, Args)]
#[command(override_usage = "midspan key jproxy NAME --key-file FILE --user-dir DIR")]
#[command(after_help = "\
Example:
  midspan key jproxy alice --key-file alice.dat --user-dir /etc/midspan/jproxy
  chgrp midspan /etc/midspan/jproxy/*.dat
  chmod 640 /etc/midspan/jproxy/*.dat")]
pub struct TunnelKeyArgs {
    /// Whose key it is
    name: String,

    /// Write the client's key to this new file; needed
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// Write the user's file into this directory, which [jproxy] users of the relay's
    /// configuration names; needed
    #[arg(long, value_name = "DIR")]
    user_dir: Option<PathBuf>,
}

/// Makes a key, and both files.
///
/// # Errors
///
/// A name that is none or that a user has already, a file that is there already or cannot be
/// made, or a system without randomness.
pub(super) fn run(args: &TunnelKeyArgs) -> anyhow::Result<()> {
    make(
        &args.name,
        args.key_file.as_deref(),
        args.user_dir.as_deref(),
    )
}

/// The same, of these.
pub(super) fn make(
    name: &str,
    key_file: Option<&Path>,
    user_dir: Option<&Path>,
) -> anyhow::Result<()> {
    let missing = match (key_file, user_dir) {
        (Some(key_file), Some(user_dir)) => return make_files(name, key_file, user_dir),
        (None, Some(_)) => "no --key-file, for the client's",
        (Some(_), None) => "no --user-dir, for the relay's",
        (None, None) => "no --key-file and no --user-dir, for either's",
    };
    Err(anyhow!(
        "a key of jProxy is two files, and there is {missing}"
    ))
    .usage()
    .advise(
        "midspan key jproxy NAME --key-file NAME.dat --user-dir DIR, where DIR is what the \
             relay's configuration has under [jproxy] users, or is brought there",
    )
}

fn make_files(name: &str, key_file: &Path, user_dir: &Path) -> anyhow::Result<()> {
    let pair = match KeyPair::generate(name) {
        Err(PairError::Name(error)) => {
            let none = || format!("NAME \"{}\" is none", name.escape_default());
            return Err(error).with_context(none).usage();
        }
        pair => pair?,
    };
    let folder = user_dir.display();
    // Two files for one name would keep the relay from taking any.
    let holder = tunnel_user_of(user_dir, name)
        .with_context(|| format!("cannot read the directory {folder}"))
        .advise_missing(format!(
            "make it: mkdir -m 750 {}; it is the one that the relay's configuration has under \
             [jproxy] users, or its files are brought there",
            quoted_path(user_dir)
        ))?;
    if let Some(holder) = holder {
        let (shown, word) = (holder.display(), quoted_path(&holder));
        return Err(anyhow!("there is a user \"{name}\" already: {shown}")).advise(format!(
            "remove that file, whose key is then good for nothing: rm {word}; or choose another \
             name"
        ));
    }
    // First of all: nobody is to list a key that went nowhere.
    secret_file::create_bytes("key", key_file, &pair.client_file)?;
    let user_file = user_dir.join(&pair.user_file_name);
    if let Err(error) = put(&user_file, &pair) {
        // It is of no use then, and would be in the way.
        let _ = fs::remove_file(key_file);
        return Err(error);
    }
    let (key_file, user_file) = (key_file.display(), user_file.display());
    let told = format!(
        "The key of \"{name}\" is in {key_file}, for whoever is to have it.\n\
         What the relay keeps of it is in {user_file}: let whoever the relay runs as read it.\n"
    );
    let printed = io::stderr().lock().write_all(told.as_bytes());
    printed.context("cannot say where they are")
}

/// Under another name until it is whole, as a relay may look at it at any time.
fn put(user_file: &Path, pair: &KeyPair) -> anyhow::Result<()> {
    let unfinished = user_file.with_file_name(format!(".{}", pair.user_file_name));
    secret_file::create_bytes("user", &unfinished, &pair.user_file)?;
    fs::rename(&unfinished, user_file)
        .with_context(|| format!("cannot write the user file {}", user_file.display()))
}
